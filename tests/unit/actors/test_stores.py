"""A durable store: it reads its memories, and shows what a recall did before it is on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cerememory.actors import stores
from cerememory.actors.actor import Request
from cerememory.actors.followers import StatesCommitted
from cerememory.actors.stores import DurableStore, Fetch, Fetched, Look, Scores, Touch
from cerememory.domain.curve import Rules
from cerememory.domain.fidelity import State
from cerememory.errors import StorageDamaged
from cerememory.protocol import codec
from cerememory.protocol.records import DURABLE_STORES, MemoryRecord, Store
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key, state_key
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import STORE_CODE, dump_state_row
from tests.support.committing import a_record, an_id, commit, stored_state, storing
from tests.support.engine import NOW, WallClock
from tests.support.memory_storage import MemoryStorage

LATER = NOW + 1_000


@pytest.fixture
def storage() -> Iterator[MemoryStorage]:
    filled = MemoryStorage()
    edge = {"target_id": str(an_id(2)), "association_type": "causal", "weight": 1}
    for record in (a_record(1, "one", associations=[edge]), a_record(2, "two"), a_record(3, "three")):
        commit(filled, storing(record))
    yield filled


def a_store(storage: MemoryStorage, store: Store = Store.EPISODIC) -> DurableStore:
    """One for which time stands still."""
    return DurableStore(store, storage, WallClock(step_ns=0).world(), Curves(Rules()), Frames(1_000_000))


@asynccontextmanager
async def running(storage: MemoryStorage, store: Store = Store.EPISODIC) -> AsyncIterator[DurableStore]:
    actor = a_store(storage, store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.run)
        yield actor
        actor.close_mailbox()


def numbers(fetched: Fetched) -> list[int]:
    return [int.from_bytes(memory.record_id, "big") for memory in fetched.memories]


def save(storage: MemoryStorage, saved: SavedState, state: State | None = None) -> None:
    """Put `state`, or the one of `saved`, on disk."""
    row_key = state_key(saved.namespace, saved.created_at, saved.record_id)
    storage.commit({row_key: dump_state_row(saved.store_code, state or saved.state)})


async def test_memories_come_in_the_order_asked_and_missing_ones_are_left_out(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        fetched = await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(3), an_id(9), an_id(1))))
    assert numbers(fetched) == [3, 1]
    assert fetched.saved == ()


async def test_a_memory_is_joined_from_its_rows(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        [memory] = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))).memories
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
        first = await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))
        second = await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))
    assert first == second
    assert first.memories[0].state.access_count == 0


@pytest.mark.parametrize("name", DURABLE_STORES)
async def test_a_touch_is_seen_by_the_next_reader_before_it_is_on_disk(
    storage: MemoryStorage, name: Store
) -> None:
    for number in (1, 2):
        commit(storage, storing(a_record(number, store=name)))
    async with running(storage, name) as store:
        touched = await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1), an_id(2)), LATER))
        seen = await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))
    assert touched.memories[0].state == seen.memories[0].state
    assert (seen.memories[0].state.access_count, seen.memories[0].state.last_accessed_at) == (1, LATER)
    assert [saved.record_id for saved in touched.saved] == [an_id(1), an_id(2)]
    assert {saved.store_code for saved in touched.saved} == {STORE_CODE[name]}
    assert [saved.state for saved in touched.saved] == [memory.state for memory in touched.memories]
    assert stored_state(storage.rows(), an_id(1)).access_count == 0


async def test_the_same_id_in_another_namespace_is_another_memory(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1, "there", namespace=7)))
    async with running(storage) as store:
        [saved] = (await store.ask(Fetch(7, (an_id(1), an_id(2)), LATER))).saved
        [here] = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))).memories
        [there] = (await store.ask(Fetch(7, (an_id(1), an_id(2))))).memories
        assert (here.state.access_count, there.state.access_count) == (0, 1)
        assert b'"data":[116,104,101,114,101]' in there.json()
        assert saved.namespace == 7
        touched = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),), LATER))).saved
        await store.post(StatesCommitted((saved,)))
        [here] = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))).memories
        assert here.state == touched[0].state, "what was saved was that of the other one"
        assert (await store.ask(Fetch(8, (an_id(1),)))).memories == ()


async def test_touches_add_up_while_nothing_is_saved(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        for i in range(5):
            fetched = await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),), LATER + i))
    assert fetched.memories[0].state.access_count == 5


async def test_a_saved_state_is_read_from_disk_again(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        [saved] = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),), LATER))).saved
        save(storage, saved)
        await store.post(StatesCommitted((saved,)))
        save(storage, saved, a_record(1).state)
        [memory] = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))).memories
    assert memory.state.access_count == 0, "what the store kept is forgotten: the disk says it all"


async def test_a_state_that_was_touched_again_meanwhile_stays(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        [first] = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),), LATER))).saved
        await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),), LATER + 1))
        save(storage, first)
        await store.post(StatesCommitted((first,)))
        [memory] = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))).memories
    assert memory.state.access_count == 2


async def test_a_store_that_was_loaded_anew_reads_from_disk(storage: MemoryStorage) -> None:
    store = a_store(storage)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),), LATER))
        await store.load()
        [memory] = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))).memories
        store.close_mailbox()
    assert memory.state.access_count == 0


async def test_what_is_kept_unsaved_is_bounded_and_the_longest_untouched_goes_first(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "TOUCHED_MAX", 2)
    async with running(storage) as store:
        for number in (1, 2, 1, 3):
            await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(number),), LATER))
        fetched = await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1), an_id(2), an_id(3))))
    assert [memory.state.access_count for memory in fetched.memories] == [2, 0, 1]


async def test_scores_are_those_of_what_is_there(storage: MemoryStorage) -> None:
    async with running(storage) as store:
        records = tuple((an_id(number), NOW) for number in (2, 9, 1))
        scores = await store.ask(Scores(DEFAULT_NAMESPACE, records, NOW))
    assert scores == {an_id(1): 1.0, an_id(2): 1.0}


@pytest.mark.parametrize(
    "question",
    [
        Scores(DEFAULT_NAMESPACE, ((an_id(1), NOW),), NOW),
        Look(DEFAULT_NAMESPACE, (an_id(1),), LATER),
        Fetch(DEFAULT_NAMESPACE, (an_id(1),)),
    ],
    ids=lambda question: type(question).__name__,
)
async def test_a_read_is_answered_at_once_while_nothing_waits(
    storage: MemoryStorage, question: Request[Any]
) -> None:
    async with running(storage) as store:
        assert store.answer_nowait(question) is None, "it hasn't begun to wait yet"
        await wait_all_tasks_blocked()
        assert store.answer_nowait(question) == await store.ask(question)
        store.post_nowait(StatesCommitted(()))
        assert store.answer_nowait(question) is None


async def test_what_another_recall_has_touched_since_it_was_seen_is_touched_once_more(
    storage: MemoryStorage,
) -> None:
    async with running(storage) as store:
        look = Look(DEFAULT_NAMESPACE, (an_id(1),), LATER)
        mine, others = await store.ask(look), await store.ask(look)
        [first] = (await store.ask(Touch(DEFAULT_NAMESPACE, tuple(others), LATER))).saved
        [second] = (await store.ask(Touch(DEFAULT_NAMESPACE, tuple(mine), LATER))).saved
        [memory] = (await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))).memories
    assert second.before == first.state
    assert memory.state.access_count == 2


async def test_a_row_that_cannot_be_read_is_an_answer_and_harms_no_other(storage: MemoryStorage) -> None:
    storage.commit({key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(1)): b"damaged"})
    async with running(storage) as store:
        with pytest.raises(StorageDamaged):
            await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(1),)))
        assert numbers(await store.ask(Fetch(DEFAULT_NAMESPACE, (an_id(2),)))) == [2]
