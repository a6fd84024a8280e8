"""`fastdmt serve`: a page to play with, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import webbrowser
from typing import NoReturn

import numpy as np

from fastdmt.cli import arguments
from fastdmt.config import require
from fastdmt.console import CONSOLE, say
from fastdmt.data.run_data import open_files, relocate, test_pairs
from fastdmt.errors import FastDMTError
from fastdmt.models.pair import Model, load
from fastdmt.reports.play import Clip
from fastdmt.reports.serve import Server
from fastdmt_loaders import DataError


def serve(args: arguments.Serve) -> int:
    """`fastdmt serve`: exit code 0 when it was told to end."""
    require(args.largest > 0, f"--largest {args.largest} must be positive: it is MiB of one dropped file")
    model = load(args.run, device=args.device, trust_localizer=args.trust_localizer)
    clips = examples(model, args)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job begins with Ctrl-C ignored
        signal.signal(number, _stop)
    with Server(model, clips, args.port, args.largest * 2**20, f"FastDMT: {args.run.name}") as server:
        for line in (
            f"open {server.address}",
            f"for this machine alone; from another one: ssh -L {server.port}:localhost:{server.port} THIS-MACHINE",
            "Ctrl-C ends it and deletes dropped files",
        ):
            say(CONSOLE, line)
        if args.browser and sys.stdout.isatty() and _desktop():
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say(CONSOLE, "ended")
    return 0


def examples(model: Model, args: arguments.Serve) -> list[Clip]:
    """Test clips of the run's data, evenly chosen; none where the data are not here and were not asked for."""
    cfg = relocate(model.cfg, args.data)
    if args.examples <= 0 or (args.data is None and not cfg.data.root.is_dir()):
        return []
    try:
        dataset = open_files(cfg)
        pairs = [pair for pair in test_pairs(dataset, cfg) if pair.sounding]
    except (FastDMTError, DataError) as error:
        if args.data is not None:
            raise
        say(CONSOLE, f"no examples: {error}")
        return []
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(args.examples, len(pairs))).round().astype(int))
    return [
        Clip(pair.video, dataset.frame_path(pair.video), dataset.sound_path(pair.audio))
        for pair in (pairs[i] for i in chosen)
    ]


def _desktop() -> bool:
    """Whether a browser would open a window, and not take the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt
