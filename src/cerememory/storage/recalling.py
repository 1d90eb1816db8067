"""What recalls do to the memories that they return, as it is committed: a moment later, many recalls together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.fidelity import State
from cerememory.protocol.records import Store
from cerememory.storage.evolving import note_hit_rates
from cerememory.storage.keys import Table, key, pack_time
from cerememory.storage.ledger import Ledger
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import dump_state_row, parse_state_row

_Row: TypeAlias = tuple[int, State]  # the code of the store that a memory is in, and its state


@dataclass(frozen=True, slots=True)
class SaveRecall:
    """Write what one recall did to the states of the durable memories it returned, and its audit entry.

    `hit_rate`: the store that the recall is put down to, and its rate.
    """

    namespace: int
    states: tuple[SavedState, ...]
    audit: AuditDraft
    hit_rate: tuple[Store, float] | None

    def apply(self, ledger: Ledger) -> None:
        SaveRecalls(self.namespace, (self,)).apply(ledger)


@dataclass(frozen=True, slots=True)
class SaveRecalls:
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
        touches = [saved for recall in self.recalls for saved in recall.states]
        prefix = key(self.namespace, Table.STATE)
        row_keys = [prefix + pack_time(saved.created_at) + saved.record_id for saved in touches]
        last = dict(zip(row_keys, touches, strict=True))
        rows = dict(zip(last, map(_parsed, ledger.get_many(list(last))), strict=True))
        sums = ledger.counters().fidelity_sums
        for row_key, saved in zip(row_keys, touches, strict=True):
            found = rows[row_key]
            if found is None:  # it was forgotten in the meantime
                continue
            code, state = found
            after = _after(ledger, saved, code, state)
            sums[code] += after.score - state.score
            rows[row_key] = code, after
        for row_key, row in rows.items():
            if row is not None:
                ledger.put(row_key, dump_state_row(*row))
            ledger.saved(last[row_key])


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
