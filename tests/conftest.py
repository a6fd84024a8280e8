"""Shared fixtures. The environment variable must be set before Triton decorates its first kernel."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def metadata() -> Path:
    """Folder with the field's public list and annotation files, where a user has them."""
    folder = Path(os.environ.get("FASTDMT_METADATA", ROOT.parent / "shared" / "metadata"))
    if not (folder / "vggss.json").is_file():
        pytest.skip("the field's list files are not on this machine (set FASTDMT_METADATA)")
    return folder


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
