"""What an evaluation found: means over the items, tables for a terminal, JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Group
from rich.table import Table as Drawn
from rich.text import Text

from fastdmt.drawing.tables import Score, Table
from fastdmt.evaluation import examples, metrics
from fastdmt.files import write_json
from fastdmt_loaders import Pair

RULES = ("absolute", "adaptive", "median")  # the order of every table: the median rule is the least telling
LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # thresholds of P for the curve of CIoU over them
PIA_NAMES = {
    "own_sound": "own sound",
    "other_sound": "other sound",
    "silence": "silence",
    "noise": "white noise",
    "sourceless_clips": "the list's clips without a source",
    "foreign_sounds": "the list's foreign sounds",
}
CONFUSED, EXTREMES = 10, 3  # lines of the longest list of confusions; classes named at each end in a terminal


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
        levels: cIoU at P >= each of `LEVELS`, [items, len(LEVELS)]; NaN where a measure does not apply.
        classes: id of a clip -> what sounds there; ids of unknown class are absent.
        others: id of the other sound that each item was tried with, "" for none.
    """

    pairs: list[Pair]
    arrays: dict[str, np.ndarray]
    source: str
    shuffled: bool = False
    name: str = ""
    pictures: list[examples.Picture] = field(default_factory=list)
    options: tuple[str, ...] = ()
    levels: np.ndarray | None = None
    classes: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

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
        """Means over the items, nested: RULE -> ciou, auc, cap_*, blind_*, other_*; mse; sizes; pia; levels; ..."""
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
        if self.levels is not None:
            heard_levels = self.levels[sounding]
            out["levels"] = {f"{level:.2f}": metrics.success(heard_levels[:, k]) for k, level in enumerate(LEVELS)}
        if self.classes:
            out["classes"], out["confused"] = self._by_class(), self._confused()
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

    def _by_class(self) -> dict[str, dict]:
        """Class -> items, CIoU@0.5 and AUC at the absolute threshold; the best class first."""
        rows: dict[str, list[float]] = {}
        for pair, value in zip(self.pairs, self.arrays["ciou_absolute"]):
            if pair.sounding and pair.video in self.classes:
                rows.setdefault(self.classes[pair.video], []).append(value)
        found = {
            name: {"items": len(values), "ciou": metrics.success(values), "auc": metrics.auc(values)}
            for name, values in rows.items()
        }
        return dict(sorted(found.items(), key=lambda entry: (-entry[1]["ciou"], -entry[1]["auc"], entry[0])))

    def _confused(self) -> list[dict]:
        """Which sounds are taken for which objects: tries of an object with a sound of another class that found it."""
        tries: dict[tuple[str, str], list[bool]] = {}
        values = self.arrays.get("other_absolute", np.full(len(self.pairs), np.nan))
        for pair, other, value in zip(self.pairs, self.others, values):
            names = self.classes.get(pair.video), self.classes.get(other)
            if None not in names and names[0] != names[1] and not np.isnan(value):
                tries.setdefault(names, []).append(bool(value >= 0.5))
        rows = [
            {"object": names[0], "sound": names[1], "found": sum(found), "tried": len(found)}
            for names, found in tries.items()
            if any(found)
        ]
        return sorted(rows, key=lambda r: (-r["found"], r["tried"], r["object"], r["sound"]))[:CONFUSED]

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
        """For a terminal: the sentence, the table, what else is known."""
        first = (Text(self.sentence(), style="bold"),) if self.sentence() else ()
        details = Drawn.grid(padding=(0, 2))
        details.add_column(max_width=30)
        details.add_column()
        for name, text in self.details().items():
            details.add_row(Text(name), Text(text))
        return Group(*first, self.main_table(), details)

    def main_table(self) -> Table:
        """Percent, each figure beside what it has to be compared with."""
        s = self.summary
        heard = "other_ciou" in s["absolute"]
        what = "every frame with another item's sound" if self.shuffled else "own sounds"
        pairs = [("cap", ("cap_ciou", "cap_auc")), ("blind disc", ("blind_ciou", "blind_auc"))]
        heads = ["threshold", "CIoU@0.5", "AUC", *(("other sound", "drop") if heard else ()), *(n for n, _ in pairs)]
        table = Table(
            heads,
            title=f"{self.name + ': ' if self.name else ''}{s['sounding']} sounding items, map: {self.map}, {what}",
            caption="Percent; pairs are CIoU@0.5 / AUC; ± is one standard error. absolute: P >= 0.5; adaptive: as many "
            "pixels as the truth has; median: the upper half of the map. cap: the best any map can do on these items; "
            "blind disc: a disc in the middle of every frame"
            + ("; other sound: each frame with another item's." if heard else "."),
            fold=5 if heard else 3,
        )
        for rule in self.telling:
            row = s[rule]
            error = (row["ciou"] * (1 - row["ciou"]) / max(1, s["sounding"])) ** 0.5
            cells: list[str | Score] = [
                rule,
                Score(_percent(row["ciou"]), f"±{100 * error:.1f}"),
                Score(_percent(row["auc"])),
            ]
            if heard:
                cells.append(f"{_percent(row['other_ciou'])} / {_percent(row['other_auc'])}")
                cells.append(f"{_percent(row['ciou'] - row['other_ciou'])} / {_percent(row['auc'] - row['other_auc'])}")
            cells += [" / ".join(_percent(row[key]) for key in keys) for _, keys in pairs]
            table.rows.append(cells)
        return table

    def details(self) -> dict[str, str]:
        """What else is known, by title."""
        s = self.summary
        out = {
            "share of the frame marked (pIA)": ", ".join(
                f"{PIA_NAMES[key]} {_percent(value)}" for key, value in s["pia"].items()
            ),
            "mean squared error of P": f"{s['mse']:.4f}",
            "CIoU by size of the object (absolute)": ", ".join(
                f"{k} {_percent(v['absolute'])} ({v['items']})" for k, v in s["sizes"].items() if v["items"]
            ),
        }
        for rule in RULES:
            if rule not in self.telling:
                row = s[rule]
                text = f"CIoU@0.5 {_percent(row['ciou'])}, AUC {_percent(row['auc'])}; cap 0: no map can pass here"
                out[f"{rule} threshold"] = text
        if len(classes := s.get("classes", {})) > 1:
            rows = [f"{name} {_percent(row['ciou'])} ({row['items']})" for name, row in classes.items()]
            short = len(rows) <= 2 * EXTREMES
            out["CIoU by class, best to worst" if short else "best classes, CIoU"] = ", ".join(
                rows if short else rows[:EXTREMES]
            )
            if not short:
                out["worst classes, CIoU"] = ", ".join(rows[::-1][:EXTREMES])
        if s.get("confused"):
            out["most confused"] = "; ".join(map(confusion, s["confused"][:EXTREMES]))
        for rule, row in s.get("extended", {}).items():
            cells = f"AP {_percent(row['ap'])}, max-F1 {_percent(row['max_f1'])}, LocAcc {_percent(row['loc_acc'])}"
            out[f"with {s['items'] - s['sounding']} non-sounding items, {rule}"] = cells
        return out

    def to_json(self, path: str | Path) -> None:
        """Summary, protocol and every item's values; NaN becomes null.

        Raises:
            FastDMTError: the file cannot be written.
        """
        items = []
        for i, pair in enumerate(self.pairs):
            values = {key: None if np.isnan(v[i]) else float(v[i]) for key, v in self.arrays.items()}
            known = {"class": self.classes[pair.video]} if pair.video in self.classes else {}
            known |= {"other_sound": self.others[i]} if self.others and self.others[i] else {}
            items.append({"video": pair.video, "audio": pair.audio, "sounding": pair.sounding, **known, **values})
        protocol = {"map": self.source, "options": list(self.options), "shuffled_sounds": self.shuffled}
        protocol |= {"size": metrics.SIZE, "thresholds": list(RULES)}
        content = {"list": self.name, "protocol": protocol, "summary": self.summary, "items": items}
        write_json(Path(path), content)


def confusion(row: dict) -> str:
    """A row of `summary["confused"]` in words."""
    return f"the sound of {row['sound']} still finds {row['object']} in {row['found']} of {row['tried']}"


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
