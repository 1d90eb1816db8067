"""The actors of one data dir, put together, started and ended in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import structlog
import trio

from cerememory.actors.archives import Archives
from cerememory.actors.associations import Associations
from cerememory.actors.attestation import Attestation
from cerememory.actors.audit import AuditLog
from cerememory.actors.consolidate import Consolidator
from cerememory.actors.counted import CountedProvider
from cerememory.actors.cues import Cues
from cerememory.actors.decay import Decayer
from cerememory.actors.disk_use import DiskUse
from cerememory.actors.dream import Dreamer
from cerememory.actors.engine import Actors, Engine
from cerememory.actors.enrichment import Enricher
from cerememory.actors.followers import Followers
from cerememory.actors.graph import Graph
from cerememory.actors.introspection import Introspection
from cerememory.actors.journal import RawJournal
from cerememory.actors.lifecycle import Lifecycle
from cerememory.actors.recall import Recall
from cerememory.actors.rotation import AuditRotation
from cerememory.actors.seams import World
from cerememory.actors.signals import Sources
from cerememory.actors.statistics import Statistics
from cerememory.actors.stores import DurableStore
from cerememory.actors.summaries import summariser
from cerememory.actors.supervisor import Supervisor
from cerememory.actors.text_index import TextIndexer
from cerememory.actors.timelines import Timelines
from cerememory.actors.vectors import VectorIndexer
from cerememory.actors.working import WorkingMemory
from cerememory.actors.writer import Writer
from cerememory.config.settings import DecaySettings, SecuritySettings, Settings
from cerememory.domain.curve import Rules
from cerememory.protocol.records import DURABLE_STORES
from cerememory.providers import choice
from cerememory.providers.chat import CONSOLIDATE_TOKENS, DREAM_TOKENS
from cerememory.providers.contract import Provider
from cerememory.storage import sealed
from cerememory.storage.audit_file import check_place
from cerememory.storage.audit_keys import AuditKeys, open_keys
from cerememory.storage.audit_tree import AuditTree
from cerememory.storage.contract import Storage
from cerememory.storage.datadir import DataDir
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.lmdb import GIB, LmdbStorage
from cerememory.storage.sealed import SealedStorage
from cerememory.storage.text_index import wipe
from cerememory.telemetry.metrics import Metrics

MIB = 1 << 20
FRAMES_BYTES_MAX = 24 * MIB  # some ten thousand short memories

log = structlog.get_logger(__name__)


@asynccontextmanager
async def opened(settings: Settings, directory: DataDir, metrics: Metrics) -> AsyncIterator[Engine]:
    """The engine of an acquired data dir, on its store and in the real world."""
    storage = open_storage(settings, directory)
    if isinstance(storage, SealedStorage) and storage.is_mixed:
        log.warning("what was stored before is in plain text: run migrate-store-encryption")
    try:
        async with opened_on(storage, settings, directory, metrics) as engine:
            yield engine
    finally:
        storage.close()


@asynccontextmanager
async def opened_on(
    storage: Storage, settings: Settings, directory: DataDir, metrics: Metrics
) -> AsyncIterator[Engine]:
    """The same on a store that is open already."""
    async with running(settings, directory, storage, World(), metrics) as engine:
        yield engine


def open_storage(settings: Settings, directory: DataDir) -> Storage:
    """Its store, encrypted when there is a passphrase. Raises `DataDirUnusable`, `PassphraseRefused`."""
    if settings.security.audit_log_enabled:
        check_place(settings.security.audit_log_path)  # before anything is written that it has to take
    storage = settings.storage
    lmdb = LmdbStorage(
        directory.store_path,
        map_size_bytes=storage.map_size_gib * GIB,
        map_size_bytes_max=storage.map_size_max_gib * GIB or None,
        min_free_bytes=storage.min_free_disk_mib * MIB,
    )
    with ExitStack() as stack:
        stack.callback(lmdb.close)
        opened_storage = sealed.opened(lmdb, settings.security.store_encryption_passphrase)
        stack.pop_all()
    return opened_storage


@asynccontextmanager
async def running(
    settings: Settings, directory: DataDir, storage: Storage, world: World, metrics: Metrics
) -> AsyncIterator[Engine]:
    """An engine whose actors run. Leaving drains them: what was accepted is committed, synced and indexed.

    Raises `AuditBroken` when the audit log isn't what the store says.
    """
    async with choice.opened(settings.llm) as chosen:
        provider = None if chosen is None else CountedProvider(chosen, metrics)
        async with _running(settings, directory, storage, world, metrics, provider) as engine:
            yield engine


@asynccontextmanager
async def _running(
    settings: Settings,
    directory: DataDir,
    storage: Storage,
    world: World,
    metrics: Metrics,
    provider: Provider | None,
) -> AsyncIterator[Engine]:
    new_curves = partial(Curves, rules_of(settings.decay), is_frozen=not settings.evolution.enabled)
    audit_tree = AuditTree(storage, settings.security.audit_log_path)
    audit_keys = _audit_keys(settings.security, audit_tree) if settings.security.audit_log_enabled else None
    frames = Frames(FRAMES_BYTES_MAX)
    writer = Writer(
        storage,
        world,
        metrics,
        curves=new_curves(),
        frames=frames,
        group_commit_s=settings.storage.group_commit_ms / 1_000,
        audited=audit_keys is not None,
        head_key=None if audit_keys is None else audit_keys.head_key,
    )
    audit = (
        AuditLog(storage, world, metrics, writer, settings.security.audit_log_path, audit_keys)
        if audit_keys is not None
        else None
    )
    working = WorkingMemory(writer)
    durable = tuple(DurableStore(store, storage, world, new_curves(), frames) for store in DURABLE_STORES)
    stores = (*durable, working)
    journal = RawJournal(storage, world)
    graph = Graph(storage, world)
    associations = Associations(stores, graph, world)
    index_path = directory.index_path if settings.security.persist_search_indexes else None
    if index_path is None:
        aside = wipe(directory.path / "index")  # what an earlier run left there is plain text
        if aside is not None:
            log.warning("what is no text index was set aside", path=str(aside))
    text_index = TextIndexer(storage, world, writer, working, index_path)
    vectors = VectorIndexer(storage, world, working, cache_bytes_max=settings.index.vector_cache_mib * MIB)
    enrichers = [] if provider is None else [Enricher(storage, world, writer, provider)]
    writer.tell(Followers(audit, (text_index, vectors, *enrichers), stores, graph))
    working.tell((text_index, vectors))
    followers = [text_index, vectors] if audit is None else [audit, text_index, vectors]
    decayer = Decayer(storage, world, writer, metrics, settings.decay)
    summarise = partial(summariser, provider)
    interval_s = settings.dream.background_interval_secs
    dreamer = Dreamer(storage, world, writer, summarise(DREAM_TOKENS), interval_s=interval_s)
    consolidator = Consolidator(
        storage, world, writer, new_curves(), settings.decay, summarise(CONSOLIDATE_TOKENS)
    )
    supervisor = Supervisor(
        [[decayer, dreamer, consolidator, *enrichers], [writer], [*stores, journal, graph], followers],
        lambda name: metrics.actor_restarts.labels(name).inc(),
    )
    engine = Engine(
        Actors(stores, journal, text_index, writer, dreamer, consolidator, supervisor),
        Recall(Sources(stores, text_index, vectors, writer, associations), storage, world, metrics),
        Statistics(storage, working, text_index, dreamer, decayer, metrics),
        storage,
        world,
        metrics,
        Cues(provider),
        associations=associations,
        timelines=Timelines(stores, storage, world, new_curves()),
        archives=Archives(storage, world, new_curves(), writer, working, directory.path),
        lifecycle=Lifecycle(storage, writer, working, text_index, decayer, world, settings.decay),
        introspection=Introspection(
            stores,
            storage,
            world,
            new_curves(),
            settings.security.audit_log_path if settings.security.audit_log_enabled else None,
        ),
        disk_use=DiskUse(storage, world, metrics, index_path, settings.security.audit_log_path),
        attestation=None if audit_keys is None else Attestation(audit_tree, audit_keys.signer, world),
        rotation=None if audit is None else AuditRotation(writer, audit, world, settings.security.audit_log_path),
        versions_kept=settings.storage.history_versions,
    )
    async with trio.open_nursery() as nursery:
        await supervisor.start(nursery)
        try:
            yield engine
        finally:
            engine.drain()
            with trio.CancelScope(shield=True):
                await supervisor.stop()


def _audit_keys(settings: SecuritySettings, tree: AuditTree) -> AuditKeys:
    """Made for a log without entries alone: another one was sealed with the keys that are missing."""
    return open_keys(settings.audit_key_path, may_create=not tree.head.audit_sequence)


def rules_of(settings: DecaySettings) -> Rules:
    return Rules(
        profile=settings.profile,
        time_unit_secs=settings.time_unit_secs,
        prune=settings.prune,
        epsilon=settings.epsilon,
        faint_threshold=settings.faint_threshold,
    )
