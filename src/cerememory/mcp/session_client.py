"""The client of one MCP session, which doesn't miss what the session stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from cerememory.client import Client
from cerememory.client.asks import Ask, including
from cerememory.client.patience import Patience
from cerememory.client.wire import HttpAnswer, HttpRequest
from cerememory.errors import DaemonUnreachable
from cerememory.mcp.outbox import KEPT, Outbox

R = TypeVar("R")


class SessionClient(Client):
    """A `Client` whose reads name the newest commit that a call before them was acknowledged.

    What waits in `outbox` is sent before each try of a call, so before whichever finds the daemon; that takes half
    of the call's time at most, and what is left goes before the next.

    What the outbox keeps needn't wait for the daemon. Of the calls that find it away, one looks out for it as long
    as a call may; until something is answered again, the others, and those to come, are tried once.

    Other arguments as of `Client`.
    """

    def __init__(self, *args: Any, outbox: Outbox | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._outbox = outbox
        self._finding = threading.Lock()
        self._is_away = False

    def _tried(self, ask: Ask, read: Callable[[HttpAnswer], R]) -> R:
        if self._outbox is None or ask.operation not in KEPT:
            return super()._tried(ask, read)
        request = self._session.caller.request(ask)
        looks_out = False

        def attempt(patience: Patience) -> R:
            nonlocal looks_out
            try:
                return read(self._exchange(self._ready(request, patience), patience))
            except DaemonUnreachable as away:
                if not (away.was_sent or looks_out):
                    looks_out = self._finds_away()
                    if not looks_out:
                        patience.end()
                raise

        return self._patiently(attempt)

    def _finds_away(self) -> bool:
        """Whether that is news."""
        with self._finding:
            is_news, self._is_away = not self._is_away, True
        return is_news

    def _exchange(self, request: HttpRequest, patience: Patience, pieces: Iterable[bytes] = ()) -> HttpAnswer:
        answer = super()._exchange(request, patience, pieces)
        self._is_away = False
        return answer

    def _ready(self, request: HttpRequest, patience: Patience) -> HttpRequest:
        if self._outbox is not None:
            remaining_s = patience.remaining_s()
            sequence = self._outbox.send(None if remaining_s is None else remaining_s / 2)
            if sequence is not None:
                self._session.acknowledge(sequence)
        return including(request, self.sequence)
