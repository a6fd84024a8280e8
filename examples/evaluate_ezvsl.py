"""Evaluate a checkpoint of EZ-VSL's public code on your files, by every protocol of the field.

    python examples/evaluate_ezvsl.py best.pth ROOT RUN

RUN is a folder to make; afterwards `fastdmt predict RUN FRAME SOUND` works as with any run.
"""

import sys
from pathlib import Path

import fastdmt
from fastdmt.evaluation.evaluate import evaluate
from fastdmt.reports.release import import_run
from fastdmt_loaders import AVDataset, read_pairs


def main(checkpoint: str, root: str, run: str) -> None:
    for line in import_run("ezvsl", Path(checkpoint), Path(run)):
        print(line)
    result = evaluate(fastdmt.load(run), AVDataset(root), read_pairs(Path(root) / "test.csv"))
    for rule in ("median", "absolute", "adaptive"):
        found = result.summary[rule]
        print(f"{rule}: CIoU@0.5 {100 * found['ciou']:.1f}, AUC {100 * found['auc']:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
