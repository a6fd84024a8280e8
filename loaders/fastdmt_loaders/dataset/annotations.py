"""Bounding boxes as the field stores them, and the ground-truth maps that its evaluation makes of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastdmt_loaders.errors import DataError, first_line
from fastdmt_loaders.files import read_file, read_json

FLICKR_SIDE = 256  # Flickr-SoundNet's boxes are integers in a 256 x 256 frame
MAX_XML = 1 << 20  # bytes
MIN_AGREE = {"flickr": 2, "vggss": 1}


@dataclass
class Annotation:
    """The boxes of one frame.

    Args:
        boxes: float64 [K, 4] xyxy in 0..1 of the frame, clipped, none of them empty.
        rule: "flickr" (a pixel is truth where 2 annotators agree) or "vggss" (the union).
        broken: boxes that had to be clipped or dropped, in words.
    """

    boxes: np.ndarray
    rule: str
    broken: list[str] = field(default_factory=list)

    @property
    def min_agree(self) -> int:
        """Boxes that must cover a pixel for it to be truth in training."""
        return MIN_AGREE[self.rule]

    @property
    def agrees(self) -> bool:
        """Whether so many boxes cover any pixel at all."""
        if self.min_agree == 1 or not len(self.boxes):
            return len(self.boxes) > 0
        low, high = self.boxes[:, None, :2], self.boxes[:, None, 2:]
        meet = (np.minimum(high, high.swapaxes(0, 1)) > np.maximum(low, low.swapaxes(0, 1))).all(-1)
        return bool((meet.sum(0) >= self.min_agree).any())  # each meets itself


def _clean(boxes, rule: str) -> Annotation:
    """Clips to the frame, drops what is then empty, and says so."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    clipped = np.nan_to_num(boxes, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    empty = (clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1])
    broken = []
    for box, after, gone in zip(boxes, clipped, empty):
        text = "[" + ", ".join(f"{x:g}" for x in box) + "]"
        if gone:
            broken.append(f"box {text} is empty: dropped")
        elif not np.array_equal(box, after):
            broken.append(f"box {text} leaves the frame: clipped")
    return Annotation(clipped[~empty], rule, broken)


def read_vggss(path: str | Path) -> dict[str, Annotation]:
    """vggss.json: [{"file", "class", "bbox": [[x0, y0, x1, y1], ...] in 0..1}] -> id -> Annotation.

    An id that is there several times has the boxes of all its entries.

    Raises:
        DataError: no such file, not JSON, or not of that form.
    """
    try:
        found: dict[str, list] = {}
        for item in read_json(path, "annotation file"):
            if not isinstance(item["file"], (str, int)):
                raise TypeError(f"an id that is {type(item['file']).__name__}")
            found.setdefault(str(item["file"]), []).append(item["bbox"])
        return {id: _joined(boxes) for id, boxes in found.items()}
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(
            f'{path}: not of VGG-SS\'s form [{{"file", "bbox": [[x0, y0, x1, y1]]}}] ({error!r}); download it again'
        ) from error


def read_classes(path: str | Path) -> dict[str, str]:
    """What sounds in each clip, as vggss.json names it; entries without a class are left out. Raises DataError."""
    items = read_json(path, "annotation file")
    rows = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return {
        str(item.get("file")): item["class"] for item in rows if item.get("class") and isinstance(item["class"], str)
    }


def _joined(entries: list) -> Annotation:
    if len(entries) == 1:
        return _clean(entries[0], "vggss")
    whole = _clean(np.concatenate([np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in entries]), "vggss")
    whole.broken.append(f"{len(entries)} entries: their boxes are joined")
    return whole


def read_flickr_xml(path: str | Path) -> Annotation:
    """Flickr-SoundNet's XML: <bbox> elements whose last four leaves are xmin, ymin, xmax, ymax of a 256-pixel frame.

    Raises:
        DataError: no such file, not XML, no bbox in it, or a box without four numbers.
    """
    try:
        data = read_file(path, "annotation file", MAX_XML)
        if b"<!ENTITY" in data:
            raise ValueError("it defines entities, which boxes need not")
        root, boxes = ElementTree.fromstring(data), []
        for element in root.iter("bbox"):
            leaves = {leaf.tag: leaf.text for leaf in element}
            names = ("xmin", "ymin", "xmax", "ymax")
            texts = [leaves[n] for n in names] if set(names) <= set(leaves) else [leaf.text for leaf in element][-4:]
            if len(texts) != 4:
                raise ValueError("a bbox with fewer than four numbers")
            boxes.append([float(text) / FLICKR_SIDE for text in texts])
        if not boxes:
            raise ValueError("no bbox element")
        return _clean(boxes, "flickr")
    except (ElementTree.ParseError, ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        raise DataError(
            f"{path}: cannot be read as Flickr-SoundNet boxes ({first_line(error)}); mend or remove it"
        ) from error


def packed_annotation(boxes: list, rule: str) -> Annotation:
    """Boxes as `pack` wrote them, clean. Raises ValueError, TypeError: they are not."""
    array = np.array(boxes, np.float64).reshape(-1, 4)
    # NaN fails every comparison.
    if not ((array >= 0) & (array <= 1)).all() or not (array[:, 2:] > array[:, :2]).all():
        raise ValueError(f"boxes {str(boxes)[:100]} that are none")
    return Annotation(array, rule)


def truth_map(annotation: Annotation, size: int = 224) -> np.ndarray:
    """The evaluation's ground truth G, float64 [size, size], by the rule of the field's public code.

    Corners are int(size * x). Flickr: clip(number of boxes / 2, 0, 1), values 0, 0.5, 1. VGG-SS: the union.
    """
    count = np.zeros((size, size))
    for x0, y0, x1, y1 in (annotation.boxes * size).astype(int):
        count[y0:y1, x0:x1] += 1
    return np.minimum(count / MIN_AGREE[annotation.rule], 1.0)
