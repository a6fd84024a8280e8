"""The metrics against independent float64 definitions, hand-worked values and the field's own annotation file."""

import doctest
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdmt.evaluation import metrics

SIDE = 24
rng = np.random.default_rng(0)


def plain_mask(p, rule, truth):
    """The rules of the literature, one pixel list at a time."""
    values = sorted(float(x) for x in p.ravel())
    if rule == "absolute":
        level = 0.5
    elif rule == "median":
        level = values[len(values) // 2]
    else:
        count = int((truth > 0).sum())
        level = values[-count] if count else np.inf
    return np.array([[float(x) >= level for x in row] for row in p])


def plain_ciou(mask, truth):
    hit = sum(float(g) for m, g in zip(mask.ravel(), truth.ravel()) if m)
    spill = sum(1 for m, g in zip(mask.ravel(), truth.ravel()) if m and g == 0)
    whole = float(truth.sum()) + spill
    return hit / whole if whole else 0.0


def truths():
    union = np.zeros((SIDE, SIDE))
    union[3:11, 5:20] = 1
    votes = np.zeros((SIDE, SIDE))
    for x0, y0, x1, y1 in ((2, 2, 12, 12), (5, 4, 16, 12), (6, 6, 23, 20)):
        votes[y0:y1, x0:x1] += 1
    return [union, np.clip(votes / 2, 0, 1), np.zeros((SIDE, SIDE)), np.ones((SIDE, SIDE))]


def maps():
    ramp = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
    ties = rng.integers(0, 4, (SIDE, SIDE)) / 3
    constants = [np.full((SIDE, SIDE), c) for c in (0.0, 0.5, 1.0)]
    return [rng.random((SIDE, SIDE)), rng.random((SIDE, SIDE)).astype(np.float32), ramp, ties, *constants]


def test_ciou_at_many_thresholds_is_that_of_each_mask():
    levels = [0.05 * i for i in range(1, 20)]
    for p in maps():
        for g in truths():
            expected = [metrics.ciou(p >= np.asarray(level, p.dtype), g) for level in levels]
            np.testing.assert_allclose(metrics.ciou_at(p, g, levels), expected, rtol=0, atol=1e-12)
    both = np.stack([maps()[0], maps()[2]])
    found = metrics.ciou_at(both, np.stack(truths()[:2]), levels)
    assert found.shape == (2, 19) and np.array_equal(found[1], metrics.ciou_at(both[1], truths()[1], levels))


@pytest.mark.parametrize("rule", metrics.RULES)
def test_masks_and_ciou_equal_the_plain_definition(rule):
    for p in maps():
        for g in truths():
            mask = metrics.binarise(p, rule, g)
            assert np.array_equal(mask, plain_mask(p, rule, g))
            assert abs(float(metrics.ciou(mask, g)) - plain_ciou(mask, g)) < 1e-12


def test_batch_and_torch_give_what_single_numpy_items_give():
    p = rng.random((5, SIDE, SIDE))
    g = np.stack([*truths(), truths()[0]])
    for rule in metrics.RULES:
        batch = metrics.binarise(p, rule, g)
        assert np.array_equal(batch, np.stack([metrics.binarise(a, rule, b) for a, b in zip(p, g)]))
        tensor = metrics.binarise(torch.from_numpy(p), rule, torch.from_numpy(g))
        assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), batch)
        values = metrics.ciou(tensor, torch.from_numpy(g))
        assert values.dtype == torch.float64 and np.array_equal(values.numpy(), metrics.ciou(batch, g))
    assert np.allclose(metrics.mse(p, g), [((a - b) ** 2).mean() for a, b in zip(p, g)], atol=1e-12, rtol=0)


def test_hand_worked_values():
    g = np.zeros((4, 4))
    g[0] = 1
    g[1] = 0.5  # Flickr: one annotator only
    mask = np.zeros((4, 4), bool)
    mask[1:3] = True  # 4 pixels of 0.5 hit, 4 pixels beside
    assert float(metrics.ciou(mask, g)) == pytest.approx(2 / (6 + 4), abs=1e-15)
    # Shares over t: 1 at 0, .05, .1, .15, .2 (5 points), one half up to .6 (8 points), then 0.
    values = [0.22, 0.62]
    shares = [1.0] * 5 + [0.5] * 8 + [0.0] * 8
    assert metrics.auc(values) == pytest.approx(np.trapezoid(shares, dx=0.05), abs=1e-12)
    assert metrics.success([0.5, 0.49999, 0.7, 0.1]) == 0.5
    assert metrics.success([]) == 0.0
    cosines = np.array([[1.0, 0.0], [-1.0, -1.0]])
    assert float(metrics.confidence(cosines)) == 1.0
    assert [metrics.size_of(a) for a in (0, 1023, 1024, 9215.5, 9216, 20736)] == [
        "small", "small", "medium", "medium", "large", "huge",
    ]  # fmt: skip


def test_empty_truth_scores_nothing_and_never_nan():
    empty = np.zeros((2, SIDE, SIDE))
    for p in maps():
        for rule in metrics.RULES:
            assert float(metrics.ciou(metrics.binarise(p, rule, empty[0]), empty[0])) == 0.0
    for rule in metrics.RULES:
        assert not metrics.attainable(empty, rule).any() and not metrics.blind(empty, rule).any()


def test_unknown_rule_and_adaptive_without_truth_are_refused():
    for rule in ("mean", "adaptive"):
        with pytest.raises(ValueError, match=rule):
            metrics.binarise(np.zeros((2, 2)), rule)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(metrics.RULES))
def test_no_map_without_ties_beats_the_cap_and_the_best_one_meets_it(seed, rule):
    draw = np.random.default_rng(seed)
    g = np.clip(np.round(draw.random((8, 8)) * 2.5 - draw.random()) / 2, 0, 1)
    cap = float(metrics.attainable(g, rule))
    order = draw.permutation(64).reshape(8, 8) / 64
    assert float(metrics.ciou(metrics.binarise(order, rule, g), g)) <= cap + 1e-12
    # The truth itself as a map; a hair of rank breaks its ties and moves no value across 0.5.
    best = g * 0.9 + np.where(g > 0, 0.1, 0) + np.arange(64).reshape(8, 8) * 1e-6
    best = np.where(g > 0, np.maximum(best, 0.5), best)
    assert float(metrics.ciou(metrics.binarise(best, rule, g), g)) == pytest.approx(cap, abs=1e-12)


def test_blind_disc_is_the_score_of_minus_the_distance():
    g = np.stack(truths())
    y, x = np.mgrid[:SIDE, :SIDE]
    p = -np.hypot(y - (SIDE - 1) / 2, x - (SIDE - 1) / 2)
    for rule, of in (("median", "median"), ("absolute", "median"), ("adaptive", "adaptive")):
        expected = [plain_ciou(plain_mask(p, of, t), t) for t in g]
        assert np.allclose(metrics.blind(g, rule), expected, atol=1e-12, rtol=0)


def test_caps_and_blind_disc_of_the_whole_vggss(metadata):
    """Every item counts, also the two that clipping leaves without a box: they can only score 0."""
    caps, discs = [], []
    items = json.loads((metadata / "vggss.json").read_text())
    for i in range(0, len(items), 128):
        truth = np.zeros((len(items[i : i + 128]), 224, 224))
        for g, item in zip(truth, items[i : i + 128]):
            for box in item["bbox"]:
                x0, y0, x1, y1 = (np.clip(box, 0, 1) * 224).astype(int)
                g[y0:y1, x0:x1] = 1
        caps.append(metrics.attainable(truth, "median"))
        discs.append(metrics.blind(truth, "median"))
    cap, disc = np.concatenate(caps), np.concatenate(discs)
    assert len(cap) == 5158
    figures = [100 * f(v) for v in (cap, disc) for f in (metrics.success, metrics.auc)]
    assert [f"{x:.2f}" for x in figures] == ["50.54", "49.47", "34.02", "37.44"]


def plain_curve(values, sounding, conf, cuts):
    points = []
    for cut in cuts:
        tp = fp = fn = 0
        for value, sounds, c in zip(values, sounding, conf):
            if c >= cut:
                if sounds and value >= 0.5:
                    tp += 1
                else:
                    fp += 1
            elif sounds:
                fn += 1
        points.append((tp / (tp + fp) if tp + fp else 1.0, tp / (tp + fn) if tp + fn else 1.0))
    return points


@pytest.mark.parametrize("n", [2, 9, 57, 450])
def test_average_precision_and_f1_equal_the_plain_definition(n):
    values, conf = rng.random(n), np.round(rng.random(n), 2)  # rounding makes ties
    sounding = np.arange(n) % 3 > 0
    cuts = sorted(conf)[:-1][:: -max(1, n // 200)]
    points = plain_curve(values, sounding, conf, cuts)
    ap = sum(max(p for p, _ in points[i:]) * (points[i + 1][1] - points[i][1]) for i in range(len(points) - 1))
    assert metrics.average_precision(values, sounding, conf) == pytest.approx(ap, abs=1e-12)
    f1 = [
        2 * p * r / (p + r) for p, r in plain_curve(values, sounding, conf, sorted(conf)[:: max(1, n // 10)]) if p + r
    ]
    assert metrics.max_f1(values, sounding, conf) == pytest.approx(max(f1), abs=1e-12)


def test_perfect_detector():
    values, sounding = np.array([0.9, 0.8, 0.7, 0.0]), np.array([True, True, True, False])
    conf = np.array([0.9, 0.8, 0.7, 0.1])
    assert metrics.max_f1(values, sounding, conf) == 1.0
    # The cut rule leaves the highest confidence out, so even a perfect detector starts at recall 2/3.
    assert metrics.average_precision(values, sounding, conf) == pytest.approx(1 / 3)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_largest_box_equals_scipy(seed, share):
    ndimage = pytest.importorskip("scipy.ndimage")
    mask = np.random.default_rng(seed).random((13, 17)) < share
    box = metrics.largest_box(mask)
    labels, count = ndimage.label(mask)
    if count == 0:
        assert box is None
        return
    part = 1 + np.bincount(labels.ravel())[1:].argmax()
    rows, columns = ndimage.find_objects(labels)[part - 1]
    assert box == (columns.start, rows.start, columns.stop, rows.stop)
    assert metrics.largest_box(torch.from_numpy(mask)) == box


def test_active_share():
    p = np.array([[0.5, 0.49], [0.2, 1.0]])
    assert float(metrics.active_share(p)) == 0.5


def test_examples_in_the_documentation_run():
    result = doctest.testmod(metrics)
    assert result.attempted and not result.failed


@pytest.mark.gpu
def test_tensors_on_a_gpu_give_what_numpy_gives():
    p, g = rng.random((6, SIDE, SIDE)), np.stack([*truths(), *truths()[:2]])
    on_gpu = torch.from_numpy(p).cuda(), torch.from_numpy(g).cuda()
    for rule in metrics.RULES:
        mask = metrics.binarise(on_gpu[0], rule, on_gpu[1])
        assert mask.is_cuda and np.array_equal(mask.cpu().numpy(), metrics.binarise(p, rule, g))
        assert np.allclose(metrics.ciou(mask, on_gpu[1]).cpu(), metrics.ciou(mask.cpu().numpy(), g), atol=1e-12)
        for function in (metrics.attainable, metrics.blind):
            assert np.allclose(function(on_gpu[1], rule).cpu(), function(g, rule), atol=1e-12)
    assert np.allclose(metrics.confidence(on_gpu[0]).cpu(), metrics.confidence(p), atol=1e-12)
