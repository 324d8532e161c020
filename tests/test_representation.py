"""What codes are worth, from weights and data to plain values."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from emorl import representation
from emorl.data.base import Subset
from emorl.data.pictures import Pictures
from emorl.data.sources import open_source
from emorl.errors import InputError
from emorl.metrics.activeness import value_grid
from emorl.models.base import InferOptions
from emorl.representation import (
    Budget,
    Collected,
    are_active,
    collect,
    describe,
    locality,
    num_describing_steps,
    of_objects,
    rendered_dimensions,
)
from emorl.runs import without_nan
from emorl.types import Decoding, Inference
from tests import tiny

SMALL = Budget(images=12, activeness_images=3, stability_images=4, repeats=3)
SIZE = (35, 35)


def scenes(count: int = 12) -> Subset:
    return Subset(open_source("tetrominoes", split="test"), 0, count)


def test_everything_is_said_in_plain_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emorl.representation.MIN_IOU", 0)  # the tiny model has learned nothing
    steps: list[int] = []
    found = describe(tiny.build(), scenes(), budget=SMALL, batch_size=5, progress=steps.append)
    assert json.loads(json.dumps(found)) == found
    assert {"slots", "stability", "activeness", "objects", "dci", "dci_released", "linear_probe", "mlp_probe"} == set(
        found
    )
    assert found["objects"]["matched"] + found["objects"]["without_slot"] == 12 * 3
    assert len(found["activeness"]["values"]) == 8
    assert sorted(found["activeness"]["order"]) == list(range(8))
    assert sum(found["slots"]["share"]) == pytest.approx(1)
    assert found["dci"]["informativeness"]["accuracy"].keys() == {"shape"}  # a class, though files hold it as a float
    assert {"x", "y", "color_0"} <= found["dci"]["informativeness"]["r2"].keys()
    assert sum(steps) == num_describing_steps(tiny.build(), scenes(), SMALL)


def test_objects_that_no_slot_shows_are_counted_and_not_compared() -> None:
    found = describe(tiny.build(), scenes(), budget=SMALL)
    assert found["objects"]["matched"] + found["objects"]["without_slot"] == 12 * 3
    assert found["objects"]["matched"] < 4 and "dci" not in found


def test_slots_are_matched_by_masks_of_the_codes_not_of_a_sample() -> None:
    model = tiny.build()
    seen = collect(model, scenes(), 6, InferOptions(), 0, 6, lambda images: None)
    of_means = collect(model, scenes(), 6, InferOptions(sample=False), 0, 6, lambda images: None)
    assert np.array_equal(seen.code_labels, of_means.labels) and not np.array_equal(seen.labels, of_means.labels)


def test_objects_are_compared_as_the_released_code_does() -> None:
    """By the masks of the codes, without tiny objects and poor matches, learned from half of them, drawn at random."""
    rng = np.random.default_rng(0)
    num, side = 40, 96
    true = np.zeros((num, side, side), int)
    true[:, :30, :30], true[:, 50:80, 50:80], true[:, 90, 90:95] = 1, 2, 3  # the third has 5 pixels: 20 of 192 x 192
    decoded = (true - 1) % 4  # slots 0 to 2 are the objects, slot 3 is the background
    decoded[0, :30, 2:30] = 1  # of the first picture's first object slot 0 keeps 60 of 900 pixels: IoU 0.07
    factor = rng.normal(size=(num, 4)) + 100 * (np.arange(num) >= num // 2)[:, None]  # halves by position differ
    codes = np.stack([np.roll(factor, -1, axis=1), rng.normal(size=(num, 4))], axis=2)
    seen = Collected(codes, codes, np.zeros_like(true), decoded, true, np.ones((num, 4)), {"x": factor, "y": factor})
    found = of_objects(seen)
    assert found["objects"] == {"matched": 2 * num - 1, "without_slot": num + 1}
    assert found["dci"]["informativeness"]["r2"]["x"] > 0.9  # from the first half alone the second is not foreseen


def test_a_factor_is_a_class_by_its_values_not_by_its_name_alone() -> None:
    rng = np.random.default_rng(0)
    true = np.zeros((40, 8, 8), int)
    true[:, :4], true[:, 4:] = 1, 2
    codes = rng.normal(size=(40, 2, 3))
    factors = {"size": codes[:, :, 0], "shape": np.rint(codes[:, :, 1])}
    factors = {name: np.pad(values, ((0, 0), (1, 0))) for name, values in factors.items()}  # 0 is the background
    seen = Collected(codes, codes, np.zeros_like(true), true - 1, true, np.ones((40, 3)), factors)
    told = of_objects(seen)["dci"]["informativeness"]
    assert told["r2"].keys() == {"size"} and told["accuracy"].keys() == {"shape"}
    assert told["r2"]["size"] > 0.8


def test_nothing_is_active_where_nothing_changes_the_picture() -> None:
    assert are_active(np.zeros(3)).tolist() == [False] * 3
    assert are_active(np.array([1.0, 0.01, 0.009])).tolist() == [True, True, False]


def test_codes_do_not_depend_on_the_batch_size() -> None:
    one, other = (collect(tiny.build(), scenes(), 6, InferOptions(), 0, size, lambda images: None) for size in (2, 6))
    assert np.allclose(one.codes, other.codes, atol=1e-5) and np.array_equal(one.labels, other.labels)


def test_one_number_of_one_slot_is_set_at_a_time() -> None:
    model = tiny.build()
    seen = collect(model, scenes(), 4, InferOptions(), 0, 4, lambda images: None)
    dimensions = list(rendered_dimensions(model, seen, 2, 0, SIZE, lambda steps: None))
    assert len(dimensions) == 8 and dimensions[0].shape == (2, 6, 3, *SIZE)
    slot = np.random.default_rng(0).integers(3, size=2)
    codes = torch.from_numpy(seen.codes[1:2]).clone()
    codes[0, slot[1], 5] = float(value_grid(seen.samples)[5, 4])
    expected = model.decode(codes, SIZE).reconstruction[0]
    assert np.allclose(dimensions[5][1, 4], expected.numpy(), atol=1e-5)


def test_the_same_noise_twice_would_be_stable() -> None:
    """So the repeats must have different noise."""
    found = describe(tiny.build(), scenes(), budget=SMALL, seed=-1)
    assert found["stability"]["mean"] < 1


def test_pictures_without_truth_have_slots_and_activeness_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for i, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (20, 30), colour).save(folder / f"{i}.png")
    found = describe(tiny.build(), open_source(str(folder), size=(20, 20)), budget=SMALL)
    assert set(found) == {"slots", "stability", "activeness"}
    with pytest.raises(InputError, match="one size"):
        describe(tiny.build(), Pictures(sorted(folder.iterdir())), budget=SMALL)


def test_what_cannot_be_said_is_none_and_json_stays_json() -> None:
    said = without_nan({"a": [1.0, float("nan")], "b": {"c": float("inf")}, "d": 3, "e": "nan"})
    assert said == {"a": [1.0, None], "b": {"c": None}, "d": 3, "e": "nan"}


def test_scores_that_are_not_defined_are_left_out_alone() -> None:
    """One factor has no entropy as the released code takes it."""
    rng = np.random.default_rng(0)
    true = np.zeros((12, 8, 8), int)
    true[:, :4], true[:, 4:] = 1, 2
    codes = rng.normal(size=(12, 2, 4))
    seen = Collected(codes, codes, true - 1, true - 1, true, np.ones((12, 3)), {"x": rng.normal(size=(12, 3))})
    assert of_objects(seen).keys() == {"objects", "dci", "linear_probe", "mlp_probe"}


def test_factors_that_contradict_the_masks_are_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    source = scenes()
    read = source.read
    hidden = {"visibility": np.zeros((12, 4), np.float32)}
    monkeypatch.setattr(
        source, "read", lambda where: replace(read(where), visibility=hidden["visibility"][: len(where)])
    )
    with pytest.raises(InputError, match="visibility"):
        describe(tiny.build(), source, budget=SMALL)


def test_a_change_that_stays_in_its_slot_leaks_nothing_and_one_that_does_not_is_told() -> None:
    """Slots are columns, painted with the first dimension of their code; the second paints the next slot."""

    class Columns:
        config = tiny.MODEL

        def __init__(self, reach: float) -> None:
            self.reach = reach

        def infer(self, images: torch.Tensor, options: InferOptions, *, noise: object) -> Inference:
            slots = torch.linspace(0, 1, len(images) * 3 * 2).view(len(images), 3, 2)
            found = self.decode(slots, SIZE)
            return Inference(found.masks, found.components, found.reconstruction, slots)

        def decode_slots(self, slots: torch.Tensor, size: tuple[int, int]) -> None:
            return None

        def decode(self, slots: torch.Tensor, size: tuple[int, int]) -> Decoding:
            masks = torch.eye(3).repeat_interleave(2, dim=1)[None, :, None, None].expand(len(slots), 3, 1, 4, 6)
            painted = slots[..., 0] + self.reach * slots[..., 1].roll(1, dims=1)
            return Decoding(masks, painted[..., None, None, None].expand(-1, -1, 3, 4, 6))

    found = {}
    for reach in (0.0, 1.0):
        model = Columns(reach)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                representation, "infer", lambda m, scenes, options, seed: m.infer(scenes.image, options, noise=0)
            )
            found[reach] = locality(model, scenes().read(np.arange(4)))  # type: ignore[arg-type]
    assert found[0.0] == {"leak": 0.0, "active_dimensions": 1, "num_images": 4}
    assert found[1.0]["active_dimensions"] == 2 and 0.4 < found[1.0]["leak"] < 0.6


def test_codes_that_are_all_the_same_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that draws its slots by themselves, whose rounding is no change."""

    def constant(model: object, batch: object, options: object, seed: int) -> Inference:
        slots = torch.full((4, 3, 8), 0.3)
        found = tiny.build().decode(slots, SIZE)
        return Inference(found.masks, found.components, found.reconstruction, slots)

    monkeypatch.setattr(representation, "infer", constant)
    found = locality(tiny.build(), scenes().read(np.arange(4)))
    assert found == {"leak": None, "active_dimensions": 0, "num_images": 4}
