"""The tables and figures of the EfficientMORL paper from run folders, each with the published value beside ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from emorl.errors import InputError
from emorl.experiments import Scale
from emorl.files import write_whole
from emorl.reproduce.lab import Lab
from emorl.reproduce.output import Content, Output, claims, notice, to_png
from emorl.reproduce.plan import PLAN
from emorl.reproduce.report import report

NAMES = (*PLAN, "all")


def reproduce(name: str, lab: Lab, scale: Scale, out: Path, wrote: Callable[[Path], None] = lambda file: None) -> None:
    """Make a table or figure, or all of them and a report.

    Args:
        name: one of `NAMES`.
        lab: where experiments and runs are.
        scale: which experiments.
        out: folder for NAME.md, NAME.json and, for figures, NAME.png; of all also claims.md, every claim
            and its verdict, and report.html, everything on one page.
        wrote: told of every file.

    Raises:
        InputError: an unknown name, an experiment that is not there, or a folder that cannot be written. A run that
            cannot be used is told in its place instead.
    """
    if name not in NAMES:
        raise InputError(f"there is no {name} to reproduce: choose from {', '.join(NAMES)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from None
    outputs = []
    for one in PLAN if name == "all" else [name]:
        outputs.append(make(one, lab, scale))
        write(outputs[-1], out, wrote)
    if name == "all":
        _write(out / "claims.md", f"# Claims\n\n{claims(outputs).markdown()}\n".encode(), wrote)
        _write(out / "report.html", report(outputs, scale).encode(), wrote)


def make(name: str, lab: Lab, scale: Scale) -> Output:
    """A table or figure of `PLAN`."""
    item = PLAN[name]
    if scale in item.runs:
        content = item.make(lab, item.runs[scale])
    else:
        told = f"no data at {scale} scale: emorl reproduce {name} --scale {next(iter(item.runs))}"
        content = Content({}, {"this figure": told}, figures=[notice(item.title, told)])
    labels = {**item.runs.get(scale, {}), **content.numbers}
    judged = [claim.judge(content.numbers) for claim in item.claims if claim.labels <= labels.keys() or not labels]
    picture = to_png(content.figures) if content.figures else None
    runs = {label: lab.describe(experiment) for label, experiment in item.runs.get(scale, {}).items()}
    data = lab.data(item.runs.get(scale, {}))
    caption = f"{item.caption} Data: {', '.join(data)}." if data else item.caption
    return Output(name, item.title, caption, scale, content, runs, judged, picture)


def write(output: Output, folder: Path, wrote: Callable[[Path], None]) -> None:
    """The files of an output."""
    _write(folder / f"{output.name}.md", output.markdown().encode(), wrote)
    _write(folder / f"{output.name}.json", (json.dumps(output.json(), indent=2) + "\n").encode(), wrote)
    if output.picture is not None:
        _write(folder / f"{output.name}.png", output.picture, wrote)


def _write(path: Path, content: bytes, wrote: Callable[[Path], None]) -> None:
    with write_whole(path, overwrite=True) as file:
        file.write(content)
    wrote(path)
