"""GENESIS-v2 (Engelcke, Parker Jones, Posner; NeurIPS 2021): slots grow around pixels that are drawn at random.

Attention (instance colouring stick breaking), for k = 1..K-1 from the whole scope s_0 = 1, u uniform noise per pixel:

    c_p = gate (W e_p) + (0, .., 0, row, column)        the colour of pixel p, from features e of a U-Net
    seed = c_i, i = argmax over pixels of u_p s_{k-1,p}
    a_p = clamp(exp(-||c_p - seed||^2 / sigma), 0.01, 0.99)                   straight-through
    m_k = s_{k-1} a;   s_k = s_{k-1} (1 - a);   m_K = s_{K-1}

Codes, every slot by itself given the masks, and a prior that goes from slot to slot:

    f_k = sum_p m_k F_p / (sum_p m_k + 1e-5);   q(z_k | x) = N(mu_k, softplus(r_k + 0.5) + 1e-8), (mu_k, r_k) = MLP(f_k)
    p(z_1) = N(0, I);   p(z_k | z_<k) = N(tanh(a_k), sigmoid(b_k + 4) + 1e-4), (a_k, b_k) = W LSTM(z_<k)

The decoder makes components y_k and mask logits; the likelihood is a mixture by the decoder's masks mhat, while those
of the attention, which are scored, do no more than gate what a code is made of:

    NLL = -sum over pixels and channels of log sum_k mhat_k N(x; y_k, sigma)
    KL = sum_k log q(z_k | x) - log p(z_k | z_<k)   at the sample
    loss = NLL + beta KL,   beta moved by GECO towards NLL = target

Sizes and values are the released code's (applied-ai-lab/genesis); docs/models/genesis-v2.md says what we do otherwise.
Axes: B images, K slots, D slot width, C channels, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl import checks
from emorl.errors import InputError
from emorl.geco import KLGecoConfig
from emorl.models.base import InferOptions, KLGecoModel, TrainState, images_to_unit, refuse_refinement, require_size
from emorl.nn.autoregressive import AutoregressivePrior, exact_kl, sampled_kl
from emorl.nn.component_vae import shifted_softplus_std
from emorl.nn.convs import Conv2d, ConvTranspose2d
from emorl.nn.decoders import masks_and_colours
from emorl.nn.grids import coordinates
from emorl.nn.init import InitialWeights, keras_
from emorl.nn.unet import NUM_GROUPS, UNet
from emorl.noise import Noise, as_noise
from emorl.prob import mixture_nll
from emorl.types import Decoding, Inference, Loss, Posterior, Step

Kernel = Literal["gaussian", "laplacian", "epanechnikov"]

COLOUR_DIM = 8
"""Of the colour of a pixel, the last two for row and column."""
PART_LIMITS = (0.01, 0.99)
"""A slot takes no less and no more than this of what is left of a pixel."""


@dataclass(frozen=True)
class GenesisV2Config:
    """Everything the model is built from."""

    refinement_steps: ClassVar[int] = 0
    ordered_slots: ClassVar[bool] = True
    image_size: tuple[int, int] = (64, 64)
    """H W of all images: the U-Net has linear layers over its whole smallest map. At least 16."""
    num_slots: int = 6
    """K where the caller names none; sigma of the kernel begins with it."""
    slot_dim: int = 64
    """D."""
    channels: int = 64
    """c, a multiple of 8: the U-Net's maps have c and 2c channels, heads and decoder c, pooled features 2c; 4c hidden
    units in the prior."""
    kernel: Kernel = "gaussian"
    """Of the distance to the seed: exp(-d^2 / sigma), exp(-d / sigma) or max(0, 1 - d^2 / sigma)."""
    sigma: float = 0.7
    """Standard deviation of the likelihood, pixel values in [0, 1]."""
    geco: KLGecoConfig | None = KLGecoConfig()
    """Constrain the reconstruction; None keeps the KL at its own weight. The target is for a sigma: see the page."""
    kl_weight: float = 1.0
    """Of the KL, beside GECO's multiplier."""
    initial_weights: InitialWeights = "pytorch"
    """PyTorch's defaults, as in the code that is followed, or Keras's, which keep small networks from starting dull."""


def initial_kernel_sigma(kernel: Kernel, num_slots: int) -> float:
    """Sigma before training: the more slots, the smaller the part of colour space that one of them takes."""
    return {
        "gaussian": 1 / (num_slots * math.log(2)),
        "laplacian": 1 / (math.sqrt(num_slots) * math.log(2)),
        "epanechnikov": 2 / num_slots,
    }[kernel]


def straight_through_clamp(x: Tensor) -> Tensor:
    """Clamped at `PART_LIMITS`, with the gradient of the identity."""
    return x + (x.clamp(*PART_LIMITS) - x).detach()


class InstanceColouring(nn.Module):
    """The attention: features of an image to log masks."""

    def __init__(self, channels: int, kernel: Kernel, num_slots: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.head = _conv_block(channels)
        self.colour = Conv2d(channels, COLOUR_DIM, 1)  # its bias drops out of distances; kept, as in the released code
        self.gate = nn.Parameter(torch.zeros(()))
        self.log_sigma = nn.Parameter(torch.tensor(math.log(initial_kernel_sigma(kernel, num_slots))))

    def colours(self, features: Tensor) -> Tensor:
        """Features B C H W -> colours B 8 H W; before training no more than the place of a pixel."""
        grid = coordinates(features.shape[-2], features.shape[-1], features)
        learned: Tensor = self.colour(self.head(features))
        return self.gate * learned + F.pad(grid, (0, 0, 0, 0, COLOUR_DIM - 2, 0))

    def parts(self, colours: Tensor, seeds: Tensor) -> Tensor:
        """How near to its seed (B 8) every pixel's colour (B 8 H W) is, not clamped: B 1 H W in [0, 1]."""
        offsets = colours - seeds[:, :, None, None]
        sigma = self.log_sigma.exp()
        if self.kernel == "laplacian":  # the norm's gradient at the seed itself is 0
            distances = torch.linalg.vector_norm(offsets, dim=1, keepdim=True)
            return torch.exp(-distances / sigma)
        squares = offsets.square().sum(dim=1, keepdim=True) / sigma
        return torch.exp(-squares) if self.kernel == "gaussian" else torch.relu(1 - squares)

    def forward(self, features: Tensor, num_slots: int, uniform: Tensor) -> Tensor:
        """Features B C H W and a noise map B 1 H W in [0, 1] -> log masks B K 1 H W."""
        colours = self.colours(features)
        flat = colours.flatten(2)  # B 8 HW
        log_scope = torch.zeros_like(uniform)  # B 1 H W
        log_masks = []
        for _ in range(num_slots - 1):
            pixel = (uniform * log_scope.exp()).flatten(1).argmax(dim=1)  # B
            seeds = flat.gather(2, pixel[:, None, None].expand(-1, COLOUR_DIM, 1)).squeeze(2)  # B 8
            part = straight_through_clamp(self.parts(colours, seeds))
            log_masks.append(log_scope + part.log())
            log_scope = log_scope + (1 - part).log()
        return torch.stack([*log_masks, log_scope], dim=1)


class SlotDecoder(nn.Module):
    """A code tiled over H/16 x W/16 with two coordinates, enlarged by four strided transposed convolutions.

    Sizes that are no multiple of 16 are decoded at the next one and cut at the right and bottom.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(4):
            inputs = channels if i else dim + 2
            layers += [
                ConvTranspose2d(inputs, channels, 5, stride=2, padding=2, output_padding=1),
                *(nn.GroupNorm(NUM_GROUPS, channels), nn.ReLU(inplace=True)),
            ]
        self.layers = nn.Sequential(*layers, Conv2d(channels, 4, 1))

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """Codes n D -> n 4 H W: RGB before its sigmoid, then the mask logit."""
        rows, columns = -(-height // 16), -(-width // 16)
        grid = coordinates(rows, columns, z).expand(z.shape[0], -1, -1, -1)
        tiled = z[:, :, None, None].expand(-1, -1, rows, columns)
        x = torch.cat([tiled, grid], dim=1).contiguous(memory_format=torch.channels_last)
        out: Tensor = self.layers(x)
        return out[..., :height, :width]


class _Pass(NamedTuple):
    """All that one look at images gives."""

    log_masks: Tensor
    """B K 1 H W, the attention's."""
    posterior: Posterior
    prior: Posterior
    """Of every slot given the sample of those before it."""
    z: Tensor
    """B K D."""
    log_decoder_masks: Tensor
    """B K 1 H W."""
    components: Tensor
    """B K 3 H W in [0, 1]."""
    nll: Tensor
    """B, without the constant 0.5 log(2 pi) per element."""


class GenesisV2(KLGecoModel):
    """The model; see `emorl.models.base.Model` for the contract."""

    config: GenesisV2Config

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__()
        _check(config)
        self.config = config
        c, dim = config.channels, config.slot_dim
        self.encoder = UNet(3, None, config.image_size, channels=c, norm="group")
        self.attention = InstanceColouring(c, config.kernel, config.num_slots)
        self.features = nn.Sequential(_conv_block(c), Conv2d(c, 2 * c, 1))
        self.mlp = nn.Sequential(nn.LayerNorm(2 * c), nn.Linear(2 * c, 2 * c), nn.ReLU(), nn.Linear(2 * c, 2 * dim))
        self.decoder = SlotDecoder(dim, c)
        self.prior = AutoregressivePrior(dim, 4 * c)
        if config.initial_weights == "keras":
            keras_(self)

    # ---------------------------------------------------------------- from images to codes

    def attend_and_encode(self, images: Tensor, num_slots: int, noise: Noise) -> tuple[Tensor, Posterior]:
        """Images B 3 H W in [0, 1] -> the attention's log masks B K 1 H W, and the posterior of every slot."""
        features = self.encoder(images)  # B C H W
        uniform = torch.special.ndtr(noise.normal("seeds", 0, images[:, :1]))  # one map for all slots of an image
        log_masks = self.attention(features, num_slots, uniform)
        masks = log_masks.exp().flatten(2)  # B K HW
        pooled = masks @ self.features(features).flatten(2).mT  # B K 2C
        mean, raw = self.mlp(pooled / (masks.sum(dim=-1, keepdim=True) + 1e-5)).chunk(2, dim=-1)
        return log_masks, Posterior(mean, shifted_softplus_std(raw))

    # ---------------------------------------------------------------- and back

    def decode_log(self, z: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Codes B K D -> the decoder's log masks B K 1 H W and components B K 3 H W in [0, 1]."""
        out = self.decoder(z.flatten(0, 1), *size).unflatten(0, z.shape[:2])  # B K 4 H W
        return masks_and_colours(out)

    def _run(self, images: Tensor, num_slots: int, eps: Tensor | None, noise: Noise) -> _Pass:
        """eps: B K D, the noise of the codes; None for the means."""
        log_masks, q = self.attend_and_encode(images, num_slots, noise)
        z = q.mean if eps is None else q.mean + q.std * eps
        prior = Posterior(*self.prior(z))
        log_decoder_masks, components = self.decode_log(z, self.config.image_size)
        nll = mixture_nll(images, log_decoder_masks, components, self.config.sigma)
        return _Pass(log_masks, q, prior, z, log_decoder_masks, components, nll)

    # ---------------------------------------------------------------- the contract

    def infer(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Inference:
        """See `emorl.models.base.Model.infer`. `masks` are the attention's, the reconstruction is by the decoder's.

        The KL is that of every slot given the sample of those before it, not a sample of it. Without sampling the
        codes are means, and the seeds of the attention are drawn all the same.
        """
        with torch.no_grad():
            x, num_slots = self._checked(images, options)
            noise = as_noise(noise, len(x))
            eps = noise.normal("slots", 0, self._like(len(x), num_slots)) if options.sample else None
            run = self._run(x, num_slots, eps, noise)
            decoding = Decoding(run.log_decoder_masks.exp(), run.components)
            step = Step(
                posterior=run.posterior,
                nll=run.nll,
                kl=exact_kl(run.posterior, run.prior).sum(dim=(1, 2)),
                decoding=decoding if options.keep_steps else None,
            )
            return Inference(
                masks=run.log_masks.exp(),
                components=decoding.components,
                reconstruction=decoding.reconstruction,
                slots=run.z,
                steps=(step,),
                decoder_masks=decoding.masks,
            )

    def encode(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Tensor:
        """Posterior means B K D; no decoder runs. The noise draws the seeds, and with them the order of the slots."""
        with torch.no_grad():
            x, num_slots = self._checked(images, options)
            return self.attend_and_encode(x, num_slots, as_noise(noise, len(x)))[1].mean

    def decode_slots(self, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `Model`: the decoder's mask logits and colours, at any size."""
        out = self.decoder(slots, *size)  # N 4 H W
        return out[:, 3:], out[:, :3].sigmoid()

    def sample(
        self, count: int, size: tuple[int, int], *, num_slots: int | None = None, noise: int | Noise | None = None
    ) -> Inference:
        """Scenes of codes drawn slot after slot, with the decoder's masks."""
        eps = as_noise(noise, count).normal("sample", 0, self._like(count, self.counts(InferOptions(num_slots))[0]))
        with torch.no_grad():
            z = self.prior.sample(eps)
            decoding = self.decode(z, size)
        return Inference(decoding.masks, decoding.components, decoding.reconstruction, z)

    def loss(self, images: Tensor, state: TrainState, *, noise: int | Noise | None = None) -> Loss:
        """See `KLGecoModel.weighed`; the KL is of one sample and may be negative."""
        x, num_slots = self._checked(images, InferOptions())
        noise = as_noise(noise, len(x))
        eps = noise.normal("slots", 0, self._like(len(x), num_slots))
        run = self._run(x, num_slots, eps, noise)
        kl = sampled_kl(run.posterior, run.prior, eps).sum(dim=(1, 2))
        return self.weighed(run.nll, kl, state)

    def _checked(self, images: Tensor, options: InferOptions) -> tuple[Tensor, int]:
        """Images in [0, 1], and K of a call."""
        refuse_refinement("GENESIS-v2", options)
        images = images_to_unit(images, self.attention.log_sigma.dtype)
        require_size(images, self.config.image_size)
        return images, self.counts(options)[0]

    def _like(self, count: int, num_slots: int) -> Tensor:
        """Zeros of the shape of the codes of `count` images."""
        return self.attention.log_sigma.detach().new_zeros(count, num_slots, self.config.slot_dim)


def _conv_block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        Conv2d(channels, channels, 3, padding=1, bias=False),
        *(nn.GroupNorm(NUM_GROUPS, channels), nn.ReLU(inplace=True)),
    )


def _check(config: GenesisV2Config) -> None:
    """Raise InputError for values no model can be built from."""
    if len(config.image_size) != 2 or min(config.image_size) < 16:
        raise InputError(f"image_size must be two sides of at least 16 pixels, got {config.image_size}")
    checks.at_least(1, config, "num_slots", "slot_dim")
    if config.channels < 1 or config.channels % NUM_GROUPS:
        raise InputError(f"channels must be a multiple of {NUM_GROUPS}, got {config.channels}")
    checks.positive(config, "sigma")
    checks.not_negative(config, "kl_weight")
