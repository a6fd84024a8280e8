"""The command line on real files, as a person uses it: options, what is written, and what is refused."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from one_line import refused
from safetensors.torch import load_file
from tones import PLACES, name, write_data

import fastdmt
from fastdmt.cli.main import COMMANDS, main
from fastdmt.models.localizer import build_localizer
from fastdmt.presets import preset
from fastdmt.training.trainer import Trainer
from fastdmt_loaders.tools.demo import make_demo

TINY = ["--size", "32", "--batch", "8", "--warmup-steps", "2", "--steps", "2", "--eval-every", "2", "--log-every", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("files") / "data"
    make_demo(root, clips=48, labelled=10, seed=1)
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """A run of four steps: what it found is worthless, what it left is complete."""
    base = preset("demo")
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    cfg = dataclasses.replace(
        base,
        run=folder,
        data=dataclasses.replace(base.data, root=data, size=32),
        optim=dataclasses.replace(base.optim, batch=8, warmup_steps=2, steps=2),
    )
    Trainer(cfg).run()
    return folder


def call(*args) -> None:
    assert main([str(a) for a in args]) == 0


# ------------------------------------------------------------------ eval


def test_a_run_knows_which_weights_it_began_with_even_after_resuming(run, data, tmp_path):
    lines = json.loads((run / "origins.json").read_text())
    assert lines == [
        f"localizer {k}, {part} encoder: random initialisation" for k in "AB" for part in ("visual", "audio")
    ]
    # A resumed run restores its weights from the checkpoint: what it began with is what the first call noted.
    (run / "origins.json").write_text('["localizer A, visual encoder: resnet.pth"]')
    cfg = dataclasses.replace(fastdmt.load(run).cfg, resume=True)
    assert Trainer(cfg).origins == ["localizer A, visual encoder: resnet.pth"]
    (run / "origins.json").write_text(json.dumps(lines))


def test_eval_reports_the_run_and_its_list(run, tmp_path):
    call("eval", run, "--out", tmp_path / "all")
    page = (tmp_path / "all" / "report.html").read_text()
    for text in ("Run tiny", "dmt, localizer dmt, preset demo, seed 0", "random initialisation", "10 with boxes"):
        assert text in page
    content = json.loads((tmp_path / "all" / "metrics.json").read_text())
    assert content["list"] == "test.csv" and content["protocol"]["options"] == []
    few = tmp_path / "few.txt"
    few.write_text("\n".join(i["video"] for i in content["items"][:3]))
    call("eval", run, "--list", few, "--out", tmp_path / "some")
    some = json.loads((tmp_path / "some" / "metrics.json").read_text())
    same = {i["video"]: i["ciou_median"] for i in content["items"]}
    assert {i["video"]: i["ciou_median"] for i in some["items"]} == {k: same[k] for k in few.read_text().split()}


def test_suite_on_the_command_line_has_published_rows_leaks_and_its_own_folder(run, tmp_path, capsys):
    root = write_data(tmp_path / "tones")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "vggss_test.csv").write_text("".join(f"{name(k)}\n" for k in range(PLACES)) + "absent_000001\n")
    trained = run / "lists" / "train_unlabelled.txt"
    before = trained.read_text()
    trained.write_text(before + f"{name(2)}\n{name(5)}\n")
    try:
        call("eval", run, "--data", root, "--suite", "vggss", "--lists", lists)
    finally:
        trained.write_text(before)
    out = capsys.readouterr().out
    assert "9 of 10 listed items are on disk" in out and "2 items were in the training lists" in out
    assert "34.38" in out and "absolute threshold, best of a grid" in out
    page = (run / "eval" / "vggss" / "report.html").read_text()
    assert "Published figures" in page and "2 items were in the training lists" in page


def test_suite_refusals(run, data, tmp_path):
    assert "--suite" in refused("eval", run, "--lists", tmp_path)
    assert "--list" in refused("eval", run, "--suite", "flickr", "--list", "test.csv")
    assert "flickr_test.csv" in refused("eval", run, "--suite", "flickr", "--lists", tmp_path)
    root = write_data(tmp_path / "tones")
    assert "Annotations" in refused("eval", run, "--data", root, "--suite", "flickr", "--lists", tmp_path)
    assert "--list FILE or --suite" in refused("eval", without_lists(run, tmp_path), "--data", root)


def without_lists(run: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "bare"
    copy.mkdir()
    for file in ("config.json", "best.safetensors"):
        (copy / file).write_bytes((run / file).read_bytes())
    return copy


def test_tables_are_whole_in_a_pipe(run, data):
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "fastdmt", "eval", str(run)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "…" not in done.stdout
    assert all(word in done.stdout for word in ("threshold", "blind disc", "other sound", "drop", "blind disc: a disc"))


# ------------------------------------------------------------------ export, import


def test_export_is_the_teachers_and_nothing_of_this_machine(run, data, tmp_path):
    out = tmp_path / "hub"
    call("eval", run)
    call("export", run, out, "--hub-layout")
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "config.json", "origins.json", "README.md"}
    assert all(key.startswith("teachers.") for key in load_file(out / "model.safetensors"))
    for file in ("config.json", "origins.json", "README.md"):
        assert str(data.parent) not in (out / file).read_text()
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
    assert "already holds a run" in refused("export", run, out)
    assert "fastdmt eval" in refused("export", out, tmp_path / "again", "--hub-layout")
    call("eval", out, "--data", data, "--out", tmp_path / "eval")
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


# ------------------------------------------------------------------ parsing


def test_help_of_every_command_names_each_option_once(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([*command.split(), "--help"])
        assert stop.value.code == 0
        assert f"fastdmt {command}" in capsys.readouterr().out
    assert main(["nope"]) == 2


def test_arguments_are_refused_before_torch_is_imported():
    code = "import sys; from fastdmt.cli.main import main; main(['train', '--preset', 'nope'])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "unknown preset 'nope'" in done.stderr and done.stdout.strip() == "False"
