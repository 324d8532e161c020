"""Presets on their own data, and protocols from training to the table of scores."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emorl.cli import main
from emorl.config import from_json, to_json
from emorl.data.protocols import PROTOCOLS, AfterFirst, FromTheEnd, Protocol
from emorl.data.sources import DATASETS
from emorl.data.tfrecord import write_tfrecord
from emorl.presets import PRESETS, preset
from emorl.runs import find_weights, load_weights, read_json
from emorl.seeds import scoring_source
from emorl.train import load_data, open_data, train
from tests import tiny
from tests.halves import halves


@pytest.fixture(scope="module")
def clevr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of CLEVR in the published encoding."""
    path = tmp_path_factory.mktemp("clevr") / "clevr.tfrecords"
    write_tfrecord(path, [halves()])
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocols that fit a file of twelve scenes."""
    for name, rule in (("efficientmorl", FromTheEnd(1)), ("slot-attention", AfterFirst(8, 2))):
        rules = PROTOCOLS[name]
        monkeypatch.setitem(PROTOCOLS, name, Protocol(rules.split, rules.windows, rules.interpolation, rule))


def test_a_run_sees_what_its_protocol_and_subset_say(clevr: Path) -> None:
    config = replace(tiny.RUN, data=str(clevr), num_images=3, image_size=(20, 20), subset="clevr6")
    cpu = torch.device("cpu")
    for protocol, train_on, validate_on, test_on in (
        (None, [0, 1, 2, 3, 8, 9], [10], [11]),
        ("slot-attention", [0, 1, 2, 3], [10, 11], [8, 9]),
    ):
        config = replace(config, protocol=protocol)  # type: ignore[arg-type]
        images, validation = load_data(config, cpu)
        assert images.tensor.shape == (3, 3, 20, 20) and validation is not None
        assert images.tensor[:, 1, 10, 15].tolist() == train_on[:3]
        assert validation.index.tolist() == validate_on
        source = open_data(config, "train")
        assert source.read(np.arange(len(source))).index.tolist() == train_on
        tested = scoring_source(config)
        assert tested.read(np.arange(len(tested))).index.tolist() == test_on


def test_old_configs_have_no_protocol() -> None:
    content = json.loads(json.dumps(to_json(preset("clevr6"))))
    del content["protocol"], content["subset"]
    assert from_json(content, "here") == preset("clevr6")


def test_evaluation_repeats_protocol_and_subset(clevr: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "results.json"
    config = replace(
        tiny.RUN,
        data=str(clevr),
        num_images=4,
        image_size=(20, 20),
        protocol="slot-attention",
        subset="clevr6",
        steps=2,
        validate_every=1,
    )
    assert main(["train", *tiny.words(config), "--run", str(run)]) == 0
    _, about = load_weights(find_weights(str(run)))
    assert (about["protocol"], about["subset"], about["image_size"]) == ("slot-attention", "clevr6", [20, 20])

    assert main(["evaluate", str(run), "--json", str(out)]) == 0
    row = read_json(out)
    assert row["data"]["num_images"] == 2 and row["foreground_ari"]["num_images"] == 2
    assert (
        row["options"]
        | {
            "split": "test",
            "protocol": "slot-attention",
            "subset": "clevr6",
            "fit": "crop",
        }
        == row["options"]
    )
    assert "3 to 6 objects, test" in row["data"]["fingerprint"] and "bilinear-tf 20 x 20" in row["data"]["fingerprint"]

    words = ["evaluate", str(run), "--subset", "7-10", "--protocol", "efficientmorl", "--split", "train"]
    assert main([*words, "--fit", "clevr-centred", "--json", str(out)]) == 0
    row = read_json(out)
    assert row["data"]["num_images"] == 2 and "clevr-centred bicubic" in row["data"]["fingerprint"]

    by_name = os.path.relpath(clevr)  # the training file all the same: only its test scenes
    assert main(["evaluate", str(run), "--data", by_name, "--json", str(out)]) == 0
    row = read_json(out)
    assert row["data"]["num_images"] == 2 and (row["options"]["split"], row["options"]["subset"]) == ("test", "clevr6")

    other = shutil.copy(clevr, tmp_path / "other.tfrecords")
    assert main(["evaluate", str(run), "--data", str(other), "--json", str(out)]) == 0
    row = read_json(out)  # another file is read whole, but brought to the model in the same way
    assert row["data"]["num_images"] == 12 and row["options"]["subset"] is None
    assert "bilinear-tf" in row["data"]["fingerprint"]

    words = ["decompose", str(run), str(clevr), "--split", "test", "--subset", "clevr6", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert len(list((tmp_path / "out").glob("*_masks.png"))) == 2
    assert main(["demo", "--weights", str(run), "--num-images", "2", "--out", str(tmp_path / "demo.png")]) == 0


def test_a_file_is_shown_and_described_in_parts(clevr: Path, tmp_path: Path) -> None:
    part = ["--split", "train", "--subset", "clevr6", "--image-size", "96", "96"]
    out = tmp_path / "facts.json"
    assert main(["data", "info", str(clevr), *part, "--protocol", "genesis", "--json", str(out)]) == 2  # starts later
    assert main(["data", "info", str(clevr), *part, "--protocol", "slot-attention", "--json", str(out)]) == 0
    facts = read_json(out)
    assert (facts["num_images"], facts["size"]) == (4, [96, 96]) and facts["view"]["interpolation"] == "bilinear-tf"
    sheets = []
    for name, more in (("part", part), ("whole", []), ("clevr", ["--fit", "clevr"])):
        assert main(["data", "show", str(clevr), *more, "--out", str(tmp_path / f"{name}.png")]) == 0
        with Image.open(tmp_path / f"{name}.png") as sheet:
            sheets.append(sheet.size)
    assert len(set(sheets)) == 3


@pytest.mark.parametrize("name", ["tetrominoes", "multi-dsprites", "clevr6"])
def test_a_preset_trains_on_its_data(name: str, tmp_path: Path) -> None:
    """The full model, with as few images and steps as there can be."""
    config = preset(name)
    assert config.data in DATASETS
    config = replace(
        config,
        curriculum=((0, 1),),
        batch_size=2,
        num_images=3,
        steps=2,
        validate_every=2,
        validation_images=1,
        precision="float32",
    )
    run, out = tmp_path / "run", tmp_path / "results.json"
    assert train(run, config, report=lambda line: None, progress=False).reason == "finished"
    assert "validation" in (run / "metrics.jsonl").read_text()
    words = ["evaluate", str(run), "--num-images", "2", "--refinement-steps", "0"]
    assert main([*words, "--json", str(out)]) == 0
    row = read_json(out)
    assert row["foreground_ari"]["num_images"] == 2 and np.isfinite(row["mse"]["mean"])
    assert main(["decompose", str(run), config.data, "--num-images", "1", "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*_sheet_*.png"))) == 1


def test_every_preset_names_a_generator() -> None:
    for name in PRESETS:
        assert preset(name).data in DATASETS, name
