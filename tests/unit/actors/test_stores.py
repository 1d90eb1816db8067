"""A durable store: it reads its memories, and shows what a recall did before it is on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from cerememory.actors import stores
from cerememory.actors.stores import DurableStore, Fetch, Fetched, Scores
from cerememory.actors.writer import StatesCommitted
from cerememory.errors import StorageDamaged
from cerememory.protocol import codec
from cerememory.protocol.records import DURABLE_STORES, MemoryRecord, Store
from cerememory.storage.keys import Table, key
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import STORE_CODE, dump_state, parse_state
from tests.support.committing import a_record, an_id, commit, storing
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage

LATER = NOW + 1_000


@pytest.fixture
def storage() -> Iterator[MemoryStorage]:
    filled = MemoryStorage()
    edge = {"target_id": str(an_id(2)), "association_type": "causal", "weight": 1}
    for record in (a_record(1, "one", associations=[edge]), a_record(2, "two"), a_record(3, "three")):
        commit(filled, storing(record))
    yield filled


@asynccontextmanager
async def running(storage: MemoryStorage, store: Store = Store.EPISODIC) -> AsyncIterator[DurableStore]:
    actor = DurableStore(store, storage)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.run)
        yield actor
        actor.close_mailbox()


def numbers(fetched: Fetched) -> list[int]:
    return [int.from_bytes(memory.record_id, "big") for memory in fetched.memories]


def save(storage: MemoryStorage, saved: SavedState) -> None:
    storage.commit({key(Table.STATE, saved.record_id): dump_state(saved.state)})


async def test_memories_come_in_the_order_asked_and_missing_ones_are_left_out(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        fetched = await store.ask(Fetch((an_id(3), an_id(9), an_id(1))))
    assert numbers(fetched) == [3, 1]
    assert fetched.saved == ()


async def test_a_memory_is_joined_from_its_rows(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        [memory] = (await store.ask(Fetch((an_id(1),)))).memories
    record = codec.parse(memory.json(), MemoryRecord)
    assert record.id == an_id(1)
    assert record.content.blocks[0].data == b"one"
    assert (
        [edge.target_id for edge in record.associations]
        == [an_id(2)]
        == [edge.target_id for edge in memory.associations()]
    )


async def test_a_read_without_a_touch_changes_nothing(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        first = await store.ask(Fetch((an_id(1),)))
        second = await store.ask(Fetch((an_id(1),)))
    assert first == second
    assert first.memories[0].state.access_count == 0


@pytest.mark.parametrize("name", DURABLE_STORES)
async def test_a_touch_is_seen_by_the_next_reader_before_it_is_on_disk(
    storage: MemoryStorage, name: Store
) -> None:
    async with running(storage, name) as store:
        touched = await store.ask(Fetch((an_id(1), an_id(2)), LATER))
        seen = await store.ask(Fetch((an_id(1),)))
    assert touched.memories[0].state == seen.memories[0].state
    assert (seen.memories[0].state.access_count, seen.memories[0].state.last_accessed_at) == (1, LATER)
    assert [saved.record_id for saved in touched.saved] == [an_id(1), an_id(2)]
    assert {saved.store_code for saved in touched.saved} == {STORE_CODE[name]}
    assert [saved.state for saved in touched.saved] == [memory.state for memory in touched.memories]
    on_disk = parse_state(storage.rows()[key(Table.STATE, an_id(1))])
    assert on_disk.access_count == 0


async def test_touches_add_up_while_nothing_is_saved(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        for i in range(5):
            fetched = await store.ask(Fetch((an_id(1),), LATER + i))
    assert fetched.memories[0].state.access_count == 5


async def test_a_saved_state_is_read_from_disk_again(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        [saved] = (await store.ask(Fetch((an_id(1),), LATER))).saved
        save(storage, saved)
        await store.post(StatesCommitted((saved,)))
        save(storage, SavedState(an_id(1), 0, saved.state, 0.0))
        storage.commit({key(Table.STATE, an_id(1)): dump_state(a_record(1).state)})
        [memory] = (await store.ask(Fetch((an_id(1),)))).memories
    assert memory.state.access_count == 0, "what the store kept is forgotten: the disk says it all"


async def test_a_state_that_was_touched_again_meanwhile_stays(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        [first] = (await store.ask(Fetch((an_id(1),), LATER))).saved
        await store.ask(Fetch((an_id(1),), LATER + 1))
        save(storage, first)
        await store.post(StatesCommitted((first,)))
        [memory] = (await store.ask(Fetch((an_id(1),)))).memories
    assert memory.state.access_count == 2


async def test_a_store_that_was_loaded_anew_reads_from_disk(storage: MemoryStorage) -> None:
    store = DurableStore(Store.EPISODIC, storage)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await store.ask(Fetch((an_id(1),), LATER))
        await store.load()
        [memory] = (await store.ask(Fetch((an_id(1),)))).memories
        store.close_mailbox()
    assert memory.state.access_count == 0


async def test_what_is_kept_unsaved_is_bounded_and_the_longest_untouched_goes_first(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "TOUCHED_MAX", 2)
    async with running(storage) as store:
        for number in (1, 2, 1, 3):
            await store.ask(Fetch((an_id(number),), LATER))
        fetched = await store.ask(Fetch((an_id(1), an_id(2), an_id(3))))
    assert [memory.state.access_count for memory in fetched.memories] == [2, 0, 1]


async def test_scores_are_those_of_what_is_there(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        assert await store.ask(Scores((an_id(2), an_id(9), an_id(1)))) == {an_id(1): 1.0, an_id(2): 1.0}


async def test_a_row_that_cannot_be_read_is_an_answer_and_harms_no_other(storage: MemoryStorage) -> None:
    storage.commit({key(Table.CONTENT, an_id(1)): b"damaged"})
    async with running(storage) as store:
        with pytest.raises(StorageDamaged):
            await store.ask(Fetch((an_id(1),)))
        assert numbers(await store.ask(Fetch((an_id(2),)))) == [2]
