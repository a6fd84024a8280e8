"""What a step costs the host: the networks of a preset at a 64th of their widths, so that no operator takes time.

    python bench/throughput.py --host --against COMMIT

Two processes, this tree and a checkout of the other commit, take steps in turn, each on a cached batch of its own; what
is counted is the time of the processor, so that another program beside it does not count. `step` is the whole,
`operators` their number, `rest` the step without the forward and backward passes of the networks: learning rates,
gradients to nothing, the optimizer, the teachers, flags, clocks. `python` is the rest without the arithmetic of the
three operators that take all parameters at once (AdamW, the norm, the teachers' average): a processor walks over the
tensors there, a GPU does not.

`recorded` is this tree's step where --compile graphs has recorded it and a replay does nothing: what the host does then
but for the one launch, whose time only a GPU knows. Its `rest` is the whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARE = 64  # of the networks' widths
STEPS = 10  # of a measurement
WARM_UP = 15
AT_ONCE = ("_fused_adamw_", "_foreach_norm", "_foreach_lerp_")
LAYERS = {"Conv1d": 2, "Conv2d": 2, "Linear": 2, "BatchNorm1d": 1, "BatchNorm2d": 1}  # widths among their arguments


def slim(channels: int) -> int:
    return channels if channels < 16 else max(1, channels // SHARE)


class Nothing:
    """A recorder whose replay does nothing."""

    def ahead(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def record(self, function: Callable) -> tuple[object, Callable[[], None]]:
        return function(), lambda: None


def measure(preset: str, recorded: bool = False) -> None:
    """The process of one tree: prints its operators, then for every line that it reads the seconds of so many steps."""
    import throughput  # of that tree: it brings its own packages
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    torch.set_num_threads(1)
    for name, widths in LAYERS.items():
        layer = getattr(torch.nn, name)
        layer.__init__ = narrow(layer.__init__, widths)
    base, demo = throughput.preset(preset), throughput.preset("demo")
    for module in list(sys.modules.values()):
        for encoder in ("VGGish", "SmallLogMel"):  # they shape by their width
            if hasattr(module, encoder):
                getattr(module, encoder).dim = slim(128)

    class Count(TorchDispatchMode):
        operators = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.operators += 1
            return function(*args, **kwargs or {})

    with tempfile.TemporaryDirectory() as folder:
        shown = {"root": Path(folder) / "demo", "annotations": demo.data.annotations, "size": 32, "seconds": 1.0}
        data, optim = dataclasses.replace(base.data, **shown), dataclasses.replace(base.optim, batch=8)
        cfg = dataclasses.replace(base, device="cpu", data=data, optim=optim, run=Path(folder) / "run")
        throughput.make_files(data.root, 200)
        row = throughput.fast(cfg, Path(folder), "FastDMT", **({"recorder": Nothing()} if recorded else {}))
        spent = [0.0]
        algorithm = row.trainer.algorithm if hasattr(row.trainer, "algorithm") else row.trainer.method
        for owner, names in ((algorithm, ("pseudo_labels", "learn")), (torch.Tensor, ("backward",))):
            for name in names:
                setattr(owner, name, timed(getattr(owner, name), spent))
        arithmetic = [0.0]
        for name in AT_ONCE:
            setattr(torch, name, timed(getattr(torch, name), arithmetic))
        batches = repeat(row.cached)
        for _ in range(WARM_UP):
            row.step(batches)
        with Count() as count:
            row.step(batches)
        print(json.dumps({"operators": count.operators}), flush=True)
        for line in sys.stdin:
            steps, spent[0], arithmetic[0] = int(line), 0.0, 0.0
            began = time.process_time()
            for _ in range(steps):
                row.step(batches)
            whole = time.process_time() - began
            found = {"step": whole, "rest": whole - spent[0], "python": whole - spent[0] - arithmetic[0]}
            print(json.dumps({name: 1e3 * seconds / steps for name, seconds in found.items()}), flush=True)
            row.trainer.bad._recent.clear()
            row.trainer.clock.read()
        row.loader.close()


def narrow(init: Callable, widths: int) -> Callable:
    def slimmed(self, *args, **kwargs):
        init(self, *[slim(x) for x in args[:widths]], *args[widths:], **kwargs)

    return slimmed


def timed(function: Callable, spent: list[float]) -> Callable:
    def wrapped(*args, **kwargs):
        began = time.process_time()
        out = function(*args, **kwargs)
        spent[0] += time.process_time() - began
        return out

    return wrapped


class Tree:
    """A process that takes the steps of the code in `root`."""

    def __init__(self, root: Path, preset: str, recorded: bool = False) -> None:
        start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import host; "
        start += f"sys.path.insert(0, {str(root / 'bench')!r}); host.measure({preset!r}, {recorded})"
        command = [sys.executable, "-c", start]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )
        self.operators = 0
        self.values: dict[str, list[float]] = {"step": [], "rest": [], "python": []}

    def read(self) -> dict[str, float]:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the process of {self.process.args[-1]} ended with {self.process.wait()}")

    def take(self, steps: int) -> None:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        for name, value in self.read().items():
            self.values[name].append(value)

    def summary(self) -> dict[str, float | list[float]]:
        medians = {f"{name}_ms": statistics.median(values) for name, values in self.values.items()}
        return {"operators": self.operators, **medians, "rounds": self.values}


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A working tree of another commit, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        tree, git = Path(folder) / "tree", ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def compare(preset: str, against: str | None, rounds: int) -> dict:
    """Medians of this tree and of the other commit, measured in turn, and how they compare."""
    with contextlib.ExitStack() as stack:
        trees = {"after": Tree(ROOT, preset), "recorded": Tree(ROOT, preset, recorded=True)}
        if against:
            trees["before"] = Tree(stack.enter_context(checkout(against)), preset)
        for tree in trees.values():
            stack.callback(tree.process.kill)
            tree.operators = tree.read()["operators"]
        for number in range(rounds):
            for tree in list(trees.values())[:: 1 if number % 2 else -1]:
                tree.take(STEPS)
        for tree in trees.values():
            tree.process.stdin.close()
            tree.process.wait()
        found = {name: tree.summary() for name, tree in trees.items()}
    print(f"{'':<18}{'operators':>12}{'step ms':>12}{'rest ms':>12}{'python ms':>12}")
    for name, values in found.items():
        times = "".join(f"{values[key]:>12.2f}" for key in ("step_ms", "rest_ms", "python_ms"))
        print(f"{name:<18}{values['operators']:>12}{times}")
    if against:
        keys = ("operators", "step_ms", "rest_ms", "python_ms")
        for name in ("after", "recorded"):
            found[f"{name} / before"] = {key: found[name][key] / found["before"][key] for key in keys}
            print(f"{name} / before".ljust(18) + "".join(f"{x:>12.2f}" for x in found[f"{name} / before"].values()))
    return {"preset": preset, "against": against, "rows": 8, "widths": f"1/{SHARE}", "steps_a_round": STEPS, **found}
