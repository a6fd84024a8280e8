"""What the check passes, training reads; what training reads, the check passes: every format, whole and damaged."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from films import write_encoded, write_film
from PIL import Image, features

from fastdmt_loaders import AVDataset, DataError, View
from fastdmt_loaders.decode import limits
from fastdmt_loaders.sources.workers import read_item
from fastdmt_loaders.tools.check import FATAL, check_root

VIEWS = (View(32, ("logmel",), 3.0), View(224, ("spectrogram", "waveform"), 3.0))
FRACTIONS = (0.02, 0.3, 0.6, 0.85, 0.95, 0.995)


def pictures(folder: Path) -> None:
    y, x = np.mgrid[:300, :400]
    rgb = np.stack([x // 2, y // 2, (x * y) % 256], -1).astype(np.uint8)
    picture, turned = Image.fromarray(rgb), Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "plain.jpg")
    picture.save(folder / "progressive.jpeg", progressive=True)
    picture.save(folder / "turned.jpg", exif=turned)
    picture.convert("L").save(folder / "grey.JPG", format="JPEG")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "plain_png.png")
    picture.convert("P").save(folder / "palette.png", transparency=3)
    picture.convert("RGBA").save(folder / "alpha.png")
    picture.convert("1").save(folder / "bits.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    # By content, whatever the suffix says.
    kinds = ["BMP", "GIF", "TIFF", "PPM", *(k for k in ("WEBP", "AVIF") if features.check(k.lower()))]
    for kind in kinds:
        picture.save(folder / f"content_{kind}.png", format=kind)
    Image.fromarray(rgb[..., 0].astype(np.float32)).save(folder / "float.png", format="TIFF")
    Image.fromarray(rgb[..., 0].astype(np.int32) * 70000).save(folder / "integers.png", format="TIFF")
    picture.save(folder / "eps.png", format="EPS")
    (folder / "text.jpg").write_text("no picture")
    header = bytearray((folder / "plain_png.png").read_bytes())
    header[16:24] = struct.pack(">II", 30_000, 30_000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    (folder / "huge.png").write_bytes(header)
    write_film(folder / "film.mp4")
    write_film(folder / "late.mkv", pictures=2.0)
    write_film(folder / "slides.mp4", slides=[0.0, 9.0])
    write_film(folder / "film.ts", gop=100)
    write_film(folder / "film_webm.webm", codecs=("libvpx", "libopus"))


def sounds(folder: Path) -> None:
    pcm = 0.3 * np.sin(np.arange(4 * 16000) / 7)
    for subtype in soundfile.available_subtypes("WAV"):
        try:
            soundfile.write(folder / f"{subtype}.wav", pcm, 16000, subtype=subtype)
        except soundfile.LibsndfileError:  # one that takes another rate only
            (folder / f"{subtype}.wav").unlink(missing_ok=True)
    for suffix, subtype in (("flac", "PCM_16"), ("flac", "PCM_24"), ("ogg", "VORBIS"), ("ogg", "OPUS")):
        soundfile.write(folder / f"{suffix}_{subtype}.{suffix}", pcm, 16000, subtype=subtype)
    for rate, channels in ((8000, 1), (11025, 2), (44100, 6), (192000, 1)):
        many = np.tile(pcm[:, None], (1, channels))
        soundfile.write(folder / f"{rate}_{channels}.wav", many, rate, subtype="PCM_16")
    encoded = {"a_mp3.mp3": ("libmp3lame", "mp3"), "a_m4a.m4a": ("aac", "ipod"), "a_opus.opus": ("libopus", "ogg")}
    encoded["content.wav"] = ("aac", "adts")
    for name, (codec, container) in encoded.items():
        write_encoded(folder / name, pcm, 16000, codec, container)
    plain = bytearray((folder / "PCM_16.wav").read_bytes())
    for size in (0x7FFFF000, 0xFFFFFFFF, len(plain) - 44 + 1000, 3 * len(plain)):
        changed = bytearray(plain)
        changed[4:8], changed[40:44] = struct.pack("<I", min(size + 36, 2**32 - 1)), struct.pack("<I", size)
        (folder / f"size_{size}.wav").write_bytes(changed)
    for rate in (0, 1, 999, 1 << 29, 50_000_000):
        changed = bytearray(plain)
        changed[24:28] = struct.pack("<I", rate)
        (folder / f"rate_{rate}.wav").write_bytes(changed)
    changed = bytearray(plain)
    changed[20:22] = struct.pack("<H", 0x7777)
    (folder / "codec.wav").write_bytes(changed)
    soundfile.write(folder / "nan.wav", np.where(np.arange(len(pcm)) == 32000, np.nan, pcm), 16000, subtype="FLOAT")
    soundfile.write(folder / "none.wav", pcm[:0], 16000)
    soundfile.write(folder / "one.wav", pcm[:1], 16000)
    (folder / "text.mp3").write_text("no sound")
    write_film(folder / "film.m4a", sound=2.0)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """frames/ and audio/ with one file of every format under its own name."""
    root = tmp_path_factory.mktemp("formats")
    for name, write in (("frames", pictures), ("audio", sounds)):
        (root / name).mkdir()
        write(root / name)
    return root


def variants(file: Path, rng: np.random.Generator) -> dict[str, bytes]:
    """As it is, empty, cut off in several places, with flipped bits, and with a hole of zeros."""
    data = file.read_bytes()
    out = {"whole": data, "empty": b""}
    out |= {f"cut-{fraction}": data[: int(fraction * len(data))] for fraction in FRACTIONS}
    for number in range(3):
        flipped = bytearray(data)
        for at in rng.integers(len(data), size=1 + 3 * number):
            flipped[at] ^= 1 << int(rng.integers(8))
        out[f"flip-{number}"] = bytes(flipped)
    start = len(data) // 2
    out["hole"] = data[:start] + bytes(len(data[start : start + 300])) + data[start + 300 :]
    return out


def read_by_training(dataset: AVDataset) -> dict[str, str]:
    """id -> why a training cannot read it; "" where it can."""
    table, told = dataset.table(dataset.ids, 1), {}
    for index, id in enumerate(dataset.ids):
        found = set()
        for view in VIEWS:
            try:
                read_item(table, index, view)
                found.add("")
            except DataError as error:
                found.add(str(error))
        assert len({bool(reason) for reason in found}) == 1, (id, found)
        told[id] = found.pop()
    return told


@pytest.mark.parametrize("what", ["frames", "audio"])
def test_the_check_and_training_agree_on_every_file(good, tmp_path, what):
    rng, root = np.random.default_rng(5), tmp_path / "data"
    for name in ("frames", "audio"):
        (root / name).mkdir(parents=True)
    other = {"frames": "audio/PCM_16.wav", "audio": "frames/bits.png"}[what]
    whole, damaged = {}, 0
    for file in sorted((good / what).iterdir()):
        for kind, data in variants(file, rng).items():
            id = f"{file.name}~{kind}"
            (root / what / f"{id}{file.suffix}").write_bytes(data)
            partner = root / Path(other).parent / f"{id}{Path(other).suffix}"
            partner.symlink_to(good / other)
            whole[id] = kind == "whole"
    report = check_root(root, workers=1)
    refused = {problem.id: problem.message for problem in report.problems if problem.kind in FATAL}
    told = read_by_training(AVDataset(root))
    assert told.keys() == whole.keys()
    for id, reason in told.items():
        assert bool(reason) == (id in refused), f"{id}: training {reason or 'reads it'}; check {refused.get(id)}"
        damaged += bool(reason)
    # The matrix has both kinds: it would say nothing if all were read, or none.
    assert damaged > len(whole) // 4 and sum(not told[id] for id in whole if whole[id]) > 15
    assert all(str(root) in reason for reason in told.values() if reason)


def test_the_limits_are_those_of_both(tmp_path, good, monkeypatch):
    """A limit that is lowered is lowered for both: they have one reader."""
    for name in ("frames", "audio"):
        (tmp_path / name).mkdir()
    (tmp_path / "frames" / "a.png").write_bytes((good / "frames" / "alpha.png").read_bytes())
    (tmp_path / "audio" / "a.wav").write_bytes((good / "audio" / "PCM_16.wav").read_bytes())
    assert not check_root(tmp_path, workers=1).fatal and read_by_training(AVDataset(tmp_path)) == {"a": ""}
    monkeypatch.setattr(limits, "MAX_SIDE", 399)
    (tmp_path / ".fastdmt-check.json").unlink()
    assert "pixels are too many" in check_root(tmp_path, workers=1).problems[0].message
    assert "pixels are too many" in read_by_training(AVDataset(tmp_path))["a"]
    buffer = io.BytesIO()
    Image.new("RGB", (399, 300)).save(buffer, "PNG")
    (tmp_path / "frames" / "a.png").write_bytes(buffer.getvalue())
    assert not check_root(tmp_path, workers=1).fatal and read_by_training(AVDataset(tmp_path)) == {"a": ""}
