"""MONet (Burgess et al. 2019): an attention network cuts the picture up, a VAE explains one piece after the other.

Attention, for k = 1..K-1 from the whole scope s_0 = 1:

    a_k = sigmoid(UNet(x, log s_{k-1}));   m_k = s_{k-1} a_k;   s_k = s_{k-1} (1 - a_k);   m_K = s_{K-1}

Component VAE, the same for every slot:

    q(z_k | x, m_k) = N(mu_k, sigma_k) from (x, log m_k);   z_k -> (y_k, l_k);   mhat = softmax over slots of l

Training minimises, per image (section 2.3),

    NLL + beta sum_k KL(q(z_k | x, m_k) || N(0, I)) + gamma sum_pixels KL(m || mhat)
    NLL = -sum over pixels and channels of log sum_k m_k N(x; y_k, s_k),   s_1 of the background, s_k of the foreground

There is no official code. Sizes are those of the GENESIS repository's MONet, values those of object-centric-library;
docs/models/monet.md lists where sources differ. Axes: B images, K slots, D slot width, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from emorl import checks
from emorl.errors import InputError
from emorl.models.base import BaseModel, InferOptions, TrainState, images_to_unit, refuse_refinement, require_size
from emorl.nn.component_vae import ComponentDecoder, ComponentEncoder
from emorl.nn.decoders import masks_and_colours
from emorl.nn.init import InitialWeights, keras_
from emorl.nn.stick_breaking import break_off
from emorl.nn.unet import UNet
from emorl.noise import Noise, as_noise
from emorl.prob import mixture_nll
from emorl.types import Decoding, Inference, Loss, Posterior, Step

MIN_MASK = 1e-5
"""Masks are clamped here, and made to sum to one again, before their KL."""


@dataclass(frozen=True)
class MONetConfig:
    """Everything the model is built from."""

    refinement_steps: ClassVar[int] = 0
    ordered_slots: ClassVar[bool] = True
    image_size: tuple[int, int] = (64, 64)
    """H W of all images: the U-Net and the encoder have linear layers over the whole map. At least 16."""
    num_slots: int = 6
    """K where the caller names none."""
    slot_dim: int = 16
    """D."""
    sigma_background: float = 0.06
    """Standard deviation of the likelihood of slot 1, by position, pixel values in [0, 1] (object-centric-library)."""
    sigma_foreground: float = 0.1
    """Of all other slots."""
    kl_weight: float = 0.5
    """beta."""
    mask_weight: float = 0.5
    """gamma, of the KL between the attention's masks and the decoder's."""
    attention_channels: int = 32
    """c of the U-Net: its maps have c and 2c channels."""
    component_channels: int = 32
    """c of the component VAE: convolutions of c and 2c channels in the encoder, of c in the decoder."""
    initial_weights: InitialWeights = "pytorch"
    """PyTorch's defaults, as in the code that is followed, or Keras's, which keep small networks from starting dull."""


class _Pass(NamedTuple):
    """All that one look at images gives."""

    log_masks: Tensor
    """B K 1 H W, the attention's."""
    posterior: Posterior
    z: Tensor
    """B K D."""
    log_decoder_masks: Tensor
    """B K 1 H W."""
    components: Tensor
    """B K 3 H W in [0, 1]."""
    nll: Tensor
    """B."""
    kl: Tensor
    """B, of the codes."""


class MONet(BaseModel):
    """The model; see `emorl.models.base.Model` for the contract."""

    config: MONetConfig

    def __init__(self, config: MONetConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        dim, channels = config.slot_dim, config.component_channels
        self.attention = UNet(4, 1, config.image_size, channels=config.attention_channels, norm="instance")
        self.encoder = ComponentEncoder(4, dim, config.image_size, nn.ReLU, channels)
        self.decoder = ComponentDecoder(dim, 4, nn.ReLU, channels)
        if config.initial_weights == "keras":
            keras_(self)

    # ---------------------------------------------------------------- from images to codes

    def attend(self, images: Tensor, num_slots: int) -> Tensor:
        """Log masks B K 1 H W of images B 3 H W: the network looks K - 1 times at the image and what is left of it."""
        log_scope = torch.zeros_like(images[:, :1])  # B 1 H W
        log_masks = []
        for _ in range(num_slots - 1):
            logit = self.attention(torch.cat([images, log_scope], dim=1))  # B 1 H W
            log_mask, log_scope = break_off(log_scope, logit)
            log_masks.append(log_mask)
        return torch.stack([*log_masks, log_scope], dim=1)

    def posterior(self, images: Tensor, log_masks: Tensor) -> Posterior:
        """q(z_k | x, m_k) of all slots at once."""
        shape = log_masks.shape[:2]
        pictures = images.unsqueeze(1).expand(-1, shape[1], -1, -1, -1)
        q = self.encoder(torch.cat([pictures, log_masks], dim=2).flatten(0, 1))
        return Posterior(q.mean.unflatten(0, shape), q.std.unflatten(0, shape))

    # ---------------------------------------------------------------- and back

    def decode_log(self, z: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Codes B K D -> the decoder's log masks B K 1 H W and components B K 3 H W in [0, 1]."""
        out = self.decoder(z.flatten(0, 1), *size).unflatten(0, z.shape[:2])  # B K 4 H W
        return masks_and_colours(out)

    def _run(self, images: Tensor, num_slots: int, noise: Noise, sample: bool = True) -> _Pass:
        log_masks = self.attend(images, num_slots)
        q = self.posterior(images, log_masks)
        z = q.mean + q.std * noise.normal("slots", 0, q.mean) if sample else q.mean
        log_decoder_masks, components = self.decode_log(z, self.config.image_size)
        sigma = images.new_full((num_slots,), self.config.sigma_foreground)
        sigma[:1] = self.config.sigma_background
        nll = mixture_nll(images, log_masks, components, sigma)
        kl = (0.5 * (q.std.square() + q.mean.square() - 1) - q.std.log()).sum(dim=(1, 2))
        return _Pass(log_masks, q, z, log_decoder_masks, components, nll, kl)

    # ---------------------------------------------------------------- the contract

    def infer(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Inference:
        """See `emorl.models.base.Model.infer`: `masks` are the attention's, which the likelihood is made of."""
        with torch.no_grad():
            x, num_slots = self._checked(images, options)
            run = self._run(x, num_slots, as_noise(noise, len(x)), options.sample)
            decoding = Decoding(run.log_masks.exp(), run.components)
        step = Step(run.posterior, run.nll, run.kl, decoding if options.keep_steps else None)
        return Inference(
            masks=decoding.masks,
            components=decoding.components,
            reconstruction=decoding.reconstruction,
            slots=run.z,
            steps=(step,),
            decoder_masks=run.log_decoder_masks.exp(),
        )

    def encode(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Tensor:
        """Posterior means B K D; no decoder runs, and there is nothing random in it."""
        with torch.no_grad():
            x, num_slots = self._checked(images, options)
            return self.posterior(x, self.attend(x, num_slots)).mean

    def decode_slots(self, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `Model`: the decoder's mask logits and colours, at any size."""
        out = self.decoder(slots, *size)  # N 4 H W
        return out[:, 3:], out[:, :3].sigmoid()

    def sample(
        self, count: int, size: tuple[int, int], *, num_slots: int | None = None, noise: int | Noise | None = None
    ) -> Inference:
        """Scenes of codes from N(0, I) with the decoder's masks: there is no prior over the attention's."""
        num_slots = self.counts(InferOptions(num_slots))[0]
        like = next(self.parameters()).new_zeros(count, num_slots, self.config.slot_dim)
        with torch.no_grad():
            z = as_noise(noise, count).normal("sample", 0, like)
            decoding = self.decode(z, size)
        return Inference(decoding.masks, decoding.components, decoding.reconstruction, z)

    def loss(self, images: Tensor, state: TrainState, *, noise: int | Noise | None = None) -> Loss:
        """The loss at the head of this file; beta is the state's.

        Terms (B each): nll, kl of the codes, mask_kl of the masks.
        """
        images, num_slots = self._checked(images, InferOptions())
        run = self._run(images, num_slots, as_noise(noise, len(images)))
        mask_kl = mask_divergence(run.log_masks.exp(), run.log_decoder_masks.exp())
        total = (run.nll + state.kl_weight * run.kl + self.config.mask_weight * mask_kl).sum()
        return Loss(total, {"nll": run.nll.detach(), "kl": run.kl.detach(), "mask_kl": mask_kl.detach()})

    def _checked(self, images: Tensor, options: InferOptions) -> tuple[Tensor, int]:
        """Images in [0, 1], and K of a call."""
        refuse_refinement("MONet", options)
        images = images_to_unit(images, next(self.parameters()).dtype)
        require_size(images, self.config.image_size)
        return images, self.counts(options)[0]


def mask_divergence(masks: Tensor, decoder_masks: Tensor) -> Tensor:
    """KL of the attention's masks from the decoder's (B K 1 H W each), summed over pixels: B.

    Both are clamped at 1e-5 and made to sum to one again, as in the GENESIS repository; both receive its gradient.
    """
    p, q = (m.clamp(min=MIN_MASK) / m.clamp(min=MIN_MASK).sum(dim=1, keepdim=True) for m in (masks, decoder_masks))
    return (p * (p.log() - q.log())).sum(dim=(1, 2, 3, 4))


def _check(config: MONetConfig) -> None:
    """Raise InputError for values no model can be built from."""
    if len(config.image_size) != 2 or min(config.image_size) < 16:
        raise InputError(f"image_size must be two sides of at least 16 pixels, got {config.image_size}")
    checks.at_least(1, config, "num_slots", "slot_dim", "attention_channels", "component_channels")
    checks.positive(config, "sigma_background", "sigma_foreground")
    checks.not_negative(config, "kl_weight", "mask_weight")
