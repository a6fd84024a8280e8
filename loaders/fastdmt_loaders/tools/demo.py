"""A small synthetic data set of real media files, in the layout that the field has on disk.

Every frame shows two or three equally salient objects; the sound belongs to one of them, so a model that ignores the
sound finds it in fewer than half of the frames. The pattern of an object (with its hue as a hint) and the timbre of a
sound tell their class, of ten; everything else about them is random. See `demo_scenes` and `demo_sounds`.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import av
import numpy as np
import soundfile
from PIL import Image

from fastdmt_loaders.errors import DataError
from fastdmt_loaders.parallel import Progress, parallel_map
from fastdmt_loaders.tools.demo_scenes import PATTERNS, compose, draw_scene
from fastdmt_loaders.tools.demo_sounds import TIMBRES, synthesize

CLASSES = tuple(f"{timbre.__name__} ({pattern.__name__})" for timbre, pattern in zip(TIMBRES, PATTERNS))
RATES, RATE_SHARES = (8000, 16000, 22050, 44100), (0.25, 0.45, 0.2, 0.1)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# Who sounds until which second of a video: its first object, its second one, nobody. Maps that follow the sound move,
# vanish and come back.
SCORE = ((0, 6.5), (1, 10.5), (None, 14.5), (0, 18.0))
CODECS = (("webm", "libvpx-vp9", "libopus"), ("mp4", "libx264", "aac"))


class Clip(NamedTuple):
    """What was drawn for one id; `labels[0]` sounds, or nothing does when `silent`."""

    id: str
    labels: tuple[int, ...]
    box: tuple[float, float, float, float]  # of the sounding object: xyxy in 0..1
    silent: bool


class Demo(NamedTuple):
    """What `make_demo` wrote: its folder, and lines for the user about what could not be written."""

    root: Path
    notes: list[str]


def make_demo(
    out: str | Path,
    clips: int = 1600,
    labelled: int = 96,
    seed: int = 0,
    *,
    size: int = 160,
    videos: int = 4,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Demo:
    """Write the data set; the same arguments give the same files.

    Args:
        out: a new or empty folder. It appears when all is written; until then the files lie in `<out>.part`.
        clips: pairs of frame and sound; 3/4 train, 1/16 validation, 3/16 test.
        labelled: training pairs whose boxes may be used (labelled.txt).
        seed: of everything drawn.
        size: shorter side of a frame in pixels; one frame in four is a quarter longer than high, or higher than long.
        videos: in videos/, VP9 + Opus (.webm) and H.264 + AAC (.mp4) in turn.
        workers: processes; None: one a core.
        progress: called with (files done, files in all).

    Raises:
        DataError: counts that leave a list empty, or a folder that holds files or cannot be written.
    """
    test, validation = round(clips * 3 / 16), round(clips / 16)
    train = clips - test - validation
    if clips < 16 or not 1 <= labelled <= train:
        raise DataError(f"{clips} clips leave {train} to train on: give at least 16, and 1 to {train} of them labelled")
    root = Path(out).resolve()
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise DataError(f"{root}: is there and not an empty folder; give a new one")
    part = root.with_name(f"{root.name}.part")
    silent = max(1, test // 10)
    ids = _draw_ids(np.random.default_rng([seed, 0]), clips + silent)
    jobs = [(i, id, i >= clips) for i, id in enumerate(ids)]
    total = len(jobs) + videos

    def shown(before: int) -> Progress | None:
        return (lambda done, _: progress(before + done, total)) if progress else None

    try:
        shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped
        for folder in ("frames", "audio", "Annotations", "videos"):
            (part / folder).mkdir(parents=True)
        made = list(parallel_map(partial(_write_clip, part, seed, size), jobs, workers, shown(0)))
        films = parallel_map(partial(_write_video, part, seed), range(videos), workers, shown(len(jobs)), chunk=1)
        notes = [note for note in films if note]
        _write_lists(part, made[:clips], made[clips:], train, validation, labelled, seed)
        (part / "README.txt").write_text(README.format(clips=clips, train=train, labelled=labelled, seed=seed))
        part.replace(root)
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error.strerror}); give another folder or make room") from error
    return Demo(root, notes)


def _draw_ids(rng: np.random.Generator, count: int) -> list[str]:
    """VGG-Sound's form: 11 characters of a video's name, _, the clip's start in six digits."""
    ids: dict[str, None] = {}
    while len(ids) < count:
        letters = rng.integers(0, 64, 11)
        letters[0] %= 52  # a leading dash would look like an option on the command line
        ids[f"{''.join(ALPHABET[k] for k in letters)}_{rng.integers(0, 300):06d}"] = None
    return list(ids)


def _write_clip(root: Path, seed: int, size: int, job: tuple[int, str, bool]) -> Clip:
    index, id, silent = job
    rng = np.random.default_rng([seed, 1, index])
    labels = tuple(int(k) for k in rng.permutation(len(CLASSES))[: rng.integers(2, 4)])
    width, height = ((size, size), (size, size), (size, size), (size * 5 // 4, size), (size, size * 5 // 4))[
        rng.choice(5, p=(0.25, 0.25, 0.25, 0.125, 0.125))
    ]
    picture, boxes = compose(draw_scene(rng, width, height, labels))
    Image.fromarray(picture).save(root / "frames" / f"{id}.jpg", quality=int(rng.integers(82, 96)))

    rate = int(rng.choice(RATES, p=RATE_SHARES))
    seconds = rng.uniform(1, 3) if rng.random() < 0.15 else min(10.0, 3 + rng.exponential(0.8))
    channels = int(rng.choice((1, 2), p=(0.75, 0.25)))
    pcm = synthesize(rng, labels[0], rate, seconds, channels, snr_db=rng.uniform(2, 18))
    if silent:  # digital silence, or the faint hiss of a microphone
        pcm *= 0 if index % 2 else 3e-4
    kind = "flac" if rng.random() < 0.5 else "wav"
    soundfile.write(root / "audio" / f"{id}.{kind}", pcm, rate, subtype="PCM_16")

    box = boxes[0] / (width, height, width, height)
    if not silent:
        _write_annotation(root / "Annotations" / f"{id}.xml", rng, box)
    return Clip(id, labels, tuple(float(v) for v in box), silent)


def _write_annotation(path: Path, rng: np.random.Generator, box: np.ndarray) -> None:
    """Three annotators of Flickr-SoundNet: integers in a 256-pixel frame, each a few pixels off, some careless."""
    tree = ElementTree.Element("annotation")
    side = 256 * (box[2:] - box[:2]).min()
    for k in range(3):
        careless = 0.12 if rng.random() < 0.1 else 0.03
        drawn = np.rint(256 * box + rng.normal(0, careless * side, 4)).clip(0, 256).astype(int)
        leaves = ElementTree.SubElement(ElementTree.SubElement(tree, "participant", id=str(k + 1)), "bbox")
        for name, text in zip(("name", "xmin", "ymin", "xmax", "ymax"), ("sounding", *map(str, drawn))):
            ElementTree.SubElement(leaves, name).text = text
    ElementTree.indent(tree)
    ElementTree.ElementTree(tree).write(path)


def _write_lists(
    root: Path, clips: Sequence[Clip], silent: Sequence[Clip], train: int, validation: int, labelled: int, seed: int
) -> None:
    names = [clip.id for clip in clips]
    # Every class is as frequent among the labelled clips as elsewhere: which of them carry labels is chance.
    chosen = np.random.default_rng([seed, 2]).permutation(train)[:labelled]
    test = clips[train + validation :]
    for name, ids in (
        ("train.txt", names[:train]),
        ("labelled.txt", [names[i] for i in sorted(chosen)]),
        ("val.txt", names[train : train + validation]),
        ("test.csv", [clip.id for clip in test]),
    ):
        (root / name).write_text("".join(f"{id}\n" for id in ids))
    with (root / "test_plus_silent.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("video", "audio", "label"))
        rows.writerows((clip.id, clip.id, "sounding") for clip in test)
        rows.writerows((clip.id, clip.id, "non-sounding") for clip in silent)
        for k, clip in enumerate(test[: 2 * len(silent)]):  # off-screen: the next sound whose object is not shown
            others = (*test[k + 1 :], *test[:k])
            elsewhere = next((other for other in others if other.labels[0] not in clip.labels), None)
            if elsewhere:
                rows.writerow((clip.id, elsewhere.id, "non-sounding"))
    boxes = [{"file": c.id, "class": CLASSES[c.labels[0]], "bbox": [[round(v, 6) for v in c.box]]} for c in clips]
    (root / "vggss.json").write_text(json.dumps(boxes, indent=0))


def _can_encode(codec: str) -> bool:
    try:
        return bool(av.codec.Codec(codec, "w").name)
    except (av.FFmpegError, ValueError):
        return False


def _write_video(root: Path, seed: int, index: int) -> str | None:
    """Two objects that drift; one sounds, then the other, then none, as `SCORE` says; 10 pictures a second, 320 x 240.

    Returns:
        A line for the user where this machine's FFmpeg lacks an encoder; nothing is written then.
    """
    container, video_codec, audio_codec = CODECS[index % 2]
    path = root / "videos" / f"demo-video{index}_{10 * index:06d}.{container}"
    missing = [codec for codec in (video_codec, audio_codec) if not _can_encode(codec)]
    if missing:
        return f"{path.name}: not written, because this PyAV has no encoder {' nor '.join(missing)}"
    rng = np.random.default_rng([seed, 3, index])
    labels = [int(k) for k in rng.permutation(len(CLASSES))[:2]]
    width, height, seconds, fps, rate = 320, 240, SCORE[-1][1], 10, 48000
    scene = draw_scene(rng, width, height, labels)
    drift = [(rng.uniform(-1, 1, 2) * 12, rng.uniform(0.1, 0.3)) for _ in labels]
    parts, before = [], 0.0
    for who, until in SCORE:
        length, before = until - before, until
        silent = np.zeros((round(rate * length), 2), np.float32)
        parts.append(silent if who is None else synthesize(rng, labels[who], rate, length, 2, snr_db=18))
    pcm = np.concatenate(parts)
    with av.open(str(path), "w") as out:
        options = {"crf": "34", "cpu-used": "8", "deadline": "realtime"} if "vp9" in video_codec else {"crf": "26"}
        video = out.add_stream(video_codec, rate=fps, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = out.add_stream(audio_codec, rate=rate, layout="stereo")
        for i in range(round(seconds * fps)):
            places = [
                (
                    int(np.clip(x + way[0] * np.sin(2 * np.pi * pace * i / fps), 0, width - len(sprite.alpha))),
                    int(np.clip(y + way[1] * np.sin(2 * np.pi * pace * i / fps), 0, height - len(sprite.alpha))),
                )
                for (x, y), (way, pace), sprite in zip(scene.places, drift, scene.sprites)
            ]
            frame = av.VideoFrame.from_ndarray(compose(scene._replace(places=places))[0], format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm.reshape(1, -1)), format="flt", layout="stereo")
        sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
        # An encoder takes frames of its own size and sample format; the resampler cuts and converts.
        cutter = av.AudioResampler(audio.format, "stereo", rate, frame_size=audio.frame_size or 1024)
        for piece in [*cutter.resample(sound), *cutter.resample(None)]:
            out.mux(audio.encode(piece))
        out.mux(audio.encode(None))
    return None


README = """FastDMT demo data: {clips} pairs of frame and sound, {train} to train on ({labelled} labelled), seed {seed}.
Drawn and synthesised by `fastdmt data demo`; free to use for anything.

frames/<id>.jpg        two or three patterned objects; exactly one of them sounds
audio/<id>.wav|flac    its sound: 8 to 44.1 kHz, 1 to 10 s, one or two channels, with background noise
Annotations/<id>.xml   the sounding object as three annotators drew it (integers in a 256-pixel frame)
vggss.json             the exact box (0..1 of the frame) and the class; the pattern and the timbre tell the class
train.txt              ids to train on; labelled.txt: those of them whose boxes may be used
val.txt  test.csv      ids to choose settings on, and to report
test_plus_silent.csv   frame id, sound id, sounding|non-sounding: test pairs, silent clips, off-screen sounds
videos/                one object sounds, then the other, then none, then the first again; in two common forms

Boxes exist for every pair, also for those that count as unlabelled: only diagnostics may look at them.
"""
