"""The run folder's settings: written by a new run, compared by a resumed one."""

from __future__ import annotations

import json
import os
from dataclasses import replace

from fastdmt.config import TrainConfig, load_config, require, to_dict
from fastdmt.errors import FastDMTError
from fastdmt.runs import checkpoint

# Where and how a run happens; its numbers do not depend on these. Of the group `scale` a few count.
FREE = {"resume", "run", "device", "workers", "log_every", "cache", "loader", "max_bad_files", "root", "logger"}
SCALE_COUNTS = {"amp", "tf32", "sync_bn", "optimizer", "accumulate"}


def open_run(cfg: TrainConfig, first: bool) -> TrainConfig:
    """Make the run folder, or check that it can be resumed from.

    Args:
        first: this process writes.

    Returns:
        The configuration; with `resume` set where a launcher started the group again.

    Raises:
        FastDMTError: a run is there and `resume` is not set, or the reverse; other settings; not writable.
    """
    run, path = cfg.run, cfg.run / "config.json"
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) and path.is_file():
        cfg = replace(cfg, resume=True)
    if cfg.resume:
        require(
            path.is_file(),
            f"nothing to resume in {run}: it has no config.json; leave --resume out, or give the run's folder",
        )
        changed = differences(to_dict(load_config(run)), to_dict(cfg))
        require(
            not changed,
            f"{path} says otherwise: {'; '.join(changed)}; resume with the same settings, or give another --run",
        )
        return cfg
    if not first:
        return cfg
    require(
        checkpoint.last_step(run) is None,
        f"{run} already holds a run; go on with --resume, or give another --run",
    )
    try:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(to_dict(cfg), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise FastDMTError(f"cannot write {path}: {error.strerror}; give another --run") from None
    return cfg


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Settings that differ and would change the numbers, as "name was old and is now new"."""
    out = []
    for key in old:
        if isinstance(old[key], dict):
            out += differences(old[key], new[key], f"{prefix}{key}.")
        elif key in FREE or (prefix == "scale." and key not in SCALE_COUNTS):
            continue
        elif old[key] != new[key]:
            out.append(f"{prefix}{key} was {old[key]} and is now {new[key]}")
    return out
