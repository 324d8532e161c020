"""emorl train: one run, several seeds, or a planned experiment."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from emorl.cli.shared import check_json, parse, save_json
from emorl.config import TrainConfig
from emorl.errors import InputError
from emorl.experiments import SeedState, read_experiment, run_experiment
from emorl.jobs import Cluster
from emorl.models.efficientmorl import EfficientMORLConfig, as_released
from emorl.presets import PRESETS, full_name, preset
from emorl.seeds import SeedRow, over_seeds, train_seeds
from emorl.train import train as run_training


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its newest checkpoint, exactly as if it had not stopped."""

    resume: Path
    """Run folder."""
    steps: int | None = None
    """Go on to this many steps in all, a finished run too; the learning rate follows the new length from here."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    max_minutes: float | None = None
    """Stop then, resumable."""
    cuda_graph: bool = True
    """On a GPU, record the step as a CUDA graph; the results are the same."""


@dataclass(frozen=True)
class Train:
    """Train a preset; every number and choice of its config can be given another value."""

    preset: Positional[str]
    """MODEL/DATA; EfficientMORL's names may leave the model out."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    run: Annotated[Path | None, tyro.conf.arg(aliases=["--run-folder"])] = None
    """Run folder to make; runs/PRESET-seedN by default. Under torchrun, which takes --run for its own: --run-folder."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    max_minutes: float | None = None
    """Stop then, resumable."""
    cuda_graph: bool = True
    """On a GPU, record the step as a CUDA graph; the results are the same."""
    released: bool = False
    """The released code's choices wherever it departs from the paper."""
    seeds: int | None = None
    """Train so many seeds, from --seed on, side by side, each in its own folder DIR-seedN (--run DIR), and print one
    table. The same command again goes on where this one was stopped."""
    json: Path | None = None
    """With --seeds: write the table there."""
    cluster: Literal["slurm", "local"] | None = None
    """With --seeds: a job for each, with one GPU unless --device cpu; `local` tries it here. Needs emorl[cluster]."""
    cluster_minutes: int | None = None
    """Time limit of a job; a day by default."""
    cluster_partition: str | None = None
    """Of slurm; its default otherwise."""
    cluster_folder: Path | None = None
    """For the logs of the jobs; DIR-jobs by default."""


@dataclass(frozen=True)
class TrainExperiment:
    """Train the seeds of an experiment one after the other, going on with what is there, and score finished ones."""

    experiment: Path
    """File of experiments/; how far it is is written beside it, NAME.state.json."""
    runs: Path = Path("runs")
    """Seed N is trained in the run folder NAME-seedN there."""
    seeds: int | None = None
    """Only so many of its seeds, the first ones."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    max_minutes: float | None = None
    """Stop then, resumable: of all seeds together."""
    cuda_graph: bool = True
    """On a GPU, record the step as a CUDA graph; the results are the same."""


def _train_experiment(words: Sequence[str]) -> int:
    given: TrainExperiment = parse(TrainExperiment, words, "train")
    states, interrupted = run_experiment(
        read_experiment(given.experiment),
        given.runs,
        num_seeds=given.seeds,
        device=given.device,
        max_minutes=given.max_minutes,
        cuda_graph=given.cuda_graph,
    )
    _print_states(states)
    if any(state.state == "unfinished" for state in states):
        print(f"go on with the same command: emorl train {shlex.join(words)}")
    if interrupted:
        return 130
    if failed := [f"seed {state.seed} failed: {state.reason}" for state in states if state.state == "failed"]:
        raise InputError("; ".join(failed))
    return 0


def _print_states(states: list[SeedState]) -> None:
    table = Table("seed", "state", "minutes", "foreground ARI", "MSE", box=None, pad_edge=False)
    for state in states:
        scores = [(state.scores or {}).get(name, {}).get("mean") for name in ("foreground_ari", "mse")]
        told = ["-" if score is None else f"{score:.4g}" for score in scores]
        table.add_row(str(state.seed), Text(state.told), f"{state.minutes:.1f}", *told)
    Console(width=160).print(table)


def _refuse(given: Train, lacking: str, *options: str) -> None:
    for option in options:
        if getattr(given, option) is not None:
            raise InputError(f"--{option.replace('_', '-')} goes with {lacking}")


def _train_seeds(given: Train, config: TrainConfig, folder: Path, words: Sequence[str]) -> int:
    check_json(given.json)
    cluster = None
    if given.cluster is None:
        _refuse(given, "--cluster", "cluster_minutes", "cluster_partition", "cluster_folder")
    else:
        jobs = given.cluster_folder or folder.parent / f"{folder.name}-jobs"
        minutes = Cluster.minutes if given.cluster_minutes is None else given.cluster_minutes
        cluster = Cluster(given.cluster, jobs, minutes, given.cluster_partition)
    rows = train_seeds(
        folder,
        config,
        given.seeds or 0,
        device=given.device,
        max_minutes=given.max_minutes,
        cluster=cluster,
        cuda_graph=given.cuda_graph,
    )
    summary = over_seeds(rows)
    _print_seeds(rows, summary, config.steps)
    for row in rows:
        for line in row.warnings:
            print(f"seed {row.seed}: {line}")
    content = [asdict(row) | {"folder": str(row.folder)} for row in rows]
    for entry in content:
        entry.update(entry.pop("result") or {})
    save_json(given.json, {"rows": content, "summary": summary})
    states = {row.state for row in rows}
    if "left" in states:
        print("the jobs go on; once they have ended, the same command goes on from there")
    elif states & {"time", "interrupted"}:
        print(f"go on with the same command: emorl train {shlex.join(words)}")
    if states & {"left", "interrupted"}:
        return 130
    if failed := [f"seed {row.seed} failed: {row.reason}" for row in rows if row.state == "failed"]:
        raise InputError("; ".join(failed))
    return 0


def _print_seeds(rows: list[SeedRow], summary: dict[str, dict[str, Any]], steps: int) -> None:
    columns = {"foreground_ari": ("foreground ARI", ".4f"), "mse": ("MSE", ".3g"), "minutes": ("minutes", ".1f")}
    table = Table("seed", "steps", "state", box=None, pad_edge=False)
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")

    def add(first: str, taken: str, state: str, found: list[list[float | None]]) -> None:
        """A row of values, or of means with their spread."""
        formats = [spec for _, spec in columns.values()]
        told = [[f"{x:{spec}}" for x in values if x is not None] for values, spec in zip(found, formats, strict=True)]
        table.add_row(first, taken, Text(state), *(" ± ".join(values) or "-" for values in told))

    for row in rows:
        scores = row.result or {}
        means = {name: scores.get(name, {}).get("mean") for name in ("foreground_ari", "mse")}
        means["minutes"] = row.minutes
        told = {"failed": f"failed: {row.reason}", "time": "out of time", "left": f"{row.reason} goes on"}
        taken = f"{row.step}" if row.step == steps else f"{row.step} of {steps}"
        add(str(row.seed), taken, told.get(row.state, row.state), [[value] for value in means.values()])
    if summary:
        over = [summary.get(name, {}) for name in columns]
        finished = f"of {summary['minutes']['num_seeds']} finished"
        add("mean", "", finished, [[values.get("mean"), values.get("std")] for values in over])
        add("median", "", finished, [[values.get("median")] for values in over])
    Console(width=160).print(table)


def train(words: Sequence[str]) -> int:
    """train a preset in a run folder, or resume one: train PRESET | train --resume DIR | train --experiment FILE"""
    if any(word == "--experiment" or word.startswith("--experiment=") for word in words):
        return _train_experiment(words)
    if any(word == "--resume" or word.startswith("--resume=") for word in words):
        resumed: Resume = parse(Resume, words, "train")
        outcome = run_training(
            resumed.resume,
            None,
            steps=resumed.steps,
            device=resumed.device,
            max_minutes=resumed.max_minutes,
            cuda_graph=resumed.cuda_graph,
        )
    else:
        named = [word for word in words[:1] if not word.startswith("-")]
        if not named:
            if words and words[0] in ("-h", "--help"):
                print("usage: emorl train PRESET [options]   emorl train PRESET --help lists all options")
                print("       emorl train PRESET --seeds 5   trains five seeds and prints one table")
                print("       emorl train --resume DIR       goes on with a run")
                print(
                    "       emorl train --experiment FILE  trains a planned experiment, or goes on with it\n\npresets:"
                )
                for name, make in PRESETS.items():
                    print(f"  {name.removeprefix('efficientmorl/'):26} {(make.__doc__ or '').splitlines()[0]}")
                return 0
            raise InputError(f"name a preset first: {', '.join(PRESETS)}")
        default = Train(named[0], preset(named[0]))
        given: Train = parse(Train, words, "train", default)
        config = given.config
        if given.released:
            if not isinstance(config.model, EfficientMORLConfig):
                raise InputError("--released is a choice of EfficientMORL; IODINE has it as presets")
            config = replace(config, model=as_released(config.model))
        name = full_name(given.preset).replace("/", "-")
        if given.seeds is not None:
            return _train_seeds(given, config, given.run or Path("runs") / name, words)
        _refuse(given, "--seeds", "json", "cluster", "cluster_minutes", "cluster_partition", "cluster_folder")
        folder = given.run or Path("runs") / f"{name}-seed{config.seed}"
        outcome = run_training(
            folder, config, device=given.device, max_minutes=given.max_minutes, cuda_graph=given.cuda_graph
        )
    return 130 if outcome.reason == "interrupted" else 0
