"""What reads each kind of file, and what a sane result is. Everything but the documented errors is a fault."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mutations
import numpy as np
import torch

from fastdmt.cli.commands import best_validation
from fastdmt.cli.compare import curves, read_measured
from fastdmt.cli.settings import read_settings
from fastdmt.config import TrainConfig
from fastdmt.data.run_data import kept_split, trained_ids
from fastdmt.drawing import video
from fastdmt.models.inputs import read_picture as read_any_picture
from fastdmt.models.pair import load
from fastdmt.models.pretrained import read_tensors
from fastdmt.reports.release import facts_of
from fastdmt.runs import checkpoint, lock
from fastdmt.runs.settings import load_config
from fastdmt_loaders import AVDataset, read_flickr_xml, read_sound, read_vggss, truth_map
from fastdmt_loaders.dataset.lists import read_whole, write_pairs
from fastdmt_loaders.decode.clips import frame_at
from fastdmt_loaders.decode.pictures import read_frame
from fastdmt_loaders.decode.sound import read_stretch
from fastdmt_loaders.tools.boxes import convert
from fastdmt_loaders.tools.check import check_root
from fastdmt_loaders.tools.pack import read_shards

SEEDS = Path()  # where the good files lie: whoever uses this module sets it


class Target(NamedTuple):
    """Files that are mutated, all in one folder of the seeds, and what reads them.

    `read` gets the mutated copy: a file, or the folder that it belongs to where `whole`.
    """

    files: str  #: glob below the seeds
    read: Callable[[Path], None]
    mutate: Callable[[bytes, np.random.Generator], bytes] = mutations.damaged
    whole: bool = False


def picture(path: Path) -> None:
    frame = read_frame(path, 48)
    assert frame.shape == (48, 48, 3) and frame.dtype == np.uint8
    large = read_any_picture(path)
    assert large.ndim == 3 and large.shape[-1] == 3 and max(large.shape) <= 4096


def sound(path: Path) -> None:
    pcm, length = read_stretch(path, (16000, 22050))
    assert [len(pcm[rate]) for rate in (16000, 22050)] == [48000, 66150] and 0 < length < float("inf")
    assert all(np.isfinite(values).all() for values in pcm.values())


def film(path: Path) -> None:
    picture, moment = frame_at(path, 5.0)
    assert picture.mode == "RGB" and 0 <= moment < 1e6
    pcm = read_sound(path, (16000,), 3.0, moment)[16000]
    assert len(pcm) == 48000 and np.isfinite(pcm).all()
    info = video.probe(path)
    assert info.width > 0 and info.height > 0
    for count, (time, frame) in enumerate(video.sample_frames(path, 1.0)):
        assert frame.dtype == np.uint8 and np.isfinite(time)
        if count > 20:
            break


def boxes(annotation) -> None:
    box = annotation.boxes
    assert box.shape[1:] == (4,) and ((box >= 0) & (box <= 1)).all() and (box[:, 2:] > box[:, :2]).all()
    truth = truth_map(annotation)
    assert np.isfinite(truth).all() and 0 <= truth.min() <= truth.max() <= 1


def vggss(path: Path) -> None:
    for id, annotation in read_vggss(path).items():
        assert isinstance(id, str)
        boxes(annotation)


def listed(path: Path) -> None:
    found = read_whole(path)
    assert found.pairs and all(pair.video and pair.audio for pair in found.pairs)
    again = path.with_name("again.csv")
    write_pairs(again, found.pairs)
    assert read_whole(again).pairs == found.pairs, "what was read is written and read as the same"


def shards(root: Path) -> None:
    dataset = AVDataset(root)
    read_shards(root)
    table = dataset.table(dataset.ids, 3)
    assert np.isfinite(table.boxes).all()
    for i in range(min(3, len(table))):
        assert read_frame(table.frame_path(i), 32).shape == (32, 32, 3)
        read_sound(table.sound_path(i), (16000,))


def checked(root: Path) -> None:
    lines = check_root(root, workers=1, out=root / "clean").lines()
    assert lines and all(isinstance(line, str) for line in lines)


def config(run: Path) -> None:
    cfg = load_config(run)
    assert isinstance(cfg, TrainConfig)
    for group in (cfg, cfg.data, cfg.model, cfg.optim, cfg.scale, cfg.pseudo):
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            wanted = getattr(type(group)(), field.name)
            assert wanted is None or value is None or isinstance(value, (type(wanted), int, str, Path)), field.name
    model = load(run)
    model.maps(torch.zeros(1, 3, 32, 32), {name: SOUNDS[name] for name in model.front_ends})


SOUNDS = {"logmel": torch.zeros(1, 3, 1, 96, 64), "spectrogram": torch.zeros(1, 1, 257, 200)}


def lists_of_run(run: Path) -> None:
    split = kept_split(run)
    assert split is None or all(isinstance(i, str) for i in split.train_labelled)
    trained_ids(run)
    facts_of(dataclasses.replace(load_config(run), run=run))


def weights_of_run(run: Path) -> None:
    model = load(run)
    assert all(torch.isfinite(t).all() for t in model.tensors().values() if t.is_floating_point())


def checkpoint_of_run(run: Path) -> None:
    (run / "best.safetensors").unlink(missing_ok=True)
    model = load(run, "last")
    assert all(torch.isfinite(t).all() for t in model.tensors().values() if t.is_floating_point())
    folder, _ = checkpoint.newest(run)
    progress = checkpoint.read_progress(folder)
    assert isinstance(progress["done"], int)


def signed(run: Path) -> None:
    """What carries a digest is refused or is what was written: no other number passes."""
    whole = load(SEEDS / "signed").tensors()
    for which in ("best", "last"):
        found = load(run, which).tensors()
        assert found.keys() == whole.keys() and all(torch.equal(found[name], t) for name, t in whole.items()), which


def weights(path: Path) -> None:
    found = read_tensors(path)
    assert found and all(isinstance(t, torch.Tensor) for t in found.values())


def log(run: Path) -> None:
    score = best_validation(run)
    assert score is None or isinstance(score, (int, float))
    assert all(isinstance(step, int) for series in curves(run).values() for step, _ in series)


def settings(path: Path) -> None:
    assert isinstance(read_settings(path), TrainConfig)


def boxes_of_others(path: Path) -> None:
    root = path.parent / "set"
    for name in ("frames", "audio"):
        (root / name).mkdir(parents=True)
        for file in (SEEDS / "set" / name).iterdir():
            (root / name / file.name).symlink_to(file)
    converted = convert(path, root)
    assert converted.ids
    for annotation in read_vggss(converted.path).values():
        boxes(annotation)


def owner(run: Path) -> None:
    lock.take(run)
    lock.release(run)
    assert not (run / lock.NAME).read_bytes()


TARGETS = {
    "picture": Target("pictures/*", picture),
    "sound": Target("sounds/*", sound),
    "film": Target("films/*", film),
    "list": Target("texts/*.txt", listed, mutations.reworded),
    "pairs": Target("texts/*.csv", listed, mutations.reworded),
    "vggss": Target("texts/vggss.json", vggss, mutations.revalued),
    "xml": Target("texts/boxes.xml", lambda path: boxes(read_flickr_xml(path)), mutations.reworded),
    "catalogue": Target("shards/*.json", shards, mutations.revalued, whole=True),
    "index": Target("shards/*.idx", shards, mutations.reworded, whole=True),
    "tar": Target("shards/*.tar", shards, whole=True),
    "check": Target("set/.fastdmt-check.json", checked, mutations.revalued, whole=True),
    "config": Target("run/config.json", config, mutations.revalued, whole=True),
    "split": Target("run/split.json", lists_of_run, mutations.revalued, whole=True),
    "origins": Target("run/origins.json", lists_of_run, mutations.revalued, whole=True),
    "safetensors": Target("run/best.safetensors*", weights_of_run, whole=True),
    "metadata": Target("run/checkpoints/*/.metadata", checkpoint_of_run, whole=True),
    "state": Target("run/checkpoints/*/state.pt", checkpoint_of_run, whole=True),
    "tensors": Target("run/checkpoints/*/*.distcp", checkpoint_of_run, whole=True),
    "last": Target("run/checkpoints/last", checkpoint_of_run, mutations.reworded, whole=True),
    "signed": Target("signed/checkpoints/*/*", signed, whole=True),
    "digest": Target("signed/best.safetensors", signed, whole=True),
    "boxes": Target("boxes/*", boxes_of_others),
    "boxes json": Target("boxes/*.json", boxes_of_others, mutations.revalued),
    "boxes text": Target("boxes/*.[cx][sm][vl]", boxes_of_others, mutations.reworded),
    "settings": Target("settings/*", settings, mutations.reworded),
    "compare": Target(
        "run/compare-val.json", lambda run: read_measured(run / "compare-val.json"), mutations.revalued, True
    ),
    "lock": Target("run/.lock", owner, mutations.reworded, whole=True),
    "npy": Target("weights/*.npy", weights),
    "pth": Target("weights/*.pth", weights),
    "log": Target("run/metrics.jsonl", log, mutations.reworded, whole=True),
}
