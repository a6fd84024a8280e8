"""What a result says in JSON, tables and a sentence, on evaluations whose figures are known beforehand."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from rich.console import Console
from tones import PLACES, ToneModel, name, write_data

from fastdmt.errors import FastDMTError
from fastdmt.evaluation.evaluate import evaluate
from fastdmt.evaluation.result import LEVELS, Result, confusion
from fastdmt_loaders import AVDataset, Pair


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return AVDataset(write_data(tmp_path_factory.mktemp("tones")))


PAIRS = [Pair(name(k), name(k), True) for k in range(PLACES)]
NOTHING = [Pair("silence", "silence", False), Pair(name(1), "silence", False)]


def test_json_holds_every_item_and_no_nan(dataset, tmp_path):
    result = evaluate(ToneModel(), dataset, NOTHING + PAIRS, name="test list")
    result.to_json(tmp_path / "deep" / "metrics.json")
    content = json.loads((tmp_path / "deep" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert content["summary"] == result.summary and content["list"] == "test list"
    assert [item["video"] for item in content["items"]] == [p.video for p in result.pairs]
    assert content["items"][0]["ciou_absolute"] is None and content["items"][2]["cap_absolute"] == 1.0
    (tmp_path / "file").write_text("")
    with pytest.raises(FastDMTError, match="cannot write"):
        result.to_json(tmp_path / "file" / "metrics.json")


def test_table_shows_context_and_drop(dataset):
    result = evaluate(ToneModel(), dataset, PAIRS, source="A", examples=0)
    s = result.summary["absolute"]
    pairs = {k: f"{100 * s[f'{k}_ciou']:.1f} / {100 * s[f'{k}_auc']:.1f}" for k in ("other", "cap", "blind")}
    drop = f"{100 * (s['ciou'] - s['other_ciou']):.1f} / {100 * (s['auc'] - s['other_auc']):.1f}"
    row = ["absolute", "100.0 ±0.0", "100.0", pairs["other"], drop, "100.0 / 100.0", pairs["blind"]]
    assert (pairs["other"], drop) == ("0.0 / 2.5", "100.0 / 97.5")  # every item passes t = 0, so no AUC lies below 2.5
    for width, parts in ((120, [row]), (80, [row[:5], [row[0], *row[5:]]])):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))
        console.print(result.table())
        lines = [line for line in console.export_text().splitlines() if "absolute" in line and "│" in line]
        assert [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines] == parts
    page = result.main_table().page().partition('<p class="note">')[0]
    root = ElementTree.fromstring(f"<div>{page}</div>")
    assert row in [["".join(cell.itertext()) for cell in line] for line in root.iter("tr")]


CLASSES = {name(k): f"class {k % 3}" for k in range(PLACES)}


def test_classes_and_confusions(dataset, tmp_path):
    """A model that marks place 5 for every sound of class 0, and takes the sound of place 2 for that of place 3."""
    root = shutil.copytree(dataset.root, tmp_path / "classes")
    items = json.loads((root / "vggss.json").read_text())
    (root / "vggss.json").write_text(json.dumps([item | {"class": CLASSES[item["file"]]} for item in items]))

    class Biased(ToneModel):
        def places(self, sound):
            return [5 if place is not None and place % 3 == 0 else place for place in super().places(sound)]

    result = evaluate(Biased(wrong=(2,)), AVDataset(root), PAIRS, source="A", examples=0)
    s = result.summary
    assert {k: (round(3 * row["ciou"]), row["items"]) for k, row in s["classes"].items()} == {
        "class 1": (3, 3),
        "class 2": (2, 3),
        "class 0": (0, 3),
    }
    assert list(s["classes"]) == ["class 1", "class 2", "class 0"]
    # Of the tries with another sound, those hit whose sound marks the object's place.
    marks = {k: 5 if k % 3 == 0 or k == 2 else k for k in range(PLACES)}
    tries = [(k, next(j for j in range(PLACES) if name(j) == result.others[k])) for k in range(PLACES)]
    expected = {}
    for k, j in tries:
        if k % 3 != j % 3:
            row = expected.setdefault((f"class {k % 3}", f"class {j % 3}"), [0, 0])
            row[0] += marks[j] == k
            row[1] += 1
    expected = {names: tuple(row) for names, row in expected.items() if row[0]}
    assert {(r["object"], r["sound"]): (r["found"], r["tried"]) for r in s["confused"]} == expected
    row = {"object": "a dog", "sound": "a <cat>", "found": 1, "tried": 2}
    assert confusion(row) == "the sound of a <cat> still finds a dog in 1 of 2"
    assert result.details()["CIoU by class, best to worst"] == "class 1 100.0 (3), class 2 66.7 (3), class 0 0.0 (3)"
    result.to_json(tmp_path / "metrics.json")
    held = json.loads((tmp_path / "metrics.json").read_text())["items"]
    assert [item["class"] for item in held] == [CLASSES[p.video] for p in PAIRS]
    assert sorted(item["other_sound"] for item in held) == sorted(CLASSES)


def test_an_object_that_another_classs_sound_finds_is_named():
    """Two objects of class a and two of b; the sound of b finds one a of two."""
    pairs = [Pair(str(i), str(i), True) for i in range(4)]
    arrays = {"other_absolute": np.array([0.9, 0.1, 0.2, 0.9]), "ciou_absolute": np.ones(4)}
    classes = {"0": "a", "1": "a", "2": "b", "3": "b"}
    result = Result(pairs, arrays, "teachers", classes=classes, others=["2", "3", "1", "2"])
    assert result._confused() == [{"object": "a", "sound": "b", "found": 1, "tried": 2}]


def test_ciou_over_the_threshold(dataset):
    result = evaluate(ToneModel(), dataset, PAIRS + NOTHING, source="A", examples=0)
    # P is 0.95 in the box and 0.05 elsewhere; of 0.05 alone all pixels pass.
    curve = result.summary["levels"]
    assert list(curve)[:2] == ["0.05", "0.10"] and list(curve)[-1] == "0.95" and len(curve) == len(LEVELS)
    assert curve["0.10"] == curve["0.50"] == curve["0.90"] == 1.0 and curve["0.05"] == 0.0
    assert np.array_equal(result.levels[:PLACES, LEVELS.index(0.5)], result.arrays["ciou_absolute"][:PLACES])
    assert np.isnan(result.levels[PLACES:]).all()


def summary_of(own, other, blind, n=400, cap_median=1.0):
    """A result whose items succeed with these shares."""
    successes = {"ciou": own, "other": other, "blind": blind, "cap": 1.0}
    arrays = {}
    for kind, share in successes.items():
        for rule in ("absolute", "adaptive", "median"):
            share = cap_median if (kind, rule) == ("cap", "median") else share
            arrays[f"{kind}_{rule}"] = (np.arange(n) < round(share * n)).astype(float)
    arrays |= {"mse": np.zeros(n), "area": np.full(n, 500.0), "active": np.zeros(n)}
    return Result([Pair(str(i), str(i), True) for i in range(n)], arrays, "teachers", name="test.csv")


@pytest.mark.parametrize(
    "shares, verdict",
    [
        ((0.51, 0.16, 0.0), "it listens."),
        ((0.51, 0.16, 0.5), "it listens, but finds no more than the disc."),
        ((0.51, 0.50, 0.0), "400 items are too few to say whether it listens."),
        ((0.50, 0.50, 0.0), "it does not listen."),
    ],
)
def test_the_sentence_says_what_the_figures_say(shares, verdict):
    own, other, blind = (f"{100 * share:.0f}%" for share in shares)
    assert summary_of(*shares).sentence() == (
        f"With its own sound it finds {own} of the objects, with another clip's sound {other}, a blind disc {blind}: "
        + verdict
    )


def test_tables_are_whole_at_80_columns_and_a_rule_that_no_map_can_pass_goes_to_the_details():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(summary_of(1.0, 0.16, 1.0, cap_median=0.0).table())
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert "100.0 ±0.0" in text and "100.0 / 100.0" in text
    assert not [line for line in text.splitlines() if "median" in line and "│" in line]
    assert "median threshold" in text and "cap 0" in text
