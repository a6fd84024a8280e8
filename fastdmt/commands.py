"""What the commands do once their arguments are known to be good."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console

from . import cli
from .config import TrainConfig
from .data import bar, open_data, relocate, test_pairs
from .evaluate import Result, evaluate
from .model import Model, load
from .report import write_report, write_strip
from .trainer import Outcome, Trainer

CONSOLE = Console()


def train(cfg: TrainConfig) -> int:
    """`fastdmt train`."""
    outcome = Trainer(cfg, CONSOLE).run()
    return 130 if outcome.interrupted else _trained(outcome)


def _trained(outcome: Outcome) -> int:
    CONSOLE.print(f"done: {outcome.run} (validation CIoU@0.5 {100 * outcome.best:.1f}); next:", soft_wrap=True)
    CONSOLE.print(f"  fastdmt eval {outcome.run}\n  fastdmt predict {outcome.run} FRAME SOUND", soft_wrap=True)
    return 0


def evaluate_run(args: cli.Eval) -> int:
    """`fastdmt eval`."""
    model = load(args.run, args.weights, args.device)
    out = args.out or args.run / "eval"
    result = evaluation(model, args.data, args.list, args.map, args.shuffle_sound, args.batch)
    save_evaluation(model, result, out)
    return 0


def evaluation(
    model: Model,
    root: Path | None = None,
    list_name: str | None = None,
    source: str = "teachers",
    shuffle_sound: bool = False,
    batch: int = 64,
) -> Result:
    """Evaluate on a list of the data folder; the run's test list by default."""
    cfg = dataclasses.replace(relocate(model.cfg, root), device=str(model.device))
    data = open_data(cfg, CONSOLE)
    pairs = test_pairs(data.dataset, data.split, cfg, list_name)
    with bar(CONSOLE, "evaluating") as tick:
        return evaluate(
            model,
            data.dataset,
            pairs,
            source=source,
            shuffle_sound=shuffle_sound,
            batch_size=batch,
            device=model.device,
            progress=tick,
        )


def save_evaluation(model: Model, result: Result, out: Path) -> None:
    """Table on the terminal; JSON and report on disk."""
    out.mkdir(parents=True, exist_ok=True)
    CONSOLE.print(result.table())
    result.to_json(out / "metrics.json")
    write_report(result, out / "report.html")
    write_strip(result, out / "strip.png")
    CONSOLE.print(f"written: {out / 'metrics.json'}, {out / 'report.html'}, {out / 'strip.png'}", soft_wrap=True)
