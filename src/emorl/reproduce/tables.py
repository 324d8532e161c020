"""Tables: a row for each experiment, with the published value beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emorl.errors import InputError
from emorl.reproduce.curves import read_log
from emorl.reproduce.lab import Lab
from emorl.reproduce.output import Content, Table
from emorl.reproduce.published import Published
from emorl.results import Known

Extract = Callable[[dict[str, Any]], float | None]
"""A number of results.json, or None where it is not there."""


@dataclass(frozen=True)
class Column:
    """A quantity."""

    heading: str
    extract: Extract
    spec: str = ".3f"
    """How it is written."""


def at(*path: str) -> Extract:
    """The number at a path; the mean where a mean and a spread are there."""

    def extract(results: dict[str, Any]) -> float | None:
        found: Any = results
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        found = found.get("mean") if isinstance(found, dict) else found
        return None if found is None else float(found)

    return extract


def mean_of(*path: str) -> Extract:
    """The mean of the numbers of a table at a path."""

    def extract(results: dict[str, Any]) -> float | None:
        found: Any = results
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        values = [value for value in (found or {}).values() if value is not None]
        return statistics.fmean(values) if values else None

    return extract


ARI = Column("foreground ARI", at("foreground_ari"))
MIOU = Column("mIoU", at("miou"))
MSE = Column("MSE", at("mse"), ".2e")
KL = Column("KL", at("kl"), ".1f")
DCI = [
    Column("D as released", at("codes", "dci_released", "disentanglement")),
    Column("C as released", at("codes", "dci_released", "completeness")),
    Column("I as released", at("codes", "dci_released", "informativeness_test")),
    Column("D", at("codes", "dci", "disentanglement")),
    Column("C", at("codes", "dci", "completeness")),
    Column("I: accuracy", mean_of("codes", "dci", "informativeness", "accuracy")),
    Column("I: R²", mean_of("codes", "dci", "informativeness", "r2")),
]


def scores(
    lab: Lab,
    runs: Mapping[str, str],
    columns: Sequence[Column],
    published: Published,
    *,
    codes: bool = False,
) -> Content:
    """The scores of experiments on their test scenes: mean and standard deviation over seeds."""
    has_published = {column.heading for column in columns if any(column.heading in row for row in published.values())}
    heading = [""]
    for column in columns:
        heading += [column.heading, "published"] if column.heading in has_published else [column.heading]
    rows, numbers, sources = [], {}, {}
    for label, name in runs.items():
        found = lab.ask(name, lambda known: known.results(codes))
        sources[label] = lab.told(name, found)
        numbers[label] = {
            column.heading: [x for x in map(column.extract, found.values()) if x is not None] for column in columns
        }
        cells = [label]
        for column in columns:
            cells.append(written(numbers[label][column.heading], column.spec))
            if column.heading in has_published:
                cells.append(_published(published.get(label, {}).get(column.heading), column.spec))
        if not found:
            cells[1] = sources[label]
        rows.append(cells + origin(lab, name, found))
    return Content(numbers, sources, Table([*heading, "seeds", "steps", "minutes", "trained on"], rows))


def convergence(
    lab: Lab, runs: Mapping[str, str], *, steps: Sequence[int], levels: Sequence[float], quantity: str
) -> Content:
    """A score of the validation scenes after so many steps, and the first of these steps where it reaches a level."""
    heading = ["", *(f"after {step:,}" for step in steps), *(f"steps to {level:g}, by seed" for level in levels)]
    rows, numbers, sources = [], {}, {}
    for label, name in runs.items():
        found = lab.ask(name, lambda known: _validated(known, quantity))
        sources[label] = lab.told(name, found)
        of_step = {step: [run[step] for run in found.values() if step in run] for step in steps}
        numbers[label] = {f"{quantity} after {step}": values for step, values in of_step.items()}
        reached = [
            [next((f"{step:,}" for step in sorted(run) if run[step] >= level), "never") for run in found.values()]
            for level in levels
        ]
        cells = [*(written(values, ".3f") for values in of_step.values()), *(", ".join(x) or "–" for x in reached)]
        if not found:
            cells[0] = sources[label]
        rows.append([label, *cells, lab.told(name, found) if found else "–"])
    return Content(numbers, sources, Table([*heading, "seeds"], rows))


def _validated(known: Known, quantity: str) -> dict[int, float]:
    """Step -> the mean score of the validation scenes; raises InputError for a log without."""
    try:
        return {row["step"]: float(row["validation"][quantity]) for row in read_log(known.folder, validations=True)}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{known.folder / 'metrics.jsonl'}: has no {quantity} ({type(error).__name__})") from None


def origin(lab: Lab, name: str, answered: Mapping[int, Any]) -> list[str]:
    """How many seeds answered, their steps, minutes of training and hardware."""
    states = [state for state in lab.states(name) if state.seed in answered]
    if not states:
        return ["–"] * 4
    minutes = [state.minutes for state in states]
    steps = sorted({state.step for state in states})
    machines = sorted({state.hardware or "not recorded" for state in states})
    return [
        lab.told(name, answered),
        ", ".join(f"{step:,}" for step in steps),
        f"{statistics.fmean(minutes):.0f}",
        "; ".join(machines),
    ]


def written(values: Sequence[float], spec: str) -> str:
    """Mean and sample standard deviation; one value by itself."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):{spec}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{spec}}{spread}"


def _published(value: tuple[float, float] | None, spec: str) -> str:
    return "–" if value is None else f"{value[0]:{spec}} ± {value[1]:{spec}}"
