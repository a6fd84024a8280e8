"""Every row of the table of refusals in docs/faq.md, against the line that the program really says."""

import json
import pickle
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import av
import numpy as np
import pytest
import soundfile
import torch
from one_line import refused
from PIL import Image
from safetensors.torch import load_file, save_file

import fastdmt
from fastdmt.errors import InputError
from fastdmt_loaders.decode.pictures import read_frame
from fastdmt_loaders.decode.sound import read_sound
from fastdmt_loaders.tools.check import check_root

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faq.md"
TINY = ("--size", "32", "--batch", "8", "--warmup-steps", "2", "--steps", "2", "--workers", "0", "--logger", "jsonl")
Case = Callable[["Place"], str]
CASES: dict[str, Case] = {}


class Place:
    """A folder to work in, the demo's data and a run; `data` and `run` are copies that may be spoilt."""

    def __init__(self, folder: Path, files: Path, trained: Path) -> None:
        self.folder, self.files, self.trained = folder, files, trained

    @property
    def data(self) -> Path:
        return Path(copytree(self.files, self.folder / "data"))

    @property
    def run(self) -> Path:
        return Path(copytree(self.trained, self.folder / "run"))

    def train(self, data: Path, *more) -> str:
        return refused("train", "--data", data, "--run", self.folder / "new", *TINY, *more)


def case(given: str) -> Callable[[Case], Case]:
    def keep(function: Case) -> Case:
        CASES[given] = function
        return function

    return keep


def raised(function: Callable, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    return str(caught.value)


def rows() -> dict[str, str]:
    """What is given -> what the line says."""
    table = re.findall(r"^\| (.+?) \| `(.+?)` \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(dict(table)) == len(table)
    return {given: said for given, said in table}


def pattern(said: str) -> str:
    return ".+".join(re.escape(part.strip()) for part in said.split("…")).removeprefix(".+")


def test_the_table_and_the_cases_are_the_same():
    assert rows().keys() == CASES.keys() and len(CASES) > 25


@pytest.mark.parametrize("given", CASES)
def test_the_line_is_what_the_page_says(given, tmp_path, files, run):
    said = CASES[given](Place(tmp_path, files, run))
    assert "\n" not in said and re.search(pattern(rows()[given]), said), said


# ------------------------------------------------------------------ data


@case("a folder that is not there as `--data`")
def _(place):
    return place.train(place.folder / "dtaa")


@case("`--batch` beyond the data")
def _(place):
    return place.train(place.files, "--batch", "5000")


@case("a list with bytes of no text")
def _(place):
    (data := place.data).joinpath("train.txt").write_bytes(b"PK\x03\x04" + bytes(100))
    return place.train(data)


@case("a list whose clips are not there")
def _(place):
    (data := place.data).joinpath("test.csv").write_text("absent\n")
    return refused("eval", place.run, "--data", data)


@case("`vggss.json` of another form")
def _(place):
    (data := place.data).joinpath("vggss.json").write_text('{"a": 1}')
    return place.train(data, "--annotations", "vggss")


@case("boxes in XML that define entities")
def _(place):
    data = place.data
    id = (data / "test.csv").read_text().split()[0].split(",")[0]
    (data / "Annotations" / f"{id}.xml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")
    return next(problem.message for problem in check_root(data, workers=1).problems if problem.kind == "annotation")


@case("`data boxes` where boxes are")
def _(place):
    (place.folder / "boxes.csv").write_text("id,x0,y0,x1,y1\na,0,0,1,1\n")
    return refused("data", "boxes", place.folder / "boxes.csv", place.data)


# ------------------------------------------------------------------ media


@case("a picture beyond [the limits](data.md#limits)")
def _(place):
    path = place.folder / "a.png"
    Image.new("L", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return raised(read_frame, path, 64)


@case("a picture of 32-bit pixels")
def _(place):
    Image.fromarray(np.ones((8, 8), np.float32)).save(place.folder / "a.tiff")
    return raised(read_frame, place.folder / "a.tiff", 64)


def sound(place: Place, at: int = 0, change: bytes = b"") -> Path:
    path = place.folder / "a.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(64000) / 9), 16000)
    data = bytearray(path.read_bytes())
    data[at : at + len(change)] = change
    path.write_bytes(data)
    return path


@case("a sound at a rate of 1 or 500,000,000 Hz")
def _(place):
    lines = [raised(read_sound, sound(place, 24, struct.pack("<I", rate)), (16000,)) for rate in (1, 500_000_000)]
    assert "1 Hz" in lines[0]
    return lines[1]


@case("a sound that was cut off")
def _(place):
    path = sound(place)
    path.write_bytes(path.read_bytes()[:60_000])
    return raised(read_sound, path, (16000,))


@case("a sound with NaN")
def _(place):
    soundfile.write(place.folder / "a.wav", np.full(64000, np.nan), 16000, subtype="FLOAT")
    return raised(read_sound, place.folder / "a.wav", (16000,))


@case("a playlist in a video's place")
def _(place):
    path = place.folder / "a.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n")
    return refused("predict", place.run, path)


@case("a video without sound, to `predict`")
def _(place):
    path = place.folder / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return refused("predict", place.run, path)


# ------------------------------------------------------------------ arrays


def localize(place: Place, frame: np.ndarray, pcm: np.ndarray, **options) -> str:
    return raised(fastdmt.load(place.trained).localize, frame, pcm, **options)


FRAME, PCM = np.zeros((32, 32, 3), np.uint8), np.zeros(48000, np.float32)


@case("a frame of floats in 0..255")
def _(place):
    return localize(place, FRAME + 200.0, PCM, rate=16000)


@case("a sound of unsigned bytes")
def _(place):
    return localize(place, FRAME, PCM.astype(np.uint8) + np.uint8(128), rate=16000)


@case("a sound array without its rate")
def _(place):
    return localize(place, FRAME, PCM)


# ------------------------------------------------------------------ runs


@case("a run folder that holds a run")
def _(place):
    return refused("train", "--data", place.files, "--run", place.run, *TINY)


@case("a run folder in which a training goes on")
def _(place):
    run = place.run
    hold = "import sys, pathlib, fastdmt.runs.lock as lock; lock.take(pathlib.Path(sys.argv[1])); "
    hold += "print(1, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", hold, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline()
        return refused("train", "--run", run, "--resume")
    finally:
        other.communicate(b"\n")


@case("`--resume` with other settings")
def _(place):
    return refused("train", "--run", place.run, "--resume", "--lr", "0.5")


@case("weights with NaN")
def _(place):
    weights = (run := place.run) / "best.safetensors"
    tensors = load_file(weights)
    tensors["teachers.0.affine"][0] = float("nan")
    save_file(tensors, weights)
    return refused("eval", run)


@case("weights that changed on the disk")
def _(place):
    weights = (run := place.run) / "best.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 1
    weights.write_bytes(data)
    return refused("eval", run)


class Code:
    def __reduce__(self):
        return print, ("ran",)


@case("a pickle that holds code, as weights")
def _(place):
    torch.save({"model": Code()}, place.folder / "a.pth")
    return refused("import", "ezvsl", place.folder / "a.pth", place.folder / "new")


@case("a web page or a Git LFS pointer, as weights")
def _(place):
    path = place.folder / "a.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "Git LFS pointer" in refused("import", "ezvsl", path, place.folder / "new")
    path.write_text("<!DOCTYPE html><html>404</html>")
    return refused("import", "ezvsl", path, place.folder / "new")


@case("a run whose `config.json` names code")
def _(place):
    config = json.loads((place.trained / "config.json").read_text())
    config["model"]["localizer"] = "evil:Localizer"
    (run := place.run).joinpath("config.json").write_text(json.dumps(config))
    return refused("eval", run)


@case("a checkpoint whose index names code")
def _(place):
    run = place.run
    for folder in run.glob("checkpoints/step-*"):
        (folder / ".metadata").write_bytes(pickle.dumps(Code()))
        (folder / "sha256.json").unlink()
    return refused("eval", run, "--weights", "last")


@case("a run whose checkpoints are all damaged")
def _(place):
    run = place.run
    for part in run.glob("checkpoints/step-*/*.distcp"):
        part.write_bytes(part.read_bytes()[:1000])
    return refused("eval", run, "--weights", "last")
