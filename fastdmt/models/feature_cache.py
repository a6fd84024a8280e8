"""What frozen encoders say of every clip, computed once: a step then costs heads only.

For each clip a few augmented crops, weak and strong view of each, pass the frozen encoders, and their output is kept in
half precision in files that the next run maps into memory. Batches hold it where frames and sound were; the localizers
take either. A run sees K crops of a clip instead of a new one in every epoch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from fastdmt.console import bar
from fastdmt.data.run_data import Data
from fastdmt.errors import FastDMTError, first_line
from fastdmt.models.localizer import Localizer
from fastdmt_loaders import AVDataset, Batch, EvalBatch, Plan, View, augment
from fastdmt_loaders.batch import RawBatch
from fastdmt_loaders.dataset.sampler import AUGMENTATION, philox
from fastdmt_loaders.sources.workers import read_item

VERSION = 1  # of the files
CHUNK = 32  # clips encoded together
DRAWS = 7919  # seed of the crops: every run of these clips shares them


class Features:
    """The kept features of a list of clips.

    Args:
        dataset: their files and boxes.
        ids: labelled ids, then unlabelled ones.
        view: how the loaders show them.
        localizers: whose frozen encoders are asked; all share one visual encoder.
        crops: K, views kept of every clip.
        folder: where the files are kept; one folder of its own for every list, view and set of weights.
        progress: called with (clips done, clips in all) while encoding.
    """

    def __init__(
        self,
        dataset: AVDataset,
        ids: Sequence[str],
        view: View,
        localizers: Sequence[Localizer],
        crops: int,
        folder: Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.table, self.view, self.crops = dataset.table(list(ids), view.max_boxes), view, crops
        frozen = [m for localizer in localizers for m in localizer.frozen]
        self.visual = localizers[0].visual
        self.audio = {x.front_end: x.audio for x in localizers if any(m is x.audio for m in frozen)}
        self.folder = folder.expanduser() / self._key()
        if not self.folder.exists():
            self._make(progress)
        try:
            names = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))["arrays"]
            self.arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in names}
            if any(array.shape[:2] != (crops, len(self.table)) for array in self.arrays.values()):
                raise ValueError("of another size")
        except Exception as error:  # of a damaged header anything
            raise FastDMTError(f"{self.folder} holds no whole features ({first_line(error)}); remove it") from None

    @classmethod
    def of_run(
        cls, data: Data, localizers: Sequence[Localizer], front_ends: tuple[str, ...], console: Console
    ) -> Features | None:
        """Of a run's training clips, encoded now or by an earlier run; None when the run keeps none."""
        cfg = data.cfg.data
        if cfg.feature_crops == 0:
            return None
        ids, view = [*data.labelled, *data.unlabelled], data.view(front_ends, augment=True)
        with bar(console, "encoding clips") as tick:
            features = cls(data.dataset, ids, view, localizers, cfg.feature_crops, cfg.feature_cache, progress=tick)
        data.summary.append(f"features of frozen encoders: {features.folder}")
        return features

    def loader(self, plan: Plan) -> FeatureLoader:
        """Batches of a plan over these clips, or over the labelled ones, which come first."""
        return FeatureLoader(self, plan)

    @torch.no_grad()
    def see(self, frames: Tensor) -> Tensor:
        """Frames [N, 3, S, S] -> the frozen encoder's grid [N, C, h, w] in half precision."""
        training, _ = self.visual.training, self.visual.eval()
        out = self.visual(frames).half()
        self.visual.train(training)
        return out

    @torch.no_grad()
    def hear(self, name: str, sound: Tensor) -> Tensor:
        """A front-end's tensor -> its frozen encoder's vector [N, C]; unchanged where the encoder learns."""
        return self.audio[name](sound) if name in self.audio else sound

    def encode(self, batch: EvalBatch) -> EvalBatch:
        """The same evaluation items, encoded."""
        sound = {name: self.hear(name, x) for name, x in batch.sound.items()}
        return dataclasses.replace(batch, frames=self.see(batch.frames), sound=sound)

    def batch(self, plan: Plan, step: int) -> Batch:
        """One step's rows."""
        index = plan.index(step)
        rows = plan.batch_labelled + plan.batch_unlabelled
        crop = philox(plan.seed, step, AUGMENTATION).integers(self.crops, size=rows)[plan.rows]
        take = {name: torch.from_numpy(array[crop, index]) for name, array in self.arrays.items()}
        sound = {n: take[f"sound-{n}"].float() for n in self.view.front_ends}
        strong = {n: take[f"sound-strong-{n}"].float() for n in self.view.front_ends}
        known = torch.from_numpy(self.table.known[index])
        ids = self.table.ids[index].tolist()
        position = torch.from_numpy(index)
        return Batch(
            take["weak"], take["strong"], sound, strong, take["boxes"], known, plan.labelled, ids, position, step
        )

    def _key(self) -> str:
        """Of everything that the features depend on."""
        digest = hashlib.sha256(json.dumps([VERSION, self.crops, dataclasses.asdict(self.view)]).encode())
        for i in range(len(self.table)):
            for path in (self.table.frame_path(i), self.table.sound_path(i)):
                stat = os.stat(path) if os.path.isfile(path) else None
                digest.update(f"{path} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
        digest.update(np.ascontiguousarray(self.table.boxes).tobytes())
        for module in (self.visual, *self.audio.values()):
            for tensor in module.state_dict().values():
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:20]

    def _make(self, progress: Callable[[int, int], None] | None) -> None:
        partial = self.folder.with_name(f"{self.folder.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        arrays: dict[str, np.ndarray] = {}
        total = len(self.table)
        for start in range(0, total, CHUNK):
            rows = np.arange(start, min(start + CHUNK, total))
            items = [read_item(self.table, int(i), self.view) for i in rows]
            for k in range(self.crops):
                for name, value in self._encode(rows, items, k).items():
                    if name not in arrays:
                        shape = (self.crops, total, *value.shape[1:])
                        arrays[name] = np.lib.format.open_memmap(
                            partial / f"{name}.npy", mode="w+", dtype=value.numpy().dtype, shape=shape
                        )
                    arrays[name][k, rows] = value.numpy()
            if progress is not None:
                progress(int(rows[-1]) + 1, total)
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]  # of a memory map
        (partial / "meta.json").write_text(json.dumps({"arrays": list(arrays)}), encoding="utf-8")
        try:
            partial.rename(self.folder)
        except OSError:  # another run was faster
            shutil.rmtree(partial, ignore_errors=True)

    def _raw(self, rows: np.ndarray, items: list) -> RawBatch:
        return RawBatch(
            torch.from_numpy(np.stack([frame for frame, _ in items])).permute(0, 3, 1, 2),
            {rate: torch.from_numpy(np.stack([sound[rate] for _, sound in items])) for rate in self.view.rates},
            torch.from_numpy(self.table.boxes[rows]),
            torch.from_numpy(self.table.known[rows]),
            rows,
            len(rows),
            0,
        )

    def _encode(self, rows: np.ndarray, items: list, k: int) -> dict[str, Tensor]:
        raw = self._raw(rows, items)
        draws = augment.draw(DRAWS + k, int(rows[0]), len(rows))
        batch = augment.apply(raw, draws, self.view, [""] * len(rows))
        out = {"weak": self.see(batch.frames_weak), "strong": self.see(batch.frames_strong), "boxes": batch.boxes}
        for prefix, sounds in (("sound", batch.sound), ("sound-strong", batch.sound_strong)):
            for name in self.view.front_ends:
                x = self.hear(name, sounds[name])
                out[f"{prefix}-{name}"] = x if name in self.audio else x.half()
        return {name: value.cpu() for name, value in out.items()}


class FeatureLoader:
    """Training batches without end, from `step` on: what `fastdmt_loaders.Loader` is for frames.

    Attributes:
        step: the next step to be yielded.
        bad: no file is read here, so none turns out broken.
    """

    def __init__(self, features: Features, plan: Plan) -> None:
        self.features, self.plan, self.step = features, plan, 0
        self.bad: dict[str, str] = {}

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self.features.batch(self.plan, self.step)
            self.step += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a saved step at the next `iter()`."""
        self.step = int(state["step"])

    def close(self) -> None:
        """The files stay for the next run."""
