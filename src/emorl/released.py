"""The authors' released checkpoints: their parameter names, read safely.

Repository pemami4911/EfficientMORL. A checkpoint is a dictionary whose entry `model` holds the parameters, each name
prefixed `module.`; beside the parameters stand `geco_beta` (zeta) and `geco_C_ema`.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emorl.config import TrainConfig
from emorl.errors import InputError, first_line
from emorl.geco import ZETA_MIN
from emorl.models import build_model
from emorl.models.efficientmorl import EfficientMORLConfig, as_released
from emorl.runs import load_tensors, make_weights
from emorl.train import open_data

_PREFIXES = {
    "hvae_networks.encoder_pt_1.": "encoder.convs.",
    "hvae_networks.pos_embed_projection.": "encoder.position.",
    "hvae_networks.encoder_pt_2.0.": "encoder.norm.",
    "hvae_networks.encoder_pt_2.1.": "encoder.mlp.0.",
    "hvae_networks.encoder_pt_2.3.": "encoder.mlp.2.",
    "hvae_networks.norm_slots.": "norm_slots.",
    "hvae_networks.norm_mu_pre_ff.": "norm_mean.",
    "hvae_networks.norm_softplus_pre_ff.": "norm_raw.",
    "hvae_networks.to_q.": "attention.query.",
    "hvae_networks.to_k.": "attention.key.",
    "hvae_networks.to_v.": "attention.value.",
    "hvae_networks.mlp_mu.": "mlp_mean.",
    "hvae_networks.mlp_softplus.": "mlp_raw.",
    "hvae_networks.project_update.": "gru.project.",
    "hvae_networks.image_decoder.decode.": "decoder.layers.",
    "hvae_networks.image_decoder.pos_embed_projection.": "decoder.position.",
    "hvae_networks.indep_prior.z_linear.": "prior.hidden.",
    "hvae_networks.indep_prior.z_mu.": "prior.mean.",
    "hvae_networks.indep_prior.z_softplus.": "prior.raw.",
    "refinenet.encoding.": "refinement.encoding.",
    "refinenet.loc.": "refinement.mean.",
    "refinenet.softplus.": "refinement.raw.",
}
_SINGLE_GRU = {"hvae_networks.gru.": "gru.cell.", "refinenet.recurrence.": "refinement.recurrence."}
GRU_BUFFERS = {"zeros", "zeros_n"}
_CELL = "hvae_networks.gru.cell."


def to_released_names(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters (or their gradients) under the released names and in the released layout."""
    released: dict[str, Tensor] = {}
    for theirs, own in _PREFIXES.items():
        released |= {theirs + n.removeprefix(own): t for n, t in ours.items() if n.startswith(own)}
    for theirs, own in _SINGLE_GRU.items():
        released |= {theirs + n.removeprefix(own) + "_l0": t for n, t in ours.items() if n.startswith(own)}
    released["hvae_networks.init_posterior"] = torch.cat([ours["initial_mean"], ours["initial_raw"]])[None]
    if "gru.weight_ih" in ours:
        dim = ours["gru.weight_ih"].shape[-1]
        for kind in ("ih", "hh"):
            new = "in" if kind == "ih" else "hn"
            weight, bias = ours[f"gru.weight_{kind}"], ours[f"gru.bias_{kind}"]
            for cell in (0, 1):
                released[f"{_CELL}weight_{kind}_{cell + 1}"] = weight[cell, : 2 * dim]
                released[f"{_CELL}weight_{new}_{cell + 1}"] = weight[cell, 2 * dim :]
            released[f"{_CELL}bias_{kind}"] = bias[:, : 2 * dim].flatten()
            released[f"{_CELL}bias_{new}"] = bias[:, 2 * dim :].flatten()
    return released


def from_released_names(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released parameters as our state dict; raises KeyError where one is missing."""
    ours: dict[str, Tensor] = {}
    for theirs, own in _PREFIXES.items():
        ours |= {own + n.removeprefix(theirs): t for n, t in released.items() if n.startswith(theirs)}
    for theirs, own in _SINGLE_GRU.items():
        pattern = re.compile(re.escape(theirs) + r"((?:weight|bias)_(?:ih|hh))_l0")
        matches = ((pattern.fullmatch(n), t) for n, t in released.items())
        ours |= {own + match[1]: t for match, t in matches if match}
    mean, raw = released["hvae_networks.init_posterior"].flatten().chunk(2)
    ours |= {"initial_mean": mean.clone(), "initial_raw": raw.clone()}
    if f"{_CELL}weight_ih_1" in released:
        for kind in ("ih", "hh"):
            new = "in" if kind == "ih" else "hn"
            ours[f"gru.weight_{kind}"] = torch.stack(
                [
                    torch.cat([released[f"{_CELL}weight_{kind}_{cell}"], released[f"{_CELL}weight_{new}_{cell}"]])
                    for cell in (1, 2)
                ]
            )
            gates = released[f"{_CELL}bias_{kind}"].view(2, -1)
            ours[f"gru.bias_{kind}"] = torch.cat([gates, released[f"{_CELL}bias_{new}"].view(2, -1)], dim=1)
    if "geco_beta" in released:
        ours["geco_zeta"] = released["geco_beta"].reshape(())
    return ours


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Parameters of a released checkpoint under their released names.

    Only tensors and plain containers are unpickled; a file that asks for anything else to be made or run is refused
    with InputError, as is one that is missing, damaged or of another layout.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with warnings.catch_warnings(action="ignore"):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: refused, it asks for more than tensors to be made, or is damaged") from None
    except Exception as error:  # the reader of a damaged file fails in more ways than it documents
        raise InputError(f"{path}: not a PyTorch checkpoint ({first_line(error)})") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(t, Tensor) for t in model.values()):
        raise InputError(f"{path}: has no dictionary of tensors under 'model', so it is no released checkpoint")
    names = {str(n).removeprefix("module."): t for n, t in model.items()}
    for extra in ("geco_beta", "geco_C_ema"):
        if isinstance(content.get(extra), Tensor | float | int):
            names.setdefault(extra, torch.as_tensor(content[extra]))
    return names


def import_checkpoint(path: Path, out: Path, config: TrainConfig) -> None:
    """Turn a released checkpoint into a weights folder that must not exist yet.

    `config` is the run it was trained with; raises InputError where the parameters do not fit it.
    """
    if not isinstance(config.model, EfficientMORLConfig):
        raise InputError("the authors' checkpoints are of EfficientMORL: name one of its presets")
    model = build_model(as_released(config.model))
    assert isinstance(model, nn.Module)
    try:
        released = read_checkpoint(path)
        tensors = from_released_names(released)
    except KeyError as error:
        raise InputError(f"{path}: not a released EfficientMORL checkpoint, it lacks {error}") from None
    except RuntimeError as error:
        raise InputError(f"{path}: a parameter has the wrong shape ({first_line(error)})") from None
    known = {"geco_beta", "geco_C_ema", *to_released_names(tensors)}
    unknown = [name for name in released if name not in known and name.rsplit(".")[-1] not in GRU_BUFFERS]
    if unknown:
        raise InputError(f"{path}: has a parameter that EfficientMORL lacks, {unknown[0]}")
    tensors.setdefault("geco_zeta", torch.tensor(ZETA_MIN))
    load_tensors(model, {name: tensor.float() for name, tensor in tensors.items()}, str(path))
    size = config.image_size or open_data(config, config.data_split).size
    about = {
        "data": config.data,
        "data_split": config.data_split,
        "fit": config.fit,
        "protocol": config.protocol,
        "subset": config.subset,
        "image_size": None if size is None else list(size),
        "origin": f"released checkpoint {path.name}",
    }
    make_weights(out, model, about)
