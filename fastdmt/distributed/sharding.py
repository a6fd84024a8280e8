"""Students and teachers over several processes: sharded (FSDP2) or copied (DDP), equal to one process.

fsdp  parameters, gradients and optimizer state of students and teachers live in shards, teachers sharded exactly as
      their students, so that the EMA is local; gathered for the forward, in bf16 where the step computes in it, freed
      before the optimizer and the EMA. BatchNorm's weights stay whole, in float32: they are a thousandth of all
ddp   every process holds everything; gradients are averaged in buckets while the backward runs, or, where the step is
      a CUDA graph, in one message behind it
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fastdmt.config import ScaleConfig
from fastdmt.distributed.processes import World

BATCHNORM = nn.modules.batchnorm._BatchNorm
SHARE_OF_A_COPY = 0.25  # of a process's memory, up to which copies are better than shards

for _message in (
    "FSDP2-wrapped module .* returned a view",  # which nobody writes into
    "`broadcast_buffers` is deprecated",  # torch 2.11 knows it by no other name
    "`torch.distributed.all_gather_into_tensor` is deprecated",  # torch's own call
):
    warnings.filterwarnings("ignore", message=_message)


class Parallel:
    """How the localizers of one run are spread.

    Args:
        half: the step computes in bf16, so that encoders' weights may be gathered in it.
        recorded: steps become CUDA graphs. Copies then average their gradients in one message behind the backward:
            DDP's buckets ask the host when they are full.

    Attributes:
        calls: what to call instead of each student, in its order.
        averages_late: whoever applies the gradients must take their mean over the processes first.
        mode: "fsdp", "ddp", or "one process".
        sharded: parameters are DTensors.
        notes: what was chosen and why, for the log.
        many: ", 2 processes (ddp)", or nothing for one.
    """

    def __init__(
        self,
        students: Sequence[nn.Module],
        teachers: Sequence[nn.Module],
        cfg: ScaleConfig,
        world: World,
        half: bool = False,
        recorded: bool = False,
    ) -> None:
        self.world, self.students, self.teachers = world, list(students), list(teachers)
        self.mode, why = chosen_mode(cfg.parallel, self.students, self.teachers, world)
        self.sharded, self.notes = self.mode == "fsdp", [f"parallel: {self.mode} ({why})"] if world.size > 1 else []
        self.many = f", {world.size} processes ({self.mode})" if world.size > 1 else ""
        self.calls: list[Callable] = self.students
        self.averages_late = recorded and self.mode == "ddp"
        if cfg.sync_bn and world.size > 1:
            for student in self.students:
                synchronise(student, world.group)
        if self.sharded:
            mesh = _mesh(world)
            # Autocast would round the gathered weights to bf16 anyway; gradients are summed in float32.
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
            for localizer in (*self.students, *self.teachers):
                for p in localizer.parameters():  # FSDP2 shards contiguous memory only; activations stay channels_last
                    p.data = p.data.contiguous()
                for part in (localizer.visual, localizer.audio):
                    whole = {p for m in part.modules() if isinstance(m, BATCHNORM) for p in m.parameters(recurse=False)}
                    fully_shard(
                        part, mesh=mesh, reshard_after_forward=cfg.reshard, mp_policy=policy, ignored_params=whole
                    )
                # The root stays gathered until the backward is through: (w, b) take part in the loss, after forward.
                fully_shard(localizer, mesh=mesh, reshard_after_forward=False)
            every = (m for localizer in (*self.students, *self.teachers) for m in localizer.modules())
            self._gathered = [m for m in every if isinstance(m, FSDPModule)]
        elif world.size > 1 and not recorded:
            self.calls = [
                nn.parallel.DistributedDataParallel(
                    student,
                    device_ids=[world.device] if world.device.type == "cuda" else None,
                    process_group=world.group,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )
                for student in self.students
            ]

    def synchronise_gradients(self, on: bool) -> None:
        """Off for all but the last of a step's accumulated parts."""
        for call in self.calls:
            if isinstance(call, FSDPModule):
                call.set_requires_gradient_sync(on)
            elif call not in self.students:
                call.require_backward_grad_sync = on  # type: ignore[attr-defined]  # DDP's switch

    def reshard(self) -> None:
        """Back to shards: before the optimizer, the EMA, a checkpoint.

        After a forward without gradient FSDP2 leaves the root gathered, and what is written into the shards then is
        not seen by the next forward.
        """
        if self.sharded:
            for module in self._gathered:
                module.reshard()


def chosen_mode(
    kind: str, students: Sequence[nn.Module], teachers: Sequence[nn.Module], world: World
) -> tuple[str, str]:
    """What a value of --parallel means for these networks, the same in every process, and why."""
    if world.size == 1:
        return "one process", ""
    if kind != "auto":
        return kind, f"--parallel {kind}"
    need, memory = bytes_of_a_copy(students, teachers), _memory(world)
    small = need < SHARE_OF_A_COPY * memory
    share = f"{'less' if small else 'not less'} than a quarter of the {memory / 2**30:.1f} GB that it has"
    why = f"auto: parameters, gradients, optimizer and teachers take {need / 2**30:.2f} GB of a process, {share}"
    return world.broadcast(("ddp" if small else "fsdp", why))


def bytes_of_a_copy(students: Sequence[nn.Module], teachers: Sequence[nn.Module]) -> int:
    """What a process holds where nothing is sharded: all tensors, and of the trained ones gradients and two moments."""
    kept = sum(t.nbytes for m in (*students, *teachers) for t in (*m.parameters(), *m.buffers()))
    return kept + 3 * sum(p.nbytes for student in students for p in student.parameters() if p.requires_grad)


def _memory(world: World) -> int:
    """Bytes of the process's GPU, or its share of the machine's."""
    if world.device.type == "cuda":
        return torch.cuda.get_device_properties(world.device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * world.nodes // world.size


def _mesh(world: World) -> Any:
    kind = world.device.type
    if world.nodes > 1:  # HSDP: shards within a machine, copies between machines
        return init_device_mesh(kind, (world.nodes, world.size // world.nodes), mesh_dim_names=("copy", "shard"))
    return init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))


def local(t: Tensor) -> Tensor:
    """This process's part of a tensor: its shard, or all of it."""
    return t.to_local() if isinstance(t, DTensor) else t


def full(t: Tensor) -> Tensor:
    """All of a tensor, gathered from its shards; every rank must ask."""
    return t.full_tensor() if isinstance(t, DTensor) else t


@torch.no_grad()
def assign(target: Tensor, value: Tensor) -> None:
    """Write a whole tensor, which every rank holds, into a target that may be sharded."""
    if isinstance(target, DTensor):
        value = value.to(target.device, target.dtype)
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)


class _Mean(torch.autograd.Function):
    """Mean over ranks, differentiable: the gradient of every rank's loss reaches every rank's input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _mean(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _mean(grad, ctx.group), None


def _mean(x: Tensor, group: Any) -> Tensor:
    x = x / dist.get_world_size(group)
    dist.all_reduce(x, group=group)
    return x


class GlobalBatchNorm(BATCHNORM):
    """BatchNorm over the rows of all ranks, on any device; every rank must bring as many rows.

    torch's own SyncBatchNorm runs on CUDA alone.
    """

    group: Any = None

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dims = [d for d in range(x.ndim) if d != 1]
        var, mean = torch.var_mean(x.float(), dims, correction=0)
        # Variance of all = mean of the ranks' variances + variance of their means: no difference of large squares.
        centre = _Mean.apply(mean, self.group)
        spread = _Mean.apply(var + (mean - centre) ** 2, self.group)
        n = x.numel() // x.shape[1] * dist.get_world_size(self.group)
        with torch.no_grad():
            self.running_mean.lerp_(centre, self.momentum)
            self.running_var.lerp_(spread * (n / max(1, n - 1)), self.momentum)
            self.num_batches_tracked += 1
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = self.weight * torch.rsqrt(spread + self.eps)
        return (x.float() - centre.view(shape)).mul(scale.view(shape)).add(self.bias.view(shape)).to(x.dtype)


def synchronise(localizer: nn.Module, group: Any) -> None:
    """Turn every BatchNorm of a module into one over the global batch, in place; names stay."""
    for module in localizer.modules():
        if isinstance(module, BATCHNORM):
            module.__class__ = GlobalBatchNorm
            module.group = group
