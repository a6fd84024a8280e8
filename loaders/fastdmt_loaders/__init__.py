"""Files on disk -> batches on the device, for audio-visual source localization."""

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
