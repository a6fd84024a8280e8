"""Which items a run has: nothing that nobody gave, and the lists that it began with."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from films import write_film
from one_line import refused
from safetensors.torch import load_file
from tiny_runs import QUIET, final, tiny, train

import fastdmt.data.run_data as run_data
from fastdmt import load
from fastdmt.cli.main import main
from fastdmt.data.run_data import open_data
from fastdmt.errors import FastDMTError
from fastdmt.evaluation.suites import leaks
from fastdmt.presets import preset
from fastdmt.runs import checkpoint
from fastdmt.runs.settings import load_config
from fastdmt.training.trainer import Trainer
from fastdmt_loaders import Pair
from fastdmt_loaders.tools.demo import make_demo

TINY = ["--size", "32", "--batch", "8", "--warmup-steps", "2", "--steps", "2"]


def refuse(capsys, *args) -> str:
    capsys.readouterr()
    assert main([str(a) for a in args]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


# ------------------------------------------------------------------ data that nobody gave


def test_a_folder_that_is_missing_is_never_filled(data, tmp_path, monkeypatch, capsys):
    """The demo's preset is every command's default: a typing error must not be answered with synthetic clips."""
    monkeypatch.chdir(tmp_path)
    stop_after_six(tiny(Path("data"), Path("run")))
    before = sorted(tmp_path.rglob("*"))
    for words in (
        ("train", "--data", "dtaa", "--run", "other", *TINY),
        ("demo", "--data", "dtaa", "--run", "other", *TINY),
        ("compare", "--data", "dtaa", "--run", "other", *TINY),
        ("eval", "run", "--data", "dtaa"),
        ("eval", "run", "--data", "dtaa", "--suite", "flickr"),
    ):
        assert "dtaa: no such" in refuse(capsys, *words), words
    data.rename(tmp_path / "elsewhere")
    for words in (("eval", "run"), ("eval", "run", "--suite", "vggss"), ("train", "--run", "run", "--resume")):
        assert f"{data}: no such folder; give --data FOLDER" in refuse(capsys, *words), words
    (tmp_path / "elsewhere").rename(data)
    assert sorted(tmp_path.rglob("*")) == before


def test_python_callers_get_no_invented_files_either(tmp_path):
    with pytest.raises(FastDMTError, match="no such folder"):
        Trainer(tiny(tmp_path / "absent", tmp_path / "run"), QUIET)
    assert not (tmp_path / "absent").exists()


def test_the_demo_is_made_in_its_own_place_for_a_new_run_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []

    def small(root, progress):
        made.append(root)
        make_demo(root, clips=48, labelled=10, seed=1, videos=0)

    monkeypatch.setattr(run_data, "make_demo", small)
    cfg = tiny(preset("demo").data.root, tmp_path / "run")
    train(cfg)
    assert [root.absolute() for root in made] == [tmp_path / "data" / "demo"]
    shutil.rmtree(tmp_path / "data")
    for missing in (
        dataclasses.replace(cfg, resume=True),
        dataclasses.replace(cfg, preset="paper", run=tmp_path / "b"),
    ):
        with pytest.raises(FastDMTError, match="no such folder"):
            Trainer(missing, QUIET)
    assert len(made) == 1


def test_a_run_of_a_relative_folder_goes_on_from_everywhere(data, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stop_after_six(tiny(Path("data"), Path("run")))
    assert load_config(tmp_path / "run").data.root == data
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert main(["train", "--run", "../run", "--resume"]) == 0
    assert main(["eval", "../run", "--out", "here"]) == 0
    parts = final(tmp_path / "run")
    assert all((whole[key] == parts[key]).all() for key in whole)
    assert sorted(path.name for path in Path().iterdir()) == ["here"]


# ------------------------------------------------------------------ a resumed run's lists


def stop_after_six(cfg) -> None:
    """A run that is stopped in its second stage."""
    trainer = Trainer(cfg, QUIET)
    step = trainer.step

    def stop_early():
        values = step()
        trainer.leaving.wanted = trainer.global_step == 6
        return values

    trainer.step = stop_early
    assert trainer.run().interrupted


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory) -> dict:
    """Weights of a run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(tiny(files, run))
    return final(run)


@pytest.fixture(scope="module")
def half(files, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("half") / "run"
    stop_after_six(tiny(files, run))
    return run


@pytest.fixture
def stopped(half, data, tmp_path) -> Path:
    """A copy of a stopped run, on a copy of its data."""
    run = Path(shutil.copytree(half, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    config["data"]["root"] = str(data)
    (run / "config.json").write_text(json.dumps(config))
    return run


def files_of(run: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in [run / "split.json", *(run / "lists").iterdir()]}


@pytest.mark.parametrize("change", ["fewer labelled", "other test items", "no lists", "new files"])
def test_a_resumed_run_keeps_its_lists(stopped, whole, data, capsys, change):
    before = files_of(stopped)
    trained = run_data.trained_ids(stopped)
    if change == "fewer labelled":
        (data / "labelled.txt").write_text("\n".join((data / "labelled.txt").read_text().split()[:5]))
    elif change == "other test items":  # clips that the run was trained on
        (data / "test.csv").write_text("\n".join(trained[:4]))
    elif change == "no lists":
        for name in ("labelled.txt", "train.txt", "val.txt"):
            (data / name).unlink()
    else:
        (data / "train.txt").write_text((data / "train.txt").read_text() + "new_000001\n")
        for folder, old in (("frames", trained[0]), ("audio", trained[0])):
            path = next((data / folder).glob(f"{old}.*"))
            shutil.copy(path, path.with_stem("new_000001"))
    assert main(["train", "--run", str(stopped), "--resume"]) == 0
    assert "have changed since: this run keeps the lists that it began with" in capsys.readouterr().out.replace(
        "\n", " "
    )
    assert files_of(stopped) == before
    parts = final(stopped)
    assert all((whole[key] == parts[key]).all() for key in whole), "the batches are those of the first lists"


def test_nothing_is_said_where_nothing_changed(stopped, capsys):
    before = files_of(stopped)
    assert main(["train", "--run", str(stopped), "--resume"]) == 0
    assert "have changed" not in capsys.readouterr().out and files_of(stopped) == before


@pytest.mark.parametrize("folder, what", [("audio", "no frame or no sound"), ("Annotations", "no boxes to learn from")])
def test_items_that_are_gone_are_named(stopped, data, capsys, folder, what):
    gone = json.loads((stopped / "split.json").read_text())["train_labelled"][:2]
    for clip in gone:
        next((data / folder).glob(f"{clip}.*")).unlink()
    before = files_of(stopped)
    line = refuse(capsys, "train", "--run", stopped, "--resume")
    assert gone[0] in line and what in line and "1 more" in line and files_of(stopped) == before
    assert checkpoint.last_step(stopped) == 6


@pytest.mark.parametrize("text", ["{", "[]", '{"train_labelled": 3}', "\x00", "null", ""])
def test_a_damaged_split_is_named_and_the_lists_stand_in_for_it(stopped, capsys, text):
    good = (stopped / "split.json").read_text()
    (stopped / "split.json").write_text(text)
    assert str(stopped / "split.json") in refuse(capsys, "train", "--run", stopped, "--resume")
    (stopped / "split.json").unlink()
    kept, meant = run_data.kept_split(stopped), json.loads(good)
    assert all(getattr(kept, role) == meant[role] for role in run_data.ROLES)


def test_released_models_have_no_lists(files, tmp_path):
    train(tiny(files, tmp_path / "run"))
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert run_data.kept_split(tmp_path / "out") is None and run_data.trained_ids(tmp_path / "out") == []
    assert load(tmp_path / "out").cfg.data.root == Path("data")


# ------------------------------------------------------------------ files that are wrong


def run_args(data, tmp_path, *more):
    return ["train", "--data", data, "--run", tmp_path / "run", *TINY, *more]


def first_training_id(data) -> str:
    return (data / "labelled.txt").read_text().split()[0]


def test_no_such_folder_empty_list_and_unknown_names(data, tmp_path):
    line = refused(*run_args(tmp_path / "absent", tmp_path, "--preset", "vggsound-10k"))
    assert str(tmp_path / "absent") in line
    (data / "train.txt").write_text("")
    assert "train.txt" in refused(*run_args(data, tmp_path))
    assert "demo" in refused(*run_args(data, tmp_path, "--preset", "nope"))
    assert "nope" in refused("nope")
    assert "--delta" in refused(*run_args(data, tmp_path, "--delta", "1.5"))
    assert "config.json" in refused("eval", tmp_path)


def test_id_without_a_sound(data, tmp_path):
    clip = first_training_id(data)
    for path in (data / "audio").glob(f"{clip}.*"):
        path.unlink()
    with open(data / "train.txt", "a") as file:
        file.write("never_seen_000001\n")
    line = refused(*run_args(data, tmp_path))
    assert "never_seen_000001" in line or clip in line


def test_ids_with_blanks_are_known_again_as_trained(files, tmp_path):
    """Ids with blanks, commas and quotes: split at a blank, none of them would be counted as trained on."""
    ids = ["a b", "c, d", 'say "e"', " f", "g\u2028h", "# i", "video"]
    cfg = tiny(files, tmp_path)
    split = run_data.Split(ids[:4], ids[4:], ["v w"], ["t u"])
    run_data.Data(run_data.open_files(cfg), split, cfg, []).write_splits(tmp_path)
    assert run_data.trained_ids(tmp_path) == ids
    assert leaks([Pair(i, "other", True) for i in ids] + [Pair("a", "b", True)], ids).tolist() == [True] * 7 + [False]


def test_a_packed_set_trains_with_defaults(files, tmp_path):
    pytest.importorskip("webdataset")
    assert main(["data", "pack", str(files), str(tmp_path / "packed"), "--workers", "1"]) == 0
    words = [*TINY, "--workers", "0", "--cache", "none"]
    for data, run in ((files, "plain"), (tmp_path / "packed", "of shards")):
        assert main(["train", "--data", str(data), "--run", str(tmp_path / run), *words]) == 0
    assert files_of(tmp_path / "plain") == files_of(tmp_path / "of shards")
    weights = [load_file(tmp_path / run / "best.safetensors") for run in ("plain", "of shards")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_what_clips_cost_is_said_with_the_command_that_ends_it(data, tmp_path):
    ids = sorted(path.stem for path in (data / "frames").iterdir())
    film = write_film(tmp_path / "film.mp4", gop=250)
    for id in ids[::2]:
        next((data / "frames").glob(f"{id}.*")).unlink()
        shutil.copyfile(film, data / "frames" / f"{id}.mp4")
    cfg = tiny(data, tmp_path / "run")
    opened = open_data(cfg, QUIET)
    (line,) = [line for line in opened.summary if "are clips" in line]
    training = {*opened.labelled, *opened.unlabelled}
    assert line.startswith(f"{len(training & set(ids[::2]))} of {len(training)} training frames are clips")
    assert "takes 126 decoded ones" in line and line.endswith(f"fastdmt data prepare {data} {data}-prepared")


def test_pictures_cost_nothing_that_must_be_said(files, tmp_path):
    assert not any("are clips" in line for line in open_data(tiny(files, tmp_path / "run"), QUIET).summary)
