"""TFRecord files: the published encoding both ways, and damage of every kind told as such."""

from __future__ import annotations

import gzip
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from emorl.data.base import concatenate, iterate
from emorl.data.tetrominoes import Tetrominoes
from emorl.data.tfrecord import (
    GZIP_HEAD,
    MAX_RECORD_BYTES,
    VARIANTS,
    TFRecords,
    Variant,
    deflate,
    encode_example,
    encode_records,
    gzip_tail,
    parse_example,
    read_records,
    write_tfrecord,
)
from emorl.errors import InputError
from emorl.types import Batch
from tests.data.scenes import assert_equal, is_equal, merged, some_scenes

PAYLOAD = encode_example(
    {
        "image": np.zeros((35, 35, 3), np.uint8),
        "mask": np.repeat(np.array([255, 0, 0, 0], np.uint8), 35 * 35),
        **dict.fromkeys(("x", "y", "shape", "visibility"), np.zeros(4, np.float32)),
        "color": np.zeros((4, 3), np.float32),
    }
)


def frame(payload: bytes, length: int | None = None) -> bytes:
    """One record of a TFRecord file; `length` is what it claims."""

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)

    head = struct.pack("<Q", len(payload) if length is None else length)
    return head + masked(head) + payload + masked(payload)


def read_all(path: Path) -> Batch:
    return concatenate(iterate(TFRecords(path), 64))


def test_byte_counts_tell_the_variants_apart() -> None:
    counts = {variant.name: (variant.num_bytes("image"), variant.num_bytes("mask")) for variant in VARIANTS}
    assert counts["tetrominoes"] == (3675, 4900)
    assert counts["clevr_with_masks"] == (240 * 320 * 3, 11 * 240 * 320)
    assert len(set(counts.values())) == len(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("compress", [True, False])
def test_round_trip(variant: Variant, compress: bool, tmp_path: Path) -> None:
    scenes, path = some_scenes(variant), tmp_path / "scenes.tfrecords"
    write_tfrecord(path, [scenes], compress=compress, num_background=variant.num_background)
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == compress
    whole, source = TFRecords(path, merge_background=False), TFRecords(path)
    assert (source.variant, len(source), source.size) == (variant, 3, variant.image[:2])
    assert_equal(whole.read(np.arange(3)), scenes)
    assert_equal(source.read(np.arange(3)), merged(scenes, variant))
    assert (whole.num_background, source.num_background) == (variant.num_background, 1)
    assert whole.describe()["num_entities"] == variant.num_entities
    assert source.describe()["num_entities"] == variant.num_entities + 1 - variant.num_background
    assert (whole.fingerprint() == source.fingerprint()) == (variant.num_background == 1)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_masks_lie_on_disk_as_published(variant: Variant, tmp_path: Path) -> None:
    scenes, path = some_scenes(variant, 1), tmp_path / "scenes.tfrecords"
    write_tfrecord(path, [scenes], num_background=variant.num_background)
    raw = parse_example(next(read_records(path)))["mask"]
    height, width, _ = variant.image
    assert scenes.mask is not None
    for entity in range(variant.num_entities):
        if variant.name.startswith("multi_dsprites"):
            mask = raw.reshape(height, width, variant.num_entities, 1)[:, :, entity, 0]
        else:
            mask = raw.reshape(variant.num_entities, height, width, 1)[entity, :, :, 0]
        np.testing.assert_array_equal(mask, 255 * (scenes.mask[0] == entity))


@pytest.mark.parametrize("entities", [7, 4, 10])
def test_objects_room_has_one_background(entities: int, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, entities - 1, (64, 64))  # the last one is hidden
    masks = 255 * (stored == np.arange(entities)[:, None, None]).astype(np.uint8)
    path = tmp_path / "room.tfrecords"
    path.write_bytes(frame(encode_example({"image": np.zeros((64, 64, 3), np.uint8), "mask": masks})))
    batch = TFRecords(path).read(np.array([0]))
    assert batch.mask is not None and batch.visibility is not None
    np.testing.assert_array_equal(batch.mask[0], np.maximum(stored - 3, 0))
    assert batch.visibility[0].tolist() == ([1] * (entities - 4) + [0] if entities > 4 else [1])
    whole = TFRecords(path, merge_background=False).read(np.array([0]))
    assert whole.mask is not None and whole.visibility is not None
    np.testing.assert_array_equal(whole.mask[0], stored)
    assert whole.visibility[0].tolist() == [1] * (entities - 1) + [0]


def test_published_file(shared: Path) -> None:
    path = shared / "data" / "tetrominoes_mini.tfrecords"
    payloads = list(read_records(path))
    assert [len(payload) for payload in payloads] == [25_944] * 10
    source = TFRecords(path)
    assert source.describe()["data_set"] == "tetrominoes" and len(source) == 10
    batch = source.read(np.arange(10))
    assert batch.mask is not None and batch.visibility is not None
    counts = (batch.mask[:, None] == np.arange(4)[:, None, None]).sum(axis=(2, 3))
    np.testing.assert_array_equal(counts, np.broadcast_to([925, 100, 100, 100], (10, 4)))
    assert batch.visibility.all()
    for payload in payloads:  # but for the order of its features our encoding is the published one
        features = parse_example(payload)
        again = encode_example(features)
        assert len(again) == len(payload)
        assert all((parse_example(again)[name] == values).all() for name, values in features.items())


def test_published_clevr_record(shared: Path, tmp_path: Path) -> None:
    with np.load(shared / "data" / "clevr_real_record0.npz") as real:
        image, masks = real["image"], real["mask"]
    masks = 255 * (masks > 0).astype(np.uint8)
    floats = {name: np.zeros(11, np.float32) for name in ("x", "y", "z", "rotation")}
    codes = {name: np.zeros(11, np.uint8) for name in ("size", "material", "shape")}
    color = np.array([0, 1, 2, 3, 1, 1, 4, 5, 0, 0, 0], np.uint8)
    visibility = np.array([1] * 8 + [0] * 3, np.float32)
    features = {"image": image, "mask": masks, "color": color, "visibility": visibility, **floats, **codes}
    path = tmp_path / "clevr.tfrecords"
    path.write_bytes(frame(encode_example(features | {"pixel_coords": np.zeros((11, 3), np.float32)})))
    batch = TFRecords(path).read(np.array([0]))
    assert batch.mask is not None
    areas = np.bincount(batch.mask.reshape(-1), minlength=11).tolist()
    assert areas == [64448, 1286, 2337, 273, 452, 823, 577, 6604, 0, 0, 0]
    np.testing.assert_array_equal(batch.image[0], image)
    np.testing.assert_array_equal(batch.factors["color"][0], color, strict=True)


def test_equal_scenes_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tfrecord(tmp_path / name, iterate(Tetrominoes(num=5), 2))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_gzip_is_one_stream_in_parts(tmp_path: Path) -> None:
    path, plain = tmp_path / "scenes.tfrecords", tmp_path / "plain.tfrecords"
    write_tfrecord(path, iterate(Tetrominoes(num=50), 7))
    write_tfrecord(plain, iterate(Tetrominoes(num=50), 50), compress=False)
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert stream.decompress(path.read_bytes()) == plain.read_bytes()
    assert stream.eof and not stream.unused_data


# ---- access ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hundred")
    paths = {"gzip": folder / "gzip.tfrecords", "plain": folder / "plain.tfrecords"}
    for kind, path in paths.items():
        write_tfrecord(path, iterate(Tetrominoes(num=100)), compress=kind == "gzip")
    return paths


@pytest.mark.parametrize("kind", ["gzip", "plain"])
def test_any_order_and_repeats(kind: str, hundred: dict[str, Path]) -> None:
    source, generator = TFRecords(hundred[kind]), Tetrominoes(num=100)
    for indices in ([99, 0, 50, 0, 31, 32], [3], [], list(range(100))):
        batch = source.read(np.array(indices, np.int64))
        assert_equal(batch, generator.read(np.array(indices, np.int64)))
        assert batch.index.tolist() == indices
    assert len(source) == 100


@pytest.mark.parametrize("options", [{"cache_bytes": 0}, {"first_needed": 70}, {"first_needed": 10**6}])
def test_a_small_cache_and_a_hint_change_no_result(options: dict[str, Any], hundred: dict[str, Path]) -> None:
    source, generator = TFRecords(hundred["gzip"], **options), Tetrominoes(num=100)
    for indices in np.random.default_rng(0).integers(0, 100, (8, 5)):
        assert_equal(source.read(indices), generator.read(indices))
    if "cache_bytes" in options:
        assert len(source._blocks) == 1


def test_only_what_is_needed_is_looked_at(hundred: dict[str, Path], tmp_path: Path) -> None:
    content = hundred["plain"].read_bytes()
    path = tmp_path / "damaged.tfrecords"
    path.write_bytes(content[: len(content) // 2 - 1])
    source = TFRecords(path)
    assert_equal(source.read(np.array([40])), Tetrominoes().read(np.array([40])))
    with pytest.raises(InputError, match="record 49: the file ends"):
        source.read(np.array([60]))


@pytest.mark.parametrize("kind", ["gzip", "plain"])
def test_counting_stops_at_the_limit(kind: str, hundred: dict[str, Path]) -> None:
    source = TFRecords(hundred[kind])
    assert [source.count(limit) for limit in (10, 100, 101, 1000, None, 7)] == [10, 100, 100, 100, 100, 7]


@pytest.mark.parametrize("kind", ["gzip", "plain"])
@pytest.mark.parametrize("index", [100, 10**12, -1])
def test_no_such_record(kind: str, index: int, hundred: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=f"has no image {index}"):
        TFRecords(hundred[kind]).read(np.array([5, index]))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("compress", [True, False])
def test_visibility_alone(variant: Variant, compress: bool, tmp_path: Path) -> None:
    path, num = tmp_path / "scenes.tfrecords", 5
    write_tfrecord(path, [some_scenes(variant, num)], compress=compress, num_background=variant.num_background)
    for merge in (True, False):
        source = TFRecords(path, merge_background=merge)
        for indices in (np.array([2, 0, 2]), np.arange(num), np.zeros(0, np.int64), np.array([4])):
            expected = source.read(indices).visibility
            assert expected is not None
            np.testing.assert_array_equal(source.visibility(indices), expected, strict=True)
        with pytest.raises(InputError, match="no image 5: the last one is 4"):
            source.visibility(np.array([0, 5]))
        assert len(source.visibility(np.array([4]))) == 1


def test_visibility_passes_a_gzip_file_once(hundred: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, passed = TFRecords(hundred["gzip"]), []

    def counting(path: Path) -> Iterator[bytes]:
        for payload in read_records(path):
            passed.append(len(payload))
            yield payload

    monkeypatch.setattr("emorl.data.tfrecord.read_records", counting)
    for start in range(0, 100, 10):
        source.visibility(np.arange(start, start + 10))
    source.visibility(np.arange(100))
    assert len(passed) == 100


def test_visibility_does_not_look_at_images(tmp_path: Path) -> None:
    path = tmp_path / "scenes.tfrecords"
    path.write_bytes(frame(PAYLOAD) + frame(PAYLOAD.replace(b"\x05image", b"\x05other")))
    source = TFRecords(path)
    assert source.visibility(np.arange(2)).shape == (2, 4)
    with pytest.raises(InputError, match="record 1: it has no feature 'image'"):
        source.read(np.arange(2))


def a_large_file(path: Path, num: int, compress: bool) -> None:
    """A file of so many records, made without writing as many. Only the first of a plain one holds a scene."""
    (record,) = encode_records(Tetrominoes().read(np.arange(1)))
    if not compress:
        path.write_bytes(record + frame(b"") * (num - 1))
        return
    many, checksum = record * 100, 0
    for _ in range(num // 100):
        checksum = zlib.crc32(many, checksum)
    path.write_bytes(GZIP_HEAD + deflate(many) * (num // 100) + gzip_tail(checksum, len(many) * (num // 100)))


def count_in_a_process(path: Path) -> tuple[int, int]:
    """The number of records, and the most memory that a process had which counted them, in bytes."""
    code = (
        "import pathlib, re, sys; from emorl.data.tfrecord import TFRecords;"
        "print(len(TFRecords(pathlib.Path(sys.argv[1]))));"  # ru_maxrss would count what the parent had
        "print(1024 * int(re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    num, memory = map(int, done.stdout.split())
    return num, memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux")
@pytest.mark.parametrize(
    ("compress", "num"),
    [(False, 1_000_000), (True, 20_000), pytest.param(True, 1_000_000, marks=pytest.mark.slow)],
)
def test_a_large_file_is_counted_in_little_memory(compress: bool, num: int, tmp_path: Path) -> None:
    path = tmp_path / "large.tfrecords"
    a_large_file(path, num, compress)
    counted, memory = count_in_a_process(path)
    assert counted == num
    assert memory < 300 * 2**20


# ---- protocol buffers ------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    result = b""
    while value > 127:
        result, value = result + bytes([value & 127 | 128]), value >> 7
    return result + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(name: str, feature: bytes, between: bytes = b"") -> bytes:
    return field(1, field(1, field(1, name.encode()) + between + field(2, feature)))


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        (field(1, field(1, b"a") + field(1, b"b") + field(1, b"c")), np.frombuffer(b"abc", np.uint8)),
        (field(1, field(1, b"abc")), np.frombuffer(b"abc", np.uint8)),
        (field(1, field(1, b"") + field(1, b"ab")), np.frombuffer(b"ab", np.uint8)),
        (field(1, b""), np.zeros(0, np.uint8)),
        (field(2, field(1, struct.pack("<2f", 1.5, -2))), np.array([1.5, -2], np.float32)),
        (
            field(2, b"".join(b"\x0d" + struct.pack("<f", x) for x in (1.5, -2))),
            np.array([1.5, -2], np.float32),
        ),
        (field(3, field(1, varint(300) + varint(2**64 - 1))), np.array([300, -1])),
        (field(3, b"\x08" + varint(300) + b"\x08\x00"), np.array([300, 0])),
    ],
)
def test_all_lists(feature: bytes, expected: np.ndarray) -> None:
    unknown = field(9, b"unknown") + b"\x51" + bytes(8)
    (values,) = parse_example(example("name", feature, unknown)).values()
    np.testing.assert_array_equal(values, expected, strict=True)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff" * 20,
        b"\x0a\xff",
        b"\x0a\x05ab",
        b"\x0b",
        b"\x08\x01",
        example("x", b"\x08\x01"),
        example("x", field(4, b"")),
        example("x", field(2, field(1, b"abc"))),
        example("x", field(1, b"\x08\x01")),
        example("x", field(3, field(1, b"\xff"))),
    ],
)
def test_broken_messages(payload: bytes) -> None:
    with pytest.raises(InputError):
        parse_example(payload)


def test_random_messages_never_surprise(tmp_path: Path) -> None:
    """Valid checksums around a damaged message: the parser alone must hold."""
    rng, path = np.random.default_rng(0), tmp_path / "random.tfrecords"
    for _ in range(150):
        payload = bytearray(PAYLOAD)
        for _ in range(rng.integers(1, 4)):
            # Aim at the structure: bytes near a name or a length rather than in the pixels.
            places = [match.start() for match in re.finditer(rb"image|mask|color|shape|visibility|\x0a[xy]", payload)]
            at = int(rng.choice(places or [0]) + rng.integers(-12, 24)) % len(payload)
            payload[at] = rng.integers(256)
        payload = payload[: rng.integers(1, len(payload))] if rng.random() < 0.2 else payload
        path.write_bytes(frame(bytes(payload)))
        try:
            read_all(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)


# ---- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_random_damage(compress: bool, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "scenes.tfrecords"
    write_tfrecord(path, [Tetrominoes().read(np.arange(3))], compress=compress)
    good, content = read_all(path), path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(250):
        damaged = bytearray(content)
        if damage == "flip":
            at = trial if trial < 40 else int(rng.integers(len(content)))  # all of the heads
            damaged[at] ^= 1 << rng.integers(8)
        else:
            del damaged[trial if trial < 20 else int(rng.integers(len(content))) :]
        path.write_bytes(damaged)
        try:
            result = read_all(path)
        except InputError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        if damage == "truncate":  # only between two records of a plain file can this go unseen
            assert len(result) < 3 and not compress
        else:
            assert is_equal(result, good)  # a time or a name in the gzip head
    assert refused > 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no records"),
        (b"\x1f\x8b", "record 0"),
        (b"\x1f\x8b" + b"x" * 50, "record 0"),
        (b"not a record file at all", "record 0: its length fails the checksum"),
        (b"short", "record 0: the file ends"),
        (frame(b""), "record 0: it holds neither image nor mask"),
        (frame(PAYLOAD, 2**63), "record 0: it claims 9223372036854775808 bytes"),
        (frame(PAYLOAD, MAX_RECORD_BYTES + 1), "record 0: it claims"),
        (frame(PAYLOAD, MAX_RECORD_BYTES), "record 0: the file ends inside"),
        (frame(PAYLOAD) * 2 + frame(PAYLOAD, 2**40), "record 2: it claims"),
        (frame(PAYLOAD) + frame(PAYLOAD)[:-3], "record 1: the file ends"),
        (frame(PAYLOAD) + frame(b""), "record 1: it has no feature 'image'"),
        (frame(encode_example({"image": np.zeros(10, np.uint8)})), "image of 10 bytes"),
        (frame(PAYLOAD.replace(b"color", b"colon")), "no feature 'color'"),
        (frame(PAYLOAD.replace(b"\x01\xff", b"\x01\xfe")), "exactly one entity"),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_damage_is_named(content: bytes, message: str, compress: bool, tmp_path: Path) -> None:
    path = tmp_path / "bad.tfrecords"
    path.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(InputError, match=message) as error:
        read_all(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tfrecords"
    path.write_bytes(gzip.compress(frame(PAYLOAD) + frame(b"", MAX_RECORD_BYTES)[:12] + bytes(2**27), 1))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="record 1"):
            list(read_records(path))
        assert tracemalloc.get_traced_memory()[1] < 5 * MAX_RECORD_BYTES
    finally:
        tracemalloc.stop()


def test_after_damage_the_good_part_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "cut.tfrecords"
    write_tfrecord(path, iterate(Tetrominoes(num=70)), compress=False)
    path.write_bytes(gzip.compress(path.read_bytes()[:-1]))
    source = TFRecords(path)
    for _ in range(2):
        assert_equal(source.read(np.array([33])), Tetrominoes().read(np.array([33])))
        with pytest.raises(InputError, match="record 69"):
            source.read(np.array([66]))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        TFRecords(tmp_path / "missing.tfrecords")
    with pytest.raises(InputError, match="cannot read"):
        TFRecords(tmp_path)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    scenes = some_scenes(VARIANTS[0])
    image, index, mask, visible, factors = scenes.image, scenes.index, scenes.mask, scenes.visibility, scenes.factors
    assert mask is not None and visible is not None
    for bad, message in (
        (Batch(image, index), "needs masks"),
        (Batch(image[:, :30], index, mask, visible, factors), "30 x 35"),
        (Batch(image, index, mask, visible, {}), "factors none"),
        (Batch(image, index, mask + 9, visible, factors), "label"),
        (Batch(image, index, mask, visible, factors | {"x": factors["x"] + np.float64(1e-9)}), "'x' as float32"),
        (Batch(image, index, mask, visible, factors | {"x": factors["x"].astype(str)}), "'x' as float32"),
    ):
        with pytest.raises(InputError, match=message):
            write_tfrecord(tmp_path / "out.tfrecords", [bad])
    assert not list(tmp_path.iterdir())


def test_what_the_encoding_can_hold_is_written(tmp_path: Path) -> None:
    scenes = some_scenes(VARIANTS[0])
    wide = {name: values.astype(np.float64) for name, values in scenes.factors.items()}
    wide["x"][0, 0] = np.nan
    write_tfrecord(tmp_path / "out.tfrecords", [replace(scenes, factors=wide)])
    read = read_all(tmp_path / "out.tfrecords").factors
    for name, values in wide.items():
        np.testing.assert_array_equal(read[name], values)


def test_a_grey_encoding_takes_no_colours(tmp_path: Path) -> None:
    variant = next(v for v in VARIANTS if v.image[2] == 1)
    scenes = some_scenes(variant)
    image = scenes.image.copy()
    image[1, 2, 3, 1] ^= 1
    with pytest.raises(InputError, match="one channel"):
        write_tfrecord(tmp_path / "out.tfrecords", [replace(scenes, image=image)])


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.num_background > 1], ids=lambda variant: variant.name)
def test_a_merged_room_is_not_taken_for_another(variant: Variant, tmp_path: Path) -> None:
    """Six objects and a merged background have as many entities as the training set with all of its own."""
    path, scenes = tmp_path / "out.tfrecords", some_scenes(variant)
    with pytest.raises(InputError, match=r"no published \.tfrecords layout"):
        write_tfrecord(path, [merged(scenes, variant)])
    with pytest.raises(InputError, match=r"no published \.tfrecords layout"):
        write_tfrecord(path, [scenes])
    assert scenes.visibility is not None
    with pytest.raises(InputError, match="no visibility but that of the masks"):
        write_tfrecord(path, [replace(scenes, visibility=1 - scenes.visibility)], num_background=4)
