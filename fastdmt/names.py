"""Every name that a user can choose, in one table with what belongs to it; this file imports no torch.

Tables are ordered: help texts and messages list their names as they stand. Code asks a table for a property and
compares no names, so that a new line here, and its implementation, is all that a new name needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple


class Algorithm(NamedTuple):
    """What a run must know of an algorithm before its class (algorithm/pseudo_labels.py) is built."""

    uses_boxes: bool = True  #: stage 1, and labelled clips in stage 2's localization loss
    uses_unlabelled: bool = True  #: unlabelled clips are read
    shares_labels: bool = False  #: both students learn from the same pseudo-labels


ALGORITHMS = {
    "dmt": Algorithm(shares_labels=True),
    "pseudo-label": Algorithm(),
    "mean-teacher": Algorithm(),
    "fixmatch": Algorithm(),
    "cps": Algorithm(),
    "xpl": Algorithm(),
    "supervised": Algorithm(uses_unlabelled=False),
    "self-supervised": Algorithm(uses_boxes=False),
}
CONTRASTIVE_ONLY = "self-supervised"  # the algorithm of a checkpoint that was trained without boxes


class Localizer(NamedTuple):
    """A map and its contrastive loss."""

    place: str  #: module:Class
    heads_alone: bool = False  #: trains on kept outputs of frozen encoders (--feature-crops)
    published: bool = False  #: checkpoints of its authors' code can be imported (models/foreign.py)


LOCALIZERS = {
    "dmt": Localizer("fastdmt.models.localizer:Localizer", heads_alone=True),
    "ezvsl": Localizer("fastdmt.models.localizers.ezvsl:EZVSL", published=True),
    "lvs": Localizer("fastdmt.models.localizers.lvs:LVS", published=True),
    "slavc": Localizer("fastdmt.models.localizers.slavc:SLAVC", published=True),
}
HEADS_ALONE = tuple(name for name, localizer in LOCALIZERS.items() if localizer.heads_alone)
PUBLISHED_LOCALIZERS = tuple(name for name, localizer in LOCALIZERS.items() if localizer.published)

# Visual encoders; the classes are in models/encoders.
VISUAL_ENCODERS = ("resnet18", "resnet50", "vgg16", "efficientnet-lite0", "small")

# Audio encoders and the sound front-end (fastdmt_loaders.frontends) that each hears through.
AUDIO_ENCODERS = {
    "vggish": "logmel",
    "soundnet8": "waveform",
    "soundnet8-conv8": "waveform",
    "spectrogram": "spectrogram",
    "spectrogram-s16": "spectrogram",
    "small-logmel": "logmel",
    "small-spectrogram": "spectrogram",
}


class MapSource(NamedTuple):
    """Whose map is shown or measured."""

    localizers: tuple[tuple[str, int], ...]  #: ("teachers" or "students", 0 for A or 1 for B)
    minimum: bool = False  #: of their maps; else the mean


MAP_SOURCES = {
    "teachers": MapSource((("teachers", 0), ("teachers", 1))),
    "A": MapSource((("teachers", 0),)),
    "B": MapSource((("teachers", 1),)),
    "intersection": MapSource((("teachers", 0), ("teachers", 1)), minimum=True),
    "students": MapSource((("students", 0), ("students", 1))),
    "student A": MapSource((("students", 0),)),
    "student B": MapSource((("students", 1),)),
}


class ItemLists(NamedTuple):
    """A test list of the literature, by the file names that the field gives it."""

    rule: str  #: annotations: flickr or vggss
    lists: tuple[str, ...]  #: files, their items one after another


SUITES = {
    "flickr": ItemLists("flickr", ("flickr_test.csv",)),
    "vggss": ItemLists("vggss", ("vggss_test.csv",)),
    "vggss-heard": ItemLists("vggss", ("vggss_heard_test.csv",)),
    "vggss-unheard": ItemLists("vggss", ("vggss_unheard_test.csv",)),
    "flickr-extended": ItemLists("flickr", ("flickr_test.csv", "flickr_test_plus_silent.csv")),
    "vggss-extended": ItemLists("vggss", ("vggss_test.csv", "vggss_test_plus_silent.csv")),
}

# The pair as one graph for other programs (models/graph.py), and the file that `export --format` writes it to.
GRAPHS = {"torchscript": "model.torchscript", "export": "model.pt2", "onnx": "model.onnx"}

if TYPE_CHECKING:
    AlgorithmName = PublishedName = VisualName = AudioName = MapName = SuiteName = GraphName = str
else:  # for the command line, which offers these choices
    AlgorithmName = Literal[tuple(ALGORITHMS)]
    PublishedName = Literal[PUBLISHED_LOCALIZERS]
    VisualName = Literal[VISUAL_ENCODERS]
    AudioName = Literal[tuple(AUDIO_ENCODERS)]
    MapName = Literal[tuple(name for name in MAP_SOURCES if " " not in name)]
    SuiteName = Literal[tuple(SUITES)]
    GraphName = Literal[tuple(GRAPHS)]
