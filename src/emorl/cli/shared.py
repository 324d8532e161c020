"""What several commands do: read their options, print scores, write them as JSON."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from emorl.errors import InputError
from emorl.runs import write_json


def parse(kind: type[Any], words: Sequence[str], command: str, default: Any = None) -> Any:
    """tyro's result, with its report of a mistake brought to one line."""
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            given = {} if default is None else {"default": default}
            return tyro.cli(kind, args=words, prog=f"emorl {command}", config=(tyro.conf.AvoidSubcommands,), **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        said = _first_paragraph(caught.getvalue())
        raise InputError(f"{said} (emorl {command} --help tells the options)") from None


def _first_paragraph(report: str) -> str:
    """What stands below the title of tyro's box, up to the next rule. Without UTF-8 it draws with - and spaces."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\[/?bold\]", "", report)
    title, *lines = [line for line in (line.strip(" │╭╮╰╯") for line in plain.splitlines()) if line]
    rules = [i for i, line in enumerate(lines) if not line.strip("─-")]
    start = 1 if rules[:1] == [0] else 0
    end = next((i for i in rules if i >= start), len(lines))
    return " ".join(lines[start:end]) or title


def check_json(path: Path | None) -> None:
    """Refuse a place that cannot be written before the work is done."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f"cannot write {path}: name a file in a folder that exists")


def save_json(path: Path | None, content: Any) -> None:
    """Write a file where one is asked for."""
    if path is not None:
        write_json(path, content)


def print_rows(rows: list[dict[str, Any]], names: Sequence[str]) -> None:
    """A table of evaluations: K, I, mean and standard deviation over images of some scores."""
    table = Table(box=None, pad_edge=False)
    for column in ("K", "I", *names, "images"):
        table.add_column(column, justify="right")
    for row in rows:
        chosen = row["options"]
        values = [f"{row[n]['mean']:.4g} ± {row[n]['std']:.2g}" if n in row else "-" for n in names]
        count = max(row[n]["num_images"] for n in names if n in row)
        table.add_row(str(chosen["num_slots"]), str(chosen["refinement_steps"]), *values, str(count))
    Console(width=160).print(table)
