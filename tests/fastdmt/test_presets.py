"""Presets: each is valid, is called as it says, and `paper` has no additions of this project."""

import pytest

from fastdmt.config import to_dict
from fastdmt.errors import FastDMTError
from fastdmt.presets import PRESETS, preset
from fastdmt.runs.settings import from_dict


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_knows_its_name_and_survives_being_saved(name):
    cfg = preset(name)
    assert cfg.preset == name and cfg.run.name == name and from_dict(to_dict(cfg)) == cfg


def test_paper_has_no_additions():
    cfg = preset("paper")
    assert cfg.data.audio_augment == "none" and cfg.pseudo.ignore_below is None and cfg.pseudo.soft == "none"
    assert cfg.pseudo.half_life == cfg.pseudo.foreground == cfg.pseudo.lambda_warmup == cfg.pseudo.negatives == 0
    assert cfg.scale.pack_accepted == 0 and cfg.optim.lr_warmup == 0


def test_unknown_presets_are_refused_with_the_known_ones():
    with pytest.raises(FastDMTError, match=r"unknown preset 'nope': choose one of demo, real-small, .*paper"):
        preset("nope")
