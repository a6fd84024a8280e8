"""A data set of real files in which the pitch of the sound names the place of its source, and a model that knows it."""

from __future__ import annotations

import base64
import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import soundfile
import torch
from PIL import Image

PLACES = 9


def tone(place: int, rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    pcm = 0.4 * np.sin(2 * np.pi * pitch(place) * t)
    return np.repeat(pcm[:, None], channels, 1) if channels > 1 else pcm


def pitch(place: int) -> int:
    return 500 + 375 * place


def box(place: int) -> np.ndarray:
    x, y = (place % 3 + 0.5) / 3, (place // 3 + 0.5) / 3
    return np.array([x - 0.14, y - 0.14, x + 0.14, y + 0.14])


def name(place: int) -> str:
    return f"clip<{place}>_{place:06d}"


def picture(place: int, width: int = 120, height: int = 90) -> np.ndarray:
    """Grey noise with a disc at every place: the frame does not tell who sounds."""
    frame = np.random.default_rng(place).integers(60, 120, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    for k in range(PLACES):
        x0, y0, x1, y1 = box(k) * (width, height, width, height)
        frame[((x - (x0 + x1) / 2) / (x1 - x0) * 2) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0) * 2) ** 2 < 1] = 40 + 20 * k
    return frame


def write_data(root: Path, flickr: bool = False) -> Path:
    """Nine clips, one for each place, with sounds of several rates, channel counts and lengths; one silent clip."""
    for folder in ("frames", "audio", *(["Annotations"] if flickr else [])):
        (root / folder).mkdir(parents=True)
    forms = [(".wav", 16000, 1, 3.0), (".flac", 44100, 2, 4.0), (".wav", 8000, 1, 1.5)]
    for k in range(PLACES):
        Image.fromarray(picture(k)).save(root / "frames" / f"{name(k)}.jpg", quality=95)
        suffix, rate, channels, seconds = forms[k % 3]
        soundfile.write(root / "audio" / f"{name(k)}{suffix}", tone(k, rate, seconds, channels), rate)
        if flickr:
            shifts = [(0, 0, 0, 0), (-9, -5, -2, 4), (6, 8, 12, 3)]  # three annotators, in 256ths
            parts = [
                "<participant><bbox><object>x</object>"
                + "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), corners))
                + "</bbox></participant>"
                for corners in ((box(k) * 256).astype(int) + np.array(s) for s in shifts)
            ]
            (root / "Annotations" / f"{name(k)}.xml").write_text(f"<annotation>{''.join(parts)}</annotation>")
    Image.fromarray(picture(PLACES)).save(root / "frames" / "silence.jpg")
    soundfile.write(root / "audio" / "silence.wav", np.zeros(48000), 16000)
    if not flickr:
        items = [{"file": name(k), "class": "tone", "bbox": [box(k).tolist()]} for k in range(PLACES)]
        (root / "vggss.json").write_text(json.dumps(items))
    return root


class ToneModel:
    """Hears the pitch and marks its place; an empty map for anything that is no tone.

    Teacher B marks a little more than A. `wrong` places are taken for their successor.
    """

    size, front_ends, device = 64, ("spectrogram",), torch.device("cpu")

    def __init__(self, wrong: tuple[int, ...] = ()) -> None:
        self.cfg = SimpleNamespace(data=SimpleNamespace(seconds=3.0), pseudo=SimpleNamespace(delta=0.6, tau=0.7))
        self.wrong, self.heard = wrong, []

    def places(self, sound: dict[str, torch.Tensor]) -> list[int | None]:
        spectrum = 12 * sound["spectrogram"][:, 0].mean(-1)
        peak = spectrum.argmax(1) * 16000 / 512
        clear = spectrum.amax(1) - spectrum.median(1).values > 6
        places = [round((float(f) - 500) / 375) if c else None for f, c in zip(peak, clear)]
        self.heard.append(places)
        return [p if p is None or p not in self.wrong else (p + 1) % PLACES for p in places]

    def _masks(self, sound, source: str, size: int) -> list[torch.Tensor]:
        grow = {"A": [0.0], "B": [0.02], "intersection": [0.0, 0.02]}.get(source, [0.0, 0.02])
        out = []
        for margin in grow:
            mask = torch.zeros(len(sound["spectrogram"]), size, size)
            for row, place in zip(mask, self.places(sound)):
                if place is not None:
                    x0, y0, x1, y1 = ((box(place) + (-margin, -margin, margin, margin)) * size).astype(int)
                    row[y0:y1, x0:x1] = 1
            out.append(mask)
        return out

    def cosines(self, frames, sound, source="teachers"):
        return [1.6 * mask - 0.8 for mask in self._masks(sound, source, 16)]

    def maps(self, frames, sound, source="teachers", size=224):
        masks = torch.stack(self._masks(sound, source, size))
        p = 0.05 + 0.9 * masks
        return p.amin(0) if source == "intersection" else p.mean(0)

    def localize(self, frame, waveform, rate, source="teachers"):
        from fastdmt_loaders.decode.sound import fit_waveform
        from fastdmt_loaders.frontends import spectrogram

        pcm = fit_waveform(waveform, rate, (16000,), 3.0)[16000]
        p = self.maps(None, {"spectrogram": spectrogram(torch.from_numpy(pcm)[None])}, source)
        size = frame.shape[:2]
        return torch.nn.functional.interpolate(p[:, None], size=size, mode="bilinear")[0, 0].numpy()


def maps_of(answer: dict) -> dict[str, np.ndarray]:
    """P [side, side] of every map in an answer of `fastdmt.reports.play`."""
    shape = (answer["side"], answer["side"])
    return {k: np.frombuffer(base64.b64decode(v), np.uint8).reshape(shape) / 255 for k, v in answer["maps"].items()}


def marked(p: np.ndarray) -> int | None:
    """The one place whose centre is at or above the threshold, if any."""
    found = [k for k in range(PLACES) if p[tuple(((box(k)[:2] + 0.14) * len(p)).astype(int)[::-1])] >= 0.5]
    assert len(found) < 2
    return found[0] if found else None


def write_video(path: Path, places: tuple[int, ...] = (0, 8), each: int = 4, codecs=("libx264", "aac")) -> Path:
    """A clip of 120 x 90 at 10 pictures a second whose pitch changes from place to place every `each` seconds."""
    rate, fps = 48000, 10
    pcm = np.concatenate([tone(place, rate, each) for place in places])
    with av.open(str(path), "w") as out:
        video = out.add_stream(codecs[0], rate=fps)
        video.width, video.height = 120, 90
        video.pix_fmt = "yuvj420p" if codecs[0] == "mjpeg" else "yuv420p"
        audio = out.add_stream(codecs[1], rate=rate, layout="mono")
        for i in range(fps * each * len(places)):
            frame = av.VideoFrame.from_ndarray(picture(0), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(pcm[None].astype(np.float32), format="flt", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
        cutter = av.AudioResampler(audio.format, "mono", rate, frame_size=audio.frame_size or 1024)
        for piece in [*cutter.resample(sound), *cutter.resample(None)]:
            out.mux(audio.encode(piece))
        out.mux(audio.encode(None))
    return path
