"""The `fastdmt` command. Arguments are parsed, and wrong ones refused, before torch is imported."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from fastdmt.cli import arguments
from fastdmt.config import TrainConfig, load_config
from fastdmt.errors import FastDMTError
from fastdmt.presets import preset

COMMANDS: dict[str, tuple[type, str, str]] = {
    "train": (TrainConfig, "commands:train", "train both localizers (no arguments: the demo)"),
    "eval": (arguments.Eval, "commands:evaluate_run", "every protocol of the field, table, JSON and report.html"),
    "predict": (arguments.Predict, "commands:predict_files", "maps for your own frames, folders and videos"),
    "compare": (arguments.Compare, "compare:compare", "several methods, several seeds, one table"),
    "import": (arguments.Import, "commands:import_checkpoint", "a checkpoint of EZ-VSL, SLAVC or LVS as a run"),
    "export": (arguments.Export, "commands:export", "weights, settings and a model card in one folder"),
    "demo": (TrainConfig, "commands:demo", "data, training, evaluation and pictures in one go"),
    "slurm": (arguments.Slurm, "slurm:write", "a batch file for Slurm"),
    "data demo": (arguments.DataDemo, "commands:data_demo", "make the demo's files"),
    "data index": (arguments.DataIndex, "commands:data_index", "your files against the official lists; the split"),
    "data check": (arguments.DataCheck, "commands:data_check", "find broken files before a run does"),
    "data prepare": (arguments.DataPrepare, "commands:data_prepare", "videos or a large tree into what trains fast"),
    "data pack": (arguments.DataPack, "commands:data_pack", "tar shards with an index"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  fastdmt {name:<{width}}  {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(["usage: fastdmt COMMAND [options]; fastdmt COMMAND --help for its options", "", *lines])


def parse(args: Sequence[str]) -> tuple[Callable[[object], int | None], object]:
    """Command line -> function and its configuration, importing nothing heavy.

    Raises:
        FastDMTError: unknown command or preset.
        SystemExit: unknown option, or --help.
    """
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        raise SystemExit(0 if args else 2)
    words = 2 if args[0] == "data" else 1
    name = " ".join(args[:words])
    if name not in COMMANDS:
        raise FastDMTError(f"unknown command {name!r}: choose one of {', '.join(COMMANDS)}")
    kind, target, _ = COMMANDS[name]
    rest = list(args[words:])
    if kind is arguments.Compare:  # train's own --labels is one number
        i = next((i for i, word in enumerate(rest[:-1]) if word == "--labels" and "," in rest[i + 1]), None)
        rest = rest if i is None else [*rest[:i], "--label-budgets", *rest[i + 1 :]]
    default = _train_default(rest) if kind in (TrainConfig, arguments.Compare) else None
    if kind is arguments.Compare:
        default = arguments.Compare(train=default)
    config = tyro.cli(
        tyro.conf.OmitArgPrefixes[kind] if kind in (TrainConfig, arguments.Compare) else kind,
        args=rest,
        default=default,
        prog=f"fastdmt {name}",
    )
    module, function = target.split(":")

    def run(value: object) -> int | None:
        return getattr(importlib.import_module(f"fastdmt.cli.{module}"), function)(value)

    return run, config


def _train_default(args: list[str]) -> TrainConfig:
    """What single flags replace: the named preset, or the saved configuration of the run that is resumed."""
    run = _flag(args, "--run")
    if "--resume" in args and _flag(args, "--preset") is None:
        saved = load_config(Path(run) if run else TrainConfig().run)
        return dataclasses.replace(saved, run=Path(run) if run else saved.run)
    return preset(_flag(args, "--preset") or "demo")


def _flag(args: list[str], name: str) -> str | None:
    for i, arg in enumerate(args):
        if arg == name and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"{name}="):
            return arg.split("=", 1)[1]
    return None


def main(args: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 done, 1 checks failed, 2 bad input, 130 interrupted and saved."""
    # Waiting OpenMP threads spin; where others want the cores that makes a step five times as long. The default spins
    # for some 100 ms, this for microseconds, and costs nothing on a quiet machine. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # A localizer of one's own (--localizer my_method:Class) lies where the command is given.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        run, config = parse(sys.argv[1:] if args is None else list(args))
        return run(config) or 0
    except FastDMTError as error:
        return _refuse(error)
    except Exception as error:
        # Raised by a package that this one cannot import before its arguments are known to be good.
        if type(error).__name__ == "DataError":
            return _refuse(error)
        raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _refuse(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
