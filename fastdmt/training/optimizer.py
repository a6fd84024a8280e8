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
    """Steps one optimizer over both students.

    Args:
        students: whose `grad`s are there.
        optim: rates, decay, clipping.
        kind: "adamw" or "apex".
        sharded: parameters are DTensors.
    """

    def __init__(
        self, students: Sequence[Localizer], optim: OptimConfig, kind: str, world: World, sharded: bool
    ) -> None:
        self.students, self.clip, self.world, self.sharded = students, optim.clip, world, sharded
        self.optimizer = build_optimizer(students, optim, kind)
        trained = {p for group in self.optimizer.param_groups for p in group["params"]}
        self.params = [[p for p in student.parameters() if p in trained] for student in students]
        self.statistics = [b for student in students for b in student.buffers() if b.is_floating_point()]
        self.sizes = [b.numel() for b in self.statistics]
        self.remember()

    def remember(self) -> None:
        """Take the running statistics as they are for good, after they were loaded."""
        self.good = torch.cat([b.flatten() for b in self.statistics]) if self.statistics else None

    def rate(self, rates: Sequence[float]) -> None:
        """Set the learning rate of every group of `build_optimizer`."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def zero(self) -> None:
        """Forget the gradients."""
        for params in self.params:
            for p in params:
                p.grad = None

    def __call__(self, loss: Tensor, scale: LossScale | None = None) -> Tensor:
        """Apply the gradients.

        Args:
            loss: 0-d, detached: what the gradients are of.

        Returns:
            0-d float32 on the device: 1 where the step was skipped.
        """
        grads = [[local(p.grad) for p in params if p.grad is not None] for params in self.params]
        squares = [torch.stack(torch._foreach_norm(g)).float().square().sum() for g in grads if g]
        count = len(squares)
        # One small reduction: each student's squared norm over all shards, and the mean of the ranks' statistics.
        flat = torch.cat([torch.stack(squares) + 0 * loss.float(), *[b.flatten() for b in self.statistics]])
        if self.world.size > 1:
            flat[count:] /= self.world.size
            flat[:count] /= self.world.nodes if self.sharded else self.world.size  # copies of every gradient
            self.world.sum(flat)
        bad = (~flat[:count].sum().isfinite()).float()
        divisor = None if scale is None else scale.value.clone()
        if self.clip > 0:
            norms = flat[:count].sqrt() if scale is None else flat[:count].sqrt() / scale.value
            over = (norms / self.clip).clamp(min=1.0).nan_to_num(1.0)
            for own, much in zip([g for g in grads if g], over.unbind(), strict=True):
                torch._foreach_div_(own, much)
        step(self.optimizer, bad, divisor)
        if self.statistics:
            self.good = torch.where(bad > 0, self.good, flat[count:])
            parts = [part.view_as(b) for part, b in zip(self.good.split(self.sizes), self.statistics, strict=True)]
            torch._foreach_copy_(self.statistics, parts)
        return bad

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state by student and parameter: "optimizers.0.exp_avg.visual.conv1.weight" -> tensor."""
        names = {p: (k, name) for k, student in enumerate(self.students) for name, p in student.named_parameters()}
        found = {}
        for p, state in self.optimizer.state.items():
            k, name = names[p]
            for key, value in state.items():
                if isinstance(value, Tensor):
                    found[f"optimizers.{k}.{key}.{name}"] = value
        return found


def build_optimizer(students: Sequence[nn.Module], optim: OptimConfig, kind: str = "adamw") -> torch.optim.Optimizer:
    """AdamW of both students: (w, b) and, if asked, encoders at their own rate; no decay on norms, biases and (w, b).

    Its state exists from the beginning, so that a checkpoint of any step holds the same names.
    """
    decay, plain, encoders = [], [], ([], [])
    for name, p in (named for student in students for named in student.named_parameters()):
        if p.requires_grad and name != "affine":
            own = optim.lr_encoders > 0 and name.startswith(ENCODERS)
            (encoders[p.ndim <= 1] if own else decay if p.ndim > 1 else plain).append(p)
    groups: list[dict[str, Any]] = [
        {"params": decay, "lr": optim.lr, "weight_decay": optim.weight_decay},
        {"params": plain, "lr": optim.lr, "weight_decay": 0.0},
        {"params": [student.affine for student in students], "lr": optim.affine_lr, "weight_decay": 0.0},
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
