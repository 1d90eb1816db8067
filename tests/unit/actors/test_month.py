"""A month of background life: decay every hour, dreams every day, and somebody who tells, asks and forgets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import trio
from trio.testing import MockClock

from cerememory.config.settings import DecaySettings, DreamSettings
from cerememory.protocol.requests import Consolidate, Forget
from cerememory.protocol.values import NANOS
from cerememory.storage.fsck import Tally, check
from tests.support.engine import (
    NOW,
    Running,
    WallClock,
    running_engine,
    settings_for,
    to_recall,
    to_store,
    to_store_raw,
)
from tests.support.memory_storage import MemoryStorage

HOUR_S, DAY_S, DAYS = 3_600, 86_400, 30
HOURS_BEFORE_THE_FIRST = 4  # ticks that find nothing stored yet
WORDS = ("kettle", "lamp", "ferry", "garden", "parrot", "letter", "bridge", "winter")


@dataclass
class LoopClock(WallClock):
    """Wall time that goes with the event loop's."""

    def now(self) -> int:
        self.at += self.step_ns
        return self.at + round(trio.current_time() * NANOS)


async def live_a_day(running: Running, rng: Random, day: int) -> None:
    for _ in range(4):
        await trio.sleep(DAY_S / 5)
        said = " ".join(rng.choices(WORDS, k=4))
        stored = await running.engine.encode_store(to_store(said, store=rng.choice(("episodic", "semantic"))))
        await running.engine.encode_store_raw(to_store_raw(f"{said} of day {day}", f"s-{day}", topic_id=said))
        await running.engine.recall_query(to_recall(rng.choice(WORDS)))
        if rng.random() < 0.2:
            await running.engine.lifecycle_forget(Forget(record_ids=(stored.reply.record_id,), confirm=True))
    await trio.sleep(DAY_S / 5)
    if day % 7 == 0:
        await running.engine.lifecycle_consolidate(Consolidate())


async def test_a_month_of_background_life_leaves_everything_in_order(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage, rng = MemoryStorage(), Random(20_250_101)
    settings = settings_for(
        tmp_path,
        decay=DecaySettings(background_interval_secs=HOUR_S),
        dream=DreamSettings(background_interval_secs=DAY_S),
    )
    async with running_engine(tmp_path, storage=storage, settings=settings, clock=LoopClock()) as running:
        for day in range(DAYS):
            await live_a_day(running, rng, day)
        await trio.sleep(HOUR_S / 2)  # the last tick is past, the next one far: which comes first is no question
        stats = await running.engine.introspect_stats()
        panics = running.counted("cerememory_decay_panics_total")
        assert await running.engine.not_ready() is None

    assert panics == 0
    assert stats.dream_episodic_summaries > DAYS // 2
    assert 0.3 < stats.avg_fidelity < 1.0
    assert stats.total_recall_count > DAYS
    audit_path, now = settings.security.audit_log_path, NOW + DAYS * DAY_S * NANOS
    assert list(check(storage, index_path=None, audit_path=audit_path, now=now, tally=Tally())) == []
    operations = audit_path.read_text()
    hours = DAYS * 24 - HOURS_BEFORE_THE_FIRST
    assert operations.count('"lifecycle.decay_tick"') == hours
