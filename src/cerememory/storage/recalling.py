"""What recalls do to the memories that they return, as it is committed: a moment later, many recalls together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TypeAlias

import msgspec

from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.fidelity import State
from cerememory.protocol.records import Store
from cerememory.storage.evolving import note_hit_rates
from cerememory.storage.keys import Table, key, pack_time
from cerememory.storage.ledger import Ledger
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import dump_state_row, parse_state_row

_Row: TypeAlias = tuple[int, State]  # the code of the store that a memory is in, and its state
_Touch: TypeAlias = tuple[bytes, SavedState, bool]  # its row's key, and whether its recall saw the last commit


class SaveRecall(msgspec.Struct, frozen=True):
    """Write what one recall did to the states of the durable memories it returned, and its audit entry.

    `hit_rate`: the store that the recall is put down to, and its rate. `as_of`: the last commit when the recall
    began to read; None: unknown.
    """

    namespace: int
    states: tuple[SavedState, ...]
    audit: AuditDraft
    hit_rate: tuple[Store, float] | None
    as_of: int | None = None

    def apply(self, ledger: Ledger) -> None:
        SaveRecalls(self.namespace, (self,)).apply(ledger)


class SaveRecalls(msgspec.Struct, frozen=True):
    """The same of several recalls of one namespace, in their order: each state is written once.

    What their hit rates change in how a store's memories fade holds from the next commit on.
    """

    namespace: int
    recalls: tuple[SaveRecall, ...]

    def apply(self, ledger: Ledger) -> None:
        ledger.counters().recalls += len(self.recalls)
        self._touch(ledger)
        note_hit_rates(ledger, [recall.hit_rate for recall in self.recalls if recall.hit_rate is not None])
        for recall in self.recalls:
            ledger.audit(recall.audit)

    def _touch(self, ledger: Ledger) -> None:
        """Sums are those of recalls that are committed one by one; a state's store is told of the last."""
        prefix = key(self.namespace, Table.STATE)
        touches = [
            (prefix + pack_time(saved.created_at) + saved.record_id, saved, saw_last)
            for recall in self.recalls
            for saw_last in (recall.as_of is not None and recall.as_of + 1 == ledger.sequence,)
            for saved in recall.states
        ]
        rows = _found(ledger, touches)
        sums = ledger.counters().fidelity_sums
        last: dict[bytes, SavedState] = {}
        for row_key, saved, _saw_last in touches:
            last[row_key] = saved
            found = rows[row_key]
            if found is None:  # it was forgotten in the meantime
                continue
            code, state = found
            is_as_seen = state is saved.before and code == saved.store_code  # nearly always
            after = saved.state if is_as_seen else _after(ledger, saved, code, state)
            sums[code] += after.score - state.score
            rows[row_key] = code, after
        for row_key, saved in last.items():
            if (row := rows[row_key]) is not None:
                ledger.put(row_key, dump_state_row(*row))
            ledger.saved(saved)


def _found(ledger: Ledger, touches: Sequence[_Touch]) -> dict[bytes, _Row | None]:
    """The states as they are before the first touch of each; None: it is gone.

    Those that can't have changed since they were seen aren't read again: each read in the writer's thread gives
    the interpreter away and waits to get it back, which takes longer than all else here.
    """
    found: dict[bytes, _Row | None] = {}
    unsure: list[bytes] = []
    for row_key, saved, saw_last in touches:
        if row_key in found:
            continue
        found[row_key] = saved.store_code, saved.before
        if not (saw_last and saved.was_stored) or ledger.is_changed(row_key):
            unsure.append(row_key)
    found.update(zip(unsure, map(_parsed, ledger.get_many(unsure)), strict=True))
    return found


def _parsed(value: bytes | None) -> _Row | None:
    return None if value is None else parse_state_row(value)


def _after(ledger: Ledger, saved: SavedState, code: int, found: State) -> State:
    """The state that the recall made of `found`, anew when it isn't the one that the recall saw.

    A memory is in the store that its row says: an import may have put it into another one since it was recalled.
    """
    if found == saved.before and code == saved.store_code:
        return saved.state
    return ledger.curve(code).retrieved(found, saved.state.last_accessed_at)


def together(recalls: Sequence[SaveRecall]) -> list[SaveRecalls]:
    """Those of a namespace that follow each other as one."""
    grouped = groupby(recalls, key=lambda recall: recall.namespace)
    return [SaveRecalls(namespace, tuple(of_it)) for namespace, of_it in grouped]


def recalls_of(mutation: object) -> tuple[SaveRecall, ...]:
    return mutation.recalls if isinstance(mutation, SaveRecalls) else ()
