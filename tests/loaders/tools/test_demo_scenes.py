"""Drawn objects: equally salient, told apart by form."""

import colorsys

import numpy as np

from fastdmt_loaders.tools.demo_scenes import PATTERNS, _two_colours, compose, draw_scene


def test_objects_of_a_frame_are_equally_salient():
    """Blind to the sound, nothing tells which object it is: sizes are close, contrast is the same on average,
    objects lie apart and anywhere, and the sounding one is any of them."""
    rng = np.random.default_rng(0)
    ratios, contrasts, centres = [], [], []
    for _ in range(150):
        labels = rng.permutation(len(PATTERNS))[: rng.integers(2, 4)]
        scene = draw_scene(rng, 160, 160, labels)
        picture, boxes = compose(scene)
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        ratios.append(sides[0] / sides[1:].mean())
        for i in range(len(boxes)):
            for j in range(i):
                a, b = boxes[i], boxes[j]
                assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= 0
        spreads = [picture[int(b[1]) : int(b[3]), int(b[0]) : int(b[2])].std() for b in boxes]
        contrasts.append(spreads[0] / np.mean(spreads[1:]))
        centres.append((boxes[0, :2] + boxes[0, 2:]) / 320)
        assert 0.2 * 160 < sides.min() and sides.max() < 0.45 * 160
    assert abs(np.mean(ratios) - 1) < 0.02 and np.ptp(ratios) < 0.5
    assert abs(np.log(contrasts).mean()) < 0.05
    assert np.abs(np.mean(centres, axis=0) - 0.5).max() < 0.05 and np.std(centres, axis=0).min() > 0.13


def test_hue_alone_does_not_tell_the_class():
    """The best guess from the hue, over many objects: better than chance, far from sure."""
    rng, classes = np.random.default_rng(2), len(PATTERNS)
    hues, labels = [], rng.integers(0, classes, 4000)
    for label in labels:
        dark = min(_two_colours(rng, label), key=np.sum)
        hues.append(colorsys.rgb_to_hls(*dark)[0])
    cells = np.digitize(hues, np.arange(0, 1, 0.01))
    table = np.zeros((101, classes))
    np.add.at(table, (cells, labels), 1)
    assert 0.5 < table.max(axis=1).sum() / len(labels) < 0.72


def test_blind_answers_stay_below_half():
    """The best that a model without sound can do: the one right object by chance, or all objects at once."""
    rng = np.random.default_rng(1)
    one, everything = [], []
    for _ in range(400):
        _, boxes = compose(draw_scene(rng, 96, 96, rng.permutation(10)[: rng.integers(2, 4)]))
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        one.append(1 / len(boxes))
        everything.append(areas[0] / areas.sum() >= 0.5)
    assert np.mean(one) < 0.46 and np.mean(everything) < 0.35
