"""The table of names against what implements them."""

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastdmt
from fastdmt import names
from fastdmt.algorithm.pseudo_labels import CLASSES
from fastdmt.config import TrainConfig, to_dict
from fastdmt.errors import FastDMTError
from fastdmt.evaluation.suites import PUBLISHED
from fastdmt.models.encoders import AUDIO, VISUAL
from fastdmt.models.foreign import NAMES, SETTINGS
from fastdmt.models.localizer import localizer_class
from fastdmt.runs.settings import from_dict, load_config
from fastdmt_loaders.frontends import FRONT_ENDS

CHOICES = {*names.ALGORITHMS, *names.LOCALIZERS, *names.AUDIO_ENCODERS, *names.VISUAL_ENCODERS, "intersection"}


def test_every_name_has_its_implementation():
    assert list(names.ALGORITHMS) == list(CLASSES)
    assert list(names.VISUAL_ENCODERS) == list(VISUAL) and list(names.AUDIO_ENCODERS) == list(AUDIO)
    assert set(names.PUBLISHED_LOCALIZERS) == set(NAMES) == set(SETTINGS)
    assert set(PUBLISHED) <= set(names.SUITES)
    for name in names.LOCALIZERS:
        assert localizer_class(name)


def test_what_the_table_says_of_algorithms_is_what_their_classes_do():
    for name, facts in names.ALGORITHMS.items():
        cls = CLASSES[name]
        flags = {f.name: f.default for f in dataclasses.fields(cls)}
        assert flags["uses_labels"] == flags["warms_up"] == facts.uses_boxes, name
        assert facts.uses_unlabelled == (flags["labelled_by"] != "nobody" or flags["contrasts_all"]), name


def test_front_ends_are_those_of_the_encoders():
    for name, front_end in names.AUDIO_ENCODERS.items():
        assert AUDIO[name].front_end == front_end and front_end in FRONT_ENDS


def test_the_table_imports_no_torch():
    code = "import sys, fastdmt.names; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_are_compared_nowhere():
    """`x == "dmt"` belongs in the table as a property of dmt."""
    wrong = []
    for path in Path(fastdmt.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                wrong += [
                    f"{path.name}:{node.lineno}" for s in sides if isinstance(s, ast.Constant) and s.value in CHOICES
                ]
    assert not wrong, wrong


def test_runs_of_former_versions_load(tmp_path):
    saved = to_dict(TrainConfig(algorithm="cps"))
    saved["method"] = saved.pop("algorithm")
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert load_config(tmp_path) == TrainConfig(algorithm="cps")
    with pytest.raises(FastDMTError, match="methods"):
        from_dict({"methods": "cps"})
