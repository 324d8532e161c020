"""Figures: what is on the page is what was inferred, pixel for pixel."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from emorl.errors import InputError
from emorl.figures import (
    comparison_sheet,
    contact_sheet,
    decomposition_sheet,
    posterior_sheet,
    save_figure,
    slot_colours,
    write_picture_outputs,
)
from emorl.types import Batch, Decoding, Inference, Layer, Posterior, Step

# Linear RGB as seen without red or without green cones: Machado, Oliveira & Fernandes 2009, severity 1.
VISION = {
    "trichromat": np.eye(3),
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
}


def some_inference(
    num_images: int = 2, num_slots: int = 4, height: int = 20, width: int = 32, num_layers: int = 2
) -> Inference:
    generator = torch.Generator().manual_seed(0)

    def over_slots(h: int, w: int) -> torch.Tensor:
        return (3 * torch.randn(num_images, num_slots, 1, h, w, generator=generator)).softmax(dim=1)

    masks = over_slots(height, width)
    components = torch.rand(num_images, num_slots, 3, height, width, generator=generator)
    slots = torch.zeros(num_images, num_slots, 8)
    layer = Layer(Posterior(slots, slots + 1), over_slots(height // 4, width // 4))
    return Inference(masks, components, (masks * components).sum(1), slots, (layer,) * num_layers)


def some_images(num_images: int = 2, height: int = 20, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_images, height, width, 3), dtype=np.uint8)


def page(figure: Figure) -> np.ndarray:
    """The figure as it is saved, H W 3."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=300)
    return np.asarray(Image.open(file).convert("RGB"))


def count(sheet: np.ndarray, picture: np.ndarray, factor: int) -> int:
    """How often a picture H W 3, enlarged by a factor, stands on a page, to the last pixel."""
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = picture.shape[:2]
    corners = (sheet[: 1 - height, : 1 - width] == picture[0, 0]).all(-1)
    corners &= (sheet[height - 1 :, width - 1 :] == picture[-1, -1]).all(-1)
    corners &= (sheet[height - 1 :, : 1 - width] == picture[-1, 0]).all(-1)
    return sum(np.array_equal(sheet[y : y + height, x : x + width], picture) for y, x in np.argwhere(corners))


def lab(colours: np.ndarray, vision: object) -> np.ndarray:
    """CIE L*a*b* of sRGB colours N 3 as somebody sees them."""
    unit = colours / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(vision).T).clip(0, 1)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
    xyz = seen @ np.array(to_xyz).T / (0.95047, 1, 1.08883)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


# ---- Colours ----


def test_colours_are_all_different_and_do_not_depend_on_their_number() -> None:
    colours = slot_colours(60)
    assert colours.shape == (60, 3)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours, axis=0)) == 60
    for num in (0, 1, 7, 20):
        np.testing.assert_array_equal(slot_colours(num), colours[:num])


@pytest.mark.parametrize("vision", VISION)
def test_eleven_slots_can_be_told_apart_by_everybody(vision: str) -> None:
    seen = lab(slot_colours(11), VISION[vision])
    distance = np.linalg.norm(seen[:, None] - seen, axis=-1)
    assert distance[~np.eye(11, dtype=bool)].min() > 12  # about 2 is just noticeable side by side


# ---- Sheets ----


def test_sheet_shows_images_reconstructions_and_attention_exactly() -> None:
    images, inference = some_images(), some_inference()
    sheet = page(decomposition_sheet(images, inference, true_masks=images[..., 0] % 3))
    colours = slot_colours(4)
    for row in range(2):
        assert count(sheet, images[row], 5) == 1
        reconstruction = np.rint(255 * inference.reconstruction[row].permute(1, 2, 0).numpy())
        assert count(sheet, reconstruction.astype(np.uint8), 5) == 1
        winner = inference.layers[0].attention[row, :, 0].numpy().argmax(axis=0)
        assert count(sheet, colours[winner], 20) == 2  # tokens are 4 pixels wide; both layers are the same


def test_certain_masks_have_the_full_colour_of_their_slot_and_open_components_fully() -> None:
    labels = np.random.default_rng(1).integers(0, 4, (2, 20, 32))
    masks = torch.tensor(np.eye(4, dtype=np.float32)[labels]).permute(0, 3, 1, 2)[:, :, None]
    inference = replace(some_inference(num_layers=0), masks=masks)
    sheet = page(decomposition_sheet(some_images(), inference))
    for row in range(2):
        assert count(sheet, slot_colours(4)[labels[row]], 5) == 1

    masks = torch.zeros_like(masks)
    masks[:, 2] = 1
    sheet = page(decomposition_sheet(some_images(), replace(inference, masks=masks)))
    component = np.rint(255 * inference.components[0, 2].permute(1, 2, 0).numpy()).astype(np.uint8)
    assert count(sheet, component, 5) == 1


def test_true_objects_have_the_colour_of_the_slot_that_fits_them() -> None:
    true = np.zeros((1, 20, 32), dtype=np.uint8)
    true[:, 2:9, 3:12], true[:, 10:18, 20:30], true[:, 12:15, 4:7] = 1, 2, 5
    slot_of = np.array([0, 3, 1, 0, 0, 0])  # object 5 has no slot of its own: it went with the background
    masks = torch.tensor(np.eye(4, dtype=np.float32)[slot_of[true]]).permute(0, 3, 1, 2)[:, :, None]
    inference = replace(some_inference(1, num_layers=0), masks=masks)
    sheet = page(decomposition_sheet(some_images(1), inference, true_masks=true))

    grey, colours = (222, 222, 222), slot_colours(4)
    table = np.array([grey, colours[3], colours[1], grey, grey, colours[0]], dtype=np.uint8)
    assert count(sheet, table[true[0]], 5) == 1  # slot 0, the background's, is the best for object 5

    true[0, 0, 0] = 6  # lies in slot 0 as well, which is taken
    sheet = page(decomposition_sheet(some_images(1), inference, true_masks=true))
    unmatched = slot_colours(4 + 7)[4 + 6]
    table = np.vstack([table, unmatched])
    assert count(sheet, table[true[0]], 5) == 1


def test_an_object_has_one_colour_whichever_slot_of_whichever_model_it_is_in() -> None:
    images, inference = some_images(), some_inference()
    labels = np.random.default_rng(1).integers(0, 4, (2, 20, 32))
    certain = torch.tensor(np.eye(4, dtype=np.float32)[labels]).permute(0, 3, 1, 2)[:, :, None]
    order = [2, 0, 3, 1]
    first = replace(inference, masks=certain)
    second = replace(inference, masks=certain[:, order], components=inference.components[:, order])
    sheet = page(comparison_sheet(images, {"first": first, "second": second}, labels))  # slot 0 is the background's
    colours = np.concatenate([[[222, 222, 222]], slot_colours(3)]).astype(np.uint8)
    for row in range(2):
        assert count(sheet, images[row], 5) == 1
        assert count(sheet, colours[labels[row]], 5) == 3  # the truth and both models
    with pytest.raises(InputError, match="first"):
        comparison_sheet(images[:1], {"first": first}, labels[:1])
    with pytest.raises(InputError, match="no image"):
        comparison_sheet(images[:0], {}, labels[:0])


def test_a_slot_is_background_if_it_wins_most_of_it_but_not_if_an_object_shares_it_with_others() -> None:
    true = np.zeros((1, 20, 32), dtype=np.int64)
    true[:, 2:9, 3:12], true[:, 10:18, 20:30] = 1, 2
    colours, grey = slot_colours(2 + 5), np.full(3, 222, np.uint8)
    for width, first, second in ((2, colours[2], grey), (20, grey, colours[0])):
        won = np.where(true == 2, 3, 1)  # slot 1 has object 1 and the background,
        won[:, 10:, :width], won[:, 0, 8:] = 0, 2  # but for what slots 0 and 2 have of it
        masks = torch.tensor(np.eye(5, dtype=np.float32)[won]).permute(0, 3, 1, 2)[:, :, None]
        inference = replace(some_inference(1, num_slots=5), masks=masks)
        sheet = page(comparison_sheet(some_images(1), {"one": inference}, true))
        table = np.stack([first, second, colours[2 + 2], colours[1]])  # of slots 0 to 3
        assert count(sheet, table[won[0]], 5) == 1


@pytest.mark.parametrize("num_slots", [1, 4, 11])
def test_titles_stay_on_the_sheet(num_slots: int) -> None:
    title = "MMMM WWWW: efficientmorl-multi-dsprites-textured-32-seed0; " + "a row for each number of this code " * 3
    figure = decomposition_sheet(some_images(), some_inference(num_slots=num_slots), title=title)
    page(figure)
    lines = [text for text in figure.axes[0].texts if text.get_weight() == "bold"]
    assert " ".join(text.get_text() for text in lines) == title.strip()
    assert max(text.get_window_extent().x1 for text in lines) <= figure.bbox.x1


@pytest.mark.parametrize(
    ("num_slots", "height", "width", "num_layers"),
    [(1, 35, 35, 0), (7, 64, 96, 3), (11, 8, 8, 1), (3, 700, 333, 1)],
)
def test_any_size_and_number_of_slots(num_slots: int, height: int, width: int, num_layers: int) -> None:
    inference = some_inference(2, num_slots, height, width, num_layers)
    sheet = page(decomposition_sheet(some_images(2, height, width), inference, title="A title", scores=["a", "b"]))
    assert sheet.shape[1] > (3 + num_slots + num_layers) * 100 * min(1, width / height)


def test_options_take_their_space_and_no_more() -> None:
    images, inference = some_images(3), some_inference(3)
    full = page(decomposition_sheet(images, inference)).shape
    assert page(decomposition_sheet(images, inference, max_images=2)).shape[0] < full[0]
    assert page(decomposition_sheet(images, inference, max_images=9)).shape == full
    assert page(decomposition_sheet(images, inference, attention=False)).shape[1] < full[1]
    assert page(decomposition_sheet(images, inference, title="A title")).shape[0] > full[0]
    assert page(decomposition_sheet(images, inference, scores=["ARI 1"] * 3)).shape[0] > full[0]
    assert page(decomposition_sheet(images, inference, true_masks=images[..., 0])).shape[1] > full[1]


def test_text_with_dollars_and_underscores_is_plain_text() -> None:
    page(decomposition_sheet(some_images(), some_inference(), title="my_$run_{3 $", scores=["$", "_$^"]))


def test_every_row_has_its_own_scene(shared: Path) -> None:
    with np.load(shared / "data" / "tetrominoes_real4.npz") as scenes:
        images, masks = scenes["image"], scenes["mask"]
    sheet = page(decomposition_sheet(images, some_inference(4, 4, 35, 35), true_masks=masks))
    assert [count(sheet, image, 5) for image in images] == [1, 1, 1, 1]
    contact = page(contact_sheet(Batch(images, np.arange(4), masks)))
    assert [count(contact, image, 5) for image in images] == [1, 1, 1, 1]


def test_contact_sheet_shows_each_scene_with_its_masks() -> None:
    images = some_images(5)
    masks = np.random.default_rng(2).integers(0, 4, (5, 20, 32), dtype=np.uint8)
    batch = Batch(images, np.arange(60_000, 60_005), masks)
    colours = np.concatenate([np.full((1, 3), 222, dtype=np.uint8), slot_colours(3)])
    sheet = page(contact_sheet(batch, num=4))
    assert [count(sheet, image, 5) for image in images] == [1, 1, 1, 1, 0]
    assert [count(sheet, colours[mask], 5) for mask in masks] == [1, 1, 1, 1, 0]
    sheet = page(contact_sheet(batch, masks=False))
    assert [count(sheet, image, 5) for image in images] == [1] * 5
    assert [count(sheet, colours[mask], 5) for mask in masks] == [0] * 5
    assert count(page(contact_sheet(replace(batch, mask=None), num=1)), images[0], 5) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"images": some_images(2, 32, 20)},
        {"images": some_images(3)},
        {"true_masks": some_images(1)[..., 0]},
        {"scores": ["only one"]},
        {"max_images": 0},
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, object]) -> None:
    arguments = {"images": some_images(), "inference": some_inference()} | change
    with pytest.raises(InputError) as error:
        decomposition_sheet(**arguments)
    assert "\n" not in str(error.value)


def test_an_empty_batch_makes_no_contact_sheet() -> None:
    with pytest.raises(InputError, match="no image"):
        contact_sheet(Batch(some_images(0), np.arange(0)))


# ---- Files ----


def test_saved_figures_are_reproducible_and_leave_nothing_else(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a.pdf", "b.pdf"):
        save_figure(decomposition_sheet(some_images(), some_inference(), title="x"), tmp_path / "new" / name)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.pdf", "a.png", "b.pdf", "b.png"]
    for kind in ("png", "pdf"):
        first, second = (tmp_path / "new" / f"{name}.{kind}" for name in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_a_figure_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    class BrokenFigure(Figure):
        def savefig(self, file: io.BytesIO, **_: object) -> None:
            file.write(b"half")
            raise RuntimeError("disk full")

    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="disk full"):
        save_figure(BrokenFigure(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png or \.pdf"):
        save_figure(Figure(), tmp_path / "figure.jpg")


def test_picture_outputs_hold_the_decomposition(tmp_path: Path) -> None:
    inference = some_inference(num_slots=3)
    paths = write_picture_outputs(tmp_path / "out", "cat", inference, 1)
    names = ["masks", "reconstruction"] + [f"slot{k}{part}" for k in range(3) for part in ("_mask", "")]
    assert [path.name for path in paths] == [f"cat_{name}.png" for name in names]
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    picture = dict(zip(names, (Image.open(path) for path in paths), strict=True))

    labels = inference.masks[1, :, 0].numpy().argmax(axis=0)
    assert picture["masks"].mode == "P"
    np.testing.assert_array_equal(np.asarray(picture["masks"]), labels)
    np.testing.assert_array_equal(np.asarray(picture["masks"].convert("RGB")), slot_colours(3)[labels])
    total = np.zeros((20, 32, 3))
    for k in range(3):
        mask, component = np.asarray(picture[f"slot{k}_mask"]), np.asarray(picture[f"slot{k}"])
        np.testing.assert_allclose(mask / 255, inference.masks[1, k, 0], atol=0.5 / 255 + 1e-6)
        np.testing.assert_array_equal(component[..., 3], mask)
        total += component[..., :3] * (mask[..., None] / 255)
    np.testing.assert_allclose(total, np.asarray(picture["reconstruction"]), atol=3)


@pytest.mark.parametrize(("row", "num_slots"), [(2, 3), (-1, 3), (0, 257)])
def test_impossible_picture_outputs_are_refused(tmp_path: Path, row: int, num_slots: int) -> None:
    with pytest.raises(InputError):
        write_picture_outputs(tmp_path, "cat", some_inference(2, num_slots, 4, 4), row)
    assert list(tmp_path.iterdir()) == []


def test_figures_do_not_touch_the_global_state_of_matplotlib() -> None:
    code = "import sys, emorl.figures; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


# ----------------------------------------------------------------------- what comes before the result


def in_between(num_steps: int = 1) -> Inference:
    """An inference whose layers and steps have pictures of their own."""
    found = some_inference(num_layers=2)
    others = [some_inference(), some_inference(num_slots=4)]
    decodings = [
        Decoding(other.masks.roll(i + 1, dims=1), other.components * (0.5 + 0.2 * i)) for i, other in enumerate(others)
    ]
    layers = tuple(replace(layer, decoding=one) for layer, one in zip(found.layers, decodings, strict=True))
    value = torch.zeros(2)
    steps = tuple(
        Step(found.layers[0].posterior, value, value, Decoding(found.masks, found.components))
        for _ in range(num_steps + 1)
    )
    return replace(found, layers=layers, steps=steps)


def test_every_layer_and_step_has_its_row() -> None:
    found, image = in_between(), some_images()
    figure = posterior_sheet(image[1], found, 1, title="a scene")
    sheet = page(figure)
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"layer 1", "layer 2", "refined, step 1", "a scene", "slot 3"} <= words
    shown = [one.decoding for one in (*found.layers, *found.steps[1:])]
    for decoding in shown:
        assert decoding is not None
        picture = np.rint(255 * decoding.reconstruction[1].permute(1, 2, 0).numpy().clip(0, 1)).astype(np.uint8)
        assert count(sheet, picture, 5) == 1
    winners = slot_colours(4)[found.layers[0].attention[1, :, 0].argmax(0).numpy()]
    assert count(sheet, winners.repeat(4, axis=0).repeat(4, axis=1), 5) == 2  # both layers have this attention
    assert count(sheet, image[1], 5) == 1


def test_nothing_in_between_is_refused() -> None:
    with pytest.raises(InputError, match="layers"):
        posterior_sheet(some_images()[0], some_inference(num_layers=0))
    with pytest.raises(InputError, match="kept"):
        posterior_sheet(some_images()[0], some_inference())
