"""Files on disk -> batches on the device, for audio-visual source localization."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastdmt_loaders.batch import Batch, EvalBatch, RawBatch, View
    from fastdmt_loaders.dataset.annotations import Annotation, read_flickr_xml, read_vggss, truth_map
    from fastdmt_loaders.dataset.dataset import AVDataset, Split, make_split
    from fastdmt_loaders.dataset.lists import Pair, read_list, read_pairs
    from fastdmt_loaders.dataset.sampler import Plan
    from fastdmt_loaders.decode.sound import read_sound
    from fastdmt_loaders.errors import DataError
    from fastdmt_loaders.frontends import FRONT_ENDS
    from fastdmt_loaders.loader import Loader, eval_batches, make_loader

__all__ = [
    "FRONT_ENDS",
    "AVDataset",
    "Annotation",
    "Batch",
    "DataError",
    "EvalBatch",
    "Loader",
    "Pair",
    "Plan",
    "RawBatch",
    "Split",
    "View",
    "eval_batches",
    "make_loader",
    "make_split",
    "read_flickr_xml",
    "read_list",
    "read_pairs",
    "read_sound",
    "read_vggss",
    "truth_map",
]

_PLACES = {
    "AVDataset": "dataset.dataset",
    "Annotation": "dataset.annotations",
    "Batch": "batch",
    "DataError": "errors",
    "EvalBatch": "batch",
    "FRONT_ENDS": "frontends",
    "Loader": "loader",
    "Pair": "dataset.lists",
    "Plan": "dataset.sampler",
    "RawBatch": "batch",
    "Split": "dataset.dataset",
    "View": "batch",
    "eval_batches": "loader",
    "make_loader": "loader",
    "make_split": "dataset.dataset",
    "read_flickr_xml": "dataset.annotations",
    "read_list": "dataset.lists",
    "read_pairs": "dataset.lists",
    "read_sound": "decode.sound",
    "read_vggss": "dataset.annotations",
    "truth_map": "dataset.annotations",
}


def __getattr__(name: str) -> Any:
    # Lazily: whoever wants `errors` alone does not wait for torch.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
