"""Videos that tell the time: grey is 20 + 20 * second, loudness 0.04 * (1 + second), both by the file's clock."""

from fractions import Fraction

import av
import numpy as np

RATE, SECONDS = 16000, 10


def write_film(path, *, pictures=0.0, sound=0.0, hole=None, slides=None, codecs=("libx264", "aac"), gop=25):
    """A film whose streams start at the given seconds; `hole` is a span without sound packets, `slides` frame times."""
    with av.open(str(path), "w") as out:
        film = out.add_stream(codecs[0], rate=25, options={"g": str(gop), "bf": "0", "preset": "ultrafast"})
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        film.codec_context.time_base = film.time_base = Fraction(1, 90000)
        voice = out.add_stream(codecs[1], rate=RATE, layout="mono")
        packets = []
        for time in slides if slides is not None else np.arange(pictures, SECONDS, 0.04):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), int(20 + 20 * (time + 1e-6)), np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = round(time * 90000), Fraction(1, 90000)
            packets += film.encode(frame)
        packets += film.encode(None)
        times = sound + np.arange(int((SECONDS - sound) * RATE)) / RATE
        pcm = (0.04 * (1 + np.floor(times)) * np.sqrt(2) * np.sin(2764.6 * times)).astype(np.float32)
        for start in range(0, len(pcm), 1024):
            if hole and hole[0] <= times[start] < hole[1]:
                continue
            frame = av.AudioFrame.from_ndarray(pcm[start : start + 1024][None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start + round(sound * RATE), Fraction(1, RATE)
            packets += voice.encode(frame)
        packets += voice.encode(None)
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            out.mux(packet)
    return path


def second_of(pcm):
    """The second that 0.5 s in the middle of a stretch come from, by their loudness; -1: silence."""
    middle = len(pcm) // 2
    return float(np.sqrt((pcm[middle - RATE // 4 : middle + RATE // 4] ** 2).mean()) / 0.04 - 1)


def second_shown(picture):
    """The second that a frame shows."""
    return (float(np.asarray(picture).mean()) - 20) / 20


def write_encoded(path, pcm, rate, codec, container):
    """Mono sound as a codec of FFmpeg packs it, at a rate that the codec takes; nothing where this build lacks it."""
    if codec not in av.codecs_available:
        return
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=48000 if codec == "libopus" else 16000, layout="mono")
        cutter = av.AudioResampler(stream.format, "mono", stream.rate, frame_size=stream.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(pcm[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        for piece in [*cutter.resample(frame), *cutter.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
