"""Commands over a run that was trained."""

import dataclasses
import json
from pathlib import Path

from one_line import refused
from tones import PLACES, name, write_data

import fastdmt
from fastdmt.cli.main import main
from fastdmt.evaluation.metrics import RULES
from fastdmt.training.trainer import Trainer


def call(*args) -> None:
    assert main([str(a) for a in args]) == 0


def test_a_run_knows_which_weights_it_began_with_even_after_resuming(run, files, tmp_path):
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


def test_an_own_list_with_clips_of_the_training_is_told(run, tmp_path, capsys):
    """As when test.csv changed since the training: the figures of the others stand beside the whole."""
    test = (run / "lists" / "test.txt").read_text().split()[:3]
    trained = (run / "lists" / "train_unlabelled.txt").read_text().split()[:2]
    for ids in (test, test + trained, trained):
        (tmp_path / "list.txt").write_text("\n".join(ids))
        call("eval", run, "--list", tmp_path / "list.txt", "--out", tmp_path / "out")
        said, page = " ".join(capsys.readouterr().out.split()), (tmp_path / "out" / "report.html").read_text()
        if ids == test:
            summary = json.loads((tmp_path / "out" / "metrics.json").read_text())["summary"]
            assert "training lists" not in said + page
            continue
        others = ", ".join(f"{rule} {100 * summary[rule]['ciou']:.1f}" for rule in RULES)
        whole = f"2 items were in the training lists; CIoU@0.5 on the other 3: {others}"
        expected = whole if ids != trained else "all 2 sounding items were in the training lists"
        assert f"note: {expected}" in said and expected in page


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


def test_suite_refusals(run, files, tmp_path):
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
