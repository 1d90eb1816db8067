"""The graph actor: edges as they are committed, kept in memory up to a bound, and let go when they change."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import trio

from cerememory.actors import graph
from cerememory.actors.followers import CommitsUntold, EdgesCommitted
from cerememory.actors.graph import Activate, Activated, Explore, Explored, Graph, has_edges
from cerememory.actors.stores import Memory
from cerememory.domain.activation import Spread
from cerememory.domain.capture import associations_of
from cerememory.errors import StorageDamaged
from cerememory.protocol.records import Association, AssociationType, Store
from cerememory.protocol.requests import AssociationInput
from cerememory.protocol.values import RecordId
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key
from cerememory.storage.ledger import Ledger, Mutation
from cerememory.storage.removal import remove_memory
from cerememory.storage.rows import STORE_CODE, dump_edges, parse_edges
from tests.support.committing import a_record, an_id, commit, storing
from tests.support.engine import NOW, WallClock
from tests.support.memory_storage import MemoryStorage

OTHER = 3
SEMANTIC, CAUSAL = AssociationType.SEMANTIC, AssociationType.CAUSAL


@dataclass
class Counted:
    """An offload that runs inline and counts."""

    calls: int = 0

    async def __call__(self, call: Callable[[], Any], limiter: trio.CapacityLimiter | None = None) -> Any:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        return call()


@asynccontextmanager
async def running(storage: MemoryStorage, **given: Any) -> AsyncIterator[Graph]:
    actor = Graph(storage, WallClock().world(given.pop("offload", Counted())), **given)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.run)
        yield actor
        actor.close_mailbox()


def edges(*targets: int, weight: float = 1.0, kind: AssociationType = SEMANTIC) -> tuple[Association, ...]:
    inputs = [AssociationInput(target_id=an_id(t), association_type=kind, weight=weight) for t in targets]
    return associations_of(tuple(inputs), NOW)


def linked(*targets: int, weight: float = 1.0, kind: str = "semantic") -> list[dict[str, Any]]:
    return [{"target_id": str(an_id(t)), "association_type": kind, "weight": weight} for t in targets]


def filled(*chains: tuple[int, ...], **given: Any) -> MemoryStorage:
    """Memories by number, each with edges to those that follow it in one of the `chains`."""
    targets: dict[int, list[int]] = {number: [] for chain in chains for number in chain}
    for chain in chains:
        for source, target in pairwise(chain):
            targets[source].append(target)
    storage = MemoryStorage()
    for number, found in targets.items():
        record = a_record(number, created_at=NOW + number, associations=linked(*found), **given)
        commit(storage, storing(record))
    return storage


def relink(storage: MemoryStorage, number: int, *targets: int) -> None:
    """As if other edges had always been on disk: no follower is told."""
    storage.commit({key(DEFAULT_NAMESPACE, Table.EDGES, an_id(number)): dump_edges(edges(*targets))})


async def activate(actor: Graph, source: int = 1, depth: int = 8, **given: Any) -> Activated:
    namespace = given.pop("namespace", DEFAULT_NAMESPACE)
    return await actor.ask(Activate(namespace, an_id(source), depth, given.pop("held", ()), **given))


async def explore(actor: Graph, center: int | None = 1, **given: Any) -> Explored:
    chosen: dict[str, Any] = {"depth": 8, "limit_nodes": 10, "held": ()} | given
    return await actor.ask(Explore(DEFAULT_NAMESPACE, None if center is None else an_id(center), **chosen))


def number(record_id: RecordId) -> int:
    return int.from_bytes(record_id, "big")


def levels(activated: Activated) -> dict[int, float]:
    return {number(reached.record_id): reached.activation.level for reached in activated.memories}


def nodes(explored: Explored) -> list[int]:
    return [number(record_id) for record_id, _store_code in explored.nodes]


async def test_activation_follows_the_edges_on_disk() -> None:
    async with running(filled((1, 2, 3), (1, 4), store="procedural")) as actor:
        activated = await activate(actor)
    assert levels(activated) == {2: 0.5, 4: 0.5, 3: 0.25}
    assert activated.has_source
    far = next(reached for reached in activated.memories if number(reached.record_id) == 3)
    assert (far.store_code, far.created_at) == (STORE_CODE[Store.PROCEDURAL], NOW + 3)
    assert far.activation.path == (an_id(1), an_id(2), an_id(3))


async def test_depth_weight_and_types_limit_it() -> None:
    storage = MemoryStorage()
    associations = [*linked(2, weight=0.9), *linked(3, weight=0.2), *linked(4, kind="causal")]
    commit(storage, storing(a_record(1, associations=associations)))
    for i in (2, 3, 4):
        commit(storage, storing(a_record(i, associations=linked(10 + i))))
        commit(storage, storing(a_record(10 + i)))
    async with running(storage) as actor:
        assert set(levels(await activate(actor, depth=1))) == {2, 3, 4}
        assert set(levels(await activate(actor, depth=1, min_weight=0.5))) == {2, 4}
        assert set(levels(await activate(actor, types=frozenset({CAUSAL})))) == {4}


async def test_a_source_that_is_not_there_is_told_from_one_that_leads_nowhere() -> None:
    async with running(filled((1,))) as actor:
        assert await activate(actor, 1) == Activated(True, ())
        assert await activate(actor, 9) == Activated(False, ())


async def test_a_target_that_is_not_there_is_not_activated() -> None:
    relink(storage := filled((1, 2)), 1, 9, 2)
    async with running(storage) as actor:
        assert set(levels(await activate(actor))) == {2}


async def test_namespaces_are_apart() -> None:
    storage = filled((1, 2))
    commit(storage, storing(a_record(1, namespace=OTHER, associations=linked(3))))
    commit(storage, storing(a_record(3, namespace=OTHER)))
    async with running(storage) as actor:
        assert set(levels(await activate(actor))) == {2}
        assert set(levels(await activate(actor, namespace=OTHER))) == {3}
        await actor.post(EdgesCommitted(((OTHER, an_id(1)),)))
        relink(storage, 1, 1)
        assert set(levels(await activate(actor))) == {2}, "only what is told of is read anew"


def held(number_: int, *targets: int) -> Memory:
    record = a_record(number_, store="working", associations=linked(*targets))
    return Memory(record.record_id, record.row, record.state, dump_edges(record.associations))


async def test_what_working_memory_holds_is_followed_too_and_not_kept() -> None:
    relink(storage := filled((1, 2, 3)), 1, 7)
    async with running(storage) as actor:
        assert levels(await activate(actor, held=(held(7, 2),))) == {7: 0.5, 2: 0.25, 3: 0.125}
        assert levels(await activate(actor, 7, held=(held(7, 3),))) == {3: 0.5}
        assert levels(await activate(actor)) == {}, "it is gone from working memory"


async def test_edges_that_were_asked_for_are_read_once() -> None:
    storage = filled((1, 2))
    async with running(storage) as actor:
        await activate(actor)
        relink(storage, 1, 1)
        assert set(levels(await activate(actor))) == {2}


@pytest.mark.parametrize("event", [EdgesCommitted(((DEFAULT_NAMESPACE, an_id(1)),)), CommitsUntold()])
async def test_edges_that_have_changed_are_read_anew(event: object) -> None:
    storage = filled((1, 2), (3,))
    async with running(storage) as actor:
        await activate(actor)
        relink(storage, 1, 3)
        await actor.post(event)
        assert set(levels(await activate(actor))) == {3}


async def test_a_reloaded_graph_has_kept_nothing() -> None:
    storage = filled((1, 2), (3,))
    async with running(storage) as actor:
        await activate(actor)
        relink(storage, 1, 3)
        await actor.load()
        assert set(levels(await activate(actor))) == {3}


async def test_what_was_asked_for_longest_ago_is_let_go_first() -> None:
    storage = filled((1, 2), (3, 4), (5, 6))
    async with running(storage, edges_kept_max=6) as actor:  # two memories with one edge each, and their targets
        await activate(actor, 1)
        await activate(actor, 3)
        await activate(actor, 1)
        await activate(actor, 5)
        relink(storage, 1, 6)
        relink(storage, 3, 6)
        assert set(levels(await activate(actor, 1))) == {2}, "kept"
        assert set(levels(await activate(actor, 3))) == {6}, "read anew"


async def test_a_memory_with_more_edges_than_may_be_kept_is_followed_all_the_same() -> None:
    async with running(filled(*((1, i) for i in range(2, 40))), edges_kept_max=10) as actor:
        assert len((await activate(actor)).memories) == 38


async def test_of_very_many_edges_of_one_memory_the_first_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "EDGES_FOLLOWED_MAX", 3)
    async with running(filled(*((1, i) for i in range(2, 8)))) as actor:
        assert set(levels(await activate(actor))) == {2, 3, 4}


async def test_a_wide_level_is_read_off_the_loop_and_a_narrow_one_is_not() -> None:
    offload = Counted()
    async with running(filled(*((1, i) for i in range(2, 67)), (1, 2)), offload=offload) as actor:
        await activate(actor, 2)
        assert offload.calls == 0
        await activate(actor)
        assert offload.calls == 1


async def test_a_row_that_cannot_be_read_is_an_answer_and_harms_no_other() -> None:
    storage = filled((1, 2), (3, 4))
    storage.commit({key(DEFAULT_NAMESPACE, Table.EDGES, an_id(1)): b"damaged"})
    async with running(storage) as actor:
        with pytest.raises(StorageDamaged):
            await activate(actor)
        assert set(levels(await activate(actor, 3))) == {4}


async def test_a_graph_around_a_memory() -> None:
    async with running(filled((1, 2, 3), (4, 1))) as actor:
        explored = await explore(actor, depth=1)
    assert nodes(explored) == [1, 2]
    assert [(link.source, link.association.target_id) for link in explored.links] == [(an_id(1), an_id(2))]


async def test_a_graph_without_a_center_starts_from_the_memories_made_first() -> None:
    async with running(filled((5, 9), (2,), (7, 2))) as actor:
        assert nodes(await explore(actor, None, limit_nodes=3)) == [2, 5, 7]
        assert nodes(await explore(actor, None, depth=0)) == [2, 5, 7, 9]


async def test_a_graph_around_nothing_is_empty() -> None:
    async with running(filled((1, 2))) as actor:
        assert await explore(actor, 9) == Explored((), ())
        assert nodes(await explore(actor, limit_nodes=0)) == []


async def test_whether_any_edge_leaves_a_memory() -> None:
    storage = filled((1, 2))
    assert [has_edges(storage, DEFAULT_NAMESPACE, an_id(i)) for i in (1, 2, 3)] == [True, False, False]
    assert not has_edges(storage, OTHER, an_id(1))


@dataclass(frozen=True, slots=True)
class Relink:
    """Gives a stored memory other edges, as consolidating and importing do."""

    source: int
    targets: tuple[int, ...]
    namespace: int = DEFAULT_NAMESPACE

    def apply(self, ledger: Ledger) -> None:
        row_key = ledger.key(Table.EDGES, an_id(self.source))
        if self.targets:
            ledger.put(row_key, dump_edges(edges(*self.targets)))
        else:
            ledger.delete(row_key)


@dataclass(frozen=True, slots=True)
class Remove:
    number: int
    namespace: int = DEFAULT_NAMESPACE

    def apply(self, ledger: Ledger) -> None:
        remove_memory(ledger, an_id(self.number), NOW)


def from_disk(storage: MemoryStorage, source: int) -> dict[int, float]:
    """What `Spread` finds in the rows themselves."""
    rows, spread = storage.rows(), Spread(an_id(source), 8)
    while frontier := spread.frontier:
        there = [i for i in frontier if key(DEFAULT_NAMESPACE, Table.CONTENT, i) in rows]
        spread.advance({i: parse_edges(rows.get(key(DEFAULT_NAMESPACE, Table.EDGES, i))) for i in there})
    return {number(record_id): found.level for record_id, found in spread.activated().items()}


@pytest.mark.parametrize("seed", range(8))
async def test_after_any_commits_that_it_is_told_of_it_answers_what_is_on_disk(seed: int) -> None:
    chance = random.Random(seed)
    storage = filled(tuple(range(1, 11)))
    async with running(storage, edges_kept_max=12) as actor:
        for _ in range(60):
            picked = chance.sample(range(1, 11), 3)
            change: Mutation[None] = (
                Remove(picked[0]) if chance.random() < 0.2 else Relink(picked[0], tuple(picked[1:]))
            )
            _answers, finished = commit(storage, change)
            if finished is not None:
                effects = finished.effects
                await actor.post(EdgesCommitted((*effects.relinked, *effects.deletions)))
            source = chance.randint(1, 10)
            assert levels(await activate(actor, source)) == from_disk(storage, source)
