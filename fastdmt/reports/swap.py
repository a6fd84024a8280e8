"""The picture that explains it: one frame, and what each of several sounds, and silence, makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fastdmt.drawing import draw
from fastdmt.errors import FastDMTError
from fastdmt.evaluation.evaluate import view_of
from fastdmt.evaluation.examples import SOUND_RATE
from fastdmt.files import write_json
from fastdmt.models.inputs import read_picture
from fastdmt.reports.predict import describe, localize_batch, paint
from fastdmt_loaders import read_sound

HEIGHT, BARS = 320, 120  # of a picture, pixels; of a waveform
SIZE = 224  # side of the maps, pixels


def swap(
    model,
    frame: str | Path,
    sounds: Sequence[str | Path],
    out: str | Path,
    *,
    source: str = "teachers",
    silence: bool = True,
) -> list[Path]:
    """Write one frame beside its maps under several sounds.

    Args:
        model: as for `fastdmt.evaluation.evaluate.evaluate`.
        frame: a picture, or a video for the frame in its middle.
        sounds: sounds or videos; the middle of each is heard.
        out: the PNG; a JSON of the same name says which box each sound has.
        source: whose map.
        silence: end with silence, which should mark nothing.

    Returns:
        The files written.

    Raises:
        FastDMTError, DataError: a file that cannot be read, or not be written; nothing to compare.
    """
    if not sounds:
        raise FastDMTError("nothing to swap; give FRAME SOUND SOUND ...")
    out = Path(out).with_suffix(".png")
    view = view_of(model)
    rates = (*view.rates, SOUND_RATE)
    picture = read_picture(frame)
    names = [Path(sound).stem for sound in sounds]
    heard = [read_sound(sound, rates, view.seconds) for sound in sounds]
    if silence:
        names.append("silence")
        heard.append({rate: np.zeros(view.samples(rate), np.float32) for rate in rates})
    maps = [
        draw.resize(p, *picture.shape[:2]) for p in localize_batch(model, [picture] * len(heard), heard, source, SIZE)
    ]
    found = [describe(p) for p in maps]
    tile = draw.fit(picture, HEIGHT)
    scale = np.array(tile.shape[1::-1] * 2) / np.array(picture.shape[1::-1] * 2)
    tiles = [
        paint(tile, p, None if row["box"] is None else (scale * row["box"]).tolist()) for p, row in zip(maps, found)
    ]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _picture(tile, tiles, names, [h[SOUND_RATE] for h in heard], found).save(out)
    except OSError as error:
        raise FastDMTError(f"cannot write {out}: {error.strerror or error}; give another --out") from None
    rows = [{"sound": name, **row} for name, row in zip(names, found)]
    write_json(
        out.with_suffix(".json"),
        {"frame": str(frame), "size": [picture.shape[1], picture.shape[0]], "map": source, "sounds": rows},
    )
    return [out, out.with_suffix(".json")]


def _picture(
    frame: np.ndarray, tiles: Sequence[np.ndarray], names: Sequence[str], waves: Sequence[np.ndarray], found: list[dict]
) -> Image.Image:
    """Columns: the frame, then each sound's waveform above its map; what was found below."""
    gap, head, foot = 12, 84, 30
    height, width = frame.shape[:2]
    canvas = Image.new("RGB", (gap + (len(tiles) + 1) * (width + gap), head + height + foot), draw.PAPER)
    pen = ImageDraw.Draw(canvas)
    loudest = max(max(float(np.abs(wave).max()) for wave in waves), 1e-6)

    def text(x: float, y: float, content: str, size: int, colour=draw.INK) -> None:
        font = draw.font(size)
        while len(content) > 4 and pen.textlength(content, font) > width:
            content = content[:-2].rstrip(".…") + "…"
        pen.text((x, y), content, colour, font, anchor="mm")

    for column, tile in enumerate([frame, *tiles]):
        x = gap + column * (width + gap)
        canvas.paste(Image.fromarray(tile), (x, head))
        middle = x + width / 2
        if column == 0:
            text(middle, 20, "the frame", 17)
            continue
        wave, row = waves[column - 1], found[column - 1]
        text(middle, 20, names[column - 1], 17)
        step = width / BARS
        for i, part in enumerate(np.array_split(np.abs(wave), BARS)):
            reach = max(0.75, 20 * float(part.max()) / loudest)
            left = x + i * step
            pen.rectangle([left, 56 - reach, left + 0.55 * step, 56 + reach], fill=draw.ACCENT)
        said = f"{100 * row['share']:.0f}% of the frame, highest P {row['peak']:.2f}"
        text(middle, head + height + foot / 2, "nothing" if row["box"] is None else said, 14, draw.SOFT)
    return canvas
