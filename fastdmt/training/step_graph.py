"""A whole training step as one CUDA graph: recorded once for each stage, then replayed on new batches.

What the host does in a step that is not recorded, some two thousand operators, it does once. A replay is a copy of the
batch into the graph's memory, one launch, and a copy of what a log shows. What changes from step to step (learning
rates, momentum, progress) lies on the device in the same place; random numbers go on, as torch's graphs provide.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from fastdmt.errors import FastDMTError, first_line
from fastdmt_loaders import Batch

Body = Callable[[Iterator[Batch]], tuple[dict[str, Tensor], Tensor]]  # batches -> what a log shows, and the bad flag

WARM_UP = 3  # steps before a recording: compilation, the choice of convolutions, tables of the kernels


class Recorder(Protocol):
    """Records what a function does on the device, and does it again."""

    def ahead(self) -> contextlib.AbstractContextManager:
        """Around every step that is taken before a recording."""

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """What the function returned, whose tensors hold values after a replay; and the replay."""


class CudaRecorder:
    """A CUDA graph.

    Source: "Whole-network capture" in PyTorch's notes on CUDA semantics: steps on a side stream first, gradients not
    there when the recording begins, so that they lie in the graph's memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.side = torch.cuda.Stream(device)

    @contextlib.contextmanager
    def ahead(self) -> Iterator[None]:
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):
            yield
        torch.cuda.current_stream().wait_stream(self.side)

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """As `Recorder` says.

        Raises:
            FastDMTError: something in the function waits for the device, or is not allowed in a graph.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            # Threads of the loader use the device meanwhile: what they may not do in a recording is their own affair.
            with torch.cuda.graph(graph, stream=self.side, capture_error_mode="thread_local"):
                found = function()
        except RuntimeError as error:
            raise FastDMTError(
                f"this step cannot be recorded as a CUDA graph ({first_line(error)}); nothing of it was done; "
                "go on from the last checkpoint with --resume --compile inductor"
            ) from error
        return found, graph.replay


class StepGraph:
    """Steps of one stage on batches of constant shape.

    Args:
        recorder: how a step is recorded.

    Attributes:
        ahead: steps to be taken before the recording.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.forget()

    def forget(self) -> None:
        """What was recorded is not valid any more: another stage, another optimizer, other tensors."""
        self.ahead = WARM_UP
        self._inputs: list[Batch] = []
        self._places: list[Tensor] = []  # tensors of the inputs
        self._shapes: list[Any] = []
        self._replay: Callable[[], None] | None = None
        self._names: list[str] = []
        self._found = torch.empty(0)

    def step(self, batches: list[Batch], body: Body) -> tuple[dict[str, Tensor], Tensor]:
        """One step: as it is before the recording, then a replay.

        Args:
            batches: in the order in which the step draws them.
            body: the step. It must read and write what lies where it lay, and decide nothing by what may change.

        Returns:
            What `body` does: 0-d tensors of this step's own.

        Raises:
            RuntimeError: a batch of another shape than was recorded.
        """
        if self.ahead > 0:
            self.ahead -= 1
            with self.recorder.ahead():
                return body(iter(batches))
        given = [t for batch in batches for t in tensors(batch)]
        shapes = [*(batch.labelled for batch in batches), *((*t.shape, t.dtype) for t in given)]
        if self._replay is None:
            self._inputs, self._shapes = [copied(b) for b in batches], shapes
            self._places = [t for batch in self._inputs for t in tensors(batch)]
            (self._names, self._found), self._replay = self.recorder.record(lambda: self._stacked(body))
        elif shapes != self._shapes:
            raise RuntimeError(f"a step was recorded on batches {self._shapes}, not on {shapes}")
        else:
            torch._foreach_copy_(self._places, given)
            for mine, batch in zip(self._inputs, batches, strict=True):
                mine.ids = batch.ids  # of the pictures
        self._replay()
        found = self._found.clone()  # the next replay writes over it
        return dict(zip(self._names, found.unbind())), found[-1]

    def _stacked(self, body: Body) -> tuple[list[str], Tensor]:
        values, bad = body(iter(self._inputs))
        return list(values), torch.stack([x.float() for x in (*values.values(), bad)])


def tensors(batch: Batch) -> list[Tensor]:
    """Every tensor of a batch, once."""
    found: dict[int, Tensor] = {}
    batch.map(lambda t: found.setdefault(id(t), t))
    return list(found.values())


def copied(batch: Batch) -> Batch:
    """A batch in memory of its own; what was one tensor stays one."""
    found: dict[int, Tensor] = {}

    def copy(t: Tensor) -> Tensor:
        if id(t) not in found:
            found[id(t)] = t.clone()
        return found[id(t)]

    return batch.map(copy)
