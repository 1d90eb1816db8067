"""The actors of one data dir, put together, started and ended in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cerememory.actors.audit import AuditLog
from cerememory.actors.engine import Actors, Engine
from cerememory.actors.journal import RawJournal
from cerememory.actors.recall import Recall, Sources
from cerememory.actors.seams import World
from cerememory.actors.statistics import Statistics
from cerememory.actors.stores import DurableStore
from cerememory.actors.supervisor import Supervisor
from cerememory.actors.text_index import TextIndexer
from cerememory.actors.vectors import VectorIndexer
from cerememory.actors.working import WorkingMemory
from cerememory.actors.writer import Writer
from cerememory.config.settings import Settings
from cerememory.protocol.records import DURABLE_STORES
from cerememory.storage.contract import Storage
from cerememory.storage.datadir import DataDir
from cerememory.storage.lmdb import GIB, LmdbStorage
from cerememory.storage.text_index import wipe
from cerememory.telemetry.metrics import Metrics

MIB = 1 << 20


@asynccontextmanager
async def opened(settings: Settings, directory: DataDir, metrics: Metrics) -> AsyncIterator[Engine]:
    """The engine of an acquired data dir, on its store and in the real world."""
    storage = open_storage(settings, directory)
    try:
        async with running(settings, directory, storage, World(), metrics) as engine:
            yield engine
    finally:
        storage.close()


def open_storage(settings: Settings, directory: DataDir) -> LmdbStorage:
    storage = settings.storage
    return LmdbStorage(
        directory.store_path,
        map_size_bytes=storage.map_size_gib * GIB,
        map_size_bytes_max=storage.map_size_max_gib * GIB or None,
        min_free_bytes=storage.min_free_disk_mib * MIB,
    )


@asynccontextmanager
async def running(
    settings: Settings, directory: DataDir, storage: Storage, world: World, metrics: Metrics
) -> AsyncIterator[Engine]:
    """An engine whose actors run. Leaving drains them: what was accepted is committed, synced and indexed.

    Raises `AuditBroken` when the audit log isn't what the store says.
    """
    writer = Writer(
        storage,
        world,
        metrics,
        group_commit_s=settings.storage.group_commit_ms / 1_000,
        audited=settings.security.audit_log_enabled,
    )
    audit = (
        AuditLog(storage, world, metrics, writer, settings.security.audit_log_path)
        if settings.security.audit_log_enabled
        else None
    )
    working = WorkingMemory(writer)
    durable = tuple(DurableStore(store, storage) for store in DURABLE_STORES)
    stores = (*durable, working)
    journal = RawJournal(storage, world)
    index_path = directory.index_path if settings.security.persist_search_indexes else None
    if index_path is None:
        wipe(directory.path / "index")  # what an earlier run left there is plain text
    text_index = TextIndexer(storage, world, writer, working, index_path)
    vectors = VectorIndexer(storage, world, working, cache_bytes_max=settings.index.vector_cache_mib * MIB)
    writer.tell(audit, (text_index, vectors), stores)
    working.tell((text_index, vectors))
    followers = [text_index, vectors] if audit is None else [audit, text_index, vectors]
    supervisor = Supervisor(
        [[writer], [*stores, journal], followers], lambda name: metrics.actor_restarts.labels(name).inc()
    )
    engine = Engine(
        Actors(stores, journal, text_index, writer, supervisor),
        Recall(Sources(stores, text_index, vectors, writer), storage, world, metrics),
        Statistics(storage, working, text_index, metrics),
        storage,
        world,
        metrics,
    )
    async with trio.open_nursery() as nursery:
        await supervisor.start(nursery)
        try:
            yield engine
        finally:
            engine.drain()
            with trio.CancelScope(shield=True):
                await supervisor.stop()
