"""The text index: nobody misses a write that was acknowledged before, for as long as a search may wait."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from tantivy import DocAddress
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory import failpoints
from cerememory.actors import text_index
from cerememory.actors.actor import Actor, Ping
from cerememory.actors.followers import CommitsUntold, EffectsCommitted
from cerememory.actors.index_changes import Step
from cerememory.actors.seams import Offload, inline
from cerememory.actors.searches import Search, Searched, SearchRaw
from cerememory.actors.text_index import (
    AHEAD_MIN,
    FRESH_WITHIN_S,
    GATHER_S,
    REST_FACTOR,
    Renew,
    TextIndexer,
)
from cerememory.actors.working import TellAnew, ToldAnew
from cerememory.actors.writer import Writer
from cerememory.config.settings import SecuritySettings, Settings
from cerememory.domain.curve import Rules
from cerememory.errors import InternalError
from cerememory.protocol import codec
from cerememory.protocol.requests import EncodeBatch, EncodeUpdate
from cerememory.storage import reindex
from cerememory.storage.contract import Storage
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, pack_sequence, system_key
from cerememory.storage.text_index import IndexWriteFailed, TextIndex
from cerememory.storage.text_search import _Documents
from cerememory.telemetry.metrics import Metrics
from tests.support.committing import a_record, commit, storing, updating
from tests.support.engine import (
    Running,
    WallClock,
    running_engine,
    store_body,
    text_block,
    to_recall,
    to_store,
    to_store_raw,
)
from tests.support.held import HeldOffload
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_engine(tmp_path) as opened:
        yield opened


async def store(running: Running, text: str, **given: Any) -> None:
    await running.engine.encode_store(to_store(text, **given))


async def texts(running: Running, words: str) -> list[str]:
    """The texts of the memories that `words` find, sorted."""
    answer = await running.engine.recall_query(to_recall(words, limit=100, reconsolidate=False))
    contents = [codec.parse(bytes(memory.record), dict[str, Any])["content"] for memory in answer.memories]
    return sorted(bytes(content["blocks"][0]["data"]).decode() for content in contents)


async def search(running: Running, words: str) -> Searched:
    return await running.actor("text_index").ask(Search(DEFAULT_NAMESPACE, words, None, 100))


async def test_a_recall_after_an_acknowledged_write_finds_it(running: Running) -> None:
    for i in range(30):
        await store(running, f"kettle {i}")
        assert f"kettle {i}" in await texts(running, f"{i}")


async def test_so_does_one_after_an_update_a_batch_and_a_raw_entry(running: Running) -> None:
    stored = await running.engine.encode_store(to_store("kettle"))
    body = {"content": {"blocks": [text_block("teapot")]}}
    await running.engine.encode_update(stored.reply.record_id, codec.parse(codec.dump(body), EncodeUpdate))
    assert await texts(running, "teapot") == ["teapot"]
    assert await texts(running, "kettle") == []
    records = {"records": [store_body(f"cup {i}") for i in range(20)]}
    await running.engine.encode_batch(codec.parse(codec.dump(records), EncodeBatch))
    assert len(await texts(running, "cup")) == 20
    await running.engine.encode_store_raw(to_store_raw("saucer"))
    raw = SearchRaw(DEFAULT_NAMESPACE, "saucer", None, None, None, frozenset({0}), frozenset({0}), 10)
    assert (await running.actor("text_index").ask(raw)).total == 1


async def test_many_writers_and_readers_at_once_never_miss_their_own_write(running: Running) -> None:
    async def write_and_read(number: int) -> None:
        await store(running, f"kettle {number}")
        assert f"kettle {number}" in await texts(running, f"{number}")

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(write_and_read, number)


async def test_a_search_waits_fifty_milliseconds_at_most_and_then_says_that_something_is_missing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, offload=held) as running:
        await store(running, "kettle one")
        assert await texts(running, "kettle") == ["kettle one"]
        held.hold("_apply")
        await store(running, "kettle two")
        started = trio.current_time()
        searched = await search(running, "kettle")
        assert trio.current_time() - started == pytest.approx(FRESH_WITHIN_S) == pytest.approx(0.05)
        assert (len(searched.hits), searched.complete) == (1, False)
        held.release("_apply")
        searched = await search(running, "kettle")
        assert (len(searched.hits), searched.complete) == (2, True)


async def test_a_recall_that_waited_in_vain_answers_and_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, offload=held) as running:
        held.hold("_apply")
        await store(running, "kettle")
        answer = await running.engine.recall_query(to_recall("kettle"))
        assert answer.memories == ()
        assert not answer.query_metadata.index_complete
        held.release("_apply")


async def test_a_search_that_comes_during_an_index_commit_waits_for_that_one_or_the_next(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, offload=held) as running:
        held.hold("_apply")
        await store(running, "kettle one")
        found: list[Searched] = []

        async def ask() -> None:
            found.append(await search(running, "kettle"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await held.until_held("_apply")
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            await store(running, "kettle two")
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            held.release("_apply")
        assert [(len(each.hits), each.complete) for each in found] == [(1, True), (1, True), (2, True)]


async def test_without_searches_a_change_is_committed_soon(running: Running, autojump_clock: MockClock) -> None:
    indexer = running.actor("text_index")
    assert isinstance(indexer, TextIndexer)
    await trio.sleep(1)
    await store(running, "kettle one")
    await trio.sleep(0.9 * GATHER_S)
    assert indexer.lag_s() == pytest.approx(0.9 * GATHER_S)
    await trio.sleep(0.2 * GATHER_S)
    assert indexer.lag_s() == 0.0
    assert len((await search(running, "kettle")).hits) == 1


async def test_a_commit_that_took_long_is_followed_by_a_rest(tmp_path: Path, autojump_clock: MockClock) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, offload=held) as running:
        indexer = running.actor("text_index")
        assert isinstance(indexer, TextIndexer)
        held.hold("_apply")
        await store(running, "kettle one")
        await held.until_held("_apply")
        await trio.sleep(0.05)
        held.release("_apply")
        await wait_all_tasks_blocked()
        await store(running, "kettle two")
        rest_s = REST_FACTOR * 0.05
        await trio.sleep(0.9 * rest_s)
        assert indexer.lag_s() == pytest.approx(0.9 * rest_s)
        await trio.sleep(0.2 * rest_s)
        assert indexer.lag_s() == 0.0


async def test_changes_beyond_a_bound_are_committed_at_once(
    running: Running, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "GATHER_MAX", 5)
    indexer = running.actor("text_index")
    assert isinstance(indexer, TextIndexer)
    started = trio.current_time()
    records = {"records": [store_body(f"cup {i}") for i in range(5)]}
    await running.engine.encode_batch(codec.parse(codec.dump(records), EncodeBatch))
    await wait_all_tasks_blocked()
    assert trio.current_time() == started
    assert indexer.lag_s() == 0.0


async def test_while_it_rests_many_changes_are_made_ready_for_the_next_commit(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    held = HeldOffload()
    async with running_engine(tmp_path, offload=held) as running:
        indexer = running.actor("text_index")
        assert isinstance(indexer, TextIndexer)
        held.hold("_apply")
        await store(running, "cup")
        await held.until_held("_apply")
        await trio.sleep(0.05)
        held.release("_apply")
        held.hold("_add")
        records = {"records": [store_body("cup") for _ in range(AHEAD_MIN)]}
        await running.engine.encode_batch(codec.parse(codec.dump(records), EncodeBatch))
        await held.until_held("_add")
        held.release("_add")
        await trio.sleep(0.5 * REST_FACTOR * 0.05)
        assert indexer.lag_s() > GATHER_S, "searches don't see it yet"
        searched = await search(running, "cup")
        assert (len(searched.hits), searched.complete) == (AHEAD_MIN + 1, True)


async def test_an_index_that_cannot_keep_up_holds_up_the_writer_alone(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches and pings have their turn."""
    monkeypatch.setattr(text_index, "GATHER_MAX", 2)
    monkeypatch.setattr(text_index, "WAITING_MAX", 3)
    held, answered = HeldOffload(), 0

    async def load(running: Running) -> None:
        nonlocal answered
        for i in range(20):
            await store(running, f"kettle {i}")
            answered += 1

    async with running_engine(tmp_path, offload=held) as running, trio.open_nursery() as nursery:
        await store(running, "kettle")
        assert len((await search(running, "kettle")).hits) == 1
        held.hold("_apply")
        nursery.start_soon(load, running)
        await held.until_held("_apply")
        await wait_all_tasks_blocked()
        under_way, waiting, more = 2, 4, 14
        assert answered == under_way + waiting == 20 - more
        started = trio.current_time()
        await running.actor("text_index").ask(Ping())
        assert trio.current_time() == started
        searched = await search(running, "kettle")
        assert (len(searched.hits), searched.complete) == (1, False)
        assert trio.current_time() == pytest.approx(started + FRESH_WITHIN_S)
        held.release("_apply")
        with trio.fail_after(60):
            while answered < 20:  # noqa: ASYNC110 - a jumping clock
                await trio.sleep(0.1)
        assert len(await texts(running, "kettle")) == 21


async def test_who_waits_for_an_index_that_is_given_up_goes_on(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "WAITING_MAX", 0)
    storage, held = MemoryStorage(), HeldOffload()
    indexer = solitary(storage, offload=held)
    await indexer.load()
    with trio.fail_after(600):
        async with trio.open_nursery() as telling, trio.open_nursery() as running:
            running.start_soon(indexer.run)
            await level(indexer)
            held.hold("_apply")
            await indexer.inform(stored(storage, 1, "kettle"))
            await held.until_held("_apply")
            await indexer.inform(stored(storage, 2, "kettle"))
            await wait_all_tasks_blocked()
            telling.start_soon(indexer.inform, stored(storage, 3, "kettle"))
            await wait_all_tasks_blocked()
            assert len(telling.child_tasks) == 1
            running.cancel_scope.cancel()
            held.release("_apply")


async def test_nobody_waits_for_an_index_that_is_being_renewed(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "WAITING_MAX", 0)
    storage, held = MemoryStorage(), HeldOffload()
    async with running_alone(solitary(storage, offload=held)) as indexer, trio.open_nursery() as nursery:
        await level(indexer)
        held.hold("renew_index")
        nursery.start_soon(indexer.ask, Renew())
        await held.until_held("renew_index")
        started = trio.current_time()
        for number in range(1, 5):
            await indexer.inform(stored(storage, number, "kettle"))
            await wait_all_tasks_blocked()
        assert trio.current_time() == started
        held.release("renew_index")
        await level(indexer)
        assert await found(indexer, "kettle") == {1, 2, 3, 4}


async def test_a_backlog_goes_into_several_commits_and_a_search_waits_for_the_last(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "GATHER_MAX", 2)
    storage, held = MemoryStorage(), HeldOffload()
    async with running_alone(solitary(storage, offload=held)) as indexer:
        await level(indexer)
        seen: list[int] = []
        applying = text_index._apply

        def noting(index: TextIndex, storage: Storage, steps: list[Step]) -> None:
            seen.append(sum(step.size for step in steps))
            applying(index, storage, steps)

        monkeypatch.setattr(text_index, "_apply", noting)
        held.hold("noting")
        indexer.post_nowait(stored(storage, 1, "kettle"))
        await held.until_held("noting")
        for number in range(2, 7):
            indexer.post_nowait(stored(storage, number, "kettle"))
        await wait_all_tasks_blocked()
        held.release("noting")
        assert await found(indexer, "kettle") == {1, 2, 3, 4, 5, 6}
        assert seen == [1, 2, 2, 1]


COMMITS_MAX = 200


class NothingHeld(Actor):
    """A working memory that holds nothing, and says so at once."""

    def post_nowait(self, event: object) -> None:
        assert isinstance(event, TellAnew)
        event.index.post_nowait(ToldAnew((), (), is_all=True))


def solitary(
    storage: MemoryStorage, path: Path | None = None, offload: Offload = inline, working: Actor | None = None
) -> TextIndexer:
    """A text index on its own: whatever it tells the writer goes into a mailbox that nobody reads."""
    world = WallClock().world(offload)
    curves = Curves(Rules())
    writer = Writer(
        storage,
        world,
        Metrics(()),
        curves=curves,
        frames=Frames(0),
        group_commit_s=0.0,
        audited=True,
        mailbox_size=10_000,
    )
    return TextIndexer(storage, world, writer, working or NothingHeld("working"), path)


@asynccontextmanager
async def running_alone(indexer: TextIndexer) -> AsyncIterator[TextIndexer]:
    await indexer.load()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(indexer.run)
        yield indexer
        indexer.close_mailbox()


async def level(indexer: TextIndexer) -> None:
    """Return when a search finds the index complete."""
    with trio.fail_after(600):
        while not (await indexer.ask(Search(DEFAULT_NAMESPACE, "any", None, 1))).complete:  # noqa: ASYNC110 - a jumping clock
            await trio.sleep(0.1)


async def found(indexer: TextIndexer, words: str) -> set[int]:
    searched = await indexer.ask(Search(DEFAULT_NAMESPACE, words, None, 100))
    assert searched.complete
    return {int.from_bytes(hit.record_id, "big") for hit in searched.hits}


def stored(storage: MemoryStorage, number: int, text: str) -> EffectsCommitted:
    """A record is committed; the event that tells of it."""
    _, finished = commit(storage, storing(a_record(number, text)))
    assert finished is not None
    return EffectsCommitted(finished.head.commit_sequence, finished.effects)


async def test_until_it_is_level_it_answers_from_what_there_is_and_says_so(autojump_clock: MockClock) -> None:
    storage, held = MemoryStorage(), HeldOffload()
    stored(storage, 1, "kettle")
    held.hold("needs_rebuild")
    async with running_alone(solitary(storage, offload=held)) as indexer:
        await held.until_held("needs_rebuild")
        started = trio.current_time()
        searched = await indexer.ask(Search(DEFAULT_NAMESPACE, "kettle", None, 9))
        assert (list(searched.hits), searched.complete) == ([], False)
        assert trio.current_time() == started
        held.release("needs_rebuild")
        await level(indexer)
        assert await found(indexer, "kettle") == {1}


async def test_it_isnt_complete_before_working_memory_has_told_what_it_holds(autojump_clock: MockClock) -> None:
    indexer = solitary(MemoryStorage(), working=Actor("working"))
    async with running_alone(indexer):
        await wait_all_tasks_blocked()
        started = trio.current_time()
        searched = await indexer.ask(Search(DEFAULT_NAMESPACE, "kettle", None, 9))
        assert not searched.complete
        assert trio.current_time() - started == pytest.approx(FRESH_WITHIN_S)
        indexer.post_nowait(ToldAnew((), ()))  # of something else that it holds
        await trio.sleep(60)
        assert not (await indexer.ask(Search(DEFAULT_NAMESPACE, "kettle", None, 9))).complete
        started = trio.current_time() - FRESH_WITHIN_S
        async with trio.open_nursery() as nursery:
            nursery.start_soon(level, indexer)
            await wait_all_tasks_blocked()
            indexer.post_nowait(ToldAnew((), (), is_all=True))
        assert trio.current_time() - started == pytest.approx(FRESH_WITHIN_S)


async def test_an_index_that_working_memory_cannot_be_asked_for_is_complete(autojump_clock: MockClock) -> None:
    working = Actor("working")
    working.close_mailbox()
    async with running_alone(solitary(MemoryStorage(), working=working)) as indexer:
        await level(indexer)


async def test_what_is_committed_while_it_catches_up_is_not_missed(autojump_clock: MockClock) -> None:
    """The feed has been read, and before its reader goes on somebody commits and is acknowledged."""
    storage, held = MemoryStorage(), HeldOffload()
    stored(storage, 1, "kettle one")
    held.hold("apply_log", after=True)
    async with running_alone(solitary(storage, offload=held)) as indexer:
        await held.until_held("apply_log")
        indexer.post_nowait(stored(storage, 2, "kettle two"))
        await wait_all_tasks_blocked()
        held.release("apply_log")
        await level(indexer)
        assert await found(indexer, "kettle") == {1, 2}


async def test_it_becomes_level_even_if_somebody_commits_all_the_time(autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    numbers = iter(range(2, COMMITS_MAX))

    async def busy(call: Any, limiter: Any = None) -> Any:
        """Every time that something was done, there is one more commit."""
        done = await inline(call, limiter)
        if (number := next(numbers, None)) is not None:
            indexer.post_nowait(stored(storage, number, "kettle"))
        return done

    indexer = solitary(storage, offload=busy)
    stored(storage, 1, "kettle")
    async with running_alone(indexer):
        await level(indexer)
        assert len(storage.commits) < COMMITS_MAX / 2
        assert {1, 2} <= await found(indexer, "kettle")
        for _ in numbers:
            pass  # nobody commits any more


async def test_a_commit_that_nobody_told_of_comes_from_the_feed(autojump_clock: MockClock) -> None:
    """Also when those after it are told of before the index looks: whatever the order in which tasks run."""
    storage = MemoryStorage()
    async with running_alone(solitary(storage)) as indexer:
        await level(indexer)
        for number in range(1, 40, 2):
            stored(storage, number, "kettle")
            indexer.post_nowait(CommitsUntold())
            indexer.post_nowait(stored(storage, number + 1, "kettle"))
            await level(indexer)
            assert await found(indexer, "kettle") == set(range(1, number + 2))


async def test_a_told_commit_that_the_feed_has_brought_already_is_not_undone(autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with running_alone(solitary(storage)) as indexer:
        await level(indexer)
        old = stored(storage, 1, "kettle of old")
        indexer.post_nowait(CommitsUntold())
        commit(storage, updating(1, content={"blocks": [text_block("teapot")]}))
        await level(indexer)
        indexer.post_nowait(old)
        assert await found(indexer, "teapot") == {1}
        assert await found(indexer, "kettle") == set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


async def test_what_waits_is_committed_at_a_stop_and_read_again_at_the_next_start(
    path: Path, autojump_clock: MockClock
) -> None:
    storage = MemoryStorage()
    async with running_alone(solitary(storage, path)) as indexer:
        await level(indexer)
        indexer.post_nowait(stored(storage, 1, "kettle"))
    index = TextIndex.open(path)
    assert index.applied_sequence() == 1
    index.close()
    async with running_alone(solitary(storage, path)) as indexer:
        await level(indexer)
        assert await found(indexer, "kettle") == {1}


def damaged(path: Path) -> None:
    (path / "curated" / "meta.json").write_text("{")


def gone(path: Path) -> None:
    shutil.rmtree(path)


def replaced(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("somebody's")


@pytest.mark.parametrize("harm", [damaged, gone, replaced])
async def test_an_index_that_is_damaged_or_gone_is_rebuilt_from_the_rows(
    path: Path, autojump_clock: MockClock, harm: Callable[[Path], None], logged: Logged
) -> None:
    storage = MemoryStorage()
    for number in range(1, 6):
        stored(storage, number, "kettle")
    async with running_alone(solitary(storage, path)) as indexer:
        await level(indexer)
    harm(path)
    feed = [row for row in storage.rows() if row.startswith(system_key(Table.LOG))]
    storage.commit({**dict.fromkeys(feed), system_key(Table.LOG_FLOOR): pack_sequence(5)})
    async with running_alone(solitary(storage, path)) as indexer:
        await level(indexer)
        assert await found(indexer, "kettle") == {1, 2, 3, 4, 5}
    assert ("text index is started anew" in logged.events("warning")) == (harm is not gone)


class Panic(BaseException):
    """tantivy's, by its look: the class of that can't be imported."""

    __module__ = "pyo3_runtime"


@pytest.mark.parametrize("cause", [ValueError("a changed byte"), Panic("out of bounds")])
@pytest.mark.parametrize("times", [1, 2])
async def test_damage_in_the_columns_of_what_is_found_is_met_in_the_search_and_mended(
    running: Running, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, times: int, cause: BaseException
) -> None:
    """Not when the hits are come to, where nobody would mend it. Who asked past the actor asks the actor then."""
    for number in range(30):
        await store(running, f"kettle {number}")
    await running.until_indexed()
    really_read, harmed = _Documents._columns, iter([cause] * times)

    def failing(self: _Documents, addresses: list[DocAddress]) -> Iterator[Any]:
        if (error := next(harmed, None)) is not None:
            raise error
        return really_read(self, addresses)

    monkeypatch.setattr(_Documents, "_columns", failing)
    if times == 1:
        assert len(await texts(running, "kettle")) == 30
        assert running.counted("cerememory_actor_restarts_total", actor="text_index") == 0
        return
    with pytest.raises(InternalError):
        await texts(running, "kettle")
    await trio.sleep(5)  # until the supervisor has started it again
    await running.until_indexed()
    assert len(await texts(running, "kettle")) == 30
    assert running.counted("cerememory_actor_restarts_total", actor="text_index") == 1


async def test_an_index_that_is_older_than_the_feed_is_rebuilt(path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    stored(storage, 1, "kettle")
    async with running_alone(solitary(storage, path)) as indexer:
        await level(indexer)
    for number in (2, 3):
        stored(storage, number, "kettle")
    dropped = [system_key(Table.LOG, pack_sequence(sequence)) for sequence in (1, 2)]
    storage.commit({**dict.fromkeys(dropped), system_key(Table.LOG_FLOOR): pack_sequence(2)})
    async with running_alone(solitary(storage, path)) as indexer:
        await level(indexer)
        assert await found(indexer, "kettle") == {1, 2, 3}


async def test_an_index_that_cannot_be_written_is_opened_again_and_catches_up(
    path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    storage = MemoryStorage()
    really_commit = TextIndex.commit
    failures = iter([True, True])

    def failing(self: TextIndex, sequence: int | None = None) -> None:
        if self.applied_sequence() == 1 and next(failures, False):
            raise IndexWriteFailed("no room")
        really_commit(self, sequence)

    async with running_alone(solitary(storage, path)) as indexer:
        await level(indexer)
        indexer.post_nowait(stored(storage, 1, "kettle one"))
        assert await found(indexer, "kettle") == {1}
        monkeypatch.setattr(TextIndex, "commit", failing)
        indexer.post_nowait(stored(storage, 2, "kettle two"))
        searched = await indexer.ask(Search(DEFAULT_NAMESPACE, "kettle", None, 9))
        assert (len(searched.hits), searched.complete) == (1, False)
        await trio.sleep(0.5)
        assert indexer.lag_s() > 0.4
        await level(indexer)
        assert await found(indexer, "kettle") == {1, 2}
        assert indexer.lag_s() == 0.0
    assert logged.events().count("text index is behind") == 2


async def test_tries_to_open_it_come_less_and_less_often(
    path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def failing(_path: Path | None) -> tuple[TextIndex, str]:
        tried.append(trio.current_time())
        raise IndexWriteFailed("no room")

    monkeypatch.setattr(reindex, "open_index", failing)
    async with running_alone(solitary(MemoryStorage(), path)) as indexer:
        searched = await indexer.ask(Search(DEFAULT_NAMESPACE, "kettle", None, 9))
        assert (list(searched.hits), searched.complete) == ([], False)
        await trio.sleep(200)
    pauses = [later - before for before, later in pairwise(tried[1:])]
    assert pauses[:6] == pytest.approx([1, 2, 4, 8, 16, 30])
    assert max(pauses) == pytest.approx(30)


async def test_a_crash_lets_a_commit_under_way_finish_and_answers_the_searches_that_wait_for_it(
    autojump_clock: MockClock,
) -> None:
    storage, held = MemoryStorage(), HeldOffload()
    indexer = solitary(storage, offload=held)
    await indexer.load()
    outcomes: list[Searched] = []

    async def ask() -> None:
        outcomes.append(await indexer.ask(Search(DEFAULT_NAMESPACE, "kettle", None, 9)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_crash, indexer)
        await level(indexer)
        held.hold("_apply")
        indexer.post_nowait(stored(storage, 1, "kettle"))
        started = trio.current_time()
        nursery.start_soon(ask)
        await held.until_held("_apply")
        indexer.post_nowait(object())
        await wait_all_tasks_blocked()
        held.release("_apply")
    assert trio.current_time() == started
    assert [(len(each.hits), each.complete) for each in outcomes] == [(1, True)]


async def expect_crash(indexer: TextIndexer) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await indexer.run()
    assert raised.group_contains(TypeError)


async def test_after_a_crash_the_index_in_memory_is_built_again(
    running: Running, autojump_clock: MockClock
) -> None:
    await store(running, "kettle one")
    await wait_all_tasks_blocked()  # the change is in the index's hands: the failpoint is for the ping
    failpoints.arm("actor.text_index.received")
    assert await running.engine.not_ready() == "engine check failed"
    await store(running, "kettle two")
    await trio.sleep(1)
    await running.until_indexed()
    assert await texts(running, "kettle") == ["kettle one", "kettle two"]


async def test_an_index_on_disk_that_may_not_be_there_is_removed(tmp_path: Path) -> None:
    on_disk, storage = Settings(data_dir=tmp_path / "data"), MemoryStorage()
    async with running_engine(tmp_path, settings=on_disk, storage=storage) as running:
        await store(running, "a private thought")
        assert list((tmp_path / "data" / "index").rglob("meta.json"))
    in_memory = Settings(data_dir=tmp_path / "data", security=SecuritySettings(persist_search_indexes=False))
    async with running_engine(tmp_path, settings=in_memory, storage=storage) as running:
        assert not (tmp_path / "data" / "index").exists()


async def test_what_is_no_index_is_set_aside_where_none_may_be(tmp_path: Path, logged: Logged) -> None:
    in_memory = Settings(data_dir=tmp_path / "data", security=SecuritySettings(persist_search_indexes=False))
    async with running_engine(tmp_path, settings=in_memory):
        (tmp_path / "data" / "index").write_text("somebody's")
    async with running_engine(tmp_path, settings=in_memory):
        assert (tmp_path / "data" / "index.aside-1").read_text() == "somebody's"
    assert "what is no text index was set aside" in logged.events("warning")
