"""A read that names a commit waits for the text index, too: a second at most, and then says that it is behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory.actors.followers import CommitsUntold
from cerememory.actors.searches import NO_TIME, Search, Searched
from cerememory.actors.text_index import FRESH_WITHIN_S, RETRY_S, TextIndexer
from cerememory.protocol.requests import RecallRawQuery
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.text_index import IndexWriteFailed, TextIndex
from tests.support.engine import Running, running_engine, to_recall, to_store, to_store_raw
from tests.support.held import HeldOffload
from tests.support.memory_storage import MemoryStorage
from tests.unit.actors.test_text_index import level, running_alone, solitary, stored

Read = Callable[[Running, float], Awaitable[tuple[int, bool]]]  # how much was found, and whether that is all


async def recall(running: Running, fresh_by: float) -> tuple[int, bool]:
    found = await running.engine.recall_query(to_recall("kettle", reconsolidate=False), fresh_by=fresh_by)
    return len(found.memories), found.query_metadata.index_complete


async def recall_of_both(running: Running, fresh_by: float) -> tuple[int, bool]:
    """By words and by meaning."""
    request = to_recall("kettle", reconsolidate=False, cue={"embedding": [1.0, 0.0]})
    found = await running.engine.recall_query(request, fresh_by=fresh_by)
    return len(found.memories), found.query_metadata.index_complete


async def recall_raw(running: Running, fresh_by: float) -> tuple[int, bool]:
    found = await running.engine.recall_raw_query(RecallRawQuery(query="kettle"), fresh_by=fresh_by)
    return len(found.records), found.index_complete is not False


@pytest.fixture
def held() -> HeldOffload:
    return HeldOffload()


@pytest.fixture
async def running(tmp_path: Path, held: HeldOffload) -> AsyncIterator[Running]:
    async with running_engine(tmp_path, offload=held) as opened:
        yield opened


async def store(running: Running) -> int:
    """A memory and a raw entry; the number of the last commit."""
    await running.engine.encode_store(to_store("kettle", embedding=[1.0, 0.0]))
    return (await running.engine.encode_store_raw(to_store_raw("kettle"))).sequence


READS = pytest.mark.parametrize("read", [recall, recall_of_both, recall_raw])


@READS
async def test_it_gets_what_the_index_has_within_the_second(
    running: Running, held: HeldOffload, autojump_clock: MockClock, read: Read
) -> None:
    held.hold("_apply")
    fresh_by = await running.engine.wait_for(await store(running))
    answers: list[tuple[int, bool]] = []

    async def ask() -> None:
        answers.append(await read(running, fresh_by))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(0.9)
        assert answers == []
        held.release("_apply")
    assert answers == [(1, True)]
    assert trio.current_time() == pytest.approx(0.9)


@READS
@pytest.mark.parametrize("waits", [True, False])
async def test_after_its_time_it_gets_what_there_is_and_is_told_so(
    running: Running, held: HeldOffload, autojump_clock: MockClock, read: Read, waits: bool
) -> None:
    """Without a commit that is named that is 50 ms."""
    held.hold("_apply")
    fresh_by = await running.engine.wait_for(await store(running))
    started = trio.current_time()
    found, complete = await read(running, fresh_by if waits else NO_TIME)
    assert (found, complete) == (int(read is recall_of_both), False)  # which its vector finds
    assert trio.current_time() - started == pytest.approx(1.0 if waits else FRESH_WITHIN_S)
    held.release("_apply")


async def test_entries_of_a_session_are_listed_without_the_index(
    running: Running, held: HeldOffload, autojump_clock: MockClock
) -> None:
    held.hold("_apply")
    fresh_by = await running.engine.wait_for(await store(running))
    found = await running.engine.recall_raw_query(RecallRawQuery(session_id="s-1"), fresh_by=fresh_by)
    assert (len(found.records), found.index_complete is not False, trio.current_time()) == (1, True, 0.0)
    held.release("_apply")


async def test_by_meaning_it_is_found_at_once(
    running: Running, held: HeldOffload, autojump_clock: MockClock
) -> None:
    """The vector index has been told before the write was answered."""
    held.hold("_apply")
    fresh_by = await running.engine.wait_for(await store(running))
    request = to_recall(cue={"embedding": [1.0, 0.0]})
    found = await running.engine.recall_query(request, fresh_by=fresh_by)
    assert (len(found.memories), found.query_metadata.index_complete, trio.current_time()) == (1, True, 0.0)
    held.release("_apply")


async def asked(indexer: TextIndexer, fresh_by: float) -> Searched:
    return await indexer.ask(Search(DEFAULT_NAMESPACE, "kettle", None, 9, fresh_by=fresh_by))


async def test_it_waits_for_an_index_that_is_still_catching_up(autojump_clock: MockClock) -> None:
    storage, held, answers = MemoryStorage(), HeldOffload(), list[Searched]()
    stored(storage, 1, "kettle")
    held.hold("needs_rebuild")

    async def ask() -> None:
        answers.append(await asked(indexer, trio.current_time() + 1))

    async with running_alone(solitary(storage, offload=held)) as indexer:
        await held.until_held("needs_rebuild")
        assert indexer.search_nowait(Search(DEFAULT_NAMESPACE, "kettle", None, 9, fresh_by=1.0)) is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.5)
            held.release("needs_rebuild")
    assert [(len(each.hits), each.complete) for each in answers] == [(1, True)]
    assert trio.current_time() == 0.5


async def test_one_that_comes_when_the_feed_has_been_read_waits_for_the_index_commit_behind_it(
    autojump_clock: MockClock,
) -> None:
    storage, held, answers = MemoryStorage(), HeldOffload(), list[Searched]()
    stored(storage, 1, "kettle one")
    held.hold("apply_log", after=True)

    async def ask() -> None:
        answers.append(await asked(indexer, trio.current_time() + 1))

    async with running_alone(solitary(storage, offload=held)) as indexer, trio.open_nursery() as nursery:
        await held.until_held("apply_log")
        held.release("apply_log")
        held.hold("apply_log", after=True)
        await held.until_held("apply_log")  # once more, since from now on changes are noted
        indexer.post_nowait(stored(storage, 2, "kettle two"))
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        held.release("apply_log")
    assert [(len(each.hits), each.complete) for each in answers] == [(2, True)]


async def test_of_those_who_waited_in_vain_none_is_kept(autojump_clock: MockClock) -> None:
    storage, held = MemoryStorage(), HeldOffload()
    held.hold("needs_rebuild")
    async with running_alone(solitary(storage, offload=held)) as indexer:
        await held.until_held("needs_rebuild")
        for _ in range(5):
            assert not (await asked(indexer, trio.current_time() + 1)).complete
        assert len(indexer._waiters) == 1
        held.release("needs_rebuild")


async def test_it_waits_for_what_nobody_told_the_index_of(autojump_clock: MockClock) -> None:
    """Also when that comes during the index commit that it waits for."""
    storage, held, answers = MemoryStorage(), HeldOffload(), list[Searched]()

    async def ask() -> None:
        answers.append(await asked(indexer, trio.current_time() + 1))

    async with running_alone(solitary(storage, offload=held)) as indexer:
        await level(indexer)
        held.hold("_apply")
        indexer.post_nowait(stored(storage, 1, "kettle one"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await held.until_held("_apply")
            stored(storage, 2, "kettle two")
            indexer.post_nowait(CommitsUntold())
            await wait_all_tasks_blocked()
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            held.release("_apply")
    assert [(len(each.hits), each.complete) for each in answers] == [(2, True)] * 2


async def test_an_index_commit_that_failed_is_waited_for_again(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, really_commit, failures = MemoryStorage(), TextIndex.commit, iter([True])

    def failing(self: TextIndex, sequence: int | None = None) -> None:
        if next(failures, False):
            raise IndexWriteFailed("no room")
        really_commit(self, sequence)

    async with running_alone(solitary(storage, tmp_path / "index")) as indexer:
        await level(indexer)
        started = trio.current_time()
        monkeypatch.setattr(TextIndex, "commit", failing)
        indexer.post_nowait(stored(storage, 1, "kettle"))
        searched = await asked(indexer, started + 2 * RETRY_S)
        assert (len(searched.hits), searched.complete) == (1, True)
        assert trio.current_time() - started == pytest.approx(RETRY_S)


async def test_a_stop_waits_for_nobody(autojump_clock: MockClock) -> None:
    storage, held, answers = MemoryStorage(), HeldOffload(), list[Searched]()
    held.hold("needs_rebuild")

    async def ask() -> None:
        answers.append(await asked(indexer, trio.current_time() + 1))

    async with trio.open_nursery() as nursery, running_alone(solitary(storage, offload=held)) as indexer:
        await held.until_held("needs_rebuild")
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
    assert ([each.complete for each in answers], trio.current_time()) == ([False], 0.0)
