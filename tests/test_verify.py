"""Reference files replayed: the shared ones, and ones of other configs made with the plain formulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emorl.errors import InputError
from emorl.geco import GecoConfig
from emorl.models.efficientmorl import EfficientMORL, EfficientMORLConfig, as_released
from emorl.released import from_released_names, to_released_names
from emorl.verify import reference_config, verify_reference
from tests.models import plain

Arrays = dict[str, np.ndarray]
SMALL = as_released(
    EfficientMORLConfig(
        num_slots=3,
        slot_dim=6,
        num_layers=3,
        refinement_steps=3,
        likelihood="gaussian",
        sigma=math.exp(-1.25),
        decoder="small",
    )
)
TARGET, EMA, ZETA = -250.0, -35.0, 1.25


def reference_arrays(config: EfficientMORLConfig, size: tuple[int, int] = (5, 7), seed: int = 0) -> Arrays:
    """A file in the layout of the shared ones, every value from the plain formulation."""
    model = EfficientMORL(config)
    plain.random_weights(model, seed)
    model = model.double()
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(seed)).double()
    noise = plain.of_image(plain.random_noise(config, 1, config.refinement_steps, seed), 0)
    w = dict(model.named_parameters())
    constraint = plain.Constraint(ZETA, EMA, TARGET) if config.geco else None
    run = plain.run(w, config, image, noise, config.refinement_steps, constraint=constraint)
    gradients = to_released_names(plain.gradients(run.total, w))

    def array(x: Tensor) -> np.ndarray:
        return x.detach().numpy()

    def stack(tensors: list[Tensor]) -> np.ndarray:
        shape = (0, config.num_slots, config.slot_dim)
        return array(torch.stack(tensors)) if tensors else np.zeros(shape)

    def halves(pairs: list[Any]) -> np.ndarray:
        return stack([torch.cat(pair, dim=-1) for pair in pairs])

    *before, last = run.steps
    after = run.steps[1:]
    arrays = {
        "config/K": config.num_slots,
        "config/z_size": config.slot_dim,
        "config/input_size": [3, *size],
        "config/stochastic_layers": config.num_layers,
        "config/log_scale": math.log(config.sigma),
        "config/image_likelihood": {"gaussian": "Gaussian", "mixture": "GMM"}[config.likelihood],
        "config/image_decoder": {"broadcast": "iodine", "small": "small", "deconv": "big"}[config.decoder],
        "config/bottom_up_prior": config.prior == "bottom-up",
        "config/reverse_prior_plusplus": config.prior == "reversed++",
        "config/use_DualGRU": config.gru == "dual",
        "image": array(image)[None],
        "eps_z0": array(noise["z0"][0]),
        "eps_layers": stack(noise["layers"]),
        "eps_prior": stack(noise["prior"]),
        "eps_refine": stack(noise["refine"]),
        "layer_mean": stack([mean for mean, _ in run.layers]),
        "layer_std": stack([plain.std(raw) for _, raw in run.layers]),
        "attn": stack([alpha[None, :, None] for alpha in run.attention]),
        "lambda_before_refine": halves([(step.mean, step.raw) for step in before]),
        "grad_lambda": halves([step.grad for step in after]),
        "delta_lambda": halves([step.delta for step in after]),
        "loss_before_refine": stack([step.loss for step in before]),
        "final_nll": array(last.nll),
        "final_kl": array(last.kl),
        "total_loss_official_weights": array(run.total),
        "geco_used": constraint is not None,
        "geco_target": TARGET,
        "geco_ema": EMA,
        "geco_beta": ZETA,
        "param/geco_C_ema": np.float32(EMA),
        "param/geco_beta": np.float32(ZETA),
    }
    for i, step in enumerate(run.steps):
        arrays[f"components_{i}"] = array(step.components)[None]
        arrays[f"log_masks_{i}"] = array(step.log_masks)[None]
    arrays |= {f"param/{n}": array(t).astype(np.float32) for n, t in to_released_names(w).items()}
    arrays |= {f"grad/{n}": array(t.norm()) for n, t in gradients.items()}
    return {name: np.asarray(value) for name, value in arrays.items()}


def write(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return reference_arrays(SMALL)


# ----------------------------------------------------------------------- what passes


@pytest.mark.parametrize("name", ["gaussian_small", "mixture_broadcast"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_shared_files_pass(shared: Path, name: str, dtype: torch.dtype) -> None:
    checks = verify_reference(shared / "reference" / f"{name}.npz", dtype)
    assert [check for check in checks if not check.passed] == []
    assert {check.file for check in checks} == {f"{name}.npz"}
    # 61 parameters with the small decoder, 63 with the broadcast one; 22 other quantities at I = 3.
    assert len({check.quantity for check in checks}) == len(checks) > 80


def test_the_shared_files_agree_with_the_plain_formulation(shared: Path) -> None:
    """So the plain formulation, which all other configs are held to, is itself the released model."""
    with np.load(shared / "reference" / "gaussian_small.npz") as file:
        recorded = {name: file[name] for name in file.files}
    config = reference_config(recorded)
    model = EfficientMORL(config).double()
    released = {n.removeprefix("param/"): torch.from_numpy(recorded[n]) for n in recorded if n.startswith("param/")}
    model.load_state_dict(from_released_names(released))
    noise = {name: list(torch.from_numpy(recorded[f"eps_{name}"])) for name in ("layers", "prior", "refine")}
    noise["z0"] = [torch.from_numpy(recorded["eps_z0"])]
    w = dict(model.named_parameters())
    run = plain.run(w, config, torch.from_numpy(recorded["image"][0]), noise, config.refinement_steps)
    assert float(run.total.detach()) == pytest.approx(float(recorded["total_loss_official_weights"]), rel=1e-9)
    assert run.steps[3].grad is not None
    grad = torch.cat(run.steps[3].grad, dim=-1)
    np.testing.assert_allclose(grad, recorded["grad_lambda"][2], atol=1e-9 * np.abs(recorded["grad_lambda"]).max())


CONFIGS: dict[str, tuple[EfficientMORLConfig, tuple[int, int]]] = {
    "reversed++": (SMALL, (5, 7)),
    "reversed": (replace(SMALL, prior="reversed", likelihood="mixture"), (7, 5)),
    "bottom-up": (replace(SMALL, prior="bottom-up"), (6, 9)),
    "one GRU": (replace(SMALL, gru="single", prior="bottom-up", likelihood="mixture"), (5, 5)),
    "broadcast": (replace(SMALL, decoder="broadcast", num_slots=5), (4, 6)),
    "deconv": (replace(SMALL, decoder="deconv", slot_dim=4), (16, 32)),
    "constrained": (replace(SMALL, geco=GecoConfig(TARGET / 105), num_slots=2), (5, 7)),
    "one layer": (replace(SMALL, num_layers=1, num_slots=4), (5, 7)),
    "no layers": (replace(SMALL, num_layers=0), (5, 7)),
    "no refinement": (replace(SMALL, refinement_steps=0), (5, 7)),
    "one slot": (replace(SMALL, num_slots=1, refinement_steps=1), (5, 7)),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_files_of_every_config_pass(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    config, size = CONFIGS[name]
    made = reference_arrays(config, size)
    read = reference_config(made)
    geco = read.geco and replace(read.geco, target_per_element=TARGET / (3 * size[0] * size[1]))
    assert replace(read, sigma=config.sigma, geco=geco) == config
    assert read.sigma == pytest.approx(config.sigma, rel=1e-15)
    checks = verify_reference(write(tmp_path / "made.npz", made), dtype)
    assert [check for check in checks if not check.passed] == []
    assert {c.quantity.removeprefix("grad/") for c in checks if c.quantity.startswith("grad/")} == {
        n.removeprefix("param/") for n in made if n.startswith("param/hvae") or n.startswith("param/refine")
    }


# ------------------------------------------------------------------------- what fails


def recorded_quantities() -> list[str]:
    names = ["layer_mean", "layer_std", "attn", "lambda_before_refine", "grad_lambda", "delta_lambda"]
    names += ["loss_before_refine", "final_nll", "final_kl", "total_loss_official_weights"]
    return names + [f"{kind}_{i}" for kind in ("components", "log_masks") for i in range(4)]


@pytest.mark.parametrize("name", recorded_quantities())
def test_every_recorded_quantity_is_compared(tmp_path: Path, arrays: Arrays, name: str) -> None:
    changed = arrays[name].copy()
    changed.flat[-1] += 1e-6 * np.abs(changed).max()
    failed = [c for c in verify_reference(write(tmp_path / "f.npz", arrays | {name: changed})) if not c.passed]
    assert {c.quantity.removesuffix("[0]") for c in failed} == {name.removesuffix("_official_weights")}
    assert all(1e-8 < c.error < 1e-5 for c in failed)


def test_every_gradient_is_compared(tmp_path: Path, arrays: Arrays) -> None:
    names = [name for name in arrays if name.startswith("grad/")]
    largest = math.sqrt(sum(float(arrays[name]) ** 2 for name in names))
    changed = arrays | {name: arrays[name] + 1e-6 * largest for name in names}
    failed = {c.quantity for c in verify_reference(write(tmp_path / "f.npz", changed)) if not c.passed}
    assert failed == set(names)


@pytest.mark.parametrize(
    "name",
    [
        "image",
        "eps_z0",
        "eps_layers",
        "eps_prior",
        "eps_refine",
        "param/hvae_networks.init_posterior",
        "param/hvae_networks.encoder_pt_1.2.weight",
        "param/hvae_networks.pos_embed_projection.weight",
        "param/hvae_networks.encoder_pt_2.3.bias",
        "param/hvae_networks.norm_slots.weight",
        "param/hvae_networks.to_k.weight",
        "param/hvae_networks.gru.cell.weight_hn_2",
        "param/hvae_networks.gru.cell.bias_ih",
        "param/hvae_networks.mlp_softplus.2.bias",
        "param/hvae_networks.image_decoder.decode.4.weight",
        "param/hvae_networks.image_decoder.pos_embed_projection.bias",
        "param/hvae_networks.indep_prior.z_softplus.weight",
        "param/refinenet.recurrence.weight_hh_l0",
        "param/refinenet.encoding.0.weight",
        "param/refinenet.loc.bias",
    ],
)
def test_a_changed_input_is_noticed(tmp_path: Path, arrays: Arrays, name: str) -> None:
    changed = arrays[name] * np.asarray(1.001, dtype=arrays[name].dtype)
    assert not all(c.passed for c in verify_reference(write(tmp_path / "f.npz", arrays | {name: changed})))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config/log_scale", -1.2),
        ("config/image_likelihood", "GMM"),
        ("config/bottom_up_prior", True),
        ("config/reverse_prior_plusplus", False),
        ("geco_used", True),
    ],
)
def test_a_changed_config_is_noticed(tmp_path: Path, arrays: Arrays, name: str, value: Any) -> None:
    changed = write(tmp_path / "f.npz", arrays | {name: np.asarray(value)})
    assert not all(c.passed for c in verify_reference(changed))


@pytest.mark.parametrize("name", ["geco_target", "geco_ema", "geco_beta"])
def test_a_changed_constraint_is_noticed_where_it_is_in_force(tmp_path: Path, name: str) -> None:
    made = reference_arrays(replace(SMALL, geco=GecoConfig(TARGET / 105)))
    changed = verify_reference(write(tmp_path / "f.npz", made | {name: made[name] * 1.01}))
    # The target shifts the value alone and the average holds that: nothing depends on it within a step.
    assert all(c.passed for c in changed) == (name == "geco_target")


def test_not_a_number_does_not_pass(tmp_path: Path, arrays: Arrays) -> None:
    for name in ("layer_mean", "final_nll", "grad/refinenet.loc.bias"):
        changed = write(tmp_path / "f.npz", arrays | {name: arrays[name] * np.nan})
        assert not all(c.passed for c in verify_reference(changed))


# --------------------------------------------------------------------------- bad files


def refusal(path: Path) -> str:
    """The message with which a file is refused: one line that names it."""
    with pytest.raises(InputError) as caught:
        verify_reference(path)
    message = str(caught.value)
    assert path.name in message
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    "name",
    [
        "config/K",
        "image",
        "eps_prior",
        "layer_std",
        "param/refinenet.loc.bias",
        "total_loss_official_weights",
    ],
)
def test_a_file_without_one_of_its_arrays_is_refused(tmp_path: Path, arrays: Arrays, name: str) -> None:
    path = write(tmp_path / "f.npz", {n: a for n, a in arrays.items() if n != name})
    assert "lacks" in refusal(path) or "do not fit" in refusal(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config/K", lambda a: a + 1),
        ("config/K", lambda a: np.zeros(2)),
        ("config/z_size", lambda a: a + 1),
        ("config/stochastic_layers", lambda a: a + 1),
        ("config/stochastic_layers", lambda a: np.asarray("three")),
        ("config/image_decoder", lambda a: np.asarray("other")),
        ("config/image_likelihood", lambda a: np.asarray("other")),
        ("config/image_decoder", lambda a: np.asarray("big")),
        ("config/use_DualGRU", lambda a: np.asarray(False)),
        ("image", lambda a: a[0]),
        ("image", lambda a: np.concatenate([a, a])),
        ("image", lambda a: a.astype("U8")),
        ("eps_layers", lambda a: a[:2]),
        ("eps_z0", lambda a: a[:2]),
        ("eps_refine", lambda a: a[:, :2]),
        ("eps_refine", lambda a: np.asarray(1.0)),
        ("param/refinenet.loc.bias", lambda a: a[:2]),
        ("param/hvae_networks.init_posterior", lambda a: a[:, :3]),
        ("param/hvae_networks.gru.cell.bias_in", lambda a: a[:3]),
        ("layer_mean", lambda a: a[:2]),
        ("lambda_before_refine", lambda a: a[:0]),
        ("final_nll", lambda a: a[None]),
        ("grad/refinenet.loc.bias", lambda a: np.zeros(2)),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    tmp_path: Path, arrays: Arrays, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    refusal(write(tmp_path / "f.npz", arrays | {name: change(arrays[name])}))


def test_other_files_are_refused(tmp_path: Path, arrays: Arrays) -> None:
    assert "no such file" in refusal(tmp_path / "missing.npz")
    refusal(tmp_path)
    for data in (b"", b"hello", b"PK\x03\x04", b"\x93NUMPY", bytes(100)):
        (tmp_path / "f.npz").write_bytes(data)
        refusal(tmp_path / "f.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    refusal(tmp_path / "array.npy")
    refusal(write(tmp_path / "f.npz", {"image": np.zeros((1, 3, 4, 4))}))
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "f.npz", **arrays | {"image": objects})  # type: ignore[arg-type]
    refusal(tmp_path / "f.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_refused(tmp_path: Path, save: Callable[..., None]) -> None:
    """Cut anywhere, or one byte wrong anywhere: one line, never another error."""
    path = tmp_path / "f.npz"
    save(path, **{f"config/{i}": np.arange(20.0 + i) for i in range(3)})
    data = path.read_bytes()
    assert "lacks" in refusal(path)
    for length in range(0, len(data), 17):
        path.write_bytes(data[:length])
        refusal(path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        wrong = bytearray(data)
        wrong[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(wrong)
        refusal(path)
