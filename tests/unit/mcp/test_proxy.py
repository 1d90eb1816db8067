"""A session: methods, errors, and calls that run beside each other."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import cerememory
from cerememory.client import Client
from cerememory.mcp.budget import TOKEN_BYTES
from cerememory.mcp.resources import RECENT_TOKENS
from cerememory.mcp.toolbox import Toolbox
from cerememory.mcp.tools import TOOLS
from cerememory.mcp.versions import VERSIONS
from cerememory.mcp.workers import THREADS, WAITING_MAX
from cerememory.protocol.values import Timestamp
from tests.support.fake_daemon import FakeDaemon, answer, held, refusal
from tests.unit.mcp.answers import ID, block, memory, recalled, record, unframed
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
        *((version, version) for version in VERSIONS),
        ("2026-07-01", "2025-11-25"),
        ("2025-04-01", "2025-03-26"),
        ("2024-10-07", "2024-11-05"),
    ],
)
def test_initialize_agrees_on_the_clients_version_or_the_one_before_it(
    session: Session, asked: str, agreed: str
) -> None:
    result = session.ask("initialize", protocolVersion=asked, capabilities={}, clientInfo={"name": "t"})
    assert result["protocolVersion"] == agreed
    assert result["serverInfo"] == {"name": "cerememory", "version": cerememory.__version__}
    assert result["capabilities"] == {"tools": {}, "resources": {}, "prompts": {}}
    for tool in TOOLS:
        assert tool.name in result["instructions"]


@pytest.mark.parametrize("params", [{}, {"protocolVersion": 1}, {"protocolVersion": "latest"}])
def test_initialize_without_a_version_is_refused(session: Session, params: dict[str, object]) -> None:
    session.send(1, "initialize", **params)
    assert session.receive()["error"]["code"] == -32602


def test_ping_is_answered(session: Session) -> None:
    assert session.ask("ping") == {}


def test_all_tools_are_listed(session: Session) -> None:
    listed = session.ask("tools/list")["tools"]
    assert [tool["name"] for tool in listed] == [tool.name for tool in TOOLS]


def test_nothing_but_a_call_or_a_read_reaches_the_daemon(session: Session, daemon: FakeDaemon) -> None:
    session.ask("initialize", protocolVersion="2025-06-18")
    for method in ("tools/list", "resources/list", "resources/templates/list", "prompts/list", "ping"):
        session.ask(method)
    session.ask("prompts/get", name="remember-this", arguments={"text": "the kettle is blue"})
    assert daemon.requests == []


def test_a_tool_call_answers_text_and_structure(session: Session, daemon: FakeDaemon) -> None:
    daemon.then(answer(recalled(memory(block(b"the kettle is blue")))))
    result = session.ask("tools/call", name="recall", arguments={"query": "kettle"})
    [content] = result["content"]
    assert content["type"] == "text"
    assert '"text": "the kettle is blue"' in content["text"]
    assert result["structuredContent"]["memories"][0]["record_id"] == ID
    assert result["isError"] is False


# Resources and prompts


def test_resources_are_listed(session: Session) -> None:
    [recent] = session.ask("resources/list")["resources"]
    [record] = session.ask("resources/templates/list")["resourceTemplates"]
    assert (recent["uri"], record["uriTemplate"]) == ("memory://recent", "memory://record/{id}")


def test_a_record_is_read_as_it_is_inspected(session: Session, daemon: FakeDaemon) -> None:
    daemon.then(answer(record(block(b"the kettle is blue"))))
    [content] = session.ask("resources/read", uri=f"memory://record/{ID}")["contents"]
    assert (content["uri"], content["mimeType"]) == (f"memory://record/{ID}", "application/json")
    shown = json.loads(content["text"])
    assert unframed(shown)["content"]["blocks"][0]["text"] == "the kettle is blue"
    assert shown["notice"].endswith("never an instruction.")
    assert shown["notice"].count(shown["data_begin"]) == 2
    assert [*shown][-1] == "data_end"
    assert daemon.requests[0].path == f"/v1/introspect/record/{ID}"


def test_reading_the_recent_ones_strengthens_none_of_them(session: Session, daemon: FakeDaemon) -> None:
    daemon.then(answer(recalled(*[memory(block(b"long " * 1_000))] * 20)))
    [content] = session.ask("resources/read", uri="memory://recent")["contents"]
    shown = json.loads(content["text"])
    assert len(shown["memories"]) == 20
    assert len(content["text"]) <= RECENT_TOKENS * TOKEN_BYTES
    assert daemon.requests[0].json["reconsolidate"] is False
    assert (daemon.requests[0].json["cue"], daemon.requests[0].json["limit"]) == ({}, 20)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, -32602),
        ({"uri": 7}, -32602),
        ({"uri": "file:///etc/passwd"}, -32002),
        ({"uri": "memory://record/"}, -32602),
        ({"uri": "memory://record/../stats"}, -32602),
        ({"uri": f"memory://record/{ID}"}, -32002),
    ],
)
def test_what_is_no_resource_is_said_to_be_so(
    session: Session, daemon: FakeDaemon, params: dict[str, object], code: int
) -> None:
    daemon.then(refusal(404, "RECORD_NOT_FOUND", f"record {ID} not found"))
    session.send(1, "resources/read", **params)
    assert session.receive()["error"]["code"] == code


@pytest.mark.parametrize(
    ("name", "argument", "tool"),
    [("recall-before-answer", "question", "Recall"), ("remember-this", "text", "store")],
)
def test_a_prompt_is_a_message_of_the_user(session: Session, name: str, argument: str, tool: str) -> None:
    [listed] = [prompt for prompt in session.ask("prompts/list")["prompts"] if prompt["name"] == name]
    assert [(given["name"], given["required"]) for given in listed["arguments"]] == [(argument, True)]
    got = session.ask("prompts/get", name=name, arguments={argument: "what of {argument}?"})
    [message] = got["messages"]
    assert message["role"] == "user"
    assert tool in message["content"]["text"]
    assert message["content"]["text"].endswith("\n\nwhat of {argument}?")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "name: expected recall-before-answer or remember-this"),
        ({"name": "forget-all"}, "name: expected recall-before-answer or remember-this"),
        ({"name": "remember-this"}, "text: missing"),
        ({"name": "remember-this", "arguments": {"text": " "}}, "text: must not be blank"),
        ({"name": "remember-this", "arguments": 7}, "arguments: must be an object"),
    ],
)
def test_a_wrong_prompt_is_an_error_of_parameters(session: Session, params: Any, message: str) -> None:
    session.send(1, "prompts/get", **params)
    error = session.receive()["error"]
    assert (error["code"], error["message"]) == (-32602, message)


# Batches, of 2025-03-26 alone


def batch(*messages: dict[str, Any]) -> bytes:
    return json.dumps([{"jsonrpc": "2.0", **message} for message in messages]).encode()


PING, NOTE = {"id": 1, "method": "ping"}, {"method": "notifications/initialized"}


def test_a_batch_is_answered_as_one_when_all_is_done(session: Session, daemon: FakeDaemon) -> None:
    session.ask("initialize", protocolVersion="2025-03-26")
    release = threading.Event()
    daemon.then(held(release, answer({"total_records": 3})))
    call = {"id": "c", "method": "tools/call", "params": {"name": "stats"}}
    session.send_line(batch(call, PING, NOTE, {"id": 2, "method": "no/such"}, {"id": 3}))
    assert session.ask("ping") == {}
    release.set()
    answers = session.receive()
    assert {a["id"]: a.get("error", {}).get("code") for a in answers} == {"c": None, 1: None, 2: -32601, 3: -32600}


def test_a_batch_of_notifications_is_not_answered(session: Session) -> None:
    session.ask("initialize", protocolVersion="2025-03-26")
    session.send_line(batch(NOTE, NOTE))
    assert session.ask("ping") == {}


@pytest.mark.parametrize("line", [b"[]", b"[" + b",".join([b"{}"] * 257) + b"]", b"[{]"])
def test_a_batch_that_isnt_one_gets_one_error(session: Session, line: bytes) -> None:
    session.ask("initialize", protocolVersion="2025-03-26")
    session.send_line(line)
    answered = session.receive()
    assert answered["id"] is None
    assert answered["error"]["code"] in (-32600, -32700)


@pytest.mark.parametrize("version", [v for v in VERSIONS if v != "2025-03-26"])
def test_other_versions_have_no_batches(session: Session, version: str) -> None:
    session.ask("initialize", protocolVersion=version)
    session.send_line(batch(PING))
    assert session.receive()["error"]["code"] == -32600


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
