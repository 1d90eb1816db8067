"""Compaction through the engine: who waits for it, what a search sees meanwhile, and what a failure leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory import failpoints
from cerememory.actors.text_index import Renew
from cerememory.config.settings import Settings
from cerememory.errors import ActorBusy, InternalError, StorageUnavailable
from cerememory.protocol import codec
from cerememory.protocol.deadlines import COMPACT_S, OPERATION_S
from cerememory.protocol.records import Store
from cerememory.protocol.replies import Compacted
from cerememory.protocol.requests import Compact, RecallRawQuery
from cerememory.storage import reindex
from cerememory.storage.contract import Compaction
from cerememory.storage.text_index import IndexWriteFailed
from tests.support.engine import Running, running_engine, to_introspect, to_recall, to_store, to_store_raw
from tests.support.held import HeldOffload
from tests.support.logged import Logged
from tests.support.memory_storage import MemoryStorage

COMPACT = Compact()


@pytest.fixture
def held() -> HeldOffload:
    return HeldOffload()


@pytest.fixture
async def running(tmp_path: Path, held: HeldOffload) -> AsyncIterator[Running]:
    """The index lies on the disk."""
    async with running_engine(tmp_path, settings=Settings(data_dir=tmp_path / "data"), offload=held) as opened:
        yield opened


async def store(running: Running, text: str, **given: Any) -> None:
    await running.engine.encode_store(to_store(text, **given))


async def recall(running: Running, words: str) -> tuple[list[str], bool]:
    """The texts that are found, sorted, and whether the index is complete."""
    answer = await running.engine.recall_query(to_recall(words, limit=100, reconsolidate=False))
    contents = [codec.parse(bytes(memory.record), dict[str, Any])["content"] for memory in answer.memories]
    found = sorted(bytes(content["blocks"][0]["data"]).decode() for content in contents)
    return found, answer.query_metadata.index_complete


async def test_it_answers_how_large_the_store_was_and_is(running: Running) -> None:
    await store(running, "kettle")
    used = running.storage.used_bytes()
    assert await running.engine.lifecycle_compact(COMPACT) == Compacted(bytes_before=used, bytes_after=used)


async def test_what_is_to_be_written_waits_and_reads_go_on(running: Running, held: HeldOffload) -> None:
    stored = await running.engine.encode_store(to_store("before"))
    held.hold("compact")
    answered: list[str] = []

    async def store_meanwhile() -> None:
        await store(running, "meanwhile")
        answered.append("stored")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.engine.lifecycle_compact, COMPACT)
        await held.until_held("compact")
        nursery.start_soon(store_meanwhile)
        await wait_all_tasks_blocked()
        assert await recall(running, "before") == (["before"], True)
        await running.engine.introspect_record(to_introspect(stored.reply.record_id))
        assert answered == []
        held.release("compact")
    assert answered == ["stored"]
    assert await recall(running, "meanwhile") == (["meanwhile"], True)


async def test_who_waits_for_it_too_long_is_told_to_try_again_and_what_was_asked_is_done(
    running: Running, held: HeldOffload, autojump_clock: MockClock
) -> None:
    """As with every commit: the deadline ends the asking, an idempotency key makes asking again safe."""
    held.hold("compact")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.engine.lifecycle_compact, COMPACT)
        await held.until_held("compact")
        started = trio.current_time()
        with pytest.raises(ActorBusy):
            await store(running, "patient")
        assert trio.current_time() - started == pytest.approx(OPERATION_S)
        held.release("compact")
    assert await recall(running, "patient") == (["patient"], True)


async def test_it_may_take_longer_than_other_operations(
    running: Running, held: HeldOffload, autojump_clock: MockClock
) -> None:
    held.hold("compact")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.engine.lifecycle_compact, COMPACT)
        await trio.sleep(OPERATION_S + 1)
        held.release("compact")
    assert COMPACT_S >= 10 * OPERATION_S


class Cramped(MemoryStorage):
    """Has room for all but a compaction."""

    def compact(self) -> Compaction:
        raise StorageUnavailable("compacting needs 9 bytes of free disk", retry_after_s=30)


async def test_one_that_finds_no_room_says_so_and_writing_goes_on(tmp_path: Path, logged: Logged) -> None:
    storage = Cramped()
    async with running_engine(tmp_path, storage=storage) as running:
        await store(running, "before")
        with pytest.raises(StorageUnavailable, match="needs 9 bytes"):
            await running.engine.lifecycle_compact(COMPACT)
        await store(running, "after")  # the writer sees to the disk in front of it
        assert storage.recoveries_tried == 1
        assert await running.engine.not_ready() is None
        assert (await recall(running, "before after"))[0] == ["after", "before"]
    assert logged.events() == ["compaction failed"]


async def test_one_on_a_disk_that_fails_is_refused_until_that_works_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        storage.break_disk()
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await running.engine.lifecycle_compact(COMPACT)
        assert await running.engine.not_ready() == "storage unavailable"
        storage.mend_disk()
        await running.engine.lifecycle_compact(COMPACT)
        assert await running.engine.not_ready() is None


async def test_while_the_index_is_built_again_searches_see_what_they_saw_and_say_that_more_may_be_there(
    running: Running, held: HeldOffload, autojump_clock: MockClock
) -> None:
    for text in ("kettle one", "kettle two"):
        await store(running, text)
    assert await recall(running, "kettle") == (["kettle one", "kettle two"], True)
    held.hold("_next_piece")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.engine.lifecycle_compact, COMPACT)
        await held.until_held("_next_piece")
        assert await recall(running, "kettle") == (["kettle one", "kettle two"], False)
        await store(running, "kettle three")
        assert await recall(running, "kettle") == (["kettle one", "kettle two"], False)
        held.release("_next_piece")
    assert await recall(running, "kettle") == (["kettle one", "kettle three", "kettle two"], True)


async def test_the_new_index_has_all_that_the_old_one_had(running: Running) -> None:
    await store(running, "kettle")
    await store(running, "teapot", store=Store.WORKING)
    await running.engine.encode_store_raw(to_store_raw("saucer"))
    await running.engine.encode_store(to_store("other kettle"), namespace=7)
    await running.engine.lifecycle_compact(COMPACT)
    assert await recall(running, "kettle") == (["kettle"], True)
    assert await recall(running, "teapot") == (["teapot"], True)
    raw = RecallRawQuery(query="saucer")
    assert (await running.engine.recall_raw_query(raw)).total_candidates == 1
    elsewhere = await running.engine.recall_query(to_recall("kettle"), namespace=7)
    assert len(elsewhere.memories) == 1


async def test_its_old_files_are_gone_when_it_is_answered(running: Running) -> None:
    await store(running, "kettle")
    await recall(running, "kettle")
    before = index_files(running)
    await running.engine.lifecycle_compact(COMPACT)
    assert before
    assert not before & index_files(running)


def index_files(running: Running) -> set[str]:
    """The files that hold words: each has a name that no other ever had."""
    return {file.name for file in (running.directory.path / "index").rglob("*.term")}


async def test_one_in_memory_is_built_again_too(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        await store(running, "kettle")
        await running.engine.lifecycle_compact(COMPACT)
        assert await recall(running, "kettle") == (["kettle"], True)


async def test_two_at_once_are_both_answered(running: Running) -> None:
    await store(running, "kettle")
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(running.engine.lifecycle_compact, COMPACT)
    assert await recall(running, "kettle") == (["kettle"], True)


async def test_one_that_comes_while_the_index_is_built_again_builds_it_once_more(
    running: Running, held: HeldOffload
) -> None:
    """What is forgotten behind the first may already be in the files of the second."""
    await store(running, "kettle")
    index = running.actor("text_index")
    held.hold("_next_piece")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(index.ask, Renew())
        await held.until_held("_next_piece")
        first = index_files(running)
        nursery.start_soon(index.ask, Renew())
        await wait_all_tasks_blocked()
        held.release("_next_piece")
    assert not first & index_files(running)
    assert await recall(running, "kettle") == (["kettle"], True)


async def test_an_index_that_cannot_be_wiped_is_tried_again(
    running: Running, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    await store(running, "kettle")
    await recall(running, "kettle")
    before = index_files(running)
    really_renew, failures = reindex.renew_index, iter([True, True])

    def renew(path: Path | None) -> Any:
        if next(failures, False):
            raise IndexWriteFailed("no room")
        return really_renew(path)

    monkeypatch.setattr(reindex, "renew_index", renew)
    await running.engine.lifecycle_compact(COMPACT)
    assert not before & index_files(running)
    assert logged.events() == ["text index is behind"] * 2
    assert await recall(running, "kettle") == (["kettle"], True)


async def test_a_crash_of_the_index_wakes_who_waits_and_it_is_built_again(
    running: Running, held: HeldOffload
) -> None:
    await store(running, "kettle")
    held.hold("_next_piece")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asserts_crash, running)
        await held.until_held("_next_piece")
        failpoints.arm("actor.text_index.received")
        with pytest.raises(InternalError):
            await running.actor("text_index").ask(Renew())
        held.release("_next_piece")
    await running.until_indexed()
    assert await recall(running, "kettle") == (["kettle"], True)


async def asserts_crash(running: Running) -> None:
    with pytest.raises(InternalError):
        await running.engine.lifecycle_compact(COMPACT)
