"""Local heaps of an HDF5 file, looked at before the HDF5 library does.

The names in a group of the older kind, and of external files, lie in a local heap. The library reads its list of
free pieces when it is first used, and never ends where that leads back to itself, taking ever more memory: one
damaged byte is enough (seen with versions 1.14.2 and 2.0.0). Nothing else that bytes were changed to made it hang.

Structures follow the "HDF5 File Format Specification", version 3.0, sections II.A (superblock), III.D (local
heaps), IV.A.1 (object headers), IV.A.2.h, IV.A.2.q and IV.A.2.r (external files, continuation, symbol table).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_EXTERNAL_FILES, _CONTINUATION, _SYMBOL_TABLE = 0x07, 0x10, 0x11  # types of messages
_MAX_BYTES = 2**24  # of one object's header, or of a heap
_MAX_PIECES = 2**14  # free in a heap


class Heaps:
    """Checks the heaps that objects of a file refer to.

    Args:
        path: the file.

    Raises:
        ValueError: it does not begin as the files of common machines do.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            head = file.read(96)
        version = head[8] if head[:8] == b"\x89HDF\r\n\x1a\n" and len(head) == 96 else None
        if version in (0, 1):
            sizes, base, root = head[13:15], 24 + 4 * version, 64 + 4 * version
        elif version in (2, 3):
            sizes, base, root = head[9:11], 12, 36
        else:
            raise ValueError("it does not begin as an HDF5 file")
        if sizes != b"\x08\x08" or head[base : base + 8] != bytes(8):
            raise ValueError("it has addresses of other than 8 bytes, or a block before the file proper")
        self.root = int.from_bytes(head[root : root + 8], "little")
        """The address of the root group."""

    def check(self, address: int) -> None:
        """Raises ValueError where the object at an address is not to be opened."""
        with self._path.open("rb") as file:
            for kind, content in _messages(file, address):
                if kind in (_EXTERNAL_FILES, _SYMBOL_TABLE):
                    _check_heap(file, int.from_bytes(content[8:16], "little"))


def _read(file: BinaryIO, address: int, size: int) -> bytes:
    """So many bytes, or fewer where the file ends."""
    if address >= 2**63:
        return b""
    file.seek(address)
    return file.read(min(size, _MAX_BYTES))


def _messages(file: BinaryIO, address: int) -> Iterator[tuple[int, bytes]]:
    """The messages of an object's header: types and contents. Ends where the header is none: the library tells."""
    start = _read(file, address, 64)
    if start[:4] == b"OHDR" and len(start) == 64:
        flags = start[5]
        at = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        message = struct.Struct("<BHB2x" if flags & 4 else "<BHB")
        blocks = [(address + at + width, int.from_bytes(start[at : at + width], "little"))]
        around = 4  # a block that continues it has a signature before and a checksum behind
    else:
        message, around = struct.Struct("<HHB3x"), 0
        blocks = [(address + 16, int.from_bytes(start[8:12], "little"))]
    total = 0
    for block, size in blocks:
        total += size + 64
        if total > _MAX_BYTES:
            raise ValueError("one of its objects has a header without end")
        content, at = _read(file, block, size), 0
        while at + message.size <= len(content):
            kind, length, _ = message.unpack_from(content, at)
            at += message.size
            body = content[at : at + length]
            if kind == _CONTINUATION and len(body) >= 16:
                next_block, next_size = struct.unpack_from("<QQ", body)
                blocks.append((next_block + around, max(0, next_size - 2 * around)))
            yield kind, body
            at += length


def _check_heap(file: BinaryIO, address: int) -> None:
    head = _read(file, address, 32)
    if len(head) < 32 or head[:4] != b"HEAP":
        return  # which the library tells
    size, free, data = struct.unpack_from("<QQQ", head, 8)
    if size > _MAX_BYTES:
        raise ValueError(f"one of its groups has names of {size} bytes")
    for _ in range(_MAX_PIECES):
        if free == 1 or free + 16 > size:  # the end, or a place outside, which the library refuses
            return
        free = int.from_bytes(_read(file, data + free, 8), "little")
    raise ValueError("one of its groups has a list of free places without end")
