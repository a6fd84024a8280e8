"""A player of one finished video: its map drawn over it while it plays, with sliders. One file, no network."""

from __future__ import annotations

import base64
import html
import json
import tempfile
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from fastdmt.drawing import draw, video
from fastdmt.files import write_text

SIDE = 56  # side of the maps in the page
PLAYABLE = {
    ".mp4": {"h264", "av1"},
    ".m4v": {"h264"},
    ".webm": {"vp8", "vp9", "av1", "libvpx", "libvpx-vp9", "libdav1d"},
}
LARGEST = 48 * 2**20  # bytes of a video that is embedded as it is


def write_page(source: Path, track, target: Path) -> None:
    """Write the page.

    A video that browsers do not play, or one of more than 48 MiB, is embedded as a smaller copy.

    Args:
        source: the video.
        track: its maps, a `fastdmt.reports.predict.Track`.
        target: the HTML file.

    Raises:
        FastDMTError: the video cannot be read or the page not written.
    """
    info = video.probe(source)
    suffix = source.suffix.lower()
    if info.codecs[0] in PLAYABLE.get(suffix, ()) and source.stat().st_size <= LARGEST:
        media = source.read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            copy = video.rewrite(source, Path(folder) / "copy", lambda frame, _: frame, max_height=480)
            suffix, media = copy.suffix, copy.read_bytes()
    maps = np.stack([np.clip(draw.resize(p, SIDE, SIDE).round(), 0, 255).astype(np.uint8) for p in track.maps])
    data = {
        "side": SIDE,
        "times": [round(t, 3) for t in track.times],
        "peaks": [round(float(p), 3) for p in track.peaks],
        "maps": base64.b64encode(maps.tobytes()).decode(),
        "colours": base64.b64encode(draw.HEAT_TABLE.astype(np.uint8).tobytes()).decode(),
    }
    kind = "video/webm" if suffix == ".webm" else "video/mp4"
    page = Template(resources.files("fastdmt.reports").joinpath("templates/player.html").read_text(encoding="utf-8"))
    text = page.substitute(
        title=html.escape(source.name),
        width=info.width,
        height=info.height,
        media=f"data:{kind};base64,{base64.b64encode(media).decode()}",
        data=json.dumps(data),
    )
    write_text(target, text)
