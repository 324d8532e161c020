"""Runs take turns, and a floor is what the rates say."""

from __future__ import annotations

import time

import pytest
import torch

from emorl.benchmark.timing import Rates, Timing, floor_seconds, interleaved, machine, machine_rates

CPU = torch.device("cpu")


def test_runs_take_turns_and_the_first_rounds_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    told: list[int] = []
    now = 0.0
    waits = {"a": iter([90.0, 3.0, 1.0, 2.0]), "b": iter([70.0, 10.0, 50.0, 30.0])}

    def run(name: str) -> None:
        nonlocal now
        now += next(waits[name])
        called.append(name)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    times = interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, 3, CPU, warm_up=1, advance=told.append)
    assert called == ["a", "b"] * 4
    assert told == [1] * 8
    assert times == {"a": Timing(2.0, 1.0, 3.0), "b": Timing(30.0, 10.0, 50.0)}


def test_the_floor_is_the_longer_of_arithmetic_and_traffic() -> None:
    rates = Rates(flops={"float32": 10.0, "bfloat16": 40.0}, bytes=8.0)
    flops = {torch.float32: 20, torch.bfloat16: 120}  # 2 and 3 seconds
    assert floor_seconds(flops, 8, rates) == 5.0
    assert floor_seconds(flops, 80, rates) == 10.0


@pytest.mark.slow
def test_rates_of_this_machine() -> None:
    rates = machine_rates([torch.float32], CPU, tries=1)
    assert set(rates.flops) == {"float32"}
    assert rates.flops["float32"] > 1e9 and rates.bytes > 1e8


def test_a_time_tells_its_machine() -> None:
    about = machine(CPU)
    assert about["cpu"] and about["threads"] == torch.get_num_threads() and about["torch"] == torch.__version__
