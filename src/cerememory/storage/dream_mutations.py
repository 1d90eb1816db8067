"""What a dream tick writes: each group of entries in one transaction, so that a crash leaves whole groups.

A tick answers with what its last mutation adds up: every one is told what the tick did before it. Each writes an
audit entry of what it did itself, in the same transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.decay import STANDARD
from cerememory.domain.dream_records import OPERATION, Dream, DreamRecord, entry_metadata
from cerememory.protocol import codec
from cerememory.protocol.replies import Dreamt
from cerememory.protocol.values import RecordId
from cerememory.storage.keys import NOWHERE, Table
from cerememory.storage.ledger import Ledger
from cerememory.storage.mutations import Stored, StoreRecords
from cerememory.storage.pending import entry_stamp, remove_pending
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import STORE_CODE, ContentRow, RawRow, dump_ids, dump_row, parse_raw_row

NOTHING = Dreamt(
    groups_processed=0, raw_records_processed=0, episodic_summaries_created=0, semantic_nodes_created=0
)


def with_dream(before: Dreamt, dream: Dream) -> Dreamt:
    """What a tick has done when `dream` is stored, too."""
    return Dreamt(
        groups_processed=before.groups_processed + 1,
        raw_records_processed=before.raw_records_processed + len(dream.group.entries),
        episodic_summaries_created=before.episodic_summaries_created + 1,
        semantic_nodes_created=before.semantic_nodes_created + (dream.semantic is not None),
    )


def new_memories(namespace: int, dream: Dream) -> tuple[NewRecord, ...]:
    """The memories of `dream`, ready to be stored."""
    return tuple(_new_memory(namespace, record) for record in dream.records)


def _new_memory(namespace: int, record: DreamRecord) -> NewRecord:
    at = record.created_at
    content, meta = codec.dump(record.content), codec.dump(record.meta)
    row = ContentRow(STORE_CODE[record.store], 1, at, at, content, b"", record.metadata, meta)
    return NewRecord(
        namespace=namespace,
        record_id=record.record_id,
        row=row,
        state=STANDARD[record.store].fresh(at),
        associations=record.associations,
        embedding=None,
        emotion=None,
    )


@dataclass(frozen=True, slots=True)
class StoreDream:
    """Store the memories of a dream (`new_memories`) and mark its entries.

    Nothing happens when one of the entries was changed in any way since it was read, or removed: what the dream
    tells may not be told any more. All of them but what is gone, suppressed or processed wait for the next tick.
    """

    namespace: int
    dream: Dream
    memories: tuple[NewRecord, ...]
    before: Dreamt

    def apply(self, ledger: Ledger) -> Stored[Dreamt]:
        rows = self._waiting_rows(ledger)
        if rows is None:
            return Stored(self.before, ledger.read_from)
        StoreRecords(self.namespace, self.memories, self._audit(), None).apply(ledger)
        for record_id, row in rows.items():
            ledger.put(ledger.key(Table.RAW, record_id), dump_row(self._marked(row)))
            remove_pending(ledger, record_id, row)
        self._count(ledger)
        return Stored(with_dream(self.before, self.dream), ledger.sequence)

    def _waiting_rows(self, ledger: Ledger) -> dict[RecordId, RawRow] | None:
        rows: dict[RecordId, RawRow] = {}
        for entry in self.dream.group.entries:
            value = ledger.get(ledger.key(Table.RAW, entry.record_id))
            if value is None or entry_stamp(value) != entry.stamp:
                return None
            rows[entry.record_id] = parse_raw_row(value)
        return rows

    def _marked(self, row: RawRow) -> RawRow:
        return msgspec.structs.replace(
            row,
            updated_at=self.dream.tick_at,
            metadata=entry_metadata(row.metadata, self.dream),
            derived=row.derived + dump_ids(list(self.dream.record_ids)),
        )

    def _count(self, ledger: Ledger) -> None:
        counters = ledger.counters()
        counters.dream_episodic_summaries += 1
        counters.dream_semantic_nodes += self.dream.semantic is not None
        counters.last_dream_tick_at = self.dream.tick_at

    def _audit(self) -> AuditDraft:
        stores = tuple(record.store.value for record in self.dream.records)
        counts = _summary(with_dream(NOTHING, self.dream), is_dry_run=False)
        return AuditDraft(self.dream.summary.created_at, OPERATION, self.dream.record_ids, stores, counts)


@dataclass(frozen=True, slots=True)
class NoteTick:
    """The audit entry of a tick at `now` that stores nothing: a dry run, or one that found nothing."""

    namespace: int
    now: int
    counted: Dreamt
    is_dry_run: bool

    def apply(self, ledger: Ledger) -> Stored[Dreamt]:
        if not self.is_dry_run and self.namespace != NOWHERE:
            ledger.counters().last_dream_tick_at = self.now
        ledger.audit(AuditDraft(self.now, OPERATION, (), (), _summary(self.counted, is_dry_run=self.is_dry_run)))
        return Stored(self.counted, ledger.sequence)


def _summary(counted: Dreamt, *, is_dry_run: bool) -> dict[str, int | bool]:
    return {**msgspec.structs.asdict(counted), "dry_run": is_dry_run}
