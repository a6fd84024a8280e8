"""The picture that a log shows while training."""

from types import SimpleNamespace

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tones import ToneModel, box, name, tone

from fastdmt.training.pictures import training_picture, warmup_picture
from fastdmt_loaders.frontends import spectrogram


def batch_of_tones() -> SimpleNamespace:
    sound = torch.from_numpy(np.stack([tone(k, 16000, 3.0) for k in range(4)])).float()
    return SimpleNamespace(
        frames_weak=torch.zeros(4, 3, 64, 64),
        sound={"spectrogram": spectrogram(sound)},
        boxes=torch.from_numpy(np.stack([np.stack([box(k) * 64, np.zeros(4)]) for k in range(4)])).float(),
        ids=[name(k) for k in range(4)],
        labelled=2,
    )


def test_training_picture():
    image = training_picture(ToneModel(), batch_of_tones(), rows=3, tile=100)
    assert image.dtype == np.uint8 and image.shape[1] == 5 * 100 + 6 * 8
    # Unlabelled clips first: row 0 is clip 2, whose source is in the upper right.
    tile = image[30:130, 8 + 108 : 108 + 108].astype(int).sum(-1)
    assert tile[10:25, 75:92].mean() > tile[60:90, 10:40].mean() + 100


def test_warmup_picture_shows_a_student_on_its_own_batch():
    image = warmup_picture(ToneModel(), batch_of_tones(), 1, rows=3, tile=100)
    assert image.shape[1] == 2 * 100 + 3 * 8
    height = (image.shape[0] - 30 - 4) // 3
    for row in range(3):  # clip k's source is the k-th place of the upper row, and its box is drawn there
        top = 30 + row * height
        maps = image[top : top + 100, 116:216].astype(int).sum(-1)
        places = [maps[10:25, x : x + 15].mean() for x in (8, 42, 75)]
        assert int(np.argmax(places)) == row and sorted(places)[2] > sorted(places)[1] + 100
        frame = image[top : top + 100, 8:108].astype(int)
        green = (frame[..., 1] > 180) & (frame[..., 0] < 120)
        assert abs(np.flatnonzero(green.any(0)).mean() - 100 * (row + 0.5) / 3) < 3


def test_both_stages_leave_pictures_on_the_board(run):
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert {"maps of student A", "maps of student B", "maps"} <= set(board.Tags()["images"])
