"""The end of a session: whatever was to be stored is stored, waits in the outbox, or was answered by an error."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cerememory.client import Client
from cerememory.errors import RateLimited
from cerememory.mcp.outbox import Outbox
from cerememory.mcp.proxy import serve
from cerememory.mcp.session_client import SessionClient
from cerememory.mcp.stdio import Output
from cerememory.mcp.toolbox import Toolbox
from cerememory.mcp.workers import THREADS
from tests.support.fake_daemon import FakeDaemon, answer, held, refusal
from tests.unit.mcp.answers import ID
from tests.unit.mcp.session import Session

STORED = {"record_id": ID, "store": "episodic", "initial_fidelity": 1.0, "associations_created": 0}
MORE = 5  # than there are threads


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(default=answer(STORED)) as daemon:
        yield daemon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
def outbox(daemon: FakeDaemon, folder: Path) -> Iterator[Outbox]:
    with Client(daemon.url, retry_for_s=0) as client:
        yield Outbox(client, folder)


@pytest.fixture
def tools(daemon: FakeDaemon, outbox: Outbox) -> Iterator[Toolbox]:
    """Calls go on for as long as they are let: no time passes."""
    with SessionClient(daemon.url, clock=lambda: 0.0, outbox=outbox) as client:
        yield Toolbox(client, outbox=outbox)


def kept(folder: Path) -> list[str]:
    """The texts that wait, in order."""
    bodies = [json.loads(path.read_bytes())["body"] for path in folder.glob("*.json")]
    return sorted(body["content"]["blocks"][0]["text"] for body in bodies)


def test_at_the_end_of_input_nobody_waits_for_a_daemon_that_is_away(
    daemon: FakeDaemon, tools: Toolbox, folder: Path
) -> None:
    daemon.stop()
    session = Session(tools)
    texts = [f"{number:02}" for number in range(20)]
    for text in texts:
        session.call_tool(text, "store", content=text)
    session.call_tool("recall", "recall")
    session.end()
    answers = {message["id"]: message for message in session.everything_left()}
    assert answers.pop("recall")["error"]["data"]["code"] == "DECAY_ENGINE_BUSY"
    assert {
        name: told["result"]["structuredContent"]["waiting"] for name, told in answers.items()
    } == dict.fromkeys(texts, True)
    assert kept(folder) == texts


def test_what_a_daemon_that_hangs_hasnt_stored_is_kept_with_the_key_it_was_tried_with(
    daemon: FakeDaemon, tools: Toolbox, outbox: Outbox, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    daemon.then(*[held(release, answer(STORED)) for _ in range(THREADS)])
    session = Session(tools, finish_s=0.0)
    texts = [f"{number:02}" for number in range(THREADS)]
    for text in texts:
        session.call_tool(text, "store", content=text)
    tried = {request.headers["idempotency-key"]: request.body for request in daemon.wait_for_requests(THREADS)}
    more = [f"{number:02}" for number in range(THREADS, THREADS + MORE)]
    for text in more:
        session.call_tool(text, "store", content=text)
    session.call_tool("stats", "stats")
    session.call_tool("store", "store")
    session.send("call", "tools/call")
    session.end()
    assert kept(folder) == texts + more
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    release.set()
    outbox.send()
    again = {request.headers["idempotency-key"]: request.body for request in daemon.requests[THREADS:]}
    assert tried.items() <= again.items()


class Interrupted(io.BytesIO):
    """Input behind which an interrupt comes."""

    def readline(self, size: int | None = -1, /) -> bytes:
        if line := super().readline(size):
            return line
        raise KeyboardInterrupt


def stores(*texts: str) -> bytes:
    calls: list[dict[str, Any]] = [
        {"id": text, "method": "tools/call", "params": {"name": "store", "arguments": {"content": text}}}
        for text in texts
    ]
    return b"".join(json.dumps({"jsonrpc": "2.0", **call}).encode() + b"\n" for call in calls)


def interrupted(tools: Toolbox, *texts: str, finish_s: float = 0.0) -> None:
    """A session in which `texts` are stored and an interrupt comes."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        serve(Interrupted(stores(*texts)), Output(nowhere, on_gone=lambda: None), tools, finish_s)
    finally:
        os.close(nowhere)


def test_what_an_interrupt_breaks_off_is_kept(daemon: FakeDaemon, tools: Toolbox, folder: Path) -> None:
    release = threading.Event()
    daemon.then(*[held(release, answer(STORED)) for _ in range(3)])
    interrupted(tools, "1", "2", "3")
    release.set()
    assert kept(folder) == ["1", "2", "3"]


def test_what_cant_be_kept_is_told(daemon: FakeDaemon, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    daemon.then(*[held(release, answer(STORED)) for _ in range(2)])
    with Client(daemon.url) as client:
        interrupted(Toolbox(client, outbox=Outbox(client, folder, files_max=1)), "1", "2")
        release.set()
    [told] = caplog.messages
    assert told.startswith("warning: what was to be stored as the session ended isn't kept: ")
    assert "is full" in told
    assert len(kept(folder)) == 1


def test_what_a_busy_daemon_refuses_waits_only_at_the_end(
    daemon: FakeDaemon, outbox: Outbox, folder: Path
) -> None:
    """Before, whoever called is there to try again."""
    busy = refusal(429, "RATE_LIMITED", "too fast", retry_after=1)
    with SessionClient(daemon.url, retry_for_s=0, outbox=outbox) as client:
        tools = Toolbox(client, outbox=outbox)
        daemon.then(busy, busy)
        with pytest.raises(RateLimited):
            tools.call("store", {"content": "kettle"})
        tools.end()
        assert tools.call("store", {"content": "cup"}).structured["waiting"] is True
    assert kept(folder) == ["cup"]
