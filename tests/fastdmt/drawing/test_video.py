"""Videos written again: sound untouched, upright, scaled, nothing left behind."""

import resource
import struct

import av
import numpy as np
import pytest
from tones import write_video

from fastdmt.drawing import video
from fastdmt.errors import FastDMTError

CODECS = {".mp4": ("libx264", "aac"), ".webm": ("libvpx", "libopus"), ".avi": ("mjpeg", "pcm_s16le")}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {suffix: write_video(folder / f"clip{suffix}", codecs=codecs) for suffix, codecs in CODECS.items()}


def test_sound_of_a_common_codec_is_copied_untouched(clips, tmp_path):
    overlay = video.rewrite(clips[".mp4"], tmp_path / "copy", lambda frame, time: 255 - frame)

    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(p) for p in container.demux(audio=0) if p.size]

    assert packets(overlay) == packets(clips[".mp4"])


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_full_disk_is_named_and_leaves_nothing_behind(clips, tmp_path, suffix):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # Python ignores the signal, so writing fails
    try:
        with pytest.raises(FastDMTError, match=r"cannot write .*copy\.mp4: File too large; .*make room"):
            video.rewrite(clips[suffix], tmp_path / "copy", lambda frame, time: frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_turned_video_is_shown_upright(tmp_path):
    path = write_video(tmp_path / "phone.mp4", places=(4,), each=1)
    with av.open(str(path)) as container:
        before = next(container.decode(video=0)).to_ndarray(format="rgb24")
    data = bytearray(path.read_bytes())
    # The first track's header: a quarter turn clockwise, as a telephone held upright writes it.
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 90 << 16, 0, 1 << 30)
    path.write_bytes(data)
    info = video.probe(path)
    assert (info.width, info.height) == (90, 120)
    _, frame = next(video.sample_frames(path, 1))
    assert np.abs(frame.astype(int) - np.rot90(before, -1)).mean() < 2
    shown = []
    overlay = video.rewrite(path, tmp_path / "out", lambda image, time: shown.append(image) or image)
    assert np.abs(shown[0].astype(int) - np.rot90(before, -1)).mean() < 2
    assert video.probe(overlay) == video.Info(90, 120, pytest.approx(1.0, abs=0.1), ("h264", "aac"))
