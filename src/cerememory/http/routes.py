"""From a request to an engine call and back: the handlers of all routes, whoever serves them.

A handler gets a `Call` and answers a `Response` or raises a known error. The hot ones are called by the gate
itself, the rest by Quart; both find them in `Routes.table`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar
from urllib.parse import parse_qs

from cerememory.actors.engine import Engine, Idempotency
from cerememory.errors import NoRoute, ValidationFailed
from cerememory.http.bodies import LARGE_BODY_BYTES
from cerememory.http.exchange import Exchange, Headers, Response, json_response, no_content
from cerememory.protocol import codec
from cerememory.protocol.operations import OPERATIONS, Operation
from cerememory.protocol.requests import (
    EncodeBatch,
    EncodeBatchRaw,
    EncodeStore,
    EncodeStoreRaw,
    EncodeUpdate,
    RecallQuery,
    RecallRawQuery,
)
from cerememory.protocol.values import RecordId, parse_id
from cerememory.storage.mutations import Stored
from cerememory.telemetry.metrics import CONTENT_TYPE, Metrics

T = TypeVar("T")

IDEMPOTENCY_KEY_BYTES_MAX = 256
BASE64_TYPE = "application/vnd.cmp+json;bytes=base64"
DEFAULT_NAMESPACE = "default"
TRUTHS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one route: its head, its body, and the parts of its path."""

    exchange: Exchange
    body: bytes
    params: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str  # with `{name}` for a part that varies
    handler: Handler


class Routes:
    def __init__(self, engine: Engine, metrics: Metrics | None) -> None:
        """`metrics` None: there is no such route."""
        self._engine = engine
        self._metrics = metrics
        built: dict[str, Handler] = {
            "encode.store": self.encode_store,
            "encode.batch": self.encode_batch,
            "encode.update": self.encode_update,
            "encode.store_raw": self.encode_store_raw,
            "encode.batch_raw": self.encode_batch_raw,
            "recall.query": self.recall_query,
            "recall.raw_query": self.recall_raw_query,
            "introspect.stats": self.introspect_stats,
            "introspect.record": self.introspect_record,
        }
        self.table = [
            Route("GET", "/health", self.health),
            Route("GET", "/readiness", self.readiness),
            *(Route(o.method, o.path, built.get(o.name) or partial(_not_built, o)) for o in OPERATIONS),
        ]
        if metrics is not None:
            self.table.append(Route("GET", "/metrics", self.metrics))

    async def health(self, call: Call) -> Response:
        return json_response({"status": "ok"})

    async def readiness(self, call: Call) -> Response:
        reason = await self._engine.not_ready()
        if reason is None:
            return json_response({"status": "ready"})
        response = json_response({"status": "not_ready", "reason": reason})
        response.status = 503
        return response

    async def metrics(self, call: Call) -> Response:
        assert self._metrics is not None
        await self._engine.refresh_gauges()
        return Response(200, self._metrics.render(), content_type=CONTENT_TYPE.encode())

    async def encode_store(self, call: Call) -> Response:
        request = await self._parse(call, EncodeStore)
        return _stored(await self._engine.encode_store(request, _idempotency(call)))

    async def encode_batch(self, call: Call) -> Response:
        request = await self._parse(call, EncodeBatch)
        return _stored(await self._engine.encode_batch(request, _idempotency(call)))

    async def encode_update(self, call: Call) -> Response:
        request = await self._parse(call, EncodeUpdate)
        stored = await self._engine.encode_update(_record_id(call), request, _if_match(call), _idempotency(call))
        return no_content(_sequence_header(stored))

    async def encode_store_raw(self, call: Call) -> Response:
        request = await self._parse(call, EncodeStoreRaw)
        return _stored(await self._engine.encode_store_raw(request, _idempotency(call)))

    async def encode_batch_raw(self, call: Call) -> Response:
        request = await self._parse(call, EncodeBatchRaw)
        return _stored(await self._engine.encode_batch_raw(request, _idempotency(call)))

    async def recall_query(self, call: Call) -> Response:
        request = await self._parse(call, RecallQuery)
        await self._catch_up(call)
        return await self._rendered(call, await self._engine.recall_query(request))

    async def recall_raw_query(self, call: Call) -> Response:
        request = await self._parse(call, RecallRawQuery)
        await self._catch_up(call)
        return await self._rendered(call, await self._engine.recall_raw_query(request))

    async def introspect_stats(self, call: Call) -> Response:
        await self._catch_up(call)
        return json_response(await self._engine.introspect_stats())

    async def introspect_record(self, call: Call) -> Response:
        _check_flags(call)
        await self._catch_up(call)
        return await self._rendered(call, await self._engine.introspect_record(_record_id(call)))

    async def _parse(self, call: Call, kind: type[T]) -> T:
        """The body as a `kind`; a large one in a thread."""
        _check_json(call.exchange)
        if len(call.body) <= LARGE_BODY_BYTES:
            return codec.parse(call.body, kind)
        return await self._engine.off_loop(partial(codec.parse, call.body, kind))

    async def _catch_up(self, call: Call) -> None:
        asked = call.exchange.header(b"x-cerememory-sequence")
        if asked is not None:
            await self._engine.wait_for(_number(asked, "X-Cerememory-Sequence"))

    async def _rendered(self, call: Call, reply: object) -> Response:
        """JSON with byte arrays, or with base64 when the request accepts that."""
        if BASE64_TYPE not in (call.exchange.header(b"accept") or "").replace(" ", ""):
            return json_response(reply)
        render = partial(codec.with_base64, codec.dump(reply))
        return Response(200, await self._engine.off_loop(render), content_type=BASE64_TYPE.encode())


async def _not_built(operation: Operation, call: Call) -> Response:
    raise NoRoute(f"{operation.name}: isn't available in this version")


def _stored(stored: Stored[Any]) -> Response:
    return json_response(stored.reply, _sequence_header(stored))


def _sequence_header(stored: Stored[Any]) -> Headers:
    return [(b"x-cerememory-sequence", b"%d" % stored.sequence)]


def _check_json(exchange: Exchange) -> None:
    kind = (exchange.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ValidationFailed(f"Content-Type: expected application/json, got {kind[:64] or 'none'}")


def check_namespace(exchange: Exchange) -> None:
    namespace = exchange.header(b"x-cerememory-namespace")
    if namespace is not None and namespace != DEFAULT_NAMESPACE:
        raise ValidationFailed("X-Cerememory-Namespace: namespaces aren't available in this version")


def _record_id(call: Call) -> RecordId:
    try:
        return parse_id(call.params["record_id"])
    except ValueError as error:
        raise ValidationFailed(f"record_id: {error}") from None


def _idempotency(call: Call) -> Idempotency | None:
    """The key covers method, path and body: the same key with another of them is a conflict."""
    key = call.exchange.header(b"idempotency-key")
    if key is None:
        return None
    if not key.strip() or len(key) > IDEMPOTENCY_KEY_BYTES_MAX:
        raise ValidationFailed(f"Idempotency-Key: expected 1 to {IDEMPOTENCY_KEY_BYTES_MAX} characters")
    covered = f"{call.exchange.method} {call.exchange.path}\0".encode() + call.body
    return Idempotency(call.exchange.scope, key, blake2b(covered, digest_size=16).digest())


def _if_match(call: Call) -> int | None:
    sent = call.exchange.header(b"if-match")
    return None if sent is None or sent.strip() == "*" else _number(sent.strip().strip('"'), "If-Match")


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValidationFailed(f"{where}: expected a number, got {text[:32]!r}")
    return int(text)


def _check_flags(call: Call) -> None:
    query = parse_qs(call.exchange.query.decode("latin-1"), keep_blank_values=True)
    for name in ("include_history", "include_associations", "include_versions"):
        value = query.get(name, ["false"])[-1]
        if value not in TRUTHS:
            raise ValidationFailed(f"{name}: expected true or false, got {value[:32]!r}")
    if "version" in query:
        raise ValidationFailed("version: earlier versions aren't available in this version")
