"""How far a kernel is from the float64 reference, and random features."""

import torch

# The interpreter cuts bfloat16 off where the hardware rounds: up to a whole unit in the last place, 2^-7.
LIMIT = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-3 if torch.cuda.is_available() else 2**-7}


def rms_error(value, truth):
    """|value - truth| / |truth|, NaN when either holds one. Zero truth: the absolute norm."""
    value, truth = value.detach().double().cpu(), truth.detach().double().cpu()
    assert value.shape == truth.shape
    scale = truth.norm()
    return float((value - truth).norm() / (scale if scale > 0 else 1.0))


def assert_close(value, truth, dtype=torch.float32, floor=0.0):
    error = rms_error(value, truth)
    assert error <= LIMIT[dtype] or (value.detach().double() - truth).norm() <= floor, f"rms error ratio {error:.2e}"


def features(n, d, h, w, dtype, layout, device):
    v = torch.randn(n, d, h, w, device=device, dtype=dtype)
    if layout == "channels_last":
        return v.to(memory_format=torch.channels_last)
    return v if layout == "contiguous" else torch.randn(n, d, w, h, device=device, dtype=dtype).transpose(2, 3)


def gradients(function, tensors, upstream):
    """The value and the gradients of a function of leaves."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    value = function(*leaves)
    return value, torch.autograd.grad(value, leaves, upstream(value))
