"""What the processes of test_distributed.py run; importable by name."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tape import OnTape
from torch._dynamo.utils import counters

from fastdmt.distributed.sharding import full, local
from fastdmt.presets import preset
from fastdmt.training import step_graph
from fastdmt.training.schedule import UNBIASED
from fastdmt.training.trainer import Trainer

MODES = {"fsdp": {"parallel": "fsdp", "reshard": True}, "ddp": {"parallel": "ddp"}}


def tiny(data: Path, run: Path, **scale):
    """A run of 3 + 4 steps that keeps some pseudo-labels and drops others, without augmentation's share of noise.

    And without negatives and the foreground's own weight: both make much of what the order of a sum rounds.
    """
    base = preset("demo")
    return dataclasses.replace(
        base,
        run=run,
        eval_every=3,
        log_every=1,
        data=dataclasses.replace(base.data, root=data, size=32, audio_augment="light", workers=0),
        model=dataclasses.replace(base.model, affine_init=(10.0, 0.0)),
        pseudo=dataclasses.replace(
            base.pseudo, tau=0.3, delta=0.5, ignore_below=None, lambda_u=1.0, negatives=0.0, foreground=0.0
        ),
        optim=dataclasses.replace(
            base.optim, batch=8, warmup_steps=3, steps=4, lr=1e-4, lr_warmup=0.0, clip=1.0, labelled_share=0.25
        ),
        scale=dataclasses.replace(base.scale, **{"gpus": 0, "sync_bn": True, "parallel": "fsdp", **scale}),
    )


def quiet() -> Console:
    return Console(file=open(os.devnull, "w"))


class Steady(Trainer):
    """AdamW turns a gradient that is rounding noise into a whole step of either sign; this eps keeps it small."""

    def step(self, batches=None):
        for group in self.update.optimizer.param_groups:
            group["eps"] = 1e-2
        return super().step(batches)


def every_mode(cfg, world):
    """One run a mode, and a look at the shards."""
    sharded = []
    for name, changes in MODES.items():
        one = dataclasses.replace(cfg, run=cfg.run / name, scale=dataclasses.replace(cfg.scale, **changes))
        trainer = Steady(one, quiet(), world=world)
        trainer.run()
        held = sum(local(p).numel() for p in trainer.model.teachers.parameters())
        sharded.append(held / sum(p.numel() for p in trainer.model.teachers.parameters()))
    return sharded


def recorded(cfg, world):
    """A run whose steps are replays after the first of each stage: how many, and whether DDP averaged anything."""
    step_graph.WARM_UP = 1
    recorder = OnTape()
    trainer = Steady(cfg, quiet(), world=world, recorder=recorder)
    trainer.run()
    return [tape.plays for tape in recorder.tapes], trainer.parallel.calls is not trainer.parallel.students


def stop_after(cfg, world, steps: int):
    """Run until so many steps are done, then a signal asks this process (the last rank only) to leave."""
    trainer = Steady(cfg, quiet(), world=world)
    step = trainer.step

    def counted():
        values = step()
        if trainer.global_step == steps and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    trainer.step = counted
    return trainer.run()


def stopped(cfg, world):
    outcome = stop_after(cfg, world, 2)
    return outcome.interrupted, outcome.step


def finished(cfg, world):
    outcome = Steady(cfg, quiet(), world=world).run()
    return outcome.interrupted, outcome.step


def killed(cfg, world):
    """The last rank dies by kill -9 in its third step, at the first attempt."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
        return finished(cfg, world)
    trainer = Steady(cfg, quiet(), world=world)
    step = trainer.step

    def counted():
        values = step()
        if trainer.global_step == 5 and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return values

    trainer.step = counted
    trainer.run()


def poisoned(cfg, world):
    """One step's loss is not a number on the last rank only: no rank may take that step.

    Returns:
        How the run ended; of each rank the number of tensors that the poisoned step changed, how far it is from the
        ranks' mean in the end, and whether all is finite.
    """
    trainer = Steady(cfg, quiet(), world=world)
    learn, step = trainer.algorithm.learn, trainer.step
    before, changed = [], []

    def state():
        tensors = trainer.model.students.state_dict().values()
        return [full(t).clone() for t in tensors if t.is_floating_point()]

    def poisoned_now():
        return trainer.stage.name == UNBIASED and trainer.done == 1

    def spoilt(batch, labels):
        if poisoned_now():
            before[:] = state()
        out = learn(batch, labels)
        bad = poisoned_now() and world.rank == world.size - 1
        return out._replace(total=out.total * float("nan")) if bad else out

    def watched():
        poisoned = poisoned_now()
        values = step()
        if poisoned:
            changed.append(sum(not torch.equal(a, b) for a, b in zip(before, state())))
        return values

    trainer.algorithm.learn, trainer.step = spoilt, watched
    outcome = trainer.run()
    flat = torch.cat([t.float().flatten() for t in state()])
    mean = world.sum(flat.clone()) / world.size
    apart = (flat - mean).abs().max().item()
    return outcome.interrupted, outcome.step, world.gather((changed, apart, bool(flat.isfinite().all())))


def losses(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    from fastdmt.runs import checkpoint

    return checkpoint.load_tensors(checkpoint.newest(run)[0])


def assert_same(a, b, rtol=1e-5):
    la, lb = losses(a), losses(b)
    assert len(la) == len(lb)
    for x, y in zip(la, lb):
        assert x.keys() == y.keys()
        for key in set(x) - {"stage", "pseudo_iou", "mask_area", "truth_area"}:  # diagnostics: means of ranks' means
            assert x[key] == pytest.approx(y[key], rel=rtol, abs=1e-6), (x["step"], key)
    wa, wb = weights(a), weights(b)
    assert wa.keys() == wb.keys()
    for key in wa:
        # Of the whole tensor: an element that happens to lie near zero has no relative precision of its own, and
        # neither has a bias that began at zero seven small steps ago: it adds to activations near one.
        a, b = wa[key].double(), wb[key].double()
        error, scale = (b - a).square().mean().sqrt().item(), a.square().mean().sqrt().item()
        assert error <= rtol * scale + 1e-6, f"{key}: RMS error {error:.1e} of {scale:.1e}"


def listening(cfg, world):
    """Addresses at which this process or its launcher listens, after a step's collectives: of all ranks."""
    trainer = Trainer(cfg, quiet(), world=world)
    trainer.begin(UNBIASED)
    trainer.step()
    trainer.close_loaders()
    inodes = set()
    for pid in (os.getpid(), os.getppid()):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                pass  # the descriptor of this very listing
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                found.append(columns[1].split(":")[0])
    return world.gather(found)


def counting(cfg, world):
    """A whole run: after every step its stage and the graphs compiled so far, and how often code left a graph."""
    counters.clear()
    torch._dynamo.reset()
    trainer = Trainer(cfg, quiet(), world=world)
    step, found = trainer.step, []

    def counted():
        values = step()
        found.append((trainer.stage.name, counters["stats"]["unique_graphs"]))
        return values

    trainer.step = counted
    outcome = trainer.run()
    return world.gather((outcome.interrupted, found, sum(counters["graph_break"].values())))


def gathered(cfg, world):
    """One step of stage 2 in each mode: types of weights in use and at rest, the loss, and student A's gradient."""
    return {name: one_step(cfg, world, name) for name in MODES}


def one_step(cfg, world, mode):
    cfg = dataclasses.replace(cfg, run=cfg.run / mode, scale=dataclasses.replace(cfg.scale, parallel=mode))
    trainer = Steady(cfg, quiet(), world=world)
    trainer.begin(UNBIASED)
    used, rest = set(), set()
    for role in ("students", "teachers"):
        for module in getattr(trainer.model, role)[0].visual.modules():
            for p in module.parameters(recurse=False):
                rest.add(p.dtype)
                module.register_forward_hook(
                    lambda m, *_, role=role: used.add((role, type(m).__name__, m.weight.dtype))
                )
    loss = world.sum(trainer.step()["loss"].clone())
    trainer.close_loaders()
    gradient = torch.cat([full(p.grad).flatten() for p in trainer.model.students[0].parameters()])
    return used, rest, float(loss), gradient.numpy()
