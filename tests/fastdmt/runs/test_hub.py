"""Names on a hub, without a network: a cache folder as huggingface_hub lays it out."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdmt
from fastdmt.cli.main import main
from fastdmt.errors import FastDMTError
from fastdmt.runs.hub import FILES, NAME, run_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of a machine that has fetched somebody/demo; huggingface_hub must not go out."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (the extra [hub])")
    from huggingface_hub import constants

    home = tmp_path / "cache"
    snapshot = home / "models--somebody--demo" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    refs = home / "models--somebody--demo" / "refs"
    refs.mkdir()
    for name in ("main", "v1"):
        (refs / name).write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return snapshot


@pytest.mark.parametrize("name", ["somebody/demo", "somebody/demo@v1", f"somebody/demo@{COMMIT}"])
def test_a_name_is_the_snapshot_of_its_revision(hub, name):
    assert run_folder(name) == hub


def test_a_path_asks_nobody(tmp_path, monkeypatch):
    """Neither a folder that is there, nor a typing error below one, nor anything given as a path."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # an import would raise
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in (
        "runs/demo",
        "./runs/demo",
        str(tmp_path / "org" / "name"),
        "runs",
        Path("org/name"),
        "a/b/c",
        "../x/y",
    ):
        assert run_folder(name) == Path(name)
    with pytest.raises(FastDMTError, match=r"org/name: no such folder; .*pip install 'fastdmt\[hub\]'"):
        run_folder("org/name")


@pytest.mark.parametrize("name", ["nobody/absent", "somebody/demo@v2"])
def test_what_nobody_has_is_one_line(hub, name):
    with pytest.raises(FastDMTError, match=f"^{name}: no such folder, and the hub gives no such model") as caught:
        run_folder(name)
    assert len(str(caught.value).splitlines()) == 1


def test_no_code_is_fetched():
    assert not [name for name in FILES if Path(name).suffix not in (".json", ".safetensors", ".md")]
    assert not NAME.fullmatch("org/../x") or "/" not in NAME.fullmatch("org/../x")["name"]


def test_load_by_name(hub, run):
    """`fastdmt.load("somebody/demo")` in a program of its own, with the cache that the environment names."""
    released = hub.parent / "released"
    assert main(["export", str(run), str(released)]) == 0
    for path in released.iterdir():
        path.rename(hub / path.name)
    code = (
        "import fastdmt, numpy as np\n"
        "heat = fastdmt.load('somebody/demo', device='cpu').localize(\n"
        "    np.full((40, 60, 3), 99, np.uint8), np.ones(16000, 'f4') / 9, rate=16000)\n"
        "print(heat.shape, f'{heat.sum():.3f}')"
    )
    home = hub.parents[2]
    told = os.environ | {"HF_HUB_CACHE": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told, cwd=home)
    assert done.returncode == 0, done.stderr
    heat = fastdmt.load(run, device="cpu").localize(
        np.full((40, 60, 3), 99, np.uint8), np.ones(16000, "f4") / 9, rate=16000
    )
    assert done.stdout.split(") ") == [str(heat.shape)[:-1], f"{heat.sum():.3f}\n"]
