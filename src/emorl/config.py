"""The full description of a training run, and configs to and from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

import dacite
import numpy as np

from emorl import checks
from emorl.data.protocols import ProtocolName
from emorl.data.sources import Fit
from emorl.errors import InputError
from emorl.models import MODELS, ModelConfig, model_name


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of a run; equal configs give equal runs on equal machines."""

    model: ModelConfig
    """The model, with all its sizes."""
    data: str
    """A generator's name or a path (see docs/data.md)."""
    data_split: Literal["train", "all"] = "train"
    """The training split, or all of a file or folder that has no splits: validation is then by training images."""
    num_images: int = 60_000
    """Training images: the first ones of that split (section 4 of the paper)."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are cropped and resized to; None keeps the source's own."""
    fit: Fit = "crop"
    """How: crop takes the protocol's window, of pictures the largest centred one; or the name of a window."""
    protocol: ProtocolName | None = None
    """Whose split, crop and resizing (see docs/data.md); None takes the default of the data."""
    subset: str | None = None
    """Only scenes with so many objects, in training and tests: clevr6, clevr10 or a range such as 3-6."""
    seed: int = 0
    """Of initial weights, order of images and noise."""
    start_from: str | None = None
    """Shipped name, run folder (its newest checkpoint then; name the checkpoint to pin it) or weights folder whose
    weights training starts from: the preset must build the same networks. Optimizer, schedules and GECO begin anew.
    None draws the weights."""
    batch_size: int = 32
    """Images per step, over all processes."""
    steps: int = 300_000
    """Training steps."""
    learning_rate: float = 4e-4
    """Of Adam, at the end of the warm-up."""
    warmup_steps: int = 10_000
    """The rate grows linearly from 0 over these."""
    decay: Literal["half-life", "half-life-from-start", "cosine", "none"] = "half-life"
    """Halved every `half_life_steps`, continuously, after the warm-up or from the first step on; a half cosine from
    the warm-up to 2 % at the last step; or none."""
    half_life_steps: int = 100_000
    """For the half-life decays."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam's averages of the gradient and of its square. RMSProp is Adam with (0, alpha), but for the bias
    correction of the first steps."""
    kl_warmup_steps: int = 0
    """The KL's weight grows linearly from 0 over these: deterministic warm-up (Sonderby et al. 2016), for
    presets without GECO."""
    clip_norm: float | None = 5.0
    """Bound on the global norm of the gradient of the mean loss; None for no bound."""
    curriculum: tuple[tuple[int, int], ...] = ((0, 3),)
    """(from step, refinement steps I), in order (section 4.1)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the convolutions; auto is bfloat16 where the hardware has it, and the run keeps what it was."""
    max_skipped_steps: int = 50
    """A step whose loss or gradient is not finite is skipped; this many in a row stop the run."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    validate_every: int = 2500
    """Steps between scores and pictures of validation images; 0 for none."""
    validation_images: int = 64
    """How many of them: those after the training images that are no test images either."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        counts = (
            "num_images",
            "batch_size",
            "steps",
            "log_every",
            "checkpoint_every",
            "half_life_steps",
            "max_skipped_steps",
        )
        checks.at_least(1, self, *counts)
        checks.at_least(0, self, "warmup_steps", "kl_warmup_steps", "validate_every", "validation_images")
        checks.positive(self, "learning_rate", "clip_norm")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas must be at least 0 and below 1, got {self.betas}")
        if self.start_from == "":
            raise InputError("start_from is empty: name weights, or leave it out")
        if self.batch_size > self.num_images:
            raise InputError(f"batch_size {self.batch_size} is larger than num_images {self.num_images}")
        checks.at_least(1, self.model, "num_slots")
        checks.not_negative(self.model, "kl_weight")
        if self.image_size is not None and self.model.image_size not in (None, self.image_size):
            raise InputError(
                f"image_size is {self.image_size}, and this model is built for {self.model.image_size}: "
                f"set image_size and model.image_size to the same"
            )
        starts = [start for start, _ in self.curriculum]
        growing = starts[:1] == [0] and starts == sorted(set(starts))
        if not growing or min(count for _, count in self.curriculum) < 0:
            raise InputError("curriculum must be (step, I) pairs with growing steps, the first at step 0, no I below 0")
        if max(count for _, count in self.curriculum) > 0 and "refinement_steps" not in asdict(self.model):
            raise InputError(f"{model_name(self.model)} has no refinement steps: its curriculum is 0 0")
        if not -(2**63) <= self.seed < 2**64:
            raise InputError(f"seed must be an integer of 64 bits, got {self.seed}")

    def refinement_steps(self, step: int) -> int:
        """I in force at a step."""
        return next(count for start, count in reversed(self.curriculum) if step >= start)

    def kl_weight(self, step: int) -> float:
        """Weight of the KL at a step."""
        return self.model.kl_weight * (1.0 if step >= self.kl_warmup_steps else step / self.kl_warmup_steps)


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The config as JSON can hold it, without NumPy's numbers; the model's entry names the model."""
    return {**_plain(asdict(config)), "model": model_to_json(config.model)}


def model_to_json(config: ModelConfig) -> dict[str, Any]:
    """A model's config with its name."""
    return {"name": model_name(config), **_plain(asdict(config))}


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


T = TypeVar("T")


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _build(kind: type[T], content: Mapping[str, Any], where: str) -> T:
    try:
        fields = {key: _tuples(value) for key, value in content.items()}
        return dacite.from_dict(kind, fields, dacite.Config(strict=True))
    except dacite.WrongTypeError as error:
        choices = get_args(error.field_type) if get_origin(error.field_type) is Literal else ()
        wanted = f"; there are: {', '.join(map(str, choices))}" if choices else ""
        raise InputError(f"{where}: {error.field_path} cannot be {error.value!r}{wanted}") from None
    except dacite.DaciteError as error:
        raise InputError(f"{where}: {error}") from None


def model_from_json(content: Any, where: str) -> ModelConfig:
    """A model's config; raises InputError, beginning with `where`, for unknown names, keys or types."""
    if not isinstance(content, dict) or str(content.get("name")) not in MODELS:
        raise InputError(f"{where}: names no known model; there are: {', '.join(MODELS)}")
    fields = {key: value for key, value in content.items() if key != "name"}
    return _build(MODELS[content["name"]].config, fields, where)


def from_json(content: Any, where: str) -> TrainConfig:
    """A run's config; raises InputError, beginning with `where`, for unknown keys or wrong types."""
    if not isinstance(content, dict):
        raise InputError(f"{where}: not a config")
    return _build(TrainConfig, {**content, "model": model_from_json(content.get("model"), where)}, where)
