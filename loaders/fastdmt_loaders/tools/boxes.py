"""Boxes from what people have into the field's layout.

VGG-SS json, Flickr-SoundNet XML, COCO json, the exports of Label Studio (JSON, JSON-MIN) and CVAT ("for images 1.1"),
and a CSV of id,x0,y0,x1,y1.

Names become ids: the last part of a path or address, without the suffix of a picture, video or sound. Corners become
shares of the frame, so that they hold for frames of any size. Rotated boxes become the upright ones around them.
"""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from fastdmt_loaders.dataset.annotations import read_flickr_xml
from fastdmt_loaders.dataset.dataset import FRAME_SUFFIXES, SOUND_SUFFIXES, AVDataset
from fastdmt_loaders.dataset.lists import cells_of
from fastdmt_loaders.decode.clips import frame_at, is_clip
from fastdmt_loaders.decode.pictures import read_picture
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.files import MAX_BYTES, read_file

KNOWN = "VGG-SS json, a folder of Flickr-SoundNet XML, COCO json, Label Studio JSON, CVAT for images, CSV"
SUFFIXES = (*FRAME_SUFFIXES, *SOUND_SUFFIXES, ".webp", ".bmp")
LARGEST = 1e9  # pixels a side, beyond any picture
UPLOAD = re.compile(r"[0-9a-f]{8}-")  # what Label Studio puts before the name of a file that it was given
# Names of a CSV's columns, in the order id, x0, y0, x1, y1, width, height, class.
COLUMNS = (
    ("id", "file", "filename", "file_name", "image", "video", "name", "clip"),
    ("x0", "xmin", "x_min", "xtl", "left"),
    ("y0", "ymin", "y_min", "ytl", "top"),
    ("x1", "xmax", "x_max", "xbr", "right"),
    ("y1", "ymax", "y_max", "ybr", "bottom"),
    ("width", "image_width", "w"),
    ("height", "image_height", "h"),
    ("class", "label", "category"),
)


class Box(NamedTuple):
    """One box as a file says it.

    Args:
        name: of the picture, as the file writes it.
        corners: x0, y0, x1, y1.
        size: width and height of what the corners count in; None: pixels of the frame, whose size must be looked up.
    """

    name: str
    corners: tuple[float, float, float, float]
    size: tuple[float, float] | None
    label: str = ""

    @property
    def sane(self) -> bool:
        """A name, finite corners, and sides that a picture can have."""
        sides = self.size or (1, 1)
        numbers = all(isinstance(side, (int, float)) and 0 < side < LARGEST for side in sides)
        return isinstance(self.name, str) and all(map(math.isfinite, self.corners)) and numbers

    @property
    def told(self) -> str:
        if not isinstance(self.name, str):
            return "names of pictures must be text"
        return f"corners {self.corners}" + (f" in a frame of {str(self.size)[:100]}" if self.size else "")


@dataclass
class Converted:
    """What was written, and lines for a terminal."""

    kind: str
    ids: list[str]
    path: Path
    lines: list[str] = field(default_factory=list)


def convert(path: str | Path, root: str | Path, source: str | Path | None = None, force: bool = False) -> Converted:
    """Write ROOT/vggss.json, or ROOT/Annotations for Flickr-SoundNet's XML.

    Args:
        path: file, zip of one, or folder of XML.
        root: data folder with frames/ and audio/, whose ids are looked for.
        source: folder of the videos or pictures that the boxes were drawn on, for corners in pixels without a size.
        force: write over boxes that are there.

    Raises:
        DataError: not one of the known forms, no name that is a clip's, pixels of an unknown frame, boxes that are
            there already.
    """
    path, dataset = Path(path), AVDataset(root, annotations=None)
    if path.is_dir():
        return _copy_xml(path, dataset, force)
    out = dataset.root / "vggss.json"
    if out.exists() and not force:
        same = path.exists() and out.samefile(path)
        raise DataError(f"{out}: is there already; " + ("nothing is to do" if same else "--force writes it anew"))
    kind, boxes = read_boxes(path)
    ids = _ids_of(dict.fromkeys(box.name for box in boxes), dataset.ids)
    _refuse_strangers(path, boxes, ids, dataset)
    size_of = _sizes(dataset, Path(source) if source else None)
    found: dict[str, list[list[float]]] = {}
    labels: dict[str, list[str]] = {}
    for box in boxes:
        if (id := ids.get(box.name)) is None:
            continue
        width, height = box.size or size_of(id)
        corners = [value / side for value, side in zip(box.corners, (width, height, width, height))]
        if box.size is None and max(corners) > 1.02:
            raise DataError(
                f"{path}: {box.name}: corners {box.corners} leave its frame of {width:g} x {height:g} pixels; name the "
                "folder that the boxes were drawn on: --source FOLDER"
            )
        found.setdefault(id, []).append([round(value, 6) for value in corners])
        if box.label and box.label not in labels.setdefault(id, []):
            labels[id].append(box.label)
    items = [{"file": id, "class": ", ".join(labels.get(id, [])), "bbox": found[id]} for id in sorted(found)]
    _write(out, json.dumps(items, indent=0))
    strangers = [name for name, id in ids.items() if id is None]
    lines = [f"{path}: {kind}, {len(boxes):,} boxes; {out}: boxes of {len(found):,} of {len(dataset.ids):,} clips"]
    if strangers:
        lines.append(f"{len(strangers):,} names are no clips of {dataset.root}, for example {strangers[0]!r}: left out")
    if (dataset.root / "Annotations").is_dir():
        lines.append(f"{dataset.root / 'Annotations'} is there too and is read first; --annotations vggss reads these")
    return Converted(kind, sorted(found), out, lines)


def read_boxes(path: Path) -> tuple[str, list[Box]]:
    """The form of a file, and its boxes.

    Raises:
        DataError: none of the known forms, or broken.
    """
    name, data = _content(path)
    text = data.decode("utf-8-sig", "surrogateescape").strip()
    try:
        if text.startswith("<"):
            kind, boxes = "CVAT for images", list(_cvat(text))
        elif text.startswith(("{", "[")):
            kind, boxes = _json(json.loads(text))
        else:
            kind, boxes = "CSV", list(_csv(name, text))
    except DataError as error:
        raise DataError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
    except Exception as error:  # of a damaged export anything
        raise DataError(f"{name}: cannot be read as boxes ({str(error)[:100]!r}); known: {KNOWN}") from error
    wrong = next((box for box in boxes if not box.sane), None)
    if wrong or not boxes:
        raise DataError(f"{name}: " + (f"{wrong.name!r:.100}: {wrong.told}; mend them" if wrong else "no box in it"))
    return kind, boxes


def _content(path: Path) -> tuple[str, bytes]:
    """A file's name and bytes; of a zip the one file of boxes in it."""
    data = read_file(path, "file of boxes")
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return str(path), data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            held = [i for i in archive.infolist() if i.filename.lower().endswith((".json", ".xml", ".csv"))]
            if len(held) != 1 or held[0].file_size > MAX_BYTES:
                raise DataError(f"{path}: holds {len(held)} files of boxes; unpack it and name one")
            return f"{path}:{held[0].filename}", archive.read(held[0])
    except DataError:
        raise
    except Exception as error:  # damage, a password, a method of compression that Python lacks
        raise DataError(
            f"{path}: cannot be unpacked ({str(error)[:100]}); unpack it yourself and name the file"
        ) from error


# ------------------------------------------------------------------------------------------------ one form each


def _json(content: Any) -> tuple[str, list[Box]]:
    if isinstance(content, Mapping) and "images" in content:
        return "COCO", list(_coco(content))
    if isinstance(content, list) and content and "bbox" in content[0] and "file" in content[0]:
        corners = ((item, box) for item in content for box in item["bbox"])
        boxes = [Box(str(i["file"]), tuple(map(float, b)), (1, 1), str(i.get("class", ""))) for i, b in corners]
        return "VGG-SS", boxes
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        return "Label Studio", list(_label_studio(content))
    raise DataError(f"neither COCO's, VGG-SS's nor Label Studio's JSON; known: {KNOWN}")


def _coco(content: Mapping) -> Iterator[Box]:
    """cocodataset.org's object detection: bbox is [x, y, width, height] in pixels."""
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: str(category["name"]) for category in content.get("categories", ())}
    for item in content["annotations"]:
        if not item.get("bbox"):
            continue  # a caption
        image, (x, y, width, height) = images[item["image_id"]], map(float, item["bbox"])
        size = (image["width"], image["height"]) if image.get("width") and image.get("height") else None
        yield Box(image["file_name"], (x, y, x + width, y + height), size, names.get(item.get("category_id"), ""))


def _label_studio(tasks: Iterable[Mapping]) -> Iterator[Box]:
    """Rectangles in percent; JSON has tasks with annotations, JSON-MIN the rectangles beside the name."""
    for task in tasks:
        done = task.get("annotations", task.get("completions"))
        if done is None:
            lists = [value for value in task.values() if isinstance(value, list)]
            regions = [{"value": v, **v} for values in lists for v in values if isinstance(v, Mapping)]
        else:
            regions = [r for one in done if not one.get("was_cancelled") for r in one["result"]]
        name = _task_name(task.get("data", task))
        for region in regions:
            value = region["value"]
            if not {"x", "y", "width", "height"} <= value.keys() or {"points", "radiusX"} & value.keys():
                continue
            sides = (float(region.get("original_width") or 100), float(region.get("original_height") or 100))
            x, y, w, h = (float(value[k]) / 100 * s for k, s in zip(("x", "y", "width", "height"), 2 * sides))
            box = _turned(x, y, w, h, float(value.get("rotation") or 0), (x, y))
            label = next((str(v[0]) for k, v in value.items() if k.endswith("labels") and v), "")
            yield Box(name, box, sides, label)


def _task_name(data: Mapping) -> str:
    texts = [value for value in data.values() if isinstance(value, str)]
    return next((text for text in texts if _stem(text) != _last(text)), texts[0])


def _cvat(text: str) -> Iterator[Box]:
    """<image name width height><box label xtl ytl xbr ybr rotation>: pixels, turned about the box's middle."""
    if "<!ENTITY" in text:
        raise ValueError("it defines entities, which boxes need not")
    root = ElementTree.fromstring(text)
    if root.find("track") is not None and root.find("image") is None:
        raise DataError("is CVAT's form for videos; export it as 'CVAT for images 1.1'")
    if next(root.iter("bbox"), None) is not None:
        raise DataError("is one of Flickr-SoundNet's XML files; give their folder")
    for image in root.iter("image"):
        size = (float(image.attrib["width"]), float(image.attrib["height"]))
        for box in image.iter("box"):
            x0, y0, x1, y1 = (float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
            corners = _turned(x0, y0, x1 - x0, y1 - y0, float(box.get("rotation", 0)), ((x0 + x1) / 2, (y0 + y1) / 2))
            yield Box(image.attrib["name"], corners, size, box.get("label", ""))


def _csv(name: str, text: str) -> Iterator[Box]:
    """id,x0,y0,x1,y1 with or without names of columns; shares of the frame where none exceeds 1, else pixels."""
    rows, _ = cells_of(name, text)
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    places = [next((head.index(n) for n in names if n in head), None) for names in COLUMNS]
    if None in places[:5]:
        if not rows or len(head) < 5:
            raise DataError("has fewer than the five columns id,x0,y0,x1,y1")
        try:
            float(head[1])
        except ValueError:
            raise DataError(f"names columns {', '.join(head)}; call them id,x0,y0,x1,y1") from None
        places = [0, 1, 2, 3, 4, None, None, 5 if len(head) > 5 else None]
    else:
        rows = rows[1:]
    boxes = [(row[places[0]], tuple(float(row[k]) for k in places[1:5]), row) for row in rows]
    shares = all(0 <= value <= 1 for _, corners, _ in boxes for value in corners)
    for id, corners, row in boxes:
        size = (1.0, 1.0) if shares else None
        if not shares and places[5] is not None and places[6] is not None:
            size = (float(row[places[5]]), float(row[places[6]]))
        yield Box(id, corners, size, row[places[7]] if places[7] is not None and places[7] < len(row) else "")


def _turned(x: float, y: float, w: float, h: float, degrees: float, about: tuple[float, float]) -> tuple:
    """The upright box around one that is turned clockwise about a point."""
    if not degrees:
        return x, y, x + w, y + h
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    away = [(px - about[0], py - about[1]) for px in (x, x + w) for py in (y, y + h)]
    xs, ys = zip(*((about[0] + cos * u - sin * v, about[1] + sin * u + cos * v) for u, v in away))
    return min(xs), min(ys), max(xs), max(ys)


# ------------------------------------------------------------------------------------------------ names, sizes, files


def _last(name: str) -> str:
    """Last part of a path or an address; Label Studio's local files stand behind ?d=."""
    if "://" in name or "?d=" in name:
        name = unquote(name.split("?d=")[1] if "?d=" in name else name.split("?")[0].split("#")[0])
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _stem(name: str) -> str:
    last = _last(name)
    return last[: last.rindex(".")] if last.lower().endswith(SUFFIXES) else last


def _ids_of(names: Iterable[str], known: Iterable[str]) -> dict[str, str | None]:
    """Name -> id; None where there is no such clip."""
    known = set(known)

    def id_of(name: str) -> str | None:
        tries = (name, _last(name), _stem(name), UPLOAD.sub("", _stem(name), count=1))
        return next((text for text in tries if text in known), None)

    return {name: id_of(name) for name in names}


def _refuse_strangers(path: Path, boxes: list[Box], ids: dict[str, str | None], dataset: AVDataset) -> None:
    if not any(ids.values()):
        raise DataError(
            f"{path}: none of its {len(ids):,} names is a clip of {dataset.root}: {boxes[0].name!r} is none of "
            f"{dataset.ids[0]!r}, ...; names must be those of the files"
        )


def _sizes(dataset: AVDataset, source: Path | None) -> Callable[[str], tuple[int, int]]:
    """Width and height of a clip's frame, upright, where the boxes were drawn."""
    files: dict[str, Path] = {}
    if source is not None:
        if not source.is_dir():
            raise DataError(f"{source}: no such folder; name the videos or pictures that the boxes were drawn on")
        files = {p.stem: p for p in source.rglob("*") if p.suffix.lower() in (*FRAME_SUFFIXES, ".webp", ".bmp")}

    def size_of(id: str) -> tuple[int, int]:
        path = files.get(id) or dataset.frame_path(id)
        return frame_at(path, 0.0)[0].size if is_clip(path) else read_picture(path).size

    return size_of


def _copy_xml(folder: Path, dataset: AVDataset, force: bool) -> Converted:
    """Flickr-SoundNet's files as they are, of the clips that are there."""
    folder = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    out = dataset.root / "Annotations"
    files = {path.stem: path for path in sorted(folder.glob("*.xml"))}
    known = set(dataset.ids)
    ids = [id for id in files if id in known]
    if not ids:
        raise DataError(f"{folder}: none of its {len(files):,} XML files is named as a clip of {dataset.root}")
    if out.exists() and (out.samefile(folder) or not force):
        raise DataError(f"{out}: is there already; " + ("nothing is to do" if out.samefile(folder) else "give --force"))
    read_flickr_xml(files[ids[0]])
    try:
        out.mkdir(exist_ok=True)
        for id in ids:
            shutil.copyfile(files[id], out / f"{id}.xml")
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); make room or mend access") from error
    line = f"{folder}: Flickr-SoundNet's XML; {out}: boxes of {len(ids):,} of {len(known):,} clips"
    more = [f"{len(files) - len(ids):,} files are of other clips: left out"] if len(files) > len(ids) else []
    return Converted("Flickr-SoundNet", ids, out, [line, *more])


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    try:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); make room or mend access") from error
