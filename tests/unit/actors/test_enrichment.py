"""The enrichment actor: what it asks for, how long it tries, and that nobody waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors import enrichment as enrichment_actor
from cerememory.actors.enrichment import ASKED_AT_ONCE, PAUSE_MAX_S, PAUSE_S, PIECE, TRIES_MAX, Enricher
from cerememory.actors.followers import Followers
from cerememory.actors.supervisor import Supervisor
from cerememory.actors.writer import Commit, Writer
from cerememory.domain.curve import Rules
from cerememory.errors import StorageUnavailable
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent
from cerememory.providers.contract import Cause, Failure, Vector
from cerememory.storage import enrichment
from cerememory.storage.contract import Changes
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key, pack_sequence, system_key
from cerememory.storage.mutations import embedding_of
from cerememory.storage.rows import ContentRow, parse_content_row
from cerememory.telemetry.metrics import Metrics
from tests.support.committing import a_record, an_id, commit, storing, storing_raw, updating
from tests.support.engine import WallClock, text_block
from tests.support.fake_llm import meaning
from tests.support.fake_provider import FakeProvider
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage

BUSY = Failure(Cause.BUSY, "status 503")
REFUSED = Failure(Cause.REFUSED, "status 400")
DAY_S = 86_400.0


@dataclass
class Enriching:
    """A writer, and the enrichment that follows it."""

    storage: MemoryStorage
    provider: FakeProvider
    writer: Writer
    enricher: Enricher
    restarts: list[str]

    async def store(self, *numbers: int, text: str = "the puppy", **given: Any) -> None:
        for number in numbers:
            await self.writer.ask(Commit(storing(a_record(number, text, **given))))

    async def until(self, condition: Callable[[], bool], step_s: float = 0.1) -> None:
        """Return when `condition` holds; on the jumping clock nothing is waited for in vain."""
        with trio.fail_after(DAY_S):
            while not condition():  # noqa: ASYNC110 - rows and requests have no event
                await trio.sleep(step_s)

    def row(self, number: int = 1, namespace: int = DEFAULT_NAMESPACE) -> ContentRow:
        return parse_content_row(self.storage.rows()[key(namespace, Table.CONTENT, an_id(number))])

    def vector(self, number: int = 1) -> Vector | None:
        return embedding_of(codec.parse(self.row(number).content, MemoryContent))

    def relations(self, number: int = 1) -> Any:
        return codec.parse(self.row(number).metadata, dict[str, Any]).get("extracted_relations")

    def asked(self, number: int) -> Any:
        return [given for _ability, given in self.provider.asked][number]


@asynccontextmanager
async def enriching(storage: MemoryStorage, provider: FakeProvider) -> AsyncIterator[Enriching]:
    world, metrics = WallClock().world(), Metrics(())
    writer = Writer(
        storage, world, metrics, curves=Curves(Rules()), group_commit_s=0.002, audited=True, frames=Frames(0)
    )
    enricher = Enricher(storage, world, writer, provider)
    writer.tell(Followers(indexes=(enricher,)))
    restarts: list[str] = []
    supervisor = Supervisor([[enricher], [writer]], restarts.append)
    async with trio.open_nursery() as nursery:
        await supervisor.start(nursery)
        yield Enriching(storage, provider, writer, enricher, restarts)
        await supervisor.stop()


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def running(storage: MemoryStorage) -> AsyncIterator[Enriching]:
    async with enriching(storage, FakeProvider()) as opened:
        yield opened
        assert opened.restarts == []


async def test_what_is_stored_gets_its_vector_and_its_relations(
    running: Enriching, autojump_clock: MockClock
) -> None:
    await running.store(1)
    assert running.vector() is None
    await running.until(lambda: running.vector() is not None)
    assert running.vector() == tuple(meaning("puppy"))
    assert running.relations() == [{"subject": "Ada", "predicate": "owns", "object": "a dog", "confidence": 0.9}]
    assert running.row().version == 1


async def test_nobody_waits_for_the_provider(storage: MemoryStorage, autojump_clock: MockClock) -> None:
    async with enriching(storage, FakeProvider(takes_s=50.0)) as running:
        started = trio.current_time()
        await running.store(*range(1, 301))
        assert trio.current_time() - started < 5.0
        assert all(running.vector(number) is None for number in range(1, 301))


async def test_what_is_edited_gets_others(running: Enriching, autojump_clock: MockClock) -> None:
    await running.store(1)
    await running.until(lambda: running.vector() is not None)
    await running.writer.ask(Commit(updating(1, content={"blocks": [text_block("the car")]})))
    await running.until(lambda: running.vector() == tuple(meaning("car")))
    assert running.row().version == 2
    assert running.provider.times("extract_relations") == 2


async def test_what_is_edited_while_it_is_asked_for_gets_those_of_its_last_words(
    storage: MemoryStorage, autojump_clock: MockClock
) -> None:
    async with enriching(storage, FakeProvider(takes_s=10.0)) as running:
        await running.store(1)
        await running.until(lambda: running.provider.times("embed_text") == 1)
        await running.writer.ask(Commit(updating(1, content={"blocks": [text_block("the car")]})))
        await running.until(lambda: running.vector() is not None)
        assert running.vector() == tuple(meaning("car"))
        assert running.row().version == 2


async def test_what_has_all_isnt_asked_for(running: Enriching, autojump_clock: MockClock) -> None:
    await running.store(1, embedding=[1.0], metadata={"extracted_relations": []})
    await running.writer.ask(Commit(storing_raw(2)))
    await running.store(3)
    await running.until(lambda: running.vector(3) is not None)
    assert running.provider.asked == [("embed_text", "the puppy"), ("extract_relations", "the puppy")]


async def test_a_provider_without_vectors_gives_relations(
    storage: MemoryStorage, autojump_clock: MockClock
) -> None:
    async with enriching(storage, FakeProvider("summarise", "extract_relations")) as running:
        await running.store(1)
        await running.until(lambda: running.relations() is not None)
        assert running.vector() is None


async def test_a_picture_is_embedded(running: Enriching, autojump_clock: MockClock) -> None:
    picture = b"\x89PNG\r\n\x1a\n picture"
    block = {"modality": "image", "format": "png", "data": list(picture)}
    await running.store(1, embedding=[1.0])
    await running.writer.ask(Commit(updating(1, content={"blocks": [block]})))
    await running.until(lambda: running.provider.times("embed_image") == 1)
    await running.until(lambda: running.vector() == tuple(meaning("puppy")))
    assert ("embed_image", (picture, "png")) in running.provider.asked


async def test_every_namespace_is_enriched(running: Enriching, autojump_clock: MockClock) -> None:
    await running.store(1, namespace=7)
    path = key(7, Table.CONTENT, an_id(1))
    await running.until(lambda: b"extracted_relations" in running.storage.rows()[path])


async def test_what_the_provider_refuses_stays_without(running: Enriching, autojump_clock: MockClock) -> None:
    running.provider.then("embed_text", REFUSED)
    await running.store(1)
    await running.until(lambda: running.provider.times("embed_text") == 1)  # those stored together have no order
    await running.store(2)
    await running.until(lambda: running.vector(2) is not None)
    assert running.vector(1) is None
    assert running.relations(1) is not None
    await trio.sleep(DAY_S)
    assert running.provider.times("embed_text") == 2


async def test_a_provider_that_is_away_is_asked_again_and_nothing_else_meanwhile(
    running: Enriching, autojump_clock: MockClock
) -> None:
    """Pauses double: the fourth try comes 35 s after the first."""
    running.provider.then("embed_text", BUSY, BUSY, BUSY)
    started = trio.current_time()
    await running.store(1)
    await running.until(lambda: running.provider.times("embed_text") == 1)
    await running.store(2)
    await running.until(lambda: running.vector(1) is not None)
    assert PAUSE_S * 7 <= trio.current_time() - started < PAUSE_S * 7 + 1
    await running.until(lambda: running.vector(2) is not None)
    assert running.provider.times("extract_relations") == 2


async def test_what_it_gave_is_kept_though_the_rest_failed(running: Enriching, autojump_clock: MockClock) -> None:
    running.provider.then("extract_relations", BUSY)
    await running.store(1)
    await running.until(lambda: running.vector() is not None)
    assert running.relations() is None
    await running.until(lambda: running.relations() is not None)
    assert running.provider.times("embed_text") == 1


async def test_after_most_of_an_hour_those_stay_without_and_others_get_their_turn(
    running: Enriching, logged: Logged, autojump_clock: MockClock
) -> None:
    running.provider.then("embed_text", *[BUSY] * TRIES_MAX)
    await running.store(1)
    await running.until(lambda: running.provider.times("embed_text") == 1)
    await running.store(2)
    started = trio.current_time()
    await running.until(lambda: running.vector(2) is not None, step_s=30.0)
    assert running.vector(1) is None
    assert 2_400.0 < trio.current_time() - started < 2 * PAUSE_MAX_S * TRIES_MAX
    assert "memories stay without enrichment" in logged.events("warning")


async def test_only_a_few_are_asked_for_at_once(storage: MemoryStorage, autojump_clock: MockClock) -> None:
    async with enriching(storage, FakeProvider(takes_s=1.0)) as running:
        await running.store(*range(1, 3 * PIECE + 1))
        await running.until(lambda: all(running.vector(number) for number in range(1, 3 * PIECE + 1)))
        assert running.provider.most_at_once == ASKED_AT_ONCE


async def test_more_than_is_read_at_once_is_enriched_all_the_same(
    running: Enriching, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The queue is the log: however much waits, only a part of it is in memory."""
    monkeypatch.setattr(enrichment, "ADDRESSES_MAX", 5)
    await running.store(*range(1, 41))
    await running.until(lambda: all(running.vector(number) for number in range(1, 41)))
    assert running.provider.times("embed_text") == 40


async def test_what_waits_at_a_stop_is_enriched_at_the_next_start(
    storage: MemoryStorage, autojump_clock: MockClock
) -> None:
    async with enriching(storage, FakeProvider(takes_s=100.0)) as running:
        await running.store(1, 2)
        await running.until(lambda: len(running.provider.asked) > 0)
    async with enriching(storage, FakeProvider()) as running:
        await running.until(lambda: None not in (running.vector(1), running.vector(2)))


async def test_what_is_done_isnt_looked_at_again(storage: MemoryStorage, autojump_clock: MockClock) -> None:
    async with enriching(storage, FakeProvider()) as running:
        running.provider.then("embed_text", REFUSED)
        await running.store(1)
        await running.until(lambda: running.relations() is not None)
    async with enriching(storage, FakeProvider()) as running:
        await running.store(2)
        await running.until(lambda: running.vector(2) is not None)
        assert running.vector(1) is None


async def test_a_new_provider_begins_with_what_is_stored_from_then_on(
    storage: MemoryStorage, autojump_clock: MockClock
) -> None:
    commit(storage, storing(a_record(1, "the puppy")))
    for number in (2, 3):
        async with enriching(storage, FakeProvider()) as running:
            await running.store(number)
            await running.until(lambda: running.vector(number) is not None)  # noqa: B023 - awaited in its round
            assert running.vector(1) is None


async def test_a_first_start_is_noted_before_anything_is_stored(
    storage: MemoryStorage, autojump_clock: MockClock
) -> None:
    commit(storage, storing(a_record(1, "the puppy")))
    async with enriching(storage, FakeProvider()):
        pass
    commit(storage, storing(a_record(2, "the puppy")))
    async with enriching(storage, FakeProvider()) as running:
        await running.until(lambda: running.vector(2) is not None)
        assert running.vector(1) is None


async def test_what_the_log_lost_stays_without_and_is_logged(
    storage: MemoryStorage, logged: Logged, autojump_clock: MockClock
) -> None:
    async with enriching(storage, FakeProvider()):
        pass
    for number in (1, 2):
        commit(storage, storing(a_record(number, "the puppy")))
    first = enrichment.last_sequence(storage) - 1
    log = system_key(Table.LOG)
    storage.commit({log + pack_sequence(first): None, system_key(Table.LOG_FLOOR): pack_sequence(first)})
    async with enriching(storage, FakeProvider()) as running:
        await running.until(lambda: running.vector(2) is not None)
        assert running.vector(1) is None
    assert logged.events("warning") == ["memories stay without enrichment"]


class FullDisk(MemoryStorage):
    """Refuses the commits that come while `full`."""

    full = False

    def commit(self, changes: Changes) -> None:
        if self.full:
            raise StorageUnavailable("no space left")
        super().commit(changes)

    def recover(self) -> None:
        if self.full:
            raise StorageUnavailable("no space left")
        super().recover()


async def test_a_full_disk_costs_no_second_request(autojump_clock: MockClock) -> None:
    storage = FullDisk()
    async with enriching(storage, FakeProvider(takes_s=1.0)) as running:
        await running.store(1)
        await running.until(lambda: running.provider.times("embed_text") == 1)
        storage.full = True
        await trio.sleep(60.0)
        assert running.vector() is None
        storage.full = False
        await running.until(lambda: running.vector() is not None)
        assert running.provider.times("embed_text") == 1


async def test_a_bug_restarts_it_where_it_was(
    running: Enriching, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    calls = []

    def broken_once(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        return addition(*given)

    addition = enrichment_actor._addition
    monkeypatch.setattr(enrichment_actor, "_addition", broken_once)
    await running.store(1)
    await running.until(lambda: running.vector() is not None)
    assert running.restarts == ["enrichment"]
    running.restarts.clear()


async def test_the_time_of_a_stop_doesnt_depend_on_the_provider(
    storage: MemoryStorage, autojump_clock: MockClock
) -> None:
    async with enriching(storage, FakeProvider(takes_s=1_000.0)) as running:
        await running.store(1)
        await running.until(lambda: len(running.provider.asked) > 0)
        stopping_at = trio.current_time()
    assert trio.current_time() - stopping_at < 1.0
