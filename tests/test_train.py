"""A run is a function of its config: repeated, killed, stopped or interrupted, its metrics are the same bytes."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emorl import runs
from emorl.__main__ import main as command
from emorl.cli import main
from emorl.config import TrainConfig, to_json
from emorl.data.npz import write_npz
from emorl.data.sources import open_source
from emorl.engine import Engine
from emorl.errors import InputError
from emorl.geco import ZETA_MIN
from emorl.runs import load_weights, make_weights, newest_checkpoint, read_json
from emorl.seeds import check_same_config
from emorl.train import ImageOrder, Outcome, RunLog, learning_rate, load_data, restore, train
from tests import tiny

CONFIGS = {"plain": tiny.RUN, "geco": tiny.GECO_RUN}
MORE_CONFIGS = {**CONFIGS, "following": tiny.FOLLOWING_RUN}
QUIET = replace(tiny.GECO_RUN, validate_every=0)
KILLER = Path(__file__).with_name("killer.py")
EMORL = [sys.executable, "-m", "emorl"]

KEYS = {
    *("step", "loss", "nll", "kl", "kl_per_layer", "nll_per_step", "kl_per_step", "delta_norm_per_step"),
    *("zeta", "geco_ema", "learning_rate", "grad_norm", "refinement_steps", "skipped_steps"),
}


def go(folder: Path, config: TrainConfig | None = None, **options: Any) -> Outcome:
    """Train without a word."""
    return train(folder, config, report=lambda line: None, **options)


def metrics(folder: Path) -> bytes:
    return (folder / "metrics.jsonl").read_bytes()


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of training steps or of validation."""
    lines = [json.loads(line) for line in metrics(folder).splitlines()]
    return [row for row in lines if ("validation" in row) == (kind == "validation")]


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None
    return load_file(checkpoint / "weights.safetensors")


def assert_same_run(folder: Path, other: Path) -> None:
    assert metrics(folder) == metrics(other)
    ours, theirs = final_weights(folder), final_weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run of either config that nothing disturbed."""
    folders: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in folders:
            config = {**MORE_CONFIGS, "quiet": QUIET}[name]
            folders[name] = tmp_path_factory.mktemp("finished") / name
            assert go(folders[name], config) == Outcome(config.steps, "finished")
        return folders[name]

    return run


Finished = Callable[[str], Path]


# ----------------------------------------------------------------------- schedules


def test_the_rate_grows_then_halves() -> None:
    config = replace(tiny.RUN, learning_rate=4e-4, warmup_steps=1000, half_life_steps=500, decay="half-life")
    rates = [learning_rate(config, step) for step in (0, 250, 1000, 1250, 1500, 2000)]
    assert rates == pytest.approx([0, 1e-4, 4e-4, 4e-4 * 2**-0.5, 2e-4, 1e-4])
    assert learning_rate(config, 999) < learning_rate(config, 1000) > learning_rate(config, 1001)


def test_the_rate_follows_half_a_cosine_to_two_percent() -> None:
    config = replace(tiny.RUN, learning_rate=1e-3, warmup_steps=100, steps=1100, decay="cosine")
    rates = [learning_rate(config, step) for step in (0, 50, 100, 600, 1100, 5000)]
    assert rates == pytest.approx([0, 5e-4, 1e-3, 0.51e-3, 2e-5, 2e-5])
    falling = [learning_rate(config, step) for step in range(100, 1101)]
    assert falling == sorted(falling, reverse=True)


def test_the_rate_halves_from_the_first_step_on() -> None:
    """Slot Attention's: warm-up and decay both count from step 0."""
    config = replace(tiny.RUN, learning_rate=4e-4, warmup_steps=100, half_life_steps=200, decay="half-life-from-start")
    for step in (0, 50, 99, 100, 150, 1000):
        rate = 4e-4 * min(1, step / 100) * 0.5 ** (step / 200)
        assert learning_rate(config, step) == pytest.approx(rate), step


def test_without_decay_the_rate_stays() -> None:
    config = replace(tiny.RUN, learning_rate=4e-4, warmup_steps=10, decay="none")
    assert [learning_rate(config, step) for step in (5, 10, 10_000_000)] == pytest.approx([2e-4, 4e-4, 4e-4])


def test_without_warm_up_the_rate_is_whole_at_once() -> None:
    for config in (replace(tiny.RUN, warmup_steps=0), replace(tiny.RUN, warmup_steps=0, decay="cosine")):
        assert learning_rate(config, 0) == config.learning_rate


def test_every_epoch_is_a_new_order_of_all_images() -> None:
    config = replace(tiny.RUN, num_images=10, batch_size=3)
    order = ImageOrder(config)
    epochs = [[order(3 * epoch + i).tolist() for i in range(3)] for epoch in range(20)]
    for epoch in epochs:
        seen = sum(epoch, [])
        assert len(set(seen)) == 9 and set(seen) <= set(range(10))
    assert len({str(epoch) for epoch in epochs}) == 20
    assert {i for epoch in epochs for batch in epoch for i in batch} == set(range(10))


def test_the_images_of_a_step_do_not_depend_on_the_steps_before() -> None:
    config = replace(tiny.RUN, num_images=10, batch_size=3)
    order = ImageOrder(config)
    in_turn = [order(step).tolist() for step in range(12)]
    assert [ImageOrder(config)(step).tolist() for step in range(12)] == in_turn
    assert [order(step).tolist() for step in reversed(range(12))] == in_turn[::-1]
    other = ImageOrder(replace(config, seed=1))
    assert [other(step).tolist() for step in range(12)] != in_turn


# ----------------------------------------------------------------------- what is written


@pytest.mark.parametrize("name", CONFIGS)
def test_every_line_has_the_documented_keys(finished: Finished, name: str) -> None:
    config = CONFIGS[name]
    found = rows(finished(name), "training")
    assert [row["step"] for row in found] == list(range(config.steps))
    for row in found:
        assert set(row) == (KEYS | {"constraint"} if config.model.geco else KEYS)
        count = config.refinement_steps(row["step"])
        assert row["refinement_steps"] == count
        assert len(row["kl_per_layer"]) == config.model.num_layers
        assert len(row["nll_per_step"]) == len(row["kl_per_step"]) == count + 1
        assert len(row["delta_norm_per_step"]) == count
        assert (row["nll"], row["kl"]) == (row["nll_per_step"][-1], row["kl_per_step"][-1])
        assert row["kl_per_step"][0] == pytest.approx(sum(row["kl_per_layer"]), rel=1e-5)
        assert row["learning_rate"] == learning_rate(config, row["step"])
        assert (row["zeta"] is None) == (row["geco_ema"] is None) == (config.model.geco is None)


def test_the_multiplier_moves_once_the_constraint_is_used(finished: Finished) -> None:
    geco = tiny.GECO_RUN.model.geco
    assert geco is not None
    found = rows(finished("geco"), "training")
    assert {row["geco_ema"] for row in found[: geco.warmup_steps + 1]} == {0.0}
    assert len({row["geco_ema"] for row in found[geco.warmup_steps + 1 :]}) == len(found) - geco.warmup_steps - 1
    zeta = float(final_weights(finished("geco"))["geco_zeta"])
    assert zeta >= found[-1]["zeta"] > found[0]["zeta"]


@pytest.mark.parametrize("name", CONFIGS)
def test_clock_times_are_in_a_file_of_their_own(finished: Finished, name: str) -> None:
    assert not re.search(rb"time|second|date", metrics(finished(name)))
    timing = [json.loads(line) for line in (finished(name) / "timing.jsonl").read_bytes().splitlines()]
    assert [row["step"] for row in timing] == list(range(1, CONFIGS[name].steps))
    assert all(row["seconds_per_step"] > 0 for row in timing)


@pytest.mark.parametrize("name", CONFIGS)
def test_validation_is_scored_on_images_that_are_not_trained_on(finished: Finished, name: str) -> None:
    found = rows(finished(name), "validation")
    assert [row["step"] for row in found] == [6, 12]
    of_masks = {"foreground_ari", "ari", "miou", "miou_with_background", "mbo", "covering"}
    scores = of_masks | {"mse", "nll", "kl", "kl_stage1"}
    assert all(set(row["validation"]) == scores and row["held_out"] for row in found)
    images, validation = load_data(CONFIGS[name], torch.device("cpu"))
    assert images.tensor.shape == (9, 3, 35, 35) and images.tensor.dtype == torch.uint8
    assert validation is not None
    assert validation.index.tolist() == [60_320, 60_321]  # behind the training and the test split


def test_a_run_folder_holds_what_is_documented(finished: Finished) -> None:
    names = {path.name for path in finished("plain").iterdir() if not path.name.startswith(".")}
    assert names == {"config.json", "versions.json", "metrics.jsonl", "timing.jsonl", "tensorboard", "checkpoint"}
    checkpoint = newest_checkpoint(finished("plain"))
    assert checkpoint is not None and checkpoint.name == "000014"
    assert {path.name for path in checkpoint.iterdir()} == {"config.json", "weights.safetensors", "training.pt"}
    about = read_json(checkpoint / "config.json")["about"]
    assert about == {
        "data": "tetrominoes",
        "data_split": "train",
        "image_size": [35, 35],
        "fit": "crop",
        "protocol": None,
        "subset": None,
        "start_from": None,
        "seed": 0,
        "precision": "float32",
        "steps": 14,
    }


def test_the_loss_falls(finished: Finished) -> None:
    found = rows(finished("plain"), "training")
    assert np.mean([row["nll"] for row in found[-4:]]) < np.mean([row["nll"] for row in found[:4]])
    assert all(math.isfinite(row["loss"]) for row in found)


# ----------------------------------------------------------------------- repeated


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_repeated_is_the_same_bytes(finished: Finished, name: str, tmp_path: Path) -> None:
    torch.manual_seed(99)  # the global generator is neither read nor written
    np.random.seed(99)
    before = torch.get_rng_state()
    go(tmp_path / "run", CONFIGS[name])
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_run(tmp_path / "run", finished(name))


def test_another_seed_is_another_run(finished: Finished, tmp_path: Path) -> None:
    go(tmp_path / "run", replace(tiny.RUN, seed=1, steps=3))
    first, other = rows(finished("plain"), "training")[0], rows(tmp_path / "run", "training")[0]
    assert first["loss"] != other["loss"]


def test_numbers_of_numpy_are_those_of_python(finished: Finished, tmp_path: Path) -> None:
    steps = tuple((int(start), np.int64(count)) for start, count in tiny.RUN.curriculum)
    config = replace(tiny.RUN, curriculum=steps, learning_rate=np.float64(tiny.RUN.learning_rate))
    go(tmp_path / "run", config)
    assert_same_run(tmp_path / "run", finished("plain"))


@pytest.mark.parametrize("name", CONFIGS)
def test_validation_does_not_change_the_training(finished: Finished, name: str, tmp_path: Path) -> None:
    go(tmp_path / "run", replace(CONFIGS[name], validate_every=0))
    assert not rows(tmp_path / "run", "validation")
    assert rows(tmp_path / "run", "training") == rows(finished(name), "training")
    ours, theirs = final_weights(tmp_path / "run"), final_weights(finished(name))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_logging_and_checkpoints_do_not_change_the_training(finished: Finished, tmp_path: Path) -> None:
    go(tmp_path / "run", replace(tiny.RUN, log_every=5, checkpoint_every=100, validate_every=0))
    assert rows(tmp_path / "run", "training") == rows(finished("plain"), "training")[::5]
    ours, theirs = final_weights(tmp_path / "run"), final_weights(finished("plain"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


# ----------------------------------------------------------------------- killed


def start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    """The command line in a process of its own, with as many threads as here."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    pipe = subprocess.PIPE
    return subprocess.Popen([*EMORL, "train", *words], env=environment, stdout=pipe, stderr=pipe, text=True)


def kill_when(process: subprocess.Popen[str], happens: Callable[[], bool]) -> None:
    while process.poll() is None and not happens():
        time.sleep(0.0005)
    process.kill()
    process.communicate()


def resume_words(folder: Path, config: TrainConfig) -> list[str]:
    if (folder / "config.json").exists():
        return ["--resume", str(folder)]
    return [*tiny.words(config), "--run", str(folder)]


def test_a_process_killed_then_interrupted_keeps_the_same_bytes(finished: Finished, tmp_path: Path) -> None:
    """The run has no end in sight, but until the other one's end their lines must be the same."""
    folder = tmp_path / "run"
    endless = replace(tiny.RUN, steps=10**6)
    process = start(folder, resume_words(folder, endless))
    kill_when(process, lambda: any((folder / "checkpoint").glob("*.tmp")))
    assert process.returncode == -signal.SIGKILL
    process = start(folder, resume_words(folder, endless))
    while process.poll() is None and int((newest_checkpoint(folder) or Path("0")).name) <= tiny.RUN.steps:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")

    told = [line for line in out.splitlines() if f"emorl train --resume {folder}" in line]
    assert len(told) == 1
    step = int(re.findall(r"stopped at step (\d+)", told[0])[0])
    assert [row["step"] for row in rows(folder, "training")] == list(range(step))
    assert [row["step"] for row in rows(folder, "validation")] == list(range(6, step + 1, 6))
    assert metrics(folder).startswith(metrics(finished("plain")))
    assert go(folder, None, max_minutes=0) == Outcome(step + 1, "time")


@contextlib.contextmanager
def killer(cases: list[tuple[list[str], str, int]]) -> Iterator[list[tuple[int, int]]]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    result = subprocess.run(
        [sys.executable, str(KILLER)], input=json.dumps(cases), env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    yield [(code, found) for code, found in json.loads(result.stdout)]


# What the run is about to do when it is killed, with checkpoints at 4, 8, ...
MOMENTS = {
    "begin-of-first-checkpoint": (r"os.mkdir .*/000004\.tmp", 1),
    "weights-written": (r"open .*/000004\.tmp/\.config\.json", 1),
    "all-written": (r"open .*/000008\.tmp/training\.pt", 1),
    "before-the-name": (r"os.rename .*/000008\.tmp", 1),
    "two-whole-checkpoints": (r"shutil.rmtree .*/000004$", 1),
    "old-one-half-gone": (r"os.remove (.*/)?weights\.safetensors", 1),
    "log-being-cut": (r"os.rename .*metrics\.jsonl", 1),
}


def test_a_run_killed_while_it_writes_resumes_to_the_same_bytes(finished: Finished, tmp_path: Path) -> None:
    new = [*tiny.words(QUIET), "--run"]
    cases = [(["train", *new, str(tmp_path / name)], *moment) for name, moment in MOMENTS.items() if "log" not in name]
    # A log is cut when a run is resumed: this one is killed twice.
    cut = tmp_path / "log-being-cut"
    cases += [
        (["train", *new, str(cut)], *MOMENTS["all-written"]),
        (["train", "--resume", str(cut)], *MOMENTS["log-being-cut"]),
    ]
    with killer(cases) as results:
        assert [code for code, _ in results] == [-signal.SIGKILL] * len(cases)
    for name in MOMENTS:
        go(tmp_path / name, None)
        assert_same_run(tmp_path / name, finished("quiet"))
        assert sorted(path.name for path in (tmp_path / name / "checkpoint").iterdir()) == ["000012", "000014"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_killed_before_any_file_operation_resumes(finished: Finished, name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]

    def case(folder: Path, number: int) -> tuple[list[str], str, int]:
        touched = rf"{re.escape(str(folder))}|^os\.(remove|rmdir) [^/]*$"
        return ["train", *tiny.words(config), "--run", str(folder)], touched, number

    with killer([case(tmp_path / "all", 0)]) as results:
        assert results[0][0] == 0
        operations = results[0][1]
    assert operations > 60
    assert_same_run(tmp_path / "all", finished(name))

    numbers = range(1, operations, operations // 25)
    with killer([case(tmp_path / str(number), number) for number in numbers]) as results:
        assert {code for code, _ in results} == {-signal.SIGKILL}
    for number in numbers:
        folder = tmp_path / str(number)
        go(folder, None if (folder / "config.json").exists() else config)
        assert_same_run(folder, finished(name))
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_run_killed_fifty_times_at_random_resumes(tmp_path: Path) -> None:
    """Fifty processes of one run, one after the other; lines are many enough to be torn."""
    config = replace(tiny.GECO_RUN, steps=100_000, checkpoint_every=20, validate_every=170)
    folder, rng = tmp_path / "run", random.Random(0)
    first = ["train", *tiny.words(config), "--run", str(folder)]
    with killer([(first, r"os.rename .*/000020\.tmp", 1)]) as results:
        assert results[0][0] == -signal.SIGKILL
    again = ["train", "--resume", str(folder)]
    with killer([(again, "", rng.uniform(0, 1.5)) for _ in range(50)]) as results:
        assert [code for code, _ in results] == [-signal.SIGKILL] * 50
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None and int(checkpoint.name) > 100  # it got somewhere
    length = int(checkpoint.name) + 30
    assert go(folder, None, steps=length).reason == "finished"
    go(tmp_path / "whole", replace(config, steps=length))
    assert_same_run(folder, tmp_path / "whole")


# ----------------------------------------------------------------------- stopped


@pytest.mark.parametrize("name", MORE_CONFIGS)
def test_a_run_in_many_pieces_is_the_same_bytes(finished: Finished, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = MORE_CONFIGS[name]
    outcomes = [go(folder, config, max_minutes=0)]
    while outcomes[-1].reason != "finished":
        outcomes.append(go(folder, None, max_minutes=0))
    assert outcomes[:-1] == [Outcome(step, "time") for step in range(1, config.steps)]
    assert outcomes[-1].step == config.steps
    assert_same_run(folder, finished(name))


def test_a_target_that_follows_is_logged_and_saved(finished: Finished) -> None:
    found = rows(finished("following"), "training")
    assert set(found[0]) == KEYS | {"constraint", "below", "distance"}
    targets = [row["constraint"] + row["nll"] for row in found]
    assert targets[0] == pytest.approx(0, abs=1e-3)
    checkpoint = newest_checkpoint(finished("following"))
    assert checkpoint is not None
    saved = torch.load(checkpoint / "training.pt", weights_only=True)["state"]["geco"]
    assert set(saved) == {"zeta", "ema", "target", "spread"}
    pull = 0.5 - found[-1]["below"]
    assert float(saved["target"]) == pytest.approx(targets[-1] + 0.2 * float(saved["spread"]) * pull, rel=1e-4)


def test_a_checkpoint_of_another_kind_of_constraint_does_not_fit(finished: Finished, tmp_path: Path) -> None:
    for name, other in (("geco", "following"), ("following", "geco")):
        folder = tmp_path / name
        shutil.copytree(finished(name), folder)
        content = json.loads((folder / "config.json").read_text()) | {"steps": 20}
        content["model"]["geco"] = to_json(MORE_CONFIGS[other])["model"]["geco"]
        (folder / "config.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="does not fit"):
            go(folder, None)


def test_a_time_limit_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["train", *tiny.words(tiny.RUN), "--run", str(folder), "--max-minutes", "0"]) == 0
    assert f"stopped at step 1 of 14; continue with: emorl train --resume {folder}\n" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "number"), [("plain", signal.SIGINT), ("geco", signal.SIGTERM)])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    finished: Finished, name: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    said: list[str] = []
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: signal.raise_signal(number))
        outcome = train(folder, CONFIGS[name], report=said.append)
    assert outcome == Outcome(7, "interrupted")
    assert said == [f"stopped at step 7 of 14; continue with: emorl train --resume {folder}"]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert go(folder, None) == Outcome(14, "finished")
    assert_same_run(folder, finished(name))


def at_step(patch: pytest.MonkeyPatch, step: int, happens: Callable[[], object]) -> None:
    """Let something happen right after the line of a step is logged."""
    log = RunLog.metrics

    def metrics(self: RunLog, row: dict[str, Any]) -> None:
        log(self, row)
        if row["step"] == step:
            happens()

    patch.setattr(RunLog, "metrics", metrics)


def test_a_second_interruption_stops_at_once(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        at_step(patch, 7, twice)
        assert command(["train", *tiny.words(tiny.RUN), "--run", str(folder)]) == 130
    assert capsys.readouterr().err == "emorl: interrupted\n"
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None and checkpoint.name == "000004"
    go(folder, None)
    assert_same_run(folder, finished("plain"))


# ----------------------------------------------------------------------- resumed


def test_fewer_steps_than_were_taken_are_refused(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished("plain"), folder)
    before = (folder / "config.json").read_bytes()
    assert main(["train", "--resume", str(folder), "--steps", "13"]) == 2
    assert "has taken 14 steps already" in capsys.readouterr().err
    assert (folder / "config.json").read_bytes() == before


def test_data_are_found_wherever_a_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "own.npz"
    write_npz(data, [open_source("tetrominoes").read(np.arange(8))])
    config = replace(tiny.RUN, data="own.npz", data_split="all", num_images=8, steps=2, validate_every=0)
    monkeypatch.chdir(tmp_path)
    train(Path("run"), config, max_minutes=0)
    assert read_json(tmp_path / "run" / "config.json")["data"] == str(data)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train(tmp_path / "run", None).reason == "finished"
    monkeypatch.chdir(tmp_path)
    check_same_config((Path("run"), config))


def test_a_finished_run_says_so_and_stays(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished("plain"), folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said: list[str] = []
    assert train(folder, None, report=said.append) == Outcome(14, "finished")
    assert said == [f"{folder}: finished already, 14 steps"]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was stopped after seven of its steps."""
    folder = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        assert go(folder, tiny.RUN).step == 7
    return folder


@pytest.mark.parametrize("end", ["", '{"step": 7, "lo', '{"step": 7}\n{"step": 8, "validation": {}}\n{"st', "\0\0\0"])
def test_a_torn_end_of_the_log_is_dropped(finished: Finished, stopped: Path, end: str) -> None:
    for name in ("metrics.jsonl", "timing.jsonl"):
        with (stopped / name).open("a") as file:
            file.write(end)
    go(stopped, None)
    assert_same_run(stopped, finished("plain"))
    timing = (stopped / "timing.jsonl").read_text().splitlines()
    assert all(json.loads(line)["seconds_per_step"] > 0 for line in timing)


def test_leftovers_of_a_checkpoint_are_ignored_and_cleaned(finished: Finished, stopped: Path) -> None:
    for name in ("000009.tmp", "000099.tmp"):
        half = stopped / "checkpoint" / name
        half.mkdir()
        (half / "weights.safetensors").write_bytes(b"half")
    go(stopped, None)
    assert sorted(path.name for path in (stopped / "checkpoint").iterdir()) == ["000012", "000014"]
    assert_same_run(stopped, finished("plain"))


def test_a_damaged_checkpoint_is_told_in_one_line(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = newest_checkpoint(stopped)
    assert checkpoint is not None

    def refused() -> str:
        assert main(["train", "--resume", str(stopped)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("emorl: ") and err.count("\n") == 1
        return err

    whole = (checkpoint / "training.pt").read_bytes()
    (checkpoint / "training.pt").write_bytes(whole[: len(whole) // 2])
    assert "training.pt" in refused()
    for content in ({}, [], {"optimizer": {}, "state": {}}, {"optimizer": 3, "state": {"geco": None}}):
        torch.save(content, checkpoint / "training.pt")
        assert "damaged" in refused()
    (checkpoint / "training.pt").write_bytes(whole)
    (checkpoint / "weights.safetensors").write_bytes(b"")
    assert "weights.safetensors" in refused()


def test_a_second_writer_is_refused(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 10, lambda: codes.append(main(["train", "--resume", str(stopped)])))
        assert go(stopped, None).reason == "finished"
    assert codes == [2]
    assert capsys.readouterr().err == f"emorl: {stopped}: another process is writing this run\n"


def test_a_run_is_not_begun_where_one_is(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = metrics(stopped)
    assert main(["train", *tiny.words(tiny.RUN), "--run", str(stopped)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert metrics(stopped) == before


def test_restored_is_what_was_saved(stopped: Path) -> None:
    model, optimizer, state, skipped = restore(stopped, tiny.RUN, torch.device("cpu"))
    assert skipped == (0, 0)
    assert (state.step, state.refinement_steps) == (7, 2)
    assert isinstance(model, torch.nn.Module)
    saved = final_weights(stopped)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    steps = {float(moments["step"]) for moments in optimizer.state_dict()["state"].values()}
    assert steps == {7.0}


# ----------------------------------------------------------------------- what cannot be written or read


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_that_cannot_begin_leaves_its_folder_free(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    for failure, where in ((full, (runs, "save")), (no_memory, (runs, "save")), (no_memory, (Engine, "step"))):
        with monkeypatch.context() as patch:
            patch.setattr(*where, failure)
            assert main(["train", *tiny.words(tiny.RUN), "--run", str(folder)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and err.startswith("emorl: ")
    assert main(["train", *tiny.words(tiny.RUN), "--run", str(folder)]) == 0
    assert_same_run(folder, finished("plain"))


def no_memory(*_: object, **__: object) -> None:
    torch.empty(2**60, dtype=torch.uint8)


def test_a_full_disk_leaves_the_checkpoint_before(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: patch.setattr(runs, "save", full))
        assert main(["train", *tiny.words(tiny.RUN), "--run", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("emorl: cannot write") and err.count("\n") == 1
    assert os.strerror(errno.ENOSPC) in err
    assert sorted(path.name for path in (folder / "checkpoint").iterdir()) == ["000000", "000004"]
    go(folder, None)
    assert_same_run(folder, finished("plain"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_log_on_a_full_disk_is_told_in_one_line(
    finished: Finished, stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = RunLog.__init__

    def on_full_disk(self: RunLog, folder: Path, step: int) -> None:
        begin(self, folder, step)
        self._metrics.close()
        self._metrics = open("/dev/full", "a")  # noqa: SIM115

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "__init__", on_full_disk)
        assert main(["train", "--resume", str(stopped)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"emorl: cannot write to {stopped}: ") and err.count("\n") == 1
    checkpoint = newest_checkpoint(stopped)
    assert checkpoint is not None and checkpoint.name == "000007"
    go(stopped, None)
    assert_same_run(stopped, finished("plain"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "checkpoint"])
def test_something_in_the_way_is_told_in_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["train", *tiny.words(tiny.RUN), "--run", str(folder), "--max-minutes", "0"]) == 0
    capsys.readouterr()
    if name == "metrics.jsonl":
        (folder / name).unlink()
        (folder / name).mkdir()
    else:
        shutil.rmtree(folder / name)
        (folder / name).touch()
    assert main(["train", "--resume", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("emorl: cannot write") and err.count("\n") == 1


def test_a_file_where_the_folder_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        assert main(["train", *tiny.words(tiny.RUN), "--run", str(folder)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("emorl: cannot write") and err.count("\n") == 1


def test_data_that_cannot_be_used_leaves_the_folder_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for changes, said in (
        ({"data": "tetrominos"}, "tetrominoes"),
        ({"num_images": 60_001}, "60001"),
        ({"image_size": (8, 8)}, "35 x 35"),
    ):
        with pytest.raises(InputError, match=said):
            go(folder, replace(tiny.RUN, **changes))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="device"):
        go(folder, tiny.RUN, device="abacus")
    assert go(folder, replace(tiny.RUN, steps=1)).reason == "finished"


def test_a_file_without_splits_is_looked_at_where_it_is_trained_on(tmp_path: Path) -> None:
    source = open_source("tetrominoes")
    write_npz(tmp_path / "own.npz", [source.read(np.arange(4))])
    config = replace(tiny.RUN, data=str(tmp_path / "own.npz"), data_split="all", num_images=4, steps=6)
    images, validation = load_data(config, torch.device("cpu"))
    assert validation is not None and validation.index.tolist() == [0, 1]
    assert torch.equal(images.tensor, torch.from_numpy(source.read(np.arange(4)).image).permute(0, 3, 1, 2))
    assert go(tmp_path / "run", config).reason == "finished"
    assert len(rows(tmp_path / "run", "training")) == 6
    assert [row["held_out"] for row in rows(tmp_path / "run", "validation")] == [False]
    with pytest.raises(InputError, match="split"):
        go(tmp_path / "other", replace(config, data_split="train"))


def test_signs_of_collapse_are_logged_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, ...]] = []

    def signs(masks: np.ndarray, kl: np.ndarray) -> dict[str, str]:
        seen.append((*masks.shape, *kl.shape))
        share = 99 + len(seen) / 10
        nothing = f"the codes carry nothing (KL {len(seen)} nats): try something"
        return {"empty codes": nothing, "one slot": f"one slot takes {share} %: try"}

    monkeypatch.setattr("emorl.train.signs_of_collapse", signs)
    config = replace(tiny.RUN, steps=12, validate_every=3)
    assert main(["train", *tiny.words(config), "--run", str(tmp_path / "run")]) == 0
    assert seen == [(2, 3, 35, 35, 2)] * 3
    found = rows(tmp_path / "run", "validation")
    assert [row["step"] for row in found if "warnings" in row] == [6, 9, 12]  # not while the KL's weight grows
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert told == [
        "warning: step 6: the codes carry nothing (KL 1 nats): try something",
        "warning: step 6: one slot takes 99.1 %: try",
    ]


def test_a_run_that_diverges_stops_and_keeps_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    config = replace(tiny.RUN, learning_rate=1e30, warmup_steps=4, checkpoint_every=1, max_skipped_steps=3)
    assert main(["train", *tiny.words(config), "--run", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "not finite" in err and err.count("\n") == 1
    assert "NaN" not in (folder / "metrics.jsonl").read_text()
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None
    model, _ = load_weights(checkpoint)
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def test_a_run_is_not_begun_beside_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint" / "000004").mkdir(parents=True)
    assert main(["train", *tiny.words(tiny.RUN), "--run", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_finished_run_can_be_given_more_steps(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert main(["train", *tiny.words(replace(tiny.RUN, steps=6)), "--run", str(folder)]) == 0
    before = (folder / "metrics.jsonl").read_bytes()
    assert main(["train", "--resume", str(folder), "--steps", "9"]) == 0
    after = (folder / "metrics.jsonl").read_bytes()
    assert after.startswith(before)
    assert json.loads(after.splitlines()[-1])["step"] >= 8
    assert read_json(folder / "config.json")["steps"] == 9
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None and checkpoint.name == "000009"


def test_a_run_can_start_from_other_weights(finished: Finished, tmp_path: Path) -> None:
    """From those of a run with GECO, by one without, on other data and with other K: its networks are the same."""
    before = tmp_path / "before"
    shutil.copytree(finished("geco"), before)
    model = replace(tiny.RUN.model, num_slots=tiny.RUN.model.num_slots + 1, sigma=0.2)
    config = replace(tiny.RUN, start_from=str(before), model=model, data="multi-dsprites", image_size=(10, 10))
    config = replace(config, fit="centre")
    assert go(tmp_path / "run", config, max_minutes=0).reason == "time"
    weights, about = load_weights(tmp_path / "run" / "checkpoint" / "000000")
    assert about["start_from"] == str(before)
    begun = weights.state_dict()
    assert begun.keys() == final_weights(before).keys()
    for name, tensor in final_weights(before).items():
        assert torch.equal(begun[name], tensor), name
    shutil.rmtree(before)  # a run that has begun does without
    assert go(tmp_path / "run").reason == "finished"
    assert not torch.equal(final_weights(tmp_path / "run")["initial_raw"], begun["initial_raw"])


def test_geco_begins_anew_from_weights_that_had_it(finished: Finished, tmp_path: Path) -> None:
    assert final_weights(finished("geco"))["geco_zeta"] > ZETA_MIN
    go(tmp_path / "run", replace(tiny.GECO_RUN, start_from=str(finished("geco"))), max_minutes=0)
    begun = load_file(tmp_path / "run" / "checkpoint" / "000000" / "weights.safetensors")
    assert begun["geco_zeta"] == torch.tensor(ZETA_MIN)


def test_weights_that_are_not_finite_are_no_start(finished: Finished, tmp_path: Path) -> None:
    model: Any
    model, about = load_weights(newest(finished("plain")))
    model.initial_mean[0] = torch.nan
    make_weights(tmp_path / "weights", model, about)
    with pytest.raises(InputError, match=r"cannot start from .*weights: initial_mean is not finite"):
        go(tmp_path / "run", replace(tiny.RUN, start_from=str(tmp_path / "weights")))


def newest(folder: Path) -> Path:
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None
    return checkpoint


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "no weights called nothing"),
        ("", "start_from is empty"),
        ("nano", "cannot start from nano: "),
        ("iodine/nano", "cannot start from iodine/nano: it is of iodine, not efficientmorl"),
    ],
)
def test_weights_that_do_not_fit_leave_the_folder_free(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["train", *tiny.words(tiny.RUN), "--start-from", name, "--run", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("emorl: ") and said in err and err.count("\n") == 1
    assert go(folder, replace(tiny.RUN, steps=1)).reason == "finished"
