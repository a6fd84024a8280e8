"""A tape of operators in the place of a CUDA graph, where there is no GPU.

It is recorded once and repeats the same operators on the same memory with the same numbers: whatever a step takes from
the host, or keeps in another place than before, is as wrong there as in a graph.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """What a graph does: the operators of one run, on the memory that they used."""

    def __init__(self):
        super().__init__()
        self.operators, self.plays = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        self.operators.append((function, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def play(self):
        self.plays += 1
        if self.plays == 1:  # a graph's recording computes nothing; this one has
            return
        for function, args, kwargs, out in self.operators:
            for old, new in zip(tree_leaves(out), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(new, torch.ScriptObject):  # a collective under way
                    new.wait()
                elif isinstance(old, torch.Tensor) and old.untyped_storage()._cdata != new.untyped_storage()._cdata:
                    old.copy_(new)


class OnTape:
    """A recorder without a GPU."""

    def __init__(self):
        self.tapes = []

    def ahead(self):
        return contextlib.nullcontext()

    def record(self, function):
        self.tapes.append(Tape())
        with self.tapes[-1] as tape:
            found = function()
        return found, tape.play
