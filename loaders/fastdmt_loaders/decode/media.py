"""Files with streams, through FFmpeg: opened without surprises, on one clock, from any moment on.

Second 0 of a file is where its first stream starts. Every picture and every sound is placed by that clock, so a stream
that starts late, or has holes, stays in step with the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import av

from fastdmt_loaders.dataset.stored import local, stored
from fastdmt_loaders.decode.limits import MAX_VIDEO_PIXELS, MEND, WAIT_SECONDS, check_pixels
from fastdmt_loaders.errors import DataError

# Containers of media alone. Playlists and scripts (HLS, DASH, concat) would have FFmpeg open other files and addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,asf,ogg,wav,w64,flac,mp3,aac,aiff,au,caf,amr,"
    "ac3,eac3,dts,m4v,h264,hevc,ivf,mxf,dv,rm,wv,tta,ape"
)
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
# A seek may land late where there is no index (MPEG-TS); then it is tried so many seconds earlier.
STEPS_BACK = (0.0, 1.0, 5.0, 20.0)


@contextmanager
def open_media(path: str | Path) -> Iterator[av.container.InputContainer]:
    """A file or a member of a tar, for reading.

    Raises:
        DataError: it is missing or empty; what FFmpeg raises passes through.
    """
    source = stored(path)
    if isinstance(source, str):
        source = local(source)
    with av.open(source, container_options=OPTIONS, metadata_errors="replace", timeout=WAIT_SECONDS) as container:
        yield container


def zero_of(container: av.container.InputContainer) -> float:
    """The timestamp, in seconds, of the file's second 0; a codec's lead-in before 0 does not move it."""
    return max(0.0, container.start_time / av.time_base) if container.start_time else 0.0


def length_of(container: av.container.InputContainer, path: str | Path) -> float:
    """Seconds from the file's second 0 to its end; read from all its packets where no header tells."""
    if container.duration and container.duration > 0:
        return container.duration / av.time_base
    return measured(path)


def measured(path: str | Path) -> float:
    """Seconds from a file's second 0 to the end of its last packet."""
    with open_media(path) as container:
        zero, end = zero_of(container), 0.0
        streams = [stream for stream in container.streams if stream.type in ("video", "audio")]
        try:
            for packet in container.demux(streams):
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - zero)
        except av.FFmpegError:
            pass  # cut off here: this is where it ends
    return end


def pictures_of(container: av.container.InputContainer) -> av.video.stream.VideoStream | None:
    """The stream of moving pictures, or None; the cover of an album is none."""
    moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not moving:
        return None
    best = container.streams.best("video")
    return best if best in moving else moving[0]


def film_of(container: av.container.InputContainer, path: str | Path) -> av.video.stream.VideoStream:
    """The stream of moving pictures. Raises DataError: there is none, or its frames are too large."""
    stream = pictures_of(container)
    if stream is None:
        raise DataError(f"{path}: has no picture stream; {MEND}")
    check_pixels(path, stream.width or 0, stream.height or 0, MAX_VIDEO_PIXELS)
    stream.codec_context.options = {"max_pixels": str(MAX_VIDEO_PIXELS)}  # of frames that the header does not admit
    return stream


def frames_from(
    container: av.container.InputContainer, stream: av.stream.Stream, time: float
) -> Iterator[av.frame.Frame]:
    """Decoded frames of a freshly opened container, the first of them at or before the timestamp `time`, in seconds.

    Where the stream has none so early, from its first one on.
    """
    start = float((stream.start_time or 0) * stream.time_base)
    if time <= start:
        yield from container.decode(stream)
        return
    first = None
    for back in STEPS_BACK:
        target = time - back
        if target <= start:
            break
        try:
            container.seek(int(target / stream.time_base), stream=stream)
            frames = container.decode(stream)
            first = next(frames, None)
        except av.FFmpegError:
            continue
        if first is not None and (first.time is None or first.time <= time):
            yield from chain((first,), frames)
            return
    try:
        container.seek(int(min(0.0, start) / stream.time_base), stream=stream)
    except av.FFmpegError:
        pass  # not seekable at all: nothing was read yet
    yield from container.decode(stream)


def reaches(path: str | Path, moment: float) -> bool:
    """Whether any stream has something at `moment` seconds or later; a file that was cut off before has not."""
    return measured(path) >= moment
