"""Augmentation against plain references, one sample and one operation at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastdmt_loaders import RawBatch, View, augment

COLUMN = {name: number for number, name in enumerate(augment.COLUMNS)}
MEAN, STD = np.array(augment.MEAN), np.array(augment.STD)
NEUTRAL = {
    "top": 0.5, "left": 0.5, "flip": 0.9, "jitter": 0.99, "grey": 0.99, "blur": 0.99, "erase": 0.99, "shift": 0.0,
    "gain": 0.5, "octaves1": 0.0, "octaves2": 0.0,
}  # fmt: skip


def neutral(rows: int) -> np.ndarray:
    """Draws that change nothing but take the central crop."""
    draws = np.full((rows, len(COLUMN)), 0.5, np.float32)
    for name, value in NEUTRAL.items():
        draws[:, COLUMN[name]] = value
    return draws


def levels(frames) -> np.ndarray:
    """Normalised [N, 3, S, S] -> grey levels of 0..255, float64 [N, S, S, 3]."""
    return 255 * (frames.permute(0, 2, 3, 1).double().numpy() * STD + MEAN)


def uniforms(draws) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(draws)[:, column] for name, column in COLUMN.items()}


def raw_batch(frames: np.ndarray, boxes=None, pcm=None) -> RawBatch:
    """frames uint8 [N, R, R, 3]"""
    n = len(frames)
    boxes = np.zeros((n, 1, 4), np.float32) if boxes is None else np.asarray(boxes, np.float32)
    pcm = {16000: torch.zeros(n, 48000)} if pcm is None else pcm
    known = torch.ones(n, dtype=torch.bool)
    return RawBatch(
        torch.from_numpy(frames).permute(0, 3, 1, 2), pcm, torch.from_numpy(boxes), known, np.arange(n), n, 0
    )


def pictures(rng, n, side):
    return rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)


VIEW = View(size=40, front_ends=("logmel",), audio_augment="none")


def test_draws_depend_on_seed_and_step_alone_and_rows_keep_theirs():
    a = augment.draw(3, 7, 16)
    np.testing.assert_array_equal(a, augment.draw(3, 7, 16))
    np.testing.assert_array_equal(a[:4], augment.draw(3, 7, 4))
    assert (a != augment.draw(3, 8, 16)).mean() > 0.99 and (a != augment.draw(4, 7, 16)).mean() > 0.99
    assert a.min() >= 0 and a.max() < 1


def test_weak_view_and_boxes_equal_a_crop_and_flip_by_hand():
    rng = np.random.default_rng(0)
    n, side, size = 32, VIEW.resize, VIEW.size
    frames = pictures(rng, n, side)
    corner = rng.uniform(0, 0.7, (n, 3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.01, 0.3, (n, 3, 2))], 2).astype(np.float32)
    boxes[:, 2] = 0
    draws = augment.draw(1, 2, n)
    # The ends of the range, and the largest float below 1.
    draws[0, :3], draws[1, :3] = 0, np.nextafter(np.float32(1), np.float32(0))
    batch = augment.apply(raw_batch(frames, boxes), draws, VIEW, [""] * n)
    for row in range(n):
        top, left = (min(int(draws[row, COLUMN[c]] * (side - size + 1)), side - size) for c in ("top", "left"))
        want = frames[row, top : top + size, left : left + size]
        box = boxes[row].astype(np.float64) * side - [left, top, left, top]
        if draws[row, COLUMN["flip"]] < 0.5:
            want = want[:, ::-1]
            box = np.stack([size - box[:, 2], box[:, 1], size - box[:, 0], box[:, 3]], 1)
        box = box.clip(0, size)
        box[(box[:, 2] <= box[:, 0]) | (box[:, 3] <= box[:, 1])] = 0
        got = batch.frames_weak[row].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(got, (want / 255 - MEAN) / STD, atol=2e-6)
        np.testing.assert_allclose(batch.boxes[row].numpy(), box, atol=1e-5)
        assert not batch.boxes[row, 2].any()
    assert batch.frames_weak.is_contiguous(memory_format=torch.channels_last)
    assert batch.frames_strong.is_contiguous(memory_format=torch.channels_last)


def test_a_marked_object_lies_in_its_box_in_both_views():
    rng = np.random.default_rng(1)
    n, side, size = 200, VIEW.resize, VIEW.size
    frames = np.full((n, side, side, 3), (20, 60, 220), np.uint8)
    boxes = np.zeros((n, 1, 4), np.float32)
    for row in range(n):
        x0, y0 = rng.integers(0, side - 12, 2)
        x1, y1 = x0 + rng.integers(8, 12), y0 + rng.integers(8, 12)
        frames[row, y0:y1, x0:x1] = (230, 160, 20)
        boxes[row, 0] = np.array([x0, y0, x1, y1]) / side
    draws = augment.draw(9, 1, n)
    draws[:, COLUMN["erase"]] = draws[:, COLUMN["blur"]] = draws[:, COLUMN["grey"]] = 1
    batch = augment.apply(raw_batch(frames, boxes), draws, VIEW, [""] * n)
    seen = 0
    for row in range(n):
        x0, y0, x1, y1 = batch.boxes[row, 0].round().int().tolist()
        inside = torch.zeros(size, size, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        seen += int(inside.any())
        for view in (batch.frames_weak, batch.frames_strong):
            redder = (view[row, 0] * STD[0] + MEAN[0]) > (view[row, 2] * STD[2] + MEAN[2])
            # Orange stays redder than blue and blue does not under every jitter allowed here, so the mark IS the box.
            assert torch.equal(redder, inside), row
    assert seen > 150


def reference_colours(frame: np.ndarray, row: dict[str, float]) -> np.ndarray:
    """Brightness, contrast, saturation, hue, grey one after the other in float64 on RGB [H, W, 3] in 0..1."""
    weights = np.array(augment.GREY)
    if row["jitter"] < augment.JITTER_SHARE:
        factor = {k: 1 + augment.JITTER * (2 * row[k] - 1) for k in ("brightness", "contrast", "saturation")}
        frame = frame * factor["brightness"]
        frame = factor["contrast"] * frame + (1 - factor["contrast"]) * (frame @ weights).mean()
        frame = factor["saturation"] * frame + (1 - factor["saturation"]) * (frame @ weights)[..., None]
        angle = 2 * math.pi * augment.HUE * (2 * row["hue"] - 1)
        to_yiq = np.array([augment.GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
        y, i, q = np.moveaxis(frame @ to_yiq.T, -1, 0)
        turned = (i + 1j * q) * np.exp(1j * angle)
        frame = np.stack([y, turned.real, turned.imag], -1) @ np.linalg.inv(to_yiq).T
    if row["grey"] < augment.GREY_SHARE:
        frame = np.repeat((frame @ weights)[..., None], 3, -1)
    return frame.clip(0, 1)


def test_colours_equal_the_operations_one_by_one():
    rng = np.random.default_rng(2)
    n, size = 64, 24
    view = replace(VIEW, size=size)
    side = view.resize
    frames = (pictures(rng, n, side) * np.linspace(0.3, 1, n)[:, None, None, None]).astype(np.uint8)
    draws = neutral(n)
    for name in ("jitter", "brightness", "contrast", "saturation", "hue", "grey"):
        draws[:, COLUMN[name]] = augment.draw(5, 5, n)[:, COLUMN[name]]
    batch = augment.apply(raw_batch(frames), draws, view, [""] * n)
    weak, strong = levels(batch.frames_weak), levels(batch.frames_strong)
    changed = 0
    for row in range(n):
        values = {name: float(draws[row, column]) for name, column in COLUMN.items()}
        want = 255 * reference_colours(weak[row] / 255, values)
        np.testing.assert_allclose(strong[row], want, atol=0.51)  # the strong view is rounded to bytes
        changed += np.abs(want - weak[row]).max() > 5
    assert changed > 40


def test_only_the_drawn_rows_are_blurred():
    n = 40
    frames = pictures(np.random.default_rng(3), n, VIEW.resize)
    draws = neutral(n)
    draws[:, COLUMN["blur"]], draws[:, COLUMN["sigma"]] = np.linspace(0, 0.99, n), 0.99
    batch = augment.apply(raw_batch(frames), draws, VIEW, [""] * n)
    difference = (batch.frames_strong - batch.frames_weak).abs().amax(dim=(1, 2, 3))
    assert (difference > 1e-3).tolist() == (draws[:, COLUMN["blur"]] < augment.BLUR_SHARE).tolist()


def test_blur_weights_are_a_gaussian_cut_at_two_and_a_half_deviations():
    sigma = np.array([0, 0.1, 0.3, 0.8, 1.4, 2.0])
    for row, s in zip(augment.gaussian(sigma, 5), sigma):
        reach = math.ceil(2.5 * s)
        density = [math.exp(-(t**2) / (2 * s**2)) if s and abs(t) <= reach else float(t == 0) for t in range(-5, 6)]
        np.testing.assert_allclose(row, np.array(density) / sum(density), atol=1e-12)


def test_erased_rectangles_have_the_drawn_area_and_the_mean_colour():
    n, size = 300, 64
    draws = augment.draw(0, 0, n)
    y0, y1, x0, x1 = augment.recipe(draws, size, size).erased.T
    erased = draws[:, COLUMN["erase"]] < augment.ERASE_SHARE
    share = (y1 - y0) * (x1 - x0) / size**2
    assert not share[~erased].any()
    want = augment.ERASE_AREA[0] + (augment.ERASE_AREA[1] - augment.ERASE_AREA[0]) * draws[erased, COLUMN["area"]]
    np.testing.assert_allclose(share[erased], want, atol=0.02)
    assert min(y0.min(), x0.min()) >= 0 and max(y1.max(), x1.max()) <= size
    frames = pictures(np.random.default_rng(0), n, VIEW.resize)
    draws = neutral(n)
    draws[:, COLUMN["erase"]] = 0
    for column in ("area", "ratio", "erase_y", "erase_x"):
        draws[:, COLUMN[column]] = augment.draw(1, 1, n)[:, COLUMN[column]]
    batch = augment.apply(raw_batch(frames), draws, VIEW, [""] * n)
    gone = np.zeros((n, VIEW.size, VIEW.size), bool)
    for row, (y0, y1, x0, x1) in enumerate(augment.recipe(draws, VIEW.resize, VIEW.size).erased):
        gone[row, y0:y1, x0:x1] = True
    weak, strong = levels(batch.frames_weak), levels(batch.frames_strong)
    np.testing.assert_allclose(strong[gone] / 255, np.broadcast_to(MEAN, strong[gone].shape), atol=0.501 / 255)
    assert gone.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(strong[~gone], weak[~gone])


def test_neutral_draws_leave_the_strong_view_equal_to_the_weak():
    frames = pictures(np.random.default_rng(4), 6, VIEW.resize)
    batch = augment.apply(raw_batch(frames), neutral(6), VIEW, [""] * 6)
    assert torch.equal(batch.frames_strong, batch.frames_weak)


def test_sound_is_shifted_scaled_and_loses_the_drawn_bands():
    rng = np.random.default_rng(6)
    rate, length, n = 16000, 16000, 12
    pcm = rng.standard_normal((n, length)).astype(np.float32)
    draws = augment.draw(2, 2, n)
    got = augment.vary_sound(torch.from_numpy(pcm), rate, uniforms(draws), bands=True).numpy()
    light = augment.vary_sound(torch.from_numpy(pcm), rate, uniforms(draws), bands=False).numpy()
    for row in range(n):
        u = {name: float(draws[row, column]) for name, column in COLUMN.items()}
        gain = 10 ** ((12 * u["gain"] - 6) / 20)
        shift = int(np.float32(u["shift"]) * np.float32(length))
        np.testing.assert_allclose(light[row], gain * np.roll(pcm[row], -shift), atol=1e-4)
        spectrum = np.fft.rfft(pcm[row].astype(np.float64))
        hertz = np.arange(length // 2 + 1) * rate / length
        for number in "12":
            low = 100 * 60 ** u["band" + number]
            spectrum[(hertz >= low) & (hertz < low * 2 ** u["octaves" + number])] = 0
        want = gain * np.roll(np.fft.irfft(spectrum), -shift)
        # A bin at a band's very edge may fall either way in fp32.
        assert np.abs(got[row] - want).max() < 0.1 and np.corrcoef(got[row], want)[0, 1] > 0.9999
    assert np.abs(got - light).max() > 0.5


def test_rates_are_varied_alike():
    """The same second of a tone at two rates stays the same tone, at the same place."""
    draws = augment.draw(8, 8, 4)
    envelopes = []
    for rate in (16000, 22050):
        t = np.arange(3 * rate) / rate
        tone = np.sin(2 * np.pi * 50 * t) * np.exp(-(((t - 1) / 0.1) ** 2))
        pcm = torch.from_numpy(np.repeat(tone[None], 4, 0)).float()
        changed = augment.vary_sound(pcm, rate, uniforms(draws), bands=True)
        envelopes.append(changed.view(4, 150, -1).square().mean(2).sqrt())
    torch.testing.assert_close(*envelopes, atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["none", "light", "full"])
def test_audio_augmentation_reaches_only_the_strong_sound(kind):
    rng = np.random.default_rng(0)
    pcm = {16000: torch.from_numpy(0.1 * rng.standard_normal((5, 48000)).astype(np.float32))}
    frames = pictures(rng, 5, VIEW.resize)
    batch = augment.apply(
        raw_batch(frames, pcm=pcm), augment.draw(0, 0, 5), replace(VIEW, audio_augment=kind), [""] * 5
    )
    plain = augment.front_ends(pcm, ["logmel"])["logmel"]
    assert torch.equal(batch.sound["logmel"], plain)
    if kind == "none":
        assert batch.sound_strong["logmel"] is batch.sound["logmel"]
    else:
        assert (batch.sound_strong["logmel"] - plain).abs().mean() > 0.1


def test_a_view_without_augmentation_is_the_plain_frame():
    view = replace(VIEW, augment=False)
    assert view.resize == view.size
    frames = pictures(np.random.default_rng(0), 3, view.size)
    boxes = np.array([[[0.1, 0.2, 0.5, 0.9]]] * 3)
    batch = augment.apply(raw_batch(frames, boxes), augment.draw(0, 0, 3), view, [""] * 3)
    np.testing.assert_allclose(batch.frames_weak.permute(0, 2, 3, 1).numpy(), (frames / 255 - MEAN) / STD, atol=2e-6)
    assert batch.frames_strong is batch.frames_weak
    np.testing.assert_allclose(batch.boxes.numpy(), boxes * view.size, rtol=1e-6)


def test_bfloat16_frames_are_the_rounded_ones():
    frames = pictures(np.random.default_rng(0), 8, VIEW.resize)
    draws = augment.draw(0, 0, 8)
    full = augment.apply(raw_batch(frames), draws, VIEW, [""] * 8)
    half = augment.apply(raw_batch(frames), draws, VIEW, [""] * 8, torch.bfloat16)
    for name in ("frames_weak", "frames_strong"):
        assert torch.equal(getattr(full, name).bfloat16(), getattr(half, name))
        assert getattr(half, name).is_contiguous(memory_format=torch.channels_last)


def test_2000_draws_have_the_stated_distribution():
    u = augment.draw(11, 0, 2000)
    standard_error = 1 / math.sqrt(12 * 2000)
    assert (np.abs(u.mean(0) - 0.5) < 4.5 * standard_error).all()
    assert (np.abs(u.var(0) - 1 / 12) < 0.008).all()
    correlation = np.corrcoef(u.T) - np.eye(len(COLUMN))
    assert np.abs(correlation).max() < 0.1
    # Across steps as well: the first row of 2,000 steps.
    first = np.stack([augment.draw(11, step, 1)[0] for step in range(2000)])
    assert (np.abs(first.mean(0) - 0.5) < 4.5 * standard_error).all()
    assert abs(np.corrcoef(first[:-1, 0], first[1:, 0])[0, 1]) < 0.1
