"""lifecycle.forget: which records a request means, and taking them out in one transaction.

Memories, archived ones too, are meant by id, by store, by the time they were made, or as targets of the edges of
given ids (`cascade`); raw entries by id or by session, and with `cascade` what was dreamt of nothing else.
Unknown ids are ignored. Answers kept for idempotency keys go with the records that they name, and so does what is
kept of them to undo an import.

Source: the engine specification, "Forget".
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from cerememory.domain.audit_chain import AuditDraft, bounded_ids
from cerememory.domain.derivation import raw_ids_of
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.records import Store, TemporalRange
from cerememory.protocol.replies import Forgotten
from cerememory.protocol.requests import Forget
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.keys import Table, after, digest, pack_time, trailing_id, trailing_time
from cerememory.storage.ledger import Ledger
from cerememory.storage.mutations import Stored
from cerememory.storage.removal import remove_everywhere, remove_raw
from cerememory.storage.rows import (
    STORE_CODE,
    ArchivedRow,
    ContentRow,
    RawRow,
    parse_archived_row,
    parse_content_row,
    parse_edges,
    parse_kept_answer,
    parse_raw_row,
)
from cerememory.storage.undo_rows import Meant, forget_kept

_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class HeldMemory:
    """What forgetting needs to know of a working record."""

    created_at: int
    targets: tuple[RecordId, ...]


@dataclass(frozen=True, slots=True)
class ForgetRecords:
    """Remove what `request` means; with its `dry_run` only count it. `held` is what working memory has."""

    namespace: int
    request: Forget
    held: Mapping[RecordId, HeldMemory]
    now: int

    def apply(self, ledger: Ledger) -> Stored[Forgotten]:
        raws = self._raw_targets(ledger)
        targets = self._targets(ledger, raws)
        reply = Forgotten(records_deleted=len(targets) + len(raws))
        if self.request.dry_run:
            return Stored(reply, ledger.read_from)
        self._remove(ledger, targets, raws)
        forget_kept(ledger, self._meant(targets, raws))
        return Stored(reply, ledger.sequence)

    def _meant(self, targets: Mapping[RecordId, Store], raws: Mapping[RecordId, RawRow]) -> Meant:
        """The same of what is kept to undo imports, where records are that aren't stored any more."""
        request = self.request
        named = {*(request.record_ids or ()), *(request.raw_record_ids or ())}
        is_wide = request.cascade or (request.store, request.temporal_range, request.session_id) != (None,) * 3
        gone = {*raws, *(request.raw_record_ids or ())}

        def is_meant(rows: ArchivedRow, entries: Container[RecordId]) -> bool:
            row = rows.content
            is_chosen = row.store is request.store or _is_within(row.created_at, request.temporal_range)
            return is_chosen or (request.cascade and _is_dreamt_of(row, gone, entries))

        return Meant(
            frozenset(named | targets.keys() | raws.keys()),
            is_wide,
            is_meant,
            None if request.session_id is None else lambda row: row.session_id == request.session_id,
        )

    def _targets(self, ledger: Ledger, raws: Mapping[RecordId, RawRow]) -> dict[RecordId, Store]:
        """The memories that are there, with their stores, in the order in which they were found."""
        found = dict.fromkeys(self.request.record_ids or ())
        if self.request.cascade:
            found |= dict.fromkeys([target for source in [*found] for target in self._edges_of(ledger, source)])
            found |= dict.fromkeys(_dreamt_of(ledger, raws))
        found |= dict.fromkeys(self._by_store_and_time(ledger))
        stores = ((record_id, self._store_of(ledger, record_id)) for record_id in found)
        return {record_id: store for record_id, store in stores if store is not None}

    def _edges_of(self, ledger: Ledger, source: RecordId) -> Iterable[RecordId]:
        if source in self.held:
            return self.held[source].targets
        edges = ledger.get(ledger.key(Table.EDGES, source))
        if edges is None and (archived := ledger.get(ledger.key(Table.ARCHIVED, source))) is not None:
            edges = parse_archived_row(archived).edges
        return [edge.target_id for edge in parse_edges(edges)]

    def _by_store_and_time(self, ledger: Ledger) -> Iterator[RecordId]:
        store, span = self.request.store, self.request.temporal_range
        if store is None and span is None:
            return
        prefix = ledger.key(Table.STATE)
        first, last = (prefix, after(prefix)) if store is not None or span is None else _between(prefix, span)
        for row_key, value in ledger.scan(first, last):
            is_of_store = store is not None and value[0] == STORE_CODE[store]
            if is_of_store or _is_within(trailing_time(row_key), span):
                yield trailing_id(row_key)
        for record_id, archived in _archived(ledger):
            if store is archived.store or _is_within(archived.created_at, span):
                yield record_id
        for record_id, memory in self.held.items():
            if store is Store.WORKING or _is_within(memory.created_at, span):
                yield record_id

    def _store_of(self, ledger: Ledger, record_id: RecordId) -> Store | None:
        if record_id in self.held:
            return Store.WORKING
        row = _row(ledger, record_id)
        return None if row is None else row.store

    def _raw_targets(self, ledger: Ledger) -> dict[RecordId, RawRow]:
        found = dict.fromkeys(self.request.raw_record_ids or ())
        if self.request.session_id is not None:
            prefix = ledger.key(Table.RAW_BY_SESSION, digest(self.request.session_id))
            found |= dict.fromkeys(trailing_id(row_key) for row_key, _ in ledger.scan(prefix, after(prefix)))
        values = ((record_id, ledger.get(ledger.key(Table.RAW, record_id))) for record_id in found)
        return {record_id: parse_raw_row(value) for record_id, value in values if value is not None}

    def _remove(self, ledger: Ledger, targets: Mapping[RecordId, Store], raws: Mapping[RecordId, RawRow]) -> None:
        for record_id in targets:
            if record_id in self.held:
                ledger.drop(record_id)
        remove_everywhere(ledger, targets.keys(), self.now)
        for record_id in raws:
            remove_raw(ledger, record_id)
        _drop_answers_about(ledger, targets.keys() | raws.keys())
        self._audit(ledger, targets, raws)

    def _audit(self, ledger: Ledger, targets: Mapping[RecordId, Store], raws: Mapping[RecordId, RawRow]) -> None:
        if targets or not raws:
            ledger.audit(self._entry([*targets], [store.value for store in targets.values()]))
        if raws:
            ledger.audit(self._entry([*raws], []))

    def _entry(self, record_ids: list[RecordId], stores: list[str]) -> AuditDraft:
        bounded = bounded_ids(record_ids)
        summary = {"deleted": len(record_ids), "cascade": self.request.cascade, **bounded.summary}
        named = tuple(stores[: len(bounded.record_ids)])
        return AuditDraft(self.now, "lifecycle.forget", bounded.record_ids, named, summary)


def _between(prefix: bytes, span: TemporalRange) -> tuple[bytes, bytes]:
    start, end = clamp_timestamp(span.start), clamp_timestamp(span.end)  # nothing stored was made outside
    return prefix + pack_time(start), prefix + pack_time(end) + b"\xff" * 17


def _is_within(at: int, span: TemporalRange | None) -> bool:
    return span is not None and span.start <= at <= span.end


def _row(ledger: Ledger, record_id: RecordId) -> ContentRow | None:
    """Of a memory that is stored or archived."""
    value = ledger.get(ledger.key(Table.CONTENT, record_id))
    if value is not None:
        return parse_content_row(value)
    value = ledger.get(ledger.key(Table.ARCHIVED, record_id))
    return None if value is None else parse_archived_row(value).content


def _dreamt_of(ledger: Ledger, raws: Mapping[RecordId, RawRow]) -> Iterator[RecordId]:
    """The memories that say that they were made of some of `raws`, and of nothing else.

    All are looked at: an entry names its dreams, but not the copies that consolidation made of them.
    """
    for record_id, row in chain(_stored(ledger), _archived(ledger)) if raws else ():
        if _is_dreamt_of(row, raws):
            yield record_id


def _is_dreamt_of(row: ContentRow, *raws: Container[RecordId]) -> bool:
    """Of some of `raws`, and of nothing else."""
    sources = raw_ids_of(row.metadata)
    return bool(sources) and all(any(source in each for each in raws) for source in sources)


def _stored(ledger: Ledger) -> Iterator[tuple[RecordId, ContentRow]]:
    prefix = ledger.key(Table.CONTENT)
    for row_key, value in ledger.scan(prefix, after(prefix)):
        yield trailing_id(row_key), parse_content_row(value)


def _archived(ledger: Ledger) -> Iterator[tuple[RecordId, ContentRow]]:
    prefix = ledger.key(Table.ARCHIVED)
    for row_key, value in ledger.scan(prefix, after(prefix)):
        yield trailing_id(row_key), parse_archived_row(value).content


def _drop_answers_about(ledger: Ledger, record_ids: Iterable[RecordId]) -> None:
    """Kept answers name the records that they are about."""
    forgotten = {format_id(record_id).encode() for record_id in record_ids}
    prefix = ledger.key(Table.IDEMPOTENCY)
    for row_key, value in ledger.scan(prefix, after(prefix)):
        kept = parse_kept_answer(value)
        if not forgotten.isdisjoint(_ID.findall(kept.reply)):
            ledger.delete(row_key)
            ledger.delete(
                ledger.key(Table.IDEMPOTENCY_BY_EXPIRY, pack_time(kept.expires_at), row_key[len(prefix) :])
            )
