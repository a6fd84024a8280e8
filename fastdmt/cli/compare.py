"""`fastdmt compare`: the paper's argument as one command, with what is needed to doubt it.

Every run sees the same data, steps, seeds and augmentation, trains the same pair of localizers and gives each an EMA
teacher. The table has the pair's mean and one localizer alone, so that ensembling cannot pass for a better method.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from rich.table import Table

from fastdmt.cli import arguments
from fastdmt.cli.commands import evaluation, trained
from fastdmt.config import METHOD_NAMES, TrainConfig, require
from fastdmt.console import CONSOLE
from fastdmt.drawing.curves import write_curves
from fastdmt.models.pair import load
from fastdmt.training.schedule import UNBIASED, WARMUP
from fastdmt.training.tracking import write_hparams

CURVES = ("kept", "teachers_iou", "pseudo_iou", "mask_area", "truth_area", "val_ciou")


def compare(args: arguments.Compare) -> int:
    """Train, evaluate, print mean and standard deviation over seeds; write compare.json and compare.html."""
    methods = args.methods.split(",")
    localizers = args.localizers.split(",") if args.localizers else [args.train.model.localizer]
    for method in methods:
        require(method in METHOD_NAMES, f"unknown method {method!r}: choose from {', '.join(METHOD_NAMES)}")
    require(args.seeds >= 1, "--seeds must be at least 1")
    root = args.train.run if args.train.run != TrainConfig().run else Path("runs/compare")
    rows: dict[str, list[dict[str, Any]]] = {}
    warmed: dict[tuple[str, int], Path] = {}
    for seed in range(args.train.seed, args.train.seed + args.seeds):
        for localizer in localizers:
            for method in methods:
                name = method if len(localizers) == 1 else f"{localizer} {method}"
                run = root / f"{localizer}-{method}-{seed}"
                cfg = dataclasses.replace(
                    args.train,
                    method=method,
                    seed=seed,
                    run=run,
                    # Stage 1 is the same for every method that has one: the first of them runs it for all.
                    warm_from=None if method == "self-supervised" else warmed.get((localizer, seed)),
                    model=dataclasses.replace(args.train.model, localizer=localizer),
                )
                if method != "self-supervised":
                    warmed.setdefault((localizer, seed), run)
                row = one_run(cfg, args.split)
                if row is None:
                    CONSOLE.print("stopped; the same command goes on where it stopped")
                    return 130
                rows.setdefault(name, []).append(row)
    (root / "compare.json").write_text(json.dumps({"split": args.split, "rows": rows}, indent=1), encoding="utf-8")
    write_curves(root / "compare.html", {name: [r["curves"] for r in runs] for name, runs in rows.items()})
    CONSOLE.print(table(rows, args.split))
    CONSOLE.print(f"written: {root / 'compare.json'}, {root / 'compare.html'}", soft_wrap=True)
    return 0


def one_run(cfg: TrainConfig, split: str) -> dict[str, Any] | None:
    """Train unless done, then measure; finished work is kept, so that an interrupted comparison goes on."""
    done = cfg.run / f"compare-{split}.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    CONSOLE.rule(f"{cfg.model.localizer} {cfg.method}, seed {cfg.seed}")
    if not trained(cfg):
        return None
    model = load(cfg.run, "last")
    items = str((cfg.run / "lists" / "validation.txt").resolve()) if split == "val" else None
    pair, one, students = (
        evaluation(model, list_name=items, source=source).summary for source in ("teachers", "A", "students")
    )
    row = {
        "ciou": pair["absolute"]["ciou"],
        "auc": pair["absolute"]["auc"],
        "ciou_adaptive": pair["adaptive"]["ciou"],
        "ciou_one": one["absolute"]["ciou"],
        "ciou_students": students["absolute"]["ciou"],
        "ciou_shuffled": pair["absolute"]["other_ciou"],
        "blind": pair["absolute"]["blind_ciou"],
        "cap": pair["absolute"]["cap_ciou"],
        "curves": curves(cfg.run),
    }
    done.write_text(json.dumps(row), encoding="utf-8")
    settings = {"method": cfg.method, "localizer": cfg.model.localizer, "seed": cfg.seed}
    write_hparams(cfg.run, settings, {f"{split}/{k}": v for k, v in row.items() if isinstance(v, float)})
    return row


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Named series of metrics.jsonl over stage 2, (step of that stage, value); what a method never has is left out."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    before = max((line["step"] for line in lines if line["stage"] == WARMUP), default=0)
    out: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name in CURVES if line["stage"] == UNBIASED else ():
            if name in line:
                out.setdefault(name, []).append((line["step"] - before, line[name]))
    return {name: series for name, series in out.items() if any(value for _, value in series)}


def table(rows: dict[str, list[dict[str, Any]]], split: str) -> Table:
    """Mean and standard deviation over seeds, in percent."""
    columns = {
        "ciou": "CIoU@0.5",
        "auc": "AUC",
        "ciou_adaptive": "CIoU adaptive",
        "ciou_one": "teacher A alone",
        "ciou_students": "students",
        "ciou_shuffled": "sounds shuffled",
    }
    any_row = next(iter(rows.values()))[0]
    out = Table(
        title=f"{split} items, absolute threshold, mean and standard deviation over {len(next(iter(rows.values())))} "
        f"seeds; blind disc {100 * any_row['blind']:.1f}, cap {100 * any_row['cap']:.1f}"
    )
    out.add_column("method")
    for title in columns.values():
        out.add_column(title, justify="right")
    for name, runs in rows.items():
        cells = []
        for key in columns:
            values = [100 * run[key] for run in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        out.add_row(name, *cells)
    return out
