"""The exported folder: whole, self-contained, and as the page expects it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emorl.cli import main
from emorl.data.tetrominoes import Tetrominoes
from emorl.errors import InputError
from emorl.web import export
from emorl.web.export import PAGE, RUNTIME_FILES, require_runtime, runtime_notices, shortened
from emorl.web.handles import VISIBLE

LICENSE = Path(__file__).resolve().parents[2] / "LICENSE"


def test_the_folder_is_whole(explorer: Path) -> None:
    names = {str(file.relative_to(explorer)) for file in explorer.rglob("*") if file.is_file()}
    assert {f"ort/{name.replace('.mjs', '.js')}" for name in RUNTIME_FILES} < names
    assert not [name for name in names if name.endswith(".mjs")]  # which not every host sends as a script
    assert {"index.html", "main.js", "style.css", "explorer.json"} < names
    assert {"model/encoder.onnx", "model/decoder.onnx", "model/model.json"} < names
    assert {"licences/emorl.txt", "licences/onnxruntime.txt", "licences/onnxruntime-notices.txt"} < names
    assert not [name for name in names if "node_modules" in name or name.endswith((".d.ts", "package.json"))]
    assert (explorer / "licences/emorl.txt").read_text() == LICENSE.read_text()
    # whatever a module or the page asks for is there
    for file in [explorer / "index.html", *explorer.glob("*.js")]:
        text = file.read_text()
        asked = re.findall(r'(?:from |src=|href=|fetch\()"([^"\n]+)"', text)
        assert asked or "import" not in text
        assert {str(Path(name)) for name in asked} <= names, file.name


def test_no_other_host_is_named(explorer: Path) -> None:
    for file in [explorer / "index.html", *explorer.glob("*.js"), *explorer.glob("*.css")]:
        assert set(re.findall(r"https?://[^\s\"']+", file.read_text())) <= {"http://www.w3.org/2000/svg"}, file.name


def test_nothing_inline(explorer: Path) -> None:
    page = (explorer / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page)


def test_samples_are_the_scenes_themselves(explorer: Path) -> None:
    facts = json.loads((explorer / "explorer.json").read_text())
    scenes = Tetrominoes().read(np.array([int(sample["name"].split()[1]) for sample in facts["samples"]]))
    for sample, image in zip(facts["samples"], scenes.image, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(explorer / sample["file"])), image)


def test_facts_of_the_codes(explorer: Path) -> None:
    facts = json.loads((explorer / "explorer.json").read_text())
    width = json.loads((explorer / "model/model.json").read_text())["slotDim"]
    assert sorted(dimension["index"] for dimension in facts["dimensions"]) == list(range(width))
    assert all(dimension["low"] < dimension["high"] for dimension in facts["dimensions"])
    assert np.array(facts["motion"]["curve"]).shape == (5, width)
    assert all(0 < low < high < 35 for low, high in zip(facts["motion"]["low"], facts["motion"]["high"], strict=True))


def test_both_sides_mean_the_same_by_visible() -> None:
    said = re.search(r"VISIBLE = ([\d.]+);", (PAGE / "scene.js").read_text())
    assert said is not None
    assert float(said[1]) == VISIBLE


@pytest.mark.skipif(not (PAGE / "node_modules/typescript").is_dir(), reason="needs node and npm: make web")
def test_facts_are_as_described(explorer: Path, tmp_path: Path) -> None:
    """TypeScript checks what the export wrote against metadata.d.ts, and the page's modules too."""
    for file in [*PAGE.glob("*.js"), *PAGE.glob("*.d.ts"), PAGE / "tsconfig.json"]:
        shutil.copy(file, tmp_path)
    (tmp_path / "node_modules").symlink_to(PAGE / "node_modules")
    shutil.copy(explorer / "model/model.json", tmp_path)
    shutil.copy(explorer / "explorer.json", tmp_path)
    lines = ['import model from "./model.json";', 'import explorer from "./explorer.json";']
    for name, kind in (("model", "ModelFacts"), ("explorer", "ExplorerFacts"), ("model", "ExplorerFacts")):
        lines += [f'/** @type {{import("./metadata").{kind}}} */', f"export const {name}{kind} = {name};"]
    (tmp_path / "check.js").write_text("\n".join(lines))
    done = subprocess.run(["node_modules/.bin/tsc"], cwd=tmp_path, capture_output=True, text=True)
    assert re.findall(r"^\S+", done.stdout, re.MULTILINE) == ["check.js(8,14):"], done.stdout  # the wrong one alone


def test_names_of_dimensions() -> None:
    assert shortened("13: color_0, color_1, color_2") == "13: color"
    assert shortened("2: x, color_1") == "2: x, color"
    assert shortened("7") == "7"


def test_missing_parts_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "RUNTIME", tmp_path)
    with pytest.raises(InputError, match="make web"):
        require_runtime()
    monkeypatch.setattr(export, "distribution", lambda name: (_ for _ in ()).throw(PackageNotFoundError(name)))
    with pytest.raises(InputError, match=r"emorl\[web\]"):
        runtime_notices()


@pytest.mark.usefixtures("explorer")  # skips where npm's parts are missing, which is told first
def test_wrong_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in {
        "export-web nano": "--out",
        f"export-web nano --out {tmp_path}": "exists already",
        f"export-web nothing --out {tmp_path}/out": "no weights called nothing",
        f"export-web nano --data {tmp_path} --out {tmp_path}/out": "no pictures",
        "explore nano --port 99999 --no-browser": "--port",
    }.items():
        assert main(words.split()) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
