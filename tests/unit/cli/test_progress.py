"""How far a command is: drawn for whoever looks, with the rate and the time left, and for nobody else."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator

import pytest
from rich.progress import Progress

from cerememory.cli.bars import RateColumn
from cerememory.cli.progress import STEP, counted, counting, measured


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def looked_at(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What is shown from now on; within a test, since pytest puts its own stderr back in front of each."""
    shown = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


def by_counting() -> Iterator[int]:
    with counting("Encrypting", "rows", lambda: 3) as advance:
        for number in range(3):
            advance(1)
            yield number


WAYS: dict[str, Callable[[], Iterator[object]]] = {
    "Encrypting": by_counting,
    "Copying": lambda: counted(range(2 * STEP), 2 * STEP, "Copying"),
    "Importing": lambda: measured([b"x" * 1_000] * 3, 3_000, "Importing"),
}
REACHED = {"Encrypting": "3/3", "Copying": f"{2 * STEP}/{2 * STEP}", "Importing": "3.0/3.0 kB"}


@pytest.mark.parametrize("what", WAYS)
def test_somebody_who_looks_sees_how_far_it_is(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looked_at(monkeypatch)
    unseen = [*WAYS[what]()]
    assert what in terminal.getvalue()
    assert REACHED[what] in terminal.getvalue()
    assert "0:00:00" in terminal.getvalue()  # the time left, at its end
    assert unseen


@pytest.mark.parametrize("what", WAYS)
def test_nobody_else_sees_anything_and_gets_the_same(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    unseen = [*WAYS[what]()]
    assert capsys.readouterr() == ("", "")
    assert len(unseen) == {"Encrypting": 3, "Copying": 2 * STEP, "Importing": 3}[what]


def test_what_isnt_looked_at_isnt_counted_beforehand() -> None:
    def never() -> int:
        raise AssertionError("counted for nobody")

    with counting("Indexing", "records", never) as advance:
        advance(1)


def test_a_rate_says_how_many_a_second() -> None:
    now = [0.0]
    progress = Progress(get_time=lambda: now[0], disable=True)
    task_id = progress.add_task("Indexing", total=30_000)
    [task] = progress.tasks
    column = RateColumn("records")
    assert str(column.render(task)) == ""
    for _second in range(2):
        progress.advance(task_id, 5_000)
        now[0] += 2.0
    progress.advance(task_id, 5_000)
    assert str(column.render(task)) == "2,500 records/s"
