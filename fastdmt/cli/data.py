"""`fastdmt data`: what each command does, and the command to type next."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastdmt.cli import arguments
from fastdmt.cli.helping import command_line
from fastdmt.config import require
from fastdmt.console import CONSOLE, bar, say
from fastdmt.data import official_lists
from fastdmt.data.own_lists import draw_lists
from fastdmt.errors import FastDMTError
from fastdmt_loaders.tools import boxes as converting
from fastdmt_loaders.tools import check as checking
from fastdmt_loaders.tools import pack as packing
from fastdmt_loaders.tools import prepare as preparing
from fastdmt_loaders.tools.demo import make_demo

LISTS = {"train.txt": "--train-list", "labelled.txt": "--labelled-list", "val.txt": "--val-list",
         "test.csv": "--test-list"}  # fmt: skip


def say_next(*words: Any) -> None:
    """What to type next."""
    say(CONSOLE, f"next: {command_line(*words)}")


def demo(args: arguments.DataDemo) -> int:
    """`fastdmt data demo`."""
    if args.out.exists() and any(args.out.iterdir()):
        raise FastDMTError(f"{args.out} is not empty; give a new folder")
    with bar(CONSOLE, "writing files") as tick:
        made = make_demo(args.out, args.clips, args.labelled, args.seed, progress=tick)
    for line in (*made.notes, f"written: {made.root}"):
        say(CONSOLE, line)
    say_next("train", "--data", made.root)
    return 0


def index(args: arguments.DataIndex) -> int:
    """`fastdmt data index`."""
    official = args.dataset is not None and args.lists is not None
    require(
        args.own != official,
        "give --own for your own data, or --dataset flickr|vggss and --lists FOLDER for the official lists",
    )
    counts = {"labelled": args.labelled, "validation": args.validation, "test": args.test}
    if args.own:
        require(args.dataset is None and args.lists is None, "--own takes neither --dataset nor --lists")
        found = draw_lists(args.root, seed=args.seed, **counts, force=args.force)
    else:
        wanted = {"labelled": official_lists.LABELLED, "validation": official_lists.VALIDATION}
        wanted |= {"test": official_lists.TEST} | {role: n for role, n in counts.items() if n is not None}
        found = official_lists.index(
            args.root,
            args.dataset,
            args.lists,
            seed=args.seed,
            counts=tuple(wanted.values()),
            train_list=args.train_list,
            force=args.force,
        )
    for line in found.lines:
        say(CONSOLE, line)
    say_next("data", "check", args.root)
    return 0


def check(args: arguments.DataCheck) -> int:
    """`fastdmt data check`: exit code 1 when a run on these lists would stop."""
    with bar(CONSOLE, "reading files") as tick:
        report = checking.check_root(args.root, workers=args.workers or None, progress=tick)
    for line in report.lines():
        say(CONSOLE, line)
    clean: list[Any] = []
    if report.fatal:
        say(CONSOLE, "mend the files named above, or train without them:")
        clean = [word for path in report.clean if path.name in LISTS for word in (LISTS[path.name], path.resolve())]
    known = any((args.root / name).is_file() for name in LISTS)
    say_next(*(("train", "--data", args.root, *clean) if known else ("data", "index", args.root, "--own")))
    return 1 if report.fatal else 0


def prepare(args: arguments.DataPrepare) -> int:
    """`fastdmt data prepare`: exit code 1 when an item could not be made."""
    part = re.fullmatch(r"(\d+)/(\d+)", args.part)
    require(
        part is not None and 1 <= int(part[1]) <= int(part[2]),
        f"--part {args.part}: give i/n with i from 1 to n, for example --part 3/32",
    )
    with bar(CONSOLE, "preparing") as tick:
        done = preparing.prepare(
            args.source,
            args.out,
            seconds=args.seconds,
            rate=args.rate,
            side=args.side,
            moment=args.moment,
            part=(int(part[1]), int(part[2])),
            workers=args.workers or None,
            progress=tick,
        )
    for line in done.failed:
        say(CONSOLE, line)
    say(CONSOLE, f"{args.out}: {done.done:,} made, {done.skipped:,} were there, {len(done.failed):,} failed")
    if has_boxes(args.out):
        say_next("data", "check", args.out)
    else:
        say(CONSOLE, "next, with a file of boxes (VGG-SS, COCO, Label Studio, CVAT, CSV):")
        say(CONSOLE, f"  {command_line('data', 'boxes')} FILE {command_line(args.out).removeprefix('fastdmt ')}")
    return 1 if done.failed else 0


def has_boxes(root: Path) -> bool:
    """Does a data folder hold boxes?"""
    return (root / "vggss.json").is_file() or (root / "Annotations").is_dir()


def boxes(args: arguments.DataBoxes) -> int:
    """`fastdmt data boxes`."""
    for line in converting.convert(args.file, args.root, args.source, args.force).lines:
        say(CONSOLE, line)
    say_next("data", "index", args.root, "--own")
    return 0


def pack(args: arguments.DataPack) -> int:
    """`fastdmt data pack`."""
    with bar(CONSOLE, "packing") as tick:
        shards = packing.pack(
            args.root, args.out, per_shard=args.per_shard, workers=args.workers or None, progress=tick
        )
    records = sum(map(len, shards.ids))
    say(CONSOLE, f"written: {len(shards.files):,} shards of {records:,} records in {args.out}")
    say_next("train", "--data", args.out)
    return 0
