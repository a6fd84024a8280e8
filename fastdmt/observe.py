"""Where a run can be watched: terminal, metrics.jsonl, TensorBoard, train.log."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG = logging.getLogger("fastdmt")


class Observer:
    """Sinks of one run. Values arrive as plain floats: whoever calls has already waited for the device.

    Args:
        run: run folder.
        resume_step: lines of metrics.jsonl past this step are dropped: a resumed run writes them again.
    """

    def __init__(self, run: Path, console: Console, resume_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.console = run, console
        self.metrics = run / "metrics.jsonl"
        self._drop_lines_after(resume_step)
        self.file = open(self.metrics, "a", encoding="utf-8")
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=resume_step + 1 if resume_step else None)
        self.handler = logging.FileHandler(run / "train.log", encoding="utf-8")
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(self.handler)
        LOG.setLevel(logging.INFO)
        self.progress: Progress | None = None
        self.task = None

    def say(self, text: str) -> None:
        """One line for the terminal and the log."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        LOG.info(text)

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Begin a progress bar."""
        self.end_stage()
        self.name, self.began, self.first = name, time.perf_counter(), done
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task(name, total=total, completed=done, rate="", values="")
        self.progress.start()

    def end_stage(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def advance(self, done: int) -> None:
        if self.progress is not None:
            self.progress.update(self.task, completed=done)

    def scalars(self, step: int, done: int, values: dict[str, float]) -> None:
        """One line of metrics, everywhere. `step` counts over both stages, `done` within the stage."""
        rate = (done - self.first) / max(time.perf_counter() - self.began, 1e-9)
        self.file.write(json.dumps({"step": step, "stage": self.name, **values}) + "\n")
        self.file.flush()
        for key, value in values.items():
            self.board.add_scalar(f"{self.name}/{key}", value, step)
        text = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        if self.progress is not None:
            self.progress.update(self.task, completed=done, rate=f"{rate:.1f} step/s", values=text)
        LOG.info("%s step %d: %s (%.2f step/s)", self.name, step, text, rate)

    def timings(self, step: int, values: dict[str, float]) -> None:
        """Speed and where the time goes: TensorBoard and timings.jsonl, apart from the numbers that can be repeated."""
        with open(self.run / "timings.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "stage": self.name, **values}) + "\n")
        for key, value in values.items():
            self.board.add_scalar(f"time/{key}", value, step)

    def picture(self, name: str, step: int, image: Any) -> None:
        """A picture [H, W, 3] uint8 for TensorBoard."""
        self.board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self.end_stage()
        self.file.close()
        self.board.close()
        LOG.removeHandler(self.handler)
        self.handler.close()

    def _drop_lines_after(self, step: int) -> None:
        if not self.metrics.is_file():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError):
                break  # a line cut by a crash
        self.metrics.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


class Silent:
    """The sinks of all processes but the first: none."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None
