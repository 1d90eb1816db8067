"""encode.*: what is to be stored is prepared outside a transaction, and committed by the writer.

Owns no state. What is for working memory goes through it; what was kept under an idempotency key is answered anew.
The engine sets the deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import trio
from msgspec import UNSET

from cerememory.actors.actor import Actor
from cerememory.actors.idempotency import Idempotency, KeptAnswers
from cerememory.actors.seams import World
from cerememory.actors.working import Remember, UpdateWorking
from cerememory.actors.writer import Commit
from cerememory.domain.capture import neighbours
from cerememory.errors import RecordNotFound, ValidationFailed
from cerememory.protocol import limits
from cerememory.protocol.records import Store
from cerememory.protocol.replies import BatchEncoded, BatchRawEncoded, Encoded, RawEncoded
from cerememory.protocol.requests import EncodeBatch, EncodeBatchRaw, EncodeStore, EncodeStoreRaw, EncodeUpdate
from cerememory.protocol.values import RecordId
from cerememory.storage import prepare
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, key
from cerememory.storage.ledger import Mutation
from cerememory.storage.likenesses import BuildLikenesses, is_complete
from cerememory.storage.mutations import Stored, StoreIfAbsent, StoreRaw, StoreRecords, UpdateRecord
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import parse_content_row
from cerememory.telemetry.metrics import Metrics

R = TypeVar("R")
INLINE_RECORDS_MAX = 16  # a batch of more is prepared in a thread: it takes over 2 ms
INLINE_BYTES_MAX = 262_144


class Encoding:
    def __init__(
        self,
        writer: Actor,
        working: Actor,
        storage: Storage,
        world: World,
        metrics: Metrics,
        answers: KeptAnswers,
        versions_kept: int,
    ) -> None:
        self._writer = writer
        self._working = working
        self._storage = storage
        self._world = world
        self._metrics = metrics
        self._answers = answers
        self._versions_kept = versions_kept
        self._limiter = trio.CapacityLimiter(2)

    async def store(
        self, request: EncodeStore, idempotency: Idempotency | None, namespace: int
    ) -> Stored[Encoded]:
        now = self._world.now()
        with self._measured([request.route()]):
            make = partial(prepare.new_record, namespace, request, self._world.new_id(), now)
            record = await self._prepared(make, [request])
            reply = prepare.encoded(record, created=True if request.if_absent else UNSET)
            mutation = StoreRecords(namespace, (record,), prepare.store_audit(record, now), reply)
            if request.if_absent:
                return await self._store_if_absent(mutation, idempotency)
            return await self._commit_records(mutation, Encoded, idempotency)

    async def _store_if_absent(
        self, mutation: StoreRecords[Encoded], idempotency: Idempotency | None
    ) -> Stored[Encoded]:
        namespace, position = mutation.namespace, None
        if not mutation.records[0].durable:
            raise ValidationFailed("if_absent: working memory, which forgets by itself, doesn't know it")
        with self._storage.read() as reader:
            is_ready = is_complete(reader, namespace)
        while not is_ready:
            position = await self._writer.ask(Commit(BuildLikenesses(namespace, position)))
            is_ready = position is None
        return await self._commit(StoreIfAbsent(mutation), Encoded, idempotency)

    async def batch(
        self, request: EncodeBatch, idempotency: Idempotency | None, namespace: int
    ) -> Stored[BatchEncoded]:
        """All records or none; the failing one is named."""
        limits.check_batch_size(request.records)
        now = self._world.now()
        with self._measured([record.route() for record in request.records]):
            make = partial(self._new_records, namespace, request, now)
            records, inferred = await self._prepared(make, request.records)
            reply = BatchEncoded(
                results=tuple(prepare.encoded(record) for record in records), associations_inferred=inferred
            )
            if request.infer_associations:
                records = _linked(records, now)
            mutation = StoreRecords(namespace, records, prepare.batch_audit(records, inferred, now), reply)
            return await self._commit_records(mutation, BatchEncoded, idempotency)

    def _new_records(self, namespace: int, request: EncodeBatch, now: int) -> tuple[tuple[NewRecord, ...], int]:
        """A nanosecond apart, so that they keep their order wherever times are compared."""
        records = tuple(
            prepare.new_record(namespace, record, self._world.new_id(), now + i, f"records[{i}].")
            for i, record in enumerate(request.records)
        )
        pairs = max(0, len(records) - 1) if request.infer_associations else 0
        return records, 2 * pairs

    async def update(
        self,
        record_id: RecordId,
        request: EncodeUpdate,
        expected_version: int | None,
        idempotency: Idempotency | None,
        namespace: int,
    ) -> Stored[None]:
        now = self._world.now()
        edit = prepare.edit(request, now)
        keep_answer = partial(self._answers.once, reply_type=None, idempotency=idempotency)
        if self._durable_store(namespace, record_id) is None:
            update = UpdateWorking(namespace, record_id, edit, expected_version, now, keep_answer)
            with suppress(RecordNotFound):  # what is gone may have an answer that is kept
                return await self._working.ask(update)
        mutation = UpdateRecord(namespace, record_id, edit, expected_version, now, self._versions_kept)
        return await self._commit(mutation, None, idempotency)

    async def store_raw(
        self, request: EncodeStoreRaw, idempotency: Idempotency | None, namespace: int
    ) -> Stored[RawEncoded]:
        now = self._world.now()
        make = partial(prepare.new_raw, namespace, request, self._world.new_id(), now)
        record = await self._prepared(make, [request])
        mutation = StoreRaw(namespace, (record,), (prepare.raw_audit(record, now),), prepare.raw_encoded(record))
        return await self._commit(mutation, RawEncoded, idempotency)

    async def batch_raw(
        self, request: EncodeBatchRaw, idempotency: Idempotency | None, namespace: int
    ) -> Stored[BatchRawEncoded]:
        make = partial(self._store_raws, namespace, request, self._world.now())
        return await self._commit(await self._prepared(make, request.records), BatchRawEncoded, idempotency)

    def _store_raws(self, namespace: int, request: EncodeBatchRaw, now: int) -> StoreRaw[BatchRawEncoded]:
        """With its answer: there may be as many records as a body holds."""
        records = tuple(
            prepare.new_raw(namespace, record, self._world.new_id(), now + i, f"records[{i}].")
            for i, record in enumerate(request.records)
        )
        reply = BatchRawEncoded(results=tuple(prepare.raw_encoded(record) for record in records))
        return StoreRaw(namespace, records, tuple(prepare.raw_batch_audits(records, now)), reply)

    async def _prepared(self, make: Callable[[], R], requests: Sequence[EncodeStore | EncodeStoreRaw]) -> R:
        """`make()`, in a thread when it would hold the loop for long; so would a look at the sizes of many."""
        if len(requests) <= INLINE_RECORDS_MAX and sum(map(_content_bytes, requests)) <= INLINE_BYTES_MAX:
            return make()
        return await self._world.offload(make, self._limiter)

    async def _commit_records(
        self, mutation: StoreRecords[R], reply_type: type[R], idempotency: Idempotency | None
    ) -> Stored[R]:
        """Through working memory when some of the records are for it."""
        held = tuple(record for record in mutation.records if not record.durable)
        if not held:
            return await self._commit(mutation, reply_type, idempotency)
        once = self._answers.once(mutation, reply_type, idempotency)
        return await self._working.ask(Remember(held, once))

    async def _commit(
        self, mutation: Mutation[Stored[R]], reply_type: type[Any] | None, idempotency: Idempotency | None
    ) -> Stored[R]:
        return await self._writer.ask(Commit(self._answers.once(mutation, reply_type, idempotency)))

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

    def _durable_store(self, namespace: int, record_id: RecordId) -> Store | None:
        with self._storage.read() as reader:
            value = reader.get(key(namespace, Table.CONTENT, record_id))
        return None if value is None else parse_content_row(value).store


def _linked(records: tuple[NewRecord, ...], now: int) -> tuple[NewRecord, ...]:
    inferred = neighbours([record.record_id for record in records], now)
    return tuple(prepare.with_neighbours(record, edges) for record, edges in zip(records, inferred, strict=True))


def _content_bytes(request: EncodeStore | EncodeStoreRaw) -> int:
    return sum(len(block.data or block.text or block.data_b64 or "") for block in request.content.blocks)
