"""Texts about the commands, made from their dataclasses without importing anything heavy: short help, completion."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import shlex
import shutil
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

# What most people set; `--help-all` shows every setting.
ESSENTIALS = (
    "preset", "data", "run", "resume", "algorithm", "labels", "batch", "epochs", "warmup-epochs", "lr", "size",
    "device",
    "gpus", "seed", "logger",
)  # fmt: skip
ACTIONS = ("plan", "config", "save-config")  # of `train` itself: what to do, where settings come from


def fields(config: Any) -> Iterator[tuple[str, Any, str]]:
    """Option name, value and docstring of every setting of a configuration, groups included."""
    docs = _docstrings(type(config))
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value)
        else:
            name = next(
                (m.name for m in getattr(hints[field.name], "__metadata__", ()) if getattr(m, "name", None)), None
            )
            yield (name or field.name).replace("_", "-"), value, docs.get(field.name, "")


def _docstrings(kind: type) -> dict[str, str]:
    """The string below each field of a class."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    body = definition.body
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def short_help(name: str, config: Any, preset: str) -> str:
    """The settings that most people need, with the chosen preset's defaults."""
    known = {option: (value, doc) for option, value, doc in fields(config)}
    width = min(100, shutil.get_terminal_size().columns)
    lines = [f"usage: fastdmt {name} [options]", ""]
    for option in (*ESSENTIALS, *(name for name in ACTIONS if name in known)):
        value, doc = known[option]
        switch = isinstance(value, bool)
        shown = "" if value is None else f"  (default: {value})"
        lines.append(f"  --{option}" + ("" if switch else f" {option.upper().replace('-', '_')}{shown}"))
        lines += textwrap.wrap(doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["", f"Defaults are those of --preset {preset}. All {len(known)} settings: fastdmt {name} --help-all"]
    return "\n".join(lines)


def command_line(*words: Any) -> str:
    """`fastdmt` with these words, as a person types it."""
    return shlex.join(["fastdmt", *map(str, words)])


def completion(shell: str, options: dict[str, list[str]]) -> str:
    """A script for bash or zsh that completes commands, options and files.

    Args:
        options: command -> its options with their dashes.
    """
    first = sorted({command.split()[0] for command in options})
    second = sorted(command.split()[1] for command in options if " " in command)
    cases = "\n".join(f'    "{command}") words="{" ".join(names)}" ;;' for command, names in options.items())
    text = f"""\
_fastdmt() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" words=""
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "{" ".join(first)} --help --version" -- "$word")); return
  fi
  if [[ $command == data ]]; then
    if [[ $COMP_CWORD -eq 2 ]]; then COMPREPLY=($(compgen -W "{" ".join(second)}" -- "$word")); return; fi
    command="data ${{COMP_WORDS[2]}}"
  fi
  case "$command" in
{cases}
  esac
  if [[ $word == -* ]]; then COMPREPLY=($(compgen -W "$words" -- "$word")); fi
}}
complete -o default -F _fastdmt fastdmt
"""
    return ("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "") + text
