"""Scenes per second of every generator: `python benchmarks/data_speed.py [--device cuda] [--seconds 10]`.

Image, masks and factors are made in batches of 64 scenes, of CLEVR on a GPU of as many as training asks for; --batch
gives another number. CLEVR at 96 x 96 by the standard crop, computed at that size. Positions go up: nothing is made
twice. Prints a table; --json writes it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from emorl.data.base import read_ahead
from emorl.data.sources import DATASETS, open_source
from emorl.errors import InputError
from emorl.precision import pick_device


def scenes_per_second(name: str, seconds: float, batch: int | None, device: str) -> float:
    """Over at least so many seconds, after one batch to warm up."""
    size = (96, 96) if name.startswith("clevr") else None
    source = open_source(name, split="train", size=size, device=device)
    if batch is None:
        batch = max(64, read_ahead(source))
    source.read(np.arange(batch))
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        source.read((batch + done + np.arange(batch)) % len(source))
        done += batch
    return done / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where CLEVR is rendered")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--only", nargs="*", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        pick_device(options.device)
    except InputError as error:
        parser.error(str(error))
    if options.batch is not None and options.batch < 1:
        parser.error(f"--batch must be at least 1, got {options.batch}")
    rows = []
    for name in options.only:
        speed = scenes_per_second(name, options.seconds, options.batch, options.device)
        rows.append({"data": name, "scenes_per_second": speed, "device": options.device})
        print(f"{name:26} {speed:10.1f} scenes/s")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
