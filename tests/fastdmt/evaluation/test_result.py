"""What a result says in JSON, tables and a sentence, on evaluations whose figures are known beforehand."""

import json

import numpy as np
import pytest
from rich.console import Console
from tones import PLACES, ToneModel, name, write_data

from fastdmt.errors import FastDMTError
from fastdmt.evaluation.evaluate import evaluate
from fastdmt.evaluation.result import Result
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
    console = Console(width=150, record=True, file=open("/dev/null", "w"))
    console.print(evaluate(ToneModel(), dataset, PAIRS, source="A", examples=0).table())
    lines = console.export_text().splitlines()
    rows = [line for line in lines if "absolute" in line and "│" in line]
    main, context = ([cell.strip() for cell in row.strip("│ ").split("│")] for row in rows)
    s = evaluate(ToneModel(), dataset, PAIRS, source="A", examples=0).summary["absolute"]
    pairs = {k: f"{100 * s[f'{k}_ciou']:.1f} / {100 * s[f'{k}_auc']:.1f}" for k in ("other", "cap", "blind")}
    drop = f"{100 * (s['ciou'] - s['other_ciou']):.1f} / {100 * (s['auc'] - s['other_auc']):.1f}"
    assert main == ["absolute", "100.0 ±0.0", "100.0", pairs["other"], drop]
    assert (pairs["other"], drop) == ("0.0 / 2.5", "100.0 / 97.5")  # every item passes t = 0, so no AUC lies below 2.5
    assert context == ["absolute", "100.0 / 100.0", pairs["blind"]]


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
