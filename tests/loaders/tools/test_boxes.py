"""Boxes in the documented form of each tool, written by hand, against corners that were worked out by hand."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from films import write_film
from PIL import Image

from fastdmt_loaders import AVDataset, DataError
from fastdmt_loaders.tools.boxes import convert

# Two boxes in a frame of 120 x 60 pixels, and one in the next frame.
DRUM, DOG, BELL = [0.1, 0.2, 0.5, 0.8], [0.0, 0.5, 0.25, 1.0], [0.5, 0.0, 1.0, 0.5]
A, B = "clip_000000", "-lip_000001"


@pytest.fixture
def root(tmp_path) -> Path:
    """A data folder of three clips without boxes; the id of the second begins with a dash."""
    for folder in ("frames", "audio"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    for id in (A, B, "clip_000002"):
        Image.new("RGB", (120, 60)).save(tmp_path / "root" / "frames" / f"{id}.jpg")
        (tmp_path / "root" / "audio" / f"{id}.flac").touch()
    return tmp_path / "root"


COCO = {
    "info": {"description": "own"},
    "images": [
        {"id": 7, "width": 120, "height": 60, "file_name": f"frames/{A}.jpg"},
        {"id": 9, "width": 1200, "height": 600, "file_name": f"{B}.mp4"},
    ],
    "categories": [{"id": 1, "name": "drum"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [12, 12, 48, 36], "area": 1728, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 30, 30, 30], "area": 900, "iscrowd": 0},
        {"id": 3, "image_id": 9, "category_id": 2, "bbox": [600, 0, 600, 300], "area": 180000, "iscrowd": 0},
    ],
}


def region(box, label, **more):
    x0, y0, x1, y1 = (100 * value for value in box)
    value = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0, "rectanglelabels": [label]}
    return {
        "id": "a1",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 120,
        "original_height": 60,
        "value": value | more,
    }


LABEL_STUDIO = [
    {
        "id": 1,
        "data": {"note": "first", "image": f"/data/upload/3/1f3a9c2b-{A}.jpg"},
        "annotations": [
            {"id": 11, "was_cancelled": False, "result": [region(DRUM, "drum")]},
            {"id": 12, "was_cancelled": False, "result": [region(DOG, "dog"), {"type": "choices", "value": {}}]},
            {"id": 13, "was_cancelled": True, "result": [region([0, 0, 1, 1], "mistake")]},
        ],
        "predictions": [{"result": [region([0, 0, 1, 1], "machine")]}],
    },
    {
        "id": 2,
        "data": {"image": f"/data/local-files/?d=own/frames/{B}.jpg"},
        "annotations": [{"id": 14, "result": [region(BELL, "dog")]}],
    },
]
JSON_MIN = [
    {
        "image": f"https://example.com/some%20folder/{A}.jpg?sign=1",
        "label": [region(DRUM, "drum")["value"], region(DOG, "dog")["value"] | {"original_width": 120}],
        "annotator": 1,
    },
    {"image": f"https://example.com/{B}.jpg", "label": [region(BELL, "dog")["value"]]},
]
CVAT = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><name>own</name><mode>annotation</mode></task></meta>
  <image id="0" name="own/{A}.jpg" width="120" height="60">
    <box label="drum" source="manual" occluded="0" xtl="12.00" ytl="12.00" xbr="60.00" ybr="48.00" z_order="0"></box>
    <box label="dog" source="manual" occluded="0" xtl="0.00" ytl="30.00" xbr="30.00" ybr="60.00" z_order="0">
      <attribute name="loud">yes</attribute>
    </box>
  </image>
  <image id="1" name="{B}.jpg" width="1200" height="600">
    <box label="dog" source="manual" occluded="0" xtl="600" ytl="0" xbr="1200" ybr="300" z_order="0"></box>
  </image>
</annotations>"""
VGGSS = [
    {"file": A, "class": "drum, dog", "bbox": [DRUM, DOG]},
    {"file": B, "class": "dog", "bbox": [BELL]},
]
CSV_PIXELS = f"id,x0,y0,x1,y1,class\n{A},12,12,60,48,drum\n{A},0,30,30,60,dog\n{B},60,0,120,30,dog\n"
CSV_SIZES = (
    f"label;width;height;filename;xmin;ymin;xmax;ymax\ndrum;120;60;{A}.jpg;12;12;60;48\n"
    f"dog;120;60;{A}.jpg;0;30;30;60\ndog;1200;600;{B}.jpg;600;0;1200;300\n"
)
CSV_SHARES = f"{A},0.1,0.2,0.5,0.8,drum\n{A},0,0.5,0.25,1,dog\n{B},0.5,0,1,0.5,dog\n"
FORMS = {
    "coco.json": json.dumps(COCO),
    "label_studio.json": json.dumps(LABEL_STUDIO),
    "label_studio_min.json": json.dumps(JSON_MIN),
    "cvat.xml": CVAT,
    "vggss.json": json.dumps(VGGSS),
    "pixels.csv": CSV_PIXELS,
    "sizes.csv": CSV_SIZES,
    "shares.csv": CSV_SHARES,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_boxes_and_classes(form, root, tmp_path):
    (tmp_path / form).write_text(FORMS[form])
    done = convert(tmp_path / form, root)
    assert done.ids == sorted([A, B]) and "3 boxes" in done.lines[0] and "2 of 3 clips" in done.lines[0]
    dataset = AVDataset(root)
    assert dataset.rule == "vggss" and dataset.annotated == {A, B}
    np.testing.assert_allclose(dataset.annotation(A).boxes, [DRUM, DOG], atol=1e-5)
    np.testing.assert_allclose(dataset.annotation(B).boxes, [BELL], atol=1e-5)
    assert not dataset.annotation(A).broken
    classes = {item["file"]: item["class"] for item in json.loads((root / "vggss.json").read_text())}
    assert classes == {A: "drum, dog", B: "dog"}


def test_a_zip_of_an_export_is_read(root, tmp_path):
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        archive.writestr("images/one.jpg", b"x")
        archive.writestr("annotations.xml", CVAT)
    assert convert(tmp_path / "task.zip", root).kind == "CVAT for images"
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.json", "[]")
        archive.writestr("b.json", "[]")
    with pytest.raises(DataError, match="2 files of boxes"):
        convert(tmp_path / "two.zip", root, force=True)


@pytest.mark.parametrize(
    "place, key, value, says",
    [
        ("annotations", "bbox", [10**400, 0, 1, 1], "cannot be read"),
        ("annotations", "bbox", [float("nan"), 0, 1, 1], "corners (nan, 0.0, nan, 1.0)"),
        ("annotations", "bbox", "1234567", "cannot be read"),
        ("annotations", "image_id", [1], "cannot be read"),
        ("images", "file_name", 17, "must be text"),
        ("images", "file_name", None, "must be text"),
        ("images", "width", "120", "in a frame of ('120', 60)"),
        ("images", "width", -120, "in a frame of (-120, 60)"),
        ("images", "height", 10**400, "in a frame of (120, 1000"),
        ("images", "height", float("inf"), "in a frame of (120, inf)"),
    ],
)
def test_values_that_no_tool_writes_are_named(root, tmp_path, place, key, value, says):
    content = json.loads(json.dumps(COCO))
    content[place][0][key] = value
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"{path}: ") as caught:
        convert(path, root)
    assert says in str(caught.value) and "\n" not in str(caught.value) and not (root / "vggss.json").exists()


@pytest.mark.parametrize("damage", ["content", "method", "password"])
def test_a_zip_that_cannot_be_unpacked_is_named(root, tmp_path, damage):
    path = tmp_path / "task.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", CVAT)
    data = bytearray(path.read_bytes())
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    if damage == "content":
        start = local + 30 + len("annotations.xml")
        data[start : start + 20] = b"\xff" * 20
    if damage == "method":
        data[local + 8] = data[central + 10] = 99
    if damage == "password":
        data[local + 6] |= 1
        data[central + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{path}: cannot be unpacked"):
        convert(path, root)


def test_flickr_xml_is_copied_for_the_clips_that_are_there(root, tmp_path):
    xml = "<a><p><bbox><n>x</n><xmin>64</xmin><ymin>0</ymin><xmax>128</xmax><ymax>256</ymax></bbox></p></a>"
    (tmp_path / "xml" / "Annotations").mkdir(parents=True)
    for id in (A, "stranger"):
        (tmp_path / "xml" / "Annotations" / f"{id}.xml").write_text(xml)
    done = convert(tmp_path / "xml", root)
    assert done.ids == [A] and "1 files are of other clips" in done.lines[1]
    dataset = AVDataset(root)
    assert dataset.rule == "flickr"
    np.testing.assert_allclose(dataset.annotation(A).boxes, [[0.25, 0, 0.5, 1]])


def test_turned_boxes_become_the_upright_ones_around_them(root, tmp_path):
    # A quarter turn: CVAT about the middle of the box, Label Studio about its upper left corner, clockwise.
    cvat = CVAT.replace('z_order="0"></box>', 'z_order="0" rotation="90"></box>', 1)
    (tmp_path / "c.xml").write_text(cvat)
    convert(tmp_path / "c.xml", root)
    # 48 x 36 pixels about (36, 30) become 36 x 48.
    np.testing.assert_allclose(AVDataset(root).annotation(A).boxes[0], [18 / 120, 6 / 60, 54 / 120, 54 / 60], atol=1e-5)
    task = [
        {"data": {"image": f"{A}.jpg"}, "annotations": [{"result": [region([0.5, 0.2, 0.6, 0.8], "x", rotation=90)]}]}
    ]
    (tmp_path / "l.json").write_text(json.dumps(task))
    convert(tmp_path / "l.json", root, force=True)
    # 12 x 36 pixels with the corner at (60, 12) reach to x = 60 - 36 and y = 12 + 12.
    np.testing.assert_allclose(AVDataset(root).annotation(A).boxes, [[24 / 120, 12 / 60, 60 / 120, 24 / 60]], atol=1e-5)


def test_pixels_of_the_videos_need_the_videos(root, tmp_path):
    # Frames were made smaller; the CSV counts in the pixels of a film of 64 x 48.
    Image.new("RGB", (16, 12)).save(root / "frames" / f"{A}.jpg")
    (tmp_path / "videos").mkdir()
    write_film(tmp_path / "videos" / f"{A}.mp4")
    (tmp_path / "b.csv").write_text(f"id,x0,y0,x1,y1\n{A}.mp4,16,12,32,48\n")
    with pytest.raises(DataError, match="--source FOLDER"):
        convert(tmp_path / "b.csv", root)
    assert not (root / "vggss.json").exists()
    convert(tmp_path / "b.csv", root, tmp_path / "videos")
    np.testing.assert_allclose(AVDataset(root).annotation(A).boxes, [[0.25, 0.25, 0.5, 1]])


BROKEN = {
    "text.txt": ("hello\nworld\n", "five columns"),
    "names.csv": ("picture,a,b,c,d\nx,1,2,3,4\n", "call them id,x0,y0,x1,y1"),
    "word.csv": (f"id,x0,y0,x1,y1\n{A},1,2,3,four\n", "could not convert"),
    "nan.csv": (f"id,x0,y0,x1,y1\n{A},1,2,3,nan\n", "mend them"),
    "empty.json": ("[]", "known:"),
    "other.json": ('{"shapes": []}', "known:"),
    "cut.json": ('{"images": [', "known:"),
    "image.json": (json.dumps(COCO | {"images": COCO["images"][:1]}), "known:"),
    "none.json": (json.dumps(COCO | {"annotations": []}), "no box in it"),
    "track.xml": ("<annotations><track id='0'><box frame='3'/></track></annotations>", "'CVAT for images 1.1'"),
    "flickr.xml": ("<a><bbox><xmin>1</xmin></bbox></a>", "give their folder"),
    "entity.xml": ('<!DOCTYPE a [<!ENTITY b "c">]><a/>', "entities"),
    "strangers.csv": ("who,0,0,1,1\n", "'who' is none of '-lip_000001'"),
}


@pytest.mark.parametrize("file", BROKEN)
def test_what_is_wrong_is_one_line_that_names_the_file(file, root, tmp_path):
    text, message = BROKEN[file]
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError) as caught:
        convert(tmp_path / file, root)
    assert message in str(caught.value) and file in str(caught.value) and "\n" not in str(caught.value)
    assert not (root / "vggss.json").exists()


def test_boxes_that_are_there_are_kept(root, tmp_path):
    (tmp_path / "b.csv").write_text(CSV_SHARES)
    convert(tmp_path / "b.csv", root)
    with pytest.raises(DataError, match="--force"):
        convert(tmp_path / "b.csv", root)
    with pytest.raises(DataError, match="nothing is to do"):
        convert(root / "vggss.json", root)
    convert(tmp_path / "b.csv", root, force=True)
