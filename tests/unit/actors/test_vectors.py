"""The vector index: the answer of brute force, whether a length is kept in memory or scanned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory.actors import vectors
from cerememory.actors.actor import Actor, Ping
from cerememory.actors.followers import CommitsUntold, EffectsCommitted
from cerememory.actors.seams import Offload, inline
from cerememory.actors.vectors import Nearest, VectorIndexer
from cerememory.actors.working import Evicted, ToldAnew
from cerememory.protocol.records import Store
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.ledger import Effects, Mutation
from cerememory.storage.vectors import Near, Space, VectorChange
from tests.support.committing import a_record, an_id, commit, storing, updating
from tests.support.engine import NOW, WallClock, text_block
from tests.support.held import HeldOffload
from tests.support.memory_storage import MemoryStorage

MIB = 1 << 20
WORKING = list(Store).index(Store.WORKING)


@asynccontextmanager
async def running(
    storage: MemoryStorage, *, cache_bytes_max: int = 64 * MIB, offload: Offload = inline
) -> AsyncIterator[VectorIndexer]:
    """A vector index on its own; nobody reads what it asks of working memory."""
    world = WallClock().world(offload)
    indexer = VectorIndexer(storage, world, Actor("working"), cache_bytes_max=cache_bytes_max)
    await indexer.load()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(indexer.run)
        yield indexer
        indexer.close_mailbox()


def done(storage: MemoryStorage, mutation: Mutation[Any]) -> EffectsCommitted:
    """`mutation` is committed; the event that tells of it."""
    _, finished = commit(storage, mutation)
    assert finished is not None
    return EffectsCommitted(finished.head.commit_sequence, finished.effects)


def stored(storage: MemoryStorage, number: int, embedding: list[float], **given: Any) -> EffectsCommitted:
    return done(storage, storing(a_record(number, created_at=NOW + number, embedding=embedding, **given)))


def updated(storage: MemoryStorage, number: int, embedding: list[float] | None) -> EffectsCommitted:
    return done(storage, updating(number, content={"blocks": [text_block("x", embedding=embedding)]}))


async def nearest(
    indexer: VectorIndexer,
    *vector: float,
    limit: int = 100,
    codes: Any = None,
    namespace: int = DEFAULT_NAMESPACE,
) -> list[Near]:
    return await indexer.ask(Nearest(namespace, Space.CONTENT, vector, limit, codes))


def numbers(found: list[Near]) -> list[int]:
    return [int.from_bytes(near.record_id, "big") for near in found]


def filled(count: int, dimensions: int = 8) -> tuple[MemoryStorage, np.ndarray[Any, Any]]:
    storage = MemoryStorage()
    rows = np.random.default_rng(3).normal(size=(count, dimensions)).astype(np.float32)
    records = [
        a_record(i, created_at=NOW + i, embedding=[float(x) for x in row], store=list(Store)[i % 4])
        for i, row in enumerate(rows)
    ]
    commit(storage, storing(*records))
    return storage, rows


@pytest.mark.parametrize("cache_bytes_max", [64 * MIB, 1], ids=["kept", "scanned"])
@pytest.mark.parametrize("limit", [1, 10, 1_000])
async def test_the_nearest_are_those_of_brute_force(cache_bytes_max: int, limit: int) -> None:
    storage, rows = filled(300)
    query = np.random.default_rng(4).normal(size=8)
    cosines = rows.astype(np.float64) @ query / np.linalg.norm(rows.astype(np.float64), axis=1)
    cosines /= np.linalg.norm(query)
    expected = [int(i) for i in np.argsort(-cosines) if cosines[i] > 0][:limit]
    async with running(storage, cache_bytes_max=cache_bytes_max) as indexer:
        found = await nearest(indexer, *map(float, query), limit=limit)
    assert numbers(found) == expected
    assert [near.cosine for near in found] == pytest.approx([cosines[i] for i in expected], abs=2e-6)


async def test_a_length_that_is_scanned_answers_as_one_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, with equal vectors among them, for every store."""
    monkeypatch.setattr(vectors, "PIECE_ROWS", 7)
    storage, rows = filled(60)
    for number in range(100, 110):
        stored(storage, number, [float(x) for x in rows[0]])
    async with running(storage) as kept, running(storage, cache_bytes_max=1) as scanned:
        for codes in (None, frozenset({0}), frozenset({1, 3})):
            for limit in (1, 5, 12, 500):
                query = [float(x) for x in rows[0]]
                one = await nearest(kept, *query, limit=limit, codes=codes)
                other = await nearest(scanned, *query, limit=limit, codes=codes)
                assert numbers(one) == numbers(other)
                assert one == other


async def test_a_vector_is_compared_with_those_of_its_own_length_only() -> None:
    storage = MemoryStorage()
    stored(storage, 1, [1.0, 0.0])
    stored(storage, 2, [1.0, 0.0, 0.0])
    async with running(storage) as indexer:
        assert numbers(await nearest(indexer, 1.0, 0.0)) == [1]
        assert numbers(await nearest(indexer, 1.0, 0.0, 0.0)) == [2]
        assert numbers(await nearest(indexer, 1.0)) == []


async def test_emotions_are_a_space_of_their_own() -> None:
    storage = MemoryStorage()
    stored(storage, 1, [1.0] + [0.0] * 7)
    done(storage, storing(a_record(2, emotion={"joy": 1.0})))
    axes = (1.0,) + (0.0,) * 7
    async with running(storage) as indexer:
        assert numbers(await nearest(indexer, *axes)) == [1]
        assert numbers(await indexer.ask(Nearest(DEFAULT_NAMESPACE, Space.EMOTION, axes, 10, None))) == [2]


@pytest.mark.parametrize("cache_bytes_max", [64 * MIB, 1], ids=["kept", "scanned"])
async def test_it_follows_commits(cache_bytes_max: int) -> None:
    storage = MemoryStorage()
    stored(storage, 1, [1.0, 0.0])
    async with running(storage, cache_bytes_max=cache_bytes_max) as indexer:
        assert numbers(await nearest(indexer, 1.0, 0.0)) == [1]
        await indexer.post(stored(storage, 2, [0.9, 0.1]))
        assert numbers(await nearest(indexer, 1.0, 0.0)) == [1, 2]
        await indexer.post(updated(storage, 1, [0.0, 1.0]))
        assert numbers(await nearest(indexer, 1.0, 0.0)) == [2]
        assert numbers(await nearest(indexer, 0.0, 1.0)) == [1, 2]
        await indexer.post(updated(storage, 1, [1.0, 0.0, 0.0]))
        assert numbers(await nearest(indexer, 0.0, 1.0)) == [2]
        assert numbers(await nearest(indexer, 1.0, 0.0, 0.0)) == [1]
        await indexer.post(updated(storage, 2, None))
        assert numbers(await nearest(indexer, 1.0, 0.0)) == []


async def test_what_is_committed_while_a_length_is_read_is_not_missed() -> None:
    storage, held = MemoryStorage(), HeldOffload()
    stored(storage, 1, [1.0, 0.0])
    async with running(storage, offload=held) as indexer, trio.open_nursery() as nursery:
        held.hold("_load", after=True)
        nursery.start_soon(nearest, indexer, 1.0, 0.0)
        await held.until_held("_load")
        indexer.post_nowait(stored(storage, 2, [1.0, 0.0]))
        await wait_all_tasks_blocked()
        held.release("_load")
        assert numbers(await nearest(indexer, 1.0, 0.0)) == [2, 1]


async def test_all_lengths_together_stay_within_the_cache_the_least_recently_asked_goes_first() -> None:
    storage = MemoryStorage()
    for dimensions in (100, 101, 102):
        stored(storage, dimensions, [1.0] * dimensions)
    async with running(storage, cache_bytes_max=2 * 102 * 4) as indexer:
        for dimensions in (100, 101, 100, 102):
            assert numbers(await nearest(indexer, *[1.0] * dimensions)) == [dimensions]
        assert [length for _namespace, _space, length in indexer._tables] == [100, 102]
        assert numbers(await nearest(indexer, *[1.0] * 101)) == [101]


async def test_a_length_that_grows_past_the_cache_is_scanned_from_then_on() -> None:
    storage = MemoryStorage()
    stored(storage, 0, [1.0] * 64)
    async with running(storage, cache_bytes_max=20 * 64 * 4) as indexer:
        await nearest(indexer, *[1.0] * 64)
        for number in range(1, 60):
            await indexer.post(stored(storage, number, [1.0] * 64))
        await indexer.ask(Ping())
        assert indexer._size_bytes() <= 20 * 64 * 4
        assert numbers(await nearest(indexer, *[1.0] * 64, limit=60)) == list(range(59, -1, -1))
        assert indexer._size_bytes() <= 20 * 64 * 4


async def test_lengths_that_nothing_has_are_not_kept() -> None:
    storage = MemoryStorage()
    stored(storage, 1, [1.0])
    async with running(storage) as indexer:
        for dimensions in range(1, 50):
            await nearest(indexer, *[1.0] * dimensions)
        assert len(indexer._tables) == 1


def held_vector(number: int, *values: float, namespace: int = DEFAULT_NAMESPACE) -> VectorChange:
    return VectorChange(namespace, Space.CONTENT, an_id(number), WORKING, NOW, values)


@pytest.mark.parametrize("cache_bytes_max", [64 * MIB, 1], ids=["kept", "scanned"])
async def test_working_memory_is_found_beside_what_is_stored_until_it_is_evicted(cache_bytes_max: int) -> None:
    storage = MemoryStorage()
    stored(storage, 1, [1.0, 0.0])
    async with running(storage, cache_bytes_max=cache_bytes_max) as indexer:
        await indexer.post(EffectsCommitted(9, Effects(vectors=[held_vector(2, 0.9, 0.1)])))
        await indexer.post(ToldAnew((), (held_vector(3, 0.8, 0.2), held_vector(4, 1.0))))
        assert numbers(await nearest(indexer, 1.0, 0.0)) == [1, 2, 3]
        assert numbers(await nearest(indexer, 1.0, 0.0, codes=frozenset({WORKING}))) == [2, 3]
        assert numbers(await nearest(indexer, 1.0, 0.0, limit=2)) == [1, 2]
        await indexer.post(Evicted(DEFAULT_NAMESPACE, (an_id(2),)))
        assert numbers(await nearest(indexer, 1.0, 0.0)) == [1, 3]
        gone = VectorChange(DEFAULT_NAMESPACE, Space.CONTENT, an_id(3), WORKING, NOW, None)
        await indexer.post(EffectsCommitted(10, Effects(vectors=[gone])))
        assert numbers(await nearest(indexer, 1.0, 0.0)) == [1]


@pytest.mark.parametrize("cache_bytes_max", [64 * MIB, 1], ids=["kept", "scanned"])
@pytest.mark.parametrize("asked_first", [True, False], ids=["told", "read"])
async def test_vectors_are_compared_with_those_of_their_namespace(cache_bytes_max: int, asked_first: bool) -> None:
    """Stored and held ones; of those told after a first question, and of those that are read at it."""
    storage = MemoryStorage()
    async with running(storage, cache_bytes_max=cache_bytes_max) as indexer:
        if asked_first:
            stored(storage, 1, [1.0, 0.0])
            stored(storage, 1, [0.0, 1.0], namespace=7)
            await nearest(indexer, 1.0, 1.0)
            await nearest(indexer, 1.0, 1.0, namespace=7)
        for number, namespace in ((1, DEFAULT_NAMESPACE), (1, 7), (2, 7)):
            await indexer.post(stored(storage, number, [1.0, float(namespace)], namespace=namespace))
        await indexer.post(ToldAnew((), (held_vector(3, 1.0, 0.0), held_vector(3, 0.5, 0.5, namespace=7))))
        assert sorted(numbers(await nearest(indexer, 1.0, 0.0))) == [1, 3]
        assert sorted(numbers(await nearest(indexer, 1.0, 0.0, namespace=7))) == [1, 2, 3]
        assert await nearest(indexer, 1.0, 0.0, namespace=8) == []
        await indexer.post(Evicted(7, (an_id(3),)))
        await indexer.post(EffectsCommitted(9, Effects(deletions=[(8, an_id(1))])))
        assert sorted(numbers(await nearest(indexer, 1.0, 0.0))) == [1, 3]
        assert sorted(numbers(await nearest(indexer, 1.0, 0.0, namespace=7))) == [1, 2]


async def test_the_same_id_in_two_namespaces_has_two_vectors() -> None:
    storage = MemoryStorage()
    async with running(storage) as indexer:
        for namespace, embedding in ((DEFAULT_NAMESPACE, [1.0, 0.0]), (7, [0.6, 0.8])):
            await indexer.post(stored(storage, 1, embedding, namespace=namespace))
        [here], [there] = [await nearest(indexer, 1.0, 0.0, namespace=n) for n in (DEFAULT_NAMESPACE, 7)]
        assert here.cosine == 1.0
        assert there.cosine == pytest.approx(0.6)
        await indexer.post(EffectsCommitted(9, Effects(deletions=[(7, an_id(1))])))
        assert numbers(await nearest(indexer, 1.0, 0.0)) == [1]
        assert await nearest(indexer, 1.0, 0.0, namespace=7) == []


async def test_the_cache_is_shared_by_all_namespaces() -> None:
    storage = MemoryStorage()
    for namespace in (1, 2, 3):
        stored(storage, 1, [1.0] * 100, namespace=namespace)
    async with running(storage, cache_bytes_max=2 * 100 * 4) as indexer:
        for namespace in (1, 2, 1, 3):
            assert numbers(await nearest(indexer, *[1.0] * 100, namespace=namespace)) == [1]
        assert [kind.namespace for kind in indexer._tables] == [1, 3]


async def test_a_commit_that_nobody_told_of_is_read_from_storage() -> None:
    storage = MemoryStorage()
    stored(storage, 1, [1.0])
    async with running(storage) as indexer:
        await indexer.post(EffectsCommitted(9, Effects(vectors=[held_vector(3, 1.0)])))
        await nearest(indexer, 1.0)
        stored(storage, 2, [1.0])
        await indexer.post(CommitsUntold())
        assert sorted(numbers(await nearest(indexer, 1.0))) == [1, 2, 3]


@pytest.mark.parametrize(("values_a_hit", "limit"), [(0, 10), (2, 10), (1, 1)], ids=["read", "found", "wanted"])
async def test_a_large_product_and_many_hits_are_dealt_with_off_the_loop(
    monkeypatch: pytest.MonkeyPatch, values_a_hit: int, limit: int
) -> None:
    monkeypatch.setattr(vectors, "VALUES_A_HIT", values_a_hit)
    monkeypatch.setattr(vectors, "INLINE_VALUES_MAX", 5 + values_a_hit * min(limit, 3))
    names: list[str] = []

    async def noting(call: Any, limiter: Any = None) -> Any:
        names.append(getattr(getattr(call, "func", call), "__name__", ""))
        return await inline(call, limiter)

    storage = MemoryStorage()
    async with running(storage, offload=noting) as indexer:
        for number in range(3):
            await indexer.post(stored(storage, number, [1.0, 0.0]))
            await nearest(indexer, 1.0, 0.0, limit=limit)
            assert names.count("nearest") == (number == 2), "six values are more than five"


@pytest.mark.parametrize("limit", [0, 1])
async def test_a_limit_of_none_gives_none(limit: int, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    stored(storage, 1, [1.0])
    for cache_bytes_max in (64 * MIB, 1):
        async with running(storage, cache_bytes_max=cache_bytes_max) as indexer:
            assert len(await nearest(indexer, 1.0, limit=limit)) == limit
