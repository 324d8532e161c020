"""The kernels for GPUs are the formulas they stand for. Without a GPU, Triton's interpreter runs them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl.nn import fused
from emorl.nn.convs import ConvStack
from emorl.nn.decoders import run_on_tiled

pytest.importorskip("triton", reason="needs Triton: part of PyTorch for CUDA, or of the extra dev")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
TYPES = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
"""And how far off what they hold may be, relative."""


@pytest.fixture
def kernels() -> ModuleType:
    from emorl.nn import kernels

    return kernels


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models take them on a CPU too."""
    monkeypatch.setattr(fused, "on", lambda x: True)


def draw(*shape: int, kind: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, kind)


def activated(x: Tensor, elu: bool) -> Tensor:
    return F.elu(x) if elu else F.relu(x)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("elu", [True, False])
@pytest.mark.parametrize(("num_rows", "channels"), [(1, 8), (37, 64), (300, 16)])
def test_bias_and_activation(kernels: ModuleType, num_rows: int, channels: int, elu: bool, kind: torch.dtype) -> None:
    x, bias = draw(num_rows, channels, kind=kind), draw(channels, seed=1)
    expected = activated(x.float() + bias, elu)
    kernels.add_bias_and_activate(x, bias, elu)
    torch.testing.assert_close(x.float(), expected, rtol=TYPES[kind], atol=1e-7)


def test_an_elu_near_zero_keeps_its_digits(kernels: ModuleType) -> None:
    """exp(x) - 1 has lost all of them at 1e-8."""
    size = torch.logspace(-12, 1, 800)
    x = torch.cat([-size, size]).view(-1, 8).to(DEVICE)
    expected = F.elu(x.double()).float()
    kernels.add_bias_and_activate(x, torch.zeros(8, device=DEVICE), True)
    torch.testing.assert_close(x, expected, rtol=3e-6, atol=0)


@pytest.mark.parametrize("elu", [True, False])
def test_what_is_not_finite_stays_so(kernels: ModuleType, elu: bool) -> None:
    """A step whose loss is not finite must be seen as such."""
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0] * 2], device=DEVICE)
    expected = activated(x, elu)
    kernels.add_bias_and_activate(x, torch.zeros(8, device=DEVICE), elu)
    torch.testing.assert_close(x, expected, equal_nan=True)
    shared, which = torch.full((3, 8), float("nan"), device=DEVICE), torch.zeros(3, dtype=torch.int64, device=DEVICE)
    field = kernels.spread_and_activate(shared, draw(2, 1, 8), which, elu)
    assert field.isnan().all()
    grad = torch.full((5, 8), float("nan"), device=DEVICE)
    sums = kernels.slope_and_sums(grad, torch.ones_like(grad), elu)
    assert grad.isnan().all() and sums.isnan().all()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("elu", [True, False])
@pytest.mark.parametrize("rows_and_programs", [(64, 4096), (16, 3)])
def test_slopes_and_their_sums(
    kernels: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    elu: bool,
    kind: torch.dtype,
    rows_and_programs: tuple[int, int],
) -> None:
    rows, programs = rows_and_programs  # with few programs each takes several blocks, and the last ones none
    monkeypatch.setattr(kernels, "ROWS", rows)
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    y, grad = activated(draw(201, 16, kind=kind), elu), draw(201, 16, kind=kind, seed=1)
    slope = torch.where(y > 0, 1.0, y.float() + 1 if elu else 0.0)
    expected = grad.float() * slope
    sums = kernels.slope_and_sums(grad, y, elu)
    torch.testing.assert_close(grad.float(), expected, rtol=TYPES[kind], atol=0)
    torch.testing.assert_close(sums, grad.float().sum(dim=0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("num_cases", [1, 9])
def test_cases_at_positions(kernels: ModuleType, num_cases: int, kind: torch.dtype) -> None:
    shared, cases = draw(300, 16, kind=kind), draw(3, num_cases, 16, kind=kind, seed=1)
    which = torch.randint(0, num_cases, (300,), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    expected = F.elu(shared.float() + cases[:, which].float())
    out = kernels.spread_and_activate(shared, cases, which, True)
    torch.testing.assert_close(out.float(), expected, rtol=TYPES[kind], atol=1e-7)


LAYERS = {
    "unpadded": lambda act: [nn.Conv2d(6, 8, 3), act(), nn.Conv2d(8, 16, 3), act(), nn.Conv2d(16, 4, 3)],
    "padded": lambda act: [
        nn.Conv2d(6, 8, 3, padding=1),
        act(),
        nn.Conv2d(8, 16, 3, padding=1),
        act(),
        nn.Conv2d(16, 4, 1),
    ],
    "of twelve channels, which no kernel takes": lambda act: [
        nn.Conv2d(6, 12, 3),
        act(),
        nn.Conv2d(12, 16, 3),
        act(),
        nn.Conv2d(16, 4, 3),
    ],
    "without a bias": lambda act: [nn.Conv2d(6, 8, 3, bias=False), act(), nn.Conv2d(8, 4, 3)],
    "ends with an activation": lambda act: [nn.Conv2d(6, 8, 3), act(), nn.Conv2d(8, 8, 3), act()],
}
TAKEN = {"unpadded": [8, 16], "padded": [8, 16], "of twelve channels, which no kernel takes": [16]}
"""Channels of the activations that kernels take, of stacks where one does but those that follow."""
TAKEN |= {"without a bias": [], "ends with an activation": [8]}


def stacks(kind: str, act: type[nn.Module]) -> tuple[ConvStack, nn.Sequential]:
    torch.manual_seed(0)
    plain = nn.Sequential(*LAYERS[kind](act)).to(DEVICE, memory_format=torch.channels_last)
    return ConvStack(*plain), plain


def check(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weight = draw(*theirs.shape, seed=3)
    mine = torch.autograd.grad((ours * weight).sum(), inputs)
    for one, other in zip(mine, torch.autograd.grad((theirs * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.fixture
def taken(everywhere: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Channels of what the forward kernels get, in turn."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    seen: list[int] = []

    def watched(kernel: Callable[..., Tensor], x: Tensor, *args: object) -> Tensor:
        seen.append(x.shape[1])
        return kernel(x, *args)

    for name in ("add_bias_and_activate", "spread_and_activate"):
        monkeypatch.setattr(fused, name, partial(watched, getattr(fused, name)))
    return seen


@pytest.mark.parametrize("act", [nn.ELU, nn.ReLU])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_stack_is_that_of_its_layers(taken: list[int], kind: str, act: type[nn.Module]) -> None:
    stack, plain = stacks(kind, act)
    x = draw(2, 6, 11, 14).contiguous(memory_format=torch.channels_last).requires_grad_()
    before = x.detach().clone()
    check(stack(x), plain(x), [x, *plain.parameters()])
    assert taken == TAKEN[kind]
    assert torch.equal(x, before)
    with torch.no_grad():
        torch.testing.assert_close(stack(x), plain(x), rtol=1e-4, atol=1e-5)


def test_a_gradient_in_another_order_is_brought_to_that_of_channels_last(taken: list[int]) -> None:
    x, bias = draw(2, 8, 3, 5).contiguous(memory_format=torch.channels_last), draw(8, seed=1)
    y = F.elu(x + bias.view(-1, 1, 1))
    grad = draw(2, 8, 3, 5, seed=2)
    expected = grad * torch.where(y > 0, 1.0, y + 1)
    found, sums = fused.slope_and_sums(grad, y, True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(sums, expected.sum(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("act", [nn.ELU, nn.ReLU])
@pytest.mark.parametrize("kind", ["unpadded", "padded", "of twelve channels, which no kernel takes"])
def test_a_tiled_code_is_that_of_the_tile(taken: list[int], kind: str, act: type[nn.Module]) -> None:
    stack, plain = stacks(kind, act)
    z, grid = draw(3, 6).requires_grad_(), draw(6, 12, 10, seed=1).requires_grad_()
    tile = z[:, :, None, None] + grid
    check(run_on_tiled(stack, z, grid), plain(tile), [z, grid, *plain.parameters()])
    assert taken == TAKEN[kind]


def test_no_codes_are_no_pictures(taken: list[int]) -> None:
    stack, _ = stacks("unpadded", nn.ELU)
    assert run_on_tiled(stack, draw(0, 6), draw(6, 12, 10)).shape == (0, 4, 6, 4)


@pytest.mark.parametrize(
    ("x", "good"),
    [
        (torch.zeros(1, 64, 2, 3, dtype=torch.bfloat16), True),
        (torch.zeros(1, 64, 2, 3, dtype=torch.float64), False),
        (torch.zeros(1, 12, 2, 3), False),
        (torch.zeros(1, 4, 2, 3), False),
        (torch.zeros(1, 512, 2, 3), False),
        (torch.zeros(0, 64, 2, 3), False),
    ],
)
def test_what_they_take(everywhere: None, x: Tensor, good: bool) -> None:
    assert fused.usable(x.contiguous(memory_format=torch.channels_last)) == good
    assert not fused.usable(x.contiguous()) or x.numel() == 0


def test_without_a_gpu_they_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "built", lambda device: True)
    assert not fused.usable(torch.zeros(1, 8, 2, 2).contiguous(memory_format=torch.channels_last))


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_they_are_built_here() -> None:
    assert fused.usable(torch.zeros(1, 8, 2, 2, device=DEVICE).contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("error", [ImportError("no module named triton"), RuntimeError("no C compiler")])
def test_where_they_cannot_be_built_a_warning_says_so(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> ModuleType:
        raise error

    monkeypatch.setattr(fused, "_kernels", broken)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    fused.built.cache_clear()
    with pytest.warns(UserWarning, match=f"slower.*{error}"):
        assert not fused.built(torch.device("cpu"))
    fused.built.cache_clear()
