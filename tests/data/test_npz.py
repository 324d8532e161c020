"""The .npz file: what is written comes back, what does not fit is told."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emorl.data.base import iterate
from emorl.data.npz import Npz, write_npz
from emorl.data.tetrominoes import Tetrominoes
from emorl.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)
MASK = np.random.default_rng(1).integers(0, 3, (5, 6, 8), np.uint8)


def test_round_trip(tmp_path: Path) -> None:
    generator, path = Tetrominoes(num=50), tmp_path / "scenes.npz"
    write_npz(path, iterate(generator, 20))
    source = Npz(path)
    assert (len(source), source.size) == (50, (35, 35))
    indices = np.array([49, 3, 3, 0])
    ours, theirs = source.read(indices), generator.read(indices)
    for name in ("image", "mask", "visibility", "index"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), strict=True)
    assert ours.factors.keys() == theirs.factors.keys()
    for name, values in theirs.factors.items():
        np.testing.assert_array_equal(ours.factors[name], values, strict=True)


def test_equal_scenes_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, iterate(Tetrominoes(num=4)))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_alone_and_other_arrays(save: object, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    save(path, image=np.asfortranarray(IMAGE), note=np.array("hello"), labels=np.arange(5))  # type: ignore[operator]
    batch = Npz(path).read(np.array([2, 1]))
    np.testing.assert_array_equal(batch.image, IMAGE[[2, 1]])
    assert batch.mask is None and batch.visibility is None and not batch.factors
    assert Npz(path).describe()["masks"] is False


def test_a_batch_is_a_copy(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", image=IMAGE)
    source = Npz(tmp_path / "own.npz")
    source.read(np.arange(5)).image[:] = 0
    np.testing.assert_array_equal(source.read(np.arange(5)).image, IMAGE)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": IMAGE}, "no array 'image'"),
        ({"image": IMAGE.astype(np.float32)}, "float32 of 5 6 8 3; it has to be uint8"),
        ({"image": IMAGE.transpose(0, 3, 1, 2)}, "uint8 of 5 3 6 8"),
        ({"image": IMAGE[0]}, "N H W 3"),
        ({"image": IMAGE[:0]}, "N H W 3"),
        ({"image": IMAGE, "mask": MASK[:4]}, "'mask' is uint8 of 4 6 8 and does not fit"),
        ({"image": IMAGE, "mask": MASK.transpose(0, 2, 1)}, "does not fit"),
        ({"image": IMAGE, "mask": MASK[..., None]}, "does not fit"),
        ({"image": IMAGE, "mask": MASK.astype(np.float32)}, "'mask' is float32"),
        ({"image": IMAGE, "mask": MASK.astype(np.int64) + 255}, "integers from 0 to 255"),
        ({"image": IMAGE, "mask": MASK.astype(np.int64) - 1}, "integers from 0 to 255"),
        ({"image": IMAGE, "mask": MASK, "visibility": np.ones((5, 2))}, "label 2, but there are 2"),
        ({"image": IMAGE, "visibility": np.ones(5)}, "visibility"),
        ({"image": IMAGE, "visibility": np.full((5, 2), 0.5)}, "visibility"),
        ({"image": IMAGE, "visibility": np.full((5, 2), "a")}, "visibility"),
        ({"image": np.array([None, 1])}, "pickled"),
        ({"image": IMAGE, "extra": np.array([{}])}, "pickled"),
    ],
)
def test_what_does_not_fit(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message) as error:
        Npz(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def npy(head: str, content: bytes = b"") -> bytes:
    file = io.BytesIO()
    file.write(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + content)
    return file.getvalue()


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"not an array",
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000, 3), }\n", b"abc"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1, -1, -3), }\n", b"abc"),
        npy("{'descr': '|S0', 'fortran_order': False, 'shape': (9, 9, 9, 3), }\n"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"cos\nsystem\n(S'true'\ntR."),
        npy("((((" * 500),
        npy("{'descr':"),
    ],
)
def test_hostile_arrays(member: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", member)
    with pytest.raises(InputError):
        Npz(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(100)])
def test_no_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read"):
        Npz(path)
    with pytest.raises(InputError, match="cannot read"):
        Npz(tmp_path / "missing.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_random_damage(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez_compressed(path, image=IMAGE, mask=MASK)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for trial in range(300):
        damaged = bytearray(content)
        if trial % 2:
            damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        else:
            del damaged[rng.integers(len(content)) :]
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(Npz(path).read(np.arange(5)).image, IMAGE)
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 200


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16])
def test_labels_of_any_integers_are_the_same(kind: type[np.integer], tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", image=IMAGE, mask=MASK.astype(kind))
    found = Npz(tmp_path / "own.npz").read(np.arange(5)).mask
    assert found is not None and found.dtype == np.uint8
    np.testing.assert_array_equal(found, MASK)
