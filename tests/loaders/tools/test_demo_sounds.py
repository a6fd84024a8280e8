"""Synthesised sounds: finite, audible, of the level asked."""

import numpy as np
import pytest

from fastdmt_loaders.tools.demo_sounds import TIMBRES, synthesize


@pytest.mark.parametrize("label", range(10), ids=[timbre.__name__ for timbre in TIMBRES])
@pytest.mark.parametrize("rate, seconds", [(8000, 1.0), (44100, 2.5)])
def test_every_timbre_is_finite_audible_and_within_range(label, rate, seconds):
    for seed in range(8):
        pcm = synthesize(np.random.default_rng(seed), label, rate, seconds, 2, snr_db=10)
        assert pcm.shape == (round(rate * seconds), 2) and pcm.dtype == np.float32
        assert np.isfinite(pcm).all() and 0.05 < np.abs(pcm).max() <= 1


def test_noise_has_the_level_asked():
    quiet, loud = (synthesize(np.random.default_rng(0), 0, 16000, 3.0, 1, snr_db=snr) for snr in (60, 0))
    quiet, loud = (x[6000:, 0] / np.linalg.norm(x[6000:]) for x in (quiet, loud))
    assert float(quiet @ loud) == pytest.approx(np.sqrt(0.5), abs=0.12)  # half of the energy is noise
