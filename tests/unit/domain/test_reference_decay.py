"""The reference's curve, against what was recorded from the reference.

Derivation of the expected numbers, from the recorded times and the formulas of the specification:

- Archive: three memories were encoded, one of them recalled, then one tick of 3,600 s ran half a second later. So
  t = 3600 (the later of last access and last tick, and 3,600 s more, for less has passed). Untouched, S = 1:
  F = 3601^-0.3 = 0.0857…; recalled once, S = 1 · (1 + 1.5 · 1^-0.2) = 2.5: F = (1 + 3600/2.5)^-0.3 = 0.1128…
  N = 0.1 · 60 · (1 - F) is above 1 for both.
- Forecast: S = 2.5, last tick (its making) 2026-11-24T03:29:33.769365426, last access …:34.023268668. To
  2030-01-01 it is 97,965,026.2 s from the last tick: F = (1 + 97965026/2.5)^-0.3 = 0.005273035338308509; from the
  last access it would be 97,965,025.97 s, and 0.00527303535…. At the threshold 0.01 it is
  2.5 · (100^(1/0.3) - 1) = 11,603,969.58 s old; the date is 11,603,969 s after the last access.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.curve import Rules
from cerememory.domain.fidelity import State
from cerememory.domain.reference_decay import Compounding
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord
from cerememory.protocol.values import NANOS, TIMESTAMP_MIN, parse_timestamp
from tests.support.states import AGES_NS, ANY_FLOATS, DAY_NS, DAY_S, NOW, rows_of, states

REFERENCE = Compounding(rules=Rules(profile="reference"))
RECORDED = Path(__file__).parents[2] / "fixtures" / "reference"
TICK_S = 3_600


def made(**given: Any) -> State:
    return msgspec.structs.replace(REFERENCE.fresh(NOW), **given)


def recorded_memories() -> list[MemoryRecord]:
    lines = (RECORDED / "curated-v1.cma").read_bytes().splitlines()
    return [codec.parse(line, MemoryRecord) for line in lines if b'"fidelity"' in line]


def test_the_tick_that_was_recorded_comes_to_the_same_numbers() -> None:
    """All that the tick met; what was made after it is whole."""
    met = [record for record in recorded_memories() if record.fidelity.score < 1.0]
    assert sorted({record.fidelity.score for record in met}) == [0.08571820412327398, 0.11282382148914435]
    for record in met:
        assert record.created_at is not None
        assert record.last_accessed_at is not None
        assert record.fidelity.last_decay_tick is not None
        state = REFERENCE.fresh(record.created_at)
        if record.access_count:
            state = REFERENCE.retrieved(state, record.last_accessed_at)
        ticked = REFERENCE.advanced(TICK_S).ticked(state, record.fidelity.last_decay_tick)
        assert ticked.state.fidelity() == record.fidelity
        assert (ticked.is_below, ticked.is_pruned) == (False, False)


def test_the_forecast_that_was_recorded_comes_to_the_same_numbers() -> None:
    made_at, accessed_at = (
        parse_timestamp("2026-11-24T03:29:33.769365426Z"),
        parse_timestamp("2026-11-24T03:29:34.023268668Z"),
    )
    state = REFERENCE.retrieved(REFERENCE.fresh(made_at), accessed_at)
    outlook = REFERENCE.forecast(state, accessed_at + 10**7, parse_timestamp("2030-01-01T00:00:00Z"))
    assert (outlook.current, outlook.forecasted) == (1.0, 0.005273035338308509)
    assert outlook.faint_at == parse_timestamp("2027-04-07T10:49:03.023268668Z")


def test_the_score_stays_between_ticks_and_at_a_recall() -> None:
    state = made(score=0.5, noise_level=0.2)
    assert REFERENCE.current(state, NOW + DAY_NS) is state
    after = REFERENCE.retrieved(state, NOW + DAY_NS)
    assert (after.score, after.noise_level, after.stability) == (0.5, 0.2, 2.5)


def test_every_tick_multiplies_and_starts_anew() -> None:
    curve, state = REFERENCE.advanced(TICK_S), made()
    scores = [1.0]
    for _ in range(2):
        state = curve.ticked(state, NOW).state
        scores.append(state.score)
    assert [after / before for before, after in pairwise(scores)] == pytest.approx([3601**-0.3] * 2)
    assert curve.ticked(state, NOW).is_pruned, "an untouched memory is gone after three hours"


@pytest.mark.parametrize(
    ("passed_ns", "added_s", "counted_s"),
    [
        (99 * NANOS + NANOS - 1, 0, 99),
        (99 * NANOS, 50, 99),
        (99 * NANOS, 100, 100),
        (-DAY_NS, 0, 0),
        (-DAY_NS, 7, 7),
    ],
)
def test_t_is_whole_seconds_to_now_or_as_long_as_the_tick(passed_ns: int, added_s: int, counted_s: int) -> None:
    [score] = {
        REFERENCE.advanced(added_s).ticked(made(), NOW + passed_ns).state.score,
        *REFERENCE.advanced(added_s).ticked_rows(rows_of([made()]), NOW + passed_ns).scores.tolist(),
    }
    assert score == pytest.approx((1 + counted_s) ** -0.3)


@pytest.mark.parametrize("field", ["last_accessed_at", "last_decay_tick_at"])
def test_t_is_from_the_later_of_last_access_and_last_tick(field: str) -> None:
    state = made(last_accessed_at=NOW - DAY_NS, last_decay_tick_at=NOW - DAY_NS)
    state = msgspec.structs.replace(state, **{field: NOW - 9 * NANOS})
    assert REFERENCE.ticked(state, NOW).state.score == pytest.approx(10**-0.3)


def test_an_emotion_multiplies_and_may_raise_the_score() -> None:
    state = made(score=0.5, intensity=1.0)
    ticked = REFERENCE.ticked(state, NOW).state
    assert (ticked.score, ticked.emotional_anchor) == (0.75, 1.5)
    assert REFERENCE.ticked(ticked, NOW).state.score == 1.0


def test_a_tick_writes_every_memory_and_where_the_standard_would_go_on() -> None:
    curve = Compounding(ahead_ns=5)
    state = made()
    ticked = curve.ticked(state, NOW + 1).state
    assert ticked is not state
    assert (ticked.base_score, ticked.base_noise, ticked.base_at) == (ticked.score, ticked.noise_level, NOW + 6)
    assert ticked.last_decay_tick_at == NOW + 1


@pytest.mark.parametrize(("score", "is_below"), [(0.01, False), (0.00999, True)])
def test_below_one_hundredth_a_memory_goes(score: float, is_below: bool) -> None:
    ticked = REFERENCE.ticked(made(score=score), NOW)
    assert (ticked.is_below, ticked.is_pruned) == (is_below, is_below)


def test_a_forecast_ends_at_the_threshold_of_pruning() -> None:
    assert REFERENCE.faint_threshold == 0.01
    assert REFERENCE.forecast(made(score=0.01), NOW, NOW).faint_at is None
    faint_at = REFERENCE.forecast(made(score=0.02), NOW, NOW).faint_at
    assert faint_at == NOW + 9 * NANOS, "2^(1/0.3) - 1 = 9.08 s"
    raised = REFERENCE.forecast(made(score=0.02, intensity=1.0), NOW, NOW).faint_at
    assert raised == NOW + 37 * NANOS, "3^(1/0.3) - 1 = 37.9 s"
    assert REFERENCE.forecast(made(stability=math.inf), NOW, NOW).faint_at is None


@given(
    st.lists(states(stability=ANY_FLOATS, decay_rate=ANY_FLOATS, intensity=ANY_FLOATS), min_size=1, max_size=8),
    AGES_NS,
    st.integers(0, 40 * DAY_S),
)
def test_rows_are_ticked_as_states_are(some: list[State], age_ns: int, added_s: int) -> None:
    curve, now = REFERENCE.advanced(added_s), NOW + age_ns
    ticked = curve.ticked_rows(rows_of(some), now)
    singly = [curve.ticked(state, now) for state in some]
    expected = rows_of([one.state for one in singly])
    for name in State.__struct_fields__:
        np.testing.assert_allclose(ticked.rows[name], expected[name], rtol=1e-12, atol=1e-12)
    assert ticked.scores.tolist() == ticked.rows["score"].tolist()
    assert ticked.is_below.tolist() == ticked.is_pruned.tolist() == [one.is_below for one in singly]
    assert ticked.is_moved.all()


def test_an_access_at_the_beginning_of_the_clock_is_an_age_all_the_same() -> None:
    state = made(last_accessed_at=TIMESTAMP_MIN, last_decay_tick_at=TIMESTAMP_MIN, decay_rate=0.01)
    [score] = REFERENCE.ticked_rows(rows_of([state]), NOW).scores
    assert score == pytest.approx(REFERENCE.ticked(state, NOW).state.score, rel=1e-12)
    assert score == pytest.approx(((NOW - TIMESTAMP_MIN) / NANOS) ** -0.01)
