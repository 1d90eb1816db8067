"""An ASGI application that does what the path says, and knows which requests are under way."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from cerememory.http.exchange import Receive, Scope, Send

POURED_BYTES = 1_048_576


@dataclass
class Served:
    """`begun` are the requests, `under_way` those that go on; what a method answers with is `answer`'s to say."""

    under_way: int = 0
    cancelled: int = 0
    begun: list[str] = field(default_factory=list)
    let_go: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.under_way += 1
        self.begun.append(scope["path"])
        try:
            await getattr(self, scope["path"].strip("/"))(receive, send)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1

    async def answer(self, receive: Receive, send: Send, body: bytes = b"ok") -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def echo(self, receive: Receive, send: Send) -> None:
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message["body"])
            more = message["more_body"]
        await self.answer(receive, send, b"".join(parts))

    async def hold(self, receive: Receive, send: Send) -> None:
        """Reads nothing until it is let go."""
        await self.let_go.wait()
        await self.echo(receive, send)

    async def pour(self, receive: Receive, send: Send) -> None:
        await self.answer(receive, send, b"x" * POURED_BYTES)
