"""A month in the life of a daemon: it decays every hour and dreams every day by itself, while others talk to it.

Time is the loop's, which jumps, and the wall clock moves along with it; so a month takes seconds. The store is a
real one, on disk, with its index and audit log, and what is left of the month must add up.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors.assembly import open_storage, running
from cerememory.actors.engine import Engine
from cerememory.actors.seams import World, inline
from cerememory.config.settings import Settings, StorageSettings
from cerememory.domain.audit_chain import parse_line
from cerememory.protocol import codec
from cerememory.protocol.records import STORES, MemoryRecord
from cerememory.protocol.requests import Consolidate, EncodeBatch, EncodeBatchRaw, EncodeUpdate, Forget, Strategy
from cerememory.protocol.values import NANOS, RecordId
from cerememory.storage.datadir import DataDir
from cerememory.storage.fsck import Tally, check
from cerememory.telemetry.metrics import Metrics
from tests.support.engine import NOW, raw_body, store_body, to_introspect, to_recall, to_store
from tests.support.logged import Logged

HOUR_S, DAY_S = 3_600, 86_400
DAYS = 30
TALKS_A_DAY = 3
WORDS = ("kettle", "anchor", "parrot", "violin", "lantern", "glacier", "orchard", "tide", "saddle", "copper")
TOPICS = (None, "boats", "music")


@dataclass
class Life:
    """What goes on beside the daemon's own doings. `first` is a memory that nobody recalls."""

    engine: Engine
    rng: random.Random
    told: Counter[str] = field(default_factory=Counter)
    ids: list[RecordId] = field(default_factory=list)
    forgotten: int = 0

    async def day(self, number: int) -> None:
        for talk in range(TALKS_A_DAY):
            await self._talk(f"s-{number}-{talk}")
            await trio.sleep(DAY_S / TALKS_A_DAY / 2)
            await self._recall()
            await trio.sleep(DAY_S / TALKS_A_DAY / 2)
        await self._tidy()

    def _said(self) -> str:
        return " ".join(self.rng.choices(WORDS, k=4))

    async def _talk(self, session: str) -> None:
        """Six turns, each in the journal and as a memory."""
        turns, topic = [self._said() for _ in range(6)], self.rng.choice(TOPICS)
        memories = [store_body(turn, context={"session_id": session}, embedding=self._vector()) for turn in turns]
        batch = codec.parse(codec.dump({"records": memories, "infer_associations": True}), EncodeBatch)
        self.ids += [result.record_id for result in (await self.engine.encode_batch(batch)).reply.results]
        entries = [raw_body(turn, session, topic_id=topic) for turn in turns]
        await self.engine.encode_batch_raw(codec.parse(codec.dump({"records": entries}), EncodeBatchRaw))
        await self.engine.encode_store(to_store(turns[0], store="working"))
        self.told.update(memories=len(turns), entries=len(turns))

    def _vector(self) -> list[float] | None:
        return self.rng.choice([None, [self.rng.random(), self.rng.random()]])

    async def _recall(self) -> None:
        recalled = await self.engine.recall_query(to_recall(self._said(), limit=5))
        assert recalled.query_metadata.index_complete
        assert len(recalled.memories) == 5
        self.told.update(recalls=1)

    async def _tidy(self) -> None:
        edited, dropped = self.rng.sample(self.ids, 2)
        body = {"emotion": {"joy": 1.0, "intensity": self.rng.random()}}
        await self.engine.encode_update(edited, codec.parse(codec.dump(body), EncodeUpdate))
        await self.engine.lifecycle_forget(Forget(record_ids=(dropped,), confirm=True))
        self.ids.remove(dropped)
        self.told.update(memories=-1)


@asynccontextmanager
async def daemon(settings: Settings, metrics: Metrics) -> AsyncIterator[Engine]:
    """As `serve` runs it, but for threads, sockets and the clock."""

    def now() -> int:
        return NOW + round(trio.current_time() * NANOS)

    with DataDir.acquire(settings.data_dir) as directory:
        storage = open_storage(settings, directory)
        try:
            world = World(now=now, offload=inline)
            async with running(settings, directory, storage, world, metrics) as engine:
                yield engine
        finally:
            storage.close()


def findings(settings: Settings, tally: Tally) -> list[str]:
    """What `cerememory fsck` would say."""
    with DataDir.acquire(settings.data_dir) as directory:
        storage = open_storage(settings, directory)
        try:
            index, audit = directory.index_path, settings.security.audit_log_path
            found = check(storage, index_path=index, audit_path=audit, now=NOW + DAYS * DAY_S * NANOS, tally=tally)
            return [str(finding) for finding in found]
        finally:
            storage.close()


async def test_a_month_leaves_what_adds_up(tmp_path: Path, autojump_clock: MockClock, logged: Logged) -> None:
    settings = Settings(data_dir=tmp_path / "data", storage=StorageSettings(map_size_gib=1))
    metrics, rng = Metrics([store.value for store in STORES]), random.Random(1)
    async with daemon(settings, metrics) as engine:
        first = (await engine.encode_store(to_store("zither", store="episodic"))).reply.record_id
        life = Life(engine, rng)
        for number in range(DAYS // 2):
            await life.day(number)
        await engine.lifecycle_consolidate(Consolidate(strategy=Strategy.INCREMENTAL))
    async with daemon(settings, metrics) as engine:
        life.engine = engine
        for number in range(DAYS // 2, DAYS):
            await life.day(number)
        stats = await engine.introspect_stats()
        record = codec.parse(bytes(await engine.introspect_record(to_introspect(first))), MemoryRecord)

    assert record.fidelity.score == pytest.approx((1 + DAYS) ** -0.3, rel=1e-3)
    assert stats.total_recall_count == life.told["recalls"]
    print(stats, life.told)
    operations = Counter(
        parse_line(line).operation
        for line in settings.security.audit_log_path.read_bytes().splitlines(keepends=True)
    )
    print(operations)
    print(logged.events("error"), logged.events("warning"))
    tally = Tally()
    assert findings(settings, tally) == []
    print(tally)
