"""Taking memories and raw entries out of the store, with every row that speaks of them.

Removing is telling, too: the indexes, whoever pointed to what is gone, and the counters. What a memory was is
nowhere left after it, but in pages that are free and not yet used again (`compact`).
"""

from __future__ import annotations

from collections.abc import Collection, Container

from msgspec.structs import replace

from cerememory.protocol import codec
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.records import Association, EmotionVector, MemoryContent
from cerememory.protocol.values import RecordId
from cerememory.storage.groups import leave_group
from cerememory.storage.keys import Table, after, digest, pack_time, state_key, trailing_id
from cerememory.storage.ledger import Ledger
from cerememory.storage.likenesses import drop_likeness
from cerememory.storage.mutations import axes_of, embedding_of
from cerememory.storage.pending import remove_pending
from cerememory.storage.rows import (
    ArchivedRow,
    ContentRow,
    RawRow,
    dump_edges,
    dump_row,
    parse_archived_row,
    parse_content_row,
    parse_edges,
    parse_raw_row,
    parse_state_row,
)
from cerememory.storage.undo_rows import MEMORY, memory_stamp, stamp_anew
from cerememory.storage.vectors import Space, vector_key


def remove_memory(ledger: Ledger, record_id: RecordId, now: int) -> ContentRow | None:
    """Remove a durable memory of the ledger's namespace and return its row; None when there is none.

    Memories that had an edge to it lose that edge, which changes them at `now`.
    """
    row = _remove_stored(ledger, record_id)
    if row is not None:
        _forget_edges_to(ledger, [record_id], now)
    return row


def remove_everywhere(ledger: Ledger, record_ids: Collection[RecordId], now: int) -> None:
    """Remove memories, stored or archived, and the edges to them, as `remove_memory` does.

    Of one that is in working memory alone only the edges to it go. Who had edges to many of them is changed once.
    """
    for record_id in record_ids:
        _remove_stored(ledger, record_id)
        _remove_from_archive(ledger, record_id)
    _forget_edges_to(ledger, record_ids, now)


def _remove_stored(ledger: Ledger, record_id: RecordId) -> ContentRow | None:
    """As `remove_memory`, but who points to the memory still does."""
    value = ledger.get(ledger.key(Table.CONTENT, record_id))
    if value is None:
        return None
    row = parse_content_row(value)
    remove_rows(ledger, record_id, row)
    ledger.unindex(record_id)
    return row


def remove_rows(ledger: Ledger, record_id: RecordId, row: ContentRow) -> None:
    """Remove what is stored of a durable memory itself: who points to it still does, and no index is told."""
    _take_out(ledger, record_id, row)
    _unlist(ledger, record_id, _take_edges(ledger, record_id))
    _remove_range(ledger, ledger.key(Table.HISTORY, record_id))


def _take_out(ledger: Ledger, record_id: RecordId, row: ContentRow) -> None:
    ledger.delete(ledger.key(Table.CONTENT, record_id))
    _remove_state(ledger, record_id, row)
    _remove_vectors(ledger, record_id, row)
    leave_group(ledger, record_id, row)
    drop_likeness(ledger, record_id, row)


def archive_memory(ledger: Ledger, record_id: RecordId, row: ContentRow, kept_until: int) -> None:
    """Take a memory out of all but the archive. Edges to it stay, and its history, for it may come back.

    Its own edges stay listed by their targets: it loses those to what is removed meanwhile.
    """
    kept_until = clamp_timestamp(kept_until)  # the operator may wish for more days than a clock has
    state = ledger.get(state_key(ledger.namespace, row.created_at, record_id)) or b""
    archived = ArchivedRow(row, state, dump_edges(_take_edges(ledger, record_id)), kept_until)
    ledger.put(ledger.key(Table.ARCHIVED, record_id), dump_row(archived))
    ledger.put(ledger.key(Table.ARCHIVED_BY_EXPIRY, pack_time(kept_until), record_id), b"")
    _take_out(ledger, record_id, row)
    ledger.unindex(record_id)


def remove_archived(ledger: Ledger, record_id: RecordId, now: int) -> ArchivedRow | None:
    """Remove what the archive has of a memory, for ever, and return it; None when it has nothing."""
    archived = _remove_from_archive(ledger, record_id)
    if archived is not None:
        _forget_edges_to(ledger, [record_id], now)
    return archived


def _remove_from_archive(ledger: Ledger, record_id: RecordId) -> ArchivedRow | None:
    archived = remove_archived_rows(ledger, record_id)
    if archived is not None:
        ledger.drop(record_id)  # working memory may point to it
    return archived


def remove_archived_rows(ledger: Ledger, record_id: RecordId) -> ArchivedRow | None:
    """As `remove_archived`, but who points to the memory still does."""
    archived = take_from_archive(ledger, record_id)
    if archived is not None:
        _unlist(ledger, record_id, parse_edges(archived.edges))
        _remove_range(ledger, ledger.key(Table.HISTORY, record_id))
    return archived


def take_from_archive(ledger: Ledger, record_id: RecordId) -> ArchivedRow | None:
    """Take a memory out of the archive that is put back among the others, with all of its edges."""
    row_key = ledger.key(Table.ARCHIVED, record_id)
    value = ledger.get(row_key)
    if value is None:
        return None
    archived = parse_archived_row(value)
    ledger.delete(row_key)
    ledger.delete(ledger.key(Table.ARCHIVED_BY_EXPIRY, pack_time(archived.kept_until), record_id))
    return archived


def _remove_state(ledger: Ledger, record_id: RecordId, row: ContentRow) -> None:
    row_key = state_key(ledger.namespace, row.created_at, record_id)
    value = ledger.get(row_key)
    counters = ledger.counters()
    counters.records[row.store_code] -= 1
    if value is not None:
        counters.fidelity_sums[row.store_code] -= parse_state_row(value)[1].score
    ledger.delete(row_key)


def _remove_vectors(ledger: Ledger, record_id: RecordId, row: ContentRow) -> None:
    embedding = embedding_of(codec.parse(row.content, MemoryContent))
    axes = axes_of(codec.parse(row.emotion, EmotionVector)) if row.emotion else None
    for space, values in ((Space.CONTENT, embedding), (Space.EMOTION, axes)):
        if values is not None:
            ledger.delete(vector_key(ledger.namespace, space, len(values), record_id))
            ledger.counters().vectors -= space is Space.CONTENT


def _take_edges(ledger: Ledger, source: RecordId) -> tuple[Association, ...]:
    """A durable memory's edges, which it has no more."""
    row_key = ledger.key(Table.EDGES, source)
    edges = parse_edges(ledger.get(row_key))
    if edges:
        ledger.delete(row_key)
        ledger.counters().associations -= len(edges)
    return edges


def _unlist(ledger: Ledger, source: RecordId, edges: tuple[Association, ...]) -> None:
    for edge in edges:
        ledger.delete(ledger.key(Table.EDGES_BY_TARGET, edge.target_id, source))


def _forget_edges_to(ledger: Ledger, targets: Collection[RecordId], now: int) -> None:
    """Memories, durable or archived, that pointed to `targets` lose these edges, which changes them at `now`."""
    lost: dict[RecordId, set[RecordId]] = {}
    for target in targets:
        prefix = ledger.key(Table.EDGES_BY_TARGET, target)
        for by_target, _value in ledger.scan(prefix, after(prefix)):
            ledger.delete(by_target)
            lost.setdefault(trailing_id(by_target), set()).add(target)
    for source, gone in lost.items():
        archived = ledger.get(ledger.key(Table.ARCHIVED, source))
        if archived is None:
            _forget_edges(ledger, source, gone, now)
        else:
            _forget_archived_edges(ledger, source, parse_archived_row(archived), gone, now)


def _forget_archived_edges(
    ledger: Ledger, source: RecordId, archived: ArchivedRow, gone: Container[RecordId], now: int
) -> None:
    left = _without(gone, parse_edges(archived.edges))
    content = replace(archived.content, updated_at=now)
    changed = replace(archived, content=content, edges=dump_edges(left))
    ledger.put(ledger.key(Table.ARCHIVED, source), dump_row(changed))
    stamp_anew(ledger, MEMORY, source, memory_stamp(archived.content), memory_stamp(content))


def _without(gone: Container[RecordId], edges: tuple[Association, ...]) -> tuple[Association, ...]:
    return tuple(edge for edge in edges if edge.target_id not in gone)


def _forget_edges(ledger: Ledger, source: RecordId, gone: Container[RecordId], now: int) -> None:
    row_key, content_key = ledger.key(Table.EDGES, source), ledger.key(Table.CONTENT, source)
    edges = parse_edges(ledger.get(row_key))
    left = _without(gone, edges)
    if left:
        ledger.put(row_key, dump_edges(left))
    else:
        ledger.delete(row_key)
    ledger.counters().associations -= len(edges) - len(left)
    value = ledger.get(content_key)
    if value is not None:
        row = parse_content_row(value)
        changed = replace(row, updated_at=now)
        ledger.put(content_key, dump_row(changed))
        stamp_anew(ledger, MEMORY, source, memory_stamp(row), memory_stamp(changed))


def _remove_range(ledger: Ledger, prefix: bytes) -> None:
    for row_key, _value in ledger.scan(prefix, after(prefix)):
        ledger.delete(row_key)


def remove_raw(ledger: Ledger, record_id: RecordId) -> RawRow | None:
    """Remove a raw journal entry of the ledger's namespace and return its row; None when there is none."""
    raw_key = ledger.key(Table.RAW, record_id)
    value = ledger.get(raw_key)
    if value is None:
        return None
    row, at = parse_raw_row(value), pack_time(parse_raw_row(value).created_at)
    ledger.delete(raw_key)
    ledger.delete(ledger.key(Table.RAW_BY_TIME, at, record_id))
    ledger.delete(ledger.key(Table.RAW_BY_SESSION, digest(row.session_id), at, record_id))
    remove_pending(ledger, record_id, row)
    ledger.counters().raw_records -= 1
    ledger.unindex(record_id)
    return row
