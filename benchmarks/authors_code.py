"""Times of EfficientMORL beside those of the authors' code, side by side in one process.

    git clone https://github.com/pemami4911/EfficientMORL AUTHORS
    python benchmarks/authors_code.py AUTHORS [--shapes clevr6 multi-dsprites tetrominoes] [--rounds 5] [--device cuda]

For each data set of the paper, at the shapes of `emorl benchmark`: a training step and a forward pass of the class in
the clone's lib/model.py, under the PyTorch of this environment, and ours with the same weights, in float32 and in
bfloat16. Their step is that of their train.py: loss, backward, clipping, Adam. Before anything is timed the mean
training loss of both over several draws of the noise is compared. Prints the rows of a table, medians in seconds.
Their modules need the package sacred for their settings alone: what they use of it is stood in for here.
"""

from __future__ import annotations

import argparse
import inspect
import math
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emorl.benchmark.measure import CLIP, RATE, SHAPES, Point, Subject, preset_points
from emorl.benchmark.timing import interleaved, machine
from emorl.errors import InputError
from emorl.models.efficientmorl import EfficientMORLConfig, as_released
from emorl.noise import StepNoise
from emorl.precision import pick_device
from emorl.released import from_released_names

DRAWS = 8
"""Of the noise, for the mean loss."""
CLOSE = 0.01
"""Mean losses may differ by this part of them, with different noise."""


class Ingredient:
    """What their modules use of sacred.Ingredient: functions whose missing arguments are the settings."""

    settings: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, name: str, **_: Any) -> None:
        self.name = name

    def config(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def capture(self, function: Callable[..., Any]) -> Callable[..., Any]:
        names = list(inspect.signature(function).parameters)

        @wraps(function)
        def filled(*given: Any, **named: Any) -> Any:
            absent = set(names) - set(named) - set(names[: len(given)])
            return function(*given, **named, **{k: v for k, v in self.settings.items() if k in absent})

        return filled


def authors_model(clone: Path, point: Point) -> nn.Module:
    """Their model for a point; raises InputError where the folder is no clone of their repository."""
    if not (clone / "lib" / "model.py").is_file():
        raise InputError(f"{clone} has no lib/model.py: clone https://github.com/pemami4911/EfficientMORL")
    config = point.model
    assert isinstance(config, EfficientMORLConfig)
    stand_in = types.ModuleType("sacred")
    vars(stand_in)["Ingredient"] = Ingredient
    sys.modules["sacred"] = stand_in
    if str(clone) not in sys.path:
        sys.path.insert(0, str(clone))
    import lib.model

    Ingredient.settings = {
        "K": config.num_slots,
        "z_size": config.slot_dim,
        "input_size": [3, *point.size],
        "batch_size": point.batch_size,
        "stochastic_layers": config.num_layers,
        "refinement_iters": point.refinement_steps,
        "log_scale": math.log(config.sigma),
        "geco_warm_start": 1000,
        "image_decoder": {"broadcast": "iodine", "small": "small"}[config.decoder],
        "image_likelihood": {"mixture": "GMM", "gaussian": "Gaussian"}[config.likelihood],
        "use_DualGRU": config.gru == "dual",
        "bottom_up_prior": config.prior == "bottom-up",
        "reverse_prior_plusplus": config.prior == "reversed++",
    }
    torch.manual_seed(0)
    model: nn.Module = lib.model.EfficientMORL(use_geco=False)
    return model


class Theirs:
    """Their model at work on the images of a subject of ours."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model = model.to(images.device)
        self.images = images.float() / 127.5 - 1  # they see [-1, 1]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)

    def loss(self) -> Tensor:
        """Mean over images, as they train it before GECO sets in."""
        total: Tensor = self.model(self.images, None, 0, 1.0)["total_loss"]
        return total

    def step(self) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=CLIP)
        self.optimizer.step()

    def forward(self) -> None:
        self.model.eval()
        self.model(self.images, None, 0, 1.0)


def compared(clone: Path, point: Point, device: torch.device, rounds: int) -> list[str]:
    """Rows of a table; raises InputError where the losses are not the same."""
    config = point.model
    assert isinstance(config, EfficientMORLConfig)
    point = replace(point, model=as_released(config))
    model = authors_model(clone, point)
    tensors = from_released_names(model.state_dict())
    ours = {kind: Subject(point, kind, device) for kind in ("float32", "bfloat16")}
    for subject in ours.values():
        missing = subject.model.load_state_dict(tensors, strict=False)
        if missing.unexpected_keys or set(missing.missing_keys) - {"geco_zeta"}:
            raise InputError(f"their parameters are not ours: {missing}")
    theirs = Theirs(model, ours["float32"].images)
    losses = [theirs.loss().item() for _ in range(DRAWS)]
    one = ours["float32"]
    own = [one.model.loss(one.images, one.state, noise=StepNoise(0, i)).total.item() for i in range(DRAWS)]
    found = [sum(values) / DRAWS for values in (losses, [value / point.batch_size for value in own])]
    if not math.isclose(*found, rel_tol=CLOSE):
        raise InputError(f"{point.name}: the mean loss is {found[0]:.6g} by their code and {found[1]:.6g} by ours")
    runs = {
        (what, who): getattr(subject, what)
        for what in ("step", "forward")
        for who, subject in {"theirs": theirs, **ours}.items()
    }
    times = interleaved(runs, rounds, device, warm_up=6 if device.type == "cuda" else 1)
    shape = f"{point.name}: {point.size[0]}x{point.size[1]}, K {config.num_slots}, B {point.batch_size}"
    rows = []
    for what, told in (("step", "training step"), ("forward", "forward")):
        seconds = [times[what, who].median for who in ("theirs", "float32", "bfloat16")]
        cells = [f"{seconds[0]:.3g}", *(f"{value:.3g} ({seconds[0] / value:.2f}x)" for value in seconds[1:])]
        rows.append(f"| {shape} | {told}, I = {point.refinement_steps} | " + " | ".join(cells) + " |")
    return [*rows, f"(mean loss: {found[0]:.6g}, {found[1]:.6g})"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clone", type=Path)
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES], default=[*SHAPES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    try:
        device = pick_device(args.device)
        print(machine(device))
        print("| shape | what | the authors' code | ours, float32 | ours, bfloat16 |\n|---|---|---|---|---|")
        for name in args.shapes:
            for point in preset_points(name):
                print("\n".join(compared(args.clone, point, device, args.rounds)), flush=True)
    except InputError as error:
        raise SystemExit(f"authors_code: {error}") from None


if __name__ == "__main__":
    main()
