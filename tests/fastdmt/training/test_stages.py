"""What differs between the stages, and how parts of a step become its values."""

import math

import torch
from tiny_runs import QUIET, scaled, tiny

from fastdmt.training.schedule import UNBIASED, WARMUP
from fastdmt.training.stages import mean_of
from fastdmt.training.trainer import Trainer


def test_values_of_a_step_are_the_means_of_its_parts():
    parts = [{"loss": torch.tensor(x), "kept": torch.tensor(k)} for x, k in ((1.0, 0.0), (4.0, 1.0))]
    assert {k: v.item() for k, v in mean_of(parts).items()} == {"loss": 2.5, "kept": 0.5}
    spoilt = [*parts, {"loss": torch.tensor(math.nan), "kept": torch.tensor(0.0)}]
    assert mean_of(spoilt)["loss"].isnan(), "a part that is not finite must show"


def test_warm_up_reads_one_sound_a_student_and_stage_2_reads_both(files, tmp_path):
    trainer = Trainer(tiny(files, tmp_path / "run"), QUIET)
    sounds = [set(next(iter(loader)).sound) for loader in trainer.begin(WARMUP)]
    assert sounds == [{student.front_end} for student in trainer.model.students]
    (loader,) = trainer.begin(UNBIASED)
    batch = next(iter(loader))
    assert set(batch.sound) == set.union(*sounds)
    assert batch.labelled == trainer.cfg.batch_labelled
    assert len(batch.ids) == batch.labelled + trainer.cfg.batch_unlabelled


def test_stage_2_begins_with_teachers_equal_to_students(files, tmp_path):
    trainer = Trainer(scaled(files, tmp_path / "run"), QUIET)
    trainer.begin(WARMUP)
    trainer.step()
    trainer.unbiased.start_from_warmup()
    for student, teacher in zip(trainer.model.students, trainer.model.teachers, strict=True):
        for name, tensor in teacher.state_dict().items():
            assert torch.equal(tensor, student.state_dict()[name]), name
