"""What recalls do to the memories that they return, as it is committed: a moment later, many recalls together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.fidelity import State
from cerememory.protocol.records import Store
from cerememory.protocol.values import RecordId
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
        for touches in _by_record(self.recalls):
            _save(ledger, touches)
        note_hit_rates(ledger, [recall.hit_rate for recall in self.recalls if recall.hit_rate is not None])
        for recall in self.recalls:
            ledger.audit(recall.audit)


def together(recalls: Sequence[SaveRecall]) -> list[SaveRecalls]:
    """Those of a namespace that follow each other as one."""
    grouped = groupby(recalls, key=lambda recall: recall.namespace)
    return [SaveRecalls(namespace, tuple(of_it)) for namespace, of_it in grouped]


def _by_record(recalls: Iterable[SaveRecall]) -> Iterable[list[SavedState]]:
    touches: dict[RecordId, list[SavedState]] = {}
    for recall in recalls:
        for saved in recall.states:
            touches.setdefault(saved.record_id, []).append(saved)
    return touches.values()


def _save(ledger: Ledger, touches: list[SavedState]) -> None:
    """What the recalls made of a memory, one after the other."""
    last = touches[-1]
    row_key = state_key(last.namespace, last.created_at, last.record_id)
    value = ledger.get(row_key)
    if value is not None:  # else it was forgotten in the meantime
        before = state = parse_state_row(value)[1]
        for saved in touches:
            state = _after(ledger, saved, state)
        ledger.put(row_key, dump_state_row(last.store_code, state))
        ledger.counters().fidelity_sums[last.store_code] += state.score - before.score
    ledger.saved(last)


def _after(ledger: Ledger, saved: SavedState, found: State) -> State:
    """The state that the recall made of `found`, anew when it isn't the one that the recall saw."""
    if found == saved.before:
        return saved.state
    return ledger.curve(saved.store_code).retrieved(found, saved.state.last_accessed_at)
