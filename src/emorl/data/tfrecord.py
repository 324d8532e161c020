"""The TFRecord files of DeepMind's Multi-Object Datasets, read and written without TensorFlow.

Container and encodings follow the data set specification, section 1: records framed by a length, each with
masked CRC-32C checksums, usually in one gzip stream; a record is a `tf.train.Example` whose image and masks
hold one entry per byte. Which data set a file belongs to is told by the byte counts of image and mask.

A file is not trusted: lengths are bounded, the checksums of whatever is read are compared, and whatever does
not fit raises InputError with the file, the record and the reason.

Axes: N records, E entities (background first), H rows, W columns.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from emorl.data.base import Size, as_positions, concatenate, no_image, sha256, take
from emorl.errors import InputError
from emorl.files import write_whole
from emorl.types import Batch

MAX_RECORD_BYTES = 2**24
"""Longer records are refused; the longest of the published sets, CLEVR's, has 3.2 million bytes."""

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER = struct.Struct("<QI")
_BLOCK = 32  # records that are decoded together


# ---- the data sets ---------------------------------------------------------------------------------------


Kind = tuple[type, tuple[int, ...]]
"""The dtype and shape of a feature on disk."""


@dataclass(frozen=True)
class Variant:
    """One published data set: what its records hold. See the data set specification, section 1.2."""

    name: str
    """What `data info` calls it."""
    image: tuple[int, int, int]
    """H W C on disk; one channel is repeated to three in a Batch."""
    num_entities: int
    """E on disk, background included."""
    factors: dict[str, Kind] = field(default_factory=dict)
    """Factor -> its dtype on disk (uint8 is a byte feature) and its shape after E."""
    masks_last: bool = False
    """Masks are stored H W E 1 instead of E H W 1."""
    num_background: int = 1
    """The first entities that are background."""
    extra_factors: dict[str, Kind] = field(default_factory=dict)
    """Factors that the published records lack and ours may have: readers that do not know them pass them over."""
    has_visibility: bool = True
    """Otherwise an entity is visible where its mask is not empty."""

    def having(self, names: Collection[str]) -> Variant:
        """This, with those of its extra factors that are among `names`."""
        extra = {name: kind for name, kind in self.extra_factors.items() if name in names}
        return replace(self, factors=self.factors | extra) if extra else self

    @property
    def features(self) -> dict[str, Kind]:
        """Everything a record holds: name -> dtype and shape on disk."""
        height, width, _ = self.image
        entities = self.num_entities
        mask = (height, width, entities, 1) if self.masks_last else (entities, height, width, 1)
        features: dict[str, Kind] = {"image": (np.uint8, self.image), "mask": (np.uint8, mask)}
        if self.has_visibility:
            features["visibility"] = (np.float32, (entities,))
        return features | {name: (dtype, (entities, *tail)) for name, (dtype, tail) in self.factors.items()}

    def num_bytes(self, name: str) -> int:
        """Bytes of a feature on disk, without its encoding."""
        dtype, shape = self.features[name]
        return int(np.prod(shape)) * np.dtype(dtype).itemsize


_NUMBER: Kind = (np.float32, ())
_VECTOR: Kind = (np.float32, (3,))
_CODE: Kind = (np.uint8, ())
_PIECE: dict[str, Kind] = dict.fromkeys(("x", "y", "shape"), _NUMBER) | {"color": _VECTOR}
_SPRITE: dict[str, Kind] = _PIECE | dict.fromkeys(("orientation", "scale"), _NUMBER)
_SOLID: dict[str, Kind] = (
    dict.fromkeys(("x", "y", "z", "rotation"), _NUMBER)
    | {"pixel_coords": _VECTOR}
    | dict.fromkeys(("size", "material", "shape", "color"), _CODE)
)

VARIANTS = (
    Variant("tetrominoes", (35, 35, 3), 4, _PIECE),
    Variant(
        "multi_dsprites_binarized",
        (64, 64, 1),
        4,
        _SPRITE | {"color": (np.float32, (1,))},
        masks_last=True,
    ),
    Variant("multi_dsprites_colored_on_grayscale", (64, 64, 3), 6, _SPRITE, masks_last=True),
    Variant("multi_dsprites_colored_on_colored", (64, 64, 3), 5, _SPRITE, masks_last=True),
    Variant("objects_room_train", (64, 64, 3), 7, num_background=4, has_visibility=False),
    Variant("objects_room_test_empty_room", (64, 64, 3), 4, num_background=4, has_visibility=False),
    # six_objects and identical_color
    Variant("objects_room_test", (64, 64, 3), 10, num_background=4, has_visibility=False),
    Variant("clevr_with_masks", (240, 320, 3), 11, _SOLID, extra_factors={"yaw": _NUMBER}),
)
"""The published data sets; no two have the same byte counts of image and mask."""


# ---- records ---------------------------------------------------------------------------------------------


class _DamageError(InputError):
    """What is wrong with a record; `_naming` adds the file and the record's number."""


@contextmanager
def _naming(path: Path, record: int) -> Iterator[None]:
    """Turns whatever goes wrong while reading a record into one InputError."""
    try:
        yield
    except (_DamageError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"{path}: record {record}: {error}; the file is damaged or of another kind: get it again"
        ) from error


def _masked_crc(data: bytes) -> int:
    """The checksum as TFRecord stores it: rotated right by 15 bits, plus a constant."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _is_compressed(path: Path) -> bool:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"cannot read {path}: it is no file")
    try:
        with path.open("rb") as file:
            return file.read(2) == _GZIP_MAGIC
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if _is_compressed(path) else path.open("rb")


def _read_length(stream: gzip.GzipFile | BufferedReader) -> int | None:
    """Reads the head of a record: its length in bytes, or None where the file ends as it should."""
    head = stream.read(_HEADER.size)
    if not head:
        return None
    if len(head) < _HEADER.size:
        raise _DamageError("the file ends inside its length")
    length, checksum = _HEADER.unpack(head)
    if _masked_crc(head[:8]) != checksum:
        raise _DamageError("its length fails the checksum")
    if length > MAX_RECORD_BYTES:
        raise _DamageError(f"it claims {length} bytes, more than the {MAX_RECORD_BYTES} that are accepted")
    return int(length)


def _read_payload(stream: gzip.GzipFile | BufferedReader, length: int) -> bytes:
    """Reads what follows the head of a record."""
    body = stream.read(length + 4)
    if len(body) < length + 4:
        raise _DamageError(f"the file ends inside its {length} bytes")
    payload = body[:-4]
    if _masked_crc(payload) != int.from_bytes(body[-4:], "little"):
        raise _DamageError("its content fails the checksum")
    return payload


def read_records(path: Path) -> Iterator[bytes]:
    """The payloads of a TFRecord file in order, one in memory at a time; gzip or plain by its first bytes.

    Raises:
        InputError: the file cannot be read, is no TFRecord file, is damaged or cut short.
    """
    record = 0
    with _open(path) as stream:
        while True:
            with _naming(path, record):
                length = _read_length(stream)
                if length is None:
                    return
                payload = _read_payload(stream, length)
            yield payload
            record += 1


# ---- tf.train.Example ------------------------------------------------------------------------------------


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that starts at a position, and the position behind it."""
    value = shift = 0
    while True:
        if at == len(message) or shift > 63:
            raise _DamageError("its protocol buffer has a broken number")
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers of a protocol buffer with their values: a number, or the bytes of anything else."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        wire_type = tag & 7
        if wire_type == 0:
            value, at = _read_varint(message, at)
            yield tag >> 3, value
            continue
        if wire_type == 2:
            size, at = _read_varint(message, at)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise _DamageError(f"its protocol buffer has a field of unknown type {wire_type}")
        if size > len(message) - at:
            raise _DamageError("its protocol buffer has a field longer than itself")
        yield tag >> 3, message[at : at + size]
        at += size


def _parts(message: memoryview, number: int) -> Iterator[memoryview]:
    """The values of the fields of one number, which must not be plain numbers."""
    for field_number, value in _fields(message):
        if field_number == number:
            if isinstance(value, int):
                raise _DamageError("its protocol buffer is no tf.train.Example")
            yield value


def _join(message: memoryview) -> bytearray:
    """The fields of number 1, one behind the other. A list of them could take a hundred times as much memory."""
    content = bytearray()
    for part in _parts(message, 1):
        content += part
    return content


def _parse_bytes(message: memoryview) -> np.ndarray:
    """A BytesList: all its entries joined."""
    if len(message) % 3 == 0:
        # An entry of one byte is 0A 01 and the byte: where all are, every third byte is the content.
        entries = np.frombuffer(message, np.uint8).reshape(-1, 3)
        if (entries[:, 0] == 0x0A).all() and (entries[:, 1] == 1).all():
            return entries[:, 2]
    return np.frombuffer(_join(message), np.uint8)


def _parse_floats(message: memoryview) -> np.ndarray:
    """A FloatList, packed or not."""
    content = _join(message)
    if len(content) % 4:
        raise _DamageError("a list of its numbers is cut short")
    return np.frombuffer(content, "<f4")


def _parse_integers(message: memoryview) -> np.ndarray:
    """An Int64List, packed or not."""
    values = array("Q")
    for number, value in _fields(message):
        if number == 1 and isinstance(value, int):
            values.append(value % 2**64)
        elif number == 1 and not isinstance(value, int):
            at = 0
            while at < len(value):
                one, at = _read_varint(value, at)
                values.append(one % 2**64)
    return np.array(values, np.uint64).astype(np.int64)


_PARSERS = {1: _parse_bytes, 2: _parse_floats, 3: _parse_integers}


def parse_example(payload: bytes, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """A serialized tf.train.Example as feature name -> values: flat uint8 (entries joined), float32, int64.

    Args:
        payload: the bytes of a record.
        names: the features that are wanted; None wants all.

    Raises:
        InputError: the bytes are no Example.
    """
    result = {}
    for features in _parts(memoryview(payload), 1):
        for entry in _parts(features, 1):
            name, feature = "", memoryview(b"")
            for number, value in _fields(entry):
                if isinstance(value, int):
                    raise _DamageError("its protocol buffer is no tf.train.Example")
                if number == 1:
                    name = bytes(value).decode(errors="replace")
                elif number == 2:
                    feature = value
            if names is None or name in names:
                result[name] = _parse_feature(feature)
    return result


def _parse_feature(feature: memoryview) -> np.ndarray:
    values = np.zeros(0, np.uint8)
    for kind, content in _fields(feature):
        if kind not in _PARSERS or isinstance(content, int):
            raise _DamageError("its protocol buffer is no tf.train.Example")
        values = _PARSERS[kind](content)
    return values


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


def _message(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes or another message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _encode_feature(values: np.ndarray) -> bytes:
    """A tf.train.Feature as the published files have it: one entry per byte, or packed floats."""
    if values.dtype == np.uint8:
        entries = np.empty((values.size, 3), np.uint8)
        entries[:] = 0x0A, 1, 0
        entries[:, 2] = values.reshape(-1)
        return _message(1, entries.tobytes())
    return _message(2, _message(1, values.astype("<f4").tobytes()))


def encode_example(features: dict[str, np.ndarray]) -> bytes:
    """Features (uint8 or floating point, flattened in C order) as a tf.train.Example, sorted by name."""
    entries = (
        _message(1, name.encode()) + _message(2, _encode_feature(values)) for name, values in sorted(features.items())
    )
    return _message(1, b"".join(_message(1, entry) for entry in entries))


# ---- scenes ----------------------------------------------------------------------------------------------


def _find_variant(features: dict[str, np.ndarray]) -> Variant:
    """The data set that a record belongs to, by the byte counts of image and mask."""
    counts = {name: features[name].nbytes for name in ("image", "mask") if name in features}
    for variant in VARIANTS:
        if counts == {name: variant.num_bytes(name) for name in ("image", "mask")}:
            return variant.having(features)
    found = " and ".join(f"{name} of {count} bytes" for name, count in counts.items()) or "neither image nor mask"
    known = ", ".join(f"{v.name} {v.num_bytes('image')} + {v.num_bytes('mask')}" for v in VARIANTS)
    raise _DamageError(f"it holds {found}, none of the known data sets ({known})")


def merge_masks(masks: np.ndarray, num_merged: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """One mask per entity as one label map.

    Args:
        masks: N E H W, integers: 255 inside, 0 outside; E at most 256.
        num_merged: the first entities that become label 0 together.

    Returns:
        N H W uint8 labels, and N bool: whether the masks have no other values and exactly one entity at each
        pixel. Where they have not, the labels mean nothing.
    """
    labels = np.zeros(masks.shape[:1] + masks.shape[2:], np.uint8)
    owners = np.zeros(labels.shape, np.uint16)  # how many entities own a pixel
    good = np.ones(len(masks), bool)
    for entity in range(masks.shape[1]):
        mask = masks[:, entity]
        inside = mask == 255
        good &= (inside | (mask == 0)).all(axis=(1, 2))
        owners += inside
        labels += inside * np.uint8(max(0, entity + 1 - num_merged))
    return labels, good & (owners == 1).all(axis=(1, 2))


def find_visible(labels: np.ndarray, num_entities: int) -> np.ndarray:
    """Which entities have a pixel: N H W labels to N E float32, 0 or 1."""
    visible: np.ndarray = np.stack([(labels == entity).any(axis=(1, 2)) for entity in range(num_entities)], axis=1)
    return visible.astype(np.float32)


def _find_layout(batch: Batch, num_background: int) -> Variant:
    """The published set that a Batch has the shape of."""
    if batch.mask is None or batch.visibility is None:
        raise InputError("a .tfrecords file needs masks and visibility: write an .npz or .h5 instead")
    size, entities = batch.image.shape[1:3], batch.visibility.shape[1]
    shapes = {name: values.shape[2:] for name, values in batch.factors.items()}
    wanted = size, entities, num_background, shapes
    for variant in (published.having(shapes) for published in VARIANTS):
        tails = {name: tail for name, (_, tail) in variant.factors.items()}
        if (variant.image[:2], variant.num_entities, variant.num_background, tails) == wanted:
            return variant
    raise InputError(
        f"no published .tfrecords layout has images of {size[0]} x {size[1]}, {entities} entities"
        f"{f', {num_background} of them background,' if num_background > 1 else ''} and the factors "
        f"{', '.join(shapes) or 'none'}: write an .npz or .h5 instead"
    )


def encode_records(batch: Batch, num_background: int = 1) -> Iterator[bytes]:
    """Scenes as the records of a TFRecord file, in the encoding of the published set that they have the shape of.

    Args:
        batch: scenes with masks and visibility.
        num_background: how many of the first entities are background: 4 for Objects Room with all its
            entities, which is otherwise not told from other sets; it has no layout where they are merged.

    Yields:
        A framed record per scene.

    Raises:
        InputError: no published layout has this shape, or it cannot hold these values exactly.
    """
    variant = _find_layout(batch, num_background)
    assert batch.mask is not None and batch.visibility is not None  # or there is no layout
    entities = variant.num_entities
    if batch.mask.max(initial=0) >= entities:
        raise InputError(
            f"the mask has label {batch.mask.max()}, but there are {entities} entities, background included"
        )
    if not variant.has_visibility and (find_visible(batch.mask, entities) != batch.visibility).any():
        raise InputError(f"{variant.name} has no visibility but that of the masks, which is another: write an .h5")
    masks = 255 * (batch.mask[:, None] == np.arange(entities)[:, None, None]).astype(np.uint8)  # N E H W
    arrays = {
        **batch.factors,
        "image": batch.image[..., : variant.image[2]],
        "mask": np.moveaxis(masks, 1, -1) if variant.masks_last else masks,
        "visibility": batch.visibility,
    }
    exact = {name: _convert(name, arrays[name], variant) for name in variant.features}
    if (exact["image"] != batch.image).any():
        raise InputError(f"{variant.name} has images of one channel, but these have colours: write an .h5 instead")
    for row in range(len(batch)):
        payload = encode_example({name: values[row] for name, values in exact.items()})
        length = struct.pack("<Q", len(payload))
        yield b"".join((length, _checksum(length), payload, _checksum(payload)))


def _convert(name: str, values: np.ndarray, variant: Variant) -> np.ndarray:
    """A feature in its dtype on disk, or InputError where that would change it."""
    kind = np.dtype(variant.features[name][0])
    if values.dtype == kind:
        return values
    if values.dtype.kind in "biuf":
        with np.errstate(all="ignore"):  # what overflows is not equal
            converted: np.ndarray = values.astype(kind)
        if np.array_equal(converted, values, equal_nan=True):
            return converted
    raise InputError(f"{variant.name} has {name!r} as {kind}, which cannot hold these values: write an .h5 instead")


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", _masked_crc(data))


# A gzip file is written in parts that know nothing of each other, so that it can grow after an interruption.
# It is one member nevertheless: HEAD, the parts one behind the other, and the tail, which ends the stream.

GZIP_HEAD = bytes.fromhex("1f8b 08 00 00000000 00 ff")
"""What a gzip file begins with. No name and no time: equal scenes give equal bytes."""


def deflate(content: bytes) -> bytes:
    """A part of a gzip file: compressed without reference to what was before, ending at a whole byte."""
    stream = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(content) + stream.flush(zlib.Z_FULL_FLUSH)


def gzip_tail(checksum: int, size: int) -> bytes:
    """The end of a gzip file: CRC-32 and number of bytes of all its content."""
    nothing_more = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS).flush()
    return nothing_more + struct.pack("<II", checksum, size % 2**32)


def write_tfrecord(
    path: Path,
    batches: Iterable[Batch],
    *,
    compress: bool = True,
    num_background: int = 1,
    overwrite: bool = False,
) -> None:
    """Writes scenes in the published encoding: one entry per byte, one gzip stream.

    Args:
        path: the file; it appears only when complete.
        batches: scenes of one published shape; see `encode_records`. Each batch is encoded in memory.
        compress: with gzip, as published. Plain files are about 70 times as large but can be read anywhere
            at once.
        num_background: how many of the first entities are background; see `encode_records`.
        overwrite: replace an existing file.

    Raises:
        InputError: no published layout fits, or the file cannot be written.
    """
    with write_whole(path, overwrite=overwrite) as file:
        checksum = size = 0
        file.write(GZIP_HEAD if compress else b"")
        for batch in batches:
            content = b"".join(encode_records(batch, num_background))
            file.write(deflate(content) if compress else content)
            checksum, size = zlib.crc32(content, checksum), size + len(content)
        file.write(gzip_tail(checksum, size) if compress else b"")


class TFRecords:
    """A published file by position.

    A plain file is read in place: only the positions of its records are kept, found as far as they are
    needed. A gzip file can only be read from its start: records are decoded as the stream passes them and
    kept, up to `cache_bytes`, the least recently used going first. Whoever asks for one that has gone, or
    was never kept, makes the stream start again; random access to more than the cache holds wants a
    decompressed file.

    Args:
        path: the file.
        cache_bytes: what decoded records of a gzip file may occupy.
        first_needed: a hint: records before this are passed over without being decoded and kept.
        merge_background: the first four entities of Objects Room, all background, become one, label 0. Without
            it a Batch has all entities as they are stored. Other sets have one background entity.
    """

    def __init__(
        self,
        path: Path,
        *,
        cache_bytes: int = 2**31,
        first_needed: int = 0,
        merge_background: bool = True,
    ) -> None:
        self.path = path
        self.compressed = _is_compressed(path)
        self.cache_bytes, self.first_needed, self.merge_background = cache_bytes, first_needed, merge_background
        first = next(read_records(path), None)
        if first is None:
            raise InputError(f"{path} holds no records: get it again")
        with _naming(path, 0):
            self.variant = _find_variant(parse_example(first))
        self._num_merged = self.variant.num_background if merge_background else 1
        self._first = self._decode([first], np.zeros(1, np.int64))
        self._num: int | None = None
        self._starts = array("q")  # of the records of a plain file
        self._next_start = 0
        self._blocks: OrderedDict[int, Batch] = OrderedDict()  # of a gzip file, most recently used last
        self._stream: Iterator[bytes] | None = None
        self._next_block = 0
        self._visible = array("f")  # of a gzip file: the visibility of its first records
        self._visible_stream: Iterator[bytes] | None = None  # behind those

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def size(self) -> Size:
        """H, W."""
        return self.variant.image[:2]

    @property
    def num_background(self) -> int:
        """How many of the first entities of a Batch are background."""
        return self.variant.num_background + 1 - self._num_merged

    def __len__(self) -> int:
        """The number of records. The first call goes through the whole file, for gzip unpacking it."""
        if self._num is None:
            self._num = self.count()
        return self._num

    def count(self, limit: int | None = None) -> int:
        """The number of records, or `limit` as soon as there are known to be as many."""
        if self._num is not None:
            return self._num if limit is None else min(limit, self._num)
        if not self.compressed:
            self._find_starts(limit)
            return len(self._starts) if limit is None else min(limit, len(self._starts))
        num = 0
        with _open(self.path) as stream:
            while limit is None or num < limit:
                with _naming(self.path, num):
                    length = _read_length(stream)
                    if length is None:
                        self._num = num
                        break
                    if len(stream.read(length + 4)) < length + 4:
                        raise _DamageError(f"the file ends inside its {length} bytes")
                num += 1
        return num

    def _find_starts(self, limit: int | None) -> None:
        """Finds where the records of a plain file start, until `limit` are known."""
        if self._num is not None or (limit is not None and len(self._starts) >= limit):
            return
        with _open(self.path) as file:
            num_bytes = file.seek(0, os.SEEK_END)
            while limit is None or len(self._starts) < limit:
                with _naming(self.path, len(self._starts)):
                    file.seek(self._next_start)
                    length = _read_length(file)
                    if length is None:
                        self._num = len(self._starts)
                        return
                    end = self._next_start + _HEADER.size + length + 4
                    if end > num_bytes:
                        raise _DamageError(f"the file ends inside its {length} bytes")
                self._starts.append(self._next_start)
                self._next_start = end

    def read(self, indices: np.ndarray) -> Batch:
        """Records by position; see `Source.read`."""
        index = as_positions(indices, self.name)
        if not index.size:
            return take(self._first, index)
        if not self.compressed:
            return concatenate(self._decode(*block) for block in self._plain_blocks(index))
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        parts = []
        for number in np.unique(ordered // _BLOCK):
            block = self._read_block(int(number))
            rows = ordered[ordered // _BLOCK == number] - number * _BLOCK
            if rows[-1] >= len(block):
                raise no_image(self.name, int(ordered[-1]), len(self))
            parts.append(take(block, rows))
        return take(concatenate(parts), np.argsort(order))

    def visibility(self, indices: np.ndarray) -> np.ndarray:
        """The visibility of `read(indices)`, N E float32, without its images.

        For a gzip file the stream is passed once in all, however often this is called: what it had is kept,
        a few bytes per record.
        """
        index = as_positions(indices, self.name)
        if not self.compressed:
            blocks = [self._read_visibility(*block) for block in self._plain_blocks(index)]
            return np.concatenate([self._first_visibility[:0], *blocks])
        stream, self._visible_stream = self._visible_stream, None  # after an error the next call starts again
        if stream is None:
            stream, self._visible = read_records(self.path), array("f")
        entities, needed = self._first_visibility.shape[1], int(index.max(initial=-1)) + 1
        while (num := len(self._visible) // entities) < needed and (payloads := list(islice(stream, _BLOCK))):
            visibility = self._read_visibility(payloads, num + np.arange(len(payloads)))
            self._visible.frombytes(visibility.tobytes())
        self._visible_stream = stream
        if needed > num:
            raise no_image(self.name, needed - 1, num)
        rows: np.ndarray = np.frombuffer(self._visible, np.float32).reshape(num, entities)[index]
        return rows

    def _plain_blocks(self, index: np.ndarray) -> Iterator[tuple[list[bytes], np.ndarray]]:
        """Records of a plain file, a few at a time: payloads and positions."""
        needed = int(index.max(initial=-1)) + 1
        if self.count(needed) < needed:
            raise no_image(self.name, needed - 1, len(self))
        with _open(self.path) as file:
            for start in range(0, len(index), _BLOCK):
                positions = index[start : start + _BLOCK]
                payloads = []
                for record in positions:
                    with _naming(self.path, int(record)):
                        file.seek(self._starts[record])
                        payloads.append(_read_payload(file, _read_length(file) or 0))
                yield payloads, positions

    def _read_block(self, number: int) -> Batch:
        """The records of a gzip file from number * _BLOCK on: _BLOCK of them, or as many as are left."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        stream, self._stream = self._stream, None  # after an error the next call starts again
        if stream is None or number < self._next_block:
            stream, self._next_block = read_records(self.path), 0
        while payloads := list(islice(stream, _BLOCK)):
            passing, self._next_block = self._next_block, self._next_block + 1
            index = passing * _BLOCK + np.arange(len(payloads))
            if passing == number or (index[-1] >= self.first_needed and self._most_blocks > 1):
                self._keep(passing, self._decode(payloads, index))
            if passing == number:
                self._stream = stream
                return self._blocks[number]
        return take(self._first, np.zeros(0, np.int64))

    def _keep(self, number: int, block: Batch) -> None:
        self._blocks[number] = block
        while len(self._blocks) > self._most_blocks:
            self._blocks.popitem(last=False)

    @property
    def _most_blocks(self) -> int:
        return max(1, self.cache_bytes // (_BLOCK * _num_bytes(self._first)))

    def _parse(self, payloads: Sequence[bytes], index: np.ndarray, names: Collection[str]) -> dict[str, np.ndarray]:
        """Some features of records (N payloads, N positions): name -> N and the shape on disk."""
        kinds = self.variant.features
        arrays: dict[str, np.ndarray] = {
            name: np.empty((len(payloads), *kinds[name][1]), kinds[name][0]) for name in names
        }
        for row, (payload, record) in enumerate(zip(payloads, index, strict=True)):
            with _naming(self.path, int(record)):
                parsed = parse_example(payload, names)
                for name, values in arrays.items():
                    if name not in parsed:
                        raise _DamageError(f"it has no feature {name!r}, which {self.variant.name} has")
                    if parsed[name].dtype != values.dtype or parsed[name].size != values[row].size:
                        raise _DamageError(
                            f"{name!r} has {parsed[name].size} values of {parsed[name].dtype}, "
                            f"not the {values[row].size} of {values.dtype} of {self.variant.name}"
                        )
                    values[row] = parsed[name].reshape(values[row].shape)
        return arrays

    def _find_labels(self, masks: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Masks as on disk (N positions) to labels, N H W."""
        masks = masks[..., 0]  # N E H W or N H W E
        labels, good = merge_masks(np.moveaxis(masks, -1, 1) if self.variant.masks_last else masks, self._num_merged)
        if not good.all():
            with _naming(self.path, int(index[good.argmin()])):
                raise _DamageError("its masks are not 0 or 255 with exactly one entity at each pixel")
        return labels

    def _find_visible(self, labels: np.ndarray) -> np.ndarray:
        return find_visible(labels, self.variant.num_entities + 1 - self._num_merged)

    def _read_visibility(self, payloads: Sequence[bytes], index: np.ndarray) -> np.ndarray:
        if self.variant.has_visibility:
            return self._parse(payloads, index, ["visibility"])["visibility"]
        return self._find_visible(self._find_labels(self._parse(payloads, index, ["mask"])["mask"], index))

    @property
    def _first_visibility(self) -> np.ndarray:
        assert self._first.visibility is not None
        return self._first.visibility

    def _decode(self, payloads: Sequence[bytes], index: np.ndarray) -> Batch:
        """Records (N payloads, N positions) as a Batch."""
        features = self._parse(payloads, index, self.variant.features)
        image = features.pop("image")
        labels = self._find_labels(features.pop("mask"), index)
        return Batch(
            image=np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image,
            index=index,
            mask=labels,
            visibility=features.pop("visibility") if self.variant.has_visibility else self._find_visible(labels),
            factors=features,
        )

    def describe(self) -> dict[str, Any]:
        """Facts about the file; see `Source.describe`."""
        return {
            "name": self.name,
            "kind": "gzip TFRecord" if self.compressed else "plain TFRecord",
            "data_set": self.variant.name,
            "num_images": len(self),
            "size": list(self.size),
            "num_entities": self.variant.num_entities + 1 - self._num_merged,
            "masks": True,
            "factors": list(self._first.factors),
        }

    def fingerprint(self) -> str:
        """The SHA-256 of the file, and whether the entities of its background are told apart."""
        return f"sha256:{sha256([self.path])}{' with every background entity' if self.num_background > 1 else ''}"


def _num_bytes(batch: Batch) -> int:
    arrays = [batch.image, batch.index, batch.mask, batch.visibility, *batch.factors.values()]
    return sum(values.nbytes for values in arrays if values is not None)
