"""Checkpoints of EZ-VSL, LVS and SLAVC as localizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fastdmt.errors import FastDMTError
from fastdmt.models.localizer import Localizer, build_localizer
from fastdmt.models.pretrained import load_into, read_tensors

# localizer -> (prefix of their names -> prefix here, in order of trial)
EZVSL = {"imgnet.": "visual.", "img_proj.": "visual_head.", "audnet.": "audio.", "aud_proj.": "audio_head."}
SLAVC = {
    "imgnet.": "visual.",
    "img_proj1.": "visual_head.",
    "img_proj2.": "visual_head2.",
    "audnet.": "audio.",
    "aud_proj1.": "audio_head.",
    "aud_proj2.": "audio_head2.",
}
SLAVC |= {f"momentum_{theirs}": f"slow.{ours}" for theirs, ours in SLAVC.items()}
# Both of LVS's networks carry a classifier and three first layers, and use one: conv1 for frames, conv1_a for sound.
LVS = {
    "imgnet.conv1_a.": None,
    "imgnet.conv1_flow.": None,
    "imgnet.fc.": None,
    "imgnet.": "visual.",
    "audnet.conv1.": None,
    "audnet.conv1_a.": "audio.conv1.",
    "audnet.conv1_flow.": None,
    "audnet.fc.": None,
    "audnet.": "audio.",
}
NAMES: dict[str, dict[str, str | None]] = {"ezvsl": EZVSL, "lvs": LVS, "slavc": SLAVC}
# What each was trained with: the frame's side in pixels, seconds of sound, pixels a cell, and the audio encoder.
SETTINGS = {
    "ezvsl": (224, 3.0, 32, "spectrogram"),
    "lvs": (224, 20.0, 16, "spectrogram-s16"),
    "slavc": (224, 3.0, 32, "spectrogram"),
}


def import_checkpoint(kind: str, path: str | Path, tau: float = 0.03) -> tuple[Localizer, dict[str, dict[str, Any]]]:
    """A localizer in eval mode with the weights of a public localizer's checkpoint.

    Args:
        kind: `ezvsl`, `lvs` or `slavc`.
        path: what their code wrote with torch.save; read with weights_only.
        tau: their temperature, which the file does not hold; the map does not depend on it.

    Returns:
        The localizer, whose map equals theirs (EZ-VSL's and SLAVC's times tau: theirs is divided by it), and the
        settings that a run of it needs: {"model": ..., "data": ...} by the names of the configuration. Nothing in
        these localizers makes a probability of a cosine, so their setting is `minmax`.

    Raises:
        FastDMTError: unknown kind; a file that is missing, broken, holds code, or is not of this kind.
    """
    if kind not in NAMES:
        raise FastDMTError(f"checkpoints of '{kind}' are unknown; choose one of {', '.join(NAMES)}")
    tensors = {}
    for name, tensor in read_tensors(path).items():
        ours = _translate(name, NAMES[kind])
        if ours is not None:
            tensors[ours] = tensor
    size, seconds, stride, audio = SETTINGS[kind]
    dim = _dim(tensors, path, kind)
    localizer = build_localizer(kind, "resnet18", audio, dim=dim, output_stride=stride, tau=tau)
    # The probability head is ours; it keeps its beginning.
    tensors["affine"] = localizer.affine.detach()
    load_into(localizer, tensors, path, f"a checkpoint of {kind}")
    model = {
        "localizer": kind,
        "visual": "resnet18",
        "output_stride": stride,
        "audio_a": audio,
        "audio_b": audio,
        "dim": dim,
        "temperature": tau,
        "probability": "minmax",
    }
    return localizer.eval(), {"model": model, "data": {"size": size, "seconds": seconds}}


def _translate(name: str, prefixes: dict[str, str | None]) -> str | None:
    for theirs, ours in prefixes.items():
        if name.startswith(theirs):
            return None if ours is None else ours + name.removeprefix(theirs)
    return name


def _dim(tensors: dict[str, Tensor], path: str | Path, kind: str) -> int:
    if "audio_head." not in NAMES[kind].values():  # LVS compares the encoders' own outputs
        return 512
    if "audio_head.weight" not in tensors:
        wanted = next(theirs for theirs, ours in NAMES[kind].items() if ours == "audio_head.")
        raise FastDMTError(
            f"{path} is not a checkpoint of {kind} (it has no {wanted}weight); give another kind or file"
        )
    return tensors["audio_head.weight"].shape[0]
