"""Tables and figures: what is there is what was measured, and what is not there is told by its command."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emorl import representation, results, traverse
from emorl.cli import main
from emorl.config import to_json
from emorl.errors import InputError
from emorl.experiments import read_experiments
from emorl.representation import Budget, describe
from emorl.reproduce import curves
from emorl.reproduce.claims import AtLeast, More
from emorl.reproduce.lab import Lab
from emorl.reproduce.output import Content, Output, claims
from emorl.reproduce.plan import PLAN
from emorl.runs import read_json, training_minutes
from emorl.train import train
from tests.benchmark.test_pictures import rows
from tests.tiny import write_experiment

FIGURES = [name for name in PLAN if name.startswith("fig")]
SPRITES = {"data": "multi-dsprites", "image_size": [20, 20], "fit": "centre"}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def small_measurements() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "describe", partial(describe, budget=Budget(12, 3, 3, 2)))
        patch.setattr(traverse, "FACTOR_IMAGES", 12)
        patch.setattr(representation, "MIN_IOU", 0)  # tiny models find no object
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every experiment of the small scale as tiny runs: two seeds of three are finished, the third is on its way.

    Experiments share their runs, so that each is evaluated once.
    """
    place = tmp_path_factory.mktemp("reproduce")
    (place / "experiments").mkdir()
    (place / "runs").mkdir()
    for name in {name for item in PLAN.values() for name in item.runs.get("nano", {}).values()}:
        few = name.endswith("few")
        write_experiment(place / "experiments" / f"{name}.toml", seeds=[0, 1, 2], overrides=SPRITES if few else {})
    experiments = read_experiments(place / "experiments")
    for name, one in experiments.items():
        for seed in one.seeds:
            kind = "few" if name.endswith("few") else "usual"
            run = place / f"{kind}-{seed}"
            if not run.exists():
                limit = 0 if seed == 2 else None
                train(run, one.config(seed), device="cpu", max_minutes=limit, report=lambda line: None)
            one.folder(place / "runs", seed).symlink_to(run)
    (place / "runs" / "benchmark.json").write_text(json.dumps([*rows("E-0"), *rows("IODINE, flattened")]))
    return place


def made(place: Path, name: str, out: Path, *more: str) -> dict[str, Any]:
    words = ["reproduce", name, "--scale", "nano", "--experiments", str(place / "experiments"), "--out", str(out)]
    assert main([*words, "--runs", str(place / "runs"), "--device", "cpu", *more]) == 0
    found: dict[str, Any] = read_json(out / f"{name}.json")
    return found


def png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# ----------------------------------------------------------------------- nothing was run


@pytest.mark.parametrize("scale", ["paper", "nano"])
def test_without_any_run_everything_says_what_is_missing(scale: str, tmp_path: Path, capsys: Capture) -> None:
    words = ["reproduce", "all", "--scale", scale, "--out", str(tmp_path), "--runs", str(tmp_path / "none")]
    assert main([*words, "--experiments", str(Path(__file__).parents[2] / "experiments")]) == 0
    out = capsys.readouterr().out
    for name in PLAN:
        output = read_json(tmp_path / f"{name}.json")
        text = (tmp_path / f"{name}.md").read_text()
        assert all(
            re.match(r"not run: emorl |no data at (nano|paper) scale: emorl ", told)
            for told in output["sources"].values()
        )
        assert all(told in text for told in output["sources"].values())
        assert {claim["verdict"] for claim in output["claims"]} <= {"not decided"}
        if name in FIGURES:
            assert png(tmp_path / f"{name}.png").std() > 1  # says something
        assert f"wrote {tmp_path / name}.md" in out
    assert (tmp_path / "report.html").read_text().count("not run: emorl") > 20
    rows = [line.split(" | ") for line in (tmp_path / "claims.md").read_text().splitlines() if line.startswith("| ")]
    said = [claim["says"] for name in PLAN for claim in read_json(tmp_path / f"{name}.json")["claims"]]
    assert [row[1] for row in rows[2:]] == said and {row[2] for row in rows[2:]} == {"not decided"}


def test_every_claim_stands_in_one_table() -> None:
    large = AtLeast("a is large", ("a", "x"), 0.5).judge({"a": {"x": [1.0, 1.25]}})
    judged = [large, More("b", ("b", ""), ("c", "")).judge({})]
    output = Output("fig7", "Fig. 7: refinement", "", "nano", Content({}, {}), {}, judged, None)
    assert claims([output]).rows == [
        ["Fig. 7", "a is large", "not decided", "1.12", "-0.463 to 2.71", "at least 0.5"],
        ["Fig. 7", "b", "not decided", "–", "–", "difference above 0"],
    ]


def test_tables_say_it_in_the_cell_and_keep_the_published_value(tmp_path: Path) -> None:
    words = ["reproduce", "table1", "--out", str(tmp_path), "--runs", str(tmp_path / "none")]
    assert main([*words, "--experiments", str(Path(__file__).parents[2] / "experiments")]) == 0
    heading, *lines = read_json(tmp_path / "table1.json")["table"]
    assert heading[:3] == ["", "foreground ARI", "published"]
    cells = {line[0]: line for line in lines}
    assert cells["CLEVR6: Slot MLP"][2] == "0.604 ± 0.066"
    assert re.fullmatch(
        r"not run: emorl train --experiment \S*experiments/slot-mlp-clevr6.toml --runs \S*none",
        cells["CLEVR6: Slot MLP"][1],
    )


# ----------------------------------------------------------------------- with runs


def test_a_table_is_what_the_results_say(place: Path, tmp_path: Path) -> None:
    output = made(place, "table2", tmp_path)
    scores = [read_json(place / f"usual-{seed}" / "results.json") for seed in (0, 1)]
    for heading, key, spec in (("foreground ARI", "foreground_ari", ".3f"), ("MSE", "mse", ".2e"), ("KL", "kl", ".1f")):
        values = [score[key]["mean"] for score in scores]
        assert output["numbers"]["Tetrominoes: reversed prior"][heading] == values
        column = output["table"][0].index(heading)
        line = next(line for line in output["table"] if line[0] == "Tetrominoes: reversed prior")
        assert line[column] == f"{statistics.fmean(values):{spec}} ± {statistics.stdev(values):{spec}}"
    assert line[-4] == "2 of 3 seeds; seed 2: step 1 of 14" and line[-3] == "14"
    minutes = statistics.fmean(training_minutes(place / f"usual-{seed}") for seed in (0, 1))
    assert line[-2] == f"{minutes:.0f}" and "CPU" in line[-1]
    assert "| Tetrominoes: reversed prior | " in (tmp_path / "table2.md").read_text()


def test_disentanglement_as_released_and_as_defined(place: Path, tmp_path: Path) -> None:
    output = made(place, "table3", tmp_path)
    codes = [read_json(place / f"usual-{seed}" / "results.json")["codes"] for seed in (0, 1)]
    numbers = output["numbers"]["EfficientMORL"]
    assert numbers["D"] == [of["dci"]["disentanglement"] for of in codes]
    assert numbers["C as released"] == [of["dci_released"]["completeness"] for of in codes]
    assert numbers["I: R²"] == [statistics.fmean(of["dci"]["informativeness"]["r2"].values()) for of in codes]


def test_curves_are_those_of_the_logs(place: Path, tmp_path: Path) -> None:
    output = made(place, "fig3", tmp_path)
    curve = next(c for c in output["curves"] if c["label"] == "I = 1" and c["panel"].startswith("Negative ELBO"))
    logs = [
        [json.loads(line) for line in (place / f"usual-{seed}" / "metrics.jsonl").read_text().splitlines()]
        for seed in (0, 1)
    ]
    expected = [[row["nll"] + row["kl"] for row in log if "validation" not in row] for log in logs]
    assert np.allclose(np.transpose(curve["values"]), expected)
    assert curve["x"] == list(range(14))
    assert output["numbers"]["I = 1"]["last negative ELBO"] == pytest.approx([values[-1] for values in expected])
    norms = made(place, "fig4", tmp_path)["numbers"]["EfficientMORL, I = 3"]
    assert {"last KL", "last step 1"} <= norms.keys() and "last step 3" not in norms  # tiny runs take two steps at most


@pytest.mark.slow
def test_scores_by_refinement_steps_are_evaluations(place: Path, tmp_path: Path) -> None:
    output = made(place, "fig7", tmp_path)
    kept = read_json(place / "usual-0" / "evaluations.json")["rows"]
    numbers = output["numbers"]["Tetrominoes"]
    for steps in range(7):
        row = kept[f"I = {steps}"]
        assert row["options"]["refinement_steps"] == steps and row["data"]["num_images"] == 320
        for key in ("foreground_ari", "mse", "kl"):
            assert numbers[f"{key} at I = {steps}"][0] == row[key]["mean"]
    expected = kept["I = 0"]["mse"]["mean"] / kept["I = 1"]["mse"]["mean"]
    assert numbers["kept mse"][0] == pytest.approx(expected)

    more = read_json(place / "few-0" / "evaluations.json")["rows"]["K = 6, I = 2, data = multi-dsprites, subset = 4-5"]
    assert more["options"]["num_slots"] == 6 and more["options"]["subset"] == "4-5"
    assert output["numbers"]["more objects"]["foreground_ari at I = 2"][0] == more["foreground_ari"]["mean"]
    change = [
        b - a for a, b in zip(*(output["numbers"][of]["foreground_ari at I = 1"] for of in FEW_AND_MANY), strict=True)
    ]
    assert output["numbers"]["more objects"]["ARI minus that with as many objects as trained on"] == change


def test_a_collapsed_seed_has_nothing_to_keep(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{key: {"mean": value} for key, value in {"foreground_ari": 0.0, "mse": 2.0, "kl": 1.0}.items()}] * 7
    monkeypatch.setattr(curves, "_swept", lambda known, test: rows)
    numbers = made(place, "fig14", tmp_path)["numbers"]["reversed++ prior"]
    assert numbers["kept foreground_ari"] == [] and numbers["kept mse"] == [1.0, 1.0]


def test_a_seed_that_fails_on_more_objects_is_left_out_of_their_difference(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluated(known: Any, test: curves.Conditions, steps: int) -> dict[str, Any]:
        seed = int(known.folder.name[-1])
        if seed == 0 and test.num_slots:
            raise InputError("nll is not finite")
        return {key: {"mean": 0.5 + 0.25 * bool(test.num_slots)} for key in ("foreground_ari", "mse", "kl")}

    monkeypatch.setattr(curves, "evaluated", evaluated)
    output = made(place, "fig7", tmp_path)
    assert len(output["numbers"]["objects as trained on"]["foreground_ari at I = 1"]) == 2
    change = output["numbers"]["more objects"]["ARI minus that with as many objects as trained on"]
    assert change == [0.25] and "nll is not finite" in output["sources"]["more objects"]


FEW_AND_MANY = ("objects as trained on", "more objects")


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(name: str, place: Path, tmp_path: Path) -> None:
    output = made(place, name, tmp_path)
    picture = png(tmp_path / f"{name}.png")
    assert picture.shape[1] > 600 and 0.001 < (picture < 250).mean() < 0.99
    told = list(output["sources"].values())
    if PLAN[name].runs.get("nano"):
        assert all(re.match(r"2 of 3 seeds|shown: seed 0", source) for source in told), told
    judged = {claim["says"]: claim["evidence"] for claim in output["claims"]}
    missing = [says for says, evidence in judged.items() if "needs two seeds" in evidence]
    assert not missing or name == "fig4", missing  # tiny runs do not take so many steps


def test_a_second_time_nothing_is_evaluated(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(place, "fig8", tmp_path / "one"), made(place, "table2", tmp_path / "one")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("evaluated again")

    monkeypatch.setattr(results, "evaluate_feed", never)
    assert (made(place, "fig8", tmp_path / "two"), made(place, "table2", tmp_path / "two")) == first
    assert (tmp_path / "one" / "fig8.png").read_bytes() == (tmp_path / "two" / "fig8.png").read_bytes()


def test_results_serve_where_the_weights_are_not(place: Path, tmp_path: Path) -> None:
    first = made(place, "fig8", tmp_path / "one"), made(place, "table2", tmp_path / "one")
    for run in (place / "runs").glob("*-seed*"):
        light = tmp_path / "runs" / run.name
        light.mkdir(parents=True)
        for name in ("config.json", "results.json", "evaluations.json"):
            if (run / name).exists():
                shutil.copy(run / name, light)
    (tmp_path / "experiments").symlink_to(place / "experiments")
    second = made(tmp_path, "fig8", tmp_path / "two"), made(tmp_path, "table2", tmp_path / "two")
    for one, other in zip(first, second, strict=True):
        assert one["numbers"] == other["numbers"]
    assert second[1]["runs"]["Tetrominoes: EfficientMORL"]["seeds"][1]["step"] == 14
    told = made(tmp_path, "fig18", tmp_path / "two")["sources"]["Tetrominoes"]
    assert "neither a run folder nor a weights folder" in told


# ----------------------------------------------------------------------- the report


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


@pytest.mark.slow
def test_the_report_needs_nothing_beside_itself(place: Path, tmp_path: Path) -> None:
    words = ["reproduce", "all", "--scale", "nano", "--experiments", str(place / "experiments"), "--out", str(tmp_path)]
    assert main([*words, "--runs", str(place / "runs"), "--device", "cpu"]) == 0
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert all(re.match(r"#|data:image/png;base64,", reference) for reference in page.references)
    assert not {"script", "link", "iframe"} & set(page.tags) and "url(" not in text and "@import" not in text
    assert page.tags.count("img") == len(FIGURES) and page.tags.count("section") == len(PLAN)
    assert "0.982 ± 0.018" in text  # published beside measured


# ----------------------------------------------------------------------- what is wrong


def test_names_and_folders_that_are_not_there_are_one_line(tmp_path: Path, capsys: Capture) -> None:
    for words, message in (
        (["fig12"], "no fig12"),
        (["fig3", "--experiments", str(tmp_path / "none")], "no folder with experiments"),
        (["fig10", "--benchmark", str(tmp_path / "bad.json")], "not what emorl benchmark"),
    ):
        (tmp_path / "bad.json").write_text('[{"what": "step"}]')
        given = ["reproduce", words[0], "--out", str(tmp_path / "out"), *words[1:]]
        if "--experiments" not in words:
            given += ["--experiments", str(Path(__file__).parents[2] / "experiments")]
        assert main(given) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("results.json", "{", "not a readable JSON"),
        ("config.json", "[]", "not a config"),
        ("results.json", '{"step": 14}', "not a file of results"),
        ("metrics.jsonl", "{}\n", "not the log of a run"),
        ("metrics.jsonl", '{"step": 13, "loss": 1}\n', "not the log of a run"),
        ("metrics.jsonl", '{"step": 0, "loss": 1, "nll": 1, "kl": 1}\n', "ends at step 0"),
        ("checkpoint/000014/weights.safetensors", "no", "not a readable safetensors file"),
    ],
)
def test_a_damaged_run_is_told_in_its_place(file: str, content: str, message: str, place: Path, tmp_path: Path) -> None:
    """It takes no other run with it."""
    shutil.copytree(place / "experiments", tmp_path / "experiments")
    (tmp_path / "runs").mkdir()
    for seed in (0, 1):
        shutil.copytree(place / f"usual-{seed}", tmp_path / "runs" / f"efficientmorl-nano-seed{seed}")
        (tmp_path / "runs" / f"efficientmorl-nano-seed{seed}" / "results.json").unlink(missing_ok=True)
        (tmp_path / "runs" / f"efficientmorl-nano-seed{seed}" / "evaluations.json").unlink(missing_ok=True)
    (tmp_path / "runs" / "efficientmorl-nano-seed0" / file).write_text(content)
    told = made(tmp_path, "fig3", tmp_path / "out")["sources"]["I = 1"]
    if "weights" not in file:  # which the log does without
        assert told.startswith("1 of 3 seeds; seed 0: ") and message in told
    told = made(tmp_path, "table2", tmp_path / "out")["sources"]["Tetrominoes: EfficientMORL"]
    if "metrics" not in file:  # which the table does without
        assert told.startswith("1 of 3 seeds; seed 0: ") and message in told


def test_pictures_show_the_first_seed_that_can_be_shown(place: Path) -> None:
    lab = Lab(read_experiments(place / "experiments"), place / "runs")
    assert list(lab.ask("efficientmorl-nano", lambda known: known.folder.name, most=1)) == [0]
    states = lab.states("efficientmorl-nano")
    lab._states["efficientmorl-nano"] = [replace(states[0], state="failed", reason="lost"), *states[1:]]
    answers = lab.ask("efficientmorl-nano", lambda known: known.folder.name, most=1)
    assert answers == {1: "efficientmorl-nano-seed1"}
    assert lab.told("efficientmorl-nano", answers) == "1 of 3 seeds; seed 0: failed: lost; seed 2: step 1 of 14"


def test_how_fast_settings_learn_is_what_the_logs_say(tmp_path: Path) -> None:
    curves = {0: {2500: 0.70, 5000: 0.86, 7500: 0.91, 20000: 0.96}, 1: {2500: 0.87, 5000: 0.80, 20000: 0.88}}
    place, plan = tmp_path / "experiments", PLAN["convergence"]
    place.mkdir()
    for name in plan.runs["nano"].values():
        write_experiment(place / f"{name}.toml", seeds=[0, 1, 2], overrides={"steps": 20000})
    experiment = read_experiments(place)["efficientmorl-nano"]
    for seed, curve in curves.items():
        run = experiment.folder(tmp_path / "runs", seed)
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps(to_json(experiment.config(seed))))
        kept = {"step": 20000, "minutes": 1.0, "hardware": "any", "version": "any", "trained_by": "any"}
        (run / "results.json").write_text(json.dumps(kept))
        lines = [{"step": step, "validation": {"foreground_ari": value}} for step, value in curve.items()]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [{"step": 0}, *lines]))
    words = ["reproduce", "convergence", "--scale", "nano", "--experiments", str(place), "--out", str(tmp_path)]
    assert main([*words, "--runs", str(tmp_path / "runs"), "--device", "cpu"]) == 0
    heading, first, second, *_ = read_json(tmp_path / "convergence.json")["table"]
    spread = statistics.stdev([0.70, 0.87])
    assert first[1] == f"0.785 ± {spread:.3f}" and first[3] == "–"  # nobody looked after 10,000
    assert dict(zip(heading, first, strict=True)) | {
        "steps to 0.85, by seed": "5,000, 2,500",
        "steps to 0.9, by seed": "7,500, never",
        "steps to 0.95, by seed": "20,000, never",
        "seeds": "2 of 3 seeds",
    } == dict(zip(heading, first, strict=True))
    assert second[1].startswith("not run: emorl")
