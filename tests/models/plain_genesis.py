"""GENESIS and GENESIS-S the slow and obvious way: what `emorl.models.genesis` is held to.

Slot by slot, weights by name, likelihoods and masks without logarithms where float64 bears it, codes tiled and
coordinates appended before the first convolution, the gates' two halves normalised apart. Nothing but the config and
the weights is shared with the model. Axes: B images, K slots, D slot width, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from emorl.models.genesis import GenesisConfig, GenesisSConfig

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class PlainRun:
    """Everything computed for a batch."""

    masks: Tensor
    """B K 1 H W."""
    components: Tensor
    """B K 3 H W."""
    means: Tensor
    """B K D, of the posterior."""
    slots: Tensor
    """B K D."""
    nll: Tensor
    """B."""
    kl_masks: Tensor
    """B."""
    kl_components: Tensor
    """B."""


def random_weights(model: nn.Module, seed: int) -> None:
    """Fill a model, running statistics included, so that every path matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim > 1:
            transposed = name.startswith("mask_decoder") and ".last" not in name
            shape = (parameter.shape[0], *parameter.shape[2:]) if transposed else parameter.shape[1:]
            draw *= 1.2 * math.prod(shape) ** -0.5
        else:
            draw *= 0.3
        if name.endswith("norm.weight"):
            draw += 1
        parameter.data.copy_(draw)
    for name, buffer in model.named_buffers():
        draw = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
        buffer.copy_(draw + 0.5 if name.endswith("var") else draw - 0.5)


def norm(w: Weights, name: str, half: slice, x: Tensor, kind: str, training: bool) -> Tensor:
    """One half of the channels, which are those of x."""
    if kind == "instance" or training:
        axes = (2, 3) if kind == "instance" else (0, 2, 3)
        mean = x.mean(dim=axes, keepdim=True)
        var = ((x - mean) ** 2).mean(dim=axes, keepdim=True)
    else:
        mean = w[f"{name}.running_mean"][half].view(1, -1, 1, 1)
        var = w[f"{name}.running_var"][half].view(1, -1, 1, 1)
    x = (x - mean) / torch.sqrt(var + 1e-5)
    return x * w[f"{name}.weight"][half].view(1, -1, 1, 1) + w[f"{name}.bias"][half].view(1, -1, 1, 1)


def gated(w: Weights, name: str, x: Tensor, kind: str, training: bool) -> Tensor:
    n = x.shape[1] // 2
    h, g = x[:, :n], x[:, n:]
    h = norm(w, f"{name}.norm", slice(0, n), h, kind, training)
    g = norm(w, f"{name}.norm", slice(n, 2 * n), g, kind, training)
    return h * torch.sigmoid(g)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def lstm(w: Weights, name: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    a = x @ w[f"{name}.weight_ih"].T + w[f"{name}.bias_ih"] + h @ w[f"{name}.weight_hh"].T + w[f"{name}.bias_hh"]
    n = h.shape[1]
    i, f, g, o = (a[:, j * n : (j + 1) * n] for j in range(4))
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def posterior_of(out: Tensor) -> Normal:
    n = out.shape[1] // 2
    return Normal(out[:, :n], torch.log1p(torch.exp(out[:, n:] + 0.5)) + 1e-8)


def prior_of(out: Tensor) -> Normal:
    n = out.shape[1] // 2
    return Normal(torch.tanh(out[:, :n]), torch.sigmoid(out[:, n:] + 4) + 1e-4)


def divergence(q: Normal, p: Normal, z: Tensor, analytic: bool) -> Tensor:
    """B."""
    if analytic:
        return kl_divergence(q, p).sum(dim=1)
    found: Tensor = q.log_prob(z) - p.log_prob(z)  # type: ignore[no-untyped-call]
    return found.sum(dim=1)


def run(
    w: Weights,
    config: GenesisConfig | GenesisSConfig,
    images: Tensor,
    eps: Tensor,
    *,
    training: bool,
    analytic: bool,
    strides: tuple[int, ...] = (1, 2, 1, 2, 1),
) -> PlainRun:
    """Images B 3 H W, noise B K D."""
    batch, num_slots = eps.shape[:2]
    dim, kind = config.mask_dim, config.norm
    zero = images.new_zeros(batch)

    x = images
    for i, stride in enumerate(strides):
        name = f"mask_encoder.layers.{i}"
        x = F.conv2d(x, w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], stride=stride, padding=2)
        x = gated(w, name, x, kind, training)
    x = F.conv2d(x, w["mask_encoder.last.weight"], w["mask_encoder.last.bias"])
    h, g = x[:, : x.shape[1] // 2, 0, 0], x[:, x.shape[1] // 2 :, 0, 0]
    features = h * torch.sigmoid(g)

    zm: list[Tensor] = []
    means: list[Tensor] = []
    kl_masks = zero
    hidden = cell = images.new_zeros(batch, 2 * dim)
    prior_hidden = prior_cell = images.new_zeros(batch, 8 * config.mask_channels)
    for k in range(num_slots):
        if k == 0:
            q = posterior_of(linear(w, "first_posterior", features))
            p = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
        else:
            hidden, cell = lstm(w, "recurrence", torch.cat([features, zm[-1]], dim=1), hidden, cell)
            q = posterior_of(linear(w, "next_posterior", hidden))
            prior_hidden, prior_cell = lstm(w, "mask_prior.recurrence", zm[-1], prior_hidden, prior_cell)
            p = prior_of(linear(w, "mask_prior.out", prior_hidden))
        zm.append(q.mean + q.stddev * eps[:, k, :dim])
        means.append(q.mean)
        kl_masks = kl_masks + divergence(q, p, zm[-1], analytic)

    x = torch.cat(zm)[:, :, None, None]  # slots outermost, as no result may depend on
    x = F.conv_transpose2d(x, w["mask_decoder.first.weight"], w["mask_decoder.first.bias"])
    h, g = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
    x = h * torch.sigmoid(g)
    for i, stride in enumerate(reversed(strides)):
        name = f"mask_decoder.layers.{i}"
        weight, bias = w[f"{name}.conv.weight"], w[f"{name}.conv.bias"]
        x = F.conv_transpose2d(x, weight, bias, stride=stride, padding=2, output_padding=stride - 1)
        x = gated(w, name, x, kind, training)
    logits = F.conv2d(x, w["mask_decoder.last.weight"], w["mask_decoder.last.bias"]).chunk(num_slots)
    scope = torch.ones_like(images[:, :1])
    masks = []
    for k in range(num_slots - 1):
        masks.append(scope * torch.sigmoid(logits[k]))
        scope = scope * (1 - torch.sigmoid(logits[k]))
    masks.append(scope)

    components, codes = [], []
    kl_components = zero
    for k in range(num_slots):
        code = zm[k]
        if isinstance(config, GenesisConfig):
            x = torch.cat([torch.log(masks[k]), images], dim=1)
            for i in (0, 2, 4, 6):
                name = f"component_encoder.convs.{i}"
                x = F.elu(F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1))
            x = F.elu(linear(w, "component_encoder.mlp.0", x.flatten(1)))
            q = posterior_of(linear(w, "component_encoder.mlp.2", x))
            x = F.elu(linear(w, "component_prior.0", zm[k]))
            x = F.elu(linear(w, "component_prior.2", x))
            p = prior_of(linear(w, "component_prior.4", x))
            code = q.mean + q.stddev * eps[:, k, dim:]
            means[k] = torch.cat([means[k], q.mean], dim=1)
            kl_components = kl_components + divergence(q, p, code, analytic)
        codes.append(torch.cat([zm[k], code], dim=1) if isinstance(config, GenesisConfig) else code)
        components.append(torch.sigmoid(broadcast_decoder(w, code, images.shape[2], images.shape[3])))

    m, y = torch.stack(masks, dim=1), torch.stack(components, dim=1)
    sigma = torch.tensor(config.sigma, dtype=images.dtype)
    if config.likelihood == "mixture":
        density = torch.exp(-((images.unsqueeze(1) - y) ** 2) / (2 * sigma**2)) / sigma
        nll = -torch.log((m * density).sum(dim=1)).sum(dim=(1, 2, 3))
    else:
        nll = (((images - (m * y).sum(dim=1)) ** 2) / (2 * sigma**2) + torch.log(sigma)).sum(dim=(1, 2, 3))
    return PlainRun(m, y, torch.stack(means, dim=1), torch.stack(codes, dim=1), nll, kl_masks, kl_components)


def broadcast_decoder(w: Weights, z: Tensor, height: int, width: int) -> Tensor:
    """Codes B D -> B 3 H W before the sigmoid."""

    def line(count: int) -> Tensor:
        return torch.tensor([-1 + 2 * i / (count - 1) for i in range(count)], dtype=z.dtype)

    batch, (rows, columns) = len(z), (height + 8, width + 8)
    x = torch.cat(
        [
            z[:, :, None, None].expand(-1, -1, rows, columns),
            line(rows).view(1, 1, -1, 1).expand(batch, 1, rows, columns),
            line(columns).view(1, 1, 1, -1).expand(batch, 1, rows, columns),
        ],
        dim=1,
    )
    for i in (0, 2, 4, 6):
        name = f"component_decoder.layers.{i}"
        x = F.elu(F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"]))
    name = "component_decoder.layers.8"
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"])
