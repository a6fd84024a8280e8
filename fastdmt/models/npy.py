"""Reads an .npy file that holds a pickled object of arrays and plain containers, without executing it.

A pickle is a program. Here its names reach stand-ins only: an array is rebuilt from its shape, its type and its bytes
by code of this file, and any other name ends the reading.
"""

from __future__ import annotations

import pickle
from typing import Any, BinaryIO

import numpy as np

RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}


class _Dtype:
    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        dtype = np.dtype(self.code)
        if dtype.kind not in "fiubO":
            raise ValueError(f"an array of {dtype}")
        return dtype if self.order == "|" else dtype.newbyteorder(self.order)


class _Array:
    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        dtype = dtype.numpy()
        if dtype.kind == "O":
            if not isinstance(content, list) or shape != ():
                raise ValueError("an array of objects where one object was expected")
            self.value = content[0]
            return
        if isinstance(content, str):  # bytes of Python 2
            content = content.encode("latin1")
        self.value = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    # Python 3 writes bytes so under protocol 2.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in RECONSTRUCT:
            return _reconstruct
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # an argument of _reconstruct, never called
        if (module, name) == ("numpy", "dtype"):
            return _Dtype
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"{module}.{name}")


def _plain(value: Any) -> Any:
    """Stand-ins replaced by their arrays, dicts and lists walked."""
    if isinstance(value, _Array):
        return _plain(value.value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def read_pickled_array(file: BinaryIO) -> Any:
    """The object in a 0-dimensional object array that np.save wrote, from Python 2 or 3.

    Raises:
        pickle.UnpicklingError: the file names anything but arrays; nothing of it has run.
        Exception: any other, on a broken file.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if shape != () or dtype != np.dtype(object):
        raise ValueError(f"it holds an array {shape} of {dtype}, not a pickled dict")
    return _plain(_ArraysOnly(file, encoding="latin1").load())
