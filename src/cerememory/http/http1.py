"""HTTP/1.1 as it mostly is: a request that has come whole is answered where it was read.

hypercorn starts a task for each request, hands it the body through a channel, and makes events of its own of each
message in between. A request whose body is there with its head needs none of this; one that is plain besides
(`http.plain`) needn't trouble h11, which reads and writes all others. What still comes or asks to go on (`Expect`)
goes hypercorn's way. That a client would rather speak another protocol is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import unquote

import h11
import trio
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.utils import suppress_body

from cerememory.http import plain
from cerememory.http.bodies import WHOLE_BODY, ClientGone
from cerememory.http.exchange import Headers, Message, Scope
from cerememory.http.plain import PlainRequest

BLANK_LINES = re.compile(rb"(?:\r\n)+")
HTTP2_BEGINNING = b"PRI * HTTP/2.0\r\n\r\n"  # a head, to HTTP/1.1


class Http2Begins(Exception):
    """What a client began with is HTTP/2; `data` is all that has come."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


class Requests(h11.Connection):
    """h11's connection, but for what comes between requests, and behind the last.

    To h11 that is an error at once, also while the request is answered. Here it is left where it is, and so is all
    that has come when the connection is closed. Blank lines between requests are passed over.
    """

    is_answering = False  # a request that went hypercorn's way
    is_over = False

    @property
    def is_between_requests(self) -> bool:
        """Whether the next byte is the first of a request."""
        return self.their_state is h11.IDLE and not self.is_over and not self.trailing_data[0]

    @property
    def they_are_waiting_for_100_continue(self) -> bool:
        """Never, to hypercorn, which would ask for the body before anybody has seen the head: see `_Asking`."""
        return False

    def take(self, data: bytes) -> None:
        """Read the request that `data` is, which was read already."""
        self.receive_data(data)
        while not isinstance(super().next_event(), h11.EndOfMessage):  # whether or not the connection is over
            pass

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.is_over:
            return h11.NEED_DATA
        if self.their_state is h11.MUST_CLOSE and self.trailing_data[0]:
            return h11.PAUSED if self.is_answering else h11.NEED_DATA
        if self.their_state is h11.IDLE and self._is_in_blank_line():
            return h11.NEED_DATA
        return super().next_event()

    def _is_in_blank_line(self) -> bool:
        """Passes over blank lines, and says whether another one has half come.

        They may stand in front of a request: some clients end a body with one (RFC 9112, 2.2). To h11 they are
        errors, and it lets nobody take what it has received.
        """
        waiting, is_at_end = self.trailing_data
        blank = BLANK_LINES.match(waiting)
        if blank is not None:
            self._receive_buffer.maybe_extract_at_most(blank.end())
            waiting = waiting[blank.end() :]
        return waiting == b"\r" and not is_at_end


def surroundings(spoken: H11Protocol) -> tuple[Any, ...]:
    """What another protocol is made with that takes the place of `spoken`."""
    application = spoken.app, spoken.config, spoken.context, spoken.task_group, spoken.connection_state
    return *application, spoken.ssl, spoken.client, spoken.server, spoken.send


class Http1(H11Protocol):
    connection: h11.Connection

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._has_begun = False  # with a request of HTTP/1.1
        size_max = self.config.h11_max_incomplete_size
        self.connection = self.requests = Requests(h11.SERVER, max_incomplete_event_size=size_max)

    @classmethod
    def instead_of(cls, spoken: H11Protocol) -> Http1:
        """For a connection on which nothing was said yet."""
        return cls(*surroundings(spoken))

    async def handle(self, event: Event) -> None:
        """Whoever waits for the end of an answer learns of the end of the connection, too."""
        if isinstance(event, RawData) and (request := self._plain_request(event.data)) is not None:
            self._has_begun = True
            await self.send(Updated(idle=False))
            await self._answer(request, request.body, event.data)
            return
        if isinstance(event, Closed):
            self.requests.is_over = True
        await super().handle(event)
        if isinstance(event, Closed):
            await self.can_read.set()

    async def _check_protocol(self, request: h11.Request) -> None:
        """HTTP/2 begins a connection (RFC 9113, 3.3). `Upgrade: h2c` is ignored: it was given up (3.1)."""
        if _begins_http2(request) and not self._has_begun:
            raise Http2Begins(HTTP2_BEGINNING + self.connection.trailing_data[0])
        self._has_begun = True

    def _plain_request(self, data: bytes) -> PlainRequest | None:
        return plain.read(data) if self.requests.is_between_requests else None

    async def _create_stream(self, request: h11.Request) -> None:
        if _begins_http2(request):  # too late, and what follows is no HTTP/1.1
            await self._send_error_response(400)
            await self.send(Closed())
            return
        request = _without_upgrade(request)
        body = self._whole_body(request)
        if body is None:
            self.requests.is_answering = True
            await self._create_asking_stream(request)
            return
        await self._answer(request, body)
        if self.connection.trailing_data[0]:  # others may have a turn between many requests in one read
            await trio.lowlevel.checkpoint()

    async def _create_asking_stream(self, request: h11.Request) -> None:
        if not self.requests.client_is_waiting_for_100_continue:
            await super()._create_stream(request)
            return
        app, self.app = self.app, _Asking(self)
        try:
            await super()._create_stream(request)
        finally:
            self.app = app

    async def ask_for_body(self) -> None:
        """Of a client that waits for it with `Expect`; unless it has its answer."""
        if self.connection.our_state is h11.SEND_RESPONSE:
            headers = self.config.response_headers("h11")
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=headers))

    async def _close_stream(self) -> None:
        self.requests.is_answering = False
        await super()._close_stream()

    def _whole_body(self, request: h11.Request) -> bytes | None:
        """None: it is yet to come, or isn't ours to read."""
        length = 0
        for name, value in request.headers:
            if name in plain.ELSEWHERE:
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

    async def _answer(self, request: h11.Request | PlainRequest, body: bytes, unread: bytes = b"") -> None:
        """What the application doesn't answer is a 500, as with hypercorn. `unread`: see `_Answer`."""
        answer = _Answer(self, request.method, unread)
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
        if answer.was_plain:
            await self.send(Closed() if self.context.terminated.is_set() else Updated(idle=True))
            return
        if not answer.is_begun:
            answer.tell_h11()
            await self._send_error_response(500)
        await self._maybe_recycle()

    def _scope(self, request: h11.Request | PlainRequest, body: bytes) -> Scope:
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


def _begins_http2(request: h11.Request) -> bool:
    return request.method == b"PRI" and request.target == b"*" and request.http_version == b"2.0"


def _without_upgrade(request: h11.Request) -> h11.Request:
    """A server may ignore the wish for another protocol (RFC 9110, 7.8): WebSockets aren't spoken here."""
    headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
    if len(headers) == len(request.headers):
        return request
    return h11.Request(
        method=request.method, headers=headers, target=request.target, http_version=request.http_version
    )


class _Asking:
    """The application, for a request whose client waits until its body is asked for: that is when it is received.

    So whoever is refused for what is in the head gets the answer in its place (RFC 9110, 10.1.1).
    """

    def __init__(self, protocol: Http1) -> None:
        self._protocol = protocol
        self._app = protocol.app
        self._has_asked = False

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any, sync_spawn: Any, call_soon: Any
    ) -> None:
        async def asked_for() -> Any:
            if not self._has_asked:
                self._has_asked = True
                await self._protocol.ask_for_body()
            return await receive()

        await self._app(scope, asked_for, send, sync_spawn, call_soon)


class _Answer:
    """An ASGI `send` that writes the answer to one request; `ClientGone` when nobody takes its further parts.

    `unread` is the request, when h11 knows nothing of it yet. As it never learns of a plain answer, both are told
    it together, or neither is.
    """

    def __init__(self, protocol: Http1, method: bytes, unread: bytes = b"") -> None:
        self.is_begun = False
        self.was_plain = False
        self._protocol = protocol
        self._method = method
        self._unread = unread
        self._status = 0
        self._headers: Headers = []
        self._is_bodiless = False
        self._has_ended = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [*message.get("headers", []), *self._protocol.config.response_headers("h11")]
            return
        if self._has_ended:  # hypercorn's way takes nothing more, either
            return
        body, more_body = message.get("body", b""), bool(message.get("more_body"))
        head = b"" if self.is_begun else self._begun(body, more_body)
        rest = body if self.was_plain else self._part(body, more_body)
        self._has_ended = not more_body
        await self._protocol.write(head, rest)
        if more_body and self._protocol.requests.is_over:
            raise ClientGone

    def _begun(self, body: bytes, more_body: bool) -> bytes:
        """The head."""
        head = None
        if self._unread and not more_body:
            head = plain.answer_head(self._status, self._headers, len(body))
        self.was_plain = head is not None
        if head is None:
            self.tell_h11()
            head = self._sent(h11.Response(status_code=self._status, headers=self._headers))
            self._is_bodiless = suppress_body(self._method.decode("ascii"), self._status)
        self.is_begun = True
        return head

    def tell_h11(self) -> None:
        """Have it read what it knows nothing of."""
        if self._unread:
            self._protocol.requests.take(self._unread)
            self._unread = b""

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
