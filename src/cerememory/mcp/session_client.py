"""The client of one MCP session, which doesn't miss what the session stored."""

from __future__ import annotations

from cerememory.client import Client
from cerememory.client.asks import including
from cerememory.client.wire import HttpRequest


class SessionClient(Client):
    """A `Client` whose reads name the newest commit that a call before them was acknowledged."""

    def _ready(self, request: HttpRequest) -> HttpRequest:
        return including(request, self.sequence)
