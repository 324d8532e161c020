"""All tables and figures on one page that needs nothing beside itself."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from emorl.reproduce.output import Output, Table, claims
from emorl.version import __version__

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; }
body { max-width: 72rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
.wide { overflow-x: auto; } td.short { white-space: nowrap; } td.long { min-width: 16rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; border: 1px solid #eee; }
section { border-top: 2px solid #1a1a1a; margin-top: 2.5rem; }
.holds, .does-not-hold, .not-decided { font-weight: 600; padding: 0 .4rem; border-radius: .2rem; white-space: nowrap; }
.holds { background: #cfe8f7; } .does-not-hold { background: #f7d3bd; } .not-decided { background: #e6e6e6; }
.evidence { color: #5a5a5a; font-size: .9em; } code { font-size: .92em; }
"""


def report(outputs: Sequence[Output], scale: str) -> str:
    """An HTML page: pictures inlined, no script, nothing from the network."""
    judged = Counter(judgement.verdict for output in outputs for judgement in output.judgements)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(judged.items()))
    links = " · ".join(f'<a href="#{output.name}">{output.name}</a>' for output in outputs)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>EfficientMORL, {scale} scale</title>',
            f"<style>{_STYLE}</style></head><body>",
            "<h1>The tables and figures of EfficientMORL, made anew</h1>",
            f"<p>{_introduction(scale)}</p><p>Claims: {counts}.</p><p>{links}</p>",
            _table(claims(outputs)),
            *map(_section, outputs),
            f"<p>emorl {escape(__version__)}</p></body></html>",
            "",
        ]
    )


def _introduction(scale: str) -> str:
    of = "full size" if scale == "paper" else "small networks on small pictures, minutes a run on two CPU cores"
    return (
        "Emami, He, Ranka and Rangarajan, <em>Efficient Iterative Amortized Inference for Learning Symmetric and "
        f"Disentangled Multi-Object Representations</em> (ICML 2021), at {scale} scale: {of}. Data sets are generated, "
        "not the published ones. Means are over seeds, collapsed ones included. A claim of the paper holds where the "
        "95 % confidence interval over seeds lies beyond its bound, does not hold where it lies on the other side, and "
        "is not decided otherwise; a time that was measured once is judged by the range over its rounds."
    )


def _section(output: Output) -> str:
    parts = [f'<section id="{output.name}"><h2>{escape(output.title)}</h2>', f"<p>{escape(output.caption)}</p>"]
    if output.picture is not None:
        data = base64.b64encode(output.picture).decode()
        parts.append(f'<img alt="{escape(output.title, quote=True)}" src="data:image/png;base64,{data}">')
    if output.content.table is not None:
        parts.append(_table(output.content.table))
    else:
        parts += _list(f"{escape(label)}: {escape(told)}" for label, told in output.content.sources.items())
    parts += _list(
        f'<span class="{judged.verdict.replace(" ", "-")}">{judged.verdict}</span> {escape(judged.says)} '
        f'<span class="evidence">({escape(judged.evidence)})</span>'
        for judged in output.judgements
    )
    return "\n".join([*parts, "</section>"])


def _list(lines: Iterable[str]) -> list[str]:
    items = [f"<li>{line}</li>" for line in lines]
    return ["<ul>", *items, "</ul>"] if items else []


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.heading)
    rows = ["<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows]
    opening = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>'
    return "\n".join([opening, *rows, "</tbody></table></div>"])


def _cell(text: str) -> str:
    return f'<td class="{"short" if len(text) <= 40 else "long"}">{escape(text)}</td>'
