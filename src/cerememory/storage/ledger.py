"""One transaction in the making: what a group of mutations reads, writes, audits and tells its followers.

The writer opens a ledger over a snapshot, lets each mutation `attempt` its part, and commits what
`finish` returns. A mutation that raises leaves no trace. Keys are written once a transaction, the last value
of the group: two values under one key would leave the first behind in a freed page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from cerememory.domain.audit_chain import GENESIS, AuditDraft, chain_line
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Changes, Reader, Storage
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    Table,
    after,
    counters_key,
    pack_sequence,
    system_key,
    unpack_sequence,
)
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import (
    Counters,
    Head,
    dump_counters,
    dump_head,
    dump_ids,
    parse_counters,
    parse_head,
)
from cerememory.storage.text_index import IndexDocument
from cerememory.storage.vectors import VectorChange

R_co = TypeVar("R_co", covariant=True)
OUTBOX_LINES_KEPT = 10_000
TRIM_EVERY = 64  # commits
TRIM_ROWS_MAX = 256  # how many rows of the outbox and of the feed one transaction drops


def commit_alone(storage: Storage, mutation: Mutation[R_co], now: int) -> R_co:
    """Commit one audited mutation while no writer runs: at start, before it."""
    with storage.read() as reader:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        ledger = Ledger(reader, head, now, audited=True, index_applied=0)
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
    """A change that is decided inside the transaction: it reads what is committed and writes its rows."""

    def apply(self, ledger: Ledger) -> R_co: ...


@dataclass(slots=True)
class Effects:
    """What the followers of the writer need to know of a commit, in the order in which it happened."""

    documents: list[IndexDocument] = field(default_factory=list)
    deletions: list[RecordId] = field(default_factory=list)
    vectors: list[VectorChange] = field(default_factory=list)
    saved: list[SavedState] = field(default_factory=list)

    @property
    def concern_indexes(self) -> bool:
        return bool(self.documents or self.deletions or self.vectors)

    def extend(self, other: Effects) -> None:
        self.documents += other.documents
        self.deletions += other.deletions
        self.vectors += other.vectors
        self.saved += other.saved


@dataclass(slots=True)
class _Draft:
    """What one mutation has done so far."""

    changes: dict[bytes, bytes | None] = field(default_factory=dict)
    counters: dict[int, Counters] = field(default_factory=dict)
    audits: list[AuditDraft] = field(default_factory=list)
    effects: Effects = field(default_factory=Effects)
    feed: list[RecordId] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finished:
    """A transaction ready to commit. `audit_lines` have their line ends."""

    changes: Changes
    head: Head
    audit_lines: tuple[bytes, ...]
    effects: Effects


class Ledger:
    """`now` is the commit's time in nanoseconds; `index_applied` is the commit that the index has on disk."""

    def __init__(self, reader: Reader, head: Head, now: int, *, audited: bool, index_applied: int) -> None:
        self.now = now
        self.sequence = head.commit_sequence + 1
        self._reader = reader
        self._head = head
        self._audited = audited
        self._index_applied = index_applied
        self._kept = _Draft()
        self._draft = _Draft()

    def attempt(self, mutation: Mutation[Any]) -> Any:
        """What `mutation` answers; when it raises, the ledger is as it was."""
        self._draft = _Draft()
        answer = mutation.apply(self)
        self._keep()
        return answer

    def _keep(self) -> None:
        kept, draft = self._kept, self._draft
        kept.changes.update(draft.changes)
        kept.counters.update(draft.counters)
        kept.audits += draft.audits
        kept.feed += draft.feed
        kept.effects.extend(draft.effects)

    def get(self, row_key: bytes) -> bytes | None:
        for layer in (self._draft.changes, self._kept.changes):
            if row_key in layer:
                return layer[row_key]
        return self._reader.get(row_key)

    def put(self, row_key: bytes, value: bytes) -> None:
        self._draft.changes[row_key] = value

    def delete(self, row_key: bytes) -> None:
        self._draft.changes[row_key] = None

    def scan_committed(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs as they were before this transaction."""
        return self._reader.scan(start, stop)

    def counters(self, namespace: int = DEFAULT_NAMESPACE) -> Counters:
        """The namespace's counters, to be changed in place."""
        draft = self._draft.counters
        if namespace not in draft:
            kept = self._kept.counters.get(namespace)
            draft[namespace] = kept.copy() if kept is not None else self._committed_counters(namespace)
        return draft[namespace]

    def _committed_counters(self, namespace: int) -> Counters:
        return parse_counters(self._reader.get(counters_key(namespace)))

    def audit(self, draft: AuditDraft) -> None:
        self._draft.audits.append(draft)

    def index(self, document: IndexDocument, *, durable: bool = True) -> None:
        """Tell the text index; a durable record also enters the feed from which the index catches up."""
        self._draft.effects.documents.append(document)
        if durable:
            self._draft.feed.append(document.record_id)

    def vector(self, change: VectorChange) -> None:
        self._draft.effects.vectors.append(change)

    def saved(self, state: SavedState) -> None:
        """Tell the record's store that this state is on disk."""
        self._draft.effects.saved.append(state)

    def finish(self) -> Finished | None:
        """The whole transaction, or None when nothing was changed."""
        kept = self._kept
        if not (kept.changes or kept.audits or kept.effects.documents):
            return None
        changes = dict(kept.changes)
        for namespace, counters in kept.counters.items():
            changes[counters_key(namespace)] = dump_counters(counters)
        lines, audit_sequence, audit_hash = self._chain()
        if lines:
            first = pack_sequence(self._head.audit_sequence + 1)
            changes[system_key(Table.AUDIT_OUTBOX, first)] = b"".join(lines)
        if kept.feed:
            changes[system_key(Table.FEED, pack_sequence(self.sequence))] = dump_ids(kept.feed)
        if self.sequence % TRIM_EVERY == 0:
            self._trim(changes)
        head = Head(self.sequence, audit_sequence, audit_hash, self._head.audit_synced)
        changes[system_key(Table.HEAD)] = dump_head(head)
        return Finished(changes, head, tuple(lines), kept.effects)

    def _chain(self) -> tuple[list[bytes], int, str]:
        sequence, previous = self._head.audit_sequence, self._head.audit_hash
        lines: list[bytes] = []
        if not self._audited:
            return lines, sequence, previous
        for draft in self._kept.audits:
            sequence += 1
            line = chain_line(draft, sequence, previous)
            previous = line.entry_hash
            lines.append(line.data)
        return lines, sequence, previous

    def _trim(self, changes: dict[bytes, bytes | None]) -> None:
        """Drop what every follower has on disk: old audit lines, and feed rows the index has applied."""
        lines_end = min(self._head.audit_synced, self._head.audit_sequence - OUTBOX_LINES_KEPT)
        self._drop_below(Table.AUDIT_OUTBOX, lines_end, changes, keep_last=True)
        if self._drop_below(Table.FEED, self._index_applied, changes):
            changes[system_key(Table.FEED_FLOOR)] = pack_sequence(self._index_applied)

    def _drop_below(
        self, table: Table, sequence: int, changes: dict[bytes, bytes | None], *, keep_last: bool = False
    ) -> bool:
        """Delete rows up to `sequence`; `keep_last` spares the last, which may hold lines behind it."""
        prefix = system_key(table)
        doomed: list[bytes] = []
        for row_key, _value in self._reader.scan(prefix, after(prefix)):
            if unpack_sequence(row_key[len(prefix) :]) > sequence or len(doomed) > TRIM_ROWS_MAX:
                break
            doomed.append(row_key)
        dropped = doomed[:-1] if keep_last else doomed
        changes.update(dict.fromkeys(dropped))
        return bool(dropped)
