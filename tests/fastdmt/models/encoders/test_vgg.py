"""VGGish's order of time, bands and channels."""

import torch

from fastdmt.models.encoders import build_audio


def test_vggish_reads_time_then_band_then_channel():
    module = build_audio("vggish").eval()
    # torchvision-style names of the public port, with its layer numbers
    convs = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
    for i, (before, after) in convs.items():
        assert module.features[i].weight.shape == (after, before, 3, 3)
    assert [module.embeddings[i].weight.shape for i in (0, 2, 4)] == [(4096, 12288), (4096, 4096), (128, 4096)]
    x = torch.rand(2, 3, 1, 96, 64)
    with torch.no_grad():
        expected = torch.zeros(2, 128)
        for clip in range(2):
            for patch in range(3):
                f = module.features(x[clip, patch][None])[0]
                assert f.shape == (512, 6, 4)
                row = torch.stack([f[c, t, b] for t in range(6) for b in range(4) for c in range(512)])
                expected[clip] += module.embeddings(row) / 3
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-6)
