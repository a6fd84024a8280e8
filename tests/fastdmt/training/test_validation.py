"""Validation while training gives the figures of `eval`."""

import dataclasses

import pytest
from tiny_runs import QUIET, tiny

from fastdmt.evaluation.evaluate import evaluate
from fastdmt.training import validation
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
        assert score["by_ciou"] == pytest.approx(score["ciou"] + 1e-3 * score["auc"])
        assert score["by_auc"] == pytest.approx(score["auc"] + 1e-3 * score["ciou"])
    assert found["teachers"]["auc"] > 0, "maps that are empty everywhere compare nothing"


def test_without_validation_clips_the_latest_step_is_the_best(files, tmp_path, monkeypatch):
    trainer = Trainer(tiny(files, tmp_path / "run"), QUIET)
    monkeypatch.setattr(trainer.data.split, "validation", [])
    early, late = (trainer.unbiased.parts.validator.scores(step, "teachers")["teachers"] for step in (3, 9))
    assert late["by_ciou"] > early["by_ciou"] and late["by_auc"] > early["by_auc"]


@pytest.mark.parametrize("stage,kept_after", [("unbiased", [1, 2, 3, 3]), ("warmup", [1, 1, 2, 3])])
def test_auc_chooses_the_step_of_stage_2_and_ciou_the_warm_up(files, tmp_path, monkeypatch, stage, kept_after):
    found = iter([(0.4, 0.30), (0.2, 0.35), (0.4, 0.35), (0.5, 0.34)])  # CIoU, AUC
    kept, counts = [], []

    def scores(shares):
        ciou, auc = next(found)
        return {source: {"ciou": ciou, "auc": auc} for source in shares}

    monkeypatch.setattr(validation, "overlaps", lambda model, batches, sources: {key: [0.0] for key in sources})
    monkeypatch.setattr(validation, "scores_of", scores)
    monkeypatch.setattr("fastdmt.training.stages.write_weights", lambda path, weights: kept.append(path.name))
    trainer = Trainer(tiny(files, tmp_path / "run"), QUIET)
    for step in range(4):
        getattr(trainer, stage).validate(step)
        counts.append(kept.count(kept[0]))  # of stage 1, student A's
    assert counts == kept_after
