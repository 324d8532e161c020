"""One training step, with everything it touches in buffers that stay in place.

A step gathers the images, runs both stages and their backward, sums gradients and log values over the processes,
clips, and moves weights and training state. What changes from step to step (image numbers, noise, learning rate, KL
weight) is copied into fixed buffers beforehand, and what is logged is left in another. So nothing inside waits for the
host, and on a GPU the step is recorded once as a CUDA graph and replayed until its form changes: when the curriculum
changes the number of refinement steps, or GECO begins.

A step whose loss or gradient is not finite moves nothing and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from emorl.distributed import ALONE, Group
from emorl.errors import InputError, first_line
from emorl.geco import GecoState
from emorl.models.base import Model, TrainState
from emorl.noise import Noise, StepNoise

EAGER_STEPS = 3
"""Steps of a new form taken before it is recorded: libraries choose their kernels and allocate in them."""


@dataclass(frozen=True)
class StepValues:
    """What a step left for the log; means over the global batch."""

    terms: dict[str, float | list[float]]
    """loss, and the terms of the model's `Loss`."""
    grad_norm: float
    """Before clipping."""
    zeta: float | None
    ema: float | None
    """GECO's state that the step used."""
    skipped: int
    """Steps skipped so far."""
    skipped_in_row: int
    interrupted: bool
    """Some process was asked to stop."""
    out_of_time: bool


class Staged:
    """A buffer on a device, filled from the host without waiting for the device."""

    def __init__(self, buffer: Tensor, depth: int = 4) -> None:
        self.buffer = buffer
        self._next = 0
        self._host: list[tuple[Tensor, torch.cuda.Event]] = []
        if buffer.is_cuda:
            pinned = [torch.empty_like(buffer, device="cpu", pin_memory=True) for _ in range(depth)]
            self._host = [(memory, torch.cuda.Event()) for memory in pinned]  # type: ignore[no-untyped-call]

    def fill(self, write: Callable[[Tensor], object]) -> None:
        """Let `write` fill host memory, which then goes to the buffer in the device's own time."""
        if not self._host:
            write(self.buffer)
            return
        memory, copied = self._host[self._next]
        self._next = (self._next + 1) % len(self._host)
        copied.synchronize()  # only if the device is `depth` steps behind
        write(memory)
        self.buffer.copy_(memory, non_blocking=True)
        copied.record()


class StagedNoise:
    """The noise of a step in one buffer, once a first step has shown which draws there are."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._source: Noise | None = None
        self._draws: dict[tuple[str, int], torch.Size] = {}
        self._views: dict[tuple[str, int], Tensor] = {}
        self._staged: Staged | None = None

    def draw_from(self, source: Noise) -> None:
        """Take the noise of the next step from `source`."""
        self._source = source
        if self._draws and self._staged is None:
            total = sum(shape.numel() for shape in self._draws.values())
            self._staged = Staged(torch.empty(total, device=self._device))
            self._views = dict(zip(self._draws, self._split(self._staged.buffer), strict=True))
        if self._staged is not None:
            self._staged.fill(self._write)

    def _split(self, flat: Tensor) -> list[Tensor]:
        parts = torch.split(flat, [shape.numel() for shape in self._draws.values()])
        return [part.view(shape) for part, shape in zip(parts, self._draws.values(), strict=True)]

    def _write(self, flat: Tensor) -> None:
        assert self._source is not None
        for (name, index), view in zip(self._draws, self._split(flat), strict=True):
            view.copy_(self._source.normal(name, index, view))

    def normal(self, name: str, index: int, like: Tensor) -> Tensor:
        """See `Noise`."""
        if self._staged is not None:
            return self._views[name, index]
        assert self._source is not None
        self._draws[name, index] = like.shape
        return self._source.normal(name, index, like)


class Engine:
    """Takes training steps and holds the state between them."""

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        state: TrainState,
        *,
        seed: int,
        batch_size: int,
        clip_norm: float | None,
        skipped: tuple[int, int] = (0, 0),
        group: Group = ALONE,
        cuda_graph: bool = True,
    ) -> None:
        """images: N 3 H W, uint8, on the model's device. batch_size is that of all processes together."""
        assert isinstance(model, nn.Module)
        self.model, self.optimizer, self.images = model, optimizer, images
        self.seed, self.batch_size, self.clip_norm, self.group = seed, batch_size, clip_norm, group
        self.cuda_graph = cuda_graph
        device = self.device = images.device
        share = batch_size // group.size
        self.rows = slice(group.rank * share, (group.rank + 1) * share)
        """This process's part of the global batch."""
        constraint = state.geco
        if constraint is not None:
            constraint = GecoState(**{name: value.clone() for name, value in constraint.tensors().items()})
        self.state = replace(state, geco=constraint)
        """GECO's tensors are overwritten by every step."""
        self.order = Staged(torch.zeros(share, dtype=torch.int64, device=device))
        self.numbers = Staged(torch.zeros(4, device=device))
        """Learning rate, KL weight, and 1 where this process was asked to stop or is out of time."""
        self.counts = torch.tensor(skipped, dtype=torch.float32, device=device)
        """Steps skipped in all and in a row."""
        self.bad = torch.zeros((), device=device)
        """1 where the step is skipped: the sign that gradient scalers give a fused optimizer."""
        for param_group in optimizer.param_groups:
            param_group["lr"] = self.numbers.buffer[0]
        optimizer.found_inf, optimizer.grad_scale = self.bad, None  # type: ignore[attr-defined]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        kept = model.state_dict().keys()
        self.buffers = [buffer for name, buffer in model.named_buffers() if name in kept]
        """Some move in the loss itself: running averages."""
        self.grads = self.flat = self.outputs = torch.zeros(0, device=device)
        self.terms: dict[str, torch.Size] = {}
        self.form: Hashable = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.side: torch.cuda.Stream | None = None
        self.noise = StagedNoise(device)
        self.eager_steps = 0

    def step(
        self, state: TrainState, positions: Tensor, rate: float, flags: tuple[bool, bool] = (False, False)
    ) -> None:
        """Take a step on the images at `positions` (of the global batch), moving weights and `self.state`.

        Step number, refinement steps and KL weight are those of `state`; `flags` say that this process was asked to
        stop, or is out of time.
        """
        numbers = torch.tensor([rate, float(state.kl_weight), *flags])
        state = replace(state, kl_weight=self.numbers.buffer[1], geco=self.state.geco)
        form = self.model.step_form(state)
        if form != self.form:
            self.form, self.graph, self.eager_steps = form, None, 0
            self.noise = StagedNoise(self.images.device)
        self.noise.draw_from(StepNoise(self.seed, state.step, self.rows.start))
        self.order.fill(lambda buffer: buffer.copy_(positions[self.rows]))
        self.numbers.fill(lambda buffer: buffer.copy_(numbers))
        if not self.images.is_cuda:
            self._compute(state)
        elif self.graph is not None:
            self.graph.replay()
        elif not self.cuda_graph or self.eager_steps < EAGER_STEPS:
            self._on_side_stream(state)
        else:
            self.graph = self._record(state)
            self.graph.replay()
        self.eager_steps += 1
        self.state = replace(state, step=state.step + 1, kl_weight=float(numbers[1]))

    def _on_side_stream(self, state: TrainState) -> None:
        """A step off the default stream, as must come before a recording."""
        self.side = self.side or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        here, cudnn = torch.cuda.current_stream(), torch.backends.cudnn
        before, cudnn.benchmark = cudnn.benchmark, True  # let it try its kernels
        self.side.wait_stream(here)
        try:
            with torch.cuda.stream(self.side):
                self._compute(state)
        finally:
            cudnn.benchmark = before
        here.wait_stream(self.side)

    def close(self) -> None:
        """Let go of the recorded step: a process group cannot end while a graph holds its messages."""
        if self.graph is not None:
            torch.cuda.synchronize(self.device)
            self.graph = None

    def _record(self, state: TrainState) -> torch.cuda.CUDAGraph:
        """The step as a graph; with the kernels that the eager steps chose."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._compute(state)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise InputError(
                f"the training step cannot be recorded on this GPU ({first_line(error)}); "
                "--no-cuda-graph takes every step without"
            ) from error
        return graph

    def _compute(self, state: TrainState) -> None:
        """The step itself: nothing here waits for the device or depends on its values."""
        batch = self.images.index_select(0, self.order.buffer)  # b 3 H W, uint8
        before = [buffer.clone() for buffer in self.buffers]
        loss = self.model.loss(batch, state, noise=self.noise)
        self.terms = {"loss": torch.Size(()), **{name: values.shape[1:] for name, values in loss.terms.items()}}
        sums = [loss.total.detach().reshape(1), *(values.sum(dim=0).flatten() for values in loss.terms.values())]
        sums.append(self.numbers.buffer[2:] * self.batch_size)
        self._make_flat(sum(map(len, sums)))
        self.flat.zero_()
        (loss.total / self.batch_size).backward()  # type: ignore[no-untyped-call]
        tail = self.flat[len(self.grads) :]
        torch.cat(sums, out=tail)
        tail.div_(self.batch_size)

        self.group.sum(self.flat)  # gradients and log values of the global batch
        norm = self.grads.norm()
        finite = tail.isfinite().all() & norm.isfinite()
        self.bad.copy_(~finite)
        for buffer, old in zip(self.buffers, before, strict=True):
            buffer.copy_(torch.where(finite, buffer, old))
        used = [] if state.geco is None else [state.geco.zeta.view(1), state.geco.ema.view(1)]
        self.counts.copy_((self.counts + self.bad) * torch.stack([torch.ones_like(self.bad), self.bad]))
        torch.cat([tail, norm.view(1), self.counts, *used], out=self.outputs)
        if self.clip_norm is not None:
            self.grads.mul_((self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()

        if state.geco is not None:
            parts = torch.split(tail, [shape.numel() for shape in self.terms.values()] + [2])
            means = {name: part.view(shape) for (name, shape), part in zip(self.terms.items(), parts, strict=False)}
            moved = self.model.next_state(state, means).geco
            assert moved is not None
            for name, value in state.geco.tensors().items():
                value.copy_(torch.where(finite, getattr(moved, name), value))

    def _make_flat(self, tail: int) -> None:
        """One vector of all gradients, which the parameters see as views, and of the log values behind them."""
        count = sum(p.numel() for p in self.parameters)
        if len(self.flat) == count + tail:
            return
        device = self.images.device
        self.flat = torch.zeros(count + tail, device=device)
        self.grads = self.flat[:count]
        for parameter, part in zip(
            self.parameters, torch.split(self.grads, [p.numel() for p in self.parameters]), strict=True
        ):
            parameter.grad = part.as_strided(parameter.shape, parameter.stride())
        self.outputs = torch.zeros(tail + 3 + (0 if self.state.geco is None else 2), device=device)

    def values(self) -> StepValues:
        """What the last step left; waits for the device."""
        found = self.outputs.tolist()
        terms: dict[str, float | list[float]] = {}
        for name, shape in self.terms.items():
            part, found = found[: shape.numel()], found[shape.numel() :]
            terms[name] = part if len(shape) else part[0]
        interrupted, out_of_time, norm, skipped, in_row, *constraint = found
        zeta, ema = constraint or (None, None)
        return StepValues(terms, norm, zeta, ema, int(skipped), int(in_row), bool(interrupted), bool(out_of_time))
