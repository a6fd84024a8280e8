"""The benchmark's promises that hold without a GPU: bytes and floors, and no speed-up where the check is red."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[2] / "bench" / "kernels.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_kernels", FILE)
    module = sys.modules["bench_kernels"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_that_nothing_was_timed():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(FILE), "--quick", "--op", "consensus"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert "nothing was timed" in result.stdout and "floor us" in result.stdout and "over eager" not in result.stdout
    assert "consensus_kernel" in result.stdout and "registers" in result.stdout


def test_bytes_are_those_of_the_tensors(bench):
    v = 128 * 512 * 49 * 2
    by_size = {(case.op, case.size): case for case in bench.cases(True)}
    case = by_size["similarity_map", "N 128 7x7"]
    assert case.bytes == v + 128 * 512 * 2 + 2 * 128 * 49 * 4
    assert math.isclose(case.floor_us, 1e6 * case.bytes / 3.35e12)
    assert by_size["mil_logits", "N M 128 7x7"].flops == 2 * 128 * 128 * 49 * 512


def test_a_red_check_prints_no_speed_up(bench):
    row = bench.Row("op", "size", 1.0, 1.0, us={"kernel": 1.0, "eager": 9.0, "compiled": 3.0})
    row.parity, row.agrees = 1.0, False
    assert row.speed_up("eager") == "PARITY FAILED" and "9.00x" not in bench.line(row)
    row.agrees = True
    assert row.speed_up("eager") == "9.00x" and "3.00x" in bench.line(row)


def test_every_case_is_checked_against_its_definition(bench, kernels, monkeypatch):
    """The very functions that are timed, at small sizes, through the interpreter."""
    monkeypatch.setattr(bench, "D", 16)
    small = {
        "similarity_map": bench.partial(bench.features, 2, 2, 3),
        "mil_logits": bench.partial(bench.features, 2, 2, 3),
        "consensus": bench.partial(bench.maps, 2, 2, 224),
        "localization_loss": bench.partial(bench.maps, 2, 2, 224),
        "ema_update": bench.partial(bench.parameters, 1),
    }
    seen = set()
    for case in bench.cases(True):
        if case.op not in seen:
            seen.add(case.op)
            case.make = small[case.op.removesuffix("+grad")]
            row = bench.Row(case.op, case.size, case.bytes, case.floor_us)
            bench.check(case, row, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            assert row.agrees, (case.op, row.parity)
            case.kernel = lambda *t, inner=case.kernel: [
                x + 1 if x.is_floating_point() else x ^ True for x in inner(*t)
            ]
            bench.check(case, row, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            assert not row.agrees, case.op
    assert seen == set(bench.FORMULAS) == set(bench.TUNED_ON)
