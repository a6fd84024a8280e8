"""Settings as files: what was written comes back whole, in every form; a file is as strict as the command line."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdmt.cli.main import main, parse
from fastdmt.cli.settings import read_settings, write_settings
from fastdmt.config import TrainConfig, to_dict
from fastdmt.errors import FastDMTError
from fastdmt.presets import PRESETS, preset

FORMS = ("json", "toml", "yaml")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back_whole(name, form, tmp_path):
    path = tmp_path / f"mine.{form}"
    write_settings(path, preset(name))
    assert read_settings(path) == preset(name)
    # Nothing of another preset sneaks in, not even where the value is None.
    assert dataclasses.replace(read_settings(path, "real-small"), preset=name) == preset(name)


@settings(max_examples=10, deadline=None)
@given(
    lr=st.floats(1e-9, 1, allow_nan=False),
    run=st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1, max_size=12),
    ignore=st.none() | st.floats(0.01, 0.5),
    affine=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    form=st.sampled_from(FORMS),
)
def test_any_value_comes_back(lr, run, ignore, affine, form, tmp_path_factory):
    base = TrainConfig()
    cfg = dataclasses.replace(
        base,
        run=Path(run),
        optim=dataclasses.replace(base.optim, lr=lr),
        pseudo=dataclasses.replace(base.pseudo, ignore_below=ignore),
        model=dataclasses.replace(base.model, affine_init=affine),
    )
    path = tmp_path_factory.mktemp("any") / f"mine.{form}"
    write_settings(path, cfg)
    assert read_settings(path) == cfg


def test_the_command_line_writes_reads_and_replaces(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    words = ["--preset", "vggsound-10k", "--lr", "0.5", "--run=-odd run-"]
    assert main(["train", *words, "--save-config", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"fastdmt train --config {path}" in said
    cfg = parse(["train", "--config", str(path), "--epochs", "7"])[1].train
    expected = preset("vggsound-10k")
    assert cfg == dataclasses.replace(
        expected, run=Path("-odd run-"), optim=dataclasses.replace(expected.optim, lr=0.5, epochs=7)
    )


def test_a_few_lines_by_hand_in_any_grouping(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "preset: flickr-10k\ndata: /data/mine\nlr: 1e-4\noptim:\n  batch: 64\nlabels: 40\n"
    )
    (tmp_path / "b.toml").write_text(
        'preset = "flickr-10k"\nlr = 1e-4\nbatch = 64\n[data]\nroot = "/data/mine"\nlabels = 40\n'
    )
    base = preset("flickr-10k")
    expected = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, root=Path("/data/mine"), labels=40),
        optim=dataclasses.replace(base.optim, lr=1e-4, batch=64),
    )
    assert read_settings(tmp_path / "a.yaml") == read_settings(tmp_path / "b.toml") == expected


def test_a_runs_config_of_a_former_version_is_read(tmp_path):
    saved = to_dict(TrainConfig(algorithm="cps"))
    saved["method"] = saved.pop("algorithm")
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert read_settings(tmp_path / "config.json").algorithm == "cps"


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("a.yaml", "epoch: 3", "did you mean epochs?"),
        ("a.yaml", "lr: fast", "--lr=fast"),
        ("a.yaml", "tf32: maybe", "--tf32=maybe"),
        ("a.yaml", "- lr", "holds no settings"),
        ("a.yaml", "lr: [1", "cannot be read"),
        ("a.toml", "lr = ", "cannot be read"),
        ("a.json", "{", "cannot be read"),
        ("a.json", '{"preset": "nope"}', "unknown preset 'nope'"),
        ("a.txt", "lr = 1", ".yaml, .toml or .json"),
        ("a.json", '{"delta": 3}', "--delta must lie"),
        ("a.json", '{"localizer": "mine.module:Class"}', "if you know it, add --localizer mine.module:Class"),
    ],
)
def test_what_is_wrong_is_one_line(name, text, says, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert main(["train", "--config", str(tmp_path / name)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0] and str(tmp_path / name) in lines[0]


def test_a_file_that_is_missing_or_meets_resume(tmp_path, capsys):
    assert main(["train", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
    (tmp_path / "a.json").write_text("{}")
    assert main(["train", "--config", str(tmp_path / "a.json"), "--resume"]) == 2
    assert "leave --config out" in capsys.readouterr().err
    with pytest.raises(FastDMTError, match="suffix"):
        write_settings(tmp_path / "a.ini", TrainConfig())
