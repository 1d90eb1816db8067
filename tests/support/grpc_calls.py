"""gRPC calls to the gate in this process, without a socket or an HTTP library.

Model: a request's bytes come in the parts that a test gives, each when the application asks for it; a part may be
`STALL`, after which nothing comes any more. The messages are plain bytes on both sides, framed here.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from cerememory.actors.seams import Offload, inline
from cerememory.config.settings import Settings
from cerememory.grpc.descriptors import CMP, message
from cerememory.grpc.framing import STATUS_NUMBERS
from cerememory.grpc.service import GrpcService
from cerememory.http.exchange import Message
from cerememory.http.gate import Gate
from cerememory.http.routes import Routes
from cerememory.http.server import App
from cerememory.storage.api_keys import KeyFile
from tests.support.asgi import NO_HEADERS, AsgiClient
from tests.support.engine import Running, WallClock, running_engine, settings_for
from tests.support.gated import UNLIMITED

STALL: Final = "stall"
GRPC_HEADERS = {"content-type": "application/grpc", "te": "trailers"}
NAMES = {number: name for name, number in STATUS_NUMBERS.items()}


def framed(message: bytes, *, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


def with_payload(body: object) -> bytes:
    """A message whose one field, `json_payload`, is `body`."""
    sent = body if isinstance(body, bytes) else msgspec.json.encode(body)
    dumped: bytes = message("cerememory.v1.EncodeStoreRequest")(json_payload=sent).SerializeToString()
    return dumped


@dataclass
class Reply:
    """`status` is the name of the gRPC status, "" when there is none: who asked spoke no gRPC."""

    http_status: int
    head: dict[str, str]
    body: bytes
    trailers: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return NAMES[int(self.trailers["grpc-status"])] if self.trailers else ""

    @property
    def said(self) -> str:
        return self.trailers["grpc-message"]

    @property
    def refusal(self) -> tuple[str, str]:
        """Status and CMP code."""
        return self.status, self.trailers["x-cerememory-code"]

    @property
    def envelope(self) -> Any:
        return msgspec.json.decode(base64.b64decode(self.trailers["x-cerememory-error-bin"]))

    @property
    def messages(self) -> list[bytes]:
        return list(_messages(self.body))

    @property
    def json(self) -> Any:
        """What the payload of the only message says."""
        assert self.status == "OK", self.trailers
        (only,) = self.messages
        return msgspec.json.decode(message("cerememory.v1.EncodeStoreResponse").FromString(only).json_payload)


def _messages(body: bytes) -> Iterator[bytes]:
    while body:
        flag, size = struct.unpack_from(">BI", body)
        assert flag == 0
        yield body[5 : 5 + size]
        body = body[5 + size :]


@dataclass
class _Sent:
    start: Message = field(default_factory=dict)
    body: bytes = b""
    trailers: Message = field(default_factory=dict)

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            assert not self.start, "an answer has one head"
            self.start = message
        elif message["type"] == "http.response.trailers":
            self.trailers = message
        else:
            self.body += message.get("body", b"")


class GrpcCalls:
    """Calls to `app` from `peer`, each with `headers`."""

    def __init__(self, app: App, peer: str = "127.0.0.1", headers: Mapping[str, str] = NO_HEADERS) -> None:
        self._app = app
        self._peer = peer
        self._headers = {**GRPC_HEADERS, **headers}

    async def ask(
        self, method: str, body: object, headers: Mapping[str, str | None] = NO_HEADERS, **given: Any
    ) -> Reply:
        """A method of CMP with `body`, JSON or what becomes it, as the payload of its message."""
        return await self.send(f"/{CMP}/{method}", [framed(with_payload(body))], headers, **given)

    async def send(
        self,
        path: str,
        parts: Sequence[bytes | str],
        headers: Mapping[str, str | None] = NO_HEADERS,
        *,
        verb: str = "POST",
        query: str = "",
    ) -> Reply:
        sent, left = _Sent(), list(parts)

        async def receive() -> Message:
            await trio.lowlevel.checkpoint()
            part = left.pop(0) if left else b""
            if isinstance(part, str):
                await trio.sleep_forever()
            return {"type": "http.request", "body": part, "more_body": bool(left)}

        named = {**self._headers, **{name.lower(): value for name, value in headers.items()}}
        await self._app(self._scope(verb, path, query, named), receive, sent.send)
        assert sent.start, "there was no answer"
        return Reply(
            sent.start["status"], _text(sent.start["headers"]), sent.body, _text(sent.trailers.get("headers", []))
        )

    def _scope(self, verb: str, path: str, query: str, headers: Mapping[str, str | None]) -> dict[str, Any]:
        return {
            "type": "http",
            "http_version": "2",
            "method": verb,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(n.encode(), v.encode("latin-1")) for n, v in headers.items() if v is not None],
            "client": (self._peer, 50_000),
            "server": ("127.0.0.1", 50_051),
            "state": {},
            "extensions": {"http.response.trailers": {}},
        }


def _text(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in headers}


@dataclass
class Called:
    """One engine behind both services."""

    grpc: GrpcCalls
    http: AsgiClient
    service: GrpcService
    gate: Gate
    running: Running

    def grpc_from(self, peer: str, headers: Mapping[str, str] = NO_HEADERS) -> GrpcCalls:
        return GrpcCalls(self.service.gate, peer, headers)

    @property
    def bytes_in_flight(self) -> int:
        return self.gate.admission.inflight._bytes


@asynccontextmanager
async def called(
    path: Path,
    *,
    settings: Settings | None = None,
    local_token: str | None = None,
    stored_keys: KeyFile | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
    offload: Offload = inline,
    clock: WallClock | None = None,
    **sections: Any,
) -> AsyncIterator[Called]:
    """`sections` are those of the settings, when no `settings` are given."""
    chosen = settings or settings_for(path, **{"rate_limit": UNLIMITED, **sections})
    async with running_engine(path, settings=chosen, offload=offload, clock=clock) as running:
        routes = Routes(running.engine, None, None)
        gate = Gate(chosen, routes, running.metrics, local_token, stored_keys)
        service = GrpcService(chosen, running.engine, routes, gate.admission, running.metrics)
        yield Called(
            GrpcCalls(service.gate, headers=headers),
            AsgiClient(gate, headers=headers),
            service,
            gate,
            running,
        )
