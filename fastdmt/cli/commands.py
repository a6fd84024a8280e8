"""What the commands do once their arguments are known to be good."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

from fastdmt.cli import arguments
from fastdmt.cli.helping import command_line
from fastdmt.cli.settings import write_settings
from fastdmt.config import TrainConfig, require
from fastdmt.console import CONSOLE, bar, say
from fastdmt.data.run_data import open_files, relocate, test_pairs, trained_ids
from fastdmt.distributed.processes import World, start
from fastdmt.evaluation.evaluate import evaluate
from fastdmt.evaluation.result import Result
from fastdmt.evaluation.suites import SuiteResult, leak_notes, leaks, run_suite
from fastdmt.evaluation.test_time import with_options
from fastdmt.models.graph import require_packages, write_graph
from fastdmt.models.pair import Model, load
from fastdmt.names import SUITES
from fastdmt.presets import require_data
from fastdmt.reports.predict import predict
from fastdmt.reports.release import export_run, facts_of, import_run
from fastdmt.reports.report import write_report, write_strip
from fastdmt.reports.swap import swap
from fastdmt.runs.checkpoint import last_step
from fastdmt.runs.folder import read_metrics
from fastdmt.training.plan import forecast
from fastdmt.training.trainer import Outcome, Trainer
from fastdmt_loaders import AVDataset


def train(args: arguments.Train) -> int:
    """`fastdmt train`."""
    if args.save_config is not None:
        write_settings(args.save_config, args.train)
        say(CONSOLE, f"written: {args.save_config}; next: {command_line('train', '--config', args.save_config)}")
        return 0
    if args.plan:
        for line in forecast(args.train, CONSOLE).lines():
            say(CONSOLE, line)
        return 0
    return start(args.train, "fastdmt.cli.commands:train_here")


def train_here(cfg: TrainConfig, world: World) -> int:
    """One process's part of `fastdmt train`. Exit code: 0, or 130 after Ctrl-C; a run that was told to end saved."""
    outcome = Trainer(cfg, CONSOLE, world=world).run()
    if outcome.interrupted:
        return 130 if outcome.signal == signal.SIGINT else 0
    return _say_next(outcome) if world.first else 0


def train_part(cfg: TrainConfig, world: World) -> None:
    """One process's part of a training that another command asked for."""
    Trainer(cfg, CONSOLE, world=world).run()


def trained(cfg: TrainConfig) -> bool:
    """Train, or go on, in as many processes as asked for; False when a signal ended it early, saved."""
    started = last_step(cfg.run) is not None
    start(dataclasses.replace(cfg, resume=cfg.resume or started), "fastdmt.cli.commands:train_part")
    return (cfg.run / "state.txt").is_file()


def _say_next(outcome: Outcome) -> int:
    score = best_validation(outcome.run)
    found = "" if score is None else f" (validation CIoU@0.5 of the best step {100 * score:.1f}%)"
    say(CONSOLE, f"done: {outcome.run}{found}; next:")
    say(CONSOLE, f"  {command_line('eval', outcome.run)}")
    say(CONSOLE, f"  {command_line('predict', outcome.run)} FRAME SOUND")
    return 0


def best_validation(run: Path) -> float | None:
    """CIoU@0.5 of the step that was kept as the best, 0..1; None where nothing was validated."""
    lines = [line for line in read_metrics(run) if {"val_ciou", "val_auc"} <= line.keys()]
    scores = [(line["val_auc"] + 1e-3 * line["val_ciou"], line["val_ciou"]) for line in lines]
    return max(scores)[1] if scores else None


def evaluate_run(args: arguments.Eval) -> int:
    """`fastdmt eval`."""
    require(args.suite is None or args.list is None, "--suite names its own list; leave --list or --suite out")
    require(args.lists is None or args.suite is not None, "--lists belongs to --suite; add --suite NAME")
    model = with_options(
        load(args.run, args.weights, args.device, args.trust_localizer), args.flip, args.scales, args.object_guided
    )
    facts_of(model.cfg)  # damaged notes of the run are found before the minutes of an evaluation
    parts = [args.suite or "", *model.options] if args.suite or model.options else []
    out = args.out or args.run / "eval" / "-".join(part.replace(" ", "-") for part in parts if part)
    common = {"source": args.map, "shuffle_sound": args.shuffle_sound, "batch": args.batch}
    if args.suite is None:
        save_evaluation(model, evaluation(model, args.data, args.list, **common), out, args.weights)
        return 0
    cfg = relocate(model.cfg, args.data)
    require_data(cfg)
    dataset = AVDataset(cfg.data.root, SUITES[args.suite].rule)
    with bar(CONSOLE, "evaluating") as tick:
        suite = run_suite(
            model,
            dataset,
            args.suite,
            lists=args.lists,
            trained=trained_ids(args.run),
            source=args.map,
            shuffle_sound=args.shuffle_sound,
            batch_size=args.batch,
            device=model.device,
            progress=tick,
        )
    save_evaluation(model, suite.result, out, args.weights, suite)
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
    cfg = relocate(model.cfg, root)
    dataset = open_files(cfg)
    pairs = test_pairs(dataset, cfg, list_name)
    with bar(CONSOLE, "evaluating") as tick:
        return evaluate(
            model,
            dataset,
            pairs,
            source=source,
            shuffle_sound=shuffle_sound,
            batch_size=batch,
            device=model.device,
            name=Path(list_name or cfg.data.test_list).name,
            progress=tick,
        )


def save_evaluation(
    model: Model, result: Result, out: Path, weights: str = "best", suite: SuiteResult | None = None
) -> None:
    """JSON and report on disk, then the table on the terminal: what was computed is never lost to a screen."""
    out.mkdir(parents=True, exist_ok=True)
    result.to_json(out / "metrics.json")
    facts = {"weights": "best by validation" if weights == "best" else "last step"} | facts_of(model.cfg)
    if result.options:
        facts["test-time options"] = ", ".join(result.options)
    notes = suite.warnings if suite else leak_notes(result, leaks(result.pairs, trained_ids(model.cfg.run)))
    if notes:
        facts["note"] = "; ".join(notes)
    published = suite.published() if suite else None
    write_report(result, out / "report.html", title=f"Run {model.cfg.run.name}", facts=facts, published=published)
    write_strip(result, out / "strip.png")
    CONSOLE.print(suite.table() if suite else result.table())
    for line in () if suite else notes:
        say(CONSOLE, f"note: {line}")
    say(CONSOLE, f"written: {out / 'metrics.json'}, {out / 'report.html'}, {out / 'strip.png'}")


def predict_files(args: arguments.Predict) -> int:
    """`fastdmt predict`."""
    model = load(args.run, device=args.device, trust_localizer=args.trust_localizer)
    with bar(CONSOLE, "localizing") as tick:
        written = predict(
            model, args.inputs, args.out, source=args.map, fps=args.fps, player=args.player, progress=tick
        )
    for path in written:
        say(CONSOLE, str(path))
    return 0


def swap_sounds(args: arguments.Swap) -> int:
    """`fastdmt swap`."""
    model = load(args.run, device=args.device, trust_localizer=args.trust_localizer)
    for path in swap(model, args.frame, args.sounds, args.out, source=args.map, silence=args.silence):
        CONSOLE.print(str(path), soft_wrap=True, highlight=False, markup=False)
    return 0


def demo(cfg: TrainConfig) -> int:
    """`fastdmt demo`: files, training, evaluation and pictures; a second call goes on where the first one stopped."""
    if not trained(cfg):
        return 130
    model = load(cfg.run, trust_localizer=cfg.model.localizer)
    out = cfg.run / "eval"
    videos = sorted((cfg.data.root / "videos").glob("*"))[:1]
    with bar(CONSOLE, "localizing in a video") as tick:
        written = predict(model, videos, cfg.run / "predictions", player=True, progress=tick) if videos else []
    result = evaluation(model)
    say(CONSOLE, "")
    save_evaluation(model, result, out)
    say(CONSOLE, "")
    say(CONSOLE, "Everything lies in:")
    places = {
        cfg.data.root: "the demo's files, in the field's layout",
        out / "report.html": "tables, and the best, worst and random items",
        out / "strip.png": "frame | teacher A | teacher B | intersection | result",
        cfg.run / "metrics.jsonl": "every logged number; TensorBoard: tensorboard --logdir " + str(cfg.run),
        cfg.run / "best.safetensors": "weights; fastdmt.load(run) gives the model",
    }
    places |= {path: "a video with its map" for path in written if path.suffix in (".mp4", ".html")}
    for path, text in places.items():
        say(CONSOLE, f"  {path}  {text}")
    return 0


def import_checkpoint(args: arguments.Import) -> int:
    """`fastdmt import`."""
    for line in import_run(args.localizer, args.checkpoint, args.out):
        say(CONSOLE, line)
    say(CONSOLE, f"written: {args.out}; next: fastdmt eval {args.out} --data ROOT --suite vggss")
    return 0


def export(args: arguments.Export) -> int:
    """`fastdmt export`."""
    if args.format is not None:
        require_packages(args.format)  # before a folder is made
    written = export_run(args.run, args.out, args.hub_layout, args.weights, args.trust_localizer)
    if args.format is not None:
        model = load(args.out, device="cpu", trust_localizer=args.trust_localizer)
        written.append(write_graph(model, args.out, args.format))
    for path in written:
        say(CONSOLE, f"written: {path}")
    return 0
