"""redact: which pieces it asks for, and what they add up to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from cerememory.cli import redact
from cerememory.cli.main import run
from tests.unit.cli.conftest import FakeMemory

IDS = [f"0191aaaa-0000-7000-8000-{number:012d}" for number in range(25)]
COMPACTED = {"bytes_before": 40_960, "bytes_after": 8_192}


def piece(cursor: str | None, **given: Any) -> dict[str, Any]:
    return {
        "records_scanned": 500,
        "entries_redacted": 0,
        "memories_redacted": 0,
        "kept_redacted": 0,
        "secrets": {},
        "dreamt_ids": [],
        "next_cursor": cursor,
        **given,
    }


class Pieces(FakeMemory):
    """Answers one piece after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = [piece(None)]
        self.answers["lifecycle.compact"] = COMPACTED

    def call(
        self, operation_name: str, body: object | None = None, *, path_params: Mapping[str, str] | None = None
    ) -> Any:
        answer = super().call(operation_name, body, path_params=path_params)
        return self.pieces.pop(0) if operation_name == "lifecycle.redact" else dict(answer)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Pieces:
    made = Pieces()
    monkeypatch.setattr(redact, "connect", lambda options, **_: nullcontext(made))
    return made


def test_it_goes_on_until_all_was_looked_at_and_adds_up(
    memory: Pieces, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.pieces = [
        piece("0.aa", entries_redacted=2, secrets={"token": 1, "named_value": 2}),
        piece("1.", entries_redacted=1, secrets={"token": 1}),
        piece(None, memories_redacted=1, kept_redacted=3),
    ]
    assert run(["redact", "--rescan"]) == 0
    bodies = [body for _operation, body, _params in memory.calls]
    assert bodies == [{"include_dreamt": False, "dry_run": False, "cursor": each} for each in (None, "0.aa", "1.")]
    assert capsys.readouterr() == (
        "Redacted: entries=3, memories=1, kept=3 (named_value=2, token=2)\n",
        "note: what was taken out is on the disk until cerememory compact\n",
    )


def test_nothing_found_leaves_nothing_to_compact(memory: Pieces, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["redact", "--rescan"]) == 0
    assert capsys.readouterr() == ("Redacted: entries=0, memories=0, kept=0\n", "")


@pytest.mark.parametrize(
    ("given", "verb", "what"),
    [
        (["--dry-run"], "Would redact", "redacts them"),
        ([], "Redacted", "redacts what looks like a secret; what doesn't goes with forget"),
    ],
)
def test_memories_that_are_left_are_named(
    memory: Pieces, capsys: pytest.CaptureFixture[str], given: list[str], verb: str, what: str
) -> None:
    memory.pieces = [piece("2.", dreamt_ids=IDS), piece(None, dreamt_ids=IDS[:2])]
    assert run(["redact", "--rescan", *given]) == 0
    first, second, *named = capsys.readouterr().out.splitlines()
    assert first == f"{verb}: entries=0, memories=0, kept=0"
    assert second == f"Left 25 memories that were dreamt of entries (--include-dreamt {what}):"
    assert named == [*(f"  {record_id}" for record_id in IDS[:20]), "  and 5 more"]


def test_as_json_all_are_there(memory: Pieces, capsys: pytest.CaptureFixture[str]) -> None:
    memory.pieces = [piece(None, entries_redacted=1, secrets={"token": 1}, dreamt_ids=IDS)]
    assert run(["redact", "--rescan", "--include-dreamt", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "records_scanned": 500,
        "entries_redacted": 1,
        "memories_redacted": 0,
        "kept_redacted": 0,
        "secrets": {"token": 1},
        "dreamt_ids": IDS,
    }
    assert err == ""
    assert memory.calls[0][1]["include_dreamt"]


def test_it_compacts_when_asked(memory: Pieces, capsys: pytest.CaptureFixture[str]) -> None:
    memory.pieces = [piece(None, entries_redacted=1)]
    assert run(["redact", "--rescan", "--compact"]) == 0
    assert [operation for operation, _body, _params in memory.calls] == ["lifecycle.redact", "lifecycle.compact"]
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == "Compacted: bytes_before=40960, bytes_after=8192, gained=32768"
    assert err == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "what is to be redacted? Give --rescan"),
        (["--rescan", "--dry-run", "--compact"], "--dry-run and --compact exclude each other"),
    ],
)
def test_what_means_nothing_is_refused(
    memory: Pieces, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert run(["redact", *given]) == 2
    assert message in capsys.readouterr().err
    assert memory.calls == []
