"""The client that all servers of the bench are measured with: HTTP/1.1 on plain sockets, connections kept.

It is as cheap as Python allows: requests are bytes made beforehand, of an answer only the status, the length
and the end are looked at, one process drives all connections. What it can do at most is measured like
everything else, against a server that does nothing (`floors.py`), so that no figure is the client's own.
"""

from __future__ import annotations

import re
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType

RECEIVE_BYTES = 1 << 18
TIMEOUT_S = 30
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

Address = tuple[str, int]


class BenchFailed(Exception):
    """The bench itself broke: there is no figure to show."""


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One kept connection with at most one request under way."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Bounded by the kernel: a Python timeout would cost one more system call each time.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT_S, 0))
        self._answer = b""
        self._size_bytes = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, request: bytes) -> bytes:
        """The body of the answer."""
        self.send(request)
        while not self.receive():
            pass
        return self._answer[self._answer.index(b"\r\n\r\n") + 4 :]

    def send(self, request: bytes) -> None:
        self._answer, self._size_bytes = b"", 0
        self._socket.sendall(request)

    def receive(self) -> bool:
        """Take what has come, or wait for it; true when the answer is whole. `BenchFailed` unless it is a 200."""
        try:
            part = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            raise BenchFailed(f"no answer within {TIMEOUT_S} s") from None
        if not part:
            raise BenchFailed("the server closed the connection")
        self._answer += part
        if not self._size_bytes:
            self._read_head()
        return len(self._answer) == self._size_bytes

    def _read_head(self) -> None:
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return
        if not self._answer.startswith(b"HTTP/1.1 200 "):
            raise BenchFailed(f"answered {self._answer[:512]!r}")
        length = _LENGTH.search(self._answer, 0, end)
        if length is None:
            raise BenchFailed(f"an answer without a length: {self._answer[:end]!r}")
        self._size_bytes = end + 4 + int(length[1])

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def requests_per_s(
    address: Address, requests: Iterator[bytes], connections: int, *, warm_up_s: float, duration_s: float
) -> float:
    """The rate of answers after `warm_up_s`, each connection asking again as soon as it was answered."""
    with ExitStack() as stack:
        opened = [stack.enter_context(Connection(address)) for _ in range(connections)]
        ask_for = _ask_alone if connections == 1 else _ask_together
        ask_for(opened, requests, warm_up_s)
        return ask_for(opened, requests, duration_s)


def _ask_alone(opened: list[Connection], requests: Iterator[bytes], duration_s: float) -> float:
    ask = opened[0].ask
    return rate(lambda: ask(next(requests)), duration_s)


def rate(step: Callable[[], object], duration_s: float) -> float:
    """How often a second `step` can be taken, over at least `duration_s`."""
    started = time.perf_counter()
    count, elapsed_s = 0, 0.0
    while elapsed_s < duration_s:
        step()
        count += 1
        elapsed_s = time.perf_counter() - started
    return count / elapsed_s


def _ask_together(opened: list[Connection], requests: Iterator[bytes], duration_s: float) -> float:
    """Answers that come after the end aren't counted, but waited for: the next measurement starts at rest."""
    started = time.perf_counter()
    count, elapsed_s = 0, 0.0
    with selectors.DefaultSelector() as selector:
        for connection in opened:
            selector.register(connection, selectors.EVENT_READ, connection)
            connection.send(next(requests))
        while elapsed_s < duration_s:
            count += _answer_ready(selector, requests)
            elapsed_s = time.perf_counter() - started
    for connection in opened:
        while not connection.receive():
            pass
    return count / elapsed_s


def _answer_ready(selector: selectors.BaseSelector, requests: Iterator[bytes]) -> int:
    """Send the next request wherever an answer is whole; how many were."""
    count = 0
    for ready, _events in selector.select(TIMEOUT_S):
        connection: Connection = ready.data
        if connection.receive():
            count += 1
            connection.send(next(requests))
    return count
