"""Every algorithm's pseudo-labels against a plain definition, and whom its gradients reach."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small_pairs import LABELLED, LOOSE, SIZE, make_batch, make_pairs, step_of

from fastdmt.algorithm.pseudo_labels import CLASSES
from fastdmt.names import ALGORITHMS
from fastdmt_kernels import unpack_mask

CONFIG = dataclasses.replace(LOOSE, confidence=0.7)
LABELLING = [name for name in ALGORITHMS if CLASSES[name].labelled_by != "nobody"]


def probabilities(models, batch):
    rows = slice(LABELLED, None)
    out = []
    for model in models:
        training = model.training
        model.eval()
        with torch.no_grad():
            s = model(batch.frames_weak[rows], batch.sound[model.front_end][rows]).map
            w, b = model.affine
            up = F.interpolate((w * s + b)[:, None], size=SIZE, mode="bilinear", align_corners=False)[:, 0]
        model.train(training)
        out.append(up.sigmoid())
    return out


def plain(name, students, teachers, batch, progress):
    """target, pixels that count, clips kept: for student A and student B."""
    c = CONFIG
    p = probabilities(students if name in ("pseudo-label", "fixmatch", "cps") else teachers, batch)
    if name == "dmt":
        a, b = p[0] >= c.delta, p[1] >= c.delta
        iou = (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)
        label = (a & b, (a & b) | ((p[0] < c.ignore_below) & (p[1] < c.ignore_below)), iou >= c.tau)
        labels = [label, label]
    elif name in ("mean-teacher", "pseudo-label"):
        labels = [(q >= c.delta, (q >= c.delta) | (q < c.ignore_below), torch.ones(len(q)).bool()) for q in p]
    elif name == "fixmatch":
        sure = c.confidence
        labels = [(q >= sure, (q >= sure) | (q < 1 - sure), torch.ones(len(q)).bool()) for q in p]
    elif name == "cps":
        labels = [(q >= 0.5, torch.ones_like(q).bool(), torch.ones(len(q)).bool()) for q in reversed(p)]
    else:
        labels = []
        for q in reversed(p):
            sharp = q**2 / (q**2 + (1 - q) ** 2)
            best = q.amax((1, 2)).sort(descending=True).indices
            keep = torch.zeros(len(q)).bool()
            keep[best[: -(-len(q) * (50 + int(50 * progress)) // 100)]] = True
            labels.append((sharp, torch.ones_like(q).bool(), keep))
    return [(t, v, k & ((t >= 0.5).flatten(1).any(1))) for t, v, k in labels]


@pytest.mark.parametrize("name", LABELLING)
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_pseudo_labels_are_the_definition(name, progress):
    students, teachers = make_pairs(3)
    _, strangers = make_pairs(4)
    for teacher, other in zip(teachers, strangers, strict=True):
        teacher.load_state_dict(other.state_dict())  # or students and teachers would say the same
    batch = make_batch(5)
    step = step_of(name, CONFIG, students, teachers)
    step.progress.fill_(progress)
    found = step.pseudo_labels(batch)
    assert all(s.training for s in students)
    kept = 0
    for label, (target, valid, keep) in zip(found, plain(name, students, teachers, batch, progress), strict=True):
        assert label.keep.tolist() == keep.tolist()
        kept += keep.sum()
        if label.confidence is None:
            assert (unpack_mask(label.mask, SIZE[1]) == target).all()
        else:
            torch.testing.assert_close(label.confidence / 255, target, rtol=0, atol=0.003)
        counted = torch.ones_like(valid) if label.valid is None else unpack_mask(label.valid, SIZE[1]).bool()
        assert (counted == valid).all()
    assert kept > 0
    if name == "xpl" and progress == 0:
        assert not all(label.keep.all() for label in found)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradients_reach_every_student_and_no_teacher(name):
    students, teachers = make_pairs(3)
    step = step_of(name, CONFIG, students, teachers)
    losses = step.unbiased(make_batch(5))
    losses.total.backward()
    for student in students:
        assert all(p.grad is not None for n, p in student.named_parameters() if n != "affine" or name[0:4] != "self")
        assert any(p.grad.abs().sum() > 0 for p in student.visual.parameters())
    assert all(p.grad is None and not p.requires_grad for t in teachers for p in t.parameters())


def test_labelling_students_keep_their_statistics():
    students, teachers = make_pairs(3)
    before = [{k: v.clone() for k, v in s.state_dict().items()} for s in students]
    step_of("cps", CONFIG, students, teachers).pseudo_labels(make_batch(5))
    for student, state in zip(students, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in student.state_dict().items())
