"""A set of real photographs with real recorded sounds, in the layout that the field's trainers read.

Photographs of animals, instruments and vehicles (Debian's tuxpaint-stamps-default) are pasted over photographs
(mate-backgrounds, lomiri-wallpapers-16.04). One object sounds, with its recorded sound; one or two others of equal size
do not, in random order: only the sound tells which. Every second class of the package is used.

    mkdir real && cd real
    apt-get update && apt-get download tuxpaint-stamps-default mate-backgrounds lomiri-wallpapers-16.04
    for f in *.deb; do dpkg -x $f x; done
    python ../bench/real_media.py ../data/real --stamps x/usr/share/tuxpaint/stamps --backgrounds x/usr/share

The same seed makes the same set. None of these files belongs to this project, and none is part of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import soundfile
from PIL import Image

SILENT = {"nandou", "iguana", "giraffe", "wombat"}  # recordings without a sound
SHARED = {"mountaingoat", "ram", "beaver", "pig_golden", "pig_golden2", "gander"}  # recordings of another class
NO_PHOTOGRAPH = {
    *("final-roll-call", "no_uturn", "xing_ped", "xing_school", "checkeredflag", "apollo_lander", "dreydl-gimmel"),
    *("dreydl-hay", "dreydl-nun", "dreydl-shin", "santahat", "hard_candy", "apple_red", "glass", "kettle", "bat_left"),
    *("spider", "hammer", "mallet_metal", "scissors_small_closed", "scissors_small_open"),
}
SKIP = SILENT | SHARED | NO_PHOTOGRAPH

Source = tuple[str, Path, Path]  # class, picture with alpha, sound


def sources(stamps: Path) -> list[Source]:
    """Every object of the package that has a photograph and a recording of its own."""
    out = []
    for sound in sorted(stamps.rglob("*.ogg")):
        stem, picture = sound.stem, sound.with_suffix(".png")
        if "_desc" in stem or "symbols" in sound.parts or stem in SKIP or not picture.exists():
            continue
        parts = stem.rsplit("_", 1)
        if len(parts) == 2 and len(parts[1]) in (2, 5) and not (sound.parent / (stem + ".txt")).exists():
            continue  # a translation of a spoken name
        out.append((stem, picture, sound))
    return out


def recording(path: Path, rate: int, seconds: float, rng: random.Random) -> np.ndarray:
    """The sound, 0.92 to 1.08 times as fast, repeated with pauses, from a random moment, at a random level, noisy."""
    x, native = soundfile.read(path, always_2d=True, dtype="float32")
    x = x.mean(1)
    speed = rng.uniform(0.92, 1.08)
    n = int(len(x) * rate / native / speed)
    x = np.interp(np.linspace(0, len(x) - 1, max(n, 8)), np.arange(len(x)), x).astype("float32")
    want = int(rate * seconds)
    pause = np.zeros(int(rate * rng.uniform(0, 0.3)), "float32")
    y = np.concatenate([x, pause])
    y = np.tile(y, want // len(y) + 2)
    start = rng.randrange(len(y) - want)
    y = y[start : start + want]
    y = y / (np.abs(y).max() + 1e-6) * rng.uniform(0.3, 0.95)
    noise = np.random.default_rng(rng.randrange(1 << 30)).normal(0, 10 ** rng.uniform(-3.5, -2), want)
    return y + noise.astype("float32")


class Stamps:
    """Objects cut out of their pictures, each opened once."""

    def __init__(self) -> None:
        self.opened: dict[Path, Image.Image] = {}

    def paste(self, canvas: Image.Image, picture: Path, rng: random.Random) -> np.ndarray:
        """Paste one, scaled, mirrored and turned at random; its mask, bool [height, width]."""
        if picture not in self.opened:
            image = Image.open(picture).convert("RGBA")
            self.opened[picture] = image.crop(image.getbbox())
        image = self.opened[picture]
        w, h = canvas.size
        scale = rng.uniform(0.2, 0.6) * min(w, h) / max(image.size)
        size = (max(4, int(image.width * scale)), max(4, int(image.height * scale)))
        image = image.resize(size, Image.BICUBIC)
        if rng.random() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        image = image.rotate(rng.uniform(-15, 15), expand=True, resample=Image.BICUBIC)
        x, y = rng.randint(0, max(0, w - image.width)), rng.randint(0, max(0, h - image.height))
        canvas.paste(image, (x, y), image)
        solid = np.asarray(image)[..., 3] > 127
        mask = np.zeros((h, w), bool)
        rows, columns = min(solid.shape[0], h - y), min(solid.shape[1], w - x)
        mask[y : y + rows, x : x + columns] = solid[:rows, :columns]
        return mask


def scene(
    bare: Image.Image, sounding: Source, classes: list[Source], stamps: Stamps, rng: random.Random
) -> tuple[Image.Image, np.ndarray]:
    """A frame, and what is seen of the object that sounds; tried again until that is most of it."""
    while True:
        canvas, seen, whole = bare.copy(), None, 0
        others = [o for o in rng.sample(classes, 8) if o[0] != sounding[0]][: rng.randint(1, 2)]
        for other in rng.sample([None, *others], len(others) + 1):
            mask = stamps.paste(canvas, sounding[1] if other is None else other[1], rng)
            if other is None:
                seen, whole = mask, mask.sum()
            elif seen is not None:
                seen = seen & ~mask
        if seen.sum() >= max(64, 0.6 * whole):
            return canvas, seen


def annotate(path: Path, box: list[float]) -> None:
    """Flickr-SoundNet's XML: boxes in units of 256, two annotators."""
    root = ElementTree.Element("annotation")
    for _ in range(2):
        entry = ElementTree.SubElement(ElementTree.SubElement(root, "annotator"), "bbox")
        for tag, value in zip(("class", "xmin", "ymin", "xmax", "ymax"), (1, *(round(c * 256) for c in box))):
            ElementTree.SubElement(entry, tag).text = str(value)
    ElementTree.ElementTree(root).write(path)


def elsewhere(out: Path, ids: list[str], names: dict[str, str], classes: list[Source], rng: random.Random) -> None:
    """Give clips the sound of an object of another class, as where what sounds is not in the picture; no box is left.

    One in twenty or so of these sounds belongs to an object that the picture shows as a silent one.
    """
    for name in ids:
        other = rng.choice([source for source in classes if source[0] != names[name]])
        sound = recording(other[2], 16000, 3.0 + rng.uniform(-0.5, 1.5), rng)
        soundfile.write(out / "audio" / f"{name}.wav", sound, 16000, subtype="PCM_16")
        (out / "Annotations" / f"{name}.xml").unlink()
        names[name] = other[0]


def write_lists(out: Path, train: list[str], labelled: int, validation: int, test: list[list[str]]) -> None:
    """Ids one a line: the first clips have their boxes used, the last ones choose the best step."""
    lists = {
        "train.txt": train[: len(train) - validation],
        "labelled.txt": train[:labelled],
        "val.txt": train[len(train) - validation :],
    }
    for name, ids in lists.items():
        (out / name).write_text("\n".join(ids) + "\n", encoding="utf-8")
    with open(out / "test.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--backgrounds", type=Path, required=True)
    parser.add_argument("--train", type=int, default=1600)
    parser.add_argument("--labelled", type=int, default=160)
    parser.add_argument("--validation", type=int, default=100)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument(
        "--offscreen", type=float, default=0.0, help="share of the unlabelled clips whose object sounds elsewhere"
    )
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    rng, stamps = random.Random(a.seed), Stamps()
    classes = sources(a.stamps)[0::2]
    photographs = [f for f in sorted(a.backgrounds.rglob("*.jpg")) if f.stat().st_size < 2_000_000]
    if not classes or not photographs:
        parser.error(
            "no stamps with sounds, or no photographs: unpack the three packages that the head of this file names"
        )
    backs = [Image.open(f).convert("RGB") for f in photographs]
    backs = [
        b.resize((max(480, int(400 * b.width / b.height)), max(400, int(480 * b.height / b.width)))) for b in backs
    ]
    for folder in ("frames", "audio", "Annotations"):
        (a.out / folder).mkdir(parents=True, exist_ok=True)
    ids, names = [], {}
    for i in range(a.train + a.test):
        sounding = classes[rng.randrange(len(classes))]
        back = backs[rng.randrange(len(backs))]
        w, h = rng.choice([(320, 240), (256, 256), (340, 256), (256, 340)])
        x, y = rng.randint(0, max(0, back.width - w)), rng.randint(0, max(0, back.height - h))
        frame, seen = scene(back.crop((x, y, x + w, y + h)), sounding, classes, stamps, rng)
        ys, xs = np.nonzero(seen)
        name = f"dev{a.seed}_{i:06d}"
        frame.save(a.out / "frames" / f"{name}.jpg", quality=90)
        rate = rng.choice([16000, 16000, 22050, 44100])
        sound = recording(sounding[2], rate, 3.0 + rng.uniform(-0.5, 1.5), rng)
        soundfile.write(a.out / "audio" / f"{name}.wav", sound, rate, subtype="PCM_16")
        annotate(
            a.out / "Annotations" / f"{name}.xml", [xs.min() / w, ys.min() / h, (xs.max() + 1) / w, (ys.max() + 1) / h]
        )
        ids.append(name)
        names[name] = sounding[0]
    unlabelled = ids[a.labelled : a.train - a.validation]
    elsewhere(a.out, rng.sample(unlabelled, round(a.offscreen * len(unlabelled))), names, classes, rng)
    write_lists(a.out, ids[: a.train], a.labelled, a.validation, [[i, names[i]] for i in ids[a.train :]])
    (a.out / "classes.json").write_text(json.dumps(names), encoding="utf-8")
    print(f"{len(classes)} classes, {a.train} train ({a.labelled} labelled), {a.test} test -> {a.out}")


if __name__ == "__main__":
    main()
