"""The plan: every item once an epoch, ranks that make up one process' batch, purity in the step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdmt_loaders import DataError, Plan

plans = st.builds(
    Plan,
    n_labelled=st.integers(1, 40),
    n_unlabelled=st.integers(1, 90),
    batch_labelled=st.integers(0, 4).map(lambda x: 4 * x),
    batch_unlabelled=st.integers(1, 6).map(lambda x: 4 * x),
    seed=st.integers(0, 2**63),
)


@given(plans, st.sampled_from([1, 2, 4]))
@settings(max_examples=60, deadline=None)
def test_every_item_once_an_epoch_over_all_ranks(plan, world):
    ranks = [replace(plan, rank=rank, world=world) for rank in range(world)]
    epochs = 3
    for stream, (n, batch) in enumerate(zip(plan.counts, plan.batches)):
        if not batch:
            continue
        steps = -(-epochs * n // batch)
        seen = np.concatenate([rank.indices(step)[stream] for step in range(steps) for rank in ranks])
        # A step's rank slices, joined, are contiguous, so the epochs are plain stretches of the stream.
        for epoch in range(epochs):
            assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(plans, st.sampled_from([2, 4]), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_ranks_make_up_the_batch_of_one_process(plan, world, step):
    ranks = [replace(plan, rank=rank, world=world) for rank in range(world)]
    for stream in (0, 1):
        joined = np.concatenate([rank.indices(step)[stream] for rank in ranks])
        np.testing.assert_array_equal(joined, plan.indices(step)[stream])
    # `rows` says where a rank's rows stand in the global batch.
    whole = plan.index(step)
    for rank in ranks:
        np.testing.assert_array_equal(rank.index(step), whole[rank.rows])
    assert sorted(np.concatenate([rank.rows for rank in ranks])) == list(range(len(whole)))


@given(plans, st.integers(0, 1000), st.integers(1, 5), st.sampled_from([1, 2, 4]))
@settings(max_examples=40, deadline=None)
def test_a_substitute_is_the_slot_of_a_later_step_whatever_the_world(plan, step, attempt, world):
    later = plan.index(step + attempt)
    for rank in range(world):
        own = replace(plan, rank=rank, world=world)
        got = [own.substitute(step, row, attempt) for row in range(len(own.rows))]
        assert got == list(later[own.rows])


def test_seeds_and_streams_differ_and_epochs_are_reshuffled():
    plan = Plan(50, 50, 50, 50, seed=3)
    labelled, unlabelled = plan.indices(0)
    assert list(labelled) != list(unlabelled)
    assert list(labelled) != list(plan.indices(1)[0])
    assert list(labelled) != list(replace(plan, seed=4).indices(0)[0])
    assert list(labelled) == list(Plan(50, 50, 50, 50, seed=3).indices(0)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 4, 3, 4, 0, 0, 2), "does not divide by 2"),
        ((4, 0, 2, 2), "no unlabelled items"),
        ((4, 4, 0, 0), "batch is empty"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Plan(*arguments)
