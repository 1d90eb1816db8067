"""forget, restore and compact: what they ask of the memory, and whom they ask before."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cerememory.cli import lifecycle
from cerememory.cli.lifecycle import _archived_table
from cerememory.cli.main import run
from cerememory.storage.datadir import DataDir
from tests.unit.cli.conftest import FakeMemory

ID, OTHER_ID = "0191aaaa-0000-7000-8000-000000000001", "0191aaaa-0000-7000-8000-000000000002"
MADE, UNTIL = "2025-05-04T10:00:00Z", "2026-08-02T10:00:00Z"
COMPACTED = {"bytes_before": 40_960, "bytes_after": 8_192}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> FakeMemory:
    memory = FakeMemory()
    memory.answers["lifecycle.forget"] = {"records_deleted": 3}
    memory.answers["lifecycle.restore"] = {"records_restored": 2}
    memory.answers["lifecycle.compact"] = dict(COMPACTED)
    monkeypatch.setattr(lifecycle, "connect", lambda options, **_: nullcontext(memory))
    return memory


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Somebody sits at a terminal and types `text`."""
    monkeypatch.setattr(sys, "stdin", Terminal(text))


def asked(memory: FakeMemory) -> list[tuple[str, bool]]:
    """The operations that were asked for, and whether as a dry run."""
    return [(operation, bool(body.get("dry_run"))) for operation, body, _params in memory.calls]


COUNTS, DELETES = ("lifecycle.forget", True), ("lifecycle.forget", False)


@pytest.mark.parametrize("answer", ["y\n", "Y\n", " yes \n"])
def test_who_says_yes_at_a_terminal_deletes_what_was_counted(
    memory: FakeMemory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    typed(monkeypatch, answer)
    assert run(["forget", ID]) == 0
    assert asked(memory) == [COUNTS, DELETES]
    assert capsys.readouterr() == (
        "Deleted 3 record(s)\n",
        "Delete 3 record(s)? They can't be brought back. [y/N] ",
    )


@pytest.mark.parametrize("answer", ["n\n", "\n", "yeah\n", ""])
def test_anything_else_deletes_nothing(
    memory: FakeMemory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    typed(monkeypatch, answer)
    assert run(["forget", ID]) == 1
    assert asked(memory) == [COUNTS]
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1].endswith("error: nothing was deleted")) == ("", True)


def test_nobody_waits_for_who_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("CEREMEMORY_")]:
        monkeypatch.delenv(name)
    here = ["--data-dir", str(tmp_path / "data")]
    assert run(["store", "a red kettle", "--store", "procedural", *here]) == 0

    class Thinking:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            DataDir.acquire(tmp_path / "data").release()
            return "y\n"

    monkeypatch.setattr(sys, "stdin", Thinking())
    capsys.readouterr()
    assert run(["forget", "--store", "procedural", *here]) == 0
    assert capsys.readouterr() == (
        "Deleted 1 record(s)\n",
        "Delete 1 record(s)? They can't be brought back. [y/N] ",
    )


def test_without_a_terminal_it_has_to_be_confirmed(
    memory: FakeMemory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run(["forget", ID]) == 1
    assert DELETES not in asked(memory)
    assert "give --confirm" in capsys.readouterr().err


def test_what_is_confirmed_is_deleted_without_a_question(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["forget", ID, "--confirm"]) == 0
    assert asked(memory) == [DELETES]
    assert capsys.readouterr() == ("Deleted 3 record(s)\n", "")


def test_a_dry_run_counts_and_asks_nobody(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["forget", ID, "--dry-run"]) == 0
    assert asked(memory) == [COUNTS]
    assert capsys.readouterr() == ("Would delete 3 record(s)\n", "")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([ID, OTHER_ID], {"record_ids": [ID, OTHER_ID]}),
        ([ID.upper().replace("-", "")], {"record_ids": [ID]}),
        (["--store", "procedural"], {"store": "procedural"}),
        (["--session", "s-1"], {"session_id": "s-1"}),
        (["--raw", ID, "--raw", OTHER_ID], {"raw_record_ids": [ID, OTHER_ID]}),
        ([ID, "--cascade"], {"record_ids": [ID], "cascade": True}),
    ],
)
def test_it_sends_what_was_selected(memory: FakeMemory, given: list[str], sent: dict[str, Any]) -> None:
    assert run(["forget", *given, "--confirm"]) == 0
    [(_operation, body, _params)] = memory.calls
    assert body == {"cascade": False, "confirm": True, "dry_run": False, **sent}


@pytest.mark.parametrize("given", [[], ["--confirm"], ["--cascade", "--confirm"]])
def test_nothing_selected_means_nothing(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    assert run(["forget", *given]) == 2
    assert memory.calls == []
    assert "what is to be forgotten?" in capsys.readouterr().err


def test_what_was_forgotten_can_be_compacted_away_at_once(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["forget", ID, "--confirm", "--compact"]) == 0
    assert asked(memory) == [DELETES, ("lifecycle.compact", False)]
    assert capsys.readouterr().out.splitlines() == [
        "Deleted 3 record(s)",
        "Compacted: bytes_before=40960, bytes_after=8192, gained=32768",
    ]
    assert run(["forget", ID, "--confirm", "--compact", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"records_deleted": 3, **COMPACTED}


def test_a_dry_run_compacts_nothing(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["forget", ID, "--dry-run", "--compact"]) == 2
    assert memory.calls == []
    assert capsys.readouterr().err == "error: --dry-run and --compact exclude each other\n"


def test_compact_says_what_was_gained(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compact"]) == 0
    assert memory.calls == [("lifecycle.compact", {}, {})]
    assert capsys.readouterr().out == "Compacted: bytes_before=40960, bytes_after=8192, gained=32768\n"
    assert run(["compact", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == COMPACTED


def test_restore_sends_the_ids_and_says_how_many_came_back(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["restore", ID, OTHER_ID]) == 0
    assert memory.calls == [("lifecycle.restore", {"record_ids": [ID, OTHER_ID]}, {})]
    assert capsys.readouterr().out == "Restored 2 record(s)\n"


def archived(*summaries: str) -> list[dict[str, Any]]:
    told = {"store": "episodic", "created_at": MADE, "kept_until": UNTIL}
    return [{"record_id": ID, "summary": summary, **told} for summary in summaries]


def test_restore_without_ids_lists_what_can_be(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    listed = archived("the red kettle", "two\nlines \x1b[31m")
    memory.answers["lifecycle.restore"] = {"records_restored": 2, "archived": listed}
    assert run(["restore"]) == 0
    assert memory.calls == [("lifecycle.restore", {"dry_run": True}, {})]
    head = f"{ID} [episodic] until {UNTIL}\n   {MADE}\n"
    assert capsys.readouterr() == (
        f"Found 2 memories that can be restored\n{head}   the red kettle\n{head}   two\n   lines \\x1b[31m\n",
        "",
    )
    assert run(["restore", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["archived"] == listed


def test_a_list_that_is_cut_says_so(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.answers["lifecycle.restore"] = {"records_restored": 3, "archived": archived("a", "b")}
    assert run(["restore"]) == 0
    note = "note: there are more: the list ends at 2, those that go for good first come first\n"
    assert capsys.readouterr().err == note


def test_a_terminal_gets_a_table_of_what_can_be_restored() -> None:
    text = io.StringIO()
    table = _archived_table({"records_restored": 1, "archived": archived("the [red] kettle\x1b[31m")})
    Console(file=text, width=100).print(table)
    for shown in ("the [red] kettle\\x1b[31m", ID, "episodic", MADE[:10], UNTIL[:10], "1 can be restored"):
        assert shown in text.getvalue()
