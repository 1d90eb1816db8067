"""What recalls do to memories, committed together: the same as one after the other, in fewer rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.decay import STANDARD
from cerememory.domain.evolution import HIT_RATES_MIN
from cerememory.domain.fidelity import State
from cerememory.protocol.records import STORES, Store
from cerememory.protocol.values import NANOS
from cerememory.storage.dynamics import read_dynamics
from cerememory.storage.evolving import note_hit_rates
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, counters_key, key, state_key
from cerememory.storage.ledger import Finished, Ledger, Mutation
from cerememory.storage.prepared import NewRecord, SavedState
from cerememory.storage.recalling import SaveRecall, together
from cerememory.storage.rows import STORE_CODE, dump_state_row, parse_counters, parse_state_row
from tests.support.committing import (
    a_record,
    an_id,
    changed,
    commit,
    forgetting,
    saved_state,
    stored_state,
    storing,
    updating,
)
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage
from tests.support.states import states

EPISODIC = STANDARD[Store.EPISODIC]
CODE = STORE_CODE[Store.EPISODIC]
RECORDS = [a_record(number) for number in (1, 2, 3)]


def a_recall(*saved: SavedState, namespace: int = DEFAULT_NAMESPACE) -> SaveRecall:
    ids = tuple(each.record_id for each in saved)
    audit = AuditDraft(
        NOW, "recall.query.reconsolidate", ids, ("episodic",) * len(ids), {"records_updated": len(ids)}
    )
    return SaveRecall(namespace, saved, audit, (Store.EPISODIC, 1.0))


def chain(record: NewRecord, count: int) -> list[SavedState]:
    """What `count` recalls in a row, each of which saw what the last one did, made of a new memory."""
    saved, state = [], record.state
    for number in range(1, count + 1):
        before, state = state, EPISODIC.retrieved(state, NOW + number * NANOS)
        saved.append(SavedState(DEFAULT_NAMESPACE, record.record_id, NOW, CODE, before, state))
    return saved


def outcome(*mutations: Mutation[None]) -> tuple[MemoryStorage, Finished]:
    """Of recalls that are committed behind two memories; the third is gone."""
    storage = MemoryStorage()
    commit(storage, storing(*RECORDS[:2]))
    _answers, finished = commit(storage, *mutations)
    assert finished is not None
    return storage, finished


def recalls() -> list[SaveRecall]:
    """Of the first memory in a row, of the second by two who saw the same, of the third after it was forgotten."""
    ones = chain(RECORDS[0], 3)
    two = saved_state(RECORDS[1], EPISODIC.retrieved(RECORDS[1].state, NOW + NANOS))
    gone = saved_state(RECORDS[2], EPISODIC.retrieved(RECORDS[2].state, NOW + NANOS))
    return [a_recall(ones[0], two), a_recall(ones[1], two), a_recall(ones[2], gone)]


def test_recalls_that_are_committed_together_leave_what_they_leave_one_after_the_other() -> None:
    alone, told_alone = outcome(*recalls())
    joined, told = outcome(*together(recalls()))
    assert joined.rows() == alone.rows()
    assert told.audit_lines == told_alone.audit_lines
    assert len(told.audit_lines) == 3, "each recall has its entry"
    assert read_dynamics_of(joined) == (1.0, 1.0, 1.0)
    counters = parse_counters(joined.rows()[counters_key(DEFAULT_NAMESPACE)])
    states = [stored_state(joined.rows(), an_id(number)) for number in (1, 2)]
    assert counters.recalls == 3
    assert counters.fidelity_sums[CODE] == sum(state.score for state in states)
    assert [state.access_count for state in states] == [3, 2]


def read_dynamics_of(storage: MemoryStorage) -> tuple[float, ...]:
    with storage.read() as reader:
        return read_dynamics(reader, DEFAULT_NAMESPACE).evolutions[CODE].hit_rates


def test_a_memory_that_many_recalls_touched_is_told_to_its_store_once_with_its_last_state() -> None:
    _storage, told = outcome(*together(recalls()))
    assert [saved.record_id for saved in told.effects.saved] == [an_id(1), an_id(2), an_id(3)]
    assert told.effects.saved[0] is not None
    assert told.effects.saved[0].state.access_count == 3
    state_rows = [row for row in told.changes if row == state_key(DEFAULT_NAMESPACE, NOW, an_id(1))]
    assert len(state_rows) == 1


def test_recalls_of_another_namespace_are_committed_beside_them() -> None:
    own, other = a_recall(), a_recall(namespace=7)
    assert [(each.namespace, each.recalls) for each in together([own, own, other, own])] == [
        (DEFAULT_NAMESPACE, (own, own)),
        (7, (other,)),
        (DEFAULT_NAMESPACE, (own,)),
    ]


def test_a_memory_that_is_in_another_store_by_now_stays_there() -> None:
    """As after an import that replaced it, by one of the same time."""
    storage, semantic = MemoryStorage(), STORE_CODE[Store.SEMANTIC]
    commit(storage, storing(a_record(1, store=Store.SEMANTIC)))
    commit(storage, *together([a_recall(*chain(RECORDS[0], 1))]))
    code, state = parse_state_row(storage.rows()[state_key(DEFAULT_NAMESPACE, NOW, an_id(1))])
    assert (code, state.access_count) == (semantic, 1)
    assert state == STANDARD[Store.SEMANTIC].retrieved(a_record(1, store=Store.SEMANTIC).state, NOW + NANOS)
    sums = parse_counters(storage.rows()[counters_key(DEFAULT_NAMESPACE)]).fidelity_sums
    assert (sums[CODE], sums[semantic]) == (0.0, state.score)


# --- Any recalls, with whatever happens between them

STORED = [
    a_record(1),
    a_record(2, store=Store.SEMANTIC),
    a_record(3, created_at=NOW - 90 * 86_400 * NANOS),
    a_record(4, store=Store.EMOTIONAL, namespace=7),
]
NEVER_STORED = a_record(5)


@st.composite
def touched(draw: st.DrawFn) -> SavedState:
    """A memory of any number, found as it was stored, as an earlier recall had made it, or otherwise."""
    record = draw(st.sampled_from([*STORED, STORED[0], STORED[0], NEVER_STORED]))
    before = draw(st.sampled_from([record.state, EPISODIC.retrieved(record.state, NOW + NANOS)]) | states())
    code = draw(st.sampled_from([record.row.store_code, record.row.store_code, CODE]))
    after = EPISODIC.retrieved(before, NOW + draw(st.integers(-5, 50)) * NANOS)
    return SavedState(record.namespace, record.record_id, record.row.created_at, code, before, after)


@st.composite
def any_recall(draw: st.DrawFn) -> SaveRecall:
    namespace = draw(st.sampled_from([DEFAULT_NAMESPACE, DEFAULT_NAMESPACE, DEFAULT_NAMESPACE, 7]))
    recall = a_recall(*draw(st.lists(touched(), max_size=5)), namespace=namespace)
    rate = draw(st.none() | st.tuples(st.sampled_from(STORES), st.floats(0.75, 1)))  # which moves no curve
    return SaveRecall(namespace, recall.states, recall.audit, rate)


RECALLS = st.lists(any_recall(), max_size=4)
OTHERS = st.sampled_from(
    [*(lambda number=number: forgetting(number) for number in (1, 2, 3)), lambda: updating(1, metadata={"a": 1})]
)
GROUPS = st.lists(st.tuples(RECALLS, OTHERS), min_size=1, max_size=3)


def begun() -> MemoryStorage:
    storage = MemoryStorage()
    for record in STORED:
        commit(storage, storing(record))
    return storage


@dataclass(frozen=True)
class InASimpleWay:
    """What `SaveRecall` is to do, each row read and written by itself."""

    recall: SaveRecall

    @property
    def namespace(self) -> int:
        return self.recall.namespace

    def apply(self, ledger: Ledger) -> None:
        ledger.counters().recalls += 1
        for saved in self.recall.states:
            row_key = state_key(self.namespace, saved.created_at, saved.record_id)
            if (value := ledger.get(row_key)) is not None:
                code, state = parse_state_row(value)
                is_as_seen = (code, state) == (saved.store_code, saved.before)
                anew = ledger.curve(code).retrieved(state, saved.state.last_accessed_at)
                after = saved.state if is_as_seen else anew
                ledger.counters().fidelity_sums[code] += after.score - state.score
                ledger.put(row_key, dump_state_row(code, after))
        if self.recall.hit_rate is not None:
            note_hit_rates(ledger, [self.recall.hit_rate])
        ledger.audit(self.recall.audit)


def test_what_hit_rates_change_in_a_curve_holds_from_the_next_commit_on() -> None:
    """All recalls of one commit go by the curve in front of it."""
    storage, record = begun(), STORED[0]
    other = changed(record.state, access_count=9)
    unlike = SavedState(DEFAULT_NAMESPACE, record.record_id, NOW, CODE, other, EPISODIC.retrieved(other, NOW + 1))
    low = SaveRecall(DEFAULT_NAMESPACE, (unlike,), a_recall(unlike).audit, (Store.EPISODIC, 0.0))
    commit(storage, *together([low] * HIT_RATES_MIN))
    expected = record.state
    for _ in range(HIT_RATES_MIN):
        expected = EPISODIC.retrieved(expected, NOW + 1)
    assert stored_state(storage.rows(), record.record_id) == expected
    commit(storage, low)
    assert stored_state(storage.rows(), record.record_id) != EPISODIC.retrieved(expected, NOW + 1)


def told_states(finished: Finished) -> dict[tuple[int, bytes], State]:
    """The last that each store is told of each memory."""
    return {(saved.namespace, saved.record_id): saved.state for saved in finished.effects.saved}


@given(GROUPS)
def test_any_recalls_together_leave_what_they_leave_one_after_the_other(
    groups: list[tuple[list[SaveRecall], Callable[[], Mutation[Any]]]],
) -> None:
    """In the rows to the last bit, which has counters, audit lines and how the stores evolve."""
    simple, alone, joined = begun(), begun(), begun()
    for recalls_, other in groups:
        one_by_one = [InASimpleWay(recall) for recall in recalls_]
        _, told_simple = commit(simple, *one_by_one, other(), *one_by_one)
        _, told_alone = commit(alone, *recalls_, other(), *recalls_)
        _, told = commit(joined, *together(recalls_), other(), *together(recalls_))
        if told is None or told_alone is None or told_simple is None:
            assert told is told_alone is told_simple
        else:
            assert told.audit_lines == told_alone.audit_lines == told_simple.audit_lines
            assert told.changes == told_alone.changes == told_simple.changes
            assert told_states(told) == told_states(told_alone)
        assert joined.rows() == alone.rows() == simple.rows()


@given(RECALLS.filter(bool))
def test_recalls_of_one_commit_leave_the_states_and_counters_of_as_many_commits(
    recalls_: list[SaveRecall],
) -> None:
    alone, joined = begun(), begun()
    lines = tuple(line for recall in recalls_ for line in audited(alone, recall))
    assert audited(joined, *together(recalls_)) == lines
    for prefix in (Table.STATE, Table.CONTENT):
        for namespace in (DEFAULT_NAMESPACE, 7):
            assert rows_under(joined, key(namespace, prefix)) == rows_under(alone, key(namespace, prefix))
    for namespace in (DEFAULT_NAMESPACE, 7):
        assert joined.rows().get(counters_key(namespace)) == alone.rows().get(counters_key(namespace))


def audited(storage: MemoryStorage, *mutations: Mutation[Any]) -> tuple[bytes, ...]:
    _answers, finished = commit(storage, *mutations)
    assert finished is not None
    return finished.audit_lines


def rows_under(storage: MemoryStorage, prefix: bytes) -> dict[bytes, bytes]:
    return {row_key: value for row_key, value in storage.rows().items() if row_key.startswith(prefix)}
