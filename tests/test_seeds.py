"""Several seeds at once are the runs they would be alone, and what happens to one of them stays with it."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emorl import seeds
from emorl.cli import main
from emorl.config import TrainConfig, to_json
from emorl.errors import InputError
from emorl.jobs import Cluster
from emorl.runs import newest_checkpoint, read_json, training_minutes, write_json
from emorl.seeds import SeedRow, check_same_config, over_seeds, places, train_seeds
from emorl.train import Outcome, train
from tests import tiny

CONFIG = replace(tiny.RUN, validate_every=0, seed=1)
ENDLESS = replace(CONFIG, steps=10**6)
EMORL = [sys.executable, "-m", "emorl", "train"]
SCORES = {"foreground_ari", "ari", "miou", "miou_with_background", "mbo", "covering", "mse", "nll", "kl", "kl_stage1"}

Capture = pytest.CaptureFixture[str]


def go(folder: Path, config: TrainConfig, num_seeds: int, **options: Any) -> Outcome:
    """Train one seed alone, with the threads it would have among others."""
    before = torch.get_num_threads()
    torch.set_num_threads(places("cpu", num_seeds)[1])
    try:
        return train(folder, config, device="cpu", report=lambda line: None, **options)
    finally:
        torch.set_num_threads(before)


def words(config: TrainConfig, stem: Path, num_seeds: int, *more: str) -> list[str]:
    return [*tiny.words(config), "--run", str(stem), "--seeds", str(num_seeds), "--device", "cpu", *more]


def metrics(folder: Path) -> bytes:
    return (folder / "metrics.jsonl").read_bytes()


def saved(folder: Path) -> int:
    """Steps of the newest checkpoint."""
    return int((newest_checkpoint(folder) or Path("0")).name)


# ----------------------------------------------------------------------- the whole


def test_seeds_are_the_runs_they_are_alone_and_one_that_fails_takes_none_with_it(
    tmp_path: Path, capsys: Capture
) -> None:
    stem, out = tmp_path / "run", tmp_path / "out.json"
    for seed in (1, 2):
        go(tmp_path / f"alone{seed}", replace(CONFIG, seed=seed), 3)
    assert go(tmp_path / "run-seed2", replace(CONFIG, seed=2), 3, max_minutes=0) == Outcome(1, "time")
    (tmp_path / "run-seed3").mkdir()
    (tmp_path / "run-seed3" / "letter").touch()

    given = words(CONFIG, stem, 3, "--json", str(out))
    assert main(["train", *given]) == 2
    printed, err = capsys.readouterr()
    assert re.fullmatch(r"emorl: seed 3 failed: \S*run-seed3: is not empty.*\n", err)
    for seed in (1, 2):
        assert metrics(tmp_path / f"run-seed{seed}") == metrics(tmp_path / f"alone{seed}")

    rows, summary = read_json(out)["rows"], read_json(out)["summary"]
    assert [(row["seed"], row["state"], row["step"]) for row in rows] == [
        (1, "finished", 14),
        (2, "finished", 14),
        (3, "failed", 0),
    ]
    assert "is not empty" in rows[2]["reason"] and not SCORES & rows[2].keys()
    assert summary.keys() == SCORES | {"minutes"}
    for name in SCORES:
        means = [row[name]["mean"] for row in rows[:2]]
        assert {row[name]["num_images"] for row in rows[:2]} == {320}
        assert summary[name]["num_seeds"] == 2
        assert summary[name]["mean"] == pytest.approx(statistics.fmean(means))
        assert summary[name]["std"] == pytest.approx(abs(means[0] - means[1]) / 2**0.5)
    assert "images 60000-60319" in rows[0]["data"]["fingerprint"] and rows[0]["weights"] == "run-seed1"
    kept = read_json(tmp_path / "run-seed1" / "results.json")  # so that the same command scores it no second time
    assert kept["step"] == 14 and kept["mse"] == rows[0]["mse"]

    table = [line.split() for line in printed.splitlines()]
    values = [f"{rows[0]['foreground_ari']['mean']:.4f}", f"{rows[0]['mse']['mean']:.3g}"]
    assert ["1", "14", "finished", *values, "0.0"] in table
    assert "3 0 of 14 failed:" in " ".join(printed.split())
    assert [line[0] for line in table[-2:]] == ["mean", "median"]

    # What is evaluated from the folder is what the table says.
    assert main(["evaluate", f"{stem}-seed2", "--device", "cpu", "--json", str(tmp_path / "one.json")]) == 0
    assert read_json(tmp_path / "one.json")["mse"]["mean"] == pytest.approx(rows[1]["mse"]["mean"], rel=1e-4)


@contextmanager
def started(given: list[str], env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, of which nothing is left behind."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*EMORL, *given], stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=os.environ | (env or {})
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def wait_for(happens: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not happens():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def begun(folder: Path, num_seeds: int) -> list[Path]:
    """The seeds that train at one time, the first ones."""
    return [folder / f"run-seed{1 + i}" for i in range(len(places("cpu", num_seeds)[0]))]


def test_a_termination_signal_stops_all_seeds_resumable(tmp_path: Path) -> None:
    given = words(ENDLESS, tmp_path / "run", 2)
    folders = begun(tmp_path, 2)
    with started(given) as process:
        wait_for(lambda: min(map(saved, folders)) >= 16, process)
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert out.splitlines()[-1] == f"go on with the same command: emorl train {' '.join(given)}"
    go(tmp_path / "alone", replace(CONFIG, steps=16), 2)
    for folder in folders:
        step = saved(folder)
        assert re.search(rf"^{folder.name[-1]} +{step} of 1000000 +interrupted ", out, re.MULTILINE)
        assert len(metrics(folder).splitlines()) == step
        assert train(folder, None, device="cpu", max_minutes=0, report=lambda line: None) == Outcome(step + 1, "time")
    assert metrics(folders[0]).startswith(metrics(tmp_path / "alone"))


def test_jobs_of_a_cluster_give_the_same_table(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("submitit")
    out = tmp_path / "out.json"
    given = words(replace(CONFIG, steps=2), tmp_path / "run", 1, "--json", str(out), "--cluster", "local")
    assert main(["train", *given]) == 0
    row, summary = read_json(out)["rows"][0], read_json(out)["summary"]
    assert (row["seed"], row["state"], row["step"]) == (1, "finished", 2)
    assert summary["mse"] == {"mean": row["mse"]["mean"], "std": None, "median": row["mse"]["mean"], "num_seeds": 1}
    assert f"their logs in {tmp_path / 'run-jobs'}" in capsys.readouterr().out
    assert list((tmp_path / "run-jobs").glob("*/*.out"))


# ----------------------------------------------------------------------- what is told before anything starts

WRONG = {
    "--seeds 0": "at least 1",
    "--seeds few": "--seeds",
    "--seeds 2 --data nonsense": "nonsense",
    "--seeds 2 --device abacus": "abacus",
    "--seeds 2 --json missing/out.json": "missing",
    "--seeds 2 --cluster cloud": "cloud",
    "--seeds 2 --cluster local --device cuda:1": "cuda:1",
    "--seeds 2 --cluster local --cluster-minutes 0": "1 minute",
    "--seeds 2 --cluster slurm": "srun",
    "--seeds 2 --cluster-partition big": "--cluster-partition goes with --cluster",
    "--cluster slurm": "--cluster goes with --seeds",
    "--json out.json": "--json goes with --seeds",
}


@pytest.mark.parametrize("given", WRONG)
def test_what_is_wrong_is_told_before_anything_starts(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    if "--cluster" in given:
        pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no slurm
    assert main(["train", "nano", *given.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("emorl: ") and err.count("\n") == 1 and WRONG[given] in err
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_config_is_refused(tmp_path: Path) -> None:
    go(tmp_path / "run-seed2", replace(CONFIG, seed=2, steps=1), 2)
    other = replace(CONFIG, steps=2, model=replace(tiny.MODEL, sigma=0.2))
    with pytest.raises(InputError, match=r"run-seed2: .* another model\.sigma, steps; "):
        train_seeds(tmp_path / "run", other, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["run-seed2"]


def test_weights_to_start_from_that_are_not_there_start_no_seed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights called nothing"):
        train_seeds(tmp_path / "run", replace(CONFIG, start_from="nothing"), 2)
    assert list(tmp_path.iterdir()) == []


def test_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without torchrun"):
        train_seeds(tmp_path / "run", CONFIG, 2)


def test_what_is_left_to_the_run_is_what_it_chose(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", to_json(CONFIG))
    check_same_config((tmp_path, CONFIG))
    check_same_config((tmp_path, replace(CONFIG, precision="auto")))
    with pytest.raises(InputError, match="another data;"):
        check_same_config((tmp_path, replace(CONFIG, data="clevr6")))


def test_without_submitit_there_is_a_line_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"emorl\[cluster\]"):
        train_seeds(tmp_path / "run", CONFIG, 2, cluster=Cluster("local", tmp_path / "jobs"))


# ----------------------------------------------------------------------- parts


def test_as_many_at_a_time_as_there_are_cores_or_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert places("cpu", 3) == (["cpu"] * 3, 2)
    assert places("cpu", 9) == (["cpu"] * 8, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert places("auto", 5) == (["cuda:0", "cuda:1"], 4)
    assert places("auto", 1) == (["cuda:0"], 8)
    assert places("cpu", 2) == (["cpu"] * 2, 4)


def test_minutes_are_those_of_all_steps(tmp_path: Path) -> None:
    assert training_minutes(tmp_path) == 0
    lines = [{"step": 50, "seconds_per_step": 0.6}, {"step": 100, "seconds_per_step": 1.2}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "timing.jsonl").write_text(text + '{"step": 150, "secon')
    assert training_minutes(tmp_path) == pytest.approx((50 * 0.6 + 50 * 1.2) / 60)


def test_a_summary_is_over_finished_seeds() -> None:
    def row(seed: int, **scores: float) -> SeedRow:
        result: dict[str, Any] = {name: {"mean": x, "std": 9.0, "num_images": 320} for name, x in scores.items()}
        result |= {"weights": "mean", "options": {}}
        return SeedRow(seed, Path("run"), "finished", "", 14, minutes=2.0 * seed, result=result)

    stopped = SeedRow(9, Path("run"), "time", "", 7, 100.0)
    summary = over_seeds([row(1, mse=1.0, ari=0.5), row(2, mse=2.0), stopped, row(3, mse=6.0)])
    assert summary["mse"] == {"mean": 3.0, "std": pytest.approx(7**0.5), "median": 2.0, "num_seeds": 3}
    assert summary["ari"] == {"mean": 0.5, "std": None, "median": 0.5, "num_seeds": 1}
    assert summary["minutes"] == {"mean": 4.0, "std": 2.0, "median": 4.0, "num_seeds": 3}
    assert over_seeds([stopped]) == {}


@pytest.mark.parametrize(
    ("happens", "state", "reason"),
    [
        (Outcome(7, "time"), "time", ""),
        (Outcome(7, "interrupted"), "interrupted", ""),
        (KeyboardInterrupt(), "interrupted", ""),
        (InputError("the disk\nis full"), "failed", "the disk is full"),
        (RuntimeError("no kernel"), "failed", "RuntimeError: no kernel"),
    ],
)
def test_a_row_says_how_a_seed_ended(
    happens: Any, state: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def trained(folder: Path, config: TrainConfig, *, report: Callable[[str], None], **options: Any) -> Outcome:
        report("warning: step 3: one slot holds all")
        report("stopped")
        assert options["cuda_graph"] is False
        if isinstance(happens, Outcome):
            return happens
        raise happens

    monkeypatch.setattr(seeds, "train", trained)
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    try:
        row = seeds.run_seed((tmp_path / "run", CONFIG), "cpu", None, 1, cuda_graph=False)
    finally:
        signal.signal(signal.SIGTERM, handler)
        torch.set_num_threads(threads)
    assert (row.state, row.reason, row.warnings) == (state, reason, ("warning: step 3: one slot holds all",))
    assert ("Traceback" in capsys.readouterr().err) == (reason[:12] == "RuntimeError")  # a bug of ours shows where


@pytest.mark.parametrize(
    ("states", "code"),
    [(["finished"] * 2, 0), (["finished", "time"], 0), (["failed", "interrupted"], 130), (["time", "failed"], 2)],
)
def test_exit_codes(
    states: list[Any], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    rows = [SeedRow(i, Path("run"), state, "[why]", 7, 1.25, ("warning: it",)) for i, state in enumerate(states)]
    rows = [replace(row, step=14, result={"mse": {"mean": 0.5}}) if row.state == "finished" else row for row in rows]
    monkeypatch.setattr("emorl.cli.train.train_seeds", lambda *given, **options: rows)
    given = words(CONFIG, tmp_path / "run", 2)
    assert main(["train", *given]) == code
    out, err = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for i, state in enumerate(states):
        told = {"finished": "14 finished", "time": "7 of 14 out of time", "failed": "7 of 14 failed: [why]"}
        score = "0.5" if state == "finished" else "-"
        assert f"{i} {told.get(state, '7 of 14 ' + state)} - {score} 1.2" in lines  # without masks there is no ARI
        assert f"seed {i}: warning: it" in lines
    assert (f"go on with the same command: emorl train {' '.join(given)}" in lines) == (states != ["finished"] * 2)
    assert err == ("emorl: seed 1 failed: [why]\n" if code == 2 else "")


# ----------------------------------------------------------------------- stopped, killed, left


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train for a command."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc")
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
def test_a_seed_that_is_killed_and_ctrl_c_for_the_others(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process of the command."""
    given = words(ENDLESS, tmp_path / "run", 3)
    folders = begun(tmp_path, 3)
    with started(given) as process:
        wait_for(lambda: min(map(saved, folders)) > 0, process)
        os.kill(children(process)[0], signal.SIGKILL)
        later = begun(tmp_path, 3)[1:] + [tmp_path / "run-seed3"]
        wait_for(lambda: min(map(saved, later)) > 0, process)  # the next seed takes the place
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert re.search(r"^1 .* failed: killed by SIGKILL, perhaps for want of memory ", out, re.MULTILINE)
    for folder in later:
        assert re.search(rf"^{folder.name[-1]} +{saved(folder)} of 1000000 +interrupted ", out, re.MULTILINE)
        assert len(metrics(folder).splitlines()) == saved(folder)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_all_at_once(tmp_path: Path) -> None:
    config = replace(ENDLESS, batch_size=1000, num_images=1000, checkpoint_every=1)  # no step ends between the two
    with started(words(config, tmp_path / "run", 2)) as process:
        wait_for(lambda: saved(tmp_path / "run-seed1"), process)
        pids = children(process)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, "emorl: interrupted\n")
        assert pids and not any(map(alive, pids))
    assert train(tmp_path / "run-seed1", None, device="cpu", max_minutes=0).reason == "time"


@pytest.mark.slow
def test_seeds_whose_parent_is_killed_stop_resumable(tmp_path: Path) -> None:
    with started(words(ENDLESS, tmp_path / "run", 2)) as process:
        wait_for(lambda: saved(tmp_path / "run-seed1"), process)
        pids = children(process)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while any(map(alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert pids and not any(map(alive, pids))
    folder = tmp_path / "run-seed1"
    assert len(metrics(folder).splitlines()) == saved(folder)


@pytest.mark.slow
def test_local_jobs_stop_resumable(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with started(words(ENDLESS, tmp_path / "run", 2, "--cluster", "local")) as process:
        folders = [tmp_path / "run-seed1", tmp_path / "run-seed2"]
        wait_for(lambda: min(map(saved, folders)) > 0, process)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    for folder in folders:
        assert re.search(rf"^{folder.name[-1]} +{saved(folder)} of 1000000 +interrupted ", out, re.MULTILINE)
        assert len(metrics(folder).splitlines()) == saved(folder)


SLURM = {
    "sbatch": """
        last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
        for i in $(seq 0 "$last"); do
            SLURM_JOB_ID=$((70 + i)) SLURM_ARRAY_JOB_ID=70 SLURM_ARRAY_TASK_ID=$i bash "$1"
        done >/dev/null 2>&1 &
        echo Submitted batch job 70""",
    "srun": """
        while [[ $1 == --* ]]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done
        exec "$@" """,
    "sacct": "echo 'JobID|State|NodeList'",
}
"""As much of slurm as submitit speaks with: one machine, which does one job after the other."""


@pytest.mark.slow
def test_jobs_of_slurm_go_on_without_us(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    for name, script in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    config = replace(CONFIG, steps=60)
    given = words(config, tmp_path / "run", 2, "--cluster", "slurm", "--cluster-minutes", "7")
    with started(given, env) as process:
        wait_for(lambda: saved(tmp_path / "run-seed1"), process)
        process.terminate()
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert re.search(r"^2 .* job 70_1 goes on", out, re.MULTILINE) and "the jobs go on;" in out
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "run-jobs").glob("*/*_result.pkl"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
    asked = next((tmp_path / "run-jobs").glob("*/*.sh")).read_text()
    assert "#SBATCH --time=7\n" in asked and "--gpus-per-node=0" in asked and "--partition" not in asked
    with started(given, env) as process:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    assert len(re.findall(r"^[12] +60 +finished ", out, re.MULTILINE)) == 2
