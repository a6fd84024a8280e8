"""The rooms of the code: no import upward, no circle, no hall; a module's test where its name says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "fastdmt": ROOT / "fastdmt",
    "fastdmt_kernels": ROOT / "kernels" / "fastdmt_kernels",
    "fastdmt_loaders": ROOT / "loaders" / "fastdmt_loaders",
}
# Rooms of `fastdmt`, the highest floor first: a room imports from its own floor's file or from floors below.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"reports", "training"},
    {"evaluation", "algorithm"},
    {"models"},
    {"runs", "data"},
    {"distributed", "presets"},
    {"config", "drawing", "files"},
    {"names"},
    {"errors", "console"},
]
FLOOR = {room: len(FLOORS) - level for level, rooms in enumerate(FLOORS) for room in rooms}
LINES, ENTRIES = 400, 12


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Modules of ours that a module imports, anywhere in it; `if TYPE_CHECKING` counts too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:  # the kernels, which others may copy whole, import within their folder
                package = name if MODULES[name].name == "__init__.py" else name.rsplit(".", 1)[0]
                origin = ".".join(filter(None, (package, node.module)))
            found |= {sub if (sub := f"{origin}.{alias.name}") in MODULES else origin for alias in node.names}
    return {target for target in found if target in MODULES} - {name}


IMPORTS = {name: imports(name) for name in MODULES}


def room(name: str) -> str:
    return name.split(".")[1]


def test_the_scan_sees_the_code():
    assert len(MODULES) > 60 and sum(map(len, IMPORTS.values())) > 150


def test_no_import_runs_upward():
    wrong = []
    for name, targets in IMPORTS.items():
        if not name.startswith("fastdmt.") or name == "fastdmt":
            continue
        for target in targets:
            if target.startswith("fastdmt.") and room(target) != room(name):
                if FLOOR[room(target)] >= FLOOR[room(name)]:
                    wrong.append(f"{name} -> {target}")
    assert not wrong, wrong


def test_no_circle():
    open_, done = [], set()

    def visit(name: str) -> None:
        assert name not in open_, " -> ".join([*open_[open_.index(name) :], name])
        if name in done:
            return
        open_.append(name)
        for target in sorted(IMPORTS[name]):
            # A package's own front page re-exports its modules; they do not import it back.
            visit(target)
        open_.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize("package", SOURCES)
def test_no_hall(package):
    folders = [SOURCES[package], *(p for p in SOURCES[package].rglob("*") if p.is_dir())]
    for folder in folders:
        if folder.name == "__pycache__":
            continue
        rooms = [p for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__"]
        files = [p for p in folder.glob("*.py") if p.name not in ("__init__.py", "__main__.py")]
        assert max(len(rooms), len(files)) <= ENTRIES, f"{folder}: {len(rooms)} rooms, {len(files)} files"
    for name, path in MODULES.items():
        if name.split(".")[0] == package:
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= LINES, f"{path}: {lines} lines"


def test_the_page_names_the_folders_there_are():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("```")[1]
    named, parents = set(), []
    for line in page.splitlines():
        if name := line.split(" " * 2)[0] if not line.startswith(" ") else line.strip().split()[0]:
            depth = (len(line) - len(line.lstrip())) // 4
            parents = [*parents[:depth], name.strip().rstrip("/")]
            named.add("/".join(parents))
    ours = {str(folder.relative_to(ROOT)) for folder in SOURCES.values()} | {"bench", "tests"}
    for folder in SOURCES.values():
        ours |= {str(init.parent.relative_to(ROOT)) for init in folder.rglob("__init__.py")}
    assert named == ours


#: Modules whose meaning is tested where it is used: an entry point, and classes without a body.
WITHOUT_OWN_TEST = {"fastdmt.__main__", "fastdmt.errors"}


def test_a_modules_test_is_where_its_name_says():
    missing = []
    for name, path in MODULES.items():
        package, folder = next((p, f) for p, f in SOURCES.items() if path.is_relative_to(f))
        room = path.relative_to(folder).parent
        own = ROOT / "tests" / package.removeprefix("fastdmt_") / room / f"test_{path.name}"
        if path.name != "__init__.py" and name not in WITHOUT_OWN_TEST and not own.is_file():
            missing.append(f"{name}: {own.relative_to(ROOT)}")
    assert not missing, missing
