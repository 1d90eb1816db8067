"""From a request to an engine call and back: the handlers of all routes, whoever serves them.

A handler gets a `Call` and answers a `Response` or raises a known error. The hot ones are called by the gate
itself, the rest by Quart; both find them in `Routes.table`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

from cerememory.actors.engine import NO_TIME, Engine, ExportedArchive, Idempotency
from cerememory.errors import ValidationFailed
from cerememory.http.archives import (
    ARCHIVE_PATH,
    ARCHIVE_TYPE,
    IMPORT_ROUTE,
    archive_headers,
    import_terms,
    with_passphrase,
)
from cerememory.http.bodies import LARGE_BODY_BYTES
from cerememory.http.exchange import Exchange, Headers, Response, Stream, json_response, no_content
from cerememory.http.rules import MCP_PATH
from cerememory.protocol import codec, long
from cerememory.protocol.access import READ, Grant, Needs, Role
from cerememory.protocol.namespaces import DEFAULT_NAME, HEADER, check_name
from cerememory.protocol.operations import BY_NAME, OPERATIONS
from cerememory.protocol.requests import (
    AuditProof,
    Compact,
    Consolidate,
    DecayForecast,
    DecayTick,
    DreamTick,
    EncodeBatch,
    EncodeBatchRaw,
    EncodeStore,
    EncodeStoreRaw,
    EncodeUpdate,
    Export,
    Forget,
    Import,
    ImportTerms,
    IntrospectRecord,
    RecallAssociate,
    RecallGraph,
    RecallQuery,
    RecallRawQuery,
    RecallTimeline,
    Redact,
    Restore,
    RotateAudit,
    SetMode,
    UndoImport,
)
from cerememory.protocol.values import UINT32_MAX, RecordId, parse_id
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.mutations import Stored
from cerememory.telemetry.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from cerememory.http.admission import Admission
    from cerememory.http.reference import Reference

T = TypeVar("T")

CHECKPOINT_PATH, PROOF_PATH = "/v1/audit/checkpoint", "/v1/audit/proof"
NOTE_TYPE = b"text/plain; charset=utf-8"
IDEMPOTENCY_KEY_BYTES_MAX = 256
BASE64_TYPE = "application/vnd.cmp+json;bytes=base64"
TRUTHS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one route: its head, its body, and the parts of its path."""

    exchange: Exchange
    body: bytes
    params: dict[str, str] = field(default_factory=dict)
    parts: AsyncIterator[bytes] | None = None  # of a body that nobody has read yet


Handler = Callable[[Call], Awaitable[Response]]
McpAnswer = Callable[[Exchange, bytes, "Admission"], Awaitable[Response]]  # to a POST with this body


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str  # with `{name}` for a part that varies
    handler: Handler
    needs: Needs = READ

    def check(self, grant: Grant) -> None:
        """Raise `Forbidden` when this isn't allowed to whom `grant` is given."""
        grant.check(self.needs, f"{self.method} {self.path}")


class Routes:
    def __init__(self, engine: Engine, metrics: Metrics | None, mcp: McpAnswer | None = None) -> None:
        """`metrics`, `mcp` None: there is no such route. `admission` is set by the gate in front."""
        self.admission: Admission | None = None
        self._engine = engine
        self._metrics = metrics
        self._mcp = mcp
        self._reference: Reference | None = None
        built: dict[str, Handler] = {
            "encode.store": self.encode_store,
            "encode.batch": self.encode_batch,
            "encode.update": self.encode_update,
            "encode.store_raw": self.encode_store_raw,
            "encode.batch_raw": self.encode_batch_raw,
            "recall.query": self.recall_query,
            "recall.associate": self.recall_associate,
            "recall.timeline": self.recall_timeline,
            "recall.graph": self.recall_graph,
            "recall.raw_query": self.recall_raw_query,
            "lifecycle.dream_tick": self.lifecycle_dream_tick,
            "lifecycle.consolidate": self.lifecycle_consolidate,
            "lifecycle.decay_tick": self.lifecycle_decay_tick,
            "lifecycle.set_mode": self.lifecycle_set_mode,
            "lifecycle.forget": self.lifecycle_forget,
            "lifecycle.restore": self.lifecycle_restore,
            "lifecycle.compact": self.lifecycle_compact,
            "lifecycle.rotate_audit": self.lifecycle_rotate_audit,
            "lifecycle.export": self.lifecycle_export,
            "lifecycle.import": self.lifecycle_import,
            "lifecycle.undo_import": self.lifecycle_undo_import,
            "lifecycle.redact": self.lifecycle_redact,
            "introspect.stats": self.introspect_stats,
            "introspect.record": self.introspect_record,
            "introspect.decay_forecast": self.introspect_decay_forecast,
            "introspect.evolution": self.introspect_evolution,
        }
        self.table = [
            Route("GET", "/health", self.health),
            Route("GET", "/readiness", self.readiness),
            Route("GET", "/v1/openapi.json", self.openapi),
            Route("GET", "/docs", self.docs),
            Route("GET", CHECKPOINT_PATH, self.audit_checkpoint),
            Route("GET", PROOF_PATH, self.audit_proof),
            Route("POST", ARCHIVE_PATH, self.export_archive, BY_NAME["lifecycle.export"].needs),
            Route(*IMPORT_ROUTE, self.import_archive, BY_NAME["lifecycle.import"].needs),
            *(Route(o.method, o.path, built[o.name], o.needs) for o in OPERATIONS),
        ]
        if metrics is not None:
            self.table.append(Route("GET", "/metrics", self.metrics, Needs(Role.READ, is_global=True)))
        if mcp is not None:
            self.table.append(Route("POST", MCP_PATH, self.mcp))

    async def openapi(self, call: Call) -> Response:
        return (await self._described()).document.answer(call.exchange)

    async def docs(self, call: Call) -> Response:
        return (await self._described()).page.answer(call.exchange)

    async def _described(self) -> Reference:
        """What describes these routes, made at the first request for it."""
        if self._reference is None:
            self._reference = await self._engine.off_loop(partial(_describe, self.table))
        return self._reference

    async def health(self, call: Call) -> Response:
        return json_response({"status": "ok"})

    async def readiness(self, call: Call) -> Response:
        reason = await self._engine.not_ready()
        if reason is None:
            return json_response({"status": "ready"})
        response = json_response({"status": "not_ready", "reason": reason})
        response.status = 503
        return response

    async def audit_checkpoint(self, call: Call) -> Response:
        return Response(200, self._engine.audit_checkpoint(), content_type=NOTE_TYPE)

    async def audit_proof(self, call: Call) -> Response:
        return json_response(await self._engine.audit_proof(_audit_proof(call)))

    async def metrics(self, call: Call) -> Response:
        assert self._metrics is not None
        await self._engine.refresh_gauges()
        return Response(200, self._metrics.render(), content_type=CONTENT_TYPE.encode())

    async def mcp(self, call: Call) -> Response:
        """Any key may ask; each tool asks for the role that it needs."""
        assert self._mcp is not None
        assert self.admission is not None
        _check_json(call.exchange)
        return await self._mcp(call.exchange, call.body, self.admission)

    async def encode_store(self, call: Call) -> Response:
        request = await self._parse(call, EncodeStore)
        namespace = await self._namespace(call, create=True)
        return _stored(await self._engine.encode_store(request, _idempotency(call), namespace=namespace))

    async def encode_batch(self, call: Call) -> Response:
        request = await self._parse(call, EncodeBatch)
        namespace = await self._namespace(call, create=True)
        return _stored(await self._engine.encode_batch(request, _idempotency(call), namespace=namespace))

    async def encode_update(self, call: Call) -> Response:
        request = await self._parse(call, EncodeUpdate)
        stored = await self._engine.encode_update(
            _record_id(call, request.record_id),
            request,
            _if_match(call),
            _idempotency(call),
            namespace=await self._namespace(call),
        )
        return no_content(_sequence_header(stored))

    async def encode_store_raw(self, call: Call) -> Response:
        request = await self._parse(call, EncodeStoreRaw)
        namespace = await self._namespace(call, create=True)
        return _stored(await self._engine.encode_store_raw(request, _idempotency(call), namespace=namespace))

    async def encode_batch_raw(self, call: Call) -> Response:
        request = await self._parse(call, EncodeBatchRaw)
        namespace = await self._namespace(call, create=True)
        return _stored(await self._engine.encode_batch_raw(request, _idempotency(call), namespace=namespace))

    async def recall_query(self, call: Call) -> Response:
        request = await self._parse(call, RecallQuery)
        fresh_by = await self._catch_up(call)
        namespace = await self._namespace(call)
        found = await self._engine.recall_query(request, namespace=namespace, fresh_by=fresh_by)
        return await self._rendered(call, found)

    async def recall_associate(self, call: Call) -> Response:
        request = await self._parse(call, RecallAssociate)
        await self._catch_up(call)
        namespace = await self._namespace(call)
        found = await self._engine.recall_associate(
            _record_id(call, request.record_id), request, namespace=namespace
        )
        return await self._rendered(call, found)

    async def recall_timeline(self, call: Call) -> Response:
        request = await self._parse(call, RecallTimeline)
        await self._catch_up(call)
        namespace = await self._namespace(call)
        return await self._rendered(call, await self._engine.recall_timeline(request, namespace=namespace))

    async def recall_graph(self, call: Call) -> Response:
        request = await self._parse(call, RecallGraph)
        await self._catch_up(call)
        namespace = await self._namespace(call)
        return await self._dumped(await self._engine.recall_graph(request, namespace=namespace))

    async def recall_raw_query(self, call: Call) -> Response:
        request = await self._parse(call, RecallRawQuery)
        fresh_by = await self._catch_up(call)
        namespace = await self._namespace(call)
        found = await self._engine.recall_raw_query(request, namespace=namespace, fresh_by=fresh_by)
        return await self._rendered(call, found)

    async def lifecycle_dream_tick(self, call: Call) -> Response:
        request = await self._parse(call, DreamTick)
        namespace = await self._namespace(call)
        return _stored(await self._engine.lifecycle_dream_tick(request, _idempotency(call), namespace=namespace))

    async def lifecycle_consolidate(self, call: Call) -> Response:
        request = await self._parse(call, Consolidate)
        namespace = await self._namespace(call)
        return _stored(await self._engine.lifecycle_consolidate(request, _idempotency(call), namespace=namespace))

    async def lifecycle_decay_tick(self, call: Call) -> Response:
        request = await self._parse(call, DecayTick)
        namespace = await self._namespace(call)
        return _stored(await self._engine.lifecycle_decay_tick(request, _idempotency(call), namespace=namespace))

    async def lifecycle_set_mode(self, call: Call) -> Response:
        request = await self._parse(call, SetMode)
        namespace = await self._namespace(call, create=True)
        stored = await self._engine.lifecycle_set_mode(request, _idempotency(call), namespace=namespace)
        return no_content(_sequence_header(stored))

    async def lifecycle_forget(self, call: Call) -> Response:
        request = await self._parse(call, Forget)
        namespace = await self._namespace(call)
        return _stored(await self._engine.lifecycle_forget(request, _idempotency(call), namespace=namespace))

    async def lifecycle_restore(self, call: Call) -> Response:
        request = await self._parse(call, Restore)
        namespace = await self._namespace(call)
        return _stored(await self._engine.lifecycle_restore(request, _idempotency(call), namespace=namespace))

    async def lifecycle_compact(self, call: Call) -> Response:
        request = await self._parse(call, Compact)
        await self._catch_up(call)
        return json_response(await self._engine.lifecycle_compact(request))

    async def lifecycle_rotate_audit(self, call: Call) -> Response:
        request = await self._parse(call, RotateAudit)
        return _stored(await self._engine.lifecycle_rotate_audit(request, _idempotency(call)))

    async def lifecycle_export(self, call: Call) -> Response:
        request = await self._parse(call, Export)
        await self._catch_up(call)
        namespace = await self._namespace(call)
        exported = await self._engine.lifecycle_export(request, namespace=namespace)
        if _accepts_base64(call):
            return await self._rendered(call, exported)
        return Response(200, await self._engine.off_loop(partial(codec.dump, exported)))

    async def lifecycle_import(self, call: Call) -> Response:
        request = await self._parse(call, Import)
        namespace = call.exchange.namespace or DEFAULT_NAME
        return _stored(await self._engine.lifecycle_import(request, _idempotency(call), namespace=namespace))

    async def lifecycle_undo_import(self, call: Call) -> Response:
        request = await self._parse(call, UndoImport)
        namespace = await self._namespace(call)
        return _stored(await self._engine.lifecycle_undo_import(request, _idempotency(call), namespace=namespace))

    async def lifecycle_redact(self, call: Call) -> Response:
        request = await self._parse(call, Redact)
        namespace = await self._namespace(call)
        return _stored(await self._engine.lifecycle_redact(request, _idempotency(call), namespace=namespace))

    async def export_archive(self, call: Call) -> Response:
        owned = AsyncExitStack()
        exported = await owned.enter_async_context(self.exporting(call))
        stream = Stream(exported.size_bytes, exported.chunks, owned)
        return Response(200, content_type=ARCHIVE_TYPE, headers=archive_headers(exported), stream=stream)

    @asynccontextmanager
    async def exporting(self, call: Call) -> AsyncIterator[ExportedArchive]:
        """The archive that the body of `call` asks for, for as long as the block lasts."""
        request = with_passphrase(call.exchange, await self._parse(call, Export))
        await self._catch_up(call)
        namespace = await self._namespace(call)
        async with self._engine.export_archive(request, namespace=namespace) as exported:
            yield exported

    async def import_archive(self, call: Call) -> Response:
        return await self.import_parts(call, import_terms(call.exchange))

    async def import_parts(self, call: Call, terms: ImportTerms) -> Response:
        """Take in the archive whose bytes are the parts of `call`."""
        namespace = call.exchange.namespace or DEFAULT_NAME
        assert call.parts is not None  # who serves calls this itself
        imported = self._engine.import_archive(call.parts, terms, _idempotency(call), namespace=namespace)
        return _stored(await imported)

    async def introspect_stats(self, call: Call) -> Response:
        await self._catch_up(call)
        namespace, sees_all = await self._namespace(call), call.exchange.grant.namespace is None
        return json_response(await self._engine.introspect_stats(namespace=namespace, with_sizes=sees_all))

    async def introspect_record(self, call: Call) -> Response:
        request = _introspect_record(call)
        await self._catch_up(call)
        namespace = await self._namespace(call)
        return await self._rendered(call, await self._engine.introspect_record(request, namespace=namespace))

    async def introspect_decay_forecast(self, call: Call) -> Response:
        request = await self._parse(call, DecayForecast)
        await self._catch_up(call)
        namespace = await self._namespace(call)
        return json_response(await self._engine.introspect_decay_forecast(request, namespace=namespace))

    async def introspect_evolution(self, call: Call) -> Response:
        await self._catch_up(call)
        namespace = await self._namespace(call)
        return json_response(await self._engine.introspect_evolution(namespace=namespace))

    async def _parse(self, call: Call, kind: type[T]) -> T:
        """The body as a `kind`; a large one in a thread."""
        _check_json(call.exchange)
        if len(call.body) <= LARGE_BODY_BYTES:
            return codec.parse(call.body, kind)
        return await self._engine.off_loop(partial(codec.parse, call.body, kind))

    async def _catch_up(self, call: Call) -> float:
        """Wait for the commit that the request names, if any: until when its searches may wait to see it."""
        asked = call.exchange.header(b"x-cerememory-sequence")
        return NO_TIME if asked is None else await self._engine.wait_for(_number(asked, "X-Cerememory-Sequence"))

    async def _namespace(self, call: Call, *, create: bool = False) -> int:
        """The one that the request is about; with the first thing stored in it, a new name is given a number."""
        name = call.exchange.namespace
        return DEFAULT_NAMESPACE if name is None else await self._engine.namespace(name, create=create)

    async def _rendered(self, call: Call, reply: object) -> Response:
        """JSON with byte arrays, or with base64 when the request accepts that."""
        if _accepts_base64(call):
            dumped = await self._engine.off_loop(partial(long.dump_with_base64, reply))
            return Response(200, dumped, content_type=BASE64_TYPE.encode())
        return await self._dumped(reply)

    async def _dumped(self, reply: object) -> Response:
        if long.is_long(reply):
            return Response(200, await self._engine.off_loop(partial(long.dump, reply)))
        return json_response(reply)


def _accepts_base64(call: Call) -> bool:
    return BASE64_TYPE in (call.exchange.header(b"accept") or "").replace(" ", "")


def _describe(routes: list[Route]) -> Reference:
    from cerememory.http import reference  # loaded by whoever asks for it first, not by every start

    return reference.make((route.method, route.path) for route in routes)


def _stored(stored: Stored[Any]) -> Response:
    return json_response(stored.reply, _sequence_header(stored))


def _sequence_header(stored: Stored[Any]) -> Headers:
    return [(b"x-cerememory-sequence", b"%d" % stored.sequence)]


def _check_json(exchange: Exchange) -> None:
    kind = (exchange.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ValidationFailed(f"Content-Type: expected application/json, got {kind[:64] or 'none'}")


def asked_namespace(exchange: Exchange) -> str | None:
    """The name that the head has; `ValidationFailed` for what can't be one."""
    name = exchange.header(HEADER.lower().encode())
    if name is not None:
        check_name(name, HEADER)
    return name


def _record_id(call: Call, in_body: RecordId | None = None) -> RecordId:
    """The path's; the body's where the path has none."""
    if "record_id" not in call.params and in_body is not None:
        return in_body
    if "record_id" not in call.params:
        raise ValidationFailed("record_id: missing field")
    try:
        return parse_id(call.params["record_id"])
    except ValueError as error:
        raise ValidationFailed(f"record_id: {error}") from None


def _idempotency(call: Call) -> Idempotency | None:
    """The key covers method, path, query and body: the same key with another of them is a conflict."""
    key = call.exchange.header(b"idempotency-key")
    if key is None:
        return None
    if not key.strip() or len(key) > IDEMPOTENCY_KEY_BYTES_MAX:
        raise ValidationFailed(f"Idempotency-Key: expected 1 to {IDEMPOTENCY_KEY_BYTES_MAX} characters")
    exchange = call.exchange
    covered = f"{exchange.method} {exchange.path}\0".encode() + exchange.query + b"\0" + call.body
    return Idempotency(exchange.grant.caller, key, blake2b(covered, digest_size=16).digest())


def _if_match(call: Call) -> int | None:
    sent = call.exchange.header(b"if-match")
    return None if sent is None or sent.strip() == "*" else _number(sent.strip().strip('"'), "If-Match")


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValidationFailed(f"{where}: expected a number, got {text[:32]!r}")
    return int(text)


def _introspect_record(call: Call) -> IntrospectRecord:
    query = parse_qs(call.exchange.query.decode("latin-1"), keep_blank_values=True)
    version = _number(query["version"][-1], "version") if "version" in query else None
    if version is not None and not 1 <= version <= UINT32_MAX:
        raise ValidationFailed(f"version: expected 1 to {UINT32_MAX}, got {version}")
    return IntrospectRecord(
        record_id=_record_id(call),
        include_history=_flag(query, "include_history"),
        include_associations=_flag(query, "include_associations"),
        include_versions=_flag(query, "include_versions"),
        version=version,
    )


def _audit_proof(call: Call) -> AuditProof:
    query = parse_qs(call.exchange.query.decode("latin-1"), keep_blank_values=True)

    def number(name: str) -> int | None:
        return _number(query[name][-1], name) if name in query else None

    return AuditProof(old=number("old"), new=number("new"), entry=number("entry"), size=number("size"))


def _flag(query: dict[str, list[str]], name: str) -> bool:
    value = query.get(name, ["false"])[-1]
    if value not in TRUTHS:
        raise ValidationFailed(f"{name}: expected true or false, got {value[:32]!r}")
    return TRUTHS[value]
