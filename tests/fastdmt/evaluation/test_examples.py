"""Which items are shown."""

import numpy as np
import pytest
from tones import PLACES, ToneModel, name, write_data

from fastdmt.evaluation.evaluate import evaluate
from fastdmt.evaluation.examples import choose
from fastdmt_loaders import AVDataset, Pair


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    dataset = AVDataset(write_data(tmp_path_factory.mktemp("tones")))
    pairs = [Pair(name(k), name(k), True) for k in range(PLACES)] + [Pair(name(0), "silence", False)]
    return evaluate(ToneModel(wrong=(2, 6)), dataset, pairs, name="test.csv", examples=2)


def test_groups_are_what_they_say(result):
    groups = {g: [p for p in result.pictures if p.group == g] for g in ("best", "worst", "random", "non-sounding")}
    assert {p.pair.video for p in groups["worst"]} == {name(2), name(6)}
    assert all(p.ciou["absolute"] > 0.5 for p in groups["best"] + groups["random"])
    videos = [p.pair.video for p in result.pictures if p.ciou]
    assert len(videos) == len(set(videos)) == 6
    assert [p.pair.audio for p in groups["non-sounding"]] == ["silence"]
    none = choose({"mse": np.zeros(0), "ciou_absolute": np.zeros(0)}, np.zeros(0, bool), 3)
    assert not any(none.values())
