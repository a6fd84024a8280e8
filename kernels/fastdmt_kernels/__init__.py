"""Fused ops of Dual Mean-Teacher, for any project: they import PyTorch and, where it is installed, Triton.

    from fastdmt_kernels import consensus, use

CUDA tensors run Triton kernels, all others run `fastdmt_kernels.reference`, which also defines what each op means;
`use("reference" | "triton" | "auto")` chooses for the whole process.
"""

from .backend import use
from .consensus import consensus
from .ema import EMA, ema_update
from .loss import localization_loss
from .masks import boxes_to_mask, pack_mask, unpack_mask
from .mil import localize, mil_logits
from .reference import Consensus
from .similarity import similarity_map

__all__ = [
    "EMA",
    "Consensus",
    "boxes_to_mask",
    "consensus",
    "ema_update",
    "localization_loss",
    "localize",
    "mil_logits",
    "pack_mask",
    "similarity_map",
    "unpack_mask",
    "use",
]
