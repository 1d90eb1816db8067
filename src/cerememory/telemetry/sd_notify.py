"""What a service manager is told, in sd_notify's protocol: datagrams to the socket that NOTIFY_SOCKET names.

Without that variable nobody asks, and nothing is sent. What can't be sent is dropped: the daemon serves the same,
and whoever doesn't hear of it has limits of its own. Source: sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

MICROS = 1_000_000


class Notifier:
    """`address` None: nobody is told anything. `watchdog_s` None: nobody waits for signs of life."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Notifier:
        """The one of this process's environment."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        return cls(address.replace("@", "\0", 1) if address[0] == "@" else address, _watchdog_s(environ))

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """`ready` must follow."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1_000}")

    def stopping(self, status: str) -> None:
        self._tell("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        self._tell(f"STATUS={status}")

    def alive(self) -> None:
        """To be said more often than every `watchdog_s`, or the manager ends the process."""
        self._tell("WATCHDOG=1")

    def _tell(self, *assignments: str) -> None:
        if self._address is None:
            return
        message = "\n".join(each.replace("\n", " ") for each in assignments).encode()
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.setblocking(False)
            told.sendto(message, self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """The interval in WATCHDOG_USEC, unless it is meant for another process."""
    micros, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
    if not micros.isdecimal() or not int(micros) or pid != str(os.getpid()):
        return None
    return int(micros) / MICROS
