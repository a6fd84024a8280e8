"""A resumed run against the settings that it began with, field by field."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest

from fastdmt.config import TrainConfig, moves_numbers, to_dict
from fastdmt.errors import FastDMTError
from fastdmt.presets import preset
from fastdmt.runs.folder import open_run

# Values that the checks of a configuration accept; every other field takes the next number or another choice.
FITTING = {
    "optim.batch": 64,
    "pseudo.delta": 0.65,
    "pseudo.momentum": 0.9,
    "pseudo.ignore_below": 0.3,
    "optim.labelled_share": 0.5,
    "data.feature_crops": None,  # with frozen encoders alone
    "model.localizer": "lvs",
    "data.annotations": "vggss",
}


def fields(cfg, prefix=""):
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field, value, typing.get_type_hints(type(cfg))[field.name]


def other(name, value, kind):
    if name in FITTING:
        return FITTING[name]
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in typing.get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value + 0.01
    if isinstance(value, tuple):
        return tuple(v + 1 for v in value)
    return Path(f"{value}-other") if isinstance(value, Path) or name == "warm_from" else f"{value or ''}other"


def changed(cfg, name, value):
    group, _, field = name.rpartition(".")
    if not group:
        return dataclasses.replace(cfg, **{field: value})
    return dataclasses.replace(cfg, **{group: dataclasses.replace(getattr(cfg, group), **{field: value})})


def base():
    """A run in which most settings may be changed alone."""
    cfg = changed(changed(preset("demo"), "scale.gpus", 0), "model.visual_weights", "imagenet")
    return changed(changed(cfg, "model.audio_weights_a", "a.pth"), "model.audio_weights_b", "b.pth")


EVERY = [name for name, *_ in fields(base()) if name not in ("resume", "run")]


@pytest.mark.parametrize("name", EVERY)
def test_every_setting_is_refused_by_name_or_goes_on(tmp_path, name):
    _, field, value, kind = next(entry for entry in fields(base()) if entry[0] == name)
    new = other(name, value, kind)
    if new is None:
        pytest.skip("cannot be changed alone")
    old = dataclasses.replace(base(), run=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(old)))
    cfg = changed(dataclasses.replace(old, resume=True), name, new)
    if moves_numbers(field):
        with pytest.raises(FastDMTError, match=rf"{name} was .* and is now"):
            open_run(cfg, first=True)
    else:
        assert open_run(cfg, first=True) == cfg


def test_what_people_change_between_two_parts_of_a_run():
    marks = {name: moves_numbers(field) for name, field, *_ in fields(TrainConfig())}
    assert all(marks[name] for name in ("scale.pack_accepted", "data.root", "optim.lr", "scale.accumulate", "seed"))
    assert not any(marks[name] for name in ("device", "scale.workers_cpu", "scale.gpus", "scale.parallel", "log_every"))


def test_the_same_folder_by_another_name_goes_on(tmp_path, monkeypatch):
    old = changed(dataclasses.replace(preset("demo"), run=tmp_path), "data.root", Path("data"))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(old)))
    monkeypatch.chdir(tmp_path)
    open_run(changed(dataclasses.replace(old, resume=True), "data.root", tmp_path / "data"), first=True)
