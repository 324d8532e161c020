"""An exported explorer, made once for all test processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from emorl.data.base import Subset
from emorl.feed import feed
from emorl.runs import find_weights, load_weights
from emorl.web.export import RUNTIME, RUNTIME_FILES, export_web

IMAGES = 60


@pytest.fixture(scope="session")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `emorl export-web nano` writes, from fewer scenes: naming dimensions takes most of its time."""
    if not all((RUNTIME / name).is_file() for name in RUNTIME_FILES):
        pytest.skip("needs what npm fetches for the explorer: make web")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'emorl[web]'")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # that of all processes
    folder = shared / "explorer"
    with FileLock(shared / "explorer.lock"):
        if not folder.exists():
            model, about = load_weights(find_weights("nano"))
            export_web(model, "nano", Subset(feed(about).source, 0, IMAGES), folder)
    return folder
