"""A user's own pictures: every mode by one rule, every size by one policy, every bad file told."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emorl.data.pictures import Pictures, find_pictures, read_picture
from emorl.data.views import View
from emorl.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 14, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (9, 14, 1), np.uint8)
GREY = RGB[..., :1]


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def over_black(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.round(color * (alpha / 255.0))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".PNG"])
def test_rgb_stays(suffix: str, tmp_path: Path) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    image = read_picture(save(tmp_path / f"a{suffix}", RGB, **options))
    np.testing.assert_array_equal(image, RGB, strict=True)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 9 * 14 * 3).reshape(9, 14, 3).astype(np.uint8)
    assert abs(read_picture(save(tmp_path / "a.jpg", smooth, quality=95)).astype(int) - smooth).max() < 40


def test_grey_is_repeated(tmp_path: Path) -> None:
    image = read_picture(save(tmp_path / "a.png", GREY[..., 0]))
    np.testing.assert_array_equal(image, np.repeat(GREY, 3, axis=2))


def test_alpha_is_laid_over_black(tmp_path: Path) -> None:
    image = read_picture(save(tmp_path / "a.png", np.concatenate([RGB, ALPHA], axis=2)))
    assert abs(image - over_black(RGB, ALPHA)).max() <= 1
    grey = Image.merge("LA", [Image.fromarray(GREY[..., 0]), Image.fromarray(ALPHA[..., 0])])
    grey.save(tmp_path / "b.png")
    assert abs(read_picture(tmp_path / "b.png") - over_black(np.repeat(GREY, 3, axis=2), ALPHA)).max() <= 1


def test_palette_is_expanded(tmp_path: Path) -> None:
    picture = Image.fromarray(RGB).quantize(16)
    expected = np.array(picture.convert("RGB"))
    for name in ("a.png", "a.gif"):
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(read_picture(tmp_path / name), expected)
    picture.save(tmp_path / "b.png", transparency=3)
    expected[np.array(picture) == 3] = 0
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png"), expected)


def test_a_transparent_colour_is_black(tmp_path: Path) -> None:
    pixels = np.array([[(10, 20, 30), (40, 50, 60)]], np.uint8)
    image = read_picture(save(tmp_path / "a.png", pixels, transparency=(10, 20, 30)))
    assert image.tolist() == [[[0, 0, 0], [40, 50, 60]]]
    image = read_picture(save(tmp_path / "b.png", np.array([[7, 8]], np.uint8), transparency=7))
    assert image[0, :, 0].tolist() == [0, 8]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled(suffix: str, tmp_path: Path) -> None:
    pixels = np.array([[0, 128, 129, 256, 257, 30_000, 65_534, 65_535]], np.uint16)
    image = read_picture(save(tmp_path / f"a{suffix}", pixels))
    expected = np.round(pixels / 257).astype(np.uint8)
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))


def test_big_endian_and_wide_integers(tmp_path: Path) -> None:
    pixels = np.array([[0, 514, 65_535]])
    Image.frombytes("I;16B", (3, 1), pixels.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    save(tmp_path / "b.tif", pixels.astype(np.int32))
    for name in ("a.tif", "b.tif"):
        assert read_picture(tmp_path / name)[0, :, 0].tolist() == [0, 2, 255]
    with pytest.raises(InputError, match="16 bits"):
        read_picture(save(tmp_path / "c.tif", np.array([[70_000]], np.int32)))


def test_floating_point_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="floating-point"):
        read_picture(save(tmp_path / "a.tif", np.array([[0.5]], np.float32)))


def test_black_and_white(tmp_path: Path) -> None:
    bits = RNG.integers(0, 2, (9, 14)).astype(bool)
    image = read_picture(save(tmp_path / "a.png", bits))
    np.testing.assert_array_equal(image, np.repeat(255 * bits[..., None].astype(np.uint8), 3, axis=2))


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif"), np.broadcast_to([255, 0, 0], (3, 4, 3)))
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert abs(read_picture(tmp_path / "a.jpg") - np.array([255, 0, 0])).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    upright = RGB
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    stored = np.ascontiguousarray(turns[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", stored, exif=exif)
    np.testing.assert_array_equal(read_picture(path), upright)


def test_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_picture(tmp_path / "a.gif"), np.broadcast_to([255, 0, 0], (3, 4, 3)))


def test_crop_is_central_and_wholly_inside(tmp_path: Path) -> None:
    pixels = np.zeros((20, 50, 3), np.uint8)
    pixels[:, :15], pixels[:, 35:] = 255, 255  # the square in the middle is black
    image = read_picture(save(tmp_path / "a.png", pixels), View((10, 10)))
    assert image.shape == (10, 10, 3) and not image.any()
    assert not read_picture(save(tmp_path / "b.png", pixels.transpose(1, 0, 2)), View((20, 20))).any()


def test_size_is_height_and_width(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    assert read_picture(path, View((5, 7))).shape == (5, 7, 3)
    np.testing.assert_array_equal(read_picture(path, View((9, 14))), RGB)
    np.testing.assert_array_equal(read_picture(path, View((9, 10))), RGB[:, 2:12])
    assert read_picture(path, View((90, 31))).shape == (90, 31, 3)


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    image = read_picture(save(tmp_path / "a.png", stripes), View((16, 16)))
    assert abs(image[:, 2:-2].astype(int) - 127).max() <= 2


def test_pictures_by_position(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", RGB + np.uint8(i)) for i in range(3)]
    source = Pictures(paths)
    batch = source.read(np.array([2, 0, 2]))
    np.testing.assert_array_equal(batch.image, np.stack([RGB + np.uint8(i) for i in (2, 0, 2)]))
    assert batch.mask is None and batch.index.tolist() == [2, 0, 2]
    assert source.size is None and Pictures(paths, view=View((4, 4))).size == (4, 4)
    assert source.read(np.array([], int)).image.shape[0] == 0
    assert source.fingerprint() != Pictures(paths, view=View((4, 4))).fingerprint()
    assert source.fingerprint() != Pictures(paths[::-1]).fingerprint()


def test_different_sizes_one_at_a_time(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.png", RGB), save(tmp_path / "b.png", RGB[:5])]
    source = Pictures(paths)
    assert [source.read(np.array([i])).image.shape[1:3] for i in range(2)] == [(9, 14), (5, 14)]
    with pytest.raises(InputError, match=r"9 x 14 .* 5 x 14.*one at a time"):
        source.read(np.arange(2))
    assert Pictures(paths, view=View((4, 6))).read(np.arange(2)).image.shape == (2, 4, 6, 3)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        find_pictures(tmp_path)
    for name in ("b.png", "a.JPG", ".hidden.png"):
        save(tmp_path / name, RGB, format="PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [path.name for path in find_pictures(tmp_path)] == ["a.JPG", "b.png"]


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_undecodable(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the picture") as error:
        Pictures([path]).read(np.array([0]))
    assert "\n" not in str(error.value)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no picture"):
        Pictures([tmp_path / "a.png"])
    with pytest.raises(InputError, match="at least one"):
        Pictures([])


@pytest.mark.parametrize("side", [12_000, 100_000])
def test_a_bomb_is_not_decoded(side: int, tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    path = tmp_path / "a.png"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
    with pytest.raises(InputError, match="pixels"):
        read_picture(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp"])
def test_random_damage(suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"a{suffix}", RGB)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(content)
        if trial % 3:
            damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        else:
            del damaged[rng.integers(len(content)) :]
        path.write_bytes(damaged)
        try:
            image = read_picture(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
