"""What is drawn over a frame says what it should."""

import numpy as np
from tones import box

from fastdmt.drawing import draw


def test_tiles_show_map_truth_and_agreement():
    frame = np.full((224, 224, 3), 100, np.uint8)
    p_a, p_b = np.zeros((224, 224), np.float32), np.zeros((224, 224), np.float32)
    p_a[40:120, 40:120], p_b[60:140, 40:120] = 0.9, 0.9
    both = draw.agreement(frame, p_a, p_b, 0.6).astype(int)
    assert (both[90, 80] == 100).all()  # agreed: the frame as it is
    assert both[50, 80, 2] > both[50, 80, 0] + 40 and both[130, 80, 0] > both[130, 80, 2] + 40  # A bluish, B orange
    assert (both[200, 200] < 60).all()
    assert (both[60, 80] == 255).all()  # white border of the intersection
    glow = draw.overlay(frame, p_a).astype(int)
    assert glow[80, 80].sum() > glow[200, 200].sum() + 150
    boxed = draw.boxes_outline(frame, box(4)[None]).astype(int)
    x0, y0 = (box(4)[:2] * 224).astype(int)
    assert (boxed == draw.GREEN).all(-1)[y0 : y0 + 3, x0 + 20].any() and (boxed[112, 112] == 100).all()
    assert (np.diff(draw.heat(np.linspace(0, 1, 64)).astype(float) @ (0.3, 0.59, 0.11)) > -1).all()  # reads in grey
