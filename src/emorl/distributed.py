"""The processes that train one model together, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from emorl.errors import InputError, first_line


@dataclass(frozen=True)
class Group:
    """This process among those of a run."""

    rank: int = 0
    """The one of rank 0 writes."""
    size: int = 1

    def sum(self, x: Tensor) -> None:
        """Replace x by its sum over the processes; raises InputError when one of them is gone."""
        if self.size > 1:
            self._guarded(lambda: dist.all_reduce(x))

    def share(self, value: Any) -> Any:
        """Rank 0's value, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        self._guarded(lambda: dist.broadcast_object_list(box, src=0))
        return box[0]

    def _guarded(self, run: Any) -> None:
        try:
            run()
        except RuntimeError as error:  # gloo raises no class of its own
            if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
                raise
            reason = first_line(error)
            raise InputError(
                f"process {self.rank} of {self.size} lost another one ({reason}); the last checkpoint is whole: "
                "continue with --resume and the same torchrun command"
            ) from None


ALONE = Group()
"""One process."""


def world_size() -> int:
    """How many processes torchrun started; 1 without it. Raises InputError where the environment says no number."""
    found = os.environ.get("WORLD_SIZE", "1")
    if not found.isdecimal() or int(found) < 1:
        raise InputError(f"WORLD_SIZE is {found!r}: start several processes with torchrun, or unset it")
    return int(found)


@contextmanager
def process_group(device: str) -> Iterator[tuple[Group, str]]:
    """The group that torchrun made, or a group of one; and the device of this process.

    "auto" and "cuda" become this process's own GPU. Raises InputError for a device that all would share.
    """
    size = world_size()
    if size == 1:
        yield ALONE, device
        return
    if not os.environ.get("RANK", "").isdecimal() or not os.environ.get("LOCAL_RANK", "").isdecimal():
        raise InputError(
            f"WORLD_SIZE is {size}, but RANK and LOCAL_RANK are no numbers: start the processes with torchrun"
        )
    local = int(os.environ["LOCAL_RANK"])
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(f"torchrun started {local + 1} or more processes for {torch.cuda.device_count()} GPUs")
        device = f"cuda:{local}"
    elif device != "cpu":
        raise InputError(f"--device {device} is one device; several processes take auto, cuda or cpu")
    if device != "cpu":
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device == "cpu" else "nccl", timeout=timedelta(minutes=30))
    try:
        yield Group(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()
