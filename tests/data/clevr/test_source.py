"""The generator as a source: published factors, and scenes that depend on seed and index alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from emorl.data.base import iterate
from emorl.data.clevr.scene import MAX_OBJECTS, project
from emorl.data.clevr.source import VERSION, Clevr, ClevrConfig, sample
from emorl.data.convert import convert
from emorl.data.sources import DATASETS, open_source
from emorl.data.tfrecord import VARIANTS
from emorl.data.views import resize
from emorl.errors import InputError
from emorl.types import Batch
from tests.data.scenes import assert_equal

CORNER = (100, 108), (150, 160)
"""A window that is quick to compute."""


def small(source: Clevr, *indices: int) -> Batch:
    return source.read_window(np.array(indices, np.int64), *CORNER)


@pytest.fixture(scope="module")
def some() -> Batch:
    """Six scenes with a window of their pictures."""
    return small(Clevr(seed=5), *range(6))


def test_a_picture_with_all_that_is_known_of_it(some: Batch) -> None:
    batch = Clevr(seed=5).read(np.array([3]))
    assert batch.image.shape == (1, 240, 320, 3) and batch.image.dtype == np.uint8
    assert batch.mask is not None and batch.visibility is not None and some.mask is not None
    assert batch.mask.shape == (1, 240, 320) and batch.mask.dtype == np.uint8
    assert batch.visibility.shape == (1, 11) and batch.visibility.dtype == np.float32
    assert batch.index.tolist() == [3] and batch.index.dtype == np.int64
    np.testing.assert_array_equal(some.image[3], batch.image[0, 100:108, 150:160])
    np.testing.assert_array_equal(some.mask[3], batch.mask[0, 100:108, 150:160])
    for name, values in batch.factors.items():
        np.testing.assert_array_equal(some.factors[name][3], values[0])


def test_factors_look_like_the_published_ones(some: Batch) -> None:
    (variant,) = (variant for variant in VARIANTS if variant.name == "clevr_with_masks")
    assert variant.image == Clevr().size + (3,) and variant.num_entities == 1 + MAX_OBJECTS
    assert some.factors.keys() == {*variant.factors, *variant.extra_factors}
    for name, (kind, tail) in (variant.factors | variant.extra_factors).items():
        assert some.factors[name].dtype == kind and some.factors[name].shape == (6, 11, *tail), name


@pytest.fixture(scope="module")
def made() -> Batch:
    """One whole picture."""
    return Clevr().read(np.array([1]))


@pytest.mark.parametrize("name", ["scenes.tfrecords", "scenes.h5"])
def test_scenes_pass_through_the_published_layouts(made: Batch, tmp_path: Path, name: str) -> None:
    convert(Clevr(), tmp_path / name, start=1, stop=2)
    kept = open_source(tmp_path / name).read(np.arange(1))
    np.testing.assert_array_equal(kept.image, made.image)
    np.testing.assert_array_equal(kept.mask, made.mask)
    np.testing.assert_array_equal(kept.visibility, made.visibility)
    assert kept.factors.keys() == made.factors.keys()
    for factor, values in made.factors.items():
        assert kept.factors[factor].dtype == values.dtype
        np.testing.assert_array_equal(kept.factors[factor], values)


def test_rows_of_the_background_and_of_empty_places_are_zero(some: Batch) -> None:
    assert some.visibility is not None
    present = some.visibility > 0
    assert present[:, 0].all() and not present.all()
    present[:, 0] = False
    for name, values in some.factors.items():
        assert not values[~present].any(), name
    for name, last in (("size", 2), ("material", 2), ("shape", 3), ("color", 8)):
        assert some.factors[name][present].min() >= 1 and some.factors[name].max() <= last


def test_factors_agree_with_one_another(some: Batch) -> None:
    """The height is the size's, the yaw is the label taken as radians, and pixels are where a camera puts centres."""
    assert some.visibility is not None
    present = some.visibility[:, 1:] > 0
    x, y, z, size, rotation, yaw, pixels = (
        some.factors[name][:, 1:][present].astype(np.float64)
        for name in ("x", "y", "z", "size", "rotation", "yaw", "pixel_coords")
    )
    np.testing.assert_allclose(z, np.where(size == 1, 0.7, 0.35), rtol=1e-6)
    assert ((rotation >= 0) & (rotation < 360)).all() and ((yaw >= 0) & (yaw < 2 * np.pi + 1e-6)).all()
    np.testing.assert_allclose(np.cos(yaw), np.cos(rotation), atol=1e-4)
    np.testing.assert_allclose(np.sin(yaw), np.sin(rotation), atol=1e-4)
    np.testing.assert_array_equal(pixels[:, :2], pixels[:, :2].round())
    scenes, _ = sample(5, np.arange(6), ClevrConfig())
    expected = project(scenes.camera[present.nonzero()[0]], np.stack([x, y, z], axis=1)[:, None])[:, 0]
    assert abs(pixels[:, :2] - expected[:, :2]).max() < 0.501
    np.testing.assert_allclose(pixels[:, 2], expected[:, 2], atol=1e-4)


@pytest.mark.parametrize("limits", [(3, 10), (3, 6), (7, 10)])
def test_every_object_is_seen(limits: tuple[int, int]) -> None:
    """At least 200 pixels of each; masks hold nothing else; so many objects as were asked for."""
    scenes, labels = sample(1, np.arange(12), ClevrConfig(num_objects=limits))
    counts = (labels.numpy()[:, None] == np.arange(1, 1 + MAX_OBJECTS)[:, None, None]).sum(axis=(2, 3))
    assert (counts[scenes.size > 0] >= 200).all() and not counts[scenes.size == 0].any()
    num_objects = (counts > 0).sum(axis=1)
    np.testing.assert_array_equal(num_objects, scenes.num_objects)
    assert limits[0] <= num_objects.min() < num_objects.max() <= limits[1]


def test_the_bound_on_pixels_is_what_turns_scenes_away() -> None:
    some_seen, _ = sample(1, np.arange(12), ClevrConfig(min_pixels=0))
    well_seen, labels = sample(1, np.arange(12), ClevrConfig(min_pixels=300))
    same = (some_seen.position == well_seen.position).all(axis=(1, 2))
    assert 0 < same.sum() < 12
    np.testing.assert_array_equal(some_seen.num_objects, well_seen.num_objects)
    np.testing.assert_array_equal(some_seen.camera, well_seen.camera)
    counts = (labels.numpy()[:, None] == np.arange(1, 1 + MAX_OBJECTS)[:, None, None]).sum(axis=(2, 3))
    assert counts[well_seen.size > 0].min() >= 300


def test_index_and_seed_fix_every_bit(some: Batch) -> None:
    source = Clevr(seed=5)
    order = [4, 0, 4, 5]
    shuffled = small(source, *order)
    for name in ("image", "mask", "visibility"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(some, name)[order])
    for name, values in shuffled.factors.items():
        np.testing.assert_array_equal(values, some.factors[name][order])
    assert shuffled.index.tolist() == order
    assert_equal(small(source, 4), small(Clevr(seed=5, num=5), 4))
    assert (small(Clevr(seed=6), 0).factors["x"] != some.factors["x"][:1]).any()


def test_threads_change_nothing(some: Batch) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert_equal(small(Clevr(seed=5), *range(6)), some)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_visibility_needs_no_pictures(some: Batch) -> None:
    source = Clevr(seed=5)
    assert some.visibility is not None
    np.testing.assert_array_equal(source.visibility(np.arange(6)), some.visibility, strict=True)
    counts = source.visibility(np.arange(5000)).sum(axis=1) - 1
    assert set(counts) == set(range(3, 11))


def test_scenes_of_version_one_stay() -> None:
    """Results name scenes by seed and index: change these bits and VERSION together. Pictures are not meant."""
    scenes, labels = sample(0, np.arange(10), ClevrConfig())
    arrays = (
        scenes.position,
        scenes.size,
        scenes.shape,
        scenes.color,
        scenes.material,
        scenes.rotation,
        labels.numpy(),
    )
    digest = hashlib.sha256(b"".join(values.tobytes() for values in arrays)).hexdigest()
    assert (VERSION, digest) == (1, "e7b6259261383b0ffb3aebce6a9d718fbd8921798d0d76063d0ac21edcd7ab74")


@pytest.mark.parametrize(("name", "limits"), [("clevr", (3, 10)), ("clevr6", (3, 6)), ("clevr10", (7, 10))])
def test_named_generators(name: str, limits: tuple[int, int]) -> None:
    source = open_source(name, seed=2)
    assert source.name == name and source.describe()["num_objects"] == list(limits)
    generator = DATASETS[name](2, 100_000, "cpu")
    assert isinstance(generator, Clevr)
    counts = generator.visibility(np.arange(2000)).sum(axis=1) - 1
    assert (counts.min(), counts.max()) == limits


def test_splits_are_ranges_of_one_source() -> None:
    train, test = (open_source("clevr6", split=split) for split in ("train", "test"))
    assert len(test) == 320 and len({train.fingerprint(), test.fingerprint()}) == 2
    batch = test.read(np.array([1]))
    whole = open_source("clevr6", split="all")
    assert isinstance(whole, Clevr)
    assert batch.index[0] >= len(train)
    alone = small(Clevr(num=100_000, config=ClevrConfig((3, 6))), int(batch.index[0]))
    np.testing.assert_array_equal(batch.image[:, 100:108, 150:160], alone.image)


def test_the_description_is_json_and_names_every_factor(some: Batch) -> None:
    facts = Clevr(seed=5, num=7).describe()
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts["factors"]) == set(some.factors)
    assert (facts["num_images"], facts["seed"], facts["size"], facts["num_entities"]) == (7, 5, [240, 320], 11)


def test_fingerprints_tell_generators_apart() -> None:
    configs = ClevrConfig(), ClevrConfig((3, 6)), ClevrConfig((7, 10)), ClevrConfig(min_pixels=100)
    prints = {Clevr(seed, 100, config).fingerprint() for seed in (0, 1) for config in configs}
    assert len(prints) == 8
    assert Clevr(0, 100).fingerprint() == Clevr(0, 100).fingerprint()
    assert all("\n" not in text and str(VERSION) in text for text in prints)


def test_iteration_covers_all_in_order() -> None:
    class Quick(Clevr):
        def read(self, indices: np.ndarray) -> Batch:
            return self.read_window(indices, *CORNER)

    batches = list(iterate(Quick(num=5), batch_size=3))
    assert [len(batch) for batch in batches] == [3, 2]
    assert np.concatenate([batch.index for batch in batches]).tolist() == list(range(5))


def test_empty_reading() -> None:
    batch = Clevr().read(np.array([], np.int64))
    assert batch.mask is not None and batch.visibility is not None
    assert batch.image.shape == (0, 240, 320, 3) and batch.mask.shape == (0, 240, 320)
    assert batch.visibility.shape == (0, 11) and batch.factors["pixel_coords"].shape == (0, 11, 3)


@pytest.mark.parametrize("indices", [[-1], [60_320], [0.5], [[1]]])
def test_positions_out_of_range(indices: list[object]) -> None:
    for read in (Clevr().read, Clevr().visibility):
        with pytest.raises(InputError, match="clevr"):
            read(np.array(indices))


@pytest.mark.parametrize("limits", [(0, 5), (3, 11), (6, 3), (-1, -1)])
def test_numbers_of_objects_that_no_scene_has(limits: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="1 to 10 objects"):
        Clevr(config=ClevrConfig(limits))


@pytest.mark.parametrize("pixels", [-1, 301, 76_800])
def test_more_pixels_than_objects_have(pixels: int) -> None:
    with pytest.raises(InputError, match="pixels"):
        Clevr(config=ClevrConfig(min_pixels=pixels))


def test_a_seed_out_of_range() -> None:
    with pytest.raises(InputError, match="seed"):
        Clevr(seed=-1).read(np.array([0]))


def test_pictures_that_are_shrunk_much_are_made_at_their_size() -> None:
    source, index, window = Clevr(seed=5), np.array([4, 1, 2]), ((29, 221), (64, 256))
    part = index[1:2]
    frame = source.read_window(part, *window)
    for size in ((48, 48), (96, 96)):
        small = source.read_window(index, *window, size)
        assert small.image.shape == (3, *size, 3) and small.image.dtype == np.uint8
        np.testing.assert_array_equal(small.image[1], source.read_window(part, *window, size).image[0])
        shrunk = resize(frame.image, size, "bicubic")[0].astype(float)
        assert np.square(small.image[1] - shrunk).mean() ** 0.5 < 2.5
        assert small.mask is not None and frame.mask is not None
        np.testing.assert_array_equal(small.mask[1], frame.mask[0])  # by the centres of the frame's pixels
    for size in ((192, 192), (160, 144), (10, 200), (300, 300)):  # too little would be gained
        np.testing.assert_array_equal(source.read_window(part, *window, size).image, frame.image)


def test_grain_is_small_grey_and_belongs_to_the_pixel() -> None:
    index, window = np.array([3, 5]), ((0, 40), (10, 90))  # above all objects
    with_grain = Clevr().read_window(index, *window).image.astype(int)
    without = Clevr(config=ClevrConfig(grain=0)).read_window(index, *window).image.astype(int)
    difference = with_grain - without
    assert abs(difference).max() <= 3 and abs(difference.mean()) < 0.02
    assert difference.std() == pytest.approx((0.7**2 + 1 / 12) ** 0.5, abs=0.08)  # and what rounding adds
    assert np.corrcoef(difference[..., 0].ravel(), difference[..., 2].ravel())[0, 1] > 0.5
    assert abs(np.corrcoef(difference[0].ravel(), difference[1].ravel())[0, 1]) < 0.05
    part = Clevr().read_window(index[::-1], (10, 30), (20, 50)).image
    np.testing.assert_array_equal(part[::-1], with_grain[:, 10:30, 10:40])


def test_grain_of_small_pictures_is_as_small_as_that_of_a_mean_and_as_independent() -> None:
    index, window = np.array([3, 5]), ((0, 40), (10, 90))
    for size, pitch in (((40, 80), 1), ((20, 40), 2), ((27, 50), (40 * 80 / 27 / 50) ** 0.5)):
        grain = Clevr()._grain(index, *window, size)
        assert grain is not None and grain.shape == (2, *size)
        assert grain.std().item() == pytest.approx(0.7 / pitch, rel=0.06)
        for shifted in (grain[:, :, 1:] * grain[:, :, :-1], grain[:, 1:] * grain[:, :-1], grain[0] * grain[1]):
            assert abs(shifted.mean().item()) < 0.1 * grain.var().item()
    index = index[:1]
    sources = (Clevr(config=config) for config in (ClevrConfig(), ClevrConfig(grain=0)))
    small, smooth = (source.read_window(index, *window, (20, 40)).image.astype(int) for source in sources)
    assert (small - smooth)[..., 0].std() == pytest.approx((0.35**2 + 2 / 12) ** 0.5, abs=0.06)  # both are rounded


def test_grain_of_no_picture() -> None:
    with pytest.raises(InputError, match="grain"):
        Clevr(config=ClevrConfig(grain=-1))


def test_on_a_cpu_no_gpu_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stream", "Stream", "current_device", "empty_cache"):
        monkeypatch.delattr(torch.cuda, name)
    assert Clevr().read_window(np.arange(2), (100, 116), (150, 166)).image.shape == (2, 16, 16, 3)


def test_parts_fit_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 96x96 a picture counts by its pixels, at 32x32 by its labels, which are of the whole frame."""
    free = 8 * 10**9
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=free))
    source = Clevr(device="cuda:0")
    assert 100 < source._scenes_at_once(96 * 96) < 0.8 * free / 2 / (2600 * 96 * 96)
    assert 300 < source._scenes_at_once(32 * 32) < 0.8 * free / 2 / 7.2e6
    assert source._scenes_at_once(10**9) == 1
    assert source.read_ahead == 250 and Clevr().read_ahead == 1
