"""The training loop.

A run is a pure function of its config: the order of images is a function of (seed, epoch), the noise of (seed, step),
and all that changes beside weights and optimizer is one `TrainState`. So a run that was killed at any moment goes on
from its last checkpoint to the same metrics.jsonl: on a CPU byte for byte, on the same machine and thread count. On a
GPU kernels are chosen anew in every process, and may round differently.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from emorl.config import TrainConfig, from_json, to_json
from emorl.data.base import Source
from emorl.data.images import Images
from emorl.data.protocols import Split
from emorl.data.sources import anywhere, open_source
from emorl.distributed import Group, process_group
from emorl.engine import Engine, StepValues
from emorl.errors import InputError
from emorl.evaluation import score
from emorl.figures import decomposition_sheet
from emorl.geco import GecoState
from emorl.jobs import stop_signals
from emorl.metrics.collapse import Sign, signs_of_collapse
from emorl.metrics.summary import summarise
from emorl.models import build_model, model_name
from emorl.models.base import InferOptions, Model, TrainState
from emorl.precision import choose, pick_device, place
from emorl.runs import (
    cut_log,
    drop_checkpoints_from,
    find_weights,
    load_checkpoint,
    load_tensors,
    load_weights,
    newest_checkpoint,
    open_run,
    save_checkpoint,
    without_nan,
    write_json,
)
from emorl.types import Batch


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    step: int
    """Steps taken in all."""
    reason: Literal["finished", "time", "interrupted"]
    """The run is resumable unless it is finished."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step: linear warm-up from 0, and the decay."""
    rate = config.learning_rate
    if config.decay == "half-life-from-start":
        rate *= math.exp2(-step / config.half_life_steps)
    if step < config.warmup_steps:
        return rate * step / config.warmup_steps
    since = step - config.warmup_steps
    if config.decay == "half-life":
        return rate * math.exp2(-since / config.half_life_steps)
    if config.decay != "cosine":
        return rate
    fraction = since / max(1, config.steps - config.warmup_steps)
    return rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))


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
    progress: bool = True,
    cuda_graph: bool = True,
) -> Outcome:
    """Start a run in a new folder, or with config = None resume the one that is there.

    `steps` gives a resumed run another length, which its config then states. `cuda_graph` has the steps recorded on a
    GPU, with the same results. Under torchrun all processes call this
    and train together; the first one writes.
    Stops early, resumable, at Ctrl-C or a termination signal, and after `max_minutes`. Raises InputError for a folder
    that cannot be used, data that cannot be read, a disk that is full, a process that is gone, and losses that stay
    infinite.
    """
    started = time.monotonic()
    if max_minutes is not None and not max_minutes >= 0:
        raise InputError(f"max_minutes must be at least 0, got {max_minutes}")
    with process_group(device) as (group, device), stop_signals() as stop:
        target = pick_device(device)
        if target.type == "cuda" and target.index is not None:
            torch.cuda.set_device(target)  # streams and graphs go by the current device
        if config is not None:
            config = from_json(to_json(replace(config, precision=choose(config.precision, target))), "the config")
        with _open_together(folder, config, steps, group) as config:
            if config.batch_size % group.size:
                raise InputError(f"batch_size {config.batch_size} cannot be divided among {group.size} processes")
            run = Run(folder, config, target, group, report if group.rank == 0 else lambda line: None, cuda_graph)
            if run.finished:
                run.report(f"{folder}: finished already, {config.steps} steps")
                return Outcome(run.step, "finished")

            def flags() -> tuple[bool, bool]:
                late = max_minutes is not None and time.monotonic() - started > 60 * max_minutes
                return stop.is_set(), late

            with _write_errors(folder), _progress(config, run.step, progress and group.rank == 0) as show:
                try:
                    return run.go_on(flags, show)
                finally:
                    run.engine.close()


@contextmanager
def _open_together(folder: Path, config: TrainConfig | None, steps: int | None, group: Group) -> Iterator[TrainConfig]:
    """Rank 0 holds the run folder for writing; all get its config, or the error that it met."""
    if group.rank > 0:
        content = group.share(None)
        if isinstance(content, str):
            raise InputError(content)
        yield from_json(content, str(folder))
        return
    with ExitStack() as stack:
        try:
            if config is not None:
                config = replace(config, data=anywhere(config.data))  # wherever it is resumed from
            config = stack.enter_context(open_run(folder, config))
            if steps is not None:
                newest = newest_checkpoint(folder)
                if newest is not None and steps < int(newest.name):
                    raise InputError(f"{folder}: has taken {int(newest.name)} steps already, more than {steps}")
                config = replace(config, steps=steps)
                write_json(folder / "config.json", to_json(config))
        except InputError as error:
            group.share(str(error))
            raise
        group.share(to_json(config))
        yield config


class Run:
    """A run that is going on: engine, data and log."""

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        device: torch.device,
        group: Group,
        report: Callable[[str], None],
        cuda_graph: bool,
    ) -> None:
        self.folder, self.config, self.group, self.report = folder, config, group, report
        restored = restore(folder, config, device)
        self.model, self.optimizer = restored.model, restored.optimizer
        self.step = restored.state.step
        if self.finished:
            return
        self.images, self.validation = load_data(config, device)
        self.engine = Engine(
            self.model,
            self.optimizer,
            self.images.tensor,
            restored.state,
            seed=config.seed,
            batch_size=config.batch_size,
            clip_norm=config.clip_norm,
            skipped=restored.skipped,
            group=group,
            cuda_graph=cuda_graph,
        )
        self.about = {
            "data": anywhere(config.data),
            "data_split": config.data_split,
            "image_size": list(self.images.tensor.shape[2:]),
            "fit": config.fit,
            "protocol": config.protocol,
            "subset": config.subset,
            "start_from": _from_anywhere(config.start_from),
            "seed": config.seed,
            "precision": choose(config.precision, device),
        }
        self.warned: set[Sign] = set()

    @property
    def finished(self) -> bool:
        """All steps are taken."""
        return self.step >= self.config.steps

    def go_on(self, flags: Callable[[], tuple[bool, bool]], show: Callable[[int, dict[str, Any]], None]) -> Outcome:
        """Train to the end, or until `flags` (asked to stop, out of time) say otherwise in any process."""
        config, engine, order = self.config, self.engine, ImageOrder(self.config)
        reason: Literal["finished", "time", "interrupted"] = "finished"
        with RunLog(self.folder, self.step) if self.group.rank == 0 else nullcontext() as log:
            if self.group.rank == 0 and self.step == 0:
                self._save()  # a run that has begun can always be resumed
            while not self.finished and reason == "finished":
                step, rate = self.step, learning_rate(config, self.step)
                state = replace(
                    engine.state, refinement_steps=config.refinement_steps(step), kl_weight=config.kl_weight(step)
                )
                positions = order(step)
                self.images.fetch(positions[engine.rows])
                engine.step(state, positions, rate, flags())
                self.step = step + 1

                due = self.finished or self.step % config.checkpoint_every == 0
                values = None
                if due or step % config.log_every == 0 or (self.group.size > 1 and engine.device.type == "cpu"):
                    values = engine.values()
                    self._check(values)
                if log is not None and values is not None and step % config.log_every == 0:
                    row = metrics_row(state, values, rate)
                    log.metrics(row)
                    show(self.step, row)
                if log is not None and self.validation is not None and self.step % config.validate_every == 0:
                    self.model.remember(engine.state)
                    self._warn(log.validation(self.step, self.model, self.validation, config))

                if self.group.size == 1:
                    asked, late = flags()
                else:  # all processes stop at the same step
                    asked, late = (values.interrupted, values.out_of_time) if values else (False, False)
                if not self.finished:
                    reason = "interrupted" if asked else "time" if late else "finished"
                if log is not None and (due or reason != "finished"):
                    log.flush()
                    self._save()
            show(self.step, {})
        if reason == "finished":
            self.report(f"finished {config.steps} steps: {self.folder}")
        else:
            self.report(
                f"stopped at step {self.step} of {config.steps}; continue with: emorl train --resume {self.folder}"
            )
        return Outcome(self.step, reason)

    def _save(self) -> None:
        self.model.remember(self.engine.state)
        training = training_to_tensors(self.optimizer, self.engine)
        about = {**self.about, "steps": self.step}
        sound = training["skipped"][1] == 0
        save_checkpoint(self.folder, self.step, self.model, training, about, prune=sound)

    def _check(self, values: StepValues) -> None:
        """End a run that gets nowhere, with the newest checkpoint whose own next step was sound."""
        if values.skipped_in_row < self.config.max_skipped_steps:
            return
        if self.group.rank == 0:
            drop_checkpoints_from(self.folder, max(1, self.step - values.skipped_in_row))
        raise InputError(
            f"{self.folder}: loss or gradient was not finite in {values.skipped_in_row} steps in a row, up to step "
            f"{self.step - 1}; the last good checkpoint is kept. Try a new run: lower learning rate, or float32"
        )

    def _warn(self, warnings: dict[Sign, str]) -> None:
        """Tell every kind of warning once."""
        for sign, line in warnings.items():
            if sign not in self.warned:
                self.warned.add(sign)
                self.report(f"warning: step {self.step}: {line}")


class Restored(NamedTuple):
    """What a run goes on from."""

    model: Model
    optimizer: torch.optim.Optimizer
    state: TrainState
    skipped: tuple[int, int]
    """Steps skipped in all, and in a row."""


def restore(folder: Path, config: TrainConfig, device: torch.device) -> Restored:
    """Model, optimizer and training state as the newest checkpoint has them, or as a run begins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(config.model)
    assert isinstance(model, nn.Module)
    place(model, device, choose(config.precision, device))
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=torch.tensor(config.learning_rate),
        betas=config.betas,
        fused=True,
        capturable=device.type == "cuda",
    )
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        if config.start_from is not None:
            _start_from(model, config.start_from)
        return Restored(model, optimizer, model.initial_state(), (0, 0))
    load_tensors(model, checkpoint.weights, str(folder))
    try:
        groups = optimizer.state_dict()["param_groups"]  # ours: the saved ones may be of another device
        optimizer.load_state_dict({"state": checkpoint.training["optimizer"], "param_groups": groups})
        state = _state_from_tensors(checkpoint.training["state"], device)
        in_all, in_row = checkpoint.training["skipped"]
        skipped = (int(in_all), int(in_row))
        consistent = state.step == checkpoint.step and all(
            value.shape in (parameter.shape, ())
            for parameter, slot in optimizer.state.items()
            for value in slot.values()
        )
        known = model.initial_state().geco
        consistent &= (known and known.tensors().keys()) == (state.geco and state.geco.tensors().keys())
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        if "skipped" not in checkpoint.training:
            raise InputError(f"{folder}: this run was made by an older version, which can continue it") from None
        raise InputError(f"{folder}: the checkpoint of step {checkpoint.step} is damaged ({error})") from None
    if not consistent:
        raise InputError(f"{folder}: the checkpoint of step {checkpoint.step} does not fit its model")
    return Restored(model, optimizer, state, skipped)


def _start_from(model: Model, name: str) -> None:
    """Fill a new model with other weights; raises InputError for those of another model, or not finite."""
    assert isinstance(model, nn.Module)
    where, (other, _) = f"cannot start from {name}", load_weights(find_weights(name))
    if model_name(other.config) != model_name(model.config):
        raise InputError(f"{where}: it is of {model_name(other.config)}, not {model_name(model.config)}")
    assert isinstance(other, nn.Module)
    load_tensors(model, other.state_dict(), where)
    for parameter, value in model.state_dict().items():
        if not value.isfinite().all():
            raise InputError(f"{where}: {parameter} is not finite")


def training_to_tensors(optimizer: torch.optim.Optimizer, engine: Engine) -> dict[str, Any]:
    """What a checkpoint holds beside the weights: tensors and plain values alone."""
    state = engine.state
    return {
        "optimizer": optimizer.state_dict()["state"],
        "state": {
            "step": state.step,
            "refinement_steps": state.refinement_steps,
            "kl_weight": state.kl_weight,
            "geco": None if state.geco is None else state.geco.tensors(),
        },
        "skipped": [int(count) for count in engine.counts.tolist()],
    }


def _state_from_tensors(saved: dict[str, Any], device: torch.device) -> TrainState:
    constraint = saved["geco"]
    if constraint is not None:
        constraint = GecoState(**{name: value.to(device) for name, value in constraint.items()})
    return TrainState(**{**saved, "geco": constraint})


def _from_anywhere(weights: str | None) -> str | None:
    """A folder of weights by its absolute path; a shipped name, or None, as it is."""
    return str(Path(weights).resolve()) if weights is not None and Path(weights).is_dir() else weights


def load_data(config: TrainConfig, device: torch.device) -> tuple[Images, Batch | None]:
    """Training images on the device, and scenes to look at in between, if any are wanted.

    They are held out where the data has splits, else the first of the training images.
    """
    source = open_data(config, config.data_split, device)
    images = Images(source, config.num_images, device)
    count, validation = config.validation_images, None
    if config.validate_every and count and config.data_split == "train":
        held_out = open_data(config, "validation", device)
        validation = held_out.read(np.arange(min(count, len(held_out))))
    elif config.validate_every and count:
        validation = source.read(np.arange(min(count, config.num_images)))
    return images, validation


def open_data(config: TrainConfig, split: Split, device: torch.device | str = "cpu") -> Source:
    """A split of a run's data, at the size it trains on; made on the device where it is rendered."""
    return open_source(
        config.data,
        split=split,
        size=config.image_size,
        fit=config.fit,
        protocol=config.protocol,
        subset=config.subset,
        device=device,
    )


def metrics_row(state: TrainState, values: StepValues, rate: float) -> dict[str, Any]:
    """A line of metrics.jsonl: means over the global batch of one step, in nats where it is a likelihood or a KL.

    None stands for a number that is not finite.
    """
    row = {
        "step": state.step,
        **values.terms,
        "zeta": values.zeta,
        "geco_ema": values.ema,
        "learning_rate": rate,
        "grad_norm": values.grad_norm,
        "refinement_steps": state.refinement_steps,
        "skipped_steps": values.skipped,
    }
    found: dict[str, Any] = without_nan(row)
    return found


class RunLog:
    """metrics.jsonl, timing.jsonl and TensorBoard of a run, opened at the step it goes on from."""

    def __init__(self, folder: Path, step: int) -> None:
        for name in ("metrics.jsonl", "timing.jsonl"):
            cut_log(folder / name, step)
        self._metrics = (folder / "metrics.jsonl").open("a", buffering=1)
        self._timing = (folder / "timing.jsonl").open("a", buffering=1)
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

    def validation(self, step: int, model: Model, scenes: Batch, config: TrainConfig) -> dict[Sign, str]:
        """Scores and a sheet of scenes, which do not influence the run; returns signs of collapse."""
        before = time.perf_counter()
        assert isinstance(model, nn.Module)
        model.eval()
        scores, inference = score(model, scenes, InferOptions(), seed=0)
        model.train()
        means = {name: summarise(values)["mean"] for name, values in scores.items()}
        row: dict[str, Any] = {"step": step, "validation": means, "held_out": config.data_split == "train"}
        warnings: dict[Sign, str] = {}
        if step >= max(config.warmup_steps, config.kl_warmup_steps, config.steps // 10):  # all models begin collapsed
            warnings = signs_of_collapse(inference.masks[:, :, 0].cpu().numpy(), scores.get("kl"))
        if warnings:
            row["warnings"] = list(warnings.values())
        self._metrics.write(json.dumps(without_nan(row)) + "\n")
        for name, value in means.items():
            self._board.add_scalar(f"validation/{name}", value, step)
        figure = decomposition_sheet(scenes.image, inference, true_masks=scenes.mask, max_images=6)
        self._board.add_figure("validation/decomposition", figure, step)
        self._since = (self._since[0], self._since[1] + time.perf_counter() - before)
        return warnings

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
def _progress(config: TrainConfig, step: int, wanted: bool) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """A bar with speed and time left on standard error, told of steps taken and of every logged row."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns,
        TextColumn("{task.fields[values]}"),
        speed_estimate_period=300,
        console=console,
        disable=not (wanted and console.is_terminal),
    ) as progress:
        task = progress.add_task("train", total=config.steps, completed=step, speed="", values="")

        def show(steps: int, row: dict[str, Any]) -> None:
            if row:
                shown = [f"{name} {row[name]:.4g}" for name in ("loss", "nll", "kl") if row.get(name) is not None]
                skipped = [f"skipped {row['skipped_steps']}"] if row["skipped_steps"] else []
                values = "  ".join(shown + skipped)
                progress.update(task, values=values)
            speed = progress.tasks[0].speed
            progress.update(task, completed=steps, speed=f"{speed:.1f} steps/s" if speed else "")

        yield show
