"""The reader of SoundNet's pickled arrays, which runs nothing."""

import struct

import numpy as np
import pytest
import torch
from plain_networks import soundnet_arrays

from fastdmt.errors import FastDMTError
from fastdmt.models.encoders import build_audio
from fastdmt.models.pretrained import load_weights, read_tensors


def save_object(path, value):
    array = np.empty((), dtype=object)
    array[()] = value
    np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize(
    "name", ["builtins\neval", "os\nsystem", "numpy\nload", "numpy.core.multiarray\nscalar", "_codecs\nlookup"]
)
def test_no_other_name_is_reachable_from_an_npy(name, tmp_path):
    body = b"\x80\x02c" + name.encode() + b"\nX\x01\x00\x00\x001\x85R."
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    path = tmp_path / "sound8.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)
    with pytest.raises(FastDMTError, match=name.replace("\n", r"\.")):
        read_tensors(path)


def test_fortran_order_and_double_arrays(tmp_path):
    layers = soundnet_arrays()
    save_object(tmp_path / "c.npy", layers)
    strange = {n: {k: np.asfortranarray(v.astype(">f8")) for k, v in a.items()} for n, a in layers.items()}
    save_object(tmp_path / "f.npy", strange)
    a, b = read_tensors(tmp_path / "c.npy"), read_tensors(tmp_path / "f.npy")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_an_npy_of_something_else(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    save_object(tmp_path / "b.npy", {"conv1": {"kernel": np.zeros(3)}})
    for name in "ab":
        with pytest.raises(FastDMTError, match=rf"{name}\.npy"):
            load_weights(build_audio("soundnet8"), tmp_path / f"{name}.npy")
