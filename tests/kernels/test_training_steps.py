"""Training steps of the algorithm with the kernels equal those with the references."""

import copy

import pytest
import torch

import fastdmt_kernels
from fastdmt.algorithm.dmt import DualMeanTeacherStep
from fastdmt.algorithm.pseudo_labels import CLASSES
from fastdmt.config import PseudoLabelConfig
from fastdmt.models.localizer import build_localizer
from fastdmt.models.pair import freeze
from fastdmt_loaders import Batch

SIZE = (8, 33)
LABELLED, CLIPS = 2, 5


def batch_of(step, device):
    generator = torch.Generator().manual_seed(step)

    def rand(*shape):
        return torch.randn(*shape, generator=generator).to(device)

    corner = rand(CLIPS, 3, 2).abs() * 8
    sound = {"logmel": rand(CLIPS, 1, 1, 96, 64), "spectrogram": rand(CLIPS, 1, 257, 40)}
    return Batch(
        frames_weak=rand(CLIPS, 3, *SIZE), frames_strong=rand(CLIPS, 3, *SIZE),
        sound=sound, sound_strong={name: x + 0.1 * rand(*x.shape) for name, x in sound.items()},
        boxes=torch.cat([corner, corner + 12], 2), known=torch.ones(CLIPS, dtype=torch.bool, device=device),
        labelled=LABELLED, ids=[str(i) for i in range(CLIPS)], index=torch.arange(CLIPS), step=step,
    )  # fmt: skip


def pair(device):
    """Two random localizers whose masks cover about half of a frame, and their teachers."""
    students = [build_localizer("dmt", "small", a, dim=32).to(device) for a in ("small-logmel", "small-spectrogram")]
    probe = batch_of(99, device)
    for student in students:
        with torch.no_grad():
            middle = student.eval()(probe.frames_weak, probe.sound[student.front_end]).map.median()
            student.affine.copy_(torch.stack([torch.full_like(middle, 40.0), -40.0 * middle]))
        student.train()
    return students, [freeze(copy.deepcopy(s)) for s in students]


def train(mode, steps, students, teachers, config, device):
    before = fastdmt_kernels.use(mode)
    try:
        algorithm = DualMeanTeacherStep(
            students, teachers, CLASSES["dmt"](config, "sigmoid"), config, size=SIZE, min_agree=2
        )
        # Small steps: at larger ones this tiny network doubles any rounding error several times a step.
        optimizer = torch.optim.SGD([p for s in students for p in s.parameters()], lr=1e-4)
        losses, kept = [], []
        for step in range(steps):
            result = algorithm.unbiased(batch_of(step, device))
            optimizer.zero_grad()
            result.total.backward()
            optimizer.step()
            algorithm.update_teachers(config.momentum)
            losses.append(result.total.detach())
            kept.append(result.kept)
        return torch.stack(losses), torch.stack(kept)
    finally:
        fastdmt_kernels.use(before)


@pytest.mark.parametrize("steps", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_steps(poisoned_memory, device, steps):
    torch.manual_seed(0)  # a filter that both keeps and rejects is part of the test
    config = PseudoLabelConfig(delta=0.5, tau=0.33, ignore_below=0.4, lambda_u=0.7, momentum=0.9)
    plain = pair(device)
    fused = copy.deepcopy(plain)
    start = plain[0][0].affine.clone()
    losses, kept = train("reference", steps, *plain, config, device)
    fused_losses, fused_kept = train("triton", steps, *fused, config, device)
    assert torch.equal(kept, fused_kept) and 0 < kept.mean() < 1
    torch.testing.assert_close(fused_losses, losses, rtol=1e-4, atol=0)
    for ours, theirs in zip([*fused[0], *fused[1]], [*plain[0], *plain[1]], strict=True):
        for (name, p), q in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.equal(start, plain[0][0].affine)
