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
from tests.support.daemon import COMMAND, WAIT_S, Daemon, clean_environment
from tests.unit.mcp.session import INITIALIZE, Peer

FAILPOINTS = "CEREMEMORY_TEST_FAILPOINTS"
NOT_YET = {
    "timeline": {},
    "associate": {"record_id": "0191aaaa-0000-7000-8000-00000000ffff"},
    "forget": {"record_ids": "0191aaaa-0000-7000-8000-00000000ffff", "confirm": True},
    "dream_tick": {},
    "consolidate": {},
    "export": {"output_path": "memories.cma"},
}


@contextmanager
def proxy(url: str, folder: Path) -> Iterator[Peer]:
    """A session that is initialized; its process ends with its input."""
    process = subprocess.Popen(
        [COMMAND, "mcp", "--server-url", url],
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
    """What a tool answers, read as JSON."""
    result = peer.ask("tools/call", name=tool, arguments=arguments)
    return json.loads(result["content"][0]["text"])


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


def test_fifteen_tools_are_listed_with_schemas(daemon: Daemon, tmp_path: Path) -> None:
    with proxy(daemon.url, tmp_path) as peer:
        tools = peer.ask("tools/list")["tools"]
    assert len(tools) == 15
    assert all(tool["inputSchema"]["type"] == "object" and tool["description"] for tool in tools)


@pytest.mark.parametrize(("tool", "arguments"), NOT_YET.items(), ids=NOT_YET)
def test_a_tool_that_is_not_built_yet_says_so(
    daemon: Daemon, tmp_path: Path, tool: str, arguments: dict[str, Any]
) -> None:
    with proxy(daemon.url, tmp_path) as peer:
        peer.call_tool("call", tool, **arguments)
        assert "isn't available in this version" in peer.receive()["error"]["message"]
    assert list(tmp_path.iterdir()) == []


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
