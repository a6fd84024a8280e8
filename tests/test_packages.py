"""The three packages: which may import which, and that every way of installing them gives all three."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "fastdmt": ROOT / "fastdmt",
    "fastdmt_kernels": ROOT / "kernels" / "fastdmt_kernels",
    "fastdmt_loaders": ROOT / "loaders" / "fastdmt_loaders",
}


def imported(folder: Path) -> dict[str, set[str]]:
    """Top-level package -> files of the folder that import it, anywhere in them."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(path.name)
    return found


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("fastdmt_kernels", {"fastdmt", "fastdmt_loaders"}),
        ("fastdmt_loaders", {"fastdmt", "fastdmt_kernels"}),
        ("fastdmt", {"bench", "tests"}),
    ],
)
def test_dependencies_point_one_way(package, forbidden):
    found = imported(FOLDERS[package])
    assert "torch" in found  # the scan sees imports at all
    assert not forbidden & set(found), {name: found[name] for name in forbidden & set(found)}


def test_kernels_need_torch_and_triton_alone():
    third_party = set(imported(FOLDERS["fastdmt_kernels"])) - set(sys.stdlib_module_names) - {"fastdmt_kernels"}
    assert third_party <= {"torch", "triton"}


def test_test_extras_stay_out_of_the_packages():
    for folder in FOLDERS.values():
        assert not {"scipy", "matplotlib", "pytest", "hypothesis", "torchvision", "timm"} & set(imported(folder))


def test_wrong_arguments_are_refused_before_torch_is_imported():
    code = (
        "import sys; from fastdmt.cli.main import main\n"
        "assert main(['train', '--preset', 'nope']) == 2\n"
        "assert main(['nope']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=source_path())
    assert done.returncode == 0, done.stderr


def test_the_container_installs_what_there_is():
    """The Dockerfile is not built here; its extras exist, and what pip and the image read is not left out of it."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    extras = set(re.search(r"^ARG EXTRAS=(\S+)", text, re.M)[1].split(","))
    assert extras <= set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M))
    assert "--constraint constraints.txt" in text and (ROOT / "constraints.txt").is_file()
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert not ignored & {"fastdmt", "kernels", "loaders", "pyproject.toml", "setup.py", "README.md", "constraints.txt"}


def source_path() -> dict[str, str]:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "kernels", ROOT / "loaders")))
    return os.environ | {"PYTHONPATH": paths}


def fresh_environment(folder: Path) -> tuple[Path, Path]:
    """A new environment with our dependencies (borrowed) and nothing of ours: its python, its packages."""
    home = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    site = next((home / "lib").glob("python*")) / "site-packages"
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for place in {sysconfig.get_paths()["purelib"], str(Path(torch.__file__).parents[1])}:
        for entry in Path(place).iterdir():
            if "fastdmt" not in entry.name and not (borrowed / entry.name).exists():
                (borrowed / entry.name).symlink_to(entry)
    (site / "dependencies.pth").write_text(f"{borrowed}\n")
    return home / "bin" / "python", site


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("editable", [False, True])
def test_installs_into_a_fresh_environment(tmp_path, editable):
    """`pip install .` and `pip install -e .`: all three import, from the right place, and the command runs."""
    python, site = fresh_environment(tmp_path)
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    target = ["-e", str(source)] if editable else [str(source)]
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *target], check=True)
    code = "import fastdmt, fastdmt_kernels as k, fastdmt_loaders as l; print(fastdmt.__file__, k.__file__, l.__file__)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where = source if editable else site
    assert all(Path(path).is_relative_to(where) for path in done.stdout.split()), done.stdout
    helped = subprocess.run([python.parent / "fastdmt", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert helped.returncode == 0 and "fastdmt train" in helped.stdout
    page = "import importlib.resources as r; assert (r.files('fastdmt.reports') / 'templates/report.html').is_file()"
    subprocess.run([python, "-c", page], cwd=tmp_path, check=True)
    tuned = (
        "import importlib.resources as r; assert r.files('fastdmt_kernels').joinpath('tuned/default.json').is_file()"
    )
    subprocess.run([python, "-c", tuned], cwd=tmp_path, check=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("folder", "package"), [("kernels", "fastdmt_kernels"), ("loaders", "fastdmt_loaders")])
def test_a_part_installs_alone(tmp_path, folder, package):
    """`pip install ./kernels` gives another project the ops, and nothing else of ours."""
    python, site = fresh_environment(tmp_path)
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", source / folder], check=True)
    code = (
        f"import {package}, importlib.metadata as m\n"
        f"print({package}.__file__)\n"
        "print(sorted({d.name for d in m.distributions() if 'fastdmt' in d.name}))"
    )
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, ours = done.stdout.splitlines()
    assert Path(where).is_relative_to(site) and ours == f"['{package.replace('_', '-')}']"
    wanted = subprocess.run(
        [python, "-c", f"import importlib.metadata as m; print(*m.requires({package!r}))"],
        capture_output=True,
        text=True,
    )
    if folder == "kernels":
        assert wanted.stdout.split() == ["torch>=2.11"]
