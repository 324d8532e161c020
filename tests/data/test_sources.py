"""Sources by name or path, and files made from generators."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pytest
from PIL import Image

from emorl.data.base import Subset, iterate
from emorl.data.hdf5 import Hdf5
from emorl.data.npz import Npz
from emorl.data.pictures import Pictures
from emorl.data.protocols import PROTOCOLS, AfterFirst, FromTheEnd, Protocol, Selected, Split
from emorl.data.sources import DATASETS, Fit, make, open_source, write
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.tfrecord import TFRecords, write_tfrecord
from emorl.data.views import WINDOWS, Viewed
from emorl.errors import InputError
from tests.halves import halves


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of every kind."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("scenes.npz", "scenes.tfrecords", "scenes.h5"):
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
        ("scenes.h5", Hdf5, 6),
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
            open_source(files["scenes.npz"], **options)
    for name in ("split", "fit", "protocol", "subset"):
        with pytest.raises(InputError, match=f"no {name} 'holdout'"):
            open_source("tetrominoes", **{name: "holdout"})  # type: ignore[arg-type]
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


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default protocol with splits of a few images."""
    rules = PROTOCOLS["efficientmorl"]
    protocol = Protocol(AfterFirst(4, 1), rules.windows, rules.interpolation, FromTheEnd(1))
    monkeypatch.setitem(PROTOCOLS, "efficientmorl", protocol)


def test_split_of_a_published_file(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = files["scenes.tfrecords"]
    assert len(open_source(path, split="train")) == 6
    with pytest.raises(InputError, match=r"6 images, none for its test split \(train 0-59999, then 320 test"):
        open_source(path, split="test")
    small(monkeypatch)
    assert [len(open_source(path, split=split)) for split in get_args(Split)] == [4, 1, 1, 6]
    test = open_source(path, split="test").read(np.array([0]))
    np.testing.assert_array_equal(test.image, Tetrominoes().read(np.array([4])).image)
    assert test.index.tolist() == [4]


@pytest.mark.parametrize("suffix", [".npz", ".tfrecords", ".h5"])
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
    ):
        with pytest.raises(InputError, match=message):
            make("tetrominoes", tmp_path / "a.npz", **options)
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
    monkeypatch.setattr("emorl.data.progress._AFTER", -1.0)
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


# ----------------------------------------------------------------------- protocols and views of files


@pytest.fixture(scope="module")
def clevr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of CLEVR in the published encoding."""
    path = tmp_path_factory.mktemp("clevr") / "clevr.tfrecords"
    write_tfrecord(path, [halves()])
    return path


def test_clevr_is_split_filtered_cut_and_resized(clevr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    found = {
        split: open_source(clevr, split=split, size=(96, 96), subset="clevr6").read(np.arange(1)).index.tolist()
        for split in get_args(Split)
    }
    assert found == {"train": [0], "test": [11], "validation": [10], "all": [0]}
    source = open_source(clevr, split="train", size=(96, 96), subset="clevr6")
    assert isinstance(source, Selected) and len(source) == 6 and source.size == (96, 96)
    batch = source.read(np.arange(6))
    assert batch.index.tolist() == [0, 1, 2, 3, 8, 9]
    assert batch.image.shape == (6, 96, 96, 3) and batch.mask is not None
    assert (batch.image[:, :, 48:, 1].mean(axis=(1, 2)).round() == batch.index).all()
    assert (batch.mask == (np.arange(96) >= 48)).all()
    assert batch.visibility is not None and batch.visibility.sum(axis=1).tolist() == [2] * 6  # in the picture
    assert batch.factors["pixel_coords"][0, 1].tolist() == [48, 45.5, 11]
    facts = source.describe()
    assert facts["num_images"] == 6 and facts["view"]["window"] == "clevr" and "3 to 6 objects" in facts["part"]


@pytest.mark.parametrize(
    ("options", "window", "interpolation"),
    [
        ({}, "clevr", "bicubic"),
        ({"protocol": "efficientmorl"}, "clevr", "bicubic"),
        ({"protocol": "slot-attention"}, "clevr", "bilinear-tf"),
        ({"protocol": "genesis"}, "clevr-centred", "nearest"),
        ({"protocol": "clevrtex"}, "clevr-centred", "bilinear"),
        ({"protocol": "clevrtex", "fit": "clevr"}, "clevr", "bilinear"),
        ({"fit": "centre"}, "centre", "bicubic"),
        ({"protocol": "object-centric-library", "fit": "clevr"}, "clevr", "bilinear"),
    ],
)
def test_views_of_protocols(options: dict[str, Any], window: str, interpolation: str, clevr: Path) -> None:
    source = open_source(clevr, size=(96, 96), **options)
    assert isinstance(source, Viewed)
    assert (source.view.window, source.view.interpolation) == (window, interpolation)


def test_fits(clevr: Path, files: dict[str, Path]) -> None:
    assert open_source(clevr).size == open_source(clevr, size=(240, 320)).size == (240, 320)
    assert open_source(clevr, size=(96, 96), fit="none").size == (240, 320)
    assert open_source(clevr, fit="clevr").size == (192, 192)
    assert open_source(clevr, fit="centre").size == (240, 320)
    assert open_source(clevr, size=(60, 80), fit="centre").read(np.arange(1)).image.shape == (1, 60, 80, 3)
    with pytest.raises(InputError, match="cannot become 60 x 80"):
        open_source(clevr, size=(60, 80))
    with pytest.raises(InputError, match="240 x 320, not 96 x 96: .*fit centre"):
        open_source(clevr, size=(96, 96), protocol="object-centric-library")
    with pytest.raises(InputError, match="the window clevr is for 240 x 320"):
        open_source(files["scenes.npz"], size=(96, 96), fit="clevr")
    tetrominoes = open_source("tetrominoes", size=(32, 32), protocol="object-centric-library")
    np.testing.assert_array_equal(
        tetrominoes.read(np.arange(3)).image, Tetrominoes().read(np.arange(3)).image[:, 2:34, 2:34]
    )
    assert open_source("tetrominoes", size=(64, 64), fit="centre").size == (64, 64)
    assert set(get_args(Fit)) == {"crop", "none", "centre", *WINDOWS}


def test_pictures_of_clevr(shared: Path) -> None:
    folder = shared / "data" / "clevr_sample_1.png"
    centre = open_source(folder, size=(96, 96)).read(np.array([0])).image
    window = open_source(folder, size=(96, 96), fit="clevr").read(np.array([0])).image
    assert centre.shape == window.shape == (1, 96, 96, 3) and (centre != window).any()
    whole = open_source(folder, fit="clevr").read(np.array([0])).image
    np.testing.assert_array_equal(whole[0], np.asarray(Image.open(folder).convert("RGB"))[29:221, 64:256])


def test_protocols_split_what_has_no_agreed_splits(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    with pytest.raises(InputError, match="no split 'test': use all of it, or name a protocol"):
        open_source(files["scenes.npz"], split="test")
    assert open_source(files["scenes.npz"], split="test", protocol="efficientmorl").read(np.array([0])).index == [4]
    assert len(open_source(files["pictures"], split="train", protocol="efficientmorl")) == 2
    with pytest.raises(InputError, match="does not tell how many objects"):
        open_source(files["pictures"], subset="clevr6")


def test_splits_of_generators() -> None:
    for protocol, split, first, num in (
        (None, "test", 60_000, 320),
        ("slot-attention", "validation", 60_320, 320),
        ("genesis", "test", 0, 10_000),
        ("genesis", "train", 20_000, 80_000),
        ("object-centric-library", "validation", 90_000, 5000),
    ):
        part = open_source("tetrominoes", split=split, protocol=protocol)  # type: ignore[arg-type]
        assert len(part) == num and part.read(np.array([0])).index.tolist() == [first]
    counted = open_source("multi-dsprites", split="test", subset="2-3")
    batch = counted.read(np.arange(len(counted)))
    assert batch.visibility is not None and set(batch.visibility.sum(axis=1)) == {3, 4}
    assert len(batch) == 320 and batch.index.min() >= 60_000


@pytest.mark.parametrize(("split", "group"), [("train", "train"), ("validation", "val"), ("test", "test")])
def test_a_file_of_the_authors_is_one_split(split: Any, group: str, tmp_path: Path) -> None:
    path = tmp_path / "some.h5"
    make("tetrominoes", path, num=3, split=split)
    source = open_source(path, split=split)
    assert isinstance(source, Hdf5) and source.group == group and len(source) == 3
    np.testing.assert_array_equal(
        source.read(np.arange(3)).image, open_source("tetrominoes", split=split).read(np.arange(3)).image
    )
    other: Any = "test" if split == "train" else "train"
    with pytest.raises(InputError, match=f"some.h5 is the {split} split .* name the file with the {other} split"):
        open_source(path, split=other)


def test_splits_of_flat_hdf5_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    scenes = Tetrominoes(num=6).read(np.arange(6))
    assert scenes.mask is not None and scenes.visibility is not None
    masks = 255 * (scenes.mask[:, None] == np.arange(4)[:, None, None]).astype(np.uint8)[..., None]
    with h5py.File(tmp_path / "tetrominoes.hdf5", "w") as file:
        arrays = {"image": scenes.image, "mask": masks, "visibility": scenes.visibility, **scenes.factors}
        for name, values in arrays.items():
            file[name] = values
    with h5py.File(tmp_path / "clevr_10-full.hdf5", "w") as file:  # of object-centric-library: at a model's size
        file["image"] = halves().image[:, ::4, ::4]
        file["mask"] = (file["image"][..., :1] == 0).astype(np.uint8)
        file["visibility"] = halves().visibility
        file["x"] = halves().visibility
    for name, nums in (("tetrominoes.hdf5", [4, 1, 1, 6]), ("clevr_10-full.hdf5", [10, 1, 1, 12])):
        assert [len(open_source(tmp_path / name, split=split)) for split in get_args(Split)] == nums
    shutil.copy(tmp_path / "clevr_10-full.hdf5", tmp_path / "clevrtex-full.hdf5")  # of the same entities, not CLEVR
    with pytest.raises(InputError, match="no split"):
        open_source(tmp_path / "clevrtex-full.hdf5", split="train")
    part = open_source(tmp_path / "clevr_10-full.hdf5", split="train", subset="clevr6")
    assert part.read(np.arange(len(part))).index.tolist() == [0, 1, 2, 3, 8, 9]


def test_parts_are_written_to_files(clevr: Path, tmp_path: Path) -> None:
    part = open_source(clevr, size=(24, 24), subset="clevr6")
    for name in ("part.h5", "part.npz"):
        write(part, tmp_path / name, start=1, stop=5, group="val")
        ours, theirs = open_source(tmp_path / name).read(np.arange(4)), part.read(np.arange(1, 5))
        for field in ("image", "mask", "visibility"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        np.testing.assert_array_equal(ours.factors["pixel_coords"], theirs.factors["pixel_coords"])
    assert open_source(tmp_path / "part.h5", split="validation").describe()["group"] == "val"
    whole = open_source(clevr, subset="clevr6")
    write(whole, tmp_path / "part.tfrecords")
    assert open_source(tmp_path / "part.tfrecords", subset="clevr6").read(np.arange(6)).mask is not None


# ----------------------------------------------------------------------- folders of the ClevrTex project


@pytest.mark.parametrize("variant", ["full", "outd"])
def test_splits_of_clevrtex(variant: str, tmp_path: Path) -> None:
    for number in range(20):
        stem = f"CLEVRTEX_{variant}_{number:06d}"
        Image.new("RGB", (320, 240), (number, 0, 0)).save(tmp_path / f"{stem}.png")
        Image.new("L", (320, 240), 1).save(tmp_path / f"{stem}_flat.png")
    found = {}
    for split in get_args(Split):
        try:
            source = open_source(tmp_path, split=split, size=(64, 64))
        except InputError as error:
            assert "is the test split of its data set: use all of it" in str(error)
            continue
        view = source.describe()["view"]
        assert source.size == (64, 64) and (view["window"], view["interpolation"]) == ("clevr-centred", "bilinear")
        found[split] = source.read(np.arange(len(source))).index.tolist()
    everything = list(range(20))
    if variant == "outd":
        assert found == {"test": everything, "all": everything}
    else:
        assert found == {
            "test": [0, 1],
            "validation": [2, 3],
            "train": everything[4:],
            "all": everything,
        }
    assert len(open_source(tmp_path, subset="1-1")) == 20
    named = open_source(tmp_path, size=(64, 64), protocol="efficientmorl")
    assert isinstance(named, Viewed) and named.view.window == "clevr"


def test_splits_of_records_as_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    scenes = Tetrominoes(num=6).read(np.arange(6))
    for row in range(6):
        masks = 255 * (scenes.mask[row] == np.arange(4)[:, None, None])[..., None].astype(np.uint8)  # type: ignore[index]
        np.savez(tmp_path / f"{row}.npz", image=scenes.image[row], mask=masks)
    assert [len(open_source(tmp_path, split=split)) for split in get_args(Split)] == [4, 1, 1, 6]
