"""Working memory: seven records, the least recently accessed leaves, with its place in the indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cerememory import failpoints
from cerememory.actors.searches import Search
from cerememory.actors.vectors import Nearest
from cerememory.actors.working import WORKING_CAPACITY, CountHeld, Held
from cerememory.errors import (
    InternalError,
    PreconditionFailed,
    RecordNotFound,
    StorageUnavailable,
    ValidationFailed,
)
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord
from cerememory.protocol.requests import EncodeBatch, EncodeUpdate
from cerememory.protocol.values import RecordId
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.vectors import Space
from tests.support.engine import (
    Running,
    running_engine,
    store_body,
    text_block,
    to_introspect,
    to_recall,
    to_store,
)
from tests.support.memory_storage import MemoryStorage

Ids = list[RecordId]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_engine(tmp_path) as opened:
        yield opened


async def hold(running: Running, *texts: str, namespace: int = DEFAULT_NAMESPACE, **given: Any) -> Ids:
    requests = [to_store(text, store="working", **given) for text in texts]
    stored = [await running.engine.encode_store(request, namespace=namespace) for request in requests]
    return [each.reply.record_id for each in stored]


async def read(running: Running, record_id: RecordId) -> MemoryRecord:
    return codec.parse(bytes(await running.engine.introspect_record(to_introspect(record_id))), MemoryRecord)


async def held(running: Running, ids: Ids, namespace: int = DEFAULT_NAMESPACE) -> list[int]:
    """Which of `ids` are still there, by their place; asking so is no access."""
    memories = await running.actor("working").ask(Held(namespace))
    return sorted(ids.index(memory.record_id) for memory in memories)


async def found_by_word(running: Running, text: str, namespace: int = DEFAULT_NAMESPACE) -> set[RecordId]:
    """What the index itself finds, also if there is no such record any more."""
    searched = await running.actor("text_index").ask(Search(namespace, text, None, 100))
    return {hit.record_id for hit in searched.hits}


async def found_by_vector(
    running: Running, vector: list[float], namespace: int = DEFAULT_NAMESPACE
) -> set[RecordId]:
    found = await running.actor("vector_index").ask(Nearest(namespace, Space.CONTENT, tuple(vector), 100, None))
    return {near.record_id for near in found}


async def test_it_holds_seven_and_the_eighth_takes_the_place_of_the_oldest(running: Running) -> None:
    assert WORKING_CAPACITY == 7
    ids = await hold(running, *"abcdefg")
    assert await held(running, ids) == list(range(7))
    ids += await hold(running, "h")
    assert await held(running, ids) == list(range(1, 8))
    with pytest.raises(RecordNotFound):
        await running.engine.introspect_record(to_introspect(ids[0]))


async def test_a_read_counts_as_an_access(running: Running) -> None:
    ids = await hold(running, *"abcdefg")
    await running.engine.introspect_record(to_introspect(ids[0]))
    ids += await hold(running, "h", "i")
    assert 0 in await held(running, ids)
    assert {1, 2}.isdisjoint(await held(running, ids))


async def test_a_recall_counts_as_an_access(running: Running) -> None:
    ids = await hold(running, "kettle", *"bcdefg")
    await running.engine.recall_query(to_recall("kettle"))
    ids += await hold(running, "h")
    assert await held(running, ids) == [0, *range(2, 8)]


async def test_an_update_counts_as_an_access(running: Running) -> None:
    ids = await hold(running, *"abcdefg")
    await running.engine.encode_update(ids[0], codec.parse(b'{"metadata":{"n":1}}', EncodeUpdate))
    ids += await hold(running, "h")
    assert await held(running, ids) == [0, *range(2, 8)]


async def test_a_batch_of_more_than_seven_leaves_its_last_seven(running: Running) -> None:
    body = {"records": [store_body(str(i), store="working") for i in range(10)]}
    stored = await running.engine.encode_batch(codec.parse(codec.dump(body), EncodeBatch))
    ids = [each.record_id for each in stored.reply.results]
    assert await held(running, ids) == list(range(3, 10))


async def test_each_namespace_holds_seven_of_its_own(running: Running) -> None:
    here = await hold(running, *"abcdefg")
    there = await hold(running, *"hijklmn", namespace=7)
    assert await held(running, here) == await held(running, there, 7) == list(range(7))
    there += await hold(running, "o", namespace=7)
    assert await held(running, there, 7) == list(range(1, 8))
    assert await held(running, here) == list(range(7)), "nobody made room for a record of another namespace"
    assert await running.actor("working").ask(CountHeld()) == 14


async def test_a_record_of_another_namespace_is_neither_read_nor_changed(running: Running) -> None:
    [record_id] = await hold(running, "kettle", namespace=7)
    edit = codec.parse(b'{"metadata":{"n":1}}', EncodeUpdate)
    for namespace in (DEFAULT_NAMESPACE, 8):
        with pytest.raises(RecordNotFound):
            await running.engine.introspect_record(to_introspect(record_id), namespace=namespace)
        with pytest.raises(RecordNotFound):
            await running.engine.encode_update(record_id, edit, namespace=namespace)
    await running.engine.encode_update(record_id, edit, namespace=7)
    record = codec.parse(
        bytes(await running.engine.introspect_record(to_introspect(record_id), namespace=7)), MemoryRecord
    )
    assert record.version == 2
    assert await held(running, [record_id]) == []


async def test_an_evicted_record_leaves_the_indexes_of_its_namespace_alone(running: Running) -> None:
    here = await hold(running, "kettle", embedding=[1.0])
    there = await hold(running, *["kettle"] * 8, embedding=[1.0], namespace=7)
    assert await found_by_word(running, "kettle") == await found_by_vector(running, [1.0]) == set(here)
    assert await found_by_word(running, "kettle", 7) == await found_by_vector(running, [1.0], 7) == set(there[1:])


async def test_a_record_is_found_by_word_and_by_vector_and_its_evicted_neighbour_is_not(running: Running) -> None:
    first = await hold(running, "kettle one", embedding=[1.0, 0.0])
    assert await found_by_word(running, "kettle") == set(first)
    assert await found_by_vector(running, [1.0, 0.0]) == set(first)
    later = await hold(running, *(f"kettle {i}" for i in range(7)), embedding=[0.9, 0.1])
    assert await found_by_word(running, "kettle") == set(later)
    assert await found_by_word(running, "one") == set()
    assert await found_by_vector(running, [1.0, 0.0]) == set(later)


async def test_an_update_replaces_what_is_given_and_its_words_and_vector(running: Running) -> None:
    [record_id] = await hold(running, "kettle", embedding=[1.0, 0.0], metadata={"a": 1})
    before = await read(running, record_id)
    body = {"content": {"blocks": [text_block("teapot", embedding=[0.0, 1.0, 0.0])]}}
    await running.engine.encode_update(record_id, codec.parse(codec.dump(body), EncodeUpdate))
    after = await read(running, record_id)
    assert after.content.blocks[0].data == b"teapot"
    assert (after.version, bytes(after.metadata), after.created_at) == (2, b'{"a":1}', before.created_at)
    assert after.updated_at is not None
    assert before.updated_at is not None
    assert after.updated_at > before.updated_at
    assert await found_by_word(running, "kettle") == set()
    assert await found_by_word(running, "teapot") == {record_id}
    assert await found_by_vector(running, [1.0, 0.0]) == set()
    assert await found_by_vector(running, [0.0, 1.0, 0.0]) == {record_id}


async def test_if_match_is_honoured(running: Running) -> None:
    [record_id] = await hold(running, "kettle")
    edit = codec.parse(b'{"metadata":{"n":1}}', EncodeUpdate)
    await running.engine.encode_update(record_id, edit, 1)
    with pytest.raises(PreconditionFailed) as refused:
        await running.engine.encode_update(record_id, edit, 1)
    assert refused.value.details == {"current_version": 2}
    assert (await read(running, record_id)).version == 2


async def test_a_refused_record_evicts_nobody(running: Running) -> None:
    ids = await hold(running, *"abcdefg")
    with pytest.raises(ValidationFailed):
        await hold(running, "h", embedding=[])
    assert await held(running, ids) == list(range(7))


async def test_a_commit_that_fails_evicts_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        ids = await hold(running, *"abcdefg")
        storage.break_disk()
        with pytest.raises(StorageUnavailable):
            await hold(running, "h")
        storage.mend_disk()
        await trio.sleep(2)
        assert await held(running, ids) == list(range(7))


async def test_each_record_leaves_an_audit_entry_and_nothing_else_on_disk(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await hold(running, "a very private thought")
        stats = await running.engine.introspect_stats()
        assert (stats.total_records, stats.vector_index_records) == (1, 0)
    assert len(running.audit_lines) == 1
    assert not [row for row in storage.rows() if row.startswith(b"\0\0\0\0")]
    assert b"private" not in b"".join(storage.rows().values())


async def test_it_is_lost_at_a_restart_and_so_are_its_index_entries(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        [record_id] = await hold(running, "kettle")
    async with running_engine(tmp_path, storage=storage) as running:
        assert await held(running, [record_id]) == []
        assert await found_by_word(running, "kettle") == set()


async def test_after_a_crash_it_is_empty_and_the_indexes_know_it(
    running: Running, autojump_clock: MockClock
) -> None:
    ids = await hold(running, "kettle", embedding=[1.0])
    failpoints.arm("actor.working.received")
    with pytest.raises(InternalError):
        await running.engine.introspect_stats()
    await trio.sleep(1)
    assert await held(running, ids) == []
    assert await found_by_word(running, "kettle") == set()
    assert await found_by_vector(running, [1.0]) == set()
    assert len(await hold(running, "again")) == 1


@pytest.mark.parametrize("index", ["text_index", "vector_index"])
async def test_an_index_that_starts_again_is_told_what_is_held(
    running: Running, autojump_clock: MockClock, index: str
) -> None:
    [record_id] = await hold(running, "kettle", embedding=[1.0])
    failpoints.arm(f"actor.{index}.received")
    assert await running.engine.not_ready() == "engine check failed"
    await trio.sleep(1)
    assert running.counted("cerememory_actor_restarts_total", actor=index) == 1
    assert await found_by_word(running, "kettle") == {record_id}
    assert await found_by_vector(running, [1.0]) == {record_id}
    await hold(running, *"abcdefg")
    assert await found_by_vector(running, [1.0]) == set()
