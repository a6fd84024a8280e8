"""Everything a run goes on from, into a checkpoint and out of it: weights, optimizers, stage, best values, chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdmt.runs import checkpoint
from fastdmt.training.optimizer import optimizer_tensors


def save(trainer: Any) -> None:
    """Hand a checkpoint of this step to the trainer's saver; wait for it only where the stage or the run ends."""
    trainer.parallel.reshard()
    rng = {"cpu": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(trainer.device)
    state = {
        "stage": trainer.stage,
        "done": trainer.done,
        "best": trainer.best,
        "best_warmup": trainer.best_warmup,
        "rng": trainer.world.gather(rng),
    }
    tensors = _tensors(trainer)
    if trainer.queue:
        tensors |= {_queued(trainer) + name: t for name, t in trainer.queue.state_dict().items()}
    trainer.saver.save(trainer.global_step, tensors, state)
    if trainer.interrupted or trainer.done == trainer.schedule.steps[trainer.stage]:
        trainer.saver.wait()


def restore(trainer: Any, folder: Path) -> None:
    """Go on from a checkpoint, of any number of processes.

    Raises:
        FastDMTError: damaged, or of another model.
    """
    checkpoint.load_into(folder, _tensors(trainer), trainer.world)
    state = checkpoint.read_state(folder)
    trainer.stage, trainer.done = state["stage"], state["done"]
    trainer.best, trainer.best_warmup = state["best"], list(state["best_warmup"])
    for update in trainer.updates:
        update.remember()
    if trainer.queue and len(state["rng"]) == trainer.world.size:  # else it begins empty: its rows are another shape
        prefix = _queued(trainer)
        waiting = checkpoint.load_tensors(folder, (prefix,))
        trainer.queue.load_state_dict({n.removeprefix(prefix): t for n, t in waiting.items()}, trainer.device)
    # With more processes than were saved, the new ones take the streams of the first ones.
    rng = state["rng"][trainer.world.rank % len(state["rng"])]
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(rng["cuda"], trainer.device)


def _tensors(trainer: Any) -> dict[str, Tensor]:
    """Everything with a shape that all processes share, by name."""
    tensors = trainer.model.tensors()
    for k, optimizer in enumerate(trainer.optimizers):
        state = optimizer_tensors(trainer.model.students[k], optimizer)
        tensors |= {f"optimizers.{k}.{name}": value for name, value in state.items()}
    if trainer.loss_scale is not None:
        tensors |= {"loss_scale.value": trainer.loss_scale.value, "loss_scale.good": trainer.loss_scale.good}
    return tensors


def _queued(trainer: Any) -> str:
    """Begin of the names of a process's own waiting clips."""
    return f"queue.{trainer.world.rank}."
