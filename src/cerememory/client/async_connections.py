"""What `connections` is, on anyio: the same pool, for one event loop.

Cancelling a call closes its connection: half an answer may be on it, so it is never used again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream, SocketAttribute

from cerememory.client.address import Address
from cerememory.client.answers import Answers, reason
from cerememory.client.connections import CONNECTIONS_MAX, IDLE_MAX, all_in_use, is_readable, trusting
from cerememory.client.patience import Patience
from cerememory.client.wire import RECEIVE_BYTES, Broken, Conversation, R, Steps, Want

if TYPE_CHECKING:
    import ssl


class AsyncConnection:
    """One connection, and where HTTP is on it."""

    def __init__(self, stream: ByteStream, authority: str) -> None:
        self._stream = stream
        self.http = Conversation(authority)

    async def perform(self, steps: Steps[R], patience: Patience, pieces: AsyncIterator[bytes] | None = None) -> R:
        """What `steps` return; `Broken` when the connection fails or the time is over."""
        with anyio.move_on_after(patience.remaining_s()):
            return await self._perform(steps, pieces)
        raise Broken("the time limit passed")

    async def _perform(self, steps: Steps[R], pieces: AsyncIterator[bytes] | None) -> R:
        try:
            step = next(steps)
            while True:
                if step is Want.PIECE:
                    step = steps.send(await _next(pieces))
                    continue
                try:
                    came = await self._do(step)
                except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                    step = steps.throw(Broken(_reason(error)))
                else:
                    step = steps.send(came)
        except StopIteration as done:
            result: R = done.value
            return result

    async def _do(self, step: bytes | Want) -> bytes:
        if isinstance(step, bytes):
            await self._stream.send(step)
            return b""
        try:
            return await self._stream.receive(RECEIVE_BYTES)
        except anyio.EndOfStream:
            return b""

    def is_idle(self) -> bool:
        """Whether the peer is still there, and silent."""
        return not is_readable(self._stream.extra(SocketAttribute.raw_socket))

    async def aclose(self) -> None:
        """At once, whatever the peer has to say."""
        await anyio.aclose_forcefully(self._stream)


class AsyncConnectionPool:
    """For the tasks of one event loop."""

    def __init__(self, address: Address, connect_timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._answers = Answers(address)
        self._connect_timeout_s = connect_timeout_s
        self._tls = trusting(address, tls)
        self._idle: list[AsyncConnection] = []
        self._idle_max = IDLE_MAX
        self._room = anyio.CapacityLimiter(CONNECTIONS_MAX)
        self.opened = 0  # since the beginning

    @asynccontextmanager
    async def lent(self, patience: Patience, *, is_new: bool = False) -> AsyncIterator[AsyncConnection]:
        """A connection for one call: a kept one, unless it must be new; kept afterwards if it may be used again.

        `DaemonUnreachable` when there is none, or too many are in use for too long; `ValidationFailed` when the
        daemon isn't trusted.
        """
        place = object()  # a call may end in another task than it began in
        with anyio.move_on_after(patience.remaining_s()) as waiting:
            await self._room.acquire_on_behalf_of(place)
        if waiting.cancelled_caught:
            raise all_in_use(self._address)
        try:
            connection = (None if is_new else await self._take()) or await self._open(patience)
            try:
                yield connection
            finally:
                await self._give_back(connection)
        finally:
            self._room.release_on_behalf_of(place)

    async def aclose(self) -> None:
        """Closes what is idle, now and later; connections in use are their call's until it is done."""
        self._idle_max = 0
        while self._idle:
            await self._idle.pop().aclose()

    async def _take(self) -> AsyncConnection | None:
        """The one used last that is still open."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle():
                return connection
            await connection.aclose()
        return None

    async def _open(self, patience: Patience) -> AsyncConnection:
        try:
            stream = await dial(self._address, self._tls, patience.at_most_s(self._connect_timeout_s))
        except OSError as error:
            raise self._answers.not_connected(error) from error
        self.opened += 1
        return AsyncConnection(stream, self._address.authority)

    async def _give_back(self, connection: AsyncConnection) -> None:
        if connection.http.is_reusable and len(self._idle) < self._idle_max:
            self._idle.append(connection)
        else:
            await connection.aclose()


async def dial(address: Address, tls: ssl.SSLContext | None, limit_s: float) -> ByteStream:
    """`OSError` when there is no connection within the limit."""
    with anyio.move_on_after(limit_s):
        try:
            return await _dialled(address, tls)
        except (anyio.BrokenResourceError, anyio.EndOfStream) as error:  # within the handshake of TLS
            raise ConnectionResetError(_reason(error)) from error
        except OSError as error:  # of several addresses anyio says only that none answered
            raise (error.__cause__ if isinstance(error.__cause__, OSError) else error) from None
    raise TimeoutError


async def _dialled(address: Address, tls: ssl.SSLContext | None) -> ByteStream:
    host, port = address.host, address.port
    if tls is None:
        return await anyio.connect_tcp(host, port)
    return await anyio.connect_tcp(
        host, port, tls=True, ssl_context=tls, tls_hostname=host, tls_standard_compatible=False
    )


async def _next(pieces: AsyncIterator[bytes] | None) -> bytes:
    """The next that isn't empty, b"" after the last."""
    if pieces is None:
        return b""
    async for piece in pieces:
        if piece:
            return piece
    return b""


def _reason(error: Exception) -> str:
    """anyio puts what happened behind an error of its own."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return reason(cause)
    return reason(error) if isinstance(error, OSError) else "the connection broke"
