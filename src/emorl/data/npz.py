"""Scenes in one .npz file: the simplest way to bring one's own images with masks, or to keep generated ones.

    image       N H W 3, uint8
    mask        N H W, label map, integers from 0 to 255, 0 = background      optional
    visibility  N E, 1 for the background and each real object, 0 for padding optional
    any other   N E ..., a factor of that name; row 0 of E is the background  needs visibility, which tells E

Other arrays of numbers are left alone; pickled objects are never loaded. The images are in memory while the
file is in use.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Container, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from emorl.data.base import Size, check_indices, concatenate, sha256, take
from emorl.errors import InputError
from emorl.files import write_whole
from emorl.types import Batch

MAX_BYTES = 2**34
"""Files with more bytes of arrays are refused: all of them have to fit in memory."""

_METHODS = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED  # of the others, zipfile unpacks more than a member claims


def _read_array(file: IO[bytes], num_bytes: int) -> np.ndarray:
    """An array in the .npy format, of so many bytes with its head. Nothing is allocated on the word of that alone."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array has the unknown format {version}")
    read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_head(file)
    if dtype.hasobject:
        raise ValueError("an array holds pickled objects, which are never loaded")
    content = file.read(num_bytes)  # without a number, zipfile unpacks up to 2 GiB of a member that claims less
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError("an array is not as long as its head says")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")


def read_arrays(path: Path, only: Container[str] | None = None, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Args:
        path: the file.
        only: names of those that are wanted; the others are not read. None wants all.
        max_bytes: what they may occupy in all.

    Raises:
        InputError: the file is no .npz, is damaged, too large, or holds pickled objects.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("there is no such file")
        with zipfile.ZipFile(path) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
            wanted = {name: member for name, member in members.items() if only is None or name in only}
            if sum(member.file_size for member in wanted.values()) > max_bytes:
                raise ValueError(f"it holds more than {max_bytes >> 20} MiB, which have to fit in memory")
            if sum(member.compress_size for member in wanted.values()) > path.stat().st_size:
                raise ValueError("its arrays claim to be longer than the file")
            if any(member.compress_type not in _METHODS for member in wanted.values()):
                raise ValueError("an array is packed by a method that numpy does not use")
            arrays = {}
            for name, member in wanted.items():
                with archive.open(member) as file:
                    arrays[name] = _read_array(file, member.file_size)
            return arrays
    except Exception as error:  # a damaged archive makes zipfile and numpy's parser raise almost anything
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot read {path} ({why}): make it with numpy.savez from arrays of numbers") from error


class Npz:
    """An .npz file by position.

    Raises InputError where the file is not as the head of this module says; the message tells the array and
    what it should be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        arrays = read_arrays(path)
        if "image" not in arrays:
            raise InputError(f"{path} has no array 'image': save one, uint8 of N H W 3")
        image, mask, visibility = (
            arrays.pop("image"),
            arrays.pop("mask", None),
            arrays.pop("visibility", None),
        )
        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3 or not image.size:
            raise InputError(f"{path}: 'image' is {_say(image)}; it has to be uint8 (0 to 255) of N H W 3")
        if mask is not None:
            if mask.dtype.kind not in "biu" or mask.shape != image.shape[:3] or not 0 <= mask.min() <= mask.max() < 256:
                raise InputError(
                    f"{path}: 'mask' is {_say(mask)} and does not fit 'image'; it has to be labels of "
                    f"{_say_shape(image.shape[:3])}, integers from 0 to 255, 0 = background"
                )
            mask = mask.astype(np.uint8)
        if visibility is not None:
            fits = visibility.ndim == 2 and len(visibility) == len(image) and visibility.dtype.kind in "biuf"
            if not fits or not np.isin(visibility, (0, 1)).all():
                raise InputError(f"{path}: 'visibility' is {_say(visibility)}; it has to be 0 or 1, N E as 'image'")
            visibility = visibility.astype(np.float32)
            if mask is not None and mask.max() >= visibility.shape[1]:
                raise InputError(f"{path}: 'mask' has label {mask.max()}, but there are {visibility.shape[1]} entities")
            entities = visibility.shape
            factors = {
                name: values
                for name, values in arrays.items()
                if values.shape[:2] == entities and values.dtype.kind in "biuf"
            }
        else:
            factors = {}
        self._all = Batch(image, np.arange(len(image)), mask, visibility, factors)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def size(self) -> Size:
        """H, W."""
        return self._all.image.shape[1], self._all.image.shape[2]

    def __len__(self) -> int:
        return len(self._all)

    def read(self, indices: np.ndarray) -> Batch:
        """Images by position; see `Source.read`."""
        return take(self._all, check_indices(indices, self))

    def describe(self) -> dict[str, Any]:
        """Facts about the file; see `Source.describe`."""
        visibility = self._all.visibility
        return {
            "name": self.name,
            "kind": "npz",
            "num_images": len(self),
            "size": list(self.size),
            "num_entities": None if visibility is None else visibility.shape[1],
            "masks": self._all.mask is not None,
            "factors": list(self._all.factors),
        }

    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return f"sha256:{sha256([self.path])}"


def write_npz(path: Path, batches: Iterable[Batch], *, overwrite: bool = False) -> None:
    """Writes scenes as one compressed .npz file, which appears only when complete.

    Args:
        path: the file.
        batches: scenes of one size; they are all in memory at the end.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists or cannot be written.
    """
    with write_whole(path, overwrite=overwrite) as file:
        batch = concatenate(batches)
        arrays = {"image": batch.image, "mask": batch.mask, "visibility": batch.visibility, **batch.factors}
        present: dict[str, Any] = {name: values for name, values in arrays.items() if values is not None}
        np.savez_compressed(file, **present)


def _say_shape(shape: tuple[int, ...]) -> str:
    return " ".join(map(str, shape)) or "one number"


def _say(values: np.ndarray) -> str:
    return f"{values.dtype} of {_say_shape(values.shape)}"
