"""Pictures of a training batch for the log."""

from __future__ import annotations

import numpy as np
import torch

from fastdmt.drawing import draw
from fastdmt_loaders.augment import MEAN, STD


def training_picture(model, batch, rows: int = 4, tile: int = 160) -> np.ndarray:
    """What the teachers make of a training batch, [H, W, 3] uint8: frame with its boxes | A | B | agreement | students.

    The unlabelled clips come first; boxes are drawn where they are known.
    """
    order = [*range(batch.labelled, len(batch.ids)), *range(batch.labelled)][:rows]
    frames = batch.frames_weak[order]
    sound = {name: tensor[order] for name, tensor in batch.sound.items()}
    size = frames.shape[-1]
    maps = [model.maps(frames, sound, source, size).cpu().numpy() for source in ("A", "B", "students")]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    pictures = ((frames.float().cpu() * std + mean).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
    level = model.cfg.pseudo.delta
    out = []
    for i, row in enumerate(order):
        frame = draw.fit(pictures[i], tile)
        p_a, p_b, p_students = (p[i] for p in maps)
        boxes = batch.boxes[row].float().cpu().numpy() / size
        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
        out.append(
            [
                draw.boxes_outline(frame, boxes),
                draw.overlay(frame, p_a),
                draw.overlay(frame, p_b),
                draw.agreement(frame, p_a, p_b, level),
                draw.overlay(frame, p_students),
            ]
        )
    names = ("frame", "teacher A", "teacher B", "agreement", "students")
    return np.asarray(draw.strip(out, names, [str(batch.ids[row]) for row in order]))
