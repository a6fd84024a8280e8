"""From a configuration to ids: opens the data folder, applies the lists, says what was dropped."""

from __future__ import annotations

import contextlib
import shlex
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fastdmt.config import TrainConfig, require
from fastdmt.console import bar
from fastdmt.distributed.processes import World
from fastdmt.errors import FastDMTError, InputError
from fastdmt.names import ALGORITHMS
from fastdmt.presets import makes_demo, require_data
from fastdmt_loaders import (
    AVDataset,
    EvalBatch,
    Pair,
    Plan,
    Split,
    View,
    eval_batches,
    make_loader,
    make_split,
    read_list,
    read_pairs,
)  # fmt: skip
from fastdmt_loaders.dataset.dataset import ROLES
from fastdmt_loaders.dataset.lists import write_list
from fastdmt_loaders.decode.clips import effort, is_clip
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.loader import Loader
from fastdmt_loaders.parallel import cores
from fastdmt_loaders.tools.demo import make_demo

MAX_BOXES = 8  # boxes an item keeps: VGG-SS names every sounding object of the frame
LOOKED_AT = 3  # clips whose cost is measured
RESIDENT = 1024  # validation items kept decoded between two validations


@dataclass
class Data:
    """The items of a run.

    Attributes:
        dataset: files and boxes.
        split: ids by role, written beside the run.
        summary: lines for the log: sizes, and everything that was dropped.
    """

    dataset: AVDataset
    split: Split
    cfg: TrainConfig
    summary: list[str]
    features: Any = None  # a `models.feature_cache.Features`: what frozen encoders say, in place of frames and sound
    _resident: list[EvalBatch] = field(default_factory=list)

    @property
    def labelled(self) -> list[str]:
        return self.split.train_labelled

    @property
    def unlabelled(self) -> list[str]:
        return self.split.train_unlabelled

    @property
    def validation(self) -> list[str]:
        return self.split.validation

    def view(self, front_ends: tuple[str, ...], augment: bool) -> View:
        """How items are shown: training (random crop of a 1.1x resize) or plain."""
        data = self.cfg.data
        return View(data.size, front_ends, data.seconds, augment, data.audio_augment, MAX_BOXES)

    def training(self, view: View, labelled: int, unlabelled: int, seed: int, world: World) -> Loader:
        """This process's batches without end; `labelled` and `unlabelled` rows a step, over all processes."""
        data, parts = self.cfg.data, self.cfg.scale.accumulate
        ids = self.unlabelled if unlabelled else []
        rows = (labelled // parts, unlabelled // parts)
        if self.features is not None:
            return self.features.loader(Plan(len(self.labelled), len(ids), *rows, seed, world.rank, world.size))
        workers = data.workers
        if workers < 0:  # the machine's cores belong to all its processes
            workers = None if world.size == 1 else max(1, cores() * world.nodes // world.size)
        return make_loader(
            self.dataset,
            self.labelled,
            ids,
            Plan(len(self.labelled), len(ids), *rows, seed, world.rank, world.size),
            view,
            kind=data.loader,
            device=world.device,
            workers=workers,
            cache=data.cache,
            max_bad=data.max_bad_files,
            group=None if data.cache == "none" else world.own_group("loader"),  # each keeps a share of the cache
        )

    def validation_batches(self, front_ends: tuple[str, ...], world: World) -> list[EvalBatch]:
        """Decoded validation items, this process's share of them; small sets are decoded once and kept."""
        if self._resident:
            return self._resident
        pairs = [Pair(i, i, True) for i in self.validation[world.rank :: world.size]]
        device = world.device
        batches = list(eval_batches(self.dataset, pairs, self.view(front_ends, augment=False), 64, device=device))
        if self.features is not None:
            batches = [self.features.encode(batch) for batch in batches]
        if len(pairs) <= RESIDENT:
            self._resident = batches
        return batches

    def write_splits(self, run: Path) -> None:
        """Beside the run, because the published splits are unknown and cannot be reconstructed; never written over.

        Raises:
            FastDMTError: they cannot be written.
        """
        folder = run / "lists"
        if self.cfg.resume and kept_split(run) == self.split:
            return
        try:
            folder.mkdir(exist_ok=True)
            for role in ROLES:
                write_list(folder / f"{role}.txt", getattr(self.split, role))
            self.split.save(run / "split.json")
        except OSError as error:
            raise FastDMTError(f"cannot write {folder}: {error.strerror}; make room or mend access") from None


def open_files(cfg: TrainConfig) -> AVDataset:
    """The data folder. Raises FastDMTError, DataError."""
    require_data(cfg)
    return AVDataset(cfg.data.root, cfg.data.annotations)


def open_data(cfg: TrainConfig, console: Console) -> Data:
    """Open `cfg.data.root`, made first where it is a new demo's, and give every id its role.

    A run that goes on keeps the roles that it began with, whatever the lists say now.

    Raises:
        DataError, FastDMTError: no folder, an empty list, an id without a file, no labels.
    """
    root = cfg.data.root
    if makes_demo(cfg) and not root.exists():
        with bar(console, f"making the demo's files in {root}") as tick:
            make_demo(root, progress=tick)
    dataset = open_files(cfg)
    kept = kept_split(cfg.run) if cfg.resume else None
    if kept is None:
        split, notes = _drawn(cfg, dataset), []
    else:
        _require_items(cfg, dataset, kept)
        split, notes = kept, _news(cfg, dataset, kept)
    if ALGORITHMS[cfg.algorithm].uses_boxes:
        require(
            split.train_labelled,
            f"{root}: no labelled clip is left; check {cfg.data.labelled_list} and its boxes"
            if dataset.rule
            else f"{root}: no boxes; make them from a file that you have with: fastdmt data boxes FILE {root}",
        )
    if cfg.batch_unlabelled:
        require(split.train_unlabelled, f"{root}: no unlabelled clip is left; check {cfg.data.train_list}")
    clips = len({*split.train_labelled, *split.train_unlabelled})
    require(
        cfg.optim.batch <= clips,
        f"--batch {cfg.optim.batch:,} is more than the {clips:,} training clips of {root}: give at most so many",
    )
    summary = [
        f"{root}: {len(split.train_labelled):,} labelled, {len(split.train_unlabelled):,} unlabelled, "
        f"{len(split.validation):,} validation, {len(split.test):,} test clips ({dataset.rule} boxes)",
        *split.warnings,
        *notes,
        *_cost_of_clips(dataset, [*split.train_labelled, *split.train_unlabelled]),
    ]
    return Data(dataset, split, cfg, summary)


def _cost_of_clips(dataset: AVDataset, ids: list[str]) -> list[str]:
    """A line where training items are videos, of which one frame is wanted: what it takes, from a few of them."""
    clips = [i for i in ids if i in dataset.frames and is_clip(dataset.frames[i])]  # a missing one is told elsewhere
    efforts = []
    for i in clips[:: max(1, len(clips) // LOOKED_AT)][:LOOKED_AT]:
        with contextlib.suppress(DataError):  # broken files are the loader's to name
            efforts.append(effort(dataset.frame_path(i)))
    if not efforts:
        return []
    frames, seconds = (statistics.median(column) for column in zip(*efforts))
    better = f"{dataset.root}-prepared"
    return [
        f"{len(clips):,} of {len(ids):,} training frames are clips: the one frame wanted of each takes {frames:.0f} "
        f"decoded ones, {1e3 * seconds:.0f} ms of a core, so this machine's {cores()} read {cores() / seconds:,.0f} a "
        f"second, in every epoch unless the cache holds them; make pictures of them once with: "
        f"{shlex.join(['fastdmt', 'data', 'prepare', str(dataset.root), better])}"
    ]


def _drawn(cfg: TrainConfig, dataset: AVDataset) -> Split:
    """Roles by the data folder's lists and the seed."""
    root = cfg.data.root
    names = {
        "train": cfg.data.train_list,
        "labelled": cfg.data.labelled_list,
        "validation": cfg.data.val_list,
        "test": cfg.data.test_list,
    }
    lists = {role: root / name for role, name in names.items() if (root / name).is_file()}
    for role, name in names.items():
        default = getattr(type(cfg.data)(), {"validation": "val_list"}.get(role, f"{role}_list"))
        require(role in lists or name == default, f"{root / name}: no such list; give an existing {role} list")
    split = make_split(
        dataset,
        seed=cfg.data.split_seed,
        labels=cfg.data.labels or None,
        validation=cfg.data.val or None,
        test=cfg.data.test or None,
        lists=lists,
    )
    if cfg.batch_unlabelled and "train" not in lists and not split.train_unlabelled:
        split.train_unlabelled = list(split.train_labelled)
        split.notes.append("every clip has boxes: the labelled clips serve as unlabelled ones too")
    return split


def kept_split(run: Path) -> Split | None:
    """The roles that a run began with, from split.json or else from its lists; None where it kept none.

    Raises:
        DataError: split.json, or a list, is damaged.
    """
    path = run / "split.json"
    if path.is_file():
        return Split.load(path)
    lists = [run / "lists" / f"{role}.txt" for role in ROLES]
    return Split(*map(_listed, lists)) if all(path.is_file() for path in lists) else None


def _listed(path: Path) -> list[str]:
    # A list may be empty: a run without labels has no labelled clips.
    return read_list(path) if path.is_file() and path.stat().st_size else []


def _require_items(cfg: TrainConfig, dataset: AVDataset, split: Split) -> None:
    """Everything that a run was trained on is still there. Raises FastDMTError: by name."""
    there = dataset.frames.keys() & dataset.sounds.keys()
    for what, ids in (
        ("no frame or no sound", [i for role in ROLES[:3] for i in getattr(split, role) if i not in there]),
        ("no boxes to learn from", [i for i in split.train_labelled if not dataset.teaches(i)]),
    ):
        more = f", nor have {len(ids) - 1:,} more" if len(ids) > 1 else ""
        require(
            not ids,
            f"{dataset.root}: {ids[0] if ids else ''}, which the run began with, has {what} any more{more}; "
            f"put the files back, or begin another run with another --run than {cfg.run}",
        )


def _news(cfg: TrainConfig, dataset: AVDataset, split: Split) -> list[str]:
    """A line where a new run would have other roles: lists or files changed since."""
    try:
        now = _drawn(cfg, dataset)
    except InputError:
        now = None
    if now is not None and all(getattr(now, role) == getattr(split, role) for role in ROLES):
        return []
    return [
        f"lists or files in {dataset.root} have changed since: this run keeps the lists that it began with, "
        f"{cfg.run / 'lists'}; begin another run to use the new ones"
    ]


def test_pairs(dataset: AVDataset, cfg: TrainConfig, name: str | None = None) -> list[Pair]:
    """Pairs of a list, below the data folder or anywhere else; by default the run's test items.

    Raises:
        DataError: no such list.
        FastDMTError: neither the data folder nor the run names test items.
    """
    if name is not None:
        path = dataset.root / name
        return read_pairs(path if path.is_file() else Path(name))
    drawn = cfg.run / "lists" / "test.txt"
    for path in (dataset.root / cfg.data.test_list, drawn):
        if path.is_file():
            return read_pairs(path)
    raise FastDMTError(f"neither {dataset.root / cfg.data.test_list} nor {drawn} exists; give --list FILE or --suite")


def trained_ids(run: Path) -> list[str]:
    """Every id that a run was trained on; none for a run that was not trained here."""
    return [i for role in ROLES[:2] for i in _listed(run / "lists" / f"{role}.txt")]


def relocate(cfg: TrainConfig, root: Path | None) -> TrainConfig:
    """The same run on another folder, with that folder's boxes where it has none of the run's kind."""
    if root is None:
        return cfg
    there = {"flickr": (root / "Annotations").is_dir(), "vggss": (root / "vggss.json").is_file()}
    kind = cfg.data.annotations if there.get(cfg.data.annotations, True) else "auto"
    return replace(cfg, data=replace(cfg.data, root=root, annotations=kind))
