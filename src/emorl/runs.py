"""Run folders and weights folders: what is on disk, written so that a kill at any moment loses nothing.

    run/config.json            the TrainConfig
    run/versions.json          what it ran with
    run/metrics.jsonl          a line per logged step, no clock times
    run/timing.jsonl           seconds per step
    run/tensorboard/           the same for the eye, with pictures
    run/checkpoint/000500/     a weights folder, plus training.pt (optimizer and training state)

    weights/config.json        the model's config and where the weights come from
    weights/weights.safetensors

A checkpoint is written under a temporary name and renamed when it is whole; the newest number counts. The one before
it stays, for when the newest weights turn out to be bad.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from emorl.config import TrainConfig, from_json, model_from_json, model_to_json, to_json
from emorl.errors import InputError, first_line
from emorl.files import held, new_folder, sync_folder, write_whole
from emorl.models import ModelConfig, build_model
from emorl.models.base import Model
from emorl.precision import Precision, place
from emorl.version import __version__

SHIPPED = Path(__file__).parent / "weights"
"""Weights that come with the package, one folder per MODEL/DATA."""


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises InputError where it is missing or no JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from None


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become None."""
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all, replacing an older one."""
    with write_whole(path, overwrite=True) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


# -------------------------------------------------------------------- weights folders


def save_weights(folder: Path, model: Model, about: dict[str, Any]) -> None:
    """Write a weights folder into an existing, empty folder. `about` says where the weights come from."""
    assert isinstance(model, nn.Module)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        (folder / "weights.safetensors").write_bytes(save(tensors))  # save_file lets nobody but the owner read it
    except OSError as error:
        raise InputError(f"cannot write {folder / 'weights.safetensors'}: {error.strerror or error}") from None
    content = {"model": model_to_json(model.config), "about": about, "emorl": __version__}
    write_json(folder / "config.json", content)


def make_weights(folder: Path, model: Model, about: dict[str, Any]) -> None:
    """Write a new weights folder, whole or not at all; raises InputError where it exists."""
    with new_folder(folder) as temporary:
        save_weights(temporary, model, about)


def load_weights(
    folder: Path, device: torch.device | str = "cpu", precision: Precision = "float32"
) -> tuple[Model, dict[str, Any]]:
    """The model of a weights folder, ready for inference, and the folder's `about`.

    Whatever a model was trained in, float32 is the default here: scores shall depend on the machine as little as can
    be (on a GPU convolutions may use TF32: `torch.backends.cudnn.allow_tf32`).

    Raises InputError where a file is missing or damaged, or tensors do not fit the config.
    """
    content = read_json(folder / "config.json")
    about = content.get("about") if isinstance(content, dict) else None
    if not isinstance(about, dict) or not _is_sound(about):
        raise InputError(f"{folder / 'config.json'}: not the config of a weights folder")
    config: ModelConfig = model_from_json(content.get("model"), str(folder / "config.json"))
    with torch.inference_mode(False):  # refinement differentiates, and cannot through tensors made in that mode
        try:
            model = build_model(config)
        except RuntimeError as error:
            raise InputError(f"{folder}: no model of this config can be built ({first_line(error)})") from None
        assert isinstance(model, nn.Module)
        load_tensors(model, read_tensors(folder / "weights.safetensors"), str(folder))
        place(model, torch.device(device), precision)
        return model.eval().requires_grad_(False), about


def _is_sound(about: dict[str, Any]) -> bool:
    """Whether what weights say of their data has the types that it should have."""
    size = about.get("image_size")
    sized = size is None or (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) for n in size))
    named = all(isinstance(about.get(name), str | None) for name in ("protocol", "subset", "fit"))
    return sized and named and isinstance(about.get("data"), str)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises InputError where it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Fill a model; raises InputError that names the first tensor that is missing, unknown or misshapen."""
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{where}: the weights lack {name}")
        if name not in wanted:
            raise InputError(f"{where}: the model has no {name}")
        if wanted[name].shape != tensors[name].shape:
            ours, theirs = tuple(wanted[name].shape), tuple(tensors[name].shape)
            raise InputError(f"{where}: {name} has shape {theirs}, the config asks for {ours}")
    model.load_state_dict(tensors)


def find_weights(name: str) -> Path:
    """The weights folder behind a shipped name, a run folder or a weights folder; raises InputError."""
    folder = Path(name)
    if (folder / "weights.safetensors").is_file():
        return folder
    if (folder / "checkpoint").is_dir():
        newest = newest_checkpoint(folder)
        if newest is None:
            raise InputError(f"{folder}: this run has no checkpoint yet")
        return newest
    shipped = SHIPPED / (name if "/" in name else f"efficientmorl/{name}")
    if (shipped / "weights.safetensors").is_file():
        return shipped
    if folder.is_dir():
        raise InputError(f"{folder}: neither a run folder nor a weights folder")
    known = ", ".join(shipped_names())
    raise InputError(f"no weights called {name}: give a run folder, a weights folder or a shipped name ({known})")


def shipped_names() -> list[str]:
    """MODEL/DATA names of all weights that come with the package."""
    return sorted(p.parent.relative_to(SHIPPED).as_posix() for p in SHIPPED.glob("*/*/weights.safetensors"))


# -------------------------------------------------------------------- run folders


@dataclass(frozen=True)
class Checkpoint:
    """What a run continues from."""

    step: int
    weights: dict[str, Tensor]
    training: dict[str, Any]
    """Optimizer and training state."""


@contextmanager
def open_run(folder: Path, config: TrainConfig | None) -> Iterator[TrainConfig]:
    """Hold a run folder for writing, and give its config.

    With a config the folder must be new or empty; None continues an existing run. Raises InputError where another
    process holds it, it has another run in it, or it cannot be written.
    """
    fresh = config is not None
    if not fresh and (folder / "weights.safetensors").is_file():
        raise InputError(
            f"{folder}: weights, not a run: resume the run that they lie in, or begin one with --start-from"
        )
    if not fresh and not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no run to resume (it has no config.json)")
    with held(folder, ".lock", f"{folder}: another process is writing this run"):
        if config is not None:
            if (folder / "config.json").exists():
                raise InputError(f"{folder}: holds a run already; continue it with --resume or name another folder")
            if any(entry.name != "versions.json" and entry.name[0] != "." for entry in folder.iterdir()):
                raise InputError(f"{folder}: is not empty; name another folder")
            write_json(folder / "versions.json", versions())
            write_json(folder / "config.json", to_json(config))
        else:
            config = from_json(read_json(folder / "config.json"), str(folder / "config.json"))
        try:
            yield config
        except BaseException:
            if fresh and not _has_begun(folder):  # nothing is lost, and the mended command finds it free
                for name in ("config.json", "versions.json", "metrics.jsonl", "timing.jsonl"):
                    (folder / name).unlink(missing_ok=True)
                for name in ("checkpoint", "tensorboard"):
                    shutil.rmtree(folder / name, ignore_errors=True)
            raise


def _has_begun(folder: Path) -> bool:
    """Whether a run has logged a step, or has a checkpoint of one."""
    newest = newest_checkpoint(folder)
    return (newest is not None and int(newest.name) > 0) or any(log_rows(folder / "metrics.jsonl"))


def versions() -> dict[str, Any]:
    """What a run's numbers depend on beside its config."""
    return {
        "emorl": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _checkpoints(run: Path) -> list[Path]:
    folder = run / "checkpoint"
    found = [p for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name))


def newest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, a weights folder."""
    return next(reversed(_checkpoints(run)), None)


def save_checkpoint(
    run: Path, step: int, model: Model, training: dict[str, Any], about: dict[str, Any], *, prune: bool = True
) -> None:
    """Write the checkpoint of a step. The one before stays; with `prune` older ones go.

    Raises InputError where the disk refuses.
    """
    parent = run / "checkpoint"
    final, temporary = parent / f"{step:06d}", parent / f"{step:06d}.tmp"
    try:
        parent.mkdir(exist_ok=True)
        for leftover in parent.glob("*.tmp"):
            shutil.rmtree(leftover)
        temporary.mkdir()
        save_weights(temporary, model, about)
        torch.save(training, temporary / "training.pt")
        for file in temporary.iterdir():
            with file.open("rb+") as opened:  # Windows syncs no file that is open for reading alone
                os.fsync(opened.fileno())
        sync_folder(temporary)
        if final.exists():
            return
        temporary.rename(final)
        sync_folder(parent)
        for older in _checkpoints(run)[:-2] if prune else ():
            shutil.rmtree(older, ignore_errors=True)  # one that is being read stays until the next time
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"cannot write the checkpoint of step {step} to {run}: {reason}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def drop_checkpoints_from(run: Path, step: int) -> None:
    """Remove checkpoints of `step` and later, whose weights turned out to be bad."""
    for folder in reversed(_checkpoints(run)):
        if int(folder.name) >= step:
            gone = folder.with_name(f"{folder.name}.tmp")  # cleaned later, should this be cut short
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone)


def load_checkpoint(run: Path) -> Checkpoint | None:
    """The newest checkpoint, or None before the first; raises InputError where it is damaged."""
    folder = newest_checkpoint(run)
    if folder is None:
        return None
    try:
        training = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # the reader of a damaged file fails in more ways than it documents
        reason = first_line(error)
        raise InputError(f"{folder / 'training.pt'}: damaged ({reason})") from None
    return Checkpoint(int(folder.name), read_tensors(folder / "weights.safetensors"), training)


def cut_log(path: Path, step: int) -> None:
    """Drop the lines of a log that come after `step` steps, and a torn last line.

    The line of a training step is written once it is taken, so it counts one more than its number; a line with
    validation scores says how many were taken.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
            if row["step"] + ("validation" not in row) > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        kept.append(line)
    with write_whole(path, overwrite=True) as file:
        file.writelines(kept)


def training_minutes(folder: Path) -> float:
    """Minutes of training, from timing.jsonl: every line speaks for the steps since the one before."""
    seconds, before = 0.0, 0
    for row in log_rows(folder / "timing.jsonl"):
        seconds += row["seconds_per_step"] * (row["step"] - before)
        before = row["step"]
    return seconds / 60


def log_rows(path: Path, last_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a log, or those within its last bytes; without torn ones."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(0 if last_bytes is None else max(0, path.stat().st_size - last_bytes))
        for line in file.read().splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and "step" in row:
                    yield row
