"""Evaluation of a model that hears perfectly, on real files: every figure is known beforehand."""

import numpy as np
import pytest
import torch
from tones import PLACES, ToneModel, name, write_data

from fastdmt.errors import FastDMTError
from fastdmt.evaluation.evaluate import evaluate, validate
from fastdmt_loaders import AVDataset, DataError, Pair, View, eval_batches
from fastdmt_loaders.dataset.annotations import truth_map


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return AVDataset(write_data(tmp_path_factory.mktemp("tones")))


PAIRS = [Pair(name(k), name(k), True) for k in range(PLACES)]
NOTHING = [Pair("silence", "silence", False), Pair(name(1), "silence", False)]


def test_a_perfect_ear(dataset):
    result = evaluate(ToneModel(), dataset, PAIRS, source="A", batch_size=4)
    s = result.summary
    for rule in ("absolute", "adaptive"):
        assert s[rule]["ciou"] == s[rule]["auc"] == s[rule]["cap_ciou"] == 1.0
        assert s[rule]["other_ciou"] == 0.0  # no two clips share a place
    assert s["mse"] == pytest.approx(0.05**2, rel=1e-4)
    assert s["pia"]["silence"] == s["pia"]["noise"] == 0.0
    area = result.arrays["area"] / 224**2
    assert s["pia"]["own_sound"] == pytest.approx(area.mean()) == pytest.approx(s["pia"]["other_sound"])
    assert s["sizes"]["medium"]["items"] == PLACES and s["sizes"]["medium"]["absolute"] == 1.0
    # Half of the frame is marked under the median rule: area / half for objects that small.
    assert np.allclose(result.arrays["cap_median"], 2 * area, atol=1e-12)


def test_every_row_belongs_to_its_item(dataset):
    order = [5, 2, 8, 0, 4]
    result = evaluate(ToneModel(wrong=(8, 0)), dataset, [PAIRS[k] for k in order], source="A", batch_size=2)
    assert result.arrays["ciou_absolute"].tolist() == [1, 1, 0, 0, 1]
    assert [p.pair.video for p in result.pictures if p.group == "worst"] in ([name(8)], [name(0)])


def test_other_sounds_are_a_cycle_of_all_items_whatever_the_batch(dataset):
    reference = None
    for batch in (1, 4, 64):
        model = ToneModel(wrong=(3,))
        result = evaluate(model, dataset, PAIRS, shuffle_sound=False, batch_size=batch, seed=7, examples=0)
        reference = reference or result
        for key, values in result.arrays.items():
            assert np.array_equal(values, reference.arrays[key]), key
    model = ToneModel(wrong=(3,))
    shuffled = evaluate(model, dataset, PAIRS, shuffle_sound=True, batch_size=64, seed=7, examples=0)
    for rule in ("absolute", "median", "adaptive"):
        assert np.array_equal(shuffled.arrays[f"ciou_{rule}"], reference.arrays[f"other_{rule}"])
    assert "other_ciou" not in shuffled.summary["absolute"]
    own = ToneModel()
    evaluate(own, dataset, PAIRS, source="A", batch_size=64, seed=7, examples=0)
    heard, other = own.heard[0][:-1], model.heard[0][1:]  # the first item comes once more, at the end
    assert sorted(heard) == sorted(other) == list(range(PLACES))
    assert heard == other  # clip i of the stream is looked at with the sound of clip i - 1


def test_validate_equals_the_absolute_part_of_evaluate(dataset):
    model = ToneModel(wrong=(1, 2))
    view = View(size=64, front_ends=("spectrogram",), augment=False)
    for source in ("teachers", "A", "B"):
        quick = validate(model, eval_batches(dataset, PAIRS, view, 4), (source, "A"))[source]
        full = evaluate(model, dataset, PAIRS, source=source, examples=0).summary["absolute"]
        assert quick == {"ciou": full["ciou"], "auc": full["auc"]}
    assert validate(model, []) == {"teachers": {"ciou": 0.0, "auc": 0.0}}


def test_flickr_truth_of_half_values_counts_as_the_formula_says(tmp_path):
    dataset = AVDataset(write_data(tmp_path / "flickr", flickr=True))
    result = evaluate(ToneModel(), dataset, PAIRS, source="A")
    model = ToneModel()
    view = View(size=64, front_ends=("spectrogram",), augment=False)
    for row, batch in enumerate(eval_batches(dataset, PAIRS, view, 1)):
        g = truth_map(dataset.annotation(name(row)))
        assert set(np.unique(g)) == {0.0, 0.5, 1.0}
        m = model.maps(batch.frames, batch.sound, "A")[0].numpy() >= 0.5
        expected = (m * g).sum() / (g.sum() + (m & (g == 0)).sum())
        assert result.arrays["ciou_absolute"][row] == pytest.approx(expected, abs=1e-12)
        assert result.arrays["area"][row] == g.sum()


def test_lists_with_items_that_do_not_sound(dataset):
    off_screen = [Pair(name(4), name(5), False)]
    pairs = NOTHING + PAIRS + off_screen
    result = evaluate(ToneModel(wrong=(2,)), dataset, pairs, source="A", batch_size=5)
    s = result.summary
    assert (s["items"], s["sounding"]) == (12, 9)
    assert s["absolute"]["ciou"] == s["extended"]["absolute"]["loc_acc"] == pytest.approx(8 / 9)
    conf = result.arrays["confidence"]
    assert conf[:2].max() == pytest.approx(0.1) and conf[2:].min() > 0.2
    # The off-screen sound looks like a sounding one: 8 right, 2 wrong of 10 detections, nothing missed.
    assert s["extended"]["absolute"]["max_f1"] == pytest.approx(2 * 0.8 * 1 / 1.8)
    active = result.arrays["active"]
    assert s["pia"]["sourceless_clips"] == active[0] == 0.0
    assert s["pia"]["foreign_sounds"] == (active[1] + active[11]) / 2 > 0.02
    assert np.isnan(result.arrays["ciou_absolute"][[0, 1, 11]]).all()
    assert len([p for p in result.pictures if p.group == "non-sounding"]) == 3
    assert all(len(p.boxes) == 0 for p in result.pictures if p.group == "non-sounding")


def test_bad_input_is_named(dataset, tmp_path):
    with pytest.raises(FastDMTError, match="empty"):
        evaluate(ToneModel(), dataset, [])
    with pytest.raises(FastDMTError, match="two sounding items"):
        evaluate(ToneModel(), dataset, PAIRS[:1], shuffle_sound=True)
    with pytest.raises(DataError, match="nobody"):
        evaluate(ToneModel(), dataset, [*PAIRS, Pair("nobody", "nobody", True)])
    (dataset.root / "frames" / "bare.jpg").write_bytes((dataset.root / "frames" / f"{name(0)}.jpg").read_bytes())
    bare = AVDataset(dataset.root)
    with pytest.raises(FastDMTError, match="bare has no bounding box"):
        evaluate(ToneModel(), bare, [Pair("bare", name(0), True)])

    class Broken(ToneModel):
        def maps(self, frames, sound, source="teachers", size=224):
            return super().maps(frames, sound, source, size) * torch.nan

    with pytest.raises(FastDMTError, match="not finite"):
        evaluate(Broken(), dataset, PAIRS)
