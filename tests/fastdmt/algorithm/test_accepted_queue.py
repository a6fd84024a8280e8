"""Packed accepted clips against a plain queue, against the masked form, and through a run that stops and goes on."""

import copy
import dataclasses
from collections import deque
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pairs import LABELLED, LOOSE, UNLABELLED, make_batch, make_pairs, step_of
from tiny_runs import QUIET, final, tiny

from fastdmt.algorithm.accepted_queue import AcceptedQueue
from fastdmt.errors import FastDMTError
from fastdmt.training.trainer import Trainer
from fastdmt_kernels import Consensus
from fastdmt_loaders.tools.demo import make_demo


def marked(step, keep):
    """A batch and pseudo-labels in which every tensor of a row holds the row's own number."""
    batch = make_batch(step)
    number = 1000.0 * step + torch.arange(len(keep))
    for tensor in (batch.frames_strong, *batch.sound_strong.values()):
        tensor[LABELLED:] = number.view(-1, *[1] * (tensor.ndim - 1))
    mask = number.int().view(-1, 1, 1).expand(-1, 4, 2).contiguous()
    iou = torch.zeros(len(keep))
    return batch, Consensus(torch.tensor(keep), iou, mask, mask + 1, None, torch.zeros(()))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=UNLABELLED, max_size=UNLABELLED), min_size=1, max_size=12),
    st.floats(0.05, 1.0),
)
def test_it_is_a_queue_of_accepted_rows(keeps, share):
    queue, plain, lost = AcceptedQueue(share), deque(), 0
    for step, keep in enumerate(keeps, 1):
        batch, label = marked(step, keep)
        packed, out = queue.exchange(batch, label)
        for row, kept in enumerate(keep):
            if kept and len(plain) < 2 * UNLABELLED:
                plain.append(1000 * step + row)
            elif kept:
                lost += 1
        rows = len(out.keep)
        assert rows == -(-share * UNLABELLED // 1)
        expected = [plain.popleft() for _ in range(min(rows, len(plain)))]
        assert out.keep.tolist() == [i < len(expected) for i in range(rows)]
        n = len(expected)
        for tensor in (packed.frames_strong, *packed.sound_strong.values()):
            assert tensor.shape[0] == LABELLED + rows
            assert (tensor[LABELLED:].flatten(1).amin(1) == tensor[LABELLED:].flatten(1).amax(1)).all()
            assert tensor[LABELLED : LABELLED + n].flatten(1)[:, 0].tolist() == expected
        assert torch.equal(packed.frames_strong[:LABELLED], batch.frames_strong[:LABELLED])
        assert out.mask[:n, 0, 0].tolist() == expected and out.valid[:n, 0, 0].tolist() == [e + 1 for e in expected]
        assert (int(queue.count), int(queue.lost)) == (len(plain), lost)


def test_the_same_gradients_as_masked_rows_once_all_are_through():
    """With BatchNorm held still, the weighted gradients of all steps add up to the masked form's."""
    config = replace(LOOSE, lambda_u=0.0, pseudo_weight=0.5)
    students, teachers = make_pairs(dtype=torch.float64)
    for student in students:
        student.eval()
    algorithm = step_of("dmt", config, students, teachers)
    queue = AcceptedQueue(0.6)
    batches = [make_batch(step, torch.float64) for step in range(8)]
    labels = [algorithm.pseudo_labels(batch)[0] for batch in batches]
    assert 0 < sum(int(label.keep.sum()) for label in labels) < 8 * UNLABELLED
    nothing = labels[0]._replace(keep=torch.zeros(UNLABELLED, dtype=torch.bool))

    def gradients(pairs):
        total = [torch.zeros_like(p) for s in students for p in s.parameters()]
        for batch, label in pairs:
            weight = LABELLED + config.pseudo_weight * label.keep.sum()
            for p in (p for s in students for p in s.parameters()):
                p.grad = None
            (algorithm.learn(batch, [label, label]).total * weight).backward()
            for t, p in zip(total, (p for s in students for p in s.parameters())):
                t += p.grad
        return total

    masked = gradients(zip(batches, labels))
    drain = [(batches[0], nothing)] * 4  # the labelled rows of these steps are taken off again
    packed = gradients(queue.exchange(*pair) for pair in [*zip(batches, labels), *drain])
    extra = gradients(drain)
    assert int(queue.count) == 0 and int(queue.lost) == 0
    for a, b, c in zip(masked, packed, extra):
        torch.testing.assert_close(b - c, a, rtol=1e-9, atol=1e-12)


def test_with_everything_kept_and_seen_it_is_the_masked_step():
    students, teachers = make_pairs()
    algorithm = step_of("dmt", replace(LOOSE, tau=0.0), students, teachers)
    batch = make_batch(0)
    labels = algorithm.pseudo_labels(batch)
    everything = labels[0]._replace(keep=torch.ones(UNLABELLED, dtype=torch.bool))
    packed, label = AcceptedQueue(1.0).exchange(batch, everything)
    state = copy.deepcopy([s.state_dict() for s in students])
    a = algorithm.learn(batch, [everything] * 2)
    for student, before in zip(students, state):
        student.load_state_dict(before)
    b = algorithm.learn(packed, [label] * 2)
    torch.testing.assert_close(b.total, a.total)


def packing(data, run):
    cfg = tiny(data, run)
    return replace(
        cfg,
        scale=replace(cfg.scale, pack_accepted=0.4),
        pseudo=replace(cfg.pseudo, delta=0.05, tau=0.0, ignore_below=None),
        model=replace(cfg.model, affine_init=(10.0, 0.0)),
    )


def test_a_run_goes_on_with_its_waiting_clips(tmp_path):
    data = tmp_path / "data"
    make_demo(data, clips=48, labelled=10, seed=1)
    whole = Trainer(packing(data, tmp_path / "whole"), QUIET)
    whole.run()
    assert whole.queue.count + whole.queue.lost > 0, "the case must leave clips waiting"
    parts = Trainer(packing(data, tmp_path / "parts"), QUIET)
    step = parts.step

    def leave():
        values = step()
        parts.leaving.wanted = parts.global_step >= 8
        return values

    parts.step = leave
    assert parts.run().interrupted
    Trainer(dataclasses.replace(packing(data, tmp_path / "parts"), resume=True), QUIET).run()
    a, b = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_algorithms_that_label_each_student_for_itself_are_refused():
    cfg = tiny("data", "run")
    with pytest.raises(FastDMTError, match="--pack-accepted needs --algorithm dmt"):
        replace(cfg, algorithm="mean-teacher", scale=replace(cfg.scale, pack_accepted=0.5))
    with pytest.raises(FastDMTError, match="share"):
        replace(cfg, scale=replace(cfg.scale, pack_accepted=1.5))
