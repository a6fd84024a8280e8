"""Dual Mean-Teacher for audio-visual source localization.

>>> import fastdmt
>>> model = fastdmt.load("runs/demo")                      # doctest: +SKIP
>>> heat = model.localize(frame, waveform, rate=44100)     # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Lazily: the command line refuses bad arguments before torch is imported.
    if name == "load":
        from fastdmt.models.pair import load

        return load
    raise AttributeError(f"module 'fastdmt' has no attribute {name!r}")
