"""emorl demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emorl.cli.shared import check_json, parse, print_rows, save_json
from emorl.data.base import Subset
from emorl.data.progress import bar
from emorl.errors import InputError
from emorl.evaluation import score
from emorl.feed import feed
from emorl.figures import check_figure_path, decomposition_sheet, save_figure
from emorl.models.base import InferOptions
from emorl.results import evaluate_feed
from emorl.runs import find_weights, load_weights


@dataclass(frozen=True)
class Demo:
    """Decompose fresh scenes with shipped weights, print scores, write a picture."""

    weights: str = "nano"
    """Shipped name, run folder or weights folder."""
    num_images: int = 320
    """Scenes of the test split, which no shipped weights have seen."""
    out: Path = Path("emorl-demo.png")
    """The picture."""
    seed: int = 0
    """Of the model's noise."""
    json: Path | None = None
    """Write the scores there."""


def demo(words: Sequence[str]) -> int:
    """decompose fresh scenes with shipped weights, print scores, write a picture"""
    options: Demo = parse(Demo, words, "demo")
    check_json(options.json)
    check_figure_path(options.out)
    model, about = load_weights(find_weights(options.weights))
    fed = feed(about, split="test")
    if not 1 <= options.num_images <= len(fed.source):
        raise InputError(f"--num-images must be from 1 to {len(fed.source)}")
    part = Subset(fed.source, 0, options.num_images)
    with bar("decomposing", len(part)) as advance:
        row = evaluate_feed(model, replace(fed, source=part), seed=options.seed, progress=advance)
    scenes = part.read(np.arange(min(6, len(part))))
    scores, inference = score(model, scenes, InferOptions(), options.seed)
    found = scores.get("foreground_ari")
    labels = None if found is None else [f"ARI {value:.2f}" for value in found]
    title = f"{about['data']}: scenes never trained on, {options.weights} weights"
    print_rows([row], ["foreground_ari", "mse"])
    save_json(options.json, {"weights": options.weights, **row})
    save_figure(
        decomposition_sheet(scenes.image, inference, true_masks=scenes.mask, title=title, scores=labels),
        options.out,
    )
    print(f"picture: {options.out}")
    return 0
