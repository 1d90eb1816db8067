"""An HTTP client that talks to an ASGI application in this process, without a socket or an HTTP library.

Model: a request's body comes in the parts that a test gives, each when the application asks for it; a part may
be `STALL`, after which nothing comes any more, or `HANG_UP`, after which the client is gone. What the
application sends is kept as it came. The client never sends a malformed head: that is for a real server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import trio

from cerememory.http.exchange import Headers, Message
from cerememory.http.server import App

STALL: Final = "stall"
HANG_UP: Final = "hang up"
Part = bytes | str
NO_HEADERS: Mapping[str, str] = {}


@dataclass
class Reply:
    """An answer; `parts` are the bodies of the messages it came in, `received` how many of the request's."""

    status: int
    raw_headers: Headers
    parts: list[bytes]
    received: int

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case name; an answer has no name twice but for what a test looks up in `raw_headers`."""
        return {name.decode().lower(): value.decode("latin-1") for name, value in self.raw_headers}

    @property
    def code(self) -> str:
        """The CMP code of an error."""
        return str(self.json["code"])

    @property
    def message(self) -> str:
        return str(self.json["message"])


@dataclass
class _Exchange:
    """One request under way."""

    parts: list[Part]
    received: int = 0
    start: Message = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if self.received == len(self.parts):
            await trio.sleep_forever()
        part = self.parts[self.received]
        if part == STALL:
            await trio.sleep_forever()
        self.received += 1
        if isinstance(part, str):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": self.received < len(self.parts)}

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            assert not self.start, "an answer has one head"
            self.start = message
        else:
            assert self.start, "the head comes first"
            self.bodies.append(message.get("body", b""))


class AsgiClient:
    """Sends requests to `app` from `peer`, each with `headers`."""

    def __init__(self, app: App, peer: str = "127.0.0.1", headers: Mapping[str, str] = NO_HEADERS) -> None:
        self._app = app
        self._peer = peer
        self._headers = headers

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[Part] | object = b"",
        headers: Mapping[str, str | None] = NO_HEADERS,
        query: str = "",
        http_version: str = "1.1",
    ) -> Reply:
        """The answer. `body` is bytes, parts, or what is sent as JSON; a header of None isn't sent at all."""
        parts = _parts(body)
        exchange = _Exchange(parts)
        await self._app(
            self._scope(method, path, query, parts, headers, http_version), exchange.receive, exchange.send
        )
        if not exchange.start:
            raise NoAnswer
        return Reply(exchange.start["status"], list(exchange.start["headers"]), exchange.bodies, exchange.received)

    async def post(self, path: str, body: object, **headers: str) -> Reply:
        """`_` in header names stands for `-`."""
        return await self.ask("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def _scope(
        self,
        method: str,
        path: str,
        query: str,
        parts: list[Part],
        headers: Mapping[str, str | None],
        http_version: str,
    ) -> dict[str, Any]:
        sent: dict[str, str | None] = {"host": "localhost", "content-type": "application/json", **self._headers}
        if all(isinstance(part, bytes) for part in parts):
            sent["content-length"] = str(sum(map(len, parts)))
        sent |= {name.lower(): value for name, value in headers.items()}
        return {
            "type": "http",
            "http_version": http_version,
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(n.encode(), v.encode("latin-1")) for n, v in sent.items() if v is not None],
            "client": (self._peer, 50_000),
            "server": ("127.0.0.1", 8420),
            "state": {},
            "extensions": {},
        }


class NoAnswer(Exception):
    """The application ended without an answer, as it does when the client is gone."""


def _parts(body: bytes | Iterable[Part] | object) -> list[Part]:
    if isinstance(body, bytes):
        return [body]
    if isinstance(body, (list, tuple)) and all(isinstance(part, (bytes, str)) for part in body):
        return list(body)
    return [msgspec.json.encode(body)]
