"""IODINE (Greff, Kaufman, Kabra, Watters, Burgess, Zoran, Matthey, Botvinick, Lerchner; ICML 2019).

A VAE per slot whose posterior is found by refinement alone. lambda_k = (mu_k, r_k) starts as one learned vector for
all slots and images; for t = 0..T:

    z_k ~ N(mu_k, sigma_k),  sigma_k = sqrt(softplus(min(r_k, 80)) + 1e-5)
    (a_k, y_k) = decoder(z_k),  m = softmax over slots of a
    L_t = -sum over pixels log sum_k m_k f(x; y_k) + sum_k KL(q(z_k; lambda_k) || p),  p = N(0, v)
    lambda_k <- lambda_k + refine(x, a, y, m, log p(x), dL/da, dL/dy, ...; lambda_k, dL/dlambda_k)     while t < T

Training minimises sum_t (t / T) L_t, the NLL summed over pixels and channels. f is logistic or Gaussian and belongs to
all three channels of a pixel together. Two of the gradients need no backward: with the responsibilities
s_k = m_k f_k / p(x),

    dL/da_k = m_k - s_k,    dL/dy_k = -s_k d log f(x; y_k) / dy_k

Where sources disagree, and what is ours, is listed in docs/models/iodine.md.

Axes: B images, K slots, D slot width, H W pixels, C channels, F features, T refinement steps, n = B K.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl import checks
from emorl.eager_vjp import EagerNLL, decode_and_differentiate, decode_only, recomputed
from emorl.errors import InputError
from emorl.models.base import BaseModel, InferOptions, TrainState, images_to_unit, require_size
from emorl.nn.convs import ConvStack
from emorl.nn.decoders import images_per_chunk, run_on_tiled
from emorl.nn.grids import coordinates
from emorl.noise import Noise, as_noise
from emorl.prob import Density, Gaussian, PixelMixture, gaussian_kl, log_density_slope, pixel_mixture
from emorl.types import Decoding, Inference, Loss, Posterior, Step

BLOCK = 4
"""Pixels per side over which the flattening encoder takes means."""


@dataclass(frozen=True)
class IodineConfig:
    """Everything the model is built from; the values are the released ones for CLEVR6."""

    ordered_slots: ClassVar[bool] = False
    image_size: tuple[int, int] | None = None
    """H W, for the flattening encoder alone; None for any size."""
    num_slots: int = 7
    """K where the caller names none."""
    slot_dim: int = 64
    """D; 16 for Multi-dSprites, 32 for Tetrominoes."""
    refinement_steps: int = 5
    """T at test time where the caller names none."""
    density: Density = "logistic"
    """f, of a colour value around that of a slot."""
    scale: float = 0.03
    """Of f; pixel values in [0, 1]. The paper's is Gaussian with 0.1."""
    joint_channels: bool = True
    """One slot explains all three channels of a pixel; or every channel is mixed by itself, as in EfficientMORL."""
    prior_variance: float = math.log(2)
    """v, of every dimension of z; the initial posterior begins there too."""
    kl_weight: float = 1.0
    """beta on the KL."""
    detach_inputs: bool = True
    """Whether all maps that the refinement network sees are constants to training; in the released code components,
    masks and slot posterior pass gradients on to the decode before, which then stays in memory."""
    coordinates: Literal["linear", "cosine"] = "linear"
    """Of the refinement network: x and y in [-1, 1], or eight products of cosines (released for the sprites)."""
    decoder_layers: int = 4
    """Convolutions before the last one."""
    decoder_channels: int = 64
    decoder_kernel: int = 3
    decoder_patch: int = 1
    """Pixels per position and side of the decoder's grid; above 1 is ours, for laptops."""
    encoder_layers: int = 4
    """Convolutions of the refinement network."""
    encoder_channels: int = 64
    encoder_kernel: int = 3
    pool: Literal["mean", "flatten"] = "mean"
    """Convolutions of stride 2 and their mean over the picture; or of stride 1, means of 4x4 pixels, and a linear layer
    for every position: the network that EfficientMORL was compared with."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the layers behind the pooling."""
    lstm_dim: int = 256
    """0 for none."""


def step_weights(num_steps: int) -> list[float]:
    """Weights t / T of L_0..L_T; of L_0 alone 1 where there is no refinement."""
    return [t / num_steps for t in range(num_steps + 1)] if num_steps else [1.0]


def cosine_coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """cos(i u) cos(j v) for i, j in 0..2 but both 0, u and v from 0 to pi down and across: 8 H W."""
    i = torch.arange(3, dtype=like.dtype, device=like.device)
    down, across = (torch.linspace(0, math.pi, n, dtype=like.dtype, device=like.device) for n in (height, width))
    products = torch.cos(i[:, None] * down)[:, None, :, None] * torch.cos(i[:, None] * across)[None, :, None, :]
    return products.flatten(0, 1)[1:]  # 8 H W


class Decoder(nn.Module):
    """The code tiled over the picture, two coordinates, convolutions that keep its size.

    The first convolution is folded, see `nn.decoders`: exact, the tile is never made.
    """

    def __init__(self, config: IodineConfig) -> None:
        super().__init__()
        self.patch = config.decoder_patch
        sizes = [config.slot_dim + 2] + [config.decoder_channels] * config.decoder_layers
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [_same_conv(before, after, config.decoder_kernel), nn.ELU()]
        self.layers = ConvStack(*layers, _same_conv(sizes[-1], 4 * self.patch**2, config.decoder_kernel))

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """Codes n D -> n 4 H W: mask logit, then RGB, not squashed."""
        grid = coordinates(*self._grid_size(height, width), z)  # 2 h w
        grid = F.pad(grid, (0, 0, 0, 0, z.shape[1], 0))  # D+2 h w
        x = run_on_tiled(self.layers, F.pad(z, (0, 2)), grid)
        return F.pixel_shuffle(x, self.patch)[..., :height, :width]  # n 4 H W

    def images_per_chunk(self, num_slots: int, height: int, width: int) -> int:
        """See the function of this name."""
        return images_per_chunk(self.layers, num_slots, *self._grid_size(height, width))

    def _grid_size(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.patch), -(-width // self.patch)


def _same_conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2)


class Maps(NamedTuple):
    """What refinement sees of a decode, B K C H W each, before normalisation."""

    logits: Tensor
    """a, C = 1."""
    components: Tensor
    """y, C = 3."""
    masks: Tensor
    posterior: Tensor
    """f_k / sum_j f_j: which slot explains the pixel, its mask aside."""
    grad_components: Tensor
    """dL/dy, C = 3; this and the following are constants to training."""
    grad_logits: Tensor
    """dL/da."""
    log_prob: Tensor
    """log p(x), B 1 1 H W: there is one for all slots."""
    gain: Tensor
    """log p(x) - log p(x without slot k)."""


class SpatialEncoder(nn.Module):
    """The part of the refinement network that looks at pictures; each slot by itself."""

    def __init__(self, config: IodineConfig) -> None:
        super().__init__()
        self.flatten = config.pool == "flatten"
        self.grid = {"linear": coordinates, "cosine": cosine_coordinates}[config.coordinates]
        self.norm_components = nn.GroupNorm(1, 3)
        self.norm_logits = nn.GroupNorm(1, 1)
        self.norm_log_prob = nn.GroupNorm(1, 1)
        self.norm_gain = nn.GroupNorm(1, 1)
        channels = config.encoder_channels
        layers: list[nn.Module] = []
        for i in range(config.encoder_layers):
            before = channels if i else 15 + {"linear": 2, "cosine": 8}[config.coordinates]
            layers += [_same_conv(before, channels, config.encoder_kernel, 1 if self.flatten else 2), nn.ELU()]
        self.convs = ConvStack(*layers)
        if self.flatten and config.image_size is not None:
            channels *= math.prod(-(-size // BLOCK) for size in config.image_size)
        mlp: list[nn.Module] = []
        for before, after in zip((channels, *config.hidden), config.hidden, strict=False):
            mlp += [nn.Linear(before, after), nn.ELU()]
        self.mlp = nn.Sequential(*(mlp if self.flatten else mlp[:-1]))

    def forward(self, images: Tensor, maps: Maps) -> Tensor:
        """Features B K F of images B 3 H W and their decodes."""
        batch, num_slots = maps.masks.shape[:2]
        grid = self.grid(images.shape[2], images.shape[3], images)  # 2 or 8 H W
        seen = [
            images.unsqueeze(1),
            *maps[:4],
            _normed(self.norm_components, maps.grad_components),
            _normed(self.norm_logits, maps.grad_logits),
            _normed(self.norm_log_prob, maps.log_prob),
            _normed(self.norm_gain, maps.gain),
            grid[None, None],
        ]
        x = torch.cat([part.expand(batch, num_slots, -1, -1, -1) for part in seen], dim=2)  # B K C H W
        x = self.convs(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))  # n C' h w
        x = F.avg_pool2d(x, BLOCK, ceil_mode=True).flatten(1) if self.flatten else x.mean(dim=(2, 3))
        features: Tensor = self.mlp(x)
        return features.view(batch, num_slots, -1)

    def images_per_chunk(self, num_slots: int, height: int, width: int) -> int:
        """See the function of this name, for layers as large as the picture: as large are the maps they begin with."""
        return images_per_chunk(self.convs, num_slots, height, width)


def _normed(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Maps B K C H W normalised over C H W jointly, with scale and offset per channel.

    In rows: on a CPU, PyTorch 2.13 crashes in the backward of channels-last constants.
    """
    normed: Tensor = norm(x.flatten(0, 1).contiguous())
    return normed.view(x.shape)


class RefinementNetwork(nn.Module):
    """Features, lambda and its gradient -> an update of lambda; each slot by itself."""

    def __init__(self, config: IodineConfig) -> None:
        super().__init__()
        dim = config.slot_dim
        inputs = config.hidden[-1] + 4 * dim
        self.norm = nn.LayerNorm(2 * dim)
        self.joint: nn.Module = nn.Identity()
        if config.pool == "flatten":
            self.joint, inputs = nn.Sequential(nn.Linear(inputs, config.hidden[-1]), nn.ELU()), config.hidden[-1]
        self.recurrence = nn.LSTMCell(inputs, config.lstm_dim) if config.lstm_dim else None
        self.head = nn.Linear(config.lstm_dim or inputs, 2 * dim)

    def forward(
        self, features: Tensor, posterior: Gaussian, grad: Gaussian, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Gaussian, tuple[Tensor, Tensor] | None]:
        """B K F, B K D halves, LSTM state (None to begin with) -> update and next state."""
        x = self.joint(torch.cat([features, posterior.cat(), self.norm(grad.cat())], dim=-1)).flatten(0, 1)  # n F
        if self.recurrence is not None:
            state = self.recurrence(x, state)
            x = state[0]
        mean, raw = self.head(x).view(*features.shape[:2], -1).chunk(2, dim=-1)
        return Gaussian(mean, raw), state


class RefineStep(NamedTuple):
    """One entry 0..T."""

    posterior: Gaussian
    eps: Tensor
    """B K D, the noise of the sample, or 0."""
    z: Tensor
    """B K D, what was decoded."""
    kl: Tensor
    """B."""
    nll: EagerNLL
    """Its `extra` holds the canvas B K 4 H W: mask logits and components."""
    delta: Gaussian | None = None
    """The update that led here; None for entry 0."""


class Mode(NamedTuple):
    """What refinement is run for."""

    training: bool
    """Differentiate every decode by the decoder's parameters too; else all but the last, by z alone."""
    kl_weight: float | Tensor
    sample: bool = True
    """Decode a sample of the last posterior, or its mean."""
    keep: bool = False
    """Keep the canvas of every entry, or of the last one."""


class Iodine(BaseModel):
    """The model; see `emorl.models.base.Model` for the contract."""

    def __init__(self, config: IodineConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.decoder = Decoder(config)
        self.encoder = SpatialEncoder(config)
        self.refinement = RefinementNetwork(config)
        self.prior_raw = math.log(math.expm1(config.prior_variance - 1e-5))  # a variance is softplus(raw) + 1e-5
        self.initial_mean = nn.Parameter(torch.zeros(config.slot_dim))
        self.initial_raw = nn.Parameter(torch.full((config.slot_dim,), self.prior_raw))
        for module in self.modules():
            _sonnet_(module)

    # ---------------------------------------------------------------- decoding

    def decode_raw(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """Codes B K D -> canvas B K 4 H W: mask logits, then RGB, not squashed."""
        out: Tensor = self.decoder(z.flatten(0, 1), *size)
        return out.view(*z.shape[:2], *out.shape[1:])

    def mixture(self, images: Tensor, canvas: Tensor) -> PixelMixture:
        """p(x) at every pixel of images B 3 H W."""
        config = self.config
        log_masks, components = canvas[:, :, :1].log_softmax(dim=1), canvas[:, :, 1:]
        return pixel_mixture(images, log_masks, components, config.scale, config.density, config.joint_channels)

    def maps(self, images: Tensor, canvas: Tensor) -> Maps:
        """What refinement sees of a decode. The gradients are those of the NLL: the KL knows no pixels."""
        mixture = self.mixture(images, canvas)
        logits, components, masks = canvas[:, :, :1], canvas[:, :, 1:], mixture.log_masks.exp()
        shares = mixture.responsibilities()
        slope = log_density_slope(images.unsqueeze(1), components, self.config.scale, self.config.density)
        return Maps(
            logits=logits,
            components=components,
            masks=masks,
            posterior=mixture.log_densities.sum(dim=2, keepdim=True).softmax(dim=1),
            grad_components=-(shares * slope).detach(),
            grad_logits=(masks - shares).sum(dim=2, keepdim=True).detach(),
            log_prob=mixture.log_prob.sum(dim=2, keepdim=True).detach(),
            gain=mixture.gain().sum(dim=2, keepdim=True).detach(),
        )

    def _decode_once(self, z: Tensor, images: Tensor, mode: Mode, weight: float, last: bool) -> EagerNLL:
        """One decode of z B K D, a few images at a time; by plain autograd where it must stay in the graph."""
        size = (images.shape[2], images.shape[3])
        if mode.training and not self.config.detach_inputs:
            canvas = self.decode_raw(z, size)
            per_image = self.mixture(images, canvas).nll()
            total = per_image.sum()
            grad = torch.zeros_like(z) if last else torch.autograd.grad(total, z, retain_graph=True)[0]
            return EagerNLL(total, per_image.detach(), grad, (canvas,))

        def decode(z: Tensor, rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
            canvas = self.decode_raw(z, size)
            return self.mixture(images[rows], canvas).nll(), (canvas.detach(),)

        chunk = self.decoder.images_per_chunk(z.shape[1], *size)
        if last and not mode.training:
            return decode_only(decode, z, chunk)
        trained = list(self.decoder.parameters()) if mode.training and weight else []
        return decode_and_differentiate(decode, z, trained, chunk)

    # ---------------------------------------------------------------- refinement

    def initial(self, batch: int, num_slots: int) -> Gaussian:
        """lambda before refinement, B K D halves: the same for all slots."""
        return Gaussian(self.initial_mean.repeat(batch, num_slots, 1), self.initial_raw.repeat(batch, num_slots, 1))

    def kl(self, posterior: Gaussian) -> Tensor:
        """KL to the prior N(0, v) per image (B)."""
        prior = Gaussian(torch.zeros_like(posterior.mean), torch.full_like(posterior.raw, self.prior_raw))
        return gaussian_kl(posterior, prior)

    def sample_and_decode(
        self, posterior: Gaussian, images: Tensor, eps: Tensor, mode: Mode, weight: float = 0, last: bool = False
    ) -> RefineStep:
        """Sample, decode, and both parts of the loss, whose weight in training is `weight`."""
        z = posterior.sample(eps)
        return RefineStep(posterior, eps, z, self.kl(posterior), self._decode_once(z, images, mode, weight, last))

    def improve(
        self, step: RefineStep, images: Tensor, state: tuple[Tensor, Tensor] | None, mode: Mode
    ) -> tuple[Gaussian, tuple[Tensor, Tensor] | None]:
        """An update of lambda, and the LSTM's state behind it.

        It follows the gradient of each image's own loss, so that no image depends on the others of its batch.
        """
        (canvas,) = step.nll.extra
        if canvas.requires_grad:
            features = self.encoder(images, self.maps(images, canvas))  # B K F
        else:
            chunk = self.encoder.images_per_chunk(canvas.shape[1], images.shape[2], images.shape[3])
            features = recomputed(
                lambda rows: self.encoder(images[rows], self.maps(images[rows], canvas[rows])),
                list(self.encoder.parameters()),
                len(images),
                chunk,
            )
        with torch.enable_grad():
            leaf = step.posterior.leaf()
            loss = (step.nll.grad_z * leaf.sample(step.eps)).sum() + mode.kl_weight * self.kl(leaf).sum()
            grad = Gaussian(*torch.autograd.grad(loss, tuple(leaf)))
        delta, state = self.refinement(features, step.posterior, grad, state)
        return delta, state

    def refine(self, images: Tensor, num_slots: int, num_steps: int, noise: Noise, mode: Mode) -> list[RefineStep]:
        """Entries 0..T."""
        posterior, delta, state = self.initial(len(images), num_slots), None, None
        steps: list[RefineStep] = []
        for t, weight in enumerate(step_weights(num_steps)):
            sampled = mode.sample or t < num_steps
            eps = noise.normal("z", t, posterior.mean) if sampled else torch.zeros_like(posterior.mean)
            step = self.sample_and_decode(posterior, images, eps, mode, weight, last=t == num_steps)
            steps.append(step._replace(delta=delta))
            if t < num_steps:
                delta, state = self.improve(step, images, state, mode)
                posterior = posterior.moved(delta)
                if not mode.keep:
                    steps[t] = steps[t]._replace(nll=step.nll._replace(extra=()))
        return steps

    # ---------------------------------------------------------------- the contract

    def infer(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Inference:
        """See `emorl.models.base.Model.infer`. Memory is that of one decode whatever T is."""
        num_slots, num_steps = self.counts(options)
        mode = Mode(False, self.config.kl_weight, options.sample, options.keep_steps)
        with torch.inference_mode(False), torch.no_grad():
            x = self._images(images)
            steps = self.refine(x, num_slots, num_steps, as_noise(noise, len(x)), mode)
            decodings = [_decoding(canvas) for step in steps for canvas in step.nll.extra]  # of all, or of the last
            return Inference(
                masks=decodings[-1].masks,
                components=decodings[-1].components,
                reconstruction=decodings[-1].reconstruction,
                slots=steps[-1].z,
                steps=tuple(
                    Step(
                        posterior=Posterior(step.posterior.mean, step.posterior.std),
                        nll=step.nll.per_image,
                        kl=step.kl,
                        decoding=decodings[t] if options.keep_steps else None,
                    )
                    for t, step in enumerate(steps)
                ),
            )

    def encode(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Tensor:
        """Posterior means B K D. The last of them is not decoded; without refinement they know nothing of the image."""
        num_slots, num_steps = self.counts(options)
        mode = Mode(False, self.config.kl_weight)
        with torch.inference_mode(False), torch.no_grad():
            x = self._images(images)
            noise = as_noise(noise, len(x))
            posterior, state = self.initial(len(x), num_slots), None
            for t in range(num_steps):
                step = self.sample_and_decode(posterior, x, noise.normal("z", t, posterior.mean), mode)
                delta, state = self.improve(step, x, state, mode)
                posterior = posterior.moved(delta)
            return posterior.mean

    def decode_slots(self, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `Model`; colours are cut to [0, 1]."""
        canvas = self.decoder(slots, *size)  # N 4 H W
        return canvas[:, :1], canvas[:, 1:].clamp(0, 1)

    def sample(
        self, count: int, size: tuple[int, int], *, num_slots: int | None = None, noise: int | Noise | None = None
    ) -> Inference:
        """Scenes of codes from the prior N(0, v), every slot by itself."""
        num_slots, _ = self.counts(InferOptions(num_slots, 0))
        like = self.initial_mean.new_zeros(count, num_slots, self.config.slot_dim)
        with torch.no_grad():
            z = math.sqrt(self.config.prior_variance) * as_noise(noise, count).normal("sample", 0, like)
            decoding = self.decode(z, size)
        return Inference(decoding.masks, decoding.components, decoding.reconstruction, z)

    def loss(self, images: Tensor, state: TrainState, *, noise: int | Noise | None = None) -> Loss:
        """sum_t (t / T) L_t, summed over images.

        Terms: nll and kl (B) of the last refinement step, nll_per_step and kl_per_step (B T+1), and
        delta_norm_per_step (B T): the L2 norm of the update of a slot's lambda, mean over slots.
        """
        x = self._images(images)
        mode = Mode(True, state.kl_weight)
        steps = self.refine(x, self.config.num_slots, state.refinement_steps, as_noise(noise, len(x)), mode)
        weights = step_weights(state.refinement_steps)
        losses = [w * (s.nll.total + state.kl_weight * s.kl.sum()) for w, s in zip(weights, steps, strict=True) if w]
        norms = [step.delta.cat().detach().norm(dim=-1).mean(dim=1) for step in steps if step.delta]
        return Loss(
            torch.stack(losses).sum(),
            {
                "nll": steps[-1].nll.per_image,
                "kl": steps[-1].kl.detach(),
                "nll_per_step": torch.stack([step.nll.per_image for step in steps], dim=1),
                "kl_per_step": torch.stack([step.kl.detach() for step in steps], dim=1),
                "delta_norm_per_step": torch.stack(norms, dim=1) if norms else x.new_zeros(len(x), 0),
            },
        )

    def _images(self, images: Tensor) -> Tensor:
        """Images of a caller, in [0, 1]; those of a caller in inference mode are copied, so that they can be used."""
        x = images_to_unit(images, self.initial_mean.dtype).detach()
        x = x.clone() if x.is_inference() else x
        if self.config.image_size is not None:
            require_size(x, self.config.image_size)
        return x


def _decoding(canvas: Tensor) -> Decoding:
    return Decoding(canvas[:, :, :1].softmax(dim=1), canvas[:, :, 1:].clamp(0, 1))


def _check(config: IodineConfig) -> None:
    """Raise InputError for values that no model can be built from."""
    may_be_0 = ("refinement_steps", "decoder_layers", "lstm_dim")
    checks.at_least(0, config, *may_be_0)
    checks.at_least(1, config, *(k for k, v in asdict(config).items() if type(v) is int and k not in may_be_0))
    for name in ("decoder_kernel", "encoder_kernel"):
        if getattr(config, name) % 2 == 0:
            raise InputError(f"{name} is {getattr(config, name)}: kernels must have a middle, so take an odd number")
    if not config.hidden or min(config.hidden) < 1:
        raise InputError(f"hidden is {config.hidden}: name at least one width, and none below 1")
    checks.positive(config, "scale")
    if not 1e-4 <= config.prior_variance <= 80:
        raise InputError(f"prior_variance must be from 0.0001 to 80, got {config.prior_variance}")
    if (config.pool == "flatten") != (config.image_size is not None):
        raise InputError("image_size belongs to pool = flatten: give both or neither")


def _sonnet_(module: nn.Module) -> None:
    """The released code's initial weights: normal with 1 / sqrt(fan-in), cut at two of it; zero biases.

    An LSTM's two matrices are one there. Its forget gate begins open, with a bias of 1.
    """
    if isinstance(module, nn.LSTMCell):
        fan_in = module.input_size + module.hidden_size
    elif isinstance(module, nn.Linear | nn.Conv2d):
        fan_in = module.weight[0].numel()
    else:
        return
    std = fan_in**-0.5
    for name, parameter in module.named_parameters():
        if name.startswith("weight"):
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
        else:
            nn.init.zeros_(parameter)
    if isinstance(module, nn.LSTMCell):
        nn.init.ones_(module.bias_ih[module.hidden_size : 2 * module.hidden_size])
