"""EZ-VSL (Mo and Morgado, ECCV 2022): multiple-instance contrast of a sound with the best cell of every frame."""

from __future__ import annotations

from torch import nn

from fastdmt.models.localizer import Localizer


class EZVSL(Localizer):
    """EZ-VSL's heads, one linear layer each, and its initialisation; map and loss are those of `Localizer`.

    The heads are there even when the encoder's channels are `dim`. The audio encoder and the heads are initialised
    as in the authors' code, the visual encoder is left as it is (ImageNet weights in the paper).
    """

    def build_heads(self, dim: int) -> None:
        self.visual_head = nn.Conv2d(self.visual.dim, dim, 1)
        self.audio_head = nn.Linear(self.audio.dim, dim)
        for module in (self.audio, self.visual_head, self.audio_head):
            initialise(module)


def initialise(module: nn.Module, linear: bool = True) -> None:
    """The initialisation that EZ-VSL, SLAVC and (for its convolutions and BatchNorms) LVS share; in place.

    Convolutions He-normal over the fan-out, linear layers normal with deviation 0.01 cut at +-2, BatchNorm scales
    normal around 1 with deviation 0.02 and shifts 0; biases of the layers keep PyTorch's. `linear` False leaves the
    linear layers alone.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(m, nn.Linear) and linear:
            nn.init.trunc_normal_(m.weight, std=0.01)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, mean=1.0, std=0.02)
            nn.init.zeros_(m.bias)
