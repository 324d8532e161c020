"""Planned runs, each a small TOML file: what is trained, why, and which tables and figures are made of it.

    why = "The paper's main model on its smallest data set."
    scale = "paper"                       # or "nano": minutes on two CPU cores
    order = 10                            # of worth: what to train first
    hardware = "one GPU"
    serves = ["table1", "fig18"]
    preset = "efficientmorl/tetrominoes"
    seeds = [0, 1, 2, 3, 4]
    [overrides]                           # fields of the preset's config that have another value
    model.prior = "reversed"

Seed N of experiments/NAME.toml is the run folder runs/NAME-seedN, the one that `emorl train PRESET` makes where nothing
is overridden. What is on disk says how far an experiment is; NAME.state.json tells it to the reader.
"""

from __future__ import annotations

import shlex
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import dacite

from emorl.config import TrainConfig, from_json, to_json
from emorl.data.progress import bar
from emorl.errors import InputError
from emorl.files import held
from emorl.precision import pick_device
from emorl.presets import preset
from emorl.results import Known, hardware, known_results
from emorl.runs import newest_checkpoint, read_json, training_minutes, write_json
from emorl.seeds import check_same_config, failure
from emorl.train import train
from emorl.version import __version__

Scale = Literal["paper", "nano"]


@dataclass(frozen=True)
class Experiment:
    """A group of runs that differ in their seed alone."""

    path: Path
    why: str
    scale: Scale
    order: int
    """Of worth: what is trained first."""
    hardware: str
    """What the plan assumes; any other does."""
    serves: tuple[str, ...]
    """Names that `emorl reproduce` takes."""
    preset: str
    seeds: tuple[int, ...]
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """That of the file, and how its run folders begin."""
        return self.path.stem

    def command(self, runs: Path) -> str:
        """What trains it in run folders of `runs`."""
        words = ["emorl", "train", "--experiment", str(self.path)]
        return shlex.join(words if runs == Path("runs") else [*words, "--runs", str(runs)])

    def config(self, seed: int) -> TrainConfig:
        """The config of a seed; raises InputError for an override of an unknown field, or of another type."""
        content = _merged(to_json(preset(self.preset)), self.overrides)
        return from_json({**content, "seed": seed}, "config")

    def folder(self, runs: Path, seed: int) -> Path:
        """The run folder of a seed."""
        return runs / f"{self.name}-seed{seed}"


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The tables of `base` with the values of `changes`, at any depth."""
    merged = dict(base)
    for name, value in changes.items():
        inner = base.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def read_experiment(path: Path) -> Experiment:
    """An experiment file; raises InputError where it is missing, or something in it cannot be."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        found = dacite.from_dict(Experiment, {**content, "path": path}, dacite.Config(strict=True, cast=[tuple]))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, dacite.DaciteError) as error:
        raise InputError(f"{path}: not the file of an experiment ({error})") from None
    if not found.seeds or len(set(found.seeds)) < len(found.seeds):
        raise InputError(f"{path}: name at least one seed, and none twice")
    try:
        for seed in found.seeds:
            found.config(seed)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return found


def read_experiments(folder: Path) -> dict[str, Experiment]:
    """All experiments of a folder by name, in order of worth; raises InputError where there is none."""
    found = [read_experiment(path) for path in sorted(folder.glob("*.toml"))]
    if not found:
        raise InputError(f"{folder}: no folder with experiments (NAME.toml)")
    return {one.name: one for one in sorted(found, key=lambda one: (one.order, one.name))}


# -------------------------------------------------------------------- how far it is


@dataclass(frozen=True)
class SeedState:
    """How far a seed of an experiment is, as its run folder says."""

    seed: int
    folder: Path
    state: Literal["not run", "unfinished", "failed", "finished"]
    step: int = 0
    """Steps that are saved."""
    steps: int = 0
    """Steps there are to take."""
    reason: str = ""
    """Why it failed, or why its folder cannot be used."""
    minutes: float = 0.0
    """Of training, over all calls."""
    hardware: str | None = None
    version: str | None = None
    """That of emorl it began with."""
    scores: dict[str, Any] | None = None
    """results.json of a finished seed that was evaluated."""

    @property
    def told(self) -> str:
        """In a few words."""
        told = {"unfinished": f"step {self.step} of {self.steps}", "failed": f"failed: {self.reason}"}
        return told.get(self.state, self.state)


def seed_state(experiment: Experiment, seed: int, runs: Path) -> SeedState:
    """How far a seed is. Raises nothing for a folder that cannot be used: its state says so."""
    folder, config = experiment.folder(runs, seed), experiment.config(seed)
    state = SeedState(seed, folder, "not run", steps=config.steps)
    try:
        if not (folder / "config.json").exists():  # a failure in the first step leaves nothing else
            reason = _known_failure(experiment, seed, 0)
            return replace(state, state="failed" if reason else "not run", reason=reason)
        check_same_config((folder, config))
        results = known_results(folder)
        checkpoint = newest_checkpoint(folder)
        step = results.get("step", 0) if checkpoint is None else int(checkpoint.name)
        finished = step >= config.steps
        reason = "" if finished else _known_failure(experiment, seed, step)
        return replace(
            state,
            state="finished" if finished else "failed" if reason else "unfinished",
            step=step,
            reason=reason,
            minutes=results.get("minutes") or training_minutes(folder),
            hardware=results.get("hardware") or hardware(folder),
            version=results.get("trained_by") or read_json(folder / "versions.json").get("emorl"),
            scores=results if finished and results else None,
        )
    except InputError as error:
        return replace(state, state="failed", reason=" ".join(str(error).split()))


def _known_failure(experiment: Experiment, seed: int, step: int) -> str:
    """Why the last call failed that left a seed at this step, as the state file has it."""
    if not state_path(experiment).exists():
        return ""
    content = read_json(state_path(experiment))
    rows = content.get("seeds") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{state_path(experiment)}: not the state of an experiment; remove it")
    same = [row for row in rows if (row.get("seed"), row.get("step"), row.get("state")) == (seed, step, "failed")]
    return str(same[0].get("reason")) if same else ""


def state_path(experiment: Experiment) -> Path:
    """Where the state of an experiment is told, beside its file."""
    return experiment.path.with_name(f"{experiment.name}.state.json")


def write_state(experiment: Experiment, states: list[SeedState], runs: Path) -> None:
    """Tell how far an experiment is, with the means of its scores and the commands that go on and repeat them."""
    rows = []
    for state in states:
        scores = {name: x for name, x in (state.scores or {}).items() if isinstance(x, dict) and "mean" in x}
        row = asdict(replace(state, scores=None)) | {"folder": str(state.folder), "scores": scores or None}
        rows.append(row | {"evaluate": shlex.join(["emorl", "evaluate", str(state.folder)])})
    command = experiment.command(runs)
    content = {"experiment": experiment.name, "command": command, "version": __version__, "seeds": rows}
    write_json(state_path(experiment), content)


# -------------------------------------------------------------------- training


def run_experiment(
    experiment: Experiment,
    runs: Path,
    *,
    num_seeds: int | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    cuda_graph: bool = True,
    report: Callable[[str], None] = print,
) -> tuple[list[SeedState], bool]:
    """Train the seeds of an experiment one after the other, going on with what is there, and score the finished ones.

    Stops early, resumable, after `max_minutes` of all seeds together and at Ctrl-C or a termination signal. A seed that
    fails does not hold up the others. The state file is written before every seed and at the end. With `num_seeds`
    only the first ones are trained.

    Returns the state of every seed, and whether it was interrupted. Raises InputError before anything starts, also
    where another process trains the same experiment in the same folders.
    """
    if max_minutes is not None and not max_minutes > 0:
        raise InputError(f"the minutes must be more than 0, got {max_minutes}")
    if num_seeds is not None and not 1 <= num_seeds <= len(experiment.seeds):
        raise InputError(
            f"{experiment.path} has {len(experiment.seeds)} seeds: train 1 to {len(experiment.seeds)} of them"
        )
    pick_device(device)
    for seed in experiment.seeds:
        check_same_config((experiment.folder(runs, seed), experiment.config(seed)))
    busy = f"another process is training {experiment.path} in {runs}"
    with held(runs, f".{experiment.name}.lock", busy):
        return _run_seeds(experiment, runs, num_seeds, device, max_minutes, cuda_graph, report)


def _run_seeds(
    experiment: Experiment,
    runs: Path,
    num_seeds: int | None,
    device: str,
    max_minutes: float | None,
    cuda_graph: bool,
    report: Callable[[str], None],
) -> tuple[list[SeedState], bool]:
    """What `run_experiment` does once nothing stands in its way."""
    states = {seed: seed_state(experiment, seed, runs) for seed in experiment.seeds}
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    interrupted = False
    for seed in experiment.seeds[:num_seeds]:
        left = None if end is None else (end - time.monotonic()) / 60
        if interrupted or (left is not None and left <= 0):
            break
        if states[seed].state == "finished" and states[seed].scores:
            report(f"{states[seed].folder}: finished already, {states[seed].steps} steps")
            continue
        if states[seed].state == "failed":  # it is tried again: only what happens now is told of it
            states[seed] = replace(states[seed], state="unfinished", reason="")
        write_state(experiment, list(states.values()), runs)
        reason = ""
        try:
            interrupted = not _train_and_score(experiment, seed, runs, device, left, cuda_graph, report)
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:
            reason = failure(error)
            report(f"seed {seed} failed: {reason}")
        states[seed] = seed_state(experiment, seed, runs)
        if reason:
            states[seed] = replace(states[seed], state="failed", reason=reason)
    write_state(experiment, list(states.values()), runs)
    return list(states.values()), interrupted


def _train_and_score(
    experiment: Experiment,
    seed: int,
    runs: Path,
    device: str,
    max_minutes: float | None,
    cuda_graph: bool,
    report: Callable[[str], None],
) -> bool:
    """Bring one seed as far as the time goes; False if it was interrupted."""
    folder = experiment.folder(runs, seed)
    config = None if (folder / "config.json").exists() else experiment.config(seed)
    outcome = train(folder, config, device=device, max_minutes=max_minutes, cuda_graph=cuda_graph, report=report)
    if outcome.reason == "finished":
        with bar(f"evaluating {folder.name}", None) as advance:
            Known(folder, device, advance).results()
    return outcome.reason != "interrupted"
