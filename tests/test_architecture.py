"""Who may import whom, that importing does nothing, and that nothing is added without its page and test."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import emorl

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "src" / "emorl"

# From bottom to top. A unit is a module or sub-package directly in emorl; it may import every unit of a lower
# layer and, without cycles, those of its own.
LAYERS: list[set[str]] = [
    {"errors", "types", "files", "jobs", "threads", "version", "checks"},
    {"nn", "prob", "geco", "noise", "eager_vjp"},
    {"precision", "distributed"},
    {"models"},
    {"data", "metrics"},
    {"figures"},  # a function of results; training shows its pictures on TensorBoard
    {"config", "presets", "runs", "feed"},
    {"engine", "evaluation", "edits"},
    {"train"},
    {"benchmark", "verify", "released", "decompose", "sample", "representation"},
    {"traverse", "api", "results", "seeds"},
    {"experiments"},
    {"web", "reproduce"},
    {"cli"},
    {"__main__"},
]

# Units that may import less than what lies below them, and these alone.
NARROW: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "files": {"errors"},
    "jobs": {"errors"},
    "checks": {"errors"},
    "threads": set(),
    "data": {"errors", "types", "files", "threads"},
    "metrics": set(),
    "figures": {"errors", "files", "types", "metrics"},
}

# Units that only these may import.
RESERVED: dict[str, set[str]] = {"web": {"cli"}, "reproduce": {"cli"}, "cli": {"__main__"}, "__main__": set()}

LAYER = {unit: height for height, layer in enumerate(LAYERS) for unit in layer}

# What `import emorl` must not load: the front ends, and packages that only they or one command need.
NOT_LOADED = {
    "emorl.cli",
    "emorl.figures",
    "emorl.train",
    "matplotlib",
    "rich",
    "sklearn",
    "tensorboard",
    "tyro",
}


def module_name(path: Path) -> str:
    """src/emorl/models/base.py -> emorl.models.base; a package's __init__.py -> the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(source: str, module: str, is_package: bool, known: set[str]) -> set[str]:
    """The names a source imports anywhere: at its top, in a function, for type checking.

    What is taken from a module in `known` counts as that module; other names stay whole (torch.nn.Module).
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")
                above = above[: len(above) - node.level + is_package]
                base = ".".join([*above, *filter(None, [base])])
            for alias in node.names:
                member = f"{base}.{alias.name}"
                found.add(base if base in known and member not in known else member)
    return found


ALL_IMPORTS = {
    name: imports_of(path.read_text(encoding="utf-8"), name, path.name == "__init__.py", set(MODULES))
    for name, path in MODULES.items()
}
IMPORTS = {
    name: {other for other in imported if other.split(".")[0] == "emorl"} for name, imported in ALL_IMPORTS.items()
}
FOREIGN = sorted(set().union(*ALL_IMPORTS.values()) - set().union(*IMPORTS.values()))


def unit(module: str) -> str:
    """emorl.models.base -> models; emorl itself -> the empty string."""
    return ".".join(module.split(".")[1:2])


def forbidden(importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported`, both full module names; None where it may."""
    source, target = unit(importer), unit(imported)
    if source == "models" and target == "models":
        own = {importer, "emorl.models.base"}
        return None if importer == "emorl.models" or imported in own else "models know only models.base"
    if source == target:
        return None
    if target in RESERVED and source not in RESERVED[target]:
        return f"only {sorted(RESERVED[target])} may import {target}"
    if not source or not target:  # `import emorl` for its version; a circle is found by the test for cycles
        return None
    if source in NARROW:
        return None if target in NARROW[source] else f"{source} may import only {sorted(NARROW[source])}"
    return f"{target} lies above {source}" if LAYER[target] > LAYER[source] else None


def test_every_module_has_a_layer() -> None:
    units = {unit(module) for module in MODULES} - {""}
    assert units <= set(LAYER), f"say in LAYERS where these belong: {sorted(units - set(LAYER))}"


def test_every_layer_has_modules() -> None:
    units = {unit(module) for module in MODULES}
    assert set(LAYER) - {"__main__"} <= units, f"gone from emorl: {sorted(set(LAYER) - units)}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    wrong = {name: why for name in IMPORTS[module] if (why := forbidden(module, name)) is not None}
    assert not wrong


def test_imports_have_no_cycle() -> None:
    remaining = {name: imported & set(MODULES) - {name} for name, imported in IMPORTS.items()}
    while free := [name for name, imported in remaining.items() if not imported & remaining.keys()]:
        for name in free:
            del remaining[name]
    assert not remaining, f"these import each other in a circle: {remaining}"


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("emorl.train", "emorl.cli"),
        ("emorl.figures", "emorl.train"),
        ("emorl.data.scene", "emorl.prob"),
        ("emorl.metrics.ari", "emorl.types"),
        ("emorl.models.one", "emorl.models.other"),
        ("emorl.models.one", "emorl.models"),
        ("emorl.models.base", "emorl.data"),
        ("emorl.nn.gru", "emorl.models.base"),
        ("emorl", "emorl.cli"),
        ("emorl.api", "emorl.web.export"),
    ],
)
def test_the_rule_refuses(importer: str, imported: str) -> None:
    assert forbidden(importer, imported) is not None


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import emorl.types", {"emorl.types"}),
        ("from emorl import types", {"emorl.types"}),
        ("from emorl.types import Batch", {"emorl.types"}),
        ("from .base import Model", {"emorl.models.base"}),
        ("from . import base", {"emorl.models.base"}),
        ("from ..types import Batch", {"emorl.types"}),
        ("def f():\n    import emorl.cli", {"emorl.cli"}),
        ("from emorl import __version__", {"emorl"}),
        ("import numpy, torch.nn", {"numpy", "torch.nn"}),
        ("from torch import nn, Tensor", {"torch.nn", "torch.Tensor"}),
    ],
)
def test_imports_are_found(source: str, imported: set[str]) -> None:
    known = {"emorl", "emorl.types", "emorl.models", "emorl.models.base", "emorl.models.one"}
    assert imports_of(source, "emorl.models.one", False, known) == imported


def run_fresh(code: str, folder: Path) -> dict[str, object]:
    """What a new interpreter, whose home and working folder are an empty `folder`, prints as JSON."""
    homes = {name: str(folder) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR")}
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | homes | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, "importing prints something"
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_importing_emorl_is_light_and_leaves_nothing(tmp_path: Path) -> None:
    result = run_fresh(
        """
import json, os, sys
before = dict(os.environ)
import emorl
print(json.dumps({"loaded": sorted(sys.modules), "same_environment": before == dict(os.environ)}))
""",
        tmp_path,
    )
    assert isinstance(result["loaded"], list)
    assert not NOT_LOADED & set(result["loaded"])
    assert result["same_environment"]
    assert not list(tmp_path.iterdir())


def test_the_command_line_loads_what_is_asked_for(tmp_path: Path) -> None:
    code = """
import contextlib, io, json, sys
from emorl.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    codes = [main([word]) for word in ("--help", "--version")]
print(json.dumps({"codes": codes, "loaded": sorted(sys.modules)}))
"""
    result = run_fresh(code, tmp_path)
    assert result["codes"] == [0, 0] and isinstance(result["loaded"], list)
    assert not {"numpy", "torch", "tyro", "rich", "emorl.cli.demo"} & set(result["loaded"])


def test_loading_and_scoring_weights_needs_neither_pictures_nor_training() -> None:
    reached, more = set(), {"emorl.api", "emorl.cli.evaluate"}
    while more:
        reached |= more
        more = set().union(*(IMPORTS[name] for name in more)) & set(MODULES) - reached
    assert {"emorl.evaluation", "emorl.models.efficientmorl"} <= reached
    assert not {"emorl.figures", "emorl.train"} & reached


def test_importing_every_module_changes_no_state(tmp_path: Path) -> None:
    names = [name for name in MODULES if unit(name) != "__main__"]
    result = run_fresh(
        f"""
import contextlib, hashlib, importlib, json, os, pickle, random
import numpy, torch

for name in {FOREIGN!r}:  # what other packages do is not ours: scikit-learn draws a random number
    with contextlib.suppress(ImportError):
        importlib.import_module(name)

def state():
    return {{
        "random": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "numpy": hashlib.sha256(pickle.dumps(numpy.random.get_state())).hexdigest(),
        "torch": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "benchmark": torch.backends.cudnn.benchmark,
        "folder": os.getcwd(),
    }}

before = state()
for name in {names!r}:
    importlib.import_module(name)
after = state()
print(json.dumps({{key: [before[key], after[key]] for key in before if before[key] != after[key]}}))
""",
        tmp_path,
    )
    assert result == {}


def test_every_model_has_page_preset_and_test() -> None:
    from emorl.models import MODELS
    from emorl.presets import PRESETS

    for name in MODELS:
        assert (PROJECT / "docs" / "models" / f"{name}.md").is_file(), name
        assert (PROJECT / "tests" / "models" / f"test_{name.replace('-', '_')}.py").is_file(), name
        assert any(preset.startswith(f"{name}/") for preset in PRESETS), name


def test_every_data_set_has_page_and_test() -> None:
    from emorl.data.sources import DATASETS

    page = (PROJECT / "docs" / "data.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "tests" / "data").rglob("*.py"))
    for name in DATASETS:
        assert f"`{name}`" in page, name
        assert f'"{name}"' in tests or "DATASETS" in tests, name


def test_one_version_everywhere() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert emorl.__version__ == version
    assert f"\nversion: {version}\n" in (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.*)\]$", (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest and newest[1] == ("Unreleased" if ".dev" in version else version)
