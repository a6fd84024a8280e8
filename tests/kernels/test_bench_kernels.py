"""The benchmark's promises that hold without a GPU: bytes and floors, and no speed-up where the check is red."""

import importlib.util
import json
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
    assert "nothing was timed" in result.stdout and "floor us" in result.stdout and "wall us" not in result.stdout
    assert "consensus_kernel" in result.stdout and "registers" in result.stdout


def test_bytes_are_those_of_the_tensors(bench):
    v = 128 * 512 * 49 * 2
    by_size = {(case.op, case.size): case for case in bench.cases(True)}
    case = by_size["similarity_map", "N 128 7x7"]
    assert case.bytes == v + 128 * 512 * 2 + 2 * 128 * 49 * 4
    assert math.isclose(case.floor_us, 1e6 * case.bytes / 3.35e12)
    assert by_size["mil_logits", "N M 128 7x7"].flops == 2 * 128 * 128 * 49 * 512


def test_a_red_check_prints_no_speed_up(bench):
    row = bench.Row("op", "size", 1.0, 1.0, us={"kernel": 2.0, "eager": 18.0, "compiled": 6.0, "rival": 5.0})
    row.parity, row.agrees = 1.0, False
    assert row.speed_up("eager") == "PARITY FAILED" and "9.00x" not in bench.line(row)
    row.agrees = True
    assert row.speed_up("eager") == "9.00x" and "2.50x" in bench.line(row), "against the fastest of the others"
    del row.us["rival"], row.us["eager"]
    assert row.speed_up("eager") == "" and "3.00x" in bench.line(row)


def test_rivals_are_what_the_definitions_are(bench):
    v, a = bench.features(3, 4, 5, torch.device("cpu"))
    timing, reference = bench.kernels_timing, bench.reference
    for rival, definition, sounds in (
        (timing.one_pass_map, reference.similarity_map, a[:3]),
        (timing.gemm_logits, reference.mil_logits, a),
        (lambda v, a: timing.map_and_logits(v, a[:3])[0], reference.similarity_map, a[:3]),
        (lambda v, a: timing.map_and_logits(v, a)[1], lambda v, a: reference.localize(v, a)[1], a[:3]),
    ):
        want = definition(v.double(), sounds.double())
        assert (rival(v, sounds).double() - want).norm() < 1e-2 * want.norm()
        exact = rival(v.float(), sounds.float()).double()
        assert (exact - want).norm() < 1e-5 * want.norm()


def test_a_rival_that_computes_something_else_is_not_timed(bench, capsys):
    case = next(bench.cases(True, tiny=True))
    case.rival = lambda *tensors, honest=case.rival: [1.1 * x for x in honest(*tensors)]
    row = bench.Row(case.op, case.size, case.bytes, case.floor_us)
    bench.check(case, row, torch.device("cpu"))
    assert row.agrees and case.rival is None and "not timed" in capsys.readouterr().out


def test_a_dry_run_fills_every_column_of_every_op(bench, monkeypatch, capsys):
    """All that a run on a GPU does but the capture, at tiny sizes."""
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--dry-run", "--rounds", "2"])
    bench.main()
    out = capsys.readouterr().out
    assert "DRY RUN" in out and "PARITY" not in out
    rows = [line.split() for line in out.split("floor us")[1].splitlines()[1:]]
    assert {row[0] for row in rows} == set(bench.FORMULAS)
    clock = bench.kernels_timing.Clock(torch.device("cpu"))
    for case in bench.cases(True, tiny=True):
        row = bench.Row(case.op, case.size, case.bytes, case.floor_us)
        bench.kernels_timing.time_case(case, row, clock, 2, clock.copy_bandwidth(), "eager")
        wanted = {"kernel", "eager"} | ({"compiled"} if case.compiles else set()) | ({"rival"} if case.rival else set())
        assert set(row.us) == set(row.wall_us) == wanted and min(row.us.values()) > 0, case.op
        assert row.of_copy > 0
    assert wanted == {"kernel", "eager"}, "the mean teacher's rival is _foreach_lerp_ as it is"


def test_the_tuner_writes_the_fastest_that_agrees(bench, monkeypatch, tmp_path):
    timing = bench.kernels_timing
    monkeypatch.setattr(timing.tuning, "FOLDER", tmp_path)
    monkeypatch.setattr(timing, "CANDIDATES", {"ema_update": {"BLOCK": (512, 1024, 2048)}})
    case = next(case for case in bench.cases(True, tiny=True) if case.op == "ema_update")
    table, waits = {"ema_update": {"BLOCK": 65536}}, {512: 3.0, 1024: 1.0, 2048: 2.0}
    monkeypatch.setattr(timing.tuning, "load", lambda gpu: table)

    class Clock:
        device = torch.device("cpu")

        def replay(self, call):
            return waits[table["ema_update"]["BLOCK"]]

        def device_us(self, replay):
            return replay

    timing.tune([case], lambda case: table["ema_update"]["BLOCK"] != 1024, Clock(), "Some GPU 1")
    written = json.loads((tmp_path / "some-gpu-1.json").read_text())
    assert written == {"ema_update": {"BLOCK": 2048}}, "1024 is faster, and wrong"


def test_every_case_is_checked_against_its_definition(bench, kernels, monkeypatch):
    """The very functions that are timed, at small sizes, through the interpreter."""
    monkeypatch.setattr(bench, "D", 16)
    small = {
        "similarity_map": bench.partial(bench.features, 2, 2, 3),
        "mil_logits": bench.partial(bench.features, 2, 2, 3),
        "localize": bench.partial(bench.features, 2, 2, 3),
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
    assert seen == set(bench.FORMULAS) == set(bench.kernels_timing.TUNED_ON)
