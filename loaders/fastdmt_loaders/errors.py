"""Errors that a person can mend."""


class DataError(Exception):
    """One line for the user: what is wrong, with which file or id, and how to mend it."""
