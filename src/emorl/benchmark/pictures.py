"""The paper's Fig. 10 and 22, drawn of rows. Rows of other models join by standing in the same list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from emorl.errors import InputError
from emorl.figures import slot_colours

Row = dict[str, Any]
_ORDER = (4, 5, 2, 6, 0, 1, 7, 9, 12, 8)  # of slot colours: those that stand out on white first
_WAYS: dict[str, dict[str, Any]] = {
    "ours": {"marker": "o", "linestyle": "-"},
    "plain": {"marker": "o", "linestyle": "--", "markerfacecolor": "white"},
}
_BYTES = {"ours": "peak_bytes", "plain": "plain_bytes"}


def fig10(rows: Sequence[Row]) -> Figure:
    """Memory against time of a training step, lines connecting sizes; time of a forward pass; largest batch.

    Raises:
        InputError: the rows have no training step, forward pass or largest batch.
    """
    figure, names = _figure(11, 6), _names(rows)
    axes = figure.subplot_mosaic([["step", "forward"], ["step", "batch"]])
    steps = _of(rows, "step")
    diameters = {size: 4.0 + 3 * i for i, size in enumerate(dict.fromkeys(map(_size, steps)))}
    for name, way, own in _lines(steps, names):
        seconds, mebibytes = [row[f"{way}_s"] for row in own], [row[_BYTES[way]] / 2**20 for row in own]
        axes["step"].plot(seconds, mebibytes, color=names[name], **_WAYS[way] | {"marker": ""})
        for row, x, y in zip(own, seconds, mebibytes, strict=True):
            look = _WAYS[way] | {"linestyle": "", "markersize": diameters[_size(row)]}
            axes["step"].plot([x], [y], color=names[name], **look)
    axes["step"].set(xscale="log", xlabel="training step, seconds", yscale="log", ylabel="peak memory, MiB")
    axes["step"].set_title("Training: memory and time by image size")
    sizes = [
        Line2D([], [], color="0.3", marker="o", linestyle="", markersize=diameter, label=size)
        for size, diameter in diameters.items()
    ]
    axes["step"].legend(handles=sizes, title="pixels", loc="upper left", fontsize=8, title_fontsize=8, frameon=False)
    _few_ticks(axes["step"].xaxis, axes["step"].yaxis)
    forwards, batches = (_largest(_of(rows, what)) for what in ("forward", "largest batch"))
    _bars(axes["forward"], forwards, names, "s")
    axes["forward"].set(xlabel="seconds", title=f"Forward pass at {_size(forwards[0])}")
    _bars(axes["batch"], batches, names, "batch")
    budget = f"{batches[0]['budget_bytes'] / 2**30:g} GiB"
    axes["batch"].set(xlabel="images", title=f"Largest training batch in {budget} at {_size(batches[0])}")
    return _finish(figure, names, rows)


def fig22(rows: Sequence[Row]) -> Figure:
    """Time of a forward pass and of a training step by image size.

    Raises:
        InputError: the rows have no training step or forward pass.
    """
    figure, names = _figure(11, 5), _names(rows)
    for what, axes in figure.subplot_mosaic([["forward", "step"]]).items():
        chosen = _of(rows, what)
        for name, way, own in _lines(chosen, names):
            sides = [row["config"]["size"][0] for row in own]
            axes.plot(sides, [row[f"{way}_s"] for row in own], color=names[name], **_WAYS[way])
        axes.set(xlabel="image side, pixels", ylabel="seconds", yscale="log")
        axes.set_title({"forward": "Forward pass", "step": "Training step: forward, backward, update"}[what])
        axes.set_xticks(sorted({row["config"]["size"][0] for row in chosen}))
        _few_ticks(axes.yaxis)
    return _finish(figure, names, rows)


def _of(rows: Sequence[Row], what: str) -> list[Row]:
    """Rows of one kind, by size."""
    chosen = sorted((row for row in rows if row["what"] == what), key=lambda row: row["config"]["size"])
    if not chosen:
        raise InputError(f"there is no row of {what} to draw")
    return chosen


def _largest(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["config"]["size"] == rows[-1]["config"]["size"]]


def _lines(rows: Sequence[Row], names: dict[str, Any]) -> list[tuple[str, str, list[Row]]]:
    """Every name and way with its rows; rows of models without a plain formulation have no time of it."""
    return [
        (name, way, [row for row in rows if row["config"]["name"] == name and row[f"{way}_s"] is not None])
        for name in names
        for way in _WAYS
    ]


def _names(rows: Sequence[Row]) -> dict[str, Any]:
    """Every name with its colour."""
    names = dict.fromkeys(row["config"]["name"] for row in rows)
    colours = slot_colours(max(_ORDER) + 1) / 255
    return {name: colours[_ORDER[i % len(_ORDER)]] for i, name in enumerate(names)}


def _size(row: Row) -> str:
    return " × ".join(map(str, row["config"]["size"]))


def _bars(axes: Axes, rows: Sequence[Row], names: dict[str, Any], unit: str) -> None:
    for position, row in enumerate(rows):
        colour = names[row["config"]["name"]]
        looks: dict[str, dict[str, Any]] = {
            "ours": {"y": position - 0.2, "color": colour},
            "plain": {"y": position + 0.2, "facecolor": "white", "edgecolor": colour, "linestyle": "--"},
        }
        for way, look in looks.items():
            value = row[f"{way}_{unit}"]
            if value is not None:
                axes.barh(width=value, height=0.36, **look)
                place = (value, look["y"])
                axes.annotate(f"{value:.3g}", place, (2, 0), textcoords="offset points", va="center", size=7)
    axes.set_yticks(range(len(rows)), [row["config"]["name"] for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)


def _few_ticks(*axes: Axis) -> None:
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())


PER_LINE = 7
"""So many entries of a legend stand side by side."""


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(figure: Figure, names: dict[str, Any], rows: Sequence[Row]) -> Figure:
    entries = [Line2D([], [], color=colour, marker="o", label=name) for name, colour in names.items()]
    entries += [Line2D([], [], color="0.3", label=way, **look) for way, look in _WAYS.items()]
    columns = -(-len(entries) // -(-len(entries) // PER_LINE))
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, handlelength=3, fontsize=8, frameon=False)
    timed = _of(rows, "step")[0]
    machine = ", ".join(f"{name} {value}" for name, value in timed["machine"].items())
    batch = timed["config"]["batch_size"]
    figure.suptitle(f"{batch} images; ours in {timed['precision']}, plain in float32; {machine}", size=9)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure
