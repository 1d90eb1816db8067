"""One call as its handler sees it: messages that come, messages that go, and what the method is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from cerememory.grpc.descriptors import parse
from cerememory.grpc.framing import Messages, framed
from cerememory.http.bodies import ClientGone
from cerememory.http.exchange import Exchange, Headers, Message, Send
from cerememory.protocol.access import Grant, Needs

CONTENT_TYPE = b"application/grpc+proto"


class Answer:
    """What is sent back. Raises `ClientGone` when the client takes nothing of it for `timeout_s`."""

    def __init__(self, send: Send, head: Headers, timeout_s: float) -> None:
        self._send = send
        self._head = head
        self._timeout_s = timeout_s
        self._is_begun = False

    async def message(self, message: bytes) -> None:
        await self._begin()
        await self._within({"type": "http.response.body", "body": framed(message), "more_body": True})

    async def end(self, trailers: Headers) -> None:
        await self._begin()
        await self._within({"type": "http.response.body", "body": b"", "more_body": False})
        await self._within({"type": "http.response.trailers", "headers": trailers})

    async def refuse(self, http_status: int, headers: Headers) -> None:
        """To somebody who doesn't speak gRPC, and wouldn't find a status in trailers."""
        await self._within({"type": "http.response.start", "status": http_status, "headers": self._head + headers})
        await self._within({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self) -> None:
        if self._is_begun:
            return
        self._is_begun = True
        head = [(b"content-type", CONTENT_TYPE), *self._head]
        await self._within({"type": "http.response.start", "status": 200, "headers": head, "trailers": True})

    async def _within(self, message: Message) -> None:
        with trio.move_on_after(self._timeout_s) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            raise ClientGone


@dataclass(frozen=True, slots=True)
class Rpc:
    exchange: Exchange
    method: Method
    messages: Messages
    answer: Answer

    async def request(self) -> Any:
        """The message of a method that takes one."""
        return parse(self.method.request, await self.messages.only())

    async def next(self) -> Any:
        """The next message of a stream, None after the last."""
        message = await self.messages.next()
        return None if message is None else parse(self.method.request, message)

    async def send(self, message: Any) -> None:
        await self.answer.message(message.SerializeToString())


Handler = Callable[[Rpc], Awaitable[Headers]]


@dataclass(frozen=True, slots=True)
class Method:
    """A method by its full name, `package.Service/Method`, with the classes of its messages.

    `handler` sends the answer's messages and returns what the trailers have beside the status. `needs` is what the
    caller's key must be, None where nobody needs one.
    """

    name: str
    request: Any
    reply: Any
    handler: Handler
    needs: Needs | None

    def check(self, grant: Grant) -> None:
        """Raise `Forbidden` when this isn't allowed to whom `grant` is given."""
        if self.needs is not None:
            grant.check(self.needs, self.name)
