"""Compares the CLEVR renderer with real pictures: a scene rebuilt, sheets to look at, and blind trials.

    python benchmarks/clevr_real.py record --out DIR
    python benchmarks/clevr_real.py sheet --out DIR
    python benchmarks/clevr_real.py trial --seed 0 --out DIR

The real pictures are read from the folder `--data`: `clevr_real_record0.npz`, the first record of DeepMind's
CLEVR with masks (image 240 320 3, mask 11 240 320), and `clevr_sample_1.png` to `clevr_sample_4.png`, photos of
320 x 240 without masks. The window of all comparisons but the first is the usual crop, rows 29 to 221 and
columns 64 to 256.

`record` rebuilds the scene of record 0 and renders it. Codes, and the places of the first two objects in the
world and in the picture are known (data set specification, section 1.3). Their depths leave a line of cameras,
of which the rounded columns and rows allow a piece of some tenths of a unit; on it the camera is taken under which
their masks agree best. Places and yaws of the other objects are searched for until the label map agrees with the
masks; a pattern search, because that agreement is a step function. The jitters of the lamps
are fitted to the picture by least squares within their box. Written: `record.png` (real, ours, and 128 plus
four times ours less real), `record_ours.png`, and `record.json` with what was fitted, the masks' intersection
over union, and for each region, away from outlines, the mean absolute and the signed difference by channel.

`sheet` puts eight generated crops beside the five real ones: `sheet.png`, and `sheet.json` with mean and spread
of each picture, the background down the picture, its grain, the sharpness of outlines, and the levels of
generated metal and rubber by colour beside those of record 0. There are no masks for the photos; their
background is what has little colour, and the same rule is used for all.

`trial` shuffles the five real crops among five generated ones with as many objects: `trial_S/pictures/0.png` to
`9.png`, and the answers in `trial_S/key/key.json`. All are cropped alike and written alike. None goes through
JPEG: the real ones show no grid of blocks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.optimize import least_squares

from emorl.data.clevr.labels import label_maps
from emorl.data.clevr.render import render
from emorl.data.clevr.scene import (
    AREA,
    CAMERA,
    COLORS,
    FOCAL,
    HEIGHT,
    LAMP_JITTER,
    LAMPS,
    MATERIALS,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    WIDTH,
    Scenes,
    project,
    view_axes,
)
from emorl.data.clevr.source import Clevr, ClevrConfig

ROWS, COLS = (29, 221), (64, 256)
MARGIN = 2
"""Pixels around outlines that are left out."""
CPU = torch.device("cpu")

# Record 0, data set specification, section 1.3.
COLOR = (1, 2, 3, 1, 1, 4, 5)
MATERIAL = (1, 1, 2, 2, 1, 2, 2)
SHAPE = (1, 2, 1, 1, 3, 3, 3)
SIZE = (1, 1, 2, 2, 2, 2, 1)
KNOWN = ((0.754801, 1.772223, 206.8757), (1.661774, -0.613287, 158.63943))
"""x, y and rotation of the first objects."""
KNOWN_PIXELS = np.array([(216, 92, 11.397213), (184, 127, 9.417616)])
"""Their centres in the picture: column and row are rounded, the depth is exact."""

NUM_OBJECTS = (7, 5, 9, 6, 9)
"""Of the real pictures, in the order of `real_pictures`."""
BACKGROUND_CHROMA = 14
"""Largest difference between the channels of a pixel that counts as background where there are no masks."""
LAMP_STEP = 0.06
FLAT = 8
"""Grey levels over 5 x 5 pixels within which grain is measured."""
BAND = 24
"""Rows over which the background's median is taken."""


def real_record(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Image (H W 3 uint8) and labels (H W) of record 0."""
    with np.load(data / "clevr_real_record0.npz") as record:
        return record["image"], record["mask"].argmax(axis=0)


def real_pictures(data: Path) -> dict[str, np.ndarray]:
    """The five real pictures, H W 3 uint8, by name."""
    pictures = {"record0": real_record(data)[0]}
    for number in range(1, 5):
        with Image.open(data / f"clevr_sample_{number}.png") as photo:
            pictures[f"photo{number}"] = np.array(photo.convert("RGB"))
    return pictures


def crop(image: np.ndarray) -> np.ndarray:
    """The usual window."""
    return image[slice(*ROWS), slice(*COLS)]


# ---- record ---------------------------------------------------------------------------------------------------


def pad(values: np.ndarray) -> np.ndarray:
    """What objects have (O ...), with zeros for the empty places of the scene."""
    padded: np.ndarray = np.pad(values, [(0, MAX_OBJECTS - len(values))] + [(0, 0)] * (values.ndim - 1))
    return padded


def scenes_of(camera: np.ndarray, poses: np.ndarray, jitter: np.ndarray | None = None) -> Scenes:
    """Record 0 seen by a camera (3), with objects at poses (N O 3: x, y, yaw) and lamps moved by jitters (9)."""
    num = len(poses)
    lamps = np.array([lamp.position for lamp in LAMPS])
    if jitter is not None:
        lamps = lamps + jitter.reshape(3, 3)
    codes = (np.tile(pad(np.array(code)), (num, 1)) for code in (SIZE, MATERIAL, SHAPE, COLOR))
    size, material, shape, color = codes
    filled = np.stack([pad(pose) for pose in poses])
    return Scenes(
        camera=np.tile(camera, (num, 1)),
        lamps=np.tile(lamps, (num, 1, 1)),
        num_objects=np.full(num, len(COLOR)),
        position=filled[..., :2],
        rotation=filled[..., 2],
        size=size,
        material=material,
        shape=shape,
        color=color,
    )


def unproject(camera: np.ndarray, col: float, row: float, z: float) -> np.ndarray:
    """The point (3) at height z that a camera (3) sees at a place of the picture."""
    right, up, back = view_axes(camera[None])[0]
    direction = (col - WIDTH / 2) / FOCAL * right - (row - HEIGHT / 2) / FOCAL * up - back
    point: np.ndarray = camera + (z - camera[2]) / direction[2] * direction
    return point


def intersection_over_union(found: np.ndarray, real: np.ndarray, number: int) -> np.ndarray:
    """N: of one label in label maps (N H W) and a real one (H W)."""
    mine, theirs = found == number, real == number
    shared: np.ndarray = (mine & theirs).sum(axis=(1, 2)) / (mine | theirs).sum(axis=(1, 2))
    return shared


def fit_camera(labels: np.ndarray) -> np.ndarray:
    """3: the camera's position, from the objects whose places are known."""
    centers = np.array([(x, y, SIZES[size - 1]) for (x, y, _), size in zip(KNOWN, SIZE, strict=False)])

    def camera_with(col: float) -> np.ndarray:
        """That shows the first centre in a column, and both at their depths."""

        def miss(camera: np.ndarray) -> np.ndarray:
            seen = project(camera[None], centers[None])[0]
            return np.array([seen[0, 0] - col, *(100 * (seen[:, 2] - KNOWN_PIXELS[:, 2]))])

        return np.asarray(least_squares(miss, CAMERA, xtol=1e-12, ftol=1e-12).x)

    poses = np.zeros((1, len(COLOR), 3))
    poses[0, : len(KNOWN)] = KNOWN
    # the others far behind the picture, where they hide nothing
    poses[0, len(KNOWN) :, :2] = (-40, 40)
    known = np.isin(labels, [0, *range(1, 1 + len(KNOWN))])

    def score(camera: np.ndarray) -> float:
        found = label_maps(scenes_of(camera, poses), CPU).numpy() * known
        return float(sum(intersection_over_union(found, labels, 1 + k)[0] for k in range(len(KNOWN))))

    cameras = [camera_with(col) for col in KNOWN_PIXELS[0, 0] + np.arange(-0.5, 0.5, 0.02)]
    return max(cameras, key=score)


def fit_poses(camera: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """O 3: x, y and yaw of the objects, by a pattern search on the agreement of labels, object by object."""
    num = len(COLOR)
    poses = np.zeros((num, 3))
    poses[: len(KNOWN)] = KNOWN
    unknown = range(len(KNOWN), num)
    for place in unknown:
        rows, cols = np.nonzero(labels == 1 + place)
        # the middle of the mask's box: steadier than its centroid where another object hides a part
        middle = (cols.min() + cols.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
        poses[place, :2] = unproject(camera, *middle, SIZES[SIZE[place] - 1])[:2].clip(-AREA, AREA)
    for sweep in range(3):
        for place in unknown:
            cube = SHAPES[SHAPE[place] - 1] == "cube"
            best, score = poses, -1.0
            if sweep == 0 and cube:
                turned = np.repeat(poses[None], 9, axis=0)
                turned[:, place, 2] = np.arange(9) * np.pi / 18
                scores = agreement(camera, turned, labels, place)
                best = turned[scores.argmax()]
            step = 0.2 if sweep == 0 else 0.02
            while step > 0.001:
                axes = (-1, 0, 1)
                moves = np.array([(i, j, k) for i in axes for j in axes for k in (axes if cube else (0,))])
                trial = np.repeat(best[None], len(moves), axis=0)
                trial[:, place] += step * moves
                scores = agreement(camera, trial, labels, place)
                if scores.max() > score + 1e-9:
                    best, score = trial[scores.argmax()], scores.max()
                else:
                    step /= 2
            poses = best
    return poses


def agreement(camera: np.ndarray, poses: np.ndarray, labels: np.ndarray, place: int) -> np.ndarray:
    """N: of one object's labels with the real ones, for several sets of poses."""
    return intersection_over_union(label_maps(scenes_of(camera, poses), CPU).numpy(), labels, 1 + place)


def inner(labels: np.ndarray) -> np.ndarray:
    """H W bool: away from outlines."""
    same: np.ndarray = maximum_filter(labels, 2 * MARGIN + 1) == minimum_filter(labels, 2 * MARGIN + 1)
    return same


def picture(camera: np.ndarray, poses: np.ndarray, jitter: np.ndarray) -> np.ndarray:
    """H W 3 uint8: the rebuilt scene."""
    return render(scenes_of(camera, poses[None], jitter), CPU, (0, HEIGHT), (0, WIDTH))[0].numpy()


def fit_lamps(image: np.ndarray, labels: np.ndarray, camera: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """9: jitters of the key, fill and back lamp, from the ground and the rubber objects, within their box.

    Metal is left out: its highlights are either met or missed, and have no slope to follow.
    """
    rubber = 1 + np.flatnonzero(np.array(MATERIAL) == 1 + MATERIALS.index("rubber"))
    used = inner(labels) & np.isin(labels, [0, *rubber])
    used[1::2] = used[:, 1::2] = False  # light changes slowly
    scale = np.sqrt(used.sum())

    def residual(jitter: np.ndarray) -> np.ndarray:
        difference: np.ndarray = (picture(camera, poses, jitter).astype(float) - image)[used].ravel() / scale
        return difference

    def slopes(jitter: np.ndarray) -> np.ndarray:
        # 8-bit pictures need a step that one sees; the renderer does not mind a lamp outside its box
        moves = LAMP_STEP * np.eye(9)
        return np.stack([(residual(jitter + m) - residual(jitter - m)) / (2 * LAMP_STEP) for m in moves], axis=1)

    # robust: shadows and highlights that disagree should not turn the lamps
    found = least_squares(
        residual,
        np.zeros(9),
        slopes,
        bounds=(-LAMP_JITTER, LAMP_JITTER),
        loss="soft_l1",
        f_scale=2 / scale,
        xtol=1e-4,
        ftol=1e-4,
        max_nfev=25,
    )
    return np.asarray(found.x)


def region_report(real: np.ndarray, ours: np.ndarray, chosen: np.ndarray) -> dict[str, object]:
    """Differences and levels over some pixels."""
    a, b = real[chosen].astype(float), ours[chosen].astype(float)
    return {
        "pixels": int(chosen.sum()),
        "absolute": round(abs(b - a).mean(), 2),
        "signed_rgb": (b - a).mean(axis=0).round(1).tolist(),
        "real_rgb": a.mean(axis=0).round(1).tolist(),
        "ours_rgb": b.mean(axis=0).round(1).tolist(),
        "real_5_50_95": np.percentile(a.mean(axis=1), (5, 50, 95)).round(0).tolist(),
        "ours_5_50_95": np.percentile(b.mean(axis=1), (5, 50, 95)).round(0).tolist(),
    }


def record(data: Path, out: Path) -> None:
    """Rebuilds and renders record 0."""
    image, labels = real_record(data)
    camera = fit_camera(labels)
    print("camera", camera.round(4).tolist(), flush=True)
    poses = fit_poses(camera, labels)
    found = label_maps(scenes_of(camera, poses[None]), CPU).numpy()
    shared = [float(intersection_over_union(found, labels, 1 + k)[0]) for k in range(len(COLOR))]
    names = [
        f"{1 + k} {('large', 'small')[SIZE[k] - 1]} {COLORS[COLOR[k] - 1]} "
        f"{MATERIALS[MATERIAL[k] - 1]} {SHAPES[SHAPE[k] - 1]}"
        for k in range(len(COLOR))
    ]
    for name, value, pose in zip(names, shared, poses, strict=True):
        print(f"{name:32} IoU {value:.3f}  x y yaw {pose.round(3)}", flush=True)
    print(f"{'mean':32} IoU {np.mean(shared):.3f}", flush=True)

    jitter = fit_lamps(image, labels, camera, poses)
    print("jitters of key, fill, back:", jitter.reshape(3, 3).round(2).tolist(), flush=True)
    ours = picture(camera, poses, jitter)
    both = inner(labels) & (found[0] == labels)
    regions = {"ground": both & (labels == 0)}
    regions |= {name: both & (labels == 1 + k) for k, name in enumerate(names)}
    report = {name: region_report(image, ours, chosen) for name, chosen in regions.items()}
    for name, values in report.items():
        print(f"{name:32} {values}", flush=True)
    difference = (128 + 4 * (ours.astype(float) - image)).clip(0, 255).astype(np.uint8)
    enlarged(np.concatenate([image, ours, difference], axis=1), 3).save(out / "record.png")
    Image.fromarray(ours).save(out / "record_ours.png")
    write_json(
        out / "record.json",
        {
            "iou": dict(zip(names, shared, strict=True)),
            "mean_iou": float(np.mean(shared)),
            "camera": camera.tolist(),
            "poses": poses.tolist(),
            "lamp_jitter": jitter.reshape(3, 3).tolist(),
            "regions": report,
        },
    )


# ---- sheet ----------------------------------------------------------------------------------------------------


def picture_report(image: np.ndarray) -> dict[str, object]:
    """Numbers of a crop (192 192 3) that need no masks."""
    levels = image.astype(float)
    grey = np.ptp(levels, axis=2) < BACKGROUND_CHROMA
    bands = [levels[k : k + BAND][grey[k : k + BAND]] for k in range(0, len(levels), BAND)]
    mean = levels.mean(axis=2)
    bend = 4 * mean[1:-1, 1:-1] - mean[:-2, 1:-1] - mean[2:, 1:-1] - mean[1:-1, :-2] - mean[1:-1, 2:]
    flat = (maximum_filter(mean, 5) - minimum_filter(mean, 5))[1:-1, 1:-1] < FLAT
    steps = abs(np.diff(levels.mean(axis=2), axis=1))
    return {
        "mean": levels.mean(axis=(0, 1)).round(1).tolist(),
        "std": levels.std(axis=(0, 1)).round(1).tolist(),
        "background_bands": [np.median(band, axis=0).tolist() for band in bands],
        "grain": round(float(bend[flat].std()) / 20**0.5, 2),
        "steepest_steps_99_999": np.percentile(steps, (99, 99.9)).round(1).tolist(),
        "percentiles_1_5_50_95_99": np.percentile(levels.mean(axis=2), (1, 5, 50, 95, 99)).round(0).tolist(),
        "pixels_at_255": int((image == 255).any(axis=2).sum()),
    }


def material_report(
    image: np.ndarray, labels: np.ndarray, codes: dict[str, np.ndarray]
) -> dict[str, dict[str, object]]:
    """Levels of objects by material and colour over pictures (N H W 3), labels (N H W), codes (N 1 + O)."""
    report: dict[str, dict[str, object]] = {}
    rows = np.arange(len(labels))[:, None, None]
    for m, material in enumerate(MATERIALS, 1):
        for c, color in enumerate(COLORS, 1):
            chosen = (codes["material"][rows, labels] == m) & (codes["color"][rows, labels] == c)
            if not chosen.any():
                continue
            levels = image[chosen].astype(float)
            report[f"{material} {color}"] = {
                "pixels": len(levels),
                "mean_rgb": levels.mean(axis=0).round(1).tolist(),
                "grey_5_50_95": np.percentile(levels.mean(axis=1), (5, 50, 95)).round(0).tolist(),
            }
    return report


def sheet(data: Path, out: Path, seed: int) -> None:
    """Eight generated crops beside the five real ones."""
    real = {name: crop(image) for name, image in real_pictures(data).items()}
    batch = Clevr(seed, 8).read_window(np.arange(8), ROWS, COLS)
    assert batch.mask is not None and batch.factors is not None
    pictures = real | {f"ours{k}": image for k, image in enumerate(batch.image)}
    image, labels = real_record(data)
    codes = {"material": pad_codes(MATERIAL), "color": pad_codes(COLOR)}
    report = {
        "pictures": {name: picture_report(values) for name, values in pictures.items()},
        "materials_ours": material_report(np.asarray(batch.image), np.asarray(batch.mask), batch.factors),
        "materials_record0": material_report(image[None], labels[None], codes),
    }
    for section, values in report.items():
        print(section)
        for name, numbers in values.items():
            print(f"  {name:16} {numbers}", flush=True)
    blank = np.full_like(real["record0"], 255)
    upper = [*real.values(), *[blank] * 3]
    lower = [pictures[f"ours{k}"] for k in range(8)]
    grid = np.concatenate(
        [
            np.concatenate(upper[:4], 1),
            np.concatenate(upper[4:], 1),
            np.concatenate(lower[:4], 1),
            np.concatenate(lower[4:], 1),
        ]
    )
    enlarged(grid, 2).save(out / "sheet.png")
    for name, values in pictures.items():
        Image.fromarray(values).save(out / f"sheet_{name}.png")
    write_json(out / "sheet.json", report)


def pad_codes(codes: tuple[int, ...]) -> np.ndarray:
    """1 11: codes of one scene with the background's row, as in the files."""
    padded: np.ndarray = np.pad(pad(np.array(codes)), (1, 0))[None]
    return padded


# ---- trial ----------------------------------------------------------------------------------------------------


def trial(data: Path, out: Path, seed: int) -> None:
    """Ten crops in a random order, five of them real."""
    random = np.random.default_rng(seed)
    entries = [(name, crop(image)) for name, image in real_pictures(data).items()]
    for number, num_objects in enumerate(NUM_OBJECTS):
        source = Clevr(1000 + seed, 1 + number, ClevrConfig((num_objects, num_objects)))
        image = np.asarray(source.read_window(np.array([number]), ROWS, COLS).image[0])
        entries.append((f"generated, {num_objects} objects", image))
    folder = out / f"trial_{seed}"
    pictures, key = folder / "pictures", folder / "key"
    pictures.mkdir(parents=True, exist_ok=True)
    key.mkdir(exist_ok=True)
    answers = {}
    for place, chosen in enumerate(random.permutation(len(entries))):
        name, image = entries[chosen]
        Image.fromarray(image).save(pictures / f"{place}.png")
        answers[f"{place}.png"] = name
    write_json(key / "key.json", answers)
    print(f"pictures in {pictures}, answers in {key}")


# ---- command line ---------------------------------------------------------------------------------------------


def enlarged(image: np.ndarray, times: int) -> Image.Image:
    """A picture with each pixel as a square."""
    return Image.fromarray(image.repeat(times, axis=0).repeat(times, axis=1))


def write_json(path: Path, values: object) -> None:
    """Numbers for later."""
    path.write_text(json.dumps(values, indent=1) + "\n")


def main() -> None:
    """See the head of this file."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real pictures")
    common.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser = argparse.ArgumentParser(description="Compares the CLEVR renderer with real pictures.")
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("record", parents=[common], help="rebuild the scene of a real record")
    for name, text in (("sheet", "generated beside real crops"), ("trial", "ten shuffled crops, five of them real")):
        part = parts.add_parser(name, parents=[common], help=text)
        part.add_argument("--seed", type=int, default=0, help="of the generated scenes")
    chosen = parser.parse_args()
    names = ["clevr_real_record0.npz", *(f"clevr_sample_{number}.png" for number in range(1, 5))]
    missing = [name for name in names if not (chosen.data / name).is_file()]
    if missing:
        parser.error(f"{chosen.data} has no {missing[0]}: give the folder of the real pictures by --data")
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.part == "record":
        record(chosen.data, chosen.out)
    elif chosen.part == "sheet":
        sheet(chosen.data, chosen.out, chosen.seed)
    else:
        trial(chosen.data, chosen.out, chosen.seed)


if __name__ == "__main__":
    main()
