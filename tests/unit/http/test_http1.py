"""Requests that come whole, and those that don't, over HTTP/1.1 on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cerememory.http.bodies import BODY_BYTES_MAX, ClientGone
from cerememory.http.exchange import Message, Receive, Scope, Send
from tests.support.gated import BARE, bare_gate
from tests.support.logged import Logged
from tests.support.server import WAIT_S, Serving, serving

BODY = b"the whole of it"
CLOSE = "Connection: close"


class Echo:
    """Answers what it got; `tasks` are those that it was asked in."""

    def __init__(self) -> None:
        self.tasks: list[trio.lowlevel.Task] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/broken":
            raise ValueError("a bug")
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.tasks.append(trio.lowlevel.current_task())
        await send(_start(scope["path"], len(body)))
        if scope["path"] == "/cut":
            await send({"type": "http.response.body", "body": body[:3], "more_body": True})
            raise ValueError("a bug in the middle")
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _start(path: str, size: int) -> Message:
    if path == "/none":
        return {"type": "http.response.start", "status": 204, "headers": []}
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]}


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Echo, Serving]]:
    app = Echo()
    async with serving(app, BARE) as served:
        yield app, served


def a_request(target: str = "/", body: bytes = BODY, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def in_chunks(target: str, *headers: str) -> bytes:
    """One that is never answered where it was read, though all of it has come."""
    lines = [f"POST {target} HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked", *headers]
    return "\r\n".join([*lines, "", f"{len(BODY):x}", BODY.decode(), "0", "", ""]).encode()


async def asked(served: Serving, *parts: bytes) -> bytes:
    """All that comes back for a request in `parts`, the last of which closes the connection."""
    with trio.fail_after(WAIT_S):
        async with await served.connect() as connection:
            for part in parts:
                await connection.stream.send_all(part)
                await wait_all_tasks_blocked()
            return await connection.until_closed()


async def test_what_comes_whole_is_answered_where_it_was_read() -> None:
    async with echoing() as (app, served):
        answer = await asked(served, a_request() + a_request("/", b"another", CLOSE))
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert BODY in answer
    assert answer.endswith(b"another")
    assert len(set(app.tasks)) == 1, "the task that reads the connection"


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([a_request("/", BODY, CLOSE)[:-4], BODY[-4:]], id="the end of its body comes later"),
        pytest.param(
            [
                b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"f\r\n" + BODY + b"\r\n",
                b"0\r\n\r\n",
            ],
            id="in chunks",
        ),
        pytest.param(
            [a_request("/", BODY, CLOSE, "Expect: 100-continue")[: -len(BODY)], BODY], id="once it may come"
        ),
    ],
)
async def test_what_is_yet_to_come_goes_the_long_way_with_the_same_answer(parts: list[bytes]) -> None:
    async with echoing() as (_app, served):
        answer = await asked(served, *parts)
    assert b"HTTP/1.1 200 " in answer
    assert answer.endswith(BODY)


@pytest.mark.parametrize("beginning", [b"\r\n", b"\r\n\r\n"])
async def test_blank_lines_before_a_request_are_passed_over(beginning: bytes) -> None:
    asking = [beginning + a_request(), beginning + in_chunks("/"), beginning + a_request("/", BODY, CLOSE)]
    async with echoing() as (_app, served):
        assert (await asked(served, b"".join(asking))).count(b"HTTP/1.1 200 ") == 3
        assert (await asked(served, *asking)).count(b"HTTP/1.1 200 ") == 3
        pieces = [bytes([byte]) for byte in beginning]
        assert (await asked(served, *pieces, asking[-1])).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("beginning", [b"\r", b"\r\n\r", b"\r\n ", b"\n\r\n"])
async def test_what_is_no_blank_line_is_a_400(beginning: bytes) -> None:
    async with echoing() as (_app, served):
        assert (await asked(served, beginning, a_request())).startswith(b"HTTP/1.1 400 ")


async def test_a_body_is_asked_for_when_somebody_wants_it() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wanted":
            await receive()
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    head = a_request("/wanted", BODY, CLOSE, "Expect: 100-continue")[: -len(BODY)]
    async with serving(refusing, BARE) as served:
        assert (await asked(served, head, BODY)).startswith(b"HTTP/1.1 100 ")
        assert (await asked(served, head.replace(b"/wanted", b"/"))).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_is_too_long_by_its_head_is_not_asked_for() -> None:
    lines = ["POST /v1/encode HTTP/1.1", "Host: localhost", f"Content-Length: {BODY_BYTES_MAX + 1}"]
    head = "\r\n".join([*lines, "Expect: 100-continue", "", ""]).encode()
    with trio.fail_after(WAIT_S):
        async with serving(bare_gate(BARE), BARE) as served, await served.connect() as connection:
            await connection.stream.send_all(head)
            assert (await connection.stream.receive_some()).startswith(b"HTTP/1.1 413 ")


async def test_an_answer_without_a_body_is_sent_at_once_and_the_connection_goes_on() -> None:
    async with echoing() as (_app, served), await served.connect() as connection:
        for _ in range(2):
            assert (await connection.ask("POST", "/none", BODY)).status == 204


async def test_a_head_is_answered_with_a_head_alone() -> None:
    async with echoing() as (_app, served):
        answer = await asked(served, a_request("/", BODY, CLOSE, method="HEAD"))
    assert b"content-length: %d\r\n" % len(BODY) in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_bug_of_the_application_is_a_500_and_the_connection_ends(logged: Logged) -> None:
    async with echoing() as (_app, served):
        assert (await asked(served, a_request("/broken"))).startswith(b"HTTP/1.1 500 ")
    assert logged.events() == ["connection crashed"]


async def test_an_answer_of_many_parts_ends_when_nobody_takes_them_any_more() -> None:
    made: list[int] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with pytest.raises(ClientGone):
            while len(made) < 1_000:
                made.append(len(made))
                await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})

    with trio.fail_after(WAIT_S):
        async with serving(endless, BARE) as served, await served.connect() as connection:
            await connection.stream.send_all(a_request())
            await connection.stream.receive_some(1)
            await connection.stream.aclose()
            while served.connections_open:
                await trio.lowlevel.checkpoint()
    assert made


@pytest.mark.usefixtures("logged")
async def test_an_answer_that_breaks_off_ends_the_connection() -> None:
    async with echoing() as (_app, served):
        answer = await asked(served, a_request("/cut"))
    assert answer.endswith(BODY[:3])


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize(
    ("last", "answered"),
    [
        pytest.param(a_request("/", BODY, CLOSE), BODY, id="the client's last"),
        pytest.param(a_request("/cut"), BODY[:3], id="one whose answer breaks off"),
        pytest.param(in_chunks("/", CLOSE), BODY, id="the client's last, in chunks"),
        pytest.param(in_chunks("/cut"), BODY[:3], id="one in chunks whose answer breaks off"),
    ],
)
async def test_what_comes_behind_a_last_request_is_left_and_no_connection_is(last: bytes, answered: bytes) -> None:
    async with echoing() as (app, served):
        answer = await asked(served, last + a_request("/", b"too late"))
        assert answer.endswith(answered)
        assert len(app.tasks) == 1
        with trio.fail_after(WAIT_S):
            while served.connections_open:
                await trio.lowlevel.checkpoint()
