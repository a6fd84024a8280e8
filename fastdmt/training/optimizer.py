"""From gradients to weights: optimizers, clipping, loss scaling, and steps that are skipped. Nothing waits.

A step whose loss or gradient is not finite changes nothing: the optimizer's fused kernel reads a flag on the device,
and BatchNorm's running statistics go back to what they were. Which steps were skipped is read when the run logs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdmt.config import OptimConfig, require
from fastdmt.distributed.processes import World
from fastdmt.distributed.sharding import local
from fastdmt.models.localizer import Localizer

SCALE_START, SCALE_GROWTH, SCALE_BACKOFF, SCALE_EVERY = 2.0**16, 2.0, 0.5, 2000  # of fp16, as torch's GradScaler


ENCODERS = ("visual.", "audio.")  # whose learning rate --lr-encoders sets


class LossScale:
    """Scale of an fp16 loss, kept on the device: halved by a step that overflows, doubled after 2000 that do not."""

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), SCALE_START, device=device)
        self.good = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, bad: Tensor) -> None:
        torch._amp_update_scale_(self.value, self.good, bad, SCALE_GROWTH, SCALE_BACKOFF, SCALE_EVERY)


class Update:
    """Steps the optimizer of one student.

    Args:
        student: whose `grad`s are there.
        optimizer: of `build_optimizer`.
        clip: largest gradient norm; 0: none.
    """

    def __init__(
        self, student: Localizer, optimizer: torch.optim.Optimizer, clip: float, world: World, sharded: bool
    ) -> None:
        self.student, self.optimizer, self.clip, self.world, self.sharded = student, optimizer, clip, world, sharded
        self.params = [p for group in optimizer.param_groups for p in group["params"]]
        self.statistics = [b for b in student.buffers() if b.is_floating_point()]
        self.sizes = [b.numel() for b in self.statistics]
        self.remember()

    def remember(self) -> None:
        """Take the running statistics as they are for good, after they were loaded."""
        self.good = torch.cat([b.flatten() for b in self.statistics]) if self.statistics else None

    def __call__(self, loss: Tensor, scale: LossScale | None = None) -> Tensor:
        """Apply the gradients.

        Args:
            loss: 0-d, detached: what the gradients are of.

        Returns:
            0-d float32 on the device: 1 where the step was skipped.
        """
        grads = [local(p.grad) for p in self.params if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads)) if grads else loss.new_zeros(1)
        # One small reduction: the squared norm of all shards, and the mean of the ranks' running statistics.
        flat = [norms.float().square().sum().reshape(1) + 0 * loss.float()]
        flat += [b.flatten() for b in self.statistics]
        flat = torch.cat(flat)
        if self.world.size > 1:
            flat[1:] /= self.world.size
            flat[0] /= self.world.nodes if self.sharded else self.world.size  # copies of every gradient
            self.world.sum(flat)
        norm = flat[0].sqrt()
        bad = (~norm.isfinite()).float()
        divisor = None if scale is None else scale.value.clone()
        if self.clip > 0:
            norm = norm if scale is None else norm / scale.value
            over = (norm / self.clip).clamp(min=1.0).nan_to_num(1.0)
            divisor = over if divisor is None else divisor * over
        step(self.optimizer, bad, divisor)
        if self.statistics:
            self.good = torch.where(bad > 0, self.good, flat[1:])
            parts = [part.view_as(b) for part, b in zip(self.good.split(self.sizes), self.statistics, strict=True)]
            torch._foreach_copy_(self.statistics, parts)
        return bad


def build_optimizer(student: nn.Module, optim: OptimConfig, kind: str = "adamw") -> torch.optim.Optimizer:
    """AdamW of one student: (w, b) and, if asked, the encoders at their own rate; no decay on norms, biases and (w, b).

    Its state exists from the beginning, so that a checkpoint of any step holds the same names.
    """
    decay, plain, encoders = [], [], ([], [])
    for name, p in student.named_parameters():
        if p.requires_grad and name != "affine":
            own = optim.lr_encoders > 0 and name.startswith(ENCODERS)
            (encoders[p.ndim <= 1] if own else decay if p.ndim > 1 else plain).append(p)
    groups: list[dict[str, Any]] = [
        {"params": decay, "lr": optim.lr, "weight_decay": optim.weight_decay},
        {"params": plain, "lr": optim.lr, "weight_decay": 0.0},
        {"params": [student.affine], "lr": optim.affine_lr, "weight_decay": 0.0},
    ]
    if optim.lr_encoders > 0:  # in the order of `Schedule.rates`
        lr = optim.lr * optim.lr_encoders
        groups += [{"params": encoders[0], "lr": lr, "weight_decay": optim.weight_decay}]
        groups += [{"params": encoders[1], "lr": lr, "weight_decay": 0.0}]
    if kind == "apex":
        return _apex(groups)
    optimizer = torch.optim.AdamW(groups, fused=True)
    for p in (p for group in groups for p in group["params"]):
        optimizer.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=p.device),
            "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
        }
    return optimizer


def step(optimizer: torch.optim.Optimizer, bad: Tensor, divisor: Tensor | None) -> None:
    """Step with gradients divided by `divisor`, or not at all where `bad` is 1: decided on the device."""
    if isinstance(optimizer, torch.optim.AdamW):
        optimizer.found_inf, optimizer.grad_scale = bad, divisor  # type: ignore[attr-defined]  # its GradScaler's way
        optimizer.step()
        return
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if divisor is not None:
        torch._foreach_div_(grads, divisor)
    optimizer._dummy_overflow_buf.copy_(bad)  # type: ignore[attr-defined]  # its capturable kernel does nothing where this is set
    optimizer.step()


def optimizer_tensors(student: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by the parameters' names: "exp_avg.visual.conv1.weight" -> tensor."""
    names = {p: name for name, p in student.named_parameters()}
    return {
        f"{key}.{names[p]}": value
        for p, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def _apex(groups: Sequence[dict]) -> torch.optim.Optimizer:
    require(
        importlib.util.find_spec("amp_C") is not None,
        "--optimizer apex needs NVIDIA apex built from source with its CUDA extensions (PyPI's `apex` is another "
        "package); build it, or use --optimizer adamw, which is fused as well",
    )
    try:
        fused = importlib.import_module("apex.optimizers").FusedAdam
    except Exception as error:  # whatever an unfitting build raises
        require(False, f"--optimizer apex: apex is there and does not import ({error}); use --optimizer adamw")
    optimizer = fused(groups, capturable=True, adam_w_mode=True)
    for p in (p for group in groups for p in group["params"]):
        optimizer.state[p] = {"exp_avg": torch.zeros_like(p).float(), "exp_avg_sq": torch.zeros_like(p).float()}
    return optimizer
