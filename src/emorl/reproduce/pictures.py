"""Pictures of scenes: decompositions, what comes before the result, traversals, and how far a change reaches.

They show the first finished seed, never the best, and scenes of the test split by their position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from emorl.errors import InputError
from emorl.evaluation import infer, score
from emorl.figures import decomposition_sheet, posterior_sheet
from emorl.metrics.error import mse
from emorl.metrics.iou import match
from emorl.models.base import InferOptions
from emorl.representation import are_active, locality
from emorl.reproduce.claims import Numbers
from emorl.reproduce.lab import Lab
from emorl.reproduce.output import Content, Table, notice
from emorl.reproduce.published import TABLE3
from emorl.reproduce.tables import DCI, Column, scores, written
from emorl.results import Known
from emorl.runs import read_json
from emorl.traverse import ranges, slot_sheet, traversed

Draw = Callable[[Known, str], Figure]
"""The picture of a run, under a title."""


def sheets(lab: Lab, runs: Mapping[str, str], draw: Draw) -> Content:
    """A picture of each experiment; where there is no run, the command that is missing."""
    figures, sources = [], {}
    for label, name in runs.items():
        drawn = lab.ask(name, partial(_titled, draw=draw, label=label), most=1)
        sources[label] = f"shown: seed {next(iter(drawn))}" if drawn else lab.told(name, drawn)
        figures.append(next(iter(drawn.values())) if drawn else notice(label, sources[label]))
    return Content({}, sources, figures=figures)


def _titled(known: Known, draw: Draw, label: str) -> Figure:
    return draw(known, f"{label}: {known.folder.name}")


def decomposition(known: Known, title: str, *, first: int, count: int) -> Figure:
    """Test scenes from position `first` on, taken apart, with the ARI of each and of the whole test split."""
    model, _ = known.weights
    scenes = known.feed().source.read(np.arange(first, first + count))
    values, found = score(model, scenes, InferOptions(), 0)
    mean = known.results()["foreground_ari"]["mean"]
    return decomposition_sheet(
        scenes.image,
        found,
        true_masks=scenes.mask,
        title=f"{title}, foreground ARI of its test scenes {mean:.3f}",
        scores=[f"foreground ARI {value:.2f}" for value in values["foreground_ari"]],
    )


def posteriors(known: Known, title: str, *, position: int) -> Figure:
    """What the layers of bottom-up inference see of a test scene, then what refinement makes of it."""
    model, _ = known.weights
    scenes = known.feed().source.read(np.array([position]))
    options = InferOptions(keep_steps=True, decode_layers=True)
    return posterior_sheet(scenes.image[0], infer(model, scenes, options, 0), title=title)


def traversal(known: Known, title: str, *, position: int, dimensions: int) -> Figure:
    """The most active dimensions of the code of the first object of a test scene."""
    model, _ = known.weights
    source = known.feed().source
    understood = ranges(model, source, 7, 0, known.advance)
    scenes = source.read(np.array([position]))
    found = infer(model, scenes, InferOptions(sample=False), 0)
    labels = found.masks[:, :, 0].argmax(dim=1).cpu().numpy()
    assert scenes.mask is not None
    slot = max(0, int(match(scenes.mask, labels).predicted[0, 1]))
    rows = traversed(model, scenes.image[0], found, slot, understood, dimensions)
    told = f"{title}; a row for each dimension of this slot's code, named after what it serves better than the others"
    return slot_sheet(scenes.image[0], found, slot, understood, rows, told)


# -------------------------------------------------------------------- with numbers


def layer_errors(known: Known) -> dict[str, Any]:
    """MSE of each layer's own sample, decoded, over that of the result, on 64 test scenes."""

    def measure() -> dict[str, Any]:
        model, _ = known.weights
        source = known.feed().source
        scenes = source.read(np.arange(min(64, len(source))))
        found = infer(model, scenes, InferOptions(decode_layers=True), 0)
        pictures = [layer.decoding.reconstruction for layer in found.layers if layer.decoding is not None]
        errors = [
            float(mse(scenes.image, picture.permute(0, 2, 3, 1).cpu().numpy()).mean())
            for picture in (*pictures, found.reconstruction)
        ]
        return {"over_result": [error / errors[-1] for error in errors[:-1]]}

    return known.kept("layer errors", measure)


def intermediate(lab: Lab, runs: Mapping[str, str], position: int) -> Content:
    """The sheets of `posteriors`, with how much worse the first layer's reconstruction is than the result."""
    numbers: dict[str, dict[str, list[float]]] = {}
    for label, name in runs.items():
        found = lab.ask(name, layer_errors)
        numbers[label] = {"MSE of layer 1 over that of the result": [row["over_result"][0] for row in found.values()]}
    drawn = sheets(lab, runs, partial(posteriors, position=position))
    return Content(numbers, drawn.sources, figures=drawn.figures)


def disentanglement(lab: Lab, runs: Mapping[str, str], position: int) -> Content:
    """Traversals, the activeness of every dimension of the code, and DCI."""
    table = scores(lab, runs, [*DCI, ACTIVE], TABLE3, codes=True)
    drawn = sheets(lab, runs, partial(traversal, position=position, dimensions=6))
    active = {
        label: [known["codes"]["activeness"]["values"] for known in lab.ask(name, _with_codes).values()]
        for label, name in runs.items()
    }
    maps = [_heat_maps(active, table.sources)]
    return Content(table.numbers, table.sources, table.table, [*drawn.figures, *maps], {"activeness": active})


def _with_codes(known: Known) -> dict[str, Any]:
    return known.results(codes=True)


def _active_share(results: dict[str, Any]) -> float | None:
    values = results.get("codes", {}).get("activeness", {}).get("values")
    return None if not values else float(are_active(np.array(values)).mean())


ACTIVE = Column("active share", _active_share)


def _heat_maps(active: Mapping[str, list[list[float]]], sources: Mapping[str, str]) -> Figure:
    """For every run a row of cells, one for each dimension of the code, most active first; one scale for all."""
    figure = Figure(figsize=(10, 1.0 + 1.1 * len(active)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    told = "Activeness: how much each dimension of a slot's code changes the picture, most active first"
    figure.suptitle(told, size=11)
    values = [x for rows in active.values() for row in rows for x in row if x > 0]
    norm = LogNorm(max(min(values), 1e-4 * max(values)), max(values), clip=True) if values else None
    for axes, (label, rows) in zip(figure.subplots(len(active), 1, squeeze=False)[:, 0], active.items(), strict=True):
        axes.set_title(label, loc="left", size=9)
        axes.set_xticks([])
        axes.set_yticks([])
        if not rows:
            axes.text(0.01, 0.5, sources[label], va="center", size=8, family="DejaVu Sans Mono")
            continue
        cells = axes.imshow([sorted(row, reverse=True) for row in rows], aspect="auto", norm=norm, cmap="cividis")
        axes.set_xlabel(f"{len(rows[0])} dimensions; a row for each seed", size=8)
        figure.colorbar(cells, ax=axes, label="variance")
    return figure


def leaks(lab: Lab, runs: Mapping[str, str], num_images: int, position: int) -> Content:
    """How far a change of one slot's code reaches into the rest of the picture."""

    def measure(known: Known) -> dict[str, Any]:
        def anew() -> dict[str, Any]:
            source = known.feed().source
            scenes = source.read(np.arange(min(num_images, len(source))))
            return locality(known.weights[0], scenes, progress=known.advance)

        return known.kept(f"locality, {num_images} images", anew)

    numbers: dict[str, dict[str, list[float]]] = {}
    rows = []
    for label, name in runs.items():
        found = lab.ask(name, measure)
        ari = lab.ask(name, lambda known: known.results()["foreground_ari"]["mean"])
        leak = [row["leak"] for row in found.values() if row["leak"] is not None]
        numbers[label] = {"leak": leak, "foreground ARI": list(ari.values())}
        told = lab.told(name, found)
        rows.append([label, written(leak, ".3f") if found else told, written(list(ari.values()), ".3f"), told])
    drawn = sheets(lab, runs, partial(traversal, position=position, dimensions=2))
    table = Table(["", "share of the change outside the slot", "foreground ARI", "seeds"], rows)
    return Content(numbers, drawn.sources, table, drawn.figures)


# -------------------------------------------------------------------- time and memory


def benchmark(lab: Lab, runs: Mapping[str, str], draw: Callable[[list[dict[str, Any]]], Figure]) -> Content:
    """A picture of the rows that `emorl benchmark --sweep --json` wrote, which takes no runs."""
    path = next((path for path in lab.benchmark if path.is_file()), None)
    if path is None:
        told = f"not run: emorl benchmark --sweep --json {lab.benchmark[0]}"
        return Content({}, {"benchmark": told}, figures=[notice("Time and memory", told)])
    rows = read_json(path)
    try:
        return Content(_ratios(rows), {"benchmark": str(path)}, figures=[draw(rows)], details={"rows": rows})
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not what emorl benchmark --sweep --json writes") from None


def _ratios(rows: list[dict[str, Any]]) -> Numbers:
    """How much longer IODINE takes than EfficientMORL without refinement at the largest size: ratio and its range."""
    timed = [row for row in rows if row["what"] in ("forward", "step") and row.get("ours_s")]
    largest = max((row["config"]["size"] for row in timed), default=None)
    seconds = {
        (row["what"], row["config"]["name"]): (row["ours_s"], *row["ours_range_s"])
        for row in timed
        if row["config"]["size"] == largest
    }
    numbers: dict[str, dict[str, list[float]]] = {}
    for name in ("IODINE", "IODINE, flattened"):
        for what in ("forward", "step"):
            theirs, ours = seconds.get((what, name)), seconds.get((what, "E-0"))
            ratios = [theirs[0] / ours[0], theirs[1] / ours[2], theirs[2] / ours[1]] if theirs and ours else []
            numbers.setdefault(name, {})[f"{what} over that of E-0"] = ratios
    return numbers
