"""Errors that a person can mend. No library is imported here, so that whoever catches them waits for none."""

import re

OBJECT = re.compile(r" <\S+ object at 0x\w+>")


class InputError(Exception):
    """One line for the user: what is wrong, with which file or id, and how to mend it. The base of all of ours."""


class DataError(InputError):
    """A file, a list or an id is at fault."""


class MachineError(DataError):
    """The machine is at fault, not a file: no item may be replaced or reported as broken for it."""


def first_line(error: BaseException) -> str:
    """What an error of others says, as a part of one of our lines: its first line, or its class."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return OBJECT.sub("", lines[0])[:300] if lines else type(error).__name__
