"""TCP and TLS connections to one daemon, kept open between calls.

A connection belongs to one call at a time. After a complete answer it is kept for the next; the pool keeps at most
`IDLE_MAX` and closes the rest. The daemon may close a kept connection at any time: such a one is noticed by being
readable while nothing was asked, and dropped instead of used. `async_connections` does the same with anyio.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cerememory.client.address import Address
from cerememory.client.answers import Answers, reason
from cerememory.client.patience import Patience
from cerememory.client.wire import RECEIVE_BYTES, Broken, Conversation, R, Steps, Want
from cerememory.errors import DaemonUnreachable

if TYPE_CHECKING:
    import ssl

    from _typeshed import FileDescriptorLike

CONNECTIONS_MAX = 32  # in use; further calls wait for their turn
IDLE_MAX = 8  # as many as the MCP proxy has calls at once


class Connection:
    """One connection, and where HTTP is on it."""

    def __init__(self, sock: socket.socket, authority: str) -> None:
        self._socket = sock
        self.http = Conversation(authority)

    def perform(self, steps: Steps[R], patience: Patience, pieces: Iterable[bytes] = ()) -> R:
        """What `steps` return; `Broken` when the connection fails or the time is over."""
        body = filter(None, pieces)
        try:
            step = next(steps)
            while True:
                if step is Want.PIECE:
                    step = steps.send(next(body, b""))
                    continue
                try:
                    came = self._do(step, patience)
                except OSError as error:
                    step = steps.throw(Broken(reason(error)))
                else:
                    step = steps.send(came)
        except StopIteration as done:
            result: R = done.value
            return result

    def _do(self, step: bytes | Want, patience: Patience) -> bytes:
        self._socket.settimeout(patience.remaining_s())  # the limit is on the call, not on each step
        if isinstance(step, bytes):
            self._socket.sendall(step)
            return b""
        return self._socket.recv(RECEIVE_BYTES)

    def is_idle(self) -> bool:
        """Whether the peer is still there, and silent."""
        return not is_readable(self._socket)

    def close(self) -> None:
        self._socket.close()


class ConnectionPool:
    """Safe to use from any thread."""

    def __init__(self, address: Address, connect_timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._answers = Answers(address)
        self._connect_timeout_s = connect_timeout_s
        self._tls = trusting(address, tls)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._idle_max = IDLE_MAX
        self._room = threading.Semaphore(CONNECTIONS_MAX)
        self.opened = 0  # since the beginning: more of them say that the daemon may be another

    @contextmanager
    def lent(self, patience: Patience, *, is_new: bool = False) -> Iterator[Connection]:
        """A connection for one call: a kept one, unless it must be new; kept afterwards if it may be used again.

        `DaemonUnreachable` when there is none, or too many are in use for too long; `ValidationFailed` when the
        daemon isn't trusted.
        """
        if not self._room.acquire(timeout=patience.remaining_s()):
            raise all_in_use(self._address)
        try:
            connection = (None if is_new else self._take()) or self._open(patience)
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._room.release()

    def close(self) -> None:
        """Closes what is idle, now and later; connections in use are their call's until it is done."""
        self._idle_max = 0
        while (connection := self._pop()) is not None:
            connection.close()

    def _take(self) -> Connection | None:
        """The one used last that is still open."""
        while (connection := self._pop()) is not None:
            if connection.is_idle():
                return connection
            connection.close()
        return None

    def _open(self, patience: Patience) -> Connection:
        try:
            sock = dial(self._address, self._tls, patience.at_most_s(self._connect_timeout_s))
        except OSError as error:
            raise self._answers.not_connected(error) from error
        with self._lock:
            self.opened += 1
        return Connection(sock, self._address.authority)

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if connection.http.is_reusable and len(self._idle) < self._idle_max:
                self._idle.append(connection)
                return
        connection.close()

    def _pop(self) -> Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None


def dial(address: Address, tls: ssl.SSLContext | None, limit_s: float) -> socket.socket:
    """`OSError` when there is no connection within the limit."""
    sock = socket.create_connection((address.host, address.port), limit_s)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if tls is None else tls.wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise


def trusting(address: Address, tls: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """Whom an https:// address trusts: what is given, else what the system does; None for http://."""
    if address.scheme != "https":
        return None
    import ssl  # here, for most daemons are asked without

    return ssl.create_default_context() if tls is None else tls


def all_in_use(address: Address) -> DaemonUnreachable:
    message = f"all {CONNECTIONS_MAX} connections to {address.url} are in use; close exports that are done"
    return DaemonUnreachable(message, was_sent=False)


def is_readable(sock: FileDescriptorLike) -> bool:
    """Whether the peer closed an idle connection (or spoke out of turn)."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
