"""What several tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: it then runs kernels on a CPU


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference arrays and sample files, beside the project or named by EMORL_SHARED."""
    folder = Path(os.environ.get("EMORL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared folder with reference arrays; {folder} is not there")
    return folder
