"""Suites on folders made from the field's own lists, of which a few percent of the clips are on disk."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from PIL import Image
from rich.console import Console
from tones import ToneModel, picture, tone

from fastdmt.errors import FastDMTError
from fastdmt.evaluation import metrics
from fastdmt.evaluation.suites import FLICKR, VGGSS, run_suite, suite_pairs
from fastdmt.names import SUITES
from fastdmt_loaders import AVDataset, DataError, read_list, read_pairs, truth_map


@pytest.fixture(scope="module")
def vggss(metadata, tmp_path_factory):
    """2 percent of VGG-SS: ids, boxes and lists are the real ones, the media are not."""
    root = tmp_path_factory.mktemp("vggss")
    write_media(root, read_list(metadata / "vggss_test.csv")[::50])
    for file in ("vggss.json", "vggss_test.csv", "vggss_heard_test.csv", "vggss_unheard_test.csv"):
        shutil.copy(metadata / file, root)
    shutil.copy(metadata / "vggss_test_plus_silent.csv", root)
    return AVDataset(root)


def write_media(root, ids):
    (root / "frames").mkdir()
    (root / "audio").mkdir()
    frame, pcm = root / "frames" / f"{ids[0]}.jpg", root / "audio" / f"{ids[0]}.wav"
    Image.fromarray(picture(0)).save(frame)
    soundfile.write(pcm, tone(0, 16000, 3.0), 16000)
    for i in ids[1:]:
        shutil.copy(frame, root / "frames" / f"{i}.jpg")
        shutil.copy(pcm, root / "audio" / f"{i}.wav")


def test_counts_leaks_caps_and_blind_disc_of_vggss(vggss, metadata):
    trained = read_list(metadata / "vggss_144k.txt")
    suite = run_suite(ToneModel(), vggss, "vggss", trained=trained, examples=0)
    ids = read_list(metadata / "vggss_test.csv")[::50]
    assert suite.listed == 5158 and suite.missing == 5158 - len(ids)
    assert suite.leaked.sum() == len(set(ids) & set(trained)) > 20
    truth = np.stack([truth_map(vggss.annotation(i)) for i in ids])
    for rule in metrics.RULES:
        for kind, function in (("cap", metrics.attainable), ("blind", metrics.blind)):
            expected = {"ciou": metrics.success(function(truth, rule)), "auc": metrics.auc(function(truth, rule))}
            assert {k: suite.result.summary[rule][f"{kind}_{k}"] for k in expected} == expected
    notes = " ".join(suite.warnings)
    assert f"{len(ids)} of 5,158" in notes and f"{suite.leaked.sum()} items were in the training lists" in notes
    untouched = run_suite(ToneModel(), vggss, "vggss-heard", examples=0)
    assert not untouched.leaked.any() and len(untouched.warnings) == 1
    assert untouched.listed == len(read_list(metadata / "vggss_heard_test.csv"))


def test_every_row_carries_its_protocol_and_none_is_mixed(vggss):
    suite = run_suite(ToneModel(), vggss, "vggss", examples=0)
    rows = suite.rows()
    assert len(rows) == len(VGGSS) + 3 * 3
    kinds = [protocol.split(",")[0] for _, _, protocol in rows]
    assert kinds == sorted(kinds, key=["median threshold", "absolute threshold", "adaptive threshold"].index)
    ours = [row for row in rows if row[0] == "ours"]
    assert [row[2] for row in ours] == ["median threshold", "absolute threshold", "adaptive threshold"]
    assert next(row for row in rows if row[0] == "ACL-SSL")[2].startswith("absolute threshold")
    console = Console(width=140, record=True, file=open("/dev/null", "w"))
    console.print(suite.table())
    text = console.export_text()
    assert suite.published().strong == {i for i, row in enumerate(rows) if row[0] == "ours"}
    assert [kinds[i] for i in sorted(suite.published().parted)] == ["absolute threshold", "adaptive threshold"]
    assert "34.38" in text and "listed items are on disk" in text and "blind disc" in text


def test_published_figures_are_those_of_the_papers():
    def figure(rows, method, note=""):
        return next(row.ciou for row in rows if row.method == method and row.note == note)

    assert (figure(FLICKR, "EZ-VSL"), figure(VGGSS, "EZ-VSL")) == (72.69, 34.38)
    assert [figure(rows, "DMT", "on 250 clips that are not known") for rows in (FLICKR, VGGSS)] == [90.4, 48.8]
    assert all(row.protocol == "absolute threshold" for row in FLICKR + VGGSS if row.method == "ACL-SSL")


def test_extended_suite_joins_sounding_and_silent_items(vggss, metadata):
    pairs, listed = suite_pairs(vggss, "vggss-extended")
    silent = read_pairs(metadata / "vggss_test_plus_silent.csv")
    assert listed == 5158 + len(silent)
    here = set(vggss.ids)
    assert len(pairs) == len(here) + sum(p.video in here and p.audio in here for p in silent)
    assert sum(not p.sounding for p in pairs) == len(pairs) - len(here) > 0
    suite = run_suite(ToneModel(), vggss, "vggss-extended", examples=0)
    assert set(suite.result.summary["extended"]["median"]) == {"ap", "max_f1", "loc_acc"}


def test_lists_may_lie_elsewhere(metadata, tmp_path):
    ids = read_list(metadata / "flickr_test.csv")[::25]
    write_media(tmp_path, ids)
    (tmp_path / "Annotations").mkdir()
    corners = "<xmin>20</xmin><ymin>30</ymin><xmax>200</xmax><ymax>220</ymax>"
    for i in ids[:-1]:
        (tmp_path / "Annotations" / f"{i}.xml").write_text(f"<a><p><bbox><n>x</n>{corners}</bbox></p></a>")
    dataset = AVDataset(tmp_path)
    suite = run_suite(ToneModel(), dataset, "flickr", lists=metadata, examples=0)
    assert (suite.listed, len(suite.result.pairs)) == (250, len(ids) - 1)  # one has no boxes
    with pytest.raises(DataError, match=r"flickr_test\.csv"):
        run_suite(ToneModel(), dataset, "flickr")


def test_bad_suites_are_named(vggss, tmp_path):
    with pytest.raises(FastDMTError, match=r"unknown suite 'audioset'.*flickr"):
        suite_pairs(vggss, "audioset")
    with pytest.raises(FastDMTError, match="needs flickr annotations, found vggss"):
        suite_pairs(vggss, "flickr")
    write_media(tmp_path, ["other_000001"])
    (tmp_path / "vggss.json").write_text(json.dumps([{"file": "other_000001", "bbox": [[0, 0, 1, 1]]}]))
    with pytest.raises(FastDMTError, match="none of the 5,158 items"):
        suite_pairs(AVDataset(tmp_path), "vggss", vggss.root)
    assert all(suite.rule in ("flickr", "vggss") for suite in SUITES.values())
