"""Curves: mean over seeds, with the 95 % confidence interval of the mean as a band."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from emorl.errors import InputError
from emorl.figures import slot_colours
from emorl.models.base import InferOptions
from emorl.reproduce.claims import interval
from emorl.reproduce.lab import Lab
from emorl.reproduce.output import Content
from emorl.results import Known

_COLOURS = (4, 5, 2, 6, 7, 9)  # of slot colours: those that stand out on white
_MARKERS = "osD^vP"
FEW = 12
"""So many points are marked one by one."""
ASIDE = 0.14
"""Marked points of two lines at the same x stand so far apart, in steps of x."""
NUM_BINS = 60
"""Points of a training curve: each the mean of the logged steps between two of them."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x: str
    y: str


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    label: str
    x: Sequence[float]
    values: Sequence[Sequence[float]]
    """For every x a value for each seed."""


@dataclass(frozen=True)
class Quantity:
    """What is drawn of a training step."""

    name: str
    panel: Panel
    extract: Callable[[Row], float | None]
    own_line: bool = False
    """Whether its line is named too, where a panel has several of one run."""


def draw(panels: Mapping[Panel, Sequence[Series]], sources: Mapping[str, str], data: Sequence[str]) -> Figure:
    """The panels side by side, a legend that says of every line what stands behind it, and what it was trained on."""
    lines = dict.fromkeys([*sources, *(series.label for of in panels.values() for series in of)])
    looks = dict(zip(lines, cycle(zip(slot_colours(10)[list(_COLOURS)] / 255, _MARKERS, strict=True)), strict=False))
    drawn = {series.label for of in panels.values() for series in of}
    figure = Figure(figsize=(max(10, 4.6 * len(panels)), 4.0 + 0.22 * len(lines)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (panel, of) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for series in of:
            beside = [other.label for other in of if {*other.x} & {*series.x}]
            _line(axes, series, *looks[series.label], ASIDE * (beside.index(series.label) - (len(beside) - 1) / 2))
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        _limits(axes, panel, of)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], color=colour if label in drawn else "none", marker=marker if label in drawn else "", label=told)
        for label, (colour, marker) in looks.items()
        for told in [f"{label}: {sources[label]}" if label in sources else label]
    ]
    figure.legend(handles=handles, loc="outside lower left", fontsize=8, frameon=False)
    told = "mean over seeds and its 95 % confidence interval, cut off where it is wide; thin lines, small dots: seeds"
    figure.suptitle(f"Trained on {', '.join(data)}; {told}", size=8)
    return figure


def _line(axes: Axes, series: Series, colour: np.ndarray, marker: str, aside: float) -> None:
    """Mean and interval: bars at a few points, `aside` of their places, else a band; behind them every seed."""
    means = np.array([statistics.fmean(values) for values in series.values])
    bounds = [interval(of) if len(of) > 1 else (of[0], of[0]) for of in series.values]
    low, high = np.array(bounds).T
    seeds = list(zip(*series.values, strict=True))
    if len(means) > FEW:
        axes.plot(series.x, means, color=colour, zorder=3)
        axes.fill_between(series.x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(series.x, np.transpose(seeds), color=colour, linewidth=0.6, alpha=0.6)
    else:
        look: dict[str, Any] = {"color": colour, "marker": marker, "capsize": 4, "elinewidth": 1}
        places = np.array(series.x) + aside
        axes.errorbar(places, means, (means - low, high - means), **look)
        axes.plot(places, np.transpose(seeds), ".", color=0.45 * colour, markersize=4, zorder=3)


def _limits(axes: Axes, panel: Panel, lines: Sequence[Series]) -> None:
    """Show all seeds, and of intervals, which may be wider than what is possible, as much again as the seeds take."""
    if not lines:
        axes.text(0.5, 0.5, "not run (see below)", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    values = [value for series in lines for of in series.values for value in of]
    bounds = [bound for series in lines for of in series.values if len(of) > 1 for bound in interval(of)]
    low, high = min(values), max(values)
    spread = high - low or 0.05 * abs(high) or 1.0
    axes.set_ylim(
        max(min([low, *bounds]), low - 0.5 * spread) - 0.1 * spread,
        min(max([high, *bounds]), high + 0.5 * spread) + 0.1 * spread,
    )
    if all(x == int(x) and x < 100 for series in lines for x in series.x):
        places = [x for series in lines for x in series.x]
        axes.set_xlim(min(places) - 0.3, max(places) + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter("{x:,.0f}")


def _details(panels: Mapping[Panel, Sequence[Series]]) -> dict[str, Any]:
    return {
        "curves": [
            {
                "panel": panel.title,
                "label": series.label,
                "x": list(series.x),
                "values": [list(v) for v in series.values],
            }
            for panel, lines in panels.items()
            for series in lines
        ]
    }


# -------------------------------------------------------------------- over training


def training(lab: Lab, runs: Mapping[str, str], quantities: Sequence[Quantity]) -> Content:
    """Quantities of every training step, from the runs' logs."""
    panels: dict[Panel, list[Series]] = {quantity.panel: [] for quantity in quantities}
    numbers: dict[str, dict[str, list[float]]] = {}
    sources = {}
    for label, name in runs.items():
        config = lab.experiment(name).config(0)
        found = lab.ask(name, partial(_extracted, quantities=quantities, end=config.steps - config.log_every))
        sources[label] = lab.told(name, found)
        numbers[label] = {}
        common = sorted(set.intersection(*(set(log) for log in found.values()))) if found else []
        if not common:
            continue
        steps = _binned(common)
        for position, quantity in enumerate(quantities):
            per_seed = np.array([_binned([log[step][position] for step in common]) for log in found.values()])
            there = np.isfinite(per_seed).all(axis=0)
            if not there.any():  # such as the update of a step that is not taken
                continue
            named = f"{label}, {quantity.name}" if quantity.own_line else label
            series = Series(named, steps[there].tolist(), per_seed[:, there].T.tolist())
            panels[quantity.panel].append(series)
            last = per_seed[:, there][:, -max(1, there.sum() // 10) :].mean(axis=1)
            largest = per_seed[:, there].max(axis=1)
            numbers[label] |= {f"last {quantity.name}": last.tolist()}
            numbers[label] |= {f"last over largest {quantity.name}": (last / largest).tolist()}
    return Content(numbers, sources, figures=[draw(panels, sources, lab.data(runs))], details=_details(panels))


def read_log(run: Path, *, validations: bool = False) -> list[Row]:
    """The training steps of metrics.jsonl, or its validations; raises InputError where it cannot be read."""
    path = run / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found = [row for row in rows if ("validation" in row) is validations and isinstance(row["step"], int)]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the log of a run ({type(error).__name__})") from None
    if not found:
        raise InputError(f"{path}: has no {'validation' if validations else 'training step'}")
    return found


def _extracted(known: Known, quantities: Sequence[Quantity], end: int) -> dict[int, list[float]]:
    """Step -> the quantities, NaN where there is nothing; raises InputError for a log that does not reach `end`."""
    log = read_log(known.folder)
    try:
        found = {
            row["step"]: [np.nan if (x := of.extract(row)) is None else float(x) for of in quantities] for row in log
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{known.folder / 'metrics.jsonl'}: not the log of a run ({type(error).__name__})") from None
    if max(found) < end:
        raise InputError(f"{known.folder / 'metrics.jsonl'}: ends at step {max(found)}, before the run did")
    return found


def _binned(numbers: Sequence[float]) -> np.ndarray:
    """Means of consecutive parts of a log; NaN where there is nothing."""
    values = np.array(numbers, dtype=np.float64)
    parts = [part[np.isfinite(part)] for part in np.array_split(values, min(NUM_BINS, len(values)))]
    return np.array([part.mean() if len(part) else np.nan for part in parts])


def elbo(row: Row) -> float | None:
    """The negative ELBO of the last refinement step, nats."""
    return None if row["nll"] is None or row["kl"] is None else float(row["nll"] + row["kl"])


def update_norm(step: int) -> Callable[[Row], float | None]:
    """The L2 norm of a refinement step's update, where there is such a step."""
    return lambda row: (row.get("delta_norm_per_step") or [])[step - 1 : step][0] if _has(row, step) else None


def _has(row: Row, step: int) -> bool:
    return len(row.get("delta_norm_per_step") or []) >= step


# -------------------------------------------------------------------- at test time


@dataclass(frozen=True)
class Conditions:
    """On what a run is tested, where that is not its own test scenes with its own K."""

    data: str | None = None
    subset: str | None = None
    num_slots: int | None = None


STEPS = tuple(range(7))
"""I at test time."""


@dataclass(frozen=True)
class Swept:
    """A score that is drawn by I."""

    key: str
    """In results.json."""
    panel: Panel
    labels: tuple[str, ...] = ()
    """Of the runs that are drawn; all by default."""


def refinement(
    lab: Lab, runs: Mapping[str, str], scores: Sequence[Swept], tests: Mapping[str, Conditions] | None = None
) -> Content:
    """Scores by the number of refinement steps at test time, by default on the runs' own test scenes.

    Numbers: every score at every I, and `kept NAME`: its value at I = 0 over that at the run's own I, of seeds where
    that is not 0.
    """
    lines: dict[Panel, list[Series]] = {score.panel: [] for score in scores}
    numbers: dict[str, dict[str, list[float]]] = {}
    sources = {}
    for label, name in runs.items():
        rows = lab.ask(name, partial(_swept, test=(tests or {}).get(label, Conditions())))
        sources[label] = lab.told(name, rows)
        numbers[label] = {}
        own = lab.experiment(name).config(0).model.refinement_steps
        for score in scores if rows else ():
            values = [[row[steps][score.key]["mean"] for row in rows.values()] for steps in STEPS]
            numbers[label] |= {f"{score.key} at I = {steps}": values[steps] for steps in STEPS}
            pairs = zip(values[0], values[own], strict=True)
            numbers[label][f"kept {score.key}"] = [zero / one for zero, one in pairs if one]
            if label in (score.labels or runs):
                lines[score.panel].append(Series(label, STEPS, values))
    return Content(numbers, sources, figures=[draw(lines, sources, lab.data(runs))], details=_details(lines))


def _swept(known: Known, test: Conditions) -> list[Row]:
    return [evaluated(known, test, steps) for steps in STEPS]


def evaluated(known: Known, test: Conditions, steps: int) -> Row:
    """The scores of a run with I = `steps`."""
    return known.evaluation(InferOptions(test.num_slots, steps), test.data, test.subset)


def by_layers(lab: Lab, runs: Mapping[str, str], panel: Panel) -> Content:
    """Foreground ARI by L, the number behind "L = " in the labels."""
    found = {label: lab.ask(name, lambda known: known.results()) for label, name in runs.items()}
    sources = {label: lab.told(name, found[label]) for label, name in runs.items()}
    numbers = {
        label: {"foreground ARI": [r["foreground_ari"]["mean"] for r in of.values()]} for label, of in found.items()
    }
    there = [label for label in runs if found[label]]
    lines = [Series(label, [int(label.removeprefix("L = "))], [numbers[label]["foreground ARI"]]) for label in there]
    figures = [draw({panel: lines}, sources, lab.data(runs))]
    return Content(numbers, sources, figures=figures, details=_details({panel: lines}))
