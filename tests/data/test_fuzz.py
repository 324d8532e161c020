"""Hostile input: whatever bytes a file has, it is read or refused in one line, in bounded time and memory.

Libraries written in C take part, so such files are read in other processes, which have limits.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from emorl.cli import main
from emorl.data import clevrtex, pictures
from emorl.data.base import concatenate, iterate
from emorl.data.hdf5 import write_hdf5
from emorl.data.npz import MAX_BYTES, write_npz
from emorl.data.sources import open_source
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.tfrecord import MAX_RECORD_BYTES, encode_example, read_records, write_tfrecord
from emorl.errors import InputError
from emorl.types import Batch
from tests.data.scenes import some_scenes
from tests.data.test_clevrtex import dump
from tests.data.test_clevrtex import save as save_clevrtex
from tests.data.test_hdf5 import TETROMINOES, as_dump, as_library
from tests.data.test_npz import npy
from tests.data.test_tfrecord import PAYLOAD, example, field, frame

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")

SECONDS = 30
"""For one file; most take some milliseconds."""
ALL_SECONDS = 60
"""Of computing, for all that one process is given."""
LIMIT = 2**31
"""Bytes that a process may ask for, beyond those it begins with."""
PEAK = 2**27
"""Bytes that it takes at most."""


# ---- in another process ----------------------------------------------------------------------------------


Trial = tuple[Path, bytes] | None
"""A file and what is to be in it, or nothing to be changed."""


def attempts(path: Path, trials: Iterable[Trial]) -> list[str]:
    """What becomes of reading a source as each trial makes it, up to one that ends the process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(writing, "w", buffering=1) as pipe:
                attempt_all(path, trials, pipe)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = [json.loads(line) for line in pipe]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return found if status == 0 else [*found, f"the process ended with status {status}"]


def attempt_all(path: Path, trials: Iterable[Trial], pipe: io.TextIOBase) -> None:
    own = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (own + LIMIT, own + LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (ALL_SECONDS, ALL_SECONDS))
    before = peak()
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        for trial in trials:
            signal.alarm(SECONDS)
            if trial is not None:
                file, content = trial
                original = file.read_bytes()
                replace(file, content)
            result = attempt(path)
            if trial is not None:
                replace(file, original)
            if said.seek(0, os.SEEK_END) and not may_speak(path):
                said.seek(0)
                result = f"says {said.read(200)!r}"
            said.seek(0)
            said.truncate()
            pipe.write(json.dumps(result) + "\n")
    if peak() - before > PEAK:
        pipe.write(json.dumps(f"{peak() - before} bytes were taken") + "\n")


def attempt(path: Path) -> str:
    """What becomes of reading all that a source holds: "read", "refused", or what is wrong with how that went."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            source = open_source(path)
            for batch in iterate(source, 1 if source.size is None else 256):
                check(batch)
            visibility = getattr(source, "visibility", None)
            if visibility is not None:
                visibility(np.arange(len(source)))
            json.dumps(source.describe())
            source.fingerprint()
            result = "read"
        except InputError as error:
            result = "refused" if "\n" not in str(error) and path.name in str(error) else f"told as {str(error)!r}"
            cause = error.__cause__
            while cause is not None:
                if isinstance(cause, MemoryError) and not in_pillow(cause):
                    result = f"out of memory: {error}"
                cause = cause.__cause__ or cause.__context__
        except Exception as error:
            result = f"{error!r} at {traceback.extract_tb(error.__traceback__)[-1]}"
    return f"warned: {warned[0].message}" if warned else result


def in_pillow(error: BaseException) -> bool:
    """It asks for as much as a chunk of a PNG file claims. If the system gives that, it is not used."""
    return "PIL" in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts


def check(batch: Batch) -> None:
    """What every Batch promises."""
    num, height, width, channels = batch.image.shape
    assert batch.image.dtype == np.uint8 and channels == 3 and height and width and num == len(batch.index)
    if batch.mask is not None:
        assert batch.mask.dtype == np.uint8 and batch.mask.shape == (num, height, width)
    if batch.visibility is not None:
        assert batch.visibility.dtype == np.float32 and batch.visibility.shape[:1] == (num,)
        if batch.mask is not None:
            assert batch.mask.max() < batch.visibility.shape[1]
    for values in batch.factors.values():
        assert values.ndim >= 2 and len(values) == num and values.dtype.kind in "biuf"


def may_speak(path: Path) -> bool:
    """Of damaged TIFF files libtiff and Pillow's log write on standard error, whatever Python does."""
    return path.suffix == ".tif"


def replace(file: Path, content: bytes) -> None:
    """Puts another file in its place, which leaves the old one to those who have it open."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def peak() -> int:
    """The most bytes that this process has had in memory."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---- good files ------------------------------------------------------------------------------------------


def picture(name: str, mode: str = "RGB", **options: Any) -> Callable[[Path], Path]:
    """Makes a small picture, of which headers and tables are a large part."""

    def make(folder: Path) -> Path:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its side
        (noise.quantize(16) if mode == "P" else noise.convert(mode)).save(folder / name, exif=exif, **options)
        return folder / name

    return make


def tfrecord(compress: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_tfrecord(folder / "a.tfrecords", iterate(Tetrominoes(num=2)), compress=compress)
        return folder / "a.tfrecords"

    return make


def npz(folder: Path) -> Path:
    write_npz(folder / "a.npz", iterate(Tetrominoes(num=2)))
    return folder / "a.npz"


def our_hdf5(folder: Path) -> Path:
    write_hdf5(folder / "a.h5", [some_scenes(TETROMINOES, 2)])
    return folder / "a.h5"


SAMPLES: dict[str, Callable[[Path], Path]] = {
    "tfrecord": tfrecord(True),
    "plain tfrecord": tfrecord(False),
    "npz": npz,
    "our hdf5": our_hdf5,
    "library hdf5": lambda folder: as_library(folder / "a.hdf5", some_scenes(TETROMINOES, 2), TETROMINOES),
    "dumped hdf5": lambda folder: as_dump(folder / "a.hdf5", some_scenes(TETROMINOES, 2), TETROMINOES),
    "clevrtex": lambda folder: save_clevrtex(folder, num=2),
    "records": lambda folder: dump(folder / "records", Tetrominoes().read(np.arange(2)), 4),
    "png": picture("a.png"),
    "png with a palette": picture("a.png", "P"),
    "jpeg": picture("a.jpg"),
    "progressive jpeg": picture("a.jpg", progressive=True),
    "gif": picture("a.gif", "P"),
    "tiff": picture("a.tif"),
    "packed tiff": picture("a.tif", compression="tiff_lzw"),
    "webp": picture("a.webp"),
    "lossless webp": picture("a.webp", "RGBA", lossless=True),
    "bmp": picture("a.bmp"),
}


def sample(name: str, folder: Path) -> tuple[Path, list[Path]]:
    """A source that can be read, and its files."""
    path = SAMPLES[name](folder)
    check(concatenate(iterate(open_source(path))))
    return path, sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


# ---- damage ----------------------------------------------------------------------------------------------


def flip(content: bytes, rng: random.Random) -> bytes:
    """One to eight bits changed, most of them near the beginning or the end, where structures are."""
    changed, size = bytearray(content), len(content)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        start, stop = rng.choice([(0, 512), (max(0, size - 512), size), (0, size)])
        changed[rng.randrange(start, min(size, stop))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_inside(file: Path, rng: random.Random) -> bytes:
    """The same below the checksums, which are right afterwards."""
    if file.suffix == ".tfrecords":
        payloads = list(read_records(file))
        number = rng.randrange(len(payloads))
        payloads[number] = flip(payloads[number], rng)
        return b"".join(map(frame, payloads))
    if file.suffix == ".npz":
        packed = io.BytesIO()
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(packed, "w") as new:
            changed = rng.choice(old.namelist())
            for name in old.namelist():
                new.writestr(name, flip(old.read(name), rng) if name == changed else old.read(name))
        return packed.getvalue()
    if file.suffix == ".png":
        chunks = list(png_chunks(file.read_bytes()))
        number = rng.randrange(len(chunks))
        kind, content = chunks[number]
        chunks[number] = (kind, flip(content, rng) if content else content)
        return png(*chunks)
    return flip(file.read_bytes(), rng)


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        at += 12 + size


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of chunks: kinds and contents."""
    framed = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit that pictures have, so low that one which keeps to it takes little time and memory."""
    monkeypatch.setattr(pictures, "MAX_PIXELS", 2**18)
    monkeypatch.setattr(clevrtex, "MAX_PIXELS", 2**18)


def assert_harmless(found: list[str], num: int) -> None:
    wrong = [f"trial {number}: {result}" for number, result in enumerate(found) if result not in ("read", "refused")]
    assert not wrong and len(found) == num
    assert found.count("refused") > num // 20


@pytest.mark.parametrize("name", SAMPLES)
def test_flipped_bits(name: str, small_pictures: None, tmp_path: Path) -> None:
    path, files = sample(name, tmp_path)
    rng, contents = random.Random(name), {file: file.read_bytes() for file in files}
    chosen = rng.choices(files, k=1000)
    assert_harmless(attempts(path, ((file, flip(contents[file], rng)) for file in chosen)), 1000)


@pytest.mark.parametrize("name", ["plain tfrecord", "npz", "records", "clevrtex", "png", "png with a palette"])
def test_flipped_bits_below_checksums(name: str, small_pictures: None, tmp_path: Path) -> None:
    path, files = sample(name, tmp_path)
    rng = random.Random(name)
    chosen = rng.choices(files, k=1000)
    assert_harmless(attempts(path, ((file, flip_inside(file, rng)) for file in chosen)), 1000)


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_ends(name: str, small_pictures: None, tmp_path: Path) -> None:
    path, files = sample(name, tmp_path)
    rng = random.Random(name)
    trials = []
    for file in files:
        content = file.read_bytes()
        lengths = [0, 1, len(content) // 2, len(content) - 1, *rng.choices(range(len(content)), k=50)]
        trials += [(file, content[:length]) for length in lengths]
    assert_harmless(attempts(path, trials), len(trials))


# ---- files that are made to do harm ----------------------------------------------------------------------


Maker = Callable[[Path], Path]
"""Makes something in an empty folder and gives what is to be opened."""


class Marker:
    """Unpickled, it makes a file. Nothing may."""

    path = Path()

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def file(name: str, content: bytes | Callable[[], bytes]) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content())
        return folder / name

    return make


IMAGE = np.zeros((2, 35, 35, 3), np.uint8)
MASK = np.zeros((2, 35, 35), np.uint8)


def arrays(name: str = "a.npz", **content: np.ndarray) -> Maker:
    def make(folder: Path) -> Path:
        np.savez(folder / name, **content)  # type: ignore[arg-type]
        return folder / name

    return make


def pickled(name: str) -> Maker:
    """An array of objects. Its path is known only when it is made."""
    return lambda folder: arrays(name, image=np.array([Marker()], object), mask=MASK)(folder)


def members(content: dict[str, bytes], method: int = zipfile.ZIP_STORED, **claims: int) -> Maker:
    """An archive of members; claims are what its table says of the first one (attributes of ZipInfo)."""

    def make() -> bytes:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            for name, member in content.items():
                archive.writestr(name, member)
            for claim, value in claims.items():
                setattr(archive.filelist[0], claim, value)
        return packed.getvalue()

    return file("a.npz", make)


def npy_of(values: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.save(packed, values)
    return packed.getvalue()


GOOD = npy_of(IMAGE)


def deflated(head: bytes, num: int) -> bytes:
    """A deflate stream of so many MiB."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = stream.compress(head) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(2**20)) + stream.flush(zlib.Z_FULL_FLUSH)
    return start + block * num + stream.flush()


def of_many_entries(num: int) -> bytes:
    """An Example whose image has so many entries of no bytes."""
    return example("image", field(1, field(1, b"") * num))


HUGE = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**20}, 32, 32, 3), }}\n")


def hdf5(write: Callable[[h5py.File], object]) -> Maker:
    def make(folder: Path) -> Path:
        with h5py.File(folder / "a.h5", "w") as opened:
            write(opened)
        return folder / "a.h5"

    return make


def bomb_of_a_chunk(opened: h5py.File) -> None:
    image = opened.create_dataset("image", (1, 32, 32, 3), "u1", chunks=(1, 32, 32, 3), compression="gzip")
    image.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(2**28), 1))


def scene(name: str, change: Callable[[Path], object]) -> Maker:
    """A folder of ClevrTex of which one file is changed."""

    def make(folder: Path) -> Path:
        root = save_clevrtex(folder, num=2)
        change(next(root.rglob(name)))
        return root

    return make


def manifest(content: str | bytes) -> Maker:
    """A folder of records beside another record."""

    def make(folder: Path) -> Path:
        root = dump(folder / "records", Tetrominoes().read(np.arange(2)), 4)
        dump(folder / "outside", Tetrominoes().read(np.arange(2)), 4)
        (root / "manifest_ind.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return make


def record(change: Callable[[Path], object]) -> Maker:
    def make(folder: Path) -> Path:
        root = dump(folder / "records", Tetrominoes().read(np.arange(2)), 4)
        change(root / "0" / "0.npz")
        return root

    return make


def moved_out(path: Path) -> None:
    """Leaves a link to where the file is now."""
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def pipe(name: str) -> Maker:
    def make(folder: Path) -> Path:
        as_pipe(folder / name)
        return folder / name

    return make


def head(width: int, height: int, kind: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)


def wide_png(side: int, kind: int = 2) -> bytes:
    return png(head(side, side, kind), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))


def text_bomb() -> bytes:
    text = b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**28), 1)
    return png(head(1, 1), text, (b"IDAT", zlib.compress(bytes(4))), (b"IEND", b""))


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(100)


def tiff(width: int, height: int) -> bytes:
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 100)]
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(200)


def gif(width: int, height: int) -> bytes:
    frame_of_one_pixel = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame_of_one_pixel + b";"


def webp(width: int, height: int) -> bytes:
    bits = (width - 1 | height - 1 << 14).to_bytes(4, "little")
    chunk = b"VP8L" + struct.pack("<I", 200) + b"\x2f" + bits + bytes(195)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


HOSTILE: dict[str, tuple[Maker, str]] = {
    # what a head claims
    "length without end": (file("a.tfrecords", frame(PAYLOAD, 2**63)), "claims 9223372036854775808 bytes"),
    "length beyond the end": (file("a.tfrecords", frame(PAYLOAD, MAX_RECORD_BYTES)), "file ends inside"),
    "shape without content": (members({"image.npy": HUGE}), "not as long as its head"),
    "negative shape": (
        members({"image.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 1, -1, 3)}\n")}),
        "cannot read",
    ),
    "a long head": (members({"image.npy": npy("{}" + " " * 30_000)}), "cannot read"),
    "a deep head": (members({"image.npy": npy("-" * 3000 + "1")}), "cannot read"),
    "content beyond the end": (members({"image.npy": GOOD}, compress_size=2**33), "longer than the file"),
    "wide png": (file("a.png", wide_png(100_000)), "pixels"),
    "png within the limit": (file("a.png", wide_png(11_000)), "truncated"),
    "wide bmp": (file("a.bmp", bmp(2**20, 2**20)), "pixels"),
    "wide gif": (file("a.gif", gif(65535, 65535)), "pixels"),
    "wide tiff": (file("a.tif", tiff(2**20, 2**20)), "pixels"),
    "wide webp": (file("a.webp", webp(2**14, 2**14)), "cannot read"),
    "empty png": (file("a.png", wide_png(0)), "cannot read"),
    "wide scene": (scene("*_000000.png", lambda path: path.write_bytes(wide_png(100_000))), "pixels"),
    "scene within the limit": (scene("*_000000.png", lambda path: path.write_bytes(wide_png(11_000))), "truncated"),
    "wide labels": (scene("*_000000_flat.png", lambda path: path.write_bytes(wide_png(11_000, 0))), "11000"),
    "many images": (
        hdf5(lambda f: f.create_dataset("image", (10**12, 6, 8, 3), "u1", chunks=(1, 6, 8, 3), compression="gzip")),
        "cannot hold",
    ),
    "a large image": (hdf5(lambda f: f.create_dataset("image", (1, 10**6, 10**6, 3), "u1")), "bytes per image"),
    # little that becomes much
    "bomb of a record": (
        file("a.tfrecords", lambda: gzip.compress(frame(b"", MAX_RECORD_BYTES)[:12] + bytes(2**28), 1)),
        "checksum",
    ),
    "bomb of entries": (file("a.tfrecords", frame(of_many_entries(3 * 2**18))), "image of 0 bytes"),
    "bomb of an array": (members({"image.npy": GOOD, "mask.npy": GOOD}, file_size=MAX_BYTES), "MiB"),
    "bomb that claims less": (
        members({"image.npy": deflated(HUGE, 1024)}, compress_type=zipfile.ZIP_DEFLATED, file_size=20_000),
        "cannot read",
    ),
    "another method": (members({"image.npy": GOOD}, zipfile.ZIP_BZIP2), "method"),
    "bomb of another method": (
        members({"image.npy": bz2.compress(bytes(2**22))}, compress_type=zipfile.ZIP_BZIP2, file_size=2000),
        "method",
    ),
    "bomb of a record's array": (
        record(lambda p: np.savez_compressed(p, image=np.zeros((3000, 3000, 3), np.uint8), mask=MASK)),
        "MiB",
    ),
    "bomb of a text": (file("a.png", text_bomb), "cannot read"),
    "bomb of a chunk": (hdf5(bomb_of_a_chunk), "cannot read"),
    "bomb of metadata": (scene("*_000000.json", lambda p: p.write_bytes(b" " * 2**21)), "more than 1048576 bytes"),
    "deep metadata": (scene("*_000000.json", lambda p: p.write_text("[" * 2**17)), "not readable JSON"),
    # pickles
    "pickled array": (pickled("a.npz"), "pickled"),
    "pickled file": (file("a.npz", lambda: pickle.dumps(Marker())), "cannot read"),
    "pickled member": (
        lambda folder: members({"image.npy": pickle.dumps(Marker())})(folder),
        "cannot read",
    ),
    "pickled record": (record(lambda p: pickled("0.npz")(p.parent)), "pickled"),
    "objects": (arrays(image=IMAGE, extra=np.array([{}])), "pickled"),
    "text in hdf5": (
        hdf5(lambda f: f.create_dataset("image", (2, 3, 4, 3), h5py.string_dtype())),
        "not plain numbers",
    ),
    # another schema
    "another example": (file("a.tfrecords", frame(encode_example({"x": np.zeros(3, np.uint8)}))), "neither image"),
    "other arrays": (arrays(x=IMAGE), "no array 'image'"),
    "a table as visibility": (arrays(image=IMAGE, visibility=np.zeros((2, 4), "u1,u1")), "visibility"),
    "dates as visibility": (arrays(image=IMAGE, visibility=np.zeros((2, 4), "M8[s]")), "visibility"),
    "other data sets": (hdf5(lambda f: f.create_dataset("x", data=IMAGE)), "neither 'image'"),
    "other metadata": (scene("*_000000.json", lambda p: p.write_text("[]")), "no list 'objects'"),
    "another record": (record(lambda p: np.savez(p, x=IMAGE)), "'image' of H W 3"),
    # out of the folder
    "member outside": (members({"../image.npy": GOOD}), "no array 'image'"),
    "member at the root": (members({"/image.npy": GOOD}), "no array 'image'"),
    "linked scene": (scene("*_000000.png", moved_out), "leads out of"),
    "linked labels": (scene("*_000001_flat.png", moved_out), "leads out of"),
    "linked metadata": (scene("*_000001.json", moved_out), "leads out of"),
    "linked record": (record(moved_out), "leads out of"),
    "record above": (manifest('{"0": "../outside/0/0.npz"}'), "inside the folder"),
    "record elsewhere": (manifest('{"0": "/etc/0.npz"}'), "inside the folder"),
    "record with a line": (manifest('{"0": "0/0\\n.npz"}'), "inside the folder"),
    "record with a zero": (manifest('{"0": "0/0\\u0000.npz"}'), "inside the folder"),
    "record of half a letter": (manifest('{"0": "0/\\ud800.npz"}'), "inside the folder"),
    "manifest without end": (manifest("[" * 2**20), "not readable JSON"),
    "manifest of no text": (manifest(b"\xff\xfe\xfa"), "not readable JSON"),
    "link in hdf5": (hdf5(lambda f: f.__setitem__("image", h5py.ExternalLink("/etc/a.h5", "/x"))), "link"),
    "file of hdf5": (
        hdf5(lambda f: f.create_dataset("image", (1, 6, 8, 3), "u1", external=[("/etc/passwd", 0, 144)])),
        "another file",
    ),
    # what would be waited for
    "piped tfrecord": (pipe("a.tfrecords"), "no file"),
    "piped npz": (pipe("a.npz"), "no such file"),
    "piped hdf5": (pipe("a.h5"), "no such file"),
    "piped picture": (pipe("a.png"), "no picture"),
    "piped scene": (scene("*_000000.png", as_pipe), "cannot be read"),
    "piped metadata": (scene("*_000000.json", as_pipe), "cannot be read"),
    "piped record": (record(as_pipe), "cannot be read"),
    "piped manifest": (record(lambda p: as_pipe(p.parents[1] / "manifest_ind.json")), "cannot be read"),
}
"""What it is -> how it is made, and what the line must speak of."""


def everything_below(folder: Path) -> dict[Path, int]:
    """What is there, and when it was last changed."""
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def assert_refused(path: Path, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the library and by the command, which shows what it does not tell already by describing."""
    assert attempts(path, [None]) == ["refused"]
    capsys.readouterr()
    code = main(["data", "info", str(path)])
    if code == 0:
        capsys.readouterr()
        code = main(["data", "show", str(path)])
    err = capsys.readouterr().err
    assert code == 2 and err.startswith("emorl: ") and err.endswith("\n") and err.count("\n") == 1
    assert said in err and path.name in err


@pytest.mark.parametrize("name", HOSTILE)
def test_harm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make, said = HOSTILE[name]
    for folder in ("given", "work"):
        (tmp_path / folder).mkdir()
    Marker.path = tmp_path / "it-ran"
    path = make(tmp_path / "given")
    monkeypatch.chdir(tmp_path / "work")
    before = everything_below(tmp_path)
    assert_refused(path, said, capsys)
    assert everything_below(tmp_path) == before


def test_the_marker_tells(tmp_path: Path) -> None:
    Marker.path = tmp_path / "it-ran"
    path = pickled("a.npz")(tmp_path)
    with np.load(path, allow_pickle=True) as unsafe:
        unsafe["image"]
    assert Marker.path.exists()


KINDS = {".tfrecords": "tfrecord", ".h5": "our hdf5", ".npz": "npz", ".png": "png"}


@pytest.mark.parametrize(("kind", "ending"), list(itertools.permutations(KINDS, 2)))
def test_another_ending(kind: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = SAMPLES[KINDS[kind]](tmp_path).rename(tmp_path / f"other{ending}")
    assert_refused(path, "record 0" if ending == ".tfrecords" else "cannot read", capsys)


@pytest.mark.parametrize("ending", [".tfrecords", ".h5", ".npz", ".png", ".jpg", ".gif", ".tif", ".webp", ".bmp"])
def test_nothing(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(f"a{ending}", b"")(tmp_path)
    assert_refused(path, "no records" if ending == ".tfrecords" else "cannot read", capsys)


def test_a_member_outside_beside_good_ones(tmp_path: Path) -> None:
    """It is not looked at, and nothing is unpacked."""
    (tmp_path / "1" / "2").mkdir(parents=True)
    path = members({"image.npy": GOOD, "../../outside.npy": GOOD, "../outside.txt": b"x"})(tmp_path / "1" / "2")
    before = everything_below(tmp_path)
    assert attempts(path, [None]) == ["read"]
    assert everything_below(tmp_path) == before


def test_folders_in_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than a recursion can follow."""
    depth = 0
    monkeypatch.chdir(tmp_path)
    try:
        while depth < sys.getrecursionlimit():
            os.mkdir("d")
            os.chdir("d")
            depth += 1
        assert_refused(tmp_path / "d", "folders", capsys)
    finally:
        for _ in range(depth):  # which shutil, in tidying up, could not
            os.chdir("..")
            os.rmdir("d")
