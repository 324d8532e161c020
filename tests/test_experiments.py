"""Experiments: files that say what is trained, runs that go on where they stopped, and what is told of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emorl import experiments
from emorl.cli import main
from emorl.config import from_json, to_json
from emorl.errors import InputError
from emorl.experiments import Experiment, read_experiment, read_experiments, run_experiment, seed_state
from emorl.presets import preset
from emorl.reproduce.plan import PLAN
from emorl.results import Known, known_results
from emorl.runs import newest_checkpoint, read_json
from emorl.train import train
from tests import tiny
from tests.tiny import write_experiment

PROJECT = Path(__file__).resolve().parents[1]
Capture = pytest.CaptureFixture[str]


# ----------------------------------------------------------------------- the files of the project


@pytest.fixture(scope="module")
def planned() -> dict[str, Experiment]:
    return read_experiments(PROJECT / "experiments")


def test_every_planned_experiment_can_be_read_and_named_by_what_it_serves(planned: dict[str, Experiment]) -> None:
    served: dict[str, set[str]] = {name: set() for name in planned}
    for name, item in PLAN.items():
        for scale, runs in item.runs.items():
            for experiment in runs.values():
                assert planned[experiment].scale == scale, (name, experiment)
                served[experiment].add(name)
    assert {name: set(one.serves) for name, one in planned.items()} == served


def test_every_planned_experiment_stands_in_the_list_in_order(planned: dict[str, Experiment]) -> None:
    page = (PROJECT / "experiments" / "README.md").read_text(encoding="utf-8")
    for scale in ("paper", "nano"):
        names = [name for name, one in planned.items() if one.scale == scale]
        places = [page.index(f"[{name}]({name}.toml)") for name in names]
        assert places == sorted(places)
        assert len({planned[name].order for name in names}) == len(names)


def test_without_overrides_an_experiment_is_the_run_of_its_preset(planned: dict[str, Experiment]) -> None:
    """So runs that `emorl train PRESET` made serve as well."""
    for one in planned.values():
        if not one.overrides:
            assert one.config(0) == preset(one.preset)
            assert one.folder(Path("runs"), 3) == Path("runs") / f"{one.preset.replace('/', '-')}-seed3"
        else:
            assert one.config(0) != preset(one.preset)


# ----------------------------------------------------------------------- any file


def test_overrides_reach_every_depth_and_the_seed_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(
        'why = "w"\nscale = "nano"\norder = 1\nhardware = "h"\nserves = []\npreset = "nano"\nseeds = [4, 2]\n'
        "[overrides]\n"
        "curriculum = [[0, 2]]\nmodel.patch.decoder_layers = 3\nmodel.geco = { target_per_element = -1.5 }\n"
    )
    one = read_experiment(path)
    assert one.name == "one" and one.seeds == (4, 2)
    config = one.config(2)
    base = preset("nano")
    assert config.model.geco.target_per_element == -1.5  # type: ignore[union-attr]
    patch = replace(base.model.patch, decoder_layers=3)  # type: ignore[union-attr]
    model = replace(base.model, patch=patch, geco=config.model.geco)  # type: ignore[call-arg, union-attr]
    assert config == replace(base, model=model, curriculum=((0, 2),), seed=2)
    assert from_json(to_json(config), "") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overrides": {"model.num_slotz": 3}}, "num_slotz"),
        ({"overrides": {"steps": "many"}}, "steps"),
        ({"preset": "nonsense"}, "unknown preset"),
        ({"scale": "huge"}, "scale"),
        ({"seeds": []}, "seed"),
        ({"seeds": [1, 1]}, "twice"),
        ({"another": 1}, "another"),
    ],
)
def test_what_cannot_be_is_one_line(change: dict[str, Any], message: str, tmp_path: Path, capsys: Capture) -> None:
    path = write_experiment(tmp_path / "bad.toml", **change)
    assert main(["train", "--experiment", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err


@pytest.mark.parametrize("content", [b"why = ", b"\xff\xfe", b""])
def test_damaged_files_are_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(InputError, match="not the file of an experiment"):
        read_experiment(tmp_path / "bad.toml")
    with pytest.raises(InputError, match="no such file"):
        read_experiment(tmp_path / "none.toml")
    with pytest.raises(InputError, match="no folder with experiments"):
        read_experiments(tmp_path / "nowhere")


# ----------------------------------------------------------------------- training


def test_seeds_are_trained_scored_and_told(tmp_path: Path, capsys: Capture) -> None:
    path, runs = write_experiment(tmp_path / "x.toml", seeds=[1, 0, 5]), tmp_path / "runs"
    words = ["train", "--experiment", str(path), "--runs", str(runs), "--device", "cpu"]
    assert main([*words, "--seeds", "2"]) == 0
    assert "finished" in capsys.readouterr().out
    state = read_json(tmp_path / "x.state.json")
    assert state["command"] == f"emorl train --experiment {path} --runs {runs}"
    rows = state["seeds"]
    told = [(row["seed"], row["state"], row["step"], row["steps"]) for row in rows]
    assert told == [(1, "finished", 14, 14), (0, "finished", 14, 14), (5, "not run", 0, 14)]
    assert rows[0]["minutes"] > 0 and "CPU" in rows[0]["hardware"] and rows[2]["scores"] is None

    results = read_json(runs / "x-seed1" / "results.json")
    assert results["foreground_ari"] == rows[0]["scores"]["foreground_ari"] and results["step"] == 14
    alone = tmp_path / "alone"
    train(alone, replace(read_experiment(path).config(1)), device="cpu", report=lambda line: None)
    assert (alone / "metrics.jsonl").read_bytes() == (runs / "x-seed1" / "metrics.jsonl").read_bytes()

    before = {file: file.stat().st_mtime_ns for file in (runs / "x-seed1").rglob("*") if file.is_file()}
    assert main(words) == 0  # trains the third one, and touches no other
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert [row["state"] for row in read_json(tmp_path / "x.state.json")["seeds"]] == ["finished"] * 3


def test_the_minutes_are_those_of_all_seeds_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = read_experiment(write_experiment(tmp_path / "x.toml", overrides={"steps": 10**6}))
    started = time.monotonic()
    states, interrupted = run_experiment(one, tmp_path, device="cpu", max_minutes=0.03, report=lambda line: None)
    assert time.monotonic() - started < 60 and not interrupted
    assert [state.state for state in states] == ["unfinished", "not run"]
    assert 0 < states[0].step < 10**6 and f"step {states[0].step} of 1000000" in states[0].told
    with pytest.raises(InputError, match="more than 0"):
        run_experiment(one, tmp_path, max_minutes=0)
    with pytest.raises(InputError, match="has 2 seeds"):
        run_experiment(one, tmp_path, num_seeds=3)


def test_interrupted_it_is_resumable_and_says_130(tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "x.toml", overrides={"steps": 10**6})
    words = [sys.executable, "-m", "emorl", "train", "--experiment", str(path), "--runs", str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*words, "--device", "cpu"], env=env, stdout=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while newest_checkpoint(tmp_path / "x-seed0") is None and time.monotonic() < end:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with the same command" in out
    rows = read_json(tmp_path / "x.state.json")["seeds"]
    assert [row["state"] for row in rows] == ["unfinished", "not run"]
    checkpoint = newest_checkpoint(tmp_path / "x-seed0")
    assert checkpoint is not None and int(checkpoint.name) == rows[0]["step"]


def test_a_seed_that_fails_is_told_and_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = read_experiment(write_experiment(tmp_path / "x.toml"))

    def failing(folder: Path, config: Any, **options: Any) -> Any:
        outcome = train(folder, config, **{**options, "max_minutes": 0} if "seed0" in folder.name else options)
        if "seed0" in folder.name:
            raise InputError("its losses\nare not finite")
        return outcome

    def out_of_memory(folder: Path, config: Any, **options: Any) -> Any:
        if "seed0" in folder.name:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(folder, config, **options)

    monkeypatch.setattr(experiments, "train", out_of_memory)
    states, _ = run_experiment(one, tmp_path / "other", device="cpu", report=lambda line: None)
    assert "OutOfMemoryError: CUDA out of memory" in states[0].told and states[1].state == "finished"
    assert seed_state(one, 0, tmp_path / "other").told == states[0].told  # also for those who come later

    monkeypatch.setattr(experiments, "train", failing)
    states, _ = run_experiment(one, tmp_path, device="cpu", report=lambda line: None)
    assert [state.told for state in states] == ["failed: its losses are not finite", "finished"]
    assert seed_state(one, 0, tmp_path).told == states[0].told  # also for those who come later

    monkeypatch.undo()
    states, _ = run_experiment(one, tmp_path, device="cpu", max_minutes=1e-9, report=lambda line: None)
    assert states[0].state == "failed"  # not tried again

    def stopped(folder: Path, config: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "train", stopped)
    states, interrupted = run_experiment(one, tmp_path, device="cpu", report=lambda line: None)
    assert interrupted and states[0].state == "unfinished"  # the failure was that of an earlier call

    monkeypatch.undo()
    states, _ = run_experiment(one, tmp_path, device="cpu", report=lambda line: None)
    assert [state.state for state in states] == ["finished"] * 2


def test_two_calls_at_once_do_not_take_each_other_for_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = read_experiment(write_experiment(tmp_path / "x.toml", seeds=[0]))
    refused = []

    def meanwhile(folder: Path, config: Any, **options: Any) -> Any:
        with pytest.raises(InputError, match="another process is training") as caught:
            run_experiment(one, tmp_path, device="cpu", report=lambda line: None)
        refused.append(caught.value)
        return train(folder, config, **options)

    monkeypatch.setattr(experiments, "train", meanwhile)
    states, _ = run_experiment(one, tmp_path, device="cpu", report=lambda line: None)
    assert len(refused) == 1 and states[0].state == "finished"
    assert read_json(tmp_path / "x.state.json")["seeds"][0]["state"] == "finished"


def test_what_cannot_be_written_is_told_before_anything_is_trained(tmp_path: Path, capsys: Capture) -> None:
    path = write_experiment(tmp_path / "x.toml")
    (tmp_path / "file").touch()
    assert main(["train", "--experiment", str(path), "--runs", str(tmp_path / "file")]) == 2
    assert "cannot write to" in capsys.readouterr().err
    (tmp_path / "x.state.json").mkdir()
    assert main(["train", "--experiment", str(path), "--runs", str(tmp_path / "runs")]) == 2
    assert "x.state.json" in capsys.readouterr().err and not list((tmp_path / "runs").glob("x-*"))


@pytest.mark.parametrize("content", ["[]", '{"seeds": [1]}', "{"])
def test_a_damaged_state_file_is_told_and_made_anew(content: str, tmp_path: Path) -> None:
    one = read_experiment(write_experiment(tmp_path / "x.toml", seeds=[0]))
    train(tmp_path / "x-seed0", one.config(0), device="cpu", max_minutes=0, report=lambda line: None)
    (tmp_path / "x.state.json").write_text(content)
    assert "x.state.json" in seed_state(one, 0, tmp_path).told
    states, _ = run_experiment(one, tmp_path, device="cpu", report=lambda line: None)
    assert states[0].state == "finished" == read_json(tmp_path / "x.state.json")["seeds"][0]["state"]


def test_commands_can_be_pasted(tmp_path: Path) -> None:
    one = read_experiment(write_experiment(tmp_path / "a b.toml"))
    assert one.command(Path("runs")) == f"emorl train --experiment '{tmp_path}/a b.toml'"
    assert one.command(tmp_path / "c d").endswith(f" --runs '{tmp_path}/c d'")


def test_kept_results_stand_for_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained anew where the weights are not."""
    one = read_experiment(write_experiment(tmp_path / "x.toml", seeds=[0]))
    run_experiment(one, tmp_path, device="cpu", report=lambda line: None)
    shutil.rmtree(tmp_path / "x-seed0" / "checkpoint")
    monkeypatch.setattr(experiments, "train", None)
    states, _ = run_experiment(one, tmp_path, device="cpu", report=lambda line: None)
    assert states[0].state == "finished"


def test_a_folder_that_holds_another_run_is_refused_before_anything_starts(tmp_path: Path, capsys: Capture) -> None:
    path = write_experiment(tmp_path / "x.toml")
    (tmp_path / "x-seed1").mkdir()
    (tmp_path / "x-seed1" / "config.json").write_text(json.dumps(to_json(replace(tiny.RUN, batch_size=3, seed=1))))
    assert main(["train", "--experiment", str(path), "--runs", str(tmp_path)]) == 2
    assert "another batch_size" in capsys.readouterr().err and not (tmp_path / "x-seed0").exists()
    state = seed_state(read_experiment(path), 1, tmp_path)
    assert state.state == "failed" and "another batch_size" in state.reason


# ----------------------------------------------------------------------- what is known of a run


def test_evaluate_keeps_the_default_results_in_the_run_folder(tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    train(run, tiny.RUN, device="cpu", report=lambda line: None)
    assert main(["evaluate", str(run), "--device", "cpu", "--num-images", "3"]) == 0
    assert main(["evaluate", str(run), "--device", "cpu", "--refinement-steps", "0"]) == 0
    assert not (run / "results.json").exists()
    assert (
        main(["evaluate", str(run), "--device", "cpu", "--json", str(tmp_path / "r.json"), "--batch-size", "50"]) == 0
    )
    assert "kept" in capsys.readouterr().out
    kept, printed = read_json(run / "results.json"), read_json(tmp_path / "r.json")
    assert {name: kept[name] for name in printed} == printed
    assert kept["step"] == 14 and kept["minutes"] > 0 and "CPU" in kept["hardware"]
    assert Known(run, "cpu").results() == kept  # nothing is evaluated twice


def test_results_belong_to_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, tiny.RUN, device="cpu", report=lambda line: None)
    before = Known(run, "cpu").results()
    again = Known(run, "cpu").kept("anything", lambda: {"value": 1})
    assert Known(run, "cpu").kept("anything", lambda: {"value": 2}) == again == {"value": 1}
    train(run, None, steps=16, device="cpu", report=lambda line: None)
    after = Known(run, "cpu").results()
    assert after["step"] == 16 and after["mse"] != before["mse"]
    assert Known(run, "cpu").kept("anything", lambda: {"value": 2}) == {"value": 2}

    old = Known(run, "cpu")
    assert old.checkpoint.name == "000016"
    train(run, None, steps=18, device="cpu", report=lambda line: None)  # goes on while the old one is evaluated
    assert Known(run, "cpu").kept("more", lambda: {"value": 3}) == {"value": 3}
    assert old.kept("more", lambda: {"value": 4}) == {"value": 4}  # of an older checkpoint: not written
    assert Known(run, "cpu").kept("more", lambda: {"value": 5}) == {"value": 3}
    late = old.results()
    assert (late["step"], late["mse"]) == (16, after["mse"]) and known_results(run) == {}

    light = tmp_path / "light"  # results kept where the weights are not
    light.mkdir()
    (light / "results.json").write_text((run / "results.json").read_text())
    assert Known(light).results() == after
    with pytest.raises(InputError, match="light"):
        Known(light).results(codes=True)
    (light / "results.json").write_text("[]")
    with pytest.raises(InputError, match="not a file of results"):
        Known(light).results()
