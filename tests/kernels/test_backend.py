"""Which of an op's two paths runs."""

import os
import subprocess
import sys

import torch

import fastdmt_kernels
from fastdmt_kernels import (
    reference,
    similarity_map,
)

V, A = torch.randn(2, 6, 3, 4), torch.randn(2, 6)


def test_the_switch(monkeypatch):
    calls = []
    monkeypatch.setattr(reference, "similarity_map", lambda *_: calls.append(1))
    assert fastdmt_kernels.use("reference") == "auto"
    try:
        similarity_map(V, A)
        fastdmt_kernels.use("auto")
        similarity_map(V, A)
        assert len(calls) == 2  # on CPU tensors auto is the reference
        fastdmt_kernels.use("triton")
        similarity_map(V, A)
        assert len(calls) == 2
        similarity_map(V.double(), A.double())
        assert len(calls) == 3  # no kernel accumulates in float64
    finally:
        fastdmt_kernels.use("auto")


def python(code):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)


def test_without_triton_every_op_is_its_reference():
    code = """
import sys

import torch
sys.modules["triton"] = None  # as if it were not installed
import torch, fastdmt_kernels as k
assert k.similarity_map(torch.randn(2, 4, 3, 3), torch.randn(2, 4)).shape == (2, 3, 3)
k.ema_update([torch.zeros(2)], [torch.ones(2)], .5)
try:
    k.use("triton")
except RuntimeError as error:
    assert "not installed" in str(error), error
else:
    raise SystemExit("no error")
assert not any(name.split(".")[0] in ("fastdmt", "fastdmt_loaders") for name in sys.modules)
"""
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_an_op_on_cpu_tensors_says_what_to_call():
    result = python("""
import torch, fastdmt_kernels
try:
    torch.ops.fastdmt.similarity_map(torch.randn(2, 4, 3, 3), torch.randn(2, 4), 1e-6)
except RuntimeError as error:
    assert "call the function, not its op" in str(error), error
else:
    raise SystemExit("no error")
""")
    assert result.returncode == 0, result.stderr


def test_triton_on_cpu_tensors_wants_the_interpreter():
    code = """
import torch, fastdmt_kernels as k
k.use("triton")
try:
    k.similarity_map(torch.randn(2, 4, 3, 3), torch.randn(2, 4))
except RuntimeError as error:
    assert "TRITON_INTERPRET=1" in str(error), error
else:
    raise SystemExit("no error")
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
