"""Points, rows, and the promises about memory that need no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from emorl.benchmark import measure
from emorl.benchmark.counters import Work, largest_batch, peak_bytes
from emorl.benchmark.measure import (
    Job,
    Kind,
    Point,
    Row,
    Subject,
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
from emorl.benchmark.timing import Rates
from emorl.errors import InputError
from emorl.models import MODELS, model_name
from emorl.models.efficientmorl import EfficientMORLConfig
from emorl.precision import CHUNK_BYTES, Precision
from emorl.presets import preset
from tests import tiny

CPU = torch.device("cpu")
KINDS: tuple[Kind, ...] = ("plain", "float32", "bfloat16")
BOTH: tuple[Precision, ...] = ("float32", "bfloat16")
TINY = Point("tiny", tiny.MODEL, (10, 15), 2, 1)


def small(decoder: str, **changes: Any) -> Point:
    """The paper's networks on a few pixels."""
    model = EfficientMORLConfig(num_slots=3, slot_dim=8, num_layers=2, decoder=decoder, **changes)  # type: ignore[arg-type]
    return Point(decoder, model, (18, 15), 3, 2)


# ----------------------------------------------------------------------- counting without computing


@pytest.mark.parametrize("what", ["gradients", "forward", "encode"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", ["broadcast", "deconv", "small"])
def test_memory_without_computing_is_the_real_one(
    decoder: str, kind: Kind, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 60_000)  # so that a batch is decoded in parts
    point = small(decoder)
    real, counted = (Subject(point, kind, CPU, counted=counted) for counted in (False, True))
    noise = 4 * 3 * 3 * 8 * (1 + 2 + 1 + 2)  # its draws come from the host and are then counted on arrival alone
    assert 0 <= peak_bytes(getattr(counted, what)) - peak_bytes(getattr(real, what)) <= noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", ["broadcast", "deconv", "small"])
def test_all_arithmetic_is_counted(decoder: str, kind: Kind) -> None:
    """As PyTorch's own counter does."""
    subject, work = Subject(small(decoder), kind, CPU), Work()
    with FlopCounterMode(display=False) as counter, work:
        subject.gradients()
    assert sum(work.flops.values()) == counter.get_total_flops()
    assert set(work.flops) == ({torch.float32, torch.bfloat16} if kind == "bfloat16" else {torch.float32})


def test_ours_does_less_and_moves_less() -> None:
    (point,) = preset_points("clevr6", size=(40, 40), batch_size=1)
    ours, plain = (measure._work(point, kind, CPU) for kind in ("float32", "plain"))
    assert 0.6 < sum(ours.flops.values()) / sum(plain.flops.values()) < 0.75
    assert ours.moved < plain.moved


# ----------------------------------------------------------------------- memory


@pytest.mark.parametrize("precision", BOTH)
def test_refinement_costs_next_to_no_memory_and_the_plain_way_much(precision: Precision) -> None:
    points = preset_points("clevr6", refinement_steps=(0, 3))
    none, three = memory_rows(points, (precision,), CPU)
    assert (none["config"]["refinement_steps"], three["config"]["refinement_steps"]) == (0, 3)
    assert none["over_first"] == 1 and three["over_first"] == three["peak_bytes"] / none["peak_bytes"] <= 1.05
    assert three["ratio"] == three["peak_bytes"] / three["plain_bytes"] <= 0.3


def test_the_largest_batch_is_within_the_budget_and_the_next_is_not() -> None:
    point, budget = small("broadcast"), 40 * 2**20
    (row,) = largest_batch_rows([point], ("float32",), CPU, budget)

    def peak(kind: Kind, batch: int) -> int:
        return peak_bytes(Subject(replace(point, batch_size=batch), kind, CPU).gradients)

    assert row["ours_batch"] > row["plain_batch"] > 1
    for kind, batch in (("float32", row["ours_batch"]), ("plain", row["plain_batch"])):
        assert peak(kind, batch) <= 1.01 * budget and peak(kind, batch + 1) > 0.99 * budget


def test_a_decoder_that_a_model_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="the model of iodine/nano has no decoder"):
        preset_points("iodine/nano", decoder="modulated")
    with pytest.raises(InputError, match="slot-attention/nano: decoder cannot be 'big'; there are: broadcast"):
        preset_points("slot-attention/nano", decoder="big")


def test_what_holds_much_memory_is_not_counted_again_but_read_off_a_straight_line() -> None:
    """Thousands of images, a few at a time, take minutes to count; how many fit is known from a few hundred."""
    counted: list[int] = []
    bend = 10 * CHUNK_BYTES["cpu"]

    def held(count: int) -> float:
        counted.append(count)
        return min(count * 2.5e6, bend) + count * 1.5e6  # a part that is made a few images at a time

    peak = measure._straightened(cache(held))
    assert peak(7) == held(7) and max(counted) == 7  # no further than is asked
    budget = bend + 6000.5 * 1.5e6
    assert largest_batch(peak, budget) == 6000
    assert max(counted) < 1500 and measure.STRAIGHT_BYTES <= held(max(counted)) < 2 * measure.STRAIGHT_BYTES
    assert [peak(count) for count in (1, 2, 7, 100)] == [held(count) for count in (1, 2, 7, 100)]
    assert measure._straightened(lambda count: 1e10 * count)(5) == 5e10  # even one image is much


def test_chunks_bend_the_line_of_memory_at_its_start_alone() -> None:
    """Why the largest batch is searched: twice the images may take less than twice the memory."""
    (point,) = preset_points("clevr6", refinement_steps=(1,))
    one, two, four, eight = (measure._held(replace(point, batch_size=n), "float32", CPU, "step") for n in (1, 2, 4, 8))
    assert two - one == pytest.approx((four - two) / 2, rel=0.05)
    assert eight < 8 * one
    plain = [measure._held(replace(point, batch_size=n), "plain", CPU, "step") for n in (1, 2, 4)]
    assert plain[2] - plain[1] == pytest.approx(2 * (plain[1] - plain[0]), rel=1e-3)


# ----------------------------------------------------------------------- rows


def rows_of(work: Sequence[Job], precisions: Sequence[Precision] = BOTH, rounds: int = 2) -> list[Row]:
    calls: list[int] = []
    rows = list(time_rows(work, precisions, CPU, rounds, calls.append))
    assert sum(calls) == num_calls(work, precisions, CPU, rounds)
    return rows


def test_times_stand_beside_the_plain_ones() -> None:
    rows = rows_of(list(usual_jobs([TINY])))
    found = [(row["what"], row["precision"], row["config"]["refinement_steps"]) for row in rows]
    whats = [("step", 1), ("forward", 1), ("encode", 0), ("encoder and attention", 0)]
    assert found == [(what, precision, count) for what, count in whats for precision in BOTH]
    for row in rows:
        assert row["ratio"] == row["ours_s"] / row["plain_s"] > 0
        for way in ("ours", "plain"):
            fastest, slowest = row[f"{way}_range_s"]
            assert 0 < fastest <= row[f"{way}_s"] <= slowest
        assert row["peak_bytes"] > 0 and row["plain_bytes"] > 0
        assert row["device"] == "cpu" and row["rounds"] == 2 and row["machine"]["threads"] >= 1
        assert row["config"] == {
            "name": "tiny",
            "model": "efficientmorl",
            "encoder": "patch",
            "decoder": "subpixel",
            "num_layers": 2,
            "num_slots": 3,
            "slot_dim": 8,
            "size": [10, 15],
            "batch_size": 2,
            "refinement_steps": row["config"]["refinement_steps"],
        }
    for encode, alone in zip(rows[4:6], rows[6:], strict=True):
        assert encode["over_encoder_and_attention"] == encode["ours_s"] / alone["ours_s"]


def test_floors_are_those_of_the_counted_work(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates({"float32": 1e9, "bfloat16": 4e9}, 1e12)
    monkeypatch.setattr(measure, "machine_rates", lambda dtypes, device: rates)
    single, half = floor_rows([Job(TINY, ("step",))], BOTH, CPU, 1, lambda _: None)
    work = measure._work(TINY, "float32", CPU)
    assert single["what"] == "floor" and single["flops"] == {"float32": work.flops[torch.float32]}
    assert single["floor_s"] == work.flops[torch.float32] / 1e9
    assert single["over_floor"] == single["ours_s"] / single["floor_s"]
    assert single["plain_flops"] > work.flops[torch.float32] and single["moved_bytes"] == work.moved
    assert half["flops"]["bfloat16"] > half["flops"]["float32"] > 0 and half["floor_s"] < single["floor_s"]
    assert sum(half["flops"].values()) == work.flops[torch.float32]


def test_our_steps_train_and_codes_need_no_decoder() -> None:
    subject = Subject(replace(TINY, refinement_steps=0), "float32", CPU)
    before = [p.detach().clone() for p in subject.model.parameters()]
    subject.step()
    subject.step()
    assert subject.engine.values().skipped == 0
    moved = [not torch.equal(a, b) for a, b in zip(before, subject.model.parameters(), strict=True)]
    assert sum(moved) > 0.5 * len(moved)

    def refuse(*_: object) -> None:
        raise AssertionError("a decoder ran")

    subject.model.decoder.register_forward_pre_hook(refuse)
    subject.encode()
    subject.encoder_and_attention()
    with pytest.raises(AssertionError, match="a decoder ran"):
        subject.forward()


# ----------------------------------------------------------------------- points


def test_points_of_presets() -> None:
    shapes = {name: preset_points(name) for name in measure.SHAPES}
    assert shapes["clevr6"] == [Point("clevr6", preset("clevr6").model, (96, 96), 4, 1)]
    assert shapes["multi-dsprites"] == [Point("multi-dsprites", preset("multi-dsprites").model, (64, 64), 4, 3)]
    assert shapes["tetrominoes"] == [Point("tetrominoes", preset("tetrominoes").model, (35, 35), 32, 3)]
    (nano,) = preset_points("nano", size=(20, 30), batch_size=1, refinement_steps=(0,), num_slots=9, decoder=None)
    assert nano == Point("nano", replace(preset("nano").model, num_slots=9), (20, 30), 1, 0)
    assert [point.refinement_steps for point in preset_points("nano", refinement_steps=(0, 2))] == [0, 2]


@pytest.mark.parametrize(
    "wrong", [{"size": (0, 5)}, {"batch_size": 0}, {"refinement_steps": ()}, {"refinement_steps": (0, -1)}]
)
def test_points_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least"):
        preset_points("nano", **wrong)


def test_the_sweep_is_that_of_the_paper() -> None:
    points = sweep_points()
    sides = {64, 96, 128}
    for name, decoder, count in [("E-0", "broadcast", 0), ("E-1", "broadcast", 1), ("E-3", "broadcast", 3)] + [
        ("E-1-S", "deconv", 1)
    ]:
        own = [point for point in points if point.name == name]
        assert {point.size for point in own} == {(side, side) for side in sides}
        assert all((p.model.decoder, p.refinement_steps, p.batch_size) == (decoder, count, 4) for p in own)
        assert all((p.model.num_slots, p.model.num_layers) == (7, 3) for p in own)
    assert {p.model.num_slots for p in points} == {7, 11}
    assert {p.model.num_layers for p in points if isinstance(p.model, EfficientMORLConfig)} == {1, 3}
    for name in ("IODINE", "IODINE, flattened", "Slot Attention", "GENESIS"):
        own = [point for point in points if point.name == name]
        assert {point.size for point in own} == {(side, side) for side in sides}
        assert all(p.model.num_slots == 7 and p.refinement_steps == p.model.refinement_steps for p in own)


def test_every_model_is_compared_at_one_shape() -> None:
    points = model_points()
    assert {model_name(point.model) for point in points} == set(MODELS)
    assert {(point.size, point.batch_size, point.model.num_slots) for point in points} == {((96, 96), 4, 7)}
    assert (points[0].name, points[0].refinement_steps) == ("clevr6", 1)  # what the others are compared with


def test_times_are_told_over_those_of_the_first() -> None:
    rows = over_first(
        rows_of([Job(TINY, ("step", "forward")), Job(replace(TINY, batch_size=4), ("step",))], ("float32",))
    )
    assert [row["time_over_first"] for row in rows] == [1, 1, rows[2]["ours_s"] / rows[0]["ours_s"]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    gpu = torch.device("cuda")
    rows = list(time_rows(list(usual_jobs([TINY])), ("float32",), gpu, 2, lambda _: None))
    assert all(row["ours_s"] > 0 and row["peak_bytes"] > 0 and row["device"] == "cuda" for row in rows)
    assert rows[0]["machine"]["gpu"]
    (floor,) = floor_rows([Job(TINY, ("step",))], ("float32",), gpu, 1, lambda _: None)
    assert floor["floor_s"] > 0
    point, budget = small("broadcast"), 60 * 2**20
    (row,) = largest_batch_rows([point], ("float32",), gpu, budget)
    held = [
        measure._held(replace(point, batch_size=row["ours_batch"] + more), "float32", gpu, "step") for more in (0, 4)
    ]
    assert held[0] <= 1.05 * budget and held[1] > 0.95 * budget
