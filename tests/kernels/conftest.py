"""Every test here starts from a seed of its own (printed when it fails) and from memory that holds NaN."""

import secrets

import pytest
import torch

import fastdmt_kernels


@pytest.fixture(autouse=True)
def seed(request):
    value = secrets.randbelow(2**31)
    torch.manual_seed(value)
    print(f"seed {value}")
    return value


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def kernels(poisoned_memory):
    """The Triton kernels: on a GPU when there is one, else in Triton's interpreter."""
    before = fastdmt_kernels.use("triton")
    yield
    fastdmt_kernels.use(before)


@pytest.fixture(params=["triton", "auto"])
def mode(request, poisoned_memory):
    """The kernels, then what tensors of this device get by default."""
    before = fastdmt_kernels.use(request.param)
    yield request.param
    fastdmt_kernels.use(before)
