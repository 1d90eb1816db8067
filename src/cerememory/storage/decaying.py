"""What a decay tick writes, piece by piece: the scores that moved, what was faint, and what it saw.

A tick is a sequence of transactions, each of them short, between which others commit:

    TickPiece      again and again, until there is no next position
    PruneMemories  when the rules take away what is faint, some at a time
    FinishTick     the clock put forward, what evolution learns, and the audit entry

States are only brought up to date by it: whoever reads a fidelity computes it. So a tick that was cut short has
lost nothing, and the next one does what it left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from cerememory.domain.audit_chain import AuditDraft, bounded_ids
from cerememory.domain.columns import Rows
from cerememory.domain.curve import TickedRows
from cerememory.domain.evolution import BUCKETS, histogram
from cerememory.protocol import codec
from cerememory.protocol.records import DURABLE_STORES, STORES, EmotionVector, MemoryContent
from cerememory.protocol.replies import Decayed, Restored
from cerememory.protocol.values import RecordId
from cerememory.storage.evolving import note_fidelities
from cerememory.storage.keys import NOWHERE, Table, after, pack_time, state_key, trailing_id
from cerememory.storage.ledger import Ledger
from cerememory.storage.mutations import Stored, embedding_of, put_memory
from cerememory.storage.prepared import NewRecord
from cerememory.storage.removal import archive_memory, remove_archived, remove_memory, take_from_archive
from cerememory.storage.rows import (
    STORE_CODE,
    ContentRow,
    dump_state_rows,
    parse_content_row,
    parse_edges,
    parse_state_row,
    parse_state_rows,
)

PIECE_ROWS = 2_048  # what one transaction looks at and at most writes: some 10 ms
PRUNED_AT_ONCE = 256
DURABLE_CODES = tuple(STORE_CODE[store] for store in DURABLE_STORES)
OPERATION = "lifecycle.decay_tick"


class Seen(msgspec.Struct, frozen=True):
    """What a tick, or a piece of it, has found: counts of memories, and int64[stores, 10] of fidelities."""

    seen: int
    below: int
    fidelities: Any

    def plus(self, other: Seen) -> Seen:
        return Seen(self.seen + other.seen, self.below + other.below, self.fidelities + other.fidelities)


NOTHING_SEEN = Seen(0, 0, np.zeros((len(STORES), BUCKETS), np.int64))


@dataclass(frozen=True, slots=True)
class Piece:
    """`doomed` are the memories to be taken away, `following` is where the next piece begins, None at the end."""

    seen: Seen
    updated: tuple[RecordId, ...]
    doomed: tuple[RecordId, ...]
    following: bytes | None


@dataclass(frozen=True, slots=True)
class TickPiece:
    """Bring the states from `position` on to what they are `duration_s` seconds after `now`."""

    namespace: int
    position: bytes | None
    now: int
    duration_s: int

    def apply(self, ledger: Ledger) -> Piece:
        prefix = ledger.key(Table.STATE)
        found = list(islice(ledger.scan(self.position or prefix, after(prefix)), PIECE_ROWS))
        keys, rows = [row_key for row_key, _value in found], parse_state_rows([value for _key, value in found])
        seen = NOTHING_SEEN
        updated: list[RecordId] = []
        doomed: list[RecordId] = []
        for code in DURABLE_CODES:
            places = np.flatnonzero(rows["store_code"] == code)
            if not len(places):
                continue
            ticked = self._tick(ledger, code, [keys[i] for i in places], rows[places])
            seen = seen.plus(_seen(code, ticked))
            updated += [trailing_id(keys[i]) for i in places[ticked.is_moved]]
            doomed += [trailing_id(keys[i]) for i in places[ticked.is_pruned]]
        following = keys[-1] + b"\0" if len(found) == PIECE_ROWS else None
        return Piece(seen, tuple(updated), tuple(doomed), following)

    def _tick(self, ledger: Ledger, code: int, keys: list[bytes], rows: Rows) -> TickedRows:
        """Write the states of one store that moved."""
        ticked = ledger.curve(code).advanced(self.duration_s).ticked_rows(rows, self.now)
        moved = np.flatnonzero(ticked.is_moved)
        for i, value in zip(moved, dump_state_rows(ticked.rows[moved]), strict=True):
            ledger.put(keys[i], value)
        change = ticked.rows["score"][moved] - rows["score"][moved]
        ledger.counters().fidelity_sums[code] += float(change.sum())
        return ticked


def _seen(code: int, ticked: TickedRows) -> Seen:
    fidelities = np.zeros_like(NOTHING_SEEN.fidelities)
    fidelities[code] = histogram(ticked.scores)
    return Seen(len(ticked.scores), int(ticked.is_below.sum()), fidelities)


@dataclass(frozen=True, slots=True)
class PruneMemories:
    """Take away those of `record_ids` that are still faint, into the archive when they are to be kept a while.

    `kept_until` is when the archive lets go of them, None when they are deleted at once. Answers how many left.
    """

    namespace: int
    record_ids: tuple[RecordId, ...]
    now: int
    duration_s: int | None
    kept_until: int | None

    def apply(self, ledger: Ledger) -> int:
        pruned: list[tuple[RecordId, str]] = []
        for record_id in self.record_ids:
            row = self._faint(ledger, record_id)
            if row is None:
                continue
            if self.kept_until is None:
                remove_memory(ledger, record_id, self.now)
            else:
                archive_memory(ledger, record_id, row, self.kept_until)
            pruned.append((record_id, row.store.value))
        if pruned:
            reply = Decayed(records_updated=0, records_below_threshold=0, records_pruned=len(pruned))
            names = tuple(name for _id, name in pruned)
            ids = tuple(record_id for record_id, _name in pruned)
            ledger.audit(AuditDraft(self.now, OPERATION, ids, names, _summary(reply, self.duration_s)))
        return len(pruned)

    def _faint(self, ledger: Ledger, record_id: RecordId) -> ContentRow | None:
        """The memory's row, unless it is gone or was recalled in the meantime."""
        value = ledger.get(ledger.key(Table.CONTENT, record_id))
        if value is None:
            return None
        row = parse_content_row(value)
        state = ledger.get(state_key(self.namespace, row.created_at, record_id))
        if state is None:
            return None
        curve = ledger.curve(row.store_code).advanced(self.duration_s or 0)
        return row if curve.ticked(parse_state_row(state)[1], self.now).is_pruned else None


@dataclass(frozen=True, slots=True)
class FinishTick:
    """Put the clock forward, let the stores evolve by what was `seen`, and write the audit entry.

    `duration_s` is None when the request named none. The entries of what was pruned were written with it.
    """

    namespace: int
    now: int
    duration_s: int | None
    seen: Seen
    updated: tuple[RecordId, ...]
    pruned: int

    def apply(self, ledger: Ledger) -> Stored[Decayed]:
        if self.duration_s and self.namespace != NOWHERE:
            ahead_ns = ledger.curve(DURABLE_CODES[0]).advanced(self.duration_s).ahead_ns
            ledger.save_dynamics(msgspec.structs.replace(ledger.dynamics(), ahead_ns=ahead_ns))
        for code in DURABLE_CODES:
            if self.seen.fidelities[code].any():
                note_fidelities(ledger, code, self.seen.fidelities[code], ledger.curve(code).virtual(self.now))
        reply = Decayed(
            records_updated=self.seen.seen,
            records_below_threshold=self.seen.below,
            records_pruned=self.pruned,
        )
        ledger.audit(self._entry(msgspec.structs.replace(reply, records_pruned=0)))
        return Stored(reply, ledger.sequence)

    def _entry(self, told: Decayed) -> AuditDraft:
        bounded = bounded_ids(self.updated)
        stores = tuple(STORES[code].value for code in DURABLE_CODES if self.seen.fidelities[code].any())
        summary = {**_summary(told, self.duration_s), **bounded.summary}
        return AuditDraft(self.now, OPERATION, bounded.record_ids, stores, summary)


def _summary(reply: Decayed, duration_s: int | None) -> dict[str, Any]:
    return {
        "records_updated": reply.records_updated,
        "records_below_threshold": reply.records_below_threshold,
        "records_pruned": reply.records_pruned,
        "tick_duration_seconds": duration_s,
    }


@dataclass(frozen=True, slots=True)
class DropArchived:
    """Let go of what the archive was to keep until before `now`, some at a time; answers how many that were."""

    namespace: int
    now: int

    def apply(self, ledger: Ledger) -> int:
        prefix = ledger.key(Table.ARCHIVED_BY_EXPIRY)
        expired = ledger.scan(prefix, prefix + pack_time(self.now))
        record_ids = [trailing_id(row_key) for row_key, _value in islice(expired, PRUNED_AT_ONCE)]
        for record_id in record_ids:
            remove_archived(ledger, record_id, self.now)
        return len(record_ids)


@dataclass(frozen=True, slots=True)
class RestoreMemories:
    """Bring back those of `record_ids` that the archive has, fading from `now` on with the score they had left."""

    namespace: int
    record_ids: tuple[RecordId, ...]
    now: int

    def apply(self, ledger: Ledger) -> Stored[Restored]:
        restored: dict[RecordId, str] = {}
        for record_id in self.record_ids:
            row = self._restore(ledger, record_id)
            if row is not None:
                restored[record_id] = row.store.value
        reply = Restored(records_restored=len(restored))
        if not restored:
            return Stored(reply, ledger.read_from)
        ledger.counters().last_consolidated_at = None  # what came back may be older than that
        ledger.audit(self._entry(restored))
        return Stored(reply, ledger.sequence)

    def _entry(self, restored: dict[RecordId, str]) -> AuditDraft:
        bounded = bounded_ids([*restored])
        stores = tuple(restored[record_id] for record_id in bounded.record_ids)
        summary = {"restored": len(restored), **bounded.summary}
        return AuditDraft(self.now, "lifecycle.restore", bounded.record_ids, stores, summary)

    def _restore(self, ledger: Ledger, record_id: RecordId) -> ContentRow | None:
        archived = take_from_archive(ledger, record_id)
        if archived is None:
            return None
        row = archived.content
        curve = ledger.curve(row.store_code)
        put_memory(
            ledger,
            NewRecord(
                namespace=self.namespace,
                record_id=record_id,
                row=row,
                state=curve.rebased(parse_state_row(archived.state)[1], self.now),
                associations=parse_edges(archived.edges),
                embedding=embedding_of(codec.parse(row.content, MemoryContent)),
                emotion=codec.parse(row.emotion, EmotionVector) if row.emotion else None,
            ),
        )
        return row
