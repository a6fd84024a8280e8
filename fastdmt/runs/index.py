"""The index of a distributed checkpoint, read without running what it may hold.

torch.distributed.checkpoint pickles it as `.metadata`, and a pickle is a program. Here its names reach the classes of
an index and nothing else, and the values are held to what `Saver` writes: tensors alone, in files of the same folder.
"""

from __future__ import annotations

import math
import pathlib
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata

from fastdmt.errors import FastDMTError, first_line

NAME = ".metadata"
LARGEST = 1 << 26  # bytes of an index; a hundred thousand tensors take a third
CLASSES: dict[tuple[str, str], Any] = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        metadata.Metadata,
        metadata.MetadataIndex,
        metadata.StorageMeta,
        metadata.TensorStorageMetadata,
        metadata.TensorProperties,
        metadata.ChunkStorageMetadata,
        metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo,
    )
}
CLASSES["torch", "Size"] = torch.Size
CLASSES["torch.serialization", "_get_layout"] = lambda name: torch.strided  # unused
# Where it was written: by name only, since a path of another system cannot be made here.
CLASSES |= {
    (module, kind): lambda *parts: "/".join(map(str, parts))
    for module in ("pathlib", "pathlib._local")
    for kind in ("PosixPath", "WindowsPath")
}


class Reader(dcp.FileSystemReader):
    """Reads a checkpoint's folder; whatever its index asks for beside tensors is refused."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        index = read_index(pathlib.Path(self.path))
        index.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        return index


def read_index(folder: Path) -> metadata.Metadata:
    """What tensors a checkpoint's folder holds, and where.

    Raises:
        FastDMTError: absent, damaged, or it names what no index of tensors holds; nothing of it has run.
    """
    path = folder / NAME
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST >> 20} MiB")
        with open(path, "rb") as file:
            index = _IndexOnly(file).load()
        _check(index, folder)
    except Exception as error:  # a broken pickle raises anything
        raise FastDMTError(f"{path} is no index of a checkpoint and was refused ({first_line(error)})") from None
    return index


class _IndexOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CLASSES:
            return CLASSES[module, name]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is code")


def _check(index: Any, folder: Path) -> None:
    """Raises ValueError, or what a missing attribute gives, where the index is none that `Saver` writes."""
    needed = 0
    for name, entry in index.state_dict_metadata.items():
        # Of what is no tensor torch would unpickle the content as well.
        if not isinstance(name, str) or not isinstance(entry, metadata.TensorStorageMetadata):
            raise ValueError(f"{name} is no tensor")
        if not isinstance(entry.properties.dtype, torch.dtype) or not _is_shape(entry.size):
            raise ValueError(f"{name} has no type or no size")
        if not all(_is_shape(chunk.offsets) and _is_shape(chunk.sizes) for chunk in entry.chunks):
            raise ValueError(f"{name} has no place")
        needed += math.prod(entry.size) * entry.properties.dtype.itemsize
    sizes: dict[str, int] = {}
    for place, info in index.storage_data.items():
        if not isinstance(place, metadata.MetadataIndex) or not isinstance(info, filesystem._StorageInfo):
            raise ValueError("its places are none")
        file = info.relative_path
        if not isinstance(file, str) or Path(file).name != file or getattr(info, "transform_descriptors", None):
            raise ValueError(f"it reads {file!r}, which is no file of its folder")
        if file not in sizes:
            if not (folder / file).is_file():
                raise ValueError(f"{file} is missing")
            sizes[file] = (folder / file).stat().st_size
        if info.offset < 0 or info.length < 0 or info.offset + info.length > sizes[file]:
            raise ValueError(f"{file} is cut off")
    if needed > sum(sizes.values()):
        raise ValueError("its tensors are larger than its files")


def _is_shape(value: Any) -> bool:
    return isinstance(value, torch.Size) and all(size >= 0 for size in value)
