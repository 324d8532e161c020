"""The command line: parse, call, print.

Exit codes: 0 done; 1 the check said no; 2 the user's input is wrong, told in one line; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from emorl.benchmark.measure import (
    SHAPES,
    SWEEP,
    Job,
    floor_rows,
    largest_batch_rows,
    memory_rows,
    model_points,
    num_calls,
    over_first,
    preset_points,
    sweep_points,
    time_rows,
    usual_jobs,
)
from emorl.benchmark.pictures import fig10, fig22
from emorl.config import TrainConfig
from emorl.data.base import Source, Subset
from emorl.data.progress import bar
from emorl.data.protocols import ProtocolName, Split
from emorl.data.sources import DATASETS, GROUPS, Fit, make, open_source, write
from emorl.decompose import decompose as run_decomposition
from emorl.errors import InputError
from emorl.evaluation import BATCH_SIZE, score
from emorl.experiments import Scale, SeedState, read_experiment, read_experiments, run_experiment
from emorl.feed import feed, image_size
from emorl.figures import check_figure_path, contact_sheet, decomposition_sheet, save_figure
from emorl.jobs import Cluster
from emorl.models.base import InferOptions
from emorl.models.efficientmorl import EfficientMORLConfig, as_released
from emorl.precision import Precision, native_bfloat16
from emorl.presets import PRESETS, full_name, preset
from emorl.released import import_checkpoint
from emorl.representation import are_active, describe
from emorl.representation import num_steps as num_describing_steps
from emorl.reproduce import reproduce as run_reproduction
from emorl.reproduce.lab import Lab
from emorl.results import evaluate_feed, is_run, keep_results
from emorl.runs import find_weights, load_weights, newest_checkpoint, write_json
from emorl.sample import sample as draw_scenes
from emorl.seeds import SeedRow, over_seeds, train_seeds
from emorl.train import pick_device
from emorl.train import train as run_training
from emorl.traverse import num_steps as num_ranging_steps
from emorl.traverse import ranges
from emorl.traverse import traverse as run_traversal
from emorl.verify import verify_reference as replay
from emorl.version import __version__
from emorl.web.export import export_web as write_explorer
from emorl.web.export import num_steps as num_export_steps
from emorl.web.networks import export_networks, new_folder
from emorl.web.serve import make_server, serve


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. KeyboardInterrupt goes through, to `emorl.__main__`."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _command(words)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except InputError as error:
        said = " ".join(str(error).split())
    except BrokenPipeError:  # the reader of our output has gone
        _give_up_output()
        return 0
    except OSError as error:
        said = f"{error.strerror or error}" + ("" if error.filename is None else f": {str(error.filename)[:200]}")
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        said = "not enough memory: take smaller images, a smaller batch, or fewer slots"
    _give_up_output()
    print(f"emorl: {said}", file=sys.stderr)
    return 2


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        raise InputError(f"unknown command {words[0]}; emorl --help lists them")
    return COMMANDS[words[0]](words[1:])


def _give_up_output() -> None:
    """Where standard output cannot be written, have the process end without another try and its complaint."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _is_of_memory(error: Exception) -> bool:
    """Not all of torch's allocators have a type of their own for what they say."""
    said = str(error).lower()
    phrases = ("can't allocate memory", "cannot allocate memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(phrase in said for phrase in phrases)


def _overview() -> str:
    lines = ["usage: emorl COMMAND ...", "", "emorl finds the objects in images without labels.", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:18} {(command.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "emorl COMMAND --help tells its options."])


def _parse(kind: type[Any], words: Sequence[str], command: str, default: Any = None) -> Any:
    """tyro's result, with its report of a mistake brought to one line."""
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            given = {} if default is None else {"default": default}
            return tyro.cli(kind, args=words, prog=f"emorl {command}", config=(tyro.conf.AvoidSubcommands,), **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        said = _first_paragraph(caught.getvalue())
        raise InputError(f"{said} (emorl {command} --help tells the options)") from None


def _first_paragraph(report: str) -> str:
    """What stands below the title of tyro's box, up to the next rule. Without UTF-8 it draws with - and spaces."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\[/?bold\]", "", report)
    title, *lines = [line for line in (line.strip(" │╭╮╰╯") for line in plain.splitlines()) if line]
    rules = [i for i, line in enumerate(lines) if not line.strip("─-")]
    start = 1 if rules[:1] == [0] else 0
    end = next((i for i in rules if i >= start), len(lines))
    return " ".join(lines[start:end]) or title


def _check_json(path: Path | None) -> None:
    """Refuse a place that cannot be written before the work is done."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f"cannot write {path}: name a file in a folder that exists")


def _write_json(path: Path | None, content: Any) -> None:
    if path is not None:
        write_json(path, content)


# -------------------------------------------------------------------- demo


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
    options: Demo = _parse(Demo, words, "demo")
    _check_json(options.json)
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
    labels = [f"ARI {value:.2f}" for value in scores["foreground_ari"]]
    title = f"{about['data']}: scenes never trained on, {options.weights} weights"
    _print_rows([row], ["foreground_ari", "mse"])
    _write_json(options.json, {"weights": options.weights, **row})
    save_figure(
        decomposition_sheet(scenes.image, inference, true_masks=scenes.mask, title=title, scores=labels),
        options.out,
    )
    print(f"picture: {options.out}")
    return 0


def _print_rows(rows: list[dict[str, Any]], names: Sequence[str]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("K", "I", *names, "images"):
        table.add_column(column, justify="right")
    for row in rows:
        chosen = row["options"]
        values = [f"{row[n]['mean']:.4g} ± {row[n]['std']:.2g}" if n in row else "-" for n in names]
        count = max(row[n]["num_images"] for n in names if n in row)
        table.add_row(str(chosen["num_slots"]), str(chosen["refinement_steps"]), *values, str(count))
    Console(width=160).print(table)


# -------------------------------------------------------------------- data


@dataclass(frozen=True)
class Part:
    """Which images of a data source, and what is made of them."""

    split: Split = "all"
    """By the protocol; of a file that has splits."""
    subset: str | None = None
    """Only scenes with so many objects: clevr6, clevr10 or a range such as 3-6."""
    protocol: ProtocolName | None = None
    """Whose splits, crop and resizing; the default of the data otherwise."""
    image_size: tuple[int, int] | None = None
    """Height and width to bring images to; their own by default."""
    fit: Fit = "crop"
    """How: crop takes the protocol's window, of pictures the largest centred one; or the name of a window."""
    seed: int | None = None
    """Of a generator; 0 by default."""

    def of(self, name: str, merge_background: bool = True) -> Source:
        """The part of a source."""
        return open_source(
            name,
            split=self.split,
            subset=self.subset,
            protocol=self.protocol,
            size=self.image_size,
            fit=self.fit,
            seed=self.seed,
            merge_background=merge_background,
        )


@dataclass(frozen=True)
class DataMake:
    """Write scenes of a generator to a file."""

    name: Positional[str]
    """Generator; emorl data --help lists them."""
    out: Path
    """The file; its ending says which kind: .npz, .tfrecords, .h5."""
    num: int | None = None
    """Scenes; all of the split by default."""
    split: Split = "all"
    """Which scenes."""
    seed: int = 0
    """Of the generator."""
    overwrite: bool = False
    """Replace an existing file."""


@dataclass(frozen=True)
class DataConvert:
    """Write a data source, or a part of it, to a file; what is written is as it is read."""

    source: Positional[str]
    """Generator or path."""
    out: Positional[Path]
    """The file; its ending says which kind: .npz, .tfrecords, .h5."""
    part: Annotated[Part, tyro.conf.arg(name="")] = Part()
    start: int = 0
    """First image, in the part that is written."""
    stop: int | None = None
    """The one behind the last; all by default."""
    group: str | None = None
    """Name of the split in an .h5 file; that of --split by default."""
    overwrite: bool = False
    """Replace an existing file."""


@dataclass(frozen=True)
class DataShow:
    """Draw a contact sheet with masks."""

    source: Positional[str]
    """Generator or path."""
    part: Annotated[Part, tyro.conf.arg(name="")] = Part()
    out: Path = Path("scenes.png")
    """The picture, .png or .pdf."""
    num: int = 16
    """Scenes."""
    first: int = 0
    """Position of the first one, in the part that is shown."""


@dataclass(frozen=True)
class DataInfo:
    """Print what a data source holds."""

    source: Positional[str]
    """Generator or path."""
    part: Annotated[Part, tyro.conf.arg(name="")] = Part()
    json: Path | None = None
    """Write it there too."""


def data(words: Sequence[str]) -> int:
    """generate scenes (make), write them to another file (convert), look at them (show), say what is there (info)"""
    kinds: dict[str, type[Any]] = {"make": DataMake, "convert": DataConvert, "show": DataShow, "info": DataInfo}
    if not words or words[0] not in kinds:
        if words and words[0] in ("-h", "--help"):
            print("\n".join(f"emorl data {name}: {kind.__doc__}" for name, kind in kinds.items()))
            print(f"generators: {', '.join(DATASETS)}")
            return 0
        raise InputError("say what to do with data: emorl data make, convert, show or info")
    options = _parse(kinds[words[0]], words[1:], f"data {words[0]}")
    if isinstance(options, DataShow):
        check_figure_path(options.out)
    if isinstance(options, DataInfo):
        _check_json(options.json)

    if isinstance(options, DataMake):
        make(
            options.name,
            options.out,
            num=options.num,
            split=options.split,
            seed=options.seed,
            overwrite=options.overwrite,
        )
        print(f"wrote {options.out}")
        return 0
    # A conversion keeps every background entity, but .npz has no place to say how many there are.
    merge = not isinstance(options, DataConvert) or options.out.suffix.lower() == ".npz"
    source = options.part.of(options.source, merge_background=merge)
    if isinstance(options, DataConvert):
        group = options.group or GROUPS[options.part.split]
        write(source, options.out, start=options.start, stop=options.stop, group=group, overwrite=options.overwrite)
        print(f"wrote {options.out}")
        return 0
    if isinstance(options, DataShow):
        if options.num < 1 or not 0 <= options.first < len(source):
            raise InputError(f"{source.name} has images 0 to {len(source) - 1}, and --num must be at least 1")
        positions = np.arange(options.first, min(len(source), options.first + options.num))
        figure = contact_sheet(source.read(positions), num=len(positions), title=source.name)
        save_figure(figure, options.out)
        print(f"picture: {options.out}")
        return 0
    facts = {**source.describe(), "fingerprint": source.fingerprint()}
    for name, value in facts.items():
        print(f"{name}: {json.dumps(value) if isinstance(value, list | dict) else value}")
    _write_json(options.json, facts)
    return 0


# -------------------------------------------------------------------- train


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
    given: TrainExperiment = _parse(TrainExperiment, words, "train")
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
    _check_json(given.json)
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
    _write_json(given.json, {"rows": content, "summary": summary})
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
        resumed: Resume = _parse(Resume, words, "train")
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
        given: Train = _parse(Train, words, "train", default)
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


# -------------------------------------------------------------------- evaluate, decompose


@dataclass(frozen=True)
class Evaluate:
    """Score weights on images: foreground ARI, ARI, mIoU, MSE, NLL, KL."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    data: str | None = None
    """Generator or path; what the weights were trained on by default."""
    split: Split | None = None
    """Of a generator, and of what the weights were trained on: test by default. Other files are read whole."""
    protocol: ProtocolName | None = None
    """Whose split, crop and resizing; that of the weights by default."""
    subset: str | None = None
    """Only scenes with so many objects, such as clevr10 or 3-6; on their own data that of the weights by default."""
    num_images: int | None = None
    """The first ones only."""
    refinement_steps: tuple[int, ...] = ()
    """I at test time; several make a sweep. The model's own by default."""
    num_slots: tuple[int, ...] = ()
    """K at test time; several make a sweep."""
    fit: Fit | None = None
    """How images of another size are brought to that of the model: crop takes the protocol's window, of pictures the
    largest centred one; or the name of a window. none leaves them at their own. By default as for the training images,
    and crop for pictures."""
    score_size: int | None = None
    """Height and width at which masks are scored, after they are resized to it: those of the window that is cut out of
    the scenes. 192 for CLEVR, as the EfficientMORL authors do. By default the model's size."""
    codes: bool = False
    """Also say what the codes are worth: disentanglement (DCI), what simple predictors read from them, activeness of
    every dimension, use of the slots, stability under other noise. Minutes; with one K and I."""
    posterior_mean: bool = False
    """Decode the mean of the last posterior rather than a sample. Refinement goes by samples all the same."""
    seed: int = 0
    """Of the noise; an image's noise depends on the seed and its position alone."""
    batch_size: int = BATCH_SIZE
    """Changes speed and memory, not results."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: Precision = "float32"
    """Of the convolutions; not what the weights were trained in, so that scores do not depend on the machine."""
    json: Path | None = None
    """Write the results there."""


def evaluate(words: Sequence[str]) -> int:
    """score weights on images: foreground ARI, ARI, mIoU, MSE, NLL, KL"""
    options: Evaluate = _parse(Evaluate, words, "evaluate")
    _check_json(options.json)
    if options.batch_size < 1:
        raise InputError("--batch-size must be at least 1")
    weights = find_weights(options.weights)
    model, about = load_weights(weights, pick_device(options.device), options.precision)
    fed = feed(
        about,
        options.data,
        split=options.split,
        fit=options.fit,
        protocol=options.protocol,
        subset=options.subset,
        score_size=options.score_size,
    )
    source = fed.source
    if fed.seen:
        print(f"these are the images the weights were trained on: {about['data']}", file=sys.stderr)
    if options.num_images is not None:
        if not 1 <= options.num_images <= len(source):
            raise InputError(f"--num-images must be from 1 to {len(source)}")
        source = Subset(source, 0, options.num_images)
        fed = replace(fed, source=source)
    rows = []
    sweep = [(k, i) for k in options.num_slots or (None,) for i in options.refinement_steps or (None,)]
    if options.codes and len(sweep) > 1:
        raise InputError("--codes goes with one K and one I: ask for a sweep without it")
    with bar("evaluating", len(source) * len(sweep)) as advance:
        for num_slots, steps in sweep:
            chosen = InferOptions(num_slots, steps, sample=not options.posterior_mean)
            row = evaluate_feed(
                model,
                fed,
                options=chosen,
                seed=options.seed,
                batch_size=options.batch_size,
                precision=options.precision,
                progress=advance,
            )
            rows.append({"weights": options.weights, **row})
    if options.codes:
        chosen = InferOptions(*sweep[0], sample=not options.posterior_mean)
        with bar("describing the codes", num_describing_steps(model, source)) as advance:
            rows[0]["codes"] = describe(
                model, source, options=chosen, seed=options.seed, batch_size=options.batch_size, progress=advance
            )
    _print_rows(rows, ["foreground_ari", "ari", "miou", "mse", "nll", "kl", "kl_stage1"])
    if options.codes:
        _print_codes(rows[0]["codes"])
    _write_json(options.json, rows[0] if len(rows) == 1 else {"rows": rows})
    run, usual = Path(options.weights), replace(Evaluate(options.weights), **_harmless(options))
    if is_run(run) and weights == newest_checkpoint(run) and options == usual:
        keep_results(run, weights, rows[0])
        print(f"kept: {run / 'results.json'}")
    return 0


def _harmless(options: Evaluate) -> dict[str, Any]:
    """What changes no score: with these alone, the results are the ones that a run folder keeps."""
    return {name: getattr(options, name) for name in ("codes", "batch_size", "device", "json")}


def _print_codes(codes: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("codes", "value"):
        table.add_column(column)
    usage, active = codes["slots"], np.array(codes["activeness"]["values"])
    table.add_row("share of pixels by slot", " ".join(f"{share:.2f}" for share in usage["share"]))
    if "count_error" in usage:
        table.add_row(
            "slots in use minus objects", f"{usage['count_error']:+.2f} ({usage['absolute_count_error']:.2f})"
        )

    def told(value: float | None, spec: str) -> str:
        return "-" if value is None else f"{value:{spec}}"

    table.add_row("stability", told(codes["stability"]["mean"], ".3f"))
    table.add_row("active dimensions", f"{int(are_active(active).sum())} of {len(active)}")
    for name in ("dci", "dci_released") if "dci" in codes else ():
        values = [
            f"{part[:1].upper()} {told(codes[name][part], '.3f')}" for part in ("disentanglement", "completeness")
        ]
        table.add_row(name.replace("_", ", "), " ".join(values))
    for name in ("linear_probe", "mlp_probe") if "dci" in codes else ():
        for kind, scores in codes[name].items():
            values = [f"{factor} {told(value, '.2f')}" for factor, value in scores.items()]
            table.add_row(f"{name.replace('_', ' ')}, {kind}", " ".join(values))
    Console(width=160).print(table)


@dataclass(frozen=True)
class Decompose:
    """Take pictures apart: sheets, masks, components and codes."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    sources: Positional[tuple[str, ...]]
    """Pictures, folders of pictures, or data sources."""
    out: Path
    """Folder for the results."""
    num_images: int | None = None
    """Of each source, the first ones only; 8 by default for a generator, else all."""
    split: Split | None = None
    """Of each source: test by default for a generator and the file that the weights were trained on, else all."""
    protocol: ProtocolName | None = None
    """Whose split, crop and resizing; that of the weights by default."""
    subset: str | None = None
    """Only scenes with so many objects: clevr6, clevr10 or a range such as 3-6."""
    fit: Fit | None = None
    """How images of another size are brought to that of the model: crop takes the protocol's window, of pictures the
    largest centred one; or the name of a window. none leaves them at their own. By default as for the training images,
    and crop for pictures."""
    refinement_steps: int | None = None
    """I; the model's own by default."""
    num_slots: int | None = None
    """K; the model's own by default."""
    seed: int = 0
    """Of the noise; another seed may show another decomposition."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""


def decompose(words: Sequence[str]) -> int:
    """take pictures apart: sheets, masks, components and codes"""
    options: Decompose = _parse(Decompose, words, "decompose")

    if not options.sources:
        raise InputError("name at least one picture, folder or data source")
    model, about = load_weights(find_weights(options.weights), pick_device(options.device))
    chosen = InferOptions(options.num_slots, options.refinement_steps)
    sources = []
    for name in options.sources:
        source = feed(
            about,
            name,
            split=options.split,
            fit=options.fit,
            protocol=options.protocol,
            subset=options.subset,
        ).source
        count = (8 if name in DATASETS else len(source)) if options.num_images is None else options.num_images
        sources.append(Subset(source, 0, min(count, len(source))))
    with bar("decomposing", sum(map(len, sources))) as advance:
        sheets = run_decomposition(model, sources, options.out, chosen, options.seed, advance)
    print(f"wrote {sum(map(len, sources))} decompositions to {options.out}; sheets: {', '.join(map(str, sheets))}")
    return 0


@dataclass(frozen=True)
class Sample:
    """Draw whole scenes from a model's prior."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    num: int = 16
    """Scenes."""
    out: Path = Path("samples.png")
    """The picture, .png or .pdf: each scene with its masks, a colour for each slot."""
    size: tuple[int, int] | None = None
    """Height and width; those that the weights were trained on by default."""
    num_slots: int | None = None
    """K; the model's own by default."""
    seed: int = 0
    """Of the noise; a scene depends on the seed and its number alone."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""


def sample(words: Sequence[str]) -> int:
    """draw whole scenes from a model's prior, where it has one"""
    options: Sample = _parse(Sample, words, "sample")
    model, about = load_weights(find_weights(options.weights), pick_device(options.device))
    size = options.size or image_size(about)
    if size is None:
        raise InputError("these weights name no image size: give --size")
    check_figure_path(options.out)
    scenes = draw_scenes(model, options.num, size, num_slots=options.num_slots, seed=options.seed)
    save_figure(contact_sheet(scenes, num=len(scenes), title=f"{options.weights}: from the prior"), options.out)
    print(f"picture: {options.out}")
    return 0


@dataclass(frozen=True)
class Traverse:
    """Show what each number of a slot's code does to the picture: sheets and animations."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    out: Path
    """Folder for the sheets (.png) and animations (.webp)."""
    data: str | None = None
    """Generator or path; what the weights were trained on by default. Its codes give the range of each number."""
    image: int = 0
    """Position of the image, in the test split of a generator."""
    slots: tuple[int, ...] = ()
    """Which slots; by default those that win some pixels."""
    dimensions: int = 8
    """Numbers of the code that are shown, most active first."""
    values: int = 9
    """Values of each."""
    seed: int = 0
    """Of the noise."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""


def traverse(words: Sequence[str]) -> int:
    """show what each number of a slot's code does to the picture: sheets and animations"""
    options: Traverse = _parse(Traverse, words, "traverse")
    if min(options.dimensions, options.values - 1) < 1:
        raise InputError("--dimensions must be at least 1 and --values at least 2")
    model, about = load_weights(find_weights(options.weights), pick_device(options.device))
    source = feed(about, options.data).source
    if not 0 <= options.image < len(source):
        raise InputError(f"--image must be from 0 to {len(source) - 1}")
    with bar("looking at data", num_ranging_steps(model, source)) as advance:
        known = ranges(model, source, options.values, options.seed, advance)
    files = run_traversal(
        model,
        source,
        options.image,
        known,
        options.out,
        slots=options.slots,
        num_dimensions=options.dimensions,
        seed=options.seed,
    )
    print(f"wrote {', '.join(str(file) for file in files)}")
    return 0


# -------------------------------------------------------------------- reproduce


@dataclass(frozen=True)
class Reproduce:
    """Make a table or figure of the EfficientMORL paper from run folders, with the published value beside ours."""

    name: Positional[str]
    """table1 to table3, fig3 to fig11, fig13 to fig22; convergence and settings, which the paper does not have; or all:
    these, one table of all claims, claims.md, and one page with everything, report.html."""
    scale: Scale = "paper"
    """paper: full size; nano: the same in miniature, minutes a run on two CPU cores."""
    runs: Path = Path("runs")
    """Where `emorl train --experiment` left its run folders. What is evaluated is kept there."""
    experiments: Path = Path("experiments")
    """Folder of the experiments."""
    out: Path = Path("reproduced")
    """Folder for NAME.md, NAME.json and NAME.png."""
    benchmark: Path | None = None
    """What `emorl benchmark --sweep --json` wrote, for fig10 and fig22; benchmark.json in OUT or RUNS by default."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""


def reproduce(words: Sequence[str]) -> int:
    """make a table or figure of the paper from run folders: reproduce fig7 | reproduce all"""
    options: Reproduce = _parse(Reproduce, words, "reproduce")
    rows = [options.out / "benchmark.json", options.runs / "benchmark.json"]
    if options.benchmark is not None:
        rows = [options.benchmark]
    pick_device(options.device)
    with bar("evaluating", None) as advance:
        lab = Lab(read_experiments(options.experiments), options.runs, tuple(rows), options.device, advance)
        run_reproduction(options.name, lab, options.scale, options.out, lambda file: print(f"wrote {file}"))
    return 0


# -------------------------------------------------------------------- outside PyTorch


@dataclass(frozen=True)
class ExportOnnx:
    """Write a model's two networks, picture to codes and codes to what each slot shows, as ONNX files."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    out: Path = Path("onnx")
    """Folder to make: encoder.onnx, decoder.onnx, and model.json with shapes and noise."""
    size: tuple[int, int] | None = None
    """Height and width of pictures; those that the weights were trained on by default."""


def export_onnx(words: Sequence[str]) -> int:
    """write a model's encoder and decoder as ONNX files"""
    options: ExportOnnx = _parse(ExportOnnx, words, "export-onnx")
    model, about = load_weights(find_weights(options.weights))
    size = options.size or image_size(about)
    if size is None or min(size) < 1:
        raise InputError("these weights name no image size: give --size, height and width of at least 1")
    with new_folder(options.out) as folder:
        export_networks(model, size, folder)
    print(f"wrote encoder.onnx, decoder.onnx and model.json to {options.out}")
    return 0


@dataclass(frozen=True)
class ExportWeb:
    """Write the explorer of a model as a folder for any static host: a page where objects are moved by hand."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    out: Path
    """Folder to make; index.html is in it."""
    data: str | None = None
    """Generator or path; what the weights were trained on by default. Gives samples, and tells what codes do."""


def export_web(words: Sequence[str]) -> int:
    """write the explorer of a model as a folder for any static host"""
    options: ExportWeb = _parse(ExportWeb, words, "export-web")
    _write_explorer(options.weights, options.data, options.out)
    print(f"wrote {options.out}: put it on any web server, or see it now with `emorl explore {options.weights}`")
    return 0


def _write_explorer(weights: str, data: str | None, out: Path) -> None:
    model, about = load_weights(find_weights(weights))
    source = feed(about, data).source
    with bar("exporting and looking at data", num_export_steps(model, source)) as advance:
        write_explorer(model, Path(weights).resolve().name, source, out, advance)


@dataclass(frozen=True)
class Explore:
    """Open a page where a picture falls apart into objects that are moved by hand. It serves this machine alone."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    data: str | None = None
    """As of export-web."""
    port: int = 0
    """Of 127.0.0.1; a free one by default."""
    browser: bool = True
    """Open the browser there."""


def explore(words: Sequence[str]) -> int:
    """take pictures apart by hand, in the browser"""
    options: Explore = _parse(Explore, words, "explore")
    with tempfile.TemporaryDirectory(prefix="emorl-") as temporary:
        folder = Path(temporary) / "explorer"
        server = make_server(folder, options.port)
        _write_explorer(options.weights, options.data, folder)
        serve(server, browser=options.browser, say=lambda line: print(line, flush=True))
    return 0


# -------------------------------------------------------------------- benchmark, reference, import


@dataclass(frozen=True)
class Benchmark:
    """Measure time beside the plain formulation of the same model, in one process."""

    memory: bool = False
    """Peak of a training step's live tensor bytes instead, beyond parameters and optimizer."""
    floor: bool = False
    """Training steps alone, beside the time that their arithmetic and traffic take at best on this machine."""
    sweep: bool = False
    """The paper's Fig. 10 and 22: image sizes, I, K, L, decoders and other models. An hour on two cores."""
    models: bool = False
    """Every model at the size of CLEVR6, and how it compares with EfficientMORL."""
    preset: str | None = None
    """Whose model; by default clevr6, multi-dsprites and tetrominoes in turn, with --memory clevr6."""
    size: tuple[int, int] | None = None
    """Height and width; those of the preset's data by default, as all that follows."""
    batch_size: int | None = None
    """Images."""
    refinement_steps: tuple[int, ...] | None = None
    """I, one or more; with --memory by default 0 1 3, where the model refines at all."""
    num_slots: int | None = None
    """K."""
    num_layers: int | None = None
    """L."""
    decoder: Literal["broadcast", "small", "deconv", "subpixel"] | None = None
    """See the presets."""
    precision: tuple[Precision, ...] = ()
    """Of our convolutions; by default float32 and, where the hardware has it, bfloat16. --sweep and --models take the
    last one."""
    rounds: int = 5
    """Calls of each kind, in turn, behind one that is not counted; the median is told."""
    memory_budget_gib: float | None = None
    """With --memory, also find the largest batch that stays within it; a sweep does so with 11."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    out: Path | None = None
    """Folder for the pictures of a sweep, fig10.png and fig22.png."""
    json: Path | None = None
    """Write the rows there."""


def benchmark(words: Sequence[str]) -> int:
    """measure time, memory and work of training and inference beside the plain formulation"""
    options: Benchmark = _parse(Benchmark, words, "benchmark")
    _check_json(options.json)
    if options.memory + options.floor + options.sweep + options.models > 1:
        raise InputError("--memory, --floor, --sweep and --models are different things to measure: choose one")
    if options.rounds < 1 or not (options.memory_budget_gib is None or options.memory_budget_gib > 0):
        raise InputError("--rounds must be at least 1 and --memory-budget-gib above 0")
    changes = {name: getattr(options, name) for name in ("size", "batch_size", "refinement_steps")}
    changes |= {name: getattr(options, name) for name in ("num_slots", "num_layers", "decoder")}
    if (options.sweep or options.models) and (options.preset or any(value is not None for value in changes.values())):
        raise InputError("--sweep and --models have their own models and shapes: name no others")
    if options.out is not None and (not options.sweep or options.out.is_file()):
        raise InputError(f"--out {options.out}: name a folder, for the pictures of a --sweep")
    if options.memory_budget_gib is not None and not (options.memory or options.sweep):
        raise InputError("--memory-budget-gib goes with --memory or --sweep")
    device = pick_device(options.device)
    native: tuple[Precision, ...] = ("float32", "bfloat16") if native_bfloat16(device) else ("float32",)
    precisions = options.precision or native
    budget = None if options.memory_budget_gib is None else options.memory_budget_gib * 2**30
    rows: list[dict[str, Any]]
    if options.memory:
        name = options.preset or "clevr6"
        if changes["refinement_steps"] is None:
            changes["refinement_steps"] = (0, 1, 3) if preset(name).model.refinement_steps else (0,)
        points = preset_points(name, **changes)
        rows = list(memory_rows(points, precisions, device))
        rows += [] if budget is None else largest_batch_rows(points, precisions, device, budget)
    elif options.sweep:
        points, precisions = sweep_points(), precisions[-1:]
        jobs = [Job(point, SWEEP) for point in points]
        with bar("measuring", num_calls(jobs, precisions, device, options.rounds)) as advance:
            rows = list(time_rows(jobs, precisions, device, options.rounds, advance))
        _write_json(options.json, rows)  # half an hour's work: not to be lost in what follows
        with bar("largest batches", len(points)) as advance:
            for point in points:
                rows += largest_batch_rows([point], precisions, device, budget or 11 * 2**30)
                advance(1)
    elif options.models:
        jobs = [Job(point, SWEEP) for point in model_points()]
        with bar("measuring", num_calls(jobs, precisions[-1:], device, options.rounds)) as advance:
            rows = over_first(time_rows(jobs, precisions[-1:], device, options.rounds, advance))
    else:
        names = SHAPES if options.preset is None else [options.preset]
        points = [point for name in names for point in preset_points(name, **changes)]
        jobs = [Job(point, ("step",)) for point in points] if options.floor else list(usual_jobs(points))
        with bar("measuring", num_calls(jobs, precisions, device, options.rounds)) as advance:
            measure = floor_rows if options.floor else time_rows
            rows = list(measure(jobs, precisions, device, options.rounds, advance))
    _print_measured(rows)
    _write_json(options.json, rows)
    if options.out is not None:
        for name, draw in (("fig10", fig10), ("fig22", fig22)):
            save_figure(draw(rows), options.out / f"{name}.png")
        print(f"pictures: {options.out / 'fig10.png'}, {options.out / 'fig22.png'}")
    return 0


def _print_measured(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "ours in", "ours", "plain", "ours/plain", "MiB", "plain MiB", ""):
        table.add_column(column, justify="left" if column in ("", "what", "ours in") else "right")
    for row in rows:
        config = row["config"]
        shape = f"{config['name']} {config['size'][0]}x{config['size'][1]} B {config['batch_size']}"
        values = [f"{row[key]:.4f} s" if row[key] else "" for key in ("ours_s", "plain_s")]
        if "ours_batch" in row:
            values = [f"{row[key]} images" for key in ("ours_batch", "plain_batch")]
        values.append(f"{row['ratio']:.3f}" if row["ratio"] else "")
        values += [f"{row[key] / 2**20:.1f}" if row.get(key) else "" for key in ("peak_bytes", "plain_bytes")]
        notes = [f"{row[key]:.3f} x {text}" for key, text in NOTES.items() if key in row]
        table.add_row(f"{shape} I {config['refinement_steps']}", row["what"], row["precision"], *values, *notes)
    Console(width=160).print(table)


NOTES = {
    "over_first": "the first",
    "time_over_first": "the first",
    "over_encoder_and_attention": "encoder and attention alone",
    "over_floor": "the floor",
}


@dataclass(frozen=True)
class VerifyReference:
    """Replay recorded values of the released model through ours and compare every quantity."""

    files: Positional[tuple[Path, ...]]
    """Reference .npz files."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision of the replay; float32 has looser bounds."""
    json: Path | None = None
    """Write the comparison there."""


def verify_reference(words: Sequence[str]) -> int:
    """replay recorded values of the released model through ours"""
    options: VerifyReference = _parse(VerifyReference, words, "verify-reference")
    _check_json(options.json)
    if not options.files:
        raise InputError("name at least one reference file")
    dtype = {"float64": torch.float64, "float32": torch.float32}[options.dtype]
    checks = [check for path in options.files for check in replay(path, dtype)]
    table = Table(box=None, pad_edge=False)
    for column in ("file", "quantity", "largest relative error", "tolerance", ""):
        table.add_column(column, justify="left" if column in ("file", "quantity") else "right")
    for check in checks:
        verdict = "ok" if check.passed else "OVER"
        table.add_row(check.file, check.quantity, f"{check.error:.2g}", f"{check.tolerance:.0e}", verdict)
    Console(width=140).print(table)
    over = sum(not check.passed for check in checks)
    print(f"{len(checks)} quantities of {len(options.files)} files in {options.dtype}: {over} over tolerance")
    _write_json(options.json, [{**asdict(check), "passed": check.passed} for check in checks])
    return 1 if over else 0


@dataclass(frozen=True)
class ImportReleased:
    """Turn a checkpoint of the EfficientMORL authors into a weights folder."""

    file: Positional[Path]
    """The .pth file; only tensors are unpickled from it."""
    out: Path
    """Weights folder to make."""
    preset: str
    """tetrominoes, multi-dsprites or clevr6: the config the checkpoint was trained with."""


def import_released(words: Sequence[str]) -> int:
    """turn a checkpoint of the EfficientMORL authors into a weights folder"""
    options: ImportReleased = _parse(ImportReleased, words, "import-released")

    import_checkpoint(options.file, options.out, preset(options.preset))
    print(f"wrote {options.out}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo,
    "data": data,
    "train": train,
    "evaluate": evaluate,
    "decompose": decompose,
    "sample": sample,
    "traverse": traverse,
    "explore": explore,
    "export-onnx": export_onnx,
    "export-web": export_web,
    "reproduce": reproduce,
    "benchmark": benchmark,
    "verify-reference": verify_reference,
    "import-released": import_released,
}
