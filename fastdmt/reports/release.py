"""Runs that leave the machine and runs that come from elsewhere: one weight file, one config.json, and a model card.

OUT/model.safetensors   teachers.0.*, teachers.1.*
    config.json         settings without paths of this machine
    origins.json        which weights each encoder began with
    README.md           model card with the run's table (--hub-layout)
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from fastdmt.config import DataConfig, ModelConfig, TrainConfig, require, to_dict
from fastdmt.errors import FastDMTError, first_line
from fastdmt.evaluation.result import RULES
from fastdmt.files import write_text
from fastdmt.models.foreign import import_checkpoint
from fastdmt.models.pair import ORIGINS, RELEASED, keep_origins, origins_of, weights_file
from fastdmt.names import CONTRASTIVE_ONLY
from fastdmt.runs import checkpoint
from fastdmt.runs.settings import load_config
from fastdmt.runs.weights import write_weights
from fastdmt_loaders import Split


def import_run(kind: str, path: Path, out: Path) -> list[str]:
    """A checkpoint of another localizer as a folder that `eval`, `predict` and `load` take; A and B are both it.

    Args:
        kind: ezvsl, slavc or lvs.
        path: what their code wrote with torch.save; read without executing it.
        out: a new folder.

    Returns:
        What is known of it, line by line.

    Raises:
        FastDMTError: not such a checkpoint, or `out` holds a run.
    """
    localizer, settings = import_checkpoint(kind, path)
    _new_folder(out)
    cfg = TrainConfig(
        preset="imported",
        algorithm=CONTRASTIVE_ONLY,
        run=out,
        data=DataConfig(**settings["data"]),
        model=ModelConfig(**settings["model"]),
    )
    # Copies: safetensors holds no tensor under two names.
    tensors = {f"teachers.{k}.{name}": t.clone() for k in range(2) for name, t in localizer.state_dict().items()}
    _write(out, cfg, tensors)
    return keep_origins(out, [f"localizers A and B: {kind} checkpoint {path.name}"])


def export_run(
    run: Path, out: Path, card: bool = False, which: str = "best", trust_localizer: str | None = None
) -> list[Path]:
    """The teachers of a run as one weight file beside its settings.

    Args:
        run: folder that `train` wrote.
        out: a new folder.
        card: also README.md, the model card; it quotes RUN/eval/metrics.json.
        which: "best" by validation, or "last".
        trust_localizer: see `fastdmt.load`.

    Returns:
        The files written.

    Raises:
        FastDMTError: no weights yet, or, for a card, no evaluation; `out` holds a run.
    """
    cfg = dataclasses.replace(load_config(run, trust_localizer), run=run)
    weights = weights_file(run, which)
    measured = run / "eval" / "metrics.json"
    require(not card or measured.is_file(), f"{measured} does not exist; a card quotes it: fastdmt eval {run}")
    facts, figures = facts_of(cfg), _figures(measured) if card else {}
    _new_folder(out)
    tensors = {k: t for k, t in checkpoint.read_weights(weights).items() if k.startswith("teachers.")}
    # Names of files tell nothing elsewhere but the names of this machine's folders.
    given = {k: getattr(cfg.model, k) for k in ("visual_weights", "audio_weights_a", "audio_weights_b")}
    bare = {k: source and Path(source).name for k, source in given.items()}
    cfg = dataclasses.replace(
        cfg,
        run=Path(out.name),
        warm_from=None,
        data=dataclasses.replace(cfg.data, root=Path(cfg.data.root.name)),
        model=dataclasses.replace(cfg.model, **bare),
    )
    _write(out, cfg, tensors)
    written = [out / RELEASED, out / "config.json"]
    origins = origins_of(run)
    if origins:
        keep_origins(out, [_without_folder(line) for line in origins])
        written.append(out / ORIGINS)
    if card:
        write_text(out / "README.md", model_card(cfg, facts, out.name, figures))
        written.append(out / "README.md")
    return written


def model_card(cfg: TrainConfig, facts: dict[str, str], name: str, measured: dict) -> str:
    """Markdown with YAML front matter, as the hubs read it (`model-index` too); every figure beside its context.

    Args:
        cfg, facts: of the run; see `facts_of`.
        name: title, and the folder in the example.
        measured: what `Result.to_json` wrote.
    """
    summary, protocol = measured["summary"], measured["protocol"]
    shuffled = " Every frame was given another item's sound." if protocol["shuffled_sounds"] else ""
    options = f" Test-time options: {', '.join(protocol['options'])}." if protocol.get("options") else ""
    rows = [
        f"| {rule} | {_pair(summary[rule], '')} | {_pair(summary[rule], 'cap_')} | {_pair(summary[rule], 'blind_')} | "
        f"{_pair(summary[rule], 'other_') if 'other_ciou' in summary[rule] else ''} |"
        for rule in RULES
    ]
    return f"""---
library_name: fastdmt
tags:
- sound-source-localization
- audio-visual
- semi-supervised
{_model_index(cfg, name, measured)}
---

# {name}

Where in the frame is the source of the sound? Dual Mean-Teacher for audio-visual source localization (Guo et al.,
NeurIPS 2023), trained with FastDMT. Input: an RGB frame and {cfg.data.seconds:g} s of sound; output: a probability for
every pixel.

```python
import fastdmt

model = fastdmt.load("{name}")
heat = model.localize(frame, waveform, rate=44100)  # frame: uint8 [H, W, 3]; heat: float32 [H, W] in 0..1
```

## Figures

{summary["sounding"]:,} sounding items of `{measured["list"]}`, map: {protocol["map"]}.{shuffled}{options}
Pairs are CIoU@0.5 / AUC in percent.

| threshold | this model | attainable cap | audio-blind disc | another item's sound |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

absolute: P >= 0.5; adaptive: as many pixels as the truth has; median: the upper half of the map, the literature's
protocol. Compare only figures of one protocol. The cap is the best that any map can reach on these items.

## Training

{chr(10).join(f"- {key}: {value}" for key, value in facts.items())}
"""


def _model_index(cfg: TrainConfig, name: str, measured: dict) -> str:
    """The figures at the absolute threshold as a hub's table of results reads them; JSON is YAML."""
    data = cfg.data.root.name
    row = measured["summary"]["absolute"]
    result = {
        "task": {"type": "sound-source-localization", "name": "Sound source localization"},
        "dataset": {"type": data, "name": f"{data}, {measured['list']}"},
        "metrics": [
            {"type": key, "name": f"{title} (absolute threshold), percent", "value": round(100 * row[key], 1)}
            for key, title in (("ciou", "CIoU@0.5"), ("auc", "AUC"))
        ],
    }
    return f"model-index: {json.dumps([{'name': name, 'results': [result]}])}"


def facts_of(cfg: TrainConfig) -> dict[str, str]:
    """What a reader of a report should know of the run in the folder `cfg.run`, by title."""
    run = cfg.run
    facts = {"algorithm": f"{cfg.algorithm}, localizer {cfg.model.localizer}, preset {cfg.preset}, seed {cfg.seed}"}
    split = run / "split.json"
    if split.is_file():
        lists = Split.load(split)
        facts["training clips"] = (
            f"{len(lists.train_labelled):,} with boxes, {len(lists.train_unlabelled):,} without; "
            f"the best step was chosen on {len(lists.validation):,} validation clips"
        )
    for line in origins_of(run):
        who, _, what = _without_folder(line).partition(": ")
        facts[who] = what
    return facts


def _figures(path: Path) -> dict:
    """What `Result.to_json` wrote. Raises FastDMTError: damaged."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        _ = [_pair(held["summary"][rule], kind) for rule in RULES for kind in ("", "cap_", "blind_")]
        if {"shuffled_sounds", "map"} <= held["protocol"].keys() and isinstance(held["summary"]["sounding"], int):
            return held
        reason = "it is no evaluation"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
    raise FastDMTError(f"{path} cannot be read ({reason}); a card quotes it: evaluate again")


def _new_folder(out: Path) -> None:
    require(not (out / "config.json").exists(), f"{out} already holds a run; give a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FastDMTError(f"cannot make the folder {out}: {error.strerror}; give another one") from None


def _write(out: Path, cfg: TrainConfig, tensors: dict) -> None:
    # The weights first: a folder with config.json is taken for a whole one.
    write_weights(out / RELEASED, tensors)
    write_text(out / "config.json", json.dumps(to_dict(cfg), indent=2) + "\n")


def _without_folder(line: str) -> str:
    """An origin with its file's name alone."""
    return re.sub(r"(?<=encoder: ).*/", "", line)


def _pair(row: dict, kind: str) -> str:
    return f"{100 * row[f'{kind}ciou']:.1f} / {100 * row[f'{kind}auc']:.1f}"
