"""The explorer as a folder that any static host can serve: page, runtime, networks, sample scenes, licences.

    index.html, *.js, style.css   the page
    ort/                          onnxruntime-web, which runs the networks in the browser
    model/                        encoder.onnx, decoder.onnx, model.json (see `networks`)
    explorer.json                 what the page offers; described in page/metadata.d.ts
    samples/                      scenes to begin with
    licences/                     of emorl and of onnxruntime

Nothing in it names another host, so it works offline, and pictures that a person opens stay in the browser.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emorl.data.base import Source
from emorl.errors import InputError
from emorl.files import new_folder
from emorl.models.base import Model
from emorl.runs import write_json
from emorl.traverse import num_ranging_steps
from emorl.web.handles import Handles, find_handles
from emorl.web.networks import export_networks

PAGE = Path(__file__).parent / "page"
PAGE_SUFFIXES = {".html", ".css", ".js", ".svg"}
RUNTIME = PAGE / "node_modules" / "onnxruntime-web" / "dist"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
NUM_SAMPLES = 8


def require_runtime() -> None:
    """Raise InputError where the parts that npm fetches are not there."""
    if missing := [name for name in RUNTIME_FILES if not (RUNTIME / name).is_file()]:
        raise InputError(f"{RUNTIME / missing[0]} is missing: run `make web` in a checkout of emorl (it needs npm)")


def num_export_steps(model: Model, source: Source) -> int:
    """How far `export_web` counts."""
    return num_ranging_steps(model, source) + 1


def export_web(
    model: Model,
    title: str,
    source: Source,
    out: Path,
    progress: Callable[[int], None] = lambda steps: None,
) -> None:
    """Write the explorer of a model into a new folder, whole or not at all.

    Args:
        model: on the CPU, in float32.
        title: what the page calls the weights.
        source: scenes of the size that the model shall take. The first ones are its samples; ranges, activeness and
            names of the codes' dimensions, and how codes move objects, are found on them.
        out: the folder.
        progress: is told of as many steps as `num_export_steps` counts.

    Raises:
        InputError: the folder exists, the model cannot be exported, or the parts that npm fetches are missing.
    """
    require_runtime()
    notices = runtime_notices()
    if source.size is None:
        raise InputError(f"{source.name}: the explorer shows pictures of one size: give data of one size")
    with new_folder(out) as folder:
        (folder / "model").mkdir()
        export_networks(model, source.size, folder / "model")
        progress(1)
        handles = find_handles(model, source, progress)
        samples = write_samples(source, folder)
        write_json(folder / "explorer.json", {"title": title, **described(handles), "samples": samples})
        for file in PAGE.iterdir():
            if file.suffix in PAGE_SUFFIXES:
                shutil.copyfile(file, folder / file.name)
        (folder / "ort").mkdir()
        for name in RUNTIME_FILES:
            # hosts that do not know .mjs would send no script, and the browser would refuse it
            shutil.copyfile(RUNTIME / name, folder / "ort" / name.replace(".mjs", ".js"))
        shutil.copytree(PAGE / "licences", folder / "licences")
        (folder / "licences" / "emorl.txt").write_text(own_licence())
        (folder / "licences" / "onnxruntime-notices.txt").write_bytes(notices)


def described(handles: Handles) -> dict[str, Any]:
    """Handles as explorer.json holds them, most active dimension first."""
    motion = handles.motion
    return {
        "dimensions": [
            {
                "index": d,
                "name": shortened(handles.names[d]),
                "low": float(handles.low[d]),
                "high": float(handles.high[d]),
                "moves": handles.moves[d].tolist(),
            }
            for d in handles.order.tolist()
        ],
        "motion": None if motion is None else {name: value.tolist() for name, value in vars(motion).items()},
    }


def shortened(name: str) -> str:
    """The parts of one factor under its own name: `13: color_0, color_1, x` is `13: color, x`."""
    number, *factors = re.split(": |, ", name)
    whole = dict.fromkeys(re.sub(r"_\d+$", "", factor) for factor in factors)
    return f"{number}: {', '.join(whole)}" if whole else number


def write_samples(source: Source, folder: Path) -> list[dict[str, str]]:
    """The first scenes of a source as PNG, and what explorer.json says of them."""
    (folder / "samples").mkdir()
    scenes = source.read(np.arange(min(NUM_SAMPLES, len(source))))
    samples = []
    for index, image in zip(scenes.index.tolist(), scenes.image, strict=True):
        name = f"samples/{index}.png"
        Image.fromarray(image).save(folder / name)
        samples.append({"file": name, "name": f"{source.name} {index}"})
    return samples


def runtime_notices() -> bytes:
    """The licences of what ONNX Runtime contains, which its package on PyPI has and that on npm has not."""
    try:
        return Path(str(distribution("onnxruntime").locate_file("onnxruntime/ThirdPartyNotices.txt"))).read_bytes()
    except (PackageNotFoundError, FileNotFoundError):
        raise InputError("the notices of ONNX Runtime are missing: pip install 'emorl[web]'") from None


def own_licence() -> str:
    """The licence of emorl, from its installed package."""
    try:
        text = distribution("emorl").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise InputError("emorl is not installed, so its licence is not found: pip install it")
    return text
