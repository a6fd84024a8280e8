"""The run folder's settings: written by a new run, compared by a resumed one."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastdmt.config import TrainConfig, moves_numbers, require, to_dict
from fastdmt.errors import FastDMTError
from fastdmt.files import write_text
from fastdmt.runs import checkpoint, lock
from fastdmt.runs.settings import load_config


def open_run(cfg: TrainConfig, first: bool) -> TrainConfig:
    """Make the run folder, or check that it can be resumed from.

    Args:
        first: this process writes.

    Returns:
        The configuration, its folders absolute; with `resume` set where a launcher started the group again.

    Raises:
        FastDMTError: a run is there and `resume` is not set, or the reverse; other settings; not writable; another
            process trains there.
    """
    run, path = cfg.run, cfg.run / "config.json"
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) and path.is_file():
        cfg = replace(cfg, resume=True)
    if cfg.resume:
        require(
            path.is_file(),
            f"nothing to resume in {run}: it has no config.json; leave --resume out, or give the run's folder",
        )
        if first:
            lock.take(run)
        changed = differences(load_config(run, cfg.model.localizer), cfg)
        require(
            not changed,
            f"{path} says otherwise: {'; '.join(changed)}; resume with the same settings, or give another --run",
        )
        return cfg
    cfg = absolute(cfg)
    if not first:
        return cfg
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FastDMTError(f"cannot make the folder {run}: {error.strerror}; give another --run") from None
    lock.take(run)
    if checkpoint.last_step(run) is not None:
        lock.release(run)
        raise FastDMTError(f"{run} already holds a run; go on with --resume, or give another --run")
    write_text(path, json.dumps(to_dict(cfg), indent=2) + "\n", durable=True)
    return cfg


def absolute(cfg: TrainConfig) -> TrainConfig:
    """With folders that mean the same from everywhere: a run is evaluated and resumed from other places."""
    warm_from = None if cfg.warm_from is None else cfg.warm_from.absolute()
    return replace(cfg, warm_from=warm_from, data=replace(cfg.data, root=cfg.data.root.absolute()))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl: "step", "stage" and numbers. What a crash or a full disk spoiled is left out."""
    path, lines = run / "metrics.jsonl", []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if (
            not isinstance(line, dict)
            or not isinstance(line.get("stage"), str)
            or not isinstance(line.get("step"), int)
        ):
            continue
        numbers = [value for name, value in line.items() if name != "stage"]
        # Integers beyond 64 bits are damage, and no float can hold them.
        if all(isinstance(n, float) or (isinstance(n, int) and abs(n) < 2**63) for n in numbers):
            lines.append(line)
    return lines


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Settings that differ and move numbers, as "name was old and is now new"; both of one dataclass of config.py."""
    out = []
    for mark in dataclasses.fields(old):
        was, now = getattr(old, mark.name), getattr(new, mark.name)
        if dataclasses.is_dataclass(was):
            out += differences(was, now, f"{prefix}{mark.name}.")
        elif moves_numbers(mark) and not _same(was, now):
            out.append(f"{prefix}{mark.name} was {was} and is now {now}")
    return out


def _same(was: Any, now: Any) -> bool:
    if isinstance(was, Path) and isinstance(now, Path):
        return was.absolute() == now.absolute()
    return was == now


def free_names(cfg: Any) -> set[str]:
    """Names of the settings of all groups that move no number."""
    names = set()
    for mark in dataclasses.fields(cfg):
        value = getattr(cfg, mark.name)
        if dataclasses.is_dataclass(value):
            names |= free_names(value)
        elif not moves_numbers(mark):
            names.add(mark.name)
    return names
