"""SoundNet-8 against the arithmetic of its published weights."""

import numpy as np
import torch
from plain_networks import soundnet_arrays, soundnet_conv7

from fastdmt.models.encoders import build_audio
from fastdmt.models.pretrained import load_weights


def test_soundnet_is_the_tensorflow_port(tmp_path):
    layers = soundnet_arrays()
    np.save(tmp_path / "sound8.npy", np.array(layers, dtype=object), allow_pickle=True)
    wave = np.random.default_rng(1).uniform(-256, 256, 66150)
    conv7 = soundnet_conv7(layers, wave)
    assert conv7.shape == (3, 1024)
    module = build_audio("soundnet8")
    load_weights(module, tmp_path / "sound8.npy")
    x = torch.from_numpy(wave)[None, None]
    with torch.no_grad():
        found = module.double().eval()(x)[0].numpy()
    np.testing.assert_allclose(found, conv7.mean(0), rtol=1e-9, atol=1e-9)


def test_soundnet_conv8_tiles_to_ten_seconds(tmp_path):
    layers = soundnet_arrays()
    np.save(tmp_path / "sound8.npy", np.array(layers, dtype=object), allow_pickle=True)
    wave = np.random.default_rng(1).uniform(-256, 256, 66150)
    conv7 = soundnet_conv7(layers, np.tile(wave, 4))  # 4 * 3 s >= 10 s
    windows = np.lib.stride_tricks.sliding_window_view(conv7, 8, axis=0)[::2]
    expected = [
        np.tensordot(windows, layers[name]["weights"][:, 0].astype(np.float64), ([2, 1], [0, 1])).mean(0)
        + layers[name]["biases"]
        for name in ("conv8", "conv8_2")
    ]
    module = build_audio("soundnet8-conv8")
    loaded = load_weights(module, tmp_path / "sound8.npy")
    assert not loaded.spare
    with torch.no_grad():
        found = module.double().eval()(torch.from_numpy(wave)[None, None])[0].numpy()
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-8, atol=1e-8)
