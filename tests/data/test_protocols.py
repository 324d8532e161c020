"""Splits of every protocol, counted by hand on a source that is nothing but counts of objects."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from emorl.data.base import Subset, iterate
from emorl.data.protocols import (
    PROTOCOLS,
    SUBSETS,
    AfterFirst,
    FromTheEnd,
    HasVisibility,
    ProtocolName,
    Ranges,
    Selected,
    Split,
    find_protocol,
    num_objects,
    object_counts,
)
from emorl.data.protocols import select as select_seen
from emorl.errors import InputError
from emorl.types import Batch

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Counted:
    """Scenes of 1 x 1 that have 3 to 10 objects in turn: every second half of eight has up to six."""

    name = "counted"
    size = (1, 1)

    def __init__(self, num: int, masks: bool = True) -> None:
        self.num, self.masks = num, masks
        self.images_read = 0

    def __len__(self) -> int:
        return self.num

    def visible(self, indices: np.ndarray) -> np.ndarray:
        counts = 3 + np.asarray(indices) % 8
        return (np.arange(11) <= counts[:, None]).astype(np.float32)

    def read(self, indices: np.ndarray) -> Batch:
        self.images_read += len(indices)
        image = np.zeros((len(indices), 1, 1, 3), np.uint8)
        return Batch(image, np.asarray(indices), visibility=self.visible(indices) if self.masks else None)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "num_images": self.num}

    def fingerprint(self) -> str:
        return "counted"


class Telling(Counted):
    """The same, telling visibility by itself."""

    furthest = 0

    def visibility(self, indices: np.ndarray) -> np.ndarray:
        self.furthest = max(self.furthest, int(indices.max()))
        return self.visible(indices)


def select(source: Any, split: Any, subset: Any, rule: Any) -> Any:
    return select_seen(source, split, subset, rule, source)


def positions(part: Any) -> np.ndarray:
    """The positions in the whole source of all its images."""
    return np.concatenate([batch.index for batch in iterate(part, 4096)])


def accepted(start: int, stop: int, low: int = 3, high: int = 6) -> np.ndarray:
    index = np.arange(start, stop)
    counts = 3 + index % 8
    return index[(counts >= low) & (counts <= high)]


# ----------------------------------------------------------------------- splits without a filter


@pytest.mark.parametrize(
    ("protocol", "train", "validation", "test"),
    [
        ("efficientmorl", (0, 60_000), (60_320, 60_640), (60_000, 60_320)),
        ("slot-attention", (0, 60_000), (60_320, 60_640), (60_000, 60_320)),
        ("genesis", (20_000, 101_000), (10_000, 20_000), (0, 10_000)),
        ("clevrtex", (30_000, 101_000), (15_000, 30_000), (0, 15_000)),
        ("object-centric-library", (0, 90_000), (90_000, 95_000), (95_000, 100_000)),
    ],
)
def test_splits(protocol: str, train: tuple[int, int], validation: tuple[int, int], test: tuple[int, int]) -> None:
    rule = PROTOCOLS[protocol].split
    for split, (start, stop) in zip(SPLITS, (train, validation, test), strict=True):
        part = select(Counted(101_000), split, None, rule)
        assert isinstance(part, Subset) and (part.start, part.stop) == (start, stop)


@pytest.mark.parametrize(
    ("protocol", "train", "validation", "test"),
    [
        ("efficientmorl", (0, 99_360), (99_360, 99_680), (99_680, 100_000)),
        ("slot-attention", (0, 70_000), (70_320, 70_640), (70_000, 70_320)),
    ],
)
def test_splits_of_clevr(
    protocol: str, train: tuple[int, int], validation: tuple[int, int], test: tuple[int, int]
) -> None:
    rule = PROTOCOLS[protocol].clevr_split
    for split, (start, stop) in zip(SPLITS, (train, validation, test), strict=True):
        part = select(Counted(100_000), split, None, rule)
        assert isinstance(part, Subset) and (part.start, part.stop) == (start, stop)


def test_windows_and_interpolations() -> None:
    clevr = (240, 320)
    found = {name: (p.windows.get(clevr), p.interpolation) for name, p in PROTOCOLS.items()}
    assert found == {
        "efficientmorl": ("clevr", "bicubic"),
        "slot-attention": ("clevr", "bilinear-tf"),
        "genesis": ("clevr-centred", "nearest"),
        "clevrtex": ("clevr-centred", "bilinear"),
        "object-centric-library": (None, "bilinear"),
    }
    assert get_args(ProtocolName) == tuple(PROTOCOLS)


def test_a_source_of_which_no_split_can_be_taken() -> None:
    short = Counted(50)
    assert len(select(short, "train", None, AfterFirst(60_000))) == 50
    for split, rule in (
        ("test", AfterFirst(60_000)),
        ("validation", AfterFirst(40)),
        ("train", FromTheEnd()),
        ("train", Ranges((60, None), (50, 60), (0, 50))),
    ):
        with pytest.raises(InputError, match=f"counted has 50 images, none for its {split} split"):
            select(short, split, None, rule)


# ----------------------------------------------------------------------- filters


def test_number_of_objects_leaves_out_the_background() -> None:
    for source in (Counted(20), Telling(20)):
        assert num_objects(source, np.array([0, 7, 11])).tolist() == [3, 10, 6]
    assert isinstance(Telling(1), HasVisibility) and not isinstance(Counted(1), HasVisibility)


def test_subsets_by_name_and_by_range() -> None:
    assert SUBSETS == {"clevr6": (3, 6), "clevr10": (7, 10)}
    assert object_counts("clevr6") == (3, 6) and object_counts("0-12") == (0, 12)
    for name in ("clevr7", "3", "6-3", "a-b", "", "-1-3", "3-6-9", "1-1000"):
        with pytest.raises(InputError, match="no subset") as error:
            object_counts(name)
        assert "\n" not in str(error.value)
    part = select(Counted(100), "all", "4-4", None)
    assert positions(part).tolist() == list(range(1, 100, 8))


@pytest.mark.parametrize("kind", [Counted, Telling])
def test_clevr6_of_efficientmorl_is_filtered_first(kind: type[Counted]) -> None:
    rule = PROTOCOLS["efficientmorl"].clevr_split
    everything = accepted(0, 10_000)
    for split, expected in (
        ("train", everything[:-640]),
        ("validation", everything[-640:-320]),
        ("test", everything[-320:]),
    ):
        part = select(kind(10_000), split, "clevr6", rule)
        np.testing.assert_array_equal(positions(part), expected)


def test_clevr6_of_slot_attention_is_split_first() -> None:
    rule = PROTOCOLS["slot-attention"].clevr_split
    for split, expected in (
        ("train", accepted(0, 70_000)),
        ("test", accepted(70_000, 100_000)[:320]),
        ("validation", accepted(70_000, 100_000)[320:640]),
    ):
        part = select(Telling(100_000), split, "clevr6", rule)
        np.testing.assert_array_equal(positions(part), expected)


def test_ranges_are_filtered_within() -> None:
    rule = PROTOCOLS["genesis"].split
    part = select(Telling(100_000), "test", "clevr10", rule)
    np.testing.assert_array_equal(positions(part), accepted(0, 10_000, 7, 10))
    np.testing.assert_array_equal(positions(select(Telling(30_000), "train", "clevr6", rule)), accepted(20_000, 30_000))


def test_splits_are_apart_and_leave_nothing_out_that_they_should_have() -> None:
    for protocol in PROTOCOLS.values():
        for rule in filter(None, (protocol.split, protocol.clevr_split)):
            for subset in (None, "clevr6"):
                parts = [positions(select(Telling(100_000), split, subset, rule)) for split in SPLITS]
                joined = np.concatenate(parts)
                assert len(joined) == len(set(joined.tolist()))
                assert all((np.diff(part) > 0).all() for part in parts)


def test_filters_read_no_images_and_no_further_than_needed() -> None:
    source = Telling(100_000)
    part = select(source, "test", "clevr6", AfterFirst(1000))
    assert source.images_read == 0 and source.furthest < 2000
    assert len(part) == 320


def test_nothing_to_filter_by() -> None:
    with pytest.raises(InputError, match="does not tell how many objects"):
        select(Counted(10, masks=False), "all", "clevr6", None)
    with pytest.raises(InputError, match="none with 11 to 12 objects"):
        select(Counted(10), "all", "11-12", None)
    with pytest.raises(InputError, match="none with 3 to 3 objects for its test split"):
        select(Counted(10), "test", "3-3", AfterFirst(9))


# ----------------------------------------------------------------------- selected scenes


def test_selected_scenes_keep_their_positions() -> None:
    part = Selected(Counted(50), np.array([4, 40, 8]), "some")
    assert (part.name, part.size, len(part)) == ("counted", (1, 1), 3)
    assert part.read(np.array([2, 0, 2])).index.tolist() == [8, 4, 8]
    with pytest.raises(InputError, match="no image 3: the last one is 2"):
        part.read(np.array([3]))
    facts = part.describe()
    assert (facts["num_images"], facts["part"]) == (3, "some")


def test_selected_scenes_are_told_apart() -> None:
    whole = Counted(50)
    prints = {
        Selected(whole, np.array(chosen), "some").fingerprint() for chosen in ([4, 40, 8], [4, 8, 40], [4, 8], [4])
    }
    assert len(prints) == 4 and all(text.startswith("counted ") for text in prints)
    again = Selected(whole, np.array([4], np.int32), "some").fingerprint()
    assert again in prints


def test_unknown_protocol() -> None:
    assert find_protocol("genesis") is PROTOCOLS["genesis"]
    with pytest.raises(InputError, match="no protocol 'monet': choose from efficientmorl, "):
        find_protocol("monet")
