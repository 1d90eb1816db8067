"""A service manager's notify socket: keeps what it is told, as sd_notify(3) writes it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 30.0  # how long a test waits for an event that must come
MESSAGE_BYTES_MAX = 4_096


class NotifySocket:
    """`address` is what NOTIFY_SOCKET has: a path, or a name behind an @ for the abstract name space."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(WAIT_S)
        self._socket.bind(address.replace("@", "\0", 1))

    def message(self) -> dict[str, str]:
        """The next one, once it is there."""
        text = self._socket.recv(MESSAGE_BYTES_MAX).decode()
        return dict(line.split("=", 1) for line in text.split("\n"))

    def until(self, name: str) -> dict[str, str]:
        """The next message that assigns `name`."""
        deadline = time.monotonic() + WAIT_S
        while name not in (message := self.message()):
            assert time.monotonic() < deadline, f"nobody says {name}"
        return message

    def waiting(self) -> list[dict[str, str]]:
        """What has come and wasn't looked at."""
        messages = []
        self._socket.setblocking(False)
        try:
            while True:
                messages.append(self.message())
        except BlockingIOError:
            return messages
        finally:
            self._socket.settimeout(WAIT_S)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def notify_socket(folder: Path) -> Iterator[NotifySocket]:
    opened = NotifySocket(str(folder / "notify"))
    try:
        yield opened
    finally:
        opened.close()
