"""The loader that the field writes: a Dataset of its own, one item at a time, PIL for frames, PyAV for sound, SciPy.

It is the rival in bench/loaders.py and the loader of `reference.py` in bench/throughput.py, and takes nothing from
ours but the list of files, three constants of normalisation and, for VGGish, the table of mel bands.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import av
import numpy as np
import scipy.signal
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastdmt_loaders import AVDataset, Batch, View
from fastdmt_loaders.augment import MEAN, STD
from fastdmt_loaders.frontends import mel_bands

VIDEOS = (".mp4", ".webm", ".mkv")
MEANS, STDS = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]


def picture(path: str) -> Image.Image:
    """A picture, or the frame in the middle of a video."""
    if not path.endswith(VIDEOS):
        return Image.open(path).convert("RGB")
    with av.open(path) as container:
        stream = container.streams.video[0]
        middle = float(stream.duration * stream.time_base) / 2
        container.seek(int(middle / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time >= middle - 0.02:
                break
        return frame.to_image()


def sound(path: str, rate: int, seconds: float) -> np.ndarray:
    """The middle of a sound, mono, float32 [seconds * rate]; shorter ones are repeated."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        length = float(stream.duration * stream.time_base)
        start = max(0.0, length / 2 - seconds / 2)
        container.seek(int(start / stream.time_base), stream=stream)
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=rate)
        chunks, held = [], 0
        for frame in container.decode(stream):
            for out in resampler.resample(frame):
                chunks.append(out.to_ndarray()[0])
                held += out.samples
            if held >= seconds * rate:
                break
    pcm = np.concatenate(chunks)[: int(seconds * rate)].astype(np.float32) / 32768
    if len(pcm) < seconds * rate:
        pcm = np.tile(pcm, -(-int(seconds * rate) // len(pcm)))[: int(seconds * rate)]
    return pcm


def tensor(image: Image.Image) -> Tensor:
    """Normalised float32 [3, H, W]."""
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return (values - MEANS) / STDS


def spectrogram(pcm: np.ndarray, rate: int = 16000) -> np.ndarray:
    _, _, density = scipy.signal.spectrogram(pcm, rate, nperseg=512, noverlap=274)
    return (np.log(density + 1e-7) / 12).astype(np.float32)[None]


def logmel(pcm: np.ndarray, rate: int = 16000) -> np.ndarray:
    """VGGish's examples [P, 1, 96, 64]."""
    patches = max(1, len(pcm) // (96 * 160))
    pcm = np.pad(pcm, (0, 400))
    frames = np.lib.stride_tricks.sliding_window_view(pcm, 400)[::160][: 96 * patches]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(401)[:400], 512))
    return np.log(magnitude @ mel_bands() + 0.01).astype(np.float32).reshape(patches, 1, 96, 64)


def waveform(pcm: np.ndarray, rate: int = 22050) -> np.ndarray:
    return 256 * pcm[None]


FRONT_ENDS = {"spectrogram": (16000, spectrogram), "logmel": (16000, logmel), "waveform": (22050, waveform)}


class EZVSLSet(Dataset):
    """What EZ-VSL's loader gives: one cropped and flipped view, and the log-spectrogram of three seconds.

    It resizes to a square, as ours does, where EZ-VSL resizes the shorter side: 44% fewer pixels at 16:9.
    """

    def __init__(self, dataset: AVDataset, size: int):
        self.items = [(str(dataset.frame_path(id)), str(dataset.sound_path(id))) for id in dataset.ids]
        self.size, self.larger = size, round(1.1 * size)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        frame, heard = self.items[index]
        image = picture(frame).resize((self.larger, self.larger), Image.Resampling.BICUBIC)
        left, top = (random.randint(0, self.larger - self.size) for _ in range(2))
        image = image.crop((left, top, left + self.size, top + self.size))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return tensor(image), torch.from_numpy(spectrogram(sound(heard, 16000, 3.0))), index


def ezvsl_batches(dataset: AVDataset, size: int, batch: int, workers: int, device: torch.device) -> Iterator:
    """Frames and spectrograms on the device, without end."""
    items = EZVSLSet(dataset, size)
    pin = device.type == "cuda"
    loader = DataLoader(items, batch, shuffle=True, num_workers=workers, drop_last=True, pin_memory=pin)
    while True:
        for frames, sounds, _ in loader:
            yield frames.to(device, non_blocking=True), sounds.to(device, non_blocking=True)


class PairSet(Dataset):
    """What Dual Mean-Teacher's step needs of an item: both views, boxes, plain and varied sound."""

    def __init__(self, dataset: AVDataset, ids: list[str], view: View):
        self.view = view
        self.items = [(str(dataset.frame_path(id)), str(dataset.sound_path(id))) for id in ids]
        table = dataset.table(ids, view.max_boxes)
        self.boxes, self.known = table.boxes, table.known

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        frame, heard = self.items[index]
        size, larger = self.view.size, self.view.resize
        image = picture(frame).resize((larger, larger), Image.Resampling.BICUBIC)
        left, top = (random.randint(0, larger - size) for _ in range(2))
        image = image.crop((left, top, left + size, top + size))
        boxes = self.boxes[index] * larger - np.array([left, top, left, top], np.float32)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes[:, [0, 2]] = size - boxes[:, [2, 0]]
        boxes = boxes.clip(0, size) * self.boxes[index].any(axis=1, keepdims=True)
        plain, varied, pcm = {}, {}, {}
        for name in self.view.front_ends:
            rate, function = FRONT_ENDS[name]
            if rate not in pcm:
                once = sound(heard, rate, self.view.seconds)
                pcm[rate] = once, vary(once, rate) if self.view.audio_augment != "none" else once
            plain[name], varied[name] = (torch.from_numpy(function(samples)) for samples in pcm[rate])
        strong = erase(tensor(photometric(image)))
        return tensor(image), strong, plain, varied, torch.from_numpy(boxes), bool(self.known[index]), index


def photometric(image: Image.Image) -> Image.Image:
    """Colour jitter, grey and blur as PIL does them."""
    if random.random() < 0.8:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(random.uniform(0.6, 1.4))
        hue, saturation, value = image.convert("HSV").split()
        turn = np.uint8(round(255 * random.uniform(-0.1, 0.1)) % 256)
        hue = Image.fromarray(np.array(hue) + turn)
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if random.random() < 0.2:
        image = image.convert("L").convert("RGB")
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0) * image.width / 224))
    return image


def erase(frame: Tensor) -> Tensor:
    if random.random() < 0.25:
        size = frame.shape[-1]
        area, ratio = random.uniform(0.02, 0.2) * size * size, math.exp(random.uniform(math.log(0.3), math.log(3.3)))
        height, width = (min(size, round(math.sqrt(side))) for side in (area * ratio, area / ratio))
        top, left = random.randint(0, size - height), random.randint(0, size - width)
        frame[:, top : top + height, left : left + width] = 0
    return frame


def vary(pcm: np.ndarray, rate: int) -> np.ndarray:
    """A time shift, a gain and two stopped bands."""
    spectrum = np.fft.rfft(np.roll(pcm, random.randrange(len(pcm))) * 10 ** random.uniform(-0.3, 0.3))
    hertz = np.fft.rfftfreq(len(pcm), 1 / rate)
    for _ in range(2):
        low = 100 * 60 ** random.random()
        spectrum[(hertz >= low) & (hertz < low * 2 ** random.random())] = 0
    return np.fft.irfft(spectrum, len(pcm)).astype(np.float32)


class TwoStreams(torch.utils.data.Sampler):
    """Index lists without end: labelled items, then unlabelled ones."""

    def __init__(self, counts: tuple[int, int], rows: tuple[int, int]):
        self.counts, self.rows = counts, rows

    def __iter__(self) -> Iterator[list[int]]:
        def stream(first: int, count: int) -> Iterator[int]:
            while count:
                yield from (first + int(i) for i in torch.randperm(count))

        streams = stream(0, self.counts[0]), stream(*self.counts)
        while True:
            yield [next(one) for one, rows in zip(streams, self.rows) for _ in range(rows)]


def pair_batches(
    dataset: AVDataset, labelled: list[str], unlabelled: list[str], rows: tuple[int, int], view: View, workers: int,
    device: torch.device,
) -> Iterator[Batch]:  # fmt: skip
    """Batches of Dual Mean-Teacher on the device, without end."""
    ids = [*labelled, *unlabelled]
    streams = TwoStreams((len(labelled), len(unlabelled)), rows)
    loader = DataLoader(
        PairSet(dataset, ids, view), batch_sampler=streams, num_workers=workers, pin_memory=device.type == "cuda"
    )
    for step, (weak, strong, plain, varied, boxes, known, index) in enumerate(loader):
        names = [ids[i] for i in index.tolist()]
        yield Batch(weak, strong, plain, varied, boxes, known, rows[0], names, index, step).to(device)
