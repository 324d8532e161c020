"""Folders of the ClevrTex project: what is in them comes back, and nothing from outside of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emorl.data.clevrtex import (
    COLORS,
    MATERIALS,
    SHAPES,
    SIZES,
    UNKNOWN,
    ClevrTex,
    NpzFolder,
    folder_kind,
)
from emorl.data.multi_dsprites import MultiDSprites
from emorl.data.tetrominoes import Tetrominoes
from emorl.errors import InputError
from emorl.types import Batch

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 12, 16


def scene(number: int, num_objects: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Image H W 3, labels H W and metadata; object k covers column k."""
    rng = np.random.default_rng(number)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k in range(1, num_objects + 1):
        labels[2:, k] = k
    objects = [
        {
            "shape": "monkey",
            "size": SIZES[k % 3],
            "rotation": 10.5 * k,
            "3d_coords": [0.5 * k, -k, 0.9],
            "pixel_coords": [k, 20, 0.25],
            "index": k,
            "color": COLORS[k % 8],
            "material": "PoliigonBricks01" if k == 1 else "rubber",
        }
        for k in range(1, num_objects + 1)
    ]
    about = {"num_objects": num_objects, "ground_material": "poliigontiles05", "objects": objects}
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), labels, about


def save(folder: Path, variant: str = "full", num: int = 6, alpha: bool = False, metadata: bool = True) -> Path:
    """A folder of scenes with 1, 2, ... objects, three to a sub-folder."""
    root = folder / f"clevrtex_{variant}"
    for number in range(num):
        image, labels, about = scene(number, number + 1)
        place = root / str(number // 3)
        place.mkdir(parents=True, exist_ok=True)
        stem = f"CLEVRTEX_{variant}_{number:06d}"
        if alpha:
            image = np.dstack([image, np.zeros_like(image[..., 0])])
        Image.fromarray(image).save(place / f"{stem}.png")
        palette = Image.fromarray(labels).convert("P")
        palette.putpalette(RNG.integers(0, 256, 768).tolist())
        palette.putdata(labels.flatten().tolist())
        palette.save(place / f"{stem}_flat.png")
        Image.fromarray(labels).save(place / f"{stem}_depth_0001.png")
        if metadata:
            (place / f"{stem}.json").write_text(json.dumps(about))
    return root


# ----------------------------------------------------------------------- ClevrTex


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("metadata", [False, True])
def test_scenes_come_back(alpha: bool, metadata: bool, tmp_path: Path) -> None:
    source = ClevrTex(save(tmp_path, alpha=alpha, metadata=metadata))
    assert (source.name, source.size, len(source), source.variant) == ("clevrtex_full", (HEIGHT, WIDTH), 6, "full")
    order = np.array([5, 0, 5, 2])
    batch = source.read(order)
    assert batch.mask is not None and batch.visibility is not None and batch.index.tolist() == order.tolist()
    for row, number in enumerate(order):
        image, labels, _ = scene(number, number + 1)
        np.testing.assert_array_equal(batch.image[row], image)  # what is transparent too
        np.testing.assert_array_equal(batch.mask[row], labels)
    assert batch.visibility.dtype == np.float32 and batch.visibility.shape == (4, 11)
    assert batch.visibility.sum(axis=1).tolist() == [7, 2, 7, 4]
    np.testing.assert_array_equal(source.visibility(order), batch.visibility)
    assert bool(batch.factors) == metadata
    assert source.read(order[:0]).image.shape == (0, HEIGHT, WIDTH, 3)
    assert source.visibility(order[:0]).shape == (0, 11)


def test_factors(tmp_path: Path) -> None:
    source = ClevrTex(save(tmp_path))
    factors = source.read(np.array([1, 2])).factors
    assert list(factors) == ["x", "y", "z", "pixel_coords", "rotation", "size", "material", "shape"]
    assert source.describe()["factors"] == list(factors)
    assert {values.shape[:2] for values in factors.values()} == {(2, 11)}
    assert factors["x"][1, :5].tolist() == [0, 0.5, 1.0, 1.5, 0] and factors["x"].dtype == np.float32
    assert factors["y"][0, :4].tolist() == [0, -1, -2, 0]
    assert factors["pixel_coords"][0, 2].tolist() == [2, 20, 0.25]
    assert factors["rotation"][1, :5].tolist() == [0, 10.5, 21, 31.5, 0]
    assert [factors[name].dtype for name in ("size", "material", "shape")] == [np.uint8] * 3
    assert [SIZES[code - 1] for code in factors["size"][0, 1:3]] == ["medium", "small"]
    assert [SHAPES[code - 1] for code in factors["shape"][0, 1:3]] == ["monkey", "monkey"]
    assert [MATERIALS[code - 1] for code in factors["material"][0, :3]] == [
        "poliigontiles05",  # of the ground
        "poliigonbricks01",
        "rubber",
    ]
    assert factors["material"][0, 3:].tolist() == [0] * 8


def test_only_vbg_has_colours(tmp_path: Path) -> None:
    factors = ClevrTex(save(tmp_path, "vbg")).read(np.array([1])).factors
    assert [COLORS[code - 1] for code in factors["color"][0, 1:3]] == ["brown", "cyan"]


def test_code_tables_are_sorted_and_fit_into_a_byte() -> None:
    for table in (SIZES, SHAPES, COLORS, MATERIALS):
        assert list(table) == sorted(set(table)) and len(table) < UNKNOWN
    assert (len(SHAPES), len(COLORS), len(MATERIALS)) == (8, 8, 60 + 25 + 4)


def test_names_of_no_table(tmp_path: Path) -> None:
    root = save(tmp_path)
    path = root / "0" / "CLEVRTEX_full_000000.json"
    about = json.loads(path.read_text())
    about["objects"][0]["material"] = "chocolate"
    path.write_text(json.dumps(about))
    assert ClevrTex(root).read(np.array([0])).factors["material"][0, 1] == UNKNOWN


def test_a_folder_above_the_variant_and_what_lies_beside(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "readme.txt").touch()
    assert len(ClevrTex(tmp_path)) == 6
    save(tmp_path, "outd")
    with pytest.raises(InputError, match="name the folder of one"):
        ClevrTex(tmp_path)


def test_fingerprint_follows_content(tmp_path: Path) -> None:
    root = save(tmp_path)
    before = ClevrTex(root).fingerprint()
    assert before == ClevrTex(root).fingerprint()
    path = root / "1" / "CLEVRTEX_full_000004_flat.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(path)
    assert ClevrTex(root).fingerprint() != before


def change(name: str, edit: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        edit(next(root.rglob(name)))

    return apply


def edit_json(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        about = json.loads(path.read_text())
        edit(about)
        path.write_text(json.dumps(about))

    return change("CLEVRTEX_full_000003.json", apply)


def save_png(pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(pixels).save(path)


def without_number_2(root: Path) -> None:
    for path in root.rglob("*_000002*"):
        path.unlink()


def with_a_copy(root: Path) -> None:
    shutil.copytree(root / "0", root / "copy")


def emptied(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


WRONG_FOLDERS: dict[str, Callable[[Path], None]] = {
    "lacks number 2": without_number_2,
    "no file CLEVRTEX_full_000003_flat.png": change("*_000003_flat.png", Path.unlink),
    "no file CLEVRTEX_full_000003.json": change("*_000003.json", Path.unlink),
    "same number": with_a_copy,
    "no images of ClevrTex": emptied,
}


@pytest.mark.parametrize("message", WRONG_FOLDERS)
def test_folders_that_lack_something(message: str, tmp_path: Path) -> None:
    root = save(tmp_path)
    WRONG_FOLDERS[message](root)
    with pytest.raises(InputError, match=message) as error:
        ClevrTex(root)
    assert "\n" not in str(error.value)


WRONG_SCENES: dict[str, Callable[[Path], None]] = {
    "label 11": change("*_000003_flat.png", save_png(np.full((HEIGHT, WIDTH), 11, np.uint8))),
    "12 x 15 pixels": change("*_000003_flat.png", save_png(np.zeros((12, 15), np.uint8))),
    "16 x 12 pixels": change("*_000003.png", save_png(np.zeros((16, 12, 3), np.uint8))),
    "cannot read .*_000003.png": change("*_000003.png", lambda path: path.write_bytes(path.read_bytes()[:99])),
    "cannot read .*_flat.png": change("*_000003_flat.png", lambda path: path.write_bytes(b"GIF89a")),
    "not readable JSON": change("*_000003.json", lambda path: path.write_text("{")),
    "more than 1048576 bytes": change("*_000003.json", lambda path: path.write_bytes(bytes(1 << 21))),
    "no list 'objects'": change("*_000003.json", lambda path: path.write_text("[1]")),
    "not readable": change("*_000003.json", lambda path: path.write_text("[" * 100_000)),
    "of 10 at most": edit_json(lambda about: about.update(objects=[{}] * 11)),
    "object 2 has no sound 'rotation'": edit_json(lambda about: about["objects"][1].update(rotation="much")),
    "object 1 has no sound 'rotation'": edit_json(lambda about: about["objects"][0].update(rotation=float("nan"))),
    "object 4 has no sound '3d_coords'": edit_json(lambda about: about["objects"][3].update({"3d_coords": [1, 2]})),
    "object 1 has no sound 'pixel_coords'": edit_json(lambda about: about["objects"][0].pop("pixel_coords")),
    "object 3 has no sound 'pixel_coords'": edit_json(
        lambda about: about["objects"][2].update(pixel_coords=[1, 10**400, 2])
    ),
}


@pytest.mark.parametrize("message", WRONG_SCENES)
def test_damaged_scenes(message: str, tmp_path: Path) -> None:
    root = save(tmp_path)
    WRONG_SCENES[message](root)
    source = ClevrTex(root)
    source.read(np.array([0, 1, 2, 4, 5]))
    with pytest.raises(InputError, match=message) as error:
        source.read(np.array([3]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["CLEVRTEX_full_000003.png", "CLEVRTEX_full_000003_flat.png", "CLEVRTEX_full_000003.json"]
)
def test_links_lead_out_of_no_folder(name: str, tmp_path: Path) -> None:
    root = save(tmp_path)
    path = next(root.rglob(name))
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    with pytest.raises(InputError, match="leads out of the folder"):
        ClevrTex(root).read(np.array([3]))
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(InputError, match="cannot be read"):
        ClevrTex(root).read(np.array([3]))
    path.unlink()
    (tmp_path / name).rename(root / "elsewhere")
    path.symlink_to(root / "elsewhere")
    assert len(ClevrTex(root).read(np.array([3]))) == 1


def test_a_linked_root_is_followed(tmp_path: Path) -> None:
    root = save(tmp_path)
    (tmp_path / "link").symlink_to(root)
    assert len(ClevrTex(tmp_path / "link").read(np.arange(6))) == 6


# ----------------------------------------------------------------------- records as .npz


def dump(root: Path, batch: Batch, num_entities: int, manifest: bool = True, masks_last: bool = False) -> Path:
    """Records as the ClevrTex project keeps them."""
    assert batch.mask is not None
    index = {}
    for row in range(len(batch)):
        mask = 255 * (batch.mask[row] == np.arange(num_entities)[:, None, None]).astype(np.uint8)[..., None]
        arrays = {"image": batch.image[row], "mask": mask.transpose(1, 2, 0, 3) if masks_last else mask}
        if batch.visibility is not None:
            arrays["visibility"] = batch.visibility[row]
        arrays |= {name: values[row] for name, values in batch.factors.items()}
        path = Path(str(row // 2)) / f"{row}.npz"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(root / path, **arrays)
        index[str(row)] = str(path)
    if manifest:
        (root / "manifest_ind.json").write_text(json.dumps(index))
    return root


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize("masks_last", [False, True])
def test_records_come_back(manifest: bool, masks_last: bool, tmp_path: Path) -> None:
    theirs = MultiDSprites(num=5).read(np.arange(5))
    source = NpzFolder(dump(tmp_path / "multi", theirs, 6, manifest, masks_last))
    assert (source.name, source.size, len(source)) == ("multi", (64, 64), 5)
    assert source.data_set == "multi_dsprites_colored_on_grayscale"
    order = np.array([4, 0, 4])
    ours = source.read(order)
    for name in ("image", "mask", "visibility"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name)[order], strict=True)
    assert ours.index.tolist() == order.tolist() and ours.factors.keys() == theirs.factors.keys()
    for name, values in theirs.factors.items():
        np.testing.assert_array_equal(ours.factors[name], values[order], strict=True)
    np.testing.assert_array_equal(source.visibility(order), ours.visibility)
    assert source.describe()["num_entities"] == 6 and source.describe()["factors"] == list(theirs.factors)
    assert source.read(order[:0]).image.shape == (0, 64, 64, 3)


def test_records_of_one_channel_and_of_masks_with_ones(tmp_path: Path) -> None:
    labels = RNG.integers(0, 4, (8, 10))
    masks = (labels == np.arange(4)[:, None, None])[..., None].astype(np.uint8)
    np.savez(tmp_path / "0.npz", image=RNG.integers(0, 256, (8, 10, 1), np.uint8), mask=masks)
    source = NpzFolder(tmp_path)
    batch = source.read(np.array([0]))
    assert batch.image.shape == (1, 8, 10, 3) and (batch.image[..., 0] == batch.image[..., 2]).all()
    np.testing.assert_array_equal(batch.mask, labels[None])
    assert source.data_set is None
    assert batch.visibility is not None and batch.visibility.tolist() == [[1, 1, 1, 1]]
    np.testing.assert_array_equal(source.visibility(np.array([0])), batch.visibility)


def test_several_backgrounds_are_one(tmp_path: Path) -> None:
    labels = RNG.integers(0, 6, (64, 64))
    labels[labels == 5] = 3  # entity 5 and 6 are not there
    masks = 255 * (labels == np.arange(7)[:, None, None])[..., None].astype(np.uint8)
    np.savez(tmp_path / "0.npz", image=np.zeros((64, 64, 3), np.uint8), mask=masks)
    source = NpzFolder(tmp_path)
    batch = source.read(np.array([0]))
    assert source.data_set == "objects_room_train" and source.describe()["num_entities"] == 4
    np.testing.assert_array_equal(batch.mask, np.maximum(0, labels - 3)[None])
    assert batch.visibility is not None and batch.visibility.tolist() == [[1, 1, 0, 0]]


def test_fingerprint_of_records(tmp_path: Path) -> None:
    theirs = Tetrominoes(num=3).read(np.arange(3))
    first = NpzFolder(dump(tmp_path / "a", theirs, 4)).fingerprint()
    assert NpzFolder(dump(tmp_path / "b", theirs, 4)).fingerprint() == first
    assert NpzFolder(dump(tmp_path / "c", Tetrominoes(seed=1, num=3).read(np.arange(3)), 4)).fingerprint() != first


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"0": "../outside.npz"}', r"'../outside.npz' for '0': name .npz files inside"),
        ('{"0": "0/../../outside.npz"}', "inside the folder"),
        ('{"0": "/outside.npz"}', "inside the folder"),
        ('{"0": "0/0.txt"}', "inside the folder"),
        ('{"0": 7}', "inside the folder"),
        ('{"zero": "0/0.npz"}', "inside the folder"),
        ('{"-1": "0/0.npz"}', "inside the folder"),
        ('{"1": "0/0.npz"}', "lacks number 0"),
        ('["0/0.npz"]', "does not map"),
        ("{}", "no .npz records"),
        ("{", "not readable JSON"),
        ('{"0": "0/9.npz"}', "9.npz cannot be read"),
        ('{"0": "link.npz"}', "leads out of the folder"),
        ('{"0": "linked/outside.npz"}', "leads out of the folder"),
    ],
)
def test_hostile_manifests(manifest: str, message: str, tmp_path: Path) -> None:
    root = dump(tmp_path / "set", Tetrominoes(num=2).read(np.arange(2)), 4)
    shutil.copy(root / "0" / "0.npz", tmp_path / "outside.npz")
    (root / "link.npz").symlink_to(tmp_path / "outside.npz")
    (root / "linked").symlink_to(tmp_path)
    (root / "manifest_ind.json").write_text(manifest)
    with pytest.raises(InputError, match=message) as error:
        NpzFolder(root)
    assert "\n" not in str(error.value)


def test_a_manifest_that_is_a_link_out(tmp_path: Path) -> None:
    root = dump(tmp_path / "set", Tetrominoes(num=2).read(np.arange(2)), 4)
    (root / "manifest_ind.json").rename(tmp_path / "manifest.json")
    (root / "manifest_ind.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(InputError, match="leads out"):
        NpzFolder(root)


IMAGE = np.zeros((35, 35, 3), np.uint8)
MASK = np.zeros((4, 35, 35, 1), np.uint8)
MASK[0] = 255


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mask": MASK}, "'image' of H W 3"),
        ({"image": IMAGE.astype(np.float32), "mask": MASK}, "'image' of H W 3"),
        ({"image": IMAGE[..., :2], "mask": MASK}, "'image' of H W 3"),
        ({"image": IMAGE}, "'mask' of E H W 1"),
        ({"image": IMAGE, "mask": MASK[..., 0]}, "'mask' of E H W 1"),
        ({"image": IMAGE, "mask": MASK[:, :34]}, "'mask' of E H W 1"),
        ({"image": IMAGE, "mask": np.array([{}])}, "pickled"),
        ({"image": np.zeros((3000, 3000, 3), np.uint8), "mask": MASK}, "MiB"),
    ],
)
def test_records_of_another_kind(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "0.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message) as error:
        NpzFolder(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": IMAGE, "mask": MASK | 255}, "exactly one entity"),
        ({"image": IMAGE, "mask": MASK & 0}, "exactly one entity"),
        ({"image": IMAGE}, "'mask' is missing"),
        ({"image": IMAGE[:34], "mask": MASK}, "'image' is missing or not as in 0.npz"),
        ({"image": IMAGE.astype(np.int64), "mask": MASK}, "'image' is missing or not as"),
    ],
)
def test_records_unlike_the_first(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", image=IMAGE, mask=MASK)
    np.savez(tmp_path / "1.npz", **arrays)  # type: ignore[arg-type]
    source = NpzFolder(tmp_path)
    source.read(np.array([0]))
    with pytest.raises(InputError, match=message):
        source.read(np.array([1]))
    (tmp_path / "1.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="cannot read"):
        source.read(np.array([1]))


# ----------------------------------------------------------------------- which is which


def test_folders_are_told_by_their_files(tmp_path: Path) -> None:
    assert folder_kind(save(tmp_path / "a")) == folder_kind(tmp_path / "a") == "clevrtex"
    records = dump(tmp_path / "b", Tetrominoes(num=2).read(np.arange(2)), 4, manifest=False)
    assert folder_kind(records) == "npz"
    (records / "manifest_ind.json").write_text("{}")
    assert folder_kind(records) == "npz"
    pictures = tmp_path / "c"
    (pictures / "below").mkdir(parents=True)
    assert folder_kind(pictures) is None
    Image.new("RGB", (4, 4)).save(pictures / "mine.png")
    np.savez(pictures / "weights3.npz", a=np.zeros(3))
    assert folder_kind(pictures) is None  # pictures come first
    os.symlink(records, tmp_path / "d")
    assert folder_kind(tmp_path / "d") == "npz"
