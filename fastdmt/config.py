"""Every setting of a run. The docstrings below are the command line's help; this file never imports torch.

Presets are complete `TrainConfig`s (presets.py); flags given by the user replace single fields of them.
The help texts end with marks that say where a default comes from; `TrainConfig` explains them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastdmt.errors import FastDMTError
from fastdmt.names import ALGORITHMS, AUDIO_ENCODERS, HEADS_ALONE, LOCALIZERS, AlgorithmName, AudioName, VisualName

FREE = {"moves_numbers": False}


def how(default: Any) -> Any:
    """A field that says where or how a run happens: it moves no number, and `--resume` takes another value of it."""
    return field(default=default, metadata=FREE)


def moves_numbers(mark: dataclasses.Field) -> bool:
    """Would a run with another value of this field give other numbers? Yes, unless it was made by `how`."""
    return mark.metadata.get("moves_numbers", True)


@dataclass(frozen=True)
class DataConfig:
    """The files, and how they become batches."""

    root: Annotated[Path, tyro.conf.arg(name="data")] = Path("data/demo")
    """Folder in the field's layout: frames/, audio/, Annotations/ or vggss.json, lists; the demo's is made."""
    annotations: Literal["auto", "flickr", "vggss"] = "auto"
    """Whose boxes: Flickr-SoundNet's XML (3 annotators, at least 2 must agree) or vggss.json (union); auto: the first
    of them that is there."""
    train_list: str = "train.txt"
    """Ids used without their boxes, one a line, below the data folder or absolute."""
    labelled_list: str = "labelled.txt"
    """Ids whose boxes may be used."""
    val_list: str = "val.txt"
    """Ids that choose the best checkpoint; never the test list."""
    test_list: str = "test.csv"
    """Ids that `eval` reports; dropped from every training list, with a count."""
    labels: int = 0
    """Label budget: use the first so many of the seeded order of the labelled list (nested); 0 is all."""
    val: int = 0
    """Validation clips to draw where there is no list; 0: 500, at most a fifth of the clips with boxes."""
    test: int = 0
    """Test clips to draw where there is no list; 0: 250, at most a fifth."""
    split_seed: int = 0
    """Draws what no list decides; apart from --seed, so that several seeds share one test set."""
    size: int = 256
    """Side of the square frame that the network sees, in pixels."""
    seconds: float = 3.0
    """Seconds of sound around the middle of the file; shorter sounds are tiled [peer]."""
    audio_augment: Literal["none", "light", "full"] = "full"
    """Time shift, gain and band masks on the students' sound [ours: it helps every algorithm]; `none` is the paper."""
    loader: Literal["auto", "torch", "dali"] = how("auto")
    """Who decodes: DALI (on the device when there is one) or torch workers; the batches are the same."""
    feature_crops: int = 0
    """With frozen encoders: keep their output for so many augmented crops of every clip, in memory and on disk, so
    that a step costs heads only; 0: run the encoders in every step. Needs --freeze -1."""
    feature_cache: Path = field(default=Path("~/.cache/fastdmt"), metadata=FREE)
    """Folder where those features are kept for the next run."""
    cache: Literal["auto", "none", "host", "device"] = how("auto")
    """Keep decoded uint8 frames and sound in memory after the first use; auto: when they fit."""
    workers: int = how(-1)
    """Loader processes or threads; -1: from the machine."""
    max_bad_files: float = how(0.001)
    """Share of files that may turn out broken during a run before it stops; each is named and counted."""


@dataclass(frozen=True)
class ModelConfig:
    """The localizers. A and B share the visual architecture and differ in their audio encoders and their seeds."""

    localizer: str = "dmt"
    """Whose map and contrastive loss: dmt (EZ-VSL's loss), ezvsl, lvs, slavc, or package.module:Class of your own."""
    visual: VisualName = "resnet18"
    """Visual encoder; standard parameter names, so public weight files load."""
    output_stride: Literal[16, 32] = 16
    """Pixels per cell of the map for the ResNets; 16 keeps layer4 at stride 1 [peer: LVS, SSL-TIE]."""
    audio_a: AudioName = "vggish"
    """Audio encoder of localizer A [paper]."""
    audio_b: AudioName = "soundnet8"
    """Audio encoder of localizer B [paper]."""
    dim: int = 512
    """Channels of the shared space [recalled]."""
    head: Literal["linear", "conv"] = "linear"
    """Way into the shared space: linear, or two layers with BatchNorm and dropout, for encoders that are frozen."""
    head_dropout: float = 0.0
    """Of `conv` heads: share of feature channels dropped while training."""
    freeze: int = 0
    """First stages of the visual encoder that stay as loaded (no gradient, BatchNorm in evaluation); -1: all of it."""
    freeze_audio: Literal["none", "A", "B", "both"] = "none"
    """Localizers whose audio encoder stays as loaded."""
    temperature: float = 0.03
    """Temperature of the contrastive logits [peer: EZ-VSL]."""
    probability: Literal["sigmoid", "clamp", "minmax"] = "sigmoid"
    """How a cosine becomes P: learnable sigmoid(w*S+b) can leave a silent frame empty [ours]; minmax always paints."""
    affine_init: tuple[float, float] = (10.0, -5.0)
    """Initial (w, b) of the sigmoid."""
    visual_weights: str | None = None
    """Weight file of the visual encoder, or `imagenet` (by torch.hub, checksum verified); None: from scratch."""
    audio_weights_a: str | None = None
    """Weight file of audio encoder A (for example vggish-10086976.pth)."""
    audio_weights_b: str | None = None
    """Weight file of audio encoder B (for example sound8.npy)."""


@dataclass(frozen=True)
class PseudoLabelConfig:
    """Unbiased learning: which pixels and clips become pseudo-labels, and what they weigh."""

    delta: float = 0.6
    """A pixel sounds for a teacher when P >= delta [recalled]."""
    tau: float = 0.7
    """A clip is kept when the IoU of both teachers' masks is at least tau [recalled]."""
    ignore_below: float | None = 0.25
    """A pixel outside the intersection counts as silent only if both teachers are below this; None: always [paper]."""
    soft: Literal["none", "product", "minimum"] = "none"
    """Weigh pseudo-labelled pixels by the teachers' confidences; none: binary intersection [paper]."""
    confidence: float = 0.8
    """Of `fixmatch`: a pixel counts when P or 1 - P reaches this."""
    pseudo_weight: float = 1.0
    """Weight of a kept clip beside a labelled one in the supervised loss."""
    lambda_u: float = 1.0
    """Weight of the contrastive loss on labelled + kept clips [recalled]."""
    lambda_warmup: float = 0.0
    """Weight of the contrastive loss on the labelled clips of stage 1 [ours]."""
    foreground: float = 0.0
    """Weight of the sounding pixels' own mean, added to the mean over all [ours]: small objects count as large ones,
    and P passes 0.5 where the chance is a few in ten. 0: the plain mean [paper]."""
    negatives: float = 0.0
    """For every labelled clip so many of its frame with silence, noise or another clip's sound, and an empty target
    [ours]: without them a localizer may paint what stands out, whatever it hears. 0: none [paper]."""
    negative_weight: float = 1.0
    """Weight of the negatives' mean beside the supervised loss."""
    supervised_loss: Literal["bce", "spatial_ce"] = "bce"
    """Pixel-wise binary cross-entropy, or cross-entropy of the softmax over places (Attention10k)."""
    momentum: float = 0.999
    """Teacher <- m * teacher + (1-m) * student after every step."""
    half_life: float = 0.0
    """When positive, m follows the run's length: a teacher forgets half in this share of the stage's steps [ours]."""
    bn: Literal["ema", "copy"] = "ema"
    """BatchNorm statistics of a teacher: averaged like the weights (EMAN) or copied from the student."""


@dataclass(frozen=True)
class OptimConfig:
    """Stages, batches and steps."""

    warmup_epochs: float = 20.0
    """Stage 1: passes over the labelled items; the best epoch by validation goes on."""
    epochs: float = 100.0
    """Stage 2: passes over the unlabelled items."""
    warmup_steps: int = 0
    """Stage 1 in steps; replaces warmup_epochs when positive."""
    steps: int = 0
    """Stage 2 in steps; replaces epochs when positive."""
    batch: int = 128
    """Clips a step over all devices."""
    labelled_share: float = 0.25
    """Share of the batch that is labelled (1:3)."""
    lr: float = 1e-4
    """AdamW's learning rate."""
    lr_unbiased: float = 0.0
    """Learning rate of stage 2; 0: as in stage 1."""
    lr_encoders: float = 0.0
    """Learning rate of encoders that start from a weight file, as a factor of the others' rate; 0: the same rate."""
    affine_lr: float = 1e-2
    """Learning rate of (w, b), which hardly move at the network's [ours]."""
    weight_decay: float = 1e-4
    """Decoupled weight decay; none on norms, biases and (w, b)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over each stage."""
    lr_warmup: float = 0.0
    """Share of a stage over which the learning rate rises from 0; networks from scratch need it [ours]."""
    clip: float = 0.0
    """Largest gradient norm of a localizer; 0: no clipping."""


@dataclass(frozen=True)
class ScaleConfig:
    """Processes, precision, faults."""

    gpus: int = how(-1)
    """GPUs of this machine, one process each; 0: the CPU; -1: one process on --device."""
    workers_cpu: int = how(1)
    """Processes on the CPU (gloo), with --gpus 0."""
    nodes: int = how(1)
    """Machines; start the same command on each, with --rdzv."""
    rdzv: str = how("")
    """HOST:PORT where the machines meet."""
    max_restarts: int = how(0)
    """Start the group again from its last checkpoint so many times after a worker died."""
    timeout: float = how(10.0)
    """Minutes after which a collective that hangs ends the run."""
    parallel: Literal["auto", "fsdp", "ddp"] = how("auto")
    """Several processes: shards of parameters and optimizer (FSDP2; over nodes HSDP), or a full copy each (DDP); auto:
    DDP where a copy takes less than a quarter of a GPU's memory."""
    reshard: bool = how(False)
    """FSDP: free gathered parameters between forward and backward (ZeRO-3) instead of keeping them (ZeRO-2)."""
    sync_bn: bool = False
    """BatchNorm over the global batch, as in one process; else over a process's rows, running statistics averaged."""
    amp: Literal["auto", "bf16", "fp16", "none"] = "auto"
    """Autocast: auto is bf16 on GPUs that have it, fp16 with loss scaling on older ones, none on the CPU."""
    tf32: bool = True
    """TF32 for what stays in float32 on the GPU."""
    compile: Literal["auto", "none", "inductor", "graphs", "aot_eager"] = how("auto")
    """torch.compile of forward and backward; auto: inductor on a GPU, none on the CPU; graphs: inductor, and the
    whole step recorded as one CUDA graph (FSDP: inductor's own graphs); aot_eager: no code generation, for tests."""
    optimizer: Literal["adamw", "apex"] = "adamw"
    """torch's fused AdamW, or NVIDIA apex's FusedAdam where it is built."""
    accumulate: int = 1
    """Parts of a step's batch, one after the other, gradients summed; contrast is within a part."""
    pack_accepted: float = 0.0
    """Unlabelled rows that the students see, as a share: accepted clips wait in a queue until there is room, rejected
    ones cost nothing. A little above the share that is kept is right. 0: all rows, rejected ones at weight 0."""
    max_bad_steps: int = how(5)
    """Steps without a finite loss and gradient are skipped; after so many the run stops and names the clips."""
    keep: int = how(2)
    """Checkpoints kept."""


@dataclass(frozen=True)
class TrainConfig:
    """Train both localizers: warm-up on labelled clips, then unbiased learning on all.

    Where a default comes from: [paper] stated in the DMT paper; [recalled] the paper's value as far as known, not
    verified; [peer] the convention of the field's public code; [ours] a choice of this project.
    """

    preset: str = "demo"
    """demo, real-small (photographs, pretrained encoders, minutes), flickr-10k, flickr-144k, vggsound-10k,
    vggsound-144k, or paper (recalled settings, no additions)."""
    algorithm: AlgorithmName = "dmt"
    """dmt, or a rival on its code path: pseudo-label, mean-teacher, fixmatch, cps, xpl; supervised; self-supervised."""
    run: Path = field(default=Path("runs/demo"), metadata=FREE)
    """Run folder: config, split lists, metrics.jsonl, TensorBoard, checkpoints, log."""
    resume: bool = how(False)
    """Go on from the run folder's last checkpoint, to the same numbers."""
    warm_from: Path | None = None
    """Run whose warmed-up localizers begin stage 2; stage 1 is skipped. Warm up once, then try several stages 2."""
    seed: int = 0
    """Everything random follows from it: splits, order, augmentation, initialisation."""
    device: str = how("auto")
    """cpu, cuda, cuda:1, ...; auto: cuda when there is one."""
    kernels: Literal["auto", "triton", "reference"] = "auto"
    """Fused kernels on CUDA and plain PyTorch on the CPU (auto), or one of them everywhere."""
    eval_every: int = 0
    """Validate every so many steps; 0: eight times a stage."""
    save_every: int = how(0)
    """Checkpoint every so many steps; 0: with each validation."""
    log_every: int = how(10)
    """Steps between two log lines; in between nothing waits for the device."""
    logger: Literal["tensorboard", "wandb", "jsonl"] = how("tensorboard")
    """Beside metrics.jsonl, which is always written: TensorBoard, Weights & Biases where installed, or neither."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pseudo: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)

    def __post_init__(self) -> None:
        require(
            self.model.localizer in LOCALIZERS or ":" in self.model.localizer,
            f"--localizer {self.model.localizer!r} is unknown: choose one of {', '.join(LOCALIZERS)}, "
            "or give package.module:Class",
        )
        require(0 < self.pseudo.delta < 1, "--delta must lie between 0 and 1")
        require(0 <= self.pseudo.tau <= 1, "--tau must lie in 0..1 (it is an IoU)")
        require(
            self.pseudo.ignore_below is None or 0 < self.pseudo.ignore_below <= self.pseudo.delta,
            "--ignore-below must lie between 0 and --delta, or be None",
        )
        require(0 <= self.pseudo.negatives <= 1, "--negatives is a share of the labelled clips: give it in [0, 1]")
        require(
            min(self.pseudo.foreground, self.pseudo.negative_weight, self.pseudo.lambda_warmup) >= 0,
            "--foreground, --negative-weight and --lambda-warmup are weights: they cannot be negative",
        )
        require(self.model.freeze >= -1, "--freeze is a number of stages, or -1 for all")
        require(
            self.model.freeze == 0 or self.model.visual_weights is not None,
            "--freeze keeps the visual encoder as loaded: give --visual-weights, or it stays random",
        )
        require(0 <= self.model.head_dropout < 1, "--head-dropout must lie in [0, 1)")
        require(
            self.data.feature_crops == 0 or (self.model.freeze == -1 and self.model.localizer in HEADS_ALONE),
            "--feature-crops keeps the output of frozen encoders: it needs --freeze -1 and --localizer dmt",
        )
        require(0.5 < self.pseudo.confidence < 1, "--confidence must lie between 0.5 and 1")
        require(0 <= self.pseudo.momentum < 1, "--momentum must lie in [0, 1)")
        require(0 < self.optim.labelled_share <= 1, "--labelled-share must lie in (0, 1]")
        require(self.optim.batch >= 4, "--batch must be at least 4: the contrastive loss needs other sounds")
        require(
            ALGORITHMS[self.algorithm].uses_boxes or self.pseudo.lambda_u > 0,
            f"--algorithm {self.algorithm} has only the contrastive loss: give --lambda-u a positive value",
        )
        require(0 <= self.optim.lr_warmup < 1, "--lr-warmup is a share of the stage: give it in [0, 1)")
        require(self.scale.gpus >= -1, "--gpus is a count, or -1 for one process on --device")
        require(
            min(self.scale.workers_cpu, self.scale.nodes, self.scale.accumulate, self.scale.keep) >= 1,
            "--workers-cpu, --nodes, --accumulate and --keep must be at least 1",
        )
        require(0 <= self.scale.pack_accepted <= 1, "--pack-accepted is a share of the rows: give it in [0, 1]")
        require(
            self.scale.pack_accepted == 0 or ALGORITHMS[self.algorithm].shares_labels,
            "--pack-accepted needs --algorithm dmt: with others the two students learn from different clips",
        )
        require(self.scale.workers_cpu == 1 or self.scale.gpus == 0, "--workers-cpu goes with --gpus 0")
        require(self.optim.batch % self.scale.accumulate == 0, "--batch must divide by --accumulate")
        require(32 <= self.data.size <= 8192, "--size must be 32 to 8192 pixels")
        require(0.1 <= self.data.seconds <= 600, "--seconds must lie in 0.1..600")
        require(1 <= self.model.dim <= 65536, "--dim must lie in 1..65536")
        require(self.model.temperature > 0, "--temperature must be positive")
        require(min(self.data.labels, self.data.val, self.data.test) >= 0, "--labels, --val and --test are counts")

    @property
    def batch_labelled(self) -> int:
        """Labelled clips of a step over all devices."""
        return min(self.optim.batch, max(1, round(self.optim.batch * self.optim.labelled_share)))

    @property
    def batch_unlabelled(self) -> int:
        """Unlabelled clips of a step over all devices; the supervised baseline sees none."""
        return self.optim.batch - self.batch_labelled if ALGORITHMS[self.algorithm].uses_unlabelled else 0

    @property
    def front_ends(self) -> tuple[str, str]:
        """Sound front-end of localizer A and of B."""
        return AUDIO_ENCODERS[self.model.audio_a], AUDIO_ENCODERS[self.model.audio_b]


def require(condition: bool, message: str) -> None:
    """Raise FastDMTError with the message unless the condition holds."""
    if not condition:
        raise FastDMTError(message)


def to_dict(config: Any) -> Any:
    """Plain JSON types; the inverse is `fastdmt.runs.settings.from_dict`."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    return str(config) if isinstance(config, Path) else list(config) if isinstance(config, tuple) else config
