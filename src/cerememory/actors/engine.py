"""The engine: one async method for each CMP operation, which is all that a surface sees.

It validates what types can't, prepares what can be prepared outside a transaction, asks the actors and joins
their answers:

    recall, introspect ──> stores, raw journal, text index, vectors   (read)
    encode, update     ──> writer ──> audit log, indexes, stores      (commit, then tell)

Each operation has one deadline. It ends the asking, not the work: a commit under way finishes, and an
idempotency key makes asking again safe.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec
import trio
from msgspec.structs import replace

from cerememory.actors.actor import Actor, Ping
from cerememory.actors.archives import Archives
from cerememory.actors.archives import AsStream as AsStream  # surfaces have it from here
from cerememory.actors.archives import ExportedArchive as ExportedArchive  # and this
from cerememory.actors.associations import Associations
from cerememory.actors.attestation import Attestation
from cerememory.actors.consolidate import Run
from cerememory.actors.cues import Cues
from cerememory.actors.deadline import Deadline
from cerememory.actors.disk_use import DiskUse
from cerememory.actors.dream import Tick
from cerememory.actors.encoding import Encoding
from cerememory.actors.idempotency import Idempotency as Idempotency  # as is this
from cerememory.actors.idempotency import KeptAnswers
from cerememory.actors.introspection import Introspection
from cerememory.actors.lifecycle import Lifecycle
from cerememory.actors.raw_recall import RawRecall
from cerememory.actors.recall import Recall
from cerememory.actors.redacting import Redacting
from cerememory.actors.rotation import AuditRotation
from cerememory.actors.seams import World
from cerememory.actors.searches import NO_TIME as NO_TIME  # and this
from cerememory.actors.statistics import Statistics
from cerememory.actors.supervisor import Supervisor
from cerememory.actors.timelines import Timelines
from cerememory.actors.writer import Commit, Writer
from cerememory.domain.audit_chain import GENESIS, AuditDraft
from cerememory.errors import (
    NEWEST_SEQUENCE,
    Busy,
    CerememoryError,
    NoRoute,
    NotCaughtUp,
    StorageUnavailable,
    ValidationFailed,
)
from cerememory.protocol import limits
from cerememory.protocol.deadlines import COMPACT_S, SERIES_S
from cerememory.protocol.namespaces import DEFAULT_NAME, check_name
from cerememory.protocol.records import Store
from cerememory.protocol.replies import (
    Associated,
    AuditConsistency,
    AuditInclusion,
    AuditRotated,
    BatchEncoded,
    BatchRawEncoded,
    Compacted,
    Consolidated,
    Decayed,
    Dreamt,
    Encoded,
    EvolutionMetrics,
    Exported,
    Forecasts,
    Forgotten,
    Graph,
    Imported,
    ImportUndone,
    RawEncoded,
    RawRecalled,
    Recalled,
    Redacted,
    Restored,
    Stats,
    Timeline,
)
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
    Request,
    Restore,
    RotateAudit,
    SetMode,
    UndoImport,
)
from cerememory.protocol.values import ByteArray, RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.keys import DEFAULT_NAMESPACE, NOWHERE, Table, system_key
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import (
    NoteAudit,
    Stored,
)
from cerememory.storage.namespaces import OpenNamespace, namespace_of
from cerememory.storage.rows import (
    STORE_CODE,
    parse_head,
)
from cerememory.telemetry.metrics import Metrics

R = TypeVar("R")

READY_S = 1.0
UNAVAILABLE, BUSY, BROKEN = "storage unavailable", "decay engine busy", "engine check failed"  # why it isn't ready
CAUGHT_UP_S = 1.0
CAUGHT_UP_STEP_S = 0.02
NO_AUDIT_LOG = "the audit log is switched off (security.audit_log_enabled)"
EXPORT_BYTES_MAX = 32 * 1_048_576  # as JSON it takes ten times as much memory
WORKING_CODE = STORE_CODE[Store.WORKING]


@dataclass(frozen=True, slots=True)
class Actors:
    """Whom the engine asks; `stores` in the order of their codes."""

    stores: tuple[Actor, ...]
    journal: Actor
    text_index: Actor
    writer: Writer
    dreamer: Actor
    consolidator: Actor
    supervisor: Supervisor


class Engine:
    """Made by `assembly.running`, which also starts and stops what it asks."""

    def __init__(
        self,
        actors: Actors,
        recall: Recall,
        statistics: Statistics,
        storage: Storage,
        world: World,
        metrics: Metrics,
        cues: Cues,
        *,
        associations: Associations,
        timelines: Timelines,
        lifecycle: Lifecycle,
        archives: Archives,
        introspection: Introspection,
        disk_use: DiskUse,
        attestation: Attestation | None,
        rotation: AuditRotation | None,
        versions_kept: int,
    ) -> None:
        self._actors = actors
        self._recall = recall
        self._statistics = statistics
        self._storage = storage
        self._world = world
        self._metrics = metrics
        self._cues = cues
        self._associations = associations
        self._timelines = timelines
        self._lifecycle = lifecycle
        self._archives = archives
        self._raw_recall = RawRecall(actors.journal, actors.text_index, world)
        self._redacting = Redacting(storage, world, actors.writer)
        self._introspection = introspection
        self._disk_use = disk_use
        self._attestation = attestation
        self._rotation = rotation
        self._answers = KeptAnswers(world)
        working = actors.stores[WORKING_CODE]
        self._encoding = Encoding(actors.writer, working, storage, world, metrics, self._answers, versions_kept)
        self._limiter = trio.CapacityLimiter(2)
        self._draining = False
        self._namespaces: dict[str, int] = {}  # those of `NAMESPACES_MAX` that were asked for

    async def namespace(self, name: str, *, create: bool = False) -> int:
        """The number of the namespace called `name`: unless it is to be created, one that holds nothing when
        there is none of that name. Raises `ValidationFailed`.
        """
        check_name(name)
        known = self._namespaces.get(name)
        if known is None:
            with self._storage.read() as reader:
                known = namespace_of(reader, name)
            if known is None and create:
                with Deadline("writer"):
                    known = await self._actors.writer.ask(Commit(OpenNamespace(name)))
            if known is None:
                return NOWHERE
            self._namespaces[name] = known
        return known

    async def encode_store(
        self,
        request: EncodeStore,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[Encoded]:
        with Deadline("writer"):
            return await self._encoding.store(request, idempotency, namespace)

    async def encode_batch(
        self,
        request: EncodeBatch,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[BatchEncoded]:
        """All records or none; the failing one is named."""
        _check_header(request)
        with Deadline("writer"):
            return await self._encoding.batch(request, idempotency, namespace)

    async def encode_update(
        self,
        record_id: RecordId,
        request: EncodeUpdate,
        expected_version: int | None = None,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[None]:
        with Deadline("writer"):
            return await self._encoding.update(record_id, request, expected_version, idempotency, namespace)

    async def encode_store_raw(
        self,
        request: EncodeStoreRaw,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[RawEncoded]:
        with Deadline("writer"):
            return await self._encoding.store_raw(request, idempotency, namespace)

    async def encode_batch_raw(
        self,
        request: EncodeBatchRaw,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[BatchRawEncoded]:
        _check_header(request)
        with Deadline("writer"):
            return await self._encoding.batch_raw(request, idempotency, namespace)

    async def recall_query(
        self, request: RecallQuery, *, namespace: int = DEFAULT_NAMESPACE, fresh_by: float = NO_TIME
    ) -> Recalled:
        """What `wait_for` says is `fresh_by`: till then the search waits for an index that is behind."""
        _check_header(request)
        self._cues.check(request.cue)
        limits.check_scope(request.scope)
        if request.cue.text is not None and not request.cue.text.strip():  # as if there was none
            request = replace(request, cue=replace(request.cue, text=None))
        started, begun_at = time.perf_counter(), trio.current_time()
        try:
            if self._cues.can_read:
                with Deadline("recall", begun_at=begun_at):
                    request = replace(request, cue=await self._cues.read(request.cue))
            recalled = await self._recall.query(namespace, request, begun_at, fresh_by)
        finally:
            self._metrics.recall_duration.observe(time.perf_counter() - started)
        self._metrics.recalls.inc()
        return recalled

    async def recall_associate(
        self, record_id: RecordId, request: RecallAssociate, *, namespace: int = DEFAULT_NAMESPACE
    ) -> Associated:
        _check_header(request)
        limits.check_associate(request)
        with Deadline("graph"):
            return await self._associations.associate(namespace, record_id, request)

    async def recall_timeline(self, request: RecallTimeline, *, namespace: int = DEFAULT_NAMESPACE) -> Timeline:
        _check_header(request)
        if request.range.start > request.range.end:
            raise ValidationFailed("range.start: must not be after range.end")
        with Deadline("stores"):
            return await self._timelines.timeline(namespace, request)

    async def recall_graph(self, request: RecallGraph, *, namespace: int = DEFAULT_NAMESPACE) -> Graph:
        _check_header(request)
        with Deadline("graph"):
            return await self._associations.graph(namespace, request)

    async def recall_raw_query(
        self, request: RecallRawQuery, *, namespace: int = DEFAULT_NAMESPACE, fresh_by: float = NO_TIME
    ) -> RawRecalled:
        """Oldest first; a query means that all its words are there. `fresh_by` as in `recall_query`."""
        _check_header(request)
        span = request.temporal
        if span is not None and span.start > span.end:
            raise ValidationFailed("temporal.start: must not be after temporal.end")
        with Deadline("raw_journal"):
            return await self._raw_recall.query(namespace, request, fresh_by)

    async def lifecycle_dream_tick(
        self,
        request: DreamTick,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[Dreamt]:
        """Of two at once the second waits for the first."""
        _check_header(request)
        keep_answer = partial(self._answers.once, reply_type=Dreamt, idempotency=idempotency)
        with Deadline("dreamer"):
            return await self._actors.dreamer.ask(Tick(namespace, request, keep_answer))

    async def lifecycle_consolidate(
        self,
        request: Consolidate,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[Consolidated]:
        """Of two at once the second is `ConsolidationInProgress`."""
        _check_header(request)
        keep_answer = partial(self._answers.once, reply_type=Consolidated, idempotency=idempotency)
        with Deadline("consolidator"):
            return await self._actors.consolidator.ask(Run(namespace, request, keep_answer))

    async def lifecycle_decay_tick(
        self,
        request: DecayTick,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[Decayed]:
        """Of two at once the second waits for the first."""
        _check_header(request)
        keep_answer = partial(self._answers.once, reply_type=Decayed, idempotency=idempotency)
        with Deadline("decay"):
            return await self._lifecycle.decay_tick(namespace, request, keep_answer)

    async def lifecycle_set_mode(
        self,
        request: SetMode,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[None]:
        _check_header(request)
        keep_answer = partial(self._answers.once, reply_type=None, idempotency=idempotency)
        with Deadline("writer"):
            return await self._lifecycle.set_mode(namespace, request, keep_answer)

    async def lifecycle_forget(
        self,
        request: Forget,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[Forgotten]:
        _check_header(request)
        keep_answer = partial(self._answers.once, reply_type=Forgotten, idempotency=idempotency)
        with Deadline("writer"):
            return await self._lifecycle.forget(namespace, request, keep_answer)

    async def lifecycle_restore(
        self,
        request: Restore,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[Restored]:
        _check_header(request)
        keep_answer = partial(self._answers.once, reply_type=Restored, idempotency=idempotency)
        with Deadline("writer"):
            return await self._lifecycle.restore(namespace, request, keep_answer)

    async def lifecycle_compact(self, request: Compact) -> Compacted:
        """Of all namespaces. What is to be written meanwhile waits, under its own deadline."""
        _check_header(request)
        with Deadline("compaction", COMPACT_S):
            return await self._lifecycle.compact()

    async def lifecycle_rotate_audit(
        self, request: RotateAudit, idempotency: Idempotency | None = None
    ) -> Stored[AuditRotated]:
        """Close the audit log's file; what is committed from then on is in a new one."""
        _check_header(request)
        if self._rotation is None:
            raise NoRoute(NO_AUDIT_LOG)
        keep_answer = partial(self._answers.once, reply_type=AuditRotated, idempotency=idempotency)
        with Deadline("audit log"):
            return await self._rotation.rotate(keep_answer)

    async def note(self, audit: AuditDraft) -> None:
        """An audit entry for what was done to the store before the engine ran."""
        with Deadline("writer"):
            await self._actors.writer.ask(Commit(NoteAudit(DEFAULT_NAMESPACE, audit)))

    @asynccontextmanager
    async def export_archive(
        self, request: Export, *, namespace: int = DEFAULT_NAMESPACE, size_bytes_max: int | None = None
    ) -> AsyncIterator[ExportedArchive]:
        """An archive as a stream, for as long as the block lasts: how long that may be is for the surface to say.

        Raises `ContentTooLarge` for one that is over `size_bytes_max`.
        """
        _check_header(request)
        limits.check_export(request)
        async with self._archives.export(request, namespace, size_bytes_max) as exported:
            yield exported

    async def lifecycle_export(self, request: Export, *, namespace: int = DEFAULT_NAMESPACE) -> Exported:
        """An archive in memory; `export_archive` is for those that are too large for it."""
        exporting = self.export_archive(request, namespace=namespace, size_bytes_max=EXPORT_BYTES_MAX)
        async with exporting as exported:
            data = ByteArray(b"".join([chunk async for chunk in exported.chunks]))
        return Exported(
            archive_id=exported.archive_id,
            size_bytes=exported.size_bytes,
            record_count=exported.record_count,
            checksum=exported.checksum,
            archive_data=data,
        )

    async def import_archive(
        self,
        chunks: AsyncIterable[bytes],
        request: ImportTerms,
        idempotency: Idempotency | None = None,
        *,
        namespace: str = DEFAULT_NAME,
    ) -> Stored[Imported]:
        """An archive that comes as a stream: all of it is stored, or nothing. A new `namespace` begins with it."""
        check_name(namespace)
        _check_header(request)
        limits.check_import(request)

        def keep_answer(mutation: Mutation[Stored[Imported]], archive_digest: bytes) -> Mutation[Stored[Imported]]:
            covering = None if idempotency is None else idempotency.with_body(archive_digest)
            return self._answers.once(mutation, Imported, covering)

        return await self._archives.import_archive(chunks, request, namespace, keep_answer)

    async def lifecycle_import(
        self, request: Import, idempotency: Idempotency | None = None, *, namespace: str = DEFAULT_NAME
    ) -> Stored[Imported]:
        chunks = AsStream([request.archive_data])
        return await self.import_archive(chunks, request, idempotency, namespace=namespace)

    async def lifecycle_undo_import(
        self,
        request: UndoImport,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[ImportUndone]:
        """All that an import did is taken back, or nothing."""
        _check_header(request)
        keep_answer = partial(self._answers.once, reply_type=ImportUndone, idempotency=idempotency)
        with Deadline("writer", SERIES_S):
            return await self._archives.undoing.undo(namespace, request, keep_answer)

    async def lifecycle_redact(
        self,
        request: Redact,
        idempotency: Idempotency | None = None,
        *,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Stored[Redacted]:
        """The next piece of a scan; its answer says where the one behind it begins."""
        _check_header(request)
        keep_answer = partial(self._answers.once, reply_type=Redacted, idempotency=idempotency)
        with Deadline("writer", SERIES_S):
            return await self._redacting.redact(namespace, request, keep_answer)

    async def introspect_record(
        self, request: IntrospectRecord, *, namespace: int = DEFAULT_NAMESPACE
    ) -> msgspec.Raw:
        """The JSON of an IntrospectedRecord."""
        with Deadline("stores"):
            return await self._introspection.record(namespace, request)

    async def introspect_decay_forecast(
        self, request: DecayForecast, *, namespace: int = DEFAULT_NAMESPACE
    ) -> Forecasts:
        _check_header(request)
        limits.check_forecast(request)
        with Deadline("stores"):
            return await self._introspection.forecast(namespace, request)

    async def introspect_evolution(self, *, namespace: int = DEFAULT_NAMESPACE) -> EvolutionMetrics:
        return self._introspection.evolution(namespace)

    async def introspect_stats(self, *, namespace: int = DEFAULT_NAMESPACE, with_sizes: bool = False) -> Stats:
        """`with_sizes`: also what takes how much of the disk, as it was measured last, of all namespaces together:
        for whoever may see all.
        """
        with Deadline("stores"):
            return await self._statistics.stats(namespace, self._disk_use.last if with_sizes else None)

    def audit_checkpoint(self) -> bytes:
        """A signed checkpoint (C2SP tlog-checkpoint) of the audit log, with all that is committed."""
        return self._attested().checkpoint()

    async def audit_proof(self, request: AuditProof) -> AuditConsistency | AuditInclusion:
        """That the log continues an older one of its own, or that it has an entry."""
        with Deadline("audit log"):
            return await self._attested().proof(request)

    def _attested(self) -> Attestation:
        if self._attestation is None:
            raise NoRoute(NO_AUDIT_LOG)
        return self._attestation

    def record_count(self) -> int:
        """Durable memories and raw entries."""
        return self._statistics.record_count()

    async def off_loop(self, call: Callable[[], R]) -> R:
        """`call()` where it doesn't hold the event loop: for a surface's large bodies."""
        return await self._world.offload(call, self._limiter)

    def fresh_by(self) -> float:
        """Until when (on the loop's clock) a search may wait to see all that is stored now: a second."""
        return trio.current_time() + CAUGHT_UP_S

    async def wait_for(self, sequence: int) -> float:
        """Return when commit `sequence` is stored: until when searches may wait to see it, as `fresh_by`.

        `NotCaughtUp` when it isn't stored by then.
        """
        deadline = self.fresh_by()
        while (newest := self._commit_sequence()) < sequence:
            if trio.current_time() >= deadline:
                message = f"X-Cerememory-Sequence: commit {sequence} isn't visible yet"
                raise NotCaughtUp(message, details={NEWEST_SEQUENCE: newest})
            await trio.sleep(CAUGHT_UP_STEP_S)
        return deadline

    def _commit_sequence(self) -> int:
        with self._storage.read() as reader:
            return parse_head(reader.get(system_key(Table.HEAD)), GENESIS).commit_sequence

    def drain(self) -> None:
        """From now on the engine says that it isn't ready; what is under way goes on."""
        self._draining = True

    async def not_ready(self) -> str | None:
        """Why introspect.stats can't be served, in the words of the readiness route; None when it can."""
        if self._draining or self._actors.supervisor.given_up:
            return BROKEN
        try:
            self._storage.check_room()
            with trio.fail_after(READY_S):
                for actor in self._actors.supervisor.actors:
                    await actor.ask(Ping())
                await self._statistics.stats(DEFAULT_NAMESPACE)
        except StorageUnavailable:
            return UNAVAILABLE
        except (Busy, trio.TooSlowError):
            return BUSY
        except CerememoryError:  # an actor crashed over it, or what is stored can't be read
            return BROKEN
        return None

    async def measure(self) -> None:
        """Measure the use of the disk now, without a rest: for whoever has the data dir to himself."""
        await self._disk_use.measure(pause_s=0)

    async def keep_measuring(self) -> None:
        """Measure the use of the disk once in a while, until cancelled."""
        await self._disk_use.keep_measuring()

    async def refresh_gauges(self) -> None:
        """Bring the gauges that aren't kept up as things happen to their value of now."""
        with Deadline("stores"):
            await self._statistics.refresh_gauges()
        for name, depth in self._actors.supervisor.mailbox_depths().items():
            self._metrics.mailbox_depth.labels(name).set(depth)


def _check_header(request: Request) -> None:
    if request.header is not None:
        request.header.check()
