"""A resumed run against the settings that it began with, field by field."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest
from rich.console import Console

from fastdmt.cli.commands import best_validation
from fastdmt.cli.compare import curves
from fastdmt.config import TrainConfig, moves_numbers, to_dict
from fastdmt.errors import FastDMTError
from fastdmt.presets import preset
from fastdmt.runs.folder import open_run, read_metrics
from fastdmt.training.tracking import Observer

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


def test_a_log_with_spoiled_lines_keeps_the_others(tmp_path):
    good = [
        {"step": 1, "stage": "warm-up", "loss": 0.5},
        {"step": 2, "stage": "unbiased", "loss": float("inf"), "val_ciou": 0.25, "val_auc": 0.125},
    ]
    spoiled = ["", "{", "null", "[1, 2]", '{"step": "1", "stage": "unbiased"}', '{"step": 3}', "\x00" * 50, "[" * 5000]
    spoiled += [
        '{"step": 1, "stage": "unbiased", "val_ciou": "high"}',
        '{"step": 1, "sta',
        f'{{"step": {9 * 10**400}}}',
    ]
    spoiled += [f'{{"step": 1, "stage": "unbiased", "val_ciou": {10**400}}}']
    lines = [*spoiled, json.dumps(good[0]), *spoiled, json.dumps(good[1]), *spoiled]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff\xfe\n")
    assert read_metrics(tmp_path) == good
    assert best_validation(tmp_path) == 0.25 and curves(tmp_path) == {"val_ciou": [(1, 0.25)]}
    observer = Observer(tmp_path, Console(quiet=True), "jsonl")
    observer.open(1)  # a run that is resumed writes it anew, without them and without what it will say again
    observer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == json.dumps(good[0]) + "\n"


def test_a_run_without_a_log_has_no_lines(tmp_path):
    assert read_metrics(tmp_path) == []
