"""Pseudo-labels against the truth."""

from dataclasses import replace

import torch
from small_pairs import LABELLED, LOOSE, SIZE, UNLABELLED, make_batch, make_pairs, step_of

from fastdmt.algorithm import reference
from fastdmt.algorithm.diagnostics import diagnose
from fastdmt_kernels import unpack_mask


def test_diagnosis_is_the_iou_with_the_truth():
    students, teachers = make_pairs()
    batch = make_batch(4)
    algorithm = step_of("dmt", replace(LOOSE, tau=0.0), students, teachers)
    labels = algorithm.pseudo_labels(batch)
    got = diagnose(labels, batch, SIZE, 2)
    truth = reference.box_map(batch.boxes[LABELLED:], SIZE, 2)
    mask = unpack_mask(labels[0].mask, SIZE[1])
    rows = [i for i in range(UNLABELLED) if labels[0].keep[i]]
    assert rows
    iou = [(mask[i] & truth[i]).sum() / (mask[i] | truth[i]).sum() for i in rows]
    torch.testing.assert_close(got["pseudo_iou"], torch.stack(iou).mean())
    torch.testing.assert_close(got["mask_area"], torch.stack([mask[i].float().mean() for i in rows]).mean())
