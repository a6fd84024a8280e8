"""Runs by the name that the Hugging Face hub gives them: ORG/NAME, or ORG/NAME@REVISION."""

from __future__ import annotations

import re
from pathlib import Path

from fastdmt.errors import FastDMTError

NAME = re.compile(
    r"(?P<org>[A-Za-z0-9][\w.-]{0,95})/(?P<name>[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,100}))?"
)
# What `fastdmt export` writes. Nothing else is fetched: no code, and no file that could be one.
FILES = ("config.json", "model.safetensors", "origins.json", "README.md")


def run_folder(run: str | Path) -> Path:
    """The folder of a run that is named by its path, or by its name on the hub.

    A text of the form ORG/NAME is a name on the hub where there is neither such a folder nor a folder ORG: a path with
    a typing error asks nobody. The hub is asked by huggingface_hub, which keeps what it fetched and answers from there
    when HF_HUB_OFFLINE=1 or there is no network.

    Raises:
        FastDMTError: huggingface_hub is absent, or has no such model and cannot get it.
    """
    found = NAME.fullmatch(run) if isinstance(run, str) else None
    if found is None or Path(run).exists() or Path(found["org"]).exists():
        return Path(run)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise FastDMTError(
            f"{run}: no such folder; as a name on the Hugging Face hub it needs huggingface_hub: "
            "pip install 'fastdmt[hub]'"
        ) from None
    try:
        name = f"{found['org']}/{found['name']}"
        return Path(snapshot_download(name, revision=found["revision"], allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:  # what it raises for absent models, absent networks, and refused names
        reason = " ".join(str(error).split())[:200]  # its first line names no cause
        raise FastDMTError(
            f"{run}: no such folder, and the hub gives no such model ({reason}); check the name"
        ) from None
