"""What each command asks of the memory, and how it shows the answer."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from cerememory.cli.main import run
from cerememory.cli.recall import _raw_table, _recalled_table, _record_table
from cerememory.cli.timeline import _table as _timeline_table
from cerememory.errors import ActorBusy
from tests.unit.cli.conftest import FakeMemory

RECORD_ID = "0191aaaa-0000-7000-8000-000000000001"
TIME = "2025-05-04T10:00:00.123456789Z"
WIDTH = 100
NEWEST = {"cue": {}, "limit": 10, "recall_mode": "human"}


def content(text: str) -> dict[str, Any]:
    return {"blocks": [{"modality": "text", "format": "text/plain", "data": list(text.encode())}], "summary": None}


def record(text: str) -> dict[str, Any]:
    return {
        "id": RECORD_ID,
        "store": "episodic",
        "created_at": TIME,
        "content": content(text),
        "fidelity": {"score": 0.25, "last_decay_tick": None},
        "emotion": {"joy": 1.0, "fear": 0.0},
        "associations": [],
        "metadata": {},
        "meta": None,
    }


def recalled(*texts: str) -> dict[str, Any]:
    hits = [
        {"record": record("as stored"), "rendered_content": content(text), "relevance_score": 0.5}
        for text in texts
    ]
    return {"memories": hits, "total_candidates": 7, "query_metadata": {"index_complete": True}}


def drawn(table: Table, width: int = WIDTH) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue()


def text_body(text: str, **more: Any) -> dict[str, Any]:
    return {"content": {"blocks": [{"modality": "text", "format": "text/plain", "text": text}]}, **more}


STORED = {"record_id": RECORD_ID, "store": "semantic", "initial_fidelity": 1.0, "associations_created": 0}


def test_store_sends_what_it_was_given_and_no_more(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.answers["encode.store"] = STORED
    assert run(["store", "hi"]) == 0
    assert memory.calls == [("encode.store", text_body("hi", store="episodic"), {})]
    assert capsys.readouterr() == (f"Stored: {RECORD_ID} (store: semantic, fidelity: 1)\n", "")


def test_store_reads_vector_emotion_and_meta(memory: FakeMemory) -> None:
    memory.answers["encode.store"] = STORED
    run(["store", "hi", "--embedding", "-1, 2.5", "--emotion", "SAD", "--meta-json", '{"tags": ["a"]}'])
    (_, body, _) = memory.calls[0]
    assert body["content"]["blocks"][0]["embedding"] == [-1.0, 2.5]
    assert (body["emotion"]["sadness"], body["emotion"]["valence"]) == (1.0, -1.0)
    assert body["meta"]["tags"] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--embedding", "1,x"], "--embedding: expected numbers as 0.1,0.2, got '1,x'"),
        (["--embedding", "1,nan"], "--embedding: must hold finite float32 numbers"),
        (
            ["--emotion", "meh"],
            "--emotion: unknown label 'meh', expected one of joy, trust, fear, surprise, "
            "sadness, disgust, anger, anticipation",
        ),
        (["--meta-json", "{"], "--meta-json: not readable as JSON: input data was truncated"),
        (["--meta-json", '{"goals": 1}'], "--meta-json.goals: expected array, got integer"),
    ],
)
def test_an_argument_that_cant_be_read_is_named(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["store", "hi", *arguments]) == 1
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert memory.calls == []


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
@pytest.mark.parametrize(
    "arguments",
    [["store"], ["store", "--embedding", "1,2"], ["store-raw", "--session-id", "s"], ["update", RECORD_ID]],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_blank_text_is_a_mistake(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert run([*arguments, text]) == 2
    assert capsys.readouterr() == ("", "error: TEXT: must not be blank\n")
    assert memory.calls == []


@pytest.mark.parametrize("number", ["1.5", "-0.1", "nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("arguments", "option"),
    [(["timeline"], "--min-fidelity"), (["associate", RECORD_ID], "--min-weight")],
    ids=["timeline", "associate"],
)
def test_a_share_is_from_0_to_1(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], arguments: list[str], option: str, number: str
) -> None:
    assert run([*arguments, f"{option}={number}"]) == 2
    message = capsys.readouterr().err
    assert option in message
    assert f"expected a number from 0 to 1, got {float(number):g}" in message
    assert (message.count("\n"), memory.calls) == (1, [])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_both_ends_of_a_share_are_sent(memory: FakeMemory, share: float) -> None:
    memory.answers["recall.timeline"] = {"buckets": []}
    memory.answers["recall.associate"] = {"memories": [], "total_candidates": 0}
    assert run(["timeline", "--min-fidelity", str(share)]) == 0
    assert run(["associate", RECORD_ID, "--min-weight", str(share)]) == 0
    timeline, associate = (body for _operation, body, _path in memory.calls)
    assert (timeline["min_fidelity"], associate["min_weight"]) == (share, share)


def test_update_sends_only_what_changes(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["update", RECORD_ID, "new"]) == 0
    assert memory.calls == [("encode.update", text_body("new"), {"record_id": RECORD_ID})]
    assert capsys.readouterr().out == f"Updated: {RECORD_ID}\n"


def test_an_update_of_nothing_is_a_mistake(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["update", RECORD_ID]) == 2
    assert capsys.readouterr().err == "error: nothing to change: give a text, --emotion or --meta-json\n"
    assert memory.calls == []


def test_an_update_has_an_answer_in_json_too(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    run(["update", RECORD_ID, "new", "--json"])
    assert json.loads(capsys.readouterr().out) == {"record_id": RECORD_ID}


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ([], {"cue": {}, "limit": 10, "recall_mode": "human"}),
        (["fox"], {"cue": {"text": "fox"}, "limit": 10, "recall_mode": "human"}),
        (["--limit", "3", "--mode", "perfect"], {"cue": {}, "limit": 3, "recall_mode": "perfect"}),
        (["--stores", "episodic, semantic"], {**NEWEST, "stores": ["episodic", "semantic"]}),
        (
            ["--session-id", "s-1", "--source", "Ada", "--tag", "a,b", "--tag", "c"],
            {**NEWEST, "scope": {"session_id": "s-1", "source": "Ada", "tags": ["a,b", "c"]}},
        ),
        (
            ["--metadata", "room=bath", "--metadata", "floor=2", "--metadata", 'no="2"', "--metadata", "of=[1,"],
            {**NEWEST, "scope": {"metadata": {"room": "bath", "floor": 2, "no": "2", "of": "[1,"}}},
        ),
        (["--metadata", "a=b=c", "--metadata", "="], {**NEWEST, "scope": {"metadata": {"a": "b=c", "": ""}}}),
    ],
)
def test_recall_asks_for(memory: FakeMemory, arguments: list[str], body: dict[str, Any]) -> None:
    memory.answers["recall.query"] = recalled()
    assert run(["recall", *arguments]) == 0
    assert memory.calls == [("recall.query", body, {})]


def test_recall_in_a_pipe(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.answers["recall.query"] = recalled("a ... fox", "two\nlines \x1b[2J\r")
    run(["recall", "fox"])
    assert capsys.readouterr().out == (
        "Found 2 memories (total candidates: 7)\n"
        "1. [episodic] score=0.5000 fidelity=0.2500\n"
        f"   ID: {RECORD_ID}\n"
        "   a ... fox\n"
        "2. [episodic] score=0.5000 fidelity=0.2500\n"
        f"   ID: {RECORD_ID}\n"
        "   two\n"
        "   lines \\x1b[2J\\r\n"
    )


def test_a_recall_that_may_have_missed_something_says_so(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.answers["recall.query"] = {**recalled("x"), "query_metadata": {"index_complete": False}}
    memory.answers["recall.raw_query"] = {"records": [], "total_candidates": 0, "index_complete": False}
    for command in ("recall", "recall-raw"):
        assert run([command]) == 0
        told = capsys.readouterr().err
        assert told == "note: the search index is still catching up, there may be more to find\n"


def test_an_answer_that_had_no_room_for_all_says_so(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.answers["recall.query"] = {**recalled("x"), "truncated": True}
    memory.answers["recall.associate"] = memory.answers["recall.query"]
    memory.answers["recall.raw_query"] = {"records": [], "total_candidates": 3, "truncated": True}
    for command in (["recall"], ["recall-raw"], ["associate", RECORD_ID]):
        assert run(command) == 0
        told = capsys.readouterr().err
        assert told == "note: what was found is more than one answer has room for; the first of it is shown\n"


def test_a_memory_without_text_says_so(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    answer = recalled("x")
    answer["memories"][0]["rendered_content"]["blocks"][0]["modality"] = "image"
    memory.answers["recall.query"] = answer
    run(["recall"])
    assert "   [non-text content]\n" in capsys.readouterr().out


def test_associate_asks_for_what_hangs_together_with_a_memory(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.answers["recall.associate"] = {"memories": recalled("a fox")["memories"], "total_candidates": 3}
    assert run(["associate", RECORD_ID, "--depth", "4", "--association-types", "causal, semantic"]) == 0
    body = {"depth": 4, "limit": 10, "min_weight": 0.1, "association_types": ["causal", "semantic"]}
    assert memory.calls == [("recall.associate", body, {"record_id": RECORD_ID})]
    assert capsys.readouterr().out == (
        "Found 1 memories (total candidates: 3)\n"
        "1. [episodic] score=0.5000 fidelity=0.2500\n"
        f"   ID: {RECORD_ID}\n"
        "   a fox\n"
    )


def timeline(*texts: str, **more: Any) -> dict[str, Any]:
    """One bucket, which counts one memory more than it has."""
    hits = recalled(*texts)["memories"]
    bucket = {"start": "2025-05-04T00:00:00Z", "end": "2025-05-05T00:00:00Z", "memories": hits}
    return {"buckets": [{**bucket, "count": len(hits) + 1}], **more}


def test_timeline_asks_for_the_last_week_by_day(memory: FakeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.answers["recall.timeline"] = timeline()
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    assert run(["timeline"]) == 0
    span = {"start": "2027-01-08T08:00:00Z", "end": "2027-01-15T08:00:00Z"}
    assert memory.calls == [("recall.timeline", {"range": span, "granularity": "day"}, {})]


def test_timeline_sends_what_it_was_given(memory: FakeMemory) -> None:
    memory.answers["recall.timeline"] = timeline()
    span = {"start": "2025-05-04T00:00:00Z", "end": "2025-05-05T00:00:00Z"}
    given = ["--start", span["start"], "--end", span["end"], "--granularity", "month"]
    run(["timeline", *given, "--min-fidelity", "0.5", "--emotion", "joy"])
    [(_operation, body, _params)] = memory.calls
    assert (body["range"], body["granularity"], body["min_fidelity"]) == (span, "month", 0.5)
    assert body["emotion_filter"]["joy"] == 1.0


def test_a_timeline_in_a_pipe(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.answers["recall.timeline"] = timeline("one", "two\nlines \x1b[2J", truncated=True)
    run(["timeline"])
    assert capsys.readouterr() == (
        "Found 3 memories in 1 buckets\n"
        "2025-05-04T00:00:00Z 3\n"
        f"   {TIME} [episodic] {RECORD_ID}\n"
        "      one\n"
        f"   {TIME} [episodic] {RECORD_ID}\n"
        "      two\n"
        "      lines \\x1b[2J\n",
        "note: there are more memories than one answer has; take a shorter range to see the others\n",
    )


def test_recall_raw_sends_what_it_was_given(memory: FakeMemory) -> None:
    memory.answers["recall.raw_query"] = {"records": [], "total_candidates": 0}
    run(["recall-raw", "fox", "--session-id", "s", "--include-sealed", "--secrecy-levels", "secret"])
    assert memory.calls[0][1] == {
        "query": "fox",
        "session_id": "s",
        "limit": 10,
        "include_private_scratch": False,
        "include_sealed": True,
        "secrecy_levels": ["secret"],
    }


def test_a_table_of_memories_shows_text_id_and_numbers() -> None:
    table = drawn(_recalled_table(recalled("a [bold]red[/bold] fox")))
    for shown in ("a [bold]red[/bold] fox", RECORD_ID, "episodic", "0.5000", "0.2500", "1 of 7 found"):
        assert shown in table


def test_a_table_of_a_timeline_shows_when_and_what() -> None:
    table = drawn(_timeline_table(timeline("a fox", "two foxes")))
    assert table.count("2025-05-04T00:00:00Z") == 1
    for shown in ("a fox", "two foxes", RECORD_ID, "episodic", "3 memories in 1 buckets"):
        assert shown in table


def test_a_table_of_raw_entries_shows_who_said_it_when() -> None:
    entry = {**record("hello"), "session_id": "s\x07", "speaker": "user"}
    table = drawn(_raw_table({"records": [entry], "total_candidates": 1}))
    for shown in ("hello", "s\\x07", "user", "2025-05-04T10:00:00Z"):
        assert shown in table


def test_a_table_of_raw_entries_has_room_in_80_columns_for_ids_and_times() -> None:
    entries = [{**record("x" * 90), "session_id": "s" * 90, "speaker": "assistant"}] * 100
    lines = drawn(_raw_table({"records": entries, "total_candidates": 1}), 80).splitlines()
    assert {len(line) for line in lines[:-1]} == {80}
    assert all(any(shown in line for line in lines) for shown in (RECORD_ID, "2025-05-04T10:00:00Z", "assistant"))


@pytest.mark.parametrize("columns", [40, 76, 80])
@pytest.mark.parametrize("command", ["recall", "recall-raw", "timeline"])
def test_a_terminal_is_never_too_narrow_for_ids_and_times(
    memory: FakeMemory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    columns: int,
) -> None:
    entry = {**record("hello"), "session_id": "s", "speaker": "user"}
    memory.answers["recall.query"] = recalled("a fox")
    memory.answers["recall.raw_query"] = {"records": [entry], "total_candidates": 1}
    memory.answers["recall.timeline"] = timeline("a fox")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has 80 columns whatever is said
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run([command]) == 0
    shown = capsys.readouterr().out
    assert RECORD_ID in shown
    assert command != "recall-raw" or "2025-05-04T10:00:00" in shown
    assert command != "timeline" or "2025-05-04T00:00:00Z" in shown


def test_a_table_of_one_record_leaves_out_what_says_nothing() -> None:
    lines = drawn(_record_table(record("hello"))).splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [
        "text",
        "emotion joy",
        "id",
        "store",
        "created at",
        "fidelity score",
    ]


def test_stats_are_pretty_json_in_a_pipe(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.answers["introspect.stats"] = {"total_records": 1, "oldest_record": None}
    run(["stats"])
    assert capsys.readouterr().out == '{\n  "total_records": 1,\n  "oldest_record": null\n}\n'


def test_what_a_memory_raises_ends_the_command(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.error = ActorBusy("writer")
    assert run(["store", "x"]) == 1
    assert capsys.readouterr() == ("", "error: writer is busy, try again\n")


def lines_file(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "lines"
    path.write_text("\n".join(lines))
    return str(path)


def test_load_goes_in_batches_of_200(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["load", lines_file(tmp_path, *map(str, range(450)))]) == 0
    assert [len(body["records"]) for _, body, _ in memory.calls] == [200, 200, 50]
    assert {operation for operation, _, _ in memory.calls} == {"encode.batch"}
    assert capsys.readouterr().out == "Loaded 450 records\n"


def test_load_keeps_batches_below_the_limit_of_a_request(memory: FakeMemory, tmp_path: Path) -> None:
    run(["load", lines_file(tmp_path, *["x" * 1_000_000] * 10)])
    assert [len(body["records"]) for _, body, _ in memory.calls] == [8, 2]


def test_load_of_an_empty_file_asks_nothing(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["load", lines_file(tmp_path, "", " ", "\u3000"), "--json"]) == 0
    assert memory.calls == []
    assert json.loads(capsys.readouterr().out) == {"records_loaded": 0}


def test_a_line_of_json_becomes_text_and_context(memory: FakeMemory, tmp_path: Path) -> None:
    lines = [
        '{"text": "a", "speaker": "Ada", "dia": 3}',
        '{"text": "b", "session": "s", "time": "noon"}',
        '{"text": "c"}',
    ]
    run(["load", lines_file(tmp_path, *lines)])
    assert memory.calls[0][1]["records"] == [
        text_body("a", context={"source": "Ada"}),
        text_body("b", context={"session_id": "s", "temporal": "noon"}),
        text_body("c"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": 3}', "line 2.text: expected string, got integer"),
        (b'{"text": ""}', "line 2.text: must not be blank"),
        (b'{"text": " \\n\\u3000"}', "line 2.text: must not be blank"),
        (b"plain text", "line 2: not readable as JSON: invalid character (byte 0)"),
        (b"[1]", "line 2: expected object, got array"),
        (b'{"text": "\xff"}', "line 2: not readable as JSON: invalid UTF-8"),
    ],
)
def test_a_bad_line_of_json_is_named(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], tmp_path: Path, line: bytes, message: str
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"text": "good"}\n' + line)
    assert run(["load", str(path)]) == 1
    assert capsys.readouterr().err == f"error: {path} {message} (0 records were loaded before)\n"
    assert memory.calls == []


@pytest.mark.parametrize(
    ("line", "message"),
    [(b"\xff", "text must be UTF-8"), (b"x" * 8_388_609, "longer than 8388608 bytes")],
    ids=["not UTF-8", "too long"],
)
def test_a_bad_line_of_text_is_named(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], tmp_path: Path, line: bytes, message: str
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"good\n\n" + line)
    assert run(["load", str(path)]) == 1
    assert capsys.readouterr().err == f"error: {path} line 3: {message} (0 records were loaded before)\n"


def test_a_file_that_isnt_there_is_named(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["load", "nowhere.txt"]) == 1
    assert capsys.readouterr().err == "error: nowhere.txt: No such file or directory\n"


def test_a_terminal_gets_the_table_of_what_was_kept(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.answers["encode.store_raw"] = {"record_id": RECORD_ID, "session_id": "tea", "visibility": "normal"}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert run(["store-raw", "kettle", "--session-id", "tea"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [["record", "id", RECORD_ID], ["session", "id", "tea"], ["visibility", "normal"]]


def test_a_terminal_gets_the_table(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.answers["introspect.stats"] = {"total_records": 1, "avg_fidelity": 0.5, "is_on": False, "none": None}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    run(["stats"])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [["total", "records", "1"], ["avg", "fidelity", "0.5000"], ["is", "on", "false"]]
