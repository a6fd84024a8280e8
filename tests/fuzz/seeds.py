"""One small good file of every kind that the project reads."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from films import write_encoded, write_film
from PIL import Image, features
from safetensors.torch import save_file

from fastdmt.cli.compare import COLUMNS
from fastdmt.cli.settings import write_settings
from fastdmt.config import to_dict
from fastdmt.distributed.processes import World
from fastdmt.models.localizer import build_localizer
from fastdmt.models.pair import Model, keep_origins
from fastdmt.presets import preset
from fastdmt.runs import checkpoint, lock, weights
from fastdmt_loaders.dataset.dataset import Split
from fastdmt_loaders.tools.check import check_root
from fastdmt_loaders.tools.demo import make_demo
from fastdmt_loaders.tools.pack import pack

SOUNDS = {
    "pcm16.wav": "PCM_16",
    "float.wav": "FLOAT",
    "gsm.wav": "GSM610",
    "adpcm.wav": "MS_ADPCM",
    "a.flac": "PCM_16",
    "a.ogg": "VORBIS",
}
ENCODED = {"a.mp3": ("libmp3lame", "mp3"), "a.m4a": ("aac", "ipod"), "a.opus": ("libopus", "opus")}


def write_all(root: Path) -> None:
    """Folders pictures, sounds, films, texts, boxes, settings, set, shards, run, signed, weights below `root`."""
    for name in ("pictures", "sounds", "films", "texts", "boxes", "settings", "weights"):
        (root / name).mkdir(parents=True)
    _pictures(root / "pictures")
    _sounds(root / "sounds")
    for suffix, codecs in (("mp4", ("libx264", "aac")), ("mkv", ("libx264", "aac")), ("ts", ("libx264", "aac"))):
        write_film(root / "films" / f"a.{suffix}", codecs=codecs)
    if "libvpx-vp9" in av.codecs_available:
        write_film(root / "films" / "a.webm", codecs=("libvpx", "libopus"), gop=50)
    make_demo(root / "set", clips=16, labelled=3, size=48, videos=0, workers=1)
    for name in ("test_plus_silent.csv", "train.txt", "vggss.json"):
        shutil.copy(root / "set" / name, root / "texts" / name)
    shutil.copy(next((root / "set" / "Annotations").iterdir()), root / "texts" / "boxes.xml")
    check_root(root / "set", workers=1, out=root / "clean")
    pack(root / "set", root / "shards", workers=1, per_shard=20)
    _boxes(root / "boxes", (root / "set" / "test.csv").read_text().split(",")[0].split()[0])
    for suffix in ("yaml", "toml", "json"):
        write_settings(root / "settings" / f"a.{suffix}", preset("demo"))
    _run(root / "signed", root / "set")
    _unsigned(shutil.copytree(root / "signed", root / "run"))
    _weights(root / "weights")


def _pictures(folder: Path) -> None:
    y, x = np.mgrid[:60, :80]
    rgb = np.stack([3 * x, 4 * y, (x * y) % 256], -1).astype(np.uint8)
    picture = Image.fromarray(rgb)
    for name in ("a.jpg", "a.png", "a.bmp", "a.gif", "a.tiff", "a.ppm"):
        picture.save(folder / name)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif, progressive=True)
    picture.convert("P").save(folder / "palette.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    picture.save(folder / "lzw.tiff", compression="tiff_lzw")
    if features.check("webp"):
        picture.save(folder / "a.webp")
    if features.check("avif"):
        picture.save(folder / "a.avif")


def _sounds(folder: Path) -> None:
    pcm = 0.3 * np.sin(np.arange(2 * 8000) / 7)
    for name, subtype in SOUNDS.items():
        soundfile.write(folder / name, pcm, 8000, subtype=subtype)
    for name, (codec, container) in ENCODED.items():
        write_encoded(folder / name, pcm, 8000, codec, container)


def _run(run: Path, data: Path) -> None:
    """What `train` leaves, without having trained."""
    base = preset("demo")
    cfg = dataclasses.replace(base, run=run, data=dataclasses.replace(base.data, root=data, size=32))
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_dict(cfg), indent=2))
    model, origins = Model.build(cfg, pretrained=False)
    keep_origins(run, origins)
    ids = (data / "train.txt").read_text().split()
    Split(ids[:3], ids[3:], ids[:1], ids[1:2], 0, {"leaks": 2}, ["a note"]).save(run / "split.json")
    weights.write_weights(run / "best.safetensors", model.tensors())
    saver = checkpoint.Saver(run, 2, World(torch.device("cpu")))
    rng = [{"cpu": torch.get_rng_state()}]
    progress = {"stage": "unbiased", "done": 4, "best": 0.5, "best_warmup": [0.1, 0.2], "rng": rng}
    saver.save(4, model.tensors(), progress)
    saver.close()
    lines = [{"step": k, "stage": "unbiased", "loss": 0.5, "val_ciou": 0.2, "val_auc": 0.1} for k in range(4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "compare-val.json").write_text(json.dumps(dict.fromkeys([*COLUMNS, "blind", "cap"], 0.5) | {"curves": {}}))
    (run / lock.NAME).write_text('{"pid": 4000000, "host": "elsewhere", "since": "2026-01-01", "command": "train"}\n')


def _unsigned(run: Path) -> None:
    """Without digests, as older versions and other programs write: else they alone would notice the damage."""
    for path in run.glob("checkpoints/*/sha256.json"):
        path.unlink()
    tensors = weights.read_weights(run / "best.safetensors", "")
    save_file(tensors, run / "best.safetensors")


def _boxes(folder: Path, id: str) -> None:
    """One file in each form that is read; every one names the same clip."""
    picture = {"id": 7, "width": 120, "height": 60, "file_name": f"{id}.jpg"}
    coco = {"images": [picture], "annotations": [{"image_id": 7, "category_id": 1, "bbox": [12, 12, 48, 36]}]}
    (folder / "coco.json").write_text(json.dumps(coco | {"categories": [{"id": 1, "name": "drum"}]}))
    value = {"x": 10, "y": 20, "width": 40, "height": 60, "rotation": 5, "rectanglelabels": ["drum"]}
    region = {"original_width": 120, "original_height": 60, "value": value}
    tasks = [{"data": {"image": f"/data/upload/{id}.jpg"}, "annotations": [{"result": [region]}]}]
    (folder / "label_studio.json").write_text(json.dumps(tasks))
    (folder / "vggss.json").write_text(json.dumps([{"file": id, "class": "drum", "bbox": [[0.1, 0.2, 0.5, 0.8]]}]))
    box = '<box label="drum" xtl="12" ytl="12" xbr="60" ybr="48" rotation="5"/>'
    cvat = f'<annotations><image name="{id}.jpg" width="120" height="60">{box}</image></annotations>'
    (folder / "cvat.xml").write_text(cvat)
    (folder / "pixels.csv").write_text(f"id,x0,y0,x1,y1,width,height,class\n{id},12,12,60,48,120,60,drum\n")
    with zipfile.ZipFile(folder / "cvat.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", cvat)


def _weights(folder: Path) -> None:
    layers = {
        f"conv{k}": {
            "weights": np.ones((3, 1, 2, 2), np.float32),
            "biases": np.zeros(2, np.float32),
            "mean": np.zeros(2, np.float32),
            "var": np.ones(2, np.float32),
            "gamma": np.ones(2, np.float32),
            "beta": np.zeros(2, np.float32),
        }
        for k in range(1, 3)
    }
    np.save(folder / "sound8.npy", np.array(layers, dtype=object), allow_pickle=True)
    torch.manual_seed(0)
    localizer = build_localizer("ezvsl", "resnet18", "spectrogram", dim=8, output_stride=32)
    state = {f"module.{k}": v[:2] if v.dim() else v for k, v in localizer.state_dict().items()}
    torch.save({"model": state, "epoch": 3}, folder / "best.pth")
    torch.save({k: v for k, v in list(state.items())[:5]}, folder / "old.pth", _use_new_zipfile_serialization=False)
