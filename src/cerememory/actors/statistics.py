"""introspect.stats and the gauges: from counters that each transaction keeps, never from a scan."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET

from cerememory.actors.actor import Actor
from cerememory.actors.decay import Decayer
from cerememory.actors.disk_use import Sizes
from cerememory.actors.dream import Dreamer
from cerememory.actors.introspection import evolution_metrics
from cerememory.actors.stores import Memory
from cerememory.actors.text_index import TextIndexer
from cerememory.actors.working import CountHeld, Held
from cerememory.protocol.records import STORES, Store
from cerememory.protocol.replies import EvolutionMetrics, Stats
from cerememory.protocol.values import Timestamp
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.keys import Table, after, counters_key, counters_range, key, trailing_time
from cerememory.storage.rows import STORE_CODE, Counters, parse_counters
from cerememory.telemetry.metrics import Metrics

WORKING_CODE = STORE_CODE[Store.WORKING]


@dataclass(frozen=True, slots=True)
class _Counted:
    counters: Counters
    oldest_at: int | None
    newest_at: int | None
    evolution: EvolutionMetrics


class Statistics:
    def __init__(
        self,
        storage: Storage,
        working: Actor,
        text_index: TextIndexer,
        dreamer: Dreamer,
        decayer: Decayer,
        metrics: Metrics,
    ) -> None:
        self._storage = storage
        self._dreamer = dreamer
        self._decayer = decayer
        self._working = working
        self._text_index = text_index
        self._metrics = metrics

    async def stats(self, namespace: int, sizes: Sizes | None = None) -> Stats:
        held = await self._working.ask(Held(namespace))
        counted = self._counted(namespace)
        counters = counted.counters
        counters.records[WORKING_CODE] = len(held)
        counters.fidelity_sums[WORKING_CODE] = sum(memory.state.score for memory in held)
        total = sum(counters.records)
        times = _times(counted, held)
        return Stats(
            total_records=total,
            records_by_store=dict(zip(STORES, counters.records, strict=True)),
            total_associations=counters.associations + sum(_edge_count(memory) for memory in held),
            avg_fidelity=sum(counters.fidelity_sums) / total if total else 0.0,
            avg_fidelity_by_store=_averages(counters),
            oldest_record=Timestamp(min(times)) if times else None,
            newest_record=Timestamp(max(times)) if times else None,
            total_recall_count=counters.recalls,
            raw_journal_records=counters.raw_records,
            raw_journal_pending_dream=counters.raw_pending_dream,
            vector_index_records=counters.vectors,
            vector_search_backend="brute_force",
            dream_episodic_summaries=counters.dream_episodic_summaries,
            dream_semantic_nodes=counters.dream_semantic_nodes,
            last_dream_tick_at=_timestamp(counters.last_dream_tick_at),
            evolution_metrics=counted.evolution,
            background_decay_enabled=self._decayer.interval_s > 0,
            background_dream_enabled=self._dreamer.interval_s > 0,
            bytes_by_table=UNSET if sizes is None else sizes.by_table,
            bytes_measured_at=UNSET if sizes is None else Timestamp(sizes.measured_at),
        )

    def record_count(self) -> int:
        """Durable memories and raw entries of all namespaces, for the banner."""
        counters = self._sum()
        return sum(counters.records) + counters.raw_records

    def _sum(self) -> Counters:
        """Records and raw entries over all namespaces."""
        total = Counters.empty()
        with self._storage.read() as reader:
            for _key, value in reader.scan(*counters_range()):
                counters = parse_counters(value)
                total.raw_records += counters.raw_records
                total.records = [a + b for a, b in zip(total.records, counters.records, strict=True)]
        return total

    def _counted(self, namespace: int) -> _Counted:
        prefix = key(namespace, Table.STATE)
        with self._storage.read() as reader:
            counters = parse_counters(reader.get(counters_key(namespace)))
            return _Counted(
                counters,
                _first_time(reader, prefix),
                _first_time(reader, prefix, reverse=True),
                evolution_metrics(reader, namespace),
            )

    async def refresh_gauges(self) -> None:
        counters = self._sum()
        counters.records[WORKING_CODE] = await self._working.ask(CountHeld())
        for store, count in zip(STORES, counters.records, strict=True):
            self._metrics.records.labels(store.value).set(count)
        self._metrics.raw_records.set(counters.raw_records)
        self._metrics.map_used.set(self._storage.used_bytes())
        self._metrics.oldest_reader.set(self._storage.oldest_reader_s())
        self._metrics.index_lag.set(self._text_index.lag_s())


def _first_time(reader: Reader, prefix: bytes, *, reverse: bool = False) -> int | None:
    for row_key, _value in reader.scan(prefix, after(prefix), reverse=reverse):
        return trailing_time(row_key)
    return None


def _times(counted: _Counted, held: tuple[Memory, ...]) -> list[int]:
    stored = [at for at in (counted.oldest_at, counted.newest_at) if at is not None]
    return stored + [memory.row.created_at for memory in held]


def _edge_count(memory: Memory) -> int:
    return len(memory.associations())


def _averages(counters: Counters) -> dict[Store, float]:
    return {
        store: total / count
        for store, count, total in zip(STORES, counters.records, counters.fidelity_sums, strict=True)
        if count
    }


def _timestamp(at: int | None) -> Timestamp | None:
    return None if at is None else Timestamp(at)
