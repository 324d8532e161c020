"""What the paper says, and whether what was measured agrees: by confidence intervals over seeds, never by eye.

A claim holds where the 95 % interval lies on its side of the bound, does not hold where it lies on the other side, and
is not decided where the bound is inside, or there are fewer than two seeds. Intervals are Student's t; of a difference
between the seeds of two experiments Welch's, and of one between two quantities of the same runs that of the seeds'
differences. What is timed once is judged by the range over its rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from scipy.stats import t as student

Verdict = Literal["holds", "does not hold", "not decided"]

Numbers = Mapping[str, Mapping[str, Sequence[float]]]
"""Label of a run in a figure -> quantity -> a value for each seed; of what is timed once the value and its range."""

Place = tuple[str, str]
"""Label, quantity."""


@dataclass(frozen=True)
class Judgement:
    """A claim, and what became of it."""

    says: str
    verdict: Verdict
    evidence: str
    measured: tuple[float, float, float] | None = None
    """A mean, or a difference of means, and its 95 % interval; or what was timed, and its range. None for too few."""
    asks: str = ""
    """Where the interval has to lie."""


@dataclass(frozen=True)
class More:
    """The paper says that one quantity is larger than another, by more than `margin`."""

    says: str
    larger: Place
    smaller: Place
    margin: float = 0.0

    @property
    def labels(self) -> set[str]:
        """The runs that it is about."""
        return {self.larger[0], self.smaller[0]}

    @property
    def asks(self) -> str:
        """The bound in words."""
        return f"difference above {self.margin:g}"

    def judge(self, numbers: Numbers) -> Judgement:
        """By the interval of the difference of the means."""
        a, b = _values(numbers, self.larger), _values(numbers, self.smaller)
        if min(len(a), len(b)) < 2:
            return Judgement(self.says, "not decided", _too_few({self.larger: a, self.smaller: b}), asks=self.asks)
        paired = self.larger[0] == self.smaller[0] and len(a) == len(b)
        low, high = interval([x - y for x, y in zip(a, b, strict=True)]) if paired else welch(a, b)
        means = statistics.fmean(a), statistics.fmean(b)
        return Judgement(
            self.says,
            _verdict(low, high, self.margin),
            f"{_named(self.larger)} {means[0]:.4g}, {_named(self.smaller)} {means[1]:.4g}; "
            + _interval("difference", low, high, self.margin),
            (means[0] - means[1], low, high),
            self.asks,
        )


@dataclass(frozen=True)
class AtLeast:
    """The paper says that a quantity is at least so large."""

    says: str
    place: Place
    bound: float
    sign: ClassVar[int] = 1

    @property
    def labels(self) -> set[str]:
        """The runs that it is about."""
        return {self.place[0]}

    @property
    def asks(self) -> str:
        """The bound in words."""
        return f"{'at least' if self.sign > 0 else 'at most'} {self.bound:g}"

    def judge(self, numbers: Numbers) -> Judgement:
        """By the interval of the mean."""
        values = _values(numbers, self.place)
        if len(values) < 2:
            return Judgement(self.says, "not decided", _too_few({self.place: values}), asks=self.asks)
        low, high = interval(values)
        ends = (self.sign * low, self.sign * high)
        verdict = _verdict(min(ends), max(ends), self.sign * self.bound)
        mean, told = statistics.fmean(values), _interval("mean", low, high, self.bound)
        evidence = f"{_named(self.place)} {mean:.4g}; {told}"
        return Judgement(self.says, verdict, evidence, (mean, low, high), self.asks)


class Measured(AtLeast):
    """The same of what was measured once: its value, and the range over the rounds of the measurement in that order."""

    def judge(self, numbers: Numbers) -> Judgement:
        """By the range."""
        values = _values(numbers, self.place)
        if not values:
            return Judgement(self.says, "not decided", f"{_named(self.place)} not measured", asks=self.asks)
        value, low, high = values
        evidence = f"{_named(self.place)} {value:.4g}; range over rounds {low:.4g} to {high:.4g}, bound {self.bound:g}"
        return Judgement(self.says, _verdict(low, high, self.bound), evidence, (value, low, high), self.asks)


class AtMost(AtLeast):
    """The paper says that a quantity is at most so large."""

    sign = -1


Claim = More | AtLeast | AtMost


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of at least two values."""
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the difference of the means of two samples of at least two values each."""
    difference = statistics.fmean(a) - statistics.fmean(b)
    parts = [statistics.variance(values) / len(values) for values in (a, b)]
    freedom = [len(values) - 1 for values in (a, b)]
    error = sum(parts)
    dof = error**2 / sum(part**2 / n for part, n in zip(parts, freedom, strict=True)) if error else 1.0
    half = float(student.ppf(0.975, dof)) * error**0.5
    return difference - half, difference + half


def _values(numbers: Numbers, place: Place) -> Sequence[float]:
    return numbers.get(place[0], {}).get(place[1], ())


def _verdict(low: float, high: float, bound: float) -> Verdict:
    return "holds" if low > bound else "does not hold" if high < bound else "not decided"


def _named(place: Place) -> str:
    return f"{place[0]}, {place[1]}:"


def _interval(what: str, low: float, high: float, bound: float) -> str:
    return f"95 % interval of the {what} {low:.4g} to {high:.4g}, bound {bound:g}"


def _too_few(values: Mapping[Place, Sequence[float]]) -> str:
    counts = [f"{', '.join(place)}: {len(found)}" for place, found in values.items()]
    return f"needs two seeds or more; there are: {'; '.join(counts)}"
