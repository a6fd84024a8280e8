"""Errors that a person can mend. Nothing else is imported here, so that whoever catches them waits for no library."""


class InputError(Exception):
    """One line for the user: what is wrong, with which file or id, and how to mend it. The base of all of ours."""


class DataError(InputError):
    """A file, a list or an id is at fault."""


class MachineError(DataError):
    """The machine is at fault, not a file: no item may be replaced or reported as broken for it."""
