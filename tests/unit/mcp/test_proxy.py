"""A session: methods, errors, and calls that run beside each other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import cerememory
from cerememory.client import Client
from cerememory.mcp.toolbox import Toolbox
from cerememory.mcp.tools import TOOLS
from cerememory.mcp.workers import THREADS, WAITING_MAX
from cerememory.protocol.values import Timestamp
from tests.support.fake_daemon import FakeDaemon, answer, held, refusal
from tests.unit.mcp.answers import ID, block, memory, recalled
from tests.unit.mcp.session import Session


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon() as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.url, retry_for_s=0) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Iterator[Session]:
    with Session(Toolbox(client)) as session:
        yield session


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-01", "2025-11-25"),
    ],
)
def test_initialize_agrees_on_the_clients_version_up_to_the_latest(
    session: Session, asked: str, agreed: str
) -> None:
    result = session.ask("initialize", protocolVersion=asked, capabilities={}, clientInfo={"name": "t"})
    assert result["protocolVersion"] == agreed
    assert result["serverInfo"] == {"name": "cerememory", "version": cerememory.__version__}
    assert result["capabilities"] == {"tools": {}}
    for tool in TOOLS:
        assert tool.name in result["instructions"]


@pytest.mark.parametrize("params", [{}, {"protocolVersion": 1}, {"protocolVersion": "latest"}])
def test_initialize_without_a_version_is_refused(session: Session, params: dict[str, object]) -> None:
    session.send(1, "initialize", **params)
    assert session.receive()["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("ping", {}),
        ("resources/list", {"resources": []}),
        ("resources/templates/list", {"resourceTemplates": []}),
        ("prompts/list", {"prompts": []}),
    ],
)
def test_methods_without_a_daemon(session: Session, method: str, result: object) -> None:
    assert session.ask(method) == result


def test_all_tools_are_listed(session: Session) -> None:
    listed = session.ask("tools/list")["tools"]
    assert [tool["name"] for tool in listed] == [tool.name for tool in TOOLS]


def test_nothing_but_a_tool_call_reaches_the_daemon(session: Session, daemon: FakeDaemon) -> None:
    session.ask("initialize", protocolVersion="2025-06-18")
    session.ask("tools/list")
    session.ask("ping")
    assert daemon.requests == []


def test_a_tool_call_answers_text_and_structure(session: Session, daemon: FakeDaemon) -> None:
    daemon.then(answer(recalled(memory(block(b"the kettle is blue")))))
    result = session.ask("tools/call", name="recall", arguments={"query": "kettle"})
    [content] = result["content"]
    assert content["type"] == "text"
    assert '"text": "the kettle is blue"' in content["text"]
    assert result["structuredContent"]["memories"][0]["record_id"] == ID
    assert result["isError"] is False


def test_arguments_may_be_missing(session: Session, daemon: FakeDaemon) -> None:
    daemon.then(answer({"total_records": 3}))
    assert session.ask("tools/call", name="stats")["structuredContent"]["total_records"] == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "name: must be a string"),
        ({"name": 7}, "name: must be a string"),
        ({"name": "remember"}, "name: there is no tool 'remember'"),
        ({"name": "stats", "arguments": [1]}, "arguments: must be an object"),
        ({"name": "recall", "arguments": {"limit": "x"}}, "limit: expected integer, got string"),
    ],
)
def test_a_wrong_call_is_an_error_of_parameters(session: Session, params: Any, message: str) -> None:
    session.send(1, "tools/call", **params)
    error = session.receive()["error"]
    assert error == {
        "code": -32602,
        "message": message,
        "data": {"code": "VALIDATION_ERROR", "message": message},
    }


def test_the_daemons_error_keeps_its_code_and_message(session: Session, daemon: FakeDaemon) -> None:
    daemon.then(refusal(503, "CONSOLIDATION_IN_PROGRESS", "consolidation is running", retry_after=9))
    session.call_tool(1, "consolidate")
    assert session.receive()["error"] == {
        "code": -32603,
        "message": "consolidation is running",
        "data": {
            "code": "CONSOLIDATION_IN_PROGRESS",
            "message": "consolidation is running",
            "retry_after": 9,
            "details": {"request_id": "0191aaaa-0000-7000-8000-000000000001"},
        },
    }


def test_a_daemon_that_is_away_is_an_error_that_names_it(session: Session, daemon: FakeDaemon) -> None:
    daemon.stop()
    session.call_tool(1, "stats")
    error = session.receive()["error"]
    assert error["code"] == -32603
    assert daemon.url in error["message"]
    assert error["data"]["code"] == "DECAY_ENGINE_BUSY"


def test_an_unknown_method_is_said_to_be_so(session: Session) -> None:
    session.send(1, "sampling/createMessage")
    assert session.receive()["error"] == {"code": -32601, "message": "no method 'sampling/createMessage'"}


@pytest.mark.parametrize(
    ("line", "code", "message_id"),
    [(b"{nope", -32700, None), (b'{"id": 4, "x": "\xff"}', -32700, 4), (b"[]", -32600, None)],
)
def test_a_line_that_isnt_a_message_is_answered_and_the_session_goes_on(
    session: Session, line: bytes, code: int, message_id: int | None
) -> None:
    session.send_line(line)
    answered = session.receive()
    assert (answered["error"]["code"], answered["id"]) == (code, message_id)
    assert session.ask("ping") == {}


def test_a_line_over_the_bound_is_answered_and_the_session_goes_on(client: Client) -> None:
    with Session(Toolbox(client), line_bytes_max=100) as session:
        session.call_tool(1, "store", content="x" * 200)
        assert "100 bytes" in session.receive()["error"]["message"]
        assert session.ask("ping") == {}


def test_notifications_and_empty_lines_are_not_answered(session: Session) -> None:
    session.send_line(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')
    session.send_line(b"")
    assert session.ask("ping") == {}


def test_ping_is_answered_while_calls_hang(session: Session, daemon: FakeDaemon) -> None:
    release = threading.Event()
    daemon.then(*[held(release, answer({})) for _ in range(THREADS)])
    for number in range(THREADS):
        session.call_tool(number, "stats")
    daemon.wait_for_requests(THREADS)
    assert session.ask("ping") == {}
    release.set()
    assert {session.receive()["id"] for _ in range(THREADS)} == set(range(THREADS))


def test_a_quick_call_overtakes_a_slow_one(session: Session, daemon: FakeDaemon) -> None:
    release = threading.Event()
    daemon.then(held(release, answer({"slow": True})))
    session.call_tool("slow", "stats")
    daemon.wait_for_requests(1)
    session.call_tool("quick", "stats")
    assert session.receive()["id"] == "quick"
    release.set()
    assert session.receive()["id"] == "slow"


def test_calls_beyond_what_can_wait_are_refused(session: Session, daemon: FakeDaemon) -> None:
    release = threading.Event()
    daemon.then(*[held(release, answer({})) for _ in range(THREADS)])
    for number in range(THREADS):
        session.call_tool(number, "stats")
    daemon.wait_for_requests(THREADS)  # every thread has one
    for number in range(WAITING_MAX + 1):
        session.call_tool(f"waiting {number}", "stats")
    refused = session.receive()
    assert refused["id"] == f"waiting {WAITING_MAX}"
    assert refused["error"]["data"]["code"] == "RATE_LIMITED"
    release.set()
    assert all("result" in session.receive() for _ in range(THREADS + WAITING_MAX))


def test_a_restart_of_the_daemon_is_ridden_through(daemon: FakeDaemon) -> None:
    restarted = threading.Event()

    def wait(_seconds: float) -> None:
        if not restarted.is_set():
            restarted.set()
            daemon.start()

    with Client(daemon.url, wait=wait) as client, Session(Toolbox(client)) as session:
        session.ask("tools/call", name="stats")
        daemon.stop()
        session.ask("tools/call", name="store", arguments={"content": "kettle"})
    assert restarted.is_set()
    assert [request.path for request in daemon.requests] == ["/v1/introspect/stats", "/v1/encode"]


def test_a_bug_is_answered_logged_and_survived(
    daemon: FakeDaemon, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_clock() -> Timestamp:
        raise ZeroDivisionError("planted")

    with Session(Toolbox(client, now=broken_clock)) as session, caplog.at_level(logging.ERROR):
        session.call_tool(1, "stats")
        assert session.receive()["error"] == {"code": -32603, "message": "an internal error occurred"}
        assert session.ask("ping") == {}
    assert "planted" in caplog.text


def test_calls_under_way_are_answered_before_the_end(client: Client, daemon: FakeDaemon) -> None:
    release = threading.Event()
    daemon.then(held(release, answer({"late": True})))
    session = Session(Toolbox(client))
    session.call_tool(1, "stats")
    daemon.wait_for_requests(1)
    ending = threading.Thread(target=session.end)
    ending.start()
    release.set()
    ending.join()
    assert [message["id"] for message in session.everything_left()] == [1]


def test_the_end_does_not_wait_for_ever(client: Client, daemon: FakeDaemon) -> None:
    release = threading.Event()
    daemon.then(held(release, answer({})))
    session = Session(Toolbox(client), finish_s=0.0)
    session.call_tool(1, "stats")
    daemon.wait_for_requests(1)
    session.end()
    release.set()
