"""What both clients are but for I/O: whom they ask and as whom, how long they wait, what was acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cerememory.client.answers import Answers
from cerememory.client.asks import SEQUENCE_HEADER, Caller
from cerememory.client.patience import Patience
from cerememory.client.wire import Head
from cerememory.errors import NEWEST_SEQUENCE, Overloaded

CONNECT_TIMEOUT_S = 10.0
LOOK_S = 10.0  # for a look at the audit log, which nobody waits for
_SEQUENCE = SEQUENCE_HEADER.lower()


class Session:
    """Usable from any thread. Arguments as of `Client`; `ValidationFailed` for a URL, key or namespace."""

    def __init__(
        self,
        server_url: str,
        api_key: str | None,
        timeout_s: float | None,
        retry_for_s: float | None,
        namespace: str | None,
        chance: Callable[[], float],
    ) -> None:
        self.caller = Caller(server_url, api_key, namespace)
        self.answers = Answers(self.caller.address)
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._chance = chance
        self._lock = threading.Lock()
        self.sequence: int | None = None

    def patience(self, clock: Callable[[], float]) -> Patience:
        """That of one call, which starts now."""
        return Patience(self._timeout_s, self._retry_for_s, clock, self._chance)

    def brief_patience(self, clock: Callable[[], float]) -> Patience:
        """That of one try."""
        return Patience(LOOK_S, 0.0, clock, self._chance)

    def note(self, head: Head) -> None:
        """Keeps the commit number that a write was acknowledged with, if it is the highest so far."""
        text = head.headers.get(_SEQUENCE, "")
        if text.isascii() and text.isdigit():
            self.acknowledge(int(text[:20]))

    def acknowledge(self, sequence: int) -> None:
        with self._lock:
            self.sequence = max(self.sequence or 0, sequence)

    def note_refusal(self, error: Overloaded) -> None:
        """Forgets a commit that the daemon hasn't got: what it had was replaced by an older backup."""
        newest = (error.details or {}).get(NEWEST_SEQUENCE)
        if isinstance(newest, int):
            with self._lock:
                self.sequence = min(self.sequence or 0, newest)
