"""Fused ops of Dual Mean-Teacher."""

from .reference import (
    Consensus,
    boxes_to_mask,
    consensus,
    ema_update,
    localization_loss,
    mil_logits,
    pack_mask,
    similarity_map,
    unpack_mask,
)

__all__ = [
    "Consensus",
    "boxes_to_mask",
    "consensus",
    "ema_update",
    "localization_loss",
    "mil_logits",
    "pack_mask",
    "similarity_map",
    "unpack_mask",
]
