"""The two kinds of folders of the ClevrTex project: ClevrTex itself, and its copies of DeepMind's sets as .npz records.

Layouts follow the data set specification, sections 2.4 and 2.5. A folder is not trusted: what it names must lie inside
it, links followed; lengths are bounded, nothing is unpickled, and whatever does not fit raises InputError.

Names in ClevrTex's metadata become codes: 1 for the first name of the table in the order of the alphabet, and so on;
0 is an empty place, 255 a name that is not in the table. They are not CLEVR's codes.

Axes: N scenes, E entities (background first), H rows, W columns.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from emorl.data.base import Size, check_indices, sha256
from emorl.data.npz import read_arrays
from emorl.data.pictures import MAX_PIXELS, SUFFIXES
from emorl.data.tfrecord import MAX_RECORD_BYTES, VARIANTS, find_visible, merge_masks
from emorl.errors import InputError
from emorl.types import Batch

MAX_OBJECTS = 10
"""Of a ClevrTex scene."""
UNKNOWN = 255
"""The code of a name that is in no table."""

SIZES = ("large", "medium", "small")
SHAPES = ("cone", "cube", "cylinder", "icosahedron", "monkey", "sphere", "teapot", "torus")
COLORS = ("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow")
_MATERIALS = """
    Bricks01 BricksFlemishRed001 BricksPaintedWhite001 CarpetTwistNatural001 ChainmailCopperRoundedThin001
    CityStreetAsphaltGenericCracked002 CityStreetRoadAsphaltTwoLaneWorn001 CliffJagged004 CobblestoneArches002
    ConcreteWall001 FabricDenim003 FabricFleece001 FabricLeatherBuffaloRustic001 FabricRope001
    FabricUpholsteryBrightAnglePattern001 FabricUpholsteryMidCenturyPebbles001 GroundClay002 GroundDirtForest014
    GroundDirtRocky002 GroundForest003 GroundForest008 GroundForestMulch001 GroundForestRoots001 GroundMoss001
    GroundSnowPitted003 GroundTireTracks001 InteriorDesignRugStarryNight001 Marble062 Marble13 MetalCorrodedHeavy001
    MetalCorrugatedIronSheet002 MetalDesignerWeaveSteel002 MetalPanelRectangular001 MetalSpottyDiscoloration001
    MetalStainlessSteelBrushed Plaster07 Plaster17 RoadCityWorn001 RoofTilesTerracotta004 RustMixedOnPaint012
    RustPlain007 SolarPanelsPolycrystallineTypeBFramedClean001 StoneBricksBeige015 StoneMarbleCalacatta004
    TerrazzoVenetianMatteWhite001 Tiles05 TilesMarbleChevronCreamGrey001 TilesMarbleSageGreenBrickBondHoned001
    TilesOnyxOpaloBlack001 TilesRectangularMirrorGray001 WallMedieval003 WaterDropletsMixedBubbled001 WoodFineDark004
    WoodFlooring044 WoodFlooring061 WoodFlooringMahoganyAfricanSanded001 WoodFlooringMerbauBrickBondNatural001
    WoodPlanks028 WoodPlanksWorn33 WoodQuarteredChiffon001

    BrickOldRed001 CarpetPlushDesignerRhombus001 ChainmailGoldRounded001 ChippedPaint015 CliffJagged007
    DrywallPrepared007 FabricUpholsteryPyramidsPattern001 GroundClay006 GroundClay008 GroundDirtForestRoots004
    GroundDirtRocky006 GroundGrassGreen GroundRocky006 GroundRocky014 GroundSandFootprintsLeaves001 MetalSiding004
    MetalStainlessSteelBraided001 PanelsAcousticFoamTiles004 PlasterSloppy RoofTilesCeramic001 RoofTilesCopper003
    RoofTilesQuarry001 RustPlain030 SteelFloorDiamond001 TilesTerrazzoPalladianaHonedGreen001
"""
MATERIALS = tuple(
    sorted(["mymetal", "rubber", "tabularasa", "whitemarble", *(f"poliigon{m.lower()}" for m in _MATERIALS.split())])
)
"""Of objects and grounds, as the metadata writes them: those of all variants but outd, then outd's, sorted together."""

_CODES = {"size": SIZES, "material": MATERIALS, "shape": SHAPES, "color": COLORS}
_NUMBERS = {"3d_coords": 3, "pixel_coords": 3, "rotation": 1}
_MAX_JSON_BYTES = 2**20
_MAX_MANIFEST_BYTES = 2**26
_FILE = re.compile(r"CLEVRTEX_(\w+?)_(\d{6})(\.png|_flat\.png|\.json)")
_RECORD = re.compile(r"(?:.*\D)?(\d{1,9})\.npz")
_MANIFEST = "manifest_ind.json"


def folder_kind(path: Path) -> Literal["clevrtex", "npz", None]:
    """Which of the two a folder is, by the names of the files in it and below it.

    None for another one, such as one with pictures of other names directly in it.
    """
    for folder, names in _walk(path):
        if any(map(_FILE.fullmatch, names)):
            return "clevrtex"
        if _MANIFEST in names:
            return "npz"
        if folder == path and any(Path(name).suffix.lower() in SUFFIXES for name in names):
            return None
        if any(map(_RECORD.fullmatch, names)):
            return "npz"
    return None


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and every one below it, each with the names of its files; links to folders are not followed."""
    try:
        for folder, _, names in os.walk(root):
            yield Path(folder), names
    except RecursionError as error:
        raise InputError(f"{root} has too many folders inside each other: name the one with the files") from error


def _find(root: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    """The files of a folder and below whose names match."""
    for folder, names in _walk(root):
        for name in names:
            if match := pattern.fullmatch(name):
                yield folder / name, match


def _inside(root: Path, path: Path) -> Path:
    """The file that a path of a folder means; raises InputError where it lies elsewhere or is none."""
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            raise InputError(f"{path} leads out of the folder {root}: put the file itself there")
        if not real.is_file():  # a pipe would be waited for
            raise OSError("it is no file")
    except (OSError, RuntimeError) as error:  # missing, or links in a circle
        raise InputError(f"{path} cannot be read: get it again, it belongs to the data set in {root}") from error
    return real


def _add(found: dict[int, Path], number: int, file: Path) -> None:
    if number in found:
        raise InputError(f"{found[number]} and {file} have the same number: remove one of them")
    found[number] = file


def _in_order(found: dict[int, Path], root: Path) -> list[Path]:
    """Files by number as a list; raises InputError where one is missing."""
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None:
        raise InputError(f"{root} has {len(found)} scenes but lacks number {missing}: they count from 0 without a gap")
    return [found[number] for number in range(len(found))]


def _read_json(path: Path, max_bytes: int) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"more than {max_bytes} bytes")
        return json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): get it again") from error


# ---- ClevrTex --------------------------------------------------------------------------------------------


class ClevrTex:
    """A folder of ClevrTex by position.

    Factors, where there is metadata: x, y, z (world), rotation (as stored), N E float32; pixel_coords (column, row,
    depth), N E 3 float32; size, material and shape, N E uint8 codes of `SIZES`, `MATERIALS` and `SHAPES`; color, only
    of the variant vbg, where objects have one, a code of `COLORS`. The background's material is that of the ground.
    Visibility is 1 for every object of the metadata; without any, for every label of the mask.

    Args:
        path: the folder, with the files at any depth below it.

    Raises:
        InputError: the folder lacks files or holds several variants.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._root = path, path.resolve()
        files: dict[str, dict[int, Path]] = {".png": {}, "_flat.png": {}, ".json": {}}
        self.variant = ""
        for file, match in _find(self._root, _FILE):
            if self.variant not in ("", match[1]):
                raise InputError(f"{path} holds ClevrTex {self.variant} and {match[1]}: name the folder of one of them")
            self.variant = match[1]
            _add(files[match[3]], int(match[2]), file)
        self._images = _in_order(files[".png"], path)
        if not self._images:
            raise InputError(f"{path} has no images of ClevrTex: get the data set again")
        for ending in ("_flat.png", ".json") if files[".json"] else ("_flat.png",):
            missing = next((n for n in range(len(self._images)) if n not in files[ending]), None)
            if missing is not None:
                raise InputError(f"{path} has no file {self._images[missing].stem}{ending}: get the data set again")
        self._masks = [files["_flat.png"][n] for n in range(len(self))]
        self._about = [files[".json"][n] for n in range(len(self))] if files[".json"] else []
        with _open_png(self._images[0], self._root) as picture:
            self.size: Size = (picture.height, picture.width)
        self._keys: list[str] = []
        if self._about:
            objects = self._metadata(0)[1]
            wanted = [*_NUMBERS, "size", "material", "shape", *(["color"] if self.variant == "vbg" else [])]
            self._keys = [key for key in wanted if all(key in one for one in objects)]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._root.name

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: np.ndarray) -> Batch:
        """Scenes by position; see `Source.read`."""
        index = check_indices(indices, self)
        images, masks = [], []  # nothing is allocated before there are pixels: a head can claim any size
        for number in index:
            images.append(self._pixels(self._images[number], ("RGB", "RGBA"))[..., :3])
            masks.append(self._labels(self._masks[number]))
        image = np.array(images, np.uint8).reshape(len(index), *self.size, 3)
        mask = np.array(masks, np.uint8).reshape(len(index), *self.size)
        if not self._about:
            return Batch(image, index, mask, _find_visible(mask, 1 + MAX_OBJECTS))
        known = [self._metadata(number) for number in index]
        visibility = _count([objects for _, objects in known])
        return Batch(image, index, mask, visibility, self._factors(index, known))

    def visibility(self, indices: np.ndarray) -> np.ndarray:
        """N E of the scenes at `indices`, without their images."""
        index = check_indices(indices, self)
        if self._about:
            return _count([self._metadata(number)[1] for number in index])
        masks = [self._labels(self._masks[number]) for number in index]
        return _find_visible(np.array(masks, np.uint8).reshape(len(index), *self.size), 1 + MAX_OBJECTS)

    def _pixels(self, path: Path, modes: tuple[str, ...]) -> np.ndarray:
        """H W ... of a picture, which has one of Pillow's `modes` or is brought to the first of them."""
        with _open_png(path, self._root) as picture:
            if (picture.height, picture.width) != self.size:
                raise InputError(
                    f"{path} has {picture.height} x {picture.width} pixels, the others have "
                    f"{self.size[0]} x {self.size[1]}: get it again"
                )
            return np.array(picture if picture.mode in modes else picture.convert(modes[0]))

    def _labels(self, path: Path) -> np.ndarray:
        labels = self._pixels(path, ("L", "P"))  # the numbers of a palette are the labels
        if labels.max() > MAX_OBJECTS:
            raise InputError(f"{path} has label {labels.max()}, more than {MAX_OBJECTS} objects: get it again")
        return labels

    def _metadata(self, number: int) -> tuple[str, list[dict[str, Any]]]:
        """The ground's material and the objects of a scene."""
        path = _inside(self._root, self._about[number])
        content = _read_json(path, _MAX_JSON_BYTES)
        objects = content.get("objects") if isinstance(content, dict) else None
        if not isinstance(objects, list) or len(objects) > MAX_OBJECTS or not all(isinstance(o, dict) for o in objects):
            raise InputError(f"{path} has no list 'objects' of {MAX_OBJECTS} at most: get it again")
        return str(content.get("ground_material")), objects

    def _factors(self, index: np.ndarray, known: list[tuple[str, list[dict[str, Any]]]]) -> dict[str, np.ndarray]:
        shape = (len(known), 1 + MAX_OBJECTS)
        values: dict[str, np.ndarray] = {
            key: np.zeros(shape, np.uint8) if key in _CODES else np.zeros((*shape, _NUMBERS[key]), np.float32)
            for key in self._keys
        }
        for row, (ground, objects) in enumerate(known):
            if "material" in values:
                values["material"][row, 0] = _code("material", ground)
            for entity, one in enumerate(objects, start=1):
                for key in self._keys:
                    try:
                        value = one[key]
                        values[key][row, entity] = _code(key, value) if key in _CODES else _numbers(key, value)
                    except (KeyError, TypeError, ValueError, OverflowError) as error:
                        path = self._about[index[row]]
                        raise InputError(f"{path}: object {entity} has no sound {key!r}: get it again") from error
        factors: dict[str, np.ndarray] = {}
        for key, array in values.items():
            if key == "3d_coords":
                factors |= {name: array[..., axis] for axis, name in enumerate("xyz")}
            else:
                factors[key] = array[..., 0] if key == "rotation" else array
        return factors

    def describe(self) -> dict[str, Any]:
        """Facts about the folder; see `Source.describe`."""
        names = [name for key in self._keys for name in ("xyz" if key == "3d_coords" else (key,))]
        return {
            "name": self.name,
            "kind": "ClevrTex folder",
            "data_set": f"clevrtex_{self.variant}",
            "num_images": len(self),
            "size": list(self.size),
            "num_entities": 1 + MAX_OBJECTS,
            "masks": True,
            "factors": names,
        }

    def fingerprint(self) -> str:
        """The SHA-256 of the images, masks and metadata in order."""
        return f"sha256:{sha256(_inside(self._root, p) for p in (*self._images, *self._masks, *self._about))}"


@contextmanager
def _open_png(path: Path, root: Path) -> Iterator[Image.Image]:
    """A picture of the folder. What goes wrong while it is used is an InputError too."""
    real = _inside(root, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size, which is judged here, and of odd metadata
            with Image.open(real, formats=("PNG",)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ValueError(f"{picture.width} x {picture.height} is more than {MAX_PIXELS} pixels")
                yield picture
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything for a damaged file
        raise InputError(f"cannot read {path} ({' '.join(str(error).split())}): get it again") from error


def _code(key: str, name: Any) -> int:
    table, name = _CODES[key], str(name).lower()
    return table.index(name) + 1 if name in table else UNKNOWN


def _numbers(key: str, value: Any) -> list[float]:
    values = [float(one) for one in (value if isinstance(value, list) else [value])]
    if len(values) != _NUMBERS[key] or not all(map(math.isfinite, values)):
        raise ValueError(key)
    return values


def _count(scenes: list[list[dict[str, Any]]]) -> np.ndarray:
    """Visibility (N E, float32) of scenes that have so many objects."""
    counts = np.array([len(objects) for objects in scenes], np.int64)
    return (np.arange(1 + MAX_OBJECTS) <= counts[:, None]).astype(np.float32)


def _find_visible(labels: np.ndarray, num_entities: int) -> np.ndarray:
    """Visibility (N E, float32) by label maps N H W. The background counts also where it is covered."""
    visible = find_visible(labels, num_entities)
    visible[:, 0] = 1
    return visible


# ---- records as .npz -------------------------------------------------------------------------------------


class NpzFolder:
    """A data set of DeepMind's with one .npz file per record, by position.

    The files hold the features of the published records: `image` (H W 1 or 3, uint8), `mask` (E H W 1, or H W E 1; 0
    outside), `visibility` (E) and factors (E ...). `manifest_ind.json` names the file of each position; without one it
    is the number at the end of a file's name. Where a data set has several background entities, they are one here.

    Args:
        path: the folder.

    Raises:
        InputError: the folder lacks records, the manifest names files outside of it, or a record is no such thing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._root = path, path.resolve()
        manifest = self._root / _MANIFEST
        found = self._listed(manifest) if manifest.exists() else self._numbered()
        if not found:
            raise InputError(f"{path} holds no .npz records: get the data set again")
        self._files = _in_order(found, path)
        first = read_arrays(_inside(self._root, self._files[0]), max_bytes=MAX_RECORD_BYTES)
        image, mask = first.get("image", np.zeros(0)), first.get("mask", np.zeros(0))
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
            raise InputError(f"{self._files[0]} has no 'image' of H W 3 or H W 1, uint8: it is no record of a data set")
        self.size: Size = image.shape[:2]
        if mask.ndim != 4 or self.size not in (mask.shape[1:3], mask.shape[:2]) or mask.dtype.kind not in "bui":
            raise InputError(f"{self._files[0]} has no 'mask' of E H W 1 for its image: it is no record of a data set")
        self._masks_last = mask.shape[1:3] != self.size
        self._num_stored = mask.shape[2] if self._masks_last else mask.shape[0]
        variant = next((v for v in VARIANTS if (v.image, v.num_entities) == (image.shape, self._num_stored)), None)
        self.data_set = None if variant is None else variant.name
        self._num_background = 1 if variant is None else variant.num_background
        self._num_entities = self._num_stored + 1 - self._num_background
        by_entity = [
            name
            for name, values in first.items()
            if values.shape[:1] == (self._num_stored,) and values.dtype.kind in "buif"
        ]
        self._factors = [name for name in by_entity if name not in ("image", "mask", "visibility")]
        self._told = "visibility" in by_entity and first["visibility"].ndim == 1
        self._kinds = {name: (values.dtype, values.shape) for name, values in first.items()}

    def _listed(self, manifest: Path) -> dict[int, Path]:
        content = _read_json(_inside(self._root, manifest), _MAX_MANIFEST_BYTES)
        if not isinstance(content, dict):
            raise InputError(f"{manifest} does not map positions to files: get it again, or remove it")
        found = {}
        for key, value in content.items():
            path = PurePosixPath(value) if isinstance(value, str) else PurePosixPath("/")
            plain = path.suffix == ".npz" and not path.is_absolute() and ".." not in path.parts
            if not plain or not str(path).isprintable() or not re.fullmatch(r"\d{1,9}", key):
                raise InputError(
                    f"{manifest} says {str(value)[:80]!r} for {key[:20]!r}: name .npz files inside the folder"
                )
            found[int(key)] = self._root / path
        return found

    def _numbered(self) -> dict[int, Path]:
        found: dict[int, Path] = {}
        for file, match in _find(self._root, _RECORD):
            _add(found, int(match[1]), file)
        return found

    def _read_record(self, number: int, names: list[str]) -> dict[str, np.ndarray]:
        path = _inside(self._root, self._files[number])
        record = read_arrays(path, names, MAX_RECORD_BYTES)
        for name in names:
            if name not in record or (record[name].dtype, record[name].shape) != self._kinds[name]:
                raise InputError(f"{path}: {name!r} is missing or not as in {self._files[0].name}: get it again")
        return record

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._root.name

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: np.ndarray) -> Batch:
        """Records by position; see `Source.read`."""
        index = check_indices(indices, self)
        image = np.empty((len(index), *self.size, 3), np.uint8)
        mask = np.empty((len(index), *self.size), np.uint8)
        told = np.empty((len(index), self._num_stored), np.float32)
        factors = {name: np.empty((len(index), *shape), dtype) for name, (dtype, shape) in self._kinds.items()}
        factors = {name: factors[name] for name in self._factors}
        names = ["image", "mask", *self._factors, *(["visibility"] if self._told else [])]
        for row, number in enumerate(index):
            record = self._read_record(number, names)
            image[row] = record["image"]
            mask[row] = self._labels(record["mask"], self._files[number])
            told[row] = record.get("visibility", 0)
            for name, values in factors.items():
                values[row] = record[name]
        trusted = self._told and self._num_background == 1
        return Batch(image, index, mask, told if trusted else _find_visible(mask, self._num_entities), factors)

    def visibility(self, indices: np.ndarray) -> np.ndarray:
        """N E of the records at `indices`, without their images."""
        index = check_indices(indices, self)
        if self._told and self._num_background == 1:
            rows = [self._read_record(number, ["visibility"])["visibility"] for number in index]
            return np.array(rows, np.float32).reshape(len(index), self._num_entities)
        labels = [self._labels(self._read_record(number, ["mask"])["mask"], self._files[number]) for number in index]
        return _find_visible(np.array(labels, np.uint8).reshape(len(index), *self.size), self._num_entities)

    def _labels(self, stored: np.ndarray, path: Path) -> np.ndarray:
        """Masks of one record as labels H W."""
        masks = 255 * (stored[..., 0] != 0).astype(np.uint8)  # some copies have 1 inside
        labels, good = merge_masks(
            (np.moveaxis(masks, -1, 0) if self._masks_last else masks)[None], self._num_background
        )
        if not good[0]:
            raise InputError(f"{path}: its masks do not have exactly one entity at each pixel: get it again")
        return np.asarray(labels[0])

    def describe(self) -> dict[str, Any]:
        """Facts about the folder; see `Source.describe`."""
        return {
            "name": self.name,
            "kind": "folder of .npz records",
            "data_set": self.data_set,
            "num_images": len(self),
            "size": list(self.size),
            "num_entities": self._num_entities,
            "masks": True,
            "factors": self._factors,
        }

    def fingerprint(self) -> str:
        """The SHA-256 of the records in order."""
        return f"sha256:{sha256(_inside(self._root, path) for path in self._files)}"
