"""Errors that a person can mend."""


class DataError(Exception):
    """One line for the user: what is wrong, with which file or id, and how to mend it."""


class MachineError(DataError):
    """The machine is at fault, not a file: no item may be replaced or reported as broken for it."""
