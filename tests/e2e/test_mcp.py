"""MCP over stdio against the real daemon: the proxy process as a client starts it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import COMMAND, WAIT_S, Daemon, clean_environment, free_port
from tests.unit.mcp.session import INITIALIZE, Peer

FAILPOINTS = "CEREMEMORY_TEST_FAILPOINTS"


@contextmanager
def proxy(url: str, folder: Path, *options: str) -> Iterator[Peer]:
    """A session that is initialized; its process ends with its input."""
    process = subprocess.Popen(
        [COMMAND, "mcp", "--server-url", url, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        cwd=folder,
    )
    try:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        peer = Peer(process.stdin, process.stdout)
        peer.send_line(json.dumps(INITIALIZE).encode())
        assert peer.receive()["result"]["serverInfo"]["name"] == "cerememory"
        yield peer
        process.stdin.close()
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def called(peer: Peer, tool: str, **arguments: Any) -> Any:
    """What a tool answers, read as JSON, without the namespace that it begins with."""
    result = peer.ask("tools/call", name=tool, arguments=arguments)
    answer = json.loads(result["content"][0]["text"])
    assert answer == result["structuredContent"]
    del answer["namespace"]
    return answer


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("mcp") / "data", env=UNLIMITED) as daemon:
        daemon.wait_until_searchable()
        yield daemon


def test_an_agent_stores_and_recalls(daemon: Daemon, tmp_path: Path) -> None:
    with proxy(daemon.url, tmp_path) as peer:
        stored = called(peer, "store", content="The ferry leaves at noon", emotion="joy")
        daemon.wait_until_searchable()
        [memory] = called(peer, "recall", query="when does the ferry leave", stores="episodic")["memories"]
        assert memory["record_id"] == stored["record_id"]
        assert (memory["text"], memory["emotion"]) == ("The ferry leaves at noon", "joy")
        called(peer, "store", content="The ferry leaves at six on Sundays", meta_json={"tags": ["sunday"]})
        daemon.wait_until_searchable()
        [memory] = called(peer, "recall", query="when leaves the ferry", scope={"tags": ["sunday"]})["memories"]
        assert memory["text"] == "The ferry leaves at six on Sundays"
        peer.call_tool("update", "update", record_id=stored["record_id"], content="The ferry leaves at one")
        assert peer.receive()["result"]["content"][0]["text"] == f"Updated record {stored['record_id']}"
        shown = called(peer, "inspect", record_id=stored["record_id"])
        assert shown["content"]["blocks"][0]["text"] == "The ferry leaves at one"
        assert shown["version"] == 2


def test_batches_and_the_raw_journal_go_through(daemon: Daemon, tmp_path: Path) -> None:
    with proxy(daemon.url, tmp_path) as peer:
        batch = called(peer, "batch_store", records_json=[{"content": "first step"}, {"content": "second step"}])
        assert (len(batch["results"]), batch["associations_inferred"]) == (2, 2)
        raw = called(peer, "store_raw", content="verbatim words", session_id="s-mcp", speaker="assistant")
        more = called(peer, "batch_store_raw", records_json='[{"content": "more words", "session_id": "s-mcp"}]')
        found = called(peer, "recall_raw", session_id="s-mcp")["records"]
        ids = [raw["record_id"], more["results"][0]["record_id"]]
        assert [record["record_id"] for record in found] == ids
        assert called(peer, "stats")["raw_journal_records"] >= 2


def test_associations_and_timeline_go_through(daemon: Daemon, tmp_path: Path) -> None:
    with proxy(daemon.url, tmp_path, "--namespace", "steps") as peer:
        steps = [{"content": "fill"}, {"content": "boil"}, {"content": "pour"}]
        batch = called(peer, "batch_store", records_json=steps)
        ids = [result["record_id"] for result in batch["results"]]
        near = called(peer, "associate", record_id=ids[0])["memories"]
        assert [memory["record"]["content"]["blocks"][0]["text"] for memory in near] == ["boil"]
        far = called(peer, "associate", record_id=ids[0], depth=2)["memories"]
        assert [memory["activation_path"] for memory in far] == [ids[:2], ids]
        [bucket] = called(peer, "timeline", granularity="month")["buckets"]
        assert [memory["record"]["id"] for memory in bucket["memories"]] == ids
        assert bucket["count"] == 3


def test_a_night_goes_through(daemon: Daemon, tmp_path: Path) -> None:
    with proxy(daemon.url, tmp_path, "--namespace", "night") as peer:
        for text in ("the tide is high", "the tide falls"):
            called(peer, "store_raw", content=text, session_id="s-1", topic_id="tides")
        expected = {
            "groups_processed": 1,
            "raw_records_processed": 2,
            "episodic_summaries_created": 1,
            "semantic_nodes_created": 0,
        }
        assert called(peer, "dream_tick", dry_run=True) == expected
        assert called(peer, "dream_tick") == {**expected, "semantic_nodes_created": 1}
        called(peer, "store", content="bread")
        consolidated = called(peer, "consolidate", strategy="full")
        assert (consolidated["records_processed"], consolidated["records_migrated"]) == (2, 1)


def test_two_proxies_in_two_namespaces_see_nothing_of_each_other(daemon: Daemon, tmp_path: Path) -> None:
    asked = {"query": "who feeds the parrot", "limit": 100}
    with (
        proxy(daemon.url, tmp_path, "--namespace", "ship") as ship,
        proxy(daemon.url, tmp_path, "--namespace", "shore") as shore,
        proxy(daemon.url, tmp_path) as default,
    ):
        stored = called(ship, "store", content="The cook feeds the parrot")
        called(shore, "store", content="The gardener feeds the parrot")
        daemon.wait_until_searchable()
        texts = {
            name: [memory["text"] for memory in called(peer, "recall", **asked)["memories"]]
            for name, peer in (("ship", ship), ("shore", shore), ("default", default))
        }
        assert texts["ship"] == ["The cook feeds the parrot"]
        assert texts["shore"] == ["The gardener feeds the parrot"]
        assert not [text for text in texts["default"] if "parrot" in text]
        assert (called(ship, "stats")["total_records"], called(shore, "stats")["total_records"]) == (1, 1)
        shore.call_tool("theirs", "inspect", record_id=stored["record_id"])
        assert "not found" in shore.receive()["error"]["message"]


def test_fifteen_tools_are_listed_with_schemas(daemon: Daemon, tmp_path: Path) -> None:
    with proxy(daemon.url, tmp_path) as peer:
        tools = peer.ask("tools/list")["tools"]
    assert len(tools) == 15
    assert all(tool["inputSchema"]["type"] == "object" and tool["description"] for tool in tools)


def test_memories_and_entries_are_forgotten(daemon: Daemon, tmp_path: Path) -> None:
    with proxy(daemon.url, tmp_path, "--namespace", "forgetful") as peer:
        stored = called(peer, "store", content="a password")
        called(peer, "store_raw", content="a password, verbatim", session_id="s-1")
        assert called(peer, "forget", record_ids=stored["record_id"], confirm=True) == {"records_deleted": 1}
        assert called(peer, "forget", session_id="s-1", confirm=True) == {"records_deleted": 1}
        stats = called(peer, "stats")
        assert (stats["total_records"], stats["raw_journal_records"]) == (0, 0)


def test_an_export_is_a_file_beside_the_client(daemon: Daemon, tmp_path: Path) -> None:
    with proxy(daemon.url, tmp_path, "--namespace", "exported") as peer:
        stored = called(peer, "store", content="worth keeping")
        peer.call_tool("export", "export", output_path="memories.cma")
        told = peer.receive()["result"]["content"][0]["text"]
    assert "Archive written to: memories.cma" in told
    [archive] = tmp_path.glob("*.cma")
    assert stored["record_id"] in archive.read_text()


def test_a_store_whose_daemon_dies_between_commit_and_answer_is_stored_once(tmp_path: Path) -> None:
    """The proxy waits for the daemon to come back and asks again under the same key: one record, one entry."""
    data_dir = tmp_path / "data"
    with (
        Daemon(data_dir, env={**UNLIMITED, FAILPOINTS: "http.before_answer=kill"}) as first,
        proxy(first.url, tmp_path) as peer,
    ):
        peer.call_tool("once", "store", content="stored only once")
        first.wait()
        with Daemon(data_dir, env=UNLIMITED, port=first.port) as second, Caller(second.address) as caller:
            assert second.port == first.port
            stored = json.loads(peer.receive()["result"]["content"][0]["text"])
            assert caller.found("stored only once") == [stored["record_id"]]
            assert caller.stats()["total_records"] == 1


def test_a_store_outlives_the_proxy_that_couldnt_deliver_it(tmp_path: Path) -> None:
    """The daemon is away for longer than the proxy waits; another session finds it, and what waits is stored."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with proxy(url, tmp_path, "--namespace", "away", "--server-timeout-secs", "1") as peer:
        assert called(peer, "store", content="The ferry leaves at noon")["waiting"] is True
    with Daemon(tmp_path / "data", env=UNLIMITED, port=port) as daemon:
        assert daemon.url == url
        with proxy(url, tmp_path, "--namespace", "away") as peer:
            assert called(peer, "stats")["total_records"] == 1
            assert called(peer, "stats")["total_records"] == 1
