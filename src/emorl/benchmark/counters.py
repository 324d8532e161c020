"""What operations do, counted one by one as they are called: memory held, arithmetic, memory moved.

Memory can be counted on the "meta" device too, whose tensors have shapes and no content: there nothing is computed,
and a training step takes a moment whatever its size.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


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
        before = {_key(t) for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if _key(tensor) not in before and _key(tensor) not in self._sizes:
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


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the arithmetic of convolutions and matrix products, and the bytes that all operations read and write.

    An operation reads every tensor it is given and writes every tensor it returns, once; views move nothing.
    """

    flops: dict[torch.dtype, int]
    """By type of the factors; a multiplication and an addition are two."""
    moved: int
    """Bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = defaultdict(int)
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops[_tensors(args)[0].dtype] += formula(*args, **kwargs, out_val=result)
        self.moved += _moved(func, args, kwargs, result)
        return result


def _moved(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    name, arguments = func._overloadpacket.__name__, func._schema.arguments
    given = dict(zip((a.name for a in arguments), args, strict=False)) | kwargs
    read, written = _tensors(given), _tensors(result)
    if func._schema.is_mutable:
        changed = [a for a in arguments if a.name in given and a.alias_info is not None and a.alias_info.is_write]
        overwrites = name in ("copy_", "fill_", "zero_")
        unread = {a.name for a in changed if a.is_out or overwrites}
        read = _tensors([value for key, value in given.items() if key not in unread])
        written = _tensors([given[a.name] for a in changed])
    elif {_key(t) for t in written} <= {_key(t) for t in read} or name.startswith(("empty", "new_empty")):
        return 0
    return sum(map(_distinct_bytes, read + written))


def _distinct_bytes(tensor: Tensor) -> int:
    """An expanded axis is one entry of memory."""
    count = tensor.itemsize
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or not size else 1
    return count


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes of tensors made by `run` that were alive at once."""
    with LiveBytes() as counter:
        run()
    peak: int = counter.peak
    return peak


def largest_batch(peak: Callable[[int], float], budget: float) -> int:
    """The most images whose `peak` (bytes, growing with the batch; inf for a failure) is within a budget.

    Between a batch that fits and one that does not, the next is tried where the line through both meets the budget:
    peaks are nearly straight lines, so a few tries are enough.
    """
    fits, over, before = (0, 0.0), (math.inf, math.inf), (0, 0.0)  # images and bytes
    tried = 1
    while True:
        needed = peak(tried)
        if needed <= budget:
            before, fits = fits, (tried, needed)
        else:
            over = (tried, needed)
        if over[0] == fits[0] + 1:
            return fits[0]
        if over[1] < math.inf:
            more = (budget - fits[1]) / (over[1] - fits[1]) * (over[0] - fits[0])
        elif over[0] < math.inf:
            more = (over[0] - fits[0]) / 2
        else:
            more = min((budget - fits[1]) / max(fits[1] - before[1], 1) * (fits[0] - before[0]), 15 * fits[0])
        tried = int(min(fits[0] + max(1, more), over[0] - 1))
