"""emorl verify-reference and import-released: what the EfficientMORL authors left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from emorl.cli.shared import check_json, parse, save_json
from emorl.errors import InputError
from emorl.presets import preset
from emorl.released import import_checkpoint
from emorl.verify import verify_reference as replay


@dataclass(frozen=True)
class VerifyReference:
    """Replay recorded values of the released model through ours and compare every quantity."""

    files: Positional[tuple[Path, ...]]
    """Reference .npz files."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision of the replay; float32 has looser bounds."""
    json: Path | None = None
    """Write the comparison there."""


def verify_reference(words: Sequence[str]) -> int:
    """replay recorded values of the released model through ours"""
    options: VerifyReference = parse(VerifyReference, words, "verify-reference")
    check_json(options.json)
    if not options.files:
        raise InputError("name at least one reference file")
    dtype = {"float64": torch.float64, "float32": torch.float32}[options.dtype]
    checks = [check for path in options.files for check in replay(path, dtype)]
    table = Table(box=None, pad_edge=False)
    for column in ("file", "quantity", "largest relative error", "tolerance", ""):
        table.add_column(column, justify="left" if column in ("file", "quantity") else "right")
    for check in checks:
        verdict = "ok" if check.passed else "OVER"
        table.add_row(check.file, check.quantity, f"{check.error:.2g}", f"{check.tolerance:.0e}", verdict)
    Console(width=140).print(table)
    over = sum(not check.passed for check in checks)
    print(f"{len(checks)} quantities of {len(options.files)} files in {options.dtype}: {over} over tolerance")
    save_json(options.json, [{**asdict(check), "passed": check.passed} for check in checks])
    return 1 if over else 0


@dataclass(frozen=True)
class ImportReleased:
    """Turn a checkpoint of the EfficientMORL authors into a weights folder."""

    file: Positional[Path]
    """The .pth file; only tensors are unpickled from it."""
    out: Path
    """Weights folder to make."""
    preset: str
    """tetrominoes, multi-dsprites or clevr6: the config the checkpoint was trained with."""


def import_released(words: Sequence[str]) -> int:
    """turn a checkpoint of the EfficientMORL authors into a weights folder"""
    options: ImportReleased = parse(ImportReleased, words, "import-released")

    import_checkpoint(options.file, options.out, preset(options.preset))
    print(f"wrote {options.out}")
    return 0
