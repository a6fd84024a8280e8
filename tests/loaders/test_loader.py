"""The loaders on real files: the same batches whatever the kind, the workers, the cache, the ranks and the restart."""

import os
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from fastdmt_loaders import (
    AVDataset,
    DataError,
    Pair,
    Plan,
    View,
    augment,
    eval_batches,
    make_loader,
    read_sound,
)
from fastdmt_loaders.batch import Batch
from fastdmt_loaders.decode.pictures import read_frame
from fastdmt_loaders.loader import resolve_kind
from fastdmt_loaders.sources import cache

BICUBIC = Image.Resampling.BICUBIC

VIEW = View(size=32, front_ends=("logmel", "waveform"), seconds=1.0)
PLAN = Plan(6, 18, 2, 6, seed=4)
KINDS = [
    pytest.param({"kind": "torch", "cache": "none", "workers": 0}, id="torch"),
    pytest.param({"kind": "torch", "cache": "none", "workers": 2}, id="torch-2-workers"),
    pytest.param({"cache": "host", "workers": 2}, id="cache"),
    pytest.param({"kind": "dali", "cache": "none", "workers": 0}, id="dali"),
    pytest.param({"kind": "dali", "cache": "none", "workers": 2}, id="dali-reader"),
]


def loader(dataset, plan=PLAN, view=VIEW, **options):
    if options.get("kind") == "dali":
        pytest.importorskip("nvidia.dali")
    ids = dataset.ids
    n = plan.n_labelled
    return make_loader(dataset, ids[:n], ids[n : n + plan.n_unlabelled], plan, view, **options)


def assert_same(got: Batch, want: Batch, frames: float = 0.0, sound: float = 0.0) -> None:
    """Equal batches, up to mean absolute differences of the frames (in grey levels) and of the sound."""
    assert got.ids == want.ids and got.labelled == want.labelled and got.step == want.step
    assert torch.equal(got.index, want.index) and torch.equal(got.known, want.known)
    assert torch.equal(got.boxes, want.boxes)
    for name in ("frames_weak", "frames_strong"):
        a, b = getattr(got, name), getattr(want, name)
        assert a.shape == b.shape and a.is_contiguous(memory_format=torch.channels_last)
        assert (a - b).abs().mean() * 255 * 0.229 <= frames
    for mine, other in ((got.sound, want.sound), (got.sound_strong, want.sound_strong)):
        assert mine.keys() == other.keys()
        for name in mine:
            assert (mine[name] - other[name]).abs().mean() <= sound


# Two decoders differ in the frames; 16-bit sound differs where a log-mel band holds next to nothing.
TOLERANCE = {"torch": {}, "dali": {"frames": 2.0}, None: {"sound": 5e-3}}


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("augmented", [False, True])
def test_every_kind_yields_the_same_batches(field_set, options, augmented):
    view = VIEW if augmented else replace(VIEW, augment=False, audio_augment="none")
    want = list(islice(loader(field_set, view=view, kind="torch", cache="none", workers=0), 3))
    got = list(islice(loader(field_set, view=view, **options), 3))
    for a, b in zip(got, want):
        assert_same(a, b, **TOLERANCE[options.get("kind")])


def test_a_batch_holds_what_the_files_hold(field_set):
    """Frames, sounds, boxes and ids against PIL, read_sound and the annotation, with augmentation off."""
    view = replace(VIEW, augment=False, audio_augment="none")
    batch = next(iter(loader(field_set, view=view, kind="torch", cache="none", workers=0)))
    labelled, unlabelled = PLAN.indices(0)
    assert batch.ids == [field_set.ids[i] for i in labelled] + [field_set.ids[6 + i] for i in unlabelled]
    assert batch.labelled == 2 and batch.known.all()
    for row, id in enumerate(batch.ids):
        image = Image.open(field_set.frame_path(id)).convert("RGB").resize((32, 32), BICUBIC)
        want = (np.asarray(image) / 255 - augment.MEAN) / augment.STD
        # The filter is PIL's; in rare pixels it rounds to the next grey level.
        np.testing.assert_allclose(batch.frames_weak[row].permute(1, 2, 0), want, atol=1.01 / 255 / 0.224)
        pcm = read_sound(field_set.sound_path(id), [22050], 1.0)[22050]
        np.testing.assert_allclose(batch.sound["waveform"][row, 0], pcm * 256, atol=1e-4)
        boxes = field_set.annotation(id).boxes * 32
        order = (
            np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) if len(boxes) > 3 else slice(None)
        )
        np.testing.assert_allclose(batch.boxes[row, : len(boxes)], boxes[order], rtol=1e-5)
        assert not batch.boxes[row, len(boxes) :].any()


@pytest.mark.parametrize("options", KINDS)
def test_a_resumed_run_sees_the_batches_it_would_have_seen(field_set, options):
    first = loader(field_set, **options)
    running = iter(first)
    for _ in range(3):
        next(running)
    state = first.state_dict()
    assert state == {"step": 3}
    want = [next(running) for _ in range(2)]
    second = loader(field_set, **options)
    second.load_state_dict(state)
    for a, b in zip(second, want):
        assert_same(a, b)
    first.close()


@pytest.mark.parametrize("options", KINDS[1:4])
def test_two_ranks_make_up_the_batch_of_one_process(field_set, options):
    whole = next(iter(loader(field_set, **options)))
    parts = [next(iter(loader(field_set, replace(PLAN, rank=r, world=2), **options))) for r in (0, 1)]
    for rank, part in enumerate(parts):
        rows = replace(PLAN, rank=rank, world=2).rows
        assert part.ids == [whole.ids[row] for row in rows] and part.labelled == 1
        # A frame's arithmetic may be grouped otherwise in a smaller batch: equal to the last bits.
        for name in ("frames_weak", "frames_strong", "boxes"):
            torch.testing.assert_close(getattr(part, name), getattr(whole, name)[rows], atol=1e-5, rtol=0)
        for name in part.sound:
            torch.testing.assert_close(part.sound_strong[name], whole.sound_strong[name][rows], atol=2e-3, rtol=1e-4)


def test_one_stream_alone(field_set):
    only_labelled = next(iter(loader(field_set, Plan(6, 18, 4, 0), kind="torch", cache="none", workers=0)))
    assert only_labelled.labelled == 4 and len(only_labelled.ids) == 4
    only_unlabelled = next(iter(loader(field_set, Plan(6, 18, 0, 4), kind="torch", cache="host")))
    assert only_unlabelled.labelled == 0 and set(only_unlabelled.ids) <= set(field_set.ids[6:])


def test_bfloat16_frames_are_asked_for_by_dtype(field_set):
    batch = next(iter(loader(field_set, kind="torch", cache="host", dtype=torch.bfloat16)))
    assert batch.frames_weak.dtype == batch.frames_strong.dtype == torch.bfloat16
    assert batch.sound["logmel"].dtype == torch.float32


# ------------------------------------------------------------------------------------------------------ faults


def spoil(path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_text("this is not media")


@pytest.mark.parametrize("options", KINDS)
def test_files_that_break_are_replaced_counted_and_named(own_root, caplog, options):
    dataset = AVDataset(own_root)
    # A cache reads once, at the start; the others meet the files while they run.
    made = None if "cache" in options and "kind" not in options else loader(dataset, max_bad=0.2, **options)
    broken = {}
    for number, how in ((9, "deleted"), (7, "truncated"), (12, "empty"), (14, "replaced")):
        id = dataset.ids[number]
        broken[id] = dataset.sound_path(id) if number % 2 else dataset.frame_path(id)
        spoil(broken[id], how)
    made = made or loader(dataset, max_bad=0.2, **options)
    batches = list(islice(made, 4))
    # Four steps of six are an epoch of eighteen and more, so each of them was met.
    assert made.bad.keys() == broken.keys()
    for id, path in broken.items():
        assert str(path) in made.bad[id]
        assert sum(id in record.getMessage() for record in caplog.records) == 1
    for step, batch in enumerate(batches):
        assert not set(broken) & set(batch.ids)
        for row, item in enumerate(PLAN.index(step)):
            attempt = 0
            while dataset.ids[item] in broken:
                attempt += 1
                item = PLAN.substitute(step, row, attempt)
            assert batch.ids[row] == dataset.ids[item]


@pytest.mark.parametrize("options", KINDS)
def test_too_many_broken_files_stop_the_run(own_root, options):
    dataset = AVDataset(own_root)
    for id in dataset.ids[6:9]:
        dataset.frame_path(id).write_bytes(b"x")
    with pytest.raises(DataError, match=r"of 24 items are broken, 1 allowed.*clip_00000"):
        list(islice(loader(dataset, **options), 6))


def test_with_every_file_broken_there_is_an_error_and_no_endless_search(own_root):
    dataset = AVDataset(own_root)
    for id in dataset.ids:
        dataset.frame_path(id).write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(DataError, match="in a row are broken") as error:
            next(iter(loader(dataset, max_bad=1.0, kind="torch", cache="none", workers=workers)))
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="in a row are broken"):
        next(iter(loader(dataset, max_bad=1.0, cache="host")))


def test_bad_arguments_are_one_line(field_set):
    for options, message in [({"kind": "tf"}, "unknown loader 'tf'"), ({"cache": "disk"}, "unknown cache")]:
        with pytest.raises(DataError, match=message):
            loader(field_set, **({"cache": "none"} | options))
    with pytest.raises(DataError, match="the plan is for"):
        make_loader(field_set, field_set.ids[:5], field_set.ids[5:], PLAN, VIEW)
    with pytest.raises(DataError, match="unknown sound front-end 'mfcc'"):
        View(front_ends=("mfcc",))


def test_the_automatic_cache_follows_the_memory_that_is_left(monkeypatch):
    cpu = torch.device("cpu")
    need = cache.cache_bytes(1000, VIEW, cpu)
    # 35 x 35 frames, 16-bit sound of one second at both rates, one log-mel patch in fp32
    assert need == 1000 * (3 * 35**2 + 2 * (16000 + 22050) + 4 * 96 * 64)
    for free, world, want in [(2.6, 1, "host"), (2.4, 1, "none"), (2.6, 2, "none"), (5.1, 2, "host")]:
        monkeypatch.setattr(cache, "free_host_memory", lambda free=free: free * need)
        assert cache.choose_cache(1000, VIEW, cpu, world) == want


def test_kind_auto_is_torch_on_a_cpu():
    assert resolve_kind("auto", torch.device("cpu")) == "torch"


def test_the_cache_reports_progress(field_set):
    calls = []
    loader(field_set, cache="host", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (24, 24) and [done for done, _ in calls] == sorted(done for done, _ in calls)


# ---------------------------------------------------------------------------------------------------- odd files


def test_odd_pictures_are_read_right(tmp_path):
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((160, 120), BICUBIC)
    plain = np.asarray(base.resize((64, 64), BICUBIC)).astype(float)
    grey = np.asarray(base.convert("L").convert("RGB").resize((64, 64), BICUBIC)).astype(float)
    exif = Image.Exif()
    exif[0x112] = 6  # stored turned left: shown turned right by 90 degrees
    deep = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257)
    for name, image, want, options in [
        ("a.jpg", base.convert("CMYK"), plain, {"quality": 98}),
        ("b.jpg", base.convert("L"), grey, {"quality": 98}),
        ("c.jpg", base.transpose(Image.Transpose.ROTATE_90), plain, {"quality": 98, "exif": exif, "subsampling": 0}),
        ("d.png", base.convert("RGBA"), plain, {}),
        ("e.png", deep, grey, {}),
        ("f.jpg", base, plain, {"quality": 98, "progressive": True}),
    ]:
        image.save(tmp_path / name, **options)
        got = read_frame(tmp_path / name, 64)
        assert got.shape == (64, 64, 3) and got.dtype == np.uint8
        assert np.abs(got - want).mean() < 4, name


def test_a_large_jpeg_decoded_small_looks_the_same(tmp_path):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).resize((1500, 1000))
    image.save(tmp_path / "large.jpg", quality=95)
    want = np.asarray(Image.open(tmp_path / "large.jpg").resize((100, 100), BICUBIC)).astype(float)
    assert np.abs(read_frame(tmp_path / "large.jpg", 100) - want).mean() < 1


# --------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_is_plain_ordered_and_complete(field_set):
    ids = field_set.ids
    pairs = [Pair(ids[i], ids[(i + 1) % 7], i % 2 == 0) for i in range(7)]
    got = list(eval_batches(field_set, pairs, VIEW, batch_size=3, workers=2))
    assert [len(batch.pairs) for batch in got] == [3, 3, 1]
    assert [pair for batch in got for pair in batch.pairs] == pairs
    for batch in got:
        for row, pair in enumerate(batch.pairs):
            frame = Image.open(field_set.frame_path(pair.video)).convert("RGB").resize((32, 32), BICUBIC)
            raw = batch.raw[row].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(raw.astype(int), np.asarray(frame).astype(int), atol=1)
            want = (raw / 255 - augment.MEAN) / augment.STD
            np.testing.assert_allclose(batch.frames[row].permute(1, 2, 0).numpy(), want, atol=1e-5)
            pcm = read_sound(field_set.sound_path(pair.audio), [22050], 1.0)[22050]
            np.testing.assert_allclose(batch.sound["waveform"][row, 0].numpy(), pcm * 256, atol=1e-4)
            np.testing.assert_array_equal(batch.annotations[row].boxes, field_set.annotation(pair.video).boxes)


def test_evaluation_never_skips_a_broken_file(own_root):
    dataset = AVDataset(own_root)
    pairs = [Pair(id, id, True) for id in dataset.ids[:4]]
    dataset.sound_path(dataset.ids[2]).write_bytes(b"")
    with pytest.raises(DataError, match="clip_000002"):
        list(eval_batches(dataset, pairs, VIEW, batch_size=2))


# ------------------------------------------------------------------------------------------------------- leaks


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("options", KINDS[1:])
def test_memory_and_file_handles_stay_flat_over_20_000_samples(field_set, options):
    plan = Plan(6, 18, 16, 48)
    view = replace(VIEW, front_ends=("waveform",), audio_augment="light")  # nothing slow: what is measured is memory
    batches = iter(loader(field_set, plan, view, **options))
    for _ in range(60):
        next(batches)
    memory, handles = resident(), len(os.listdir("/proc/self/fd"))
    for _ in range(20_000 // 64):
        next(batches)
    assert resident() - memory < 40 * 2**20
    assert len(os.listdir("/proc/self/fd")) <= handles + 8


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [
        {"kind": "torch", "cache": "none", "workers": 2},
        {"cache": "host"},
        {"cache": "device"},
        {"kind": "dali", "cache": "none", "workers": 2},
    ],
    ids=["torch", "host", "device", "dali"],
)
def test_batches_on_the_device_equal_those_on_the_host(field_set, options):
    want = list(islice(loader(field_set, kind="torch", cache="none", workers=0), 4))
    made = loader(field_set, device="cuda", **options)
    for got, other in zip(made, want):
        assert got.frames_weak.is_cuda and got.sound_strong["logmel"].is_cuda and got.boxes.is_cuda
        # Hardware JPEG decoders may differ from libjpeg by a level or two; fp32 sums differ in the last bits.
        assert_same(got.to("cpu", non_blocking=False), other, frames=2.0, sound=2e-2)
        if got.step == 3:
            break
    assert made.state_dict() == {"step": 4}


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"cache": "device"}, {"kind": "dali", "cache": "none", "workers": 2}])
def test_a_batch_on_the_device_is_made_without_waiting_for_it(field_set, options):
    batches = iter(loader(field_set, device="cuda", **options))
    for _ in range(3):
        next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            next(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
