"""Results become pictures: sheets for pages and papers, image files for further work.

A sheet is composed pixel by pixel (small images enlarged by a whole factor, never blurred) and annotated
as text, so that PNG is crisp and PDF keeps its fonts. Slot k has the colour `slot_colours(K)[k]`
everywhere but in `comparison_sheet`, whose colours are of objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from PIL import Image
from torch import Tensor

from emorl.errors import InputError
from emorl.files import write_whole
from emorl.metrics.iou import match
from emorl.types import Batch, Inference

_PALETTE = np.array(
    [
        # Okabe & Ito 2008, without its black: the background of too many data sets.
        (230, 159, 0),  # orange
        (86, 180, 233),  # sky blue
        (0, 158, 115),  # bluish green
        (240, 228, 66),  # yellow
        (0, 114, 178),  # blue
        (213, 94, 0),  # vermilion
        (204, 121, 167),  # reddish purple
        # From Paul Tol's schemes: far from all before, from black and from the grey below, under the three
        # kinds of vision that the tests simulate.
        (51, 34, 136),  # indigo
        (221, 204, 119),  # sand
        (136, 34, 85),  # wine
        (238, 102, 119),  # rose
        (153, 153, 51),  # olive
        (17, 119, 51),  # green
        (255, 170, 187),  # pink
    ],
    dtype=np.uint8,
)
_BACKGROUND = np.array((222, 222, 222), dtype=np.uint8)
_EDGE = np.array((190, 190, 190), dtype=np.uint8)
_INK, _FAINT_INK = "#1a1a1a", "#5a5a5a"
_FONT = "DejaVu Sans"  # comes with matplotlib: sheets look the same everywhere
_DPI = 300

_PANEL_PIXELS = 160
"""Smaller images are enlarged to about this many pixels, by a whole factor."""
_MAX_PANEL_PIXELS = 320
"""Larger images are averaged down, by a whole factor."""


def slot_colours(num: int) -> np.ndarray:
    """Colours that tell slots apart, for colour-blind readers too.

    Args:
        num: how many; all are different, and the first 11 are easy to tell apart.

    Returns:
        num 3, uint8 RGB. The first colours do not depend on num.
    """
    index = np.arange(num)
    # Past the end of the palette the colours come again, darker each time.
    shade = 0.72 ** (index // len(_PALETTE))
    return np.rint(_PALETTE[index % len(_PALETTE)] * shade[:, None]).astype(np.uint8)


def decomposition_sheet(
    images: np.ndarray,
    inference: Inference,
    *,
    true_masks: np.ndarray | None = None,
    max_images: int = 8,
    title: str | None = None,
    scores: Sequence[str] | None = None,
    attention: bool = True,
) -> Figure:
    """Lay out what was found in each image: a row per image.

    Columns: image; reconstruction; true masks, each object in the colour of the slot that fits it best
    (objects without a slot in colours of their own, background grey); predicted masks (the winning slot,
    paler where it wins by less); each slot's component, as opaque as its mask, over a checkerboard; the
    slot that wins the attention at each token, for every layer.

    Args:
        images: B H W 3, uint8.
        inference: the result for these images, of the same B, H and W.
        true_masks: B H W, label maps, 0 = background.
        max_images: rows at most.
        title: above the sheet.
        scores: a line for each of the B images, drawn below its row.
        attention: draw the attention, where the model has it.

    Raises:
        InputError: if B, H or W of the arguments differ, or max_images is below 1.
    """
    num_images, num_slots, _, height, width = inference.masks.shape
    _require_shape("images", images.shape, (num_images, height, width, 3))
    if true_masks is not None:
        _require_shape("true_masks", true_masks.shape, (num_images, height, width))
    if scores is not None:
        _require_shape("scores", (len(scores),), (num_images,))
    if min(max_images, num_images) < 1:
        raise InputError(f"{num_images} images, max_images {max_images}: both must be 1 or more")

    rows = slice(0, max_images)
    fit = _Fit(height, width)
    colours = slot_colours(num_slots)
    masks = _numpy(inference.masks[rows])[:, :, 0]  # N K H W
    components = _numpy(inference.components[rows]).transpose(0, 1, 3, 4, 2)  # N K H W 3
    reconstruction = _numpy(inference.reconstruction[rows]).transpose(0, 2, 3, 1)  # N H W 3
    labels = masks.argmax(axis=1)  # N H W

    scene = [
        _Column("Image", [fit(picture) for picture in images[rows]]),
        _Column("Recon.", [fit(_bytes(picture)) for picture in reconstruction]),
    ]
    if true_masks is not None:
        scene.append(_Column("Truth", [fit(m) for m in _coloured_truth(true_masks[rows], labels, num_slots)]))
    scene.append(_Column("Masks", [fit(picture) for picture in _coloured_masks(masks, colours)]))
    slots = []
    for k, colour in enumerate(colours):
        pairs = zip(components[:, k], masks[:, k], strict=True)
        panels = [_over_checkerboard(fit(_bytes(component)), fit(_bytes(mask))) for component, mask in pairs]
        slots.append(_Column(f"slot {k}", panels, colour))
    layers = []
    for number, layer in enumerate(inference.layers if attention else (), start=1):
        winners = _numpy(layer.attention[rows])[:, :, 0].argmax(axis=1)  # N h w
        panels = [fit(_nearest(colours[winner], height, width)) for winner in winners]
        layers.append(_Column(f"layer {number}", panels))
    groups = [_Group("", scene, list(scores[rows]) if scores else []), _Group("Component × mask", slots)]
    if layers:
        groups.append(_Group("Attention", layers))
    return _sheet(groups, title)


def comparison_sheet(
    images: np.ndarray, inferences: Mapping[str, Inference], true_masks: np.ndarray, *, title: str | None = None
) -> Figure:
    """Lay out what several models found in the same images: a row per image, two columns per model.

    Columns: image; true masks; for each model its reconstruction and its masks (the winning slot, paler where it wins
    by less). A slot that wins three quarters of the background is grey. Of the others each has the colour of the
    object that it is matched to, one to one, if it wins half of it; of those left over the one with most of the
    background is grey if none is yet, and the rest have colours of their own.

    Args:
        images: B H W 3, uint8.
        inferences: name of a model -> its result for these images, of the same B, H and W.
        true_masks: B H W, label maps, 0 = background.
        title: above the sheet.

    Raises:
        InputError: if B, H or W of the arguments differ, or there is no image.
    """
    if not len(images):
        raise InputError("no image to show")
    _require_shape("true_masks", true_masks.shape, images.shape[:3])
    fit = _Fit(*images.shape[1:3])
    objects = int(true_masks.max())
    truth = np.concatenate([_BACKGROUND[None], slot_colours(objects)])  # T+1 3
    groups = [
        _Group(
            "",
            [_Column("Image", [fit(image) for image in images]), _Column("Truth", [fit(truth[m]) for m in true_masks])],
        )
    ]
    for name, inference in inferences.items():
        masks = _numpy(inference.masks)[:, :, 0]  # B K H W
        _require_shape(f"masks of {name}", masks[:, 0].shape, images.shape[:3])
        panels = []
        labels = masks.argmax(axis=1)  # B H W
        slots = match(true_masks, labels).predicted  # B T+1
        for shown, label, true, slot in zip(masks, labels, true_masks, slots, strict=True):
            colours = slot_colours(objects + masks.shape[1])[objects:]  # K 3
            behind = np.bincount(label[true == 0], minlength=masks.shape[1]) / max(1, (true == 0).sum())  # K
            background = behind.argmax() if behind.max() >= 0.75 else None
            for t in np.flatnonzero(slot >= 0):
                if slot[t] != background and (label[true == t] == slot[t]).mean() >= 0.5:
                    colours[slot[t]], behind[slot[t]] = truth[t], 0
            if behind.any():
                colours[behind.argmax()] = _BACKGROUND
            panels.append(fit(_coloured_masks(shown[None], colours)[0]))
        pictures = _numpy(inference.reconstruction).transpose(0, 2, 3, 1)
        recon = [fit(_bytes(picture)) for picture in pictures]
        groups.append(_Group(name, [_Column("Recon.", recon), _Column("Masks", panels)]))
    return _sheet(groups, title)


def contact_sheet(batch: Batch, num: int = 16, masks: bool = True, *, title: str | None = None) -> Figure:
    """Show the first scenes of a batch, each with its true masks beside it and its index below.

    Args:
        batch: scenes.
        num: scenes at most.
        masks: draw the masks, where the batch has them: background grey, a colour for each object.
        title: above the sheet.

    Raises:
        InputError: if there is nothing to show.
    """
    num = min(num, len(batch))
    if num < 1:
        raise InputError("there is no image to show: ask for at least 1 from a source that is not empty")
    fit = _Fit(*batch.image.shape[1:3])
    cells = [[fit(picture)] for picture in batch.image[:num]]
    if masks and batch.mask is not None:
        colours = np.concatenate([_BACKGROUND[None], slot_colours(int(batch.mask[:num].max()))])
        for cell, mask in zip(cells, batch.mask[:num], strict=True):
            cell.append(fit(colours[mask]))

    # Across as many cells as make the page about as wide as two thirds more than its height.
    num_across = min(num, max(1, round(math.sqrt(num * 1.6 / len(cells[0])))))
    groups = []
    for column in range(num_across):
        members = range(column, num, num_across)
        panels = [_Column("", [cells[i][part] for i in members]) for part in range(len(cells[0]))]
        groups.append(_Group("", panels, [str(batch.index[i]) for i in members]))
    return _sheet(groups, title)


def traversal_sheet(
    image: np.ndarray,
    reconstruction: np.ndarray,
    slot: np.ndarray,
    rows: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Show what dimensions of a code do: a row for each, a column for each of its values.

    Args:
        image: H W 3, uint8.
        reconstruction: H W 3, float in [0, 1], of the code as it was inferred.
        slot: H W 3, float in [0, 1]: the part of the reconstruction that belongs to the slot.
        rows: for each dimension, S H W 3, float in [0, 1]: pictures with it set to S values.
        names: what to call each dimension.
        title: above the sheet.

    Raises:
        InputError: if there is no row, or not as many names.
    """
    if not rows or len(rows) != len(names):
        raise InputError(f"{len(rows)} rows and {len(names)} names: give one name for each row, at least one")
    fit = _Fit(*image.shape[:2])
    given = [fit(image), fit(_bytes(reconstruction)), fit(_bytes(slot))][: len(rows)]
    values = [_Column("", [fit(_bytes(row[s])) for row in rows]) for s in range(len(rows[0]))]
    captions = ["image", "reconstruction", "this slot"][: len(rows)]
    groups = [_Group("", [_Column("", given)], captions), _Group("from the least value to the greatest", values, names)]
    return _sheet(groups, title)


def posterior_sheet(image: np.ndarray, inference: Inference, row: int = 0, *, title: str | None = None) -> Figure:
    """Show how one image's decomposition comes about: a row for each stochastic layer, then one for each refinement.

    Columns: image; the reconstruction of a sample and its masks (the winning slot, paler where it wins by less); the
    slot that wins the layer's attention at each token; each slot's attention over the image.

    Args:
        image: H W 3, uint8.
        inference: the result of images of this H and W, with its layers decoded and the pictures of every step kept.
        row: which of its images this is.
        title: above the sheet.

    Raises:
        InputError: if there are no layers, or their pictures were not kept.
    """
    layers, steps = inference.layers, inference.steps[1:]
    names = [f"layer {number}" for number in range(1, len(layers) + 1)]
    names += [f"refined, step {number}" for number in range(1, len(steps) + 1)]
    decodings = [layer.decoding for layer in layers] + [step.decoding for step in steps]
    if not layers or None in decodings:
        raise InputError("there is nothing in between to show: give a result with layers, and all pictures kept")
    fit, (height, width) = _Fit(*image.shape[:2]), image.shape[:2]
    colours = slot_colours(inference.masks.shape[1])
    pictures = [fit(_bytes(_numpy(d.reconstruction[row]).transpose(1, 2, 0))) for d in decodings if d is not None]
    masks = [fit(_coloured_masks(_numpy(d.masks[row, None, :, 0]), colours)[0]) for d in decodings if d is not None]
    attention = [_numpy(layer.attention[row, :, 0]) for layer in layers]  # K h w
    winners = [fit(_nearest(colours[weights.argmax(axis=0)], height, width)) for weights in attention]
    over = []
    for k, colour in enumerate(colours):
        alphas = [_bytes(_nearest(weights[k], height, width)) for weights in attention]
        over.append(_Column(f"slot {k}", [_over_checkerboard(fit(image), fit(alpha)) for alpha in alphas], colour))
    found = [_Column("Recon.", pictures), _Column("Masks", masks), _Column("Attention", winners)]
    groups = [_Group("", [_Column("Image", [fit(image)])]), _Group("", found, names)]
    return _sheet([*groups, _Group("Attention of each slot over the image", over)], title)


def save_animation(frames: np.ndarray, path: str | Path, milliseconds: int = 120) -> None:
    """Write pictures S H W 3, float in [0, 1], as an endless animation; the ending of `path` is .webp or .gif.

    Raises:
        InputError: if the ending is another one.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("webp", "gif"):
        raise InputError(f"cannot write the animation {path.name}: end its name in .webp or .gif")
    fit = _Fit(*frames.shape[1:3])
    pictures = [Image.fromarray(fit(_bytes(frame))) for frame in frames]
    options = {"lossless": True} if kind == "webp" else {}
    _write(
        path,
        lambda file: pictures[0].save(
            file,
            format=kind.upper(),
            save_all=True,
            append_images=pictures[1:],
            duration=milliseconds,
            loop=0,
            **options,
        ),
    )


def check_figure_path(path: Path) -> None:
    """Raises InputError if the ending is neither .png nor .pdf."""
    if path.suffix.lower() not in (".png", ".pdf"):
        raise InputError(f"cannot write the figure {path.name}: end its name in .png or .pdf")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all; folders on the way are made.

    Args:
        figure: what a function of this module returns.
        path: its ending, .png or .pdf, chooses the format.

    Raises:
        InputError: if the ending is another one.
    """
    path = Path(path)
    check_figure_path(path)
    kind = path.suffix.lower().removeprefix(".")
    # Without a date the same figure is the same file.
    metadata = {"CreationDate": None} if kind == "pdf" else None
    _write(path, lambda file: figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata))


def write_picture_outputs(folder: str | Path, name: str, inference: Inference, row: int) -> list[Path]:
    """Write one image's decomposition as files for other programs.

    `<name>_masks.png`: palette picture whose pixel values are the winning slots, shown in their colours.
    `<name>_reconstruction.png`: RGB. And for each slot k: `<name>_slot<k>_mask.png`, grey, 255 times the
    probability; `<name>_slot<k>.png`, RGBA, the component with its mask as alpha.

    Args:
        folder: made where it does not exist.
        name: how the file names begin.
        inference: results of B images, K at most 256.
        row: which of the B images.

    Returns:
        The files, in the order above.

    Raises:
        InputError: if there is no such row, or K is above 256.
    """
    num_images, num_slots = inference.masks.shape[:2]
    if not 0 <= row < num_images:
        raise InputError(f"row {row} does not exist: the result has {num_images} images, counted from 0")
    if num_slots > 256:
        raise InputError(f"{num_slots} slots do not fit into a palette picture: use 256 at most")
    masks = _numpy(inference.masks[row, :, 0])  # K H W
    components = _numpy(inference.components[row]).transpose(0, 2, 3, 1)  # K H W 3

    labels = Image.fromarray(masks.argmax(axis=0).astype(np.uint8), mode="P")
    labels.putpalette(slot_colours(num_slots).tobytes())
    pictures = {
        "masks": labels,
        "reconstruction": Image.fromarray(_bytes(_numpy(inference.reconstruction[row]).transpose(1, 2, 0))),
    }
    for k, (mask, component) in enumerate(zip(masks, components, strict=True)):
        alpha = _bytes(mask)
        pictures[f"slot{k}_mask"] = Image.fromarray(alpha)
        pictures[f"slot{k}"] = Image.fromarray(np.dstack([_bytes(component), alpha]))

    paths = []
    for what, picture in pictures.items():
        paths.append(Path(folder) / f"{name}_{what}.png")
        _write(paths[-1], lambda file, picture=picture: picture.save(file, format="PNG"))
    return paths


# ---- Pixels ----


class _Fit:
    """Bring pictures H W ... to panel size by a whole factor: repeat pixels, or average them."""

    def __init__(self, height: int, width: int) -> None:
        longest = max(height, width)
        self.enlarge = max(1, round(_PANEL_PIXELS / longest))
        self.reduce = math.ceil(longest / _MAX_PANEL_PIXELS)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        if self.reduce > 1:
            return np.asarray(Image.fromarray(picture).reduce(self.reduce))
        return picture.repeat(self.enlarge, axis=0).repeat(self.enlarge, axis=1)


def _numpy(tensor: Tensor) -> np.ndarray:
    result: np.ndarray = tensor.detach().float().cpu().numpy()
    return result


def _bytes(unit_range: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = np.rint(255 * unit_range.clip(0, 1)).astype(np.uint8)
    return scaled


def _nearest(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretch h w ... to height x width by nearest neighbour."""
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    stretched: np.ndarray = picture[rows[:, None], columns]
    return stretched


def _over_checkerboard(picture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lay a picture H W 3 over a light checkerboard: what is clear differs from white and from black."""
    height, width = alpha.shape
    square = max(height, width) / 16
    rows, columns = (np.arange(height) // square)[:, None], np.arange(width) // square
    below = np.where((rows + columns) % 2 == 0, 255, 234)[..., None]
    opacity = alpha[..., None] / 255
    laid: np.ndarray = np.rint(opacity * picture + (1 - opacity) * below).astype(np.uint8)
    return laid


def _coloured_masks(masks: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Masks N K H W -> N H W 3: the hue tells which slot wins, the strength by how much.

    Without the strength, an object would vanish into a background that its slot shares with all others,
    as happens under the Gaussian likelihood on black backgrounds.
    """
    even = 1 / len(colours)
    win = masks.max(axis=1) if even == 1 else (masks.max(axis=1) - even) / (1 - even)  # N H W, in [0, 1]
    strength = (0.4 + 0.6 * win)[..., None]  # never so pale that the hue is lost
    winner = colours[masks.argmax(axis=1)]  # N H W 3
    coloured: np.ndarray = np.rint(strength * winner + (1 - strength) * 255).astype(np.uint8)
    return coloured


def _coloured_truth(true_masks: np.ndarray, labels: np.ndarray, num_slots: int) -> np.ndarray:
    """Label maps N H W -> N H W 3: objects in the colours of their slots, the rest in unused ones."""
    slot = match(true_masks, labels).predicted  # N T
    unused = num_slots + np.arange(slot.shape[1])
    chosen = np.where(slot >= 0, slot, unused)  # N T
    table = slot_colours(num_slots + slot.shape[1])[chosen]  # N T 3
    table[:, 0] = _BACKGROUND
    coloured: np.ndarray = table[np.arange(len(labels))[:, None, None], true_masks]
    return coloured


# ---- The page ----


@dataclass(frozen=True)
class _Column:
    heading: str
    panels: list[np.ndarray]
    """A picture H W 3 for each row, uint8, all of one size."""
    colour: np.ndarray | None = None
    """Of the heading's tab; None for plain text."""


@dataclass(frozen=True)
class _Group:
    heading: str
    columns: list[_Column]
    captions: Sequence[str] = ()
    """A line below each row of the group; none or as many as rows."""


def _wrapped(title: str, size: float, width: float) -> list[str]:
    """Words in bold letters of this size, broken into lines of at most this width where there is room for a word."""
    lines: list[str] = []
    bold = FontProperties(family=_FONT, weight="bold")
    for word in title.encode(errors="surrogateescape").decode(errors="replace").split():  # names may be no UTF-8
        longer = f"{lines[-1]} {word}" if lines else word
        measured = TextPath(
            (0, 0), longer.replace("$", "S"), size=size, prop=bold
        )  # which reads dollars as mathematics
        if lines and measured.get_extents().width <= 0.96 * width:  # small letters are rounded to whole pixels
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _sheet(groups: list[_Group], title: str | None) -> Figure:
    """Set groups side by side, panels edge to edge in pixels, headings above, captions below."""
    panel_height, panel_width = groups[0].columns[0].panels[0].shape[:2]
    num_columns = sum(len(group.columns) for group in groups)
    num_rows = max(len(column.panels) for group in groups for column in group.columns)

    gap = max(4, panel_width // 24)
    group_gap = 4 * gap
    edge = gap // 4
    sheet_width = num_columns * (panel_width + gap) + len(groups) * (group_gap - gap) + group_gap
    # Shown 850 pixels wide, as a README is, letters are still 10 pixels high.
    text = max(13, sheet_width / 85)
    line = round(1.6 * text)

    has_columns_headings = any(column.heading for group in groups for column in group.columns)
    has_group_headings = any(group.heading for group in groups)
    titles = _wrapped(title or "", 1.2 * text, sheet_width - 2 * group_gap)
    title_bottom = group_gap + round((1.2 * len(titles) + 0.3) * line if titles else 0)
    tab_top = title_bottom + (round(1.25 * line) if has_group_headings else 0)
    top = tab_top + (line if has_columns_headings else 0)
    pitch = panel_height + gap + (line if any(group.captions for group in groups) else 0)
    sheet_height = top + num_rows * pitch - gap + group_gap

    canvas = np.full((sheet_height, sheet_width, 3), 255, dtype=np.uint8)
    # A hair more than whole pixels: inches times dpi is rounded down to pixels later on.
    figure = Figure(figsize=((sheet_width + 0.01) / _DPI, (sheet_height + 0.01) / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()

    def write(x: float, y: float, words: str, size: float = 1.0, **options: str) -> None:
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": _INK, "family": _FONT} | options
        axes.text(x, y, words, fontsize=size * text * 72 / _DPI, parse_math=False, **style)

    for row, words in enumerate(titles):
        write(group_gap, group_gap + (1.2 * row + 0.5) * line, words, 1.2, ha="left", weight="bold")
    left = group_gap
    for group in groups:
        right = left + len(group.columns) * (panel_width + gap) - gap
        if group.heading:
            write((left + right) / 2, title_bottom + line / 2, group.heading)
        for row, caption in enumerate(group.captions):
            y = top + row * pitch + panel_height + line / 2
            write((left + right) / 2, y, caption, 0.9, color=_FAINT_INK)
        for column in group.columns:
            ink = _INK
            if column.colour is not None:
                red, green, blue = (float(channel) / 255 for channel in column.colour)
                tab = Rectangle((left - edge, tab_top), panel_width + 2 * edge, line, lw=0)
                tab.set_facecolor((red, green, blue))
                axes.add_patch(tab)
                ink = _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white"
            write(left + panel_width / 2, tab_top + line / 2, column.heading, color=ink)
            for row, panel in enumerate(column.panels):
                y = top + row * pitch
                canvas[y - edge : y + panel_height + edge, left - edge : left + panel_width + edge] = _EDGE
                canvas[y : y + panel_height, left : left + panel_width] = panel
            left += panel_width + gap
        left += group_gap - gap

    axes.imshow(canvas, interpolation="nearest", extent=(0, sheet_width, sheet_height, 0), aspect="auto")
    return figure


# ---- Files ----


def _write(path: Path, save: Callable[..., object]) -> None:
    """Let `save` fill a file, whole or not at all; folders on the way are made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    with write_whole(path, overwrite=True) as file:
        save(file)


def _require_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise InputError(f"{name} has the shape {shape}: give the {expected} that belongs to the result")
