"""The `fastdmt` command. Arguments are parsed, and wrong ones refused, before torch is imported."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import tyro

from fastdmt.cli import arguments
from fastdmt.cli.helping import completion, short_help
from fastdmt.cli.helping import fields as option_fields
from fastdmt.cli.settings import read_settings
from fastdmt.config import TrainConfig, require
from fastdmt.console import forgive_encodings, one_line
from fastdmt.errors import FastDMTError, InputError
from fastdmt.presets import preset, require_data
from fastdmt.runs.settings import load_config
from fastdmt_loaders.files import MACHINE

COMMANDS: dict[str, tuple[type, str, str]] = {
    "start": (arguments.Start, "start:start", "your videos and boxes to a trained, measured, drawn result"),
    "train": (arguments.Train, "commands:train", "train both localizers (no arguments: the demo)"),
    "eval": (arguments.Eval, "commands:evaluate_run", "every protocol of the field, table, JSON and report.html"),
    "predict": (arguments.Predict, "commands:predict_files", "maps for your own frames, folders and videos"),
    "swap": (arguments.Swap, "commands:swap_sounds", "one picture: a frame, and what each sound and silence mark"),
    "serve": (arguments.Serve, "serve:serve", "a local page: drop pictures and sounds, swap them, move the threshold"),
    "compare": (arguments.Compare, "compare:compare", "several algorithms, several seeds, one table"),
    "import": (arguments.Import, "commands:import_checkpoint", "a checkpoint of EZ-VSL, SLAVC or LVS as a run"),
    "export": (arguments.Export, "commands:export", "weights, settings and a model card in one folder"),
    "demo": (TrainConfig, "commands:demo", "data, training, evaluation and pictures in one go"),
    "slurm": (arguments.Slurm, "slurm:write", "a batch file for Slurm"),
    "data demo": (arguments.DataDemo, "data:demo", "make the demo's files"),
    "data boxes": (arguments.DataBoxes, "data:boxes", "boxes from COCO, Label Studio, CVAT, CSV, ..."),
    "data index": (arguments.DataIndex, "data:index", "lists of your own clips, or the official ones"),
    "data check": (arguments.DataCheck, "data:check", "find broken files before a run does"),
    "data prepare": (arguments.DataPrepare, "data:prepare", "videos or a large tree into what trains fast"),
    "data pack": (arguments.DataPack, "data:pack", "tar shards with an index"),
}


# Commands whose paths must exist already.
READERS = (
    arguments.Start,
    arguments.Eval,
    arguments.Predict,
    arguments.Swap,
    arguments.Serve,
    arguments.Import,
    arguments.Export,
    arguments.DataBoxes,
    arguments.DataCheck,
    arguments.DataPrepare,
    arguments.DataPack,
)


def usage() -> str:
    """The commands, one a line."""
    width = max(map(len, COMMANDS))
    lines = [f"  fastdmt {name:<{width}}  {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fastdmt COMMAND [options]; fastdmt COMMAND --help for its options",
            "",
            *lines,
            "",
            "fastdmt --version; fastdmt completion bash|zsh",
        ]
    )


def parse(args: Sequence[str]) -> tuple[Callable[[object], int | None], object]:
    """Command line -> function and its configuration, importing nothing heavy.

    Raises:
        FastDMTError: unknown command or preset.
        SystemExit: unknown option, or --help.
    """
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        raise SystemExit(0 if args else 2)
    if args[0] in ("--version", "-V", "version"):
        print(_version())
        raise SystemExit(0)
    if args[0] == "completion":
        if len(args) != 2 or args[1] not in ("bash", "zsh"):
            raise FastDMTError("give the shell: fastdmt completion bash, or fastdmt completion zsh")
        print(completion(args[1], {name: options_of(kind) for name, (kind, _, _) in COMMANDS.items()}), end="")
        raise SystemExit(0)
    words = 2 if args[0] == "data" else 1
    name = " ".join(args[:words])
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FastDMTError(f"unknown command {name!r}: {hint}choose one of {', '.join(COMMANDS)}")
    kind, target, _ = COMMANDS[name]
    rest = arguments.current(as_paths(args[words:]))
    if kind is arguments.Compare:  # train's own --labels is one number
        i = next((i for i, word in enumerate(rest[:-1]) if word == "--labels" and "," in rest[i + 1]), None)
        rest = rest if i is None else [*rest[:i], "--label-budgets", *rest[i + 1 :]]
    trains = kind in (TrainConfig, arguments.Train, arguments.Compare)
    settings = _train_default(rest) if trains else None
    default = settings if kind is TrainConfig else kind(train=settings) if trains else None
    if kind in (TrainConfig, arguments.Train) and {"-h", "--help"} & set(rest):
        print(short_help(name, default, _flag(rest, "--preset") or settings.preset))
        raise SystemExit(0)
    rest = ["--help" if word == "--help-all" else word for word in rest]
    config = tyro.cli(
        tyro.conf.OmitArgPrefixes[kind] if trains else kind,
        args=rest,
        default=default,
        prog=f"fastdmt {name}",
    )
    module, function = target.split(":")

    def run(value: object) -> int | None:
        _check_paths(value)
        return getattr(importlib.import_module(f"fastdmt.cli.{module}"), function)(value)

    return run, config


def as_paths(words: Sequence[str]) -> list[str]:
    """Files whose names begin with a dash (one YouTube id in 64 does) are no options.

    A file that exists (with a suffix, which no option has), and everything after `--`, becomes ./-NAME, which no parser
    takes for an option.
    """
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    before = [
        f"./{word}" if word.startswith("-") and Path(word).suffix and Path(word).exists() else word
        for word in words[:end]
    ]
    return before + [f"./{word}" if word.startswith("-") else word for word in words[end + 1 :]]


def options_of(kind: type) -> list[str]:
    """Options of a command with their dashes; positional arguments are files and need no name."""
    out = []
    for field in dataclasses.fields(kind):
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
        if dataclasses.is_dataclass(made):
            out += [f"--{option}" for option, _, _ in option_fields(made)]
        elif "Positional" not in str(field.type):
            out.append("--" + field.name.replace("_", "-"))
    return out


def _check_paths(config: object) -> None:
    """Folders and files that a command reads must be there before seconds go into importing torch."""
    for name in ("run", "data", "root", "source", "checkpoint", "file", "videos", "boxes"):
        path = getattr(config, name, None)
        if isinstance(path, Path) and isinstance(config, READERS) and not path.exists():
            raise FastDMTError(f"{path}: no such file or folder; check the path")
    if isinstance(config, (arguments.Eval, arguments.Predict, arguments.Swap, arguments.Serve, arguments.Export)):
        saved = load_config(config.run, config.trust_localizer)
        if isinstance(config, arguments.Eval) and config.data is None:
            require_data(saved)
    settings = config if isinstance(config, TrainConfig) else getattr(config, "train", None)
    if isinstance(settings, TrainConfig) and getattr(config, "save_config", None) is None:
        require_data(settings, made=True)
    files = config.inputs if isinstance(config, arguments.Predict) else ()
    if isinstance(config, arguments.Swap):
        files = (config.frame, *config.sounds)
    for path in files:
        if not path.exists():
            raise FastDMTError(f"{path}: no such file or folder; check the path")


def _version() -> str:
    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "absent"

    python = ".".join(map(str, sys.version_info[:3]))
    return f"fastdmt {version('fastdmt')} (torch {version('torch')}, Python {python})"


def _train_default(args: list[str]) -> TrainConfig:
    """What single flags replace: the named preset, a file of settings, or those of the run that is resumed."""
    run, file = _flag(args, "--run"), _flag(args, "--config")
    if file is not None:
        require("--resume" not in args, "--resume takes the run's own settings; leave --config out")
        return read_settings(Path(file), _flag(args, "--preset"), _flag(args, "--localizer"))
    if "--resume" in args and _flag(args, "--preset") is None:
        saved = load_config(Path(run) if run else TrainConfig().run, _flag(args, "--localizer"))
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
    forgive_encodings()
    try:
        run, config = parse(sys.argv[1:] if args is None else list(args))
        return run(config) or 0
    except InputError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        # A full disk, a folder that cannot be written, a file in a folder's place: wherever it was noticed.
        if not error.errno or isinstance(error, ConnectionError):
            raise
        where = error.filename if isinstance(error.filename, str) else "a file"
        line = MACHINE.get(error.errno, f"{where}: {error.strerror}; mend access or make room, then run it again")
        print(f"error: {one_line(line)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
