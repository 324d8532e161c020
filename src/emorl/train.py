"""The training loop.

A run is a pure function of its config: the order of images is a function of (seed, epoch), the noise of (seed, step),
and all that changes beside weights and optimizer is one `TrainState`. So a run that was killed at any moment goes on
from its last checkpoint to the same metrics.jsonl, byte for byte, on the same machine and thread count.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from emorl.config import TrainConfig, to_json
from emorl.data.sources import DATASETS, open_source
from emorl.errors import InputError
from emorl.evaluate import score
from emorl.figures import decomposition_sheet
from emorl.geco import GecoState
from emorl.metrics.summary import summarise
from emorl.models import build_model
from emorl.models.base import InferOptions, Model, TrainState
from emorl.noise import StepNoise
from emorl.runs import cut_log, load_checkpoint, load_tensors, open_run, save_checkpoint, write_json
from emorl.types import Batch, Loss


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    step: int
    """Steps taken in all."""
    reason: Literal["finished", "time", "interrupted"]
    """The run is resumable unless it is finished."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step: linear warm-up from 0, then the decay, counted from its end."""
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    since = step - config.warmup_steps
    if config.decay == "half-life":
        return config.learning_rate * math.exp2(-since / config.half_life_steps)
    fraction = since / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))


class ImageOrder:
    """Which images a step sees: every epoch has a new order, whose last short batch is left out."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.per_epoch = config.num_images // config.batch_size
        self.epoch = -1
        self.order = np.zeros(0, dtype=np.int64)

    def __call__(self, step: int) -> Tensor:
        """Positions (batch_size) of a step's images."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            key = np.array([self.config.seed % 2**64, epoch], dtype=np.uint64)
            generator = np.random.Generator(np.random.Philox(key=key))
            self.epoch, self.order = epoch, generator.permutation(self.config.num_images)
        first = position * self.config.batch_size
        return torch.from_numpy(self.order[first : first + self.config.batch_size])


def train(
    folder: Path,
    config: TrainConfig | None,
    *,
    steps: int | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    report: Callable[[str], None] = print,
) -> Outcome:
    """Start a run in a new folder, or with config = None resume the one that is there.

    `steps` gives a resumed run another length, which its config then states.
    Stops early, resumable, at Ctrl-C or a termination signal, and after `max_minutes`. Raises InputError for a folder
    that cannot be used, data that cannot be read and a disk that is full.
    """
    started = time.monotonic()
    if max_minutes is not None and not max_minutes >= 0:
        raise InputError(f"max_minutes must be at least 0, got {max_minutes}")
    with open_run(folder, config) as config:
        if steps is not None:
            config = replace(config, steps=steps)
            write_json(folder / "config.json", to_json(config))
        target = pick_device(device)
        model, optimizer, state = restore(folder, config, target)
        if state.step >= config.steps:
            report(f"{folder}: finished already, {config.steps} steps")
            return Outcome(state.step, "finished")
        images, validation = load_data(config, target)
        order = ImageOrder(config)
        about = {
            "data": config.data if config.data in DATASETS else str(Path(config.data).resolve()),
            "data_split": config.data_split,
            "image_size": list(images.shape[2:]),
            "seed": config.seed,
        }

        with (
            _write_errors(folder),
            RunLog(folder, state.step) as log,
            _progress(config, state.step) as show,
            _stop_signals() as stop,
        ):
            reason: Literal["finished", "time", "interrupted"] = "finished"
            while state.step < config.steps:
                step = state.step
                state = replace(state, refinement_steps=config.refinement_steps(step), kl_weight=config.kl_weight(step))
                rate = learning_rate(config, step)
                for group in optimizer.param_groups:
                    group["lr"] = rate

                batch = images[order(step).to(target)]  # B 3 H W, uint8
                loss = model.loss(batch, state, noise=StepNoise(config.seed, step))
                optimizer.zero_grad(set_to_none=True)
                (loss.total / config.batch_size).backward()  # type: ignore[no-untyped-call]
                grad_norm = nn.utils.clip_grad_norm_(_parameters(model), config.clip_norm)
                optimizer.step()
                used, state = state, model.next_state(state, loss)

                finished = state.step == config.steps
                due = finished or state.step % config.checkpoint_every == 0
                if (due or step % config.log_every == 0) and not bool((loss.total + grad_norm).isfinite()):
                    raise InputError(
                        f"{folder}: loss or gradient is not finite at step {step}; the last checkpoint is kept. "
                        "Try a lower learning rate"
                    )

                if step % config.log_every == 0:
                    row = metrics_row(used, loss, config.batch_size, rate, grad_norm)
                    log.metrics(row)
                    show(state.step, row)
                if validation is not None and state.step % config.validate_every == 0:
                    model.remember(state)
                    log.validation(state.step, model, validation)
                if stop.is_set() and not finished:
                    reason = "interrupted"
                elif max_minutes is not None and time.monotonic() - started > 60 * max_minutes and not finished:
                    reason = "time"
                if due or reason != "finished":
                    log.flush()
                    model.remember(state)
                    training = training_to_tensors(optimizer, state)
                    save_checkpoint(folder, state.step, model, training, {**about, "steps": state.step})
                if reason != "finished":
                    break
            show(state.step, {})
        if reason == "finished":
            report(f"finished {config.steps} steps: {folder}")
        else:
            report(f"stopped at step {state.step} of {config.steps}; continue with: emorl train --resume {folder}")
        return Outcome(state.step, reason)


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one; raises InputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("choose cpu, cuda or mps")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name} cannot be used ({str(error).splitlines()[0]})") from None
    return device


def _parameters(model: Model) -> list[nn.Parameter]:
    assert isinstance(model, nn.Module)
    return list(model.parameters())


def restore(folder: Path, config: TrainConfig, device: torch.device) -> tuple[Model, torch.optim.Optimizer, TrainState]:
    """Model, optimizer and training state as the newest checkpoint has them, or as a run begins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(config.model)
    assert isinstance(model, nn.Module)
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, foreach=True)
    state = model.initial_state()
    checkpoint = load_checkpoint(folder)
    if checkpoint is not None:
        load_tensors(model, checkpoint.weights, str(folder))
        try:
            optimizer.load_state_dict(checkpoint.training["optimizer"])
            state = _state_from_tensors(checkpoint.training["state"], device)
            consistent = state.step == checkpoint.step and all(
                value.shape in (parameter.shape, ())
                for parameter, slot in optimizer.state.items()
                for value in slot.values()
            )
        except (AttributeError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{folder}: the checkpoint of step {checkpoint.step} is damaged ({error})") from None
        if not consistent:
            raise InputError(f"{folder}: the checkpoint of step {checkpoint.step} does not fit its model")
    return model, optimizer, state


def training_to_tensors(optimizer: torch.optim.Optimizer, state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds beside the weights: tensors and plain values alone."""
    constraint = None if state.geco is None else {"zeta": state.geco.zeta, "ema": state.geco.ema}
    return {
        "optimizer": optimizer.state_dict(),
        "state": {
            "step": state.step,
            "refinement_steps": state.refinement_steps,
            "kl_weight": state.kl_weight,
            "geco": constraint,
        },
    }


def _state_from_tensors(saved: dict[str, Any], device: torch.device) -> TrainState:
    constraint = saved["geco"]
    if constraint is not None:
        constraint = GecoState(zeta=constraint["zeta"].to(device), ema=constraint["ema"].to(device))
    return TrainState(**{**saved, "geco": constraint})


def load_data(config: TrainConfig, device: torch.device) -> tuple[Tensor, Batch | None]:
    """Training images N 3 H W (uint8, on the device), and validation scenes where the source has more images."""
    source = open_source(config.data, split=config.data_split, size=config.image_size)
    if len(source) < config.num_images:
        raise InputError(f"{config.data} has {len(source)} training images, num_images asks for {config.num_images}")
    images = torch.from_numpy(source.read(np.arange(config.num_images)).image).permute(0, 3, 1, 2)
    validation = None
    if config.validate_every and config.validation_images and config.data_split == "train":
        held_out = open_source(config.data, split="validation", size=config.image_size)
        validation = held_out.read(np.arange(min(config.validation_images, len(held_out))))
    return images.contiguous().to(device), validation


def metrics_row(state: TrainState, loss: Loss, batch_size: int, rate: float, grad_norm: Tensor) -> dict[str, Any]:
    """A line of metrics.jsonl: means over the batch of one step, in nats where it is a likelihood or a KL."""
    return {
        "step": state.step,
        "loss": float(loss.total.detach()) / batch_size,
        **{name: values.mean(dim=0).tolist() for name, values in loss.terms.items()},
        "zeta": None if state.geco is None else float(state.geco.zeta),
        "geco_ema": None if state.geco is None else float(state.geco.ema),
        "learning_rate": rate,
        "grad_norm": float(grad_norm),
        "refinement_steps": state.refinement_steps,
    }


class RunLog:
    """metrics.jsonl, timing.jsonl and TensorBoard of a run, opened at the step it goes on from."""

    def __init__(self, folder: Path, step: int) -> None:
        for name in ("metrics.jsonl", "timing.jsonl"):
            cut_log(folder / name, step)
        self._metrics = (folder / "metrics.jsonl").open("a")
        self._timing = (folder / "timing.jsonl").open("a")
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)  # keeps validation after `step` steps
        self._since = (step, time.perf_counter())

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._metrics.close()
        self._timing.close()
        self._board.close()

    def metrics(self, row: dict[str, Any]) -> None:
        """A line for a training step, and the seconds per step since the last one."""
        self._metrics.write(json.dumps(row) + "\n")
        step, now = row["step"], time.perf_counter()
        if step > self._since[0]:
            seconds = (now - self._since[1]) / (step - self._since[0])
            self._timing.write(json.dumps({"step": step, "seconds_per_step": seconds}) + "\n")
        self._since = (step, now)
        for name, value in row.items():
            values = value if isinstance(value, list) else [value]
            for i, number in enumerate(values):
                if name != "step" and number is not None:
                    tag = f"train/{name}/{i}" if isinstance(value, list) else f"train/{name}"
                    self._board.add_scalar(tag, number, step)

    def validation(self, step: int, model: Model, scenes: Batch) -> None:
        """Scores and a sheet of held-out scenes; they do not influence the run."""
        before = time.perf_counter()
        scores, inference = score(model, scenes, InferOptions(), seed=0)
        means = {name: summarise(values)["mean"] for name, values in scores.items()}
        self._metrics.write(json.dumps({"step": step, "validation": means}) + "\n")
        for name, value in means.items():
            self._board.add_scalar(f"validation/{name}", value, step)
        figure = decomposition_sheet(scenes.image, inference, true_masks=scenes.mask, max_images=6)
        self._board.add_figure("validation/decomposition", figure, step)
        self._since = (self._since[0], self._since[1] + time.perf_counter() - before)

    def flush(self) -> None:
        """Put all lines on the disk."""
        for file in (self._metrics, self._timing):
            file.flush()
            os.fsync(file.fileno())
        self._board.flush()


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """A full disk, or a folder that is gone, told in a line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from None


@contextmanager
def _progress(config: TrainConfig, step: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """A bar with speed and time left on standard error, told of steps taken and of every logged row."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns,
        TextColumn("{task.fields[values]}"),
        speed_estimate_period=300,
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("train", total=config.steps, completed=step, speed="", values="")

        def show(steps: int, row: dict[str, Any]) -> None:
            if row:
                values = f"loss {row['loss']:.1f}  nll {row['nll']:.1f}  kl {row['kl']:.1f}"
                progress.update(task, values=values)
            speed = progress.tasks[0].speed
            progress.update(task, completed=steps, speed=f"{speed:.1f} steps/s" if speed else "")

        yield show


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event set by the first Ctrl-C or termination signal; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
