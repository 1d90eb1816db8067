"""What consolidation writes, a batch of its plan at a time: duplicates become one, and memories get their copies.

A run answers with what its last batch adds up: every one is told what the run did before it. Each writes an audit
entry of what it did itself. What was changed or removed since the plan was made is left out, and not counted.

The next incremental run looks at what has times from the last one on. Whatever is changed so that its times don't
say it (an import, a clock that was set back) has the next run look at all instead: the time of the last one goes,
and a run under way that finds another than it began with leaves it so. So does what is left out of a run, as a
memory from which a secret was taken meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.consolidation import LOOK_BACK_NS, Merge, joined_edges
from cerememory.domain.derivation import semantic_ids_of, with_semantic_ids
from cerememory.domain.fidelity import State
from cerememory.errors import StorageDamaged
from cerememory.protocol import codec
from cerememory.protocol.records import (
    Association,
    AssociationType,
    EmotionVector,
    MemoryContent,
    Store,
)
from cerememory.protocol.replies import Consolidated
from cerememory.protocol.values import RecordId, Timestamp
from cerememory.storage.edges import edges_of, set_edges, sources_of
from cerememory.storage.episodes import episode_stamp
from cerememory.storage.keys import NOWHERE, Table, counters_key, state_key
from cerememory.storage.ledger import Ledger
from cerememory.storage.mutations import Stored, embedding_of, put_memory
from cerememory.storage.prepared import NewRecord
from cerememory.storage.removal import archive_memory, remove_memory
from cerememory.storage.rows import (
    STORE_CODE,
    ContentRow,
    Counters,
    dump_counters,
    dump_row,
    parse_content_row,
    parse_state_row,
)

OPERATION = "lifecycle.consolidate"
EPISODIC_CODE, SEMANTIC_CODE = STORE_CODE[Store.EPISODIC], STORE_CODE[Store.SEMANTIC]
COPY_WEIGHT = 1.0
LOOKING_AT_ALL = 0  # in the place of the time of the last run, until one that looks at all has ended
NOTHING = Consolidated(
    records_processed=0,
    records_migrated=0,
    records_compressed=0,
    records_pruned=0,
    semantic_nodes_created=0,
)


def added(one: Consolidated, other: Consolidated) -> Consolidated:
    pairs = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    return Consolidated(**dict(zip(Consolidated.__struct_fields__, (a + b for a, b in pairs), strict=True)))


@dataclass(frozen=True, slots=True)
class SemanticCopy:
    """A copy to be made of `original`; `content` is the original's with a summary, and was made of `read`."""

    original: RecordId
    copy_id: RecordId
    read: bytes
    content: MemoryContent


@dataclass(frozen=True, slots=True)
class ConsolidateBatch:
    """Carry out a part of a plan, which was made at `now` of records that had these `stamps`.

    `last_run_at` is the time of the last run, by which the plan was made; None: this one takes no place of it. Of
    `faint` go those that still are below `faint_below`: into the archive until `kept_until`, or for good when that
    is None. `processed` is how many records the batch stands for in the counts; after the last one the run counts
    as done.
    """

    namespace: int
    now: int
    last_run_at: int | None
    stamps: Mapping[RecordId, bytes]
    merges: tuple[Merge, ...]
    copies: tuple[SemanticCopy, ...]
    faint: tuple[RecordId, ...]
    faint_below: float
    kept_until: int | None
    processed: int
    before: Consolidated
    is_last: bool

    def apply(self, ledger: Ledger) -> Stored[Consolidated]:
        absorbed = self._absorb(ledger)
        copied = sum(self._copy(ledger, copy) for copy in self.copies)
        pruned = sum(self._prune(ledger, record_id) for record_id in self.faint)
        done = Consolidated(
            records_processed=self.processed,
            records_migrated=copied,
            records_compressed=absorbed,
            records_pruned=pruned,
            semantic_nodes_created=copied,
        )
        if self.is_last and self.namespace != NOWHERE:
            self._note_run(ledger.counters())
        ledger.audit(_audit(self.now, done, is_dry_run=False))
        return Stored(added(self.before, done), ledger.sequence)

    def _note_run(self, counters: Counters) -> None:
        if self.last_run_at is not None and counters.last_consolidated_at == self.last_run_at:
            counters.last_consolidated_at = self.now

    def _row(self, ledger: Ledger, record_id: RecordId) -> ContentRow | None:
        """The row of a record that is as the plan saw it."""
        value = ledger.get(ledger.key(Table.CONTENT, record_id))
        row = None if value is None else parse_content_row(value)
        if row is not None and episode_stamp(row) != self.stamps[record_id]:
            self._leave_out(ledger, row)
            return None
        return row

    def _leave_out(self, ledger: Ledger, row: ContentRow) -> None:
        """The next run is to look at it."""
        if row.updated_at <= self.now - LOOK_BACK_NS:
            ledger.counters().last_consolidated_at = None

    def _absorb(self, ledger: Ledger) -> int:
        """All edges are led to where their targets go before anything is removed."""
        moved = self._moved(ledger)
        for source in _touched(ledger, moved):
            self._relink(ledger, source, moved)
        for record_id, kept in moved.items():
            removed = remove_memory(ledger, record_id, self.now)
            if removed is not None:
                self._add_copies(ledger, kept, semantic_ids_of(removed.metadata))
        return len(moved)

    def _moved(self, ledger: Ledger) -> dict[RecordId, RecordId]:
        """Whom each record that is absorbed goes into."""
        return {
            record_id: merge.kept
            for merge in self.merges
            if self._row(ledger, merge.kept) is not None
            for record_id in merge.absorbed
            if self._row(ledger, record_id) is not None
        }

    def _relink(self, ledger: Ledger, source: RecordId, moved: Mapping[RecordId, RecordId]) -> None:
        known = edges_of(ledger, source)
        taken = (edge for gone, kept in moved.items() if kept == source for edge in edges_of(ledger, gone))
        edges = joined_edges(source, (*known, *taken), moved)
        if edges != known:
            set_edges(ledger, source, edges)
            self._edit(ledger, source, updated_at=self.now)

    def _add_copies(self, ledger: Ledger, kept: RecordId, copies: list[RecordId]) -> None:
        if copies:
            metadata = _content_row(ledger, kept).metadata
            self._edit(ledger, kept, updated_at=self.now, metadata=with_semantic_ids(metadata, copies))

    def _copy(self, ledger: Ledger, copy: SemanticCopy) -> bool:
        row = self._row(ledger, copy.original)
        if row is None or semantic_ids_of(row.metadata):
            return False
        if row.content != copy.read:
            self._leave_out(ledger, row)
            return False
        edges = edges_of(ledger, copy.original)
        put_memory(ledger, self._copied(ledger, copy, row, (*edges, _link(copy.original, self.now))))
        set_edges(ledger, copy.original, (*edges, _link(copy.copy_id, self.now)))
        metadata = with_semantic_ids(row.metadata, [copy.copy_id])
        self._edit(ledger, copy.original, updated_at=self.now, metadata=metadata)
        return True

    def _copied(
        self, ledger: Ledger, copy: SemanticCopy, row: ContentRow, edges: tuple[Association, ...]
    ) -> NewRecord:
        """All of the original but its store: times and counts, too."""
        return NewRecord(
            namespace=self.namespace,
            record_id=copy.copy_id,
            row=msgspec.structs.replace(row, store_code=SEMANTIC_CODE, content=codec.dump(copy.content)),
            state=self._copied_state(ledger, copy.original, row),
            associations=edges,
            embedding=embedding_of(copy.content),
            emotion=codec.parse(row.emotion, EmotionVector) if row.emotion else None,
        )

    def _copied_state(self, ledger: Ledger, original: RecordId, row: ContentRow) -> State:
        """As faded as the original is by now, and fading as semantic memories do from there."""
        semantic = ledger.curve(SEMANTIC_CODE)
        here = ledger.curve(EPISODIC_CODE).rebased(_state(ledger, original, row), self.now)
        return msgspec.structs.replace(here, decay_rate=semantic.dynamics.decay_rate, epoch=semantic.epoch)

    def _prune(self, ledger: Ledger, record_id: RecordId) -> bool:
        row = self._row(ledger, record_id)
        if row is None or not semantic_ids_of(row.metadata):
            return False
        here = ledger.curve(EPISODIC_CODE).current(_state(ledger, record_id, row), self.now)
        if here.score >= self.faint_below:
            return False
        if self.kept_until is None:
            remove_memory(ledger, record_id, self.now)
        else:
            archive_memory(ledger, record_id, row, self.kept_until)
        return True

    def _edit(self, ledger: Ledger, record_id: RecordId, **changes: object) -> None:
        row = msgspec.structs.replace(_content_row(ledger, record_id), **changes)
        ledger.put(ledger.key(Table.CONTENT, record_id), dump_row(row))


def _content_row(ledger: Ledger, record_id: RecordId) -> ContentRow:
    value = ledger.get(ledger.key(Table.CONTENT, record_id))
    if value is None:
        raise StorageDamaged("an edge leads from a record that isn't there")
    return parse_content_row(value)


def _state(ledger: Ledger, record_id: RecordId, row: ContentRow) -> State:
    value = ledger.get(state_key(ledger.namespace, row.created_at, record_id))
    if value is None:
        raise StorageDamaged("a content without a state")
    return parse_state_row(value)[1]


def _touched(ledger: Ledger, moved: Mapping[RecordId, RecordId]) -> set[RecordId]:
    """Whoever absorbs, and whoever points to what is absorbed, and stays."""
    pointing = {source for record_id in moved for source in sources_of(ledger, record_id)}
    return (pointing | set(moved.values())) - set(moved)


def _link(target: RecordId, now: int) -> Association:
    at = Timestamp(now)
    return Association(
        target_id=target,
        association_type=AssociationType.SEMANTIC,
        weight=COPY_WEIGHT,
        created_at=at,
        last_co_activation=at,
    )


@dataclass(frozen=True, slots=True)
class BeginConsolidation:
    """Where the next run is to look at all memories, note that one does now.

    What comes in while it goes on has the one after it look at all again, by taking the time of the last run away:
    were there none, nothing would show it.
    """

    namespace: int

    def apply(self, ledger: Ledger) -> None:
        counters = ledger.counters()
        if counters.last_consolidated_at is None and self.namespace != NOWHERE:
            counters.last_consolidated_at = LOOKING_AT_ALL
            ledger.put(counters_key(self.namespace), dump_counters(counters))


@dataclass(frozen=True, slots=True)
class NoteConsolidation:
    """The audit entry of a dry run at `now`, which changes nothing."""

    namespace: int
    now: int
    counted: Consolidated

    def apply(self, ledger: Ledger) -> Stored[Consolidated]:
        ledger.audit(_audit(self.now, self.counted, is_dry_run=True))
        return Stored(self.counted, ledger.sequence)


def _audit(now: int, counted: Consolidated, *, is_dry_run: bool) -> AuditDraft:
    summary = {**msgspec.structs.asdict(counted), "dry_run": is_dry_run}
    return AuditDraft(now, OPERATION, (), (Store.EPISODIC.value, Store.SEMANTIC.value), summary)


def batches_of(merges: Iterable[Merge], absorbed_max: int) -> list[tuple[Merge, ...]]:
    """The merges in batches that absorb at most `absorbed_max` records each, large ones cut into several."""
    batches: list[tuple[Merge, ...]] = []
    room = 0
    for merge in _cut(merges, absorbed_max):
        if len(merge.absorbed) > room:
            batches.append(())
            room = absorbed_max
        batches[-1] += (merge,)
        room -= len(merge.absorbed)
    return batches


def _cut(merges: Iterable[Merge], absorbed_max: int) -> Iterable[Merge]:
    for merge in merges:
        for start in range(0, len(merge.absorbed), absorbed_max):
            yield Merge(merge.kept, merge.absorbed[start : start + absorbed_max])
