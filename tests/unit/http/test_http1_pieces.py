"""The same bytes are answered alike, whole or in pieces, and as on hypercorn's way; over a wire in memory."""

from __future__ import annotations

import re
import socket
from functools import partial
from typing import Any, cast

import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from cerememory.http.exchange import Receive, Scope, Send
from cerememory.http.http1 import Http1
from cerememory.http.server import Connection, _config
from tests.support.gated import BARE, KEYS, bare_gate, with_auth
from tests.support.h2_client import Wire

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


async def said(connection: type[Connection], parts: list[bytes]) -> tuple[bytes, bool, bool]:
    """All that comes back, whether the server closed, and whether it serves a request still."""
    pipe, answers, ended = Pipe(), bytearray(), trio.Event()

    async def read() -> None:
        while part := await pipe.client.receive_some():
            answers.extend(part)
        ended.set()

    wrapped = ASGIWrapper(cast(ASGIFramework, app))
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


@settings(max_examples=60, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=3), st.sampled_from(UNREADABLE), st.data())
def test_bytes_are_answered_alike_however_they_come(sent: list[bytes], rest: bytes, data: st.DataObject) -> None:
    whole = b"".join(sent) + rest
    cuts = data.draw(st.lists(st.integers(1, len(whole)), max_size=3).map(sorted))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    answered = trio.run(partial(said, Connection, [whole]))
    assert trio.run(partial(said, Connection, [part for part in parts if part])) == answered
    assert trio.run(partial(said, Longer, [whole])) == answered
