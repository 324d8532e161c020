"""On a GPU: the recorded step is the eager one, and both are the CPU's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emorl import engine as engines
from emorl.config import TrainConfig
from emorl.data.base import Subset
from emorl.data.sources import open_source
from emorl.evaluation import evaluate
from emorl.models import MODELS
from emorl.models.base import InferOptions, TrainState
from emorl.models.efficientmorl import EfficientMORL
from emorl.noise import StepNoise
from emorl.precision import choose, native_bfloat16, place
from emorl.presets import preset
from emorl.runs import load_weights
from emorl.train import train
from tests import tiny
from tests.models.plain import random_weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = torch.device("cuda")
CONFIG = replace(tiny.GECO_RUN, steps=24, validate_every=0, curriculum=((0, 1), (12, 2)))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    def go(config: TrainConfig, device: str, name: str, cuda_graph: bool = True) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp("runs") / name
        train(folder, config, device=device, report=lambda line: None, progress=False, cuda_graph=cuda_graph)
        return rows(folder)

    return go


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], rel: float) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("loss", "nll", "kl", "nll_per_step", "grad_norm", "zeta", "geco_ema"):
            assert mine[name] == pytest.approx(other[name], rel=rel, abs=1e-3), (mine["step"], name)


def test_recorded_and_eager_steps_give_the_same_losses(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed: list[int] = []
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        replayed.append(1)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
    recorded = run(CONFIG, "cuda", "recorded")
    assert len(replayed) == 1 + 4 + 9  # of the forms that steps 0-3, 5-11 and 12-23 have, all but three each
    replayed.clear()
    eager = run(CONFIG, "cuda", "eager", cuda_graph=False)
    assert not replayed
    assert_close(recorded, eager, 1e-3)


def test_the_gpu_gives_what_the_cpu_gives(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = replace(CONFIG, steps=6)
    assert_close(run(config, "cuda", "gpu"), run(config, "cpu", "cpu"), 1e-2)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "efficientmorl"])
def test_the_other_models_train_as_on_the_cpu_recorded_or_not(
    run: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = replace(preset(f"{model}/nano"), num_images=64, steps=6, warmup_steps=0, validate_every=0, log_every=1)
    config = replace(config, precision="float32")
    recorded, eager = run(config, "cuda", "recorded"), run(config, "cuda", "eager", cuda_graph=False)
    here = run(config, "cpu", "cpu")
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in recorded] == pytest.approx([row[name] for row in eager], rel=1e-3)
        assert recorded[0][name] == pytest.approx(here[0][name], rel=1e-2)


@pytest.mark.parametrize("name", ["tetrominoes", "multi-dsprites", "clevr6"])
def test_gradients_agree_with_the_cpu(name: str) -> None:
    model = EfficientMORL(preset(name).model)
    random_weights(model, seed=1)
    images = torch.randint(0, 256, (2, 3, 35, 35), dtype=torch.uint8)
    found = []
    for device in ("cpu", "cuda"):
        place(model, torch.device(device), "float32")
        model.zero_grad()
        model.loss(images.to(device), TrainState(refinement_steps=1), noise=StepNoise(0, 0)).total.backward()
        found.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]))
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 1e-2


def test_a_step_in_a_graph_waits_for_nothing(tmp_path: Path) -> None:
    """Any synchronisation inside the step raises here."""
    steps: list[int] = []
    compute = engines.Engine._compute

    def watched(self: engines.Engine, state: TrainState) -> None:
        if self.eager_steps > 0:  # the first may choose kernels and allocate
            torch.cuda.set_sync_debug_mode("error")
        try:
            compute(self, state)
            steps.append(state.step)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines.Engine, "_compute", watched)
        train(tmp_path / "run", CONFIG, device="cuda", report=lambda line: None, progress=False)
    assert steps


def test_a_run_moves_between_gpu_and_cpu(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    quiet: dict[str, Any] = {"report": lambda line: None, "progress": False}
    train(folder, replace(CONFIG, steps=9), device="cuda", **quiet)
    train(folder, None, steps=14, device="cpu", **quiet)
    assert train(folder, None, steps=20, device="cuda", **quiet).reason == "finished"
    assert [row["step"] for row in rows(folder)] == list(range(20))


def test_a_step_that_is_not_finite_is_skipped_in_a_graph_too(tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e30, steps=40, max_skipped_steps=1000)
    train(tmp_path / "run", config, device="cuda", report=lambda line: None, progress=False)
    assert rows(tmp_path / "run")[-1]["skipped_steps"] > 10


def test_shipped_weights_score_as_on_the_cpu() -> None:
    source = open_source("tetrominoes", split="test")
    part = Subset(source, 0, 64)
    scores = []
    for device in ("cpu", "cuda"):
        model, _ = load_weights(Path(engines.__file__).parent / "weights" / "efficientmorl" / "nano", device)
        scores.append(evaluate(model, part, options=InferOptions()))
    assert scores[1]["foreground_ari"]["mean"] == pytest.approx(scores[0]["foreground_ari"]["mean"], abs=5e-3)
    assert scores[1]["mse"]["mean"] == pytest.approx(scores[0]["mse"]["mean"], rel=1e-2)


def test_this_gpu_chooses_bfloat16() -> None:
    assert choose("auto", GPU) == ("bfloat16" if native_bfloat16(GPU) else "float32")


def test_clevr_rendered_on_a_gpu_is_the_picture_of_a_cpu() -> None:
    positions = torch.arange(24).numpy()
    sources = [open_source("clevr", split="train", size=(96, 96), device=device) for device in ("cpu", "cuda")]
    here, there = (source.read(positions) for source in sources)
    assert (here.mask == there.mask).all()  # type: ignore[union-attr]
    assert all((here.factors[name] == there.factors[name]).all() for name in here.factors)
    difference = abs(here.image.astype(int) - there.image.astype(int))
    assert difference.mean() < 0.05
    assert (difference > 2).mean() < 1e-3  # rounding at outlines and highlights
    assert (sources[1].read(positions).image == there.image).all()  # the same bits again


def test_clevr_on_a_gpu_is_the_same_however_many_are_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    source, positions = open_source("clevr6", split="train", size=(96, 96), device="cuda"), torch.arange(1500).numpy()
    together = source.read(positions)
    monkeypatch.setattr("emorl.data.clevr.source._GPU_MOST", 300)  # five parts in two streams
    parts = source.read(positions)
    for name in ("image", "mask"):
        assert (getattr(parts, name) == getattr(together, name)).all(), name
    assert all((parts.factors[name] == together.factors[name]).all() for name in parts.factors)


def test_training_on_clevr_makes_images_on_the_gpu(run: Any) -> None:
    config = replace(CONFIG, data="clevr6", image_size=(32, 32), num_images=8, steps=3, curriculum=((0, 1),))
    assert_close(run(config, "cuda", "clevr"), run(config, "cpu", "clevr-cpu"), rel=1e-3)
