"""Errors that a person can mend. `except InputError` catches those of every package; no torch is imported for it."""

from __future__ import annotations

import re

from fastdmt_loaders.errors import InputError, first_line

__all__ = ["FastDMTError", "InputError", "first_line", "told_in"]


class FastDMTError(InputError):
    """One line for the user: what is wrong, with which file, and how to mend it."""


def told_in(text: str) -> str | None:
    """The line of an error of ours that ends a traceback, as another process left it; None where there is none."""
    kinds = [InputError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    names = "|".join(re.escape(kind.__name__) for kind in kinds)
    found = re.findall(rf"^(?:[\w.]+\.)?(?:{names}): (.+)$", text, re.MULTILINE)
    return found[-1] if found else None
