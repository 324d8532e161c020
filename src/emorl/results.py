"""What is known of a run, kept in its folder so that nothing is evaluated twice.

    run/results.json       scores of its test scenes with the weights' own options, what its codes are worth, its origin
    run/evaluations.json   everything else that was asked for, by name

Both belong to the checkpoint whose step they name, and to this version: a run that went on is evaluated anew. A folder
without checkpoints stands for what these files say, so results can be kept where weights are not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from emorl.errors import InputError
from emorl.evaluation import BATCH_SIZE, DEFINITIONS, evaluate
from emorl.feed import Feed, feed
from emorl.models.base import InferOptions, Model
from emorl.precision import Precision, pick_device
from emorl.representation import describe
from emorl.runs import find_weights, load_weights, newest_checkpoint, read_json, training_minutes, write_json
from emorl.version import __version__

Advance = Callable[[int], None]


def evaluate_feed(
    model: Model,
    fed: Feed,
    *,
    options: InferOptions = InferOptions(),
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    precision: Precision = "float32",
    progress: Advance = lambda images: None,
) -> dict[str, Any]:
    """`evaluate` of images as they were opened for weights, with everything that tells how they were."""
    row = evaluate(
        model, fed.source, truth=fed.truth, options=options, seed=seed, batch_size=batch_size, progress=progress
    )
    row["options"] |= {"precision": precision, "split": fed.split, "fit": fed.fit}
    row["options"] |= {"protocol": fed.protocol, "subset": fed.subset}
    return row


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, rather than one of weights."""
    return (folder / "checkpoint").is_dir()


def keep_results(run: Path, checkpoint: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Write results.json, beside what it already says of the same checkpoint; returns what it says then.

    Nothing is written if the run has a newer checkpoint by now.
    """
    newest = checkpoint == newest_checkpoint(run)
    content = (_current(run, "results.json") if newest else {}) | row | _origin(run, checkpoint)
    if newest:
        write_json(run / "results.json", content)
    return content


def known_results(run: Path) -> dict[str, Any]:
    """What results.json says of the newest checkpoint, or nothing; raises InputError where it cannot be read."""
    return _current(run, "results.json")


def hardware(run: Path) -> str:
    """What a run was trained on, as versions.json has it."""
    about = read_json(run / "versions.json")
    try:
        return str(about["cuda"] or f"CPU ({about['processor']}), threads: {about['threads']}")
    except (KeyError, TypeError):
        raise InputError(f"{run / 'versions.json'}: does not say what the run was trained on") from None


def _origin(run: Path, checkpoint: Path) -> dict[str, Any]:
    return {
        "step": int(checkpoint.name),
        "minutes": training_minutes(run),
        "hardware": hardware(run),
        "trained_by": read_json(run / "versions.json").get("emorl"),
    }


def _current(run: Path, name: str) -> dict[str, Any]:
    """The content of a file of results, if it is of the newest checkpoint and of this version; else nothing."""
    if not (run / name).exists():
        return {}
    content = read_json(run / name)
    if not _is_sound(content) or not all(map(_are_scores, content.get("rows", {}).values())):
        raise InputError(f"{run / name}: not a file of results; remove it, and it is made anew")
    checkpoint = newest_checkpoint(run)
    fits = checkpoint is None or (content["step"] == int(checkpoint.name) and content.get("version") == __version__)
    return content if fits else {}


def _is_sound(content: Any) -> bool:
    """Whether a file of results tells where it comes from, and has scores."""
    kinds: dict[str, Any] = {"step": int, "minutes": int | float, "hardware": str, "version": str}
    there = isinstance(content, dict) and all(isinstance(content.get(name), kind) for name, kind in kinds.items())
    return there and _are_scores(content) and isinstance(content.get("rows", {}), dict)


def _are_scores(row: Any) -> bool:
    """Whether every score of a row has a mean."""
    if not isinstance(row, dict):
        return False
    scores = [part for name in DEFINITIONS.keys() & row.keys() for part in _parts(row[name])]
    return all(isinstance(part, dict) and isinstance(part.get("mean"), int | float) for part in scores)


def _parts(score: Any) -> list[Any]:
    """The scores of the layers, where there are some."""
    return score if isinstance(score, list) else [score]


class Known:
    """What is known of a run; its weights are loaded when something is asked that is not known yet.

    Args:
        folder: of the run.
        device: where the weights are evaluated.
        advance: told of every image that was evaluated.
    """

    def __init__(self, folder: Path, device: str = "auto", advance: Advance = lambda images: None) -> None:
        self.folder, self.device, self.advance = folder, device, advance

    @cached_property
    def checkpoint(self) -> Path:
        """The newest when it was first asked for; raises InputError where the folder has none."""
        return find_weights(str(self.folder))

    @cached_property
    def weights(self) -> tuple[Model, dict[str, Any]]:
        """The model of that checkpoint and what is said of it."""
        return load_weights(self.checkpoint, pick_device(self.device))

    def feed(self, data: str | None = None, subset: str | None = None) -> Feed:
        """Test images of the run's own data, or of other data brought to their size."""
        return feed(self.weights[1], data, subset=subset)

    def results(self, codes: bool = False) -> dict[str, Any]:
        """The scores of the test scenes; with `codes` also what codes are worth (`representation.describe`)."""
        found = self._known("results.json")
        if "foreground_ari" not in found and "mse" not in found:
            row = evaluate_feed(self.weights[0], self.feed(), progress=self.advance)
            found = keep_results(self.folder, self.checkpoint, {"weights": self.folder.name, **row})
        if codes and "codes" not in found:
            told = {"codes": describe(self.weights[0], self.feed().source, progress=self.advance)}
            found = keep_results(self.folder, self.checkpoint, found | told)
        return found

    def evaluation(self, options: InferOptions, data: str | None = None, subset: str | None = None) -> dict[str, Any]:
        """The scores with another I or K, on other data."""
        asked = {"K": options.num_slots, "I": options.refinement_steps, "data": data, "subset": subset}
        name = ", ".join(f"{key} = {value}" for key, value in asked.items() if value is not None)
        return self.kept(
            name,
            lambda: evaluate_feed(self.weights[0], self.feed(data, subset), options=options, progress=self.advance),
        )

    def kept(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What evaluations.json has under a name; computed and written there the first time."""
        rows: dict[str, dict[str, Any]] = self._known("evaluations.json").get("rows", {})
        if name not in rows:
            rows[name] = compute()
            if self.checkpoint == newest_checkpoint(self.folder):
                origin = _origin(self.folder, self.checkpoint) | {"version": __version__}
                write_json(self.folder / "evaluations.json", origin | {"rows": rows})
        return rows[name]

    def _known(self, name: str) -> dict[str, Any]:
        """What a file of results says of the checkpoint, or of a run without checkpoints; else nothing."""
        newest = newest_checkpoint(self.folder)
        return _current(self.folder, name) if newest is None or newest == self.checkpoint else {}
