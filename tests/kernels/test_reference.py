"""Definitions that hold on their own."""

import math

import torch

from fastdmt_kernels import boxes_to_mask, localization_loss, pack_mask, reference


def test_gradient_of_the_reference():
    s = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    affine = torch.tensor([2.0, 0.3], dtype=torch.float64, requires_grad=True)
    target = pack_mask(torch.rand(2, 5, 7) > 0.5)
    weight = torch.tensor([0.4, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s, c: reference.localization_loss(s, c, target, weight, size=(5, 7)), (s, affine)
    )


def test_boxes_by_hand():
    # One pixel in four is inside; logit 0 costs log 2 everywhere.
    target = boxes_to_mask(torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.4, 1.4]]]), (2, 2), min_agree=2)
    s, affine = torch.zeros(1, 1, 1), torch.tensor([1.0, 0.0], requires_grad=True)
    loss = localization_loss(s, affine, target, torch.ones(1), size=(2, 2))
    loss.backward()
    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6)
    assert math.isclose(affine.grad[1].item(), 0.5 - 0.25, rel_tol=1e-6)
