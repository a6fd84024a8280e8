"""What `predict` found in many files, as one CSV and one COCO json that other tools read."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fastdmt.errors import FastDMTError
from fastdmt.files import write_text

COLUMNS = ("id", "second", "x0", "y0", "x1", "y1", "confidence", "centre_x", "centre_y")


class FoundBoxes:
    """OUT/predictions.csv, a line as soon as a file is done, and OUT/predictions.json in COCO's form at the end.

    Corners are pixels. A frame, or a second of a video, in which nothing reaches the threshold has a line without a
    box in the CSV, and an image without an annotation in the COCO json.

    Raises:
        FastDMTError: the folder cannot be written.
    """

    def __init__(self, out: Path) -> None:
        self.csv, self.coco = out / "predictions.csv", out / "predictions.json"
        self.images: list[dict[str, Any]] = []
        self.boxes: list[dict[str, Any]] = []

    def __enter__(self) -> FoundBoxes:
        try:
            self.file = open(self.csv, "w", encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            raise FastDMTError(f"cannot write {self.csv}: {error.strerror}; give another --out") from None
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(COLUMNS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()
        categories = [{"id": 1, "name": "sounding"}]
        content = {"images": self.images, "annotations": self.boxes, "categories": categories}
        write_text(self.coco, json.dumps(content, indent=0))

    def add(self, id: str, name: str, size: Sequence[int], found: dict[str, Any], second: int | None = None) -> None:
        """One frame, or one second of a video.

        Args:
            id: first cell of the line.
            name: file name of the picture or video.
            size: width and height in pixels.
            found: "box" [x0, y0, x1, y1] in pixels or None, "peak" 0..1.
        """
        number = len(self.images) + 1
        image: dict[str, Any] = {"id": number, "file_name": name, "width": size[0], "height": size[1]}
        self.images.append(image if second is None else image | {"second": second})
        cells: list[Any] = ["", "", "", "", found["peak"], "", ""]
        if found["box"] is not None:
            x0, y0, x1, y1 = found["box"]
            cells = [x0, y0, x1, y1, found["peak"], (x0 + x1) / 2, (y0 + y1) / 2]
            self.boxes.append(
                {
                    "id": len(self.boxes) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "score": found["peak"],
                }
            )
        self.rows.writerow([id, "" if second is None else second, *cells])
        self.file.flush()
