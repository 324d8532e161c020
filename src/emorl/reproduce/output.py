"""What a table or figure of the paper becomes: tables, pictures, judged claims, and the numbers behind them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from emorl.reproduce.claims import Judgement, Numbers


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    heading: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As a table of a Markdown page."""
        lines = [self.heading, ["---"] * len(self.heading), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


@dataclass(frozen=True)
class Content:
    """What was found."""

    numbers: Numbers
    """See `claims.Numbers`: what claims are judged by."""
    sources: dict[str, str]
    """Label -> what stands behind it: so many seeds, or the command that is missing."""
    table: Table | None = None
    figures: Sequence[Figure] = ()
    """Drawn one below the other."""
    details: dict[str, Any] = field(default_factory=dict)
    """For the JSON file alone."""


@dataclass(frozen=True)
class Output:
    """A table or figure of the paper, made anew."""

    name: str
    title: str
    caption: str
    scale: str
    content: Content
    runs: dict[str, Any]
    """Label -> the experiment behind it and how far its seeds are, as plain values."""
    judgements: list[Judgement]
    picture: bytes | None
    """A PNG file."""

    def markdown(self) -> str:
        """Everything but the picture, which it links to."""
        parts = [f"# {self.title}", self.caption]
        if self.picture is not None:
            parts.append(f"![{self.title}]({self.name}.png)")
        if self.content.table is not None:
            parts.append(self.content.table.markdown())
        else:
            parts.append("\n".join(f"- {label}: {told}" for label, told in self.content.sources.items()))
        claims = [f"- **{judged.verdict}**: {judged.says} ({judged.evidence})" for judged in self.judgements]
        parts += ["\n".join(claims)] if claims else []
        return "\n\n".join(parts) + "\n"

    def json(self) -> dict[str, Any]:
        """Everything but the picture, as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "scale": self.scale,
            "caption": self.caption,
            "sources": self.content.sources,
            "runs": self.runs,
            "numbers": {label: {key: list(x) for key, x in of.items()} for label, of in self.content.numbers.items()},
            "table": None if self.content.table is None else [self.content.table.heading, *self.content.table.rows],
            "claims": [{"says": j.says, "verdict": j.verdict, "evidence": j.evidence} for j in self.judgements],
            **self.content.details,
        }


def claims(outputs: Sequence[Output]) -> Table:
    """All that the paper says of these tables and figures, and whether it holds."""
    rows = []
    for output in outputs:
        for judged in output.judgements:
            told = ["–", "–"] if judged.measured is None else _measured(*judged.measured)
            rows.append([output.title.split(":")[0], judged.says, judged.verdict, *told, judged.asks])
    return Table(["", "claim", "verdict", "measured", "95 % interval or range", "asked"], rows)


def _measured(value: float, low: float, high: float) -> list[str]:
    return [f"{value:.3g}", f"{low:.3g} to {high:.3g}"]


def notice(title: str, told: str) -> Figure:
    """What stands in the place of a picture that cannot be drawn."""
    lines = textwrap.wrap(told, 110, break_on_hyphens=False)
    height = 0.6 + 0.18 * len(lines)  # inches
    figure = Figure(figsize=(9, height), dpi=150)
    FigureCanvasAgg(figure)
    style: dict[str, Any] = {"va": "top", "parse_math": False, "color": "#1a1a1a"}
    figure.text(0.01, 1 - 0.12 / height, title, weight="bold", **style)
    figure.text(0.01, 1 - 0.42 / height, "\n".join(lines), family="DejaVu Sans Mono", size=8, **style)
    return figure


def to_png(figures: Sequence[Figure]) -> bytes:
    """Figures one below the other, each at its own resolution, on white."""
    pictures = []
    for figure in figures:
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=figure.dpi)
        pictures.append(np.asarray(Image.open(drawn).convert("RGB")))
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(p, ((0, 24), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(padded)).save(file, format="PNG", optimize=True)
    return file.getvalue()
