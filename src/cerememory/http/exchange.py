"""One HTTP request and its answer, as plain values: what the gate, the routes and Quart hand to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import uuid_utils

from cerememory.config.checks import plain_address
from cerememory.errors import CerememoryError, WrongMethod, answer_of
from cerememory.protocol import codec
from cerememory.protocol.access import EVERYTHING, Grant
from cerememory.protocol.replies import error_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
FORWARDED_FOR = b"x-forwarded-for"
UNKNOWN_ROUTE = "unknown"
BODILESS = frozenset({204, 304})


@dataclass(slots=True)
class Exchange:
    """A request's head. `headers` are by lower-case name, the last of equals wins; `route` is its template.

    `path` is the one that is served, however the target was written. `grant` and `namespace` are what the gate has
    found out: what the caller may do, and in which namespace (None: the default one).
    """

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    peer: str
    request_id: str
    http_version: str = "1.1"
    route: str = UNKNOWN_ROUTE
    grant: Grant = EVERYTHING
    namespace: str | None = None

    @classmethod
    def of(cls, asgi: Scope) -> Exchange:
        headers = _by_name(asgi["headers"])
        client = asgi.get("client")
        return cls(
            method=asgi["method"],
            path=_path(asgi["path"]),
            query=asgi["query_string"],
            headers=headers,
            peer=plain_address(client[0]) if client else "",
            request_id=_request_id(headers.get(b"x-request-id")),
            http_version=asgi["http_version"],
        )

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


def _path(target: str) -> str:
    """That of a target which is a whole URL, too: as HTTP/1.1 wants, though only proxies are asked so."""
    if target.startswith("/"):
        return target
    return "/" + target.partition("://")[2].partition("/")[2]


def _by_name(headers: Headers) -> dict[bytes, bytes]:
    """The lines of X-Forwarded-For are one list, wherever a proxy put its own."""
    named = dict(headers)
    if FORWARDED_FOR in named and len(named) < len(headers):
        named[FORWARDED_FOR] = b", ".join(value for name, value in headers if name == FORWARDED_FOR)
    return named


def _request_id(sent: bytes | None) -> str:
    """The caller's id when it is a UUID, else a new one."""
    if sent is not None:
        try:
            return str(UUID(sent.decode("latin-1")))
        except ValueError:
            pass
    return str(uuid_utils.uuid4())


@dataclass(slots=True)
class Stream:
    """A body that is made while it is sent: `size_bytes` in `chunks`. `owned` is let go of when it is sent."""

    size_bytes: int
    chunks: AsyncIterator[bytes]
    owned: AsyncExitStack


@dataclass(slots=True)
class Response:
    """The body is `stream`, when there is one."""

    status: int
    body: bytes = b""
    content_type: bytes | None = JSON
    headers: Headers = field(default_factory=list)
    close: bool = False
    stream: Stream | None = None

    def head(self) -> Headers:
        """All headers, the computed ones first; an answer without a body has no Content-Type."""
        found: Headers = []
        if self.status not in BODILESS:
            size = len(self.body) if self.stream is None else self.stream.size_bytes
            found.append((b"content-length", b"%d" % size))
            if self.content_type is not None:
                found.append((b"content-type", self.content_type))
        if self.close:
            found.append((b"connection", b"close"))
        return found + self.headers


def json_response(value: object, headers: Headers | None = None) -> Response:
    return Response(200, codec.dump(value), headers=headers or [])


def no_content(headers: Headers | None = None) -> Response:
    return Response(204, content_type=None, headers=headers or [])


def error_response(error: CerememoryError, request_id: str | None) -> Response:
    """The CMP error envelope, with the headers that belong to its status."""
    answer = answer_of(error)
    headers: Headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if answer.http_status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, WrongMethod):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    return Response(answer.http_status, msgspec.json.encode(error_body(error, request_id)), headers=headers)
