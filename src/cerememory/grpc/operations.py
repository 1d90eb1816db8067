"""The service of CMP: each method is the operation of that name, asked as over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Self

import msgspec
from google.protobuf.descriptor import MethodDescriptor

from cerememory.actors.engine import ExportedArchive
from cerememory.errors import MessageTooLarge, ValidationFailed
from cerememory.grpc.descriptors import CMP, messages_of, service
from cerememory.grpc.rpc import Method, Rpc
from cerememory.http.exchange import Headers, Response
from cerememory.http.routes import Call, Routes
from cerememory.http.routes import Handler as RouteHandler
from cerememory.protocol import codec
from cerememory.protocol.operations import BY_NAME
from cerememory.protocol.replies import Exported
from cerememory.protocol.requests import ImportTerms
from cerememory.protocol.values import ByteArray

CHUNK_BYTES = 65_536
IMPORT_BYTES_MAX = 256 * 1_048_576
OPERATIONS = {
    "EncodeStore": "encode.store",
    "EncodeBatch": "encode.batch",
    "EncodeUpdate": "encode.update",
    "EncodeStoreRaw": "encode.store_raw",
    "EncodeBatchStoreRaw": "encode.batch_raw",
    "RecallQuery": "recall.query",
    "RecallRawQuery": "recall.raw_query",
    "RecallAssociate": "recall.associate",
    "RecallTimeline": "recall.timeline",
    "RecallGraph": "recall.graph",
    "Consolidate": "lifecycle.consolidate",
    "DreamTick": "lifecycle.dream_tick",
    "DecayTick": "lifecycle.decay_tick",
    "SetMode": "lifecycle.set_mode",
    "Forget": "lifecycle.forget",
    "Export": "lifecycle.export",
    "Import": "lifecycle.import",
    "Stats": "introspect.stats",
    "IntrospectRecord": "introspect.record",
    "DecayForecast": "introspect.decay_forecast",
    "Evolution": "introspect.evolution",
}


class CmpService:
    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._handlers = {(route.method, route.path): route.handler for route in routes.table}

    def methods(self) -> Iterator[Method]:
        for rpc in service(CMP).methods:
            operation = BY_NAME[OPERATIONS[rpc.name]]
            ask = partial(self._ask, self._handlers[operation.method, operation.path])
            handler = {"Export": self._export, "Import": self._import}.get(rpc.name, ask)
            yield Method(_name(rpc), *messages_of(rpc), handler, operation.needs)

    async def _ask(self, handler: RouteHandler, rpc: Rpc) -> Headers:
        request = await rpc.request()
        params = {"record_id": request.record_id} if hasattr(request, "record_id") else {}
        response = await handler(Call(rpc.exchange, getattr(request, "json_payload", b""), params))
        await rpc.send(_reply(rpc.method.reply, response))
        return response.headers

    async def _export(self, rpc: Rpc) -> Headers:
        request = await rpc.request()
        async with self._routes.exporting(Call(rpc.exchange, request.json_payload)) as exported:
            metadata, left, waiting = _metadata(exported), exported.size_bytes, bytearray()
            async for part in exported.chunks:
                waiting += part
                while len(waiting) >= CHUNK_BYTES or len(waiting) == left > 0:
                    data = bytes(waiting[:CHUNK_BYTES])
                    del waiting[:CHUNK_BYTES]
                    left -= len(data)
                    await rpc.send(rpc.method.reply(data=data, is_last=not left, json_metadata=metadata))
                    metadata = b""
        return []

    async def _import(self, rpc: Rpc) -> Headers:
        first = await rpc.next()
        if first is None or not first.json_metadata:
            raise ValidationFailed("json_metadata: missing in the first chunk")
        terms = codec.parse(first.json_metadata, ImportTerms, "json_metadata")
        call = Call(rpc.exchange, first.json_metadata, parts=_Parts(rpc, first))
        response = await self._routes.import_parts(call, terms)
        await rpc.send(_reply(rpc.method.reply, response))
        return response.headers


def _name(rpc: MethodDescriptor) -> str:
    return f"{rpc.containing_service.full_name}/{rpc.name}"


def _reply(kind: Any, response: Response) -> Any:
    """The JSON of `response` as a message, or those of its members that the message has."""
    names = kind.DESCRIPTOR.fields_by_name
    if "json_payload" in names:
        return kind(json_payload=response.body)
    members = msgspec.json.decode(response.body) if names else {}
    return kind(**{name: members[name] for name in names})


def _metadata(exported: ExportedArchive) -> bytes:
    return codec.dump(
        Exported(
            archive_id=exported.archive_id,
            size_bytes=exported.size_bytes,
            record_count=exported.record_count,
            checksum=exported.checksum,
            archive_data=ByteArray(b""),
        )
    )


class _Parts:
    """The bytes of an archive as its chunks bring them. It can be left anywhere."""

    def __init__(self, rpc: Rpc, first: Any) -> None:
        self._rpc = rpc
        self._chunk = first
        self._size = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = self._chunk or await self._rpc.next()
        self._chunk = None
        if chunk is None:
            raise StopAsyncIteration
        self._size += len(chunk.data)
        if self._size > IMPORT_BYTES_MAX:
            raise MessageTooLarge(f"data: more than {IMPORT_BYTES_MAX} bytes in all")
        data: bytes = chunk.data
        return data
