"""emorl reproduce."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from emorl.cli.shared import parse
from emorl.data.progress import bar
from emorl.experiments import Scale, read_experiments
from emorl.precision import pick_device
from emorl.reproduce import reproduce as run_reproduction
from emorl.reproduce.lab import Lab


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
    options: Reproduce = parse(Reproduce, words, "reproduce")
    rows = [options.out / "benchmark.json", options.runs / "benchmark.json"]
    if options.benchmark is not None:
        rows = [options.benchmark]
    pick_device(options.device)
    with bar("evaluating", None) as advance:
        lab = Lab(read_experiments(options.experiments), options.runs, tuple(rows), options.device, advance)
        run_reproduction(options.name, lab, options.scale, options.out, lambda file: print(f"wrote {file}"))
    return 0
