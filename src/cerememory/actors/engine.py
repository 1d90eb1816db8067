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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
import trio
from msgspec.structs import replace

from cerememory.actors.actor import Actor, Ping
from cerememory.actors.journal import FetchRaw, ListRaw
from cerememory.actors.recall import Recall
from cerememory.actors.seams import World
from cerememory.actors.statistics import Statistics
from cerememory.actors.stores import Fetch, Memory
from cerememory.actors.supervisor import Supervisor
from cerememory.actors.text_index import SearchRaw
from cerememory.actors.working import Remember, UpdateWorking
from cerememory.actors.writer import Commit
from cerememory.domain.audit_chain import GENESIS
from cerememory.domain.capture import neighbours
from cerememory.errors import (
    ActorBusy,
    Busy,
    CerememoryError,
    NotCaughtUp,
    RecordNotFound,
    StorageUnavailable,
    ValidationFailed,
)
from cerememory.protocol import limits
from cerememory.protocol.records import SecrecyLevel, Store, TemporalRange, Visibility
from cerememory.protocol.replies import (
    BatchEncoded,
    BatchRawEncoded,
    Encoded,
    RawEncoded,
    RawRecalled,
    Recalled,
    Stats,
)
from cerememory.protocol.requests import (
    DEFAULT_SECRECY,
    LIMIT_MAX,
    EncodeBatch,
    EncodeBatchRaw,
    EncodeStore,
    EncodeStoreRaw,
    EncodeUpdate,
    RecallQuery,
    RecallRawQuery,
    Request,
)
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage import prepare
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, digest, key, system_key
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import NewRaw, Once, Stored, StoreRaw, StoreRecords, UpdateRecord
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import (
    SECRECY_LEVELS,
    STORE_CODE,
    VISIBILITIES,
    parse_content_row,
    parse_head,
)
from cerememory.telemetry.metrics import Metrics

R = TypeVar("R")

OPERATION_S = 30.0
READY_S = 1.0
CAUGHT_UP_S = 1.0
CAUGHT_UP_STEP_S = 0.02
IDEMPOTENCY_NS = 24 * 3_600 * 1_000_000_000
INLINE_RECORDS_MAX = 16  # a batch of more is prepared in a thread: it takes over 2 ms
INLINE_BYTES_MAX = 262_144
WORKING_CODE = STORE_CODE[Store.WORKING]


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Whose key it is (`scope`), the key itself, and the digest of the request it came with."""

    scope: str
    key: str
    body_digest: bytes


@dataclass(frozen=True, slots=True)
class Actors:
    """Whom the engine asks; `stores` in the order of their codes."""

    stores: tuple[Actor, ...]
    journal: Actor
    text_index: Actor
    writer: Actor
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
    ) -> None:
        self._actors = actors
        self._recall = recall
        self._statistics = statistics
        self._storage = storage
        self._world = world
        self._metrics = metrics
        self._limiter = trio.CapacityLimiter(2)
        self._draining = False

    async def encode_store(self, request: EncodeStore, idempotency: Idempotency | None = None) -> Stored[Encoded]:
        now = self._world.now()
        with _deadline("writer"), self._measured([request.route()]):
            make = partial(prepare.new_record, request, self._world.new_id(), now)
            record = await self._prepared(make, [request])
            mutation = StoreRecords((record,), prepare.store_audit(record, now), prepare.encoded(record))
            return await self._commit_records(mutation, Encoded, idempotency)

    async def encode_batch(
        self, request: EncodeBatch, idempotency: Idempotency | None = None
    ) -> Stored[BatchEncoded]:
        """All records or none; the failing one is named."""
        _check_header(request)
        limits.check_batch_size(request.records)
        now = self._world.now()
        with _deadline("writer"), self._measured([record.route() for record in request.records]):
            make = partial(self._new_records, request, now)
            records, inferred = await self._prepared(make, request.records)
            reply = BatchEncoded(
                results=tuple(prepare.encoded(record) for record in records), associations_inferred=inferred
            )
            if request.infer_associations:
                records = _linked(records, now)
            mutation = StoreRecords(records, prepare.batch_audit(records, inferred, now), reply)
            return await self._commit_records(mutation, BatchEncoded, idempotency)

    def _new_records(self, request: EncodeBatch, now: int) -> tuple[tuple[NewRecord, ...], int]:
        """A nanosecond apart, so that they keep their order wherever times are compared."""
        records = tuple(
            prepare.new_record(record, self._world.new_id(), now + i, f"records[{i}].")
            for i, record in enumerate(request.records)
        )
        pairs = max(0, len(records) - 1) if request.infer_associations else 0
        return records, 2 * pairs

    async def encode_update(
        self,
        record_id: RecordId,
        request: EncodeUpdate,
        expected_version: int | None = None,
        idempotency: Idempotency | None = None,
    ) -> Stored[None]:
        now = self._world.now()
        edit = prepare.edit(request, now)
        with _deadline("writer"):
            if self._durable_store(record_id) is not None:
                mutation = UpdateRecord(record_id, edit, expected_version, now)
                return await self._commit(mutation, None, idempotency)
            keep_answer = partial(self._once, reply_type=None, idempotency=idempotency)
            update = UpdateWorking(record_id, edit, expected_version, now, keep_answer)
            return await self._actors.stores[WORKING_CODE].ask(update)

    async def encode_store_raw(
        self, request: EncodeStoreRaw, idempotency: Idempotency | None = None
    ) -> Stored[RawEncoded]:
        now = self._world.now()
        with _deadline("writer"):
            make = partial(prepare.new_raw, request, self._world.new_id(), now)
            record = await self._prepared(make, [request])
            mutation = StoreRaw((record,), (prepare.raw_audit(record, now),), prepare.raw_encoded(record))
            return await self._commit(mutation, RawEncoded, idempotency)

    async def encode_batch_raw(
        self, request: EncodeBatchRaw, idempotency: Idempotency | None = None
    ) -> Stored[BatchRawEncoded]:
        _check_header(request)
        now = self._world.now()
        with _deadline("writer"):
            records = await self._prepared(partial(self._new_raws, request, now), request.records)
            reply = BatchRawEncoded(results=tuple(prepare.raw_encoded(record) for record in records))
            mutation = StoreRaw(records, tuple(prepare.raw_batch_audits(records, now)), reply)
            return await self._commit(mutation, BatchRawEncoded, idempotency)

    def _new_raws(self, request: EncodeBatchRaw, now: int) -> tuple[NewRaw, ...]:
        return tuple(
            prepare.new_raw(record, self._world.new_id(), now + i, f"records[{i}].")
            for i, record in enumerate(request.records)
        )

    async def _prepared(self, make: Callable[[], R], requests: Iterable[EncodeStore | EncodeStoreRaw]) -> R:
        """`make()`, in a thread when it would hold the loop for long."""
        sizes = [_content_bytes(request) for request in requests]
        if len(sizes) <= INLINE_RECORDS_MAX and sum(sizes) <= INLINE_BYTES_MAX:
            return make()
        return await self.off_loop(make)

    async def _commit_records(
        self, mutation: StoreRecords[R], reply_type: type[R], idempotency: Idempotency | None
    ) -> Stored[R]:
        """Through working memory when some of the records are for it."""
        held = tuple(record for record in mutation.records if not record.durable)
        if not held:
            return await self._commit(mutation, reply_type, idempotency)
        once = self._once(mutation, reply_type, idempotency)
        return await self._actors.stores[WORKING_CODE].ask(Remember(held, once))

    async def _commit(
        self, mutation: Mutation[Stored[R]], reply_type: type[Any] | None, idempotency: Idempotency | None
    ) -> Stored[R]:
        return await self._actors.writer.ask(Commit(self._once(mutation, reply_type, idempotency)))

    def _once(
        self, mutation: Mutation[Stored[R]], reply_type: type[Any] | None, idempotency: Idempotency | None
    ) -> Mutation[Stored[R]]:
        """`mutation`, answered anew from what was kept when its idempotency key came before."""
        if idempotency is None:
            return mutation
        key_digest = digest(f"{idempotency.scope}\0{idempotency.key}")
        now = self._world.now()
        return Once(mutation, key_digest, idempotency.body_digest, now, now + IDEMPOTENCY_NS, reply_type)

    @contextmanager
    def _measured(self, stores: list[Store]) -> Iterator[None]:
        """Counts each record that is stored, and how long the whole took, failures too."""
        started = time.perf_counter()
        try:
            yield
            for store in stores:
                self._metrics.encodes.labels(store.value).inc()
        finally:
            elapsed_s = time.perf_counter() - started
            for store in stores:
                self._metrics.encode_duration.labels(store.value).observe(elapsed_s)

    def _durable_store(self, record_id: RecordId) -> Store | None:
        with self._storage.read() as reader:
            value = reader.get(key(Table.CONTENT, record_id))
        return None if value is None else parse_content_row(value).store

    async def recall_query(self, request: RecallQuery) -> Recalled:
        _check_header(request)
        limits.check_cue(request.cue)
        if request.cue.text is not None and not request.cue.text.strip():  # as if there was none
            request = replace(request, cue=replace(request.cue, text=None))
        if request.explain:
            raise ValidationFailed("explain: isn't available in this version")
        with _deadline("recall"), self._metrics.recall_duration.time():
            recalled = await self._recall.query(request)
        self._metrics.recalls.inc()
        return recalled

    async def recall_raw_query(self, request: RecallRawQuery) -> RawRecalled:
        """Oldest first; a query means that all its words are there."""
        _check_header(request)
        span = request.temporal
        if span is not None and span.start > span.end:
            raise ValidationFailed("temporal.start: must not be after temporal.end")
        limit = min(request.limit, LIMIT_MAX)
        with _deadline("raw_journal"):
            record_ids, total = await self._find_raw(request, span, limit)
            entries = await self._actors.journal.ask(FetchRaw(record_ids))
        records = tuple(msgspec.Raw(entry.json()) for entry in entries)
        return RawRecalled(records=records, total_candidates=total)

    async def _find_raw(
        self, request: RecallRawQuery, span: TemporalRange | None, limit: int
    ) -> tuple[tuple[RecordId, ...], int]:
        session = None if request.session_id is None else digest(request.session_id)
        start, end = (None, None) if span is None else (span.start, span.end)
        visible, allowed = _visible(request), _allowed(request)
        if request.query is None or not request.query.strip():
            listed = await self._actors.journal.ask(ListRaw(session, start, end, visible, allowed, limit))
            return listed.record_ids, listed.total
        search = SearchRaw(request.query, session, start, end, visible, allowed, limit)
        found = await self._actors.text_index.ask(search)
        return tuple(found.record_ids), found.total

    async def introspect_record(self, record_id: RecordId) -> msgspec.Raw:
        """The JSON of a MemoryRecord."""
        with _deadline("stores"):
            memory = await self._memory(record_id)
        return msgspec.Raw(memory.json())

    async def _memory(self, record_id: RecordId) -> Memory:
        store = self._durable_store(record_id) or Store.WORKING
        fetched = await self._actors.stores[STORE_CODE[store]].ask(Fetch((record_id,)))
        if not fetched.memories:
            raise RecordNotFound(f"Record not found: {format_id(record_id)}")
        return fetched.memories[0]

    async def introspect_stats(self) -> Stats:
        with _deadline("stores"):
            return await self._statistics.stats()

    def record_count(self) -> int:
        """Durable memories and raw entries."""
        return self._statistics.record_count()

    async def off_loop(self, call: Callable[[], R]) -> R:
        """`call()` where it doesn't hold the event loop: for a surface's large bodies."""
        return await self._world.offload(call, self._limiter)

    async def wait_for(self, sequence: int) -> None:
        """Return when commit `sequence` is visible; `NotCaughtUp` when it isn't within a second."""
        deadline = trio.current_time() + CAUGHT_UP_S
        while self._commit_sequence() < sequence:
            if trio.current_time() >= deadline:
                raise NotCaughtUp(f"X-Cerememory-Sequence: commit {sequence} isn't visible yet")
            await trio.sleep(CAUGHT_UP_STEP_S)

    def _commit_sequence(self) -> int:
        with self._storage.read() as reader:
            return parse_head(reader.get(system_key(Table.HEAD)), GENESIS).commit_sequence

    def drain(self) -> None:
        """From now on the engine says that it isn't ready; what is under way goes on."""
        self._draining = True

    async def not_ready(self) -> str | None:
        """Why introspect.stats can't be served, in the words of the readiness route; None when it can."""
        if self._draining or self._actors.supervisor.given_up:
            return "engine check failed"
        try:
            with trio.fail_after(READY_S):
                for actor in self._actors.supervisor.actors:
                    await actor.ask(Ping())
                await self._statistics.stats()
        except StorageUnavailable:
            return "storage unavailable"
        except (Busy, trio.TooSlowError):
            return "decay engine busy"
        except CerememoryError:  # an actor crashed over it, or what is stored can't be read
            return "engine check failed"
        return None

    async def refresh_gauges(self) -> None:
        """Bring the gauges that aren't kept up as things happen to their value of now."""
        with _deadline("stores"):
            await self._statistics.refresh_gauges()
        for name, depth in self._actors.supervisor.mailbox_depths().items():
            self._metrics.mailbox_depth.labels(name).set(depth)


@contextmanager
def _deadline(asked: str) -> Iterator[None]:
    with trio.CancelScope(deadline=trio.current_time() + OPERATION_S) as scope:
        yield
    if scope.cancelled_caught:
        raise ActorBusy(asked)


def _check_header(request: Request) -> None:
    if request.header is not None:
        request.header.check()


def _linked(records: tuple[NewRecord, ...], now: int) -> tuple[NewRecord, ...]:
    inferred = neighbours([record.record_id for record in records], now)
    return tuple(prepare.with_neighbours(record, edges) for record, edges in zip(records, inferred, strict=True))


def _content_bytes(request: EncodeStore | EncodeStoreRaw) -> int:
    return sum(len(block.data or block.text or block.data_b64 or "") for block in request.content.blocks)


def _visible(request: RecallRawQuery) -> frozenset[int]:
    included = {
        Visibility.NORMAL: True,
        Visibility.PRIVATE_SCRATCH: request.include_private_scratch,
        Visibility.SEALED: request.include_sealed,
    }
    return frozenset(VISIBILITIES.index(visibility) for visibility, yes in included.items() if yes)


def _allowed(request: RecallRawQuery) -> frozenset[int]:
    levels: tuple[SecrecyLevel, ...] = DEFAULT_SECRECY
    if request.secrecy_levels is not None:
        levels = request.secrecy_levels
    return frozenset(SECRECY_LEVELS.index(level) for level in levels)
