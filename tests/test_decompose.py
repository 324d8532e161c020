"""Pictures of any mode and size become the documented files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emorl.cli import main
from emorl.data.base import Subset
from emorl.data.pictures import Pictures
from emorl.data.sources import open_source
from emorl.data.views import View
from emorl.decompose import PER_SHEET, decompose
from emorl.evaluation import infer
from emorl.models.base import InferOptions
from emorl.runs import make_weights
from emorl.types import Batch
from tests import tiny

K, D = tiny.MODEL.num_slots, tiny.MODEL.slot_dim
SIZES = {"colour": (35, 35), "transparent": (50, 31), "grey": (37, 64), "deep": (41, 40), "palette": (90, 17)}
"""Width and height, as Pillow has them."""


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.build()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture of every kind."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)

    def noise(name: str, channels: int) -> np.ndarray:
        width, height = SIZES[name]
        return rng.integers(0, 256, (height, width, channels), np.uint8)

    Image.fromarray(noise("colour", 3)).save(folder / "colour.jpg")
    Image.fromarray(noise("transparent", 4), "RGBA").save(folder / "transparent.png")
    Image.fromarray(noise("grey", 1)[..., 0], "L").save(folder / "grey.png")
    Image.fromarray(noise("deep", 1)[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(noise("palette", 3)).convert("P").save(folder / "palette.gif")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    make_weights(folder, tiny.build(), {"data": "tetrominoes", "image_size": [35, 35]})
    return folder


def test_codes_of_what_was_found_before_an_unreadable_picture_are_kept(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(PER_SHEET):
        Image.new("RGB", (35, 35), "red").save(tmp_path / "pictures" / f"{number:02d}.png")
    (tmp_path / "pictures" / "99.png").touch()
    assert main(["decompose", str(weights), str(tmp_path / "pictures"), "--out", str(tmp_path / "out")]) == 2
    with np.load(tmp_path / "out" / "pictures_slots.npz") as kept:
        assert kept["index"].tolist() == list(range(PER_SHEET)) and kept["slots"].shape == (PER_SHEET, K, D)


def check_files(folder: Path, name: str, size: tuple[int, int], slots: int = K) -> None:
    """The files of one image; `size` is its width and height."""
    masks = np.stack([np.asarray(Image.open(folder / f"{name}_slot{k}_mask.png")) for k in range(slots)])
    assert masks.shape == (slots, size[1], size[0]) and masks.dtype == np.uint8
    assert np.abs(masks.sum(axis=0, dtype=int) - 255).max() <= slots  # probabilities, each rounded
    label_picture = Image.open(folder / f"{name}_masks.png")
    assert (label_picture.mode, label_picture.size) == ("P", size)
    labels = np.asarray(label_picture)
    assert labels.max() < slots
    winners = np.take_along_axis(masks, labels[None].astype(int), axis=0)[0]
    assert (winners == masks.max(axis=0)).all()
    reconstruction = Image.open(folder / f"{name}_reconstruction.png")
    assert (reconstruction.mode, reconstruction.size) == ("RGB", size)
    for k in range(slots):
        component = Image.open(folder / f"{name}_slot{k}.png")
        assert (component.mode, component.size) == ("RGBA", size)
        assert (np.asarray(component)[..., 3] == masks[k]).all()
    assert not (folder / f"{name}_slot{slots}.png").exists()


@pytest.mark.parametrize("fit", ["crop", "none"])
def test_pictures_of_every_kind_one_by_one(pictures: Path, weights: Path, tmp_path: Path, fit: str) -> None:
    words = [str(path) for path in sorted(pictures.iterdir())]
    assert main(["decompose", str(weights), *words, "--fit", fit, "--out", str(tmp_path / "out")]) == 0
    for name, size in SIZES.items():
        check_files(tmp_path / "out", f"{name}_00000", size if fit == "none" else (35, 35))
        with Image.open(tmp_path / "out" / f"{name}_sheet_000.png") as sheet:
            assert min(sheet.size) > 35
        with np.load(tmp_path / "out" / f"{name}_slots.npz") as codes:
            assert codes["slots"].shape == codes["std"].shape == (1, K, D)
            assert codes["index"].tolist() == [0]
    assert len(list((tmp_path / "out").iterdir())) == len(SIZES) * (2 + 2 * K + 2)


@pytest.mark.parametrize("fit", ["crop", "none"])
def test_a_folder_of_pictures(pictures: Path, weights: Path, tmp_path: Path, fit: str) -> None:
    words = ["decompose", str(weights), str(pictures), "--fit", fit, "--out", str(tmp_path / "out"), "--num-slots", "4"]
    assert main(words) == 0
    for i, path in enumerate(sorted(pictures.iterdir())):
        size = SIZES[path.stem] if fit == "none" else (35, 35)
        check_files(tmp_path / "out", f"{pictures.name}_{i:05d}", size, slots=4)
    sheets = list((tmp_path / "out").glob(f"{pictures.name}_sheet_*.png"))
    assert len(sheets) == (len(SIZES) if fit == "none" else 1)  # one picture each where sizes differ
    with np.load(tmp_path / "out" / f"{pictures.name}_slots.npz") as codes:
        assert codes["slots"].shape == codes["std"].shape == (len(SIZES), 4, D)
        assert (codes["std"] > 0).all() and codes["index"].tolist() == list(range(len(SIZES)))


def test_cropping_is_what_the_data_source_does(pictures: Path, model: Any, tmp_path: Path) -> None:
    """What is decomposed is the picture as it is read, so 16 bits and transparency follow the one stated rule."""
    source = Pictures(sorted(pictures.iterdir()), view=View((20, 30)), name="all")
    decompose(model, [source], tmp_path, InferOptions(), 7)
    found = infer(model, source.read(np.arange(len(source))), InferOptions(), 7)
    expected = found.masks[:, :, 0].argmax(dim=1).numpy()
    for i in range(len(source)):
        assert (np.asarray(Image.open(tmp_path / f"all_{i:05d}_masks.png")) == expected[i]).all()
    with np.load(tmp_path / "all_slots.npz") as codes:
        np.testing.assert_array_equal(codes["slots"], found.steps[-1].posterior.mean.numpy())
        np.testing.assert_array_equal(codes["std"], found.steps[-1].posterior.std.numpy())


def test_scenes_of_a_generator_keep_their_positions(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["decompose", str(weights), "tetrominoes", "--out", str(out)]) == 0
    with np.load(out / "tetrominoes_slots.npz") as codes:
        assert codes["index"].tolist() == list(range(60_000, 60_008))  # the first eight of the test split
    check_files(out, "tetrominoes_60000", (35, 35))
    assert len(list(out.glob("*_masks.png"))) == 8


def test_images_are_read_a_sheet_at_a_time(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    advanced: list[int] = []

    class Counting(Subset):
        def read(self, indices: np.ndarray) -> Batch:
            asked.append(len(indices))
            return super().read(indices)

    monkeypatch.setattr("emorl.decompose.PER_SHEET", 2)
    source = Counting(open_source("tetrominoes", split="test"), 0, 5)
    sheets = decompose(model, [source], tmp_path, InferOptions(refinement_steps=0), 0, advanced.append)
    assert asked == advanced == [2, 2, 1]
    assert sheets == [tmp_path / f"tetrominoes_sheet_{i:03d}.png" for i in range(3)]
    assert all(path.is_file() for path in sheets)
    with np.load(tmp_path / "tetrominoes_slots.npz") as codes:
        assert codes["slots"].shape == (5, K, D)


def test_sources_of_one_name_do_not_overwrite_each_other(model: Any, tmp_path: Path) -> None:
    for folder, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (10, 10), colour).save(tmp_path / folder / "picture.png")
    sources = [Pictures([tmp_path / folder / "picture.png"]) for folder in ("a", "b")]
    sheets = decompose(model, sources, tmp_path / "out", InferOptions(), 0)
    assert [path.name for path in sheets] == ["picture_sheet_000.png", "picture-2_sheet_000.png"]
    codes = [np.load(tmp_path / "out" / f"{name}_slots.npz")["slots"] for name in ("picture", "picture-2")]
    assert not np.array_equal(*codes)


def test_nor_do_those_that_differ_by_case_alone(model: Any, tmp_path: Path) -> None:
    for folder, name in (("a", "Cat.png"), ("b", "cat.png")):  # one name on the disks of Windows and macOS
        (tmp_path / folder).mkdir()
        Image.new("RGB", (10, 10), "red").save(tmp_path / folder / name)
    sources = [Pictures([tmp_path / "a" / "Cat.png"]), Pictures([tmp_path / "b" / "cat.png"])]
    sheets = decompose(model, sources, tmp_path / "out", InferOptions(), 0)
    assert [path.name for path in sheets] == ["Cat_sheet_000.png", "cat-2_sheet_000.png"]
    with np.load(tmp_path / "out" / "Cat_slots.npz") as content:
        assert "allow_pickle" not in content.files


def test_a_seed_repeats(model: Any, tmp_path: Path) -> None:
    source = Subset(open_source("tetrominoes", split="test"), 0, 1)
    for folder, seed in (("one", 0), ("again", 0), ("other", 1)):
        decompose(model, [source], tmp_path / folder, InferOptions(), seed)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)
    slots = [np.load(tmp_path / folder / "tetrominoes_slots.npz")["slots"] for folder in ("one", "other")]
    assert not np.array_equal(*slots)


WATCHED = """
import os, sys
from pathlib import Path
from emorl.data.sources import DATASETS
from emorl.decompose import decompose
from emorl.models.base import InferOptions
from tests import tiny

def watch(images):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    print(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

decompose(tiny.build(), [DATASETS["tetrominoes"](0, 1000, "cpu")], Path(sys.argv[1]), InferOptions(), 0, watch)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process from /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path / "out")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    mib = [float(line) for line in done.stdout.split()]
    assert len(mib) == 125 and len(list((tmp_path / "out").glob("*_masks.png"))) == 1000
    assert max(mib[25:]) - max(mib[:25]) < 60
