"""What a difference between rows is worth."""

import numpy as np
import pytest

from fastdmt.evaluation.differences import difference, mean_and_deviation, sentences, words


def test_differences_are_paired_by_seed():
    first, row = [10.0, 30.0, 20.0], [14.0, 33.0, 25.0]
    found = difference(row, first)
    apart = np.subtract(row, first)
    assert found.mean == pytest.approx(apart.mean())
    assert found.error == pytest.approx(apart.std(ddof=1) / np.sqrt(3))


def test_words():
    assert sentences({"a": [10.0, 30.0, 20.0], "b": [14.0, 33.0, 25.0], "c": [0.0, 40.0, 21.0]}) == [
        "b is 4.0 points above a, standard error 0.6 over 3 seeds: more than chance (two standard errors)",
        "c is 0.3 points above a, standard error 5.8 over 3 seeds: not more than chance (two standard errors)",
    ]
    assert words("b", "a", difference([1.0], [3.0])) == (
        "b is 2.0 points below a in one seed: one seed cannot say whether that is chance"
    )
    assert words("b", "a", difference([1.0, 2.0], [3.0, 4.1])).endswith("as far as two seeds can say")
    assert mean_and_deviation([1.0, 3.0]) == "2.0 ± 1.4" and mean_and_deviation([1.0]) == "1.0"
