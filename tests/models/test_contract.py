"""What every model keeps to, whatever it does inside: the contract, and the ordinary commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from emorl.cli import main
from emorl.config import TrainConfig
from emorl.edits import Edits
from emorl.errors import InputError
from emorl.geco import KLGecoConfig
from emorl.models import MODELS, build_model
from emorl.models.base import InferOptions, Model
from emorl.nn.convs import Conv2d, ConvTranspose2d
from emorl.noise import ImageNoise
from emorl.precision import place
from emorl.presets import preset
from emorl.runs import newest_checkpoint, read_json
from emorl.train import train

NO_PRIOR = {"slot-attention", "slot-mlp"}
ENCODE_BY_MEANS = {"genesis", "genesis-s"}
"""Their codes are means of a chain of means; in `infer`, every link of the chain sees a sample of the one before."""
UNTRAINED = {"attention.colour.bias"}
"""Of GENESIS-v2, whose embedding is used in differences alone; it is counted among the published parameters."""
FIXED_NUM_SLOTS = {"slot-mlp"}
BATCH_NORM = {"genesis", "genesis-s"}
DEPENDENT_SLOTS = {"genesis", "genesis-s"}
"""Whose masks are made one after the other."""


def nano(name: str) -> TrainConfig:
    """The model's nano preset, cut to a few steps; with two refinements or more, so that every weight is used."""
    config = preset(f"{name}/nano")
    refinements = config.model.refinement_steps
    return replace(
        config,
        curriculum=((0, refinements and max(2, refinements)),),
        num_images=32,
        batch_size=2,
        steps=6,
        checkpoint_every=2,
        validate_every=3,
        validation_images=2,
        log_every=1,
        precision="float32",
    )


def build(name: str, **changes: object) -> tuple[Model, tuple[int, int]]:
    """A nano model in inference, and the size of its images."""
    config = preset(f"{name}/nano")
    torch.manual_seed(0)
    model = build_model(replace(config.model, **changes))  # type: ignore[arg-type]
    assert isinstance(model, nn.Module)
    return model.eval(), config.image_size or (35, 35)


def pictures(count: int, size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (count, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


# ----------------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", MODELS)
def test_results_have_the_shapes_and_ranges_of_the_contract(name: str) -> None:
    model, size = build(name)
    count = model.config.num_slots
    found = model.infer(pictures(3, size), noise=0)
    assert found.masks.shape == (3, count, 1, *size)
    assert found.components.shape == (3, count, 3, *size)
    assert found.reconstruction.shape == (3, 3, *size)
    assert found.slots.shape[:2] == (3, count) and found.slots.ndim == 3
    for masks in (found.masks, found.decoder_masks):
        if masks is not None:
            assert (masks.sum(dim=1) - 1).abs().max() < 1e-4 and masks.min() >= 0
    assert 0 <= found.components.min() and found.components.max() <= 1
    for step in found.steps:
        assert step.nll.shape == step.kl.shape == (3,)
        assert step.posterior.std.min() > 0
    tensors = [found.masks, found.components, found.reconstruction, found.slots]
    assert not any(tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize("name", MODELS)
def test_an_image_depends_on_no_other_of_its_batch(name: str) -> None:
    model, size = build(name)
    images = pictures(3, size)
    together = model.infer(images, noise=ImageNoise(5, [7, 8, 9]))
    alone = model.infer(images[1:2], noise=ImageNoise(5, [8]))
    assert torch.allclose(together.masks[1:2], alone.masks, atol=1e-4)
    assert torch.allclose(together.components[1:2], alone.components, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_inference_needs_no_gradient_mode_of_its_caller(name: str, mode: Any) -> None:
    model, size = build(name)
    images = pictures(2, size)
    with mode():
        made_there = images.clone()
        found, codes = model.infer(made_there, noise=0), model.encode(made_there, noise=0)
    assert torch.allclose(found.masks, model.infer(images, noise=0).masks, atol=1e-6)
    assert codes.shape == found.slots.shape


@pytest.mark.parametrize("name", MODELS)
def test_codes_are_posterior_means_and_decode_to_pictures(name: str) -> None:
    model, size = build(name)
    options = InferOptions(sample=False)
    found = model.infer(pictures(2, size), options, noise=0)
    codes = model.encode(pictures(2, size), noise=0)
    assert torch.allclose(codes, found.slots, atol=1e-5)
    assert (codes[:, 0] - codes[:, 1]).abs().max() > 1e-4
    if found.steps and name not in ENCODE_BY_MEANS:
        expected = model.infer(pictures(2, size), noise=0).steps[-1].posterior.mean
        assert torch.allclose(codes, expected, atol=1e-5)
    decoding = model.decode(found.slots, size)
    assert torch.allclose(decoding.components, found.components, atol=1e-4)
    masks = found.masks if found.decoder_masks is None else found.decoder_masks
    assert torch.allclose(decoding.masks, masks, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_an_edited_slot_is_drawn_into_its_scene_as_if_all_were_decoded(name: str) -> None:
    model, size = build(name)
    torch.manual_seed(1)
    found = model.infer(pictures(3, size), InferOptions(sample=False), noise=0).slots
    codes = found + 3 * torch.randn_like(found)  # so that slots differ in what they show
    slot, edited = torch.tensor([2, 0, 1]), 3 * torch.randn(3, 9, codes.shape[2])
    alone = model.decode_slots(codes[:, 0], size)
    assert (alone is None) == (name in DEPENDENT_SLOTS)
    if alone is not None:
        single = model.decode(codes[:, :1], size)
        assert torch.allclose(alone[1], single.components[:, 0], atol=1e-5)
    drawn, won = Edits(model, codes, slot, size)(edited)
    assert drawn.shape == (3, 9, 3, *size) and won.shape == (3, 9, *size)
    for scene in range(3):
        for edit in range(9):
            whole = codes[scene : scene + 1].clone()
            whole[0, slot[scene]] = edited[scene, edit]
            decoding = model.decode(whole, size)
            assert torch.allclose(drawn[scene, edit], decoding.reconstruction[0], atol=1e-4)
            winner = decoding.masks[0, :, 0].argmax(dim=0) == slot[scene]
            assert (won[scene, edit] == winner).float().mean() > 0.99
    assert 0.01 < won.float().mean() < 0.99  # else nothing was seen


class Exchanged(ImageNoise):
    """Where every draw for slots has them in another order."""

    def __init__(self, count: int, order: list[int]) -> None:
        super().__init__(5, range(count))
        self.order = order

    def normal(self, name: str, index: int, like: Tensor) -> Tensor:
        drawn = super().normal(name, index, like)
        return drawn[:, self.order] if drawn.shape[1] == len(self.order) else drawn


@pytest.mark.parametrize("name", MODELS)
def test_slots_are_exchangeable_unless_they_are_ordered(name: str) -> None:
    model, size = build(name)
    order = [*range(1, model.config.num_slots), 0]
    before = model.infer(pictures(2, size), noise=ImageNoise(5, range(2)))
    after = model.infer(pictures(2, size), noise=Exchanged(2, order))
    same = torch.allclose(after.slots, before.slots[:, order], atol=1e-3)
    assert same == (not model.config.ordered_slots)
    if same:
        assert torch.allclose(after.masks, before.masks[:, order], atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_another_number_of_slots_is_taken_or_refused_in_a_line(name: str) -> None:
    model, size = build(name)
    more = InferOptions(num_slots=model.config.num_slots + 2)
    if name in FIXED_NUM_SLOTS:
        with pytest.raises(InputError, match="slots"):
            model.infer(pictures(1, size), more, noise=0)
    else:
        assert model.infer(pictures(1, size), more, noise=0).masks.shape[1] == model.config.num_slots + 2
    with pytest.raises(InputError, match="num_slots"):
        model.infer(pictures(1, size), InferOptions(num_slots=0), noise=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_that_is_not_square_is_taken_or_the_size_named(name: str) -> None:
    model, size = build(name)
    images = pictures(2, (40, 56))
    if model.config.image_size is None:
        assert model.infer(images, noise=0).masks.shape[-2:] == (40, 56)
    else:
        with pytest.raises(InputError, match=f"{size[0]}x{size[1]}"):
            model.infer(images, noise=0)


@pytest.mark.parametrize("name", MODELS)
def test_bytes_and_fractions_are_the_same_picture(name: str) -> None:
    model, size = build(name)
    images = pictures(2, size)
    assert torch.allclose(model.infer(images, noise=0).masks, model.infer(images / 255, noise=0).masks, atol=1e-5)
    with pytest.raises(InputError, match="B 3 H W"):
        model.infer(images[:, :2], noise=0)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_a_sum_over_images(name: str) -> None:
    # The documented exception: batch normalisation ties the images of a training batch.
    model, size = build(name, **({"norm": "instance"} if name in BATCH_NORM else {}))
    state = model.initial_state()
    loss = model.loss(pictures(3, size), state, noise=ImageNoise(0, [0, 1, 2]))
    parts = [model.loss(pictures(3, size)[i : i + 1], state, noise=ImageNoise(0, [i])).total for i in range(3)]
    assert loss.total.ndim == 0 and loss.total.requires_grad
    assert loss.total.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-4)
    for values in loss.terms.values():
        assert len(values) == 3 and not values.requires_grad


@pytest.mark.parametrize("name", MODELS)
def test_convolutions_run_in_bfloat16(name: str) -> None:
    """And give nearly the same."""
    model, size = build(name)
    assert isinstance(model, nn.Module)
    images = pictures(2, size)
    before = model.loss(images, model.initial_state(), noise=0)
    place(model, torch.device("cpu"), "bfloat16")
    after = model.loss(images, model.initial_state(), noise=0)
    assert after.total.dtype == torch.float32
    assert after.total.item() == pytest.approx(before.total.item(), rel=0.02)
    if any(isinstance(module, Conv2d | ConvTranspose2d) for module in model.modules()):
        assert after.total.item() != before.total.item()


@pytest.mark.parametrize("name", MODELS)
def test_a_size_that_is_none_is_refused(name: str) -> None:
    model, size = build(name)
    slots = model.encode(pictures(1, size), noise=0)
    assert model.decode(slots, size).masks.shape[-2:] == size
    for wrong in (size[0], (size[0],), (0, size[1]), (float(size[0]), size[1]), None):
        with pytest.raises(InputError, match="size must be height and width in pixels"):
            model.decode(slots, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
def test_scenes_are_drawn_where_there_is_a_prior(name: str) -> None:
    model, size = build(name)
    if name in NO_PRIOR:
        with pytest.raises(InputError, match="prior"):
            model.sample(2, size, noise=0)
        return
    drawn = model.sample(2, size, noise=0)
    assert drawn.masks.shape == (2, model.config.num_slots, 1, *size)
    assert (drawn.masks.sum(dim=1) - 1).abs().max() < 1e-4
    assert not torch.equal(drawn.reconstruction[0], drawn.reconstruction[1])
    assert torch.allclose(drawn.reconstruction[:1], model.sample(1, size, noise=0).reconstruction, atol=1e-5)


# ----------------------------------------------------------------------- the ordinary commands


@pytest.fixture(scope="module", params=list(MODELS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A short run of every model."""
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name) / "run"
    config = nano(name)
    (start, refinements), *_ = config.curriculum
    words = ["train", f"{name}/nano", "--run", str(folder), "--precision", "float32", "--num-images", "32"]
    words += ["--batch-size", "2", "--steps", "6", "--checkpoint-every", "2", "--validate-every", "3"]
    words += ["--validation-images", "2", "--log-every", "1", "--curriculum", str(start), str(refinements)]
    assert main(words) == 0
    return name, folder


def test_a_run_resumes_exactly(run: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = run
    again = tmp_path / "again"
    shutil.copytree(folder, again, ignore=lambda where, names: [n for n in names if n == "000006"])
    assert newest_checkpoint(again) != newest_checkpoint(folder)
    assert main(["train", "--resume", str(again)]) == 0
    assert (again / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    ends = [newest_checkpoint(place) for place in (folder, again)]
    weights = [load_file(end / "weights.safetensors") for end in ends if end is not None]
    assert len(weights) == 2 and all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("name", ["genesis", "genesis-s"])
def test_a_run_with_geco_resumes_exactly(name: str, tmp_path: Path) -> None:
    """Whose nano preset is without."""
    config, whole = nano(name), tmp_path / "whole"
    train(whole, replace(config, model=replace(config.model, geco=KLGecoConfig())), progress=False)
    again = tmp_path / "again"
    shutil.copytree(whole, again, ignore=lambda where, names: [n for n in names if n == "000006"])
    train(again, None, progress=False)
    metrics = (whole / "metrics.jsonl").read_text()
    assert (again / "metrics.jsonl").read_text() == metrics
    zetas = [row["zeta"] for row in map(json.loads, metrics.splitlines()) if "loss" in row]
    assert len(set(zetas)) == 6


def test_every_weight_is_trained(run: tuple[str, Path]) -> None:
    name, folder = run
    torch.manual_seed(nano(name).seed)
    fresh = build_model(nano(name).model)
    assert isinstance(fresh, nn.Module)
    end = newest_checkpoint(folder)
    assert end is not None
    trained = load_file(end / "weights.safetensors")
    same = [key for key, before in fresh.named_parameters() if torch.equal(before, trained[key])]
    assert set(same) <= UNTRAINED


def test_metrics_are_finite(run: tuple[str, Path]) -> None:
    _, folder = run
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "validation" not in row]
    assert len(steps) == 6 and all(np.isfinite(row["loss"]) and row["skipped_steps"] == 0 for row in steps)
    assert [row["step"] for row in rows if "validation" in row] == [3, 6]


def test_weights_are_evaluated_decomposed_and_sampled(
    run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, folder = run
    results = tmp_path / "results.json"
    assert main(["evaluate", str(folder), "--num-images", "2", "--json", str(results)]) == 0
    found = read_json(results)
    assert {"foreground_ari", "ari", "miou", "mse"} <= found.keys()
    out = tmp_path / "out"
    assert main(["decompose", str(folder), "tetrominoes", "--num-images", "2", "--out", str(out)]) == 0
    with np.load(out / "tetrominoes_slots.npz") as codes:
        assert codes["slots"].shape[:2] == (2, nano(name).model.num_slots)
    picture = tmp_path / "samples.png"
    code = main(["sample", str(folder), "--num", "2", "--out", str(picture)])
    assert code == (2 if name in NO_PRIOR else 0)
    assert picture.exists() == (name not in NO_PRIOR)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_benchmarked(name: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    words = ["benchmark", "--preset", f"{name}/nano", "--rounds", "1", "--batch-size", "2", "--json", str(rows)]
    assert main(words) == 0
    found = read_json(rows)
    assert {"step", "forward", "encode"} <= {row["what"] for row in found}
    assert all(row["config"]["model"] == name and row["ours_s"] > 0 and row["peak_bytes"] > 0 for row in found)
    assert (
        main(["benchmark", "--memory", *words[1:3], "--batch-size", "1", "--json", str(tmp_path / "memory.json")]) == 0
    )
    counts = {row["config"]["refinement_steps"] for row in read_json(tmp_path / "memory.json")}
    assert counts == ({0, 1, 3} if nano(name).model.refinement_steps else {0})
