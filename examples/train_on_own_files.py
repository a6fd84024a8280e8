"""Train on your own files and evaluate, from Python.

    python examples/train_on_own_files.py ROOT RUN [STEPS]

ROOT is a folder in the field's layout (frames/, audio/, boxes, lists; see docs/data.md); without one, make the demo's:
`fastdmt data demo ROOT`. The settings are the demo's: small networks from scratch, minutes on a laptop.
"""

import dataclasses
import sys
from pathlib import Path

import fastdmt
from fastdmt.evaluation.evaluate import evaluate
from fastdmt.presets import preset
from fastdmt.training.trainer import Trainer
from fastdmt_loaders import AVDataset, read_pairs


def main(root: str, run: str, steps: str = "600") -> None:
    base = preset("demo")
    batch = min(base.optim.batch, len(AVDataset(root).ids) // 3)  # no step takes more clips than are left for training
    cfg = dataclasses.replace(
        base,
        run=Path(run),
        data=dataclasses.replace(base.data, root=Path(root), annotations="auto"),
        optim=dataclasses.replace(base.optim, warmup_steps=max(1, int(steps) // 2), steps=int(steps), batch=batch),
    )
    Trainer(cfg).run()
    model = fastdmt.load(run)
    result = evaluate(model, AVDataset(root), read_pairs(Path(run) / "lists" / "test.txt"))
    found = result.summary["absolute"]
    print(f"CIoU@0.5 {100 * found['ciou']:.1f}, with another clip's sound {100 * found['other_ciou']:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
