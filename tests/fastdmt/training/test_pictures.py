"""The picture that a log shows while training."""

import numpy as np
from tones import ToneModel, box, name

from fastdmt.training.pictures import training_picture


def test_training_picture(tmp_path):
    from types import SimpleNamespace

    import torch
    from tones import tone

    from fastdmt_loaders.frontends import spectrogram

    sound = torch.from_numpy(np.stack([tone(k, 16000, 3.0) for k in range(4)])).float()
    batch = SimpleNamespace(
        frames_weak=torch.zeros(4, 3, 64, 64),
        sound={"spectrogram": spectrogram(sound)},
        boxes=torch.from_numpy(np.stack([np.stack([box(k) * 64, np.zeros(4)]) for k in range(4)])).float(),
        ids=[name(k) for k in range(4)],
        labelled=2,
    )
    image = training_picture(ToneModel(), batch, rows=3, tile=100)
    assert image.dtype == np.uint8 and image.shape[1] == 5 * 100 + 6 * 8
    # Unlabelled clips first: row 0 is clip 2, whose source is in the upper right.
    tile = image[30:130, 8 + 108 : 108 + 108].astype(int).sum(-1)
    assert tile[10:25, 75:92].mean() > tile[60:90, 10:40].mean() + 100
