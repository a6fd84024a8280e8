"""The pair as one graph, frame and sound in, map out, for programs that run it without FastDMT.

Normalisation, the sound front-ends, both teachers and the up-sampling lie in it; what is left to the caller is a frame
of the trained size and sound at the trained rate.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from fastdmt.errors import FastDMTError, first_line
from fastdmt.files import cannot_write
from fastdmt.models.pair import Model
from fastdmt.models.probability import probability_map
from fastdmt.names import GRAPHS, MAP_SOURCES
from fastdmt_loaders.augment import MEAN, STD
from fastdmt_loaders.frontends import FRONT_ENDS

OPSET = 20
PACKAGES = {"onnx": ("onnx", "onnxscript")}  # torch asks for them late and less clearly


class Graph(nn.Module):
    """`Model.maps` with everything before it, as a module without choices.

    Args:
        model: the pair; moved to the CPU.
        source: whose map, see `fastdmt.names.MAP_SOURCES`.

    Attributes:
        inputs: name -> (shape, type), N = 1: "frame" [1, 3, size, size] uint8 RGB, then "sound_RATE"
            [1, RATE * seconds] float32 in -1..1 for every rate in Hz that the encoders want, lowest first.
    """

    def __init__(self, model: Model, source: str = "teachers") -> None:
        super().__init__()
        model.to("cpu")
        self.localizers = nn.ModuleList(getattr(model, role)[k] for role, k in MAP_SOURCES[source].localizers)
        self.minimum, self.kind = MAP_SOURCES[source].minimum, model.cfg.model.probability
        self.size = model.size
        self.rates = sorted({FRONT_ENDS[localizer.front_end].rate for localizer in self.localizers})
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.inputs = {"frame": ((1, 3, self.size, self.size), torch.uint8)}
        self.inputs |= {f"sound_{r}": ((1, round(r * model.cfg.data.seconds)), torch.float32) for r in self.rates}
        self.eval().requires_grad_(False)

    def forward(self, frame: Tensor, *sounds: Tensor) -> Tensor:
        """P [N, size, size] float32 in 0..1."""
        frames = (frame.float() - self.mean) / self.deviation
        maps = []
        for localizer in self.localizers:
            rate, hear = FRONT_ENDS[localizer.front_end]
            s = localizer(frames, hear(sounds[self.rates.index(rate)])).map
            maps.append(probability_map(s, localizer.affine, (self.size, self.size), self.kind))
        stacked = torch.stack(maps)
        return stacked.amin(0) if self.minimum else stacked.mean(0)


def require_packages(form: str) -> None:
    """Raises FastDMTError: this form needs a package that is not installed."""
    for name in PACKAGES.get(form, ()):
        try:
            importlib.import_module(name)
        except ImportError:
            raise FastDMTError(f"--format {form} needs {name}; pip install 'fastdmt[onnx]'") from None


def write_graph(model: Model, folder: Path, form: str, source: str = "teachers") -> Path:
    """Write the graph beside the weights.

    Args:
        form: a key of `fastdmt.names.GRAPHS`: torchscript (torch.jit.load), export (torch.export.load) or onnx.
        source: whose map.

    Returns:
        The file. N, the number of pairs, is free in it.

    Raises:
        FastDMTError: a package is missing, the localizer does not become a graph, the file cannot be written.
    """
    require_packages(form)
    path = folder / GRAPHS[form]
    graph = Graph(model, source)
    # Two rows: one would be taken for a constant.
    example = tuple(torch.zeros(2, *shape[1:], dtype=kind) for shape, kind in graph.inputs.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracers, about what is constant here on purpose
        graph(*example)  # the front-ends' tables are made now, and not as parts of a trace
        try:
            _WRITERS[form](graph, example, path)
        except OSError as error:
            raise cannot_write(path, error, "give another place or make room") from None
        except Exception as error:  # torch's exporters raise anything
            raise FastDMTError(
                f"this localizer does not become a graph of {form} ({first_line(error)}); try another --format"
            ) from None
    return path


def _free(graph: Graph) -> tuple:
    """Which sizes are free: rows alone, as many of each input."""
    rows = torch.export.Dim("rows", min=1)
    return {0: rows}, tuple({0: rows} for _ in graph.rates)


def _write_torchscript(graph: Graph, example: tuple[Tensor, ...], path: Path) -> None:
    torch.jit.trace(graph, example, check_trace=False).save(path)


def _write_export(graph: Graph, example: tuple[Tensor, ...], path: Path) -> None:
    torch.export.save(torch.export.export(graph, example, dynamic_shapes=_free(graph)), path)


def _write_onnx(graph: Graph, example: tuple[Tensor, ...], path: Path) -> None:
    program = torch.onnx.export(
        graph,
        example,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(graph.inputs),
        output_names=["map"],
        dynamic_shapes=_free(graph),
        verbose=False,
    )
    program.save(path)


_WRITERS = {"torchscript": _write_torchscript, "export": _write_export, "onnx": _write_onnx}
