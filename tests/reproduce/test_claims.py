"""Claims: decided by intervals, and only by them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind, ttest_rel

from emorl.reproduce.claims import AtLeast, AtMost, Measured, More, interval

A, B = [0.9, 0.92, 0.91, 0.95], [0.5, 0.61, 0.55]
NUMBERS = {"a": {"x": A}, "b": {"x": B}, "one": {"x": [0.7]}}


def test_intervals_are_those_of_the_t_test() -> None:
    low, high = interval(A)
    expected = ttest_1samp(A, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    judged = More("", ("a", "x"), ("b", "x")).judge(NUMBERS)
    welch = ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    assert f"{welch.low:.4g} to {welch.high:.4g}" in judged.evidence
    assert judged.measured == pytest.approx((np.mean(A) - np.mean(B), welch.low, welch.high))
    assert AtMost("", ("a", "x"), 1).judge(NUMBERS).measured == pytest.approx((np.mean(A), low, high))


def test_what_is_measured_once_is_judged_by_its_rounds() -> None:
    claim = Measured("", ("IODINE", "ratio"), 6)
    for values, verdict in (
        ([7.0, 6.5, 7.5], "holds"),
        ([7.0, 5.5, 7.5], "not decided"),
        ([5, 4, 5.5], "does not hold"),
    ):
        judged = claim.judge({"IODINE": {"ratio": values}})
        assert (judged.verdict, judged.measured, judged.asks) == (verdict, tuple(values), "at least 6")
        assert "range over rounds" in judged.evidence
    assert claim.judge({}).verdict == "not decided" and "not measured" in claim.judge({}).evidence


def test_what_a_claim_asks_is_told_with_or_without_numbers() -> None:
    for numbers in (NUMBERS, {}):
        assert More("", ("a", "x"), ("b", "x"), -0.05).judge(numbers).asks == "difference above -0.05"
        assert AtLeast("", ("a", "x"), 0.99).judge(numbers).asks == "at least 0.99"
        assert AtMost("", ("a", "x"), 0.8).judge(numbers).asks == "at most 0.8"
    assert AtLeast("", ("one", "x"), 0.99).judge(NUMBERS).measured is None


def test_two_quantities_of_the_same_runs_are_compared_seed_by_seed() -> None:
    numbers = {"a": {"x": [0.95, 0.90, 0.93], "y": [0.94, 0.88, 0.915]}, "b": {"y": [0.94, 0.88, 0.915]}}
    paired = More("", ("a", "x"), ("a", "y")).judge(numbers)
    expected = ttest_rel(numbers["a"]["x"], numbers["a"]["y"]).confidence_interval(0.95)
    assert paired.verdict == "holds" and f"{expected.low:.4g} to {expected.high:.4g}" in paired.evidence
    assert More("", ("a", "x"), ("b", "y")).judge(numbers).verdict == "not decided"


@pytest.mark.parametrize(
    ("larger", "smaller", "margin", "verdict"),
    [
        ("a", "b", 0.0, "holds"),
        ("b", "a", 0.0, "does not hold"),
        ("a", "a", 0.0, "not decided"),
        ("a", "b", 0.37, "not decided"),
        ("a", "b", 0.6, "does not hold"),
        ("b", "a", -0.9, "holds"),
        ("a", "one", 0.0, "not decided"),
        ("a", "missing", 0.0, "not decided"),
    ],
)
def test_more(larger: str, smaller: str, margin: float, verdict: str) -> None:
    assert More("", (larger, "x"), (smaller, "x"), margin).judge(NUMBERS).verdict == verdict


@pytest.mark.parametrize(("bound", "at_least", "at_most"), [(0.5, 0, 1), (0.92, 2, 2), (0.99, 1, 0)])
def test_bounds(bound: float, at_least: int, at_most: int) -> None:
    verdicts = ["holds", "does not hold", "not decided"]
    assert AtLeast("", ("a", "x"), bound).judge(NUMBERS).verdict == verdicts[at_least]
    assert AtMost("", ("a", "x"), bound).judge(NUMBERS).verdict == verdicts[at_most]


def test_equal_seeds_have_no_spread() -> None:
    numbers = {"a": {"x": [1.0, 1.0]}, "b": {"x": [0.5, 0.5]}}
    assert More("", ("a", "x"), ("b", "x")).judge(numbers).verdict == "holds"
    assert AtLeast("", ("b", "x"), 0.6).judge(numbers).verdict == "does not hold"
    assert np.allclose(interval([2.0, 2.0]), 2)
