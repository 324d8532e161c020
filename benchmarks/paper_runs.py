"""How long would the planned runs at paper scale take on a GPU? An estimate from counted work; nothing is timed.

    python benchmarks/paper_runs.py [EXPERIMENTS] [--tflops 989 --float32-tflops 67 --terabytes 4.8 --microseconds 2]

The arithmetic, the bytes and the operations of a training step are counted on tensors without memory, convolutions in
bfloat16 and the rest in float32, at every number of refinement steps of the run's curriculum. Two times are told. A
bound: that of the arithmetic or of the bytes, whichever is longer, at the peak rates of an H200's data sheet. And an
estimate: that with so many microseconds for every operation, which is what small ones take in a recorded graph. Between
peak rates and real ones there is a factor, 1.3 to 2.8 on CPUs (`emorl benchmark --floor`). On an H200 a step of
Tetrominoes took 2.0 times the estimate, one of CLEVR6 with I = 1 2.2 times.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from emorl.benchmark.counters import Work
from emorl.benchmark.measure import Point, Subject
from emorl.benchmark.timing import Rates, floor_seconds
from emorl.config import TrainConfig
from emorl.errors import InputError
from emorl.experiments import Experiment, read_experiments
from emorl.nn.convs import ConvStack
from emorl.precision import CHUNK_BYTES
from emorl.train import open_data


class Counted(Work):
    """The operations too: those that move something, a kernel each."""

    kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.moved
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.kernels += self.moved > before
        return result


def work_of_step(config: TrainConfig, num_steps: int) -> Counted:
    """Of a training step with so many refinement steps, decoded in parts of the size that a GPU takes."""
    size = open_data(config, "train").size
    assert size is not None
    point = Point("", config.model, size, config.batch_size, num_steps)
    subject, work = Subject(point, "bfloat16", torch.device("cpu"), counted=True), Counted()
    for module in subject.model.modules():
        if isinstance(module, ConvStack):
            module.chunk_bytes = CHUNK_BYTES["cuda"]
    with work:
        subject.gradients()
    return work


def row(experiment: Experiment, rates: Rates, kernel: float) -> dict[str, Any]:
    """The work of a seed of an experiment and the hours that it takes; `kernel` are seconds of an operation."""
    config = experiment.config(experiment.seeds[0])
    counts = Counter(map(config.refinement_steps, range(0, config.steps, 100)))
    mean: Counter[str] = Counter()
    for num, count in counts.items():
        work, share = work_of_step(config, num), count / counts.total()
        mean["tflop_per_step"] += share * sum(work.flops.values()) / 1e12
        mean["gb_per_step"] += share * work.moved / 1e9
        mean["operations_per_step"] += share * work.kernels
        mean["least_hours"] += share * floor_seconds(work.flops, work.moved, rates) * config.steps / 3600
    hours = mean["least_hours"] + mean["operations_per_step"] * kernel * config.steps / 3600
    return {"experiment": experiment.name, "steps": config.steps, **mean, "hours": hours}


def main() -> None:
    """Print a table in the order of worth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiments", nargs="?", type=Path, default=Path("experiments"))
    parser.add_argument("--tflops", type=float, default=989, help="of convolutions in bfloat16")
    parser.add_argument("--float32-tflops", type=float, default=67)
    parser.add_argument("--terabytes", type=float, default=4.8, help="per second, to and from memory")
    parser.add_argument("--microseconds", type=float, default=2, help="of an operation")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rates = Rates({"bfloat16": given.tflops * 1e12, "float32": given.float32_tflops * 1e12}, given.terabytes * 1e12)
    try:
        planned = [one for one in read_experiments(given.experiments).values() if one.scale == "paper"]
    except InputError as error:
        parser.error(str(error))
    print("| experiment | steps | TFLOP a step | GB a step | operations | least hours of a seed | with operations |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for experiment in planned:
        rows.append(found := row(experiment, rates, given.microseconds / 1e6))
        print(
            f"| {found['experiment']} | {found['steps']:,} | {found['tflop_per_step']:.2f} "
            f"| {found['gb_per_step']:.1f} | {found['operations_per_step']:,.0f} "
            f"| {found['least_hours']:.2f} | {found['hours']:.1f} |",
            flush=True,
        )
    if given.json:
        try:
            given.json.write_text(json.dumps(rows, indent=1) + "\n")
        except OSError as error:
            parser.error(f"cannot write {given.json}: {error.strerror or error}")


if __name__ == "__main__":
    main()
