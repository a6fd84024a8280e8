"""Views and batches: sizes, moves, and which boxes are kept."""

import numpy as np
import pytest
import torch

from fastdmt_loaders.batch import RawBatch, View, pad_boxes
from fastdmt_loaders.errors import DataError


def test_a_view_knows_its_sizes_and_refuses_unknown_names():
    view = View(size=224, front_ends=("logmel", "spectrogram", "waveform"), seconds=3.0)
    assert view.resize == 246 and view.rates == (16000, 22050) and view.samples(22050) == 66150
    assert View(size=224, augment=False).resize == 224
    with pytest.raises(DataError, match=r"'mfcc'.*logmel"):
        View(front_ends=("mfcc",))
    with pytest.raises(DataError, match=r"'loud'.*light"):
        View(audio_augment="loud")


def test_the_largest_boxes_are_kept_in_their_order_of_size():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 3, 3], [0, 0, 2, 2], [0, 0, 3, 3]], float)
    assert pad_boxes(boxes, 3).tolist() == [boxes[1].tolist(), boxes[3].tolist(), boxes[2].tolist()]
    assert pad_boxes(boxes[:1], 3).tolist() == [boxes[0].tolist(), [0.0] * 4, [0.0] * 4]
    assert pad_boxes([], 2).tolist() == [[0.0] * 4] * 2


def test_a_move_reaches_every_tensor_and_nothing_else():
    raw = RawBatch(
        frames=torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        pcm={16000: torch.zeros(2, 8)},
        boxes=torch.zeros(2, 1, 4),
        known=torch.zeros(2, dtype=torch.bool),
        index=np.arange(2),
        labelled=1,
        step=5,
        sound={"logmel": torch.zeros(2, 3)},
        bad={1: "cut"},
    )
    moved = raw.to("meta")
    assert all(t.is_meta for t in (moved.frames, moved.pcm[16000], moved.boxes, moved.known, moved.sound["logmel"]))
    assert moved.index is raw.index and (moved.labelled, moved.step, moved.bad) == (1, 5, {1: "cut"})
    assert not raw.frames.is_meta
