"""Arguments of every command but `train`, whose settings are `fastdmt.config`; the docstrings are the help texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from fastdmt.config import TrainConfig
from fastdmt.names import GraphName, MapName, PublishedName, SuiteName
from fastdmt.presets import preset

Positional = tyro.conf.Positional
RENAMED = {"--method": "--algorithm", "--methods": "--algorithms", "--live": "--player"}  # former name -> name


def current(words: Sequence[str]) -> list[str]:
    """Options under their present names; one line on standard error for each that came under a former one."""
    out = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in RENAMED:
            print(f"note: {name} is called {RENAMED[name]} now", file=sys.stderr)
            word = RENAMED[name] + equals + value
        out.append(word)
    return out


@dataclass(frozen=True)
class Start:
    """From a folder of videos and a file of boxes to a trained, measured and drawn result.

    Eight commands, each printed as it can be typed: prepare, boxes, lists, check, plan, train, eval, predict. Called
    again it goes on where it stopped.
    """

    videos: Positional[Path]
    """Folder of videos, or of frames/ and audio/."""
    out: Path
    """Folder of everything that is made: data/, run/, predictions/."""
    boxes: Path | None = None
    """VGG-SS or COCO json, a Label Studio or CVAT export, Flickr-SoundNet XML, or a CSV; default: the one file of that
    kind among the videos."""
    preset: str | None = None
    """Settings of the training; default: real-small where its pretrained encoders are installed, else demo."""
    train: str = ""
    """More options of `fastdmt train`, in quotes: --train="--steps 500 --seed 1"."""


@dataclass(frozen=True)
class Train:
    """Train both localizers: warm-up on labelled clips, then unbiased learning on all.

    Where a default comes from: [paper] stated in the DMT paper; [recalled] the paper's value as far as known, not
    verified; [peer] the convention of the field's public code; [ours] a choice of this project.
    """

    plan: bool = False
    """Train nothing: say clips, steps, memory, disk and time, from three timed steps of each stage on this machine."""
    config: Path | None = None
    """File of settings, YAML, TOML or JSON (a run's config.json); options given beside it replace single ones."""
    save_config: Path | None = None
    """Train nothing: write the settings to this file, .yaml, .toml or .json."""
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=lambda: preset("demo"))
    """The run; its folder holds them all."""


@dataclass(frozen=True)
class Eval:
    """Evaluate a run: every protocol of the field beside its cap and an audio-blind baseline; JSON and report.html."""

    run: Positional[Path]
    """Run folder that `train`, `import` or `export` wrote."""
    data: Path | None = None
    """Data folder; default: the run's."""
    list: str | None = None
    """List of ids (txt or csv) below the data folder or absolute; default: the run's test list."""
    suite: SuiteName | None = None
    """A test list of the literature, in a table with published figures; each row says its protocol."""
    lists: Path | None = None
    """Folder of the suite's official lists (for example vggss_test.csv); default: the data folder."""
    map: MapName = "teachers"
    """Whose map."""
    shuffle_sound: bool = False
    """Give every frame another item's sound: a model that follows the sound must fall."""
    weights: Literal["best", "last"] = "best"
    """Which checkpoint."""
    flip: bool = False
    """Test-time option: average with the map of the mirrored frame."""
    scales: tuple[float, ...] = ()
    """Test-time option: average over these sizes of the frame, for example 0.75 1 1.25."""
    object_guided: str | None = None
    """Test-time option, EZ-VSL's: 0.4 map + 0.6 mean|ResNet-18 features|; `imagenet` or a ResNet-18 weight file."""
    out: Path | None = None
    """Folder of the JSON and the report; default: RUN/eval, with a name of its own for a suite or an option."""
    batch: int = 64
    """Items a batch."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: cuda when there is one."""
    trust_localizer: str | None = None
    """The package.module:Class of a run with a localizer of one's own: it is imported. Only code that you know."""


@dataclass(frozen=True)
class Predict:
    """Localize in a person's own files: frame + sound, a folder in the field's layout, or videos."""

    run: Positional[Path]
    """Run folder that `train`, `import` or `export` wrote."""
    inputs: Positional[tuple[Path, ...]]
    """A frame followed by its sound, folders, or videos."""
    out: Path = Path("predictions")
    """Where overlays, maps, strips and boxes are written."""
    map: MapName = "teachers"
    """Whose map."""
    fps: float = 2.0
    """Maps a second of video."""
    player: bool = False
    """Also write a player: a self-contained page, the video under its map with opacity and threshold sliders."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: cuda when there is one."""
    trust_localizer: str | None = None
    """The package.module:Class of a run with a localizer of one's own: it is imported. Only code that you know."""


@dataclass(frozen=True)
class Swap:
    """One picture that explains it: one frame, what each sound marks in it, and that silence marks nothing."""

    run: Positional[Path]
    """Run folder that `train`, `import` or `export` wrote."""
    frame: Positional[Path]
    """A picture, or a video for the frame in its middle."""
    sounds: Positional[tuple[Path, ...]]
    """Sounds or videos."""
    out: Path = Path("swap.png")
    """Picture to write; a JSON of the same name has each sound's box."""
    silence: bool = True
    """End with silence."""
    map: MapName = "teachers"
    """Whose map."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: cuda when there is one."""
    trust_localizer: str | None = None
    """The package.module:Class of a run with a localizer of one's own: it is imported. Only code that you know."""


@dataclass(frozen=True)
class Serve:
    """A page to play with, on this machine alone: any picture or video with any sound, both teachers, the threshold.

    Dropped files stay on this machine and are deleted when the server ends (Ctrl-C).
    """

    run: Positional[Path]
    """Run folder that `train`, `import` or `export` wrote."""
    data: Path | None = None
    """Data folder whose test clips are offered as examples; default: the run's, where it is there."""
    examples: int = 9
    """Clips offered."""
    port: int = 0
    """Port; 0: any free one."""
    largest: int = 200
    """MiB of one dropped file."""
    browser: bool = True
    """Open the page, where there is a desktop."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: cuda when there is one."""
    trust_localizer: str | None = None
    """The package.module:Class of a run with a localizer of one's own: it is imported. Only code that you know."""


@dataclass(frozen=True)
class Compare:
    """Train algorithms, or any variants, with equal data, steps and seeds; print mean, spread, what differences mean.

    Rows that differ in stage 2 alone share stage 1. A run that is finished is not run again.
    """

    algorithms: str = "supervised,mean-teacher,dmt"
    """Comma-separated algorithms; the first is what the others are compared with."""
    variant: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A row of its own: "name: options of train", once for each; then --algorithms is not read."""
    label_budgets: str = ""
    """Comma-separated numbers of labelled clips, also as --labels 40,80,160: CIoU over labels, one line a row."""
    localizers: str = ""
    """Comma-separated localizers; empty: the preset's."""
    seeds: int = 3
    """Runs of each."""
    split: Literal["test", "val"] = "test"
    """Items of the table: choose settings on val, report once on test."""
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=lambda: preset("demo"))
    """Settings shared by every run; the run folder holds them all."""


@dataclass(frozen=True)
class Import:
    """A checkpoint of another localizer as a run folder that eval and predict take; the file is never executed."""

    localizer: Positional[PublishedName]
    """Whose checkpoint."""
    checkpoint: Positional[Path]
    """What their training wrote, for example best.pth."""
    out: Positional[Path]
    """Folder to make."""


@dataclass(frozen=True)
class Export:
    """The teachers of a run as one safetensors file with its config.json; also as a graph that runs without FastDMT.

    The folder is what `fastdmt.load`, `eval` and `predict` take, and what a model hub wants.
    """

    run: Positional[Path]
    """Run folder that `train` wrote."""
    out: Positional[Path]
    """Folder to make."""
    hub_layout: bool = False
    """Also README.md, a model card with the table of `eval`; files only, nothing is sent anywhere."""
    format: GraphName | None = None
    """Also one graph from frame and sound to map: model.torchscript, model.pt2 (torch.export) or model.onnx."""
    weights: Literal["best", "last"] = "best"
    """Which checkpoint."""
    trust_localizer: str | None = None
    """The package.module:Class of a run with a localizer of one's own: it is imported. Only code that you know."""


@dataclass(frozen=True)
class DataDemo:
    """Write a small synthetic data set of real media files in the field's layout."""

    out: Positional[Path]
    """Folder to make."""
    clips: int = 1600
    """Clips in all."""
    labelled: int = 96
    """Of these, training clips whose boxes may be used."""
    seed: int = 0
    """Same seed, same files."""


@dataclass(frozen=True)
class DataIndex:
    """Who learns, who validates, who tests: lists of your own clips (--own), or the official ones against the disk.

    Writes labelled.txt, train.txt, val.txt and test.csv where absent. Of official lists also missing.csv, the label
    budgets 256 and 2,000, and how many leaks were dropped.
    """

    root: Positional[Path]
    """Data folder: frames/, audio/, and Annotations/ or vggss.json."""
    own: bool = False
    """Your own data: draw the lists from what is on disk."""
    dataset: Literal["flickr", "vggss"] | None = None
    """Official data: whose lists and boxes."""
    lists: Path | None = None
    """Folder of the official lists: flickr_sup_train.txt and flickr_test.csv, or vggss.json, and a training list."""
    train_list: str | None = None
    """Official training list; default: the 144k one, else the 10k one."""
    seed: int = 0
    """Draws the split; the same as train's --split-seed."""
    labelled: int | None = None
    """Clips whose boxes may be used; default: 4250 of official data, all of your own."""
    validation: int | None = None
    """Clips that choose the best step; default: 500, of your own a fifth at most."""
    test: int | None = None
    """Test clips; default: 250, of your own a fifth at most. Flickr-SoundNet has an official list."""
    force: bool = False
    """Write the lists anew where they are there."""


@dataclass(frozen=True)
class DataBoxes:
    """Boxes from what you have: VGG-SS or COCO json, Label Studio or CVAT exports, Flickr-SoundNet XML, a CSV.

    Writes ROOT/vggss.json, or ROOT/Annotations for XML. A CSV has id,x0,y0,x1,y1, in pixels or as shares of the frame.
    """

    file: Positional[Path]
    """File of boxes, a zip of one, or a folder of XML."""
    root: Positional[Path]
    """Data folder: frames/ and audio/."""
    source: Path | None = None
    """Folder of the videos or pictures that the boxes were drawn on, where a CSV counts in their pixels."""
    force: bool = False
    """Write over boxes that are there."""


@dataclass(frozen=True)
class DataCheck:
    """Read every file listed; report what is broken; write clean lists; fail on what would stop a run."""

    root: Positional[Path]
    """Data folder."""
    workers: int = 0
    """Processes; 0: all cores."""


@dataclass(frozen=True)
class DataPrepare:
    """Videos, or an existing frames/audio tree, into what trains fast: small JPEGs and mono FLAC at the encoders' rate.

    A second run does only what is missing.
    """

    source: Positional[Path]
    """Folder of videos, or of frames/ and audio/."""
    out: Positional[Path]
    """Folder in the field's layout, made when absent."""
    seconds: float = 3.0
    """Seconds of sound kept around the frame (3 or 10)."""
    rate: int = 16000
    """Samples a second (22050 for SoundNet)."""
    side: int = 256
    """Short side of the frames, pixels."""
    moment: float = 5.0
    """Second of the frame in a video; the middle of shorter ones."""
    part: str = "1/1"
    """i/n: the i-th of n parts of the items, for n machines that write into one folder; see `slurm --prepare`."""
    workers: int = 0
    """Processes; 0: all cores."""


@dataclass(frozen=True)
class DataPack:
    """Tar shards with an index, written by webdataset: frame, sound and boxes in one record."""

    root: Positional[Path]
    """Data folder."""
    out: Positional[Path]
    """Folder of the shards."""
    per_shard: int = 1000
    """Records in a shard."""
    workers: int = 0
    """Processes; 0: all cores."""


@dataclass(frozen=True)
class Slurm:
    """Write a batch file for Slurm: a run, saved and requeued before the time limit, or an array that prepares data."""

    out: Positional[Path]
    """File to write, for sbatch."""
    run: Path = Path("runs/slurm")
    """Run folder, on a file system that all nodes share."""
    train: str = "--preset vggsound-144k"
    """Options of `fastdmt train`, in quotes: --train="--preset vggsound-10k --seed 1"."""
    prepare: str = ""
    """Instead of a run, an array of jobs that prepare data; arguments of `fastdmt data prepare`, in quotes:
    --prepare="videos data/own"."""
    parts: int = 32
    """Jobs of the array, each with a part of the videos and --cpus-per-gpu cores."""
    nodes: int = 1
    """Machines."""
    gpus: int = 8
    """GPUs a machine."""
    cpus_per_gpu: int = 12
    """Cores a GPU, for decoding."""
    hours: int = 24
    """Time limit."""
    port: int = 29500
    """Port of the first machine where they meet."""
    sbatch: tuple[str, ...] = ()
    """More options of sbatch, without their dashes: partition=gpu account=me."""
