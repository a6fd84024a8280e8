"""The fused step against the reference on one page."""

import copy
from dataclasses import replace

import pytest
import torch
from small_pairs import LOOSE, SIZE, UNLABELLED, make_batch, make_pairs, step_of

from fastdmt.algorithm import reference


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
@pytest.mark.parametrize("ignore", [0.4, None])
def test_twenty_steps_equal_the_reference(dtype, rtol, ignore):
    """In float64 both run freely; in float32 every step starts from the reference's state, since rounding that moves
    one pixel over a threshold makes two free trajectories part."""
    config = replace(LOOSE, ignore_below=ignore)
    ours, our_teachers = make_pairs(dtype=dtype)
    theirs, their_teachers = copy.deepcopy(ours), copy.deepcopy(our_teachers)
    algorithm = step_of("dmt", config, ours, our_teachers)
    our_optimizer = torch.optim.SGD([p for s in ours for p in s.parameters()], lr=1e-2)
    their_optimizer = torch.optim.SGD([p for s in theirs for p in s.parameters()], lr=1e-2)
    kept = set()
    for step in range(20):
        batch = make_batch(step, dtype)
        losses = algorithm.unbiased(batch)
        kept.add(round(float(losses.kept) * UNLABELLED))
        our_optimizer.zero_grad()
        losses.total.backward()
        our_optimizer.step()
        algorithm.update_teachers(config.momentum)
        expected = reference.train_step(
            theirs, their_teachers, their_optimizer, batch, config, SIZE, 2, config.momentum
        )
        torch.testing.assert_close(losses.total.detach().to(dtype), expected.to(dtype), rtol=rtol, atol=0)
        for mine, other in zip(ours + our_teachers, theirs + their_teachers):
            for (name, p), q in zip(mine.named_parameters(), other.parameters()):
                error = (p - q).norm() / (q.norm() + 1e-2)
                assert error < rtol, f"{name}, step {step}: {error:.1e}"
                if p.grad is not None:
                    error = (p.grad - q.grad).norm() / (q.grad.norm() + 1e-6)
                    assert error < 10 * rtol, f"gradient of {name}, step {step}: {error:.1e}"
            if dtype == torch.float32:
                mine.load_state_dict(other.state_dict())
    assert len(kept) > 1, "the filter must both keep and reject for this comparison to mean something"
