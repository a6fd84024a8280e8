"""Boxes: both file forms, the broken ones, and the evaluation's truth maps."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdmt_loaders import Annotation, DataError, read_flickr_xml, read_vggss, truth_map
from fastdmt_loaders.dataset.annotations import read_classes

FLICKR = """<annotations><filename>10000130166</filename>
<participant><name>a</name><bbox><id>1</id><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bbox>
</participant><participant><bbox><id>2</id><xmin>20</xmin><ymin>30</ymin><xmax>100</xmax><ymax>255</ymax></bbox>
</participant></annotations>"""


def test_the_published_file_is_read_whole(metadata):
    items = read_vggss(metadata / "vggss.json")
    assert len(items) == 5158
    assert sum(bool(item.broken) for item in items.values()) == 18
    for item in items.values():
        assert (item.boxes >= 0).all() and (item.boxes <= 1).all()
        assert (item.boxes[:, 2:] > item.boxes[:, :2]).all()


def test_classes_of_the_published_file(metadata):
    classes = read_classes(metadata / "vggss.json")
    assert len(classes) == 5158 and len(set(classes.values())) == 221


def test_classes_are_taken_where_they_are(tmp_path):
    items = [{"file": "a", "class": "dog"}, {"file": 7, "class": "cat"}, {"file": "b"}, {"file": "c", "class": 3}, "d"]
    (tmp_path / "vggss.json").write_text(json.dumps(items))
    assert read_classes(tmp_path / "vggss.json") == {"a": "dog", "7": "cat"}
    (tmp_path / "vggss.json").write_text('{"file": 1}')
    assert read_classes(tmp_path / "vggss.json") == {}
    (tmp_path / "vggss.json").write_text("[")
    with pytest.raises(DataError, match="is not JSON"):
        read_classes(tmp_path / "vggss.json")


def test_flickr_boxes_are_pixels_of_a_256_frame(tmp_path):
    path = tmp_path / "x.xml"
    path.write_text(FLICKR.format(10, 20, 110, 220))
    annotation = read_flickr_xml(path)
    np.testing.assert_array_equal(annotation.boxes * 256, [[10, 20, 110, 220], [20, 30, 100, 255]])
    truth = truth_map(annotation)
    # int(224 * x / 256): the corners of the two boxes in the map, rows first.
    want = np.zeros((224, 224))
    want[17:192, 8:96] += 0.5
    want[26:223, 17:87] += 0.5
    np.testing.assert_array_equal(truth, want)
    assert set(np.unique(truth)) == {0.0, 0.5, 1.0}


def test_three_annotators_still_count_as_one():
    box = [[0.0, 0.0, 0.5, 0.5]]
    assert truth_map(Annotation(np.array(box * 3), "flickr")).max() == 1
    assert truth_map(Annotation(np.array(box * 1), "flickr")).max() == 0.5
    assert truth_map(Annotation(np.array(box * 3), "vggss")).max() == 1


@given(st.lists(st.lists(st.floats(-0.5, 1.5), min_size=4, max_size=4), max_size=4))
def test_vggss_truth_is_the_union_of_the_fields_integer_boxes(tmp_path_factory, boxes):
    path = tmp_path_factory.getbasetemp() / "property.json"
    path.write_text(json.dumps([{"file": "a", "bbox": boxes}]))
    want = np.zeros((224, 224))
    for x0, y0, x1, y1 in boxes:
        a, b, c, d = (int(min(max(v, 0.0), 1.0) * 224) for v in (x0, y0, x1, y1))
        for y in range(b, d):
            for x in range(a, c):
                want[y, x] = 1
    np.testing.assert_array_equal(truth_map(read_vggss(path)["a"]), want)


def test_broken_boxes_are_named_and_the_good_ones_stay(tmp_path):
    path = tmp_path / "v.json"
    boxes = [[0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.2, 0.8], [0.3, 0.4, -2.88e16, 0.6], [0.5, -0.1, 1.2, 0.5]]
    path.write_text(json.dumps([{"file": "a", "class": "x", "bbox": boxes}]))
    item = read_vggss(path)["a"]
    np.testing.assert_allclose(item.boxes, [[0.1, 0.1, 0.5, 0.5], [0.5, 0, 1, 0.5]])
    assert [text.rsplit(" ", 1)[1] for text in item.broken] == ["dropped", "dropped", "clipped"]


@pytest.mark.parametrize("text", ["", "<a>", "<a/>", "<a><bbox><i>1</i></bbox></a>", FLICKR.format("x", 1, 2, 3)])
def test_an_unreadable_xml_file_is_named(tmp_path, text):
    path = tmp_path / "clip7.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"clip7\.xml"):
        read_flickr_xml(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"file": "a"}]', '[{"file": "a", "bbox": [[1, 2]]}]'])
def test_an_unreadable_json_file_is_named(tmp_path, text):
    path = tmp_path / "vggss.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"vggss\.json"):
        read_vggss(path)
