"""EZ-VSL, LVS and SLAVC: losses against their formulas in plain loops, heads, initialisation, momentum."""

import pytest
import torch
from localizer_cases import build


@pytest.mark.parametrize("name", ["ezvsl", "lvs", "slavc"])
def test_a_few_steps_learn_pairs(name):
    """Frames and sounds with a common code: the loss falls well below that of a guess."""
    localizer = build(name, **({"dropout": 0.0} if name == "slavc" else {})).train()
    code = torch.eye(4)
    frames = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    frames += 3 * code[:, :3, None, None]
    sound = torch.zeros(4, 1, 1, 96, 64)
    for n in range(4):
        sound[n, ..., 16 * n : 16 * n + 16] = 3.0
    localizer.start()
    optimizer = torch.optim.Adam([p for p in localizer.parameters() if p.requires_grad], 2e-3)
    losses = []
    for _ in range(25):
        loss = localizer.contrastive_loss(localizer(frames, sound), torch.ones(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        localizer.after_step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
