"""Scores of an image depend on the image, its position and the seed; a perfect model has perfect scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import emorl
from emorl.data.base import Source, Subset
from emorl.data.npz import Npz, write_npz
from emorl.data.pictures import Pictures
from emorl.data.sources import open_source
from emorl.errors import InputError
from emorl.evaluation import DEFINITIONS, evaluate, infer, score, score_labels, score_source, summary, to_tensor
from emorl.feed import feed
from emorl.metrics.ari import ari
from emorl.models.base import InferOptions
from emorl.representation import Budget, describe, num_describing_steps
from emorl.types import Batch, Inference
from tests import tiny
from tests.data.test_hdf5 import CLEVR, TETROMINOES, as_authors, as_library

SCORES = {"foreground_ari", "ari", "miou", "miou_with_background", "mbo", "covering", "mse", "nll", "kl", "kl_stage1"}


@pytest.fixture(scope="module")
def source() -> Source:
    return Subset(open_source("tetrominoes", split="test"), 0, 7)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.build()


# ----------------------------------------------------------------------- one image alone


def labels(found: Inference) -> Tensor:
    return found.masks[:, :, 0].argmax(dim=1)


@pytest.mark.parametrize("options", [InferOptions(), InferOptions(5, 3), InferOptions(sample=False)])
def test_results_do_not_depend_on_the_batch(source: Source, model: Any, options: InferOptions) -> None:
    def all_scores(batch_size: int) -> dict[str, np.ndarray]:
        batches = list(score_source(model, source, options, 4, batch_size))
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    whole = all_scores(64)
    assert {len(values) for values in whole.values()} == {7}
    for batch_size in (1, 3):
        parts = all_scores(batch_size)
        for name in ("ari", "foreground_ari", "miou"):
            np.testing.assert_array_equal(parts[name], whole[name], err_msg=name)
        np.testing.assert_allclose(parts["mse"], whole["mse"], rtol=0, atol=1e-5)
        for name in ("nll", "kl", "kl_stage1"):
            np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, err_msg=name)

    together = labels(infer(model, source.read(np.arange(7)), options, 4))
    alone = [labels(infer(model, source.read(np.array([i])), options, 4)) for i in range(7)]
    assert torch.equal(torch.cat(alone), together)
    backwards = labels(infer(model, source.read(np.arange(7)[::-1]), options, 4))
    assert torch.equal(backwards.flip(0), together)


def test_an_image_is_the_same_however_it_is_reached(source: Source, model: Any) -> None:
    """Its noise belongs to its position in the whole source."""
    part = Subset(open_source("tetrominoes", split="test"), 3, 5)
    whole = open_source("tetrominoes", split="all")
    found = [
        infer(model, source.read(np.array([3, 4])), InferOptions(), 0),
        infer(model, part.read(np.array([0, 1])), InferOptions(), 0),
        infer(model, whole.read(np.array([60_003, 60_004])), InferOptions(), 0),
    ]
    assert all(torch.equal(other.masks, found[0].masks) for other in found[1:])


def test_seeds_repeat_and_differ(source: Source, model: Any) -> None:
    first = evaluate(model, source, seed=5)
    torch.manual_seed(1)
    assert evaluate(model, source, seed=5) == first
    other = evaluate(model, source, seed=6)
    assert other["nll"]["mean"] != first["nll"]["mean"] and other["options"]["seed"] == 6


def test_scoring_changes_neither_the_model_nor_the_global_generator(source: Source, model: Any) -> None:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, source)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_label_maps_of_another_method_are_scored_like_a_models(source: Source, model: Any) -> None:
    scenes = source.read(np.arange(7))
    assert scenes.mask is not None
    ours, found = score(model, scenes, InferOptions(), 3)
    theirs = score_labels(scenes.mask, 9 - labels(found).numpy())  # its slots have other numbers
    assert set(theirs) == {"foreground_ari", "ari", "miou", "miou_with_background", "mbo", "covering"}
    for name, values in theirs.items():
        np.testing.assert_allclose(values, ours[name], rtol=0, atol=1e-12, err_msg=name)
    perfect = summary([score_labels(scenes.mask, scenes.mask)])
    assert all(row["mean"] == pytest.approx(1) and row["num_images"] == 7 for row in perfect.values())


# ----------------------------------------------------------------------- perfect and constant models


@dataclass(frozen=True)
class OracleConfig:
    num_slots: int = 4
    refinement_steps: int = 0


class Oracle(nn.Module):
    """Knows the answers: each label of the true masks, by position, in a slot of its own."""

    def __init__(self, masks: np.ndarray, *, wrong: bool = False) -> None:
        super().__init__()
        self.config = OracleConfig()
        self.weight = nn.Parameter(torch.zeros(()))
        self.masks = masks
        self.wrong = wrong

    def infer(self, images: Tensor, options: InferOptions = InferOptions(), *, noise: Any = None) -> Inference:
        labels = torch.from_numpy(self.masks[noise.indices]).long()
        labels = torch.zeros_like(labels) if self.wrong else (labels + 2) % 4
        masks = nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2)[:, :, None].float()
        unit = images / 255
        components = unit[:, None].expand(-1, 4, -1, -1, -1)
        return Inference(masks, components, 1 - unit if self.wrong else unit, torch.zeros(len(images), 4, 1))


@pytest.fixture
def oblong(tmp_path: Path) -> Npz:
    """Scenes that are wider than high, so that no exchange of axes goes unnoticed."""
    rng = np.random.default_rng(0)
    mask = np.zeros((5, 9, 14), np.uint8)
    mask[:, 1:4, 2:12] = 1
    mask[:, 5:, :3] = 2
    mask[1:, 5:8, 10:] = 3
    image = rng.integers(0, 256, (5, 9, 14, 3), np.uint8)
    write_npz(tmp_path / "oblong.npz", [Batch(image, np.arange(5), mask)])
    return Npz(tmp_path / "oblong.npz")


def test_a_perfect_model_has_perfect_scores(oblong: Npz) -> None:
    truth = oblong.read(np.arange(5)).mask
    assert truth is not None
    row = evaluate(Oracle(truth), oblong, batch_size=2)  # type: ignore[arg-type]
    for name in ("foreground_ari", "ari", "miou"):
        assert row[name] == {"mean": 1.0, "std": 0.0, "num_images": 5}
    assert row["mse"]["mean"] == pytest.approx(0, abs=1e-12)
    assert not {"nll", "kl", "kl_stage1"} & row.keys()


def test_a_model_that_sees_one_thing_scores_nothing(oblong: Npz) -> None:
    batch = oblong.read(np.arange(5))
    assert batch.mask is not None
    scores, _ = score(Oracle(batch.mask, wrong=True), batch, InferOptions(), 0)  # type: ignore[arg-type]
    np.testing.assert_allclose(scores["ari"], 0, atol=1e-9)
    np.testing.assert_allclose(scores["foreground_ari"], 0, atol=1e-9)
    expected = ((2 * (batch.image / 255.0) - 1) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(scores["mse"], expected, rtol=1e-5)


def test_images_keep_their_values_and_axes() -> None:
    image = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    tensor = to_tensor(image)
    assert tensor.shape == (2, 3, 4, 5) and tensor.dtype == torch.uint8
    assert int(tensor[1, 2, 3, 4]) == image[1, 3, 4, 2]


# ----------------------------------------------------------------------- results


def test_results_have_the_documented_keys(source: Source, model: Any) -> None:
    advanced: list[int] = []
    row = evaluate(model, source, seed=3, batch_size=4, progress=advanced.append)
    assert advanced == [4, 3]
    assert row.keys() == SCORES | {"kl_per_layer", "options", "data", "version"}
    for name in SCORES:
        assert row[name].keys() == {"mean", "std", "num_images"}
        assert row[name]["num_images"] == 7 and row[name]["std"] >= 0
    for name in ("miou", "mse"):
        assert 0 <= row[name]["mean"] <= 1
    assert row["version"] == emorl.__version__
    assert row["options"]["seed"] == 3 and row["options"]["definitions"] == DEFINITIONS
    assert {"num_slots", "refinement_steps", "sample"} <= row["options"].keys()
    assert row["data"] == {"name": "tetrominoes", "fingerprint": source.fingerprint(), "num_images": 7}
    assert json.loads(json.dumps(row)) == row


def test_every_score_is_defined() -> None:
    assert SCORES | {"kl_per_layer"} <= DEFINITIONS.keys()


def test_means_are_over_images(source: Source, model: Any) -> None:
    row = evaluate(model, source, seed=1, batch_size=2)
    batches = list(score_source(model, source, InferOptions(), 1))
    assert len(batches) == 1
    for name, values in batches[0].items():
        if name == "kl_per_layer":
            continue
        assert row[name]["mean"] == pytest.approx(values.mean(), rel=1e-6)
        assert row[name]["std"] == pytest.approx(values.std(), rel=1e-4, abs=1e-9)


def test_the_kl_of_the_layers_is_that_of_stage_1(source: Source, model: Any) -> None:
    row = evaluate(model, source)
    assert [layer.keys() for layer in row["kl_per_layer"]] == [{"mean", "std", "num_images"}] * 2
    assert sum(layer["mean"] for layer in row["kl_per_layer"]) == pytest.approx(row["kl_stage1"]["mean"], rel=1e-5)
    bottom = [float(layer.kl.mean()) for layer in infer(model, source.read(np.arange(7)), InferOptions(), 0).layers]
    assert [layer["mean"] for layer in row["kl_per_layer"]] == pytest.approx(bottom, rel=1e-5)


def test_options_say_what_was_used(source: Source, model: Any) -> None:
    few = Subset(source, 0, 2)
    default = evaluate(model, few)["options"]
    assert (default["num_slots"], default["refinement_steps"], default["sample"]) == (3, 1, True)
    asked = evaluate(model, few, options=InferOptions(num_slots=5, refinement_steps=0, sample=False))
    chosen = asked["options"]
    assert (chosen["num_slots"], chosen["refinement_steps"], chosen["sample"]) == (5, 0, False)
    assert asked["kl"] == asked["kl_stage1"]  # nothing was refined


def test_more_slots_and_steps_are_other_results(source: Source, model: Any) -> None:
    few = Subset(source, 0, 2)
    found = {(k, i): evaluate(model, few, options=InferOptions(k, i)) for k in (2, 3) for i in (0, 2)}
    assert len({row["nll"]["mean"] for row in found.values()}) == 4
    for k in (2, 3):  # the first stage is the same however much is refined
        assert found[k, 0]["kl_stage1"] == found[k, 0]["kl"] == found[k, 2]["kl_stage1"] != found[k, 2]["kl"]


def test_without_masks_there_is_an_error_but_no_segmentation_score(tmp_path: Path, model: Any, source: Source) -> None:
    batch = source.read(np.arange(3))
    write_npz(tmp_path / "bare.npz", [replace(batch, mask=None, visibility=None, factors={})])
    row = evaluate(model, Npz(tmp_path / "bare.npz"))
    assert row.keys() & SCORES == {"mse", "nll", "kl", "kl_stage1"}
    assert row["mse"]["num_images"] == 3


def test_images_without_foreground_are_left_out_of_the_foreground_score(tmp_path: Path, model: Any) -> None:
    image = np.full((3, 10, 10, 3), 40, np.uint8)
    mask = np.zeros((3, 10, 10), np.uint8)
    mask[0, 2:6, 2:6], mask[0, 6:9, 6:9] = 1, 2
    write_npz(tmp_path / "some.npz", [Batch(image, np.arange(3), mask)])
    row = evaluate(model, Npz(tmp_path / "some.npz"))
    assert row["foreground_ari"]["num_images"] == 1 and row["mse"]["num_images"] == 3
    write_npz(tmp_path / "none.npz", [Batch(image[1:], np.arange(2), mask[1:])])
    assert "foreground_ari" not in evaluate(model, Npz(tmp_path / "none.npz"))


def test_pictures_of_several_sizes_are_scored_at_their_own(tmp_path: Path, model: Any) -> None:
    for i, size in enumerate([(20, 10), (15, 25), (35, 35)]):
        Image.new("RGB", size, (40 * i, 90, 200)).save(tmp_path / f"{i}.png")
    row = evaluate(model, Pictures(sorted(tmp_path.iterdir())), batch_size=8)
    assert row["mse"]["num_images"] == 3


def test_nothing_to_evaluate_is_told() -> None:
    with pytest.raises(InputError, match="no images"):
        summary([])


def test_scores_are_the_same_bits_with_any_number_of_threads(source: Source, model: Any) -> None:
    before = torch.get_num_threads()
    rows = []
    try:
        for threads in (1, 3, 7):
            torch.set_num_threads(threads)
            rows += [evaluate(model, source), evaluate(model, source, batch_size=2)]
    finally:
        torch.set_num_threads(before)
    assert rows[0::2] == [rows[0]] * 3 and rows[1::2] == [rows[1]] * 3


def test_images_are_read_in_chunks(source: Source, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Subset):
        def read(self, indices: np.ndarray) -> Batch:
            asked.append(len(indices))
            return super().read(indices)

    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    batches: Iterator[dict[str, np.ndarray]] = score_source(model, Counting(source, 0, 7), InferOptions(), 0, 3)
    next(batches)
    assert asked == [3, 3]  # the rest is not read ahead
    assert len(list(batches)) == 2 and asked == [3, 3, 1]


# ----------------------------------------------------------------------- other sizes, other files


def test_masks_are_scored_at_another_size_after_a_soft_resize(model: Any) -> None:
    about = {"data": "tetrominoes", "data_split": "train", "image_size": [20, 20], "fit": "centre"}
    fed = feed(about, score_size=35)
    assert fed.truth is not None and fed.truth.size == (35, 35) and fed.source.size == (20, 20)
    small, truth = Subset(fed.source, 0, 3), Subset(fed.truth, 0, 3)
    row, usual = evaluate(model, small, truth=truth, batch_size=2), evaluate(model, small, batch_size=2)
    assert row["options"]["score_size"] == [35, 35] and "score_size" not in usual["options"]

    scenes = small.read(np.arange(3))
    soft = infer(model, scenes, InferOptions(), 0).masks[:, :, 0].numpy()
    resized = [[np.asarray(Image.fromarray(mask).resize((35, 35))) for mask in masks] for masks in soft]
    expected = ari(truth.read(np.arange(3)).mask, np.argmax(resized, axis=1))  # type: ignore[arg-type]
    assert row["ari"]["mean"] == pytest.approx(expected.mean())
    assert row["ari"] != usual["ari"] and row["mse"] == usual["mse"]


def test_images_that_may_have_been_trained_on_are_told() -> None:
    about = {"data": "tetrominoes", "data_split": "train", "image_size": [35, 35]}
    asked: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"split": "validation"}, False),
        ({"protocol": "efficientmorl"}, False),
        ({"split": "train"}, True),
        ({"split": "all"}, True),
        ({"protocol": "genesis"}, True),  # whose test scenes are the first ones
        ({"protocol": "slot-attention"}, False),  # of generators it has the same
        ({"data": "multi-dsprites", "fit": "none", "split": "train"}, False),
    ]
    for given, seen in asked:
        assert feed(about, **given).seen is seen, given
    assert feed({**about, "data_split": "all"}).seen
    assert not feed({name: about[name] for name in ("data", "image_size")}).seen  # generated scenes are held out
    assert feed({**about, "protocol": "genesis"}, protocol="efficientmorl").seen


@pytest.mark.parametrize(
    ("trained", "subset", "seen"),
    [(None, None, False), ("3-6", "3-6", False), ("3-6", "7-10", False), (None, "3-4", True), ("3-6", "3-4", True)],
)
def test_splits_within_another_subset_of_a_file_are_others(
    trained: str | None, subset: str | None, seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source("multi-dsprites", split="test")
    monkeypatch.setattr("emorl.feed.open_source", lambda *given, **more: source)
    about = {"data": str(tmp_path), "data_split": "train", "subset": trained}
    assert feed(about, split="test", subset=subset).seen is seen


def test_a_truth_that_is_not_there_is_refused() -> None:
    about = {"data": "clevr6", "data_split": "train", "image_size": [96, 96]}
    with pytest.raises(InputError, match="192 x 192, not 128"):
        feed(about, score_size=128)


def as_npz(path: Path, scenes: Batch, variant: Any) -> Path:
    write_npz(path.with_suffix(".npz"), [scenes])
    return path.with_suffix(".npz")


def same(one: Any, other: Any) -> None:
    """Equal results, but for the order of factors."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same(one[name], other[name])
    else:
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("write", [as_authors, as_library, as_npz])
def test_files_of_other_people_give_the_same_numbers(write: Any, tmp_path: Path, model: Any) -> None:
    scenes = open_source("tetrominoes").read(np.arange(5))
    path = write(tmp_path / "scenes.h5", scenes, TETROMINOES)
    about = {"data": "tetrominoes", "data_split": "train", "image_size": [35, 35]}
    rows = [
        evaluate(model, source) for source in (Subset(open_source("tetrominoes"), 0, 5), feed(about, str(path)).source)
    ]
    for name in [*SCORES, "kl_per_layer"]:
        assert rows[0][name] == rows[1][name], name


@pytest.mark.slow
@pytest.mark.parametrize("write", [as_authors, as_library])
def test_files_with_factors_give_the_same_codes_too(write: Any, tmp_path: Path) -> None:
    """CLEVR at its own size, as the authors and object-centric-library keep it, scored at 192x192."""
    about = {"data": "clevr", "data_split": "train", "image_size": [144, 144]}  # much smaller ones would not be shrunk
    ours = feed(about, split="all", score_size=192)
    count, model = 8, emorl.load("clevr6-nano")  # by whose masks objects have a slot
    scenes = open_source("clevr").read(np.arange(count))
    theirs = feed(about, str(write(tmp_path / "scenes.h5", scenes, CLEVR)), score_size=192)
    found = []
    for fed in (ours, theirs):
        assert fed.truth is not None
        source, truth = Subset(fed.source, 0, count), Subset(fed.truth, 0, count)
        codes = describe(model, source, budget=Budget(count, 2, 2, 2))
        codes["dci"].pop("importance")  # its rows stand in the order of the factors
        found.append({**evaluate(model, source, truth=truth), "codes": codes})
    for name in [*SCORES, "codes"]:
        same(found[0][name], found[1][name])


def test_of_several_draws_each_image_keeps_the_best(model: Any) -> None:
    scenes = open_source("tetrominoes", split="test").read(np.arange(6))
    alone = [infer(model, scenes, InferOptions(keep_steps=True, decode_layers=True), seed) for seed in (4, 5, 6)]
    bounds = torch.stack([found.steps[-1].nll + found.steps[-1].kl for found in alone])  # 3 6
    best = bounds.argmin(dim=0).tolist()
    assert len(set(best)) > 1  # else nothing is seen
    kept = infer(model, scenes, InferOptions(keep_steps=True, decode_layers=True, draws=3), 4)
    for image, draw in enumerate(best):
        for ours, theirs in zip(_tensors(kept), _tensors(alone[draw]), strict=True):
            assert torch.equal(ours[image], theirs[image])
    assert torch.equal(kept.steps[-1].nll + kept.steps[-1].kl, bounds.amin(dim=0))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)
    elif value is not None:
        for name in value.__dataclass_fields__:
            yield from _tensors(getattr(value, name))


def test_inference_mode_of_the_caller_changes_nothing() -> None:
    expected = emorl.evaluate("nano", num_images=2)
    with torch.inference_mode():
        assert emorl.evaluate("nano", num_images=2) == expected


def test_repeats_share_no_draw(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    """Draws have consecutive seeds: stability compares inferences none of whose draws are the same."""
    seeds: list[int] = []

    def spy(model: Any, scenes: Batch, options: InferOptions, seed: int) -> Inference:
        seeds.extend(range(seed, seed + options.draws))
        return infer(model, scenes, options, seed)

    monkeypatch.setattr("emorl.representation.infer", spy)
    source = Subset(open_source("tetrominoes", split="test"), 0, 2)
    describe(model, source, options=InferOptions(draws=2), budget=Budget(2, 2, 2, 3))
    assert seeds == list(range(6))


def test_what_cannot_be_given_is_refused_in_a_line(model: Any) -> None:
    with pytest.raises(InputError, match="there are no images"):
        model.infer(torch.zeros(0, 3, 8, 8), noise=0)
    unknown: Any = "bf16"
    with pytest.raises(InputError, match="unknown precision 'bf16'"):
        emorl.load("nano", precision=unknown)


def test_codes_are_counted_on_the_models_own_device() -> None:
    source = open_source("tetrominoes", split="test")
    nano: Any = emorl.load("nano")
    expected = num_describing_steps(nano, source)
    assert num_describing_steps(nano.to("meta"), source) == expected


def test_draws_that_cannot_be_are_refused(model: Any) -> None:
    scenes = open_source("tetrominoes", split="test").read(np.arange(1))
    with pytest.raises(InputError, match="at least 1, got 0"):
        infer(model, scenes, InferOptions(draws=0), 0)
    with pytest.raises(InputError, match="slot-attention has no likelihood"):
        infer(emorl.load("slot-attention/nano"), scenes, InferOptions(draws=2), 0)
    with pytest.raises(InputError, match="chooses among several"):
        model.infer(torch.zeros(1, 3, 8, 8), InferOptions(draws=2), noise=0)
