"""Exported and imported runs."""

import json

import pytest
import torch
from one_line import refused
from safetensors.torch import load_file
from tones import name, write_data

import fastdmt
from fastdmt.cli.main import main
from fastdmt.models.localizer import build_localizer


def call(*args) -> None:
    assert main([str(a) for a in args]) == 0


def read_as_a_hub_reads_it(card: str, expected: dict[str, float]) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (the extra [hub])")
    data = hub.ModelCard(card).data
    assert data.library_name == "fastdmt" and "sound-source-localization" in data.tags
    assert {(r.metric_type, r.metric_value) for r in data.eval_results} == {
        (key, round(100 * expected[key], 1)) for key in ("ciou", "auc")
    }
    assert {r.dataset_name for r in data.eval_results} == {"data, test.csv"}


def test_export_is_the_teachers_and_nothing_of_this_machine(run, files, tmp_path):
    out = tmp_path / "hub"
    call("eval", run)
    call("export", run, out, "--hub-layout")
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "config.json", "origins.json", "README.md"}
    assert all(key.startswith("teachers.") for key in load_file(out / "model.safetensors"))
    for file in ("config.json", "origins.json", "README.md"):
        assert str(files.parent) not in (out / file).read_text()
    mine, theirs = fastdmt.load(run), fastdmt.load(out)
    frames, sound = (
        torch.rand(2, 3, 32, 32),
        {"logmel": torch.rand(2, 3, 1, 96, 64), "spectrogram": torch.rand(2, 1, 257, 200)},
    )
    for source in ("teachers", "A", "B", "intersection"):
        assert torch.equal(mine.maps(frames, sound, source), theirs.maps(frames, sound, source))
    summary = json.loads((run / "eval" / "metrics.json").read_text())["summary"]
    card = (out / "README.md").read_text()
    row = summary["adaptive"]
    assert f"| adaptive | {100 * row['ciou']:.1f} / {100 * row['auc']:.1f} | 100.0 / 100.0 |" in card
    assert card.startswith("---\nlibrary_name: fastdmt\n") and "random initialisation" in card
    read_as_a_hub_reads_it(card, summary["absolute"])
    assert "already holds a run" in refused("export", run, out)
    assert "fastdmt eval" in refused("export", out, tmp_path / "again", "--hub-layout")
    call("eval", out, "--data", files, "--out", tmp_path / "eval")
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["summary"] == summary


def test_imported_checkpoint_evaluates_and_predicts(tmp_path):
    torch.manual_seed(0)
    theirs = build_localizer("ezvsl", "resnet18", "spectrogram", dim=32, output_stride=32)
    names = {"visual.": "imgnet.", "visual_head.": "img_proj.", "audio.": "audnet.", "audio_head.": "aud_proj."}
    state = {}
    for key, tensor in theirs.state_dict().items():
        for ours, prefix in names.items():
            if key.startswith(ours):
                state[f"module.{prefix}{key.removeprefix(ours)}"] = tensor
    torch.save({"model": state, "epoch": 3}, tmp_path / "best.pth")
    out = tmp_path / "ezvsl"
    call("import", "ezvsl", tmp_path / "best.pth", out)
    assert json.loads((out / "origins.json").read_text()) == ["localizers A and B: ezvsl checkpoint best.pth"]
    model = fastdmt.load(out)
    frames, spectrogram = torch.rand(2, 3, 224, 224), torch.rand(2, 1, 257, 200)
    s = theirs.eval()(frames, spectrogram).map
    p = torch.nn.functional.interpolate(s[:, None], size=(224, 224), mode="bilinear", align_corners=False)[:, 0]
    low, high = p.amin((1, 2), keepdim=True), p.amax((1, 2), keepdim=True)
    assert torch.allclose(model.maps(frames, {"spectrogram": spectrogram}), (p - low) / (high - low), atol=1e-5)
    root = write_data(tmp_path / "tones")
    (tmp_path / "two.txt").write_text(f"{name(0)}\n{name(4)}\n")
    call("eval", out, "--data", root, "--list", tmp_path / "two.txt")
    assert "ezvsl checkpoint best.pth" in (out / "eval" / "report.html").read_text()
    frame, sound = root / "frames" / f"{name(0)}.jpg", root / "audio" / f"{name(0)}.wav"
    call("predict", out, frame, sound, "--out", tmp_path / "maps")
    assert list((tmp_path / "maps").glob("*-map.png"))
    assert "already holds a run" in refused("import", "ezvsl", tmp_path / "best.pth", out)
    assert "does not fit a checkpoint of lvs" in refused("import", "lvs", tmp_path / "best.pth", tmp_path / "x")
    assert not (tmp_path / "x").exists()
