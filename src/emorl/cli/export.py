"""emorl explore, export-web and export-onnx: models outside of PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from emorl.cli.shared import parse
from emorl.data.progress import bar
from emorl.errors import InputError
from emorl.feed import feed, image_size
from emorl.files import new_folder
from emorl.runs import find_weights, load_weights
from emorl.web.export import export_web as write_explorer
from emorl.web.export import num_export_steps
from emorl.web.networks import export_networks
from emorl.web.serve import make_server, serve


@dataclass(frozen=True)
class ExportOnnx:
    """Write a model's two networks, picture to codes and codes to what each slot shows, as ONNX files."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    out: Path = Path("onnx")
    """Folder to make: encoder.onnx, decoder.onnx, and model.json with shapes and noise."""
    size: tuple[int, int] | None = None
    """Height and width of pictures; those that the weights were trained on by default."""


def export_onnx(words: Sequence[str]) -> int:
    """write a model's encoder and decoder as ONNX files"""
    options: ExportOnnx = parse(ExportOnnx, words, "export-onnx")
    model, about = load_weights(find_weights(options.weights))
    size = options.size or image_size(about)
    if size is None or min(size) < 1:
        raise InputError("these weights name no image size: give --size, height and width of at least 1")
    with new_folder(options.out) as folder:
        export_networks(model, size, folder)
    print(f"wrote encoder.onnx, decoder.onnx and model.json to {options.out}")
    return 0


@dataclass(frozen=True)
class ExportWeb:
    """Write the explorer of a model as a folder for any static host: a page where objects are moved by hand."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    out: Path
    """Folder to make; index.html is in it."""
    data: str | None = None
    """Generator or path; what the weights were trained on by default. Gives samples, and tells what codes do."""


def export_web(words: Sequence[str]) -> int:
    """write the explorer of a model as a folder for any static host"""
    options: ExportWeb = parse(ExportWeb, words, "export-web")
    _write_explorer(options.weights, options.data, options.out)
    print(f"wrote {options.out}: put it on any web server, or see it now with `emorl explore {options.weights}`")
    return 0


def _write_explorer(weights: str, data: str | None, out: Path) -> None:
    model, about = load_weights(find_weights(weights))
    source = feed(about, data).source
    with bar("exporting and looking at data", num_export_steps(model, source)) as advance:
        write_explorer(model, Path(weights).resolve().name, source, out, advance)


@dataclass(frozen=True)
class Explore:
    """Open a page where a picture falls apart into objects that are moved by hand. It serves this machine alone."""

    weights: Positional[str]
    """Shipped name, run folder or weights folder."""
    data: str | None = None
    """As of export-web."""
    port: int = 0
    """Of 127.0.0.1; a free one by default."""
    browser: bool = True
    """Open the browser there."""


def explore(words: Sequence[str]) -> int:
    """take pictures apart by hand, in the browser"""
    options: Explore = parse(Explore, words, "explore")
    with tempfile.TemporaryDirectory(prefix="emorl-") as temporary:
        folder = Path(temporary) / "explorer"
        server = make_server(folder, options.port)
        _write_explorer(options.weights, options.data, folder)
        serve(server, browser=options.browser, say=lambda line: print(line, flush=True))
    return 0
