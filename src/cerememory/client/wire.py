"""HTTP/1.1 to a daemon without I/O: what is to be done for a request, as steps that a shell performs.

A step is bytes to be sent, or a `Want`; the shell answers a want with bytes, and throws `Broken` into the steps
when the connection fails. So the two clients differ in how they send and receive, and in nothing else. Framing
and the states of a connection are h11's. Whether a connection may carry another request is decided here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeAlias, TypeVar

import h11

from cerememory.errors import ContentTooLarge, ValidationFailed

R = TypeVar("R")
ANSWER_BYTES_MAX = 512 * 1_048_576
JOINED_BYTES_MAX = 65_536  # a body up to here leaves together with its head: one packet for most
RECEIVE_BYTES = 262_144


class Want(Enum):
    BYTES = auto()  # what the peer sends next, b"" when it has ended
    PIECE = auto()  # the next piece of the request's body, b"" after the last


Step: TypeAlias = bytes | Want
Steps: TypeAlias = Generator[Step, bytes, R]


class Broken(Exception):
    """The connection failed, or what came on it is no HTTP. The message is a reason, without a name or URL."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What goes over the wire, of a write the same bytes at every try. Headers hold keys, so no `repr` has them.

    `body` None is a body in pieces that the shell has: its length is in the headers, or it goes in chunks.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)

    @property
    def is_repeatable(self) -> bool:
        return self.body is not None


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer, whatever its status."""

    head: Head
    body: bytes = field(repr=False)


class Conversation:
    """Requests and answers on one connection, one after the other; `authority` is the Host header."""

    def __init__(self, authority: str) -> None:
        self._authority = authority
        self._http = h11.Connection(h11.CLIENT)
        self._is_whole = True

    @property
    def is_reusable(self) -> bool:
        """Whether request and answer are complete, and nothing came that belongs to neither."""
        http = self._http
        is_done = http.our_state is h11.DONE and http.their_state is h11.DONE
        return is_done and self._is_whole and not http.trailing_data[0]

    def exchange(self, request: HttpRequest) -> Steps[HttpAnswer]:
        """`ContentTooLarge` for an answer over `ANSWER_BYTES_MAX`."""
        head = yield from self.ask(request)
        return HttpAnswer(head, (yield from self.rest(ANSWER_BYTES_MAX)))

    def ask(self, request: HttpRequest) -> Steps[Head]:
        """Up to the head of the answer, whose body is then to be read by `part` or `rest`."""
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        try:
            yield from self._send(request)
        except Broken:  # an early refusal (413, 401) is there to be read
            self._is_whole = False
        event = yield from self._event()
        while isinstance(event, h11.InformationalResponse):
            event = yield from self._event()
        return Head(event.status_code, {name.decode(): value.decode("latin-1") for name, value in event.headers})

    def part(self) -> Steps[bytes]:
        """The next part of the body, b"" at its end."""
        event = yield from self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    def rest(self, bytes_max: int) -> Steps[bytes]:
        """The whole body; `ContentTooLarge` for one that is larger."""
        parts: list[bytes] = []
        size_bytes = 0
        while part := (yield from self.part()):
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > bytes_max:
                raise ContentTooLarge(f"the answer is over {bytes_max} bytes, ask for less at once")
        return b"".join(parts)

    def _send(self, request: HttpRequest) -> Steps[None]:
        head = self._head(request)
        if request.body is None:
            yield head
            yield from self._pieces()
            return
        body = self._written(h11.Data(data=request.body)) if request.body else b""
        end = self._written(h11.EndOfMessage())
        if len(body) <= JOINED_BYTES_MAX:
            yield head + body + end
            return
        yield head
        yield body

    def _head(self, request: HttpRequest) -> bytes:
        headers = {"Host": self._authority, **request.headers}
        if request.body is not None and (request.body or request.method != "GET"):
            headers["Content-Length"] = str(len(request.body))
        try:
            return self._written(
                h11.Request(method=request.method, target=request.target, headers=[*headers.items()])
            )
        except (h11.LocalProtocolError, UnicodeEncodeError):  # their words would show the header
            raise ValidationFailed("headers: one holds what no HTTP header can carry") from None

    def _pieces(self) -> Steps[None]:
        try:
            while piece := (yield Want.PIECE):
                yield self._written(h11.Data(data=piece))
            if end := self._written(h11.EndOfMessage()):
                yield end
        except h11.LocalProtocolError:
            raise ValidationFailed("size_bytes: the archive doesn't have as many") from None

    def _written(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    def _event(self) -> Steps[Any]:
        """h11's next event; `Broken` when the peer ends, or speaks something else."""
        came: bytes | None = None
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                came = yield Want.BYTES
                self._http.receive_data(came)
        except h11.RemoteProtocolError:  # its words may quote what came
            reason = "it hung up before the answer was whole" if came == b"" else "what came isn't HTTP"
            raise Broken(reason) from None
        return event
