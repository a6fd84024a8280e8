"""Options that were renamed go on working."""

import pytest

from fastdmt.cli.main import parse


@pytest.mark.parametrize("words", [["--method", "fixmatch"], ["--method=fixmatch"], ["--algorithm", "fixmatch"]])
def test_the_former_option_goes_on_working_with_one_line(words, capsys):
    _, args = parse(["train", *words])
    assert args.train.algorithm == "fixmatch"
    said = capsys.readouterr().err
    assert said == ("note: --method is called --algorithm now\n" if "method" in words[0] else "")


def test_the_former_option_of_compare(capsys):
    _, args = parse(["compare", "--methods", "cps,dmt"])
    assert args.algorithms == "cps,dmt" and capsys.readouterr().err == "note: --methods is called --algorithms now\n"
