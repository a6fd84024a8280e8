"""A localizer of one's own under Dual Mean-Teacher: squared cosines, so that a sound never points by disagreeing.

    python examples/own_localizer.py ROOT RUN [STEPS]

The class is all that is new; stages, teachers, pseudo-labels, loaders and reports are shared. On the command line it
is `fastdmt train --localizer own_localizer:Squared`, given where this file lies.
"""

import sys
from pathlib import Path

from torch import nn

from fastdmt.cli.main import main as fastdmt
from fastdmt.models.contrastive import gather_rows, two_way_cross_entropy
from fastdmt.models.localizer import Localizer, Output
from fastdmt_kernels import mil_logits, similarity_map
from fastdmt_loaders import AVDataset


class Squared(Localizer):
    """S = cos^2, and the contrastive loss over the best cell of every frame."""

    def build_heads(self, dim):
        self.visual_head = nn.Conv2d(self.visual.dim, dim, 1)
        self.audio_head = nn.Linear(self.audio.dim, dim)

    def forward(self, frames, sound):
        v, a = self.visual_head(self.visual(frames)), self.audio_head(self.audio(sound))
        return Output(similarity_map(v, a).square(), v, a)

    def contrastive_loss(self, output, weight, group=None):
        logits = mil_logits(output.v, gather_rows(output.a, group), self.tau)
        return two_way_cross_entropy(gather_rows(logits, group), gather_rows(weight, group))


def main(root: str, run: str, steps: str = "600") -> int:
    sys.path.insert(0, str(Path(__file__).parent))
    stages = ["--warmup-steps", str(max(1, int(steps) // 2)), "--steps", steps]
    stages += ["--batch", str(min(48, len(AVDataset(root).ids) // 3))]  # no more than are left for training
    return fastdmt(["train", "--localizer", "own_localizer:Squared", "--data", root, "--run", run, *stages])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
