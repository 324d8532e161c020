"""Both stages of EfficientMORL the slow and obvious way: what `emorl.models.efficientmorl` is held to.

One image at a time; weights by name; ordinary autograd through everything: every decode stays in the graph,
codes are tiled and the grid is added before the first convolution, and refinement's gradient is that of the
image's whole loss. Nothing but the config and the weights is shared with the model.

Axes: K slots, D slot width, N = h w tokens, C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from emorl.models.efficientmorl import EfficientMORLConfig

Weights = Mapping[str, Tensor]
Noise = Mapping[str, list[Tensor]]
"""z0, layers, prior, refine: draws in order of use, K D each."""


@dataclass(frozen=True)
class Constraint:
    """GECO in force."""

    zeta: float
    ema: float
    target: float


@dataclass
class PlainStep:
    """One entry 0..I of stage 2."""

    mean: Tensor
    raw: Tensor
    z: Tensor
    log_masks: Tensor
    components: Tensor
    nll: Tensor
    kl: Tensor
    loss: Tensor
    grad: tuple[Tensor, Tensor] | None = None
    delta: tuple[Tensor, Tensor] | None = None


@dataclass
class PlainRun:
    """Everything computed for one image."""

    total: Tensor
    samples: list[Tensor] = field(default_factory=list)
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    kl_per_layer: list[Tensor] = field(default_factory=list)
    steps: list[PlainStep] = field(default_factory=list)


def random_weights(model: nn.Module, seed: int) -> None:
    """Fill a model so that every path matters; its own initial weights make most of it nearly constant."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            fan_in = parameter.shape[-1] if name.startswith("gru.") else math.prod(parameter.shape[1:])
            draw *= 1.2 * fan_in**-0.5
        else:
            draw *= 0.3
        if "norm" in name and name.endswith("weight"):
            draw += 1
        parameter.data.copy_(draw)


def random_noise(config: EfficientMORLConfig, num_images: int, num_steps: int, seed: int) -> dict[str, list[Tensor]]:
    """Draws for a batch, B K D each, exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    counts = {
        "z0": 1,
        "layers": config.num_layers,
        "prior": max(config.num_layers - 1, 0),
        "refine": num_steps,
    }
    shape = (num_images, config.num_slots, config.slot_dim)

    def draws(count: int) -> list[Tensor]:
        return [torch.randn(shape, generator=generator).double() for _ in range(count)]

    return {name: draws(count) for name, count in counts.items()}


# ------------------------------------------------------------------- networks


def std(raw: Tensor) -> Tensor:
    return (torch.log1p(torch.exp(torch.minimum(raw, torch.tensor(80.0, dtype=raw.dtype)))) + 1e-5) ** 0.5


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def standardise(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(dim=-1, keepdim=True) + 1e-5)


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return standardise(x) * w[f"{name}.weight"] + w[f"{name}.bias"]


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.2", torch.relu(linear(w, f"{name}.0", x)))


def gru_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    dim = h.shape[-1]
    own = {gate: slice(i * dim, (i + 1) * dim) for i, gate in enumerate(("reset", "update", "new"))}
    from_x = {gate: x @ w_ih[rows].T + b_ih[rows] for gate, rows in own.items()}
    from_h = {gate: h @ w_hh[rows].T + b_hh[rows] for gate, rows in own.items()}
    reset = torch.sigmoid(from_x["reset"] + from_h["reset"])
    update = torch.sigmoid(from_x["update"] + from_h["update"])
    new = torch.tanh(from_x["new"] + reset * from_h["new"])
    return (1 - update) * new + update * h


def slot_gru(w: Weights, config: EfficientMORLConfig, x: Tensor, mean: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    if config.gru == "dual":
        halves = [gru_cell(x, h, *(w[f"gru.{kind}"][i] for kind in kinds)) for i, h in enumerate((mean, raw))]
        return halves[0], halves[1]
    h = torch.cat([mean, raw], dim=-1)
    h = gru_cell(linear(w, "gru.project", x), h, *(w[f"gru.cell.{kind}"] for kind in kinds))
    return h[:, : config.slot_dim], h[:, config.slot_dim :]


def grid(height: int, width: int, num_waves: int) -> Tensor:
    """H W P: falling and rising down the rows, rising and falling along the columns, then cosines."""

    def at(i: int, j: int) -> list[float]:
        down, right = i / max(height - 1, 1), j / max(width - 1, 1)
        waves = [[math.cos(math.pi * n * t) for n in range(1, num_waves + 1)] for t in (down, right)]
        return [1 - down, down, right, 1 - right, *waves[0], *waves[1]]

    return torch.tensor([[at(i, j) for j in range(width)] for i in range(height)], dtype=torch.float64)


def tokens(w: Weights, config: EfficientMORLConfig, image: Tensor) -> tuple[Tensor, int, int]:
    x = 2 * image - 1
    if config.encoder == "conv":
        for i in range(4):
            kernel, bias = w[f"encoder.convs.{2 * i}.weight"], w[f"encoder.convs.{2 * i}.bias"]
            x = torch.relu(F.conv2d(x, kernel, bias, padding=2))
    else:
        patch = config.patch.encoder_patch
        for dim in (1, 2):  # the last row and column are repeated
            size = x.shape[dim]
            full = math.ceil(size / patch) * patch
            x = x.index_select(dim, torch.tensor([min(i, size - 1) for i in range(full)]))
        for i in range(config.patch.encoder_layers):
            kernel, bias = w[f"encoder.convs.{2 * i}.weight"], w[f"encoder.convs.{2 * i}.bias"]
            x = F.conv2d(x, kernel, bias, stride=patch) if i == 0 else F.conv2d(x, kernel, bias, padding=1)
            x = torch.relu(x)
    height, width = x.shape[1:]
    x = x.permute(1, 2, 0) + linear(w, "encoder.position", grid(height, width, 0))
    x = x.reshape(height * width, -1)
    return mlp(w, "encoder.mlp", layer_norm(w, "encoder.norm", x)), height, width


def decode(w: Weights, config: EfficientMORLConfig, z: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """K D -> log masks K 1 H W, components K 3 H W."""
    kind, patch = config.decoder, config.patch.decoder_patch
    rows, columns, waves = {
        "broadcast": (height + 10, width + 10, 0),
        "small": (height + 6, width + 6, 0),
        "deconv": (math.ceil(height / 16), math.ceil(width / 16), 0),
    }.get(kind, (math.ceil(height / patch), math.ceil(width / patch), config.patch.decoder_waves))
    num_layers = {"broadcast": 5, "small": 4, "deconv": 6}.get(kind, config.patch.decoder_layers)
    if kind == "modulated":
        features = grid(rows, columns, waves)  # rows columns F
        projections = linear(w, "decoder.projection", z).reshape(len(z), -1, features.shape[-1])  # K C F
        x = torch.stack([features @ projection.T for projection in projections]).permute(0, 3, 1, 2)
    else:
        tile = z.reshape(*z.shape, 1, 1).repeat(1, 1, rows, columns)
        x = tile + linear(w, "decoder.position", grid(rows, columns, waves)).permute(2, 0, 1)
    for i in range(num_layers):
        kernel, bias = w[f"decoder.layers.{2 * i}.weight"], w[f"decoder.layers.{2 * i}.bias"]
        if kind == "deconv":
            stride, pad, extra = (2, 2, 1) if i < 4 else (1, 2, 0) if i == 4 else (1, 1, 0)
            x = F.conv_transpose2d(x, kernel, bias, stride=stride, padding=pad, output_padding=extra)
        else:
            x = F.conv2d(x, kernel, bias, padding=0 if kind == "broadcast" else 1)
        if i < num_layers - 1:
            x = F.elu(x) if kind == "broadcast" else torch.relu(x)
    if kind in ("subpixel", "modulated"):  # channel (c, dy, dx) at (i, j) is pixel (i p + dy, j p + dx) of channel c
        x = x.reshape(-1, 4, patch, patch, rows, columns).permute(0, 1, 4, 2, 5, 3)
        x = x.reshape(-1, 4, rows * patch, columns * patch)
    x = x[:, :, :height, :width]
    return x[:, 3:] - torch.logsumexp(x[:, 3:], dim=0), 1 / (1 + torch.exp(-x[:, :3]))


# --------------------------------------------------------------- probabilities


def kl(mean: Tensor, raw: Tensor, prior: tuple[Tensor, Tensor] | None) -> Tensor:
    p = Normal(torch.zeros_like(mean), 1.0) if prior is None else Normal(prior[0], std(prior[1]))
    return kl_divergence(Normal(mean, std(raw)), p).sum()


def nll(config: EfficientMORLConfig, image: Tensor, log_masks: Tensor, components: Tensor) -> Tensor:
    constant = 0.5 * math.log(2 * math.pi)
    if config.likelihood == "gaussian":
        log_p = Normal((log_masks.exp() * components).sum(dim=0), config.sigma).log_prob(image) + constant
    else:
        log_each = Normal(components, config.sigma).log_prob(image) + constant
        log_p = torch.logsumexp(log_masks + log_each, dim=0)
    return -log_p.sum()


def conditional_prior(w: Weights, z: Tensor) -> tuple[Tensor, Tensor]:
    hidden = F.elu(linear(w, "prior.hidden.0", z))
    return linear(w, "prior.mean", hidden), linear(w, "prior.raw", hidden)


def weights_of_steps(config: EfficientMORLConfig, num_steps: int) -> list[float]:
    if config.loss_weights == "released":
        return [(num_steps + 3 - i) / (num_steps + 1) for i in range(num_steps + 1)]
    return [1.0 if i == 0 else (num_steps - i + 1) / (num_steps + 1) for i in range(num_steps + 1)]


# ------------------------------------------------------------------ both stages


def run(
    w: Weights,
    config: EfficientMORLConfig,
    image: Tensor,
    noise: Noise,
    num_steps: int,
    *,
    kl_weight: float = 1.0,
    constraint: Constraint | None = None,
    sample: bool = True,
) -> PlainRun:
    """One image 3 H W in [0, 1] with its noise, K D per draw; `sample` as in `InferOptions`."""
    dim, num_slots = config.slot_dim, noise["z0"][0].shape[0]
    _, height, width = image.shape
    result = PlainRun(torch.zeros(()))

    # Stage 1.
    mean = w["initial_mean"].repeat(num_slots, 1)
    raw = w["initial_raw"].repeat(num_slots, 1)
    result.samples.append(mean + std(raw) * noise["z0"][0])
    if config.num_layers > 0:
        x, h_tokens, w_tokens = tokens(w, config, image)
        keys, values = linear(w, "attention.key", x), linear(w, "attention.value", x)  # N D
    for layer in range(config.num_layers):
        query = linear(w, "attention.query", layer_norm(w, "norm_slots", result.samples[-1])) / math.sqrt(dim)
        alpha = torch.softmax(query @ keys.T, dim=0) + 1e-8  # K N
        update = (alpha / alpha.sum(dim=1, keepdim=True)) @ values
        mean, raw = slot_gru(w, config, update, mean, raw)
        mean = mean + mlp(w, "mlp_mean", layer_norm(w, "norm_mean", mean))
        raw = raw + mlp(w, "mlp_raw", layer_norm(w, "norm_raw", raw))
        result.layers.append((mean, raw))
        result.samples.append(mean + std(raw) * noise["layers"][layer])
        result.attention.append(alpha.reshape(num_slots, h_tokens, w_tokens))

    # The hierarchical prior and the one of the refinement loss; lambda^l is layers[l - 1].
    refinement_prior: tuple[Tensor, Tensor] | None = None
    count = config.num_layers
    kls: dict[int, Tensor] = {}
    if config.prior == "bottom-up":
        for layer in range(1, count + 1):
            prior = None
            if layer > 1:
                below_mean, below_raw = result.layers[layer - 2]
                prior = conditional_prior(w, below_mean + std(below_raw) * noise["prior"][layer - 2])
            kls[layer] = kl(*result.layers[layer - 1], prior)
            if layer == count and config.bottom_up_refinement_prior == "conditional":
                refinement_prior = prior
    else:
        for layer in range(count, 0, -1):
            prior = None
            if layer < count:
                above_mean, above_raw = result.layers[layer]
                prior = conditional_prior(w, above_mean + std(above_raw) * noise["prior"][count - 1 - layer])
            kls[layer] = kl(*result.layers[layer - 1], prior)
            if layer == 1 and config.prior == "reversed++":
                refinement_prior = prior
    result.kl_per_layer = [kls[layer] for layer in range(1, count + 1)]

    # Stage 2.
    def step(mean: Tensor, raw: Tensor, z: Tensor, divergence: Tensor) -> PlainStep:
        log_masks, components = decode(w, config, z, height, width)
        error = nll(config, image, log_masks, components)
        loss = kl_weight * divergence + error
        if constraint is not None:
            c = constraint.target - error
            multiplier = math.log1p(math.exp(constraint.zeta))
            loss = kl_weight * divergence - multiplier * (c + (constraint.ema - c).detach())
        return PlainStep(mean, raw, z, log_masks, components, error, divergence, loss)

    all_layers = torch.zeros((), dtype=image.dtype) + sum(result.kl_per_layer)
    result.steps.append(step(mean, raw, result.samples[-1] if sample or num_steps else mean, all_layers))
    hidden = torch.zeros(num_slots, dim, dtype=image.dtype)
    for i in range(1, num_steps + 1):
        grads = torch.autograd.grad(result.steps[-1].loss, (mean, raw), retain_graph=True, allow_unused=True)
        g_mean, g_raw = (torch.zeros_like(mean) if g is None else g for g in grads)
        x = torch.cat([mean, raw, standardise(g_mean), standardise(g_raw)], dim=-1)  # K 4D
        x = linear(w, "refinement.encoding.2", F.elu(linear(w, "refinement.encoding.0", x)))
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        hidden = gru_cell(x, hidden, *(w[f"refinement.recurrence.{kind}"] for kind in kinds))
        d_mean, d_raw = linear(w, "refinement.mean", hidden), linear(w, "refinement.raw", hidden)
        mean, raw = mean + d_mean, raw + d_raw
        z = mean + std(raw) * noise["refine"][i - 1] if sample or i < num_steps else mean
        result.steps.append(step(mean, raw, z, kl(mean, raw, refinement_prior)))
        result.steps[-1].grad, result.steps[-1].delta = (g_mean, g_raw), (d_mean, d_raw)

    factors = weights_of_steps(config, num_steps)
    result.total = sum((f * s.loss for f, s in zip(factors, result.steps, strict=True)), torch.zeros(()))
    return result


def of_image(noise: Noise, b: int) -> dict[str, list[Tensor]]:
    """The draws of image b out of those of a batch."""
    return {name: [draw[b] for draw in draws] for name, draws in noise.items()}


def gradients(total: Tensor, w: Weights) -> dict[str, Tensor]:
    """d total / d each weight; zero where it plays no part."""
    grads = torch.autograd.grad(total, list(w.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(w.items(), grads, strict=True)}
