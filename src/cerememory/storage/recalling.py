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
from cerememory.storage.keys import state_key
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
    """The same of several recalls of one namespace, in their order: each state is written once."""

    namespace: int
    recalls: tuple[SaveRecall, ...]

    def apply(self, ledger: Ledger) -> None:
        ledger.counters().recalls += len(self.recalls)
        touched = _Touched(ledger)
        for recall in self.recalls:
            for saved in recall.states:
                touched.touch(saved)
        touched.write()
        note_hit_rates(ledger, [recall.hit_rate for recall in self.recalls if recall.hit_rate is not None])
        for recall in self.recalls:
            ledger.audit(recall.audit)


def together(recalls: Sequence[SaveRecall]) -> list[SaveRecalls]:
    """Those of a namespace that follow each other as one."""
    grouped = groupby(recalls, key=lambda recall: recall.namespace)
    return [SaveRecalls(namespace, tuple(of_it)) for namespace, of_it in grouped]


def recalls_of(mutation: object) -> tuple[SaveRecall, ...]:
    return mutation.recalls if isinstance(mutation, SaveRecalls) else ()


class _Touched:
    """The states that recalls touch, in their order: sums are those of recalls that are committed one by one.

    A memory is in the store that its row says: an import may have put it into another one since it was recalled.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rows: dict[bytes, _Row | None] = {}  # by their keys, as they are by now; None: there is none
        self._last: dict[bytes, SavedState] = {}

    def touch(self, saved: SavedState) -> None:
        row_key = state_key(saved.namespace, saved.created_at, saved.record_id)
        found = self._rows[row_key] if row_key in self._rows else self._stored(row_key)
        after = None  # it was forgotten in the meantime
        if found is not None:
            code, state = found
            after = code, self._after(saved, code, state)
            self._ledger.counters().fidelity_sums[code] += after[1].score - state.score
        self._rows[row_key] = after
        self._last[row_key] = saved

    def _stored(self, row_key: bytes) -> _Row | None:
        value = self._ledger.get(row_key)
        return None if value is None else parse_state_row(value)

    def _after(self, saved: SavedState, code: int, found: State) -> State:
        """The state that the recall made of `found`, anew when it isn't the one that the recall saw."""
        if found == saved.before and code == saved.store_code:
            return saved.state
        return self._ledger.curve(code).retrieved(found, saved.state.last_accessed_at)

    def write(self) -> None:
        """Each once; its store is told of the last."""
        for row_key, row in self._rows.items():
            if row is not None:
                self._ledger.put(row_key, dump_state_row(*row))
            self._ledger.saved(self._last[row_key])
