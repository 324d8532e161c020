"""The kernels for GPUs are the formulas they stand for. Without a GPU, Triton's interpreter runs them."""

from __future__ import annotations

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


def stacks(act: type[nn.Module], pad: int) -> tuple[ConvStack, nn.Sequential]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(6, 8, 3, padding=pad), act(), nn.Conv2d(8, 16, 3), act(), nn.Conv2d(16, 12, 3), act()]
    layers += [nn.Conv2d(12, 4, 3)]  # of twelve channels, which the kernels do not take
    plain = nn.Sequential(*layers).to(DEVICE, memory_format=torch.channels_last)
    return ConvStack(*plain), plain


def check(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weight = draw(*theirs.shape, seed=3)
    mine = torch.autograd.grad((ours * weight).sum(), inputs)
    for one, other in zip(mine, torch.autograd.grad((theirs * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("act", [nn.ELU, nn.ReLU])
def test_a_stack_is_that_of_its_layers(everywhere: None, act: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    stack, plain = stacks(act, 0)
    x = draw(2, 6, 11, 14).contiguous(memory_format=torch.channels_last).requires_grad_()
    taken: list[int] = []
    add = fused.add_bias_and_activate

    def watched(x: Tensor, bias: Tensor, elu: bool) -> Tensor:
        taken.append(x.shape[1])
        return add(x, bias, elu)

    monkeypatch.setattr(fused, "add_bias_and_activate", watched)
    check(stack(x), plain(x), [x, *plain.parameters()])
    assert taken == [8, 16]


@pytest.mark.parametrize("act", [nn.ELU, nn.ReLU])
@pytest.mark.parametrize("pad", [0, 1])
def test_a_tiled_code_is_that_of_the_tile(
    everywhere: None, act: type[nn.Module], pad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    stack, plain = stacks(act, pad)
    z, grid = draw(3, 6).requires_grad_(), draw(6, 12, 10, seed=1).requires_grad_()
    tile = z[:, :, None, None] + grid
    check(run_on_tiled(stack, z, grid), plain(tile), [z, grid, *plain.parameters()])


def test_without_a_gpu_they_are_left_alone() -> None:
    assert not fused.usable(torch.zeros(1, 8, 2, 2).contiguous(memory_format=torch.channels_last))
