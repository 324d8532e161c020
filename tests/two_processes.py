"""One process of two that take steps together, without torchrun: its rank, a file to meet at, a folder to write to."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from emorl.distributed import Group
from tests.test_distributed import take_steps

if __name__ == "__main__":
    rank, meeting, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.save(take_steps(Group(rank, 2)), out / f"{rank}.pt")
    dist.destroy_process_group()
