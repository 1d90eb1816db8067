"""What a shell completes, asked of bash itself; and where the scripts go."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cyclopts import App

from cerememory.cli import completion
from cerememory.cli.commands import COMMANDS
from cerememory.cli.main import run
from cerememory.cli.recorder.app import COMMANDS as RECORDER_COMMANDS
from cerememory.cli.recorder.main import run as run_recorder
from tests.support.daemon import WAIT_S
from tests.support.nobody import no_home

# Sources the script $1, and says for each line of stdin what is offered behind it.
ASK = """
source "$1"
while IFS= read -r line; do
  read -ra COMP_WORDS <<< "$line"
  [[ "$line" == *' ' ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  COMPREPLY=()
  "_$2"
  echo "${COMPREPLY[*]}"
done
"""
COMMON = {"--data-dir", "--config", "--server-url", "--namespace", "--offline", "--json", "--verbose"}
OFFERED = {  # some of what is offered behind a line
    "cerememory ": {name for _group, name, _path, _summary in COMMANDS if not name.startswith("-")},
    "cerememory rec": {"recall", "recall-raw"},
    "cerememory --": {*COMMON, "--help", "--version", "--install-completion"},
    "cerememory --data-dir /d --json stor": {"store", "store-raw"},
    "cerememory store x --": {"--store", "--emotion", *COMMON},
    "cerememory store x --store ": {"episodic", "semantic", "procedural", "emotional", "working"},
    "cerememory recall-raw --secrecy-levels ": {"public", "sensitive", "secret"},
    "cerememory key ": {"create", "list", "revoke"},
    "cerememory key create --role ": {"read", "write", "admin"},
    "cerememory config --json ch": {"check"},
}


def asked(script: Path, program: str, *lines: str) -> list[set[str]]:
    """What bash offers behind each of `lines`."""
    ran = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", script, program],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    return [set(line.split()) for line in ran.stdout.splitlines()]


def test_bash_completes_commands_options_and_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of commands that are loaded only when they are run."""
    script = tmp_path / "cerememory"
    assert run(["--install-completion", "--shell", "bash", "--output", str(script)]) == 0
    assert capsys.readouterr().out == f"Wrote {script}; a new bash completes with Tab\n"
    offered = dict(zip(OFFERED, asked(script, "cerememory", *OFFERED), strict=True))
    assert {line: OFFERED[line] - offered[line] for line in OFFERED} == {line: set() for line in OFFERED}
    assert offered["cerememory rec"] == {"recall", "recall-raw"}


def test_the_recorder_is_completed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_recorder(["--install-completion", "--shell", "bash", "--output", "-"]) == 0
    script = tmp_path / "recorder"
    script.write_text(capsys.readouterr().out)
    [commands, hosts] = asked(
        script, "cerememory_recorder", "cerememory-recorder ", "cerememory-recorder install-hook "
    )
    assert commands == {name for name, _path, _summary in RECORDER_COMMANDS if not name.startswith("-")}
    assert "codex" in hosts


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of a user, for whom a program with one command is completed: where to, doesn't depend on what."""
    for name in ("ZSH", "ZSH_CUSTOM", "BASH_VERSION", "ZSH_VERSION", "FISH_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(completion, "application", _small)
    return tmp_path


def _small() -> App:
    app = App(name="cerememory")
    app.command(run, name="one")
    return app


@pytest.mark.parametrize(
    ("shell", "script", "startup"),
    [
        ("bash", ".local/share/bash-completion/completions/cerememory", ".bashrc"),
        ("zsh", ".zsh/completions/_cyclopts_cerememory", ".zshrc"),
        ("fish", ".config/fish/completions/cerememory.fish", None),
    ],
)
def test_each_shell_has_its_place(
    home: Path, capsys: pytest.CaptureFixture[str], shell: str, script: str, startup: str | None
) -> None:
    for _twice in range(2):
        assert run(["--install-completion", "--shell", shell, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"shell": shell, "path": str(home / script)}
    assert "one" in (home / script).read_text()
    found = {path.name: path.read_text() for path in home.iterdir() if path.is_file()}
    assert found.keys() == ({startup} if startup else set())
    assert all(text.count(str((home / script).parent)) == (2 if shell == "bash" else 1) for text in found.values())


def test_with_an_output_nothing_else_is_written(home: Path) -> None:
    assert run(["--install-completion", "--shell", "zsh", "--output", str(home / "here")]) == 0
    assert [path.name for path in home.iterdir()] == ["here"]


def test_the_shell_is_the_one_that_runs_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FISH_VERSION", "3.7")
    assert run(["--install-completion"]) == 0
    assert (home / ".config/fish/completions/cerememory.fish").exists()


def test_a_shell_that_isnt_known_must_be_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(completion, "detect_shell", lambda: "powershell")
    assert run(["--install-completion"]) == 2
    assert capsys.readouterr().err == "error: --shell: which one is meant, bash, zsh or fish?\n"
    assert list(home.iterdir()) == []


def test_what_cant_be_written_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "file").touch()
    target = home / "file" / "script"
    assert run(["--install-completion", "--shell", "fish", "--output", str(target)]) == 1
    assert capsys.readouterr().err == f"error: {target.parent}: can't be written: File exists\n"


def test_without_a_home_it_needs_an_output(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_home(monkeypatch)
    assert run(["--install-completion", "--shell", "bash"]) == 1
    assert capsys.readouterr().err == "error: --install-completion without --output needs HOME to be set\n"
    assert run(["--install-completion", "--shell", "bash", "--output", str(home / "here")]) == 0
