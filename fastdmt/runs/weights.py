"""Weight files (.safetensors): written whole or not at all, with a SHA-256 of what they hold; read only when it fits.

The digest lies in the metadata of the file itself and covers names, types, shapes and values, so that it moves with the
file and no crash can part them. A file without one, of an older version or another program, loads as it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastdmt.errors import FastDMTError, first_line
from fastdmt.files import cannot_write, sync

DIGEST = "sha256"  # key of the metadata


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace a file by these tensors.

    Raises:
        FastDMTError: a value is not finite, or the file cannot be written; what stood there stays.
    """
    whole = {name: t.detach().to("cpu", copy=False).contiguous() for name, t in tensors.items()}
    require_finite(whole, path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(whole, partial, {"format": "pt", DIGEST: digest(whole)})
        os.umask(mask := os.umask(0))
        partial.chmod(0o666 & ~mask)  # safetensors lets the owner alone read
        sync(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(path, error, "make room, then run it again (a training: with --resume)") from None


def read_weights(path: Path, advice: str) -> dict[str, Tensor]:
    """All tensors of a file, on the host.

    Args:
        advice: how to mend what is wrong, for the message.

    Raises:
        FastDMTError: absent, damaged, other than its digest says, or a value is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(DIGEST)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # of a hostile header anything
        reason = looks_like(path) or first_line(error)
        raise FastDMTError(f"{path} is not a whole safetensors file ({reason}); {advice}") from None
    if said is not None and said != digest(tensors):
        raise FastDMTError(f"{path} is damaged: its tensors do not have the SHA-256 they were written with; {advice}")
    require_finite(tensors, path)
    return tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values of contiguous tensors on the host, in the order of names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            total.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def require_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raises FastDMTError, with the first such tensor's name: a weight is NaN or infinite."""
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        values = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no isfinite
        bad = values.numel() - int(torch.isfinite(values).sum())
        if bad:
            raise FastDMTError(
                f"{path}: {name} is not finite ({bad:,} of {values.numel():,} values are NaN or infinite); "
                "these weights are spoiled: take an earlier file"
            )


def looks_like(path: Path) -> str | None:
    """What a file is that was taken for weights by mistake: a page of a web site, a pointer of Git LFS, nothing."""
    try:
        with open(path, "rb") as file:
            start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return None
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file: fetch it with git lfs pull"
    if start[:64].lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "it is a web page, not the file: the address gave a page instead of a download"
    if start.startswith((b'{"error', b'{"message', b"AccessDenied")):
        return "it is a server's error message, not the file"
    return None
