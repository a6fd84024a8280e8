"""Processes: who am I, how do we start together, how do we end together.

    world = join(cfg)           this process, alone or one of many (RANK in the environment)
    start(cfg, "module:name")   calls name(cfg, world) here, or in N new processes through torch's elastic launcher

`fastdmt train --gpus 8` and `torchrun --nproc-per-node 8 -m fastdmt train` run the same worker.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastdmt.config import TrainConfig, require
from fastdmt.console import forgive_encodings
from fastdmt.errors import FastDMTError, told_in

CONTROL_HOURS = 4  # the longest that ranks wait for rank 0: a validation, a first compilation
SHUTDOWN_S = 20  # from the death of a worker, or a signal, to the forced end of the others
TAIL = 8  # log lines shown of a worker that died
MEETING = "FASTDMT_MEETING"  # folder in which the processes of one machine find each other
LEAVE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # save, then leave


@dataclass
class World:
    """This process among `size`. Everything here is the identity when size is 1.

    Attributes:
        rank, size, local_rank: as torchrun counts them.
        nodes: machines.
        device: this process's device.
        group: process group of training (None when alone).
        control: gloo group on the host for decisions, never in the way of the device's collectives.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    nodes: int = 1
    group: Any = None
    control: Any = None
    _pending: list = field(default_factory=list)
    _groups: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> bool:
        """Writes files, validates, talks."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Sum of a tensor over all ranks, in place; ordered on the device, waits for nothing there."""
        if self.size > 1:
            dist.all_reduce(x, group=self.group)
        return x

    def agree(self, flag: bool, reduced: Tensor | None = None) -> bool:
        """Does any rank say so? The same answer everywhere.

        Args:
            flag: what this rank says.
            reduced: with several ranks, 0-d on the device: positive where a rank said so in a reduction of the step.

        Returns:
            On a GPU the answer of the call before: the device's queue holds the next step by then, and never runs dry.
        """
        if self.size == 1:
            return flag
        if self.device.type != "cuda":
            return bool(reduced > 0)
        value, there = reduced.to("cpu", non_blocking=True), torch.cuda.Event()
        there.record()
        self._pending.append((value, there))
        if len(self._pending) < 2:
            return False
        value, there = self._pending.pop(0)
        there.synchronize()
        return bool(value > 0)

    def own_group(self, purpose: str) -> Any:
        """A process group for one purpose, made by all ranks when they first ask for it; None when alone."""
        if self.size > 1 and purpose not in self._groups:
            self._groups[purpose] = dist.new_group(backend="gloo" if purpose == "checkpoint" else None)
        return self._groups.get(purpose)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0, group=self.control)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value, group=self.control)
        return box

    @contextlib.contextmanager
    def one_by_one(self) -> Iterator[None]:
        """Rank 0 first, then the others: it may make files that they read."""
        if not self.first:
            self.broadcast(None)
        yield
        if self.first:
            self.broadcast(None)

    def leave(self) -> None:
        """End the process group, if there is one."""
        self._pending.clear()
        if dist.is_initialized():
            dist.destroy_process_group()


def device_of(cfg: TrainConfig, local_rank: int = 0) -> torch.device:
    """The device of this process."""
    return device_named(cfg.device, local_rank)


def device_named(name: str | torch.device, local_rank: int = 0) -> torch.device:
    """A device by its name; "auto" is the GPU where there is one."""
    if name != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # A launcher may show every process its own device only.
    return torch.device("cuda", 0 if torch.cuda.device_count() == 1 else local_rank)


def join(cfg: TrainConfig) -> World:
    """This process's world: from RANK, LOCAL_RANK and WORLD_SIZE where a launcher set them, else alone."""
    if "RANK" not in os.environ:
        return World(device_of(cfg))
    rank, local, size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    device = device_of(cfg, local)
    options: dict[str, Any] = {"timeout": timedelta(minutes=cfg.scale.timeout)}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        options["device_id"] = device
    if MEETING in os.environ:  # a file for every start of the group: a dead one's addresses lie in the one before
        path = Path(os.environ[MEETING]) / f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        options |= {"store": dist.FileStore(str(path), size), "rank": rank, "world_size": size}
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", **options)
    control = dist.new_group(backend="gloo", timeout=timedelta(hours=CONTROL_HOURS))
    nodes = max(1, size // int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    return World(device, rank, size, local, nodes, dist.group.WORLD, control)


def processes(cfg: TrainConfig) -> int:
    """Processes on this machine.

    Raises:
        FastDMTError: more GPUs asked for than can be seen.
    """
    gpus = cfg.scale.gpus
    if gpus <= 0:
        return cfg.scale.workers_cpu
    seen = torch.cuda.device_count()
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = "" if shown is None else f" (CUDA_VISIBLE_DEVICES={shown})"
    require(seen >= gpus, f"--gpus {gpus}, but {seen} can be seen{why}; ask for fewer, or --gpus 0 for the CPU")
    return gpus


def start(cfg: TrainConfig, worker: str) -> Any:
    """Call `worker` ("module:function" of (cfg, world)) in as many processes as the configuration asks for.

    One process on one machine runs here, so that a debugger and a profiler see it.

    Returns:
        What the worker returned; the first rank's value of this machine where this call started several.

    Raises:
        FastDMTError: too few GPUs; a worker died (its rank, its last lines, how to go on).
    """
    if "RANK" in os.environ:
        return _work(worker, cfg)
    count, scale = processes(cfg), cfg.scale
    require(scale.nodes == 1 or scale.rdzv, "--nodes needs --rdzv HOST:PORT, the same on every node")
    if count == 1 and scale.nodes == 1:
        return _work(worker, cfg)
    return _launch(cfg, worker, count)


def _work(worker: str, cfg: TrainConfig) -> Any:
    forgive_encodings()
    module, name = worker.split(":")
    world = join(cfg)
    try:
        result = getattr(importlib.import_module(module), name)(cfg, world)
    except BaseException:
        # No closing barrier with ranks that may be stuck in a collective with this one: the launcher ends them.
        raise
    world.leave()
    return result


@contextlib.contextmanager
def _meeting(nodes: int) -> Iterator[Path | None]:
    """Where the processes of one machine meet: in a folder that is the user's alone, and on the loopback interface.

    torch's own place is a server on all interfaces that lets anybody write, and what lies there is unpickled. Several
    machines have no other (None).
    """
    if nodes > 1:
        yield None
        return
    before = dict(os.environ)
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback is not None:
        os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": f"={loopback}"}
    with tempfile.TemporaryDirectory(prefix="fastdmt-") as folder:
        os.environ[MEETING] = folder
        try:
            yield Path(folder)
        finally:
            for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", MEETING):
                os.environ.pop(name, None)
            os.environ |= before


def _launch(cfg: TrainConfig, worker: str, count: int) -> Any:
    with _meeting(cfg.scale.nodes) as place:
        return _launch_at(place, cfg, worker, count)


def _launch_at(place: Path | None, cfg: TrainConfig, worker: str, count: int) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    scale = cfg.scale
    # Without it every worker starts as many threads as the machine has cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (2 * count))))
    # Processes that start again would find the addresses of the dead in the store that the launcher keeps.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    logs = cfg.run / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FastDMTError(f"cannot write {logs}: {error.strerror}; give another --run") from None
    config = LaunchConfig(
        min_nodes=scale.nodes,
        max_nodes=scale.nodes,
        nproc_per_node=count,
        run_id=os.environ.get("SLURM_JOB_ID") or cfg.run.name,
        role="",
        rdzv_backend="c10d",
        rdzv_endpoint=scale.rdzv if place is None else str(place / "launchers"),
        rdzv_configs={"store_type": "tcp" if place is None else "file"},
        max_restarts=scale.max_restarts,
        logs_specs=DefaultLogsSpecs(str(logs), redirects=Std.ALL, tee={0: Std.ALL}, local_ranks_filter={0}),
        log_line_prefix_template="${role_name}",  # none: rank 0 speaks for the run
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        shutdown_timeout=SHUTDOWN_S,
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # `_died` says it in one line
    try:
        results = elastic_launch(config, _work)(worker, cfg)
        return results[min(results)]
    except ChildFailedError as error:
        raise _died(cfg, *error.get_first_failure(), logs) from None
    except SignalException as caught:
        # The workers got the signal too and saved before they left.
        return 130 if caught.sigval == signal.SIGINT else 0


def _died(cfg: TrainConfig, rank: int, failure: Any, logs: Path) -> FastDMTError:
    text = failure.message["message"] if isinstance(failure.message, dict) else str(failure.message)
    if (told := told_in(text)) is not None:
        return FastDMTError(told)
    newest = max(
        logs.glob(f"*/attempt_*/{failure.local_rank}/stderr.log"), key=lambda p: p.stat().st_mtime, default=None
    )
    lines = newest.read_text(errors="replace").splitlines()[-TAIL:] if newest else []
    how = f"was killed by {signal.Signals(-failure.exitcode).name}" if failure.exitcode < 0 else "failed"
    lines = lines or ([] if failure.exitcode < 0 else text.splitlines()[:1])
    tail = f" its last lines ({logs}): {' | '.join(line.strip() for line in lines)};" if lines else ""
    return FastDMTError(f"rank {rank} {how};{tail} {going_on(cfg)}")


def going_on(cfg: TrainConfig) -> str:
    """What to do after a failure: go on from the last checkpoint, or begin again where none was saved yet."""
    if any((cfg.run / "checkpoints").glob("step-*")):
        return f"go on with: {resume_command(cfg)}"
    return "nothing was saved yet: mend it, then type the same command again"


def resume_command(cfg: TrainConfig) -> str:
    """What a person types to go on."""
    return f"fastdmt train --run {cfg.run} --resume"


class Leaving:
    """Signals become a wish to leave, heard at the next step: `with Leaving() as leaving: ... leaving.wanted`."""

    def __init__(self) -> None:
        self.wanted, self.signal = False, None

    def __enter__(self) -> Leaving:
        # Python lets the main thread alone listen; a run in another one is stopped by whoever started it.
        alone = threading.current_thread() is threading.main_thread()
        self.old = {s: signal.signal(s, self._hear) for s in LEAVE} if alone else {}
        return self

    def _hear(self, number: int, frame: Any) -> None:
        self.wanted, self.signal = True, number

    def __exit__(self, *exc: Any) -> None:
        for s, handler in self.old.items():
            signal.signal(s, handler)
