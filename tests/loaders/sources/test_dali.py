"""What only the DALI source does: its graph, its doubts about files, and going on after a failure."""

import io
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from fastdmt_loaders import AVDataset, DataError, Plan, View, augment, make_loader

pytest.importorskip("nvidia.dali")

from fastdmt_loaders.decode.pictures import read_frame
from fastdmt_loaders.sources import dali

VIEW = View(size=32, front_ends=("logmel",), seconds=1.0)
PLAN = Plan(6, 18, 2, 6, seed=4)


def encoded(image: Image.Image, suffix: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def loader(dataset, **options):
    ids = dataset.ids
    return make_loader(dataset, ids[:6], ids[6:], PLAN, VIEW, kind="dali", cache="none", workers=0, **options)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((200, 150))


def odd_files(picture: Image.Image) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x112] = 6
    large = picture.resize((1280, 960))
    return {
        "colour.jpg": encoded(picture, "JPEG", quality=92),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(picture.convert("L"), "JPEG"),
        "turned.jpg": encoded(picture, "JPEG", exif=exif),
        "progressive.jpg": encoded(picture, "JPEG", progressive=True),
        "large.jpg": encoded(large, "JPEG", quality=90),
        "alpha.png": encoded(picture.convert("RGBA"), "PNG"),
        "palette.png": encoded(picture.quantize(32), "PNG"),
        "grey.png": encoded(picture.convert("L"), "PNG"),
    }


def test_the_graph_equals_pil_on_ordinary_and_odd_pictures(tmp_path, picture):
    files = odd_files(picture)
    pipeline = dali.frames_graph(70, False, batch_size=len(files), num_threads=1, device_id=None)
    pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8) for data in files.values()])
    (frames,) = pipeline.run()
    for (name, data), got in zip(files.items(), torch.from_dlpack(frames.as_tensor()).numpy()):
        (tmp_path / name).write_bytes(data)
        assert dali.looks_whole(data)
        difference = np.abs(got.astype(float) - read_frame(tmp_path / name, 70))
        assert difference.mean() < 0.5 and difference.max() <= 4, name


@pytest.mark.parametrize("keep", [0.05, 0.4, 0.97])
def test_a_cut_file_does_not_look_whole(picture, keep):
    exif = Image.Exif()
    thumbnail = encoded(picture.resize((32, 24)), "JPEG")
    exif[0x9286] = thumbnail  # a whole JPEG inside the header must not pass for the end
    for data in (
        encoded(picture, "JPEG"),
        encoded(picture, "JPEG", progressive=True),
        encoded(picture, "JPEG", exif=exif),
        encoded(picture, "PNG"),
    ):
        assert dali.looks_whole(data)
        assert not dali.looks_whole(data[: int(len(data) * keep)])


def test_formats_that_dali_reads_otherwise_go_through_pil(own_root, picture):
    """A 16-bit PNG, a GIF and a WebP that are named as the data set names its frames."""
    dataset = AVDataset(own_root)
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    files = {3: encoded(deep, "PNG"), 7: encoded(picture, "GIF"), 8: encoded(picture, "WEBP")}
    for number, data in files.items():
        dataset.frame_path(dataset.ids[number]).write_bytes(data)
    made = loader(dataset)
    want = list(islice(make_loader(dataset, dataset.ids[:6], dataset.ids[6:], PLAN, VIEW, cache="none", workers=0), 3))
    for got, other in zip(made, want):
        assert got.ids == other.ids
        assert (got.frames_weak - other.frames_weak).abs().mean() * 255 * 0.229 < 2
        if got.step == 2:
            break
    assert not made.bad and made.source.rebuilt == 0


def test_a_failure_names_the_file_and_goes_on_at_the_same_position(own_root, monkeypatch, caplog):
    """Files that pass for whole until DALI meets them: one that PIL refuses too, one that PIL reads."""
    dataset = AVDataset(own_root)
    broken, odd = dataset.ids[8], dataset.ids[13]
    dataset.frame_path(broken).write_bytes(b"not a picture at all")
    picture = Image.open(dataset.frame_path(odd)).convert("RGB")
    dataset.frame_path(odd).write_bytes(encoded(picture, "GIF"))
    monkeypatch.setattr(dali, "looks_whole", lambda data: True)
    made = loader(dataset, max_bad=0.1)
    batches = list(islice(made, 8))
    assert made.source.rebuilt == 2  # once for each, although every epoch names them again
    assert made.source.doubtful == {8, 13}
    assert made.bad.keys() == {broken} and str(dataset.frame_path(broken)) in made.bad[broken]
    assert str(dataset.frame_path(odd)) in caplog.text
    want = make_loader(dataset, dataset.ids[:6], dataset.ids[6:], PLAN, VIEW, cache="none", workers=0, max_bad=0.1)
    for got, other in zip(batches, want):
        assert got.step == other.step and got.ids == other.ids
        assert (got.frames_weak - other.frames_weak).abs().mean() * 255 * 0.229 < 2
        torch.testing.assert_close(got.sound_strong, other.sound_strong)
    assert any(odd in batch.ids for batch in batches[4:])


def test_a_run_of_broken_files_ends_in_one_line(own_root):
    dataset = AVDataset(own_root)
    for id in dataset.ids:
        dataset.frame_path(id).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match="in a row are broken"):
        next(iter(loader(dataset, max_bad=1.0)))


def test_batches_stay_as_they_were_while_later_ones_are_made(field_set):
    """Frames are views of DALI's memory: a batch that is kept must not change under the reader's hand."""
    view = replace(VIEW, augment=False, audio_augment="none")
    made = make_loader(
        field_set, field_set.ids[:6], field_set.ids[6:], PLAN, view, kind="dali", cache="none", workers=0
    )
    raws = list(islice(made.source.batches(0), 6))
    later = [raw.frames.clone() for raw in islice(made.source.batches(0), 6)]
    for raw, other in zip(raws, later):
        assert torch.equal(raw.frames, other)


def test_both_loaders_draw_from_one_distribution(field_set):
    """Means and deviations per channel of strong views over 2,000 draws, and the boxes', agree between the kinds."""
    plan = Plan(6, 18, 0, 100, seed=2)
    view = replace(VIEW, audio_augment="none")
    ids, totals = field_set.ids, []
    for options in ({"cache": "host"}, {"kind": "dali", "cache": "none", "workers": 0}):
        made = make_loader(field_set, ids[:6], ids[6:], plan, view, **options)
        rows = []
        for batch in islice(made, 20):
            colour = batch.frames_strong.flatten(2)
            rows.append(torch.cat([colour.mean(2), colour.std(2), batch.boxes[:, 0]], 1))
        totals.append(torch.cat(rows))
    a, b = totals
    assert len(a) == 2000
    # The draws are the same ones, so the two agree far better than two samples of 2,000 would.
    torch.testing.assert_close(a.mean(0), b.mean(0), atol=5e-3, rtol=0)
    torch.testing.assert_close(a.var(0), b.var(0), atol=5e-3, rtol=1e-2)


def test_a_marked_object_lies_in_its_box_after_dali(own_root):
    """A box drawn into the file is found where the batch says it is, in both views."""
    dataset = AVDataset(own_root)
    for id in dataset.ids:
        x0, y0, x1, y1 = (dataset.annotation(id).boxes[0] * [200, 160, 200, 160]).round().astype(int)
        frame = np.full((160, 200, 3), (20, 60, 220), np.uint8)
        frame[y0:y1, x0:x1] = (230, 160, 20)
        suffix = dataset.frame_path(id).suffix
        Image.fromarray(frame).save(
            dataset.frame_path(id), **({} if suffix == ".png" else {"quality": 95, "subsampling": 0})
        )
    view = View(size=64, front_ends=("logmel",), seconds=1.0, max_boxes=1, audio_augment="none")
    made = make_loader(dataset, dataset.ids[:6], dataset.ids[6:], PLAN, view, kind="dali", cache="none", workers=0)
    checked = 0
    for batch in islice(made, 6):
        draws = augment.draw(PLAN.seed, batch.step, 8)
        for row in range(8):
            if draws[row, augment.COLUMNS.index("grey")] < augment.GREY_SHARE:
                continue
            x0, y0, x1, y1 = batch.boxes[row, 0].tolist()
            at = torch.arange(64) + 0.5
            # Two pixels about the edge are left out: there the resize has mixed the colours.
            inside = ((at > y0 + 2) & (at < y1 - 2))[:, None] & ((at > x0 + 2) & (at < x1 - 2))
            outside = ~(((at > y0 - 2) & (at < y1 + 2))[:, None] & ((at > x0 - 2) & (at < x1 + 2)))
            y0, y1, x0, x1 = augment.recipe(draws, view.resize, 64).erased[row]
            kept = torch.ones(64, 64)
            kept[y0:y1, x0:x1] = 0
            for frames, seen in ((batch.frames_weak, torch.ones(64, 64)), (batch.frames_strong, kept)):
                red, blue = (frames[row, c] * augment.STD[c] + augment.MEAN[c] for c in (0, 2))
                assert (red > blue)[inside & (seen > 0)].all() and (red < blue)[outside & (seen > 0)].all()
            checked += int(inside.any())
    assert checked > 20
