"""The settings of a run folder, config.json, as it may come from anybody: every value is held to its type.

This file never imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any

from fastdmt.config import TrainConfig, require
from fastdmt.errors import FastDMTError, first_line

LARGEST = 1 << 20  # bytes of a config.json; ours has five thousand


def load_config(run: Path, trust_localizer: str | None = None) -> TrainConfig:
    """The resolved configuration of a run folder.

    Args:
        trust_localizer: the `package.module:Class` that its localizer may be. A localizer of one's own is code, and
            a folder that was downloaded must not choose what is imported: any other such name is refused.

    Raises:
        FastDMTError: not a run folder, a damaged config.json, or a localizer that is code and not trusted.
    """
    path = run / "config.json"
    require(path.is_file(), f"{run} is not a run folder: it has no config.json; give the folder that `train` wrote")
    try:
        require(path.stat().st_size <= LARGEST, f"more than {LARGEST >> 20} MiB")
        cfg = from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, FastDMTError) as error:
        raise FastDMTError(f"{path} cannot be read ({first_line(error)}); restore it or train again") from None
    name = cfg.model.localizer
    require(
        ":" not in name or name == trust_localizer,
        f"{path} names the localizer {name!r}, which is code and is not imported for a file's sake; "
        "if you know it, add --trust-localizer with that name (to resume: --localizer)",
    )
    return cfg


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """Rebuild a saved configuration; the inverse of `fastdmt.config.to_dict`.

    Raises:
        FastDMTError: a field that this version does not know, or a value of another type, by name.
    """
    return _build(TrainConfig, values, "")


def _build(cls: type, values: Any, prefix: str) -> Any:
    require(isinstance(values, dict), f"{prefix.rstrip('.') or 'config.json'} is no group of settings")
    if cls is TrainConfig and "method" in values:  # its name until version 0.2
        values = {"algorithm": values["method"], **{k: v for k, v in values.items() if k != "method"}}
    kinds = typing.get_type_hints(cls)
    unknown = set(values) - set(kinds)
    require(not unknown, f"config.json holds settings this version does not know: {', '.join(sorted(unknown))!r:.200}")
    out = {}
    for name, value in values.items():
        kind = kinds[name]
        if dataclasses.is_dataclass(kind):
            out[name] = _build(kind, value, f"{prefix}{name}.")
            continue
        try:
            out[name] = _value(kind, value)
        except TypeError:
            raise FastDMTError(f"{prefix}{name} cannot be {value!r:.100}") from None
    return cls(**out)


def _value(kind: Any, value: Any) -> Any:
    """A JSON value as a field's type. Raises TypeError: it is none."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in of:
            return None
        return _value(next(part for part in of if part is not type(None)), value)
    if origin is typing.Literal:
        if any(value == choice and type(value) is type(choice) for choice in of):
            return value
    elif origin is tuple:
        if isinstance(value, list) and len(value) == len(of):
            return tuple(_value(part, entry) for part, entry in zip(of, value))
    elif kind is Path:
        if isinstance(value, str) and "\0" not in value:
            return Path(value)
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return value
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise TypeError(value)
