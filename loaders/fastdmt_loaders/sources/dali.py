"""Frames through NVIDIA DALI: one graph for both backends, fed with encoded files in the plan's order.

Reader processes fetch the encoded frame and the sound of the items that the plan names, so that DALI sees the same
items in the same order as every other loader and a resumed run needs the step's number alone. DALI decodes and
resizes; augmentation is `augment.apply` on the device, as behind every loader. Sound does not pass through DALI: its
decoder is libsndfile on the CPU as well, decodes whole files where 3 s are wanted, and reads no AAC or MP3.

Where frames/ holds clips, a GPU decodes them as well (NVDEC): the whole file goes there, one frame comes out. On a CPU
DALI knows no H.264; there PyAV takes the frame.

DALI's bicubic filter with antialiasing equals PIL's within 1/255; both turn frames as their EXIF says.
"""

from __future__ import annotations

import io
import logging
from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np
import nvidia.dali.fn as fn
import torch
from nvidia.dali import pipeline_def, types
from PIL import Image

from fastdmt_loaders import augment
from fastdmt_loaders.batch import RawBatch, View
from fastdmt_loaders.dataset.dataset import Table
from fastdmt_loaders.dataset.sampler import Plan
from fastdmt_loaders.dataset.stored import read_bytes
from fastdmt_loaders.decode.clips import is_clip, middle_number
from fastdmt_loaders.decode.pictures import read_frame
from fastdmt_loaders.decode.sound import read_sound
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.sources.workers import WorkerSource, raw_batch, read_batch, read_rows

log = logging.getLogger("fastdmt_loaders")

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


@pipeline_def(exec_dynamic=True)
def frames_graph(size: int, gpu: bool):
    """Encoded files (uint8 [n] each) -> uint8 [N, size, size, 3] RGB on the CPU or the GPU."""
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    frames = fn.decoders.image(encoded, device="mixed" if gpu else "cpu", output_type=types.RGB)
    return fn.resize(frames, size=(size, size), interp_type=types.INTERP_CUBIC, antialias=True)


@pipeline_def(exec_dynamic=True)
def clips_graph(size: int, gpu: bool):
    """Encoded videos (uint8 [n] each) and the number of the frame wanted -> uint8 [N, size, size, 3] RGB."""
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    number = fn.external_source(name="number", dtype=types.INT32, ndim=0)
    frames = fn.decoders.video(encoded, device="mixed" if gpu else "cpu", start_frame=number, sequence_length=1)
    frames = fn.resize(frames, size=(size, size), interp_type=types.INTERP_CUBIC, antialias=True)
    return fn.squeeze(frames, axes=0)


def looks_whole(data: bytes) -> bool:
    """Whether a file starts and ends as a JPEG or PNG does; DALI can be trusted with those."""
    if data.startswith(JPEG):
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") > 0  # the last scan is followed by the end marker
    # 16-bit PNGs (byte 24: the depth) are left to PIL, as are all other formats.
    return data.startswith(PNG) and data.rfind(b"IEND") > 0 and data[24:25] != b"\x10"


def read_encoded(table: Table, plan: Plan, view: View, clips: bool, hear: bool, doubtful: frozenset[int], step: int):
    """A step's encoded frames and sounds.

    Frames that do not look whole, and those named doubtful, are decoded by PIL: what it refuses is broken, what it
    reads goes on as a PNG of the final size. With `clips` all are videos that go on as they are. With `hear` sound
    becomes its front-ends here.

    Returns:
        RawBatch without frames; uint8 [sum of sizes]; sizes int64 [N]; numbers of the clips' frames int32 [N].
    """

    def read(item: int):
        path, number = table.frame_path(item), 0
        data = read_bytes(path)
        if clips:
            if item in doubtful:
                raise DataError(f"{path}: DALI cannot decode it; make a picture of it with `fastdmt data prepare`")
            number = middle_number(data, path)
        elif item in doubtful or not looks_whole(data):
            buffer = io.BytesIO()
            Image.fromarray(read_frame(path, view.resize)).save(buffer, "PNG", compress_level=1)
            data = buffer.getvalue()
        sound = read_sound(table.sound_path(item), view.rates, view.seconds)
        return np.frombuffer(data, np.uint8), number, sound

    index, items, bad = read_rows(plan, step, read)
    encoded, numbers, sounds = zip(*items, strict=True)
    raw = raw_batch(table, plan, step, index, torch.empty(0), sounds, bad)
    if hear:
        raw.sound, raw.sound_strong = augment.hear(raw, augment.draws_of(plan, step), view)
        raw.pcm = {}
    sizes = np.array([len(data) for data in encoded])
    return raw, torch.from_numpy(np.concatenate(encoded)), sizes, np.array(numbers, np.int32)


class DaliSource:
    """Raw batches with frames decoded by DALI on `device`.

    A frame that DALI cannot decode stops its pipeline. Then that batch is decoded by PIL, which also tells which
    frame it was, and a new pipeline goes on with the next step.

    Args:
        threads: of DALI's pool.
        readers: processes that read files; 0 reads in this process.
        depth: batches in DALI's hands at a time.
        clips: let DALI decode videos; None: on a GPU where all frames are videos.
    """

    def __init__(
        self,
        table: Table,
        plan: Plan,
        view: View,
        device: torch.device,
        threads: int,
        readers: int,
        depth: int,
        clips: bool | None = None,
    ):
        self.clips = device.type == "cuda" and all(map(is_clip, table.frames)) if clips is None else clips
        self.table, self.plan, self.view, self.device = table, plan, view, device
        self.threads, self.readers, self.depth = threads, readers, depth
        self.doubtful: frozenset[int] = frozenset()
        self.rebuilt = 0

    def batches(self, step: int) -> Iterator[RawBatch]:
        while True:
            for raw in self._until_failure(step):
                yield raw
                step += 1
            yield self._by_hand(step)
            step += 1
            self.rebuilt += 1

    def close(self) -> None:
        """Nothing to free: pipeline and readers end with their iterator."""

    def _until_failure(self, step: int) -> Iterator[RawBatch]:
        """Batches from `step` on; ends when DALI fails at a frame."""
        gpu = self.device.type == "cuda"
        read = partial(read_encoded, self.table, self.plan, self.view, self.clips, not gpu, self.doubtful)
        source = WorkerSource(read, self.readers, 2, pin=gpu).batches(step)
        pipeline = self._pipeline(len(self.plan.rows))
        waiting: deque[RawBatch] = deque()

        def feed() -> None:
            raw, data, sizes, numbers = next(source)
            pipeline.feed_input("encoded", np.split(data.numpy(), np.cumsum(sizes)[:-1]))
            if self.clips:
                pipeline.feed_input("number", list(map(np.asarray, numbers)))
            waiting.append(raw)

        for _ in range(self.depth):
            feed()
        pipeline.schedule_run()  # the first one starts `depth` batches
        while True:
            try:
                # On CUDA the frames are ordered on the stream that will augment them: no wait on the host.
                (frames,) = pipeline.share_outputs(torch.cuda.current_stream(self.device) if gpu else None)
            except RuntimeError as error:
                log.warning("DALI failed at step %d: %s", waiting[0].step, str(error).strip().splitlines()[-1])
                return
            raw = waiting.popleft()
            raw.frames = torch.from_dlpack(frames.as_tensor()).permute(0, 3, 1, 2)
            pipeline.release_outputs()
            feed()
            pipeline.schedule_run()
            yield raw

    def _pipeline(self, batch: int):
        gpu = self.device.type == "cuda"
        index = (self.device.index if self.device.index is not None else torch.cuda.current_device()) if gpu else None
        pipeline = (clips_graph if self.clips else frames_graph)(
            self.view.resize, gpu, batch_size=batch, num_threads=self.threads, device_id=index,
            prefetch_queue_depth=self.depth,
        )  # fmt: skip
        pipeline.build()
        return pipeline

    def _by_hand(self, step: int) -> RawBatch:
        """A step decoded by PIL after DALI failed at it; remembers the frames that DALI must not see again."""
        raw = read_batch(self.table, self.plan, self.view, step)
        refused = set(raw.bad) or {int(item) for item in raw.index if not self._decodes(int(item))}
        self.doubtful |= refused
        names = ", ".join(self.table.frame_path(item) for item in sorted(refused)) or "no frame that fails again"
        log.warning("step %d was decoded without DALI; it refuses: %s", step, names)
        return raw

    def _decodes(self, item: int) -> bool:
        """Whether DALI decodes one frame."""
        pipeline, path = self._pipeline(1), self.table.frame_path(item)
        data = read_bytes(path)
        pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8)])
        if self.clips:
            pipeline.feed_input("number", [np.array(middle_number(data, path), np.int32)])
        try:
            pipeline.schedule_run()
            pipeline.share_outputs()
        except RuntimeError:
            return False
        return True
