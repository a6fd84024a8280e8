"""`fastdmt compare`: the paper's argument as one command, with what is needed to doubt it.

Every run sees the same data, steps, seeds and augmentation, trains the same pair of localizers and gives each an EMA
teacher. The table has the pair's mean and one localizer alone, so that ensembling cannot pass for a better algorithm.
Rows are algorithms, or variants: any options under a name. A run that is finished is not run again: its folder's name
holds a digest of its settings, so that another setting is another run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from fastdmt.cli import arguments
from fastdmt.cli.commands import evaluation, trained
from fastdmt.cli.settings import with_options
from fastdmt.config import PseudoLabelConfig, TrainConfig, require, to_dict
from fastdmt.console import CONSOLE, say
from fastdmt.data.run_data import open_files
from fastdmt.drawing.curves import write_budgets
from fastdmt.errors import FastDMTError, first_line
from fastdmt.evaluation import differences
from fastdmt.evaluation.evaluate import validate, view_of
from fastdmt.files import write_text
from fastdmt.models.pair import load
from fastdmt.names import ALGORITHMS
from fastdmt.reports.comparison import COLUMNS, comparison_table, shown, values, write_comparison
from fastdmt.runs.folder import free_names, read_metrics
from fastdmt.training.schedule import UNBIASED, WARMUP
from fastdmt.training.tracking import write_hparams
from fastdmt_loaders import eval_batches

CURVES = ("kept", "teachers_iou", "pseudo_iou", "mask_area", "truth_area", "val_ciou")
# Settings that stage 1 does not read: variants that differ in these alone share it.
STAGE_2 = {f.name for f in dataclasses.fields(PseudoLabelConfig)} - {
    *("foreground", "negatives", "negative_weight", "lambda_warmup", "supervised_loss")
}
STAGE_2 |= {"algorithm", "preset", "epochs", "steps", "lr_unbiased", "labelled_share", "eval_every", "warm_from"}


def compare(args: arguments.Compare) -> int:
    """Train, evaluate, print mean and deviation over seeds and what a difference is worth; write JSON and pages."""
    root = args.train.run if args.train.run != TrainConfig().run else Path("runs/compare")
    base = dataclasses.replace(args.train, run=root)
    rows = variants(base, args.algorithms, args.localizers, args.variant)
    budgets = parse_budgets(args.label_budgets)
    require(args.seeds >= 1, "--seeds must be at least 1")
    tables: dict[int, dict[str, list[dict[str, Any]]]] = {}
    warmed: dict[str, Path] = {}
    for seed in range(base.seed, base.seed + args.seeds):
        for budget in budgets:
            for name, cfg in rows.items():
                cfg = dataclasses.replace(cfg, seed=seed)
                if budget:
                    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, labels=budget))
                row = one_run(name, cfg, args.split, warmed)
                if row is None:
                    say(CONSOLE, "stopped; the same command goes on where it stopped")
                    return 130
                tables.setdefault(budget, {}).setdefault(name, []).append(row)
    last = tables[budgets[-1]]
    written = [root / "compare.json", root / "compare.html"]
    saved = {"split": args.split, "rows": without_pictures(last)}
    if len(budgets) > 1:
        saved["budgets"] = {budget: without_pictures(table) for budget, table in tables.items()}
        written.append(root / "labels.html")
        write_budgets(written[-1], {b: {name: values(runs) for name, runs in t.items()} for b, t in tables.items()})
    write_text(written[0], json.dumps(saved, indent=1))
    write_comparison(written[1], last, args.split)
    for budget, table in tables.items():
        if budget:
            CONSOLE.rule(f"{budget} labels")
        CONSOLE.print(comparison_table(table, args.split))
        for line in differences.sentences({name: values(runs) for name, runs in table.items()}):
            say(CONSOLE, line)
    say(CONSOLE, f"written: {', '.join(map(str, written))}")
    return 0


def variants(base: TrainConfig, algorithms: str, localizers: str, given: tuple[str, ...]) -> dict[str, TrainConfig]:
    """Name -> settings of every row.

    Args:
        base: settings shared by all.
        algorithms, localizers: comma-separated; every pair is a row.
        given: "name: options of train"; when there are any, they are the rows and `algorithms` is not read.

    Raises:
        FastDMTError: an algorithm that does not exist, a name without options or twice, options that do not parse.
    """
    rows: dict[str, TrainConfig] = {}
    for text in given:
        name, colon, options = text.partition(":")
        name = name.strip()
        require(bool(colon and name), f'--variant {text!r} has no name: write "name: options", for example "plain: "')
        require(name not in rows, f"two variants are called {name!r}; give each a name of its own")
        rows[name] = with_options(base, options, f"variant {name!r}")
    if rows:
        return rows
    for algorithm in algorithms.split(","):
        require(algorithm in ALGORITHMS, f"unknown algorithm {algorithm!r}: choose from {', '.join(ALGORITHMS)}")
        for localizer in localizers.split(",") if localizers else [base.model.localizer]:
            name = f"{localizer} {algorithm}" if "," in localizers else algorithm
            model = dataclasses.replace(base.model, localizer=localizer)
            rows[name] = dataclasses.replace(base, algorithm=algorithm, model=model)
    return rows


def parse_budgets(text: str) -> list[int]:
    """Label budgets, comma-separated; [0] (the run's own) for none. Raises FastDMTError: not positive counts."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    require(all(part.isdigit() and int(part) > 0 for part in parts), f"--labels {text!r}: give counts, as 40,80,160")
    return sorted({int(part) for part in parts}) or [0]


def digest(cfg: TrainConfig, without: frozenset[str] | set[str] = frozenset()) -> str:
    """Eight digits that stand for the settings that move numbers, some of them left out."""
    free = free_names(cfg)

    def keep(values: dict[str, Any]) -> dict[str, Any]:
        return {
            k: keep(v) if isinstance(v, dict) else v for k, v in values.items() if k not in without and k not in free
        }

    return hashlib.sha256(json.dumps(keep(to_dict(cfg)), sort_keys=True).encode()).hexdigest()[:8]


def one_run(name: str, cfg: TrainConfig, split: str, warmed: dict[str, Path]) -> dict[str, Any] | None:
    """Train unless done, then measure; None when a signal ended it, saved.

    Args:
        warmed: digest of stage 1 -> run whose warm-up the others start from; filled here.
    """
    run = cfg.run / f"{''.join(c if c.isalnum() else '-' for c in name)}-{cfg.seed}-{digest(cfg, {'feature_cache'})}"
    stage_1 = digest(cfg, STAGE_2 | {"feature_cache"})
    has_warmup = ALGORITHMS[cfg.algorithm].uses_boxes and cfg.warm_from is None
    cfg = dataclasses.replace(cfg, run=run, warm_from=warmed.get(stage_1, cfg.warm_from) if has_warmup else None)
    if has_warmup:
        warmed.setdefault(stage_1, run)
    done = run / f"compare-{split}.json"
    if done.is_file():
        return read_measured(done)
    CONSOLE.rule(f"{name}, seed {cfg.seed}" + (f", {cfg.data.labels} labels" if cfg.data.labels else ""))
    if not trained(cfg):
        return None
    model = load(run, "last", trust_localizer=cfg.model.localizer)
    items = str((run / "lists" / "validation.txt").resolve()) if split == "val" else None
    result = evaluation(model, list_name=items)
    pair, sounding = result.summary, [p for p, sounds in zip(result.pairs, result.sounding, strict=True) if sounds]
    batches = eval_batches(open_files(model.cfg), sounding, view_of(model), 64, model.device)
    parts = validate(model, batches, ("A", "students"))
    row = {
        "ciou": pair["absolute"]["ciou"],
        "auc": pair["absolute"]["auc"],
        "ciou_adaptive": pair["adaptive"]["ciou"],
        "ciou_one": parts["A"]["ciou"],
        "ciou_students": parts["students"]["ciou"],
        "ciou_shuffled": pair["absolute"]["other_ciou"],
        "silence": pair["pia"]["silence"],
        "noise": pair["pia"]["noise"],
        "blind": pair["absolute"]["blind_ciou"],
        "cap": pair["absolute"]["cap_ciou"],
        "curves": curves(run),
        "examples": shown(model, open_files(model.cfg), result),
    }
    write_text(done, json.dumps(row))
    settings = {"algorithm": cfg.algorithm, "localizer": cfg.model.localizer, "seed": cfg.seed}
    write_hparams(run, settings, {f"{split}/{k}": v for k, v in row.items() if isinstance(v, float)})
    return row


def read_measured(path: Path) -> dict[str, Any]:
    """What an earlier call found of a run. Raises FastDMTError: it is damaged."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        figures = all(isinstance(row[key], (int, float)) for key in (*COLUMNS, "blind", "cap"))
        if figures and isinstance(row["curves"], dict):
            return row
        reason = "a figure is none"
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
    raise FastDMTError(f"{path} is damaged ({reason}); remove it, and the run is measured again")


def without_pictures(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The rows as compare.json holds them; each run's folder keeps its pictures."""
    return {name: [{k: v for k, v in run.items() if k != "examples"} for run in runs] for name, runs in rows.items()}


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Named series of metrics.jsonl over stage 2, (step of that stage, value); those never logged are left out."""
    lines = read_metrics(run)
    before = max((line["step"] for line in lines if line["stage"] == WARMUP), default=0)
    out: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name in CURVES if line["stage"] == UNBIASED else ():
            if name in line:
                out.setdefault(name, []).append((line["step"] - before, line[name]))
    return {name: series for name, series in out.items() if any(value for _, value in series)}
