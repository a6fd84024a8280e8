"""Empty files under the names of a data set."""

from pathlib import Path

XML = "<a><p><bbox><n>x</n><xmin>20</xmin><ymin>30</ymin><xmax>200</xmax><ymax>220</ymax></bbox></p></a>"


def touch(root: Path, ids: list[str], boxes: bool = False) -> None:
    """Empty files: the index looks at names only."""
    for folder in ("frames", "audio", *(["Annotations"] if boxes else [])):
        (root / folder).mkdir(exist_ok=True)
    for i in ids:
        (root / "frames" / f"{i}.jpg").touch()
        (root / "audio" / f"{i}.wav").touch()
        if boxes:
            (root / "Annotations" / f"{i}.xml").write_text(XML)
