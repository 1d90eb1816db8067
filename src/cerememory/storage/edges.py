"""The edges of durable memories, changed inside a transaction: row, rows by target and counter at once."""

from __future__ import annotations

from cerememory.protocol.records import Association
from cerememory.protocol.values import RecordId
from cerememory.storage.keys import Table, after, trailing_id
from cerememory.storage.ledger import Ledger
from cerememory.storage.rows import dump_edges, parse_edges


def edges_of(ledger: Ledger, source: RecordId) -> tuple[Association, ...]:
    return parse_edges(ledger.get(ledger.key(Table.EDGES, source)))


def sources_of(ledger: Ledger, target: RecordId) -> list[RecordId]:
    """The memories with an edge to `target`, but for edges that the mutation itself has added."""
    prefix = ledger.key(Table.EDGES_BY_TARGET, target)
    return [trailing_id(row_key) for row_key, _value in ledger.scan(prefix, after(prefix))]


def set_edges(ledger: Ledger, source: RecordId, edges: tuple[Association, ...]) -> None:
    """Replace all edges of a memory."""
    known = edges_of(ledger, source)
    before, now = ({edge.target_id for edge in some} for some in (known, edges))
    if edges:
        ledger.put(ledger.key(Table.EDGES, source), dump_edges(edges))
    elif known:
        ledger.delete(ledger.key(Table.EDGES, source))
    for target in now - before:
        ledger.put(ledger.key(Table.EDGES_BY_TARGET, target, source), b"")
    for target in before - now:
        ledger.delete(ledger.key(Table.EDGES_BY_TARGET, target, source))
    ledger.counters().associations += len(edges) - len(known)
