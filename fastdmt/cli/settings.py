"""Settings of `train` as a file: read with --config, written with --save-config. YAML, TOML, or JSON (config.json).

A file is a way to write options: keys are options, in groups as in config.json or without, and what a file leaves out
is the preset's. Every value goes through the same parser as on the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from fastdmt.cli import arguments
from fastdmt.cli.helping import fields
from fastdmt.config import TrainConfig, require, to_dict
from fastdmt.errors import FastDMTError, first_line
from fastdmt.files import write_text
from fastdmt.presets import preset

GROUPS = tuple(f.name for f in dataclasses.fields(TrainConfig) if dataclasses.is_dataclass(f.default_factory))
ROOT = {"root": "data"}  # the one field whose option has another name


def with_options(base: TrainConfig, options: str, what: str) -> TrainConfig:
    """The settings with some options of `fastdmt train` on top. Raises FastDMTError: they do not parse."""
    try:
        words = arguments.current(shlex.split(options))
        with contextlib.redirect_stderr(io.StringIO()):  # where tyro explains itself in many lines
            return tyro.cli(tyro.conf.OmitArgPrefixes[TrainConfig], args=words, default=base, console_outputs=False)
    except FastDMTError as error:
        raise FastDMTError(f"{what}: {error}") from None
    except (SystemExit, ValueError) as error:
        raise FastDMTError(f"{what}: {options.strip()!r} are not options of train; see fastdmt train --help") from error


def read_settings(path: Path, name: str | None = None, trust_localizer: str | None = None) -> TrainConfig:
    """The settings of a file.

    Args:
        name: preset for what the file leaves out; None: the one that the file names, else the demo's.
        trust_localizer: the `package.module:Class` that the file may name: it is code, and a file that was downloaded
            must not choose what is imported.

    Raises:
        FastDMTError: no such file, of another kind, broken, or with a setting that does not exist or does not fit.
    """
    content = _content(path)
    try:
        base = preset(str(name or content.get("preset") or "demo"))
    except FastDMTError as error:
        raise FastDMTError(f"{path}: {error}") from None
    known = {option: value for option, value, _ in fields(base)}
    settings = []
    for key, value in _flat(content):
        option = {"method": "algorithm"}.get(key, ROOT.get(key, key)).replace("_", "-")
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            raise FastDMTError(f"{path}: no setting is called {key!r}" + (f"; did you mean {near[0]}?" if near else ""))
        settings.append(shlex.join(_words(option, value, isinstance(known[option], bool))))
    try:
        cfg = with_options(base, " ".join(settings), str(path))
    except FastDMTError:
        for one in settings:  # which of them
            with_options(base, one, str(path))
        raise
    localizer = cfg.model.localizer
    require(
        ":" not in localizer or localizer == trust_localizer,
        f"{path} names the localizer {localizer!r}, which is code; if you know it, add --localizer {localizer}",
    )
    return cfg


def write_settings(path: Path, cfg: TrainConfig) -> None:
    """All settings, in groups, in the form that the suffix says. Raises FastDMTError: another suffix, not writable."""
    content = to_dict(cfg)
    if path.suffix in (".yaml", ".yml"):
        text = _yaml().safe_dump(content, sort_keys=False)
    elif path.suffix == ".toml":
        text = "".join(f"{line}\n" for line in _toml(content))
    else:
        require(path.suffix == ".json", f"{path}: give it the suffix .yaml, .toml or .json")
        text = json.dumps(content, indent=2) + "\n"
    write_text(path, text)


def _content(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise FastDMTError(f"{path}: no file of settings that can be read ({first_line(error)})") from None
    try:
        if path.suffix in (".yaml", ".yml"):
            content = _yaml().safe_load(text)
        elif path.suffix == ".toml":
            try:
                import tomllib
            except ImportError:  # Python 3.10
                raise FastDMTError(f"{path}: TOML needs Python 3.11; write it as YAML or JSON") from None
            content = tomllib.loads(text)
        else:
            require(path.suffix == ".json", f"{path}: settings are .yaml, .toml or .json, or a run's config.json")
            content = json.loads(text)
    except FastDMTError:
        raise
    except Exception as error:  # each parser has its own; YAML's spans lines
        raise FastDMTError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); mend it") from None
    require(isinstance(content, dict), f"{path}: holds no settings; write one `name: value` a line")
    return content


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        raise FastDMTError("YAML needs PyYAML: pip install pyyaml, or write TOML or JSON") from None


def _flat(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if key in GROUPS and isinstance(value, dict):
            yield from value.items()
        else:
            yield str(key), value


def _words(option: str, value: Any, switch: bool) -> list[str]:
    """A setting as it is typed."""
    if switch and isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    values = value if isinstance(value, (list, tuple)) else [value]
    # A name after = is a value even where it begins with a dash.
    if len(values) == 1:
        return [f"--{option}={values[0]}"]
    return [f"--{option}", *map(str, values)]


def _toml(content: dict[str, Any]) -> Iterator[str]:
    groups = {key: value for key, value in content.items() if isinstance(value, dict)}
    for key, value in content.items():
        if key not in groups:
            yield f"{key} = {_toml_value(value)}"
    for key, group in groups.items():
        yield ""
        yield f"[{key}]"
        yield from (f"{name} = {_toml_value(value)}" for name, value in group.items())


def _toml_value(value: Any) -> str:
    """JSON's numbers, lists and texts are TOML's; it has no null, for which the command line takes "None"."""
    return json.dumps("None" if value is None else value, ensure_ascii=False).replace("\x7f", "\\u007f")
