"""A real HTTP server that answers as a test tells it to, for everything that talks to a daemon.

Fault model: it can be away (`stop`, then `start` on the same port), close the connection after reading a
request and before answering, cut an answer short, answer with any status, and hold an answer until an event.
It never delays by a clock, loses no bytes on the way, and knows nothing of CMP but what a test puts in.
"""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

WAIT_S = 30.0  # how long a test waits for an event that must come


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Reply: TypeAlias = Callable[["Handler"], None]


def answer(body: object, status: int = 200, **headers: str) -> Reply:
    """`body` as JSON; `_` in header names stands for `-`."""
    return raw_answer(json.dumps(body).encode(), status, **{"Content_Type": "application/json", **headers})


def raw_answer(body: bytes, status: int = 200, **headers: str) -> Reply:
    def reply(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def no_content() -> Reply:
    def reply(handler: Handler) -> None:
        handler.send_response(204)
        handler.end_headers()

    return reply


def refusal(status: int, code: str, message: str = "no", retry_after: int | None = None, **headers: str) -> Reply:
    """A CMP error."""
    body = {"code": code, "message": message, "details": None, "retry_after": retry_after}
    return answer({**body, "request_id": "0191aaaa-0000-7000-8000-000000000001"}, status, **headers)


def hang_up() -> Reply:
    """The request was read, and maybe done; no answer comes."""

    def reply(handler: Handler) -> None:
        handler.close_connection = True

    return reply


def cut_short(**headers: str) -> Reply:
    """The head of an answer and half of its body."""

    def reply(handler: Handler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"{" * 50)
        handler.close_connection = True

    return reply


def held(until: threading.Event, then: Reply) -> Reply:
    """`then`, once the event is set."""

    def reply(handler: Handler) -> None:
        until.wait(WAIT_S)
        then(handler)

    return reply


class FakeDaemon:
    """Answers with the queued replies in order, then with `default`; a context manager that stops it.

    With `tls` it speaks HTTPS.
    """

    def __init__(self, *replies: Reply, default: Reply | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.connections_made = 0
        self.reads_bodies = True  # False: answers after the head, as a refusal may
        self._replies = deque(replies)
        self._default = answer({}) if default is None else default
        self._tls = tls
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._port = 0
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listens, on the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._server.daemon = self
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """As a killed process: nobody listens, open connections are closed."""
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Closes what clients keep open."""
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def then(self, *replies: Reply) -> None:
        """Queues further replies."""
        self._replies.extend(replies)

    def wait_for_requests(self, count: int) -> list[Received]:
        """The requests, once `count` of them have been read."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, WAIT_S)
            return list(self.requests)

    def wait_for_connections(self, count: int) -> None:
        """Returns once exactly `count` connections are open."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._open) == count, WAIT_S)

    @contextmanager
    def connection(self, connection: socket.socket) -> Iterator[None]:
        with self._changed:
            self._open.add(connection)
            self.connections_made += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    def reply_to(self, request: Received) -> Reply:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            return self._replies.popleft() if self._replies else self._default


class _Server(http.server.ThreadingHTTPServer):
    daemon: FakeDaemon
    request_queue_size = 64  # or many callers at once wait for a second try of TCP

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection; a reply writes its answer through it."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        with self.server.daemon.connection(self.connection):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _reply(self) -> None:
        size_bytes = int(self.headers.get("Content-Length", 0)) if self.server.daemon.reads_bodies else 0
        body = self.rfile.read(size_bytes)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.daemon.reply_to(Received(self.command, self.path, headers, body))(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _reply
