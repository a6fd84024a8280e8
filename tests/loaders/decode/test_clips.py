"""Data sets whose frames/ holds videos: every loader takes the middle frame, DALI's decoder as well as PyAV."""

import json
from itertools import islice

import av
import numpy as np
import pytest
import soundfile
import torch
from films import write_film

from fastdmt_loaders import AVDataset, DataError, Plan, View, make_loader
from fastdmt_loaders.dataset.stored import member
from fastdmt_loaders.decode.clips import effort, frame_at, middle_number
from fastdmt_loaders.decode.pictures import read_frame
from fastdmt_loaders.tools.check import check_root

RATE, SECONDS, ITEMS = 10, 3, 12
PLAN, VIEW = Plan(4, 8, 2, 4), View(size=48, front_ends=("logmel",), seconds=1.0, augment=False, audio_augment="none")
CODECS = {"webm": ("libvpx-vp9", {"lossless": "1", "cpu-used": "8"}), "mp4": ("libx264", {"qp": "1", "g": "12"})}


def write_clip(path, suffix, hue, codec=None):
    """A clip whose brightness tells the frame's number: 16 + 6 k."""
    name, options = CODECS[suffix] if codec is None else codec
    with av.open(str(path), "w") as container:
        stream = container.add_stream(name, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for k in range(RATE * SECONDS):
            image = np.full((64, 96, 3), 16 + 6 * k, np.uint8)
            image[:, :hue] = 255  # what tells clips apart
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_root(root, suffix):
    for folder in ("frames", "audio"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = [f"clip_{i:06d}" for i in range(ITEMS)]
    for i, id in enumerate(ids):
        write_clip(root / "frames" / f"{id}.{suffix}", suffix, hue=4 * (i + 1))
        soundfile.write(root / "audio" / f"{id}.wav", 0.1 * rng.standard_normal(16000 * SECONDS), 16000)
    boxes = [{"file": id, "class": "noise", "bbox": [[0.1, 0.1, 0.6, 0.6]]} for id in ids]
    (root / "vggss.json").write_text(json.dumps(boxes))
    (root / "train.txt").write_text("".join(f"{id}\n" for id in ids))
    return root


@pytest.fixture(scope="module", params=["webm", "mp4"])
def root(request, tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("clips") / "root", request.param)


@pytest.fixture
def own(tmp_path):
    return write_root(tmp_path / "own", "webm")


def batches(dataset, count=3, **options):
    ids = dataset.ids
    return list(islice(make_loader(dataset, ids[:4], ids[4:], PLAN, VIEW, **options), count))


def test_the_frame_in_the_middle(root):
    path = next((root / "frames").iterdir())
    picture, time = frame_at(str(path))
    assert time == pytest.approx(SECONDS / 2, abs=0.5 / RATE)
    number = middle_number(path.read_bytes(), str(path))
    assert number == SECONDS * RATE // 2
    assert abs(int(np.asarray(picture)[32, 90, 0]) - (16 + 6 * number)) <= 2
    assert np.array_equal(read_frame(path, 48), np.asarray(picture.convert("RGB").resize((48, 48), 3)))


@pytest.mark.parametrize("options", [{"cache": "host"}, {"kind": "dali", "cache": "none", "workers": 1}])
def test_every_loader_takes_the_same_frame(root, options):
    if options.get("kind") == "dali":
        pytest.importorskip("nvidia.dali")
    dataset = AVDataset(root)
    want = batches(dataset, kind="torch", cache="none", workers=0)
    assert len({float(frame.mean()) for frame in want[0].frames_weak}) == 6, "clips must differ"
    for got, other in zip(batches(dataset, **options), want, strict=True):
        assert got.ids == other.ids
        # DALI resizes no clip on a CPU: PyAV's frame goes there as a picture of the final size.
        assert (got.frames_weak - other.frames_weak).abs().max() < 1e-4


def by_dali(dataset, device):
    from fastdmt_loaders.sources.dali import DaliSource

    table = dataset.table(dataset.ids, 3)
    source = DaliSource(table, PLAN, VIEW, torch.device(device), threads=1, readers=0, depth=2, clips=True)
    return source, islice(source.batches(0), 3)


def assert_near_pyav(dataset, raws):
    """Two decoders' YUV to RGB and two resizers, on sharp edges; the next frame would be 6 levels away."""
    for raw in raws:
        assert not raw.bad
        for frame, item in zip(raw.frames, raw.index):
            want = torch.from_numpy(read_frame(dataset.frame_path(dataset.ids[int(item)]), VIEW.resize).copy())
            error = frame.cpu().permute(1, 2, 0).float() - want.float()
            assert error.abs().mean() < 2.0 and error.median().abs() <= 2


@pytest.mark.parametrize(
    ("device", "suffix"),
    [
        ("cpu", "webm"),
        pytest.param("cuda", "webm", marks=pytest.mark.gpu),
        pytest.param("cuda", "mp4", marks=pytest.mark.gpu),
    ],
)
def test_dalis_decoder_takes_the_same_frame(tmp_path, device, suffix):
    pytest.importorskip("nvidia.dali")
    dataset = AVDataset(write_root(tmp_path / "root", suffix))
    source, raws = by_dali(dataset, device)
    assert_near_pyav(dataset, raws)
    assert source.rebuilt == 0, "PyAV decoded, not DALI"


def test_a_clip_that_dali_refuses_is_named_and_replaced(own, caplog):
    pytest.importorskip("nvidia.dali")
    dataset = AVDataset(own)
    first = PLAN.index(0)[0]
    # MPEG-4 is no codec of DALI's CPU backend; PyAV knows it.
    path = dataset.frame_path(dataset.ids[int(first)])
    write_clip(path.with_suffix(".avi"), "avi", 8, ("mpeg4", {}))
    path.write_bytes(path.with_suffix(".avi").read_bytes())
    path.with_suffix(".avi").unlink()
    source, raws = by_dali(dataset, "cpu")
    raws = list(raws)
    assert len(raws) == 3 and source.rebuilt >= 1
    assert path.name in caplog.text
    assert np.array_equal(raws[0].index, PLAN.index(0)), "decoded by PyAV this once"


def test_a_clip_without_pictures_inside_a_tar_is_named(tmp_path):
    wave = tmp_path / "sound.wav"
    soundfile.write(wave, np.zeros(800), 16000)
    tar = tmp_path / "shard.tar"
    tar.write_bytes(wave.read_bytes())
    with pytest.raises(DataError, match=r"shard\.tar.*clip\.mp4: has no picture stream"):
        read_frame(member(str(tar), 0, tar.stat().st_size, "clip.mp4"), 32)


def test_broken_clips_are_named(own):
    path = own / "frames" / "clip_000003.webm"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"clip_000003\.webm"):
        read_frame(path, 32)
    report = check_root(own, workers=1)
    assert any("clip_000003" in line for line in report.lines())
    with pytest.raises(DataError, match=r"clip_000003\.webm"):
        middle_number(path.read_bytes()[:20], str(path))


@pytest.mark.parametrize("gop", [25, 250])
def test_effort_counts_from_the_last_key_frame_to_the_middle(tmp_path, gop):
    path = write_film(tmp_path / "film.mp4", gop=gop)  # 250 frames, the middle is number 125
    frames, seconds = effort(path)
    assert frames == 125 % gop + 1 and seconds > 0
