"""Pictures of a training batch for the log."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastdmt.drawing import draw
from fastdmt_loaders.augment import MEAN, STD


def warmup_picture(model, batch, k: int, rows: int = 4, tile: int = 160) -> np.ndarray:
    """What student A (k = 0) or B makes of its own batch in stage 1, [H, W, 3] uint8: frame with its boxes | map."""
    name = f"student {'AB'[k]}"
    size = batch.frames_weak.shape[-1]
    frames, sound = batch.frames_weak[:rows], {key: tensor[:rows] for key, tensor in batch.sound.items()}
    maps = model.maps(frames, sound, name, size).cpu().numpy()
    shown = [draw.fit(picture, tile) for picture in _pictures(frames)]
    out = [[draw.boxes_outline(f, _boxes(batch, i)), draw.overlay(f, maps[i])] for i, f in enumerate(shown)]
    return np.asarray(draw.strip(out, ("frame", name), [str(id) for id in batch.ids[:rows]]))


def _pictures(frames: Tensor) -> np.ndarray:
    """Normalised frames [N, 3, H, W] as uint8 [N, H, W, 3]."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    return ((frames.float().cpu() * std + mean).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()


def _boxes(batch, row: int) -> np.ndarray:
    """Boxes [K, 4] of a row in 0..1 of its frame, the padding left out."""
    boxes = batch.boxes[row].float().cpu().numpy() / batch.frames_weak.shape[-1]
    return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


def training_picture(model, batch, rows: int = 4, tile: int = 160) -> np.ndarray:
    """What the teachers make of a training batch, [H, W, 3] uint8: frame with its boxes | A | B | agreement | students.

    The unlabelled clips come first; boxes are drawn where they are known.
    """
    order = [*range(batch.labelled, len(batch.ids)), *range(batch.labelled)][:rows]
    frames = batch.frames_weak[order]
    sound = {name: tensor[order] for name, tensor in batch.sound.items()}
    size = frames.shape[-1]
    maps = [model.maps(frames, sound, source, size).cpu().numpy() for source in ("A", "B", "students")]
    pictures = _pictures(frames)
    level = model.cfg.pseudo.delta
    out = []
    for i, row in enumerate(order):
        frame = draw.fit(pictures[i], tile)
        p_a, p_b, p_students = (p[i] for p in maps)
        out.append(
            [
                draw.boxes_outline(frame, _boxes(batch, row)),
                draw.overlay(frame, p_a),
                draw.overlay(frame, p_b),
                draw.agreement(frame, p_a, p_b, level),
                draw.overlay(frame, p_students),
            ]
        )
    names = ("frame", "teacher A", "teacher B", "agreement", "students")
    return np.asarray(draw.strip(out, names, [str(batch.ids[row]) for row in order]))
