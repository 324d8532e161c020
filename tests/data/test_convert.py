"""Conversion: nothing is lost, and whoever is interrupted goes on."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import h5py
import numpy as np
import pytest

from emorl.cli import main
from emorl.data import convert as module
from emorl.data.base import Source, Subset, concatenate, iterate
from emorl.data.convert import convert
from emorl.data.hdf5 import Hdf5
from emorl.data.npz import Npz
from emorl.data.pictures import Pictures
from emorl.data.sources import open_source
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.tfrecord import VARIANTS, TFRecords, Variant, parse_example, read_records, write_tfrecord
from emorl.errors import InputError
from emorl.types import Batch
from tests.data.scenes import Held, assert_equal, merged, some_scenes

ALL = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
ENDINGS = pytest.mark.parametrize("ending", [".h5", ".tfrecords"])
TETROMINOES = next(v for v in VARIANTS if v.name == "tetrominoes")
ROOM = next(v for v in VARIANTS if v.name == "objects_room_train")
IMAGE = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, (5, 6, 8), np.uint8)
VISIBLE = np.ones((5, 4), np.float32)


def everything(source: Source) -> Batch:
    return concatenate(iterate(source))


def opened(path: Path) -> Source:
    kinds: dict[str, Callable[[Path], Source]] = {
        ".h5": lambda p: Hdf5(p, merge_background=False),
        ".tfrecords": lambda p: TFRecords(p, merge_background=False),
        ".npz": Npz,
    }
    return kinds[path.suffix](path)


def contents(path: Path) -> Any:
    """What two conversions of the same have in common: the bytes, or for HDF5 all that can be read of it."""
    if path.suffix != ".h5":
        return path.read_bytes()
    found: dict[str, Any] = {}

    def look(name: str, entry: h5py.Group | h5py.Dataset) -> None:
        attributes = {key: np.asarray(value).tolist() for key, value in entry.attrs.items()}
        if isinstance(entry, h5py.Dataset):
            raw = [
                entry.id.read_direct_chunk(entry.id.get_chunk_info(i).chunk_offset)
                for i in range(entry.id.get_num_chunks())
            ]
            found[name] = attributes, entry.shape, entry.maxshape, entry.chunks, str(entry.dtype), raw
        else:
            found[name] = attributes

    with h5py.File(path) as file:
        file.visititems(look)
    return found


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few scenes are many parts: five records of Tetrominoes, or as many of its images and masks."""
    monkeypatch.setattr(module, "_PART_BYTES", 5 * 26_000)
    monkeypatch.setattr("emorl.data.hdf5._ROOM", 2 * 5 * 4900)


# ---- nothing is lost -------------------------------------------------------------------------------------


@ALL
def test_there_and_back(variant: Variant, tmp_path: Path) -> None:
    """TFRecord to HDF5 to TFRecord to .npz, the first and the third of the same bytes."""
    scenes = some_scenes(variant, 4)
    write_tfrecord(tmp_path / "a.tfrecords", [scenes], num_background=variant.num_background)
    convert(TFRecords(tmp_path / "a.tfrecords", merge_background=False), tmp_path / "b.h5")
    assert_equal(everything(opened(tmp_path / "b.h5")), scenes)
    assert_equal(everything(Hdf5(tmp_path / "b.h5")), merged(scenes, variant))
    convert(opened(tmp_path / "b.h5"), tmp_path / "c.tfrecords")
    assert list(read_records(tmp_path / "c.tfrecords")) == list(read_records(tmp_path / "a.tfrecords"))
    convert(opened(tmp_path / "c.tfrecords"), tmp_path / "d.npz")
    assert_equal(everything(Npz(tmp_path / "d.npz")), scenes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tfrecords", "b.h5", "c.tfrecords", "d.npz"]


def test_the_published_records(shared: Path, tmp_path: Path) -> None:
    published = shared / "data" / "tetrominoes_mini.tfrecords"
    convert(TFRecords(published), tmp_path / "a.hdf5")
    assert_equal(everything(Hdf5(tmp_path / "a.hdf5")), everything(TFRecords(published)))
    convert(Hdf5(tmp_path / "a.hdf5"), tmp_path / "b.tfrecord")
    assert_equal(everything(TFRecords(tmp_path / "b.tfrecord")), everything(TFRecords(published)))
    for ours, theirs in zip(read_records(tmp_path / "b.tfrecord"), read_records(published), strict=True):
        a, b = parse_example(ours), parse_example(theirs)
        assert len(ours) == len(theirs) and a.keys() == b.keys()
        assert all((a[name] == b[name]).all() for name in a)


def test_a_merged_room(tmp_path: Path) -> None:
    """It can be kept where entities have no fixed meaning, and is refused where it would be taken for another."""
    scenes = some_scenes(ROOM)
    write_tfrecord(tmp_path / "a.tfrecords", [scenes], num_background=4)
    convert(TFRecords(tmp_path / "a.tfrecords"), tmp_path / "b.h5")
    for merge in (True, False):
        assert_equal(everything(Hdf5(tmp_path / "b.h5", merge_background=merge)), merged(scenes, ROOM))
    with pytest.raises(InputError, match=r"no published \.tfrecords layout"):
        convert(TFRecords(tmp_path / "a.tfrecords"), tmp_path / "c.tfrecords")
    assert not list(tmp_path.glob("c.*"))


def test_the_command_keeps_every_background_entity_of_a_room(tmp_path: Path) -> None:
    scenes = some_scenes(ROOM, 6)
    a, b, c = (tmp_path / name for name in ("a.tfrecords", "b.h5", "c.tfrecords"))
    write_tfrecord(a, [scenes], num_background=4)
    assert main(["data", "convert", str(a), str(b)]) == main(["data", "convert", str(b), str(c)]) == 0
    assert list(read_records(c)) == list(read_records(a))
    d = tmp_path / "d.npz"  # which cannot say that four entities are background
    assert main(["data", "convert", str(a), str(d)]) == 0
    assert_equal(everything(Npz(d)), merged(scenes, ROOM))
    for merge in (True, False):  # four of seven entities are background either way
        assert len(open_source(b, subset="3-3", merge_background=merge)) == 6


def test_parts_of_a_room_know_its_background(tmp_path: Path) -> None:
    scenes = some_scenes(ROOM)
    write_tfrecord(tmp_path / "a.tfrecords", [scenes], num_background=4)
    part = Subset(TFRecords(tmp_path / "a.tfrecords", merge_background=False), 1, 3)
    for ending in (".h5", ".tfrecords"):
        convert(part, tmp_path / f"part{ending}")
        assert_equal(everything(opened(tmp_path / f"part{ending}")), everything(part))
    assert Hdf5(tmp_path / "part.h5").describe()["num_entities"] == 4


@pytest.mark.parametrize(
    "scenes",
    [
        Batch(IMAGE, np.arange(5)),
        Batch(IMAGE, np.arange(5), LABELS),
        Batch(IMAGE, np.arange(5), LABELS, None, {"x": VISIBLE}),
        Batch(IMAGE, np.arange(5), LABELS, VISIBLE, {"x": np.arange(20).reshape(5, 4), "": VISIBLE[..., None]}),
    ],
)
def test_incomplete_scenes(scenes: Batch, tmp_path: Path) -> None:
    if "" in scenes.factors:
        with pytest.raises(InputError, match="cannot hold the name ''"):
            convert(Held(scenes), tmp_path / "a.h5")
        scenes = replace(scenes, factors={"x": scenes.factors["x"]})
    convert(Held(scenes), tmp_path / "a.h5")
    assert_equal(everything(Hdf5(tmp_path / "a.h5")), scenes)
    convert(Hdf5(tmp_path / "a.h5"), tmp_path / "b.h5")
    assert contents(tmp_path / "a.h5") == contents(tmp_path / "b.h5")
    with pytest.raises(InputError, match=r"\.tfrecords"):
        convert(Held(scenes), tmp_path / "a.tfrecords")
    if scenes.factors and scenes.visibility is None:
        with pytest.raises(InputError, match="factors without visibility"):
            convert(Held(scenes), tmp_path / "a.npz")
    else:
        convert(Held(scenes), tmp_path / "a.npz")
        assert_equal(everything(Npz(tmp_path / "a.npz")), scenes)


def test_names_that_numpy_keeps(tmp_path: Path) -> None:
    scenes = Batch(IMAGE, np.arange(5), LABELS, VISIBLE, {"file": VISIBLE})
    with pytest.raises(InputError, match="a factor 'file'"):
        convert(Held(scenes), tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())
    convert(Held(scenes), tmp_path / "a.h5")
    assert_equal(everything(Hdf5(tmp_path / "a.h5")), scenes)


@pytest.mark.parametrize("ending", [".h5", ".hdf5", ".tfrecords", ".tfrecord", ".npz", ".H5"])
def test_ranges_groups_and_progress(ending: str, small_parts: None, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path, generator = tmp_path / f"a{ending}", Tetrominoes(num=40)
    convert(generator, path, start=11, stop=31, group="test", progress=lambda done, total: told.append((done, total)))
    kinds: dict[str, Callable[[Path], Source]] = {".npz": Npz, ".tfr": TFRecords}
    source = kinds.get(ending[:4], Hdf5)(path)
    assert_equal(everything(source), generator.read(np.arange(11, 31)))
    if isinstance(source, Hdf5):
        assert source.group == "test"
    assert told[-1] == (20, 20) and told == sorted(told)
    assert len(told) == (1 if ending == ".npz" else 4)


def test_gzip_is_one_stream(small_parts: None, tmp_path: Path) -> None:
    convert(Tetrominoes(num=33), tmp_path / "a.tfrecords")
    write_tfrecord(tmp_path / "b.tfrecords", iterate(Tetrominoes(num=33)), compress=False)
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert stream.decompress((tmp_path / "a.tfrecords").read_bytes()) == (tmp_path / "b.tfrecords").read_bytes()
    assert stream.eof and not stream.unused_data


def test_nothing_is_kept_of_a_gzip_source(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "a.tfrecords", iterate(Tetrominoes(num=300)))
    source = TFRecords(tmp_path / "a.tfrecords")
    convert(Subset(source, 100, 250), tmp_path / "b.h5")
    assert len(source._blocks) <= 1 and source.cache_bytes == 2**31
    assert_equal(everything(Hdf5(tmp_path / "b.h5")), Tetrominoes().read(np.arange(100, 250)))


@ENDINGS
def test_memory_does_not_grow_with_the_number(ending: str, tmp_path: Path) -> None:
    def peak(num: int) -> int:
        tracemalloc.start()
        convert(Tetrominoes(num=num), tmp_path / f"{num}{ending}")
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return memory

    peak(10)
    assert peak(2560) < 1.2 * peak(512)


# ---- going on --------------------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


def failing_at(position: int, read: list[int]) -> Held:
    """Forty scenes, of which those from a position on cannot be read; what is asked for is noted."""

    def before(index: np.ndarray) -> None:
        if index.max() >= position:
            raise StoppedError
        read.extend(index.tolist())

    return Held(Tetrominoes(num=40).read(np.arange(40)), before=before)


@ENDINGS
@pytest.mark.parametrize("stops", [[1], [5], [17], [39], [6, 12, 13, 30, 38]])
def test_going_on_after_an_error(ending: str, stops: list[int], small_parts: None, tmp_path: Path) -> None:
    whole, path = tmp_path / f"whole{ending}", tmp_path / f"a{ending}"
    convert(failing_at(99, []), whole)
    for stop in stops:
        with pytest.raises(StoppedError):
            convert(failing_at(stop, []), path)
        assert not path.exists()
        assert (tmp_path / f"a{ending}.partial").exists() == (stop >= 5)
    read: list[int] = []
    told: list[int] = []
    convert(failing_at(99, read), path, progress=lambda done, total: told.append(done))
    assert contents(path) == contents(whole)
    done = max(stops) // 5 * 5
    assert read == [0, *range(done, 40)]  # the first scene tells the layout
    assert told == [*([done] if done else []), *range(done + 5, 41, 5)]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, whole.name])


def killed_at(number: int, pattern: str, action: Callable[[], None]) -> bool:
    """Runs an action in a process that dies at the number-th file operation with the pattern; whether it did."""
    child = os.fork()
    if child == 0:
        count = 0

        def watch(operation: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if operation in ("open", "os.rename", "os.remove", "os.truncate") and re.search(pattern, str(arguments[0])):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            action()
        except BaseException as error:
            print(repr(error))
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@ENDINGS
def test_going_on_after_a_kill(ending: str, small_parts: None, tmp_path: Path) -> None:
    """Killed at every one of its file operations, each time anew; and at the same one again and again."""
    source = Tetrominoes(num=20)
    convert(source, tmp_path / f"whole{ending}")
    expected = contents(tmp_path / f"whole{ending}")
    for number in range(1, 1000):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / f"a{ending}"
        pattern = re.escape(str(path))
        died = killed_at(number, pattern, partial(convert, source, path))
        if path.exists():
            with pytest.raises(InputError, match="exists already"):
                convert(source, path)
        else:
            convert(source, path)
        assert contents(path) == expected
        if not died:
            break
        assert not path.with_name(path.name + ".partial").exists()
    assert 15 < number < 100

    path = tmp_path / f"b{ending}"
    deaths = 0
    while not path.exists():
        deaths += killed_at(11, re.escape(str(path)), partial(convert, source, path))
        assert deaths < 20
    assert deaths > 1
    assert contents(path) == expected


@pytest.mark.parametrize("after", [0, 1, 77, 163])
def test_going_on_after_a_kill_inside_the_library(after: int, small_parts: None, tmp_path: Path) -> None:
    """The chunks of an .h5 file are put in their places by code that is not Python."""
    source, path, read = Tetrominoes(num=80), tmp_path / "a.h5", module._read_chunks
    child = os.fork()
    if child == 0:

        def dying(file: BinaryIO) -> Iterator[bytes]:
            for number, chunk in enumerate(read(file)):
                if number == after:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield chunk

        module._read_chunks = dying
        convert(source, path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not path.exists() and (tmp_path / "a.h5.partial.tmp").exists()
    convert(source, path)
    convert(source, tmp_path / "whole.h5")
    assert contents(path) == contents(tmp_path / "whole.h5")
    assert len(list(tmp_path.iterdir())) == 2


@ENDINGS
def test_what_was_not_synced_is_cut_off(ending: str, small_parts: None, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    with pytest.raises(StoppedError):
        convert(failing_at(17, []), path)
    with (tmp_path / f"a{ending}.partial").open("ab") as file:
        file.write(b"half of a part")
    convert(failing_at(99, []), path)
    convert(failing_at(99, []), tmp_path / f"whole{ending}")
    assert contents(path) == contents(tmp_path / f"whole{ending}")


@pytest.mark.parametrize(
    ("ending", "change"),
    [
        *(
            (ending, change)
            for ending in (".h5", ".tfrecords")
            for change in (
                {"source": Tetrominoes(seed=1, num=40)},
                {"source": Subset(Tetrominoes(num=40), 0, 40)},
                {"start": 1},
                {"stop": 39},
            )
        ),
        (".h5", {"group": "test"}),
    ],
)
def test_another_conversion_is_not_gone_on_with(
    ending: str, change: dict[str, Any], small_parts: None, tmp_path: Path
) -> None:
    path, unfinished = tmp_path / f"a{ending}", tmp_path / f"a{ending}.partial"
    original = Tetrominoes(num=40)

    def stop_late(done: int, total: int) -> None:
        if done == 20:
            raise StoppedError

    with pytest.raises(StoppedError):
        convert(original, path, progress=stop_late)
    before = unfinished.read_bytes()
    arguments: dict[str, Any] = {"source": original} | change
    with pytest.raises(InputError, match="left from another conversion") as error:
        convert(out=path, **arguments)
    assert str(unfinished) in str(error.value) and "\n" not in str(error.value)
    assert unfinished.read_bytes() == before
    convert(out=path, overwrite=True, **arguments)
    convert(out=tmp_path / f"whole{ending}", **arguments)
    assert contents(path) == contents(tmp_path / f"whole{ending}")
    assert not unfinished.exists()


@ENDINGS
@pytest.mark.parametrize("note", ["", "{", "[]", "{}", None])
def test_a_partial_file_without_its_note(ending: str, note: str | None, small_parts: None, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    with pytest.raises(StoppedError):
        convert(failing_at(17, []), path)
    beside = tmp_path / f"a{ending}.partial.json"
    if note is None:
        beside.unlink()
    else:
        beside.write_text(note)
    with pytest.raises(InputError, match="left from another conversion"):
        convert(failing_at(99, []), path)
    (tmp_path / f"a{ending}.partial").unlink()
    convert(failing_at(99, []), path)
    assert len(opened(path)) == 40


@ENDINGS
def test_a_partial_file_that_lost_its_end(ending: str, small_parts: None, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    with pytest.raises(StoppedError):
        convert(failing_at(17, []), path)
    os.truncate(tmp_path / f"a{ending}.partial", 100)
    with pytest.raises(InputError, match="left from another conversion"):
        convert(failing_at(99, []), path)


@ENDINGS
def test_overwriting_keeps_the_old_file_until_the_end(ending: str, small_parts: None, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    convert(Tetrominoes(seed=5, num=7), path)
    old = contents(path)
    with pytest.raises(InputError, match="exists already"):
        convert(failing_at(99, []), path)
    with pytest.raises(StoppedError):
        convert(failing_at(17, []), path, overwrite=True)
    assert contents(path) == old
    read: list[int] = []
    convert(failing_at(99, read), path, overwrite=True)
    assert read == [0, *range(15, 40)] and len(opened(path)) == 40


def test_a_file_may_replace_its_source(tmp_path: Path) -> None:
    convert(Tetrominoes(num=7), tmp_path / "a.h5")
    convert(Hdf5(tmp_path / "a.h5"), tmp_path / "a.h5", start=2, stop=5, overwrite=True)
    assert_equal(everything(Hdf5(tmp_path / "a.h5")), Tetrominoes().read(np.arange(2, 5)))


# ---- what goes wrong -------------------------------------------------------------------------------------


@ENDINGS
def test_two_at_once(ending: str, small_parts: None, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"

    def intrude(done: int, total: int) -> None:
        for other in (Tetrominoes(num=20), Tetrominoes(seed=1, num=3)):
            with pytest.raises(InputError, match="being written by another process"):
                convert(other, path, overwrite=True)

    convert(Tetrominoes(num=20), path, progress=intrude)
    assert_equal(everything(opened(path)), Tetrominoes().read(np.arange(20)))
    with filelock.FileLock(tmp_path / "b.npz.partial.lock"), pytest.raises(InputError, match="another process"):
        convert(Tetrominoes(num=20), tmp_path / "b.npz")


def convert_with_limit(limit: int, source: Source, path: Path) -> str:
    """What is said where no file may have more bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            convert(source, path)
        except InputError as error:
            os.write(writing, str(error).encode())
            os._exit(0)
        except BaseException as error:
            os.write(writing, repr(error).encode())
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said
    return said


@ENDINGS
@pytest.mark.parametrize("share", [0, 0.01, 0.2, 0.6, 0.9, 0.97, 0.9999])
def test_a_full_disk(ending: str, share: float, small_parts: None, tmp_path: Path) -> None:
    """A limit on the size of files looks the same from inside; near the end it is the index that has no room."""
    source, path, whole = Tetrominoes(num=40), tmp_path / f"a{ending}", tmp_path / f"whole{ending}"
    convert(source, whole)
    said = convert_with_limit(int(share * whole.stat().st_size), source, path)
    assert f"cannot write {path}: File too large" in said and "the same command goes on" in said and "\n" not in said
    assert not path.exists() and not (tmp_path / f"a{ending}.partial.tmp").exists()
    if share > 0.5:
        assert json.loads((tmp_path / f"a{ending}.partial.json").read_text())["done"] > 0
    convert(source, path)
    assert contents(path) == contents(whole)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.png", {}, r"end its name with \.h5"),
        ("a", {}, "end its name"),
        ("missing/a.h5", {}, "the folder .*missing does not exist"),
        ("a.h5", {"start": 20}, "no images from 20 to 19 .* it has 20"),
        ("a.h5", {"stop": 21}, "no images from 0 to 20 .* it has 20"),
        ("a.tfrecords", {"start": -1}, "no images from -1"),
        ("a.npz", {"start": 5, "stop": 5}, "no images from 5 to 4"),
        ("a.h5", {"group": "a/b"}, "cannot hold the name 'a/b'"),
        ("taken.h5", {"overwrite": True}, "exists already"),
        ("taken.h5", {}, "exists already"),
        ("n" * 250 + ".h5", {}, "cannot write .*name too long"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "taken.h5").mkdir()
    with pytest.raises(InputError, match=f"(?i){message}") as error:
        convert(Tetrominoes(num=20), tmp_path / name, **options)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.h5"]


def test_more_than_a_file_has(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "a.tfrecords", iterate(Tetrominoes(num=9)))
    with pytest.raises(InputError, match="no images from 0 to 9 .* it has 9"):
        convert(TFRecords(tmp_path / "a.tfrecords"), tmp_path / "b.h5", stop=10)


def test_images_of_various_sizes(tmp_path: Path) -> None:
    from PIL import Image

    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("RGB", (10 + i // 2, 8), "green").save(path)
    with pytest.raises(InputError, match="pixels"):
        convert(Pictures(paths), tmp_path / "a.h5")
    convert(Pictures(paths), tmp_path / "a.h5", stop=2)
    assert Hdf5(tmp_path / "a.h5").read(np.arange(2)).image.shape == (2, 8, 10, 3)


def test_a_label_that_comes_late(small_parts: None, tmp_path: Path) -> None:
    """Where nothing tells the number of entities, all labels are looked at before the first one is written."""
    mask = np.zeros((40, 6, 8), np.uint8)
    mask[33, 2, 3] = 200
    scenes = Batch(np.zeros((40, 6, 8, 3), np.uint8), np.arange(40), mask)
    convert(Held(scenes), tmp_path / "a.h5", start=1)
    source = Hdf5(tmp_path / "a.h5")
    assert source.num_entities == 201
    np.testing.assert_array_equal(source.read(np.arange(39)).mask, mask[1:])
