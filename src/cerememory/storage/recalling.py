"""What recalls do to the memories that they return, as it is committed: a moment later, many recalls together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.fidelity import State
from cerememory.protocol.records import Store
from cerememory.storage.evolving import note_hit_rates
from cerememory.storage.keys import state_key
from cerememory.storage.ledger import Ledger
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import dump_state_row, parse_state_row


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


class _Touched:
    """The states that recalls touch, in their order: sums are those of recalls that are committed one by one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._states: dict[bytes, State | None] = {}  # by their keys, as they are by now; None: there is none
        self._last: dict[bytes, SavedState] = {}

    def touch(self, saved: SavedState) -> None:
        row_key = state_key(saved.namespace, saved.created_at, saved.record_id)
        found = self._states[row_key] if row_key in self._states else self._stored(row_key)
        after = None  # it was forgotten in the meantime
        if found is not None:
            after = self._after(saved, found)
            self._ledger.counters().fidelity_sums[saved.store_code] += after.score - found.score
        self._states[row_key] = after
        self._last[row_key] = saved

    def _stored(self, row_key: bytes) -> State | None:
        value = self._ledger.get(row_key)
        return None if value is None else parse_state_row(value)[1]

    def _after(self, saved: SavedState, found: State) -> State:
        """The state that the recall made of `found`, anew when it isn't the one that the recall saw."""
        if found == saved.before:
            return saved.state
        return self._ledger.curve(saved.store_code).retrieved(found, saved.state.last_accessed_at)

    def write(self) -> None:
        """Each once; its store is told of the last."""
        for row_key, state in self._states.items():
            saved = self._last[row_key]
            if state is not None:
                self._ledger.put(row_key, dump_state_row(saved.store_code, state))
            self._ledger.saved(saved)
