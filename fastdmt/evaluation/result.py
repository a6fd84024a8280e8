"""What an evaluation found: means over the items, tables for a terminal, JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastdmt.evaluation import examples, metrics
from fastdmt.files import write_json
from fastdmt_loaders import Pair

RULES = ("absolute", "adaptive", "median")  # the order of every table: the median rule is the least telling


@dataclass
class Result:
    """What an evaluation found. All values are fractions 0..1; `table` shows percent.

    Attributes:
        pairs: the items, in the order of the list.
        arrays: measure -> float64 [items]: `ciou_RULE`, `cap_RULE`, `blind_RULE`, `other_RULE` (another item's
            sound), `mse`, `area` (pixels at 224), `active`, `active_other`, `active_silence`, `active_noise` (shares
            of the frame with P >= 0.5), `confidence`. NaN where a measure does not apply.
        source: whose map it is.
        shuffled: every frame had another item's sound.
        name: of the list, for titles.
        pictures: the items that the report draws.
        options: test-time options that were on, for titles.
    """

    pairs: list[Pair]
    arrays: dict[str, np.ndarray]
    source: str
    shuffled: bool = False
    name: str = ""
    pictures: list[examples.Picture] = field(default_factory=list)
    options: tuple[str, ...] = ()

    @property
    def map(self) -> str:
        """Whose map and with which test-time options, in words."""
        return " + ".join((self.source, *self.options))

    @property
    def sounding(self) -> np.ndarray:
        """[items] bool."""
        return np.array([pair.sounding for pair in self.pairs], bool)

    @property
    def summary(self) -> dict:
        """Means over the items, nested: RULE -> ciou, auc, cap_*, blind_*, other_*; mse; sizes; pia; extended."""
        sounding = self.sounding
        heard = {key: value[sounding] for key, value in self.arrays.items()}
        out: dict = {"items": len(self.pairs), "sounding": int(sounding.sum())}
        kinds = ("ciou", "cap", "blind") + (() if self.shuffled or "other_absolute" not in heard else ("other",))
        for rule in RULES:
            out[rule] = {}
            for kind in kinds:
                prefix = "" if kind == "ciou" else f"{kind}_"
                out[rule][f"{prefix}ciou"] = metrics.success(heard[f"{kind}_{rule}"])
                out[rule][f"{prefix}auc"] = metrics.auc(heard[f"{kind}_{rule}"])
        out["mse"] = _mean(heard["mse"])
        out["sizes"] = self._sizes(heard)
        out["pia"] = self._active(heard)
        if not sounding.all():
            conf = self.arrays["confidence"]
            out["extended"] = {}
            for rule in RULES:
                values = np.nan_to_num(self.arrays[f"ciou_{rule}"])
                out["extended"][rule] = {
                    "ap": metrics.average_precision(values, sounding, conf),
                    "max_f1": metrics.max_f1(values, sounding, conf),
                    "loc_acc": out[rule]["ciou"],
                }
        return out

    def _sizes(self, heard: dict[str, np.ndarray]) -> dict[str, dict]:
        names = np.array([metrics.size_of(area) for area in heard["area"]], object)
        return {
            name: {"items": int((names == name).sum())}
            | {rule: metrics.success(heard[f"ciou_{rule}"][names == name]) for rule in RULES}
            for name in metrics.SIZES
        }

    def _active(self, heard: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean share of the frame with P >= 0.5: for the own sound, and for what should mark nothing."""
        out = {"own_sound": _mean(heard["active"])}
        for key in ("other", "silence", "noise"):
            if f"active_{key}" in heard:
                out[f"{key}_sound" if key == "other" else key] = _mean(heard[f"active_{key}"])
        # Non-sounding items of a list: clips that make no sound or show no source, and frames with a foreign sound.
        for key, foreign in (("sourceless_clips", False), ("foreign_sounds", True)):
            rows = [not pair.sounding and (pair.video != pair.audio) == foreign for pair in self.pairs]
            if any(rows):
                out[key] = _mean(self.arrays["active"][rows])
        return out

    @property
    def telling(self) -> list[str]:
        """Threshold rules that say something here: under a rule whose cap is 0 no map of any method can pass."""
        summary = self.summary
        return [rule for rule in RULES if summary[rule]["cap_ciou"] > 0] or list(RULES)

    def sentence(self) -> str:
        """What the figures say, in words; empty where the other sounds were not tried."""
        row, n = self.summary["absolute"], self.summary["sounding"]
        if "other_ciou" not in row or not n:
            return ""
        own, other, blind = (row[k] for k in ("ciou", "other_ciou", "blind_ciou"))
        # Standard errors of two proportions of n items; two of them are taken for a difference.
        heard, seen = (own - low > 2 * ((own * (1 - own) + low * (1 - low)) / n) ** 0.5 for low in (other, blind))
        if heard:
            verdict = "it listens" if seen else "it listens, but finds no more than the disc"
        elif own - other > 0:
            verdict = f"{n} items are too few to say whether it listens"
        else:
            verdict = "it does not listen"
        return (
            f"With its own sound it finds {100 * own:.0f}% of the objects, with another clip's sound "
            f"{100 * other:.0f}%, a blind disc {100 * blind:.0f}%: {verdict}."
        )

    def table(self) -> Group:
        """The sentence, then tables of at most 80 columns; percent."""
        s = self.summary
        n = max(1, s["sounding"])
        what = "every frame with another item's sound" if self.shuffled else "own sounds"
        title = f"{self.name + ': ' if self.name else ''}{s['sounding']} sounding items, map: {self.map}, {what}"
        main = _columns(
            "threshold", "CIoU@0.5", "AUC", *(("other sound", "drop") if "other_ciou" in s["absolute"] else ())
        )
        context = _columns("threshold", "cap", "blind disc")
        for rule in self.telling:
            row = s[rule]
            error = (row["ciou"] * (1 - row["ciou"]) / n) ** 0.5
            cells = [rule, Text.assemble((_percent(row["ciou"]), "bold"), f" ±{100 * error:.1f}"), _percent(row["auc"])]
            if "other_ciou" in row:
                cells += [
                    f"{_percent(row['other_ciou'])} / {_percent(row['other_auc'])}",
                    f"{_percent(row['ciou'] - row['other_ciou'])} / {_percent(row['auc'] - row['other_auc'])}",
                ]
            main.add_row(*cells)
            context.add_row(
                rule, *(f"{_percent(row[f'{k}_ciou'])} / {_percent(row[f'{k}_auc'])}" for k in ("cap", "blind"))
            )
        main.title, main.title_justify, main.caption_justify = Text(title), "left", "left"
        main.caption = "Percent; pairs are CIoU@0.5 / AUC; ± is one standard error."
        context.caption_justify = "left"
        context.caption = (
            "cap: the best any map can do on these items; blind disc: a disc in the middle of every frame."
        )
        first = (Text(self.sentence(), style="bold"),) if self.sentence() else ()
        return Group(*first, main, context, self._details(s))

    def _details(self, s: dict) -> Table:
        pia = ", ".join(f"{key.replace('_', ' ')} {_percent(value)}" for key, value in s["pia"].items())
        details = Table.grid(padding=(0, 2))
        details.add_column(max_width=30)
        details.add_column()
        details.add_row("share of the frame marked (pIA)", pia)
        details.add_row("mean squared error of P", f"{s['mse']:.4f}")
        sizes = [f"{k} {_percent(v['absolute'])} ({v['items']})" for k, v in s["sizes"].items() if v["items"]]
        details.add_row("CIoU by size of the object (absolute)", ", ".join(sizes))
        for rule in RULES:
            if rule not in self.telling:
                row = s[rule]
                text = f"CIoU@0.5 {_percent(row['ciou'])}, AUC {_percent(row['auc'])}; cap 0: no map can pass here"
                details.add_row(f"{rule} threshold", text)
        for rule, row in s.get("extended", {}).items():
            cells = f"AP {_percent(row['ap'])}, max-F1 {_percent(row['max_f1'])}, LocAcc {_percent(row['loc_acc'])}"
            details.add_row(f"with {s['items'] - s['sounding']} non-sounding items, {rule}", cells)
        return details

    def to_json(self, path: str | Path) -> None:
        """Summary, protocol and every item's values; NaN becomes null.

        Raises:
            FastDMTError: the file cannot be written.
        """
        items = []
        for i, pair in enumerate(self.pairs):
            values = {key: None if np.isnan(v[i]) else float(v[i]) for key, v in self.arrays.items()}
            items.append({"video": pair.video, "audio": pair.audio, "sounding": pair.sounding, **values})
        protocol = {"map": self.source, "options": list(self.options), "shuffled_sounds": self.shuffled}
        protocol |= {"size": metrics.SIZE, "thresholds": list(RULES)}
        content = {"list": self.name, "protocol": protocol, "summary": self.summary, "items": items}
        write_json(Path(path), content)


def _columns(*names: str) -> Table:
    """An empty table: the first column to the left, figures to the right, none of them cut."""
    table = Table()
    for k, name in enumerate(names):
        table.add_column(name, justify="right" if k else "left", no_wrap=True)
    return table


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
