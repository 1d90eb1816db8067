"""The help of all commands: what the library for command lines would make of them, without that library."""

from __future__ import annotations

import re
import sys
from io import BytesIO, TextIOWrapper

import pytest

from cerememory.cli.app import application, parse
from cerememory.cli.commands import COMMANDS, asks_for_overview
from cerememory.cli.main import run
from cerememory.cli.options import COMMON_FIELDS
from cerememory.cli.overview import COLUMNS, COLUMNS_MIN, Look, overview

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(autouse=True)
def nothing_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.mark.parametrize("columns", [48, 61, 74, 80, 99, 140, 200])
def test_it_is_what_the_library_makes_of_the_registered_commands(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    parse(["--help"])()
    expected = capsys.readouterr().out
    assert run(["--help"]) == 0
    assert capsys.readouterr().out == expected


def test_nothing_is_lost_where_there_is_little_room() -> None:
    shown = overview(Look(COLUMNS_MIN))
    assert max(map(len, shown.splitlines())) == COLUMNS_MIN
    kept = re.sub(r"[\s│]", "", shown)
    for _group, name, _path, summary in COMMANDS:
        first = summary.split()[0]
        assert name.partition("-")[0] in kept
        assert first in kept


def test_colours_change_nothing_else() -> None:
    coloured = overview(Look(80, is_coloured=True))
    assert "\x1b[36mrecall" in coloured
    assert ESCAPE.sub("", coloured) == overview(Look(80))


class Screen(TextIOWrapper):
    """A terminal with an encoding."""

    def __init__(self, encoding: str) -> None:
        self.bytes = BytesIO()
        super().__init__(self.bytes, encoding=encoding)

    def isatty(self) -> bool:
        return True


def shown_on(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> str:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", screen)
        assert run(["--help"]) == 0
    return screen.bytes.getvalue().decode()


def test_a_terminal_gets_what_it_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = shown_on(Screen("utf-8"), monkeypatch)
    assert "╭─ Memories ─" in shown
    assert "\x1b[" in shown
    shown = shown_on(Screen("ascii"), monkeypatch)
    assert "+- Memories -" in shown
    assert "\\u" not in shown


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_colours_can_be_declined(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert "\x1b" not in shown_on(Screen("utf-8"), monkeypatch)


@pytest.mark.parametrize(("forced", "is_coloured"), [("1", True), ("", False)])
def test_colours_can_be_forced_on_a_pipe(
    forced: str, is_coloured: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", forced)
    assert run(["--help"]) == 0
    assert ("\x1b" in capsys.readouterr().out) is is_coloured


@pytest.mark.parametrize(
    ("told", "columns"),
    [
        ("100", 100),
        ("5", COLUMNS_MIN),
        ("0", COLUMNS),
        ("-100", COLUMNS),
        ("wide", COLUMNS),
        ("9" * 5_000, COLUMNS),
    ],
    ids=["a width", "a narrow one", "none", "less than none", "a word", "too many digits"],
)
def test_it_is_as_wide_as_it_is_told(
    told: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", told)
    monkeypatch.setattr("os.get_terminal_size", _no_terminal)
    run(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) == columns


def _no_terminal(_descriptor: int) -> None:
    raise OSError(25, "Inappropriate ioctl for device")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-h"],
        ["--help", "--version"],
        ["--version", "--help"],
        ["--help", "recall"],
        ["recall", "x", "-h"],
        ["--version", "recall", "--help"],
        ["bogus", "--help"],
        ["bogus", "recall", "--help"],
        ["--bogus", "--help"],
        ["--install-completion", "--help"],
        ["config", "init", "--help"],
        ["config", "--help"],
    ],
    ids=" ".join,
)
def test_it_is_shown_where_the_library_would_show_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parse(words)()
    is_of_all = capsys.readouterr().out.startswith("Usage: cerememory COMMAND")
    assert asks_for_overview(words) is is_of_all


@pytest.mark.parametrize("words", [[], ["recall"], ["--version"], ["recall", "--help=1"]], ids=" ".join)
def test_nobody_gets_it_who_did_not_ask(words: list[str]) -> None:
    assert not asks_for_overview(words)


def test_every_row_is_a_registered_command() -> None:
    """And every command a row: help shows the one, a command line means the other."""
    registered = {name for name in application() if name not in ("--help", "-h", "--version")}
    assert registered == {name for _group, name, _path, _summary in COMMANDS}
    assert not registered & COMMON_FIELDS.keys()
