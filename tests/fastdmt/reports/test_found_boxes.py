"""Predictions over a folder: a CSV that grows as files are done, and COCO json that this project reads back."""

import csv
import json
import shutil

import numpy as np
import pytest
from tones import ToneModel, box, name, write_data, write_video

from fastdmt.errors import FastDMTError
from fastdmt.reports.predict import predict
from fastdmt_loaders import AVDataset, DataError
from fastdmt_loaders.tools.boxes import convert


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("tones"))


def rows(out) -> list[dict[str, str]]:
    with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_gives_a_line_an_item_and_coco_json_that_can_be_trained_on(root, tmp_path):
    out = tmp_path / "out"
    written = predict(ToneModel(), [root], out, source="A")
    assert written[-2:] == [out / "predictions.csv", out / "predictions.json"]
    ids = AVDataset(root).ids
    assert [row["id"] for row in rows(out)] == ids
    # The boxes of the JSON beside each picture, and where the source is.
    boxed = [row for row in rows(out) if row["x0"]]
    assert len(boxed) > 5
    for row in rows(out):
        alone = json.loads((out / f"{row['id']}.json").read_text())
        assert float(row["confidence"]) == alone["peak"] and row["second"] == ""
        assert (alone["box"] is None) == (row not in boxed)
    for row in boxed:
        x0, y0, x1, y1 = (float(row[key]) for key in ("x0", "y0", "x1", "y1"))
        assert [x0, y0, x1, y1] == json.loads((out / f"{row['id']}.json").read_text())["box"]
        assert (float(row["centre_x"]), float(row["centre_y"])) == ((x0 + x1) / 2, (y0 + y1) / 2)
    first = np.array([float(rows(out)[ids.index(name(0))][key]) for key in ("x0", "y0", "x1", "y1")])
    assert np.abs(first / (120, 90, 120, 90) - box(0)).max() < 0.03
    # Read by another module, by COCO's documented form: shares of the frame, as the CSV says.
    shutil.copytree(root, tmp_path / "again")
    done = convert(out / "predictions.json", tmp_path / "again", force=True)
    assert done.kind == "COCO" and done.ids == [row["id"] for row in boxed]
    again = AVDataset(tmp_path / "again", "vggss").annotation(name(0)).boxes[0]
    np.testing.assert_allclose(again * (120, 90, 120, 90), first, atol=1e-3)


def test_videos_have_a_line_a_second_and_silence_has_no_box(root, tmp_path):
    write_video(tmp_path / "clip.mp4")
    frame, silence = root / "frames" / f"{name(0)}.jpg", root / "audio" / "silence.wav"
    out = tmp_path / "out"
    predict(ToneModel(), [tmp_path / "clip.mp4", frame, silence], out, source="A")
    found = rows(out)
    seconds = json.loads((out / "clip.json").read_text())["seconds"]
    assert [row["second"] for row in found[:-1]] == [str(s["second"]) for s in seconds]
    assert found[-1]["id"] == name(0) and found[-1]["x0"] == "" and found[-1]["confidence"] != ""
    coco = json.loads((out / "predictions.json").read_text())
    assert len(coco["images"]) == len(found)
    silent = next(image["id"] for image in coco["images"] if image["file_name"] == frame.name)
    assert silent not in {item["image_id"] for item in coco["annotations"]}


def test_what_was_found_before_a_broken_file_is_kept(root, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for k, kind in enumerate("ab"):
        for path in (*root.glob(f"frames/{name(k)}.*"), *root.glob(f"audio/{name(k)}.*")):
            shutil.copy(path, folder / f"{kind}{path.suffix}")
    (folder / "b.jpg").write_bytes(b"no picture")
    with pytest.raises((FastDMTError, DataError), match=r"b\.jpg"):
        predict(ToneModel(), [folder], tmp_path / "out", source="A")
    assert [row["id"] for row in rows(tmp_path / "out")] == ["a"]
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]) == 1
