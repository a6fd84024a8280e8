"""Frames in which nothing sounds: which rows they are, what the loss asks of them, and what it leaves alone."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small_pairs import LABELLED, LOOSE, SIZE, UNLABELLED, make_batch, make_pairs, step_of

from fastdmt.algorithm.negatives import Negatives
from fastdmt_loaders import FRONT_ENDS

NAMES = ("logmel", "spectrogram")


def crop(name, sound):
    """The bank has 3 s of sound, the small batches less."""
    return sound[:, :1] if name == "logmel" else sound[..., :40]


def negatives(share=1.0):
    return Negatives(share, NAMES, 3.0, encode=crop)


def test_rows_behind_the_batch_hear_silence_noise_or_the_clip_beside():
    batch = make_batch(1)
    frames, sound = negatives().append(batch)
    n = LABELLED + UNLABELLED
    assert len(frames) == n + LABELLED
    assert torch.equal(frames[n:], batch.frames_strong[:LABELLED])
    assert torch.equal(frames[:n], batch.frames_strong)
    silence = {name: crop(name, FRONT_ENDS[name].function(torch.zeros(1, 3 * FRONT_ENDS[name].rate))) for name in NAMES}
    for name in NAMES:
        own, all_ = batch.sound_strong[name], sound[name]
        assert torch.equal(all_[:n], own)
        assert torch.equal(all_[n], silence[name][0])
        assert torch.equal(all_[n + 1], own[0])
        assert not torch.equal(all_[n + 2], silence[name][0]) and not any(torch.equal(all_[n + 2], row) for row in own)


def test_share_rounds_and_one_labelled_clip_hears_nothing_foreign():
    batch = make_batch(1)
    assert len(negatives(0.5).append(batch)[0]) == LABELLED + UNLABELLED + 2
    for rank in range(4):
        alone = negatives()
        alone.place.fill_(rank)
        frames, sound = alone.append(dataclasses.replace(batch, labelled=1))
        assert len(frames) == LABELLED + UNLABELLED + 1
        for name in NAMES:
            assert not any(torch.equal(sound[name][-1], own) for own in batch.sound_strong[name])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_two_processes_together_add_what_one_adds(share):
    n = LABELLED + UNLABELLED
    batch = dataclasses.replace(make_batch(1), labelled=n)
    frames, sound = negatives(share).append(batch)
    added = []
    for rank in range(2):
        own = slice(rank * n // 2, (rank + 1) * n // 2)
        mine = dataclasses.replace(
            batch,
            labelled=n // 2,
            frames_strong=batch.frames_strong[own],
            sound_strong={name: rows[own] for name, rows in batch.sound_strong.items()},
            index=batch.index[own],
        )
        adding = negatives(share)
        adding.place.fill_(rank)
        added.append(adding.append(mine))
    assert torch.equal(torch.cat([own[n // 2 :] for own, _ in added]), frames[n:])
    for name in NAMES:
        assert torch.equal(torch.cat([own[name][n // 2 :] for _, own in added]), sound[name][n:])


def test_loss_is_the_cross_entropy_with_an_empty_map_and_contrast_does_not_see_them():
    students, teachers = make_pairs(3)
    batch = make_batch(5)
    config = dataclasses.replace(LOOSE, negative_weight=0.5, lambda_u=1.0)
    plain_step = step_of("supervised", config, students, teachers)
    step = step_of("supervised", config, students, teachers)
    step.negatives = negatives()
    for student in students:
        student.eval()  # or the new rows would change the others through BatchNorm
    alone, together = plain_step.unbiased(batch), step.unbiased(batch)
    torch.testing.assert_close(together.supervised, alone.supervised)
    torch.testing.assert_close(together.contrastive, alone.contrastive)
    frames, sound = step.negatives.append(batch)
    expected = 0.0
    for student in students:
        s = student(frames, sound[student.front_end]).map[LABELLED + UNLABELLED :]
        w, b = student.affine
        z = F.interpolate((w * s + b)[:, None], size=SIZE, mode="bilinear", align_corners=False)
        expected = expected + F.softplus(z).mean()
    torch.testing.assert_close(together.total, alone.total + 0.5 * expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.negative, expected.detach() / 2, rtol=1e-5, atol=1e-5)


def test_warm_up_adds_them_too():
    students, teachers = make_pairs(3)
    batch = dataclasses.replace(make_batch(5), labelled=LABELLED + UNLABELLED)
    step = step_of("dmt", LOOSE, students, teachers)
    before = step.warmup(0, batch)
    step.negatives = negatives()
    assert step.warmup(0, batch) > before
