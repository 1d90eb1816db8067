"""introspect.record with what it was before, and introspect.decay_forecast: reading that changes nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import trio

from cerememory.actors.actor import Actor
from cerememory.actors.seams import World
from cerememory.actors.stores import Fetch, Memory
from cerememory.domain.curve import Curve, Outlook
from cerememory.domain.evolution import adjustments
from cerememory.errors import RecordNotFound
from cerememory.protocol import codec
from cerememory.protocol.records import (
    NEUTRAL,
    STORES,
    EmotionVector,
    MemoryContent,
    MetaMemory,
    Store,
)
from cerememory.protocol.replies import (
    EvolutionMetrics,
    Forecast,
    Forecasts,
    HistoryEntry,
    RecordVersion,
)
from cerememory.protocol.requests import DecayForecast, IntrospectRecord
from cerememory.protocol.values import RecordId, Timestamp, format_id
from cerememory.storage.audit_history import entries_about
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.dynamics import Curves, read_dynamics
from cerememory.storage.keys import Table, after, key, pack_version
from cerememory.storage.rows import STORE_CODE, ContentRow, meta_json, parse_content_row

WORKING_CODE = STORE_CODE[Store.WORKING]


class Introspection:
    """`audit_path` None: there is no audit log."""

    def __init__(
        self,
        stores: tuple[Actor, ...],
        storage: Storage,
        world: World,
        curves: Curves,
        audit_path: Path | None,
    ) -> None:
        self._stores = stores
        self._storage = storage
        self._world = world
        self._curves = curves
        self._audit_path = audit_path
        self._limiter = trio.CapacityLimiter(1)

    async def record(self, namespace: int, request: IntrospectRecord) -> msgspec.Raw:
        """The JSON of a MemoryRecord, as it was in the version asked for, with what was asked for beside it."""
        memory = await self._memory(namespace, request.record_id)
        if request.version is not None:
            memory = self._as_of(namespace, memory, request.version)
        parts = [memory.json()]
        if request.include_versions:
            parts.append(b'"versions":' + codec.dump(self._versions(namespace, request.record_id)))
        if request.include_history:
            read = partial(self._history, namespace, request.record_id)
            parts.append(b'"history":' + codec.dump(await self._world.offload(read, self._limiter)))
        return msgspec.Raw(b",".join([parts[0][:-1], *parts[1:]]) + b"}")

    async def _memory(self, namespace: int, record_id: RecordId) -> Memory:
        code = self._code_of(namespace, record_id)
        fetched = await self._stores[code].ask(Fetch(namespace, (record_id,)))
        if not fetched.memories:
            raise RecordNotFound(f"Record not found: {format_id(record_id)}")
        memory: Memory = fetched.memories[0]
        return memory

    def _code_of(self, namespace: int, record_id: RecordId) -> int:
        with self._storage.read() as reader:
            value = reader.get(key(namespace, Table.CONTENT, record_id))
        return WORKING_CODE if value is None else parse_content_row(value).store_code

    def _as_of(self, namespace: int, memory: Memory, version: int) -> Memory:
        """The memory with the content, emotion, metadata and meta of an earlier version."""
        if version == memory.row.version:
            return memory
        with self._storage.read() as reader:
            value = reader.get(key(namespace, Table.HISTORY, memory.record_id, pack_version(version)))
        if value is None:
            raise RecordNotFound(f"Record not found: {format_id(memory.record_id)} in version {version}")
        return Memory(memory.record_id, parse_content_row(value), memory.state, memory.edges)

    def _versions(self, namespace: int, record_id: RecordId) -> list[RecordVersion]:
        """The kept ones, the oldest first, without the present one."""
        prefix = key(namespace, Table.HISTORY, record_id)
        with self._storage.read() as reader:
            return [_version(parse_content_row(value)) for _key, value in reader.scan(prefix, after(prefix))]

    def _history(self, namespace: int, record_id: RecordId) -> list[HistoryEntry]:
        if self._audit_path is None:
            return []
        entries = entries_about(self._audit_path, self._storage, namespace, record_id)
        return [
            HistoryEntry(sequence=entry.sequence, timestamp=entry.timestamp, operation=entry.operation)
            for entry in entries
        ]

    async def forecast(self, namespace: int, request: DecayForecast) -> Forecasts:
        now = self._world.now()
        memories = [await self._memory(namespace, record_id) for record_id in request.record_ids]
        with self._storage.read() as reader:
            curves = self._curves.of(reader, namespace)
        return Forecasts(
            forecasts=tuple(
                _forecast(curves[memory.row.store_code], memory, now, request.forecast_at) for memory in memories
            )
        )

    def evolution(self, namespace: int) -> EvolutionMetrics:
        with self._storage.read() as reader:
            return evolution_metrics(reader, namespace)


def evolution_metrics(reader: Reader, namespace: int) -> EvolutionMetrics:
    """The parameters that evolution has moved."""
    pairs = zip(STORES, read_dynamics(reader, namespace).evolutions, strict=True)
    return EvolutionMetrics(parameter_adjustments=tuple(found for pair in pairs for found in adjustments(*pair)))


def _version(row: ContentRow) -> RecordVersion:
    return RecordVersion(
        version=row.version,
        updated_at=Timestamp(row.updated_at),
        content=codec.parse(row.content, MemoryContent),
        emotion=codec.parse(row.emotion, EmotionVector) if row.emotion else NEUTRAL,
        metadata=msgspec.Raw(row.metadata),
        meta=codec.parse(meta_json(row.meta, "encode.store", row.created_at), MetaMemory),
    )


def _forecast(curve: Curve, memory: Memory, now: int, forecast_at: Timestamp) -> Forecast:
    outlook = _outlook(curve, memory, now, forecast_at)
    return Forecast(
        record_id=memory.record_id,
        current_fidelity=outlook.current,
        forecasted_fidelity=outlook.forecasted,
        estimated_threshold_date=None if outlook.faint_at is None else Timestamp(outlook.faint_at),
    )


def _outlook(curve: Curve, memory: Memory, now: int, forecast_at: Timestamp) -> Outlook:
    """Working memory doesn't fade: it is there, or it isn't."""
    if memory.row.store_code == WORKING_CODE:
        return Outlook(memory.state.score, memory.state.score, None)
    return curve.forecast(memory.state, now, forecast_at)
