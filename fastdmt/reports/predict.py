"""Maps for a person's own files: a frame with a sound, a folder, or a video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from fastdmt.drawing import draw, video
from fastdmt.errors import FastDMTError
from fastdmt.evaluation.evaluate import view_of
from fastdmt.evaluation.metrics import largest_box
from fastdmt.files import write_json
from fastdmt.models.inputs import read_picture
from fastdmt.reports.found_boxes import FoundBoxes
from fastdmt.reports.player import write_page
from fastdmt_loaders import FRONT_ENDS, AVDataset, read_sound
from fastdmt_loaders.augment import normalise
from fastdmt_loaders.dataset.dataset import PICTURE_SUFFIXES, SOUND_SUFFIXES
from fastdmt_loaders.decode.clips import VIDEO_SUFFIXES
from fastdmt_loaders.decode.pictures import resize

LEVEL = 0.5  # a pixel sounds where P reaches this
GRID = 112  # side of the maps kept of a video
STRIP_FRAMES, STRIP_ROW, THUMBNAILS = 12, 6, 48
PICTURES = (*PICTURE_SUFFIXES, ".webp", ".bmp")


@dataclass
class Track:
    """The maps of a video: times [T] in seconds, P as uint8 [T, GRID, GRID] of 255."""

    times: list[float] = field(default_factory=list)
    maps: list[np.ndarray] = field(default_factory=list)

    @property
    def peaks(self) -> np.ndarray:
        """Highest P of every map."""
        return np.array([p.max() / 255 for p in self.maps])

    @property
    def shares(self) -> np.ndarray:
        """Share of the frame at or above the threshold, of every map."""
        return np.array([(p >= LEVEL * 255).mean() for p in self.maps])

    def at(self, time: float) -> np.ndarray:
        """P [GRID, GRID] float32 at any moment, linear between its neighbours."""
        after = int(np.searchsorted(self.times, time))
        if after == 0 or after == len(self.times):
            return self.maps[min(after, len(self.times) - 1)].astype(np.float32) / 255
        t0, t1 = self.times[after - 1], self.times[after]
        share = np.float32((time - t0) / (t1 - t0))
        before, later = self.maps[after - 1].astype(np.float32), self.maps[after].astype(np.float32)
        return (before + (later - before) * share) / 255


def predict(
    model,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    source: str = "teachers",
    fps: float = 2.0,
    player: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Localize in files and write what was found.

    A frame with its sound gives `<name>-overlay.jpg`, `<name>-map.png` (P of 255) and `<name>.json`; a video gives
    `<name>-overlay.mp4` with its sound, `<name>-strip.png`, `<name>.json` and, on demand, `<name>-player.html`. Several
    inputs also give `predictions.csv`, a line as soon as a file is done, and `predictions.json` in COCO's form.

    Args:
        model: as for `fastdmt.evaluation.evaluate.evaluate`.
        inputs: frames each followed by its sound, videos, or folders of either (also in the field's layout).
        out: folder, made when absent.
        source: whose map.
        fps: maps a second of a video.
        player: write the page.
        progress: called with (inputs done, inputs in all).

    Returns:
        The files written.

    Raises:
        FastDMTError, DataError: a file that is missing, unreadable or without its partner.
    """
    if not fps > 0:
        raise FastDMTError(f"--fps {fps:g} must be positive: it is maps a second of video")
    jobs = find_jobs(inputs)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FastDMTError(f"cannot make the folder {out}: {error.strerror}; give another --out") from None
    written: list[Path] = []
    taken = {"predictions"} if len(jobs) > 1 else set()
    with FoundBoxes(out) if len(jobs) > 1 else nullcontext() as table:
        for done, job in enumerate(jobs):
            name = _free_name(_stem(job[0]), taken)
            place = f"{out / name}"  # a text: a Path would read the dots of some names
            if len(job) == 2:
                files, found = _predict_pair(model, *job, place, source)
            else:
                files, found = _predict_video(model, job[0], place, source, fps, player)
            written += files
            for entry in found if table is not None else ():
                table.add(name, job[0].name, entry["size"], entry, entry.get("second"))
            if progress is not None:
                progress(done + 1, len(jobs))
    return written if table is None else [*written, table.csv, table.coco]


def find_jobs(inputs: Sequence[str | Path]) -> list[tuple[Path, ...]]:
    """Inputs as (frame, sound) and (video,) tuples.

    Raises:
        FastDMTError: see `predict`.
    """
    jobs: list[tuple[Path, ...]] = []
    frame: Path | None = None
    for path in map(Path, inputs):
        if not path.exists():
            raise FastDMTError(f"{path}: no such file or folder; check the path")
        suffix = path.suffix.lower()
        if frame is not None:
            if suffix not in (*SOUND_SUFFIXES, ".aac", *VIDEO_SUFFIXES) or path.is_dir():
                raise FastDMTError(f"{frame}: is a picture, but {path} after it is no sound; give FRAME SOUND in turn")
            jobs.append((frame, path))
            frame = None
        elif path.is_dir():
            jobs += _folder_jobs(path)
        elif suffix in PICTURES:
            frame = path
        elif suffix in VIDEO_SUFFIXES:
            jobs.append((path,))
        elif suffix in SOUND_SUFFIXES:
            raise FastDMTError(f"{path}: a sound needs its frame before it; give FRAME SOUND")
        else:
            raise FastDMTError(f"{path}: neither a picture nor a video; known: {' '.join(VIDEO_SUFFIXES)}")
    if frame is not None:
        raise FastDMTError(f"{frame}: a picture needs a sound after it; give FRAME SOUND")
    if not jobs:
        raise FastDMTError("nothing to localize; give FRAME SOUND, a folder, or a video")
    return jobs


def _folder_jobs(folder: Path) -> list[tuple[Path, ...]]:
    if (folder / "frames").is_dir() and (folder / "audio").is_dir():
        dataset = AVDataset(folder, None)
        return [(dataset.frame_path(i), dataset.sound_path(i)) for i in dataset.ids]
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sounds = {path.stem: path for path in files if path.suffix.lower() in SOUND_SUFFIXES}
    jobs: list[tuple[Path, ...]] = []
    for path in files:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            jobs.append((path,))
        elif path.suffix.lower() in PICTURES and path.stem in sounds:
            jobs.append((path, sounds[path.stem]))
    if not jobs:
        raise FastDMTError(f"{folder}: holds no video and no picture with a sound of the same name; name the files")
    return jobs


def _stem(path: Path) -> str:
    """A file's name without its suffix; of `..jpg` and `...jpg`, which would name a folder, the whole name."""
    return path.stem if path.stem.strip(".") else path.name


def _free_name(stem: str, taken: set[str]) -> str:
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}-{count}"
    taken.add(name)
    return name


@torch.no_grad()
def localize_batch(
    model, frames: Sequence[np.ndarray], sounds: Sequence[dict[int, np.ndarray]], source: str, size: int
) -> np.ndarray:
    """P [N, size, size] float32 of frames [H, W, 3] uint8 with sounds by rate, prepared as evaluation prepares them."""
    side = model.size
    small = [resize(np.array(frame), side) for frame in frames]
    batch = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(model.device)
    features = {}
    for name in model.front_ends:
        rate, function = FRONT_ENDS[name]
        features[name] = function(torch.from_numpy(np.stack([sound[rate] for sound in sounds])).to(model.device))
    return model.maps(normalise(batch), features, source, size).float().cpu().numpy()


# -- a frame with its sound --------------------------------------------------------------------------------------------


def _predict_pair(model, frame_path: Path, sound_path: Path, out: str, source: str) -> tuple[list[Path], list[dict]]:
    view = view_of(model)
    frame = read_picture(frame_path)
    sound = read_sound(sound_path, view.rates, view.seconds)
    p = draw.resize(localize_batch(model, [frame], [sound], source, 224)[0], *frame.shape[:2])
    found = {"frame": str(frame_path), "sound": str(sound_path), "size": [frame.shape[1], frame.shape[0]]}
    found |= describe(p)
    overlay, grey, text = (Path(f"{out}{end}") for end in ("-overlay.jpg", "-map.png", ".json"))
    picture = paint(frame, p, found["box"])
    try:
        Image.fromarray(picture).save(overlay, quality=92)
        Image.fromarray((255 * p).round().astype(np.uint8)).save(grey)
    except OSError as error:
        raise FastDMTError(f"cannot write {overlay}: {error}; give another --out or make room") from None
    write_json(text, found)
    return [overlay, grey, text], [found]


def describe(p: np.ndarray) -> dict:
    """What a map [H, W] says: box of its largest part above the threshold, highest P, share of the frame."""
    mask = p >= LEVEL
    return {"box": largest_box(mask), "peak": round(float(p.max()), 4), "share": round(float(mask.mean()), 4)}


def paint(frame: np.ndarray, p: np.ndarray, box=None) -> np.ndarray:
    """The frame [H, W, 3] under its map, with the mask's border and, on demand, a box xyxy in pixels."""
    picture = draw.outline(draw.overlay(frame, p), draw.resize(p, *frame.shape[:2]) >= LEVEL)
    if box is None:
        return picture
    height, width = frame.shape[:2]
    return draw.boxes_outline(picture, np.array(box) / (width, height, width, height))


# -- a video -----------------------------------------------------------------------------------------------------------


def _predict_video(model, path: Path, out: str, source: str, fps: float, player: bool) -> tuple[list[Path], list[dict]]:
    info = video.probe(path)
    track, thumbnails = _track(model, path, source, fps)
    overlay = video.rewrite(path, f"{out}-overlay", lambda frame, t: paint(frame, track.at(t)))
    strip, text = Path(f"{out}-strip.png"), Path(f"{out}.json")
    try:
        time_strip(track, thumbnails).save(strip)
    except OSError as error:
        raise FastDMTError(f"cannot write {strip}: {error}; give another --out or make room") from None
    size, seconds = [info.width, info.height], per_second(track, info)
    content = {"video": str(path), "size": size, "threshold": LEVEL, "seconds": seconds, "samples": per_sample(track)}
    write_json(text, content)
    written = [overlay, strip, text]
    if player:
        page = Path(f"{out}-player.html")
        write_page(path, track, page)
        written.append(page)
    return written, [{"size": size, **entry} for entry in seconds]


def _track(model, path: Path, source: str, fps: float, batch: int = 16) -> tuple[Track, dict[int, np.ndarray]]:
    """Maps at the sampled moments, and some of the frames, evenly spread, as thumbnails by index."""
    view = view_of(model)
    track, thumbnails, stride = Track(), {}, 1
    pending: list[tuple[float, np.ndarray]] = []

    def flush() -> None:
        # The sound that belongs to a moment lies around it: three seconds, as in training.
        sounds = [read_sound(path, view.rates, view.seconds, centre=time) for time, _ in pending]
        p = localize_batch(model, [frame for _, frame in pending], sounds, source, GRID)
        track.maps += list((255 * p).round().astype(np.uint8))
        track.times += [time for time, _ in pending]
        pending.clear()

    for index, (time, frame) in enumerate(video.sample_frames(path, fps)):
        pending.append((time, frame))
        if index % stride == 0:
            thumbnails[index] = draw.fit(frame, min(160, frame.shape[0]))
            if len(thumbnails) == THUMBNAILS:  # an hour of video keeps no more of them than a minute
                stride *= 2
                thumbnails = {i: picture for i, picture in thumbnails.items() if i % stride == 0}
        if len(pending) == batch:
            flush()
    if pending:
        flush()
    return track, thumbnails


def per_second(track: Track, info: video.Info) -> list[dict]:
    """For every second of the video: the mean map's box in pixels, its highest P and marked share."""
    seconds = np.floor(track.times).astype(int)
    out = []
    for second in np.unique(seconds):
        p = np.mean([track.maps[i] for i in np.flatnonzero(seconds == second)], axis=0) / 255
        out.append({"second": int(second), **describe(draw.resize(p, info.height, info.width))})
    return out


def per_sample(track: Track) -> list[dict]:
    """A row a sampled frame: its second, the map's peak and the share of the frame above the threshold."""
    rows = zip(track.times, track.peaks, track.shares)
    return [{"time": round(t, 3), "peak": round(float(p), 4), "share": round(float(s), 4)} for t, p, s in rows]


def time_strip(track: Track, thumbnails: dict[int, np.ndarray]) -> Image.Image:
    """Up to twelve moments with their maps in rows of six, the time beneath each, and the curve of the highest P."""
    kept = sorted(thumbnails)
    chosen = [kept[i] for i in np.linspace(0, len(kept) - 1, min(STRIP_FRAMES, len(kept))).round().astype(int)]
    gap, label, curve = 8, 20, 72
    tiles = [paint(thumbnails[i], track.maps[i].astype(np.float32) / 255) for i in chosen]
    height, width = tiles[0].shape[:2]
    columns = min(STRIP_ROW, len(tiles))
    rows = -(-len(tiles) // columns)
    canvas_width = gap + columns * (width + gap)
    canvas = Image.new("RGB", (canvas_width, gap + rows * (height + label) + curve + 2 * gap), draw.PAPER)
    pen = ImageDraw.Draw(canvas)
    for k, (i, tile) in enumerate(zip(chosen, tiles)):
        x, y = gap + (k % columns) * (width + gap), gap + (k // columns) * (height + label)
        canvas.paste(Image.fromarray(tile), (x, y))
        text = f"{track.times[i]:.1f} s"
        pen.text((x + width / 2, y + height + label / 2), text, draw.INK, draw.font(12), anchor="mm")
    area = (gap, canvas.height - curve - gap, canvas_width - gap, canvas.height - gap)
    draw.curve(pen, area, track.times, track.peaks)
    return canvas
