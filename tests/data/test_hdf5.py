"""HDF5 files: three layouts that read alike, the authors' written, and files that lie told as such."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import re
import resource
import signal
import struct
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from emorl.data.base import concatenate, iterate
from emorl.data.hdf5 import CLEVR_COLUMNS, MAX_BYTES, Hdf5, write_hdf5
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.tfrecord import VARIANTS, TFRecords, Variant, write_tfrecord
from emorl.errors import InputError
from emorl.types import Batch
from tests.data.scenes import assert_equal, is_equal, merged, some_scenes

ALL = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
TETROMINOES = next(v for v in VARIANTS if v.name == "tetrominoes")
CLEVR = next(v for v in VARIANTS if v.name == "clevr_with_masks")
ROOMS = [v for v in VARIANTS if v.num_background > 1]
IMAGE = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, (5, 6, 8), np.uint8)


def one_mask_each(labels: np.ndarray, num_entities: int) -> np.ndarray:
    """N H W to N E H W 1 of 0 and 255."""
    masks: np.ndarray = 255 * (labels[:, None] == np.arange(num_entities)[:, None, None]).astype(np.uint8)
    return masks[..., None]


MASKS = one_mask_each(LABELS, 4)


def save(path: Path, arrays: dict[str, np.ndarray], **options: Any) -> Path:
    """Arrays by name ("group/name"), as h5py writes them."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, **options)
    return path


def stored_image(scenes: Batch, variant: Variant) -> np.ndarray:
    return scenes.image[..., : variant.image[2]]


def as_authors(path: Path, scenes: Batch, variant: Variant) -> Path:
    """Section 2.1 of the data set specification."""
    assert scenes.mask is not None and scenes.visibility is not None
    arrays = {
        "train/imgs": stored_image(scenes, variant),
        "train/masks": one_mask_each(scenes.mask, variant.num_entities),
    }
    if set(CLEVR_COLUMNS) <= {*scenes.factors, "visibility"}:
        columns = [{**scenes.factors, "visibility": scenes.visibility}[name] for name in CLEVR_COLUMNS]
        arrays["train/factors"] = np.stack(columns, axis=2)
    return save(path, arrays)


def as_library(path: Path, scenes: Batch, variant: Variant) -> Path:
    """Section 2.2, as it has one last axis for every number."""
    assert scenes.mask is not None and scenes.visibility is not None
    arrays = {
        "image": scenes.image,
        "mask": scenes.mask[..., None],
        "visibility": scenes.visibility,
        "num_actual_objects": scenes.visibility.sum(axis=1, keepdims=True) - variant.num_background,
    }
    factors = {name: values if values.ndim > 2 else values[..., None] for name, values in scenes.factors.items()}
    return save(path, arrays | factors)


def as_dump(path: Path, scenes: Batch, variant: Variant) -> Path:
    """Section 2.3."""
    assert scenes.mask is not None and scenes.visibility is not None
    arrays = {"image": stored_image(scenes, variant), "mask": one_mask_each(scenes.mask, variant.num_entities)}
    arrays |= scenes.factors | ({"visibility": scenes.visibility} if variant.has_visibility else {})
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]), compression="gzip")
    return path


# ---- the layouts -----------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("merge", [True, False])
def test_all_layouts_read_alike(variant: Variant, merge: bool, tmp_path: Path) -> None:
    """Section 5 of the data set specification, check 9."""
    scenes = some_scenes(variant)
    write_tfrecord(tmp_path / "a.tfrecords", [scenes], num_background=variant.num_background)
    write_hdf5(tmp_path / "ours.h5", [scenes], num_background=variant.num_background)
    expected = TFRecords(tmp_path / "a.tfrecords", merge_background=merge).read(np.arange(3))
    assert_equal(expected, merged(scenes, variant) if merge else scenes)
    files = {
        "ours": tmp_path / "ours.h5",
        "library": as_library(tmp_path / "library.hdf5", scenes, variant),
        "dump": as_dump(tmp_path / "dump.hdf5", scenes, variant),
    }
    layouts = {"library": "object-centric-library", "dump": "multi-object-datasets", "ours": "efficientmorl"}
    for name, path in files.items():
        source = Hdf5(path, merge_background=merge)
        read = source.read(np.arange(3))
        if name == "library":  # which has no last axis of one in any of its own files
            read = replace(
                read, factors={key: read.factors[key].reshape(scenes.factors[key].shape) for key in read.factors}
            )
        assert_equal(read, expected)
        assert (source.layout, source.group) == (layouts[name], "train" if name == "ours" else None)
        assert (len(source), source.size, source.name) == (3, variant.image[:2], path.name)
        assert source.num_background == (1 if merge else variant.num_background)
        assert source.describe()["num_entities"] == variant.num_entities + 1 - (variant.num_background if merge else 1)
        assert set(source.describe()["factors"]) == set(scenes.factors) and source.describe()["masks"]
        assert expected.visibility is not None
        np.testing.assert_array_equal(source.visibility(np.array([2, 0])), expected.visibility[[2, 0]], strict=True)


@ALL
def test_the_authors_files(variant: Variant, tmp_path: Path) -> None:
    """Only CLEVR has factors; of the others an entity is visible where its mask is not empty."""
    scenes = some_scenes(variant)
    source = Hdf5(as_authors(tmp_path / "scenes.h5", scenes, variant))
    batch = source.read(np.arange(3))
    np.testing.assert_array_equal(batch.image, scenes.image, strict=True)
    np.testing.assert_array_equal(batch.mask, scenes.mask, strict=True)
    assert scenes.mask is not None and batch.visibility is not None
    if variant is CLEVR:
        expected = {name: values for name, values in scenes.factors.items() if name != "pixel_coords"}
        assert_equal(batch, replace(scenes, factors=expected))
    else:
        assert not batch.factors
        present = [[(labels == entity).any() for entity in range(variant.num_entities)] for labels in scenes.mask]
        np.testing.assert_array_equal(batch.visibility, np.array(present, np.float32), strict=True)


def test_our_files_are_those_of_the_authors(tmp_path: Path) -> None:
    """Read as their programs do: by three names, in a group named after the split."""
    scenes, path = some_scenes(CLEVR), tmp_path / "clevr.h5"
    write_hdf5(path, [scenes], group="test")
    assert scenes.mask is not None and scenes.visibility is not None
    with h5py.File(path) as file:
        assert list(file) == ["test"]
        split = file["test"]
        assert split["imgs"].dtype == split["masks"].dtype == np.uint8 and split["factors"].dtype == np.float32
        np.testing.assert_array_equal(split["imgs"][()], scenes.image)
        np.testing.assert_array_equal(split["masks"][()], one_mask_each(scenes.mask, 11))
        assert split["factors"].shape == (3, 11, 9)
        named = scenes.factors | {"visibility": scenes.visibility}
        order = ("x", "y", "z", "rotation", "size", "material", "shape", "color", "visibility")
        for column, name in enumerate(order):
            np.testing.assert_array_equal(split["factors"][..., column], named[name])
        for name in ("imgs", "masks"):
            assert split[name].chunks == (1, *split[name].shape[1:]) and split[name].compression == "gzip"
            assert split[name].maxshape[0] is None
    assert Hdf5(path).group == "test"


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.factors], ids=lambda variant: variant.name)
def test_visibility_is_the_last_column(variant: Variant, tmp_path: Path) -> None:
    scenes, path = some_scenes(variant), tmp_path / "scenes.h5"
    write_hdf5(path, [scenes])
    with h5py.File(path) as file:
        table = file["train/factors"]
        np.testing.assert_array_equal(table[..., -1], scenes.visibility)
        assert table.attrs["factor_names"][-1] == b"visibility"


def test_the_published_records(shared: Path, tmp_path: Path) -> None:
    real = TFRecords(shared / "data" / "tetrominoes_mini.tfrecords").read(np.arange(10))
    write_hdf5(tmp_path / "a.h5", [real])
    assert_equal(Hdf5(tmp_path / "a.h5").read(np.arange(10)), real)
    assert_equal(Hdf5(as_library(tmp_path / "b.hdf5", real, TETROMINOES)).read(np.arange(10)), real)
    assert_equal(Hdf5(as_dump(tmp_path / "c.hdf5", real, TETROMINOES)).read(np.arange(10)), real)


FACTORS = {
    "whole": np.arange(5 * 4).reshape(5, 4) + 2**40,
    "exact": np.random.default_rng(0).random((5, 4, 2)),
    "flag": np.random.default_rng(0).random((5, 4)) < 0.5,
    "big-endian": np.random.default_rng(0).random((5, 4)).astype(">f4"),
    "half": np.random.default_rng(0).random((5, 4)).astype(np.float16),
    "matrix": np.random.default_rng(0).random((5, 4, 2, 3)).astype(np.float32),
    "code": np.random.default_rng(0).integers(0, 256, (5, 4, 1), np.uint8),
    "gap": np.full((5, 4), np.nan, np.float32),
    "größe": np.zeros((5, 4), np.float32),
}
VISIBLE = np.random.default_rng(0).integers(0, 2, (5, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "scenes",
    [
        Batch(IMAGE, np.arange(5)),
        Batch(IMAGE, np.arange(5), LABELS),
        Batch(IMAGE, np.arange(5), None, VISIBLE),
        Batch(IMAGE, np.arange(5), LABELS, VISIBLE),
        Batch(IMAGE, np.arange(5), LABELS, VISIBLE, FACTORS),
        Batch(IMAGE, np.arange(5), None, VISIBLE, FACTORS),
        Batch(IMAGE, np.arange(5), LABELS, None, {"matrix": FACTORS["matrix"]}),
        Batch(IMAGE, np.arange(5), None, None, {"factors": FACTORS["matrix"]}),
        Batch(IMAGE, np.arange(5), None, None, {"exact": FACTORS["exact"]}),
        Batch(IMAGE, np.arange(5), LABELS, None, {"flag": FACTORS["flag"]}),
    ],
)
def test_whatever_a_source_gives_comes_back(scenes: Batch, tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a.h5", [scenes], num_entities=4)
    source = Hdf5(tmp_path / "a.h5")
    assert_equal(source.read(np.arange(5)), scenes)
    if scenes.visibility is None:
        assert source.visibility(np.arange(5)) is None
    assert sorted(source.describe()["factors"]) == sorted(scenes.factors)


def test_batches_of_any_length_are_joined(tmp_path: Path) -> None:
    generator = Tetrominoes(num=600)
    for size in (1, 7, 256, 600):
        write_hdf5(tmp_path / "a.h5", iterate(generator, size), overwrite=True)
        assert_equal(concatenate(iterate(Hdf5(tmp_path / "a.h5"))), concatenate(iterate(generator)))


@pytest.mark.parametrize("variant", ROOMS, ids=lambda variant: variant.name)
def test_a_merged_room_stays_so(variant: Variant, tmp_path: Path) -> None:
    """It has fewer entities, perhaps as many as another of the rooms."""
    scenes = merged(some_scenes(variant), variant)
    write_hdf5(tmp_path / "a.h5", [scenes])
    for merge in (True, False):
        source = Hdf5(tmp_path / "a.h5", merge_background=merge)
        assert_equal(source.read(np.arange(3)), scenes)
        assert source.num_background == 1


def test_other_sets_are_not_taken_for_rooms(tmp_path: Path) -> None:
    """Four entities of 64 x 64: binarized sprites have a test room's shape but for the factors and the channels."""
    grey = next(v for v in VARIANTS if v.name == "multi_dsprites_binarized")
    scenes = some_scenes(grey)
    assert scenes.mask is not None
    sources = [Hdf5(as_library(tmp_path / "a.hdf5", scenes, grey)), Hdf5(as_dump(tmp_path / "b.hdf5", scenes, grey))]
    masks = one_mask_each(scenes.mask, 4)
    sources.append(Hdf5(save(tmp_path / "c.h5", {"train/imgs": scenes.image, "train/masks": masks})))
    sources.append(Hdf5(save(tmp_path / "d.h5", {"image": scenes.image, "mask": masks, "visibility": np.ones((3, 4))})))
    for source in sources:
        np.testing.assert_array_equal(source.read(np.arange(3)).mask, scenes.mask)


# ---- what is tolerated -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, ">i4", np.uint64])
@pytest.mark.parametrize("shape", [(5, 4, 6, 8, 1), (5, 4, 1, 6, 8), (5, 4, 6, 8)])
@pytest.mark.parametrize("prefix", ["val/", "anything at all/", ""])
def test_masks_of_any_form(kind: Any, shape: tuple[int, ...], prefix: str, tmp_path: Path) -> None:
    names = ("imgs", "masks") if prefix else ("image", "mask")
    arrays = {prefix + names[0]: IMAGE.astype(kind), prefix + names[1]: MASKS.astype(kind).reshape(shape)}
    source = Hdf5(save(tmp_path / "a.h5", arrays))
    batch = source.read(np.array([4, 0]))
    np.testing.assert_array_equal(batch.image, IMAGE[[4, 0]], strict=True)
    np.testing.assert_array_equal(batch.mask, LABELS[[4, 0]], strict=True)
    assert batch.visibility is not None and batch.visibility.shape == (2, 4)
    assert source.group == (prefix[:-1] or None)


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
@pytest.mark.parametrize("shape", [(5, 6, 8, 1), (5, 6, 8)])
@pytest.mark.parametrize("visible", [None, (5, 4), (5, 4, 1)])
def test_labels_of_any_form(kind: Any, shape: tuple[int, ...], visible: Any, tmp_path: Path) -> None:
    arrays = {"image": IMAGE, "mask": LABELS.astype(kind).reshape(shape)}
    if visible:
        arrays["visibility"] = VISIBLE.reshape(visible).astype(kind)
    source = Hdf5(save(tmp_path / "a.hdf5", arrays))
    assert source.layout == "object-centric-library"
    assert_equal(source.read(np.arange(5)), Batch(IMAGE, np.arange(5), LABELS, VISIBLE if visible else None))
    assert source.describe()["num_entities"] == (4 if visible else None)


def test_images_alone(tmp_path: Path) -> None:
    for file, name in (("a.h5", "image"), ("b.h5", "train/imgs")):
        source = Hdf5(save(tmp_path / file, {name: IMAGE[..., :1]}))
        assert_equal(source.read(np.arange(5)), Batch(np.repeat(IMAGE[..., :1], 3, axis=3), np.arange(5)))
        assert source.visibility(np.arange(5)) is None
        assert source.describe()["num_entities"] is None and not source.describe()["masks"]


def test_columns_without_names_are_one_factor(tmp_path: Path) -> None:
    table = np.random.default_rng(0).random((5, 4, 6))
    source = Hdf5(save(tmp_path / "a.h5", {"train/imgs": IMAGE, "train/masks": MASKS, "train/factors": table}))
    batch = source.read(np.array([3, 1]))
    assert list(batch.factors) == ["factors"]
    np.testing.assert_array_equal(batch.factors["factors"], table[[3, 1]], strict=True)
    assert batch.visibility is not None and batch.visibility.sum() == 6  # of four entities one is nowhere


def test_arrays_that_are_no_factors_are_left_alone(tmp_path: Path) -> None:
    arrays = {"image": IMAGE, "mask": MASKS, "x": VISIBLE, "per_image": np.zeros(5), "text": np.array(b"hello")}
    source = Hdf5(save(tmp_path / "a.h5", arrays | {"folder/image": IMAGE}))
    assert list(source.read(np.arange(5)).factors) == ["x"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": True},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "gzip", "fletcher32": True},
        {"compression": "lzf"},
        {"compression": "lzf", "shuffle": True, "fletcher32": True},
        {"shuffle": True, "chunks": True},
        {"fletcher32": True},
        {"fletcher32": True, "shuffle": True},
    ],
)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("rows", [None, 1, 3, 5, 9])
def test_every_storage(options: dict[str, Any], libver: str, rows: int | None, tmp_path: Path) -> None:
    scenes = some_scenes(TETROMINOES, 11)
    assert scenes.mask is not None
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
        for name, values in (("imgs", scenes.image.astype("<u2")), ("masks", one_mask_each(scenes.mask, 4))):
            if rows and options:
                chunks = (rows, *(max(1, n * 2 // 3) for n in values.shape[1:]))  # they go over the border
                file.create_dataset(
                    f"a/{name}", data=values, **options | {"chunks": chunks, "maxshape": (None, *values.shape[1:])}
                )
            else:
                file.create_dataset(f"a/{name}", data=values, **options)
    source = Hdf5(tmp_path / "a.h5")
    for indices in ([10, 0, 3, 3, 9, 4, 10], list(range(11)), [], [7]):
        batch = source.read(np.array(indices, np.int64))
        np.testing.assert_array_equal(batch.image, scenes.image[indices], strict=True)
        np.testing.assert_array_equal(batch.mask, scenes.mask[indices], strict=True)
        assert batch.index.tolist() == indices


@pytest.mark.parametrize("index", [11, -1, 10**15])
def test_no_such_image(index: int, tmp_path: Path) -> None:
    source = Hdf5(save(tmp_path / "a.h5", {"image": np.zeros((11, 2, 2, 3), np.uint8)}))
    for read in (source.read, source.visibility):
        with pytest.raises(InputError, match=f"has no image {index}"):
            read(np.array([0, index]))


# ---- processes and memory --------------------------------------------------------------------------------


def read_and_compare(source: Hdf5, expected: Batch) -> bool:
    return is_equal(source.read(np.arange(len(expected))), expected)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_the_file_themselves(method: str, tmp_path: Path) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} here")
    expected = some_scenes(ROOMS[0], 20)
    write_hdf5(tmp_path / "a.h5", [expected], num_background=4)
    source = Hdf5(tmp_path / "a.h5", merge_background=False)
    assert read_and_compare(source, expected)
    with multiprocessing.get_context(method).Pool(2 if method == "fork" else 1) as pool:
        working = [pool.apply_async(read_and_compare, (source, expected)) for _ in range(6)]
        assert read_and_compare(source, expected)
        assert all(result.get(60) for result in working)
    assert read_and_compare(source, expected)


def test_a_forked_process_reads_beside_its_parent(tmp_path: Path) -> None:
    """The source is inherited with its open file, not pickled."""
    expected = some_scenes(TETROMINOES, 300)
    write_hdf5(tmp_path / "a.h5", [expected])
    source = Hdf5(tmp_path / "a.h5")
    children = []
    for seed in range(3):
        child = os.fork()
        if child == 0:
            order = np.random.default_rng(seed).permutation(300)
            good = all(np.array_equal(source.read(order).image, expected.image[order]) for _ in range(3))
            os._exit(0 if good else 1)
        children.append(child)
    for _ in range(3):
        assert read_and_compare(source, expected)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]


def test_pickles_are_small(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a.h5", [some_scenes(TETROMINOES)])
    source = pickle.loads(pickle.dumps(Hdf5(tmp_path / "a.h5", merge_background=False)))
    assert (source.path, source.merge_background, len(source)) == (tmp_path / "a.h5", False, 3)


def peak(action: Callable[[], object]) -> int:
    """The bytes that an action has at most, beyond those before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    num = 400
    content = zlib.compress(bytes(11 * 240 * 320))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, tail, packed in (
            ("imgs", (240, 320, 3), zlib.compress(bytes(240 * 320 * 3))),
            ("masks", (11, 240, 320, 1), zlib.compress(bytes([255]) * 240 * 320 + bytes(10 * 240 * 320))),
        ):
            dataset = file.create_dataset(f"train/{name}", (num, *tail), "u1", chunks=(1, *tail), compression="gzip")
            for i in range(num):
                dataset.id.write_direct_chunk((i, *[0] * len(tail)), packed)
        file.create_dataset("train/factors", data=np.zeros((num, 11, 9), np.float32))
    image_bytes, mask_bytes = 240 * 320 * 3, 11 * 240 * 320
    assert len(content) < mask_bytes
    source = Hdf5(tmp_path / "a.h5")
    assert peak(lambda: Hdf5(tmp_path / "a.h5")) < 2**20
    assert peak(lambda: source.read(np.array([num - 1, 0]))) < 8 * (image_bytes + mask_bytes)
    assert peak(lambda: source.visibility(np.arange(num))) < 2**20
    # A hundred images: what they are in a Batch, twice while its parts are joined, and one part's work.
    assert peak(lambda: source.read(np.arange(100))) < 2 * 100 * (image_bytes + 240 * 320) + 2**27


# ---- files that lie --------------------------------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    """One line that names the file, at once or when all of it is read."""
    with pytest.raises(InputError, match=message) as error:
        source = Hdf5(path)
        source.visibility(np.arange(len(source)))
        source.read(np.arange(len(source)))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "neither 'image' nor a group with 'imgs'"),
        ({"picture": IMAGE}, "neither 'image'"),
        ({"a/imgs": IMAGE, "b/imgs": IMAGE}, "the groups a, b with 'imgs'"),
        ({"image": IMAGE.astype(np.float32)}, "float32 of 5 6 8 3.* are not integers"),
        ({"image": IMAGE > 9}, "bool of 5 6 8 3"),
        ({"image": IMAGE.transpose(0, 3, 1, 2)}, "5 3 6 8"),
        ({"image": IMAGE[0]}, "6 8 3"),
        ({"image": IMAGE[:0]}, "'image' is empty"),
        ({"image": np.uint8(3)}, "'image' is empty"),
        ({"image": IMAGE.astype("S3")}, "not plain numbers"),
        ({"image/image": IMAGE}, "'image' is no data set"),
        ({"a/imgs/imgs": IMAGE}, "'imgs' is no data set"),
        ({"image": IMAGE.astype(np.int32) - 1}, "'image' of image . has values that are not 0 to 255"),
        ({"image": IMAGE.astype(np.int32) * 2}, "'image' of image 0 has values that are not 0 to 255"),
        ({"image": np.concatenate([IMAGE, IMAGE], axis=3)}, "5 6 8 6"),
        ({"image": IMAGE, "mask": MASKS[:4]}, "not of equally many images"),
        ({"image": IMAGE, "mask": MASKS[:, :, :5]}, "do not fit"),
        ({"image": IMAGE, "mask": MASKS.transpose(0, 1, 3, 2, 4)}, "do not fit"),
        ({"image": IMAGE, "mask": MASKS / 255}, "do not fit"),
        ({"image": IMAGE, "mask": MASKS // 255}, "masks of image 0 are not 0 or 255"),
        ({"image": IMAGE, "mask": MASKS - np.int16(1)}, "masks of image 0 are not 0 or 255"),
        ({"image": IMAGE, "mask": MASKS[:, :1]}, "masks of image 0 are not 0 or 255 with exactly one"),
        ({"image": IMAGE, "mask": np.repeat(MASKS, 2, axis=1)}, "masks of image 0 are not 0 or 255 with exactly one"),
        ({"image": IMAGE, "mask": np.repeat(MASKS[:, :1], 257, axis=1)}, "not of 1 to 256 entities"),
        ({"image": IMAGE, "mask": LABELS, "visibility": np.ones((5, 2))}, "'mask' of image 0 .* not 0 to 1"),
        ({"image": IMAGE, "mask": LABELS + np.int16(256)}, "'mask' of image 0 .* not 0 to 255"),
        ({"image": IMAGE, "mask": LABELS.astype(np.int16) - 1}, "'mask' of image 0 .* not 0 to 255"),
        ({"image": IMAGE, "mask": MASKS, "visibility": np.ones((5, 3))}, "as many as all others"),
        ({"image": IMAGE, "visibility": np.ones((4, 3))}, "not of equally many images"),
        ({"image": IMAGE, "visibility": np.ones(5)}, "is not N E"),
        ({"a/imgs": IMAGE, "a/more_factors/x": np.ones(5)}, "'x' .* entities"),
        ({"image": IMAGE, "visibility": np.ones((5, 3, 2))}, "is not N E"),
        ({"image": IMAGE, "visibility": np.full((5, 3), b"a")}, "not plain numbers"),
        ({"image": IMAGE, "visibility": np.ones((5, 3)), "x": np.full((5, 3), b"a")}, "'x' holds .*not plain numbers"),
        ({"a/imgs": IMAGE, "a/factors": np.ones((5, 3))}, "not N E F"),
        ({"a/imgs": IMAGE, "a/masks": MASKS, "a/factors": np.ones((5, 3, 9))}, "as many as all others"),
        ({"a/imgs": IMAGE, "a/factors": np.full((5, 3, 9), 0.5)}, "'size' has values that are no uint8"),
        ({"a/imgs": IMAGE, "a/factors": np.full((5, 3, 9), 300)}, "'size' has values that are no uint8"),
        ({"a/imgs": IMAGE, "a/factors": np.full((5, 3, 9), np.nan)}, "'size' has values that are no uint8"),
        ({"a/imgs": IMAGE, "a/more_factors/mask": VISIBLE}, "not told apart"),
        ({"a/imgs": IMAGE, "a/more_factors/visibility": VISIBLE}, "not told apart"),
        ({"a/imgs": IMAGE, "a/more_factors/x": VISIBLE, "a/more_factors/y": VISIBLE[:, :2]}, "as many as all others"),
        ({"a/imgs": IMAGE, "a/more_factors/x": VISIBLE[:3]}, "equally many"),
    ],
)
def test_what_does_not_fit(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    refused(save(tmp_path / "a.h5", arrays), message)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"names": [b"a", b"b"], "dtypes": [b"float32"] * 2, "shapes": [b"", b"3"]}, "do not tell of its 3 columns"),
        ({"names": [b"a", b"b", b"c"], "dtypes": [b"float32"] * 2, "shapes": [b""] * 3}, "do not fit each other"),
        ({"names": [b"a", b"a", b"c"], "dtypes": [b"float32"] * 3, "shapes": [b""] * 3}, "do not tell"),
        ({"names": [b"a", b"b", b"c"], "dtypes": [b"O"] * 3, "shapes": [b""] * 3}, "tell of"),
        ({"names": [b"a", b"visibility"], "dtypes": [b"float32"] * 2, "shapes": [b"", b"2"]}, "tell of"),
        ({"names": [b"a", b"b", b"c"], "dtypes": [b"uint8"] * 3, "shapes": [b"-1"] * 3}, "tell of"),
        ({"names": [b"a", b"b", b"c"], "dtypes": [b"uint8"] * 3, "shapes": [b"9" * 99] * 3}, "tell of"),
        ({"names": [b"a", b"b"], "dtypes": [b"uint8"] * 2, "shapes": [b"999999 999999 999999"] * 2}, "do not tell"),
        ({"names": [b"image", b"b", b"c"], "dtypes": [b"float32"] * 3, "shapes": [b""] * 3}, "not told apart"),
        ({"names": [b"\xff", b"b", b"c"], "dtypes": [b"float32"] * 3, "shapes": [b""] * 3}, "utf-8"),
        (
            {"names": [b"a", b"b", b"c"], "dtypes": [b"uint8"] * 3, "shapes": [b""] * 3},
            "'a' has values that are no uint8",
        ),
    ],
)
def test_attributes_that_lie(attributes: dict[str, list[bytes]], message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", {"a/imgs": IMAGE, "a/factors": np.full((5, 4, 3), 0.5, np.float32)})
    with h5py.File(path, "a") as file:
        for name, values in attributes.items():
            file["a/factors"].attrs[f"factor_{name}"] = np.array(values)
    refused(path, message)


@pytest.mark.parametrize("value", [0, -1, 5, 2**40, np.arange(2)])
def test_backgrounds_that_lie(value: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", {"a/imgs": IMAGE, "a/masks": MASKS})
    with h5py.File(path, "a") as file:
        file["a"].attrs["num_background"] = value
    refused(path, "background")


def test_factors_of_several_backgrounds_are_not_merged(tmp_path: Path) -> None:
    scenes = Batch(IMAGE, np.arange(5), LABELS, VISIBLE, {"x": VISIBLE})
    write_hdf5(tmp_path / "a.h5", [scenes], num_background=2)
    refused(tmp_path / "a.h5", "factors of 2 background entities")
    assert_equal(Hdf5(tmp_path / "a.h5", merge_background=False).read(np.arange(5)), scenes)


def test_other_files_are_not_looked_at(tmp_path: Path) -> None:
    good = save(tmp_path / "good.h5", {"image": IMAGE, "a/imgs": IMAGE})
    (tmp_path / "raw").write_bytes(IMAGE.tobytes())

    def link(file: h5py.File) -> None:
        file["image"] = h5py.ExternalLink("good.h5", "/image")

    def link_group(file: h5py.File) -> None:
        file["a"] = h5py.ExternalLink("good.h5", "/a")

    def link_in_group(file: h5py.File) -> None:
        file.create_group("a")["imgs"] = h5py.ExternalLink("good.h5", "/image")

    def soft(file: h5py.File) -> None:
        file["other"], file["image"] = IMAGE, h5py.SoftLink("/other")

    def factor(file: h5py.File) -> None:
        file["image"], file["mask"], file["x"] = IMAGE, MASKS, h5py.ExternalLink("good.h5", "/image")

    def external(file: h5py.File) -> None:
        file.create_dataset("image", IMAGE.shape, "u1", external=[(str(tmp_path / "raw"), 0, IMAGE.nbytes)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(IMAGE.shape, "u1")
        layout[...] = h5py.VirtualSource(str(good), "image", IMAGE.shape)
        file.create_virtual_dataset("image", layout)

    for make, message in (
        (link, "'image' is a link"),
        (link_group, "'a' is a link"),
        (link_in_group, "'imgs' is a link"),
        (soft, "'image' is a link"),
        (factor, "'x' is a link"),
        (external, "'image' lies in another file"),
        (virtual, "'image' lies in another file"),
    ):
        path = tmp_path / f"{make.__name__}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        refused(path, message)


def test_numbers_of_odd_form(tmp_path: Path) -> None:
    def twelve_bits() -> h5py.h5t.TypeID:
        kind = h5py.h5t.STD_U16LE.copy()
        kind.set_precision(12)
        return kind

    kinds = {
        "text": h5py.h5t.py_create(h5py.string_dtype(), logical=True),
        "reference": h5py.h5t.py_create(h5py.ref_dtype, logical=True),
        "arrays": h5py.h5t.py_create(h5py.vlen_dtype(np.uint8), logical=True),
        "compound": h5py.h5t.py_create(np.dtype([("a", "u1"), ("b", "u1")]), logical=True),
        "opaque": h5py.h5t.create(h5py.h5t.OPAQUE, 8),
        "long": h5py.h5t.py_create(np.dtype(np.longdouble), logical=True),
        "twelve": twelve_bits(),
        "time": h5py.h5t.create(h5py.h5t.OPAQUE, 1),
    }
    for name, kind in kinds.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            h5py.h5d.create(file.id, b"image", kind, h5py.h5s.create_simple((5, 6, 8, 3)))
        refused(tmp_path / f"{name}.h5", "not plain numbers|cannot read")


@pytest.mark.parametrize(
    ("shape", "chunks", "compression", "message"),
    [
        ((10**12, 6, 8, 3), (1, 6, 8, 3), "gzip", "which the file cannot hold"),
        ((10**12, 6, 8, 3), None, None, "which the file cannot hold"),
        ((5, 6, 8, 3), None, None, "which the file cannot hold"),
        ((3, 10**5, 10**5, 3), (1, 64, 64, 3), "gzip", "bytes per image or chunk"),
        ((3, 64, 64, 3), (10**5, 64, 64, 3), "gzip", "bytes per image or chunk"),
        ((3, 64, 64, 3), (1, 64, 64, 3), "gzip", "'image' of image 0 is missing"),
        ((3, 64, 64, 3), (2, 64, 64, 3), "lzf", "'image' of image 0 is missing"),
        ((2**62, 1, 1, 3), (1, 1, 1, 3), None, "which the file cannot hold"),
    ],
)
def test_nothing_behind_a_shape(shape: Any, chunks: Any, compression: Any, message: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        maxshape = None if chunks is None else (None, *shape[1:])
        file.create_dataset("image", shape, "u1", chunks=chunks, maxshape=maxshape, compression=compression)
        file.create_dataset("padding", data=np.zeros(4000, np.uint8))
    assert peak(lambda: refused(tmp_path / "a.h5", message)) < 2**20


@pytest.mark.parametrize(
    "content",
    [
        zlib.compress(bytes(2**26)),
        zlib.compress(bytes(6 * 8 * 3 + 1)),
        zlib.compress(bytes(6 * 8 * 3 - 1)),
        zlib.compress(bytes(6 * 8 * 3))[:-1],
        zlib.compress(bytes(6 * 8 * 3))[:-1] + b"x",
        b"",
        b"no such stream",
        bytes(2000),
    ],
)
def test_chunks_that_lie(content: bytes, tmp_path: Path) -> None:
    """One unpacks to 64 MiB; the library would let it."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        image = file.create_dataset("image", (2, 6, 8, 3), "u1", chunks=(1, 6, 8, 3), compression="gzip")
        image.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(6 * 8 * 3)))
        if content:
            image.id.write_direct_chunk((1, 0, 0, 0), content)
    source = Hdf5(tmp_path / "a.h5")
    source.read(np.array([0]))
    assert peak(lambda: refused(tmp_path / "a.h5", "of image 1|while decompressing|buffer")) < 2**20
    source.read(np.array([0]))


def test_unknown_filters(tmp_path: Path) -> None:
    """A number that no one knows could be that of a plug-in, which the library would look for and run."""
    refused(save(tmp_path / "scaled.h5", {"image": IMAGE}, scaleoffset=3), r"packed by the filters \[6\]")
    for name, filters, message in (("twice", [1, 1], r"\[1, 1\]"), ("unknown", [444], r"\[444\]")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            storage.set_chunk((1, 6, 8, 3))
            for number in filters:
                storage.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (4,))
            space = h5py.h5s.create_simple(IMAGE.shape)
            h5py.h5d.create(file.id, b"image", h5py.h5t.NATIVE_UINT8, space, storage)
        refused(tmp_path / f"{name}.h5", f"packed by the filters {message}")


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("pieces", [1, 2])
def test_heaps_without_end(which: int, pieces: int, tmp_path: Path) -> None:
    """The library would go round for ever in the list of free places, taking memory at every turn."""
    (tmp_path / "raw").write_bytes(IMAGE.tobytes())
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a/imgs", IMAGE.shape, "u1", external=[(str(tmp_path / "raw"), 0, IMAGE.nbytes)])
    content = bytearray(path.read_bytes())
    heaps = [match.start() for match in re.finditer(b"HEAP", content)]
    assert len(heaps) == 3  # of the root, the group and the external file
    heap = heaps[which]
    data = int.from_bytes(content[heap + 24 : heap + 32], "little")
    for i in range(pieces):
        content[data + 8 + 16 * i : data + 24 + 16 * i] = struct.pack("<QQ", 8 + 16 * ((i + 1) % pieces), 16)
    content[heap + 16 : heap + 24] = struct.pack("<Q", 8)
    path.write_bytes(content)
    assert outcomes(path, [bytes(content)], Batch(IMAGE, np.arange(5))) == {"refused": 1}
    refused(path, "free places without end")


def test_headers_without_end(tmp_path: Path) -> None:
    """A message that continues an object's header leads back to it."""
    path = save(tmp_path / "a.h5", {"image": IMAGE})
    with h5py.File(path) as file:
        address = h5py.h5o.get_info(file["image"].id).addr
    content = bytearray(path.read_bytes())
    content[address + 16 : address + 40] = struct.pack("<HHB3xQQ", 0x10, 16, 0, address + 16, 24)
    assert outcomes(path, [bytes(content)], Batch(IMAGE, np.arange(5))) == {"refused": 1}


@pytest.mark.parametrize("maxshape", [(6, 6, 8, 3), (None, 6, 9, 3), (5, 9, 9, 3)])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_what_can_grow_to_an_end(maxshape: Any, libver: str, tmp_path: Path) -> None:
    """Where its index has fewer places than that the library reads beyond it."""
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
        file.create_dataset("image", data=IMAGE, chunks=(1, 6, 8, 3), maxshape=maxshape)
    refused(tmp_path / "a.h5", "can grow, but not without end")


def test_a_block_before_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file["image"] = IMAGE
    refused(tmp_path / "a.h5", "does not begin as an HDF5 file")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(2000), b"PK\x03\x04"]
)
def test_no_hdf5(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    refused(path, "cannot read")
    path.unlink()
    refused(path, "there is no such file")
    os.mkfifo(path)
    refused(path, "there is no such file")
    with pytest.raises(InputError, match="there is no such file"):
        Hdf5(tmp_path)


def test_a_large_image_is_not_written(tmp_path: Path) -> None:
    image = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1, MAX_BYTES // 2, 1, 3), (0, 0, 0, 0))
    with pytest.raises(InputError, match="one image has"):
        write_hdf5(tmp_path / "a.h5", [Batch(image, np.arange(1))])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written(tmp_path: Path) -> None:
    scenes = Batch(IMAGE, np.arange(5), LABELS, VISIBLE, {})
    for batches, options, message in (
        ([], {}, "no scenes"),
        ([scenes], {"group": "a/b"}, "cannot hold the name 'a/b'"),
        ([scenes], {"group": ""}, "cannot hold the name"),
        ([replace(scenes, factors={".": VISIBLE})], {}, "cannot hold the name '.'"),
        ([replace(scenes, factors={"x": VISIBLE.astype(str)})], {}, "cannot hold 'x', <U"),
        ([replace(scenes, factors={"x": VISIBLE[..., None][..., :0]})], {}, "cannot hold 'x', float32 of 5 4 0"),
        ([replace(scenes, mask=LABELS + 2)], {}, "the mask has label 4, but there are 4 entities"),
        ([replace(scenes, visibility=None)], {}, "the mask has label 2, but there are None entities"),
        ([replace(scenes, visibility=np.ones((5, 300), np.float32))], {}, "300 entities"),
    ):
        with pytest.raises(InputError, match=message):
            write_hdf5(tmp_path / "a.h5", batches, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def outcomes(path: Path, contents: list[bytes], good: Batch) -> Counter[str]:
    """What becomes of reading each of some contents, in another process: the library is written in C."""
    found: list[str] = []
    names = {0: "equal", 1: "other values", 2: "refused", 3: "two lines", 4: "another error"}
    while len(found) < len(contents):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_DATA, (2**32, 2**32))
            for content in contents[len(found) :]:
                signal.alarm(20)
                os.write(writing, bytes([how_it_reads(path, content, good)]))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            found += [names[code] for code in pipe.read()]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            found.append(f"status {status}")
    return Counter(found)


def how_it_reads(path: Path, content: bytes, good: Batch) -> int:
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        source = Hdf5(path)
        return 0 if is_equal(source.read(np.arange(len(source))), good) else 1
    except InputError as error:
        return 2 if str(path) in str(error) and "\n" not in str(error) else 3
    except Exception as error:
        print(repr(error))
        return 4


def damaged(content: bytes, num: int) -> list[bytes]:
    """Flipped bits, other numbers, addresses of other structures, and cut ends; aimed at what is not pixels."""
    rng, results = random.Random(0), []
    places = [place for place in range(len(content)) if any(content[max(0, place - 24) : place + 24])]
    structures = re.finditer(b"TREE|SNOD|HEAP|OHDR|OCHK|FAHD|FADB", content)
    numbers = [0, 1, 2, 16, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1, *(match.start() for match in structures)]
    for trial in range(num):
        changed = bytearray(content)
        if trial % 20 == 0:
            del changed[rng.randrange(len(content)) :]
        for _ in range(rng.choice([1, 1, 2, 4])):
            place, width = rng.choice(places), rng.choice([1, 2, 4, 8])
            if place + width > len(changed):
                continue
            if rng.random() < 0.5:
                changed[place] ^= 1 << rng.randrange(8)
            else:
                number = rng.choice(numbers) % 256**width
                changed[place : place + width] = number.to_bytes(width, "little")
        results.append(bytes(changed))
    return results


@pytest.mark.parametrize("num", [300, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", ["ours", "library", "dump"])
def test_random_damage(num: int, layout: str, tmp_path: Path) -> None:
    good, path = some_scenes(TETROMINOES, 2), tmp_path / "a.h5"
    make = {"ours": lambda p, s, _: write_hdf5(p, [s]), "library": as_library, "dump": as_dump}[layout]
    make(path, good, TETROMINOES)
    found = outcomes(path, damaged(path.read_bytes(), num), good)
    assert set(found) <= {"equal", "other values", "refused"}, found
    assert found["refused"] > num // 10
