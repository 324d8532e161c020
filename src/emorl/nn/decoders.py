"""Decoders: codes to mask logits and RGB, each slot by itself.

All but `ModulatedDecoder` start from a code tiled over a grid plus a projected position grid. The first convolution
then acts on a constant field plus a fixed grid, conv(tile(z) + grid) = (sums of kernel taps) z + conv(grid): the
second term is shared by all images and slots, and the first takes few values (one inside, others along borders with
zero padding), so they are computed once and then repeated. Exact, and a layer cheaper.

Axes: n = B K codes, D code width, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from emorl.nn import fused
from emorl.nn.convs import ConvStack, is_elu, slope_
from emorl.nn.grids import position_grid


def run_on_tiled(stack: ConvStack, z: Tensor, grid: Tensor) -> Tensor:
    """The stack of tile(z) + grid for z n D and grid D H W, its first convolution, of stride 1, without tiling z."""
    conv = stack[0]
    assert isinstance(conv, nn.Conv2d)
    kernel, pad = conv.kernel_size[0], int(conv.padding[0])
    if min(grid.shape[-2:]) < kernel:  # no inside: every position is a border case of its own
        return stack.run_from(0, z[:, :, None, None] + grid)
    shared = stack.conv(conv, grid.unsqueeze(0)).contiguous(memory_format=torch.channels_last)  # 1 C h w
    height, width = shared.shape[-2:]
    taps = _taps_inside(kernel, pad, shared)  # 2p+1 k
    taps = torch.einsum("ai,bj->abij", taps, taps).flatten(2).flatten(0, 1)  # Q k^2 for the Q = (2p+1)^2 cases
    sums = taps @ conv.weight.to(shared.dtype).flatten(2).permute(1, 2, 0)  # D Q C
    cases = torch.matmul(z.to(shared.dtype), sums.flatten(1)).view(-1, *sums.shape[1:])  # n Q C
    rows, cols = _case_of(height, pad, shared), _case_of(width, pad, shared)  # h, w
    which = ((2 * pad + 1) * rows[:, None] + cols).flatten()  # hw
    if stack.overwrites(1) and fused.usable(shared):
        activated: Tensor = _Spread.apply(which, cases, shared, is_elu(stack[1]))  # type: ignore[no-untyped-call]
        return stack.run_from(2, activated)
    field: Tensor = _Spread.apply(which, cases, shared, None)  # type: ignore[no-untyped-call]
    return stack.run_from(1, field)


def _taps_inside(kernel: int, pad: int, like: Tensor) -> Tensor:
    """(2 pad + 1) x kernel, 0 or 1: the taps that see the picture, not zeros around it, in every case along an axis.

    The cases are the `pad` positions at its beginning, those inside, and the `pad` ones at its end.
    """
    case, tap = torch.arange(2 * pad + 1, device=like.device)[:, None], torch.arange(kernel, device=like.device)
    return ((tap >= pad - case) & (tap < kernel + pad - case)).to(like.dtype)


def _case_of(size: int, pad: int, like: Tensor) -> Tensor:
    """The case that each position along an axis is: int64, 0 to 2 pad."""
    position = torch.arange(size, device=like.device)
    return position.clamp(max=pad) + (position - (size - 1 - pad)).clamp(min=0)


class _Spread(torch.autograd.Function):
    """Of cases n Q C the one of every position (`which`, hw), plus a picture 1 C h w that all n share: n C h w.

    With `elu` not None an ELU (or ReLU) of that: the picture must then be `fused.usable`.
    The backward is products of matrices: sums over the outer axes are several times slower on a CPU. The result is no
    view, so that activations may overwrite it.
    """

    @staticmethod
    def forward(ctx: Any, which: Tensor, cases: Tensor, shared: Tensor, elu: bool | None) -> Tensor:
        n, num_cases, channels = cases.shape
        ctx.elu = elu
        one_hot = (which[:, None] == torch.arange(num_cases, device=which.device)).to(shared.dtype)  # hw Q
        if elu is not None:
            activated = fused.spread_and_activate(shared, cases, which, elu)
            ctx.save_for_backward(one_hot, activated)
            return activated
        ctx.save_for_backward(one_hot)
        if num_cases == 1:  # without borders
            return shared + cases.view(n, channels, 1, 1)
        result = torch.empty_like(shared.expand(n, -1, -1, -1), memory_format=torch.channels_last)
        parts = _rows(shared).expand(n, -1, -1), one_hot.expand(n, -1, -1), cases
        torch.baddbmm(*parts, out=_rows(result))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None]:
        one_hot, *activated = ctx.saved_tensors
        n, channels, height, width = grad.shape
        if activated:
            grad = slope_(grad, activated[0], ctx.elu)
        rows = grad.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        cases = torch.bmm(one_hot.mT.expand(n, -1, -1), rows)  # n Q C
        shared = rows.new_ones(1, n) @ rows.reshape(n, -1)  # 1 hwC
        return None, cases, shared.view(1, height, width, channels).permute(0, 3, 1, 2), None


def _rows(x: Tensor) -> Tensor:
    """n C h w in the order of channels last -> n hw C, the same memory."""
    return x.permute(0, 2, 3, 1).view(x.shape[0], -1, x.shape[1])


_NO_GRADIENT = 1e-20
"""Gradients of a pixel below this become 0. A slot has hardly a share in most pixels, and its gradients there, e^-90 of
others, are denormal numbers, with which the convolutions of a CPU take up to ten times as long."""


def masks_and_colours(out: Tensor) -> tuple[Tensor, Tensor]:
    """A decoder's pixels B K 4 ... -> log masks B K 1 ..., normalised over K, and components B K 3 ... in [0, 1].

    No two entries of `out` may share memory.
    """
    log_masks, components = _MasksAndColours.apply(out)  # type: ignore[no-untyped-call]
    return log_masks, components


class _MasksAndColours(torch.autograd.Function):
    """Log softmax and sigmoid of two parts of a tensor, whose gradients are written into one of its own layout."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> tuple[Tensor, Tensor]:
        log_masks, components = out[:, :, 3:].log_softmax(dim=1), out[:, :, :3].sigmoid()
        ctx.save_for_backward(log_masks, components)
        ctx.layout = out.shape, out.stride()  # the tensor itself is needed no more
        return log_masks, components

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_masks: Tensor, grad_components: Tensor) -> Tensor:
        log_masks, components = ctx.saved_tensors
        grad: Tensor = log_masks.new_empty_strided(*ctx.layout)
        shares = log_masks.exp() * grad_masks.sum(dim=1, keepdim=True)
        torch.sub(grad_masks, shares, out=grad[:, :, 3:])
        torch.ops.aten.sigmoid_backward.grad_input(grad_components, components, grad_input=grad[:, :, :3])
        settled: Tensor = torch.ops.aten.hardshrink.out(grad, _NO_GRADIENT, out=grad)
        return settled


def images_per_chunk(stack: ConvStack, codes_per_image: int, height: int, width: int) -> int:
    """How many images a decoder takes at once, so that a layer at H W stays below the stack's `chunk_bytes`."""
    if stack.chunk_bytes is None:
        return 2**31
    channels = max(p.shape[0] for p in stack.parameters() if p.ndim == 4)
    layer = codes_per_image * channels * height * width * (stack.compute_dtype or stack.dtype).itemsize
    return max(1, stack.chunk_bytes // layer)


class PixelDecoder(nn.Module):
    """What all decoders share: codes to pixels, in the decoder's own order, and to pictures.

    A likelihood is a sum over pixels, so it may be taken in the order that the last convolution leaves them in, with
    the image brought to that order (`arrange`): it is much smaller than what is decoded of all slots. With `patch` > 1
    that order is p^2 pixels of each of P = h w patches, some of which lie outside of a picture whose sides are no
    multiples of p; else it is 1 x H W.
    """

    patch = 1
    margin = 0
    num_waves = 0
    layers: ConvStack

    def __call__(self, z: Tensor, height: int, width: int) -> Tensor:
        """Codes n D -> n 4 p^2 P: RGB before its sigmoid first, mask logit last."""
        pixels: Tensor = super().__call__(z, height, width)
        return pixels

    def draw(self, z: Tensor, height: int, width: int) -> Tensor:
        """Codes n D -> n 4 H W: the same as pictures."""
        return self.picture(self(z, height, width), height, width)

    def images_per_chunk(self, num_slots: int, height: int, width: int) -> int:
        """See the function of this name."""
        return images_per_chunk(self.layers, num_slots, *self._grid_size(height, width))

    def _grid_size(self, height: int, width: int) -> tuple[int, int]:
        """The largest that a layer works at."""
        return -(-height // self.patch) + self.margin, -(-width // self.patch) + self.margin

    def arrange(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images B 3 H W -> B 3 p^2 P, and which pixels are inside: p^2 P, 0 or 1; None for all."""
        p, (height, width) = self.patch, images.shape[-2:]
        if p == 1:
            return images.flatten(2).unsqueeze(2), None
        padded = F.pad(images, (0, -width % p, 0, -height % p))
        target = _to_patches(padded, p)
        if padded.shape == images.shape:
            return target, None
        inside = F.pad(images.new_ones(1, 1, height, width), (0, -width % p, 0, -height % p))
        return target, _to_patches(inside, p)[0, 0]

    def picture(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """Values of pixels n c p^2 P -> n c H W."""
        p, (n, channels) = self.patch, pixels.shape[:2]
        if p == 1:
            return pixels.reshape(n, channels, height, width)
        grid = pixels.reshape(n, channels * p**2, -(-height // p), -(-width // p))
        return F.pixel_shuffle(grid, p)[..., :height, :width]


def _to_patches(pictures: Tensor, patch: int) -> Tensor:
    """n c H W -> n c p^2 P, with the channels of a patch side by side in memory as a convolution leaves them."""
    grid = F.pixel_unshuffle(pictures, patch).contiguous(memory_format=torch.channels_last)  # n cp^2 h w
    return grid.view(*pictures.shape[:2], patch**2, -1)


class ConvDecoder(PixelDecoder):
    """Stride-1 convolutions over the tiled code, at a multiple of `patch` pixels.

    `margin` rows and columns are added to the tile so that the unpadded convolutions end at the size wanted. With
    patch > 1 every position yields patch x patch pixels (sub-pixel convolution).
    """

    def __init__(self, dim: int, layers: ConvStack, margin: int, patch: int = 1, num_waves: int = 0) -> None:
        super().__init__()
        self.layers = layers
        self.margin = margin
        self.patch = patch
        self.num_waves = num_waves
        self.position = nn.Linear(4 + 2 * num_waves, dim)

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """See `PixelDecoder.__call__`."""
        h, w = self._grid_size(height, width)
        grid = self.position(position_grid(h, w, z, self.num_waves).permute(1, 2, 0)).permute(2, 0, 1)  # D h w
        x = run_on_tiled(self.layers, z, grid)  # n 4p^2 h w
        return x.reshape(x.shape[0], 4, self.patch**2, -1)


class ModulatedDecoder(PixelDecoder):
    """Stride-1 convolutions over position features that the code projects, at a multiple of `patch` pixels.

    Where the others add code and position, here they multiply: with features g(p) of position p, F in number,

        x(p) = (W z + b) g(p),   W z + b of C x F

    is what the first convolution sees. Each of its C channels is a map of slopes and a cosine series whose coefficients
    are linear in the code, so also a soft blob at any place. In a sum the code is an offset, the same at all positions,
    until the first unit that is not linear.
    """

    def __init__(self, dim: int, layers: ConvStack, patch: int = 1, num_waves: int = 0) -> None:
        super().__init__()
        self.layers = layers
        self.patch = patch
        self.num_waves = num_waves
        first = layers[0]
        assert isinstance(first, nn.Conv2d)
        self.projection = nn.Linear(dim, first.in_channels * (4 + 2 * num_waves))

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """See `PixelDecoder.__call__`."""
        h, w = self._grid_size(height, width)
        features = position_grid(h, w, z, self.num_waves).flatten(1)  # F hw
        projections = self.projection(z).view(z.shape[0], -1, features.shape[0])  # n C F
        x = torch.matmul(features.mT, projections.mT)  # n hw C, the order of channels last
        out: Tensor = self.layers(x.view(z.shape[0], h, w, -1).permute(0, 3, 1, 2))  # n 4p^2 h w
        return out.reshape(z.shape[0], 4, self.patch**2, -1)


class DeconvDecoder(PixelDecoder):
    """Slot Attention's: a tile of H/16 x W/16, enlarged by four strided transposed convolutions.

    Sizes that are no multiple of 16 are decoded at the next one and cut at the right and bottom.
    """

    def __init__(self, dim: int, channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(4):
            inputs = dim if i == 0 else channels
            layers += [
                nn.ConvTranspose2d(inputs, channels, 5, stride=2, padding=2, output_padding=1),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(channels, channels, 5, padding=2), nn.ReLU()]
        layers += [nn.ConvTranspose2d(channels, 4, 3, padding=1)]
        self.layers = ConvStack(*layers)
        self.position = nn.Linear(4, dim)

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """See `PixelDecoder.__call__`."""
        grid = position_grid(-(-height // 16), -(-width // 16), z)  # 4 h w
        grid = self.position(grid.permute(1, 2, 0)).permute(2, 0, 1)  # D h w
        x = (z[:, :, None, None] + grid).contiguous(memory_format=torch.channels_last)  # n D h w
        out: Tensor = self.layers(x)
        return out[..., :height, :width].flatten(2).unsqueeze(2)  # n 4 1 HW


def broadcast_decoder(dim: int) -> ConvDecoder:
    """The paper's for CLEVR6 and Multi-dSprites: five 3x3 convolutions without padding."""
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Conv2d(dim if i == 0 else 64, 64, 3), nn.ELU()]
    return ConvDecoder(dim, ConvStack(*layers, nn.Conv2d(64, 4, 3)), margin=10)


def small_decoder(dim: int) -> ConvDecoder:
    """The paper's for Tetrominoes: three 5x5 convolutions, padding 1, 32 channels, then a 3x3 one."""
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Conv2d(dim if i == 0 else 32, 32, 5, padding=1), nn.ReLU()]
    return ConvDecoder(dim, ConvStack(*layers, nn.Conv2d(32, 4, 3, padding=1)), margin=6)


def subpixel_decoder(dim: int, channels: int, patch: int, num_layers: int, num_waves: int) -> ConvDecoder:
    """Ours, for laptops: 3x3 convolutions on a grid of patches, then a sub-pixel convolution."""
    layers = _subpixel_layers(dim, channels, patch, num_layers)
    return ConvDecoder(dim, layers, margin=0, patch=patch, num_waves=num_waves)


def modulated_decoder(dim: int, channels: int, patch: int, num_layers: int, num_waves: int) -> ModulatedDecoder:
    """Ours, for laptops: the sub-pixel decoder's convolutions over positions that the code projects."""
    layers = _subpixel_layers(channels, channels, patch, num_layers)
    return ModulatedDecoder(dim, layers, patch, num_waves)


def _subpixel_layers(inputs: int, channels: int, patch: int, num_layers: int) -> ConvStack:
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
        inputs = channels
    return ConvStack(*layers, nn.Conv2d(inputs, 4 * patch**2, 3, padding=1))
