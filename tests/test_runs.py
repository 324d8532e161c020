"""Run folders and weights folders: what is written comes back, and what is damaged is refused in one line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import emorl
from emorl import runs
from emorl.config import to_json
from emorl.errors import InputError
from emorl.models.efficientmorl import EfficientMORL
from emorl.runs import (
    cut_log,
    drop_checkpoints_from,
    find_weights,
    load_checkpoint,
    load_weights,
    make_weights,
    newest_checkpoint,
    open_run,
    read_json,
    save_checkpoint,
    save_weights,
    shipped_names,
    versions,
    write_json,
)
from tests import tiny

ABOUT = {"data": "tetrominoes", "image_size": [35, 35], "seed": 0}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    make_weights(folder, tiny.build(tiny.GECO_RUN.model), ABOUT)
    return folder


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# ----------------------------------------------------------------------- weights folders


def test_weights_come_back(weights: Path) -> None:
    model = tiny.build(tiny.GECO_RUN.model)
    loaded, about = load_weights(weights)
    assert isinstance(loaded, EfficientMORL)
    assert loaded.config == model.config and about == ABOUT
    assert list(loaded.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    images = torch.rand(2, 3, 15, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.infer(images, noise=3).masks, model.infer(images, noise=3).masks)


def test_what_training_remembers_comes_back(tmp_path: Path) -> None:
    model = tiny.build(tiny.GECO_RUN.model)
    state = model.initial_state()
    assert state.geco is not None
    model.remember(replace(state, geco=replace(state.geco, zeta=torch.tensor(1.75))))
    make_weights(tmp_path / "weights", model, ABOUT)
    loaded, _ = load_weights(tmp_path / "weights")
    assert isinstance(loaded, EfficientMORL) and float(loaded.geco_zeta) == 1.75


def test_a_weights_folder_says_what_it_is(weights: Path) -> None:
    content = read_json(weights / "config.json")
    assert content["emorl"] == emorl.__version__
    assert content["about"] == ABOUT and content["model"]["name"] == "efficientmorl"
    assert {path.name for path in weights.iterdir()} == {"config.json", "weights.safetensors"}


def change(weights: Path, how: Callable[[dict[str, Tensor]], object]) -> None:
    file = weights / "weights.safetensors"
    tensors = load_file(file)
    how(tensors)
    save_file(tensors, file)


def test_weights_can_be_read_by_whoever_can_read_other_files(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    usual = (tmp_path / "other").stat().st_mode
    assert {file.stat().st_mode for file in weights.iterdir()} == {usual}


@pytest.mark.parametrize("name", ["attention.query.weight", "gru.weight_hh", "geco_zeta"])
def test_a_missing_tensor_is_named(weights: Path, name: str) -> None:
    change(weights, lambda tensors: tensors.pop(name))
    assert refusal(lambda: load_weights(weights)) == f"{weights}: the weights lack {name}"


@pytest.mark.parametrize("name", ["attention.query.bias", "a", "zz"])
def test_an_extra_tensor_is_named(weights: Path, name: str) -> None:
    change(weights, lambda tensors: tensors.update({name: torch.zeros(2)}))
    assert refusal(lambda: load_weights(weights)) == f"{weights}: the model has no {name}"


@pytest.mark.parametrize("shape", [(8,), (1, 8, 8), (8, 9), (64,), ()])
def test_a_wrong_shape_is_named(weights: Path, shape: tuple[int, ...]) -> None:
    name = "attention.query.weight"
    change(weights, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    message = refusal(lambda: load_weights(weights))
    assert message.startswith(f"{weights}: {name} has shape {shape}, the config asks for (8, 8)")


def test_another_config_is_noticed(weights: Path) -> None:
    content = read_json(weights / "config.json")
    content["model"]["slot_dim"] = 16
    write_json(weights / "config.json", content)
    assert "has shape" in refusal(lambda: load_weights(weights))


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_named(weights: Path, part: float) -> None:
    file = weights / "weights.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(part * len(data))])
    assert refusal(lambda: load_weights(weights)).startswith(f"{file}: not a readable safetensors file")


def test_a_head_that_claims_too_much_is_refused(weights: Path) -> None:
    file = weights / "weights.safetensors"
    file.write_bytes((2**62).to_bytes(8, "little") + file.read_bytes()[8:])
    assert str(file) in refusal(lambda: load_weights(weights))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"{'a': 1}", b'{"model": {}}}'])
def test_bad_json_is_named(weights: Path, data: bytes) -> None:
    file = weights / "config.json"
    file.write_bytes(data)
    assert refusal(lambda: load_weights(weights)).startswith(f"{file}: not a readable JSON file")


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        3,
        {},
        {"model": {}},
        {"about": []},
        {"about": {**ABOUT, "protocol": 3}},
        {"about": {**ABOUT, "subset": []}},
    ],
)
def test_json_of_something_else_is_named(weights: Path, content: object) -> None:
    write_json(weights / "config.json", content)
    assert str(weights / "config.json") in refusal(lambda: load_weights(weights))


def test_an_unknown_model_or_key_is_named(weights: Path) -> None:
    content = read_json(weights / "config.json")
    write_json(weights / "config.json", {**content, "model": {**content["model"], "name": "of ours"}})
    assert "no known model" in refusal(lambda: load_weights(weights))
    write_json(weights / "config.json", {**content, "model": {**content["model"], "slots": 3}})
    assert '"slots"' in refusal(lambda: load_weights(weights))


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_missing_file_is_named(weights: Path, name: str) -> None:
    (weights / name).unlink()
    assert refusal(lambda: load_weights(weights)) == f"{weights / name}: no such file"


def test_new_weights_never_replace_others(weights: Path) -> None:
    before = (weights / "weights.safetensors").read_bytes()
    assert "exists already" in refusal(lambda: make_weights(weights, tiny.build(seed=1), ABOUT))
    assert (weights / "weights.safetensors").read_bytes() == before


def test_weights_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").touch()
    assert "cannot write" in refusal(lambda: make_weights(tmp_path / "file" / "weights", tiny.build(), ABOUT))
    monkeypatch.setattr(runs, "save", refuse)
    message = refusal(lambda: make_weights(tmp_path / "weights", tiny.build(), ABOUT))
    assert os.strerror(errno.ENOSPC) in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ----------------------------------------------------------------------- finding weights


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (500, 1000):
        save_checkpoint(folder, step, tiny.build(seed=step), {"step": step}, {**ABOUT, "steps": step})
    return folder


def test_a_weights_folder_and_a_run_folder_are_found(weights: Path, run: Path) -> None:
    assert find_weights(str(weights)) == weights
    assert find_weights(str(run)) == run / "checkpoint" / "001000"
    assert load_weights(find_weights(str(run)))[1]["steps"] == 1000


def test_shipped_names_are_found_with_and_without_the_model(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped = tmp_path / "shipped"
    (shipped / "efficientmorl").mkdir(parents=True)
    (shipped / "slot-attention").mkdir()
    weights.rename(shipped / "efficientmorl" / "nano")
    make_weights(shipped / "slot-attention" / "clevr6", tiny.build(), ABOUT)
    monkeypatch.setattr(runs, "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    assert shipped_names() == ["efficientmorl/nano", "slot-attention/clevr6"]
    assert find_weights("nano") == find_weights("efficientmorl/nano") == shipped / "efficientmorl" / "nano"
    assert find_weights("slot-attention/clevr6") == shipped / "slot-attention" / "clevr6"
    message = refusal(lambda: find_weights("clevr6"))
    assert "clevr6" in message and "efficientmorl/nano, slot-attention/clevr6" in message


@pytest.mark.parametrize("name", shipped_names())
def test_all_shipped_weights_load(name: str) -> None:
    model, about = load_weights(find_weights(name))
    assert {"data", "image_size"} <= about.keys()
    height, width = about["image_size"]
    masks = model.infer(torch.zeros(1, 3, height, width)).masks
    assert torch.isfinite(masks).all()


def test_what_holds_no_weights_is_refused(tmp_path: Path, run: Path) -> None:
    assert "neither a run folder nor a weights folder" in refusal(lambda: find_weights(str(tmp_path)))
    empty = tmp_path / "empty"
    (empty / "checkpoint").mkdir(parents=True)
    assert "no checkpoint yet" in refusal(lambda: find_weights(str(empty)))
    for name in ("nonsense", "efficientmorl/nonsense", "no/such/folder", str(run / "checkpoint" / "x"), "../.."):
        refusal(lambda name=name: find_weights(name))  # type: ignore[misc]


# ----------------------------------------------------------------------- checkpoints


def training(step: int) -> dict[str, Any]:
    return {"optimizer": {"moments": torch.full((3,), float(step))}, "state": {"step": step, "geco": None}}


def test_a_checkpoint_comes_back_and_the_last_two_stay(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None and newest_checkpoint(tmp_path) is None
    for step in (3, 6, 1_000_000):
        model = tiny.build(seed=step)
        save_checkpoint(tmp_path, step, model, training(step), ABOUT)
        found = load_checkpoint(tmp_path)
        assert found is not None and found.step == step
        assert torch.equal(found.training["optimizer"]["moments"], training(step)["optimizer"]["moments"])
        assert found.training["state"] == training(step)["state"]
        for name, tensor in model.state_dict().items():
            assert torch.equal(found.weights[name], tensor), name
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} == {"000006", "1000000"}
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint" / "1000000"
    drop_checkpoints_from(tmp_path, 7)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint" / "000006"


def test_half_a_checkpoint_is_ignored_and_cleaned(run: Path) -> None:
    half = run / "checkpoint" / "001500.tmp"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    assert newest_checkpoint(run) == find_weights(str(run)) == run / "checkpoint" / "001000"
    found = load_checkpoint(run)
    assert found is not None and found.step == 1000
    save_checkpoint(run, 2000, tiny.build(), training(2000), ABOUT)
    assert sorted(path.name for path in (run / "checkpoint").iterdir()) == ["001000", "002000"]


@pytest.mark.parametrize("what", ["weights", "torch.save", "fsync", "rename"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    run: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        owner, name = {
            "weights": (runs, "save"),
            "torch.save": (torch, "save"),
            "fsync": (os, "fsync"),
            "rename": (Path, "rename"),
        }[what]
        patch.setattr(owner, name, refuse)
        message = refusal(lambda: save_checkpoint(run, 1500, tiny.build(), training(1500), ABOUT))
    assert os.strerror(errno.ENOSPC) in message
    assert sorted(path.name for path in (run / "checkpoint").iterdir()) == ["000500", "001000"]
    found = load_checkpoint(run)
    assert found is not None and found.step == 1000


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_training_state_is_named(run: Path, part: float) -> None:
    file = run / "checkpoint" / "001000" / "training.pt"
    data = file.read_bytes()
    file.write_bytes(data[: int(part * len(data))])
    assert refusal(lambda: load_checkpoint(run)).startswith(f"{file}: damaged")


def test_a_missing_training_state_is_named(run: Path) -> None:
    file = run / "checkpoint" / "001000" / "training.pt"
    file.unlink()
    assert str(file) in refusal(lambda: load_checkpoint(run))


class Hostile:
    """Makes a folder when a careless reader unpickles it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_training_state_is_refused_and_nothing_runs(run: Path, tmp_path: Path, zipped: bool) -> None:
    file, trace = run / "checkpoint" / "001000" / "training.pt", tmp_path / "it-ran"
    content = {**training(1000), "extra": Hostile(trace)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    assert str(file) in refusal(lambda: load_checkpoint(run))
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # so a careless reader would have run it


# ----------------------------------------------------------------------- run folders


def test_a_run_folder_keeps_its_config(tmp_path: Path) -> None:
    with open_run(tmp_path / "deep" / "run", tiny.GECO_RUN) as config:
        assert config == tiny.GECO_RUN
    assert read_json(tmp_path / "deep" / "run" / "config.json") == json.loads(json.dumps(to_json(tiny.GECO_RUN)))
    assert read_json(tmp_path / "deep" / "run" / "versions.json") == versions()
    with open_run(tmp_path / "deep" / "run", None) as config:
        assert config == tiny.GECO_RUN


def test_versions_say_what_the_numbers_depend_on() -> None:
    assert {"emorl", "python", "torch", "numpy", "threads", "processor"} <= versions().keys()
    assert versions()["emorl"] == emorl.__version__


def test_a_run_is_not_begun_twice_in_a_folder(tmp_path: Path) -> None:
    with open_run(tmp_path, tiny.RUN):
        pass
    message = refusal(lambda: open_run(tmp_path, tiny.GECO_RUN).__enter__())
    assert "--resume" in message
    with open_run(tmp_path, None) as config:
        assert config == tiny.RUN


def test_a_begin_that_was_refused_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such data"), open_run(tmp_path, tiny.RUN):
        raise InputError("no such data")
    with open_run(tmp_path, tiny.GECO_RUN) as config:
        assert config == tiny.GECO_RUN
        save_checkpoint(tmp_path, 3, tiny.build(), training(3), ABOUT)
    with pytest.raises(InputError), open_run(tmp_path, None):
        raise InputError("the disk is full")
    with open_run(tmp_path, None) as config:
        assert config == tiny.GECO_RUN


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path, tiny.RUN):
        for config in (None, tiny.RUN):
            message = refusal(lambda config=config: open_run(tmp_path, config).__enter__())  # type: ignore[misc]
            assert "another process" in message
    with open_run(tmp_path, None):
        pass


def test_where_no_run_is_or_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert "no run to resume" in refusal(lambda: open_run(tmp_path / "missing", None).__enter__())
    assert "cannot write" in refusal(lambda: open_run(tmp_path / "file", tiny.RUN).__enter__())
    assert "cannot write" in refusal(lambda: open_run(tmp_path / "file" / "run", tiny.RUN).__enter__())
    assert "config.json" in refusal(lambda: open_run(tmp_path / "broken", None).__enter__())
    assert not (tmp_path / "missing").exists()


# ----------------------------------------------------------------------- logs


LOG = b'{"step": 0}\n{"step": 1}\n{"step": 2, "validation": {}}\n{"step": 2}\n{"step": 3}\n'


@pytest.mark.parametrize(("step", "lines"), [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5), (9, 5)])
def test_a_log_is_cut_behind_the_steps_taken(tmp_path: Path, step: int, lines: int) -> None:
    """The scores after two steps belong to a checkpoint of two steps; the line of step 2 is of the third one."""
    (tmp_path / "log").write_bytes(LOG)
    cut_log(tmp_path / "log", step)
    assert (tmp_path / "log").read_bytes() == b"".join(LOG.splitlines(keepends=True)[:lines])


@pytest.mark.parametrize("torn", [b'{"st', b'{"step": 4}', b"\x00\x00\n", b"[]\n", b"{}\n", b"\xff\n"])
def test_a_torn_end_is_dropped(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "log").write_bytes(LOG + torn)
    cut_log(tmp_path / "log", 100)
    assert (tmp_path / "log").read_bytes() == LOG


def test_a_log_that_is_not_there_stays_away(tmp_path: Path) -> None:
    cut_log(tmp_path / "log", 3)
    assert not list(tmp_path.iterdir())


def test_saving_weights_into_a_missing_folder_is_told(tmp_path: Path) -> None:
    assert "cannot write" in refusal(lambda: save_weights(tmp_path / "missing", tiny.build(), ABOUT))


def test_an_old_checkpoint_that_cannot_be_removed_stops_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that another process still reads, on some disks."""

    def rmdir(path: Any, **_: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(os, "rmdir", rmdir)
    save_checkpoint(run, 1500, tiny.build(seed=9), {"step": 1500}, {**ABOUT, "steps": 1500})
    monkeypatch.undo()
    newest = newest_checkpoint(run)
    assert newest is not None and newest.name == "001500"
