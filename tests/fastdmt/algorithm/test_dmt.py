"""The algorithm against the one-page reference, and the promises of its parts."""

import copy
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from small_pairs import LABELLED, LOOSE, SIZE, UNLABELLED, make_batch, make_pairs, step_of

from fastdmt.algorithm.dmt import supervised_loss
from fastdmt.models import localizer
from fastdmt_kernels import boxes_to_mask, unpack_mask


@pytest.mark.parametrize("algorithm", ["dmt", "mean-teacher", "supervised", "self-supervised"])
def test_gradients_reach_every_branch_and_no_teacher(algorithm):
    students, teachers = make_pairs()
    labelled = LABELLED + UNLABELLED if algorithm == "supervised" else LABELLED
    losses = step_of(algorithm, LOOSE, students, teachers).unbiased(make_batch(0, labelled=labelled))
    losses.total.backward()
    for student in students:
        for name, p in student.named_parameters():
            if algorithm == "self-supervised" and name == "affine":
                assert p.grad is None  # no probability is trained without a box
            else:
                assert p.grad is not None and p.grad.abs().max() > 0, name
    assert all(p.grad is None and not p.requires_grad for t in teachers for p in t.parameters())


@pytest.mark.parametrize("lambda_u", [0.0, 0.7])
def test_pairs_are_computed_where_their_loss_follows(lambda_u, monkeypatch):
    """One pass over the features gives a student's map and logits; teachers, and students without that loss, a map."""
    students, teachers = make_pairs()
    spies = {op: Mock(wraps=getattr(localizer, op)) for op in ("localize", "mil_logits", "similarity_map")}
    for op, spy in spies.items():
        monkeypatch.setattr(localizer, op, spy)
    step_of("dmt", replace(LOOSE, lambda_u=lambda_u), students, teachers).unbiased(make_batch(0))
    calls, both = {op: spy.call_count for op, spy in spies.items()}, 2 if lambda_u else 0
    assert calls == {"localize": both, "mil_logits": 0, "similarity_map": 4 - both}


def test_rejected_clips_have_no_influence():
    students, teachers = make_pairs()
    algorithm = step_of("dmt", replace(LOOSE, tau=1.0, lambda_u=0.0), students, teachers)
    for s in students:
        s.eval()  # batch statistics would let a rejected clip move the others' features
    batch = make_batch(1)
    losses = algorithm.unbiased(batch)
    assert losses.kept == 0
    batch.frames_strong[LABELLED:] += 3.0
    torch.testing.assert_close(algorithm.unbiased(batch).total, losses.total, rtol=1e-6, atol=0)


def test_both_students_learn_from_the_shared_intersection_and_mean_teacher_from_its_own():
    students, teachers = make_pairs()
    batch = make_batch(2)
    dual = step_of("dmt", LOOSE, students, teachers).pseudo_labels(batch)
    own = step_of("mean-teacher", LOOSE, students, teachers).pseudo_labels(batch)
    assert torch.equal(dual[0].mask, dual[1].mask)
    both = unpack_mask(own[0].mask, SIZE[1]) & unpack_mask(own[1].mask, SIZE[1])
    assert torch.equal(unpack_mask(dual[0].mask, SIZE[1]), both)
    assert not torch.equal(own[0].mask, own[1].mask)
    areas = unpack_mask(own[0].mask, SIZE[1]).any(2).any(1)
    assert torch.equal(own[0].keep, areas)


def test_teachers_follow_their_own_student_buffers_included():
    students, teachers = make_pairs()
    before = copy.deepcopy(teachers)
    with torch.no_grad():
        for k, s in enumerate(students):
            for t in [*s.parameters(), *s.buffers()]:
                t.add_(k + 1)
    for bn, m in (("ema", 0.75), ("copy", 0.75)):
        now = copy.deepcopy(before)
        step_of("dmt", replace(LOOSE, bn=bn), students, now).update_teachers(m)
        for teacher, old, student in zip(now, before, students):
            for t, o, s in zip(teacher.parameters(), old.parameters(), student.parameters()):
                torch.testing.assert_close(t, 0.75 * o + 0.25 * s.detach(), rtol=1e-6, atol=1e-6)
            for t, o, s in zip(teacher.buffers(), old.buffers(), student.buffers()):
                average = t.is_floating_point() and bn == "ema"
                torch.testing.assert_close(t, 0.75 * o + 0.25 * s if average else s, rtol=1e-6, atol=1e-6)


def test_other_losses_against_float64():
    g = torch.Generator().manual_seed(3)
    s = torch.rand(4, 5, 6, generator=g, dtype=torch.float64)
    affine = torch.tensor([7.0, -3.0], dtype=torch.float64)
    truth = torch.rand(4, *SIZE, generator=g) > 0.6
    corner = torch.tensor([[[4.0, 4.0, 20.0, 20.0]]]).expand(4, 1, 4)
    target = boxes_to_mask(corner, SIZE)
    truth = unpack_mask(target, SIZE[1]).double()
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    up = torch.nn.functional.interpolate(s[:, None], size=SIZE, mode="bilinear")[:, 0]
    low, high = up.amin((1, 2), keepdim=True), up.amax((1, 2), keepdim=True)
    p = ((up - low) / (high - low)).clamp(1e-6, 1 - 1e-6)
    bce = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean((1, 2))
    got = supervised_loss(s, affine, target, weight, SIZE, probability="minmax")
    torch.testing.assert_close(got.double(), (weight * bce).sum() / 3.5, rtol=1e-4, atol=0)
    log_q = (7.0 * up).flatten(1).log_softmax(1).view_as(up)
    ce = -(truth * log_q).sum((1, 2)) / truth.sum((1, 2))
    got = supervised_loss(s, affine, target, weight, SIZE, kind="spatial_ce")
    torch.testing.assert_close(got.double(), (weight * ce).sum() / 3.5, rtol=1e-4, atol=0)
