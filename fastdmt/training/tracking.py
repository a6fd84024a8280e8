"""Where a run can be watched: terminal, metrics.jsonl, train.log, and TensorBoard or Weights & Biases."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from fastdmt.console import Meter, one_line, say
from fastdmt.errors import FastDMTError
from fastdmt.files import cannot_write, write_text
from fastdmt.runs.folder import read_metrics

LOG = logging.getLogger("fastdmt")
LOSSES = ("loss", "supervised", "contrastive")  # what is no share and so no percentage


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises FastDMTError, with what to do: the disk is full, or the folder cannot be written any more."""
    try:
        yield
    except OSError as error:
        raise cannot_write(
            path, error, "make room, then run it again (with --resume where a checkpoint was saved)"
        ) from None


class LogFile(logging.FileHandler):
    """A log that does not go on without its file."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # the error that is being handled


class TensorBoard:
    """Scalars and pictures in RUN/tensorboard."""

    def __init__(self, run: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if threading.excepthook is not _quiet:
            threading.excepthook = _quiet
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=resume_step + 1 if resume_step else None)

    def scalars(self, step: int, stage: str, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(f"{stage}/{key}", value, step)

    def picture(self, name: str, step: int, image: Any) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


def _quiet(args: Any) -> None:
    """TensorBoard's thread prints a traceback when the disk is full, and raises the same error at the next call."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(args)


class WeightsAndBiases:
    """The same in Weights & Biases, where that is installed; a resumed run goes on under its own id."""

    def __init__(self, run: Path, resume_step: int) -> None:
        try:
            import wandb
        except ImportError:
            raise FastDMTError("--logger wandb needs wandb; pip install wandb, or use --logger tensorboard") from None
        identity = run / "wandb-id.txt"
        known = identity.read_text().strip() if identity.is_file() else None
        settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
        self.run = wandb.init(project="fastdmt", name=run.name, dir=str(run), id=known, resume="allow", config=settings)
        identity.write_text(f"{self.run.id}\n")
        self.image = wandb.Image

    def scalars(self, step: int, stage: str, values: dict[str, float]) -> None:
        self.run.log({f"{stage}/{key}": value for key, value in values.items()}, step=step)

    def picture(self, name: str, step: int, image: Any) -> None:
        self.run.log({name: self.image(image)}, step=step)

    def close(self) -> None:
        self.run.finish()


BOARDS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "jsonl": None}


class Observer:
    """Sinks of one run. Values arrive as plain floats: whoever calls has already waited for the device.

    Args:
        run: run folder; its files are opened by `open`.
        logger: one of `BOARDS`; `jsonl` is metrics.jsonl alone, which is always written.
        sinks: functions of one's own, called with (step, stage, values).
    """

    def __init__(
        self,
        run: Path,
        console: Console,
        logger: str = "tensorboard",
        sinks: Sequence[Callable[[int, str, dict[str, float]], None]] = (),
    ) -> None:
        self.run, self.console, self.logger, self.sinks = run, console, logger, sinks
        self.metrics = run / "metrics.jsonl"
        self.board: TensorBoard | WeightsAndBiases | None = None
        self.file: TextIO | None = None
        self.meter: Meter | None = None
        self.latest: dict[str, float] = {}
        self.name, self.began, self.first = "", time.perf_counter(), 0

    def open(self, resume_step: int = 0) -> None:
        """Open the files; before it, values go to the sinks alone.

        Args:
            resume_step: lines of metrics.jsonl past this step are dropped: a resumed run writes them again.
        """
        with writing(self.metrics):
            self._drop_lines_after(resume_step)
            self.file = open(self.metrics, "a", encoding="utf-8")
        with writing(self.run / "train.log"):
            self.handler = LogFile(self.run / "train.log", encoding="utf-8")
        make = BOARDS[self.logger]
        try:
            with writing(self.run / self.logger):
                self.board = make(self.run, resume_step) if make else None
        except UnicodeEncodeError:  # TensorBoard writes UTF-8 names alone
            self.say(f"no TensorBoard: the name of {self.run} is not UTF-8; metrics.jsonl holds every number")
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(self.handler)
        LOG.setLevel(logging.INFO)

    def say(self, text: str) -> None:
        """One line for the terminal and the log."""
        say(self.console, text)
        self._log(one_line(text))

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Begin a progress bar."""
        self.end_stage()
        self.name, self.began, self.first = name, time.perf_counter(), done
        self.latest = {}
        self.meter = Meter(self.console, name, total, done)
        self.meter.start()

    def end_stage(self) -> None:
        if self.meter is not None:
            self.meter.stop()
            self.meter = None

    def advance(self, done: int) -> None:
        if self.meter is not None:
            self.meter.update(done)

    def scalars(self, step: int, done: int, values: dict[str, float]) -> None:
        """One line of metrics, everywhere. `step` counts over both stages, `done` within the stage."""
        rate = (done - self.first) / max(time.perf_counter() - self.began, 1e-9)
        if self.file is not None:
            with writing(self.metrics):
                self.file.write(json.dumps({"step": step, "stage": self.name, **values}) + "\n")
                self.file.flush()
        if self.board is not None:
            with writing(self.run / self.logger):
                self.board.scalars(step, self.name, values)
        for sink in self.sinks:
            sink(step, self.name, values)
        self.latest |= values
        if self.meter is not None:
            self.meter.show(figures(self.latest), f"{rate:.1f} step/s")
        self._log("%s step %d: %s (%.2f step/s)", self.name, step, figures(values), rate)

    def timings(self, step: int, values: dict[str, float]) -> None:
        """Speed and where the time goes: TensorBoard and timings.jsonl, apart from the numbers that can be repeated."""
        if self.file is None:
            return
        path = self.run / "timings.jsonl"
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "stage": self.name, **values}) + "\n")
        if self.board is not None:
            with writing(self.run / self.logger):
                self.board.scalars(step, f"{self.name}/time", values)

    def picture(self, name: str, step: int, image: Any) -> None:
        """A picture [H, W, 3] uint8 for the board."""
        if self.board is not None:
            with writing(self.run / self.logger):
                self.board.picture(name, step, image)

    def close(self) -> None:
        self.end_stage()
        if self.file is None:
            return
        with writing(self.metrics):
            self.file.close()
        if self.board is not None:
            with writing(self.run / self.logger):
                self.board.close()
        LOG.removeHandler(self.handler)
        self.handler.close()

    def _drop_lines_after(self, step: int) -> None:
        if self.metrics.is_file():
            kept = [line for line in read_metrics(self.run) if line["step"] <= step]
            write_text(self.metrics, "".join(f"{json.dumps(line)}\n" for line in kept))

    def _log(self, text: str, *values: Any) -> None:
        with writing(self.run / "train.log"):
            LOG.info(text, *values)


def figures(values: dict[str, float]) -> str:
    """Losses as they are, shares in percent: "loss 0.412  kept 35.0%  val_ciou 51.3%"."""
    return "  ".join(
        f"{key} {value:.3f}" if key.startswith(LOSSES) else f"{key} {100 * value:.1f}%" for key, value in values.items()
    )


class Silent(Observer):
    """The sinks of all processes but the first: none."""

    def __init__(self) -> None: ...
    def open(self, resume_step: int = 0) -> None: ...
    def say(self, text: str) -> None: ...
    def stage(self, name: str, total: int, done: int = 0) -> None: ...
    def end_stage(self) -> None: ...
    def advance(self, done: int) -> None: ...
    def scalars(self, step: int, done: int, values: dict[str, float]) -> None: ...
    def timings(self, step: int, values: dict[str, float]) -> None: ...
    def picture(self, name: str, step: int, image: Any) -> None: ...
    def close(self) -> None: ...


def write_hparams(run: Path, settings: dict[str, str | float], figures: dict[str, float]) -> None:
    """Settings and final figures for the HParams page of `tensorboard --logdir` on the folder of several runs."""
    from torch.utils.tensorboard import SummaryWriter

    try:
        writer = SummaryWriter(str(run / "tensorboard"))
    except UnicodeEncodeError:  # TensorBoard writes UTF-8 names alone
        return
    with writer:
        writer.add_hparams(settings, figures, run_name="hparams")
