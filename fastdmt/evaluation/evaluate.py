"""Evaluation on a list of items: every protocol side by side, each beside what no model is needed for.

Four passes share one reading of the files: the item's own sound, another item's sound (what a model that ignores sound
would not lose), silence, and white noise (what should mark nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fastdmt.config import require
from fastdmt.errors import FastDMTError
from fastdmt.evaluation import examples as pictures
from fastdmt.evaluation import metrics
from fastdmt.evaluation.result import LEVELS, RULES, Result
from fastdmt.models.probability import upsample
from fastdmt.names import MAP_SOURCES
from fastdmt_loaders import EvalBatch, Pair, View, eval_batches
from fastdmt_loaders.dataset.annotations import truth_map
from fastdmt_loaders.frontends import FRONT_ENDS

SIZE = metrics.SIZE
NOISE_LEVEL = 0.1  # standard deviation of the white noise, full scale = 1


def view_of(model) -> View:
    """What a model wants to see at evaluation: its frame size, its sound front-ends, nothing random."""
    seconds = model.cfg.data.seconds
    return View(size=model.size, front_ends=model.front_ends, seconds=seconds, augment=False, audio_augment="none")


# Name of a map that is a mean -> names of the single localizers' maps that it is the mean of.
_SINGLE = {source.localizers: name for name, source in MAP_SOURCES.items() if len(source.localizers) == 1}
PARTS = {
    name: tuple(_SINGLE[(localizer,)] for localizer in source.localizers)
    for name, source in MAP_SOURCES.items()
    if not source.minimum
}


def validate(
    model, batches: Iterable[EvalBatch], sources: Sequence[str] = ("teachers",)
) -> dict[str, dict[str, float]]:
    """CIoU@0.5 and AUC at the absolute threshold, 0..1: the cheap part of `evaluate`, for use while training.

    Args:
        sources: keys of PARTS; every localizer runs once however many maps it is part of.

    Returns:
        source -> {"ciou", "auc"}.
    """
    return scores_of(overlaps(model, batches, sources))


def overlaps(model, batches: Iterable[EvalBatch], sources: Sequence[str]) -> dict[str, np.ndarray]:
    """cIoU of every item at the absolute threshold: source -> [items], what `scores_of` sums up."""
    values: dict[str, list[Tensor]] = {source: [] for source in sources}
    parts = dict.fromkeys(part for source in sources for part in PARTS[source])
    for batch in batches:
        truth = truths(batch).to(batch.frames.device)
        maps = {part: model.maps(batch.frames, batch.sound, part, SIZE) for part in parts}
        for source in sources:
            p = torch.stack([maps[part] for part in PARTS[source]]).mean(0)
            values[source].append(metrics.ciou(metrics.binarise(p, "absolute"), truth))
    return {source: torch.cat(v).cpu().numpy() if v else np.zeros(0) for source, v in values.items()}


def scores_of(found: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Figures of items' cIoU, in any order."""
    return {source: {"ciou": metrics.success(c), "auc": metrics.auc(c)} for source, c in found.items()}


@torch.no_grad()
def evaluate(
    model,
    dataset,
    pairs: Sequence[Pair],
    *,
    source: str = "teachers",
    shuffle_sound: bool = False,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    workers: int | None = None,
    seed: int = 0,
    name: str = "",
    examples: int = 6,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """All measures of a list.

    Args:
        model: `.maps(frames, sound, source, size) -> P`, `.cosines(frames, sound, source) -> [S, ...]`, `.size`,
            `.front_ends`, `.cfg.data.seconds`, `.device`; perhaps `.options`, see `fastdmt.evaluation.test_time`.
        dataset: `AVDataset` that holds the items.
        pairs: the items; those that do not sound are measured by confidence alone.
        source: whose map, see `fastdmt.names.MAP_SOURCES`.
        shuffle_sound: give every frame another item's sound (a cycle through all sounding items, drawn by `seed`).
        examples: items to draw of each kind (best, worst, random, non-sounding).
        progress: called with (items done, items in all).

    Raises:
        FastDMTError: no items, a sounding item without boxes, a map that is not finite.
        DataError: a file that cannot be read.
    """
    require(len(pairs) > 0, f"the list {name or 'to evaluate'} is empty; give --list FILE with one id a line")
    device = model.device if device is None else device
    sounding = [i for i, pair in enumerate(pairs) if pair.sounding]
    require(
        not shuffle_sound or len(sounding) > 1, "--shuffle-sound needs two sounding items at least; give a longer list"
    )
    order = np.random.default_rng(seed).permutation(sounding).tolist()
    rest = [i for i, pair in enumerate(pairs) if not pair.sounding]
    classes = dataset.classes  # a damaged file of classes is found before the minutes of an evaluation
    table = _Columns(len(pairs))
    done = 0

    def read(indices: list[int]) -> Iterator[tuple[EvalBatch, list[int]]]:
        nonlocal done
        first = 0
        wanted = [pairs[i] for i in indices]
        for batch in eval_batches(dataset, wanted, view_of(model), batch_size, device, workers):
            rows = indices[first : first + len(batch.pairs)]
            first += len(rows)
            yield batch, rows
            done = min(done + len(rows), len(pairs))
            if progress is not None:
                progress(done, len(pairs))

    measure = _Measure(model, source, confident=bool(rest))
    last = None
    # Every sound serves twice: for its own item, and for the next one in the shuffled cycle. The first item comes
    # again at the end, for the sound of the last one.
    for batch, rows in read(order + order[:1] if len(order) > 1 else order):
        truth = truths(batch).to(batch.frames.device)
        own, other = batch.sound, None
        if len(order) > 1:
            other = {k: torch.cat([own[k][:1] if last is None else last[k], own[k][:-1]]) for k in own}
            last = {k: own[k][-1:] for k in own}
        table.put(rows, measure.context(truth))
        table.put(rows, measure.item(batch, other if shuffle_sound else own, truth))
        if other is not None and not shuffle_sound:
            table.put(rows, measure.other(batch, other, truth))
        table.put(rows, measure.nothing(batch))
    for batch, rows in read(rest):
        table.put(rows, measure.item(batch, batch.sound, None))
    levels = table.columns.pop("levels", np.full((len(pairs), len(LEVELS)), np.nan))
    result = Result(list(pairs), table.columns, source, shuffle_sound, name, levels=levels)
    result.options = getattr(model, "options", ())
    if len(order) > 1:
        result.others = [""] * len(pairs)
        for before, i in zip(order[-1:] + order[:-1], order):
            result.others[i] = pairs[before].audio
    result.classes = {id: classes[id] for pair in pairs for id in (pair.video, pair.audio) if id in classes}
    chosen = pictures.choose(result.arrays, result.sounding, examples, seed)
    shown = [pair._replace(audio=other) if other else pair for pair, other in zip(pairs, result.others)]
    shown = shown if shuffle_sound else list(pairs)
    result.pictures = pictures.take(
        model, dataset, shown, result.arrays, chosen, view=view_of(model), source=source, device=device
    )
    return result


def truths(batch: EvalBatch) -> Tensor:
    """G [N, 224, 224] float64 of a batch's sounding items, on the host.

    Raises:
        FastDMTError: an item has no boxes.
    """
    for pair, annotation in zip(batch.pairs, batch.annotations):
        require(
            annotation is not None,
            f"item {pair.video} has no bounding box, so nothing can be measured on it; "
            "take it out of the list or add its annotation",
        )
    return torch.from_numpy(np.stack([truth_map(annotation, SIZE) for annotation in batch.annotations]))


class _Columns:
    """Columns of per-item values, numbers or rows of them, that are filled row by row; NaN until then."""

    def __init__(self, length: int) -> None:
        self.length, self.columns = length, {}

    def put(self, rows: list[int], values: dict[str, Tensor]) -> None:
        for key, value in values.items():
            column = self.columns.setdefault(key, np.full((self.length, *value.shape[1:]), np.nan))
            column[rows] = value.double().cpu().numpy()


class _Measure:
    """The measures of one batch of items, as columns [N] and [N, levels]."""

    def __init__(self, model, source: str, confident: bool) -> None:
        self.model, self.source, self.confident = model, source, confident
        self.blanks: dict[str, dict[str, Tensor]] = {}

    def context(self, truth: Tensor) -> dict[str, Tensor]:
        out = {"area": truth.sum((1, 2))}
        for rule in RULES:
            out[f"cap_{rule}"] = metrics.attainable(truth, rule)
            out[f"blind_{rule}"] = metrics.blind(truth, rule)
        return out

    def item(self, batch: EvalBatch, sound: dict[str, Tensor], truth: Tensor | None) -> dict[str, Tensor]:
        p = self._maps(batch, sound)
        out = {"active": metrics.active_share(p)}
        if truth is not None:
            out["mse"] = metrics.mse(p, truth)
            out |= {f"ciou_{rule}": metrics.ciou(metrics.binarise(p, rule, truth), truth) for rule in RULES}
            out["levels"] = metrics.ciou_at(p, truth, LEVELS)
        if self.confident:
            cosines = [upsample(s, (SIZE, SIZE)) for s in self.model.cosines(batch.frames, sound, self.source)]
            out["confidence"] = metrics.confidence(torch.stack(cosines).mean(0))
        return out

    def other(self, batch: EvalBatch, sound: dict[str, Tensor], truth: Tensor) -> dict[str, Tensor]:
        p = self._maps(batch, sound)
        out = {f"other_{rule}": metrics.ciou(metrics.binarise(p, rule, truth), truth) for rule in RULES}
        return out | {"active_other": metrics.active_share(p)}

    def nothing(self, batch: EvalBatch) -> dict[str, Tensor]:
        """Shares of the frame that silence and noise mark."""
        if not self.blanks:
            self.blanks = blank_sounds(view_of(self.model), batch.frames.device)
        count = len(batch.pairs)
        return {
            f"active_{name}": metrics.active_share(
                self._maps(batch, {k: t.expand(count, *t.shape[1:]) for k, t in sound.items()})
            )
            for name, sound in self.blanks.items()
        }

    def _maps(self, batch: EvalBatch, sound: dict[str, Tensor]) -> Tensor:
        p = self.model.maps(batch.frames, sound, self.source, SIZE)
        broken = ~torch.isfinite(p).all(-1).all(-1)
        if bool(broken.any()):
            bad = batch.pairs[int(broken.nonzero()[0])]
            raise FastDMTError(f"the map of item {bad.video} is not finite; the weights are damaged: train again")
        return p


def blank_sounds(view: View, device: torch.device | str) -> dict[str, dict[str, Tensor]]:
    """Silence and white noise, as the front-end tensors [1, ...] of a view."""
    noise = np.random.default_rng(0)
    out = {}
    for name, level in (("silence", 0.0), ("noise", NOISE_LEVEL)):
        pcm = {rate: level * noise.standard_normal((1, view.samples(rate))).astype(np.float32) for rate in view.rates}
        out[name] = {
            key: FRONT_ENDS[key].function(torch.from_numpy(pcm[FRONT_ENDS[key].rate]).to(device))
            for key in view.front_ends
        }
    return out
