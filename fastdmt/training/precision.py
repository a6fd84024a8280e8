"""Number formats, kernels and compilation of a step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

import fastdmt_kernels
from fastdmt.algorithm.dmt import DualMeanTeacherStep
from fastdmt.config import ScaleConfig, require
from fastdmt.errors import FastDMTError
from fastdmt.training.optimizer import LossScale
from fastdmt.training.step_graph import CudaRecorder, Recorder
from fastdmt_kernels import backend
from fastdmt_kernels.backend import INTERPRET


def use_kernels(mode: str, device: torch.device) -> None:
    """Fused kernels or plain PyTorch, for the whole process. Raises FastDMTError: this machine cannot run them."""
    try:
        fastdmt_kernels.use(mode)
    except RuntimeError:
        raise FastDMTError("--kernels triton needs Triton, which is not installed; use --kernels auto") from None
    require(
        mode != "triton" or device.type == "cuda" or INTERPRET,
        "--kernels triton needs a GPU; use --kernels auto, or set TRITON_INTERPRET=1 to run them slowly, for tests",
    )


def precision(
    cfg: ScaleConfig, device: torch.device
) -> tuple[Callable[[], AbstractContextManager], LossScale | None, str]:
    """Autocast of a forward pass, the loss scale of fp16, and the format's name; sets TF32 as a side effect."""
    kind = cfg.amp
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cfg.tf32
        torch.backends.cudnn.benchmark = True  # shapes are constant
    if kind == "auto":
        kind = "none"
        if device.type == "cuda":
            # is_bf16_supported() says yes where bf16 is emulated.
            kind = "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    require(kind != "fp16" or device.type == "cuda", "--amp fp16 needs a GPU; use bf16 or none")
    if kind == "none":
        return nullcontext, None, "float32"
    dtype = torch.bfloat16 if kind == "bf16" else torch.float16
    return partial(torch.autocast, device.type, dtype), LossScale(device) if kind == "fp16" else None, kind


class Compiled:
    """Code that runs compiled inside `with compiled:` and as it is elsewhere: validation brings shapes of its own.

    Attributes:
        kind: a value of --compile that is not "auto".
        notes: what was chosen and why, for the log.
    """

    def __init__(self, kind: str, why: str) -> None:
        self.on, self.kind, self.notes = False, kind, [f"compile: {kind} ({why})"]

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *error: object) -> None:
        self.on = False

    def wrap(self, function: Callable, **options: Any) -> Callable:
        """The function, compiled where this is on."""
        fast = torch.compile(function, **options)
        return lambda *args: fast(*args) if self.on else function(*args)


def chosen_compiler(kind: str, device: torch.device) -> tuple[str, str]:
    """What a value of --compile means on a device, and why."""
    if kind != "auto":
        return kind, f"--compile {kind}"
    if device.type != "cuda":
        return "none", "auto: no GPU"
    if backend.triton is None:
        return "none", "auto: Triton, which inductor writes its kernels in, is not installed"
    return "inductor", "auto: a GPU"


def chosen_recorder(kind: str, device: torch.device) -> Recorder | None:
    """What records steps for a value of --compile on a device."""
    return CudaRecorder(device) if kind == "graphs" and device.type == "cuda" else None


def compile_step(
    step: DualMeanTeacherStep, kind: str, device: torch.device, alone: bool, recorded: bool = False
) -> Compiled:
    """Compile the teachers' region and the students' region, each as one graph.

    With several processes the encoders alone are compiled, each as one graph: collectives stay between them.

    Args:
        kind: a value of --compile.
        alone: one process.
        recorded: the whole step becomes one CUDA graph, so that the compiled regions need none of their own.

    Returns:
        The switch that a training step turns on.
    """
    kind, why = chosen_compiler(kind, device)
    if kind == "graphs":
        why += ": the whole step is one CUDA graph" if recorded else ": those of inductor, one for each region"
    compiled = Compiled(kind, why)
    if kind == "none" or (kind == "graphs" and recorded and backend.triton is None):
        return compiled
    # Both stages' shapes of four networks that share their code; torch gives up at 8.
    torch._dynamo.config.recompile_limit = 32
    options = {"dynamic": False, "fullgraph": True, "backend": "aot_eager" if kind == "aot_eager" else "inductor"}
    if kind == "graphs" and not recorded:
        options["mode"] = "reduce-overhead"
    if alone:
        for name in ("pseudo_labels", "learn", "warmup"):
            setattr(step, name, compiled.wrap(getattr(step, name), **options))
    else:
        for localizer in (*step.students, *step.teachers):
            for encoder in (localizer.visual, localizer.audio):
                encoder.forward = compiled.wrap(encoder.forward, **options)
    return compiled
