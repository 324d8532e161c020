"""Several processes with one global batch are one process, and none waits for another that is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emorl.cli import main
from emorl.distributed import ALONE, Group, process_group
from emorl.engine import Engine
from emorl.errors import InputError
from emorl.models.base import TrainState
from emorl.runs import newest_checkpoint, read_json, read_tensors
from emorl.train import train
from tests import tiny

ROOT = Path(__file__).parents[1]
CONFIG = replace(tiny.GECO_RUN, batch_size=4, validate_every=6, checkpoint_every=3)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def take_steps(group: Group) -> dict[str, Any]:
    """The gradients of a first step, and where seven steps lead."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (9, 3, 11, 14), dtype=torch.uint8, generator=generator)
    model = tiny.build(CONFIG.model).requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.0), fused=True)
    engine = Engine(model, optimizer, images, model.initial_state(), seed=3, batch_size=4, clip_norm=1e9, group=group)
    found: dict[str, Any] = {"gradients": [], "values": []}
    for step in range(7):
        state = TrainState(step, CONFIG.refinement_steps(step), 0.7)
        flags = (group.rank == 1 and step == 4, group.rank == 0 and step == 5)
        engine.step(state, torch.tensor([7, 2, 5, 0]) + step % 2, 1e-4, flags)
        found["gradients"].append(engine.grads.clone())
        found["values"].append(vars(engine.values()))
    found["weights"] = [p.detach().clone() for p in model.parameters()]
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("both")
    words = [sys.executable, str(Path(__file__).with_name("two_processes.py"))]
    started = [
        subprocess.Popen([*words, str(rank), str(folder / "meeting"), str(folder)], env=ENVIRONMENT) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def close(ours: Tensor, theirs: Tensor, bound: float) -> bool:
    return float((ours - theirs).abs().max() / theirs.abs().max()) < bound


def test_gradients_of_two_processes_are_those_of_one(both: list[dict[str, Any]]) -> None:
    alone = take_steps(ALONE)
    for found in both:
        assert close(found["gradients"][0], alone["gradients"][0], 1e-6)
        for ours, theirs in zip(found["gradients"], alone["gradients"], strict=True):
            assert close(ours, theirs, 1e-4)  # by then the weights differ by rounding
        for ours, theirs in zip(found["values"], alone["values"], strict=True):
            for name, value in theirs["terms"].items():
                assert ours["terms"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_all_processes_have_the_same_bits(both: list[dict[str, Any]]) -> None:
    for ours, theirs in zip(both[0]["weights"], both[1]["weights"], strict=True):
        assert torch.equal(ours, theirs)
    assert both[0]["values"] == both[1]["values"]


def test_a_wish_to_stop_reaches_all(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert [values["interrupted"] for values in found["values"]] == [step == 4 for step in range(7)]
        assert [values["out_of_time"] for values in found["values"]] == [step == 5 for step in range(7)]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def run_together(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, "-m", "emorl", "train", *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_command_trains_the_same_run_and_resumes(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    assert main(["train", *tiny.words(CONFIG), "--run", str(alone)]) == 0
    process = run_together([*tiny.words(CONFIG), "--run-folder", str(together), "--max-minutes", "0"])
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert out.count("stopped at step 1 of 14") == 1  # told by one process
    process = run_together(["--resume", str(together)])
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert out.count("finished 14 steps") == 1
    assert read_json(together / "config.json") == read_json(alone / "config.json")
    for ours, theirs in zip(rows(together), rows(alone), strict=True):
        assert ours.keys() == theirs.keys() and ours["step"] == theirs["step"]
        for name in ("nll", "kl", "grad_norm", "zeta", "geco_ema"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=2e-3), (ours["step"], name)
    weights = []
    for folder in (together, alone):
        checkpoint = newest_checkpoint(folder)
        assert checkpoint is not None
        weights.append(read_tensors(checkpoint / "weights.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    ours, theirs = (torch.cat([tensor.flatten() for _, tensor in sorted(found.items())]) for found in weights)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_all_and_the_run_resumes(tmp_path: Path, victim: int) -> None:
    folder = tmp_path / "run"
    config = replace(CONFIG, steps=100_000, checkpoint_every=5, validate_every=0)
    process = run_together([*tiny.words(config), "--run-folder", str(folder)])
    deadline = time.monotonic() + 120
    while newest_checkpoint(folder) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = {}
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = dict(pair.split("=", 1) for pair in entry.read_text().split("\0") if "=" in pair)
            command = entry.with_name("cmdline").read_text()
        except OSError:
            continue
        if str(folder) in command and "RANK" in environment:
            ranks[int(environment["RANK"])] = int(entry.parent.name)
    os.kill(ranks[victim], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"emorl: process {1 - victim} of 2 lost another one" in err
    resumed = subprocess.run(
        [sys.executable, "-m", "emorl", "train", "--resume", str(folder), "--max-minutes", "0"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "stopped at step" in resumed.stdout


def test_a_batch_that_cannot_be_divided_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Three(Group):
        def share(self, value: Any) -> Any:
            return value

    @contextmanager
    def three(device: str) -> Iterator[tuple[Group, str]]:
        yield Three(0, 3), "cpu"

    monkeypatch.setattr("emorl.train.process_group", three)
    with pytest.raises(InputError, match="batch_size 4 cannot be divided among 3 processes"):
        train(tmp_path / "run", CONFIG)


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("auto") as (group, device):
        assert group == ALONE and device == "auto"
        x = torch.ones(3)
        group.sum(x)
        assert x.tolist() == [1, 1, 1] and group.share({"a": 1}) == {"a": 1}


def test_several_processes_share_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(InputError, match="one device"), process_group("cuda:0"):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="1 GPUs"), process_group("cuda"):
        pass


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "2"}, "start the processes with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "start the processes with torchrun"),
    ],
)
def test_half_an_environment_is_no_group(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained alone without a word, every process would write a run of its own."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said), process_group("cpu"):
        pass
