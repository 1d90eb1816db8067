"""Spreading activation: the same as trying every way, bounded, and only along edges that may be followed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain import activation
from cerememory.domain.activation import HOP_FACTOR, LEVEL_MIN, Activation, Spread
from cerememory.protocol.records import Association, AssociationType
from cerememory.protocol.values import RecordId, Timestamp

CAUSAL, SEMANTIC, SEQUENTIAL = AssociationType.CAUSAL, AssociationType.SEMANTIC, AssociationType.SEQUENTIAL
NODES = 6


class E(NamedTuple):
    source: int
    target: int
    weight: float = 1.0
    kind: AssociationType = SEMANTIC


Graph = dict[RecordId, list[Association]]


def an_id(number: int) -> RecordId:
    return RecordId(number.to_bytes(16, "big"))


def graph_of(*edges: E, nodes: int = NODES) -> Graph:
    graph: Graph = {an_id(i): [] for i in range(nodes)}
    for edge in edges:
        association = Association(
            target_id=an_id(edge.target),
            association_type=edge.kind,
            weight=edge.weight,
            created_at=Timestamp(0),
            last_co_activation=Timestamp(0),
        )
        graph[an_id(edge.source)].append(association)
    return graph


def spread(graph: Graph, depth: int = 8, **given: Any) -> dict[RecordId, Activation]:
    """From memory 0, reading what it asks for, level by level."""
    spread_ = Spread(an_id(0), depth, **given)
    while frontier := spread_.frontier:
        spread_.advance({record_id: graph[record_id] for record_id in frontier if record_id in graph})
    return spread_.activated()


def levels(activated: dict[RecordId, Activation]) -> dict[int, float]:
    return {int.from_bytes(record_id, "big"): found.level for record_id, found in activated.items()}


def every_way(
    graph: Graph, path: tuple[RecordId, ...], level: float, depth: int
) -> Iterator[tuple[tuple[RecordId, ...], AssociationType, float]]:
    """All simple paths that go on from `path`, along which no activation gets lost."""
    if depth == 0:
        return
    for edge in graph[path[-1]]:
        arrives = level * edge.weight * HOP_FACTOR
        if edge.target_id not in path and arrives >= LEVEL_MIN:
            longer = (*path, edge.target_id)
            yield longer, edge.association_type, arrives
            yield from every_way(graph, longer, arrives, depth - 1)


EDGES = st.lists(
    st.builds(
        E,
        st.integers(0, NODES - 1),
        st.integers(0, NODES - 1),
        st.floats(0, 1) | st.sampled_from([0.1, 0.5, 1.0]),
        st.sampled_from([CAUSAL, SEMANTIC, SEQUENTIAL]),
    ),
    max_size=16,
)


@given(edges=EDGES, depth=st.integers(0, 8))
def test_each_memory_gets_the_strongest_activation_of_all_ways_to_it(edges: list[E], depth: int) -> None:
    graph = graph_of(*edges)
    ways = list(every_way(graph, (an_id(0),), 1.0, depth))
    best: dict[RecordId, float] = {}
    for path, _kind, level in ways:
        best[path[-1]] = max(level, best.get(path[-1], 0.0))
    activated = spread(graph, depth)
    assert {record_id: found.level for record_id, found in activated.items()} == best
    for found in activated.values():
        assert (found.path, found.edge_type, found.level) in ways
        assert found.hop == len(found.path) - 1


@given(
    edges=EDGES, depth=st.integers(0, 4), least=st.floats(0, 1), kinds=st.sets(st.sampled_from([CAUSAL, SEMANTIC]))
)
def test_edges_that_are_too_weak_or_of_another_type_are_as_if_they_were_not_there(
    edges: list[E], depth: int, least: float, kinds: set[AssociationType]
) -> None:
    allowed = [edge for edge in edges if edge.weight >= least and edge.kind in kinds]
    limited = spread(graph_of(*edges), depth, min_weight=least, types=frozenset(kinds))
    assert limited == spread(graph_of(*allowed), depth)


@given(edges=EDGES)
def test_the_strongest_comes_first_and_the_source_is_not_among_them(edges: list[E]) -> None:
    activated = spread(graph_of(*edges))
    assert an_id(0) not in activated
    assert list(levels(activated).values()) == sorted(levels(activated).values(), reverse=True)


def test_what_arrives_is_half_the_product_of_level_and_weight() -> None:
    activated = spread(graph_of(E(0, 1, 0.7), E(1, 2, 0.7)))
    assert levels(activated) == {1: pytest.approx(0.35), 2: pytest.approx(0.1225)}
    assert activated[an_id(2)].path == (an_id(0), an_id(1), an_id(2))


def test_what_is_below_a_twentieth_is_lost() -> None:
    assert levels(spread(graph_of(E(0, 1, 0.1), E(0, 2, 0.0999)))) == {1: 0.05}


def test_edges_are_not_walked_backwards() -> None:
    assert spread(graph_of(E(1, 0), E(2, 1))) == {}


def test_a_long_way_that_is_stronger_wins_over_a_short_one() -> None:
    activated = spread(graph_of(E(0, 3, 0.2), E(0, 1), E(1, 3)))
    assert activated[an_id(3)] == Activation(0.25, SEMANTIC, (an_id(0), an_id(1), an_id(3)))


def test_of_equal_ways_the_shorter_wins() -> None:
    activated = spread(graph_of(E(0, 1), E(1, 3), E(0, 3, 0.5)))
    assert activated[an_id(3)].path == (an_id(0), an_id(3))


def test_of_several_edges_to_one_memory_the_strongest_gives_the_type() -> None:
    activated = spread(graph_of(E(0, 1, 0.3, CAUSAL), E(0, 1, 0.9, SEQUENTIAL), E(0, 1, 0.5, SEMANTIC)))
    assert activated[an_id(1)].edge_type is SEQUENTIAL


def test_no_way_is_longer_than_the_depth() -> None:
    chain = graph_of(*(E(i, i + 1) for i in range(5)))
    assert [len(spread(chain, depth)) for depth in range(6)] == [0, 1, 2, 3, 4, 4]


def test_a_memory_that_does_not_exist_is_not_activated_and_leads_nowhere() -> None:
    graph = graph_of(E(0, 1), E(1, 2), E(0, 3))
    del graph[an_id(1)]
    assert levels(spread(graph)) == {3: 0.5}


def test_from_a_source_that_does_not_exist_nothing_is_activated() -> None:
    assert spread({}) == {}


def test_of_too_many_memories_the_strongest_stay() -> None:
    fan = [E(0, i, (2 + i) / 10) for i in range(1, 6)]
    further = [E(i, 5 + i) for i in range(1, 6)]
    activated = spread(graph_of(*fan, *further, nodes=11), activated_max=7)
    assert set(levels(activated)) == {1, 2, 3, 4, 5, 9, 10}


def test_one_spread_looks_at_a_bounded_number_of_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "EDGES_MAX", 4)
    fan = [E(0, 1, 0.5), E(0, 2, 1.0)]
    further = [E(1, 3), E(2, 4), E(2, 5)]
    assert set(levels(spread(graph_of(*fan, *further)))) == {1, 2, 4, 5}, "those of the stronger one"
