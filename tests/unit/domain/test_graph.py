"""The graph around memories: breadth first, within its limits, with the names that edges and memories have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.graph import EDGES_PER_NODE, Walk, node_label, types_named
from cerememory.protocol.records import (
    Association,
    AssociationType,
    ContentBlock,
    MemoryContent,
    Modality,
)
from cerememory.protocol.values import ByteArray, RecordId, Timestamp

CAUSAL, SEMANTIC = AssociationType.CAUSAL, AssociationType.SEMANTIC
NODES = 7
Graph = dict[RecordId, list[Association]]


def an_id(number: int) -> RecordId:
    return RecordId(number.to_bytes(16, "big"))


def number(record_id: RecordId) -> int:
    return int.from_bytes(record_id, "big")


def graph_of(*edges: tuple[int, int], kind: AssociationType = SEMANTIC, nodes: int = NODES) -> Graph:
    graph: Graph = {an_id(i): [] for i in range(nodes)}
    for source, target in edges:
        association = Association(
            target_id=an_id(target),
            association_type=kind,
            weight=0.5,
            created_at=Timestamp(0),
            last_co_activation=Timestamp(0),
        )
        graph[an_id(source)].append(association)
    return graph


def walked(
    graph: Graph, roots: tuple[int, ...] = (0,), depth: int = 2, limit: int = 10, types: list[str] | None = None
) -> tuple[list[int], list[tuple[int, int]]]:
    """Nodes and edges, by number."""
    kinds = None if types is None else types_named(types)
    walk = Walk(map(an_id, roots), depth, limit_nodes=limit, types=kinds)
    while frontier := walk.frontier:
        walk.advance({record_id: graph[record_id] for record_id in frontier if record_id in graph})
    links = [(number(link.source), number(link.association.target_id)) for link in walk.links]
    return [number(record_id) for record_id in walk.nodes], links


def distances(graph: Graph, roots: tuple[int, ...]) -> dict[int, int]:
    """By relaxing every edge as often as there are nodes."""
    found = dict.fromkeys(roots, 0)
    for _ in range(NODES):
        for source, associations in graph.items():
            for target in (number(association.target_id) for association in associations):
                if number(source) in found:
                    found[target] = min(found.get(target, NODES), found[number(source)] + 1)
    return found


EDGES = st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=20)


@given(edges=EDGES, roots=st.sets(st.integers(0, NODES - 1), min_size=1, max_size=3), depth=st.integers(0, 4))
def test_the_nodes_are_those_within_the_depth_the_nearest_first_and_the_edges_leave_the_nearer_ones(
    edges: list[tuple[int, int]], roots: set[int], depth: int
) -> None:
    graph = graph_of(*edges)
    far = distances(graph, tuple(roots))
    nodes, links = walked(graph, tuple(roots), depth)
    assert set(nodes) == {node for node, hops in far.items() if hops <= depth}
    assert [far[node] for node in nodes] == sorted(far[node] for node in nodes)
    assert sorted(links) == sorted(edge for edge in edges if far.get(edge[0], NODES) < depth)


@given(edges=EDGES, limit=st.integers(0, NODES))
def test_a_smaller_limit_shows_the_first_of_the_same_nodes(edges: list[tuple[int, int]], limit: int) -> None:
    graph = graph_of(*edges)
    nodes, links = walked(graph, limit=limit)
    whole_nodes, whole_links = walked(graph, limit=NODES)
    assert nodes == whole_nodes[:limit]
    assert links == [link for link in whole_links if link[0] in nodes]


def test_edges_are_not_walked_backwards() -> None:
    assert walked(graph_of((1, 0))) == ([0], [])


def test_the_edges_of_the_farthest_nodes_are_not_shown() -> None:
    assert walked(graph_of((0, 1), (1, 0), (1, 2)), depth=1) == ([0, 1], [(0, 1)])


def test_an_edge_to_what_does_not_exist_is_shown_and_takes_no_place() -> None:
    graph = graph_of((0, 1), (0, 2), (0, 3))
    del graph[an_id(1)]
    assert walked(graph, limit=2) == ([0, 2], [(0, 1), (0, 2), (0, 3)])


def test_around_what_does_not_exist_there_is_nothing() -> None:
    assert walked({}) == ([], [])


def test_the_number_of_edges_is_bounded_and_no_further_one_is_followed() -> None:
    far = [(0, i) for i in range(1, 4 * EDGES_PER_NODE)]
    nodes, links = walked(graph_of(*far, nodes=4 * EDGES_PER_NODE), limit=2)
    assert (nodes, links) == ([0, 1], far[: 2 * EDGES_PER_NODE])


def test_parallel_edges_are_all_shown_and_lead_to_one_node() -> None:
    assert walked(graph_of((0, 1), (0, 1))) == ([0, 1], [(0, 1), (0, 1)])


def test_only_edges_of_the_asked_types_are_shown_and_followed() -> None:
    graph = graph_of((0, 1), kind=CAUSAL)
    graph[an_id(0)] += graph_of((0, 2))[an_id(0)]
    assert walked(graph, types=["Causal"]) == ([0, 1], [(0, 1)])
    assert walked(graph, types=[]) == ([0], [])


@pytest.mark.parametrize("name", ["cross_modal", "CROSS_MODAL", "CrossModal", "crossModal", "cross-modal"])
def test_a_type_has_its_name_in_any_case(name: str) -> None:
    assert types_named([name]) == {AssociationType.CROSS_MODAL}


def test_every_type_has_its_own_name_and_other_names_name_nothing() -> None:
    assert types_named(list(AssociationType)) == set(AssociationType)
    assert types_named(["", "friend", "semantics"]) == frozenset()


def text(words: str) -> ContentBlock:
    return ContentBlock(modality=Modality.TEXT, format="text/plain", data=ByteArray(words.encode()))


STRUCTURED = ContentBlock(modality=Modality.STRUCTURED, format="application/json", data=ByteArray(b"{}"))


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (MemoryContent(blocks=(text("long"),), summary="short"), "short"),
        (MemoryContent(blocks=(text("kettle"),), summary=""), "kettle"),
        (MemoryContent(blocks=(STRUCTURED, text("first"), text("second"))), "first"),
        (MemoryContent(blocks=(STRUCTURED,)), ""),
        (MemoryContent(blocks=(text("é" * 80),)), "é" * 80),
        (MemoryContent(blocks=(text("é" * 81),)), "é" * 80 + "..."),
        (MemoryContent(blocks=(text("x"),), summary="s" * 200), "s" * 200),
    ],
)
def test_a_node_is_called_by_its_summary_or_the_start_of_its_text(content: MemoryContent, label: str) -> None:
    assert node_label(content) == label
