"""Pictures of the demo data: two or three equally salient patterned objects on a textured background.

What an object IS, its class, shows in its pattern, and less surely in the hue of its dark colour: neighbouring classes
share hues, so that hue alone names five objects of eight. It gives a small network a first hold, and the pattern is
needed for the rest. Outline, second colour, scale, rotation and light are drawn at random, and no object of a frame
stands out from the others.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

# ------------------------------------------------------------- patterns: plane (u, v) -> signed distance to the edge
# One period is 1; positive values take the first colour, negative ones the second.


def _saw(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest odd half: 0 .. 0.5."""
    return np.abs(x - np.floor(x) - 0.5)


def stripes(u, v):
    """Parallel bars."""
    return 0.25 - _saw(u)


def checks(u, v):
    """A chess board."""
    a, b = 0.25 - _saw(u), 0.25 - _saw(v)
    return np.sign(a * b) * np.minimum(np.abs(a), np.abs(b))


def dots(u, v):
    """Discs on a hexagonal grid."""
    v = v / 1.732
    near = np.minimum(np.hypot(_saw(u), _saw(v) * 1.732), np.hypot(_saw(u + 0.5), _saw(v + 0.5) * 1.732))
    return 0.32 - near


def rings(u, v):
    """Concentric rings."""
    return 0.25 - _saw(np.hypot(u, v))


def bricks(u, v):
    """A brick wall's joints."""
    row = np.floor(v * 1.6)
    along = 0.5 - _saw(u * 0.8 + 0.5 * (row % 2))
    across = 0.5 - _saw(v * 1.6)
    return np.minimum(along / 0.8, across / 1.6) - 0.07


def waves(u, v):
    """Bars along a sine."""
    return 0.25 - _saw(v + 0.32 * np.sin(np.pi * 1.3 * u))


def stars(u, v):
    """Five-pointed stars in shifted rows."""
    v, shift = v / 1.1, 0.5 * (np.floor(v / 1.1) % 2)
    x, y = u + shift - np.floor(u + shift) - 0.5, v - np.floor(v) - 0.5
    return 0.32 * (1 + 0.45 * np.cos(5 * np.arctan2(x, y))) - np.hypot(x, y)


def sunburst(u, v):
    """Rays from the middle."""
    return (0.25 - _saw(np.arctan2(v, u) * (4 / np.pi))) * np.hypot(u, v).clip(0.15)


def triangles(u, v):
    """A tiling of triangles."""
    axes = [u * np.cos(t) + v * np.sin(t) for t in (0.0, np.pi / 3, 2 * np.pi / 3)]
    parity = sum(np.floor(axis) for axis in axes) % 2
    return np.where(parity == 0, 1, -1) * np.minimum.reduce([0.5 - _saw(axis) for axis in axes])


def scales(u, v):
    """Overlapping arcs, as on a fish or a roof."""
    v = v * 1.5
    row = np.floor(v)
    here = np.hypot(u + 0.5 * (row % 2) - np.floor(u + 0.5 * (row % 2)) - 0.5, (v - row) / 1.5)
    above = np.hypot(u + 0.5 * ((row + 1) % 2) - np.floor(u + 0.5 * ((row + 1) % 2)) - 0.5, (v - row - 1) / 1.5)
    edge = np.where(above < 0.5, above, here)
    return np.where(edge < 0.5, 1, -1) * (np.abs(edge - 0.33) - 0.13)


PATTERNS: tuple[Callable, ...] = (stripes, checks, dots, rings, bricks, waves, stars, sunburst, triangles, scales)


# ----------------------------------------------------------------------------------------------- objects and frames

HUE_SPREAD = 0.08  # hues of class k: k / 10 +- this; below 0.05 they would no longer overlap


class Sprite(NamedTuple):
    """An object by itself: colour [h, w, 3] 0..1, alpha [h, w] 0..1, and its class."""

    colour: np.ndarray
    alpha: np.ndarray
    label: int


def draw_sprite(rng: np.random.Generator, label: int, side: int, light: float) -> Sprite:
    """An object whose longer side is about `side` pixels, lit from the direction `light` (radians)."""
    grid = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(grid, grid)
    stretch = rng.uniform(0.82, 1.0)
    x, y = (x / stretch, y) if rng.random() < 0.5 else (x, y / stretch)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    reach = radius / _outline(rng, angle)  # 1 on the outline
    alpha = ((0.97 - reach) * side / 2.2 + 0.5).clip(0, 1)

    period = rng.uniform(0.42, 0.68)
    turn = rng.uniform(0, 2 * np.pi)
    u = (x * np.cos(turn) + y * np.sin(turn)) / period
    v = (y * np.cos(turn) - x * np.sin(turn)) / period
    if PATTERNS[label] in (rings, sunburst):  # these have a centre: it lies somewhere inside
        u, v = u + rng.uniform(-0.5, 0.5), v + rng.uniform(-0.5, 0.5)
    else:
        u, v = u + rng.uniform(0, 1), v + rng.uniform(0, 1)
    bend = rng.uniform(-0.12, 0.12, 2)
    u, v = u + bend[0] * np.sin(2 * v), v + bend[1] * np.sin(2 * u)
    mix = (PATTERNS[label](u, v) * period * side / 2 / 1.3 + 0.5).clip(0, 1)[..., None]
    first, second = _two_colours(rng, label)
    colour = mix * first + (1 - mix) * second

    # A shallow dome under one lamp, darker at the rim, with a soft highlight.
    lamp = x * np.cos(light) + y * np.sin(light)
    shade = 0.93 + 0.22 * lamp - 0.35 * (reach.clip(0, 1) ** 6)
    shine = 0.28 * np.exp(-(((x - 0.45 * np.cos(light)) ** 2 + (y - 0.45 * np.sin(light)) ** 2) / 0.06))
    return Sprite((colour * shade[..., None] + shine[..., None]).clip(0, 1), alpha, label)


def _outline(rng: np.random.Generator, angle: np.ndarray) -> np.ndarray:
    """Distance from the centre to the edge in each direction: disc, rounded square, rounded polygon or blob."""
    kind = rng.integers(4)
    turned = angle + rng.uniform(0, 2 * np.pi)
    if kind == 0:
        edge = np.ones_like(angle)
    elif kind == 1:
        edge = (np.abs(np.cos(angle)) ** 5 + np.abs(np.sin(angle)) ** 5) ** -0.2 / 1.1
    elif kind == 2:
        sides = rng.integers(5, 8)
        wedge = 2 * np.pi / sides
        edge = 0.92 * np.cos(wedge / 2) / np.cos(turned % wedge - wedge / 2) + 0.06
    else:
        edge = 0.9 + 0.07 * np.sin(rng.integers(2, 5) * turned) + 0.04 * np.sin(rng.integers(3, 7) * turned + 1)
    return np.minimum(edge, 1.0 / np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle))))


def _two_colours(rng: np.random.Generator, label: int) -> tuple[np.ndarray, np.ndarray]:
    """A dark colour of the class's hues and a light one of another hue, in random order: all contrasts are alike."""
    hue = (label / len(PATTERNS) + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 1
    dark = colorsys.hls_to_rgb(hue, rng.uniform(0.24, 0.36), rng.uniform(0.6, 0.9))
    light = colorsys.hls_to_rgb((hue + rng.uniform(0.2, 0.8)) % 1, rng.uniform(0.74, 0.86), rng.uniform(0.5, 0.95))
    pair = (np.array(dark), np.array(light))
    return pair if rng.random() < 0.5 else pair[::-1]


def draw_background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Clouds of two muted colours with fine grain, float64 [height, width, 3] in 0..1."""
    clouds = np.zeros((height, width))
    for cells, strength in ((3, 0.5), (7, 0.3), (22, 0.2)):
        coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        clouds += strength * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    mix = ((clouds - 0.5) * 2.2 + 0.5).clip(0, 1)[..., None]
    hue, level = rng.random(), rng.uniform(0.35, 0.65)
    one = np.array(colorsys.hls_to_rgb(hue, level + 0.12, 0.28))
    two = np.array(colorsys.hls_to_rgb((hue + rng.uniform(-0.15, 0.15)) % 1, level - 0.14, 0.33))
    return (mix * one + (1 - mix) * two + 0.025 * rng.standard_normal((height, width, 1), dtype=np.float32)).clip(0, 1)


class Scene(NamedTuple):
    """A background, its objects, and where each object's upper left corner lies (x, y in pixels)."""

    background: np.ndarray
    sprites: list[Sprite]
    places: list[tuple[int, int]]


def draw_scene(rng: np.random.Generator, width: int, height: int, labels: Sequence[int]) -> Scene:
    """Objects of the given classes, of much the same size, at random places where they do not touch."""
    short, light = min(width, height), rng.uniform(-np.pi, 0)
    common = rng.uniform(0.32, 0.41 if len(labels) == 2 else 0.37)
    sides = [round(short * common * rng.uniform(0.94, 1.06)) for _ in labels]
    while True:
        places = [(int(rng.integers(2, width - s - 1)), int(rng.integers(2, height - s - 1))) for s in sides]
        apart = [
            max(abs(ax + sa / 2 - bx - sb / 2), abs(ay + sa / 2 - by - sb / 2)) >= (sa + sb) / 2 + 1
            for i, ((ax, ay), sa) in enumerate(zip(places, sides))
            for (bx, by), sb in zip(places[:i], sides)
        ]
        if all(apart):
            break
    sprites = [draw_sprite(rng, label, side, light) for label, side in zip(labels, sides)]
    return Scene(draw_background(rng, width, height), sprites, places)


def compose(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The picture uint8 [H, W, 3] and the exact boxes of its objects, float64 [K, 4] xyxy in pixels."""
    picture = scene.background.copy()
    boxes = np.zeros((len(scene.sprites), 4))
    for k, (sprite, (x, y)) in enumerate(zip(scene.sprites, scene.places)):
        size = len(sprite.alpha)
        drop = max(1, size // 14)  # a soft shadow below and to the right sets the object off from the ground
        shadow = _smooth(np.pad(sprite.alpha, drop), drop)
        ys, xs = slice(y, min(y + size + 2 * drop, len(picture))), slice(x, min(x + size + 2 * drop, picture.shape[1]))
        picture[ys, xs] *= 1 - 0.45 * shadow[: ys.stop - y, : xs.stop - x, None]
        there = picture[y : y + size, x : x + size]
        there += sprite.alpha[..., None] * (sprite.colour - there)
        columns = np.flatnonzero(sprite.alpha.max(axis=0) > 0.5)
        rows = np.flatnonzero(sprite.alpha.max(axis=1) > 0.5)
        boxes[k] = x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1
    return (picture * 255 + 0.5).astype(np.uint8), boxes


def _smooth(plane: np.ndarray, reach: int) -> np.ndarray:
    """A box blur over 2 * reach + 1 pixels both ways, edges repeated."""
    for axis in (0, 1):
        pad = [(reach + 1, reach) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(plane, pad, mode="edge"), axis=axis)
        n = plane.shape[axis]
        width = 2 * reach + 1
        plane = (np.take(total, range(width, n + width), axis) - np.take(total, range(n), axis)) / width
    return plane
