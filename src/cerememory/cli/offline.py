"""The engine inside a command: the data dir is the command's for as long as it works.

The engine runs on an event loop in a thread of its own, without surfaces and timers. A call goes the way that a
request to the daemon goes: its body through the codec into the operation's type, its answer back through the
codec. Leaving drains the engine: everything is committed, in the audit file and indexed.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from cerememory.actors.assembly import opened
from cerememory.actors.engine import AsStream, Engine, ExportedArchive
from cerememory.cli.groups import ungrouped
from cerememory.client.archives import ArchiveStream
from cerememory.config.settings import Settings
from cerememory.errors import ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.namespaces import DEFAULT_NAME
from cerememory.protocol.operations import BY_NAME, Operation
from cerememory.protocol.records import STORES
from cerememory.protocol.replies import AuditRotated, Compacted, Imported, Stats
from cerememory.protocol.requests import (
    Compact,
    Export,
    ImportTerms,
    IntrospectRecord,
    RecallCue,
    RecallQuery,
    RotateAudit,
)
from cerememory.protocol.values import RecordId, parse_id
from cerememory.storage.datadir import DataDir
from cerememory.storage.mutations import Stored
from cerememory.telemetry import logs
from cerememory.telemetry.metrics import Metrics

INDEXED_WITHIN_S = 60.0
PROBE_EVERY_S = 0.02
PROBE = RecallQuery(cue=RecallCue(text="index"), limit=1, reconsolidate=False)
STORING = {  # a namespace begins with one of them
    *("encode.store", "encode.batch", "encode.store_raw", "encode.batch_raw"),
    "lifecycle.set_mode",
}


async def _introspect_record(engine: Engine, record_id: RecordId, *, namespace: int) -> msgspec.Raw:
    return await engine.introspect_record(IntrospectRecord(record_id=record_id), namespace=namespace)


async def _compact(engine: Engine, request: Compact, *, namespace: int) -> Compacted:
    """Of all namespaces."""
    return await engine.lifecycle_compact(request)


async def _rotate_audit(engine: Engine, request: RotateAudit, *, namespace: int) -> Stored[AuditRotated]:
    """Of all namespaces."""
    return await engine.lifecycle_rotate_audit(request)


async def _stats(engine: Engine, *, namespace: int) -> Stats:
    """With the sizes, which nobody has measured here before."""
    await engine.measure()
    return await engine.introspect_stats(namespace=namespace, with_sizes=True)


METHODS: dict[str, Callable[..., Awaitable[object]]] = {
    "encode.store": Engine.encode_store,
    "encode.batch": Engine.encode_batch,
    "encode.update": Engine.encode_update,
    "encode.store_raw": Engine.encode_store_raw,
    "encode.batch_raw": Engine.encode_batch_raw,
    "recall.query": Engine.recall_query,
    "recall.associate": Engine.recall_associate,
    "recall.timeline": Engine.recall_timeline,
    "recall.graph": Engine.recall_graph,
    "recall.raw_query": Engine.recall_raw_query,
    "lifecycle.dream_tick": Engine.lifecycle_dream_tick,
    "lifecycle.consolidate": Engine.lifecycle_consolidate,
    "lifecycle.decay_tick": Engine.lifecycle_decay_tick,
    "lifecycle.set_mode": Engine.lifecycle_set_mode,
    "lifecycle.forget": Engine.lifecycle_forget,
    "lifecycle.restore": Engine.lifecycle_restore,
    "lifecycle.compact": _compact,
    "lifecycle.rotate_audit": _rotate_audit,
    "lifecycle.export": Engine.lifecycle_export,
    "lifecycle.import": Engine.lifecycle_import,
    "lifecycle.undo_import": Engine.lifecycle_undo_import,
    "lifecycle.redact": Engine.lifecycle_redact,
    "introspect.stats": _stats,
    "introspect.record": _introspect_record,
    "introspect.decay_forecast": Engine.introspect_decay_forecast,
    "introspect.evolution": Engine.introspect_evolution,
}


@contextmanager
def offline(
    settings: Settings, directory: DataDir, namespace: str | None, is_verbose: bool
) -> Iterator[OfflineMemory]:
    """`directory` is released at the end. Raises `StartRefused` when what is in it isn't whole."""
    quiet = settings.log.level if is_verbose else max(settings.log.level, "warn", key=logs.LEVELS.__getitem__)
    logs.configure(quiet, settings.log.format)
    with (
        ungrouped(),
        directory,
        _event_loop() as portal,
        ExitStack() as stack,
    ):
        directory.announce("")
        metrics = Metrics([store.value for store in STORES])
        opening = portal.wrap_async_context_manager(opened(without_timers(settings), directory, metrics))
        engine = opening.__enter__()
        stack.callback(opening.__exit__, None, None, None)  # it drains the same way whatever ended the command
        portal.call(_until_indexed, engine)
        yield OfflineMemory(engine, portal, namespace or DEFAULT_NAME)


@contextmanager
def _event_loop() -> Iterator[BlockingPortal]:
    """One in a thread of its own. An interrupt waits until it runs: before, nothing would ever end that thread."""
    with ExitStack() as stack:
        with _interrupts_held():
            portal = stack.enter_context(start_blocking_portal("trio"))
        yield portal


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """One that comes meanwhile comes at the end. A masked signal would go to the threads that libraries have."""
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        signal.raise_signal(signal.SIGINT)


def without_timers(settings: Settings) -> Settings:
    """What a daemon does once in a while, a command doesn't: it lasts a moment."""
    return replace(
        settings,
        decay=replace(settings.decay, background_interval_secs=0),
        dream=replace(settings.dream, background_interval_secs=0),
    )


async def _until_indexed(engine: Engine) -> None:
    """Return when searches see all that is stored, or after `INDEXED_WITHIN_S`.

    The index catches up in the background. A daemon answers meanwhile; a command has only this moment.
    """
    with trio.move_on_after(INDEXED_WITHIN_S):
        while not (await engine.recall_query(PROBE)).query_metadata.index_complete:  # noqa: ASYNC110
            await trio.sleep(PROBE_EVERY_S)


class OfflineMemory:
    """`Memory` on an engine that runs in the portal's thread."""

    def __init__(self, engine: Engine, portal: BlockingPortal, namespace: str) -> None:
        self._engine = engine
        self._portal = portal
        self._namespace = namespace

    def call(
        self, operation_name: str, body: object | None = None, *, path_params: Mapping[str, str] | None = None
    ) -> Any:
        arguments: list[Any] = [_record_id(text) for text in (path_params or {}).values()]
        operation = BY_NAME[operation_name]
        if body is not None and operation.request is not None:
            arguments.append(codec.parse(codec.dump(body), operation.request))
        reply = self._portal.call(self._ask, operation, arguments)
        return _decoded(reply.reply if isinstance(reply, Stored) else reply)

    @contextmanager
    def export_archive(self, body: object) -> Iterator[ArchiveStream]:
        request = codec.parse(codec.dump(body), Export)
        namespace = self._portal.call(self._engine.namespace, self._namespace)
        exporting = self._engine.export_archive(request, namespace=namespace)
        with self._portal.wrap_async_context_manager(exporting) as exported:
            yield ArchiveStream(
                archive_id=exported.archive_id,
                record_count=exported.record_count,
                checksum=exported.checksum,
                size_bytes=exported.size_bytes,
                chunks=self._chunks(exported),
            )

    def _chunks(self, exported: ExportedArchive) -> Iterator[bytes]:
        while chunk := self._portal.call(_next_chunk, exported):
            yield chunk

    def import_archive(self, chunks: Iterable[bytes], size_bytes: int, terms: Mapping[str, Any]) -> Any:
        request = codec.parse(codec.dump(terms), ImportTerms)
        return _decoded(self._portal.call(self._import, chunks, request).reply)

    async def _import(self, chunks: Iterable[bytes], request: ImportTerms) -> Stored[Imported]:
        return await self._engine.import_archive(AsStream(chunks), request, namespace=self._namespace)

    async def _ask(self, operation: Operation, arguments: list[Any]) -> object:
        if operation.name == "lifecycle.import":
            return await self._engine.lifecycle_import(*arguments, namespace=self._namespace)
        namespace = await self._engine.namespace(self._namespace, create=operation.name in STORING)
        return await METHODS[operation.name](self._engine, *arguments, namespace=namespace)


async def _next_chunk(exported: ExportedArchive) -> bytes:
    return await anext(exported.chunks, b"")


def _record_id(text: str) -> RecordId:
    """The one part that a path may have."""
    try:
        return parse_id(text)
    except ValueError as error:
        raise ValidationFailed(f"record_id: {error}") from None


def _decoded(reply: object) -> Any:
    return None if reply is None else msgspec.json.decode(codec.dump(reply))
