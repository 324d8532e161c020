"""Replay recorded values of the authors' released model through ours.

The arrays (keys and meaning: docs/models/efficientmorl.md, "Verification") hold weights, an image, the noise and every
quantity of one forward and backward pass with the released loss weights, computed in float64.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from emorl.errors import InputError, first_line
from emorl.geco import GecoConfig, GecoState
from emorl.models.base import TrainState
from emorl.models.efficientmorl import EfficientMORL, EfficientMORLConfig, as_released, step_weights
from emorl.noise import RecordedNoise
from emorl.prob import Likelihood
from emorl.released import from_released_names, to_released_names

TOLERANCE = {torch.float64: (1e-9, 1e-9), torch.float32: (1e-4, 1e-3)}
"""Of what comes before the first gradient, and of what follows one; relative to a quantity's largest entry."""


@dataclass(frozen=True)
class Check:
    """One compared quantity."""

    file: str
    quantity: str
    error: float
    """Largest absolute difference over the largest entry of the recorded array."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.error <= self.tolerance


def reference_config(arrays: dict[str, np.ndarray]) -> EfficientMORLConfig:
    """The model's config from the file's `config/*` entries."""
    decoders: dict[str, Literal["broadcast", "small", "deconv"]] = {
        "iodine": "broadcast",
        "small": "small",
        "big": "deconv",
    }
    likelihoods: dict[str, Likelihood] = {"Gaussian": "gaussian", "GMM": "mixture"}
    pixels = int(np.prod(arrays["config/input_size"]))
    prior: Literal["reversed++", "reversed", "bottom-up"]
    if bool(arrays["config/bottom_up_prior"]):
        prior = "bottom-up"
    else:
        prior = "reversed++" if bool(arrays["config/reverse_prior_plusplus"]) else "reversed"
    return as_released(
        EfficientMORLConfig(
            num_slots=int(arrays["config/K"]),
            slot_dim=int(arrays["config/z_size"]),
            num_layers=int(arrays["config/stochastic_layers"]),
            refinement_steps=len(arrays.get("eps_refine", ())),
            prior=prior,
            gru="dual" if bool(arrays["config/use_DualGRU"]) else "single",
            likelihood=likelihoods[str(arrays["config/image_likelihood"])],
            sigma=math.exp(float(arrays["config/log_scale"])),
            geco=GecoConfig(float(arrays["geco_target"]) / pixels) if bool(arrays["geco_used"]) else None,
            decoder=decoders[str(arrays["config/image_decoder"])],
        )
    )


def verify_reference(path: Path, dtype: torch.dtype = torch.float64) -> list[Check]:
    """Every quantity of one reference file compared; raises InputError for a file of another kind."""
    if path.is_file() and not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a readable .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # the readers of a damaged file fail in more ways than they document
        raise InputError(f"{path}: not a readable .npz file ({first_line(error)})") from None
    try:
        return _compare(path.name, arrays, dtype)
    except KeyError as error:
        raise InputError(f"{path}: not a reference file, it lacks {error}") from None
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its arrays do not fit its config ({first_line(error)})") from None


def _compare(file: str, arrays: dict[str, np.ndarray], dtype: torch.dtype) -> list[Check]:
    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.asarray(arrays[name])).to(dtype)

    config = reference_config(arrays)
    model = EfficientMORL(config).to(dtype)
    released = {n.removeprefix("param/"): tensor(n) for n in arrays if n.startswith("param/")}
    try:
        model.load_state_dict(from_released_names(released))
    except RuntimeError as error:
        raise InputError(f"{file}: its parameters do not fit its config ({str(error).splitlines()[-1]})") from None
    noise = RecordedNoise(
        {
            "z0": [tensor("eps_z0")[None]],
            "layers": list(tensor("eps_layers").unsqueeze(1)),
            "prior": list(tensor("eps_prior").unsqueeze(1)) if "eps_prior" in arrays else [],
            "refine": list(tensor("eps_refine").unsqueeze(1)) if "eps_refine" in arrays else [],
        }
    )
    state = TrainState(refinement_steps=config.refinement_steps)
    if config.geco:
        constraint = GecoState(zeta=tensor("geco_beta"), ema=tensor("geco_ema"))
        state = TrainState(config.geco.warmup_steps + 1, config.refinement_steps, geco=constraint)

    run = model.training_pass(tensor("image"), state, noise)
    weights = step_weights(config.refinement_steps, config.loss_weights)
    total = torch.stack([w * loss for w, loss in zip(weights, run.losses, strict=True)]).sum()
    total.backward()  # type: ignore[no-untyped-call]

    before, after = TOLERANCE[dtype]
    checks: list[Check] = []

    def compare(quantity: str, ours: Tensor, recorded: Tensor, tolerance: float) -> None:
        if ours.shape != recorded.shape:
            raise InputError(f"{file}: {quantity} is {tuple(recorded.shape)}, ours {tuple(ours.shape)}")
        largest = recorded.abs().max().clamp(min=torch.finfo(dtype).tiny)
        error = float((ours.detach() - recorded).abs().max() / largest)
        checks.append(Check(file, quantity, error, tolerance))

    layers = run.stage1.layers
    if layers:
        compare("layer_mean", torch.cat([g.mean for g in layers]), tensor("layer_mean"), before)
        compare("layer_std", torch.cat([g.std for g in layers]), tensor("layer_std"), before)
        compare("attn", torch.stack(run.stage1.attention), tensor("attn"), before)
    refined = run.steps[1:]
    if refined:
        inputs = [step.posterior.cat()[0] for step in run.steps[:-1]]
        compare("lambda_before_refine[0]", inputs[0], tensor("lambda_before_refine")[0], before)
        compare("lambda_before_refine", torch.stack(inputs), tensor("lambda_before_refine"), after)
        grads = [step.grad.cat()[0] for step in refined if step.grad]
        compare("grad_lambda", torch.stack(grads), tensor("grad_lambda"), after)
        deltas = [step.delta.cat()[0] for step in refined if step.delta]
        compare("delta_lambda", torch.stack(deltas), tensor("delta_lambda"), after)
        compare("loss_before_refine", torch.stack(run.losses[:-1]), tensor("loss_before_refine"), after)
    for i, step in enumerate(run.steps):
        log_masks, components = step.nll.extra
        compare(f"components_{i}", components, tensor(f"components_{i}"), after if i else before)
        compare(f"log_masks_{i}", log_masks, tensor(f"log_masks_{i}"), after if i else before)
    compare("final_nll", run.steps[-1].nll.total, tensor("final_nll"), after)
    compare("final_kl", run.steps[-1].kl.sum(), tensor("final_kl"), after)
    compare("total_loss", total, tensor("total_loss_official_weights"), after)

    # A norm is compared relative to the larger of itself and 1e-3 of the global norm: some true gradients are zero.
    own = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    norms = {n: float(g.norm()) for n, g in to_released_names(own).items()}
    recorded = {n.removeprefix("grad/"): float(arrays[n]) for n in arrays if n.startswith("grad/")}
    smallest = 1e-3 * math.sqrt(sum(norm**2 for norm in recorded.values()))
    for name, norm in recorded.items():
        difference = abs(norms[name] - norm) / max(norm, smallest)
        checks.append(Check(file, f"grad/{name}", difference, after))
    return checks
