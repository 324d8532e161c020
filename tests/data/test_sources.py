"""Sources by name or path, and files made from generators."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emorl.data.base import Subset, iterate
from emorl.data.npz import Npz
from emorl.data.pictures import Pictures
from emorl.data.sources import DATASETS, make, open_source
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.tfrecord import TFRecords, write_tfrecord
from emorl.errors import InputError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of every kind."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("scenes.npz", "scenes.tfrecords"):
        make("tetrominoes", folder / name, num=6)
    (folder / "pictures").mkdir()
    for i in range(2):
        Image.new("RGB", (10 + i, 8), "green").save(folder / "pictures" / f"{i}.png")
    return {path.name: path for path in (*folder.iterdir(), folder / "pictures" / "0.png")}


@pytest.mark.parametrize(
    ("name", "kind", "num"),
    [
        ("scenes.npz", Npz, 6),
        ("scenes.tfrecords", TFRecords, 6),
        ("pictures", Pictures, 2),
        ("0.png", Pictures, 1),
    ],
)
def test_paths(name: str, kind: type, num: int, files: dict[str, Path]) -> None:
    for path in (files[name], str(files[name])):
        source = open_source(path)
        assert isinstance(source, kind) and (source.name, len(source)) == (name, num)
        assert source.read(np.array([0])).image.dtype == np.uint8
        assert source.fingerprint() == open_source(path).fingerprint()
    if num != 2:
        assert source.fingerprint() == f"sha256:{hashlib.sha256(files[name].read_bytes()).hexdigest()}"


@pytest.mark.parametrize("name", DATASETS)
def test_every_generator(name: str) -> None:
    source = open_source(name)
    assert (source.name, len(source)) == (name, 60_320)
    batch = source.read(np.array([60_319, 0]))
    assert batch.image.shape[1:3] == source.size and batch.mask is not None and batch.visibility is not None
    assert batch.mask.max() < batch.visibility.shape[1]
    assert open_source(name, seed=1).fingerprint() != source.fingerprint() == open_source(name, seed=0).fingerprint()


def test_what_data_info_prints(files: dict[str, Path]) -> None:
    for name in (*files.values(), *DATASETS):
        source = open_source(name)
        facts = json.loads(json.dumps(source.describe()))
        assert facts.keys() >= {"name", "kind", "num_images", "size", "num_entities", "masks", "factors"}
        assert facts["num_images"] == len(source)
    part = open_source("tetrominoes", split="test").describe()
    assert (part["num_images"], part["part"]) == (320, [60_000, 60_319])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tetromino", "did you mean tetrominoes"),
        ("Tetrominoes", "did you mean tetrominoes"),
        ("something", "there is .*tetrominoes"),
        ("missing.npz", "no file missing.npz"),
        ("some/where", "no file some"),
        ("x" * 5000, "no data source"),
        ("a\0b", "data source"),
    ],
)
def test_unknown(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        open_source(name)
    assert "\n" not in str(error.value)


def test_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"ending.*\.npz"):
        open_source(tmp_path / "a.csv")


def test_options_that_do_not_apply(files: dict[str, Path]) -> None:
    for options, message in (
        ({"seed": 0}, "no seed"),
        ({"split": "train"}, "no split"),
        ({"size": (64, 64)}, "35 x 35, not 64 x 64"),
        ({"size": (0, 64)}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(files["scenes.npz"], **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no split 'holdout'"):
        open_source("tetrominoes", split="holdout")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="35 x 35, not 64 x 64"):
        open_source("tetrominoes", size=(64, 64))
    with pytest.raises(InputError, match="seed"):
        open_source("tetrominoes", seed=-1).read(np.array([0]))


def test_size_and_fit(files: dict[str, Path]) -> None:
    assert open_source("tetrominoes", size=(35, 35)).size == (35, 35)
    assert open_source("tetrominoes", size=(64, 64), fit="none").size == (35, 35)
    assert open_source(files["pictures"], size=(4, 6)).read(np.arange(2)).image.shape == (2, 4, 6, 3)
    own = open_source(files["pictures"], size=(4, 6), fit="none")
    assert [own.read(np.array([i])).image.shape[1:3] for i in range(2)] == [(8, 10), (8, 11)]


def test_split_of_a_published_file(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = files["scenes.tfrecords"]
    assert len(open_source(path, split="train")) == 6
    with pytest.raises(InputError, match="6 images, but its test split starts at 60000"):
        open_source(path, split="test")
    monkeypatch.setattr("emorl.data.sources.SPLITS", {"train": (0, 4), "test": (4, 5), "validation": (5, 9)})
    assert [len(open_source(path, split=split)) for split in ("train", "test", "validation", "all")] == [
        4,
        1,
        1,
        6,
    ]
    test = open_source(path, split="test").read(np.array([0]))
    np.testing.assert_array_equal(test.image, Tetrominoes().read(np.array([4])).image)
    assert test.index.tolist() == [4]


@pytest.mark.parametrize("suffix", [".npz", ".tfrecords"])
def test_made_files_hold_the_generator(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    make("tetrominoes", path, num=300, split="test", seed=4)
    ours = open_source(path).read(np.arange(300))
    theirs = Tetrominoes(seed=4).read(np.arange(60_000, 60_300))
    for name in ("image", "mask", "visibility"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), strict=True)
    for name, values in theirs.factors.items():
        np.testing.assert_array_equal(ours.factors[name], values, strict=True)
    with pytest.raises(InputError, match="exists"):
        make("tetrominoes", path, num=3)
    make("tetrominoes", path, num=3, overwrite=True)
    assert len(open_source(path)) == 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_how_many_are_made(tmp_path: Path) -> None:
    make("tetrominoes", tmp_path / "test.npz", split="test")
    assert len(open_source(tmp_path / "test.npz")) == 320
    for options, message in (
        ({"num": 321, "split": "test"}, "320 scenes, not 321"),
        ({"num": 0}, "at least one"),
        ({"size": (64, 64)}, "35 x 35"),
    ):
        with pytest.raises(InputError, match=message):
            make("tetrominoes", tmp_path / "a.npz", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="end its name"):
        make("tetrominoes", tmp_path / "a.txt")
    with pytest.raises(InputError, match="no generator"):
        make("a.npz", tmp_path / "b.npz")


def test_progress_only_when_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    make("tetrominoes", tmp_path / "a.npz", num=10)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("emorl.data.sources._PROGRESS_AFTER", -1.0)
    make("tetrominoes", tmp_path / "b.npz", num=600)
    out, err = capfd.readouterr()
    assert out == "" and "tetrominoes to b.npz" in err


def test_subsets(tmp_path: Path) -> None:
    part = Subset(Tetrominoes(num=20), 5, 9)
    assert [batch.index.tolist() for batch in iterate(part, 3)] == [[5, 6, 7], [8]]
    with pytest.raises(InputError, match="no image 4: the last one is 3"):
        part.read(np.array([4]))
    with pytest.raises(InputError, match="no images"):
        Subset(Tetrominoes(num=20), 5, 5)
    write_tfrecord(tmp_path / "part.tfrecords", iterate(part))
    np.testing.assert_array_equal(
        TFRecords(tmp_path / "part.tfrecords").read(np.arange(4)).image, part.read(np.arange(4)).image
    )
