"""From gradients to weights: optimizers, clipping, loss scaling, and steps that are skipped. Nothing waits.

A step whose loss or gradient is not finite changes nothing: the optimizer's fused kernel reads a flag on the device,
and BatchNorm's running statistics go back to what they were. Which steps were skipped is read when the run logs.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fastdmt.config import OptimConfig, require
from fastdmt.distributed.processes import World
from fastdmt.distributed.sharding import local
from fastdmt.errors import first_line
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


class Plan(NamedTuple):
    """The parameters that have a gradient, as the kernels want them."""

    sizes: list[int]  #: how many belong to each student
    groups: list[tuple[dict[str, Any], list[int], list[list[Tensor]]]]  #: options; places among them; tensors
    live: Tensor  #: [parameters] float32: 1 where there is a gradient
    whole: list[bool]  #: of each: not a shard
    share: Tensor | None  #: of a sharded run, [present]: what a rank's norm counts for in the sum over ranks


class Update:
    """Steps one optimizer over both students.

    What a step needs is put in order once: running statistics of all BatchNorms lie in one tensor, the optimizer's
    step counts in another, and the lists of tensors are kept for as long as the same parameters have gradients.

    Args:
        students: whose `grad`s are there. Their float buffers are moved.
        optim: rates, decay, clipping.
        kind: "adamw" or "apex".
        sharded: parameters are DTensors.
        recorded: steps become parts of a graph: what changes from step to step lies on the device, in the same place.
        averages: with several ranks, gradients are each rank's own: their mean is taken here, in one message.

    Attributes:
        wants: with several ranks, [1] on the device: 1 where this rank wants to end after the step.
        leave: with several ranks, 0-d on the device: positive where one of them wanted to end after the last step.
    """

    def __init__(
        self,
        students: Sequence[Localizer],
        optim: OptimConfig,
        kind: str,
        world: World,
        sharded: bool,
        *,
        recorded: bool = False,
        averages: bool = False,
    ) -> None:
        self.students, self.clip, self.world, self.sharded = students, optim.clip, world, sharded
        self.averages = averages
        self.optimizer = build_optimizer(students, optim, kind)
        trained = {p for group in self.optimizer.param_groups for p in group["params"]}
        by_student = [[p for p in student.parameters() if p in trained] for student in students]
        self.params, self.counts = [p for own in by_student for p in own], [len(own) for own in by_student]
        self.flat = gather([b for student in students for b in student.buffers() if b.is_floating_point()])
        self.steps = torch.zeros(len(self.params), device=self.params[0].device)
        if kind == "adamw":
            for p, count in zip(self.params, self.steps.unbind(), strict=True):
                self.optimizer.state[p]["step"] = count
        self._plans: dict[tuple[int, ...], Plan] = {}
        self.wants = self.flat.new_zeros(1)
        self.leave: Tensor | None = None
        self.good = self.flat.clone()
        if recorded:
            for group in self.optimizer.param_groups:
                group["lr"] = self.steps.new_full((), float(group["lr"]))

    def remember(self) -> None:
        """Take the running statistics as they are for good, after they were loaded."""
        self.good.copy_(self.flat)

    def rate(self, rates: Sequence[float]) -> None:
        """Set the learning rate of every group of `build_optimizer`."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def zero(self) -> None:
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def __call__(self, loss: Tensor, scale: LossScale | None = None) -> Tensor:
        """Apply the gradients.

        Args:
            loss: 0-d, detached: what the gradients are of.

        Returns:
            0-d float32 on the device: 1 where the step was skipped.
        """
        grads = [p.grad for p in self.params]
        plan = self._plan(tuple([i for i, g in enumerate(grads) if g is None]))
        grads = [g for g in grads if g is not None]
        if self.sharded:
            grads = [local(g) for g in grads]
            self._average([g for g, whole in zip(grads, plan.whole, strict=True) if whole])
        elif self.averages:
            self._average(grads)
        norms, flat = torch.stack(torch._foreach_norm(grads)).float(), self.flat
        if plan.share is not None:
            norms = norms * plan.share
        if self.clip > 0:
            squares = torch.stack([own.square().sum() for own in norms.split(plan.sizes)])
        else:  # all that is asked is whether they are finite
            squares = norms.sum(0, keepdim=True)
        squares += 0 * loss.float()
        if self.world.size > 1:
            # One small reduction: each student's squared norm over all shards, the mean of the ranks' statistics, and
            # whether a rank wants to leave.
            count = len(squares)
            message = torch.cat([squares, flat, self.wants])
            message[count:] /= self.world.size
            message[:count] /= self.world.nodes if self.sharded else self.world.size  # copies of every gradient
            self.world.sum(message)
            squares, flat, self.leave = message[:count], message[count:-1], message[-1]
        broken = squares.sum().isfinite().logical_not()
        bad = broken.float()
        divisor = None if scale is None else scale.value.clone()
        if self.clip > 0:
            lengths = squares.sqrt() if divisor is None else squares.sqrt() / divisor
            over = (lengths / self.clip).clamp(min=1.0).nan_to_num(1.0)
            start = 0
            for size, much in zip(plan.sizes, over.unbind(), strict=True):
                torch._foreach_div_(grads[start : start + size], much)
                start += size
        if isinstance(self.optimizer, torch.optim.AdamW):
            self.steps.addcmul_(plan.live, 1 - bad)
            for options, places, tensors in plan.groups:
                adamw(options, [grads[i] for i in places], tensors, bad, divisor)
        else:
            step_apex(self.optimizer, grads, bad, divisor)
        torch.where(broken, self.good, flat, out=self.good)
        self.flat.copy_(self.good)
        return bad

    def _average(self, grads: list[Tensor]) -> None:
        """Mean over ranks of gradients that nothing else reduces."""
        if grads:
            message = torch.cat([g.flatten() for g in grads]) / self.world.size
            self.world.sum(message)
            parts = message.split([g.numel() for g in grads])
            torch._foreach_copy_(grads, [part.view_as(g) for part, g in zip(parts, grads, strict=True)])

    def _plan(self, missing: tuple[int, ...]) -> Plan:
        if missing not in self._plans:
            absent = set(missing)
            present = [i for i in range(len(self.params)) if i not in absent]
            places = {self.params[i]: place for place, i in enumerate(present)}
            ends = [sum(self.counts[: k + 1]) for k in range(len(self.counts))]
            upto = [sum(i < end for i in present) for end in ends]
            sizes = [end - start for start, end in zip([0, *upto], upto)]
            groups = []
            for group in self.optimizer.param_groups:
                own = [p for p in group["params"] if p in places]
                if own and isinstance(self.optimizer, torch.optim.AdamW):
                    states = [self.optimizer.state[p] for p in own]
                    tensors = [[local(p) for p in own]]
                    tensors += [[local(state[key]) for state in states] for key in ("exp_avg", "exp_avg_sq", "step")]
                    groups.append((group, [places[p] for p in own], tensors))
            live = torch.ones_like(self.steps)
            for i in missing:
                live[i].zero_()
            whole = [not isinstance(self.params[i], DTensor) for i in present]
            share = None
            if self.sharded:  # a whole gradient is the same on every rank: each brings a part of its square
                part = math.sqrt(self.world.nodes / self.world.size)
                share = self.steps.new_tensor([part if one else 1.0 for one in whole])
            self._plans[missing] = Plan([size for size in sizes if size], groups, live, whole, share)
        return self._plans[missing]

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


def gather(tensors: Sequence[Tensor]) -> Tensor:
    """Move tensors of one type into one [n], whose parts they become; each begins at a multiple of 16 bytes.

    Raises:
        FastDMTError: they are of several types.
    """
    types = {t.dtype for t in tensors} or {torch.float32}
    require(len(types) == 1, f"the float buffers of a localizer must be of one type, not {sorted(map(str, types))}")
    (dtype,) = types
    unit = max(1, 16 // dtype.itemsize)
    starts = [0]
    for t in tensors:
        starts.append(starts[-1] + -(-t.numel() // unit) * unit)
    device = tensors[0].device if tensors else None
    flat = torch.zeros(starts[-1], dtype=dtype, device=device)
    for t, start in zip(tensors, starts):
        place = flat[start : start + t.numel()].view(t.shape)
        place.copy_(t)
        t.data = place
    return flat


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


def adamw(
    options: Mapping[str, Any], grads: list[Tensor], tensors: list[list[Tensor]], bad: Tensor, divisor: Tensor | None
) -> None:
    """One fused AdamW kernel on prepared lists: gradients divided by `divisor`; nothing at all where `bad` is 1.

    Args:
        tensors: parameters, means, squares and step counts, in the order of the gradients.
    """
    params, means, squares, steps = tensors
    torch._fused_adamw_(
        params,
        grads,
        means,
        squares,
        [],
        steps,
        lr=options["lr"],
        beta1=options["betas"][0],
        beta2=options["betas"][1],
        weight_decay=options["weight_decay"],
        eps=options["eps"],
        amsgrad=False,
        maximize=False,
        grad_scale=divisor,
        found_inf=bad,
    )


def step_apex(optimizer: torch.optim.Optimizer, grads: list[Tensor], bad: Tensor, divisor: Tensor | None) -> None:
    """The same with apex's FusedAdam."""
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
        require(
            False, f"--optimizer apex: apex is there and does not import ({first_line(error)}); use --optimizer adamw"
        )
    optimizer = fused(groups, capturable=True, adam_w_mode=True)
    for p in (p for group in groups for p in group["params"]):
        optimizer.state[p] = {"exp_avg": torch.zeros_like(p).float(), "exp_avg_sq": torch.zeros_like(p).float()}
    return optimizer
