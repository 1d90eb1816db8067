"""Every command in three ways: through the daemon that owns the data dir, on the data dir itself, and through a
daemon at a URL. What it prints is the same each time, and here word for word.

The daemons are processes; most commands run inside the test, which spares the time of loading them, and a few
are processes too. Ids, times and scores are replaced by their names before texts are compared.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cerememory.cli import main, turns
from cerememory.storage.datadir import DataDir, prepare
from tests.support.daemon import Daemon, cerememory
from tests.support.terminal import shown_by

NOBODY = "http://127.0.0.1:9"
UNKNOWN_ID = "01920000-0000-7000-8000-000000000000"
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
NUMBER = re.compile(r"=\d\.\d{4}")

RECORD = """\
{
  "id": "ID",
  "store": "semantic",
  "created_at": "TIME",
  "updated_at": "TIME",
  "last_accessed_at": "TIME",
  "access_count": 0,
  "content": {
    "blocks": [
      {
        "modality": "text",
        "format": "text/plain",
        "data": [72, 105],
        "embedding": [0.5, -1.0]
      }
    ],
    "summary": null
  },
"""
RAW_RECALLED = """\
{
  "records": [
    {
      "id": "ID",
      "session_id": "quiz",
      "turn_id": null,
      "topic_id": "capitals",
      "source": "summary",
      "speaker": "assistant",
      "visibility": "sealed",
      "secrecy_level": "secret",
      "created_at": "TIME",
      "updated_at": "TIME",
      "content": {
        "blocks": [
          {
            "modality": "text",
            "format": "text/plain",
            "data": [79, 115, 108, 111],
            "embedding": null
          }
        ],
        "summary": null
      },
"""

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


def run_here(*arguments: str | Path, stdin: str = "") -> Result:
    """What `cerememory` would do as a process, with its output in pipes."""
    output, errors = io.StringIO(), io.StringIO()
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    with redirect_stdout(output), redirect_stderr(errors), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", given)
        for name in [name for name in os.environ if name.startswith("CEREMEMORY_")]:
            patch.delenv(name)
        code = main.run([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("cli") / "data") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("elsewhere") / "data") as daemon:
        yield daemon


@pytest.fixture(params=["daemon", "offline", "server-url"])
def run(request: pytest.FixtureRequest, daemon: Daemon, elsewhere: Daemon, tmp_path: Path) -> Run:
    """`cerememory` in one of the three ways, where a data dir is; what it stores can be found when it returns."""
    prepare(tmp_path / "data")
    asked = {"daemon": daemon, "offline": None, "server-url": elsewhere}[request.param]
    told: dict[str, list[str | Path]] = {
        "daemon": ["--data-dir", daemon.data_dir],
        "offline": ["--data-dir", tmp_path / "data"],
        "server-url": ["--server-url", elsewhere.url],
    }

    def run(*arguments: str, stdin: str = "") -> Result:
        result = run_here(*told[request.param], *arguments, stdin=stdin)
        if asked is not None:
            asked.wait_until_searchable()
        return result

    return run


def printed(result: Result) -> str:
    """The output of a command that succeeded without a word on stderr, with ids, times and numbers replaced."""
    assert (result.returncode, result.stderr) == (0, "")
    return NUMBER.sub("=NUMBER", TIME.sub("TIME", ID.sub("ID", result.stdout)))


def answer(result: Result) -> Any:
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def stored_id(result: Result) -> str:
    match = ID.search(result.stdout)
    assert match is not None, result
    return match[0]


def test_store_says_where_it_went(run: Run) -> None:
    assert printed(run("store", "A heron at the pond")) == "Stored: ID (store: episodic, fidelity: 1)\n"


def test_namespaces_are_apart(run: Run) -> None:
    said = {"crew": "The anchor is made of iron", "office": "The anchor is the first slide"}
    for name, words in said.items():
        run("--namespace", name, "store", words)
    for name, words in said.items():
        found = answer(run("recall", "anchor", "--namespace", name, "--json"))
        [record] = [memory["record"] for memory in found["memories"]]
        assert bytes(record["content"]["blocks"][0]["data"]).decode() == words
        assert answer(run("stats", "--namespace", name))["total_records"] == 1
        assert answer(run("inspect", record["id"], "--namespace", name))["id"] == record["id"]
        for other in (["--namespace", "nowhere"], []):
            assert run("inspect", record["id"], *other).returncode == 1
            assert answer(run("recall", "anchor", *other, "--json"))["memories"] == []


def test_a_night_makes_memories_of_the_day(run: Run) -> None:
    night = ["--namespace", "night"]
    for text in ("the tide is high", "the tide falls"):
        run(*night, "store-raw", text, "--session-id", "s-1", "--topic-id", "tides")
    expected = {
        "groups_processed": 1,
        "raw_records_processed": 2,
        "episodic_summaries_created": 1,
        "semantic_nodes_created": 1,
    }
    assert answer(run(*night, "dream-tick")) == expected
    assert answer(run(*night, "dream-tick")) == dict.fromkeys(expected, 0)
    run(*night, "store", "bread")
    counted = "processed=2, migrated=1, compressed=0, pruned=0"
    for dry_run, made in ((["--dry-run"], 0), ([], 1)):
        consolidated = printed(run(*night, "consolidate", "--strategy", "full", *dry_run))
        assert consolidated == f"Consolidated: {counted}, semantic_nodes_created={made}\n"
    for strategy, processed in (("full", 2), ("incremental", 0)):
        again = printed(run(*night, "consolidate", "--strategy", strategy))
        counted = f"processed={processed}, migrated=0, compressed=0, pruned=0"
        assert again == f"Consolidated: {counted}, semantic_nodes_created=0\n"
    assert run(*night, "consolidate", "--strategy", "selective").stderr == (
        "error: strategy: selective needs min_age_hours or min_access_count\n"
    )


def test_a_night_takes_new_memories_too_and_each_once(run: Run) -> None:
    new = ["--namespace", "new"]
    for text in ("the gull sleeps", "the tern wakes"):
        run(*new, "store", text)
    copied = "Consolidated: processed=2, migrated=2, compressed=0, pruned=0, semantic_nodes_created=2\n"
    assert printed(run(*new, "consolidate")) == copied
    before = answer(run(*new, "stats"))["records_by_store"]
    assert (before["episodic"], before["semantic"]) == (2, 2)
    for strategy in ("incremental", "full"):
        run(*new, "consolidate", "--strategy", strategy)
    assert answer(run(*new, "stats"))["records_by_store"] == before


def test_what_decay_archived_is_listed_and_brought_back(run: Run) -> None:
    assert printed(run("--namespace", "attic", "restore")) == "Found 0 memories that can be restored\n"
    assert answer(run("--namespace", "attic", "restore", "--json")) == {"records_restored": 0, "archived": []}


def test_recall_ranks_what_it_found(run: Run) -> None:
    run("store", "The lighthouse keeper plays chess\nwith the postman", "--store", "procedural")
    assert printed(run("recall", "lighthouse")) == (
        "Found 1 memories (total candidates: 1)\n"
        "1. [procedural] score=NUMBER fidelity=NUMBER\n"
        "   ID: ID\n"
        "   The lighthouse keeper plays chess\n"
        "   with the postman\n"
    )


def test_recall_without_a_query_lists_the_newest(run: Run) -> None:
    run("store", "first of two")
    run("store", "second of two")
    listed = printed(run("recall", "--limit", "2", "--mode", "perfect"))
    assert re.findall(r"^   (\w+ of two)$", listed, re.M) == ["second of two", "first of two"]


def test_recall_keeps_to_what_it_is_told(run: Run, tmp_path: Path) -> None:
    lines = tmp_path / "said.jsonl"
    lines.write_text(
        '{"text": "The ladder is red", "session": "shed", "speaker": "Ada"}\n'
        '{"text": "The ladder is blue", "session": "shed", "speaker": "Tom"}\n'
        '{"text": "The ladder is green", "session": "barn", "speaker": "Ada"}\n'
    )
    apart = ["--namespace", "scope"]
    run(*apart, "load", lines)
    run(*apart, "store", "The ladder is white", "--meta-json", '{"tags": ["paint", "new"]}')

    def colours(*arguments: str) -> list[str]:
        return re.findall(r"^   The ladder is (\w+)$", printed(run(*apart, "recall", *arguments)), re.M)

    for query in ([], ["ladder"]):
        assert set(colours(*query)) == {"red", "blue", "green", "white"}
        assert set(colours(*query, "--session-id", "shed")) == {"red", "blue"}
        assert colours(*query, "--session-id", "shed", "--source", "Tom") == ["blue"]
        assert colours(*query, "--tag", "new", "--tag", "paint") == ["white"]
        assert colours(*query, "--tag", "new", "--tag", "old") == []
        assert colours(*query, "--metadata", "room=7") == []
    assert run("recall", "--metadata", "_context=1").stderr == (
        "error: scope.metadata._context: the daemon's own, which can't be asked for\n"
    )


def test_timeline_shows_what_was_stored_this_week(run: Run) -> None:
    for text in ("first", "second"):
        run("--namespace", "timeline", "store", text)
    assert printed(run("--namespace", "timeline", "timeline", "--granularity", "month")) == (
        "Found 2 memories in 1 buckets\n"
        "TIME 2\n"
        "   TIME [episodic] ID\n      first\n"
        "   TIME [episodic] ID\n      second\n"
    )
    [bucket] = answer(run("--namespace", "timeline", "timeline", "--json", "--granularity", "month"))["buckets"]
    assert bucket["count"] == 2


def test_a_memory_that_stands_alone_is_associated_with_none(run: Run) -> None:
    record_id = stored_id(run("store", "alone"))
    assert printed(run("associate", record_id)) == "Found 0 memories (total candidates: 0)\n"


def test_json_is_the_answer_of_the_operation(run: Run) -> None:
    assert set(answer(run("store", "x", "--json"))) == {
        "record_id",
        "store",
        "initial_fidelity",
        "associations_created",
    }
    assert set(answer(run("recall", "x", "--json"))) == {
        "memories",
        "activation_trace",
        "total_candidates",
        "query_metadata",
    }


def test_inspect_prints_the_record(run: Run) -> None:
    record_id = stored_id(run("store", "Hi", "--store", "semantic", "--embedding", "0.5,-1", "--emotion", "Happy"))
    shown = printed(run("inspect", record_id))
    assert shown.startswith(RECORD)
    assert json.loads(shown)["emotion"]["joy"] == 1.0


def test_meta_json_says_why(run: Run) -> None:
    record_id = stored_id(run("store", "Hi", "--meta-json", '{"intent": "greet", "confidence": 0.5}'))
    meta = answer(run("inspect", record_id))["meta"]
    assert (meta["intent"], meta["confidence"], meta["capture_status"]) == ("greet", 0.5, "provided")


def test_update_corrects_the_text(run: Run) -> None:
    record_id = stored_id(run("store", "The meeting is on Monday"))
    assert printed(run("update", record_id, "The meeting is on Thursday")) == "Updated: ID\n"
    record = answer(run("inspect", record_id))
    assert bytes(record["content"]["blocks"][0]["data"]).decode() == "The meeting is on Thursday"
    assert record["version"] == 2


def test_store_raw_prints_the_answer(run: Run) -> None:
    assert printed(run("store-raw", "Oslo", "--session-id", "quiz")) == (
        '{\n  "record_id": "ID",\n  "session_id": "quiz",\n'
        '  "visibility": "normal",\n  "secrecy_level": "public"\n}\n'
    )


def test_recall_raw_shows_what_is_asked_for_alone(run: Run, request: pytest.FixtureRequest) -> None:
    session = request.node.name
    told = ["--topic-id", "capitals", "--source", "summary", "--speaker", "assistant"]
    secret = ["--visibility", "sealed", "--secrecy-level", "secret"]
    run("store-raw", "Oslo", "--session-id", session, *told, *secret)
    asked = ["recall-raw", "oslo", "--session-id", session, "--include-sealed"]
    assert answer(run(*asked)) == {"records": [], "total_candidates": 0}
    shown = printed(run(*asked, "--secrecy-levels", "public,secret"))
    assert shown.startswith(RAW_RECALLED.replace("quiz", session))
    assert json.loads(shown)["total_candidates"] == 1


def test_stats_counts(run: Run) -> None:
    run("store", "x")
    before = answer(run("stats"))
    run("store", "y")
    after = answer(run("stats", "--json"))
    assert after["total_records"] == before["total_records"] + 1
    assert after["records_by_store"]["episodic"] == before["records_by_store"]["episodic"] + 1


@pytest.mark.parametrize("file", ["-", "lines.txt"])
def test_load_keeps_each_line_of_a_text(run: Run, tmp_path: Path, file: str) -> None:
    lines = "\ufefflines of a sonnet\r\n\n  \n{not JSON\nlines of an ode"
    (tmp_path / file).write_text(lines)
    path = file if file == "-" else str(tmp_path / file)
    assert printed(run("load", path, stdin=lines)) == "Loaded 3 records\n"
    newest = answer(run("recall", "--limit", "3", "--json"))["memories"]
    texts = [bytes(hit["record"]["content"]["blocks"][0]["data"]).decode() for hit in newest]
    assert sorted(texts) == ["lines of a sonnet", "lines of an ode", "{not JSON"]


def test_load_keeps_who_when_and_where_of_json_lines(run: Run) -> None:
    line = {"text": "See you at noon", "time": "2025-05-04T10:00:00Z", "speaker": "Ada", "session": "s7", "id": 3}
    assert printed(run("load", "-", stdin=json.dumps(line))) == "Loaded 1 records\n"
    (hit,) = answer(run("recall", "--limit", "1", "--json"))["memories"]
    assert hit["record"]["metadata"]["_context"] == {
        "source": "Ada",
        "session_id": "s7",
        "spatial": None,
        "temporal": "2025-05-04T10:00:00Z",
    }


def test_load_says_how_far_it_came(run: Run) -> None:
    lines = [json.dumps({"text": f"line {i}"}) for i in range(250)]
    refused = run("load", "-", stdin="\n".join([*lines, '{"txet": "a typo"}']))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "error: - line 251.text: missing field (200 records were loaded before)\n"


def test_load_names_the_line_that_the_daemon_refuses(run: Run) -> None:
    refused = run("load", "-", stdin="\n" + "x" * 1_048_577)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "error: records[0].content.blocks[0]: text of 1048577 bytes, at most 1048576 are allowed "
        "(records[0] is - line 2) (0 records were loaded before)\n"
    )


def test_working_memory_is_warned_of(run: Run) -> None:
    stored = run("store", "on the tip of my tongue", "--store", "working")
    assert ID.sub("ID", stored.stdout) == "Stored: ID (store: working, fidelity: 1)\n"
    assert stored.stderr.startswith("warning: working memory isn't kept on disk")
    assert stored.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["associate", UNKNOWN_ID], f"Record not found: {UNKNOWN_ID}"),
        (["inspect", UNKNOWN_ID], f"Record not found: {UNKNOWN_ID}"),
        (["update", UNKNOWN_ID, "x"], f"Record not found: {UNKNOWN_ID}"),
        (["store-raw", "x", "--session-id", " "], "session_id: must not be blank"),
        (["recall", "--limit", "-1"], "limit: expected integer >= 0"),
        (["store", "x", "--meta-json", '{"confidence": 2}'], "--meta-json.confidence: expected number <= 1.0"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_refused_is_said_in_one_line(run: Run, arguments: list[str], message: str) -> None:
    refused = run(*arguments)
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", f"error: {message}\n")


@pytest.mark.parametrize("way", ["daemon", "offline"])
def test_commands_are_processes_of_their_own(daemon: Daemon, tmp_path: Path, way: str) -> None:
    data_dir = daemon.data_dir if way == "daemon" else tmp_path / "data"
    stored = cerememory("store", "The spare key is under the fern", "--data-dir", data_dir)
    assert printed(stored) == "Stored: ID (store: episodic, fidelity: 1)\n"
    daemon.wait_until_searchable()
    found = printed(cerememory("recall", "spare key", "--data-dir", data_dir))
    assert found.endswith("   ID: ID\n   The spare key is under the fern\n")
    inspected = answer(cerememory("inspect", stored_id(stored), "--data-dir", data_dir))
    assert inspected["access_count"] == 1


def test_a_memory_stored_offline_is_found_by_the_daemon(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    run_here("store", "The spare key is under the fern", "--data-dir", data_dir)
    with Daemon(data_dir) as daemon:
        assert "(1 records)" in daemon.banner[1]
        daemon.wait_until_searchable()
        found = run_here("recall", "spare key", "--data-dir", data_dir)
    assert "under the fern" in found.stdout


def test_offline_refuses_a_data_dir_that_a_daemon_owns(daemon: Daemon) -> None:
    refused = run_here("store", "x", "--offline", "--data-dir", daemon.data_dir)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: {daemon.data_dir}: in use by process {daemon.process.pid} at {daemon.address}; "
        "stop it or use another\n"
    )


def test_a_data_dir_that_a_command_keeps_for_itself_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "FREE_WITHIN_S", 0.0)
    with DataDir.acquire(tmp_path / "data") as directory:
        directory.announce("")
        refused = run_here("store", "x", "--data-dir", tmp_path / "data")
    assert refused.returncode == 1
    assert re.fullmatch(
        r"error: .*: in use by process \d+, a command; try again when it is done\n", refused.stderr
    )


def test_a_command_gets_in_with_the_key_that_the_daemon_left_for_it(tmp_path: Path) -> None:
    env = {"CEREMEMORY_AUTH__ENABLED": "true", "CEREMEMORY_AUTH__API_KEYS": "sesame"}
    with Daemon(tmp_path / "data", env=env) as daemon:
        by_token = cerememory("store", "x", "--data-dir", daemon.data_dir)
        by_key = cerememory("store", "x", "--server-url", daemon.url, env={"CEREMEMORY_SERVER_API_KEY": "sesame"})
        without = cerememory("store", "x", "--server-url", daemon.url)
    assert (by_token.returncode, by_key.returncode, without.returncode) == (0, 0, 1)
    assert without.stderr.startswith("error: ")


def test_a_daemon_that_is_away_is_said_to_be() -> None:
    refused = run_here("store", "x", "--server-url", NOBODY)
    assert refused.returncode == 1
    assert refused.stderr == f"error: {NOBODY} can't be reached: Connection refused; is the daemon running?\n"


def test_healthcheck_says_ok(daemon: Daemon) -> None:
    assert printed(run_here("healthcheck", "--port", daemon.address.rpartition(":")[2])) == "ok\n"
    assert printed(run_here("healthcheck", "--server-url", daemon.url)) == "ok\n"


def test_healthcheck_fails_with_the_reason() -> None:
    failed = run_here("healthcheck", "--port", "9")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == (
        "error: http://127.0.0.1:9 gives no answer: Connection refused; is the daemon running?\n"
    )


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    record_id = stored_id(run_here("store", "a \x1b[31mred\x1b[0m [bold]fox", "--data-dir", data_dir))
    table = shown_by("recall", "--data-dir", data_dir)
    assert "┃" in table
    assert record_id in table
    assert "a \\x1b[31mred\\x1b[0m [bold]fox" in table  # neither coloured nor taken for markup


def test_a_terminal_gets_json_when_asked_for(tmp_path: Path) -> None:
    run_here("store", "x", "--data-dir", tmp_path / "data")
    shown = json.loads(shown_by("recall", "--json", "--data-dir", tmp_path / "data"))
    assert shown["total_candidates"] == 1


def test_nothing_is_coloured_where_colour_isnt_wanted(tmp_path: Path) -> None:
    shown = shown_by("config", "check", "--data-dir", tmp_path / "data", env={"NO_COLOR": "1"})
    assert set(re.findall(r"\x1b\[([\d;]*)m", shown)) <= {"", "0", "1", "2", "2;3"}  # bold, dim and italics


def test_help_in_a_pipe_is_plain() -> None:
    helped = cerememory("store", "--help")
    assert helped.returncode == 0
    assert "\x1b" not in helped.stdout
    for option in ("--store", "--embedding", "--emotion", "--meta-json", "--data-dir", "--json"):
        assert option in helped.stdout
