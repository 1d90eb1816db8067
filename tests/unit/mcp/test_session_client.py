"""The client of a session: its reads are to have in them what it stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cerememory.mcp.session_client import SessionClient
from cerememory.mcp.toolbox import Toolbox
from tests.support.fake_daemon import FakeDaemon, Reply, answer, raw_answer
from tests.unit.mcp.answers import ID, recalled

STORED = {"record_id": ID, "store": "episodic", "initial_fidelity": 1.0, "associations_created": 0}
HEADER = "x-cerememory-sequence"


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(default=answer(recalled())) as daemon:
        yield daemon


@pytest.fixture
def tools(daemon: FakeDaemon) -> Iterator[Toolbox]:
    with SessionClient(daemon.url, wait=lambda _seconds: None) as client:
        yield Toolbox(client)


def stored(commit: int) -> Reply:
    return answer(STORED, X_Cerememory_Sequence=str(commit))


def not_there(newest: int) -> Reply:
    body = {
        "code": "DECAY_ENGINE_BUSY",
        "message": "X-Cerememory-Sequence: commit 57 isn't visible yet",
        "details": {"newest_sequence": newest},
        "retry_after": 1,
        "request_id": ID,
    }
    return answer(body, 503)


def named(daemon: FakeDaemon) -> list[str | None]:
    return [request.headers.get(HEADER) for request in daemon.requests]


def test_a_read_names_the_newest_commit_of_the_session(daemon: FakeDaemon, tools: Toolbox) -> None:
    daemon.then(answer(recalled()), stored(7), stored(8))
    for tool in ("recall", "store", "store", "recall", "recall"):
        tools.call(tool, {"content": "kettle"} if tool == "store" else {"query": "kettle"})
    assert named(daemon) == [None, None, None, "8", "8"]


def test_so_does_an_export(daemon: FakeDaemon, tools: Toolbox, tmp_path: Path) -> None:
    archive = {"X_Cerememory_Archive_Id": "a", "X_Cerememory_Record_Count": "1", "X_Cerememory_Checksum": "c"}
    daemon.then(stored(7), raw_answer(b"archive", 200, **archive))
    tools.call("store", {"content": "kettle"})
    tools.call("export", {"output_path": f"{tmp_path}/out.cma"})
    assert named(daemon) == [None, "7"]


def test_a_commit_that_a_restored_daemon_hasnt_got_is_named_no_more(daemon: FakeDaemon, tools: Toolbox) -> None:
    """A session outlives its daemon, and a backup is older."""
    daemon.then(stored(57), not_there(40), answer(recalled()), stored(41))
    tools.call("store", {"content": "kettle"})
    tools.call("recall", {"query": "kettle"})
    tools.call("store", {"content": "cup"})
    tools.call("recall", {"query": "cup"})
    assert named(daemon) == [None, "57", "40", None, "41"]
