"""HTTP/1.1 to one host, on trio and h11: connections, TLS, the bounds of an answer.

One `exchange` is one try: deadlines and retries are `api`'s. A connection belongs to one exchange at a time;
after a complete answer it is kept for the next, unless the peer wants it closed or it has been idle for long.
Redirects aren't followed: no provider sends any, and a key goes nowhere but to its host.
"""

from __future__ import annotations

import ssl
from binascii import b2a_base64
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import h11
import trio

from cerememory.protocol.base_url import BaseUrl
from cerememory.providers.contract import Cause, Failure

ANSWER_BYTES_MAX = 4 * 1_048_576  # an embedding of 16,384 numbers, printed at length, is a tenth of it
CONNECTIONS_MAX = 8
IDLE_S = 30.0  # less than the services and the routers between keep a silent connection
PIECE_BYTES = 49_152  # a multiple of 3, so that pieces of base64 join
RECEIVE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body, made in pieces so that none holds the event loop for long.

    `payload` stands between `before` and `after`: as it is, or as base64 when `encoded`.
    """

    before: bytes
    payload: bytes = b""
    after: bytes = b""
    encoded: bool = False

    @property
    def size_bytes(self) -> int:
        payload_bytes = len(self.payload)
        if self.encoded:
            payload_bytes = (payload_bytes + 2) // 3 * 4
        return len(self.before) + payload_bytes + len(self.after)

    def pieces(self) -> Iterator[bytes]:
        yield self.before
        for start in range(0, len(self.payload), PIECE_BYTES):
            piece = self.payload[start : start + PIECE_BYTES]
            yield b2a_base64(piece, newline=False) if self.encoded else piece
        yield self.after


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A POST. Headers hold the key and the body memories, so neither is in the `repr`."""

    target: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: Body = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer, whatever its status."""

    status: int
    body: bytes = field(repr=False)


class Transport(Protocol):
    """Where requests go: the network, or a test's script."""

    async def exchange(self, request: HttpRequest) -> HttpAnswer | Failure:
        """The answer to one try. May be cancelled."""


class HttpTransport:
    """At most `CONNECTIONS_MAX` exchanges at once, those beyond wait their turn. Close it with `aclose`."""

    def __init__(self, base: BaseUrl) -> None:
        self._base = base
        self._tls = ssl.create_default_context() if base.scheme == "https" else None
        self._room = trio.CapacityLimiter(CONNECTIONS_MAX)
        self._idle: list[_Connection] = []

    async def exchange(self, request: HttpRequest) -> HttpAnswer | Failure:
        async with self._room:
            try:
                return await self._converse(await self._take(), request)
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
                return _no_answer(error)
            except h11.LocalProtocolError:  # its words would show the header
                return Failure(Cause.REFUSED, "the request can't be written as HTTP")

    async def aclose(self) -> None:
        while self._idle:
            await self._idle.pop().aclose()

    async def _take(self) -> _Connection:
        """The connection used last that is still open, else a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable():
                return connection
            await connection.aclose()
        tcp = await trio.open_tcp_stream(self._base.host, self._base.port)
        return _Connection(tcp, self._secured(tcp), self._base.authority)

    def _secured(self, tcp: trio.SocketStream) -> Stream:
        if self._tls is None:
            return tcp
        return trio.SSLStream(tcp, self._tls, server_hostname=self._base.host, https_compatible=True)

    async def _converse(self, connection: _Connection, request: HttpRequest) -> HttpAnswer | Failure:
        try:
            return await connection.converse(request)
        finally:
            if connection.is_done():
                self._idle.append(connection)
            else:
                await connection.aclose()


Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class _Connection:
    """One connection, and where h11 is on it."""

    def __init__(self, tcp: trio.SocketStream, stream: Stream, authority: str) -> None:
        self._tcp = tcp
        self._stream = stream
        self._authority = authority
        self._http = h11.Connection(h11.CLIENT)
        self._used_at = trio.current_time()

    def is_usable(self) -> bool:
        """Whether an idle connection may be used again: readable means that the peer closed it."""
        return trio.current_time() - self._used_at < IDLE_S and not self._tcp.socket.is_readable()

    def is_done(self) -> bool:
        """Whether request and answer are complete, and another may follow."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def converse(self, request: HttpRequest) -> HttpAnswer | Failure:
        if self.is_done():
            self._http.start_next_cycle()
        if isinstance(self._stream, trio.SSLStream):
            await self._stream.do_handshake()
        with suppress(trio.BrokenResourceError):  # an early refusal (413, 401) is there to be read
            await self._send(request)
        answer = await self._receive()
        self._used_at = trio.current_time()
        return answer

    async def _send(self, request: HttpRequest) -> None:
        headers = [
            ("Host", self._authority),
            ("Accept", "application/json"),
            ("Content-Length", str(request.body.size_bytes)),
            *request.headers,
        ]
        await self._write(h11.Request(method="POST", target=request.target, headers=headers))
        for piece in request.body.pieces():
            await self._write(h11.Data(data=piece))
        await self._write(h11.EndOfMessage())

    async def _write(self, event: h11.Event) -> None:
        await self._stream.send_all(self._http.send(event) or b"")

    async def _receive(self) -> HttpAnswer | Failure:
        head = await self._event()
        while isinstance(head, h11.InformationalResponse):
            head = await self._event()
        parts: list[bytes] = []
        size_bytes = 0
        while isinstance(event := await self._event(), h11.Data):
            parts.append(bytes(event.data))
            size_bytes += len(event.data)
            if size_bytes > ANSWER_BYTES_MAX:
                return Failure(Cause.TOO_LARGE, f"the answer is over {ANSWER_BYTES_MAX} bytes")
        return HttpAnswer(head.status_code, b"".join(parts))

    async def _event(self) -> Any:
        """h11's next event; it raises when the connection ends where an answer can't."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self._stream.receive_some(RECEIVE_BYTES)))
        return event


def _no_answer(error: OSError | trio.BrokenResourceError | h11.RemoteProtocolError) -> Failure:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Failure(Cause.UNTRUSTED, f"the certificate isn't trusted: {cause.verify_message}")
    if isinstance(error, h11.RemoteProtocolError):  # its words may quote what came
        return Failure(Cause.NETWORK, "no whole HTTP answer came")
    if isinstance(error, OSError):
        return Failure(Cause.NETWORK, error.strerror or str(error))
    return Failure(Cause.NETWORK, f"the connection broke: {cause or error}")
