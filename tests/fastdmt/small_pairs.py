"""Small networks and random batches for tests of the step."""

import copy

import torch

from fastdmt.algorithm.dmt import DualMeanTeacherStep
from fastdmt.algorithm.pseudo_labels import CLASSES
from fastdmt.config import PseudoLabelConfig
from fastdmt.models.localizer import build_localizer
from fastdmt.models.pair import freeze
from fastdmt_loaders import Batch

SIZE = (32, 40)
LABELLED, UNLABELLED = 3, 5


def make_batch(seed, dtype=torch.float32, labelled=LABELLED):
    g = torch.Generator().manual_seed(seed)
    n = LABELLED + UNLABELLED

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    sound = {"logmel": rand(n, 1, 1, 96, 64), "spectrogram": rand(n, 1, 257, 40)}
    corner = torch.rand(n, 3, 2, generator=g) * 16
    boxes = torch.cat([corner, corner + 8 + 8 * torch.rand(n, 3, 2, generator=g)], -1)
    return Batch(
        frames_weak=rand(n, 3, *SIZE),
        frames_strong=rand(n, 3, *SIZE),
        sound=sound,
        sound_strong={k: v + 0.1 * rand(*v.shape) for k, v in sound.items()},
        boxes=boxes,
        known=torch.ones(n, dtype=torch.bool),
        labelled=labelled,
        ids=[str(i) for i in range(n)],
        index=torch.arange(n),
        step=0,
    )


def make_pairs(seed=0, dtype=torch.float32, scale=40.0):
    """Random networks whose masks cover about half of the frame: their IoUs spread around 1/3."""
    torch.manual_seed(seed)
    students = [build_localizer("dmt", "small", a, dim=128).to(dtype) for a in ("small-logmel", "small-spectrogram")]
    probe = make_batch(99, dtype)
    for s in students:
        with torch.no_grad():
            middle = s.eval()(probe.frames_weak, probe.sound[s.front_end]).map.median()
            s.affine.copy_(torch.stack([torch.full_like(middle, scale), -scale * middle]))
        s.train()
    teachers = [freeze(copy.deepcopy(s)) for s in students]
    return students, teachers


def step_of(algorithm, config, students, teachers, **kw):
    return DualMeanTeacherStep(students, teachers, CLASSES[algorithm](config, **kw), config, size=SIZE, min_agree=2)


# A loose filter, so that random networks keep some clips and reject others.
LOOSE = PseudoLabelConfig(delta=0.5, tau=0.33, ignore_below=0.4, lambda_u=0.7, momentum=0.9)
