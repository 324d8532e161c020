"""Windows against hand-made scenes, interpolations against two libraries, masks that stay with their images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emorl.data.clevr.source import Clevr
from emorl.data.npz import Npz
from emorl.data.pictures import Pictures
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.views import WINDOWS, Interpolation, View, Viewed, Window, centre_window, resize, resize_labels
from emorl.errors import InputError
from emorl.types import Batch

RNG = np.random.default_rng(0)


def where(height: int, width: int) -> np.ndarray:
    """A scene 1 H W 3 whose pixels say where they are: row, column, 0 (below 256 each)."""
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows, cols % 256, 0 * rows], axis=-1).astype(np.uint8)[None]


class Scenes:
    """A source in memory."""

    name = "scenes"

    def __init__(self, batch: Batch) -> None:
        self.batch, self.asked = batch, 0

    @property
    def size(self) -> tuple[int, int]:
        return self.batch.image.shape[1], self.batch.image.shape[2]

    def __len__(self) -> int:
        return len(self.batch)

    def read(self, indices: np.ndarray) -> Batch:
        self.asked = max(self.asked, len(indices))
        b = self.batch
        mask = None if b.mask is None else b.mask[indices]
        visibility = None if b.visibility is None else b.visibility[indices]
        factors = {name: values[indices] for name, values in b.factors.items()}
        return Batch(b.image[indices], b.index[indices], mask, visibility, factors)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "size": list(self.size), "num_images": len(self)}

    def fingerprint(self) -> str:
        return "scenes"


# ----------------------------------------------------------------------- windows


@pytest.mark.parametrize(
    ("name", "scene", "first", "last"),
    [
        ("clevr", (240, 320), (29, 64), (220, 255)),
        ("clevr-centred", (240, 320), (24, 64), (215, 255)),
        ("tetrominoes-32", (35, 35), (2, 2), (33, 33)),
    ],
)
def test_named_windows(name: Any, scene: tuple[int, int], first: tuple[int, int], last: tuple[int, int]) -> None:
    rows, cols = WINDOWS[name][1].rows, WINDOWS[name][1].cols
    seen = View((rows, cols), name).see(where(*scene), "x")[0]
    assert seen.shape[:2] == (last[0] - first[0] + 1, last[1] - first[1] + 1)
    assert tuple(seen[0, 0, :2]) == first and tuple(seen[-1, -1, :2]) == last


@pytest.mark.parametrize(
    ("own", "wanted", "window"),
    [
        ((240, 320), (96, 96), Window(0, 40, 240, 240)),
        ((320, 240), (96, 96), Window(40, 0, 240, 240)),
        ((35, 35), (32, 32), Window(0, 0, 35, 35)),
        ((9, 14), (9, 10), Window(0, 2, 9, 10)),
        ((9, 14), (3, 7), Window(1, 0, 6, 14)),
        ((7, 5), (2, 3), Window(2, 0, 3, 5)),
        ((1, 50), (50, 1), Window(0, 24, 1, 1)),
    ],
)
def test_centred_windows(own: tuple[int, int], wanted: tuple[int, int], window: Window) -> None:
    assert centre_window(own, wanted) == window
    assert View(wanted).find_window(own, "x") == window


def test_a_window_that_does_not_fit() -> None:
    with pytest.raises(InputError, match="x has images of 35 x 35, but the window clevr is for 240 x 320"):
        View((96, 96), "clevr").see(where(35, 35), "x")
    with pytest.raises(InputError, match="cannot become 96 x 128 undistorted"):
        View((96, 128), "clevr").see(where(240, 320), "x")


# ----------------------------------------------------------------------- interpolation


@pytest.mark.parametrize("size", [(7, 9), (13, 8), (29, 31), (16, 5)])
def test_bilinear_tf_is_torch_without_antialiasing(size: tuple[int, int]) -> None:
    images = RNG.integers(0, 256, (3, 16, 20, 3), np.uint8)
    ours = resize(images, size, "bilinear-tf")
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(images).permute(0, 3, 1, 2).double(), size, mode="bilinear", align_corners=False
    )
    difference = abs(ours - theirs.permute(0, 2, 3, 1).numpy())
    assert difference.max() <= 0.5 + 1e-3  # rounded, and nothing else


def test_bilinear_tf_by_hand() -> None:
    images = np.array([0, 10, 20, 31], np.uint8)[None, None, :, None].repeat(3, axis=3)
    assert resize(images, (1, 2), "bilinear-tf")[0, 0, :, 0].tolist() == [5, 26]  # 25.5 to the even one
    assert resize(images, (1, 8), "bilinear-tf")[0, 0, :, 0].tolist() == [0, 2, 8, 12, 18, 23, 28, 31]
    assert resize(images, (1, 1), "bilinear-tf")[0, 0, 0].tolist() == [15, 15, 15]


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(7, 9), (13, 8), (29, 31)])
def test_pillow_resizes(name: Any, size: tuple[int, int]) -> None:
    images = RNG.integers(0, 256, (3, 16, 20, 3), np.uint8)
    ours = resize(images, size, name)
    assert ours.shape == (3, *size, 3) and ours.dtype == np.uint8
    method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[name]
    for image, resized in zip(images, ours, strict=True):
        np.testing.assert_array_equal(resized, Image.fromarray(image).resize(size[::-1], method))
    if size[0] > 16:
        return  # between its two passes Pillow cuts off what overshoots, which is much only where it enlarges
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(images).permute(0, 3, 1, 2).double(), size, mode=name, antialias=True
    )
    assert abs(ours - theirs.clamp(0, 255).permute(0, 2, 3, 1).numpy()).max() <= 2  # Pillow rounds twice


# With an odd number of old pixels no centre falls exactly between two, which the other libraries' floats may miss.
@pytest.mark.parametrize("size", [(8, 10), (10, 14), (7, 30), (32, 41), (15, 21)])
def test_nearest_is_pillow_and_torch(size: tuple[int, int]) -> None:
    labels = RNG.integers(0, 11, (2, 15, 21), np.uint8)
    ours = resize_labels(labels, size)
    for label, resized in zip(labels, ours, strict=True):
        np.testing.assert_array_equal(resized, Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
    theirs = torch.nn.functional.interpolate(torch.from_numpy(labels)[None].float(), size, mode="nearest-exact")
    np.testing.assert_array_equal(ours, theirs[0].numpy())
    images = labels[..., None].repeat(3, axis=3)
    np.testing.assert_array_equal(resize(images, size, "nearest")[..., 0], ours)


def test_nearest_by_hand() -> None:
    """Where a centre falls between two pixels, the later one is taken."""
    labels = np.arange(6)[None, None]
    for num, expected in ((2, [1, 4]), (3, [1, 3, 5]), (4, [0, 2, 3, 5]), (1, [3]), (12, [i // 2 for i in range(12)])):
        assert resize_labels(labels, (1, num))[0, 0].tolist() == expected


@pytest.mark.parametrize("name", ["bicubic", "bilinear", "bilinear-tf", "nearest"])
def test_the_same_size_changes_nothing_and_a_flat_image_stays_flat(name: Interpolation) -> None:
    images = RNG.integers(0, 256, (2, 9, 11, 3), np.uint8)
    np.testing.assert_array_equal(resize(images, (9, 11), name), images)
    assert (resize(np.full_like(images, 77), (5, 20), name) == 77).all()
    assert resize(images[:0], (5, 20), name).shape == (0, 5, 20, 3)


# ----------------------------------------------------------------------- views of sources


def clevr_like(num: int = 3) -> Batch:
    """Scenes of 240 x 320: a disc of label 1 in the window, 2 at its left border, 3 outside, 4 not there."""
    rows, cols = np.mgrid[:240, :320]
    mask = np.zeros((240, 320), np.uint8)
    mask[(rows - 100) ** 2 + (cols - 150) ** 2 < 20**2] = 1
    mask[(rows - 180) ** 2 + (cols - 64) ** 2 < 15**2] = 2
    mask[(rows - 120) ** 2 + (cols - 30) ** 2 < 15**2] = 3
    coords = np.array([(0, 0, 0), (150, 100, 11), (64, 180, 9), (30, 120, 10), (0, 0, 0)], np.float32)
    visibility = np.array([1, 1, 1, 1, 0], np.float32)
    palette = np.array([(100, 100, 100), (250, 0, 0), (0, 250, 0), (0, 0, 250)], np.uint8)
    repeat = {"pixel_coords": coords, "x": coords[:, 0]}
    return Batch(
        palette[mask][None].repeat(num, axis=0),
        np.arange(num),
        mask[None].repeat(num, axis=0),
        visibility[None].repeat(num, axis=0),
        {name: values[None].repeat(num, axis=0) for name, values in repeat.items()},
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "bilinear-tf", "nearest"])
@pytest.mark.parametrize("size", [(96, 96), (128, 128), (192, 192), (67, 67)])
def test_masks_stay_with_their_images(interpolation: Interpolation, size: tuple[int, int]) -> None:
    seen = Viewed(Scenes(clevr_like()), View(size, "clevr", interpolation)).read(np.arange(3))
    assert seen.image.shape == (3, *size, 3) and seen.mask is not None and seen.mask.shape == (3, *size)
    rows, cols = np.mgrid[: size[0], : size[1]]
    for label, channel in ((1, 0), (2, 1)):
        weight = seen.image[0, ..., channel].astype(float) - 100
        weight[weight < 20] = 0
        inside = seen.mask[0] == label
        for axis in (rows, cols):  # an object's centre of mass in the image and in the mask: to half a scene's pixel
            assert abs(np.average(axis, weights=weight) - axis[inside].mean()) < 0.5 * size[0] / 192 + 0.03
        assert seen.image[0][inside][:, channel].mean() > 215


def test_visibility_is_that_of_the_picture() -> None:
    scenes = Scenes(clevr_like())
    seen = Viewed(scenes, View((96, 96), "clevr")).read(np.arange(2))
    assert seen.visibility is not None and seen.visibility.dtype == np.float32
    assert seen.visibility.tolist() == [[1, 1, 1, 0, 0]] * 2
    assert scenes.batch.visibility is not None and scenes.batch.visibility[0].tolist() == [1, 1, 1, 1, 0]


def test_the_background_counts_also_where_it_is_covered() -> None:
    covered = Batch(where(8, 8), np.arange(1), np.ones((1, 8, 8), np.uint8), np.array([[1, 1, 0]], np.float32))
    seen = Viewed(Scenes(covered), View((4, 4))).read(np.arange(1))
    assert seen.visibility is not None and seen.visibility.tolist() == [[1, 1, 0]]


def test_pixel_coords_are_told_in_the_view() -> None:
    scenes = Scenes(clevr_like())
    seen = Viewed(scenes, View((96, 96), "clevr")).read(np.arange(1))
    found = seen.factors["pixel_coords"][0]
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 0, 0], [43, 35.5, 11], [0, 75.5, 9], [-17, 45.5, 10], [0, 0, 0]]
    assert seen.mask is not None and seen.mask[0, 35, 43] == 1
    np.testing.assert_array_equal(seen.factors["x"], scenes.batch.factors["x"][:1])


def test_what_a_source_lacks_a_view_lacks() -> None:
    whole = clevr_like()
    images = Viewed(Scenes(Batch(whole.image, whole.index)), View((96, 96), "clevr")).read(np.array([2, 0]))
    assert images.mask is None and images.visibility is None and images.index.tolist() == [2, 0]
    labelled = Batch(whole.image, whole.index, whole.mask)
    assert Viewed(Scenes(labelled), View((96, 96), "clevr")).read(np.arange(1)).visibility is None


def test_few_scenes_are_in_memory_at_their_own_size() -> None:
    num = 600
    tiny = Batch(RNG.integers(0, 256, (num, 4, 6, 3), np.uint8), np.arange(num), np.zeros((num, 4, 6), np.uint8))
    scenes = Scenes(tiny)
    view = Viewed(scenes, View((2, 2)))
    order = RNG.permutation(num)
    found = view.read(order)
    assert scenes.asked < num and found.index.tolist() == order.tolist()
    np.testing.assert_array_equal(found.image[5], view.read(order[5:6]).image[0])
    assert view.read(order[:0]).image.shape == (0, 2, 2, 3)
    seen = Viewed(Scenes(replace(tiny, visibility=np.ones((num, 3), np.float32))), View((2, 2)))
    visibility = seen.read(order[:0]).visibility
    assert visibility is not None and visibility.shape == (0, 3)


def test_labels_beyond_the_entities_are_told() -> None:
    mask = np.full((1, 4, 4), 2, np.uint8)
    batch = Batch(np.zeros((1, 4, 4, 3), np.uint8), np.arange(1), mask, np.ones((1, 2), np.float32))
    with pytest.raises(InputError, match="label 2, of 2 entities"):
        Viewed(Scenes(batch), View((2, 2))).read(np.arange(1))


class Drawing(Scenes):
    """A source that draws windows."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.drawn: list[tuple[tuple[int, int], tuple[int, int], tuple[int, int] | None]] = []

    def read_window(
        self, indices: np.ndarray, rows: tuple[int, int], cols: tuple[int, int], size: tuple[int, int] | None = None
    ) -> Batch:
        self.drawn.append((rows, cols, size))
        whole = super().read(indices)
        assert whole.mask is not None
        window = np.s_[:, rows[0] : rows[1], cols[0] : cols[1]]
        return Batch(whole.image[window], whole.index, whole.mask[window], whole.visibility, whole.factors)


def test_a_source_that_draws_windows_draws_no_more() -> None:
    view = View((96, 96), "clevr")
    drawing = Drawing(clevr_like())
    ours, theirs = (Viewed(source, view).read(np.array([2, 0])) for source in (drawing, Scenes(clevr_like())))
    assert drawing.drawn == [((29, 221), (64, 256), (96, 96))]
    for name in ("image", "mask", "visibility", "index"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(ours.factors["pixel_coords"], theirs.factors["pixel_coords"])


@pytest.mark.parametrize(
    ("interpolation", "size"), [("bicubic", (48, 48)), ("bilinear", None), ("nearest", None), ("bilinear-tf", None)]
)
def test_only_for_bicubic_pictures_are_drawn_small(interpolation: Interpolation, size: tuple[int, int] | None) -> None:
    drawing = Drawing(clevr_like())
    Viewed(drawing, View((48, 48), "clevr", interpolation)).read(np.array([1]))
    assert drawing.drawn == [((29, 221), (64, 256), size)]


def test_windows_of_the_clevr_generator_are_parts_of_its_pictures() -> None:
    whole = Clevr(num=2)
    seen = Viewed(whole, View((192, 192), "clevr")).read(np.array([1]))
    batch = whole.read(np.array([1]))
    assert batch.mask is not None and seen.mask is not None and seen.visibility is not None
    np.testing.assert_array_equal(seen.image, batch.image[:, 29:221, 64:256])
    np.testing.assert_array_equal(seen.mask, batch.mask[:, 29:221, 64:256])
    assert set(np.flatnonzero(seen.visibility[0])) == {0, *np.unique(seen.mask).tolist()}


def test_a_view_is_a_source() -> None:
    scenes = Scenes(clevr_like())
    view = Viewed(scenes, View((96, 96), "clevr", "bilinear"))
    assert (view.name, view.size, len(view)) == ("scenes", (96, 96), 3)
    facts = view.describe()
    assert facts["size"] == [96, 96] and facts["view"]["rows_and_columns"] == [[29, 221], [64, 256]]
    prints = {
        v.fingerprint()
        for v in (
            view,
            Viewed(scenes, View((128, 128), "clevr", "bilinear")),
            Viewed(scenes, View((96, 96), "clevr-centred", "bilinear")),
            Viewed(scenes, View((96, 96), "clevr")),
        )
    }
    assert len(prints) == 4 and all(text.startswith("scenes ") for text in prints)
    with pytest.raises(InputError, match="35 x 35"):
        Viewed(Tetrominoes(), View((96, 96), "clevr"))


def test_various_sizes_have_no_window(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="various sizes"):
        Viewed(Pictures([tmp_path / "a.png"]), View((4, 4)))


def test_a_real_scene_of_clevr(shared: Path, tmp_path: Path) -> None:
    with np.load(shared / "data" / "clevr_real_record0.npz") as file:
        image, masks = file["image"], file["mask"]
    labels = (masks > 0).argmax(axis=0).astype(np.uint8)
    visibility = np.array([[1] * 8 + [0] * 3], np.float32)
    np.savez(tmp_path / "record.npz", image=image[None], mask=labels[None], visibility=visibility)
    source = Npz(tmp_path / "record.npz")
    for size in (96, 128):
        seen = Viewed(source, View((size, size), "clevr")).read(np.arange(1))
        expected = Image.fromarray(image[29:221, 64:256]).resize((size, size), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(seen.image[0], expected)
        assert seen.visibility is not None and seen.mask is not None
        assert seen.visibility.sum() == 6  # two of the seven objects lie outside the window
        for label in np.flatnonzero(seen.visibility[0])[1:]:
            inside = labels[29:221, 64:256] == label
            assert (seen.mask[0] == label).sum() == pytest.approx(inside.sum() * (size / 192) ** 2, rel=0.1, abs=8)
