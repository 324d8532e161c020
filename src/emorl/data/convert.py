"""Any source of scenes as a file, written so that an interruption costs no more than a few seconds of work.

While a file NAME is written, its folder holds

    NAME.partial       what is done: for .tfrecords the file itself, as far as it goes; for .h5 the packed chunks
                       one behind the other, each after its length
    NAME.partial.json  what is being converted, and how much of the partial file is known to be on the disk
    NAME.partial.lock  held by the process that writes

The partial file only ever grows, and the .json is replaced after each part of it is synced; what lies behind the
length it tells was not finished and is cut off when the same command goes on. An .h5 file cannot be grown that
way: a process that is killed while the library rearranges its index leaves nothing readable. So its chunks, already
compressed, are put in their places at the end (NAME.partial.tmp); for that time the disk needs room for two.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import filelock
import numpy as np

from emorl.data.base import Source, Subset, innermost, iterate
from emorl.data.hdf5 import Hdf5, Packing
from emorl.data.npz import write_npz
from emorl.data.protocols import count_up_to
from emorl.data.tfrecord import GZIP_HEAD, TFRecords, deflate, encode_records, gzip_tail
from emorl.errors import InputError
from emorl.files import sync_folder
from emorl.types import Batch

Progress = Callable[[int, int], None]
"""Called with the number of scenes that are done, and of all."""

SUFFIXES = (".h5", ".hdf5", ".tfrecords", ".tfrecord", ".npz")
"""The endings of files that can be written."""

_FORMAT = 1  # of what is written: another number does not go on with the partial files of this one
_PART_BYTES = 2**25  # of records that are written between two syncs
_LENGTH = struct.Struct("<I")


def convert(
    source: Source,
    out: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    group: str = "train",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes the scenes of a source to a file of another kind, losing nothing: what is read from it is equal.

    The file appears under its name only when complete. If the process ends before that, for whatever reason,
    the same command goes on where it was, and the result is the one that an uninterrupted run would have given:
    for .tfrecords the same bytes, for .h5 the same contents. An .npz begins again, since its scenes have to be
    in memory together; other files need memory for a few dozen scenes only.

    A partial file of another source, range or group is not touched unless `overwrite` is given, which removes
    it. The source is known by its fingerprint, for which a file is read once.

    Args:
        source: any source. A gzip TFRecord file is read from its beginning when it is gone on with.
        out: .h5 or .hdf5 (the EfficientMORL authors' layout), .tfrecords or .tfrecord (the published encoding,
            gzip) or .npz; its folder must exist.
        start: the first scene.
        stop: the one behind the last; by default all are taken.
        group: the name of the split in an .h5 file; others have none.
        overwrite: replace an existing file.
        progress: told how many scenes are done, of how many.

    Raises:
        InputError: the file exists, cannot hold these scenes unchanged, is being written by another process, or
            the system refuses to write. What is done so far is kept.
    """
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"cannot write {out}: end its name with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist: make it first")
    num = count_up_to(source, stop)
    stop = num if stop is None else stop
    if not 0 <= start < stop <= num:
        raise InputError(f"there are no images from {start} to {stop - 1} in {source.name}: it has {num}")
    with _holding(out), _keeping_nothing(source):
        if out.is_dir() or (out.exists() and not overwrite):
            raise InputError(f"{out} exists already: give another name or ask for it to be overwritten")
        if suffix == ".npz":
            _write_npz(Subset(source, start, stop), out, overwrite, progress)
        else:
            _write_parts(source, out, start, stop, group, overwrite, progress)


def _beside(out: Path, ending: str = "") -> Path:
    return out.with_name(f"{out.name}.partial{ending}")


@contextmanager
def _holding(out: Path) -> Iterator[None]:
    """Keeps other processes from writing the same file."""
    path = _beside(out, ".lock")
    try:
        lock = filelock.FileLock(path, timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{out} is being written by another process: wait for it, or give another name") from None
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: whoever comes now makes a new one
        lock.release()


@contextmanager
def _keeping_nothing(source: Source) -> Iterator[None]:
    """Scenes are read once: a gzip file need not keep what has passed."""
    inner = innermost(source)
    if not isinstance(inner, TFRecords):
        yield
        return
    usual, inner.cache_bytes = inner.cache_bytes, 0
    try:
        yield
    finally:
        inner.cache_bytes = usual


def _write_npz(source: Source, out: Path, overwrite: bool, progress: Progress | None) -> None:
    def batches() -> Iterator[Batch]:
        done = 0
        for batch in iterate(source):
            if batch.visibility is None and batch.factors:
                raise InputError("an .npz file cannot hold factors without visibility: write an .h5 instead")
            if reserved := {"file", "allow_pickle"} & set(batch.factors):  # numpy's own arguments
                raise InputError(f"an .npz file cannot hold a factor {min(reserved)!r}: write an .h5 instead")
            yield batch
            done += len(batch)
            if progress:
                progress(done, len(source))

    write_npz(out, batches(), overwrite=overwrite)


# ---- files that grow -------------------------------------------------------------------------------------


class _Form(Protocol):
    """How the partial file of one kind grows and becomes the whole one."""

    num_together: int
    """The scenes of a part."""
    head: bytes
    """What is before the first part."""
    state: dict[str, int]
    """What has to be known to go on, beside the partial file."""

    def add(self, batch: Batch) -> bytes:
        """The next part: `num_together` scenes, or the last ones."""
        ...

    def finish(self, partial: Path) -> None:
        """Makes the partial file, which has all parts, the whole one."""
        ...


class _Records:
    """A .tfrecords file: every part is deflated on its own."""

    def __init__(self, first: Batch, num_background: int) -> None:
        (record,) = encode_records(first, num_background)
        self.num_together = min(256, max(1, _PART_BYTES // len(record)))
        self.head = GZIP_HEAD
        self.state = {"checksum": 0, "size": 0}
        self._num_background = num_background

    def add(self, batch: Batch) -> bytes:
        content = b"".join(encode_records(batch, self._num_background))
        checksum, size = zlib.crc32(content, self.state["checksum"]), self.state["size"] + len(content)
        self.state = {"checksum": checksum, "size": size}
        return deflate(content)

    def finish(self, partial: Path) -> None:
        with partial.open("ab") as file:
            file.write(gzip_tail(self.state["checksum"], self.state["size"]))
            _sync(file)


class _Chunks:
    """An .h5 file: the chunks that it will have, each behind its length."""

    def __init__(self, packing: Packing, num_scenes: int) -> None:
        self.num_together, self.head = packing.num_together, b""
        self.state: dict[str, int] = {}
        self._packing, self._num_scenes = packing, num_scenes

    def add(self, batch: Batch) -> bytes:
        return b"".join(_LENGTH.pack(len(chunk)) + chunk for chunk in self._packing.pack(batch))

    def finish(self, partial: Path) -> None:
        temporary = partial.with_name(partial.name + ".tmp")
        try:
            with partial.open("rb") as file, self._packing.create(temporary) as append:
                chunks = _read_chunks(file)
                for first in range(0, self._num_scenes, self.num_together):
                    append(min(self.num_together, self._num_scenes - first), chunks)
            with temporary.open("rb+") as whole:
                _sync(whole)
            os.replace(temporary, partial)
        finally:
            temporary.unlink(missing_ok=True)


def _write_parts(
    source: Source, out: Path, start: int, stop: int, group: str, overwrite: bool, progress: Progress | None
) -> None:
    """Everything of `convert` but the checks of its arguments and .npz files."""
    total, inner, first = stop - start, innermost(source), source.read(np.array([start]))
    num_background = inner.num_background if isinstance(inner, TFRecords | Hdf5) else 1
    form: _Form
    if out.suffix.lower() in (".h5", ".hdf5"):
        num_entities = _count_entities(Subset(source, start, stop), first)
        packing = Packing(first, group=group, num_entities=num_entities, num_background=num_background)
        form = _Chunks(packing, total)
    else:
        form, group = _Records(first, num_background), ""
    kind, images = type(form).__name__, [start, stop]
    job = {"format": _FORMAT, "source": source.fingerprint(), "images": images, "kind": kind, "group": group}
    partial, note = _beside(out), _beside(out, ".json")
    done, size, form.state = _take_up(out, job, overwrite) or (0, 0, form.state)
    try:
        _save(note, {**job, "done": done, "bytes": size, "state": form.state})
        if progress and done:
            progress(done, total)
        if done < total or not _is_hdf5(partial):  # else only its name is left to be changed
            with partial.open("r+b" if size else "w+b") as file:
                file.truncate(size)
                file.seek(size)
                if not size:
                    file.write(form.head)
                while done < total:
                    count = min(form.num_together, total - done)
                    file.write(form.add(source.read(start + done + np.arange(count))))
                    _sync(file)
                    done += count
                    _save(note, {**job, "done": done, "bytes": file.tell(), "state": form.state})
                    if progress:
                        progress(done, total)
            form.finish(partial)
        os.replace(partial, out)
        sync_folder(out.parent)
        note.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror or error}; mend that, and the same command goes on behind the "
            f"{done} scenes that are done"
        ) from error
    finally:
        if not done:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
                note.unlink(missing_ok=True)


def _take_up(out: Path, job: dict[str, Any], overwrite: bool) -> tuple[int, int, dict[str, int]] | None:
    """How many scenes are done, in how many bytes, and the form's state; None where to begin."""
    partial, note = _beside(out), _beside(out, ".json")
    if not partial.exists():
        return None
    try:
        saved = json.loads(note.read_text(encoding="utf-8"))
        found = saved.pop("done"), saved.pop("bytes"), saved.pop("state")
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        saved = None
    if saved == job and (partial.stat().st_size >= found[1] or _is_hdf5(partial)):
        return found
    if not overwrite:
        raise InputError(f"{partial} is left from another conversion: remove it, or give another name")
    return None


def _count_entities(source: Source, first: Batch) -> int | None:
    """E where there are masks, but nothing with an axis of entities: as the source says, or by all labels."""
    if first.mask is None or first.visibility is not None or first.factors:
        return None
    inner = innermost(source)
    if isinstance(inner, Hdf5) and inner.num_entities is not None:
        return inner.num_entities
    return 1 + max(int(batch.mask.max()) for batch in iterate(source) if batch.mask is not None)


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    while head := file.read(_LENGTH.size):
        yield file.read(*_LENGTH.unpack(head))


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _save(path: Path, content: dict[str, Any]) -> None:
    """Replaces a file of JSON at once."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(json.dumps(content, indent=1).encode())
        _sync(file)
    os.replace(temporary, path)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
