"""SLAVC: its loss against the formula in plain loops, momentum, the mean of two heads."""

import numpy as np
import pytest
import torch
from localizer_cases import build, cosines, cross_entropy, draw
from plain_networks import normalised

from fastdmt.models.localizer import Output

N, D, CELLS = 5, 6, 7


def test_slavc_loss():
    v, v2, slow_v, slow_v2 = (draw(i, N, D, CELLS, 1) for i in range(4))
    a, a2, slow_a, slow_a2 = (draw(4 + i, N, D) for i in range(4))
    tau, total = 0.1, 0.0  # at 0.03 the plain product of the two softmaxes underflows
    for first, second in (((v, slow_a), (v2, slow_a2)), ((slow_v, a), (slow_v2, a2))):
        one, two = np.exp(cosines(*first) / tau), np.exp(cosines(*second) / tau)
        one /= one.sum(1, keepdims=True)  # over sounds
        two /= two.sum(2, keepdims=True)  # over places
        logits = np.log((one * two).sum(2))
        total += sum(cross_entropy(logits[n], n) for n in range(N)) / N
    extra = (v2, a2, slow_v, slow_a, slow_v2, slow_a2)
    found = build("slavc", tau=tau).contrastive_loss(Output(v[:, 0], v, a, extra), torch.ones(N)).item()
    assert found == pytest.approx(total, rel=1e-9)


def pairs(seed=0, n=4):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 64, 64, generator=g), torch.randn(n, 3, 1, 96, 64, generator=g)


def test_slavc_momentum():
    localizer = build("slavc", momentum=0.9).train()
    with torch.no_grad():  # as loading weights does
        for p in localizer.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(localizer.slow["visual"].layers[3].weight, localizer.visual.layers[3].weight)
    localizer.start()
    for part, module in localizer.slow.items():
        for mine, theirs in zip(module.state_dict().values(), getattr(localizer, part).state_dict().values()):
            assert torch.equal(mine, theirs)
    before = {k: v.clone() for k, v in localizer.slow.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in localizer.parameters() if p.requires_grad], lr=1.0)
    localizer.contrastive_loss(localizer(*pairs()), torch.ones(4)).backward()
    assert all(p.grad is None for p in localizer.slow.parameters())
    optimizer.step()
    for key, p in localizer.slow.named_parameters():
        assert torch.equal(p, before[key]), "the slow network moves in after_step only"
    localizer.after_step()
    fast = dict(localizer.named_parameters())
    for key, p in localizer.slow.named_parameters():
        torch.testing.assert_close(p, 0.9 * before[key] + 0.1 * fast[key], rtol=1e-5, atol=1e-6)
    # Its BatchNorms saw the batch in the forward pass.
    assert localizer.slow["visual"].layers[0][1].num_batches_tracked == 1


def test_slavc_map_is_the_mean_of_two_heads_and_dropout_is_for_training():
    localizer = build("slavc")
    frames, sound = pairs()
    with torch.no_grad():
        out = localizer.eval()(frames, sound)
        v, a = localizer.visual(frames), localizer.audio(sound)
        expected = sum(
            (normalised(vh(v)) * normalised(ah(a))[:, :, None, None]).sum(1) / 2
            for vh, ah in (
                (localizer.visual_head, localizer.audio_head),
                (localizer.visual_head2, localizer.audio_head2),
            )
        )
        torch.testing.assert_close(out.map, expected, rtol=1e-5, atol=1e-6)
        assert len(out.extra) == 2 and torch.equal(localizer(frames, sound).map, out.map)
        localizer.train()
        torch.manual_seed(0)
        assert localizer.dropout.p == 0.9
        assert not torch.equal(localizer(frames, sound).map, localizer(frames, sound).map)
