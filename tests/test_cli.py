"""Commands: what they write, and that whatever is wrong is told in one line with exit code 2."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import emorl
from emorl.benchmark.measure import Point
from emorl.benchmark.timing import Rates
from emorl.cli import COMMANDS, command, main
from emorl.config import to_json
from emorl.data.sources import DATASETS, make, open_source
from emorl.errors import InputError
from emorl.feed import feed
from emorl.models.efficientmorl import EfficientMORL, as_released
from emorl.presets import PRESETS, preset
from emorl.released import to_released_names
from emorl.runs import load_weights, make_weights, read_json
from tests import tiny
from tests.models.plain import random_weights

Capture = pytest.CaptureFixture[str]
SCORES = {"foreground_ari", "ari", "miou", "miou_with_background", "mbo", "covering", "mse", "nll", "kl", "kl_stage1"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights, data, and whatever can be wrong with them."""
    folder = tmp_path_factory.mktemp("files")
    about = {"data": "tetrominoes", "image_size": [35, 35]}
    make_weights(folder / "weights", tiny.build(), about)
    make_weights(folder / "misshapen", tiny.build(), about)
    tensors = load_file(folder / "misshapen" / "weights.safetensors")
    tensors["attention.key.weight"] = torch.zeros(3, 5)
    save_file(tensors, folder / "misshapen" / "weights.safetensors")

    make("tetrominoes", folder / "good.tfrecords", num=6)
    whole = (folder / "good.tfrecords").read_bytes()
    (folder / "truncated.tfrecords").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    (folder / "flipped.tfrecords").write_bytes(flipped)
    make("tetrominoes", folder / "good.npz", num=6)
    make("tetrominoes", folder / "train.h5", num=70, split="train")
    image = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(folder / "mask.npz", image=image, mask=np.zeros((2, 8, 7), np.uint8))
    np.savez(folder / "floats.npz", image=image / 255.0)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    Image.new("RGB", (9, 9), "red").save(folder / "good.png")
    torch.save({"model": {"x": Hostile(folder / "it-ran")}}, folder / "hostile.pth")
    (folder / "empty").mkdir()
    (folder / "config-only").mkdir()
    (folder / "config-only" / "config.json").write_text("{")
    return folder


class Hostile:
    """Makes a folder when a careless reader unpickles it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


# ----------------------------------------------------------------------- what is wrong

WRONG = {
    # the command itself
    "nonsense": "nonsense",
    "--nonsense": "--nonsense",
    "data": "make, convert, show or info",
    "data nonsense": "make, convert, show or info",
    "train": "efficientmorl/nano",
    # unknown options, wrong and missing values
    "train nano --nonsense 3": "--nonsense",
    "train nano nonsense": "nonsense",
    "train nano --steps many": "--steps",
    "train nano --steps": "--steps",
    "train nano --steps 0": "steps",
    "train nano --decay sudden": "sudden",
    "train nano --curriculum 0": "--curriculum",
    "train nano --curriculum 1 1": "curriculum",
    "train nano --seed 100000000000000000000": "seed",
    "train nano --image-size 5": "--image-size",
    "train nano --model.decoder big": "big",
    "train nano --batch-size 70000": "batch_size",
    "train nano --learning-rate nan": "learning_rate",
    "train nano --model.num-slots 0": "num_slots",
    "train nano --model.slot-dim 0": "slot_dim",
    "train nano --model.sigma 0": "sigma",
    "train nano --model.patch.encoder-patch 0": "encoder_patch",
    "train nano --model.patch.decoder-waves -1": "decoder_waves",
    "train nano --device abacus": "abacus",
    "train nano --data nonsense": "nonsense",
    "train nano --data {files}/mask.npz --data-split all": "mask",
    "train nano --data {files}/flipped.tfrecords --data-split all": "flipped.tfrecords",
    "train nano --data {files}/good.npz": "split",
    "train nano --data {files}/good.npz --data-split all --batch-size 1": "num_images",
    "train tetrominos": "did you mean efficientmorl/tetrominoes?",
    "train --resume": "--resume",
    "train --resume missing": "missing",
    "train --resume {files}/empty": "no run to resume",
    "train --resume {files}/config-only": "config.json",
    "train --resume {files}/weights": "not a run",
    "train --resume {files}/empty --batch-size 3": "--batch-size",
    "evaluate": "required",
    "evaluate {files}/weights --nonsense": "--nonsense",
    "evaluate {files}/weights --split sideways": "sideways",
    "evaluate {files}/weights --num-slots few": "--num-slots",
    "evaluate {files}/weights --num-slots 0 --num-images 2": "num_slots",
    "evaluate {files}/weights --refinement-steps -1 --num-images 2": "refinement_steps",
    "evaluate {files}/weights --batch-size 0": "--batch-size",
    "evaluate {files}/weights --num-images 0": "--num-images",
    "evaluate {files}/weights --num-images 321 --refinement-steps 0": "320",
    "evaluate {files}/weights --device abacus": "abacus",
    "evaluate {files}/weights --num-images 1 --json missing/results.json": "missing",
    "evaluate {files}/weights --codes --num-slots 3 4": "one K and one I",
    "sample": "weights",
    "sample {files}/weights --num 0": "at least 1",
    "sample {files}/weights --out samples.gif": ".png or .pdf",
    "sample {files}/weights --num-slots 0": "num_slots",
    "decompose {files}/weights {files}/good.png": "--out",
    "decompose {files}/weights tetrominoes --num-images 0 --out out": "no images",
    "decompose {files}/weights {files}/good.png --num-slots 300 --out out": "256",
    "decompose {files}/weights {files}/good.png --out {files}/good.png": "not an empty folder",
    "decompose {files}/weights {files}/good.png --out {files}/good.png/out": "cannot write",
    "demo --weights {files}/weights --num-images 0": "--num-images",
    "demo --weights {files}/weights --num-images 1 --out demo.txt": ".png",
    "train nano --protocol monet": "monet",
    "train nano --subset seven": "no subset 'seven'",
    "train clevr6 --image-size 96 128": "undistorted",
    "train nano --data {files}/train.h5 --num-images 64": "name the file with the validation split",
    "evaluate {files}/weights --protocol monet": "monet",
    "evaluate {files}/weights --subset seven": "no subset 'seven'",
    "evaluate {files}/weights --subset 8-9": "8 to 9 objects",
    "evaluate {files}/weights --fit sideways": "sideways",
    "evaluate {files}/weights --fit clevr": "for 240 x 320",
    "evaluate {files}/weights --data {files}/good.npz --split test": "no split 'test'",
    "evaluate {files}/weights --data {files}/train.h5 --split test": "is the train split",
    "decompose {files}/weights tetrominoes --subset seven --out out": "no subset 'seven'",
    "data convert": "required",
    "data convert {files}/good.npz": "required",
    "data convert missing.npz out.h5": "missing.npz",
    "data convert {files}/good.npz out.txt": "end its name with",
    "data convert {files}/good.npz missing/out.h5": "missing",
    "data convert {files}/good.npz {files}/good.tfrecords": "exists",
    "data convert {files}/good.npz out.h5 --start 6": "no images from 6",
    "data convert {files}/good.npz out.h5 --stop 7": "it has 6",
    "data convert {files}/truncated.tfrecords out.h5": "truncated.tfrecords",
    "data convert {files}/good.npz out.h5 --group a/b": "a/b",
    "data show {files}/good.npz --split test": "no split",
    "data show tetrominoes --image-size 64 64": "35 x 35, not 64 x 64",
    "data show tetrominoes --subset 5-4": "no subset",
    "data info {files}/good.npz --seed 1": "no seed",
    "data make tetrominoes": "--out",
    "data make tetrominoes --out scenes.txt": ".npz",
    "data make tetrominoes --num 2 --out missing/scenes.npz": "missing",
    "data make tetrominoes --num 2 --out {files}/good.npz": "exists",
    "data make tetrominoes --num 0 --out scenes.npz": "0 scenes",
    "data make nonsense --out scenes.npz": "nonsense",
    "data show tetrominoes --num 0": "--num",
    "data show tetrominoes --first 99999": "60319",
    "data show {files}/good.npz --out sheet.txt": ".png",
    "demo --weights missing --out sheet.jpg": ".png",  # said before anything is read
    "data show {files}/good.npz --out {files}/good.png/sheet.png": "cannot write",
    "data info {files}/good.npz --json missing/facts.json": "missing",
    "benchmark --memory --size 0 8": "--size",
    "benchmark --memory --batch-size 0": "--batch-size",
    "benchmark --memory --refinement-steps": "--refinement-steps",
    "benchmark --memory --refinement-steps -1": "--refinement-steps",
    "benchmark --memory --preset nonsense": "nonsense",
    "benchmark --memory --sweep": "choose one",
    "benchmark --sweep --num-slots 3": "their own models and shapes",
    "benchmark --models --sweep": "choose one",
    "benchmark --models --size 8 8": "their own models and shapes",
    "benchmark --sweep --preset nano": "their own models and shapes",
    "benchmark --preset nano --out pictures": "--sweep",
    "benchmark --preset nano --rounds 0": "--rounds",
    "benchmark --preset nano --memory-budget-gib 4": "--memory-budget-gib",
    "benchmark --memory --memory-budget-gib 0": "--memory-budget-gib",
    "benchmark --preset nano --num-slots 0": "num_slots",
    "benchmark --preset nano --decoder big": "big",
    "benchmark --preset nano --precision float8": "float8",
    "benchmark --sweep --out {files}/good.png": "good.png",
    "benchmark --preset nano --json missing/rows.json": "missing",
    "verify-reference": "reference file",
    "verify-reference {files}/good.npz --dtype float16": "float16",
    "import-released {files}/hostile.pth --out out": "--preset",
    # files that are not there
    "evaluate missing": "missing",
    "evaluate {files}/weights --data missing.npz": "missing.npz",
    "decompose {files}/weights missing.png --out out": "missing.png",
    "demo --weights missing": "missing",
    "data show missing.tfrecords": "missing.tfrecords",
    "data info missing.npz": "missing.npz",
    "verify-reference missing.npz": "missing.npz",
    "import-released missing.pth --preset tetrominoes --out out": "missing.pth",
    # files that are damaged or of another kind
    "evaluate {files}/weights --data {files}/truncated.tfrecords": "truncated.tfrecords",
    "evaluate {files}/weights --data {files}/flipped.tfrecords": "flipped.tfrecords",
    "evaluate {files}/weights --data {files}/broken.png": "broken.png",
    "evaluate {files}/weights --data {files}/mask.npz": "'mask'",
    "evaluate {files}/weights --data {files}/floats.npz": "'image'",
    "evaluate {files}/weights --data {files}/empty": "no pictures",
    "evaluate {files}/misshapen": "attention.key.weight has shape (3, 5)",
    "evaluate {files}/empty": "neither",
    "evaluate {files}/good.npz": "good.npz",
    "decompose {files}/misshapen {files}/good.png --out out": "attention.key.weight",
    "decompose {files}/weights {files}/broken.png --out out": "broken.png",
    "decompose {files}/weights {files}/mask.npz --out out": "'mask'",
    "data show {files}/truncated.tfrecords": "truncated.tfrecords",
    "data show {files}/flipped.tfrecords": "flipped.tfrecords",
    "data show {files}/broken.png": "broken.png",
    "data info {files}/truncated.tfrecords": "truncated.tfrecords",
    "data info {files}/flipped.tfrecords": "flipped.tfrecords",
    "data info {files}/mask.npz": "'mask'",
    "verify-reference {files}/good.npz": "not a reference file",
    "verify-reference {files}/broken.png": "broken.png",
    "import-released {files}/hostile.pth --preset tetrominoes --out out": "refused",
    "import-released {files}/good.npz --preset tetrominoes --out out": "good.npz",
    "import-released {files}/hostile.pth --preset nonsense --out out": "nonsense",
}
"""Words -> what the line must speak of."""


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_is_told_in_one_line(
    words: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.format(files=files).split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("emorl: ") and err.endswith("\n") and err.count("\n") == 1
    assert WRONG[words] in err
    assert "Traceback" not in err and "---" not in err and "──" not in err and "\x1b" not in err
    assert not (files / "it-ran").exists()
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert not left  # a command that is refused leaves no half results


def test_nothing_is_asked_and_all_is_told(capsys: Capture) -> None:
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert main(["--help"]) == main(["-h"]) == 0
    assert capsys.readouterr().out == 2 * out


def test_the_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{emorl.__version__}\n"


def test_an_interruption_while_it_loads_is_one_line() -> None:
    """Python names what it imports: PyTorch comes early, and takes a second."""
    words = [sys.executable, "-X", "importtime", "-m", "emorl", "demo"]
    pipe = subprocess.PIPE

    def hear() -> None:
        """What is started in the background may ignore interruptions."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, preexec_fn=hear) as process:
        assert process.stderr is not None
        assert any("torch." in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        said = [line for line in process.stderr if not line.startswith("import time:")]
    assert (said, process.wait()) == (["emorl: interrupted\n"], 130)


def test_boxes_of_the_parser_leave_no_trace(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """It draws others where it writes UTF-8, and colours on a terminal."""

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal(io.BytesIO(), encoding="utf-8"))
    assert main(["evaluate", str(files / "weights"), "--split", "sideways"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("emorl: invalid choice 'sideways' for argument '--split'. Expected one of (")
    assert err.endswith("). (emorl evaluate --help tells the options)\n")


# ----------------------------------------------------------------------- help


@pytest.mark.parametrize(
    "words",
    [*COMMANDS, "data make", "data convert", "data show", "data info", "train nano", "train clevr6"],
)
def test_every_command_has_help(words: str, capsys: Capture) -> None:
    try:
        code: object = main([*words.split(), "--help"])
    except SystemExit as stop:  # the way of the parser
        code = stop.code or 0
    assert code == 0
    out, err = capsys.readouterr()
    assert words.split()[0] in out and len(out.splitlines()) > 2 and not err


def test_every_command_says_what_it_does() -> None:
    for name, (_, says) in COMMANDS.items():
        assert says and command(name).__doc__ == says


def test_help_of_train_lists_the_presets(capsys: Capture) -> None:
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name.removeprefix("efficientmorl/") in out for name in PRESETS)


# ----------------------------------------------------------------------- data


def test_the_generators_are_listed(capsys: Capture) -> None:
    assert main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in DATASETS)


def test_files_are_converted(files: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["data", "convert", str(files / "good.tfrecords"), str(tmp_path / "out.h5"), "--start", "1", "--stop", "5"]
    assert main(words) == 0 and "out.h5" in capsys.readouterr().out
    converted = open_source(tmp_path / "out.h5", split="train")  # what is no split is for training
    np.testing.assert_array_equal(
        converted.read(np.arange(4)).image, open_source(files / "good.npz").read(np.arange(1, 5)).image
    )
    assert main(words) == 2 and main([*words, "--overwrite"]) == 0
    words = ["data", "convert", "tetrominoes", str(tmp_path / "test.h5"), "--split", "test", "--stop", "3"]
    assert main(words) == 0
    assert len(open_source(tmp_path / "test.h5", split="test")) == 3
    assert main([*words, "--overwrite", "--group", "mine"]) == 0
    assert open_source(tmp_path / "test.h5").describe()["group"] == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "test.h5"]


@pytest.mark.parametrize("name", ["scenes.npz", "scenes.tfrecords", "scenes.h5"])
def test_scenes_are_made_shown_and_described(name: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / name
    words = ["data", "make", "tetrominoes", "--out", str(path), "--num", "5", "--split", "test", "--seed", "3"]
    assert main(words) == 0
    assert str(path) in capsys.readouterr().out
    made, scenes = open_source(path), open_source("tetrominoes", split="test", seed=3)
    assert len(made) == 5
    np.testing.assert_array_equal(made.read(np.arange(5)).image, scenes.read(np.arange(5)).image)
    assert main(words) == 2 and main([*words, "--overwrite"]) == 0
    capsys.readouterr()

    assert main(["data", "show", str(path), "--out", str(tmp_path / "sheet.png"), "--num", "3", "--first", "1"]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 35
    capsys.readouterr()

    assert main(["data", "info", str(path), "--json", str(tmp_path / "facts.json")]) == 0
    facts = read_json(tmp_path / "facts.json")
    assert facts == {**made.describe(), "fingerprint": made.fingerprint()}
    assert (facts["num_images"], facts["size"]) == (5, [35, 35])
    out = capsys.readouterr().out
    assert all(f"{key}: " in out for key in facts)


# ----------------------------------------------------------------------- train


def test_every_value_of_a_config_can_be_given(tmp_path: Path) -> None:
    for name, config in (("plain", tiny.RUN), ("geco", tiny.GECO_RUN)):
        given = replace(config, steps=1, validate_every=0)
        assert main(["train", *tiny.words(given), "--run", str(tmp_path / name)]) == 0
        assert read_json(tmp_path / name / "config.json") == json.loads(json.dumps(to_json(given)))


def test_a_run_folder_is_named_after_preset_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = tiny.words(replace(tiny.RUN, steps=1, validate_every=0, seed=7))
    assert main(["train", *words, "--released"]) == 0
    folder = tmp_path / "runs" / "efficientmorl-nano-seed7"
    assert main(["train", *words]) == 2  # it is there
    released = json.loads(json.dumps(to_json(replace(tiny.RUN, model=as_released(tiny.MODEL)))))
    assert read_json(folder / "config.json")["model"] == released["model"]
    assert main(["train", f"--resume={folder}"]) == 0


def test_a_run_folder_can_be_evaluated_and_decomposed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = replace(tiny.RUN, steps=2, validate_every=0)
    assert main(["train", *tiny.words(config), "--run", str(run)]) == 0
    assert main(["evaluate", str(run), "--num-images", "2", "--json", str(tmp_path / "results.json")]) == 0
    assert read_json(tmp_path / "results.json")["data"]["name"] == "tetrominoes"
    assert main(["decompose", str(run), "tetrominoes", "--num-images", "1", "--out", str(tmp_path / "out")]) == 0


def test_scores_are_told_where_they_cannot_be_kept_and_where_codes_fail(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, results = tmp_path / "run", tmp_path / "results.json"
    config = replace(tiny.RUN, steps=1, validate_every=0)
    assert main(["train", *tiny.words(config), "--run", str(run)]) == 0

    def refuse(*anything: object, **more: object) -> None:
        raise InputError("no")

    monkeypatch.setattr("emorl.cli.evaluate.keep_results", refuse)
    assert main(["evaluate", str(run), "--json", str(results)]) == 0
    said = capsys.readouterr()
    assert "foreground_ari" in said.out and said.err.endswith("not kept: no\n")
    results.unlink()
    monkeypatch.setattr("emorl.cli.evaluate.describe", refuse)
    assert main(["evaluate", str(run), "--num-images", "2", "--codes", "--json", str(results)]) == 2
    assert "foreground_ari" in capsys.readouterr().out and read_json(results).keys() >= SCORES


def test_a_mistyped_data_set_is_guessed(tmp_path: Path, capsys: Capture) -> None:
    assert main(["train", "nano", "--data", "tetrominos", "--run", str(tmp_path / "run")]) == 2
    assert "did you mean tetrominoes?" in capsys.readouterr().err


def test_the_demo_of_weights_for_data_without_masks(files: Path, tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "own.npz", image=open_source("tetrominoes").read(np.arange(3)).image)
    shutil.copytree(files / "weights", tmp_path / "weights")
    content = read_json(tmp_path / "weights" / "config.json")
    content["about"] |= {"data": str(tmp_path / "own.npz"), "protocol": "genesis"}
    (tmp_path / "weights" / "config.json").write_text(json.dumps(content))
    words = ["demo", "--weights", str(tmp_path / "weights"), "--num-images", "2", "--out", str(tmp_path / "demo.png")]
    assert main(words) == 0
    assert "mse" in capsys.readouterr().out


def test_a_picture_whose_name_is_no_utf8(files: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        shutil.copyfile(files / "good.png", tmp_path / name)
    except OSError:
        pytest.skip("file names must be UTF-8 here")
    out = tmp_path / "out"
    assert main(["decompose", str(files / "weights"), str(tmp_path / name), "--out", str(out)]) == 0


def test_scenes_of_the_prior_are_drawn(files: Path, tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "samples.png"
    assert main(["sample", str(files / "weights"), "--num", "3", "--size", "20", "30", "--out", str(picture)]) == 0
    assert str(picture) in capsys.readouterr().out
    with Image.open(picture) as drawn:
        assert min(drawn.size) > 100


def test_weights_are_fed_as_they_were_trained(tmp_path: Path) -> None:
    """Evaluation crops as training did; pictures, which have sizes of their own, are cropped in their own way."""
    run = tmp_path / "run"
    config = replace(tiny.RUN, image_size=(32, 32), fit="tetrominoes-32", steps=1, validate_every=0)
    assert main(["train", *tiny.words(config), "--run", str(run)]) == 0
    results = tmp_path / "results.json"
    assert main(["evaluate", str(run), "--num-images", "2", "--json", str(results)]) == 0
    assert read_json(results)["options"]["fit"] == "tetrominoes-32"
    Image.new("RGB", (50, 40), "red").save(tmp_path / "own.png")
    assert main(["decompose", str(run), str(tmp_path / "own.png"), "--out", str(tmp_path / "out")]) == 0
    assert main(["sample", str(run), "--num", "1", "--out", str(tmp_path / "sample.png")]) == 0


# ----------------------------------------------------------------------- evaluate, demo, benchmark


def test_results_are_written_and_repeat(files: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["evaluate", str(files / "weights"), "--num-images", "3", "--seed", "2"]
    for name, more in (("one", []), ("again", ["--batch-size", "2"])):
        assert main([*words, *more, "--json", str(tmp_path / f"{name}.json")]) == 0
    row = read_json(tmp_path / "one.json")
    again = read_json(tmp_path / "again.json")
    assert row.keys() == SCORES | {"kl_per_layer", "weights", "options", "data", "version"}
    assert all(row[name].keys() == {"mean", "std", "num_images"} for name in SCORES)
    assert row["weights"] == str(files / "weights") and row["options"]["seed"] == 2
    assert row["data"]["num_images"] == 3
    for name in SCORES:
        assert again[name]["mean"] == pytest.approx(row[name]["mean"], rel=1e-4)
    assert again["ari"] == row["ari"]
    assert f"{row['mse']['mean']:.4g}" in capsys.readouterr().out


def test_a_sweep_gives_a_row_for_every_pair(files: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(files / "weights"), "--data", str(files / "good.tfrecords"), "--num-images", "2"]
    sweep = ["--num-slots", "3", "5", "--refinement-steps", "0", "1", "2"]
    assert main([*words, *sweep, "--json", str(tmp_path / "sweep.json")]) == 0
    content = read_json(tmp_path / "sweep.json")
    assert content.keys() == {"rows"}
    pairs = [(row["options"]["num_slots"], row["options"]["refinement_steps"]) for row in content["rows"]]
    assert pairs == [(k, i) for k in (3, 5) for i in (0, 1, 2)]
    assert all(row.keys() >= SCORES for row in content["rows"])


def test_files_are_evaluated_whole_and_as_they_are_named(files: Path, tmp_path: Path) -> None:
    found = []
    for name in ("good.npz", "good.tfrecords"):
        out = tmp_path / f"{name}.json"
        assert main(["evaluate", str(files / "weights"), "--data", str(files / name), "--json", str(out)]) == 0
        found.append(read_json(out))
    assert [row["data"]["name"] for row in found] == ["good.npz", "good.tfrecords"]
    assert found[0]["data"]["num_images"] == 6
    assert all(found[0][name] == found[1][name] for name in SCORES)  # the same scenes in two formats


def test_pictures_are_evaluated_without_masks(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    for fit in ("crop", "none"):
        words = ["evaluate", str(files / "weights"), "--data", str(files / "good.png"), "--fit", fit]
        assert main([*words, "--posterior-mean", "--json", str(out)]) == 0
        row = read_json(out)
        assert row["mse"]["num_images"] == 1 and "ari" not in row and row["options"]["sample"] is False


def test_the_demo(files: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["demo", "--weights", str(files / "weights"), "--num-images", "2", "--out", str(tmp_path / "demo.png")]
    assert main([*words, "--json", str(tmp_path / "demo.json")]) == 0
    with Image.open(tmp_path / "demo.png") as picture:
        assert min(picture.size) > 35
    row = read_json(tmp_path / "demo.json")
    assert row.keys() >= SCORES and "images 60000-60319 images 0-1" in row["data"]["fingerprint"]
    assert str(tmp_path / "demo.png") in capsys.readouterr().out


NANO = "benchmark --preset nano --size 12 10 --batch-size 2".split()


def test_memory_is_measured(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "memory.json"
    words = [
        *NANO,
        "--memory",
        "--num-layers",
        "1",
        "--refinement-steps",
        "0",
        "1",
        "--precision",
        "float32",
        "--memory-budget-gib",
        "0.01",
    ]
    assert main([*words, "--json", str(out)]) == 0
    rows = read_json(out)
    found = [(row["what"], row["config"]["refinement_steps"]) for row in rows]
    assert found == [("memory", 0), ("memory", 1), ("largest batch", 0), ("largest batch", 1)]
    for row in rows:
        assert row.keys() >= {"what", "config", "ours_s", "plain_s", "ratio", "peak_bytes", "device"}
        assert row["config"]["name"] == "nano" and row["config"]["size"] == [12, 10] and row["device"] == "cpu"
    assert all(row["ratio"] == row["peak_bytes"] / row["plain_bytes"] for row in rows[:2])
    assert all(row["ours_batch"] > 0 and row["budget_bytes"] == 0.01 * 2**30 for row in rows[2:])
    printed = capsys.readouterr().out
    assert "1.000 x the first" in printed and f"{rows[3]['ours_batch']} images" in printed


def test_times_are_measured(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "times.json"
    words = [*NANO, "--rounds", "1", "--precision", "bfloat16", "--num-layers", "1", "--decoder", "small"]
    assert main([*words, "--json", str(out)]) == 0
    rows = read_json(out)
    assert [row["what"] for row in rows] == ["step", "forward", "encode", "encoder and attention"]
    for row in rows:
        assert row["precision"] == "bfloat16" and row["ratio"] == pytest.approx(row["ours_s"] / row["plain_s"])
        assert row["config"]["num_layers"] == 1 and row["config"]["decoder"] == "small"
    printed = capsys.readouterr().out
    assert f"{rows[0]['ratio']:.3f}" in printed and "encoder and attention alone" in printed


def test_a_floor_is_measured(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates({"float32": 1e9}, 1e9)
    monkeypatch.setattr("emorl.benchmark.measure.machine_rates", lambda dtypes, device: rates)
    out = tmp_path / "floor.json"
    assert main([*NANO, "--floor", "--rounds", "1", "--precision", "float32", "--json", str(out)]) == 0
    (row,) = read_json(out)
    assert row["what"] == "floor" and row["rates"] == {"flops": {"float32": 1e9}, "bytes": 1e9}
    assert f"{row['over_floor']:.3f} x the floor" in capsys.readouterr().out


def test_a_sweep_draws_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point(name, tiny.MODEL, (side, side), 2, 0) for name, side in (("E-0", 10), ("E-0", 15), ("other", 10))]
    monkeypatch.setattr("emorl.cli.benchmark.sweep_points", lambda: points)
    out, pictures = tmp_path / "sweep.json", tmp_path / "pictures"
    words = ["benchmark", "--sweep", "--rounds", "1", "--memory-budget-gib", "0.001"]
    assert main([*words, "--out", str(pictures), "--json", str(out)]) == 0
    rows = read_json(out)
    assert [row["what"] for row in rows] == ["step", "forward", "encode"] * 3 + ["largest batch"] * 3
    assert {path.name for path in pictures.iterdir()} == {"fig10.png", "fig22.png"}


# ----------------------------------------------------------------------- the machine


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
@pytest.mark.parametrize(
    ("code", "end", "lines"),
    [
        ("main(['--help'])", "> /dev/full", ["emorl: No space left on device", "2"]),
        ("main(['--help'])", "| true", ["0"]),
        ("main(['--help'])", ">&-", ["0"]),
        ("print('long') or main(['nonsense'])", "> /dev/full", ["emorl: unknown command nonsense; *", "2"]),
    ],
)
def test_output_that_nobody_takes_is_one_line_or_none(code: str, end: str, lines: list[str]) -> None:
    program = f"import sys; from emorl.cli import main; sys.exit({code})"
    command = f'{shlex.quote(sys.executable)} -c "{program}" {end}; echo ${{PIPESTATUS[0]}} >&2'
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env).stderr.splitlines()
    assert len(told) == len(lines) and all(map(fnmatch, told, lines))


def out_of_gpu_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("failure", [MemoryError, lambda: torch.empty(2**60, dtype=torch.uint8), out_of_gpu_memory])
def test_too_little_memory_is_one_line(
    failure: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(words: Sequence[str]) -> int:
        raise failure()

    monkeypatch.setattr("emorl.cli.demo.demo", fail)
    assert main(["demo"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("emorl: not enough memory") and err.count("\n") == 1
    monkeypatch.setattr("emorl.cli.demo.demo", lambda words: 1 // torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):  # a bug is no lack of memory
        main(["demo"])


# ----------------------------------------------------------------------- reference and released weights


def test_the_reference_is_met_and_a_changed_one_is_not(shared: Path, tmp_path: Path, capsys: Capture) -> None:
    good, bad = shared / "reference" / "gaussian_small.npz", tmp_path / "perturbed.npz"
    out = tmp_path / "checks.json"
    assert main(["verify-reference", str(good), "--json", str(out)]) == 0
    checks = read_json(out)
    assert checks and all(check["passed"] for check in checks)
    assert "0 over tolerance" in capsys.readouterr().out

    with np.load(good) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["components_1"] = arrays["components_1"] * (1 + 1e-6)
    np.savez(bad, **arrays)
    assert main(["verify-reference", str(bad), "--json", str(out)]) == 1
    failed = [check for check in read_json(out) if not check["passed"]]
    assert [(check["file"], check["quantity"]) for check in failed] == [("perturbed.npz", "components_1")]
    assert "1 over tolerance" in capsys.readouterr().out
    assert main(["verify-reference", str(bad), "--dtype", "float32"]) == 0  # too little to be seen


def test_released_weights_are_imported(tmp_path: Path, capsys: Capture) -> None:
    model = EfficientMORL(as_released(preset("tetrominoes").model))
    random_weights(model, 0)
    model.geco_zeta.fill_(0.75)
    theirs = {f"module.{name}": tensor for name, tensor in to_released_names(model.state_dict()).items()}
    theirs["module.geco_beta"] = model.geco_zeta
    torch.save({"step": 200_000, "model": theirs}, tmp_path / "released.pth")

    out = tmp_path / "weights"
    words = ["import-released", str(tmp_path / "released.pth"), "--preset", "tetrominoes", "--out", str(out)]
    assert main(words) == 0
    assert str(out) in capsys.readouterr().out
    imported, about = load_weights(out)
    assert isinstance(imported, EfficientMORL)
    assert imported.config == model.config and about["data"] == "tetrominoes"
    assert about["image_size"] == [35, 35] and not feed(about).seen
    for name, tensor in model.state_dict().items():
        assert torch.equal(imported.state_dict()[name], tensor), name
    words_of_use = ["evaluate", str(out), "--num-images", "1", "--refinement-steps", "0"]
    assert main(words_of_use) == 0

    assert main(words) == 2  # nothing is replaced
    assert "exists" in capsys.readouterr().err
    other = [*words[:2], "--preset", "clevr6", "--out", str(tmp_path / "other")]
    assert main(other) == 2  # of another size
    assert "has shape" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
