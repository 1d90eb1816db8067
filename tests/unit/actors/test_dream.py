"""The dreamer: what a tick takes, one tick at a time, and by night by itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory.actors.actor import Ping
from cerememory.actors.dream import BACKGROUND_GROUPS_MAX, SETTLE_S, Dreamer, Tick
from cerememory.actors.summaries import Summarise, summariser
from cerememory.actors.supervisor import Supervisor
from cerememory.actors.writer import Commit, Writer
from cerememory.domain.audit_chain import AuditEntry
from cerememory.domain.curve import Rules
from cerememory.domain.dreaming import DAY_NS
from cerememory.errors import ActorStopped, StorageUnavailable
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent
from cerememory.protocol.replies import Dreamt
from cerememory.protocol.requests import DreamTick
from cerememory.protocol.values import NANOS
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, counters_key, key, system_key
from cerememory.storage.mutations import Once, Stored
from cerememory.storage.namespaces import OpenNamespace
from cerememory.storage.rows import (
    Counters,
    RawRow,
    parse_content_row,
    parse_counters,
    parse_log_row,
    parse_raw_row,
)
from cerememory.telemetry.metrics import Metrics
from tests.support.committing import storing_raw
from tests.support.engine import NOW, WallClock
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage

HOUR_S = 3_600
NIGHT_S = 86_400
OTHER = 1


def counts(groups: int, raws: int, semantic: int = 0) -> Dreamt:
    return Dreamt(
        groups_processed=groups,
        raw_records_processed=raws,
        episodic_summaries_created=groups,
        semantic_nodes_created=semantic,
    )


@dataclass
class Dreaming:
    storage: MemoryStorage
    writer: Writer
    dreamer: Dreamer
    wall: WallClock
    restarts: list[str]

    async def say(self, number: int, text: str = "said", at: int = NOW, **given: Any) -> None:
        await self.writer.ask(Commit(storing_raw(number, text, at, **given)))

    async def tick(self, namespace: int = DEFAULT_NAMESPACE, **given: Any) -> Dreamt:
        return (await self.tick_once(Tick(namespace, DreamTick(**given), lambda mutation: mutation))).reply

    async def tick_once(self, tick: Tick) -> Stored[Dreamt]:
        return await self.dreamer.ask(tick)

    def counters(self, namespace: int = DEFAULT_NAMESPACE) -> Counters:
        return parse_counters(self.storage.rows().get(counters_key(namespace)))

    def dreams(self, namespace: int = DEFAULT_NAMESPACE) -> list[str]:
        """The texts of all memories that there are."""
        prefix = key(namespace, Table.CONTENT)
        rows = [
            parse_content_row(value)
            for row_key, value in self.storage.rows().items()
            if row_key.startswith(prefix)
        ]
        contents = [
            codec.parse(row.content, MemoryContent) for row in sorted(rows, key=lambda row: row.created_at)
        ]
        return [bytes(content.blocks[0].data).decode() for content in contents]

    def entries(self) -> list[AuditEntry]:
        """Those of dream ticks."""
        prefix = system_key(Table.LOG)
        rows = sorted(pair for pair in self.storage.rows().items() if pair[0].startswith(prefix))
        lines = [line for _key, value in rows for line in parse_log_row(value).lines.splitlines()]
        found = [codec.parse(line, AuditEntry) for line in lines]
        return [entry for entry in found if entry.operation == "lifecycle.dream_tick"]


async def asleep(texts: Sequence[str]) -> str | None:
    await trio.sleep_forever()
    return None


@asynccontextmanager
async def dreaming(
    storage: MemoryStorage | None = None,
    summarise: Summarise | None = None,
    interval_s: int = 0,
    wall: WallClock | None = None,
) -> AsyncIterator[Dreaming]:
    store, clock = storage or MemoryStorage(), wall or WallClock()
    world, metrics = clock.world(), Metrics(())
    writer = Writer(
        store, world, metrics, curves=Curves(Rules()), group_commit_s=0.002, audited=True, frames=Frames(0)
    )
    given = summarise or summariser(None, 1)
    dreamer = Dreamer(store, world, writer, given, interval_s=interval_s)
    restarts: list[str] = []
    supervisor = Supervisor([[dreamer], [writer]], restarts.append)
    async with trio.open_nursery() as nursery:
        await supervisor.start(nursery)
        yield Dreaming(store, writer, dreamer, clock, restarts)
        await supervisor.stop()


@pytest.fixture
async def running() -> AsyncIterator[Dreaming]:
    async with dreaming() as opened:
        yield opened
        assert opened.restarts == []


async def test_a_tick_makes_a_memory_of_each_group(running: Dreaming) -> None:
    await running.say(1, "tide is high", topic_id="tides")
    await running.say(2, "noted", topic_id="tides")
    await running.say(3, "bread", session_id="s-2")
    assert await running.tick() == counts(2, 3, semantic=1)
    assert running.dreams() == [
        *["Dream summary for session s-1 / topic tides: tide is high | noted"] * 2,
        "Dream summary for session s-2 / topic bread: bread",
    ]
    assert await running.tick() == counts(0, 0)
    assert running.counters().last_dream_tick_at is not None


async def test_each_group_is_a_transaction_with_an_entry_of_its_own(running: Dreaming) -> None:
    for number in range(3):
        await running.say(number, session_id=f"s-{number}")
    before = len(running.storage.commits)
    await running.tick()
    assert len(running.storage.commits) - before == 3
    assert [entry.summary["groups_processed"] for entry in running.entries()] == [1, 1, 1]
    assert [entry.summary["raw_records_processed"] for entry in running.entries()] == [1, 1, 1]


async def test_only_so_many_groups_are_taken_the_oldest_first(running: Dreaming) -> None:
    for number in range(4):
        await running.say(number, f"day{number}", NOW - number * DAY_NS)
    assert await running.tick(max_groups=2) == counts(2, 2)
    assert [text.rpartition(": ")[2] for text in running.dreams()] == ["day3", "day2"]
    assert await running.tick(max_groups=9) == counts(2, 2)
    assert await running.tick(max_groups=0) == counts(0, 0)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({}, 2),
        ({"include_private_scratch": True}, 4),
        ({"include_sealed": True, "secrecy_levels": ("public",)}, 2),
        ({"secrecy_levels": ()}, 0),
        (
            {
                "include_private_scratch": True,
                "include_sealed": True,
                "secrecy_levels": ("public", "sensitive", "secret"),
            },
            9,
        ),
    ],
    ids=str,
)
async def test_a_tick_takes_what_it_may(running: Dreaming, given: dict[str, Any], taken: int) -> None:
    number = 0
    for visibility in ("normal", "private_scratch", "sealed"):
        for secrecy in ("public", "sensitive", "secret"):
            number += 1
            await running.say(number, f"{visibility} {secrecy}", visibility=visibility, secrecy_level=secrecy)
    request = codec.parse(codec.dump(given), DreamTick)
    stored = await running.tick_once(Tick(DEFAULT_NAMESPACE, request, lambda mutation: mutation))
    assert stored.reply.raw_records_processed == taken
    assert running.counters().raw_pending_dream == 9 - taken
    told = "".join(running.dreams())
    assert "sealed public" not in told
    assert "secret" not in told


async def test_a_session_can_be_asked_for(running: Dreaming) -> None:
    await running.say(1, "mine", session_id="s-1")
    await running.say(2, "rope", session_id="s-2")
    assert await running.tick(session_id="s-2") == counts(1, 1)
    assert running.dreams() == ["Dream summary for session s-2 / topic rope: rope"]


async def test_without_promotion_there_is_no_knowledge(running: Dreaming) -> None:
    for number in range(2):
        await running.say(number, topic_id="tides")
    assert await running.tick(promote_semantic=False) == counts(1, 2)


async def test_a_dry_run_counts_what_would_be_made_and_leaves_an_entry(running: Dreaming) -> None:
    for number in range(3):
        await running.say(number, topic_id="tides", session_id=f"s-{number % 2}")
    assert await running.tick(dry_run=True) == counts(2, 3)
    assert await running.tick(dry_run=True, max_groups=1) == counts(1, 2)
    assert [entry.summary["dry_run"] for entry in running.entries()] == [True, True]
    assert (running.dreams(), running.counters().raw_pending_dream) == ([], 3)
    assert running.counters().last_dream_tick_at is None
    assert await running.tick() == counts(2, 3, semantic=1)


async def test_a_tick_that_finds_nothing_leaves_an_entry(running: Dreaming) -> None:
    assert await running.tick() == counts(0, 0)
    [entry] = running.entries()
    assert (entry.summary["groups_processed"], entry.summary["dry_run"]) == (0, False)
    assert running.counters().last_dream_tick_at == entry.timestamp


async def test_of_two_ticks_at_once_the_second_finds_what_the_first_left(running: Dreaming) -> None:
    for number in range(3):
        await running.say(number, session_id=f"s-{number}")
    answers: list[Dreamt] = []

    async def ask() -> None:
        answers.append(await running.tick(max_groups=2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask)
    assert answers == [counts(2, 2), counts(1, 1)]


async def test_each_namespace_has_its_own_journal(running: Dreaming) -> None:
    await running.writer.ask(Commit(OpenNamespace("theirs")))
    await running.say(1, "mine")
    await running.say(1, "rope", namespace=OTHER)
    assert await running.tick(OTHER) == counts(1, 1)
    assert running.dreams() == []
    assert running.dreams(OTHER) == ["Dream summary for session s-1 / topic rope: rope"]


# A provider's summaries.


async def test_a_provider_summarises_what_may_be_told() -> None:
    asked: list[Sequence[str]] = []

    async def summarise(texts: Sequence[str]) -> str | None:
        asked.append(texts)
        return "In short." if "one" in texts else None

    async with dreaming(summarise=summarise) as running:
        await running.say(1, "one", session_id="s-1")
        await running.say(2, "hidden", session_id="s-1", visibility="private_scratch")
        await running.say(3, "two", session_id="s-2")
        await running.say(4, "hidden", session_id="s-3", visibility="private_scratch")
        await running.tick(include_private_scratch=True)
        assert running.dreams() == [
            "In short. [Redacted raw records: 1]",
            "Dream summary for session s-2 / topic two: two",
            "Dream summary for session s-3: 0 raw records preserved, 1 redacted",
        ]
    assert asked == [("one",), ("two",)]


async def test_readiness_is_asked_and_the_end_comes_while_a_provider_thinks(autojump_clock: MockClock) -> None:
    outcomes: list[object] = []
    async with trio.open_nursery() as nursery:
        async with dreaming(summarise=asleep) as running:
            await running.say(1)

            async def ask() -> None:
                with pytest.raises(ActorStopped):
                    await running.tick()
                outcomes.append("stopped")

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            await running.dreamer.ask(Ping())
            stopped_at = trio.current_time()
        assert trio.current_time() == stopped_at
    assert outcomes == ["stopped"]
    assert running.counters().raw_pending_dream == 1


# Idempotency keys.


def kept(tick: DreamTick, body: bytes = b"b") -> Tick:
    return Tick(
        DEFAULT_NAMESPACE,
        tick,
        lambda mutation: Once(mutation, b"k" * 16, body, NOW, NOW + DAY_NS, Dreamt),
    )


async def test_a_key_that_came_before_gets_its_answer_and_nothing_is_dreamt_again(running: Dreaming) -> None:
    for number in range(3):
        await running.say(number, session_id=f"s-{number}")
    first = await running.tick_once(kept(DreamTick(max_groups=2)))
    again = await running.tick_once(kept(DreamTick(max_groups=2)))
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.reply, again.sequence) == (first.reply, first.sequence) == (counts(2, 2), first.sequence)
    assert running.counters().raw_pending_dream == 1


async def test_a_key_is_kept_for_what_stored_nothing_too(running: Dreaming) -> None:
    await running.tick_once(kept(DreamTick()))
    await running.say(1)
    assert (await running.tick_once(kept(DreamTick()))).reply == counts(0, 0)
    assert running.counters().raw_pending_dream == 1


# By itself.


async def test_it_dreams_once_an_interval(autojump_clock: MockClock) -> None:
    async with dreaming(interval_s=HOUR_S) as running:
        await running.say(1)
        await trio.sleep(HOUR_S - 1)
        assert running.dreams() == []
        await trio.sleep(2)
        assert len(running.dreams()) == 1
        await running.say(2, session_id="s-2")
        await trio.sleep(HOUR_S)
        assert len(running.dreams()) == 2


async def test_by_itself_it_promotes_and_takes_fifty_groups_of_what_is_normal(autojump_clock: MockClock) -> None:
    async with dreaming(interval_s=HOUR_S) as running:
        await running.say(900, "hidden", visibility="private_scratch")
        await running.say(901, "hidden", secrecy_level="secret")
        for number in range(BACKGROUND_GROUPS_MAX + 1):
            await running.say(2 * number, topic_id=f"t-{number}", secrecy_level="sensitive")
            await running.say(2 * number + 1, topic_id=f"t-{number}")
        await trio.sleep(HOUR_S + 1)
        counters = running.counters()
        assert counters.dream_episodic_summaries == counters.dream_semantic_nodes == BACKGROUND_GROUPS_MAX
        assert counters.raw_pending_dream == 4
        await trio.sleep(HOUR_S)
        assert running.counters().raw_pending_dream == 2


async def test_every_namespace_is_visited_and_where_nothing_waits_no_trace_is_left(
    autojump_clock: MockClock,
) -> None:
    async with dreaming(interval_s=HOUR_S) as running:
        for name in ("theirs", "empty"):
            await running.writer.ask(Commit(OpenNamespace(name)))
        await running.say(1, namespace=OTHER)
        await running.say(1, visibility="sealed")
        await trio.sleep(3 * HOUR_S)
        assert len(running.dreams(OTHER)) == 1
        assert len(running.entries()) == 1
        assert running.counters().last_dream_tick_at is None


async def test_interval_zero_never_dreams(autojump_clock: MockClock) -> None:
    async with dreaming() as running:
        await running.say(1)
        await trio.sleep(30 * NIGHT_S)
        assert running.dreams() == []


@pytest.mark.parametrize(
    "error", [KeyError("a bug"), StorageUnavailable("no disk")], ids=lambda e: type(e).__name__
)
async def test_a_failure_is_logged_and_the_next_night_is_another_try(
    autojump_clock: MockClock, logged: Logged, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*_arguments: object) -> None:
        raise error

    async with dreaming(interval_s=HOUR_S) as running:
        await running.say(1)
        with monkeypatch.context() as patched:
            patched.setattr(running.dreamer, "_groups", fail)
            await trio.sleep(HOUR_S + 1)
        assert logged.events() == ["dream tick failed"]
        assert running.dreams() == []
        await trio.sleep(HOUR_S)
        assert len(running.dreams()) == 1
        assert running.restarts == []


async def test_a_failure_in_one_namespace_keeps_none_of_the_others_waiting(
    autojump_clock: MockClock, logged: Logged
) -> None:
    async with dreaming(interval_s=HOUR_S) as running:
        await running.writer.ask(Commit(OpenNamespace("theirs")))
        await running.say(1)
        await running.say(1, namespace=OTHER)
        damaged = key(DEFAULT_NAMESPACE, Table.RAW, (1).to_bytes(16, "big"))
        running.storage.commit({damaged: b"\x93"})
        await trio.sleep(HOUR_S + 1)
        assert len(running.dreams(OTHER)) == 1
        assert logged.events().count("dream tick failed") == 1


@pytest.mark.parametrize(
    ("waited_s", "sleeps_s"),
    [(0, NIGHT_S), (1_000, NIGHT_S - 1_000), (NIGHT_S, SETTLE_S), (90 * NIGHT_S, SETTLE_S)],
)
async def test_what_has_waited_when_the_daemon_starts_waits_the_less(
    autojump_clock: MockClock, waited_s: int, sleeps_s: float
) -> None:
    storage = MemoryStorage()
    async with dreaming(storage) as running:
        await running.say(1, at=NOW)
    wall = WallClock(NOW + waited_s * NANOS, step_ns=0)
    async with dreaming(storage, interval_s=NIGHT_S, wall=wall) as running:
        await trio.sleep(sleeps_s - 1)
        assert running.dreams() == []
        await trio.sleep(2)
        assert len(running.dreams()) == 1


async def test_what_came_after_the_last_tick_waits_from_that_tick_on(autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with dreaming(storage) as running:
        await running.tick()
        await running.say(1, at=NOW - 5 * DAY_NS)
    wall = WallClock(NOW + 1_000 * NANOS, step_ns=0)
    async with dreaming(storage, interval_s=NIGHT_S, wall=wall) as running:
        await trio.sleep(NIGHT_S - 1_002)
        assert running.dreams() == []
        await trio.sleep(4)
        assert len(running.dreams()) == 1


async def test_a_clock_that_was_set_back_delays_by_no_more_than_an_interval(autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with dreaming(storage) as running:
        await running.say(1, at=NOW + 300 * DAY_NS)
    async with dreaming(storage, interval_s=NIGHT_S) as running:
        await trio.sleep(NIGHT_S + 1)
        assert len(running.dreams()) == 1


# A crash between two groups.


async def test_what_was_stored_before_a_crash_is_whole_and_the_rest_waits(running: Dreaming) -> None:
    """The store is cut off in front of the second group's commit."""
    for number in range(3):
        await running.say(2 * number, topic_id="t", session_id=f"s-{number}")
        await running.say(2 * number + 1, topic_id="t", session_id=f"s-{number}")
    commits = len(running.storage.commits)
    running.storage.hold_commits(
        lambda: running.storage.break_disk() if len(running.storage.commits) > commits else None
    )
    with pytest.raises(StorageUnavailable):
        await running.tick()
    assert running.counters().dream_episodic_summaries == 1
    assert running.counters().raw_pending_dream == 4
    raws = [json.loads(row.metadata) for row in _raw_rows(running)]
    assert sum("_dream" in metadata for metadata in raws) == 2
    running.storage.hold_commits(lambda: None)
    running.storage.mend_disk()
    assert await running.tick() == counts(2, 4, semantic=2)
    assert await running.tick() == counts(0, 0)


def _raw_rows(running: Dreaming) -> list[RawRow]:
    prefix = key(DEFAULT_NAMESPACE, Table.RAW)
    return [
        parse_raw_row(value) for row_key, value in running.storage.rows().items() if row_key.startswith(prefix)
    ]
