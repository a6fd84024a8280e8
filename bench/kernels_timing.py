"""How bench/kernels.py times: replays of a captured graph, so that the host's part of a call is a column of its own.

Without a GPU the same lines run, except the capture: a graph's replay is then the call itself (`--dry-run`).
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from fastdmt_kernels import tuning

EPS = 1e-6


class Clock:
    """Microseconds of a call on one device, with its level-2 cache cleared before."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.gpu = device, device.type == "cuda"
        # Clearing takes about 80 us on an H100: the host has queued the replay and both events by then.
        self.flush = torch.empty(256 << 20 if self.gpu else 1, dtype=torch.uint8, device=device)

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def replay(self, call: Callable[[], object]) -> Callable[[], object]:
        """The replay of a graph that holds one call, after calls that allocate and compile; the call on the CPU."""
        if not self.gpu:
            call()
            return call
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def device_us(self, replay: Callable[[], object]) -> float:
        """Of the device, between two events around a replay."""
        self.flush.zero_()
        if not self.gpu:
            return self.wall_us(replay)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        replay()
        end.record()
        end.synchronize()
        return 1e3 * start.elapsed_time(end)

    def wall_us(self, call: Callable[[], object]) -> float:
        """Of an eager call until the device is done: what a loop without a graph pays."""
        self.flush.zero_()
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return 1e6 * (time.perf_counter() - start)

    def peak(self, call: Callable[[], object]) -> int:
        """Bytes allocated at the worst moment of a call, beyond what was; 0 without a GPU."""
        if not self.gpu:
            call()
            return 0
        self.wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.wait()
        return torch.cuda.max_memory_allocated() - before

    def copy_bandwidth(self) -> float:
        """Bytes a second, read and written, of a copy of 1 GiB on this device."""
        a = torch.empty(1 << 30 if self.gpu else 1 << 16, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        replay = self.replay(lambda: b.copy_(a))
        return 2 * a.numel() / (1e-6 * statistics.median(self.device_us(replay) for _ in range(20)))


# What a good engineer writes for one size, without these kernels. `torch.compile` fuses each; only the mean teacher's
# step is taken as it is. Sums in float32, features read in their own type.


def one_pass_map(v: Tensor, a: Tensor) -> Tensor:
    """One read of v: the product and the squares are summed together."""
    x, y = v.float(), a.float()
    dot, squares = (x * y[:, :, None, None]).sum(1), x.square().sum(1)
    return dot * (squares + EPS**2).rsqrt() * (y.square().sum(1) + EPS**2).rsqrt()[:, None, None]


def gemm_logits(v: Tensor, a: Tensor, tau: float = 0.03) -> Tensor:
    """Norms, a GEMM in the features' type, and a maximum that reads its volume once."""
    volume, r, q = _volume(v, a)
    return (volume.float() * r[:, None]).amax(2) * (q / tau)


def map_and_logits(v: Tensor, a: Tensor, tau: float = 0.03) -> tuple[Tensor, Tensor]:
    """The same, and the volume's diagonal."""
    volume, r, q = _volume(v, a)
    own = volume.diagonal().T.float() * r * q[:, None]
    return own.unflatten(1, v.shape[2:]), (volume.float() * r[:, None]).amax(2) * (q / tau)


def _volume(v: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every cell times every sound [N, M, P] in the features' type, and the inverse norms of cells and sounds."""
    x = v.flatten(2)
    r, q = (x.float().square().sum(1) + EPS**2).rsqrt(), (a.float().square().sum(1) + EPS**2).rsqrt()
    return torch.matmul(a, x), r, q


def time_case(case, row, clock: Clock, rounds: int, bandwidth: float, backend: str = "inductor") -> None:
    """Fills the row: device and wall time of the op and of every rival, in turn, and memory at the worst moment."""
    tensors = case.make(clock.device)
    torch._dynamo.reset()
    calls: dict[str, Callable[[], object]] = {}
    replays: dict[str, Callable[[], object]] = {}
    for name, function in contenders(case, backend).items():
        try:
            call = partial(function, *tensors)
            for _ in range(3):
                call()
            row.peak[name] = clock.peak(call)
            replays[name], calls[name] = clock.replay(call), call
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    times: dict[str, list[float]] = {name: [] for name in calls}
    walls: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(clock.device_us(replays[name]))
            walls[name].append(clock.wall_us(call))
    row.us = {name: statistics.median(values) for name, values in times.items()}
    row.wall_us = {name: statistics.median(values) for name, values in walls.items()}
    if "kernel" in row.us:
        row.of_copy = case.bytes / (1e-6 * row.us["kernel"]) / bandwidth


def contenders(case, backend: str) -> dict[str, Callable]:
    """Name of a column -> function of the case's tensors."""
    named = {"kernel": case.kernel, "eager": case.plain}
    if case.compiles:
        named["compiled"] = torch.compile(case.plain, backend=backend)
    if case.rival:
        named["rival"] = torch.compile(case.rival, backend=backend)
    return named


CANDIDATES = {
    "similarity_forward": {"BLOCK_P": (32, 64, 128), "BLOCK_D": (32, 64, 128), "num_warps": (4, 8)},
    "similarity_backward": {"BLOCK_P": (32, 64, 128), "BLOCK_D": (32, 64, 128), "num_warps": (4, 8)},
    "mil_forward_half": {"BLOCK_P": (64, 128), "BLOCK_M": (64, 128, 256), "BLOCK_D": (32, 64), "num_warps": (4, 8),
                         "num_stages": (3, 4)},
    "mil_backward_v_half": {"BLOCK_P": (64, 128), "BLOCK_M": (32, 64), "BLOCK_D": (64, 128), "num_warps": (4, 8),
                            "num_stages": (2, 3)},
    "mil_backward_a": {"BLOCK_N": (8, 16, 32), "BLOCK_D": (64, 128, 256), "num_warps": (2, 4)},
    "consensus": {"TILE": (1024, 2048, 4096), "num_warps": (4, 8, 16)},
    "localization_loss": {"TILE": (1024, 2048, 4096), "num_warps": (4, 8, 16)},
    "ema_update": {"BLOCK": (2048, 4096, 8192), "num_warps": (4, 8)},
}  # fmt: skip
TUNED_ON = {
    "similarity_map": ("similarity_forward",), "similarity_map+grad": ("similarity_backward",),
    "mil_logits": ("mil_forward_half",), "mil_logits+grad": ("mil_backward_v_half", "mil_backward_a"),
    "localize": (), "localize+grad": (),  # the same kernels
    "consensus": ("consensus",), "localization_loss+grad": ("localization_loss",), "ema_update": ("ema_update",),
}  # fmt: skip


def tune(cases: Iterable, agrees: Callable[[object], bool], clock: Clock, gpu: str) -> None:
    """Tries every candidate on one middle size an op and writes the fastest that agrees, for this GPU's name.

    Args:
        cases: one of each op that is tuned.
        agrees: whether a case's kernel gives what its definition gives.
        clock: of the device.
        gpu: its name; the file is named after it.
    """
    table = tuning.load(gpu)
    chosen = {}
    for case in cases:
        tensors = case.make(clock.device)
        for kernel in TUNED_ON[case.op]:
            best, default = (float("inf"), None), dict(table[kernel])
            options = CANDIDATES[kernel]
            for values in itertools.product(*options.values()):
                table[kernel] = {**default, **dict(zip(options, values, strict=True))}
                try:
                    if not agrees(case):
                        continue
                    replay = clock.replay(partial(case.kernel, *tensors))
                    us = statistics.median(clock.device_us(replay) for _ in range(15))
                except Exception as error:  # a configuration may need more shared memory than there is
                    print(f"  {kernel} {table[kernel]}: {type(error).__name__}")
                    continue
                if us < best[0]:
                    best = (us, table[kernel])
            table[kernel] = best[1] or default
            chosen[kernel] = table[kernel]
            print(f"  {kernel}: {best[0]:.1f} us with {table[kernel]}")
    file = tuning.FOLDER / f"{tuning.slug(gpu)}.json"
    file.write_text("{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in chosen.items()) + "\n}\n")
    print(f"wrote {file}")
