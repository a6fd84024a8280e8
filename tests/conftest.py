"""Shared fixtures. The environment variable must be set before Triton decorates its first kernel."""

import os
import sys
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


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Whatever fastdmt_kernels allocates without filling holds NaN (or an absurd number): all of it must be written."""

    def poisoned(allocate):
        def empty(*args, **kwargs):
            out = allocate(*args, **kwargs)
            if not sys._getframe(1).f_globals["__name__"].startswith("fastdmt_kernels") or out.is_meta:
                return out
            return out.fill_(float("nan") if out.is_floating_point() else 113 if out.dtype != torch.bool else True)

        return empty

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
