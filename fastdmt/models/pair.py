"""A pair of localizers with their teachers: built from a configuration, loaded from a run, asked for maps."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastdmt.config import TrainConfig, require
from fastdmt.distributed.processes import device_named
from fastdmt.distributed.sharding import assign
from fastdmt.errors import FastDMTError, first_line
from fastdmt.files import write_text
from fastdmt.models.inputs import Frame, Sound, as_frame, as_sound
from fastdmt.models.localizer import Localizer, build_localizer
from fastdmt.models.pretrained import load_weights
from fastdmt.models.probability import probability_map, upsample
from fastdmt.names import HEADS_ALONE, MAP_SOURCES
from fastdmt.runs import checkpoint
from fastdmt.runs.hub import run_folder
from fastdmt.runs.settings import load_config
from fastdmt_loaders.augment import normalise
from fastdmt_loaders.decode.pictures import resize
from fastdmt_loaders.frontends import FRONT_ENDS

RELEASED = "model.safetensors"  # the teachers alone, in a folder with config.json
ORIGINS = "origins.json"
LOG = logging.getLogger("fastdmt")


class Model:
    """Teachers A and B, students A and B.

    Attributes:
        cfg: the run's configuration.
        students, teachers: two `Localizer`s each.
        front_ends: sound front-ends that the pair needs.
        size: side of the frames it was trained on, pixels.
    """

    def __init__(self, cfg: TrainConfig, students: Sequence[Localizer], teachers: Sequence[Localizer]) -> None:
        self.cfg, self.students, self.teachers = cfg, nn.ModuleList(students), nn.ModuleList(teachers)
        self.front_ends = tuple(dict.fromkeys(cfg.front_ends))
        self.size = cfg.data.size
        self._last: tuple[Tensor, Tensor] | None = None  # frames, and their grid

    @classmethod
    def build(cls, cfg: TrainConfig, pretrained: bool = True) -> tuple[Model, list[str]]:
        """Fresh students, each with its own initialisation, equal teachers, and a line on each encoder's weights."""
        students, origins = [], []
        for k, (name, audio, weights) in enumerate(
            [
                ("A", cfg.model.audio_a, cfg.model.audio_weights_a),
                ("B", cfg.model.audio_b, cfg.model.audio_weights_b),
            ]
        ):
            with torch.random.fork_rng():
                torch.manual_seed(2 * cfg.seed + k)
                student = build_localizer(
                    cfg.model.localizer,
                    cfg.model.visual,
                    audio,
                    dim=cfg.model.dim,
                    output_stride=cfg.model.output_stride,
                    tau=cfg.model.temperature,
                    affine_init=cfg.model.affine_init,
                    **({} if cfg.model.head == "linear" else {"head": "conv", "head_dropout": cfg.model.head_dropout}),
                )
            for part, module, source in (
                ("visual", student.visual, cfg.model.visual_weights),
                ("audio", student.audio, weights),
            ):
                if source is None or not pretrained:
                    origins.append(f"localizer {name}, {part} encoder: random initialisation")
                else:
                    origins.append(f"localizer {name}, {part} encoder: {load_weights(module, source)}")
            student.freeze(cfg.model.freeze, cfg.model.freeze_audio in (name, "both"))
            student.start()
            students.append(student)
        return cls(cfg, students, [freeze(copy.deepcopy(s)) for s in students]), origins

    def to(self, device: torch.device | str) -> Model:
        self.students.to(device, memory_format=torch.channels_last)
        self.teachers.to(device, memory_format=torch.channels_last)
        return self

    @property
    def device(self) -> torch.device:
        return self.students[0].affine.device

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name: what a checkpoint holds."""
        return {
            f"{role}.{key}": value
            for role, modules in (("students", self.students), ("teachers", self.teachers))
            for key, value in modules.state_dict().items()
        }

    def load_tensors(self, tensors: dict[str, Tensor], origin: Path) -> None:
        """The inverse of `tensors`.

        Raises:
            FastDMTError: names or shapes are another model's; the first differences are listed.
        """
        mine = self.tensors()
        if not any(key.startswith("students.") for key in tensors):  # a released model: its students are its teachers
            tensors = tensors | {f"students{k.removeprefix('teachers')}": v for k, v in tensors.items()}
        wrong = sorted(set(mine) ^ set(tensors))
        wrong += [k for k in sorted(set(mine) & set(tensors)) if mine[k].shape != tensors[k].shape]
        if wrong:
            shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            raise FastDMTError(
                f"{origin} holds another model: {shown} do not match; use the run's own config.json, or another --run"
            )
        with torch.no_grad():
            for key, value in mine.items():
                assign(value, tensors[key])

    def load_part(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """Tensors of one localizer ("students.0", ...) by their names within it; all of them, whole, on every rank.

        Raises:
            FastDMTError: names or shapes are another localizer's.
        """
        mine = self.tensors()
        wrong = [k for k, t in tensors.items() if f"{prefix}.{k}" not in mine or mine[f"{prefix}.{k}"].shape != t.shape]
        require(not wrong, f"{wrong[:1]} does not fit this localizer; give --warm-from a run with the same settings")
        for key, value in tensors.items():
            assign(mine[f"{prefix}.{key}"], value)

    @torch.no_grad()
    def cosines(self, frames: Tensor, sound: dict[str, Tensor], source: str = "teachers") -> list[Tensor]:
        """Low-resolution cosine maps [N, h, w] of the localizers that `source` names.

        Args:
            frames: [N, 3, H, W], ImageNet-normalised.
            sound: front-end name -> its tensor.
            source: one of `fastdmt.names.MAP_SOURCES`.
        """
        out = []
        frames = self._seen(frames)
        for localizer in self._localizers(source):
            localizer.eval()
            out.append(localizer(frames, sound[localizer.front_end]).map)
        return out

    def _seen(self, frames: Tensor) -> Tensor:
        """The grid of a frozen visual encoder, which all localizers share, kept for frames asked about again."""
        if self.cfg.model.freeze != -1 or self.cfg.model.localizer not in HEADS_ALONE or frames.shape[1] != 3:
            return frames
        if self._last is None or self._last[0] is not frames:
            self._last = frames, self.teachers[0].eval().see(frames)
        return self._last[1]

    @torch.no_grad()
    def maps(self, frames: Tensor, sound: dict[str, Tensor], source: str = "teachers", size: int = 224) -> Tensor:
        """P [N, size, size] float32: the mean over the named localizers; their minimum for `intersection`."""
        localizers = self._localizers(source)
        maps = torch.stack(
            [
                probability_map(s, localizer.affine, (size, size), self.cfg.model.probability)
                for s, localizer in zip(self.cosines(frames, sound, source), localizers, strict=True)
            ]
        )
        return maps.amin(0) if MAP_SOURCES[source].minimum else maps.mean(0)

    @torch.no_grad()
    def localize(self, frame: Frame, sound: Sound, rate: int | None = None, source: str = "teachers") -> np.ndarray:
        """Where in the frame is the source of the sound?

        Args:
            frame: a picture file, a PIL image, or RGB [H, W, 3] or [3, H, W], uint8 or float in 0..1, as an array or
                tensor.
            sound: a sound or video file, or [T] or [T, channels], float in -1..1 or an integer type, at `rate` Hz; the
                middle is used.
            rate: samples a second of an array; a file knows its own.
            source: one of `fastdmt.names.MAP_SOURCES`.

        Returns:
            P [H, W] float32 in 0..1, the size of the frame.

        Raises:
            FastDMTError, DataError: a file, shape or value that cannot be; see `fastdmt.models.inputs`.
        """
        frame = as_frame(frame)
        height, width = frame.shape[:2]
        small = torch.from_numpy(resize(frame, self.size)).permute(2, 0, 1)[None]
        frames = normalise(small.to(self.device))
        rates = tuple({FRONT_ENDS[name].rate for name in self.front_ends})
        pcm = as_sound(sound, rate, rates, self.cfg.data.seconds)
        features = {}
        for name in self.front_ends:
            front_end = FRONT_ENDS[name]
            features[name] = front_end.function(torch.from_numpy(pcm[front_end.rate])[None].to(self.device))
        p = self.maps(frames, features, source, size=self.size)
        return upsample(p, (height, width))[0].cpu().numpy()

    def _localizers(self, source: str) -> list[Localizer]:
        require(source in MAP_SOURCES, f"unknown map {source!r}: choose one of {', '.join(MAP_SOURCES)}")
        return [getattr(self, role)[k] for role, k in MAP_SOURCES[source].localizers]


def freeze(localizer: Localizer) -> Localizer:
    """A teacher: evaluation mode, no gradients."""
    return localizer.eval().requires_grad_(False)


def load(
    run: str | Path, which: str = "best", device: str | torch.device = "auto", trust_localizer: str | None = None
) -> Model:
    """The model of a run folder.

    Args:
        run: folder that `fastdmt train`, `export` or `import` wrote; or, where no folder has that name, ORG/NAME of a
            model on the Hugging Face hub, perhaps with @REVISION (the extra [hub]).
        which: "best" by validation, or "last".
        device: where it shall live; auto: the GPU where there is one.
        trust_localizer: the `package.module:Class` of a run with a localizer of one's own; it is imported.

    Raises:
        FastDMTError: not a run, nothing trained yet, damaged, of another model, or with a localizer that is code and
            not the trusted one.
    """
    run = run_folder(run)
    cfg = dataclasses.replace(load_config(run, trust_localizer), run=run)
    path = weights_file(run, which)
    model, _ = Model.build(cfg, pretrained=False)
    model.load_tensors(checkpoint.read_weights(path), path)
    return model.to(device_named(device))


def weights_file(run: Path, which: str = "best") -> Path:
    """Where a run, or what `export` and `import` wrote, keeps its weights. Raises FastDMTError: nowhere yet."""
    best, released = run / "best.safetensors", run / RELEASED
    if which == "best" and best.is_file():
        return best
    if released.is_file() and checkpoint.last_step(run) is None:
        return released
    last, notes = checkpoint.newest(run)
    for note in notes:
        LOG.warning("note: %s", note)
    require(last is not None, f"{run} has no weights yet; go on with: fastdmt train --run {run} --resume")
    return last


def keep_origins(run: Path, lines: list[str], fresh: bool = True) -> list[str]:
    """Which weights each encoder began with: written beside a fresh run, read again by a resumed one."""
    path = run / ORIGINS
    if fresh or not path.is_file():
        write_text(path, json.dumps(lines, indent=1) + "\n")
        return lines
    return origins_of(run)


def origins_of(run: Path) -> list[str]:
    """Which weights each encoder began with, as `train` or `import` noted it; nothing where nobody did.

    Raises:
        FastDMTError: the note is damaged.
    """
    path = run / ORIGINS
    if not path.is_file():
        return []
    try:
        lines = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
            return lines
        reason = "it is no list of lines"
    except (OSError, ValueError, RecursionError) as error:
        reason = first_line(error)
    raise FastDMTError(
        f"{path} cannot be read ({reason}); restore it, or remove it: it only says what encoders began with"
    )
