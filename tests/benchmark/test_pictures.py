"""Fig. 10 and 22 show every row, ours and plain, and models that have no plain formulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emorl.benchmark.pictures import fig10, fig22
from emorl.errors import InputError
from emorl.figures import save_figure

MACHINE = {"cpu": "Abacus", "threads": 2, "torch": "2.13"}


def row(what: str, name: str, side: int, **values: Any) -> dict[str, Any]:
    config = {"name": name, "size": [side, side], "batch_size": 4, "refinement_steps": 1}
    empty = {"ours_s": None, "plain_s": None, "peak_bytes": None, "plain_bytes": None}
    return {"what": what, "config": config, "precision": "bfloat16", "machine": MACHINE, **empty, **values}


def rows(name: str, plain: bool = True) -> list[dict[str, Any]]:
    made = []
    for side in (128, 64, 96):
        times = {"ours_s": side / 100, "plain_s": side / 25 if plain else None}
        times |= {"ours_range_s": [side / 125, side / 80]}
        held = {"peak_bytes": side * 2**20, "plain_bytes": 4 * side * 2**20 if plain else None}
        made += [row("step", name, side, **times, **held), row("forward", name, side, **times, **held)]
        batch = {"ours_batch": 1280 // side, "plain_batch": 320 // side if plain else None}
        made.append(row("largest batch", name, side, **batch, budget_bytes=11 * 2**30))
    return made


def test_memory_and_time(tmp_path: Path) -> None:
    figure = fig10([*rows("E-1"), *rows("SA", plain=False)])
    step, forward, batch = figure.axes
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in step.lines]
    assert ([0.64, 0.96, 1.28], [64, 96, 128]) in lines and ([2.56, 3.84, 5.12], [256, 384, 512]) in lines
    large = [line.get_markersize() for line in step.lines if list(line.get_xdata()) in ([0.96], [3.84])]
    assert len(large) == 3 and len(set(large)) == 1  # E-1, its plain formulation, SA at 96 pixels
    sizes = step.get_legend()
    assert [text.get_text() for text in sizes.get_texts()] == ["64 × 64", "96 × 96", "128 × 128"]
    assert [mark.get_markersize() for mark in sizes.get_lines()][1] == large[0]
    assert sorted(bar.get_width() for bar in forward.patches) == [1.28, 1.28, 5.12]  # the largest size alone
    assert sorted(bar.get_width() for bar in batch.patches) == [2, 10, 10]
    assert [label.get_text() for label in batch.get_yticklabels()] == ["E-1", "SA"]
    titles = " ".join(axes.get_title() for axes in figure.axes)
    assert "128 × 128" in titles and "11 GiB" in titles
    units = [step.get_xlabel(), step.get_ylabel(), forward.get_xlabel(), batch.get_xlabel()]
    assert units == ["training step, seconds", "peak memory, MiB", "seconds", "images"]
    assert "Abacus" in figure.get_suptitle() and "bfloat16" in figure.get_suptitle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["E-1", "SA", "ours", "plain"]
    save_figure(figure, tmp_path / "fig10.png")
    assert (tmp_path / "fig10.png").stat().st_size > 10_000


def test_times_by_size() -> None:
    figure = fig22([*rows("E-1"), *rows("SA", plain=False)])
    for axes in figure.axes:
        lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
        assert ([64, 96, 128], [0.64, 0.96, 1.28]) in lines and ([64, 96, 128], [2.56, 3.84, 5.12]) in lines
        assert axes.get_xlabel() == "image side, pixels" and axes.get_ylabel() == "seconds"
    assert [axes.get_title() for axes in figure.axes] == ["Forward pass", "Training step: forward, backward, update"]


@pytest.mark.parametrize("missing", ["step", "forward", "largest batch"])
def test_what_is_missing_is_named(missing: str) -> None:
    some = [row for row in rows("E-1") if row["what"] != missing]
    with pytest.raises(InputError, match=missing):
        fig10(some)
