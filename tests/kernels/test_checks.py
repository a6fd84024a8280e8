"""Every wrong argument is named, with what came and what is wanted."""

import pytest
import torch

import fastdmt_kernels
from fastdmt_kernels import (
    boxes_to_mask,
    consensus,
    localization_loss,
    mil_logits,
    pack_mask,
    similarity_map,
    unpack_mask,
)

SIZE = (20, 40)


V, A, S, C = torch.randn(2, 6, 3, 4), torch.randn(2, 6), torch.randn(2, 3, 4), torch.tensor([5.0, 0.0])


MASK, ONES = torch.zeros(2, 20, 2, dtype=torch.int32), torch.ones(2)


WRONG = {
    r"v has shape \[6, 3, 4\]; \[N, D, h, w\] is wanted": lambda: similarity_map(V[0], A),
    "v is int64": lambda: similarity_map(V.long(), A),
    "a is a list": lambda: similarity_map(V, [1.0]),
    "a holds 5 channels, v holds 6": lambda: similarity_map(V, A[:, :5]),
    "a holds 1 rows, v holds 2": lambda: similarity_map(V, A[:1]),
    "a is on meta, v on cpu": lambda: similarity_map(V, A.to("meta")),
    "eps is 0": lambda: similarity_map(V, A, 0),
    "only the batch may be 0": lambda: similarity_map(V[:, :, :0], A),
    "tau is -1": lambda: mil_logits(V, A, -1),
    "a holds 4 channels": lambda: mil_logits(V, A[:, :4]),
    r"s_b has shape \[2, 3, 3\], s_a \[2, 3, 4\]": lambda: consensus(S, S[..., :3], C, C),
    "affine_b has shape": lambda: consensus(S, S, C, torch.ones(3)),
    "delta is 1.5": lambda: consensus(S, S, C, C, 1.5),
    "probability is 'softmax'; one of sigmoid, clamp, minmax": lambda: consensus(S, S, C, C, probability="softmax"),
    "soft is 'mean'": lambda: consensus(S, S, C, C, soft="mean"),
    "ignore_below is 2": lambda: consensus(S, S, C, C, ignore_below=2),
    r"target has shape \[2, 20, 2\]; \[2, 20, 3\]": lambda: localization_loss(S, C, MASK, ONES, size=(20, 80)),
    r"target is torch.float32; .* \(boxes: boxes_to_mask\)": lambda: localization_loss(
        S, C, torch.zeros(2, 1, 4), ONES, size=SIZE
    ),
    "target is torch.int64": lambda: localization_loss(S, C, MASK.long(), ONES, size=SIZE),
    "weight holds 1 rows, s holds 2": lambda: localization_loss(S, C, MASK, ONES[:1], size=SIZE),
    "valid has shape": lambda: localization_loss(S, C, MASK, ONES, size=SIZE, valid=MASK[:1]),
    "valid is bool": lambda: localization_loss(S, C, MASK, ONES, size=SIZE, valid=MASK.bool()),
    "total is not a tensor": lambda: localization_loss(S, C, MASK, ONES, size=SIZE, total=2.0),
    "min_agree is 0": lambda: boxes_to_mask(torch.zeros(1, 1, 4), SIZE, 0),
    "weight requires a gradient": lambda: localization_loss(S, C, MASK, ONES.clone().requires_grad_(), size=SIZE),
    "total requires a gradient": lambda: localization_loss(
        S, C, MASK, ONES, size=SIZE, total=torch.ones((), requires_grad=True)
    ),
    "mask is float32; bool": lambda: pack_mask(torch.zeros(1, 2, 3)),
    "packed holds 2 words a row": lambda: unpack_mask(MASK, 70),
    "boxes holds 5 numbers a box": lambda: boxes_to_mask(torch.zeros(1, 1, 5), SIZE),
    "mode is 'fast'": lambda: fastdmt_kernels.use("fast"),
}


@pytest.mark.parametrize("words", WRONG)
def test_an_error_names_the_argument_what_came_and_what_is_wanted(words):
    with pytest.raises((ValueError, TypeError), match=words) as error:
        WRONG[words]()
    assert "\n" not in str(error.value)
