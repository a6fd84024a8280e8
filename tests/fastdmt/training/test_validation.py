"""Validation while training gives the figures of `eval`."""

import dataclasses

import pytest
from tiny_runs import QUIET, tiny

from fastdmt.evaluation.evaluate import evaluate
from fastdmt.training.trainer import Trainer
from fastdmt_loaders import Pair


def test_scores_are_those_of_an_evaluation_and_auc_breaks_ties(files, tmp_path):
    cfg = tiny(files, tmp_path / "run")
    trainer = Trainer(dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, affine_init=(1.0, 2.0))), QUIET)
    found = trainer.unbiased.parts.validator.scores(0, "teachers", "student A")
    pairs = [Pair(i, i, True) for i in trainer.data.validation]
    for source, score in found.items():
        absolute = evaluate(trainer.model, trainer.data.dataset, pairs, source=source, examples=0).summary["absolute"]
        assert score["ciou"] == pytest.approx(absolute["ciou"]) and score["auc"] == pytest.approx(absolute["auc"])
        assert score["selection"] == pytest.approx(score["ciou"] + 1e-3 * score["auc"])
    assert found["teachers"]["auc"] > 0, "maps that are empty everywhere compare nothing"


def test_without_validation_clips_the_latest_step_is_the_best(files, tmp_path, monkeypatch):
    trainer = Trainer(tiny(files, tmp_path / "run"), QUIET)
    monkeypatch.setattr(trainer.data.split, "validation", [])
    early, late = (
        trainer.unbiased.parts.validator.scores(step, "teachers")["teachers"]["selection"] for step in (3, 9)
    )
    assert late > early
