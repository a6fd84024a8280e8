"""Every kernel compiles for GPUs that are not here: no register spilled, a tensor core where a dot is meant."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastdmt_kernels import tuning

pytest.importorskip("triton")

BENCH = Path(__file__).parents[2] / "bench"
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}  # bytes a program may have
TENSOR_CORE = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}
GPUS = [file.stem for file in tuning.FOLDER.glob("*.json") if file.stem != "interpreter"]


def compiled(*options):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-m", "fastdmt_kernels.aot", *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=7200)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def check(rows, capsys):
    with capsys.disabled():
        print()
        for r in rows:
            registers = f"{r['registers']:3} registers" if "registers" in r else ""
            print(
                f"{r['target']:7}{r['kernel']:20}{r['case']:26}{r['warps']:2} warps {r['shared']:6} B shared "
                f"{r['spilled']} B spilled {registers} {' '.join(r['tensor_core'])}"
            )
    for row in rows:
        assert row["spilled"] == 0, row
        assert row["shared"] <= SHARED[row["target"]], row
        if row["kernel"] in ("mil_forward", "mil_backward_v"):
            assert any(name.startswith(TENSOR_CORE[row["target"]]) for name in row["tensor_core"]), row
        if row["kernel"] in ("similarity_forward", "similarity_backward", "ema_kernel") and "registers" in row:
            words = 2 if "14x14" in row["case"] else 4
            assert row["widest_load"] >= words, f"loads of {4 * words} bytes are wanted: {row}"


@pytest.fixture(scope="module")
def hopper():
    """One size of every kernel, compiled once for the tests of this file."""
    return compiled("--target", "sm_90")


def test_hopper(hopper, capsys):
    names = {row["kernel"] for row in hopper}
    assert len(names) == 11, names
    check(hopper, capsys)


def record():
    spec = importlib.util.spec_from_file_location("kernels_static", BENCH / "kernels_static.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, json.loads(module.RECORD.read_text())


def test_machine_code_is_not_worse_than_the_record(hopper):
    triton = pytest.importorskip("triton")
    static, committed = record()
    if committed["triton"] != triton.__version__:
        pytest.skip(f"the record is of Triton {committed['triton']}")
    now = static.table(hopper)
    assert len(now) > 15 and static.worse(now, committed["kernels"]) == []
    name = next(name for name in now if "mil_forward" in name)
    assert static.worse({name: {**now[name], "executed": int(1.1 * now[name]["executed"])}}, committed["kernels"])
    assert static.worse({name: {**now[name], "spilled": 8}}, committed["kernels"])
    assert static.worse({"new": now[name]}, committed["kernels"])


def test_mil_forward_executes_little_over_half_of_the_first_form():
    """2,890 instructions a tile of 64 cells and 512 channels in the first form; 55% of them is the limit."""
    _, committed = record()
    row = committed["kernels"]["sm_90 mil_forward, bf16 channels_last"]
    assert row["executed"] <= 0.55 * 4 * 2890


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_hardest_sizes_spill_nothing(capsys):
    rows = compiled("--target", "sm_90", "--sizes", "--kernels", "consensus", "loss")
    assert len(rows) == 15
    check(rows, capsys)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("target", SHARED)
def test_every_type_layout_size_and_configuration(target, gpu, capsys):
    check(compiled("--target", target, "--gpu", gpu, "--every"), capsys)
