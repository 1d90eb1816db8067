"""The same bytes are answered alike, whole or in pieces, and as on hypercorn's way; over a wire in memory."""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from cerememory.http.exchange import Receive, Scope, Send
from cerememory.http.http1 import Http1
from cerememory.http.server import Connection, _config
from tests.support.gated import BARE, KEYS, bare_gate, with_auth
from tests.support.h2_client import WAIT_S, Wire
from tests.support.logged import quiet

UNLIKE = re.compile(rb"date: [^\r]*\r\n|x-request-id: [^\r]*\r\n|\"request_id\":\"[^\"]*\"")  # in any two answers
GATE = bare_gate(with_auth(BARE))
TARGETS = ("/health", "/v1/introspect/stats", "/nope", "/echo", "/echo/none", "*", "http://localhost/echo")
HEADERS = (
    "Connection: close",
    "Connection: keep-alive",
    "Upgrade: websocket",
    "Expect: 100-continue",
    f"Authorization: Bearer {KEYS[0]}",
    "Origin: http://elsewhere.example",
    "X-Folded: a\r\n b",
    "Content-Length: 3, 3",
    "Content-Length: +3",
    "Content-Length: 4",
    "Bad Name: x",
)
UNREADABLE = (b"", b"\r\n", b"GET /health HTTP/1.1\r\n", b"\x00", b"GET  / HTTP/1.1\r\n\r\n")


class Pipe(Wire):
    """A connection that holds what isn't read yet."""

    def __init__(self) -> None:
        self._stream, self.client = cast(Any, trio.testing.memory_stream_pair())
        self.socket = self
        self.family = socket.AF_INET


class LongWay(Http1):
    """Sends every request hypercorn's way."""

    def _whole_body(self, request: object) -> None:
        return None


class Longer(Connection):
    async def _read_data(self) -> None:
        self.protocol.protocol = LongWay.instead_of(cast(H11Protocol, self.protocol.protocol))
        await TCPServer._read_data(self)


class ReadByH11(Http1):
    """Has h11 read and write all."""

    def _plain_request(self, data: bytes) -> None:
        return None


class ByH11(Connection):
    async def _read_data(self) -> None:
        self.protocol.protocol = ReadByH11.instead_of(cast(H11Protocol, self.protocol.protocol))
        await TCPServer._read_data(self)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http" or not scope["path"].startswith(("/echo", "http:")):
        await GATE(scope, receive, send)
        return
    body, more = scope["path"].encode(), True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    status, headers = (204, []) if scope["path"] == "/echo/none" else (200, [(b"x-length", b"%d" % len(body))])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body[:2], "more_body": True})
    await send({"type": "http.response.body", "body": body[2:], "more_body": False})


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    body = draw(st.sampled_from((b"", b"abc", b"x" * 70, b'{"content": 1}')))
    lines = draw(st.lists(st.sampled_from(HEADERS), max_size=2))
    if draw(st.booleans()):
        lines.append(f"Content-Length: {len(body)}")
    elif body and draw(st.booleans()):
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    method, target = draw(st.sampled_from(("GET", "POST", "HEAD", "PUT"))), draw(st.sampled_from(TARGETS))
    version = draw(st.sampled_from(("HTTP/1.1", "HTTP/1.1", "HTTP/1.0")))
    return "\r\n".join([f"{method} {target} {version}", "Host: localhost", *lines, "", ""]).encode() + body


async def said(
    connection: type[Connection],
    parts: list[bytes],
    asked: Callable[[Scope, Receive, Send], Awaitable[None]] = app,
) -> tuple[bytes, bool, bool]:
    """All that comes back, whether the server closed, and whether it serves a request still."""
    pipe, answers, ended = Pipe(), bytearray(), trio.Event()

    async def read() -> None:
        while part := await pipe.client.receive_some():
            answers.extend(part)
        ended.set()

    wrapped = ASGIWrapper(cast(ASGIFramework, asked))
    served = connection(wrapped, _config(BARE), WorkerContext(None), ConnectionState({}), pipe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.run)
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        for part in parts:
            if not ended.is_set():
                await pipe.client.send_all(part)
                await wait_all_tasks_blocked()
        closed, serving = ended.is_set(), served.idle_since is None
        nursery.cancel_scope.cancel()
    return UNLIKE.sub(b"", bytes(answers)), closed, serving


@settings(max_examples=60)
@given(st.lists(requests(), min_size=1, max_size=3), st.sampled_from(UNREADABLE), st.data())
def test_bytes_are_answered_alike_however_they_come(sent: list[bytes], rest: bytes, data: st.DataObject) -> None:
    whole = b"".join(sent) + rest
    cuts = data.draw(st.lists(st.integers(1, len(whole)), max_size=3).map(sorted))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    answered = trio.run(partial(said, Connection, [whole]))
    assert trio.run(partial(said, Connection, [part for part in parts if part])) == answered
    assert trio.run(partial(said, Longer, [whole])) == answered
    assert trio.run(partial(said, ByH11, [whole])) == answered
    one_by_one = [part for part in (*sent, rest) if part]
    assert trio.run(partial(said, Connection, one_by_one)) == answered
    assert trio.run(partial(said, ByH11, one_by_one)) == answered


# --- Applications that do what they shouldn't

Does = tuple[str, Any]
LENGTHS = st.sampled_from([None, None, 0, 3, 3, 4])
ODD_HEADERS = [
    (b"x-a", b"b"),
    (b"connection", b"close"),
    (b"Connection", b"close"),
    (b"connection", b"keep-alive"),
    (b"transfer-encoding", b"chunked"),
    (b"x-b", b"c\r\nset-cookie: d"),
    (b"x-c", b" e"),
    (b"x-d", b"\x00"),
    (b"X: e", b"f"),
    (b"host", b"g"),
    (b"Content-Length", b"3"),
]


@st.composite
def starts(draw: st.DrawFn) -> Does:
    length = draw(LENGTHS)
    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    headers += draw(st.one_of(st.just([]), st.lists(st.sampled_from(ODD_HEADERS), max_size=2)))
    status = draw(st.sampled_from([200, 200, 200, 404, 500, 204, 304, 101, 0, 700]))
    return "send", {"type": "http.response.start", "status": status, "headers": draw(st.permutations(headers))}


BODIES: st.SearchStrategy[Does] = st.tuples(
    st.just("send"),
    st.builds(
        lambda body, more: {"type": "http.response.body", "body": body, "more_body": more},
        st.sampled_from([b"", b"abc", b"abc", b"abcd"]),
        st.sampled_from([False, False, True]),
    ),
)
RAISES: st.SearchStrategy[Does] = st.just(("raise", None))
RIGHT: list[Does] = [
    ("send", {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]}),
    ("send", {"type": "http.response.body", "body": b"abc", "more_body": False}),
]
SENDS = st.one_of(st.just(RIGHT), st.tuples(starts(), BODIES).map(list))
DEEDS = st.one_of(
    SENDS,
    st.tuples(SENDS, st.lists(st.one_of(BODIES, RAISES, starts()), max_size=2)).map(
        lambda both: [*both[0], *both[1]]
    ),
    st.lists(st.one_of(starts(), BODIES, RAISES), max_size=4),
)


def doing(deeds: list[list[Does]]) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Answers the n-th request by the n-th of `deeds`."""
    left = iter(deeds)

    async def does(scope: Scope, receive: Receive, send: Send) -> None:
        for what, message in next(left):
            if what == "raise":
                raise ValueError("a bug")
            await send(dict(message))

    return does


ASKED = (
    *[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] * 4,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
)


@settings(max_examples=250)
@given(st.lists(DEEDS, min_size=1, max_size=3), st.sampled_from(ASKED))
@example([[*RIGHT, RIGHT[1]]] * 2, ASKED[0])
@example([[*RIGHT, ("raise", None)]] * 2, ASKED[0])
def test_whatever_an_application_does_h11_answers_alike(deeds: list[list[Does]], asked: bytes) -> None:
    with quiet():
        answered = [
            trio.run(partial(said, connection, [asked] * len(deeds), doing(deeds)))
            for connection in (Connection, ByH11)
        ]
    assert answered[0] == answered[1]


# --- That there is a plain way, and others have their turn


class Counting(Http1):
    """Counts what h11 is told."""

    told = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        receive_data = self.requests.receive_data

        def counting(data: bytes) -> None:
            type(self).told += 1
            receive_data(data)

        self.requests.receive_data = counting  # type: ignore[method-assign]


class Counted(Connection):
    async def _read_data(self) -> None:
        self.protocol.protocol = Counting.instead_of(cast(H11Protocol, self.protocol.protocol))
        await TCPServer._read_data(self)


@pytest.mark.parametrize("target", ["/health", "/v1/introspect/stats", "/nope"])
async def test_the_gates_answers_are_plain(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setattr(Counting, "told", 0)
    answers, closed, serving = await said(Counted, [f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()] * 3)
    assert answers.count(b"HTTP/1.1 ") == 3
    assert (closed, serving, Counting.told) == (False, False, 0)


async def test_of_a_plain_request_h11_is_told_when_its_answer_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "told", 0)
    answers, closed, serving = await said(Counted, [b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"] * 3)
    assert answers.count(b"Transfer-Encoding: chunked\r\n") == 3, "each is answered once"
    assert (closed, serving, Counting.told) == (False, False, 3)


PIPELINED = 200


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", id="plain"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", id="with a body"),
        pytest.param(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", id="HEAD"),
    ],
)
async def test_others_have_a_turn_between_many_requests_in_one_read(request_: bytes) -> None:
    turns, seen = 0, list[int]()

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def at_once(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(turns)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    pipe, wrapped = Pipe(), ASGIWrapper(cast(ASGIFramework, at_once))
    served = Connection(wrapped, _config(BARE), WorkerContext(None), ConnectionState({}), pipe)
    served._taken_at_once = len  # type: ignore[method-assign, assignment]  # as a socket that has room
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.run)
        await wait_all_tasks_blocked()
        nursery.start_soon(take_turns)
        await pipe.client.send_all(request_ * PIPELINED)  # in memory: it is there at once, whole
        with trio.fail_after(WAIT_S):
            while len(seen) < PIPELINED:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert seen[-1] - seen[0] >= PIPELINED - 2, "one in every two rounds of the loop, whatever their order"
