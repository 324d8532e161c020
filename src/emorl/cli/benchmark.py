"""emorl benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

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
from emorl.cli.shared import check_json, parse, save_json
from emorl.data.progress import bar
from emorl.errors import InputError
from emorl.figures import save_figure
from emorl.nn.choices import DecoderKind
from emorl.precision import Precision, native_bfloat16, pick_device
from emorl.presets import preset


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
    decoder: DecoderKind | None = None
    """EfficientMORL's; Slot Attention and Slot MLP have deconv, small and subpixel."""
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
    options: Benchmark = parse(Benchmark, words, "benchmark")
    check_json(options.json)
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
        save_json(options.json, rows)  # half an hour's work: not to be lost in what follows
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
    save_json(options.json, rows)
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
