"""Errors that a person can mend."""


class FastDMTError(Exception):
    """One line for the user: what is wrong, with which file, and how to mend it."""
