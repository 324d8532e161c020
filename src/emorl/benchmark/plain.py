"""The plain formulation of EfficientMORL: the baseline that its times and memory are compared with.

What a careful reader of the paper would write in ordinary PyTorch. Every decode stays in the graph of the training
step: refinement differentiates it by its codes, and the training backward runs through it again. Codes meet the grid
at every position and go through every convolution; nothing is computed in place or a few images at a time, and memory
is laid out as PyTorch lays it out unasked. The results are those of `emorl.models.efficientmorl`, loss and gradients
included.

This class changes methods of its parent, which models must not do: so the two cannot differ in anything else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl.eager_vjp import EagerNLL
from emorl.models.efficientmorl import EfficientMORL, Mode
from emorl.nn.decoders import ConvDecoder, DeconvDecoder, ModulatedDecoder, PixelDecoder
from emorl.nn.encoders import ImageEncoder, pad_to_multiple
from emorl.nn.grids import position_grid
from emorl.prob import LIKELIHOODS


class PlainEncoder(nn.Module):
    """`ImageEncoder` with its weights."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.stride = encoder.stride
        self.convs = nn.Sequential(*encoder.convs)
        self.position, self.norm, self.mlp = encoder.position, encoder.norm, encoder.mlp

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """As there."""
        x = self.convs(pad_to_multiple(images, self.stride))  # B C h w
        h, w = x.shape[-2:]
        tokens = x.flatten(2).mT + self.position(position_grid(h, w, x).flatten(1).mT)  # B N C
        return self.mlp(self.norm(tokens)), (h, w)


class PlainDecoder(nn.Module):
    """A `PixelDecoder` with its weights: where code and grid meet, at every position, then the layers."""

    def __init__(self, decoder: PixelDecoder) -> None:
        super().__init__()
        self.margin, self.patch, self.num_waves = decoder.margin, decoder.patch, decoder.num_waves
        self.scale = 16 if isinstance(decoder, DeconvDecoder) else decoder.patch
        self.layers = nn.Sequential(*decoder.layers)
        self.projection = decoder.projection if isinstance(decoder, ModulatedDecoder) else None
        self.position = decoder.position if isinstance(decoder, ConvDecoder | DeconvDecoder) else None

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """Codes n D -> n 4 H W."""
        h, w = -(-height // self.scale) + self.margin, -(-width // self.scale) + self.margin
        grid = position_grid(h, w, z, self.num_waves)  # F h w
        x = self.layers(self._meet(z, grid))
        return F.pixel_shuffle(x, self.patch)[..., :height, :width]  # n 4 H W

    def _meet(self, z: Tensor, grid: Tensor) -> Tensor:
        if self.projection is not None:
            return torch.einsum("ncf,fhw->nchw", self.projection(z).view(len(z), -1, grid.shape[0]), grid)
        assert self.position is not None
        grid = self.position(grid.permute(1, 2, 0)).permute(2, 0, 1)  # D h w
        return z[:, :, None, None] + grid.contiguous()  # else the sum takes the grid's order

    def draw(self, z: Tensor, height: int, width: int) -> Tensor:
        """The same: its pixels are in the order of a picture."""
        pictures: Tensor = self(z, height, width)
        return pictures


class PlainEfficientMORL(EfficientMORL):
    """EfficientMORL with the weights of another, computed the plain way."""

    def __init__(self, model: EfficientMORL) -> None:
        super().__init__(model.config)
        self.to(model.initial_mean)
        self.load_state_dict(model.state_dict())  # copied into PyTorch's own order of memory
        self.encoder = PlainEncoder(self.encoder)  # type: ignore[assignment]
        self.decoder = PlainDecoder(self.decoder)  # type: ignore[assignment]

    def decode_nll(self, z: Tensor, images: Tensor, keep: bool = True) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As there, from the pictures."""
        out = self.decoder(z.flatten(0, 1), images.shape[2], images.shape[3])
        out = out.view(*z.shape[:2], *out.shape[1:])  # B K 4 H W
        log_masks, components = out[:, :, 3:].log_softmax(dim=1), out[:, :, :3].sigmoid()
        nll = LIKELIHOODS[self.config.likelihood](images, log_masks, components, self.config.sigma)
        return nll, (log_masks.detach(), components.detach()) if keep else ()

    def _decode_once(self, z: Tensor, images: Tensor, mode: Mode, last: bool) -> EagerNLL:
        """One decode that stays in the graph, differentiated by its codes where a refinement step follows."""
        with torch.set_grad_enabled(mode.training or not last):
            per_image, decoding = self.decode_nll(z, images, mode.keep == "every" or (mode.keep == "last" and last))
            total = per_image.sum()
        grad = torch.zeros_like(z) if last else torch.autograd.grad(total, z, retain_graph=mode.training)[0]
        return EagerNLL(total, per_image.detach(), grad, decoding)
