"""One config with several seeds: trained side by side, scored, and brought to one table.

Every seed is a run folder of its own, written by a process of its own (or a job of a cluster) that calls `train`: its
bytes are those of the seed trained alone, and when it fails it takes no other with it. What is on disk says how far a
seed is, so the same call again goes on where the last one was stopped.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from emorl.config import TrainConfig, from_json, to_json
from emorl.data.base import Source
from emorl.data.sources import DATASETS, anywhere
from emorl.distributed import world_size
from emorl.errors import InputError
from emorl.jobs import Cluster, Job, LostError, Process, stop_signals, submit
from emorl.precision import pick_device
from emorl.results import Known
from emorl.runs import find_weights, log_rows, newest_checkpoint, read_json, training_minutes
from emorl.train import open_data, train

State = Literal["finished", "time", "interrupted", "failed", "left"]
"""How a call of `train` ended; failed: by an error; left: a cluster goes on with it."""


@dataclass(frozen=True)
class SeedRow:
    """How far a seed got, and its scores."""

    seed: int
    folder: Path
    """Its run folder."""
    state: State
    reason: str
    """Why it failed, or which job goes on with it."""
    step: int
    """Steps that are saved: where it would go on."""
    minutes: float
    """Of training, over all calls."""
    warnings: tuple[str, ...] = ()
    """What training warned of, in this call."""
    result: dict[str, Any] | None = None
    """Of a finished seed: what its results.json says."""


Run = tuple[Path, TrainConfig]
"""The folder of a seed and its config."""


def train_seeds(
    folder: Path,
    config: TrainConfig,
    num_seeds: int,
    *,
    device: str = "auto",
    max_minutes: float | None = None,
    cluster: Cluster | None = None,
    cuda_graph: bool = True,
    report: Callable[[str], None] = print,
) -> list[SeedRow]:
    """Train the seeds `config.seed`, `config.seed` + 1, ... in the run folders `folder`-seedN, and score them.

    As many at a time as there are cores, or GPUs with `device` "auto"; one by one on another named device. A run that
    is there already goes on, a finished one is only scored. `max_minutes` holds for each seed. Ctrl-C or a termination
    signal stops all of them, resumable; a second one at once. Jobs of slurm go on.
    Raises InputError before anything starts: for a folder with a run of another config, and for data, weights to start
    from, a device or a cluster that cannot be used. What happens to one seed after that is told by its row alone.
    """
    if num_seeds < 1:
        raise InputError(f"the number of seeds must be at least 1, got {num_seeds}")
    if world_size() > 1:
        raise InputError("several seeds are started without torchrun: each trains in one process")
    seeds = range(config.seed, config.seed + num_seeds)
    runs = [(folder.parent / f"{folder.name}-seed{seed}", replace(config, seed=seed)) for seed in seeds]
    for run in runs:
        check_same_config(run)
    if config.start_from is not None and any(newest_checkpoint(folder) is None for folder, _ in runs):
        find_weights(config.start_from)
    source = scoring_source(config)
    if config.data_split == "all":
        report(f"{source.name} is trained on as a whole: images of the scores may have been trained on")

    waiting: deque[Run] = deque()
    running: dict[int, tuple[Run, Process | Job, str]] = {}
    free: list[str] = []
    threads = 1
    if cluster is None:
        waiting.extend(runs)
        free, threads = places(device, num_seeds)
        report(f"{num_seeds} seeds, {len(free)} at a time on {', '.join(dict.fromkeys(free))}, {threads} threads each")
    else:
        jobs = _submit(runs, device, max_minutes, cluster, cuda_graph)
        running = {run[1].seed: (run, job, "") for run, job in zip(runs, jobs, strict=True)}
        report(f"{num_seeds} jobs, with their logs in {cluster.folder}")

    rows: dict[int, SeedRow] = {}
    told = False
    with stop_signals() as stop, _bars(runs) as show:
        try:
            while waiting or running:
                while waiting and free and not stop.is_set():
                    run, place = waiting.popleft(), free.pop(0)
                    call = Process(run_seed, (run, place, max_minutes, threads, cuda_graph), threads)
                    running[run[1].seed] = run, call, place
                if stop.is_set() and not told:
                    told = True
                    rows |= {run[1].seed: make_row(run, "interrupted") for run in waiting}
                    waiting.clear()
                    for _, one, _ in running.values():
                        one.stop()
                time.sleep(0.2 if cluster is None else 1.0)
                show()
                for seed, (run, one, place) in list(running.items()):
                    if told and one.leave:
                        rows[seed] = make_row(run, "left", one.name)
                    elif one.ended():
                        try:
                            rows[seed] = one.result()
                        except LostError as lost:
                            rows[seed] = make_row(run, "interrupted") if told else make_row(run, "failed", str(lost))
                        free.append(place)
                    if seed in rows:
                        del running[seed]
        finally:
            for _, one, _ in running.values():
                one.kill()
    return [rows[seed] for seed in seeds]


def run_seed(run: Run, device: str, max_minutes: float | None, threads: int | None, cuda_graph: bool = True) -> SeedRow:
    """Start a run or go on with it, and score it when it is finished. Sets up the process, which must be its own.

    Raises nothing: the row says how it ended.
    """
    folder, config = run
    said: list[str] = []

    def ended(state: State, reason: str = "", result: dict[str, Any] | None = None) -> SeedRow:
        warnings = tuple(line for line in said if line.startswith("warning"))
        return replace(make_row(run, state, reason), warnings=warnings, result=result)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, interrupt)  # for what is around `train`, which has its own way of stopping
        torch.set_num_threads(threads or _num_cores())
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)
        given = None if (folder / "config.json").exists() else config
        outcome = train(
            folder,
            given,
            device=device,
            max_minutes=max_minutes,
            report=said.append,
            progress=False,
            cuda_graph=cuda_graph,
        )
        if outcome.reason != "finished":
            return ended(outcome.reason)
        return ended("finished", result=Known(folder, device).results())
    except KeyboardInterrupt:
        return ended("interrupted")
    except Exception as error:
        return ended("failed", failure(error))


def failure(error: Exception) -> str:
    """Why a seed failed, in a line; what is no mistake of the user's is printed as a whole."""
    kind = ""
    if not isinstance(error, InputError):
        traceback.print_exception(error)
        kind = f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:300]


def _submit(runs: list[Run], device: str, max_minutes: float | None, cluster: Cluster, cuda_graph: bool) -> list[Job]:
    """A job for every seed. A local one shares this machine with all others, one of slurm asks for a GPU."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"a job has one GPU or none: give --device auto, cpu or cuda, not {device}")
    local = cluster.kind == "local"
    threads = max(1, _num_cores() // len(runs)) if local else None
    gpu = device != "cpu" and (not local or torch.cuda.is_available())
    return submit(cluster, run_seed, [(run, device, max_minutes, threads, cuda_graph) for run in runs], gpu)


def scoring_source(config: TrainConfig) -> Source:
    """What a run is scored on: the test scenes of its data, as a generator always has them; else all of it."""
    return open_data(config, "test" if config.data_split == "train" or config.data in DATASETS else "all")


def places(device: str, num_seeds: int) -> tuple[list[str], int]:
    """The devices of the seeds that train at one time, and the threads of each.

    Both depend on the machine and the number of seeds alone: a seed that goes on has the threads it began with.
    """
    pick_device(device)
    if device == "auto" and torch.cuda.is_available():
        found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    else:
        found = ["cpu"] * _num_cores() if device in ("auto", "cpu") else [device]
    found = found[:num_seeds]
    return found, max(1, _num_cores() // len(found))


def _num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -------------------------------------------------------------------- what is on disk


def check_same_config(run: Run) -> None:
    """Raises InputError where the folder holds a run of another config."""
    path = run[0] / "config.json"
    if path.exists():
        both = (run[1], from_json(read_json(path), str(path)))
        wanted, there = (to_json(replace(config, data=anywhere(config.data))) for config in both)
        if names := list(_differences(wanted, there)):
            raise InputError(
                f"{run[0]}: holds a run with another {', '.join(names)}; move it away or name another folder"
            )


def _differences(wanted: Any, there: Any, name: str = "") -> Iterator[str]:
    """Names of the fields that differ; where "auto" is wanted, a run has what it found."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        for key in sorted(wanted.keys() | there.keys()):
            yield from _differences(wanted.get(key), there.get(key), f"{name}.{key}".lstrip("."))
    elif wanted not in ("auto", there):
        yield name


def make_row(run: Run, state: State, reason: str = "") -> SeedRow:
    """The row of a seed, with its steps and minutes read from its folder."""
    folder, config = run
    checkpoint = newest_checkpoint(folder)
    step = 0 if checkpoint is None else int(checkpoint.name)
    return SeedRow(config.seed, folder, state, reason, step, training_minutes(folder))


@contextmanager
def _bars(runs: list[Run]) -> Iterator[Callable[[], None]]:
    """A bar for every seed on standard error, if it is a terminal; they move by what is in the folders."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, transient=True, console=console, disable=not console.is_terminal) as progress:
        tasks = [(progress.add_task(folder.name, total=config.steps), folder) for folder, config in runs]

        def show() -> None:
            for task, folder in tasks if console.is_terminal else ():
                for row in log_rows(folder / "metrics.jsonl", last_bytes=1 << 14):
                    progress.update(task, completed=row["step"] + ("validation" not in row))

        yield show


def over_seeds(rows: list[SeedRow]) -> dict[str, dict[str, Any]]:
    """Of every score and of the minutes: mean, sample standard deviation and median over the finished seeds.

    `std` divides by `num_seeds` - 1, and is None for a single seed.
    """
    scores = [
        {name: x["mean"] for name, x in row.result.items() if isinstance(x, dict) and "mean" in x}
        | {"minutes": row.minutes}
        for row in rows
        if row.result is not None
    ]
    summary = {}
    for name in dict.fromkeys(name for row in scores for name in row):
        values = [row[name] for row in scores if name in row]
        summary[name] = {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "median": statistics.median(values),
            "num_seeds": len(values),
        }
    return summary
