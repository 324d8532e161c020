"""Measurements of the engine. So far: the memory of a training step."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from emorl.models.base import TrainState
from emorl.models.efficientmorl import EfficientMORL, EfficientMORLConfig
from emorl.noise import StepNoise


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensor storages made inside the block and still alive; `peak` is the most at once.

    Storages that exist before the block (parameters, optimizer) and the scratch memory of kernels do not count.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_key(t) for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, Tensor) and _key(tensor) not in before and _key(tensor) not in self._sizes:
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        size = storage.nbytes()
        self._sizes[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


@dataclass(frozen=True)
class MemoryRow:
    """Memory of one training step."""

    refinement_steps: int
    peak_bytes: int
    """Most bytes of live tensors beyond parameters and optimizer state."""


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes of tensors made by `run` that were alive at once."""
    with LiveBytes() as counter:
        run()
    peak: int = counter.peak
    return peak


def training_step_memory(
    config: EfficientMORLConfig, size: tuple[int, int], batch_size: int, refinement_steps: list[int]
) -> list[MemoryRow]:
    """Peak of live tensor bytes of one training step (forward and backward) at several I, on the CPU."""
    model = EfficientMORL(config)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randint(0, 256, (batch_size, 3, *size), dtype=torch.uint8)
    rows = []
    for count in refinement_steps:
        state = replace(model.initial_state(), refinement_steps=count)

        def step(state: TrainState = state) -> None:
            loss = model.loss(images, state, noise=StepNoise(0, 0))
            loss.total.backward()  # type: ignore[no-untyped-call]

        model.zero_grad(set_to_none=True)
        rows.append(MemoryRow(count, peak_bytes(step)))
    return rows
