"""What is measured: points (a model, a shape, I), each computed by ours in one or two precisions and the plain way.

Results are rows, plain dictionaries as they stand in JSON files: `what`, `config`, `precision` (of ours), `ours_s`,
`plain_s` (medians), `ratio` (ours over plain), `peak_bytes`, `plain_bytes`, `device`, and more by what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, cached_property
from typing import Any, Literal

import torch
from torch import nn

from emorl.benchmark.counters import Work, largest_batch, peak_bytes
from emorl.benchmark.plain import PlainEfficientMORL
from emorl.benchmark.timing import floor_seconds, interleaved, machine, machine_rates
from emorl.config import model_from_json, model_to_json
from emorl.engine import EAGER_STEPS, Engine
from emorl.errors import InputError
from emorl.models import MODELS, ModelConfig, build_model, model_name
from emorl.models.base import InferOptions, images_to_unit
from emorl.models.efficientmorl import EfficientMORL, EfficientMORLConfig
from emorl.noise import StepNoise
from emorl.precision import CHUNK_BYTES, Precision, place
from emorl.presets import preset

Row = dict[str, Any]
Kind = Literal["plain"] | Precision
Advance = Callable[[int], None]
META = torch.device("meta")
RATE, CLIP = 1e-4, 5.0


@dataclass(frozen=True)
class Point:
    """A model at work on images of one shape."""

    name: str
    """In tables and pictures; points that differ in size alone share it."""
    model: ModelConfig
    size: tuple[int, int]
    """H W."""
    batch_size: int
    refinement_steps: int
    """0 for models that do not refine."""


@dataclass(frozen=True)
class Job:
    """Things to time at a point, in turn."""

    point: Point
    whats: tuple[str, ...]
    """Methods of `Subject`."""


class Subject:
    """One way to compute a point, ready to run. Images and weights are random: times do not depend on them."""

    def __init__(self, point: Point, kind: Kind, device: torch.device, counted: bool = False) -> None:
        """With `counted`, on the "meta" device, but otherwise as it would be on `device`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_model(point.model)
            images = torch.randint(0, 256, (point.batch_size, 3, *point.size), dtype=torch.uint8)
        assert isinstance(model, nn.Module)
        if kind != "plain":
            place(model, device, kind)
        elif isinstance(model, EfficientMORL):
            model = PlainEfficientMORL(model)
        model = model.to(device)
        self.kind = kind
        self.model: Any = model.to(META) if counted else model
        self.images = images.to(META if counted else device)
        self.state = replace(model.initial_state(), refinement_steps=point.refinement_steps)
        self.options = InferOptions(refinement_steps=point.refinement_steps)

    @cached_property
    def optimizer(self) -> torch.optim.Adam:
        """As in training."""
        captured = self.images.is_cuda
        return torch.optim.Adam(self.model.parameters(), lr=RATE, fused=True, capturable=captured)

    @cached_property
    def engine(self) -> Engine:
        """Takes our training steps."""
        batch = len(self.images)
        return Engine(self.model, self.optimizer, self.images, self.state, seed=0, batch_size=batch, clip_norm=CLIP)

    def gradients(self) -> None:
        """Loss of a training step and its backward."""
        self.model.zero_grad(set_to_none=True)
        loss = self.model.loss(self.images, self.state, noise=StepNoise(0, 0))
        (loss.total / len(self.images)).backward()

    def step(self) -> None:
        """A training step: ours as in training, on a GPU as a recorded graph; the plain one as in any loop."""
        if self.kind == "plain":
            self.gradients()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
        else:
            self.engine.step(self.state, torch.arange(len(self.images)), RATE)

    def forward(self) -> None:
        """Masks and components."""
        self.model.infer(self.images, self.options, noise=0)

    def encode(self) -> None:
        """Codes."""
        self.model.encode(self.images, self.options, noise=0)

    def encoder_and_attention(self) -> None:
        """The networks that codes cannot do without: the image encoder once, set attention once a layer."""
        model = self.model
        assert isinstance(model, EfficientMORL)
        with torch.no_grad():
            tokens, _ = model.encoder(images_to_unit(self.images, model.initial_mean.dtype) * 2 - 1)
            keys, values = model.attention.keys_values(tokens)
            slots = keys.new_zeros(len(keys), model.config.num_slots, model.config.slot_dim)
            for _ in range(model.config.num_layers):
                model.attention(slots, keys, values)


# ----------------------------------------------------------------------- points

SHAPES = {"clevr6": ((96, 96), 4, 1), "multi-dsprites": ((64, 64), 4, 3), "tetrominoes": ((35, 35), 32, 3)}
"""Size, images and I by data set; of CLEVR6's batch of 32, the share of one of the paper's eight GPUs."""


def preset_points(
    name: str,
    size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    refinement_steps: Sequence[int] | None = None,
    **model: Any,
) -> list[Point]:
    """A preset's model, a point for every I, with other values where given; raises InputError for bad ones."""
    config = preset(name)
    usual_size, usual_batch, usual_steps = SHAPES.get(config.data, (None, 4, config.model.refinement_steps))
    if not isinstance(config.model, EfficientMORLConfig):
        usual_steps = config.model.refinement_steps
    size = size or config.image_size or usual_size
    if size is None:
        raise InputError(f"the images of {name} have no usual size: give --size")
    batch_size = usual_batch if batch_size is None else batch_size
    steps = (usual_steps,) if refinement_steps is None else refinement_steps
    if min(*size, batch_size) < 1 or min(steps, default=-1) < 0:
        raise InputError("--size and --batch-size must be at least 1, --refinement-steps one or more, at least 0")
    if config.model.refinement_steps == 0 and any(steps):
        raise InputError(f"{name} has no refinement steps: leave them out or ask for 0")
    changes = {field: value for field, value in model.items() if value is not None}
    known = {field.name for field in fields(config.model)}
    if unknown := sorted(changes.keys() - known):
        raise InputError(f"the model of {name} has no {unknown[0]}")
    changed = model_from_json(model_to_json(replace(config.model, **changes)), f"the model of {name}")
    changed = at_size(changed, size)
    return [Point(name, changed, size, batch_size, count) for count in steps]


def at_size(model: ModelConfig, size: tuple[int, int]) -> ModelConfig:
    """The same model for images of another size, of which some have to know."""
    return model if model.image_size is None else replace(model, image_size=size)  # type: ignore[arg-type]


SWEEP = ("step", "forward", "encode")


def usual_jobs(points: Sequence[Point]) -> Iterator[Job]:
    """Training step and inference at every point; EfficientMORL's codes, and what they are measured by, without
    refinement."""
    for point in points:
        if not isinstance(point.model, EfficientMORLConfig):
            yield Job(point, SWEEP)
            continue
        yield Job(point, ("step", "forward"))
        yield Job(replace(point, refinement_steps=0), ("encode", "encoder_and_attention"))


def model_points() -> list[Point]:
    """Every model as it is for CLEVR6 at 96x96, four images; EfficientMORL with I = 1 and 0, others with their own."""
    ours = preset_points("clevr6", refinement_steps=(1, 0))
    others = [f"{name}/clevr6" for name in MODELS if name != "efficientmorl"] + ["iodine/clevr6-flatten"]
    return [*ours, *(point for name in others for point in preset_points(name, size=(96, 96)))]


COMPARED = {
    "IODINE": "iodine/clevr6",
    "IODINE, flattened": "iodine/clevr6-flatten",
    "Slot Attention": "slot-attention/clevr6",
    "GENESIS": "genesis/clevr6",
}
"""The other models of the paper's Fig. 10. Its IODINE, a re-implementation, flattens the map of the refinement network;
the released one averages over it."""


def sweep_points() -> list[Point]:
    """The paper's Fig. 10 and 22: CLEVR6's models, four images; E-1 has I = 1, E-1-S the deconvolutional decoder."""
    base, sides = preset("clevr6").model, (64, 96, 128)
    assert isinstance(base, EfficientMORLConfig)
    small = replace(base, decoder="deconv")
    others = {name: preset(source).model for name, source in COMPARED.items()}
    return [
        *(Point(f"E-{count}", base, (side, side), 4, count) for count in (0, 1, 3) for side in sides),
        *(Point("E-1-S", small, (side, side), 4, 1) for side in sides),
        Point("E-1, K = 11", replace(base, num_slots=11), (96, 96), 4, 1),
        Point("E-1, L = 1", replace(base, num_layers=1), (96, 96), 4, 1),
        *(
            Point(name, at_size(model, (side, side)), (side, side), 4, model.refinement_steps)
            for name, model in others.items()
            for side in sides
        ),
    ]


# ----------------------------------------------------------------------- measurements


def time_rows(
    work: Sequence[Job], precisions: Sequence[Precision], device: torch.device, rounds: int, advance: Advance
) -> Iterator[Row]:
    """Time jobs; `advance` is told of every call, `num_calls` in all."""
    about = machine(device)
    for job in work:
        kinds: list[Kind] = ["plain", *precisions]
        subjects = {kind: Subject(job.point, kind, device) for kind in kinds}
        runs = {(what, kind): getattr(subject, what) for what in job.whats for kind, subject in subjects.items()}
        times = interleaved(runs, rounds, device, _warm_up(device), advance)
        for what in job.whats:
            held = {kind: _held(job.point, kind, device, what) for kind in kinds}
            for precision in precisions:
                ours, plain = times[what, precision], times[what, "plain"]
                row = {
                    **_row(what.replace("_", " "), job.point, precision, device),
                    "ours_s": ours.median,
                    "plain_s": plain.median,
                    "ratio": ours.median / plain.median,
                    "ours_range_s": [ours.fastest, ours.slowest],
                    "plain_range_s": [plain.fastest, plain.slowest],
                    "rounds": rounds,
                    "peak_bytes": held[precision],
                    "plain_bytes": held["plain"],
                    "machine": about,
                }
                if what == "encode" and "encoder_and_attention" in job.whats:
                    row["over_encoder_and_attention"] = ours.median / times["encoder_and_attention", precision].median
                yield row


def over_first(rows: Iterable[Row]) -> list[Row]:
    """Rows of several models with their time over that of the first one's row of the same kind."""
    first: dict[str, float] = {}
    return [row | {"time_over_first": row["ours_s"] / first.setdefault(row["what"], row["ours_s"])} for row in rows]


def num_calls(work: Sequence[Job], precisions: Sequence[Precision], device: torch.device, rounds: int) -> int:
    """How many calls `time_rows` makes."""
    return sum(len(job.whats) * (1 + len(precisions)) * (_warm_up(device) + rounds) for job in work)


def _warm_up(device: torch.device) -> int:
    return EAGER_STEPS + 2 if device.type == "cuda" else 1  # there a step is recorded after so many


def memory_rows(points: Sequence[Point], precisions: Sequence[Precision], device: torch.device) -> Iterator[Row]:
    """Peak of a training step's live tensor bytes, beyond parameters and optimizer."""
    first: dict[Precision, float] = {}
    for point in points:
        plain = _held(point, "plain", device, "step")
        for precision in precisions:
            held = _held(point, precision, device, "step")
            row = _row("memory", point, precision, device) | {"peak_bytes": held, "plain_bytes": plain}
            yield {**row, "ratio": held / plain, "over_first": held / first.setdefault(precision, held)}


def largest_batch_rows(
    points: Sequence[Point], precisions: Sequence[Precision], device: torch.device, budget: float
) -> Iterator[Row]:
    """The most images whose training step stays within `budget` bytes beyond parameters and optimizer."""
    for point in points:

        def most(kind: Kind, point: Point = point) -> int:
            @cache
            def held(count: int) -> float:
                return _held(replace(point, batch_size=count), kind, device, "step")

            return largest_batch(held if kind == "plain" or device.type == "cuda" else _straightened(held), budget)

        plain = most("plain")
        for precision in precisions:
            ours = most(precision)
            row = _row("largest batch", replace(point, batch_size=ours), precision, device)
            yield {**row, "ours_batch": ours, "plain_batch": plain, "budget_bytes": budget}


STRAIGHT_BYTES = 64 * CHUNK_BYTES["cpu"]
"""What is made a few images at a time no longer bends the line of memory here; to count more images takes minutes."""


def _straightened(held: Callable[[int], float]) -> Callable[[int], float]:
    """The same, but on a straight line beyond `STRAIGHT_BYTES`, through two batches of which one is half the other.

    `held` is asked for the same counts again and again.
    """

    def peak(count: int) -> float:
        base = 2
        while base < count and held(base) < STRAIGHT_BYTES:
            base *= 2
        if count <= base:
            return held(count)
        per_image = (held(base) - held(base // 2)) / (base // 2)
        return held(base) + (count - base) * per_image

    return peak


def floor_rows(
    work: Sequence[Job], precisions: Sequence[Precision], device: torch.device, rounds: int, advance: Advance
) -> Iterator[Row]:
    """Times of jobs of training steps beside their arithmetic and traffic, and the time that these take at best."""
    rates = machine_rates([getattr(torch, name) for name in dict.fromkeys(("float32", *precisions))], device)
    for job in work:
        plain = _work(job.point, "plain", device)
        for row in time_rows([job], precisions, device, rounds, advance):
            ours = _work(job.point, row["precision"], device)
            floor = floor_seconds(ours.flops, ours.moved, rates)
            yield {
                **row,
                "what": "floor",
                "floor_s": floor,
                "over_floor": row["ours_s"] / floor,
                "flops": {str(dtype).removeprefix("torch."): count for dtype, count in ours.flops.items()},
                "plain_flops": sum(plain.flops.values()),
                "moved_bytes": ours.moved,
                "plain_moved_bytes": plain.moved,
                "rates": asdict(rates),
            }


def _held(point: Point, kind: Kind, device: torch.device, what: str) -> float:
    """Peak of live bytes: allocated ones on a GPU (inf where it has too few), else counted without computing."""
    what = "gradients" if what == "step" else what  # the rest of a step is the optimizer's
    if device.type != "cuda":
        return peak_bytes(getattr(Subject(point, kind, device, counted=True), what))
    try:
        subject = Subject(point, kind, device)
        run = getattr(subject, what)
        run()  # libraries keep what they allocate in their first call
        subject.model.zero_grad(set_to_none=True)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    except torch.cuda.OutOfMemoryError:
        return float("inf")


def _work(point: Point, kind: Kind, device: torch.device) -> Work:
    """Of a training step but for its update of the weights."""
    subject, work = Subject(point, kind, device), Work()
    with work:
        subject.gradients()
    return work


def _row(what: str, point: Point, precision: Precision, device: torch.device) -> Row:
    empty = dict.fromkeys(("ours_s", "plain_s", "ratio", "peak_bytes"))
    return {"what": what, "config": _config(point), "precision": precision, **empty, "device": device.type}


def _config(point: Point) -> Row:
    model = point.model
    names = ("encoder", "decoder", "num_layers", "num_slots", "slot_dim")
    return {
        "name": point.name,
        "model": model_name(model),
        **{name: getattr(model, name) for name in names if hasattr(model, name)},
        "size": list(point.size),
        "batch_size": point.batch_size,
        "refinement_steps": point.refinement_steps,
    }
