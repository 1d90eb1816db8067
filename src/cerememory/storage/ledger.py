"""One transaction in the making: what a group of mutations reads, writes, audits and tells its followers.

The writer opens a ledger over a snapshot, lets each mutation `attempt` its part, and commits what
`finish` returns. A mutation that raises leaves no trace. Keys are written once a transaction, the last value
of the group: two values under one key would leave the first behind in a freed page.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import itemgetter
from typing import Any, Protocol, TypeVar

import msgspec

from cerememory.domain.audit_chain import GENESIS, AuditDraft, chain_line
from cerememory.domain.curve import Curve, Rules
from cerememory.errors import StorageDamaged
from cerememory.protocol.values import RecordId
from cerememory.storage.audit_head import Growth
from cerememory.storage.contract import Changes, Reader, Storage
from cerememory.storage.dynamics import Curves, DynamicsRow, dump_dynamics, dynamics_key, read_dynamics
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    EDGE_TABLE,
    Address,
    Table,
    addresses_in,
    after,
    counters_key,
    dump_addresses,
    key,
    pack_sequence,
    system_key,
    unpack_sequence,
)
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import (
    Counters,
    Head,
    LogRow,
    dump_counters,
    dump_head,
    dump_row,
    parse_counters,
    parse_head,
    parse_log_row,
)
from cerememory.storage.text_index import IndexDocument
from cerememory.storage.vectors import VectorChange

R_co = TypeVar("R_co", covariant=True)
OUTBOX_LINES_KEPT = 10_000
TRIM_EVERY = 64  # commits
TRIM_ROWS_MAX = 256  # how many rows of the log one transaction drops


def commit_alone(storage: Storage, mutation: Mutation[R_co], now: int, head_key: bytes | None = None) -> R_co:
    """Commit one audited mutation while no writer runs: at start, before it."""
    with storage.read() as reader:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        ledger = Ledger(reader, head, now, audited=True, index_applied=0, head_key=head_key)
        answer: R_co = ledger.attempt(mutation)
        finished = ledger.finish()
    if finished is not None:
        storage.commit(finished.changes)
    return answer


def record_audit_synced(storage: Storage, sequence: int) -> None:
    """Note, while no writer runs, that the audit file is synced up to `sequence`."""
    with storage.read() as reader:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
    if sequence > head.audit_synced:
        storage.commit({system_key(Table.HEAD): dump_head(replace(head, audit_synced=sequence))})


class Mutation(Protocol[R_co]):
    """A change that is decided inside the transaction: it reads what is committed and writes its rows.

    It stays within `namespace`, of which the ledger's keys and counters are.
    """

    @property
    def namespace(self) -> int: ...

    def apply(self, ledger: Ledger) -> R_co: ...


@dataclass(slots=True)
class Effects:
    """What the followers of the writer need to know of a commit, in the order in which it happened.

    `changed` are the durable records whose searchable content is another than before, `deletions` those of
    them that are gone, `left` the places in groups that are empty now; `held` is for working memory, from which
    `dropped` are to go.
    `relinked` are the durable records whose edges were written, or that are of another store or time than before.
    `ends_audit_file`: the commit's audit lines are
    the first of a new file.
    """

    changed: list[Address] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)
    held: list[IndexDocument] = field(default_factory=list)
    deletions: list[Address] = field(default_factory=list)
    dropped: list[Address] = field(default_factory=list)
    vectors: list[VectorChange] = field(default_factory=list)
    saved: list[SavedState] = field(default_factory=list)
    relinked: list[Address] = field(default_factory=list)
    ends_audit_file: bool = False

    @property
    def concern_indexes(self) -> bool:
        return bool(self.changed or self.held or self.vectors)

    def extend(self, other: Effects) -> None:
        self.changed += other.changed
        self.left += other.left
        self.held += other.held
        self.deletions += other.deletions
        self.dropped += other.dropped
        self.vectors += other.vectors
        self.saved += other.saved
        self.relinked += other.relinked
        self.ends_audit_file |= other.ends_audit_file


@dataclass(slots=True)
class _Draft:
    """What one mutation has done so far."""

    changes: dict[bytes, bytes | None] = field(default_factory=dict)
    counters: dict[int, Counters] = field(default_factory=dict)
    audits: list[AuditDraft] = field(default_factory=list)
    effects: Effects = field(default_factory=Effects)


@dataclass(frozen=True, slots=True)
class Finished:
    """A transaction ready to commit. `audit_lines` have their line ends."""

    changes: Changes
    head: Head
    audit_lines: tuple[bytes, ...]
    effects: Effects


class Ledger:
    """`now` is the commit's time in nanoseconds; `index_applied` is the commit that the index has on disk.

    `head_key` seals the end of the audit log (`audit_head`); what isn't sealed, no daemon accepts.
    """

    def __init__(
        self,
        reader: Reader,
        head: Head,
        now: int,
        *,
        audited: bool,
        index_applied: int,
        curves: Curves | None = None,
        head_key: bytes | None = None,
    ) -> None:
        self.now = now
        self.sequence = head.commit_sequence + 1
        self.head_key = head_key
        self._reader = reader
        self._head = head
        self._audited = audited
        self._index_applied = index_applied
        self._curves = curves or Curves(Rules())
        self._kept = _Draft()
        self._draft = _Draft()
        self._kept_keys: list[bytes] | None = None  # sorted, once a mutation scans
        self.namespace = 0

    def attempt(self, mutation: Mutation[Any]) -> Any:
        """What `mutation` answers; when it raises, the ledger is as it was."""
        self._draft, self._kept_keys = _Draft(), None
        self.namespace = mutation.namespace
        answer = mutation.apply(self)
        if self._draft.changes:
            self._mind_the_clock()
        self._keep()
        return answer

    def _mind_the_clock(self) -> None:
        """Once a clock was set back, what is written has times from before the last consolidation: the next one is
        to look at all.
        """
        try:
            last_run_at = self._seen_counters().last_consolidated_at
        except StorageDamaged:  # a repair writes other rows beside it, and makes it anew
            return
        if last_run_at is not None and last_run_at > self.now:
            self.counters().last_consolidated_at = None

    def _keep(self) -> None:
        kept, draft = self._kept, self._draft
        kept.changes.update(draft.changes)
        kept.counters.update(draft.counters)
        kept.audits += draft.audits
        draft.effects.relinked += addresses_in(EDGE_TABLE, draft.changes)
        kept.effects.extend(draft.effects)

    def key(self, table: Table, *parts: bytes) -> bytes:
        """A key of the mutation's namespace."""
        return key(self.namespace, table, *parts)

    def get(self, row_key: bytes) -> bytes | None:
        for layer in (self._draft.changes, self._kept.changes):
            if row_key in layer:
                return layer[row_key]
        return self._reader.get(row_key)

    def get_many(self, row_keys: list[bytes]) -> list[bytes | None]:
        """The values in the order of `row_keys`."""
        values = self._reader.get_many(row_keys)
        for layer in (self._kept.changes, self._draft.changes):
            if layer:
                values = [layer.get(k, value) for k, value in zip(row_keys, values, strict=True)]
        return values

    def is_changed(self, row_key: bytes) -> bool:
        """Whether the transaction has changed this row so far."""
        return row_key in self._draft.changes or row_key in self._kept.changes

    def put(self, row_key: bytes, value: bytes) -> None:
        self._draft.changes[row_key] = value

    def delete(self, row_key: bytes) -> None:
        self._draft.changes[row_key] = None

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with `start <= key < stop`, ascending, as they are now; keys that the mutation itself has added
        aren't among them.
        """
        draft, kept = self._draft.changes, self._kept.changes
        added = self._kept_between(start, stop)
        for row_key, value in heapq.merge(self._reader.scan(start, stop), added, key=itemgetter(0)):
            current = draft[row_key] if row_key in draft else kept.get(row_key, value)
            if current is not None:
                yield row_key, current

    def _kept_between(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """What earlier mutations of the group have put under keys that weren't there before."""
        if self._kept_keys is None:
            self._kept_keys = sorted(self._kept.changes)
        keys = self._kept_keys[bisect_left(self._kept_keys, start) : bisect_left(self._kept_keys, stop)]
        kept = ((row_key, self._kept.changes[row_key]) for row_key in keys)
        return [(k, value) for k, value in kept if value is not None and self._reader.get(k) is None]

    def counters(self) -> Counters:
        """The counters of the mutation's namespace, to be changed in place."""
        draft, namespace = self._draft.counters, self.namespace
        if namespace not in draft:
            kept = self._kept.counters.get(namespace)
            draft[namespace] = kept.copy() if kept is not None else self._committed_counters(namespace)
        return draft[namespace]

    def _seen_counters(self) -> Counters:
        """The counters of the mutation's namespace, not to be changed."""
        namespace = self.namespace
        known = self._draft.counters.get(namespace) or self._kept.counters.get(namespace)
        return known or self._committed_counters(namespace)

    def _committed_counters(self, namespace: int) -> Counters:
        return parse_counters(self._reader.get(counters_key(namespace)))

    def curve(self, store_code: int) -> Curve:
        """What the memories of a store fade by, in the mutation's namespace."""
        return self._curves.of(self, self.namespace)[store_code]

    @property
    def evolution_is_frozen(self) -> bool:
        return self._curves.is_frozen

    def dynamics(self) -> DynamicsRow:
        return read_dynamics(self, self.namespace)

    def save_dynamics(self, row: DynamicsRow) -> None:
        self.put(dynamics_key(self.namespace), dump_dynamics(row))

    def audit(self, draft: AuditDraft) -> None:
        if self.namespace != DEFAULT_NAMESPACE:
            draft = msgspec.structs.replace(draft, summary={**draft.summary, "namespace": self.namespace})
        self._draft.audits.append(draft)

    @property
    def audit_end(self) -> Head:
        """The end of the audit log in front of this transaction's entries."""
        return self._head

    def ends_audit_file(self) -> None:
        """Tell the audit log that this transaction's entries are the first of a new file."""
        self._draft.effects.ends_audit_file = True

    def index(self, record_id: RecordId) -> None:
        """Tell the text index that a durable record of the mutation's namespace is new or edited."""
        self._draft.effects.changed.append((self.namespace, record_id))

    def index_held(self, document: IndexDocument) -> None:
        """Tell the text index of a record of working memory, which no log has."""
        self._draft.effects.held.append(document)

    def unindex(self, record_id: RecordId) -> None:
        """Tell the indexes that a durable record of the mutation's namespace is gone."""
        address = (self.namespace, record_id)
        self._draft.effects.deletions.append(address)
        self._draft.effects.changed.append(address)

    def drop(self, record_id: RecordId) -> None:
        """Tell working memory to let go of a record of the mutation's namespace."""
        self._draft.effects.dropped.append((self.namespace, record_id))

    def relinked(self, record_id: RecordId) -> None:
        """Tell the graph that a durable record, of which it keeps store and time, is of others."""
        self._draft.effects.relinked.append((self.namespace, record_id))

    def left(self, place: bytes) -> None:
        """Tell the text index that a record isn't in its place in a group any more (`groups`)."""
        self._draft.effects.left.append(place)

    def vector(self, change: VectorChange) -> None:
        self._draft.effects.vectors.append(change)

    def saved(self, state: SavedState) -> None:
        """Tell the record's store that this state is on disk."""
        self._draft.effects.saved.append(state)

    @property
    def _will_be(self) -> bool:
        return bool(self._kept.changes or self._kept.audits or self._kept.effects.held)

    @property
    def read_from(self) -> int:
        """The last commit that a mutation sees: that of an answer when nothing is changed, so no commit comes."""
        return self.sequence if self._will_be else self.sequence - 1

    def finish(self) -> Finished | None:
        """The whole transaction, or None when nothing was changed."""
        kept, effects = self._kept, self._kept.effects
        if not self._will_be:
            return None
        changes = dict(kept.changes)
        for namespace, counters in kept.counters.items():
            changes[counters_key(namespace)] = dump_counters(counters)
        lines, head = self._chain(changes)
        if lines or effects.changed:
            told = dump_addresses(effects.changed), b"".join(effects.left)
            row = LogRow(self._head.audit_sequence + 1, b"".join(lines), *told)
            changes[system_key(Table.LOG, pack_sequence(self.sequence))] = dump_row(row)
        if self.sequence % TRIM_EVERY == 0:
            self._trim(changes)
        changes[system_key(Table.HEAD)] = dump_head(head)
        return Finished(changes, head, tuple(lines), effects)

    def _chain(self, changes: dict[bytes, bytes | None]) -> tuple[list[bytes], Head]:
        """The group's audit lines and the head behind them; `changes` gets the tiles that they complete."""
        before = self._head
        if not (self._audited and self._kept.audits):
            return [], replace(before, commit_sequence=self.sequence)
        growth, previous = Growth(before), before.audit_hash
        lines: list[bytes] = []
        for sequence, draft in enumerate(self._kept.audits, before.audit_sequence + 1):
            line = chain_line(draft, sequence, previous)
            previous = line.entry_hash
            lines.append(line.data)
            growth.add(line.data)
        changes.update(growth.tiles)
        return lines, growth.head(self.sequence, previous, before.audit_synced, self.head_key)

    def _trim(self, changes: dict[bytes, bytes | None]) -> None:
        """Drop the oldest log rows, up to the first that a follower may lack; the newest audit lines stay."""
        prefix = system_key(Table.LOG)
        for row_key, value in islice(self._reader.scan(prefix, after(prefix)), TRIM_ROWS_MAX):
            packed, row = row_key[len(prefix) :], parse_log_row(value)
            if self._is_needed(unpack_sequence(packed), row):
                return
            changes[row_key] = None
            if row.changed:
                changes[system_key(Table.LOG_FLOOR)] = packed

    def _is_needed(self, sequence: int, row: LogRow) -> bool:
        """The index never says that it has a commit without changes, so it isn't asked about one."""
        lines_end = min(self._head.audit_synced, self._head.audit_sequence - OUTBOX_LINES_KEPT)
        has_needed_lines = bool(row.lines) and row.end_line > lines_end + 1
        return has_needed_lines or (bool(row.changed) and sequence > self._index_applied)
