"""What `connections` is, on anyio: the same pool, for one event loop.

Cancelling a call closes its connection: half an answer may be on it, so it is never used again.

anyio connects, and waits until a socket is ready; sending and receiving are the socket's own. asyncio's streams
forget what has come when a write fails, and with it the refusal of a request that is still being sent.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint

from cerememory.client.address import Address
from cerememory.client.answers import Answers, reason
from cerememory.client.connections import CONNECTIONS_MAX, IDLE_MAX, all_in_use, is_readable, trusting
from cerememory.client.patience import Patience
from cerememory.client.wire import RECEIVE_BYTES, Broken, Conversation, R, Steps, Want

T = TypeVar("T")


class AsyncSocket:
    """A connected socket, plain or TLS, whose waiting is the event loop's. Errors are `OSError`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    async def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            sent = await _when_ready(self._socket, anyio.wait_writable, partial(self._socket.send, left))
            left = left[sent:]

    async def recv(self, bytes_max: int) -> bytes:
        """b"" when the peer has ended."""
        return await _when_ready(self._socket, anyio.wait_readable, partial(self._socket.recv, bytes_max))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


class AsyncConnection:
    """One connection, and where HTTP is on it."""

    def __init__(self, sock: AsyncSocket, authority: str) -> None:
        self._socket = sock
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
                except OSError as error:
                    step = steps.throw(Broken(reason(error)))
                else:
                    step = steps.send(came)
        except StopIteration as done:
            result: R = done.value
            return result

    async def _do(self, step: bytes | Want) -> bytes:
        if isinstance(step, bytes):
            await self._socket.sendall(step)
            return b""
        return await self._socket.recv(RECEIVE_BYTES)

    def is_idle(self) -> bool:
        """Whether the peer is still there, and silent."""
        return not is_readable(self._socket)

    def close(self) -> None:
        self._socket.close()


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
            connection = (None if is_new else self._take()) or await self._open(patience)
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._room.release_on_behalf_of(place)

    def close(self) -> None:
        """Closes what is idle, now and later; connections in use are their call's until it is done."""
        self._idle_max = 0
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> AsyncConnection | None:
        """The one used last that is still open."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle():
                return connection
            connection.close()
        return None

    async def _open(self, patience: Patience) -> AsyncConnection:
        try:
            sock = await dial(self._address, self._tls, patience.at_most_s(self._connect_timeout_s))
        except OSError as error:
            raise self._answers.not_connected(error) from error
        self.opened += 1
        return AsyncConnection(sock, self._address.authority)

    def _give_back(self, connection: AsyncConnection) -> None:
        if connection.http.is_reusable and len(self._idle) < self._idle_max:
            self._idle.append(connection)
        else:
            connection.close()


async def dial(address: Address, tls: ssl.SSLContext | None, limit_s: float) -> AsyncSocket:
    """`OSError` when there is no connection within the limit."""
    with anyio.move_on_after(limit_s), ExitStack() as unless_done:
        async with await _connected(address) as stream:  # whose end leaves a socket of our own
            sock = socket.socket(fileno=os.dup(stream.extra(SocketAttribute.raw_socket).fileno()))
            unless_done.enter_context(sock)
        sock.setblocking(False)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)
            unless_done.enter_context(sock)
            await _when_ready(sock, anyio.wait_readable, sock.do_handshake)
        unless_done.pop_all()
        return AsyncSocket(sock)
    raise TimeoutError


async def _connected(address: Address) -> SocketStream:
    try:
        return await anyio.connect_tcp(address.host, address.port)
    except OSError as error:  # of several addresses anyio says only that none answered
        raise (error.__cause__ if isinstance(error.__cause__, OSError) else error) from None


async def _when_ready(
    sock: socket.socket, wait: Callable[[socket.socket], Awaitable[None]], call: Callable[[], T]
) -> T:
    """What `call` returns when it needn't wait any more; TLS says itself what for."""
    await checkpoint()
    while True:
        try:
            return call()
        except BlockingIOError:
            await wait(sock)
        except ssl.SSLWantReadError:
            await anyio.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await anyio.wait_writable(sock)


async def _next(pieces: AsyncIterator[bytes] | None) -> bytes:
    """The next that isn't empty, b"" after the last."""
    if pieces is None:
        return b""
    async for piece in pieces:
        if piece:
            return piece
    return b""
