"""Draw how runs went: foreground ARI and squared error of the validation scenes, and the loss of runs of one model.

    python examples/training_curves.py runs/efficientmorl-nano-seed0 runs/slot-attention-nano-seed0 [--out curves.png]

Reads metrics.jsonl of each run folder, also while the run goes on; a line each, named after the folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

BAND = 20
"""Rows of the log whose median is drawn; losses of single batches jump."""

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("runs", nargs="+", type=Path)
parser.add_argument("--out", default="curves.png")
options = parser.parse_args()

for run in options.runs:
    if not ((run / "metrics.jsonl").is_file() and (run / "config.json").is_file()):
        parser.error(f"{run}: not a run folder")
models = {json.loads((run / "config.json").read_text())["model"]["name"] for run in options.runs}
figure, panels = plt.subplots(1, 3 if len(models) == 1 else 2, figsize=(12, 3.6), layout="constrained")
ari, mse, *losses = panels  # losses of different models have nothing in common
for run in options.runs:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half written
    validated = [row for row in rows if "validation" in row]
    mse.plot([row["step"] for row in validated], [row["validation"]["mse"] for row in validated], ".-", label=run.name)
    scored = [row for row in validated if "foreground_ari" in row["validation"]]  # where there are true masks
    ari.plot([row["step"] for row in scored], [row["validation"]["foreground_ari"] for row in scored], ".-")
    trained = [row for row in rows if row.get("loss") is not None]
    bands = [trained[i : i + BAND] for i in range(0, len(trained), BAND)]
    for loss in losses:
        loss.plot([band[-1]["step"] for band in bands], [np.median([row["loss"] for row in band]) for band in bands])
ari.set(xlabel="training step", ylabel="foreground ARI, validation scenes", ylim=(-0.05, 1.05))
mse.set(xlabel="training step", ylabel="MSE, pixels in [0, 1]", yscale="log")
for loss in losses:
    loss.set(xlabel="training step", ylabel="training loss")
for axes in panels:
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=5)
figure.legend(loc="outside upper left", ncols=3, frameon=False)
figure.savefig(options.out, dpi=110)
print(f"wrote {options.out}")
