"""The client of one MCP session, which doesn't miss what the session stored."""

from __future__ import annotations

from typing import Any

from cerememory.client import Client
from cerememory.client.asks import including
from cerememory.client.patience import Patience
from cerememory.client.wire import HttpRequest
from cerememory.mcp.outbox import Outbox


class SessionClient(Client):
    """A `Client` whose reads name the newest commit that a call before them was acknowledged.

    What waits in `outbox` is sent before each try of a call, so before whichever finds the daemon; that takes half
    of the call's time at most, and what is left goes before the next. Other arguments as of `Client`.
    """

    def __init__(self, *args: Any, outbox: Outbox | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._outbox = outbox

    def _ready(self, request: HttpRequest, patience: Patience) -> HttpRequest:
        if self._outbox is not None:
            remaining_s = patience.remaining_s()
            sequence = self._outbox.send(None if remaining_s is None else remaining_s / 2)
            if sequence is not None:
                self._session.acknowledge(sequence)
        return including(request, self.sequence)
