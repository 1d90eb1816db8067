"""HTTP/1.1 as it mostly is: a request that has come whole is answered where it was read.

hypercorn starts a task for each request, hands it the body through a channel, and makes events of its own of each
message in between. A request whose body is there with its head needs none of this. What still comes, asks to go
on (`Expect`) or wants another protocol goes hypercorn's way. h11 reads and writes all of it.
"""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote

import h11
import trio
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.utils import suppress_body

from cerememory.http.bodies import WHOLE_BODY, ClientGone
from cerememory.http.exchange import Message, Scope

ELSEWHERE = frozenset({b"transfer-encoding", b"upgrade", b"expect"})  # headers of what goes hypercorn's way


class Requests(h11.Connection):
    """h11's connection, but for what comes behind the last request.

    To h11 that is an error at once, also while the request is answered. Here it is left where it is, and so is all
    that has come when the connection is closed.
    """

    is_answering = False  # a request that went hypercorn's way
    is_over = False

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.is_over:
            return h11.NEED_DATA
        if self.their_state is h11.MUST_CLOSE and self.trailing_data[0]:
            return h11.PAUSED if self.is_answering else h11.NEED_DATA
        return super().next_event()


class Http1(H11Protocol):
    connection: h11.Connection

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        size_max = self.config.h11_max_incomplete_size
        self.connection = self.requests = Requests(h11.SERVER, max_incomplete_event_size=size_max)

    @classmethod
    def instead_of(cls, spoken: H11Protocol) -> Http1:
        """For a connection on which nothing was said yet."""
        return cls(
            spoken.app,
            spoken.config,
            spoken.context,
            spoken.task_group,
            spoken.connection_state,
            spoken.ssl,
            spoken.client,
            spoken.server,
            spoken.send,
        )

    async def handle(self, event: Event) -> None:
        """Whoever waits for the end of an answer learns of the end of the connection, too."""
        if isinstance(event, Closed):
            self.requests.is_over = True
        await super().handle(event)
        if isinstance(event, Closed):
            await self.can_read.set()

    async def _check_protocol(self, request: h11.Request) -> None:
        """HTTP/2 is only looked for where it may be asked for."""
        if request.method == b"PRI" or any(name == b"upgrade" for name, _value in request.headers):
            await super()._check_protocol(request)

    async def _create_stream(self, request: h11.Request) -> None:
        body = self._whole_body(request)
        if body is None:
            self.requests.is_answering = True
            await super()._create_stream(request)
            return
        await self._answer(request, body)
        await self._maybe_recycle()

    async def _close_stream(self) -> None:
        self.requests.is_answering = False
        await super()._close_stream()

    def _whole_body(self, request: h11.Request) -> bytes | None:
        """None: it is yet to come, or isn't ours to read."""
        length = 0
        for name, value in request.headers:
            if name in ELSEWHERE:
                return None
            if name == b"content-length":
                length = int(value)
        if length > len(self.connection.trailing_data[0]):
            return None
        parts: list[bytes] = []
        while isinstance(event := self.connection.next_event(), h11.Data):
            parts.append(bytes(event.data))
        assert isinstance(event, h11.EndOfMessage)
        return b"".join(parts)

    async def _answer(self, request: h11.Request, body: bytes) -> None:
        """What the application doesn't answer is a 500, as with hypercorn."""
        answer = _Answer(self, request)
        try:
            await self.app(
                cast(Any, self._scope(request, body)),
                cast(Any, _WholeBody(body).receive),
                cast(Any, answer.send),
                trio.to_thread.run_sync,
                trio.from_thread.run,
            )
        except Exception:  # noqa: BLE001 - of the application, which says for itself what it knows
            await self.config.log.exception("Error in ASGI Framework")
        if not answer.is_begun:
            await self._send_error_response(500)

    def _scope(self, request: h11.Request, body: bytes) -> Scope:
        path, _, query_string = request.target.partition(b"?")
        return {
            "type": "http",
            "http_version": request.http_version.decode(),
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": request.method.decode("ascii").upper(),
            "scheme": "https" if self.ssl else "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query_string,
            "root_path": self.config.root_path,
            "headers": list(request.headers),
            "client": self.client,
            "server": self.server,
            "state": self.connection_state.copy(),
            "extensions": {},
            WHOLE_BODY: body,
        }

    async def write(self, head: bytes, rest: bytes) -> None:
        """The connection keeps a head for what follows it, so that both go out in one write."""
        if head:
            await self.send(RawData(data=head))
        await self.send(RawData(data=rest))


class _Answer:
    """An ASGI `send` that writes the answer to one request; `ClientGone` when nobody takes its further parts."""

    def __init__(self, protocol: Http1, request: h11.Request) -> None:
        self.is_begun = False
        self._protocol = protocol
        self._request = request
        self._head = b""
        self._is_bodiless = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message["status"], list(message.get("headers", [])))
            return
        head, self._head = self._head, b""
        more_body = bool(message.get("more_body"))
        await self._protocol.write(head, self._part(message.get("body", b""), more_body))
        if more_body and self._protocol.requests.is_over:
            raise ClientGone

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        protocol = self._protocol
        headers += protocol.config.response_headers("h11")
        self._head = self._sent(h11.Response(status_code=status, headers=headers))
        self._is_bodiless = suppress_body(self._request.method.decode("ascii"), status)
        self.is_begun = True

    def _part(self, body: bytes, more_body: bool) -> bytes:
        part = self._sent(h11.Data(data=body)) if body and not self._is_bodiless else b""
        return part if more_body else part + self._sent(h11.EndOfMessage())

    def _sent(self, event: h11.Event) -> bytes:
        """`event` as bytes; nothing for a client of which nothing can be understood any more."""
        connection = self._protocol.connection
        try:
            return connection.send(event) or b""
        except h11.LocalProtocolError:
            if connection.their_state is not h11.ERROR:
                raise
            return b""


class _WholeBody:
    """An ASGI `receive`: the body, and then nothing more."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await trio.sleep_forever()
        return {"type": "http.request", "body": body, "more_body": False}
