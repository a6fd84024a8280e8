"""What lies on the table of the page to play with: pictures, sounds, and the maps of any picture with any sound."""

from __future__ import annotations

import base64
import itertools
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from fastdmt.drawing import draw
from fastdmt.errors import FastDMTError
from fastdmt.evaluation.evaluate import NOISE_LEVEL, view_of
from fastdmt.models.inputs import read_picture
from fastdmt.reports.predict import GRID, PICTURES, localize_batch
from fastdmt.reports.report import SOUND_RATE, jpeg_uri, sound_uri
from fastdmt_loaders import DataError, read_sound
from fastdmt_loaders.dataset.dataset import SOUND_SUFFIXES
from fastdmt_loaders.decode.clips import VIDEO_SUFFIXES, frame_at
from fastdmt_loaders.decode.limits import decoding
from fastdmt_loaders.decode.media import length_of, open_media, pictures_of

LARGEST = 200 * 2**20  # bytes of one file that is dropped
TOTAL = 2**30  # bytes of all of them; the oldest go first
SHOWN, THUMBNAIL = 960, 96  # longest side of the picture in the page, height of a thumbnail, pixels
ENVELOPE = 160  # bars of the waveform
MADE_SOUNDS = {"silence": 0.0, "noise": NOISE_LEVEL}  # sounds that no file holds: their standard deviation


@dataclass(frozen=True)
class Clip:
    """A picture, a sound, or both; a video is both in one file."""

    name: str
    frame: Path | None = None
    sound: Path | None = None
    seconds: float = 0.0  #: length of a video; 0: its moment cannot be chosen
    size: int = 0  #: bytes on disk that are ours to delete


class Table:
    """Clips by id, and maps of a frame of one with the sound of another.

    Args:
        model: as for `fastdmt.evaluation.evaluate.evaluate`.
        folder: where dropped files are kept; the caller deletes it.
        examples: clips that are there from the start and stay.
        largest: bytes of one file.
    """

    def __init__(self, model, folder: Path, examples: Iterable[Clip] = (), largest: int = LARGEST) -> None:
        self.model, self.folder, self.largest = model, folder, largest
        self.numbers = itertools.count()
        self.clips: OrderedDict[str, Clip] = OrderedDict((str(next(self.numbers)), clip) for clip in examples)
        self.changing, self.asking = Lock(), Lock()

    def add(self, name: str, stream: BinaryIO, length: int) -> str:
        """Keep a file of `length` bytes from a stream.

        Returns:
            Its id.

        Raises:
            FastDMTError, DataError: too large, of no known kind, cut off, or not readable as what its name says.
        """
        name = Path(name.replace("\\", "/")).name[-80:] or "file"
        suffix = Path(name).suffix.lower()
        if suffix not in (*PICTURES, *VIDEO_SUFFIXES, *SOUND_SUFFIXES, ".aac"):
            raise FastDMTError(f"{name}: neither a picture nor a sound nor a video, by its name; save it as one")
        if length > self.largest:
            raise FastDMTError(f"{name}: {length / 2**20:.0f} MiB are too many (at most {self.largest / 2**20:.0f})")
        with self.changing:
            id = str(next(self.numbers))
            while sum(clip.size for clip in self.clips.values()) + length > TOTAL:
                self._drop(next(key for key, clip in self.clips.items() if clip.size))
        path = self.folder / f"{id}{suffix}"
        try:
            with path.open("wb") as file:
                left = length
                while left and (piece := stream.read(min(left, 1 << 20))):
                    left -= file.write(piece)
            if left:
                raise FastDMTError(f"{name}: {left:,} of {length:,} bytes did not arrive; drop it again")
            clip = _opened(name, path, length)
        except (FastDMTError, DataError) as error:
            path.unlink(missing_ok=True)
            raise type(error)(str(error).replace(str(path), name)) from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        with self.changing:
            self.clips[id] = clip
        return id

    def _drop(self, id: str) -> None:
        clip = self.clips.pop(id)
        for path in {clip.frame, clip.sound} - {None}:
            path.unlink(missing_ok=True)

    def describe(self, id: str) -> dict[str, Any]:
        """A clip as the page lists it, with a thumbnail of its frame.

        Raises:
            FastDMTError, DataError: there is no such clip, or its frame cannot be read.
        """
        clip = self._clip(id)
        entry = {"id": id, "name": clip.name, "sound": clip.sound is not None, "seconds": clip.seconds, "thumbnail": ""}
        if clip.frame is not None:
            entry["thumbnail"] = jpeg_uri(draw.fit(self._frame(clip, None)[0], THUMBNAIL))
        return entry

    def look(self, frame: str, sound: str, moment: float | None = None) -> dict[str, Any]:
        """The maps of a clip's frame with a clip's sound.

        Args:
            frame: id of a clip with a picture.
            sound: id of a clip with a sound, or a key of `MADE_SOUNDS`.
            moment: second of a video's frame, and of its sound where both are of one clip; None: the middle.

        Returns:
            picture and heard (data URIs), wave [ENVELOPE] in 0..1, moment in seconds, side, and maps: A, B,
            intersection and result, each base64 of uint8 [side, side], P of 255.

        Raises:
            FastDMTError, DataError: no such clip, or a file that cannot be read.
        """
        clip = self._clip(frame)
        picture, at = self._frame(clip, moment)
        heard = self._sound(sound, at if sound == frame and clip.seconds else None)
        with self.asking:
            p_a, p_b = (localize_batch(self.model, [picture], [heard], source, GRID)[0] for source in ("A", "B"))
        # As `Model.maps` defines them; each teacher looks once.
        maps = {"A": p_a, "B": p_b, "intersection": np.minimum(p_a, p_b), "result": (p_a + p_b) / 2}
        shown = Image.fromarray(picture)
        shown.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
        pcm = heard[SOUND_RATE]
        return {
            "picture": jpeg_uri(np.asarray(shown)),
            "heard": sound_uri(pcm),
            "wave": [round(float(np.abs(part).max()), 3) for part in np.array_split(pcm, ENVELOPE)],
            "moment": at,
            "side": GRID,
            "maps": {
                name: base64.b64encode((255 * p).round().clip(0, 255).astype(np.uint8).tobytes()).decode()
                for name, p in maps.items()
            },
        }

    def _clip(self, id: str) -> Clip:
        clip = self.clips.get(id)
        if clip is None:
            raise FastDMTError("this file is no longer there (the oldest make room for new ones); drop it again")
        return clip

    def _frame(self, clip: Clip, moment: float | None) -> tuple[np.ndarray, float | None]:
        if clip.frame is None:
            raise FastDMTError(f"{clip.name}: has no picture; choose one that has")
        if not clip.seconds:
            return read_picture(clip.frame), None
        image, at = frame_at(clip.frame, moment)
        return np.array(image), at

    def _sound(self, id: str, moment: float | None) -> dict[int, np.ndarray]:
        view = view_of(self.model)
        rates = (*view.rates, SOUND_RATE)
        if id in MADE_SOUNDS:
            noise = np.random.default_rng(0)
            return {
                rate: (MADE_SOUNDS[id] * noise.standard_normal(view.samples(rate))).astype(np.float32) for rate in rates
            }
        clip = self._clip(id)
        if clip.sound is None:
            raise FastDMTError(f"{clip.name}: has no sound; choose another, or silence")
        return read_sound(clip.sound, rates, view.seconds, centre=moment)


def _opened(name: str, path: Path, size: int) -> Clip:
    """A file as a clip, once it is known to be readable."""
    if path.suffix in PICTURES:
        read_picture(path)
        return Clip(name, frame=path, size=size)
    with decoding(path, "a video or a sound"), open_media(path) as container:
        film, sounding = pictures_of(container) is not None, bool(container.streams.audio)
        seconds = length_of(container, path)
    if sounding:
        read_sound(path, (SOUND_RATE,))
    if not film:
        return Clip(name, sound=path, size=size)
    frame_at(path)
    return Clip(name, path, path if sounding else None, seconds, size)
