"""The whole step with every tensor on the meta device, which holds no values.

Reading a value on the host raises there, and a tensor on the host among tensors of the device is refused here: what
passes never waits for a GPU and never mixes devices. Kernels stand for what a GPU would launch.
"""

import dataclasses

import pytest
import torch
from tiny_runs import QUIET, tiny
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastdmt.names import ALGORITHMS, LOCALIZERS
from fastdmt.training.schedule import UNBIASED, WARMUP
from fastdmt.training.trainer import Trainer
from fastdmt_loaders.tools.demo import make_demo

COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}


class OnDevice(TorchDispatchMode):
    """Refuses what would fail or wait on a GPU although meta has a rule for it; counts copies from the host."""

    copied = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        on_host = [x for x in tensors if not x.is_meta]
        if function in COPIES and on_host:
            self.copied += 1
        elif len(on_host) < len(tensors):
            assert all(x.ndim == 0 for x in on_host), f"{function}: {[(x.device, list(x.shape)) for x in tensors]}"
        if "index" in function.name():  # rows chosen by a mask: the host waits for their number
            assert not any(x.dtype == torch.bool for x in tree_leaves(args[1]) if isinstance(x, torch.Tensor)), function
        return function(*args, **kwargs or {})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo(root, clips=24, labelled=10, seed=1)
    return root


def on_meta(files, run, algorithm="dmt", **changes):
    cfg = tiny(files, run, algorithm=algorithm)
    groups = {"data": {"cache": "none", "loader": "torch", "workers": 0}} | changes
    for group, values in groups.items():
        cfg = dataclasses.replace(cfg, **{group: dataclasses.replace(getattr(cfg, group), **values)})
    return Trainer(dataclasses.replace(cfg, device="meta"), QUIET)


def take_step(trainer, stage):
    """Batches from the stage's loaders; then a step on them, in which nothing is copied from the host."""
    loaders = trainer.begin(stage)
    with OnDevice():
        batches = [[next(iter(loader)) for _ in range(trainer.cfg.scale.accumulate)] for loader in loaders]
    with OnDevice() as watched:
        values = trainer.step([iter(own) for own in batches])
    assert watched.copied == 0
    assert values and all(x.is_meta and x.ndim == 0 for x in values.values())
    assert all(p.grad.is_meta for s in trainer.model.students for p in s.parameters() if p.grad is not None)


def take_both_stages(trainer):
    for stage in (WARMUP, UNBIASED):
        if trainer.schedule.steps[stage]:
            take_step(trainer, stage)
    if trainer.queue:
        assert len(trainer.queue.rows["frames"]) == 2 * trainer.cfg.batch_unlabelled + 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_steps_on_meta(files, tmp_path, algorithm):
    take_both_stages(on_meta(files, tmp_path / "run", algorithm))


@pytest.mark.parametrize("packed", [0.0, 0.5])
@pytest.mark.parametrize("localizer", LOCALIZERS)
def test_every_localizer_steps_on_meta(files, tmp_path, localizer, packed):
    changes = {"model": {"localizer": localizer}, "scale": {"pack_accepted": packed}}
    take_both_stages(on_meta(files, tmp_path / "run", **changes))


OPTIONS = {
    "negatives, foreground, contrast in the warm-up": {
        "pseudo": {"negatives": 0.5, "foreground": 0.7, "lambda_warmup": 0.1}
    },
    "soft labels, statistics copied": {"pseudo": {"soft": "product", "bn": "copy", "ignore_below": None}},
    "cross-entropy over places": {"pseudo": {"supervised_loss": "spatial_ce"}},
    "probability by minmax": {"model": {"probability": "minmax"}},
    "clipping, parts, a rate for encoders": {
        "optim": {"clip": 1.0, "lr_encoders": 0.1, "labelled_share": 0.5},
        "scale": {"accumulate": 2},
    },
    "augmented sound in full": {"data": {"audio_augment": "full"}},
    "sound as it is": {"data": {"audio_augment": "none"}},
    "the networks of the paper": {
        "model": {"visual": "resnet18", "audio_a": "vggish", "audio_b": "soundnet8", "dim": 512},
    },
    "a convolutional head with dropout": {"model": {"head": "conv", "head_dropout": 0.3}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_steps_on_meta(files, tmp_path, options):
    take_both_stages(on_meta(files, tmp_path / "run", **options))


def reads(x):
    return x.sum().item()


def decides(x):
    return x if x.sum() > 0 else -x


def mixes(x):
    return x + torch.ones(3)


def chooses_rows(x):
    x[x > 0] = 1.0


def finds_rows(x):
    return x.nonzero()


@pytest.mark.parametrize("fault", [reads, decides, mixes, chooses_rows, finds_rows], ids=lambda f: f.__name__)
def test_a_step_that_waits_or_mixes_fails_on_meta(fault):
    with OnDevice(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        fault(torch.empty(3, device="meta"))


def test_a_copy_from_the_host_is_counted_on_meta():
    with OnDevice() as watched:
        torch.ones(3).to("meta")
    assert watched.copied == 1
