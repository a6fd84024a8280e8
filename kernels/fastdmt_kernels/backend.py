"""Which implementation runs, and the one place that starts a kernel.

Triton is an optional import: PyTorch for CUDA brings it, PyTorch for the CPU does not. Without it every op is its
reference.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

#: Triton runs the kernels as Python on CPU tensors (TRITON_INTERPRET=1 when this package was imported).
INTERPRET = triton is not None and bool(triton.knobs.runtime.interpret)

MODES = ("auto", "reference", "triton")

#: Where the ops are registered. On CPU tensors they are Triton's interpreter; without it, the functions of this package
#: run their reference, and no op.
DEVICES = ("cuda", "cpu")

_mode = "auto"
_recorder = None


def use(mode: str) -> str:
    """Chooses what the public functions run, for the whole process, and returns the mode that was in force.

    "auto"       Triton for CUDA tensors, the reference for all others. The state at import.
    "reference"  plain PyTorch everywhere.
    "triton"     the kernels, or an error. On CPU tensors this needs TRITON_INTERPRET=1, and is slow: for tests.

    Raises ValueError for another word, RuntimeError when "triton" is asked for and Triton is not installed.
    """
    global _mode
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; one of {', '.join(MODES)} is wanted")
    if mode == "triton" and triton is None:
        raise RuntimeError('use("triton"): Triton is not installed (pip install triton, or use("auto"))')
    before, _mode = _mode, mode
    return before


def launches(*tensors: Tensor) -> bool:
    """Whether an op on these tensors runs its kernel: decided by the mode, the device, float64 and transforms alone.

    On the meta device an op stands for what a GPU would run: its outputs have shapes and nothing is computed.
    """
    if _mode == "reference" or triton is None or any(t.dtype == torch.float64 for t in tensors):
        return False
    if transformed(tensors):
        return False
    if tensors[0].is_cuda or tensors[0].is_meta:
        return True
    if _mode == "auto":
        return False
    if not INTERPRET:
        raise RuntimeError('use("triton") on CPU tensors needs TRITON_INTERPRET=1 before fastdmt_kernels is imported')
    return True


def transformed(tensors: tuple[Tensor, ...]) -> bool:
    """Whether torch.func or forward-mode differentiation looks on: an op has no rule for them, its reference has."""
    if torch._C._are_functorch_transforms_active():
        return True
    dual = torch.autograd.forward_ad
    inside = not torch.compiler.is_compiling() and dual._current_level >= 0
    return inside and any(dual.unpack_dual(t).tangent is not None for t in tensors)


def jit(function=None, **options):
    """`triton.jit`, or nothing where there is no Triton: the body is then never run."""
    if function is None:
        return lambda f: jit(f, **options)
    return function if triton is None else triton.jit(function, **options)


def launch(kernel, programs: int, *args, device: torch.device, **options) -> None:
    """Runs `programs` instances of `kernel` on the device of its tensors; nothing for an empty batch."""
    if _recorder is not None:
        _recorder.append((kernel, args, options))
    elif device.type == "cpu" and not INTERPRET:
        raise RuntimeError(f"{kernel.__name__} was asked to run on CPU tensors; call the function, not its op")
    elif programs > 0:
        guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        with guard:
            kernel[(programs,)](*args, **options)


@contextlib.contextmanager
def recording():
    """Collects (kernel, args, options) instead of launching: what ahead-of-time compilation needs to know."""
    global _recorder
    _recorder = calls = []
    try:
        yield calls
    finally:
        _recorder = None


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The smallest power of two that is not below n (Triton's blocks have such lengths)."""
    return 1 << max(n - 1, 0).bit_length()
