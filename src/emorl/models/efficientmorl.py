"""EfficientMORL (Emami, He, Ranka, Rangarajan; ICML 2021): a hierarchical VAE with set attention, then refinement.

Stage 1, bottom-up, for l = 1..L from z^0 ~ N(mu^0, sigma^0) for every slot:

    alpha    = softmax over slots of k(x) . q(LN(z^{l-1})) / sqrt(D);   u = (alpha / sum over tokens) v(x)
    lambda^l = DualGRU([u; u], lambda^{l-1}) plus a residual MLP per half;   z^l ~ N(mu^l, sigma^l)

Stage 2, for i = 1..I, g^i the gradient with respect to lambda of step i-1's loss of the image:

    lambda <- lambda + f(lambda, LN(stopgrad g^i));   z ~ q(z; lambda)
    L^i = NLL + KL(q(z; lambda) || refinement prior)

Training minimises L^0 + sum_i (I - i + 1) / (I + 1) L^i (eq. 8), L^0 = NLL + KL of the hierarchy.

lambda = (mu, o) with sigma = sqrt(softplus(o) + 1e-5), everywhere a network sees it. What differs from the paper's text
and from the authors' code, and why, is listed in docs/models/efficientmorl.md.

Axes: B images, K slots, L layers, D slot width, N = h w tokens, C token channels, H W pixels, I refinement steps.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorl import checks, geco
from emorl.eager_vjp import EagerNLL, decode_and_differentiate, decode_only
from emorl.geco import GecoConfig
from emorl.models.base import BaseModel, InferOptions, TrainState, images_to_unit
from emorl.nn.attention import SetAttention
from emorl.nn.choices import DecoderKind, EncoderKind, PatchConfig, encoder_layers, slot_decoder
from emorl.nn.decoders import masks_and_colours
from emorl.nn.encoders import ImageEncoder
from emorl.nn.gru import DualGRU, SingleGRU
from emorl.nn.init import keras_, xavier_small_
from emorl.noise import Noise, as_noise
from emorl.prob import LIKELIHOODS, Gaussian, Likelihood, gaussian_kl
from emorl.types import Decoding, Inference, Layer, Loss, Posterior, Step


@dataclass(frozen=True)
class EfficientMORLConfig:
    """Everything the model is built from."""

    image_size: ClassVar[tuple[int, int] | None] = None
    ordered_slots: ClassVar[bool] = False
    num_slots: int = 7
    """K where the caller names none."""
    slot_dim: int = 64
    """D; 32 for Tetrominoes (App. F.1)."""
    num_layers: int = 3
    """L, from 0 (Fig. 8)."""
    refinement_steps: int = 3
    """I at test time where the caller names none."""
    prior: Literal["reversed++", "reversed", "bottom-up"] = "reversed++"
    """The hierarchical prior (Fig. 12)."""
    bottom_up_refinement_prior: Literal["conditional", "standard"] = "conditional"
    """p(z^L given z^{L-1}) as in Fig. 12a, or N(0, I) as in the released code; for the bottom-up prior only."""
    gru: Literal["dual", "single"] = "dual"
    """Single is the ablation of Table 2."""
    likelihood: Likelihood = "mixture"
    sigma: float = 0.1
    """Standard deviation of the likelihood, pixel values in [0, 1]."""
    geco: GecoConfig | None = None
    """Constrain the reconstruction (App. F.2)."""
    kl_weight: float = 1.0
    """beta; above 1 for more disentanglement (App. E.2)."""
    loss_weights: Literal["paper", "released"] = "paper"
    """Eq. 8, or (I + 3 - i) / (I + 1) for i = 0..I."""
    encoder: EncoderKind = "conv"
    """The paper's, or ours for laptops."""
    decoder: DecoderKind = "broadcast"
    """The paper's for CLEVR6 and Multi-dSprites, for Tetrominoes, for E-X-S in Fig. 10, or two of ours for laptops."""
    patch: PatchConfig = PatchConfig()
    """Used by the patch encoder and the sub-pixel and modulated decoders."""
    initial_weights: Literal["released", "pytorch", "keras"] = "released"
    """Xavier normal of gain 0.02 for most layers; PyTorch's defaults for all of them; both with a DualGRU of standard
    normal weights. Or Keras's defaults, of the DualGRU too."""


def as_released(config: EfficientMORLConfig) -> EfficientMORLConfig:
    """The same model with the released code's choices wherever it departs from the paper."""
    return replace(config, loss_weights="released", bottom_up_refinement_prior="standard")


def step_weights(num_steps: int, kind: Literal["paper", "released"]) -> list[float]:
    """Weights of L^0..L^I in the training loss."""
    if kind == "released":
        return [(num_steps + 3 - i) / (num_steps + 1) for i in range(num_steps + 1)]
    return [1.0] + [(num_steps - i + 1) / (num_steps + 1) for i in range(1, num_steps + 1)]


class ConditionalPrior(nn.Module):
    """p(z^l given a neighbouring layer's sample), one set of weights for all layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(dim, 128), nn.ELU())
        self.mean = nn.Linear(128, dim)
        self.raw = nn.Linear(128, dim)

    def forward(self, z: Tensor) -> Gaussian:
        """B K D -> a Gaussian of the same shape."""
        hidden = self.hidden(z)
        return Gaussian(self.mean(hidden), self.raw(hidden))


class RefinementNetwork(nn.Module):
    """f: an update of lambda from lambda and the gradient of the loss with respect to it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.encoding = nn.Sequential(nn.Linear(4 * dim, 128), nn.ELU(), nn.Linear(128, dim))
        self.recurrence = nn.GRUCell(dim, dim)
        self.mean = nn.Linear(dim, dim)
        self.raw = nn.Linear(dim, dim)

    def forward(self, posterior: Gaussian, grad: Gaussian, hidden: Tensor) -> tuple[Gaussian, Tensor]:
        """lambda and its gradient (B K D halves), state (B K, D) -> update and next state."""
        shape = posterior.mean.shape
        normed = [F.layer_norm(half.detach(), shape[-1:]) for half in grad]
        x = self.encoding(torch.cat([*posterior, *normed], dim=-1))  # B K D
        hidden = self.recurrence(x.flatten(0, 1), hidden)  # BK D
        out = hidden.view(shape)
        return Gaussian(self.mean(out), self.raw(out)), hidden


class BottomUp(NamedTuple):
    """What stage 1 leaves behind."""

    layers: list[Gaussian]
    """lambda^1..lambda^L."""
    samples: list[Tensor]
    """z^0..z^L, B K D each."""
    attention: list[Tensor]
    """B K 1 h w each."""
    initial: Gaussian
    """lambda^0 for every slot, B K D."""

    @property
    def top(self) -> Gaussian:
        """lambda^L, or lambda^0 where there are no layers."""
        return self.layers[-1] if self.layers else self.initial


class RefineStep(NamedTuple):
    """One entry of stage 2; entry 0 is the posterior of stage 1."""

    posterior: Gaussian
    z: Tensor
    """B K D, what was decoded."""
    kl: Tensor
    """B."""
    nll: EagerNLL
    """Its `extra` holds log masks and components where the caller keeps them."""
    grad: Gaussian | None = None
    """Gradient of the step before, as refinement saw it; None for entry 0."""
    delta: Gaussian | None = None
    """The update; None for entry 0."""


class Mode(NamedTuple):
    """What stage 2 is run for."""

    training: bool
    """Differentiate every decode, also by the decoder's parameters; else all but the last, by z alone."""
    sample: bool = True
    """Decode a sample of the last posterior, or its mean."""
    keep: Literal["codes", "none", "last", "every"] = "last"
    """Whose pictures are kept: of no decode, of the last or of all. For codes the last is not made: its NLL is NaN."""


class TrainingPass(NamedTuple):
    """Both stages of one training step."""

    stage1: BottomUp
    kl_per_layer: Tensor
    """B L."""
    steps: list[RefineStep]
    losses: list[Tensor]
    """L^0..L^I, summed over images."""


class EfficientMORL(BaseModel):
    """The model; see `emorl.models.base.Model` for the contract."""

    config: EfficientMORLConfig
    geco_zeta: Tensor

    def __init__(self, config: EfficientMORLConfig) -> None:
        super().__init__()
        checks.at_least(0, config, "num_layers", "refinement_steps")
        checks.at_least(1, config, "num_slots", "slot_dim")
        checks.at_least(0, config.patch, "decoder_waves")
        checks.at_least(1, config.patch, *(name for name in asdict(config.patch) if name != "decoder_waves"))
        checks.positive(config, "sigma")
        self.config = config
        dim, patch = config.slot_dim, config.patch
        channels = 64 if config.encoder == "conv" else patch.encoder_channels
        convs, stride = encoder_layers(config.encoder, channels, patch)
        self.encoder = ImageEncoder(convs, channels, stride)
        self.decoder = slot_decoder(config.decoder, dim, patch)
        self.attention = SetAttention(channels, dim)
        self.norm_slots = nn.LayerNorm(dim)
        self.gru: nn.Module = DualGRU(dim) if config.gru == "dual" else SingleGRU(dim)
        self.norm_mean = nn.LayerNorm(dim)
        self.norm_raw = nn.LayerNorm(dim)
        self.mlp_mean = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.mlp_raw = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.initial_mean = nn.Parameter(torch.zeros(dim))
        self.initial_raw = nn.Parameter(torch.ones(dim))
        self.prior = ConditionalPrior(dim)
        self.refinement = RefinementNetwork(dim)
        self.register_buffer("geco_zeta", torch.tensor(geco.ZETA_MIN))
        if config.initial_weights == "keras":
            keras_(self)
        if config.initial_weights == "released":
            xavier_small_(self.encoder.convs, self.encoder.mlp, self.decoder, self.attention, self.prior)
            xavier_small_(self.mlp_mean, self.mlp_raw, self.refinement)
            if isinstance(self.gru, SingleGRU):
                xavier_small_(self.gru.project)

    # ---------------------------------------------------------------- stage 1

    def bottom_up(self, images: Tensor, num_slots: int, noise: Noise) -> BottomUp:
        """Lines 1-16 of Algorithm 1; images B 3 H W in [0, 1]."""
        shape = (len(images), num_slots, self.config.slot_dim)
        initial = Gaussian(self.initial_mean.expand(shape), self.initial_raw.expand(shape))
        samples = [initial.sample(noise.normal("z0", 0, initial.mean))]  # B K D
        layers: list[Gaussian] = []
        attention: list[Tensor] = []
        if self.config.num_layers == 0:
            return BottomUp(layers, samples, attention, initial)
        tokens, grid = self.encoder(images * 2 - 1)  # B N C
        keys, values = self.attention.keys_values(tokens)  # B N D
        posterior = initial
        for layer in range(self.config.num_layers):
            update, alpha = self.attention(self.norm_slots(samples[-1]), keys, values)  # B K D, B K N
            mean, raw = self.gru(update, posterior)  # B K D
            posterior = Gaussian(mean + self.mlp_mean(self.norm_mean(mean)), raw + self.mlp_raw(self.norm_raw(raw)))
            layers.append(posterior)
            samples.append(posterior.sample(noise.normal("layers", layer, mean)))  # B K D
            attention.append(alpha.unflatten(-1, grid).unsqueeze(2))  # B K 1 h w
        return BottomUp(layers, samples, attention, initial)

    def hierarchical_kl(self, layers: Sequence[Gaussian], noise: Noise) -> tuple[Tensor, Gaussian | None]:
        """KL of every layer against the prior (B L, bottom first), and the prior of the refinement loss.

        A conditional prior sees a fresh draw from its neighbour's posterior, not the draw that attention used.
        None stands for N(0, I).
        """
        count = len(layers)
        if count == 0:
            return self.initial_mean.new_zeros(1, 0), None
        top_down = self.config.prior != "bottom-up"
        order = list(range(count))[:: -1 if top_down else 1]  # from the layer with the standard prior on
        kl: dict[int, Tensor] = {order[0]: gaussian_kl(layers[order[0]], None)}
        conditional = None
        for draw, (above, below) in enumerate(zip(order, order[1:], strict=False)):
            conditional = self.prior(layers[above].sample(noise.normal("prior", draw, layers[above].mean)))
            kl[below] = gaussian_kl(layers[below], conditional)
        standard = not self._refines_against_conditional()
        return torch.stack([kl[i] for i in range(count)], dim=1), None if standard else conditional

    def _refines_against_conditional(self) -> bool:
        config = self.config
        if config.prior == "bottom-up":
            return config.bottom_up_refinement_prior == "conditional"
        return config.prior == "reversed++"

    # ---------------------------------------------------------------- decoding

    def decode_slots(self, slots: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `Model`."""
        out = self.decoder.draw(slots, *size)  # N 4 H W
        return out[:, 3:], out[:, :3].sigmoid()

    def decode_nll(self, z: Tensor, images: Tensor, keep: bool = True) -> tuple[Tensor, tuple[Tensor, ...]]:
        """NLL per image (B) and, where it is kept, what was decoded, detached: log masks and components."""
        decoder, size = self.decoder, (images.shape[2], images.shape[3])
        out = decoder(z.flatten(0, 1), *size)  # BK 4 p^2 P, the decoder's order of pixels
        log_masks, components = masks_and_colours(out.view(*z.shape[:2], *out.shape[1:]))
        target, inside = decoder.arrange(images)
        nll = LIKELIHOODS[self.config.likelihood](target, log_masks, components, self.config.sigma, inside)
        if not keep:
            return nll, ()
        parts = (part.detach().flatten(0, 1) for part in (log_masks, components))
        pictures = (decoder.picture(part, *size) for part in parts)
        return nll, tuple(picture.view(*z.shape[:2], *picture.shape[1:]) for picture in pictures)

    def _decode_once(self, z: Tensor, images: Tensor, mode: Mode, last: bool) -> EagerNLL:
        """One decode of z B K D, a few images at a time."""
        chunk = self.decoder.images_per_chunk(z.shape[1], images.shape[2], images.shape[3])
        keep = mode.keep == "every" or (mode.keep == "last" and last)

        def decode(z: Tensor, rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
            return self.decode_nll(z, images[rows], keep)

        if last and not mode.training:
            return decode_only(decode, z, chunk)
        return decode_and_differentiate(decode, z, list(self.decoder.parameters()) if mode.training else [], chunk)

    # ---------------------------------------------------------------- stage 2

    def refine(
        self,
        images: Tensor,
        stage1: BottomUp,
        kl: Tensor,
        prior: Gaussian | None,
        num_steps: int,
        noise: Noise,
        *,
        nll_weight: Tensor,
        kl_weight: float | Tensor,
        mode: Mode,
    ) -> list[RefineStep]:
        """Lines 17-27 of Algorithm 1: entries 0..I.

        Refinement follows the gradient of each image's own loss nll_weight NLL + kl_weight KL, so that no image
        depends on the others of its batch. In training every decode is differentiated, else all but the last.
        """
        posterior = stage1.top
        z = stage1.samples[-1] if mode.sample or num_steps > 0 else posterior.mean
        steps = [RefineStep(posterior, z, kl, self._decode_once(z, images, mode, num_steps == 0))]
        hidden = z.new_zeros(z.shape[0] * z.shape[1], z.shape[2])
        for i in range(1, num_steps + 1):
            before = steps[-1]
            loss = nll_weight * (before.nll.grad_z * before.z).sum() + kl_weight * before.kl.sum()
            inputs = tuple(before.posterior)
            grad = Gaussian(*torch.autograd.grad(loss, inputs, retain_graph=mode.training, materialize_grads=True))
            with torch.set_grad_enabled(mode.training):
                delta, hidden = self.refinement(before.posterior, grad, hidden)
                posterior = before.posterior.moved(delta)
            if not mode.training:
                posterior = posterior.leaf()
            sampled = mode.sample or i < num_steps
            z = posterior.sample(noise.normal("refine", i - 1, posterior.mean)) if sampled else posterior.mean
            if mode.keep == "codes" and i == num_steps:
                unknown = z.new_full((len(z),), math.nan)
                nll = EagerNLL(unknown.sum(), unknown, torch.zeros_like(z), ())
            else:
                nll = self._decode_once(z, images, mode, i == num_steps)
            steps.append(RefineStep(posterior, z, gaussian_kl(posterior, prior), nll, grad, delta))
        return steps

    # ---------------------------------------------------------------- the contract

    def infer(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Inference:
        """See `emorl.models.base.Model.infer`. With refinement, memory is that of one decode whatever I is."""
        mode = Mode(training=False, sample=options.sample, keep="every" if options.keep_steps else "last")
        with torch.inference_mode(False), torch.no_grad():
            stage1, kl_layers, steps = self._both_stages(images, options, noise, mode)
            size = (images.shape[2], images.shape[3])
            layers = [
                Layer(
                    posterior=_posterior(layer),
                    attention=alpha,
                    kl=kl_layers[:, number].detach(),
                    decoding=self.decode(z.detach(), size) if options.decode_layers else None,
                )
                for number, (layer, alpha, z) in enumerate(
                    zip(stage1.layers, stage1.attention, stage1.samples[1:], strict=True)
                )
            ]
            kept = [step.nll.extra for step in steps if step.nll.extra]  # of all, or of the last
            decodings = [Decoding(log_masks.exp(), components) for log_masks, components in kept]
            return Inference(
                masks=decodings[-1].masks,
                components=decodings[-1].components,
                reconstruction=decodings[-1].reconstruction,
                slots=steps[-1].z.detach(),
                layers=tuple(layers),
                steps=tuple(
                    Step(
                        posterior=_posterior(step.posterior),
                        nll=step.nll.per_image.detach(),
                        kl=step.kl.detach(),
                        decoding=decodings[i] if options.keep_steps else None,
                    )
                    for i, step in enumerate(steps)
                ),
            )

    def _both_stages(
        self, images: Tensor, options: InferOptions, noise: int | Noise | None, mode: Mode
    ) -> tuple[BottomUp, Tensor, list[RefineStep]]:
        """Inference without gradients of weights: stage 1, its KL per layer (B L) and stage 2."""
        config = self.config
        num_slots, num_steps = self.counts(options)
        x = images_to_unit(images, self.initial_mean.dtype)
        x = x.clone() if x.is_inference() else x
        noise = as_noise(noise, len(x))
        stage1 = self.bottom_up(x, num_slots, noise)
        with torch.enable_grad():  # for the latent part alone; every decode has a graph of its own
            stage1 = self._cut(stage1, noise)
            kl_layers, prior = self.hierarchical_kl(stage1.layers, noise)
            steps = self.refine(
                x,
                stage1,
                kl_layers.sum(dim=1).expand(len(x)),
                None if prior is None else Gaussian(prior.mean.detach(), prior.raw.detach()),
                num_steps,
                noise,
                nll_weight=F.softplus(self.geco_zeta) if config.geco else x.new_ones(()),
                kl_weight=config.kl_weight,
                mode=mode,
            )
        return stage1, kl_layers, steps

    def _cut(self, stage1: BottomUp, noise: Noise) -> BottomUp:
        """Make the top posterior a leaf, with its sample drawn again so that it depends on it."""
        top = stage1.top.leaf()
        count = len(stage1.layers)
        eps = noise.normal("layers", count - 1, top.mean) if count else noise.normal("z0", 0, top.mean)
        return stage1._replace(
            layers=[*stage1.layers[:-1], top] if count else [],
            samples=[*stage1.samples[:-1], top.sample(eps)],
            initial=stage1.initial if count else top,
        )

    def encode(
        self, images: Tensor, options: InferOptions = InferOptions(), *, noise: int | Noise | None = None
    ) -> Tensor:
        """Posterior means B K D. The last of them is not decoded, so at zero refinement steps no decoder runs."""
        num_slots, num_steps = self.counts(options)
        if num_steps == 0:
            with torch.no_grad():
                x = images_to_unit(images, self.initial_mean.dtype)
                return self.bottom_up(x, num_slots, as_noise(noise, len(x))).top.mean
        with torch.inference_mode(False), torch.no_grad():
            _, _, steps = self._both_stages(images, options, noise, Mode(training=False, keep="codes"))
            return steps[-1].posterior.mean.detach()

    def sample(
        self, count: int, size: tuple[int, int], *, num_slots: int | None = None, noise: int | Noise | None = None
    ) -> Inference:
        """Scenes of codes from the prior that the decoded codes were trained against, every slot by itself.

        That is the refinement prior, without refinement the prior of the last layer: N(0, I), or where it is
        conditional a chain through the hierarchy that begins with N(0, I).
        """
        config = self.config
        num_slots, _ = self.counts(InferOptions(num_slots, 0))
        conditional = self._refines_against_conditional() if config.refinement_steps else config.prior == "bottom-up"
        noise = as_noise(noise, count)
        like = self.initial_mean.new_zeros(count, num_slots, config.slot_dim)
        with torch.no_grad():
            z = noise.normal("sample", 0, like)
            for layer in range(1, config.num_layers if conditional else 0):
                z = self.prior(z).sample(noise.normal("sample", layer, like))
            decoding = self.decode(z, size)
        return Inference(decoding.masks, decoding.components, decoding.reconstruction, z)

    def initial_state(self) -> TrainState:
        """I as in the config; zeta at its lower bound."""
        config = self.config
        return TrainState(
            refinement_steps=config.refinement_steps,
            kl_weight=config.kl_weight,
            geco=geco.initial(self.geco_zeta, config.geco) if config.geco else None,
        )

    def training_pass(
        self, images: Tensor, state: TrainState, noise: Noise, keep_decodings: bool = True
    ) -> TrainingPass:
        """Both stages with everything the loss is made of; images B 3 H W in [0, 1]."""
        constraint = state.geco if self.config.geco and geco.phase(state.step, self.config.geco) else None
        stage1 = self.bottom_up(images, self.config.num_slots, noise)
        kl_layers, prior = self.hierarchical_kl(stage1.layers, noise)
        steps = self.refine(
            images,
            stage1,
            kl_layers.sum(dim=1).expand(len(images)),
            prior,
            state.refinement_steps,
            noise,
            nll_weight=images.new_ones(()) if constraint is None else F.softplus(constraint.zeta),
            kl_weight=state.kl_weight,
            mode=Mode(training=True, keep="every" if keep_decodings else "none"),
        )
        losses = []
        for step in steps:
            reconstruction = step.nll.total
            if constraint is not None:
                reconstruction = geco.constrained_loss(constraint, step.nll.total, len(images))
            losses.append(state.kl_weight * step.kl.sum() + reconstruction)
        return TrainingPass(stage1, kl_layers, steps, losses)

    def loss(self, images: Tensor, state: TrainState, *, noise: int | Noise | None = None) -> Loss:
        """Eq. 8, summed over images.

        Terms: nll and kl (B) of the last refinement step, nll_per_step and kl_per_step (B I+1), kl_per_layer (B L),
        and delta_norm_per_step (B I): the L2 norm of the update of a slot's lambda, mean over slots. With GECO also
        those of `geco.image_terms` (B).
        """
        images = images_to_unit(images, self.initial_mean.dtype)
        run = self.training_pass(images, state, as_noise(noise, len(images)), keep_decodings=False)
        weights = step_weights(state.refinement_steps, self.config.loss_weights)
        total = torch.stack([w * loss for w, loss in zip(weights, run.losses, strict=True)]).sum()
        norms = [step.delta.cat().detach().norm(dim=-1).mean(dim=1) for step in run.steps if step.delta]
        terms = {
            "nll": run.steps[-1].nll.per_image,
            "kl": run.steps[-1].kl.detach(),
            "nll_per_step": torch.stack([step.nll.per_image for step in run.steps], dim=1),
            "kl_per_step": torch.stack([step.kl.detach() for step in run.steps], dim=1),
            "kl_per_layer": run.kl_per_layer.detach().expand(len(images), -1),
            "delta_norm_per_step": torch.stack(norms, dim=1) if norms else images.new_zeros(len(images), 0),
        }
        if self.config.geco:
            terms |= geco.image_terms(state.geco, terms["nll"], self.config.geco, images[0].numel())
        return Loss(total, terms)

    def next_state(self, state: TrainState, means: Mapping[str, Tensor]) -> TrainState:
        """One step further; moves GECO by the batch means of its terms."""
        constraint = state.geco
        if constraint is not None and self.config.geco is not None:
            constraint = geco.update(constraint, means["constraint"], self.config.geco, state.step)
            constraint = geco.follow(constraint, means, self.config.geco)
        return replace(state, step=state.step + 1, geco=constraint)

    def step_form(self, state: TrainState) -> Hashable:
        """I, and whether GECO has begun."""
        constraint = self.config.geco
        return state.refinement_steps, None if constraint is None else geco.phase(state.step, constraint)

    def remember(self, state: TrainState) -> None:
        """Keep zeta, whose objective refinement follows at test time too."""
        if state.geco is not None:
            self.geco_zeta.copy_(state.geco.zeta)


def _posterior(gaussian: Gaussian) -> Posterior:
    return Posterior(gaussian.mean.detach(), gaussian.std.detach())
