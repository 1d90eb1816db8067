"""Reading request bodies within their limits, and letting a refused client read its answer."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

import trio

from cerememory.errors import BodyTooSlow, ContentTooLarge, TooManyBytes
from cerememory.http.exchange import Exchange, Message, Receive, Response, Send

BODY_BYTES_MAX = 64 * 1_048_576
LARGE_BODY_BYTES = 262_144  # a larger one is parsed in a thread
PARSED_FACTOR = 4  # parsed bytes take about four times their size
DRAIN_BYTES_MAX = 16 * 1_048_576
DRAIN_S = 2.0
PART_BYTES_MAX = 262_144  # of an answer, that a client has to take at once
WHOLE_BODY = "cerememory.whole_body"  # where in an ASGI scope a body is that has come with its head


class ClientGone(Exception):
    """The client closed the connection before its request was whole: there is nobody to answer."""


class Inflight:
    """The bytes of all bodies that are being read or worked on, up to `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0

    def reserved(self, body_bytes: int) -> Room:
        """A block with room for a body of `body_bytes`, and more if it turns out to be longer; `TooManyBytes`."""
        return Room(self, body_bytes)

    def take(self, size_bytes: int) -> None:
        if self._bytes + size_bytes > self._bytes_max:
            raise TooManyBytes("too many bytes in flight, try again")
        self._bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self._bytes -= size_bytes


class Room:
    """What one body takes of `Inflight`, until the end of the block."""

    __slots__ = ("_body_bytes", "_inflight", "size_bytes")

    def __init__(self, inflight: Inflight, body_bytes: int) -> None:
        self._inflight = inflight
        self._body_bytes = body_bytes
        self.size_bytes = 0

    def __enter__(self) -> Room:
        self.extend(self._body_bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inflight.give_back(self.size_bytes)

    def extend(self, body_bytes: int) -> None:
        """Take what a body of `body_bytes` in all needs beyond what is taken."""
        size_bytes = body_bytes if body_bytes <= LARGE_BODY_BYTES else PARSED_FACTOR * body_bytes
        if size_bytes > self.size_bytes:
            self._inflight.take(size_bytes - self.size_bytes)
            self.size_bytes = size_bytes


def announced_bytes(exchange: Exchange) -> int | None:
    """The body's length by its Content-Length (hypercorn lets only numbers through); None when it is unknown."""
    if b"transfer-encoding" in exchange.headers:
        return None
    length = exchange.headers.get(b"content-length")
    if length is not None:
        return int(length)
    return None if exchange.http_version == "2" else 0


def is_told_twice(exchange: Exchange) -> bool:
    """Whether a body has two lengths: somebody before us may have gone by the other (RFC 9112, 6.1)."""
    return b"content-length" in exchange.headers and b"transfer-encoding" in exchange.headers


def check_size(size_bytes: int | None) -> None:
    if size_bytes is not None and size_bytes > BODY_BYTES_MAX:
        raise ContentTooLarge(f"body: {size_bytes} bytes, at most {BODY_BYTES_MAX} are allowed")


class Body:
    """One request's body; `whole` is true when its last part was received, or there is none."""

    def __init__(
        self, receive: Receive, announced_bytes: int | None, read_timeout_s: float, come: bytes | None = None
    ) -> None:
        """`come`: all of it, when it is there already: `read` needn't wait for it."""
        self.has_come = come is not None
        self._receive = receive
        self._come = come
        self.read_timeout_s = read_timeout_s
        self.announced_bytes = announced_bytes
        self.whole = announced_bytes == 0

    async def read(self, room: Room) -> bytes:
        """All of it. Counts while it reads; each part has to come within the read timeout."""
        if self._come is not None:
            room.extend(len(self._come))
            self.whole = True
            return self._come
        if self.whole:
            return b""
        parts: list[bytes] = []
        size = 0
        with trio.CancelScope() as scope:
            while not self.whole:
                scope.deadline = trio.current_time() + self.read_timeout_s
                part = await self._part()
                size += len(part)
                if size > BODY_BYTES_MAX:
                    raise ContentTooLarge(f"body: more than {BODY_BYTES_MAX} bytes")
                room.extend(size)
                parts.append(part)
                self.whole = self.whole or size == self.announced_bytes  # what ends it needn't be waited for
        if scope.cancelled_caught:
            raise BodyTooSlow("body: the next part took too long")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def next_part(self) -> bytes:
        """What comes next of it, within the read timeout."""
        with trio.CancelScope(deadline=trio.current_time() + self.read_timeout_s) as scope:
            part = await self._part()
        if scope.cancelled_caught:
            raise BodyTooSlow("body: the next part took too long")
        return part

    async def _part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.whole = True
            raise ClientGone
        self.whole = not message.get("more_body", False)
        return message.get("body", b"")  # type: ignore[no-any-return]

    async def drop(self) -> None:
        """Receive and forget what is left, up to a bound; ends early when the client is gone."""
        dropped = 0
        while not self.whole and dropped < DRAIN_BYTES_MAX:
            try:
                dropped += len(await self._part())
            except ClientGone:
                return

    async def drop_for_ever(self) -> None:
        """Keep receiving: the HTTP library can't close a connection whose body nobody takes."""
        while not self.whole:
            await self.drop()


class Parts:
    """A body as it comes in, of whatever size. It can be left anywhere."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._size = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        body = self._body
        if body.whole:
            raise StopAsyncIteration
        part = await body.next_part()
        self._size += len(part)
        body.whole = body.whole or self._size == body.announced_bytes  # what ends it needn't be waited for
        return part


async def send_response(response: Response, send: Send, body: Body) -> None:
    """Send `response`. A body that wasn't read is dropped before the end of the answer: the client can read it.

    Dropping goes on until the last part of the answer is out, then the connection closes. Raises `ClientGone`
    when the client takes nothing of it for as long as it may take for a part of its own body.
    """
    if body.whole and response.stream is None and len(response.body) <= PART_BYTES_MAX:
        await _send_at_once(response, send, body)
        return
    limited = _within(body.read_timeout_s, send)
    if body.whole:
        await _send_start(response, limited)
        rest = await _send_parts(response, limited)
        await limited({"type": "http.response.body", "body": rest, "more_body": False})
        return
    response.close = True
    await _send_start(response, limited)
    await limited({"type": "http.response.body", "body": response.body, "more_body": True})
    with trio.move_on_after(DRAIN_S):
        await body.drop()
    with trio.move_on_after(body.read_timeout_s) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(body.drop_for_ever)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.deadline = -math.inf
    if scope.cancelled_caught:
        raise ClientGone


async def _send_at_once(response: Response, send: Send, body: Body) -> None:
    """What most answers are, head and one part: under one deadline, for each costs as much as sending does.

    Under none where the request came whole: there the connection itself cuts off who doesn't read.
    """
    if body.has_come:
        await _send_both(response, send)
        return
    with trio.move_on_after(body.read_timeout_s) as scope:
        await _send_both(response, send)
    if scope.cancelled_caught:
        raise ClientGone


async def _send_both(response: Response, send: Send) -> None:
    await _send_start(response, send)
    await send({"type": "http.response.body", "body": response.body, "more_body": False})


def _within(timeout_s: float, send: Send) -> Send:
    """`send` for a client that takes each message in time; `ClientGone` for another."""

    async def limited(message: Message) -> None:
        with trio.move_on_after(timeout_s) as scope:
            await send(message)
        if scope.cancelled_caught:
            raise ClientGone

    return limited


async def _send_parts(response: Response, send: Send) -> bytes:
    """Send the body but for its last part, which is returned: one that is taken slowly comes in many."""
    if response.stream is not None:
        async for chunk in response.stream.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        return b""
    rest = memoryview(response.body)
    while len(rest) > PART_BYTES_MAX:
        await send({"type": "http.response.body", "body": bytes(rest[:PART_BYTES_MAX]), "more_body": True})
        rest = rest[PART_BYTES_MAX:]
    return bytes(rest) if len(rest) < len(response.body) else response.body


async def _send_start(response: Response, send: Send) -> None:
    await send({"type": "http.response.start", "status": response.status, "headers": response.head()})
