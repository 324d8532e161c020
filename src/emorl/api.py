"""The package from Python: what `import emorl` offers beside its modules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from emorl.data.base import Subset
from emorl.data.sources import Fit
from emorl.errors import InputError
from emorl.feed import feed
from emorl.models.base import InferOptions, Model
from emorl.precision import Precision, pick_device
from emorl.representation import describe
from emorl.results import evaluate_feed
from emorl.runs import find_weights, load_weights


def load(weights: str | Path = "nano", device: torch.device | str = "cpu", precision: Precision = "float32") -> Model:
    """A model ready for inference.

    Args:
        weights: a shipped name (`emorl.runs.shipped_names()`), a run folder or a weights folder.
        device: where it runs; "auto" is a GPU where there is one.
        precision: of its convolutions.

    Raises:
        InputError: there are no such weights or no such device, or the weights are damaged.
    """
    return load_weights(find_weights(str(weights)), pick_device(str(device)), precision)[0]


def evaluate(
    weights: str | Path = "nano",
    data: str | Path | None = None,
    *,
    num_images: int | None = None,
    num_slots: int | None = None,
    refinement_steps: int | None = None,
    draws: int = 1,
    fit: Fit | None = None,
    codes: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """What `emorl evaluate` writes: every score as {"mean", "std", "num_images"}, and what is needed to repeat it.

    Args:
        weights: as `load`.
        data: a generator's name or a path; what the weights were trained on by default. Of generators and of the
            weights' own data it is the test split.
        num_images: the first ones only.
        num_slots: K at test time.
        refinement_steps: I at test time.
        draws: inferences of each image, of which the one with the least NLL + KL is kept.
        fit: how images of another size than the weights' are brought to it (`emorl.data.sources.open_source`); as the
            command's by default.
        codes: also say what the codes are worth, under "codes" (`emorl.representation.describe`).
        seed: of the noise.
        device: where the model runs, as `load`.

    Raises:
        InputError: weights, data or options cannot be used.
    """
    if not isinstance(weights, str | Path):
        raise InputError("emorl.evaluate takes the name or folder of weights; of a model emorl.evaluation.evaluate")
    model, about = load_weights(find_weights(str(weights)), pick_device(str(device)))
    fed = feed(about, None if data is None else str(data), fit=fit)
    if num_images is not None:
        fed = replace(fed, source=Subset(fed.source, 0, min(num_images, len(fed.source))))
    options = InferOptions(num_slots, refinement_steps, draws=draws)
    found = evaluate_feed(model, fed, options=options, seed=seed)
    if codes:
        found["codes"] = describe(model, fed.source, options=options, seed=seed)
    return {"weights": str(weights), **found}
