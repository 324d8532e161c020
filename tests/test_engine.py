"""A step on fixed buffers is the plain step; one that is not finite moves nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from emorl.cli import main
from emorl.config import TrainConfig
from emorl.engine import Engine, Staged, StagedNoise
from emorl.models import build_model
from emorl.models.base import TrainState
from emorl.models.efficientmorl import EfficientMORL
from emorl.noise import StepNoise
from emorl.presets import preset
from emorl.runs import load_weights, newest_checkpoint
from emorl.train import learning_rate, train
from emorl.types import Loss
from tests import tiny

B = 4
CONFIGS = {"plain": tiny.RUN, "geco": tiny.GECO_RUN, "following": tiny.FOLLOWING_RUN}


def images(count: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 10, 13), dtype=torch.uint8, generator=generator)


def make(config: TrainConfig, state: TrainState | None = None) -> Engine:
    model = tiny.build(config.model).requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(1.0), fused=True)
    return Engine(
        model, optimizer, images(), state or model.initial_state(), seed=5, batch_size=B, clip_norm=config.clip_norm
    )


def steps(config: TrainConfig, count: int) -> Iterator[tuple[TrainState, Tensor, float]]:
    """State (all but GECO's), image numbers and learning rate of the first steps."""
    for step in range(count):
        state = TrainState(step, config.refinement_steps(step), config.kl_weight(step))
        yield state, torch.arange(step, step + B) % 9, learning_rate(config, step)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_is_the_plain_one(name: str) -> None:
    """Against zero_grad, backward, clip_grad_norm_, step of the ordinary optimizer, and the model's own next state."""
    config = replace(CONFIGS[name], clip_norm=0.5)
    ours = make(config)
    model = tiny.build(config.model).requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters())
    constraint = model.initial_state().geco
    for state, order, rate in steps(config, 9):
        ours.step(state, order, rate)
        plain = replace(state, geco=constraint)
        loss = model.loss(images()[order], plain, noise=StepNoise(5, state.step))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        (loss.total / B).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        constraint = model.next_state(plain, {n: v.mean(dim=0) for n, v in loss.terms.items()}).geco

        values = ours.values()
        assert values.terms["loss"] == pytest.approx(float(loss.total.detach()) / B, rel=1e-5)
        assert values.grad_norm == pytest.approx(float(norm), rel=1e-4)
        for term, per_image in loss.terms.items():
            assert values.terms[term] == pytest.approx(per_image.mean(dim=0).tolist(), rel=1e-4, abs=1e-5), term
        assert (values.zeta is None) == (plain.geco is None)
        if plain.geco is not None and constraint is not None:
            assert values.ema == pytest.approx(float(plain.geco.ema), rel=1e-4)
            assert ours.state.geco is not None
            for part, value in constraint.tensors().items():
                assert float(ours.state.geco.tensors()[part]) == pytest.approx(float(value), rel=1e-4), part
    assert ours.state.step == 9
    assert isinstance(ours.model, nn.Module)

    # All together: where a true gradient is zero, Adam makes full steps of the rounding errors.
    def flat(model: nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    start = flat(tiny.build(config.model))
    mine, theirs = flat(ours.model), flat(model)
    assert float((mine - theirs).norm() / (theirs - start).norm()) < 2e-2


def test_channels_last_weights_get_their_own_gradient() -> None:
    """A flat gradient must lie in memory as its parameter does: fused optimizers go by memory order."""
    layer = nn.Conv2d(3, 4, (2, 5)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert not layer.weight.is_contiguous()
    run = make(tiny.RUN)
    run.parameters = list(layer.parameters())
    run._make_flat(3)
    assert layer.weight.grad is not None and layer.weight.grad.stride() == layer.weight.stride()
    layer.weight.grad.copy_(torch.randn_like(layer.weight))
    assert float(run.grads.norm()) == pytest.approx(float(layer.weight.grad.norm()))
    assert run.grads.data_ptr() == layer.weight.grad.data_ptr()


def test_noise_in_a_buffer_is_the_noise() -> None:
    shapes = [("z0", 0, (2, 3, 4)), ("layers", 0, (2, 3, 4)), ("layers", 1, (2, 3, 4)), ("refine", 0, (2, 5))]
    staged = StagedNoise(torch.device("cpu"))
    for step in range(4):
        staged.draw_from(StepNoise(7, step, 1))
        for name, index, shape in shapes if step % 2 else reversed(shapes):
            like = torch.zeros(shape)
            assert torch.equal(staged.normal(name, index, like), StepNoise(7, step, 1).normal(name, index, like))


def test_a_buffer_without_a_device_is_written_at_once() -> None:
    staged = Staged(torch.zeros(3))
    staged.fill(lambda memory: memory.fill_(2))
    assert staged.buffer.tolist() == [2, 2, 2]


def test_a_new_form_begins_with_eager_steps_and_new_noise() -> None:
    run = make(tiny.GECO_RUN)
    forms = []
    for state, order, rate in steps(tiny.GECO_RUN, 8):
        run.step(state, order, rate)
        forms.append((run.form, run.eager_steps))
    # I is 1, then 2 from step 5; the constraint is first used in step 4.
    assert [form for form, _ in forms] == [(1, 0)] * 4 + [(1, 1)] + [(2, 2)] * 3
    assert [count for _, count in forms] == [1, 2, 3, 4, 1, 1, 2, 3]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_can_be_replayed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a graph does: run the step as it was recorded, with nothing new but what is in the buffers."""
    fresh = make(CONFIGS[name])
    replayed = make(CONFIGS[name])
    compute, recorded = Engine._compute, dict[Any, TrainState]()

    def replay(self: Engine, state: TrainState) -> None:
        compute(self, recorded.setdefault(self.form, state))

    for state, order, rate in steps(CONFIGS[name], 14):
        fresh.step(state, order, rate)
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "_compute", replay)
            replayed.step(state, order, rate)
        assert fresh.values() == replayed.values()
    assert len(recorded) < 14
    assert isinstance(fresh.model, nn.Module) and isinstance(replayed.model, nn.Module)
    for ours, theirs in zip(replayed.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class NoHost(TorchDispatchMode):
    """Refuses what reads a value from a device, or has a shape that depends on one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal"}, name
        return func(*args, **(kwargs or {}))


def test_the_guard_sees_what_waits() -> None:
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoHost():
        float(torch.ones(1))


@pytest.mark.parametrize("name", ["tetrominoes", "multi-dsprites", "clevr6", "nano", "following"])
def test_nothing_inside_a_step_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.FOLLOWING_RUN if name == "following" else preset(name)
    if config.model.geco:
        config = replace(config, model=replace(config.model, geco=replace(config.model.geco, warmup_steps=1)))
    run = make(config)
    compute = Engine._compute

    def watched(self: Engine, state: TrainState) -> None:
        with NoHost():
            compute(self, state)

    monkeypatch.setattr(Engine, "_compute", watched)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)  # on a CPU its step count is read on the host
    for step in range(3):
        run.step(TrainState(step, 1, 0.5), torch.arange(B), 1e-4)
    assert math.isfinite(run.values().grad_norm)


# ----------------------------------------------------------------------- not finite


def poison(patch: pytest.MonkeyPatch, bad: set[int], what: str = "loss") -> None:
    """Let the loss, or the gradient alone, of some steps be NaN."""
    honest = EfficientMORL.loss

    def loss(self: EfficientMORL, x: Tensor, state: TrainState, *, noise: Any = None) -> Loss:
        found = honest(self, x, state, noise=noise)
        if state.step not in bad:
            return found
        if what == "loss":
            return Loss(found.total * math.nan, found.terms)
        return Loss(found.total + (self.initial_mean.sum() * 0).sqrt(), found.terms)  # value 0, slope 0 times infinity

    patch.setattr(EfficientMORL, "loss", loss)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_that_is_not_finite_moves_nothing(name: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(CONFIGS[name])
    poison(monkeypatch, {6, 7}, what)
    assert isinstance(run.model, nn.Module)
    for state, order, rate in steps(CONFIGS[name], 10):
        before = [p.detach().clone() for p in run.model.parameters()]
        moments = [slot["exp_avg"].clone() for slot in run.optimizer.state.values()]
        constraint = None if run.state.geco is None else {n: x.clone() for n, x in run.state.geco.tensors().items()}
        run.step(state, order, rate)
        values = run.values()
        skipped = state.step in (6, 7)
        assert values.skipped_in_row == {6: 1, 7: 2}.get(state.step, 0)
        assert values.skipped == min(2, max(0, state.step - 5))
        same = all(torch.equal(p, q) for p, q in zip(run.model.parameters(), before, strict=True))
        assert same == (skipped or rate == 0)
        if skipped:
            assert not math.isfinite(values.grad_norm)
            slots = run.optimizer.state.values()
            assert all(torch.equal(slot["exp_avg"], m) for slot, m in zip(slots, moments, strict=True))
            assert {float(slot["step"]) for slot in slots} == {6.0}
            if constraint is not None and run.state.geco is not None:
                assert run.state.geco.tensors() == constraint
    assert run.state.step == 10
    assert all(bool(p.isfinite().all()) for p in run.model.parameters())


def test_a_step_that_is_not_finite_moves_no_running_average() -> None:
    config = preset("genesis-s/nano")
    torch.manual_seed(0)
    model = build_model(config.model)
    assert isinstance(model, nn.Module)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(1.0), fused=True)
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    run = Engine(model, optimizer, images, model.initial_state(), seed=5, batch_size=B, clip_norm=None)
    averages = {name: x for name, x in model.named_buffers() if "running" in name}
    assert averages
    for step, (kl_weight, moves) in enumerate([(1.0, True), (math.inf, False), (1.0, True)]):
        before = {name: x.clone() for name, x in averages.items()}
        run.step(TrainState(step, 0, kl_weight), torch.arange(B), 1e-4)
        assert run.values().skipped_in_row == (not moves)
        assert all(torch.equal(x, before[name]) is not moves for name, x in averages.items())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_skipped_steps_are_counted_and_survive_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, {2, 3, 9})
    config = replace(tiny.RUN, validate_every=0)
    quiet: dict[str, Any] = {"report": lambda line: None}
    train(tmp_path / "whole", config, **quiet)
    counts = [row["skipped_steps"] for row in rows(tmp_path / "whole")]
    assert counts == [0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    assert rows(tmp_path / "whole")[2]["loss"] is None  # JSON has no NaN
    assert train(tmp_path / "parts", config, max_minutes=0, **quiet).step == 1
    for step in range(2, 14):  # a stop in the middle of a streak too is kept
        assert train(tmp_path / "parts", None, max_minutes=0, **quiet).step == step
    assert train(tmp_path / "parts", None, **quiet).reason == "finished"
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_streak_ends_the_run_before_the_weights_that_caused_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps from 8 on fail: the weights of checkpoint 8 are the cause, those of checkpoint 4 were sound."""
    config = replace(tiny.RUN, steps=200, checkpoint_every=4, max_skipped_steps=5, log_every=1)
    with monkeypatch.context() as patch:
        poison(patch, set(range(8, 1000)))
        assert main(["train", *tiny.words(config), "--run", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "5 steps in a row, up to step 12" in err and "learning rate" in err
    checkpoint = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None and checkpoint.name == "000004"
    load_weights(checkpoint)
    train(tmp_path / "run", None, steps=16, report=lambda line: None)  # the cause is gone: it goes on
    assert rows(tmp_path / "run")[-1]["skipped_steps"] == 0


def test_a_run_that_never_gets_anywhere_can_still_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny.RUN, max_skipped_steps=3)
    with monkeypatch.context() as patch:
        poison(patch, set(range(1000)))
        assert main(["train", *tiny.words(config), "--run", str(tmp_path / "run")]) == 2
    assert "last good checkpoint is kept" in capsys.readouterr().err
    checkpoint = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None and checkpoint.name == "000000"
    assert train(tmp_path / "run", None, report=lambda line: None).reason == "finished"
    assert rows(tmp_path / "run")[-1]["skipped_steps"] == 0


def test_checkpoints_under_suspicion_do_not_push_out_sound_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {6, 7, 8, 9})
    folder, lines = tmp_path / "run", list[str]()
    config = replace(tiny.RUN, checkpoint_every=2, max_skipped_steps=5)

    def names() -> list[str]:
        return sorted(path.name for path in (folder / "checkpoint").iterdir())

    train(folder, replace(config, steps=10), report=lines.append)
    assert names() == ["000004", "000006", "000008", "000010"]
    train(folder, None, steps=14, report=lines.append)
    assert names() == ["000012", "000014"]
