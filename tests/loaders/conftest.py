"""A small data set of real files in the field's layout, every frame and sound different."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from fastdmt_loaders import AVDataset

ITEMS = 24
RATES = (8000, 16000, 22050, 44100)


def write_frame(path: Path, rng: np.random.Generator, size=(120, 60)) -> None:
    blocks = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    blocks.resize(size, Image.Resampling.BICUBIC).save(path, **({} if path.suffix == ".png" else {"quality": 92}))


def write_sound(path: Path, rng: np.random.Generator, rate: int, seconds: float, channels: int) -> None:
    pcm = 0.2 * rng.standard_normal((int(rate * seconds), channels))
    soundfile.write(path, pcm, rate)


def write_set(root: Path, items: int = ITEMS) -> Path:
    rng = np.random.default_rng(5)
    for folder in ("frames", "audio"):
        (root / folder).mkdir(parents=True)
    boxes = []
    for number in range(items):
        id = f"clip_{number:06d}"
        write_frame(root / "frames" / (id + (".png" if number % 7 == 3 else ".jpg")), rng)
        suffix = (".wav", ".flac", ".ogg")[number % 3]
        write_sound(root / "audio" / (id + suffix), rng, RATES[number % 4], 1.0 + number % 5, 1 + number % 2)
        corner = rng.uniform(0, 0.5, 2)
        box = [*corner, *(corner + rng.uniform(0.2, 0.5, 2))]
        boxes.append({"file": id, "class": "noise", "bbox": [box, [0.1, 0.1, 0.3, 0.2]][: 1 + number % 2]})
    (root / "vggss.json").write_text(json.dumps(boxes))
    return root


@pytest.fixture(scope="session")
def field_root(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "root")


@pytest.fixture
def field_set(field_root) -> AVDataset:
    return AVDataset(field_root)


@pytest.fixture
def own_root(tmp_path) -> Path:
    """A data set that the test may break."""
    return write_set(tmp_path / "root")
