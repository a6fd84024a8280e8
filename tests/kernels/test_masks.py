"""Masks and boxes against plain Python."""

import pytest
import torch

from fastdmt_kernels import (
    boxes_to_mask,
    pack_mask,
    unpack_mask,
)


def test_masks_pack_and_unpack():
    for width in (1, 31, 32, 33, 64, 70):
        mask = torch.rand(2, 3, width) > 0.5
        packed = pack_mask(mask)
        assert packed.dtype == torch.int32 and packed.shape == (2, 3, -(-width // 32))
        assert torch.equal(unpack_mask(packed, width), mask)
        bits = sum(2**j for j in range(min(width, 32)) if mask[0, 0, j])
        assert packed[0, 0, 0].item() % 2**32 == bits


def test_boxes_follow_the_pixels_centres(mode):
    boxes = torch.tensor([[[1.5, 0.0, 3.5, 1.0], [2.0, 0.0, 9.0, 9.0], [5.0, 5.0, 5.0, 9.0]]])
    union = unpack_mask(boxes_to_mask(boxes, (2, 5)), 5)[0].int().tolist()
    assert union == [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    both = unpack_mask(boxes_to_mask(boxes, (2, 5), min_agree=2), 5)[0].int().tolist()
    assert both == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("size", [(7, 5), (40, 33), (224, 224), (300, 1000)])
@pytest.mark.parametrize("min_agree", [1, 2])
def test_boxes_against_a_loop_over_them(mode, device, size, min_agree):
    boxes = torch.rand(2, 5, 4, device=device) * (size[1] + 20) - 10
    boxes[0, 0] = torch.tensor([3.0, 1.5, 3.0, 9.0])  # padding
    boxes[1, 1] = torch.tensor([-1e9, -1e9, 1e9, 1e9])
    votes = torch.zeros(2, *size, dtype=torch.int64, device=device)
    for n in range(2):
        for x0, y0, x1, y1 in boxes[n].tolist():
            columns = [x for x in range(size[1]) if x0 <= x + 0.5 < x1]
            rows = [y for y in range(size[0]) if y0 <= y + 0.5 < y1]
            if columns and rows:
                votes[n, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += 1
    packed = boxes_to_mask(boxes, size, min_agree)
    assert torch.equal(packed, pack_mask(votes >= min_agree))
    assert boxes_to_mask(boxes[:, :0], size).abs().sum() == 0 and boxes_to_mask(boxes[:0], size).shape[0] == 0
