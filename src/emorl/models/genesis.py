"""GENESIS and GENESIS-S (Engelcke, Kosiorek, Parker Jones, Posner; ICLR 2020): a scene made slot after slot.

Masks, for k = 1..K, h the features of the image:

    q(zm_k | x, zm_<k) = N(mu_k, softplus(r_k + 0.5) + 1e-8),   (mu_1, r_1) = W h,   (mu_k, r_k) = V LSTM(h, zm_{k-1})
    p(zm_k | zm_<k)    = N(0, I) for k = 1, then N(tanh(a_k), sigmoid(b_k + 4) + 1e-4),   (a_k, b_k) = U LSTM(zm_<k)
    l_k = mask decoder(zm_k);   m_k = s_{k-1} sigmoid(l_k),   s_k = s_{k-1} sigmoid(-l_k),   m_K = s_{K-1}

Components, in GENESIS:   q(zc_k | x, m_k),   p(zc_k | zm_k),   y_k = component decoder(zc_k)
and in GENESIS-S:         y_k = component decoder(zm_k)

    NLL = -log sum_k m_k N(x; y_k, sigma) in every channel;   KL = sum_k log q - log p at the sample
    loss = NLL + beta KL,   beta moved by GECO towards NLL = goal

The last slot takes what is left of every pixel: what the mask decoder says of zm_K is thrown away, but zm_K counts in
the KL and drives the component. What differs from the released code, and why, is listed in docs/models/genesis.md.

Axes: B images, K slots, D slot width, F features of the mask encoder, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from emorl import checks
from emorl.errors import InputError
from emorl.geco import KLGecoConfig
from emorl.models.base import (
    InferOptions,
    KLGecoModel,
    TrainState,
    check_size,
    images_to_unit,
    refuse_refinement,
    require_size,
)
from emorl.nn.autoregressive import AutoregressivePrior, bounded_gaussian, exact_kl, sampled_kl
from emorl.nn.component_vae import ComponentDecoder, ComponentEncoder, shifted_softplus_std
from emorl.nn.gated import GatedDecoder, GatedEncoder, NormKind
from emorl.nn.init import InitialWeights, keras_
from emorl.nn.stick_breaking import log_masks_of_logits
from emorl.noise import Noise, as_noise
from emorl.prob import LIKELIHOODS, Likelihood
from emorl.types import Decoding, Inference, Loss, Posterior, Step


@dataclass(frozen=True)
class _SharedConfig:
    """What both systems are built from; values are the released code's."""

    refinement_steps: ClassVar[int] = 0
    ordered_slots: ClassVar[bool] = True
    image_size: tuple[int, int] = (64, 64)
    """H and W, which fix the strides of the mask networks and the kernel between map and vector."""
    num_slots: int = 7
    """K where the caller names none."""
    mask_dim: int = 64
    """Width of zm."""
    mask_channels: int = 32
    """c of the mask networks: convolutions of c and 2c channels, 8c features, and 8c hidden units in the priors."""
    component_channels: int = 32
    """c of the component VAE: convolutions of c and 2c channels in the encoder, of c in the decoder."""
    norm: NormKind = "batch"
    """In the mask networks; "instance" for batches of fewer than eight images per device."""
    likelihood: Likelihood = "mixture"
    sigma: float = 0.7
    """Standard deviation of the likelihood, pixel values in [0, 1]."""
    geco: KLGecoConfig | None = KLGecoConfig()
    """Constrain the reconstruction; None keeps the KL at its own weight. The target is for a sigma: see the page."""
    kl_weight: float = 1.0
    """Of the KL, beside GECO's multiplier."""
    analytic_kl: bool = False
    """Train with the KL of every slot given the sample of those before it, not with one sample of it."""
    initial_weights: InitialWeights = "pytorch"
    """PyTorch's defaults, as in the code that is followed, or Keras's, which keep small networks from starting dull."""


@dataclass(frozen=True)
class GenesisConfig(_SharedConfig):
    """GENESIS: latent variables of masks and of components."""

    component_dim: int = 16
    """Width of zc."""


@dataclass(frozen=True)
class GenesisSConfig(_SharedConfig):
    """GENESIS-S: one latent variable per slot."""


def strides_of(image_size: tuple[int, int]) -> tuple[int, ...]:
    """Strides of the mask encoder, from the input on; raises InputError where no map of whole positions is left.

    Those of the released code for 64x64 and 128x128; sides of at least 65 pixels, as 96, get those of 128.
    """
    strides = (1, 2, 1, 2, 1) if max(image_size) <= 64 else (2, 2, 2, 1, 1)
    reduction = math.prod(strides)
    if min(image_size) < 2 * reduction or max(image_size) > 128 or any(side % reduction for side in image_size):
        raise InputError(
            f"image_size is {image_size[0]}x{image_size[1]}, and GENESIS takes 32x32, 64x64, 96x96, 128x128, and "
            "others whose sides are multiples of 4 from 8 to 64, or multiples of 8 from 16 to 128"
        )
    return strides


class Scene(NamedTuple):
    """Everything between images and loss. The D of a slot are those of zm, then in GENESIS those of zc."""

    posterior: Posterior
    prior: Posterior
    slots: Tensor
    """B K D, what was decoded."""
    log_masks: Tensor
    """B K 1 H W."""
    components: Tensor
    """B K 3 H W in [0, 1]."""


class Genesis(KLGecoModel):
    """Both models, told apart by their configs; see `emorl.models.base.Model` for the contract.

    `loss` normalises by the statistics of its batch and moves the running ones, everything else uses those: with
    norm "batch" the images of a training batch depend on each other, those of inference never do.
    """

    config: GenesisConfig | GenesisSConfig

    def __init__(self, config: GenesisConfig | GenesisSConfig) -> None:
        super().__init__()
        checks.at_least(1, config, "num_slots", "mask_dim", "mask_channels", "component_channels")
        if isinstance(config, GenesisConfig):
            checks.at_least(1, config, "component_dim")
        checks.positive(config, "sigma")
        strides = strides_of(config.image_size)
        self.config = config
        size, dim = config.image_size, config.mask_dim
        c, hidden = config.mask_channels, 8 * config.mask_channels
        self.mask_encoder = GatedEncoder(size, (c, c, 2 * c, 2 * c, 2 * c), strides, hidden, config.norm)
        self.first_posterior = nn.Linear(hidden, 2 * dim)
        self.recurrence = nn.LSTMCell(hidden + dim, 2 * dim)
        self.next_posterior = nn.Linear(2 * dim, 2 * dim)
        self.mask_prior = AutoregressivePrior(dim, hidden)
        self.mask_decoder = GatedDecoder(dim, size, (2 * c, c, c, c, c), strides[::-1], config.norm)
        code_dim = dim
        if isinstance(config, GenesisConfig):
            code_dim = config.component_dim
            self.component_encoder = ComponentEncoder(4, code_dim, size, nn.ELU, config.component_channels)
            self.component_prior = nn.Sequential(
                *(nn.Linear(dim, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU()),
                nn.Linear(hidden, 2 * code_dim),
            )
        self.component_decoder = ComponentDecoder(code_dim, 3, nn.ELU, config.component_channels)
        if config.initial_weights == "keras":
            keras_(self)

    @property
    def slot_dim(self) -> int:
        """D: width of zm, in GENESIS with that of zc."""
        config = self.config
        return config.mask_dim + (config.component_dim if isinstance(config, GenesisConfig) else 0)

    # ------------------------------------------------------------ images to codes

    def mask_posterior(self, images: Tensor, eps: Tensor, batch_statistics: bool) -> Posterior:
        """q(zm | x) of images B 3 H W in [0, 1] at the sample of the noise eps B K Dm, slot after slot."""
        features = self.mask_encoder(images, batch_statistics)  # B F
        means: list[Tensor] = []
        stds: list[Tensor] = []
        state = None
        for k in range(eps.shape[1]):
            if k == 0:
                out = self.first_posterior(features)
            else:
                state = self.recurrence(torch.cat([features, means[-1] + stds[-1] * eps[:, k - 1]], dim=-1), state)
                out = self.next_posterior(state[0])
            mean, raw = out.chunk(2, dim=-1)  # B Dm
            means.append(mean)
            stds.append(shifted_softplus_std(raw))
        return Posterior(torch.stack(means, dim=1), torch.stack(stds, dim=1))

    def component_posterior(self, images: Tensor, log_masks: Tensor) -> Posterior:
        """q(zc_k | x, m_k), every slot by itself; log masks B K 1 H W."""
        views = images.unsqueeze(1).expand(-1, log_masks.shape[1], -1, -1, -1)
        x = torch.cat([log_masks, views], dim=2).flatten(0, 1)  # BK 4 H W
        found = self.component_encoder(x.contiguous(memory_format=torch.channels_last))
        batch = log_masks.shape[:2]
        return Posterior(found.mean.unflatten(0, batch), found.std.unflatten(0, batch))

    def scene(self, images: Tensor, eps: Tensor, batch_statistics: bool) -> Scene:
        """The whole generative process at the posterior sample of the noise eps B K D; images B 3 H W in [0, 1]."""
        dim = self.config.mask_dim
        posterior = self.mask_posterior(images, eps[:, :, :dim], batch_statistics)
        zm = posterior.mean + posterior.std * eps[:, :, :dim]  # B K Dm
        prior = Posterior(*self.mask_prior(zm))
        log_masks = self.log_masks(zm, batch_statistics)
        if isinstance(self.config, GenesisConfig):
            posterior = _side_by_side(posterior, self.component_posterior(images, log_masks))  # B K D
            prior = _side_by_side(prior, Posterior(*bounded_gaussian(self.component_prior(zm))))
        slots = posterior.mean + posterior.std * eps  # B K D
        return Scene(posterior, prior, slots, log_masks, self.components(slots))

    # ----------------------------------------------------------- codes to pictures

    def log_masks(self, zm: Tensor, batch_statistics: bool) -> Tensor:
        """zm B K Dm -> log masks B K 1 H W; all slots are decoded, since they share the statistics of a batch."""
        logits = self.mask_decoder(zm.flatten(0, 1), batch_statistics).unflatten(0, zm.shape[:2])
        return log_masks_of_logits(logits[:, :-1])

    def components(self, slots: Tensor) -> Tensor:
        """Codes B K D -> RGB B K 3 H W in [0, 1], of zc in GENESIS and of zm in GENESIS-S."""
        codes = slots[:, :, self.config.mask_dim :] if isinstance(self.config, GenesisConfig) else slots
        rgb: Tensor = self.component_decoder(codes.flatten(0, 1), *self.config.image_size)
        return rgb.sigmoid().view(*slots.shape[:2], *rgb.shape[1:])

    # ----------------------------------------------------------------- the contract

    def infer(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Inference:
        """See `Model`. The KL is that of every slot given the sample of those before it, not a sample of it."""
        with torch.no_grad():
            x, eps = self._prepared(images, options, noise)
            scene = self.scene(x, eps, batch_statistics=False)
            decoding = Decoding(scene.log_masks.exp(), scene.components)
            step = Step(
                posterior=scene.posterior,
                nll=self._nll(x, scene),
                kl=exact_kl(scene.posterior, scene.prior).sum(dim=(1, 2)),
                decoding=decoding if options.keep_steps else None,
            )
            return Inference(
                masks=decoding.masks,
                components=decoding.components,
                reconstruction=decoding.reconstruction,
                slots=scene.slots,
                steps=(step,),
            )

    def encode(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Tensor:
        """Posterior means B K D, the same for every noise: each slot's given the means of those before it, and in
        GENESIS that of the component given the masks of these means. No component is decoded."""
        with torch.no_grad():
            x, zeros = self._prepared(images, replace(options, sample=False), noise)
            zm = self.mask_posterior(x, zeros[:, :, : self.config.mask_dim], batch_statistics=False).mean
            if not isinstance(self.config, GenesisConfig):
                return zm
            return torch.cat([zm, self.component_posterior(x, self.log_masks(zm, batch_statistics=False)).mean], dim=-1)

    def decode(self, slots: Tensor, size: tuple[int, int]) -> Decoding:
        """See `Model`; the order of the slots matters, and size must be that of the config."""
        check_size(size)
        require_size(slots.new_empty(0, 3, *size), self.config.image_size)
        if slots.ndim != 3 or slots.shape[1] < 1 or slots.shape[2] != self.slot_dim:
            raise InputError(f"slots must be B K {self.slot_dim}, got {tuple(slots.shape)}")
        log_masks = self.log_masks(slots[:, :, : self.config.mask_dim], batch_statistics=False)
        return Decoding(log_masks.exp(), self.components(slots))

    def sample(
        self, count: int, size: tuple[int, int], *, num_slots: int | None = None, noise: int | Noise | None = None
    ) -> Inference:
        """See `Model`: masks' codes slot after slot, then components' codes given those."""
        num_slots = self.counts(InferOptions(num_slots))[0]
        eps = as_noise(noise, count).normal("sample", 0, self._like(count, num_slots))
        dim = self.config.mask_dim
        with torch.no_grad():
            slots = self.mask_prior.sample(eps[:, :, :dim])
            if isinstance(self.config, GenesisConfig):
                mean, std = bounded_gaussian(self.component_prior(slots))
                slots = torch.cat([slots, mean + std * eps[:, :, dim:]], dim=-1)
            decoding = self.decode(slots, size)
        return Inference(decoding.masks, decoding.components, decoding.reconstruction, slots)

    def loss(self, images: Tensor, state: TrainState, *, noise: int | Noise | None = None) -> Loss:
        """See `KLGecoModel.weighed`; of GENESIS the terms have both parts of the KL too, kl_masks and kl_components."""
        x, eps = self._prepared(images, InferOptions(), noise)
        scene = self.scene(x, eps, batch_statistics=True)
        nll = self._nll(x, scene)
        if self.config.analytic_kl:
            kl_parts = exact_kl(scene.posterior, scene.prior)
        else:
            kl_parts = sampled_kl(scene.posterior, scene.prior, eps)
        loss = self.weighed(nll, kl_parts.sum(dim=(1, 2)), state)
        if isinstance(self.config, GenesisConfig):
            of_masks = kl_parts[:, :, : self.config.mask_dim].detach().sum(dim=(1, 2))
            parts = {"kl_masks": of_masks, "kl_components": loss.terms["kl"] - of_masks}
            loss = replace(loss, terms={**loss.terms, **parts})
        return loss

    def _like(self, count: int, num_slots: int) -> Tensor:
        """Zeros of the shape of the slots of `count` images."""
        return self.first_posterior.bias.detach().new_zeros(count, num_slots, self.slot_dim)

    def _prepared(self, images: Tensor, options: InferOptions, noise: int | Noise | None) -> tuple[Tensor, Tensor]:
        """Images B 3 H W in [0, 1] of the right size, and the noise B K D of their sample, zero for the means."""
        refuse_refinement("GENESIS" if isinstance(self.config, GenesisConfig) else "GENESIS-S", options)
        x = images_to_unit(images, self.first_posterior.weight.dtype)
        require_size(x, self.config.image_size)
        like = self._like(len(x), self.counts(options)[0])
        return x, as_noise(noise, len(x)).normal("slots", 0, like) if options.sample else like

    def _nll(self, images: Tensor, scene: Scene) -> Tensor:
        """-log p(x | slots) per image (B), without the constant 0.5 log(2 pi) per element."""
        return LIKELIHOODS[self.config.likelihood](images, scene.log_masks, scene.components, self.config.sigma)


def _side_by_side(a: Posterior, b: Posterior) -> Posterior:
    return Posterior(torch.cat([a.mean, b.mean], dim=-1), torch.cat([a.std, b.std], dim=-1))
