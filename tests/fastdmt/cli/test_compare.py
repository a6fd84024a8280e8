"""Rows of a comparison: algorithms, variants, budgets, and which runs are the same run."""

import dataclasses
import json

import pytest
from tiny_runs import tiny

from fastdmt.cli.commands import evaluation
from fastdmt.cli.compare import COLUMNS, STAGE_2, digest, one_run, parse_budgets, read_measured, variants
from fastdmt.cli.main import parse
from fastdmt.errors import FastDMTError
from fastdmt.models.pair import load
from fastdmt.presets import preset
from fastdmt_loaders.tools.demo import make_demo


def test_rows_are_algorithms_or_named_options():
    base = preset("demo")
    assert list(variants(base, "supervised,dmt", "", ())) == ["supervised", "dmt"]
    assert list(variants(base, "dmt", "dmt,ezvsl", ())) == ["dmt dmt", "ezvsl dmt"]
    rows = variants(base, "supervised", "", ("no filter: --tau 0", "plain:", "own: --algorithm mean-teacher --lr 0.5"))
    assert list(rows) == ["no filter", "plain", "own"]
    assert rows["no filter"].pseudo.tau == 0 and rows["plain"] == base
    assert rows["own"].algorithm == "mean-teacher" and rows["own"].optim.lr == 0.5


@pytest.mark.parametrize(
    "given,message",
    [
        (("--tau 0",), "has no name"),
        (("a: --tau 0", "a: --tau 1"), "two variants are called 'a'"),
        (("a: --no-such 1",), "variant 'a': '--no-such 1' are not options of train"),
    ],
)
def test_bad_variants_are_refused_in_one_line(given, message):
    with pytest.raises(FastDMTError, match=message):
        variants(preset("demo"), "dmt", "", given)


def test_unknown_algorithm():
    with pytest.raises(FastDMTError, match="unknown algorithm 'nope'"):
        variants(preset("demo"), "nope", "", ())


def test_budgets():
    assert parse_budgets("") == [0] and parse_budgets("80, 40,80") == [40, 80]
    for text in ("0,4", "a"):
        with pytest.raises(FastDMTError, match="give counts"):
            parse_budgets(text)


def test_digest_follows_what_moves_numbers_and_nothing_else():
    base = preset("demo")
    one = digest(base)
    assert digest(dataclasses.replace(base, run=base.run / "x", device="cuda", log_every=7)) == one
    assert digest(dataclasses.replace(base, pseudo=dataclasses.replace(base.pseudo, tau=0.1))) != one
    assert digest(dataclasses.replace(base, data=dataclasses.replace(base.data, root=base.run))) != one


def test_variants_of_stage_2_share_stage_1():
    base = preset("demo")
    other = dataclasses.replace(
        base, algorithm="mean-teacher", pseudo=dataclasses.replace(base.pseudo, tau=0.1, lambda_u=0.3)
    )
    assert digest(base, STAGE_2) == digest(other, STAGE_2)
    for pseudo in (
        dataclasses.replace(base.pseudo, foreground=0.5),
        dataclasses.replace(base.pseudo, negatives=0.25),
    ):
        assert digest(dataclasses.replace(base, pseudo=pseudo), STAGE_2) != digest(base, STAGE_2)
    assert digest(dataclasses.replace(base, seed=1), STAGE_2) != digest(base, STAGE_2)


def test_command_line():
    words = ["compare", "--variant", "a: --tau 0", "--variant", "b:", "--labels", "40,80", "--seeds", "2"]
    _, args = parse(words)
    assert args.variant == ("a: --tau 0", "b:") and args.label_budgets == "40,80" and args.seeds == 2
    assert parse(["compare", "--labels", "40"])[1].train.data.labels == 40


def test_a_row_holds_what_eval_says_of_each_map(tmp_path):
    make_demo(tmp_path / "data", clips=16, labelled=6, seed=3)
    cfg = tiny(tmp_path / "data", tmp_path / "run")
    row = one_run("dmt", cfg, "test", {})
    model = load(next(tmp_path.glob("run/dmt-0-*")), "last")
    for key, source in (("ciou", "teachers"), ("ciou_one", "A"), ("ciou_students", "students")):
        assert row[key] == evaluation(model, source=source).summary["absolute"]["ciou"], source


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", '{"ciou": 0.5}', "[" * 5000, "\x00"])
def test_a_damaged_measurement_is_named(tmp_path, text):
    path = tmp_path / "compare-val.json"
    path.write_text(text)
    with pytest.raises(FastDMTError, match=f"{path} is damaged .*remove it"):
        read_measured(path)
    row = dict.fromkeys([*COLUMNS, "blind", "cap"], 0.25) | {"curves": {}}
    path.write_text(json.dumps(row))
    assert read_measured(path) == row
    path.write_text(json.dumps(row | {"auc": "high"}))
    with pytest.raises(FastDMTError, match="a figure is none"):
        read_measured(path)
