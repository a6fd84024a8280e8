"""Help, version, completion, names with a dash: what answers before torch is imported."""

import os
import resource
import subprocess
import sys

import pytest

from fastdmt.cli.helping import ACTIONS, ESSENTIALS
from fastdmt.cli.main import COMMANDS, as_paths, main, parse


def helped(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_short_help_names_fifteen_settings_with_the_chosen_presets_defaults(capsys):
    text = helped(capsys, "train", "--preset", "vggsound-144k", "--help")
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert shown == [f"--{name}" for name in (*ESSENTIALS, *ACTIONS)] and len(ESSENTIALS) == 15
    assert "--epochs EPOCHS  (default: 20)" in text and "data/vggsound" in text and "--help-all" in text
    assert "(default: 100)" in helped(capsys, "train", "--preset", "vggsound-10k", "--help")


def test_the_whole_help_names_what_the_short_one_leaves_out(capsys):
    text = helped(capsys, "train", "--preset", "vggsound-144k", "--help-all")
    assert "--pack-accepted" in text and "data/vggsound" in text


def test_version(capsys):
    assert helped(capsys, "--version").startswith("fastdmt 0.")


@pytest.mark.parametrize(
    "words, says",
    [
        (["nonsense"], "unknown command 'nonsense'"),
        (["evl"], "did you mean 'eval'?"),
        (["train", "--stepz", "3"], "--stepz"),
        (["eval", "no-such-run"], "no-such-run: no such file"),
        (["predict", "no-such-run", "a.jpg", "a.wav"], "no-such-run: no such file"),
    ],
)
def test_a_typing_error_costs_less_than_half_a_second_of_the_processor(words, says):
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fastdmt", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert says in done.stderr
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not modules & {"torch", "numpy", "rich.table"}
    # A tenth of that on a quiet machine; importing torch alone would take several times as long.
    assert spent() - before < 1.5


def test_completion_is_a_script_that_the_shell_takes(tmp_path):
    text = subprocess.run(
        [sys.executable, "-m", "fastdmt", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    script = tmp_path / "complete.bash"
    script.write_text(
        text
        + 'COMP_WORDS=(fastdmt data in); COMP_CWORD=2; _fastdmt; echo "${COMPREPLY[@]}"\n'
        + 'COMP_WORDS=(fastdmt train --pack); COMP_CWORD=2; _fastdmt; echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["index", "--pack-accepted"]
    assert all(command in text for command in COMMANDS)


def test_files_whose_names_begin_with_a_dash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("-HJaALbNOdO_000238.mp4", "--run"):
        (tmp_path / file).touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert as_paths(["-HJaALbNOdO_000238.mp4", "--out", "x"]) == ["./-HJaALbNOdO_000238.mp4", "--out", "x"]
    assert as_paths(["--run", "x"]) == ["--run", "x"]
    assert as_paths(["run", "--", "-a.mp4", "b"]) == ["run", "./-a.mp4", "b"]
    for words in (["-HJaALbNOdO_000238.mp4"], ["--", "-HJaALbNOdO_000238.mp4"]):
        _, config = parse(["predict", "run", *words])
        assert [os.fspath(path) for path in config.inputs] == ["-HJaALbNOdO_000238.mp4"]


def test_a_former_option_goes_on_with_a_notice(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    _, config = parse(["predict", str(tmp_path / "run"), "clip.mp4", "--live"])
    assert config.player
    assert capsys.readouterr().err == "note: --live is called --player now\n"
