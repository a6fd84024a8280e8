"""Settings: what they imply, what they refuse, and that they survive being saved."""

import dataclasses
import json

import pytest

from fastdmt.config import TrainConfig, require, to_dict
from fastdmt.errors import FastDMTError
from fastdmt.presets import preset
from fastdmt.runs.settings import from_dict, load_config


def optim(**changes):
    base = preset("demo")
    return dataclasses.replace(base, optim=dataclasses.replace(base.optim, **changes))


@pytest.mark.parametrize("batch, share, labelled", [(128, 0.25, 32), (8, 0.5, 4), (10, 0.33, 3)])
def test_rows_of_a_batch_are_shared_between_labelled_and_unlabelled(batch, share, labelled):
    cfg = optim(batch=batch, labelled_share=share)
    assert (cfg.batch_labelled, cfg.batch_unlabelled) == (labelled, batch - labelled)


def test_supervised_training_sees_labelled_clips_alone():
    cfg = dataclasses.replace(optim(batch=16, labelled_share=0.25), algorithm="supervised")
    assert cfg.batch_labelled > 0 and cfg.batch_unlabelled == 0


def test_settings_survive_json_with_paths_and_tuples(tmp_path):
    cfg = dataclasses.replace(preset("demo"), run=tmp_path / "run", seed=7)
    back = from_dict(json.loads(json.dumps(to_dict(cfg))))
    assert isinstance(back, TrainConfig) and back == cfg


def test_unknown_settings_of_a_saved_run_are_named(tmp_path):
    values = to_dict(preset("demo"))
    values["optim"]["momentum_of_nothing"] = 3
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(FastDMTError, match="momentum_of_nothing"):
        load_config(tmp_path)


def test_require():
    require(True, "never seen")
    with pytest.raises(FastDMTError, match="the mend"):
        require(False, "the mend")
