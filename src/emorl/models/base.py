"""The contract every model keeps.

Training, evaluation, figures and benchmarks see models through `Model` alone. The line is drawn here because the
systems differ in everything inside (what is iterated, what is sampled, what is attended) and agree in this much:
from images to slots, masks and components, and from images to a scalar to minimise. Everything that changes during
training is in `TrainState`, which goes in and comes out as a value; a model holds weights only.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from emorl.errors import InputError
from emorl.geco import GecoState, update_kl
from emorl.noise import Noise
from emorl.types import Decoding, Inference, Loss


@dataclass(frozen=True)
class TrainState:
    """What changes during training beside weights and optimizer."""

    step: int = 0
    """Training steps taken."""
    refinement_steps: int = 0
    """I in force, set by the curriculum; 0 for models that do not refine."""
    kl_weight: float | Tensor = 1.0
    """beta on the KL; a scalar."""
    geco: GecoState | None = None
    """None where the reconstruction is not constrained."""


@dataclass(frozen=True)
class InferOptions:
    """What a caller may ask of `Model.infer`; None means the model's own default."""

    num_slots: int | None = None
    refinement_steps: int | None = None
    sample: bool = True
    """Decode a posterior sample (ARI, MSE and pictures of the paper) or, if False, the posterior mean, which
    is what `encode` gives. Refinement goes by samples either way: where slots begin equal nothing
    else tells them apart."""
    keep_steps: bool = False
    """Keep the pictures of every refinement step."""
    decode_layers: bool = False
    """Also decode the sample of every stochastic layer."""
    draws: int = 1
    """Inferences of each image with noise of their own, of which the one with the least NLL + KL is kept: an unlucky
    draw leaves two objects in one slot, or one in two. Made by `emorl.evaluation.infer`; `Model.infer` makes one."""


@runtime_checkable
class Model(Protocol):
    """What every model offers. All of it is a torch.nn.Module built from its frozen config alone.

    Images are B 3 H W, float in [0, 1] or uint8, of any H and W. No result for an image depends on the others of
    its batch. `noise` is a seed (the images are then number 0.. of their source) or a `Noise`.
    """

    config: Any
    """A frozen dataclass that has, as field or class variable: num_slots (K), refinement_steps (I at test time),
    kl_weight (of the KL in the loss, 0 where there is none), image_size (H W, None where any will do), ordered_slots
    (whether slot 1 is another thing than slot 2: else exchanging their noise exchanges them and nothing more)."""

    def infer(self, images: Tensor, options: InferOptions = ..., *, noise: int | Noise | None = ...) -> Inference:
        """Slots, masks and components of images. Needs no gradient mode from the caller."""
        ...

    def encode(self, images: Tensor, options: InferOptions = ..., *, noise: int | Noise | None = ...) -> Tensor:
        """Codes B K D (posterior means), without decoding where the method allows it."""
        ...

    def decode(self, slots: Tensor, size: tuple[int, int]) -> Decoding:
        """Pictures of (edited) slots B K D at H W = size."""
        ...

    def decode_slots(self, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        """What codes N D show, each by itself: mask logits N 1 H W and colours N 3 H W in [0, 1].

        A scene is the mixture of its slots' colours, weighted by the softmax over slots of their logits. None where
        the mask of a slot depends on the other slots.
        """
        ...

    def sample(
        self, count: int, size: tuple[int, int], *, num_slots: int | None = ..., noise: int | Noise | None = ...
    ) -> Inference:
        """Whole scenes drawn from the prior, at H W = size; raises InputError where the model has no prior."""
        ...

    def initial_state(self) -> TrainState:
        """The training state before the first step."""
        ...

    def loss(self, images: Tensor, state: TrainState, *, noise: int | Noise | None = ...) -> Loss:
        """The training loss, a sum over images; the caller divides by the size of the global batch."""
        ...

    def next_state(self, state: TrainState, means: Mapping[str, Tensor]) -> TrainState:
        """The state after the optimizer step; `means` are the loss's terms averaged over the global batch."""
        ...

    def step_form(self, state: TrainState) -> Hashable:
        """What decides which operations `loss` and `next_state` run: steps of equal form can be recorded once."""
        ...

    def remember(self, state: TrainState) -> None:
        """Copy what inference needs of the training state into the weights' buffers."""
        ...


MAX_FLOAT = 2.0
"""Images of larger floats are taken for such in 0 to 255."""


def images_to_unit(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images at the border -> B 3 H W in [0, 1]; raises InputError for another shape or type."""
    if not isinstance(images, Tensor):
        raise InputError(f"images must be a tensor B 3 H W, got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images must be B 3 H W, got {tuple(images.shape)}")
    if not images.numel():
        raise InputError(f"there are no images: got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.to(dtype) / 255
    if not images.is_floating_point():
        raise InputError(f"images must be uint8 or float in [0, 1], got {images.dtype}")
    # a GPU would be waited for, and a graph that is being recorded has no values yet
    if images.device.type == "cpu" and not torch.compiler.is_compiling() and images.max() > MAX_FLOAT:
        raise InputError(f"images have values up to {images.max():.4g}: give floats in [0, 1], or 0 to 255 as uint8")
    return images.to(dtype)


class BaseModel(nn.Module):
    """What most models answer alike: nothing is refined, and the training state is a step number and a KL weight."""

    config: Any

    def decode_slots(self, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        """See `Model`."""
        return None

    def decode(self, slots: Tensor, size: tuple[int, int]) -> Decoding:
        """See `Model`."""
        check_size(size)
        shown = self.decode_slots(slots.flatten(0, 1), size)
        assert shown is not None, "a model has decode_slots, or its own decode"
        logits, colours = (part.view(*slots.shape[:2], *part.shape[1:]) for part in shown)
        return Decoding(logits.softmax(dim=1), colours)

    def initial_state(self) -> TrainState:
        """See `Model`."""
        return TrainState(refinement_steps=self.config.refinement_steps, kl_weight=self.config.kl_weight)

    def next_state(self, state: TrainState, means: Mapping[str, Tensor]) -> TrainState:
        """See `Model`: one step further."""
        return replace(state, step=state.step + 1)

    def step_form(self, state: TrainState) -> Hashable:
        """See `Model`: I."""
        return state.refinement_steps

    def remember(self, state: TrainState) -> None:
        """See `Model`: inference needs nothing of the training state."""

    def counts(self, options: InferOptions) -> tuple[int, int]:
        """K and I of a call: the caller's or the config's; raises InputError for numbers that are too small."""
        config = self.config
        num_slots = config.num_slots if options.num_slots is None else options.num_slots
        num_steps = config.refinement_steps if options.refinement_steps is None else options.refinement_steps
        if num_slots < 1 or num_steps < 0:
            raise InputError("num_slots must be at least 1 and refinement_steps at least 0")
        if options.draws != 1:
            raise InputError("a model makes one inference of an image: emorl.evaluation.infer chooses among several")
        return num_slots, num_steps


class KLGecoModel(BaseModel):
    """A model of the GENESIS family: GECO, where the config has it, moves zeta, the logarithm of the KL's weight."""

    def initial_state(self) -> TrainState:
        """See `Model`; zeta begins with 0."""
        state = super().initial_state()
        if self.config.geco is None:
            return state
        zero = next(self.parameters()).detach().new_zeros(())
        return replace(state, geco=GecoState(zeta=zero, ema=zero.clone()))

    def weighed(self, nll: Tensor, kl: Tensor, state: TrainState) -> Loss:
        """NLL + beta KL, each B, summed over images; beta = kl_weight exp(zeta) with GECO, else kl_weight.

        Terms, B each: nll, kl; with GECO also constraint: target - NLL, both with the constant 0.5 log(2 pi) per
        element as in the released code.
        """
        beta = state.kl_weight if state.geco is None else state.kl_weight * state.geco.zeta.exp()
        terms = {"nll": nll.detach(), "kl": kl.detach()}
        if self.config.geco is not None:
            constant = 0.5 * math.log(2 * math.pi)
            num_elements = 3 * math.prod(self.config.image_size)
            terms["constraint"] = (self.config.geco.target_per_element - constant) * num_elements - terms["nll"]
        return Loss((nll + beta * kl).sum(), terms)

    def next_state(self, state: TrainState, means: Mapping[str, Tensor]) -> TrainState:
        """One step further; moves GECO by the batch mean of its constraint."""
        constraint = state.geco
        if constraint is not None and self.config.geco is not None:
            num_pixels = math.prod(self.config.image_size)
            constraint = update_kl(constraint, means["constraint"], self.config.geco, state.step, num_pixels)
        return replace(state, step=state.step + 1, geco=constraint)

    def step_form(self, state: TrainState) -> Hashable:
        """Whether this is the step that sets GECO's average."""
        return self.config.geco is not None and state.step == 0


def refuse_refinement(name: str, options: InferOptions) -> None:
    """Raise InputError where a caller asks a model that does not refine for refinement steps."""
    if options.refinement_steps:
        raise InputError(f"{name} has no refinement steps: leave them out or ask for 0")


def check_size(size: tuple[int, int]) -> None:
    """Raise InputError for a size of pictures that is not height and width."""
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(s, Integral) and s > 0 for s in size):
        raise InputError(f"size must be height and width in pixels, got {size}")


def require_size(images: Tensor, size: tuple[int, int]) -> None:
    """Raise InputError for images B 3 H W of another size than the one a model is built for."""
    height, width = images.shape[-2:]
    if (height, width) != tuple(size):
        raise InputError(f"images are {height}x{width}, and this model is built for {size[0]}x{size[1]} alone")
