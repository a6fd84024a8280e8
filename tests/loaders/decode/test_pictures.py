"""The reader of pictures against PIL's own decoding and resizing, with and without the optional decoder."""

import io
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from PIL import Image

from fastdmt_loaders import DataError
from fastdmt_loaders.decode import pictures
from fastdmt_loaders.decode.pictures import read_frame, read_picture, resize

BICUBIC = Image.Resampling.BICUBIC


@pytest.fixture(params=["with simplejpeg", "without"])
def decoder(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(pictures, "simplejpeg", None)
    elif pictures.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")


@cache
def photograph(width: int, height: int) -> Image.Image:
    """Detail at every scale with the falling spectrum of photographs, and hard edges."""
    rng, total = np.random.default_rng(3), np.zeros((height, width, 3), np.float32)
    for octave in range(2, 9):
        grain = Image.fromarray(rng.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8))
        total += np.asarray(grain.resize((width, height), BICUBIC), np.float32) / 2 ** (octave - 2)
    total = 255 * (total - total.min()) / np.ptp(total)
    total[height // 3 : height // 2, width // 4 : width // 2] = 20
    return Image.fromarray(total.astype(np.uint8))


def difference(got: np.ndarray, want) -> np.ndarray:
    return np.abs(got.astype(int) - np.asarray(want).astype(int))


@pytest.mark.parametrize("shape", [(256, 455), (40, 30), (700, 33), (97, 1201)])
def test_resizing_is_pils_bicubic_filter(shape):
    picture = np.array(photograph(shape[1], shape[0]))
    for size in (32, 224):
        got = resize(picture, size)
        assert got.shape == (size, size, 3) and got.flags.c_contiguous
        apart = difference(got, Image.fromarray(picture).resize((size, size), BICUBIC))
        assert apart.max() <= 2 and apart.mean() < 0.5


@pytest.mark.parametrize("width, height", [(455, 256), (344, 345), (1280, 720), (800, 1400)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_is_what_pil_makes_of_all_of_it(tmp_path, decoder, width, height, mode):
    photograph(width, height).convert(mode).save(tmp_path / "a.jpg", quality=92)
    full = Image.open(tmp_path / "a.jpg").convert("RGB")
    apart = difference(read_frame(tmp_path / "a.jpg", 246), full.resize((246, 246), BICUBIC))
    halved = min(width, height) >= 2 * pictures.DRAFT * 246
    assert apart.mean() < (2 if halved else 0.05)
    if halved:
        assert apart.mean() > 0.05  # it was decoded at less


def test_both_decoders_agree(tmp_path, monkeypatch):
    pytest.importorskip("simplejpeg")
    for number, options in enumerate(({"quality": 75}, {"quality": 95, "subsampling": 0}, {"progressive": True})):
        path = tmp_path / f"{number}.jpg"
        photograph(1280, 720).save(path, **options)
        fast = read_frame(path, 224)
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "simplejpeg", None)
            plain = read_frame(path, 224)
        assert difference(fast, plain).mean() < 1  # colours of a halved picture are interpolated otherwise


def test_damage_is_judged_alike(tmp_path, decoder):
    buffer = io.BytesIO()
    photograph(300, 200).save(buffer, "JPEG")
    whole = buffer.getvalue()
    (tmp_path / "rest.jpg").write_bytes(whole + b"appended by a camera")
    # Padding before a marker: forgiven by PIL, a warning of libjpeg.
    (tmp_path / "padded.jpg").write_bytes(whole[:-2] + b"\x00\x00" + whole[-2:])
    want = resize(np.array(Image.open(io.BytesIO(whole))), 100)
    for name in ("rest.jpg", "padded.jpg"):
        assert difference(read_frame(tmp_path / name, 100), want).mean() < 0.1
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be decoded as a picture"):
        read_frame(tmp_path / "half.jpg", 100)


@pytest.mark.parametrize("width, height", [(30_000, 30_000), (13_000, 13_000), (40_000, 1)])
def test_a_picture_beyond_the_limits_is_refused_by_its_header(tmp_path, width, height):
    """PIL has a limit of its own, which is told in the same words; neither reader decodes a pixel."""
    picture = Image.new("L", (8, 8))
    picture.save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    for read in (lambda path: read_frame(path, 32), read_picture):
        with pytest.raises(
            DataError, match=r"a\.png: .* pixels are too many \(at most 134,217,728 in all, 32,768 a side"
        ):
            read(tmp_path / "a.png")
