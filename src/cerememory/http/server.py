"""The HTTP server: hypercorn's connections under an accept loop of ours, which bounds their number."""

from __future__ import annotations

import math
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.logging import Logger
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

from cerememory.config.settings import Settings
from cerememory.http.exchange import Receive, Scope, Send
from cerememory.http.http1 import Http1, Http2Begins
from cerememory.http.http2 import Http2

GRACE_S = 30.0
GONE_S = 5.0  # what still serves a client that is gone
LEAVING_MAX = 32  # connections that others have had to make room for, and that clients haven't closed yet
BACKLOG = 512
READ_BYTES = 65_536
WRITE_BYTES = 262_144  # that a client has to take within the idle time
HEAD_BYTES_BUFFERED_MAX = 65_536  # above the gate's own limit, which answers 431

log = structlog.get_logger(__name__)
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Log:
    """hypercorn's logger, spoken to through ours."""

    def __init__(self, config: Config) -> None:
        pass

    async def access(self, request: object, response: object, request_time: float) -> None:
        """The gate writes these lines."""

    async def exception(self, message: str, *args: object) -> None:
        log.exception("connection crashed", detail=message)

    async def info(self, message: str, *args: object) -> None:
        log.debug("server", detail=message)


def bind(address: str, port: int) -> socket.socket:
    """A listening socket; `OSError` when the address is taken."""
    host = "127.0.0.1" if address == "localhost" else address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


class _Config(Config):
    """Makes the headers that all answers have once a second: telling the date takes as long as all the others."""

    _headers_of: tuple[int, list[tuple[bytes, bytes]]] = (0, [])

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        second = int(time.time())
        if self._headers_of[0] != second:
            self._headers_of = second, super().response_headers(protocol)
        return self._headers_of[1]


def _config(settings: Settings) -> Config:
    config = _Config()
    config.logger_class = cast("type[Logger]", _Log)
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = settings.http.read_timeout_secs
    config.keep_alive_max_requests = 2**31
    config.graceful_timeout = GRACE_S
    config.h11_max_incomplete_size = HEAD_BYTES_BUFFERED_MAX
    return config


class Connection(TCPServer):
    """hypercorn's connection, with less work for each request.

    One task for the connection's life looks after its idle time, where hypercorn starts and cancels one for each
    request. The head of an answer waits for what follows it, so that both go out in one write. Who doesn't read
    its answers is cut off, where hypercorn would wait for ever.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.idle_since: float | None = trio.current_time()  # None: it serves a request
        self.idle_s = float(self.config.keep_alive_timeout)  # after which it is closed
        self._idling: trio.CancelScope | None = None  # the wait for that, once there is a protocol
        self._is_to_leave = False
        self._ends_at = math.inf
        self._writing = trio.CancelScope()
        self._scope = trio.CancelScope()
        self._head = b""

    async def run(self) -> None:
        with self._scope:
            await super().run()

    def end_by(self, at: float) -> None:
        """Leave what isn't read by then."""
        self._ends_at = at
        self._writing.deadline = min(self._writing.deadline, at)

    def end_soon(self) -> None:
        """A client that reads closes before; a request that it had begun it makes anew elsewhere."""
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + GONE_S)

    async def leave(self) -> None:
        """Make room for another, who doesn't wait for it. A client of HTTP/2 is told, and gone within `GONE_S`."""
        if self._idling is None or not isinstance(self.protocol.protocol, Http2):
            await trio.aclose_forcefully(self.stream)
            return
        self.end_by(trio.current_time() + GONE_S)
        self.end_soon()
        self._is_to_leave = True
        self._idling.cancel()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self.idle_since = trio.current_time() if event.idle else None
        elif not isinstance(event, RawData):
            await super().protocol_send(event)
        elif _is_final_head(event.data):
            self._head += event.data
        elif data := self._head + event.data:  # the end of a message is often no bytes at all
            self._head = b""
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        """All of `data`: at once as far as the client's buffer has room, as it has for most answers."""
        if self.send_lock.locked():  # somebody's part is being sent
            await self._write_when_free(data)
        elif (taken_bytes := self._taken_at_once(data)) < len(data):
            await self._write_when_free(memoryview(data)[taken_bytes:])

    async def _write_when_free(self, rest: bytes | memoryview) -> None:
        """All of `rest`, each part within the idle time.

        A part that was begun is never left for a cancellation: on HTTP/2 others share the connection.
        """
        try:
            self.send_lock.acquire_nowait()  # else even a lock that is free takes a turn of the loop
        except trio.WouldBlock:
            await self.send_lock.acquire()
        try:
            await self._write_parts(memoryview(rest))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.protocol.handle(Closed())
        finally:
            self.send_lock.release()

    def _taken_at_once(self, data: bytes) -> int:
        """How many bytes of `data` the system has room for, without a turn of the loop."""
        if not isinstance(self.stream, trio.SocketStream):
            return 0
        descriptor = self.stream.socket.fileno()
        if descriptor < 0:
            return 0
        try:
            return os.write(descriptor, data)
        except OSError:  # there is no room, or nobody who reads: `_write_parts` waits, or finds out
            return 0

    async def _write_parts(self, rest: memoryview) -> None:
        while rest:
            due = min(trio.current_time() + self.config.keep_alive_timeout, self._ends_at)
            with trio.CancelScope(shield=True, deadline=due) as self._writing:
                await self.stream.send_all(rest[:WRITE_BYTES])
            if self._writing.cancelled_caught:
                log.debug("client doesn't read")
                await trio.aclose_forcefully(self.stream)
            rest = rest[WRITE_BYTES:]

    async def _idle_timeout(self) -> None:
        """Close when there was no request for long, or when the server stops, or it is to leave, and none is under
        way.
        """
        while not (self._is_to_leave or self.context.terminated.is_set()):
            started = trio.current_time() if self.idle_since is None else self.idle_since
            due = started + self.idle_s
            if trio.current_time() >= due:
                break
            with trio.move_on_at(due) as self._idling:
                await self.context.terminated.wait()
        if self.idle_since is not None:
            with trio.CancelScope(shield=True):
                await self._initiate_server_close()
        elif isinstance(spoken := self.protocol.protocol, Http2):  # what is under way may end
            await spoken.go_away()

    async def _initiate_server_close(self) -> None:
        if isinstance(spoken := self.protocol.protocol, Http2):
            await spoken.go_away()
            self.end_soon()
        else:
            await super()._initiate_server_close()

    async def _read_data(self) -> None:
        """Until the client is gone; what is sent still would then wait for ever."""
        if isinstance(spoken := self.protocol.protocol, H11Protocol):
            self.protocol.protocol = Http1.instead_of(spoken)
        data = await self._read_up_to_http2()
        if data is not None:
            await self._speak_http2(data)
            await self._read_until_gone()
        await self.idle_task.stop()
        self._scope.deadline = trio.current_time() + GONE_S

    async def _read_up_to_http2(self) -> bytes | None:
        """What has come of it; None when nothing did, and the client is gone."""
        try:
            await self._read_until_gone()
        except Http2Begins as begins:
            return begins.data
        return None

    async def _speak_http2(self, data: bytes) -> None:
        http2 = Http2.instead_of(cast(Http1, self.protocol.protocol), self.end_soon)
        self.protocol.protocol = http2
        await self.protocol_send(Updated(idle=True))  # what seemed a request is none
        await http2.initiate()
        await http2.handle(RawData(data))

    async def _read_until_gone(self) -> None:
        data: bytes | None = None
        while data != b"" and (data := await self._received()) is not None:
            await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())

    async def _received(self) -> bytes | None:
        """What has come; empty when the client says no more, None when the connection is broken."""
        try:
            return bytes(await self.stream.receive_some(READ_BYTES))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return None


def _is_final_head(data: bytes) -> bool:
    """Whether `data` is the head of an answer that something follows, be it the end: no 1xx."""
    return data.startswith(b"HTTP/1.1 ") and data[9:10] != b"1" and data.endswith(b"\r\n\r\n")


class Server:
    """Serves `app` on listening sockets until `serve`'s stop event; at most `max_connections` at a time."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        connection: type[Connection] = Connection,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`connection` is what serves one; `tls`, when given, what each of them is encrypted with."""
        self._app = ASGIWrapper(cast(ASGIFramework, app))
        self._connection = connection
        self._tls = tls
        self._config = _config(settings)
        self._max_connections = settings.http.max_connections
        self._context = WorkerContext(None)
        self._connections: set[Connection] = set()
        self._leaving: dict[Connection, None] = {}  # beside them, the first to leave first

    async def serve(
        self,
        listening: socket.socket,
        stop: trio.Event,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """After `stop` no connection is accepted, idle ones close, and requests in flight get `GRACE_S`."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(
                    partial(trio.serve_listeners, self._serve_one, [listener], handler_nursery=connections)
                )
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            await self._context.terminated.set()
            ends_at = trio.current_time() + GRACE_S
            connections.cancel_scope.deadline = ends_at
            for connection in self._connections:
                connection.end_by(ends_at)

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        if len(self._connections) >= self._max_connections and not await self._close_idle():
            await stream.aclose()
            return
        connection = self._connection(
            self._app, self._config, self._context, ConnectionState({}), self._encrypted(stream)
        )
        self._connections.add(connection)
        try:
            await connection.run()
        except* Exception:  # what a client sends may crash its own connection, never the daemon
            log.exception("connection crashed")
        finally:
            self._connections.discard(connection)
            self._leaving.pop(connection, None)

    def _encrypted(self, stream: trio.SocketStream) -> trio.abc.Stream:
        if self._tls is None:
            return stream
        return trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)

    async def _close_idle(self) -> bool:
        """Make room by closing the connection that has been idle longest; whether there was one."""
        idle = [c for c in self._connections if c.idle_since is not None]
        if not idle:
            log.warning("connection refused", connections=len(self._connections))
            return False
        oldest = min(idle, key=lambda connection: connection.idle_since or 0.0)
        self._connections.discard(oldest)
        self._leaving[oldest] = None
        await oldest.leave()
        if len(self._leaving) > LEAVING_MAX:
            first = next(iter(self._leaving))
            del self._leaving[first]
            await trio.aclose_forcefully(first.stream)
        return True
