"""Seconds, side by side in one process, and what the machine could do at best."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, over several."""

    median: float
    fastest: float
    slowest: float


def interleaved(
    runs: Mapping[Name, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warm_up: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[Name, Timing]:
    """Time every run once a round, in turn, so that whatever else slows the machine slows all of them.

    `warm_up` rounds more come first and are not counted. `advance` is told of every call.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(warm_up + rounds):
        for name, run in runs.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
            advance(1)
    counted = {name: values[warm_up:] for name, values in seconds.items()}
    return {name: Timing(statistics.median(v), min(v), max(v)) for name, v in counted.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Rates:
    """The most that one process reached, per second."""

    flops: dict[str, float]
    """By type, in a large matrix product or convolution, whichever is faster (libraries tune one or the other for a
    processor); a multiplication and an addition are two."""
    bytes: float
    """Read and written by a large copy."""


def machine_rates(dtypes: list[torch.dtype], device: torch.device, tries: int = 5) -> Rates:
    """Measure them; takes a few seconds."""
    scale = 4 if device.type == "cuda" else 1
    flops = {}
    for dtype in dtypes:
        x = torch.ones(2048 * scale, 2048 * scale, dtype=dtype, device=device)
        image = torch.ones(8 * scale, 512, 32, 32, dtype=dtype, device=device).to(memory_format=torch.channels_last)
        kernel = torch.ones(512, 512, 3, 3, dtype=dtype, device=device).to(memory_format=torch.channels_last)
        runs = {"matmul": partial(torch.matmul, x, x), "conv": partial(F.conv2d, image, kernel, padding=1)}
        work = {"matmul": 2 * x.shape[0] ** 3, "conv": 2 * image.numel() * kernel[0].numel()}
        times = interleaved(runs, tries, device)
        flops[_name(dtype)] = max(work[name] / times[name].fastest for name in runs)
    source = torch.ones(scale * 2**28, dtype=torch.uint8, device=device)  # far larger than a cache
    copied = interleaved({"copy": partial(torch.empty_like(source).copy_, source)}, tries, device)["copy"]
    return Rates(flops, 2 * len(source) / copied.fastest)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def floor_seconds(flops: Mapping[torch.dtype, int], moved: int, rates: Rates) -> float:
    """Time of the arithmetic or of the bytes, whichever is longer, at the best rates of the machine.

    Bytes that stay in a cache move faster than that; where arithmetic is the longer, it makes no difference.
    """
    arithmetic = sum(count / rates.flops[_name(dtype)] for dtype, count in flops.items())
    return max(arithmetic, moved / rates.bytes)


def machine(device: torch.device) -> dict[str, Any]:
    """What a time depends on beside the program."""
    about: dict[str, Any] = {"torch": torch.__version__}
    if device.type == "cuda":
        return {"gpu": torch.cuda.get_device_name(device), **about}
    return {"cpu": _cpu(), "threads": torch.get_num_threads(), **about}


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
