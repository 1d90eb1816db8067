"""TCP and TLS connections to one daemon, kept open between calls.

A connection belongs to one call at a time. After a complete answer it is given back; the pool keeps at most
`idle_max` and closes the rest. The daemon may close a kept connection at any time: such a one is noticed by
being readable while nothing was asked, and dropped instead of used.
"""

from __future__ import annotations

import http.client
import select
import ssl
import threading

from cerememory.client.address import Address

IDLE_MAX = 8  # as many as the MCP proxy has calls at once


class ConnectionPool:
    """Safe to use from any thread."""

    def __init__(self, address: Address, connect_timeout_s: float, idle_max: int = IDLE_MAX) -> None:
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._idle_max = idle_max
        self.opened = 0  # connections, since the beginning: more of them say that the daemon may be another

    def take(self, timeout_s: float | None) -> http.client.HTTPConnection:
        """The connection used last that is still open, else a new one (see `open`)."""
        while (connection := self._pop()) is not None:
            if not _is_readable(connection):
                return connection
            connection.close()
        return self.open(timeout_s)

    def open(self, timeout_s: float | None) -> http.client.HTTPConnection:
        """A new connection within `timeout_s` or the pool's limit; `OSError` when there is none."""
        limit_s = self._connect_timeout_s if timeout_s is None else min(timeout_s, self._connect_timeout_s)
        connection = self._unconnected(limit_s)
        try:
            connection.connect()
        except OSError:
            connection.close()
            raise
        with self._lock:
            self.opened += 1
        return connection

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < self._idle_max:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Closes what is idle, now and later; connections in use are their call's until it is done."""
        self._idle_max = 0
        while (connection := self._pop()) is not None:
            connection.close()

    def _pop(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _unconnected(self, timeout_s: float) -> http.client.HTTPConnection:
        host, port = self._address.host, self._address.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)


def _is_readable(connection: http.client.HTTPConnection) -> bool:
    """Whether the peer closed an idle connection (or spoke out of turn)."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
