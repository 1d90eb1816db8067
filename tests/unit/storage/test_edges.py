"""Edges changed in a transaction: the row, the rows by target and the counter agree."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.protocol.records import Association, AssociationType
from cerememory.protocol.values import RecordId, Timestamp
from cerememory.storage.edges import edges_of, set_edges, sources_of
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, counters_key, key
from cerememory.storage.ledger import Ledger
from cerememory.storage.rows import parse_counters, parse_edges
from tests.support.committing import an_id, commit
from tests.support.memory_storage import MemoryStorage

SOURCE = an_id(1)


def an_edge(target: int, kind: AssociationType = AssociationType.CAUSAL) -> Association:
    return Association(
        target_id=an_id(target),
        association_type=kind,
        weight=0.5,
        created_at=Timestamp(1),
        last_co_activation=Timestamp(2),
    )


class SetEdges:
    namespace = DEFAULT_NAMESPACE

    def __init__(self, source: RecordId, edges: Sequence[Association]) -> None:
        self.source, self.edges = source, tuple(edges)

    def apply(self, ledger: Ledger) -> tuple[Association, ...]:
        set_edges(ledger, self.source, self.edges)
        return edges_of(ledger, self.source)


class SourcesOf:
    namespace = DEFAULT_NAMESPACE

    def __init__(self, target: RecordId) -> None:
        self.target = target

    def apply(self, ledger: Ledger) -> list[RecordId]:
        return sources_of(ledger, self.target)


def check(storage: MemoryStorage, source: RecordId, edges: Sequence[Association]) -> None:
    with storage.read() as reader:
        row = reader.get(key(DEFAULT_NAMESPACE, Table.EDGES, source))
        prefix = key(DEFAULT_NAMESPACE, Table.EDGES_BY_TARGET)
        targets = {row_key[len(prefix) : -16] for row_key, _ in reader.scan(prefix, after(prefix))}
        counters = parse_counters(reader.get(counters_key(DEFAULT_NAMESPACE)))
    assert parse_edges(row) == tuple(edges)
    assert (row is None) == (not edges)
    assert targets == {edge.target_id for edge in edges}
    assert counters.associations == len(edges)


EDGES = st.lists(st.builds(an_edge, st.integers(2, 5), st.sampled_from([*AssociationType][:2])), max_size=5)


@given(versions=st.lists(EDGES, min_size=1, max_size=4))
def test_whatever_was_there_before_the_last_edges_stay(versions: list[list[Association]]) -> None:
    storage = MemoryStorage()
    for edges in versions:
        [answer], _ = commit(storage, SetEdges(SOURCE, edges))
        assert answer == tuple(edges)
    check(storage, SOURCE, versions[-1])


def test_two_changes_in_one_transaction_see_each_other() -> None:
    storage = MemoryStorage()
    commit(storage, SetEdges(SOURCE, [an_edge(2), an_edge(3)]), SetEdges(SOURCE, [an_edge(3), an_edge(4)]))
    check(storage, SOURCE, [an_edge(3), an_edge(4)])


@pytest.mark.parametrize("target", [2, 3])
def test_sources_are_those_with_an_edge_to_the_target(target: int) -> None:
    storage = MemoryStorage()
    commit(storage, SetEdges(SOURCE, [an_edge(2)]), SetEdges(an_id(9), [an_edge(2), an_edge(3)]))
    [found], _ = commit(storage, SourcesOf(an_id(target)))
    assert found == ([SOURCE, an_id(9)] if target == 2 else [an_id(9)])
