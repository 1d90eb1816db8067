"""The real HTTP server on a loopback port, in the test's own event loop, and a client that sends raw bytes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import msgspec
import trio

from cerememory.config.settings import Settings
from cerememory.http.gate import Gate
from cerememory.http.routes import Routes
from cerememory.http.server import App, Server, bind
from cerememory.mcp.endpoint import Endpoint
from tests.support.engine import Running, running_engine

WAIT_S = 30.0  # how long a test waits for an event that must come


@dataclass
class Answer:
    """`headers` by lower-case name; `closed` says that the server closes the connection after it."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool = False

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Serving:
    """`stop` begins a graceful stop; `ended` is set when the server has returned."""

    port: int
    server: Server
    stop: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    async def connect(self) -> Connection:
        return Connection(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """One request on a connection of its own."""
        async with await self.connect() as connection:
            return await connection.ask(method, path, body, **headers)

    @property
    def connections_open(self) -> int:
        return len(self.server._connections)


class Connection:
    """One client connection; `ask` may be called again while the server keeps it open."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        await self.send(method, path, body, **headers)
        return await self.answer()

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """`_` in header names stands for `-`; a Content-Length is added unless one is given."""
        named = {"Host": "localhost", "Content-Length": str(len(body)), "Content-Type": "application/json"}
        named |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        if "Transfer-Encoding" in named:
            del named["Content-Length"]
        request = h11.Request(method=method, target=path, headers=list(named.items()))
        await self.stream.send_all(self._http.send(request) or b"")
        if body:
            await self.stream.send_all(self._http.send(h11.Data(data=body)) or b"")
        if not body and named.get("Content-Length", "0") != "0":
            return  # the body, or a part of it, is still to come
        await self.stream.send_all(self._http.send(h11.EndOfMessage()) or b"")

    async def answer(self) -> Answer:
        """The next whole answer."""
        with trio.fail_after(WAIT_S):
            head = await self._event()
            assert isinstance(head, h11.Response)
            parts = []
            while isinstance(part := await self._event(), h11.Data):
                parts.append(bytes(part.data))
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        closed = self._http.their_state is h11.MUST_CLOSE or self._http.their_state is h11.CLOSED
        if not closed and self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        return Answer(head.status_code, headers, b"".join(parts), closed)

    async def _event(self) -> Any:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self.stream.receive_some())
            elif not isinstance(event, h11.InformationalResponse):
                return event

    async def until_closed(self) -> bytes:
        """What comes until the server closes, or resets, the connection."""
        parts: list[bytes] = []
        with trio.fail_after(WAIT_S):
            try:
                while part := await self.stream.receive_some():
                    parts.append(bytes(part))
            except trio.BrokenResourceError:
                pass  # closed with what we sent unread
        return b"".join(parts)


@asynccontextmanager
async def serving(app: App, settings: Settings) -> AsyncIterator[Serving]:
    """`app` on a free loopback port; leaving stops it gracefully."""
    listening: socket.socket = bind("127.0.0.1", 0)
    server = Server(app, settings)
    served = Serving(listening.getsockname()[1], server)

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        await server.serve(listening, served.stop, task_status=task_status)
        served.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        try:
            yield served
        finally:
            served.stop.set()


@asynccontextmanager
async def serving_engine(
    path: Path, settings: Settings, local_token: str | None = None
) -> AsyncIterator[tuple[Serving, Running]]:
    """The whole daemon but for its process: engine, gate and server."""
    async with running_engine(path, settings=settings) as running:
        shown = running.metrics if settings.http.metrics_enabled else None
        routes = Routes(running.engine, shown, Endpoint(running.engine).answer)
        async with serving(Gate(settings, routes, running.metrics, local_token), settings) as served:
            yield served, running
