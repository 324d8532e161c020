"""The baseline computes the same, and does it the plain way."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from emorl.benchmark.counters import LiveBytes, Work, peak_bytes
from emorl.benchmark.plain import PlainEfficientMORL
from emorl.geco import GecoConfig
from emorl.models.base import InferOptions, TrainState
from emorl.models.efficientmorl import EfficientMORL, EfficientMORLConfig
from emorl.nn.choices import PatchConfig
from emorl.precision import place
from tests.models import plain as reference

B, K, D, H, W = 2, 3, 6, 7, 9  # no two alike, H and W no multiples of a patch
SMALL = EfficientMORLConfig(
    num_slots=K,
    slot_dim=D,
    num_layers=2,
    sigma=0.3,
    encoder="patch",
    decoder="subpixel",
    patch=PatchConfig(2, 10, 2, 3, 8, 3, 1),
)
NETWORKS = list(itertools.product(("conv", "patch"), ("broadcast", "small", "deconv", "subpixel", "modulated")))


def pair(config: EfficientMORLConfig = SMALL) -> tuple[EfficientMORL, PlainEfficientMORL]:
    """A model in float64, as it is placed for work, and its plain formulation."""
    model = EfficientMORL(config)
    reference.random_weights(model, 0)
    place(model.double(), torch.device("cpu"), "float32")
    return model, PlainEfficientMORL(model)


def pictures(batch: int = B) -> Tensor:
    return torch.rand(batch, 3, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loss_and_gradients(model: EfficientMORL, state: TrainState) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    loss = model.loss(pictures(), state, noise=3)
    loss.total.backward()  # type: ignore[no-untyped-call]
    values = {"total": loss.total.detach(), **loss.terms}
    return values, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    """Relative to the largest entry of all: some true gradients are zero."""
    assert ours.keys() == plain.keys()
    scale = max(float(value.abs().max()) for value in ours.values() if value.numel())
    for name, value in ours.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-9, atol=1e-9 * scale, msg=name)


@pytest.mark.parametrize(("encoder", "decoder"), NETWORKS)
@pytest.mark.parametrize("num_steps", [0, 1, 2, 3])
def test_loss_and_gradients_are_equal(encoder: str, decoder: str, num_steps: int) -> None:
    config = replace(SMALL, encoder=encoder, decoder=decoder)  # type: ignore[arg-type]
    model, plain = pair(config)
    state = replace(model.initial_state(), refinement_steps=num_steps, kl_weight=1.5)
    ours, theirs = loss_and_gradients(model, state), loss_and_gradients(plain, state)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])


@pytest.mark.parametrize("likelihood", ["gaussian", "mixture"])
def test_with_geco_too(likelihood: str) -> None:
    constraint = GecoConfig(target_per_element=-1.0, warmup_steps=2)
    model, plain = pair(replace(SMALL, likelihood=likelihood, geco=constraint))  # type: ignore[arg-type]
    state = replace(model.initial_state(), step=5, refinement_steps=2)
    ours, theirs = loss_and_gradients(model, state), loss_and_gradients(plain, state)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])


@pytest.mark.parametrize(("encoder", "decoder"), NETWORKS)
@pytest.mark.parametrize("num_steps", [0, 2])
def test_inference_and_codes_are_equal(encoder: str, decoder: str, num_steps: int) -> None:
    model, plain = pair(replace(SMALL, encoder=encoder, decoder=decoder))  # type: ignore[arg-type]
    options = InferOptions(refinement_steps=num_steps)
    ours, theirs = model.infer(pictures(), options, noise=1), plain.infer(pictures(), options, noise=1)
    for name in ("masks", "components", "slots"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.encode(pictures(), options), plain.encode(pictures(), options))


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_codes_take_as_many_decodes_as_ours(num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decodes: list[int] = []
    honest = PlainEfficientMORL.decode_nll
    monkeypatch.setattr(PlainEfficientMORL, "decode_nll", lambda *given: decodes.append(1) or honest(*given))
    _, plain = pair()
    plain.encode(pictures(), InferOptions(refinement_steps=num_steps))
    assert len(decodes) == num_steps


def test_the_weights_are_a_copy_under_the_same_names() -> None:
    model, plain = pair()
    assert list(model.state_dict()) == list(plain.state_dict())
    before = plain.initial_mean.clone()
    with torch.no_grad():
        model.initial_mean.add_(1)
    assert torch.equal(plain.initial_mean, before)


@pytest.mark.parametrize(("encoder", "decoder"), NETWORKS)
def test_memory_is_in_the_default_order(encoder: str, decoder: str) -> None:
    _, plain = pair(replace(SMALL, encoder=encoder, decoder=decoder))  # type: ignore[arg-type]
    seen = []

    def check(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        for tensor in (*inputs, output, *layer.parameters()):
            assert tensor.is_contiguous()
        seen.append(layer)

    convolutions = [m for m in plain.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    for layer in convolutions:
        layer.register_forward_hook(check)
    plain.loss(torch.rand(B, 3, 20, 35).double(), plain.initial_state(), noise=0)  # a deconvolution of 1x1 has no order
    assert set(seen) == set(convolutions)


def test_every_decode_is_kept_until_the_backward() -> None:
    model, plain = pair(replace(SMALL, decoder="broadcast"))
    images = pictures(6)

    def held(model: EfficientMORL, num_steps: int) -> int:
        """Bytes alive between loss and backward."""
        state = replace(model.initial_state(), refinement_steps=num_steps)
        with LiveBytes() as counter:
            loss = model.loss(images, state, noise=0)
            live: int = counter.live
            del loss
        return live

    decode = peak_bytes(lambda: plain.decode_nll(torch.zeros(6, K, D, dtype=torch.float64), images))
    growth = [held(plain, count + 1) - held(plain, count) for count in range(3)]
    assert min(growth) > 0.9 * decode and max(growth) < 1.02 * min(growth)
    assert held(model, 3) - held(model, 0) < 0.3 * growth[0]


def test_the_plain_backward_runs_the_decoder_again_and_no_more() -> None:
    """A refinement step adds a decode, its gradient by codes and weights, and that by codes of the one before."""
    _, plain = pair(replace(SMALL, decoder="broadcast", encoder="patch"))

    def flops(num_steps: int) -> int:
        state, work = replace(plain.initial_state(), refinement_steps=num_steps), Work()
        with work:
            plain.loss(pictures(), state, noise=0).total.backward()  # type: ignore[no-untyped-call]
        return sum(work.flops.values())

    decode = Work()
    with decode, torch.no_grad():
        plain.decode_nll(torch.zeros(B, K, D, dtype=torch.float64), pictures())
    once = sum(decode.flops.values())
    assert flops(1) - flops(0) == pytest.approx(4 * once, rel=0.01)
    assert flops(3) - flops(1) == pytest.approx(8 * once, rel=0.01)
