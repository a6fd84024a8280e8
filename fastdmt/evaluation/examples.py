"""The items of an evaluation that a person should look at, and how each is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fastdmt.drawing import draw
from fastdmt.evaluation import metrics
from fastdmt.models.inputs import read_picture
from fastdmt_loaders import Pair, View, eval_batches, read_sound

SOUND_RATE = 16000
GROUPS = ("best", "worst", "random", "non-sounding")


@dataclass
class Picture:
    """One item with everything that is drawn of it.

    Attributes:
        group: why it was chosen, one of `GROUPS`.
        frame: [H, W, 3] uint8, the file's own size.
        sound: float32 [T] at `SOUND_RATE`: what the model heard.
        boxes: [K, 4] xyxy in 0..1 of the frame; no rows for a non-sounding item.
        maps: "A", "B", "result" -> P float32 [224, 224].
        level: threshold of the teachers' masks (delta).
        ciou: rule -> cIoU; empty for a non-sounding item.
        row: its place in the list.
    """

    pair: Pair
    group: str
    frame: np.ndarray
    sound: np.ndarray
    boxes: np.ndarray
    maps: dict[str, np.ndarray]
    level: float
    ciou: dict[str, float]
    row: int

    def tiles(self, height: int) -> list[np.ndarray]:
        """Frame with its boxes | teacher A | teacher B | their agreement | result with its mask's border."""
        frame = draw.fit(self.frame, height)
        p_a, p_b, p = self.maps["A"], self.maps["B"], self.maps["result"]
        result = draw.outline(draw.overlay(frame, p), draw.resize(p, *frame.shape[:2]) >= 0.5)
        return [
            draw.boxes_outline(frame, self.boxes),
            draw.overlay(frame, p_a),
            draw.overlay(frame, p_b),
            draw.agreement(frame, p_a, p_b, self.level),
            draw.boxes_outline(result, self.boxes, width=1),
        ]


HEADINGS = ("frame and truth", "teacher A", "teacher B", "intersection", "result")


def choose(arrays: dict[str, np.ndarray], sounding: np.ndarray, each: int, seed: int = 0) -> dict[str, list[int]]:
    """Rows to draw: best and worst by cIoU (absolute), then random ones, then non-sounding ones; none twice."""
    heard = np.flatnonzero(sounding)
    # Many items score exactly 0: of these, the larger error is the worse one.
    order = heard[np.lexsort((-arrays["mse"][heard], arrays["ciou_absolute"][heard]))] if len(heard) else heard
    count = min(each, len(order) // 3) if len(order) >= 3 else 0
    worst, best = order[:count], order[::-1][:count]
    rest = np.setdiff1d(order, np.concatenate([worst, best]))
    rng = np.random.default_rng(seed)
    silent = np.flatnonzero(~sounding)
    return {
        "best": best.tolist(),
        "worst": worst.tolist(),
        "random": rng.permutation(rest)[:each].tolist(),
        "non-sounding": rng.permutation(silent)[:each].tolist(),
    }


@torch.no_grad()
def take(
    model,
    dataset,
    pairs: Sequence[Pair],
    arrays: dict[str, np.ndarray],
    chosen: dict[str, list[int]],
    *,
    view: View,
    source: str,
    device: torch.device | str,
) -> list[Picture]:
    """The chosen items with their maps, computed again: an evaluation keeps no maps."""
    rows = [(group, row) for group in GROUPS for row in chosen.get(group, [])]
    out: list[Picture] = []
    for batch in eval_batches(dataset, [pairs[row] for _, row in rows], view, 16, device=device):
        names = {"A": "A", "B": "B", "result": source}
        p = {k: model.maps(batch.frames, batch.sound, name, metrics.SIZE) for k, name in names.items()}
        maps = {k: m.float().cpu().numpy() for k, m in p.items()}
        for i, pair in enumerate(batch.pairs):
            group, row = rows[len(out)]
            annotation = batch.annotations[i]
            boxes = annotation.boxes if pair.sounding and annotation is not None else np.zeros((0, 4))
            ciou = {r: float(arrays[f"ciou_{r}"][row]) for r in metrics.RULES} if pair.sounding else {}
            frame = read_picture(dataset.frame_path(pair.video))
            sound = read_sound(dataset.sound_path(pair.audio), (SOUND_RATE,), view.seconds)[SOUND_RATE]
            own = {k: m[i] for k, m in maps.items()}
            out.append(Picture(pair, group, frame, sound, boxes, own, model.cfg.pseudo.delta, ciou, row))
    return out
