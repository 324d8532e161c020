"""The HDF5 files of the field: three published layouts are read, the EfficientMORL authors' is written.

    efficientmorl           a group named after the split with
                            imgs    N H W C, 0 to 255
                            masks   N E H W 1, 0 or 255, one entity at each pixel      optional
                            factors N E F, visibility in the last column               optional
    object-centric-library  image N H W C; mask N H W 1, labels; visibility N E; num_actual_objects N 1; factors
    multi-object-datasets   image N H W C; mask N E H W 1, 0 or 255; visibility N E; factors

The last two have no group, and every other data set of N E ... is a factor of that name. See the data set
specification, sections 2.1 to 2.3. Which layout a file has is told by what it holds.

A file is not trusted. Data in other files (links, virtual and external data sets) is not looked at; what a head
claims is compared with the size of the file before anything is allocated; chunks are unpacked here, where they
cannot grow beyond their size, and not by the HDF5 library, where they can. Damage that made the library itself
hang or crash, when bytes all over files of every layout were changed, is refused before it gets there. One thing is
left: a file of the library's newer format, forged in its dense indices with all checksums made right again, can
still crash the process that opens it.

Axes: N images, E entities (background first), H rows, W columns, C channels (1 or 3), F columns.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emorl.data.base import Size, check_indices, concatenate, sha256, take
from emorl.data.hdf5_heaps import Heaps
from emorl.data.tfrecord import VARIANTS, Kind, find_visible, merge_masks
from emorl.errors import InputError
from emorl.files import write_whole
from emorl.types import Batch

MAX_BYTES = 2**27
"""Files of which one image or one chunk has more bytes are refused. An image of CLEVR with masks has a million."""

MAX_ENTITIES = 256
"""Labels have eight bits."""

CLEVR_COLUMNS: dict[str, Kind] = {
    **dict.fromkeys(("x", "y", "z", "rotation"), (np.float32, ())),
    **dict.fromkeys(("size", "material", "shape", "color"), (np.uint8, ())),
    "visibility": (np.float32, ()),
}
"""The nine columns of `factors` in the authors' CLEVR files; see the data set specification, section 2.1."""

_MORE = "more_factors"  # beside `factors`: what its columns cannot hold
_ROOM = 2**25  # bytes of images and masks that are handled together
_LEVEL = 4  # of deflate
_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000  # the numbers of filters in the format
_PIPELINES = [
    [*shuffle, *pack, *checksum]
    for shuffle in ([], [_SHUFFLE])
    for pack in ([], [_DEFLATE], [_LZF])
    for checksum in ([], [_FLETCHER32])
]


# ---- reading ---------------------------------------------------------------------------------------------


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while reading a file into one InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # for a damaged file h5py raises almost anything
        why = " ".join(str(error).split())
        raise InputError(f"cannot read {path} ({why}): it is damaged or of another kind, get it again") from error


def _members(group: h5py.Group, heaps: Heaps) -> dict[str, Any]:
    """What lies directly in a group."""
    if len(group) > 1000:
        raise ValueError(f"it has {len(group)} entries in one group")
    members = {}
    for name in group:
        link = group.id.links.get_info(name.encode(errors="surrogateescape"))
        if link.type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"its {name!r} is a link to another place, which is not followed")
        heaps.check(link.u)
        members[name] = group[name]
    return members


def _read_attribute(owner: h5py.Group | h5py.Dataset, name: str, kinds: str) -> np.ndarray | None:
    """An attribute of one of numpy's kinds, or None where there is no such one of the name."""
    if name not in owner.attrs:
        return None
    kept = owner.attrs.get_id(name)
    if kept.dtype.kind not in kinds or math.prod(kept.shape) * kept.dtype.itemsize > 2**20:
        return None
    return np.asarray(owner.attrs[name])


class _Rows:
    """A data set with a row per image. Raises ValueError where it is not to be read."""

    def __init__(self, dataset: Any, num_file_bytes: int) -> None:
        name = dataset.name.rsplit("/", 1)[-1]
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"its {name!r} is no data set")
        storage = dataset.id.get_create_plist()
        if storage.get_layout() == h5py.h5d.VIRTUAL or storage.get_external_count():
            raise ValueError(f"its {name!r} lies in another file, which is not opened")
        shape, dtype = dataset.shape, dataset.dtype
        plain = dtype.kind in "biuf" and dtype.itemsize <= 8
        if not plain or dataset.id.get_type() != h5py.h5t.py_create(dtype, logical=True):
            raise ValueError(f"its {name!r} holds {dtype}, not plain numbers")
        if not shape or 0 in shape:
            raise ValueError(f"its {name!r} is empty")
        self.name, self.shape, self.dtype = name, shape, dtype
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._dataset, self._chunks = dataset, dataset.chunks
        if self._chunks is not None and (len(self._chunks) != len(shape) or min(self._chunks) < 1):
            raise ValueError(f"its {name!r} has chunks of {_say_shape(self._chunks)}")
        largest = dataset.maxshape or ()
        if self._chunks is not None and any(n not in (None, now) for n, now in zip(largest, shape, strict=True)):
            # Where the index has fewer places than the chunks of the largest shape, the library reads beyond it.
            raise ValueError(f"its {name!r} can grow, but not without end: copy it to one that cannot")
        self._filters = [storage.get_filter(i)[0] for i in range(storage.get_nfilters())]
        if self._filters not in _PIPELINES:
            raise ValueError(f"its {name!r} is packed by the filters {self._filters}, not by gzip or LZF")
        chunk_bytes = 0 if self._chunks is None else math.prod(self._chunks) * dtype.itemsize
        if max(self.row_bytes, chunk_bytes) > MAX_BYTES:
            raise ValueError(f"its {name!r} has {max(self.row_bytes, chunk_bytes)} bytes per image or chunk")
        # Deflate makes nothing smaller than by a factor of 1032, the others do less.
        most = num_file_bytes * (1032 if self._filters else 1)
        if shape[0] * self.row_bytes > most or (
            self._chunks is None and dataset.id.get_storage_size() != shape[0] * self.row_bytes
        ):
            raise ValueError(f"its {name!r} is to have {shape[0]} images, which the file cannot hold")
        self._buffer_bytes = chunk_bytes + chunk_bytes // 4 + 1024  # no compressor makes a chunk longer
        # LZF and mere checksums cannot make much of little: the library may undo them.
        self._by_library = bool({_LZF, _FLETCHER32} & set(self._filters)) and _DEFLATE not in self._filters

    def __str__(self) -> str:
        return f"{self.name!r} ({self.dtype} of {_say_shape(self.shape)})"

    def read(self, index: np.ndarray) -> np.ndarray:
        """Rows by position (B, any order, repeats allowed), B and the shape of a row."""
        out: np.ndarray = np.empty((len(index), *self.shape[1:]), self.dtype)
        if not len(index):
            return out
        if self._chunks is None:
            for rows in _split(np.arange(len(index)), np.diff(index) != 1):
                first = int(index[rows[0]])
                self._dataset.read_direct(out, np.s_[first : first + len(rows)], np.s_[rows[0] : rows[-1] + 1])
            return out
        number = index // self._chunks[0]
        order = np.argsort(number, kind="stable")
        buffer = bytearray(self._buffer_bytes)
        for rows in _split(order, np.diff(number[order]) != 0):
            first = int(number[rows[0]]) * self._chunks[0]
            for corner in product(*map(range, [0] * (out.ndim - 1), self.shape[1:], self._chunks[1:])):
                chunk = self._read_chunk((first, *corner), buffer)
                ends = np.minimum(np.add(corner, self._chunks[1:]), self.shape[1:])
                into: tuple[Any, ...] = (rows, *map(slice, corner, ends))
                inside = map(slice, ends - corner)  # a chunk may go over the border
                out[into] = chunk[(index[rows] - first, *inside)]
        return out

    def _read_chunk(self, corner: tuple[int, ...], buffer: bytearray) -> np.ndarray:
        """The chunk that starts at a corner."""
        assert self._chunks is not None
        num_bytes = math.prod(self._chunks) * self.dtype.itemsize
        try:
            skipped, content = self._dataset.id.read_direct_chunk(corner, out=buffer)
        except (RuntimeError, ValueError) as error:  # a file that was laid out but never filled, or a chunk too long
            raise ValueError(f"its {self.name!r} of image {corner[0]} is missing") from error
        if self._by_library:
            chunk: np.ndarray = self._dataset[tuple(map(slice, corner, np.add(corner, self._chunks)))]
            return chunk
        for i, number in reversed(list(enumerate(self._filters))):
            if skipped >> i & 1:
                continue
            if number == _FLETCHER32:
                content = content[:-4]  # deflate has a checksum of its own
            elif number == _DEFLATE:
                stream = zlib.decompressobj()
                content = stream.decompress(content, num_bytes + 1)
                if not stream.eof:
                    raise ValueError(f"its {self.name!r} of image {corner[0]} is cut short, or longer than it claims")
            else:
                content = np.frombuffer(content, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        if len(content) != num_bytes:
            raise ValueError(f"its {self.name!r} of image {corner[0]} is damaged")
        return np.frombuffer(content, self.dtype).reshape(self._chunks)


def _split(values: np.ndarray, is_break: np.ndarray) -> list[np.ndarray]:
    """An array (B) in pieces; is_break (B - 1) tells whether one ends behind a value."""
    return np.split(values, np.flatnonzero(is_break) + 1)


@dataclass(frozen=True)
class _Factor:
    """Which columns of `factors` are a factor."""

    name: str
    dtype: np.dtype[Any]
    tail: tuple[int, ...]
    """Its shape after N E."""
    first: int
    """The first of its columns."""

    def read(self, table: np.ndarray) -> np.ndarray:
        """N E F -> the factor, N E and its tail. Raises ValueError if its dtype cannot hold what is there."""
        width = math.prod(self.tail)
        values = table[..., self.first : self.first + width].reshape(*table.shape[:2], *self.tail)
        with np.errstate(all="ignore"):  # what overflows is not equal
            result: np.ndarray = values.astype(self.dtype)
        if self.dtype.kind != "f" and not np.array_equal(result, values):
            raise ValueError(f"its factor {self.name!r} has values that are no {self.dtype}")
        return result


def _place_columns(kinds: Iterable[tuple[str, Kind]]) -> list[_Factor]:
    """Factors one behind the other."""
    columns, first = [], 0
    for name, (dtype, tail) in kinds:
        columns.append(_Factor(name, np.dtype(dtype), tail, first))
        first += math.prod(tail)
    return columns


def _read_columns(table: h5py.Dataset) -> list[_Factor]:
    """What the columns of `factors` mean: as its attributes say, or as in the authors' CLEVR files, or nothing."""
    names, dtypes, shapes = (_read_attribute(table, f"factor_{what}", "S") for what in ("names", "dtypes", "shapes"))
    if table.ndim != 3:
        raise ValueError(f"its 'factors' are of {_say_shape(table.shape)}, not N E F")
    num = table.shape[2]
    if names is None or dtypes is None or shapes is None:
        return _place_columns(CLEVR_COLUMNS.items()) if num == len(CLEVR_COLUMNS) else []
    if not names.shape == dtypes.shape == shapes.shape == (names.size,):
        raise ValueError("the attributes of its 'factors' do not fit each other")
    kinds = []
    for name, dtype, shape in zip(names, dtypes, shapes, strict=True):
        known = dtype in (b"float32", b"uint8") and re.fullmatch(rb"(\d{1,6}( \d{1,6})*)?", shape)
        if not known or (name == b"visibility" and shape):
            raise ValueError(f"the attributes of its 'factors' tell of {dtype!r} and {shape!r}")
        kinds.append((name.decode(), (np.dtype(dtype.decode()).type, tuple(map(int, shape.split())))))
    columns = _place_columns(kinds)
    if sum(math.prod(one.tail) for one in columns) != num or len({one.name for one in columns}) != len(columns):
        raise ValueError(f"the attributes of its 'factors' do not tell of its {num} columns")
    return columns


@dataclass(frozen=True)
class _Contents:
    """What an open file holds. Raises ValueError where its data sets do not fit each other."""

    layout: str
    group: str | None
    image: _Rows
    """N H W C."""
    mask: _Rows | None
    """N H W or N H W 1 of labels, or N E H W, N E H W 1 or N E 1 H W of 0 and 255."""
    has_labels: bool
    """The first of these."""
    visibility: _Rows | None
    """N E or N E 1."""
    table: _Rows | None
    """N E F: factors side by side."""
    columns: list[_Factor]
    """What they are, "visibility" perhaps among them; without any the table itself is the factor "factors"."""
    factors: dict[str, _Rows]
    """The factors with a data set of their own."""
    num_background: int
    """The first entities that are background."""
    finds_visible: bool
    """Where no visibility is stored, an entity is visible where its mask is not empty."""

    def __post_init__(self) -> None:
        if len(self.image.shape) != 4 or self.image.shape[3] not in (1, 3) or self.image.dtype.kind not in "iu":
            raise ValueError(f"its {self.image} are not integers of N H W 3 or N H W 1")
        if self.mask is not None:
            height, width = self.image.shape[1:3]
            tails = (height, width), (height, width, 1), (1, height, width)
            if not (self.has_labels or self.mask.shape[2:] in tails) or self.mask.dtype.kind not in "iu":
                raise ValueError(f"its {self.mask} do not fit {self.image}: not integers of N E {height} {width} 1")
        if self.visibility is not None and (*self.visibility.shape, 1)[2:] not in ((1,), (1, 1)):
            raise ValueError(f"its {self.visibility} is not N E")
        by_entity = list(filter(None, (self.visibility, self.table, *self.factors.values())))
        by_entity += [self.mask] if self.mask is not None and not self.has_labels else []
        for rows in filter(None, (self.mask, *by_entity)):
            if rows.shape[0] != self.image.shape[0]:
                raise ValueError(f"its {rows} and {self.image} are not of equally many images")
        for rows in by_entity:
            if rows.shape[1:2] != by_entity[0].shape[1:2] or not 1 <= (*rows.shape, 0)[1] <= MAX_ENTITIES:
                raise ValueError(f"its {rows} are not of 1 to {MAX_ENTITIES} entities, as many as all others have")
        names = [*(one.name for one in self.columns), *self.factors]
        if len({*names, "image", "mask"}) != len(names) + 2 or "visibility" in self.factors:
            raise ValueError(f"its factors {', '.join(names)} are not told apart")
        if not 1 <= self.num_background <= (by_entity[0].shape[1] if by_entity else 1):
            raise ValueError(f"it tells of {self.num_background} background entities")

    @property
    def num_entities(self) -> int | None:
        """E as stored; None where nothing tells."""
        of_entities = None if self.has_labels else self.mask
        first = next(filter(None, (self.visibility, self.table, of_entities, *self.factors.values())), None)
        return None if first is None else int(first.shape[1])

    @property
    def visibility_column(self) -> _Factor | None:
        """Where the visibility is in the table."""
        return next((one for one in self.columns if one.name == "visibility"), None)

    @property
    def factor_names(self) -> list[str]:
        """The factors of a Batch."""
        columns = [one.name for one in self.columns if one.name != "visibility"]
        whole = ["factors"] if self.table is not None and not self.columns else []
        return [*columns, *whole, *self.factors]


def _read_contents(file: h5py.File) -> _Contents:
    """Finds out what a file holds. Raises ValueError, or whatever h5py does, where it has none of the layouts."""
    num_bytes, heaps = os.stat(file.filename).st_size, Heaps(Path(file.filename))
    heaps.check(heaps.root)
    root = _members(file, heaps)
    if "image" in root:
        return _read_flat(root, num_bytes)
    groups = [name for name, entry in root.items() if isinstance(entry, h5py.Group) and "imgs" in list(entry)]
    if len(groups) != 1:
        found = f"the groups {', '.join(groups)} with 'imgs'" if groups else "neither 'image' nor a group with 'imgs'"
        raise ValueError(f"it has {found}")
    (name,) = groups
    members = _members(root[name], heaps)
    more = _members(members[_MORE], heaps) if isinstance(members.get(_MORE), h5py.Group) else {}
    return _read_group(root[name], members, more, num_bytes)


def _read_group(group: h5py.Group, members: dict[str, Any], more: dict[str, Any], num_bytes: int) -> _Contents:
    """The EfficientMORL authors' layout."""
    ours = _read_attribute(group, "num_background", "iu")  # what only our own writer leaves
    if ours is not None and ours.shape:
        raise ValueError("its 'num_background' is no number")
    return _Contents(
        layout="efficientmorl",
        group=group.name.removeprefix("/"),
        image=_Rows(members["imgs"], num_bytes),
        mask=_Rows(members["masks"], num_bytes) if "masks" in members else None,
        has_labels=False,
        visibility=None,
        table=_Rows(members["factors"], num_bytes) if "factors" in members else None,
        columns=_read_columns(members["factors"]) if "factors" in members else [],
        factors={factor: _Rows(dataset, num_bytes) for factor, dataset in more.items()},
        num_background=1 if ours is None else int(ours),
        finds_visible=ours is None and "masks" in members,
    )


def _read_flat(root: dict[str, Any], num_bytes: int) -> _Contents:
    """The two layouts without a group."""
    known = {name: _Rows(root[name], num_bytes) for name in ("image", "mask", "visibility") if name in root}
    image, mask, visibility = known["image"], known.get("mask"), known.get("visibility")
    size = image.shape[1:3]
    has_labels = mask is not None and mask.shape[1:] in (size, (*size, 1))
    of_entities = visibility or (None if has_labels else mask)
    factors = {
        name: _Rows(dataset, num_bytes)
        for name, dataset in root.items()
        if name not in (*known, "num_actual_objects")
        and of_entities
        and (getattr(dataset, "shape", None) or ())[:2] == of_entities.shape[:2]
    }
    from_library = has_labels or (mask is None and "num_actual_objects" in root)
    # Objects Room has nothing but image and mask; the library adds visibility to every set.
    is_room = not factors and (from_library or visibility is None)
    num_background = 1
    for variant in VARIANTS:
        shape = *variant.image, variant.num_entities
        if is_room and of_entities and shape == image.shape[1:] + of_entities.shape[1:2]:
            num_background = variant.num_background
    return _Contents(
        layout="object-centric-library" if from_library else "multi-object-datasets",
        group=None,
        image=image,
        mask=mask,
        has_labels=has_labels,
        visibility=visibility,
        table=None,
        columns=[],
        factors=factors,
        num_background=num_background,
        finds_visible=mask is not None and not has_labels,
    )


class Hdf5:
    """An HDF5 file by position.

    The file is opened in each process that reads, and only what is asked for is read.

    Args:
        path: a file of one of the layouts at the head of this module.
        merge_background: the first four entities of Objects Room, all background, become one, label 0. Without
            it a Batch has all entities as they are stored. Other sets have one background entity. Objects Room
            is told by its size, its numbers of entities and its lack of factors, and in the authors' layout by
            the attribute `num_background` that `write_hdf5` leaves. The data set specification, section 1.3,
            says how some of its images have but three of the four.

    Raises:
        InputError: the file is of none of the layouts, damaged, or kept in several files.
    """

    def __init__(self, path: Path, *, merge_background: bool = True) -> None:
        self.path, self.merge_background = path, merge_background
        self._process: int | None = None
        contents = self._open()
        self.layout: str = contents.layout
        """One of "efficientmorl", "object-centric-library", "multi-object-datasets"."""
        self.group: str | None = contents.group
        """The name of the split in the EfficientMORL authors' layout."""
        if self._num_merged > 1 and contents.factor_names:
            raise InputError(f"{path} has factors of {self._num_merged} background entities, which cannot be merged")

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Hdf5, self.path, merge_background=self.merge_background), ()

    def _open(self) -> _Contents:
        """The contents, of a file opened by this process."""
        if self._process != os.getpid():
            if not self.path.is_file():  # a pipe would be waited for
                raise InputError(f"cannot read {self.path}: there is no such file")
            with _naming(self.path):
                file = h5py.File(self.path, "r", locking="best-effort")
                self._contents = _read_contents(file)
            self._process = os.getpid()
        return self._contents

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def size(self) -> Size:
        """H, W."""
        return self._contents.image.shape[1], self._contents.image.shape[2]

    @property
    def _num_merged(self) -> int:
        return self._contents.num_background if self.merge_background else 1

    @property
    def num_background(self) -> int:
        """How many of the first entities of a Batch are background."""
        return self._contents.num_background + 1 - self._num_merged

    @property
    def num_entities(self) -> int | None:
        """E of a Batch; None where the file does not tell."""
        stored = self._contents.num_entities
        return None if stored is None else stored + 1 - self._num_merged

    def __len__(self) -> int:
        return int(self._contents.image.shape[0])

    def read(self, indices: np.ndarray) -> Batch:
        """Images by position; see `Source.read`."""
        index = check_indices(indices, self)
        contents = self._open()
        row_bytes = contents.image.row_bytes + (contents.mask.row_bytes if contents.mask else 0)
        with _naming(self.path):
            return concatenate([self._read(contents, some) for some in _blocks(index, row_bytes)])

    def _read(self, contents: _Contents, index: np.ndarray) -> Batch:
        image = _to_bytes(contents.image, contents.image.read(index), index)
        mask = None if contents.mask is None else self._read_labels(contents, index)
        table = None if contents.table is None else contents.table.read(index)
        factors = {}
        if table is not None:
            columns = {one.name: one.read(table) for one in contents.columns if one.name != "visibility"}
            factors = columns if contents.columns else {"factors": table}
        for name, rows in contents.factors.items():
            values = rows.read(index)
            # The library has a last axis of one where the published files have none.
            squeeze = contents.layout == "object-centric-library" and values.ndim == 3 and values.shape[2] == 1
            factors[name] = values[..., 0] if squeeze else values
        return Batch(
            image=np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image,
            index=index,
            mask=mask,
            visibility=self._find_visibility(contents, index, table, mask),
            factors=factors,
        )

    def _read_labels(self, contents: _Contents, index: np.ndarray) -> np.ndarray:
        """N H W, uint8."""
        assert contents.mask is not None
        values = contents.mask.read(index)
        shape = len(index), *contents.image.shape[1:3]
        if contents.has_labels:
            labels = _to_bytes(contents.mask, values, index, (contents.num_entities or MAX_ENTITIES) - 1)
            return np.maximum(labels.reshape(shape), self._num_merged - 1) - np.uint8(self._num_merged - 1)
        masks = values.reshape(shape[0], values.shape[1], *shape[1:])
        labels, good = merge_masks(masks, self._num_merged)
        if not good.all():
            image = index[good.argmin()]
            raise ValueError(f"its masks of image {image} are not 0 or 255 with exactly one entity at each pixel")
        return labels

    def _find_visibility(
        self, contents: _Contents, index: np.ndarray, table: np.ndarray | None, labels: np.ndarray | None
    ) -> np.ndarray | None:
        """N E float32, of what is read already where that tells it."""
        if contents.visibility is not None:
            values = contents.visibility.read(index).reshape(len(index), -1)
        elif contents.visibility_column is not None and table is not None:
            values = contents.visibility_column.read(table)
        elif contents.finds_visible and labels is not None:
            return find_visible(labels, self.num_entities or 1)
        else:
            return None
        background = values[:, : self._num_merged].max(axis=1, keepdims=True)
        return np.concatenate([background, values[:, self._num_merged :]], axis=1).astype(np.float32)

    def visibility(self, indices: np.ndarray) -> np.ndarray | None:
        """The visibility of `read(indices)`, N E float32, without its images; None where that has none.

        Where the file has none, the masks are read.
        """
        index = check_indices(indices, self)
        contents = self._open()
        stored = contents.visibility or (contents.table if contents.visibility_column else None)
        if not stored and not contents.finds_visible:
            return None
        parts = []
        with _naming(self.path):
            for some in _blocks(index, (stored or contents.mask or contents.image).row_bytes):
                table = contents.table.read(some) if contents.table and stored else None
                labels = None if stored else self._read_labels(contents, some)
                parts.append(self._find_visibility(contents, some, table, labels))
        return np.concatenate([part for part in parts if part is not None])

    def describe(self) -> dict[str, Any]:
        """Facts about the file; see `Source.describe`."""
        return {
            "name": self.name,
            "kind": "HDF5",
            "layout": self.layout,
            "group": self.group,
            "num_images": len(self),
            "size": list(self.size),
            "num_entities": self.num_entities,
            "masks": self._contents.mask is not None,
            "factors": self._contents.factor_names,
        }

    def fingerprint(self) -> str:
        """The SHA-256 of the file, and whether the entities of its background are told apart."""
        return f"sha256:{sha256([self.path])}{' with every background entity' if self.num_background > 1 else ''}"


def _blocks(index: np.ndarray, row_bytes: int) -> list[np.ndarray]:
    """Positions, as many at a time as may be handled together; one empty array where there are none."""
    size = max(1, _ROOM // row_bytes)
    return [index[start : start + size] for start in range(0, max(1, len(index)), size)]


def _to_bytes(rows: _Rows, values: np.ndarray, index: np.ndarray, most: int = 255) -> np.ndarray:
    """Integers (N ...) as uint8, or ValueError where one is not from 0 to `most`."""
    if values.dtype != np.uint8 or most < 255:
        wrong = ((values < 0) | (values > most)).any(axis=tuple(range(1, values.ndim)))
        if wrong.any():
            raise ValueError(f"its {rows.name!r} of image {index[wrong.argmax()]} has values that are not 0 to {most}")
    return values.astype(np.uint8, copy=False)


def _say_shape(shape: Sequence[int]) -> str:
    return " ".join(map(str, shape))


# ---- writing ---------------------------------------------------------------------------------------------


class Packing:
    """How scenes become the chunks of a file in the EfficientMORL authors' layout.

    An image and the masks of an image are a chunk each, so that any image is read without its neighbours; the
    small numbers of `num_together` images share one. All are deflated, which every HDF5 library can undo and
    LZF not; at level 4, since level 9 takes seven times as long for 2 % of an image of CLEVR.

    `factors` has float32 columns: for CLEVR's factors those of the authors, else all factors of float32 and
    uint8 one after the other, visibility last. Its attributes `factor_names`, `factor_dtypes` and
    `factor_shapes` tell what they are. Other factors (pixel_coords of CLEVR) lie in their own dtype in the
    group `more_factors`, which readers of the authors' layout pass over.

    Args:
        first: some scenes of the source; the others must have the same arrays.
        group: the name of the split.
        num_entities: E where there are masks, but neither visibility nor factors.
        num_background: how many of the first entities are background.

    Raises:
        InputError: a name or an array cannot be kept in such a file.
    """

    def __init__(
        self, first: Batch, *, group: str = "train", num_entities: int | None = None, num_background: int = 1
    ) -> None:
        self.group, self.num_background = group, num_background
        factors = dict(first.factors)
        if first.visibility is not None:
            factors["visibility"] = first.visibility
        self.num_entities = next((values.shape[1] for values in factors.values()), num_entities)
        if self.num_entities is not None and self.num_entities > MAX_ENTITIES:
            raise InputError(f"there are {self.num_entities} entities, more than the {MAX_ENTITIES} of an .h5 file")
        for name in (group, *factors):
            if not name or name in (".", "..") or set("/\0") & set(name):
                raise InputError(f"an .h5 file cannot hold the name {name!r}: take another")
        for name, values in factors.items():
            if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8 or not values.size:
                raise InputError(f"an .h5 file cannot hold {name!r}, {values.dtype} of {_say_shape(values.shape)}")
        is_clevr = all(name in factors and factors[name].ndim == 2 for name in CLEVR_COLUMNS)
        names = [n for n in (CLEVR_COLUMNS if is_clevr else factors) if factors[n].dtype in (np.float32, np.uint8)]
        self._columns = _place_columns((name, (factors[name].dtype.type, factors[name].shape[2:])) for name in names)
        self._more = [name for name in factors if name not in names]
        self.num_together = 1
        """Scenes that are packed at a time."""
        arrays = self._arrays(first)
        row_bytes = max(values[0].nbytes for values in arrays.values())
        if row_bytes > MAX_BYTES:
            raise InputError(f"one image has {row_bytes} bytes, more than the {MAX_BYTES} that would be read again")
        self.num_together = min(256, max(1, _ROOM // 2 // row_bytes))
        self._kinds = {name: (values.dtype, values.shape[1:]) for name, values in arrays.items()}

    def _arrays(self, batch: Batch) -> dict[str, np.ndarray]:
        """A Batch as the file has it: name -> N ..."""
        arrays = {"imgs": batch.image}
        if batch.mask is not None:
            if self.num_entities is None or batch.mask.max(initial=0) >= self.num_entities:
                raise InputError(
                    f"the mask has label {batch.mask.max()}, but there are {self.num_entities} entities, "
                    "background included"
                )
            masks = batch.mask[:, None] == np.arange(self.num_entities)[:, None, None]
            arrays["masks"] = 255 * masks[..., None].astype(np.uint8)
        factors = dict(batch.factors)
        if batch.visibility is not None:
            factors["visibility"] = batch.visibility
        if self._columns:
            columns = [factors[one.name] for one in self._columns]
            flat = [values.reshape(*values.shape[:2], -1) for values in columns]
            arrays["factors"] = np.concatenate(flat, axis=2, dtype=np.float32)
        return arrays | {f"{_MORE}/{name}": factors[name] for name in self._more}

    def _rows(self, name: str) -> int:
        """The images in a chunk of an array."""
        return 1 if name in ("imgs", "masks") else self.num_together

    def pack(self, batch: Batch) -> list[bytes]:
        """The chunks of `num_together` scenes, or of the last ones, in the order in which `create` takes them."""
        chunks = []
        arrays = self._arrays(batch)
        for name, values in arrays.items():
            if (values.dtype, values.shape[1:]) != self._kinds[name]:
                what = _say_shape(values.shape[1:])
                raise InputError(
                    f"image {batch.index[0]} has {name!r} of {what}, unlike the first one: convert it apart"
                )
            rows = self._rows(name)
            for first in range(0, len(values), rows):
                content = values[first : first + rows].tobytes()
                chunks.append(zlib.compress(content.ljust(rows * values[0].nbytes, b"\0"), _LEVEL))
        return chunks

    @contextmanager
    def create(self, path: Path) -> Iterator[Callable[[int, Iterator[bytes]], None]]:
        """Creates the file. Gives a function that appends so many scenes, `num_together` but for the last ones.

        Raises:
            OSError: the system refuses to write.
        """
        try:
            with h5py.File(path, "w") as file:
                group = file.create_group(self.group)
                group.attrs["num_background"] = self.num_background
                datasets = {}
                for name, (dtype, tail) in self._kinds.items():
                    datasets[name] = group.create_dataset(
                        name,
                        (0, *tail),
                        dtype,
                        maxshape=(None, *tail),
                        chunks=(self._rows(name), *tail),
                        compression="gzip",
                        compression_opts=_LEVEL,
                    )
                if self._columns:
                    about = datasets["factors"].attrs
                    about["factor_names"] = np.array([one.name.encode() for one in self._columns])
                    about["factor_dtypes"] = np.array([one.dtype.name.encode() for one in self._columns])
                    about["factor_shapes"] = np.array([_say_shape(one.tail).encode() for one in self._columns])

                def append(num: int, chunks: Iterator[bytes]) -> None:
                    for name, dataset in datasets.items():
                        start = dataset.shape[0]
                        dataset.resize(start + num, axis=0)
                        for first in range(start, start + num, self._rows(name)):
                            corner = (first, *[0] * (dataset.ndim - 1))
                            dataset.id.write_direct_chunk(corner, next(chunks))

                yield append
        except (OSError, RuntimeError) as error:  # h5py raises both, and tells what the system said among much else
            code = re.search(r"errno = (\d+)", str(error))
            raise OSError(os.strerror(int(code[1])) if code else " ".join(str(error).split())) from error


def write_hdf5(
    path: Path,
    batches: Iterable[Batch],
    *,
    group: str = "train",
    num_entities: int | None = None,
    num_background: int = 1,
    overwrite: bool = False,
) -> None:
    """Writes scenes as an HDF5 file in the EfficientMORL authors' layout; see `Packing`.

    Args:
        path: the file; it appears only when complete.
        batches: scenes of one source, at least one; streamed.
        group: the name of the split: train, val or test for the authors' programs.
        num_entities: E where there are masks, but neither visibility nor factors.
        num_background: how many of the first entities are background, for `Hdf5` to merge.
        overwrite: replace an existing file.

    Raises:
        InputError: there are no scenes, they cannot be kept in such a file, or it cannot be written.
    """
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None or not len(first):
        raise InputError(f"there are no scenes to write to {path}")
    packing = Packing(first, group=group, num_entities=num_entities, num_background=num_background)
    with write_whole(path, overwrite=overwrite) as file, packing.create(Path(file.name)) as append:
        for batch in _regroup(chain([first], remaining), packing.num_together):
            append(len(batch), iter(packing.pack(batch)))


def _regroup(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same scenes in batches of one size, but for the last one."""
    rest: Batch | None = None
    for batch in batches:
        rest = batch if rest is None else concatenate([rest, batch])
        while len(rest) >= size:
            yield take(rest, np.arange(size))
            rest = take(rest, np.arange(size, len(rest)))
    if rest is not None and len(rest):
        yield rest
