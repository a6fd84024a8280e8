"""Maps as pictures: colours, overlays, outlines, labelled strips. Pillow and numpy only.

Images are numpy uint8 [H, W, 3] RGB; maps are float [h, w] in 0..1 of any size and are resized to their image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Night violet over magenta to pink, lightness rising all the way: it reads the same in grey and for the
# colour-blind, and magenta, rare in frames, shows on yellow, wood and skin alike.
HEAT = np.array(
    [(18, 10, 48), (62, 16, 110), (112, 18, 140), (164, 20, 146), (212, 28, 142), (246, 62, 146), (255, 120, 176)],
    float,
)
BLUE, ORANGE, WHITE, GREEN = (64, 156, 255), (255, 138, 36), (255, 255, 255), (70, 230, 120)
INK, SOFT, PAPER, ACCENT = (24, 27, 32), (96, 103, 112), (255, 255, 255), (190, 30, 130)


def heat(p: np.ndarray) -> np.ndarray:
    """Colours [H, W, 3] uint8 of values 0..1; values outside are clipped."""
    place = np.clip(p, 0, 1) * (len(HEAT) - 1)
    steps = np.arange(len(HEAT))
    return np.stack([np.interp(place, steps, HEAT[:, c]) for c in range(3)], -1).round().astype(np.uint8)


HEAT_TABLE = heat(np.arange(256) / 255).astype(np.float32)


def resize(p: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map on another grid, float32 [height, width], bilinear."""
    image = Image.fromarray(np.ascontiguousarray(p, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def overlay(frame: np.ndarray, p: np.ndarray, opacity: float = 0.75) -> np.ndarray:
    """The frame under its map: dimmed where nothing sounds, glowing where P is high."""
    p = np.clip(resize(p, *frame.shape[:2]), 0, 1)
    weight = np.minimum(1.4 * opacity * p, opacity)[..., None]
    # Darker and a little paler away from the source, so that colours belong to the map.
    image = frame * (0.55 + 0.3 * p)[..., None]
    image += 0.15 * frame.mean(-1, keepdims=True, dtype=np.float32)
    image += (HEAT_TABLE[(255 * p).astype(np.uint8)] - image) * weight
    return image.clip(0, 255).astype(np.uint8)


def outline(image: np.ndarray, mask: np.ndarray, colour: Sequence[int] = WHITE, width: int = 2) -> np.ndarray:
    """The border of a mask [h, w] inside it, on a copy of the image; a dark hair line within shows it on any colour."""
    inside = resize(mask.astype(np.float32), *image.shape[:2]) >= 0.5
    image = image.copy()
    for _ in range(width):
        core = _shrunk(inside)
        image[inside & ~core] = colour
        inside = core
    image[inside & ~_shrunk(inside)] = INK
    return image


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """A mask without its pixels that touch the outside."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def tint(image: np.ndarray, mask: np.ndarray, colour: Sequence[int], strength: float = 0.55) -> np.ndarray:
    """A mask [h, w] as a transparent colour on a copy of the image."""
    weight = strength * (resize(mask.astype(np.float32), *image.shape[:2]) >= 0.5)[..., None]
    return (image * (1 - weight) + np.array(colour) * weight).astype(np.uint8)


def agreement(frame: np.ndarray, p_a: np.ndarray, p_b: np.ndarray, level: float) -> np.ndarray:
    """Where two teachers agree: A alone blue, B alone orange, both bright with a white border."""
    a, b = (resize(p, *frame.shape[:2]) >= level for p in (p_a, p_b))
    image = (0.45 * frame).astype(np.uint8)
    image = tint(tint(image, a & ~b, BLUE), b & ~a, ORANGE)
    image[a & b] = frame[a & b]
    return outline(image, a & b, WHITE)


def boxes_outline(image: np.ndarray, boxes: np.ndarray, colour: Sequence[int] = GREEN, width: int = 2) -> np.ndarray:
    """Rectangles [K, 4] xyxy in 0..1 of the frame on a copy of the image, with a dark hair line around."""
    height, wide = image.shape[:2]
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    for box in np.asarray(boxes, float).reshape(-1, 4):
        x0, y0, x1, y1 = box * (wide, height, wide, height)
        corners = [x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)]
        pen.rectangle([corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1], outline=INK, width=width + 2)
        pen.rectangle(corners, outline=tuple(colour), width=width)
    return np.asarray(picture)


def fit(frame: np.ndarray, height: int) -> np.ndarray:
    """The frame at another height, same proportions."""
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))


def font(size: int) -> ImageFont.ImageFont:
    """Pillow's own font, `size` pixels high."""
    return ImageFont.load_default(size=size)


def strip(
    rows: Sequence[Sequence[np.ndarray]], headings: Sequence[str], captions: Sequence[str] = (), scale: int = 1
) -> Image.Image:
    """Rows of pictures of one height under column headings, on white.

    Args:
        rows: pictures [H, W, 3] uint8; every row as long as `headings`.
        headings: one a column.
        captions: one a row, drawn beneath it; none by default.
        scale: size of text and gaps, 2 for pictures twice as large.
    """
    gap, head, text = 8 * scale, 30 * scale, 15 * scale
    foot = 22 * scale if captions else 0
    widths = [max(row[c].shape[1] for row in rows) for c in range(len(headings))]
    heights = [max(picture.shape[0] for picture in row) + foot for row in rows]
    canvas = Image.new(
        "RGB", (sum(widths) + gap * (len(widths) + 1), sum(heights) + head + gap * len(heights) + gap // 2), PAPER
    )
    pen = ImageDraw.Draw(canvas)
    x = gap
    for heading, width in zip(headings, widths):
        pen.text((x + width / 2, head / 2 + scale), heading, INK, font(text), anchor="mm")
        x += width + gap
    y = head
    for i, (row, height) in enumerate(zip(rows, heights)):
        x = gap
        for picture, width in zip(row, widths):
            canvas.paste(Image.fromarray(picture), (x + (width - picture.shape[1]) // 2, y))
            x += width + gap
        if captions:
            pen.text((gap, y + height - foot / 2), captions[i], SOFT, font(12 * scale), anchor="lm")
        y += height + gap
    return canvas


def curve(
    pen: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    times: Sequence[float],
    values: Sequence[float],
    level: float = 0.5,
) -> None:
    """Values 0..1 over seconds inside box (x0, y0, x1, y1), with the threshold as a thin line."""
    x0, y0, x1, y1 = box
    end = max(times[-1], 1e-6)
    grey, small = (150, 157, 166), font(11)
    left = x0 + 58

    def place(time: float, value: float) -> tuple[float, float]:
        return left + (x1 - left) * time / end, y1 - (y1 - y0) * value

    pen.text((x0, y0 + 6), "highest P", INK, small, anchor="lm")
    for value in (0.0, level, 1.0):
        height = place(0, value)[1]
        pen.line([(left, height), (x1, height)], grey if value == level else (222, 226, 231), 1)
        if value != 1.0:
            pen.text((left - 5, min(height, y1 - 4)), f"{value:g}", grey, small, anchor="rm")
    points = [place(t, v) for t, v in zip(times, values)]
    if len(points) > 1:
        pen.line(points, ACCENT, 2, joint="curve")
    else:
        (x, y), r = points[0], 3
        pen.ellipse([x - r, y - r, x + r, y + r], ACCENT)
