"""The standard curve: the specification's numbers, whatever way time passed, for one state as for many."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.curve import FORECAST_NS_MAX, Curve, Prune, Rules, TickedRows
from cerememory.domain.decay import FIRST_EPOCH, STANDARD, ClosedForm, Epoch
from cerememory.domain.fidelity import DYNAMICS, State, reinforced
from cerememory.protocol.records import DURABLE_STORES, Store
from cerememory.protocol.values import NANOS, TIMESTAMP_MAX, TIMESTAMP_MIN
from cerememory.storage.rows import dump_state_row, dump_state_rows
from tests.support.states import (
    AGES_NS,
    ANY_FLOATS,
    DAY_NS,
    DAY_S,
    NOW,
    UNITS,
    YEAR_NS,
    epoch_lists,
    rows_of,
    states,
)

EPISODIC = STANDARD[Store.EPISODIC]
EXACT = Rules(epsilon=0.0)  # a tick writes whatever moved
DURATIONS_S = st.integers(0, 10 * 365 * DAY_S)
AGREED = 1e-12
CURVES = st.builds(
    ClosedForm,
    st.sampled_from([DYNAMICS[store] for store in DURABLE_STORES]),
    st.builds(
        Rules,
        time_unit_secs=st.sampled_from([1, 3_600, DAY_S]),
        epsilon=st.sampled_from([0.0, 0.001]),
        prune=st.sampled_from(["never", "delete"]),
        faint_threshold=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    ),
    ahead_ns=st.sampled_from([0, 3 * YEAR_NS]),
    epochs=epoch_lists(),
)


def made(**given: Any) -> State:
    """A state of `NOW`: new, but for what is given."""
    return msgspec.structs.replace(EPISODIC.fresh(NOW), **given)


def faded(state: State, age_ns: int, curve: Curve = EPISODIC) -> State:
    return curve.current(state, NOW + age_ns)


@pytest.mark.parametrize(("days", "score"), [(0, "1.00"), (1, "0.81"), (30, "0.36"), (365, "0.17")])
def test_an_untouched_episodic_memory_fades_as_specified(days: int, score: str) -> None:
    assert f"{faded(made(), days * DAY_NS).score:.2f}" == score


@pytest.mark.parametrize(
    ("given_", "days", "score"),
    [
        ({}, 9, 10**-0.3),
        ({"stability": 2.5}, 10, 5**-0.3),
        ({"decay_rate": 0.1}, 9, 10**-0.1),
        ({"base_score": 0.5}, 9, 0.5 * 10**-0.3),
        ({"intensity": 1.0}, 9, 10 ** (-0.3 / 1.5)),
        ({"intensity": 0.5}, 9, 10 ** (-0.3 / 1.25)),
    ],
)
def test_a_score_follows_from_base_stability_exponent_and_emotion(
    given_: dict[str, float], days: int, score: float
) -> None:
    assert faded(made(**given_), days * DAY_NS).score == pytest.approx(score, rel=1e-14)


@pytest.mark.parametrize(
    ("given_", "days", "noise"),
    [
        ({}, 9, 0.1 * 3 * (1 - 10**-0.3)),
        ({"base_noise": 0.2}, 9, 0.2 + 0.1 * 3 * (1 - 10**-0.3)),
        ({"base_noise": 0.9}, 9, 1.0),
        ({"decay_rate": 0.0}, 9, 0.0),
    ],
)
def test_noise_grows_with_time_and_with_what_is_lost(given_: dict[str, float], days: int, noise: float) -> None:
    assert faded(made(**given_), days * DAY_NS).noise_level == pytest.approx(noise, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("store", DURABLE_STORES)
def test_each_store_fades_by_its_own_dynamics(store: Store) -> None:
    curve, dynamics = STANDARD[store], DYNAMICS[store]
    state = faded(curve.fresh(NOW), 9 * DAY_NS, curve)
    assert state.score == pytest.approx(10**-dynamics.decay_rate)
    assert state.noise_level == pytest.approx(dynamics.interference * 3 * (1 - state.score))


def test_time_is_counted_in_the_unit_of_the_rules() -> None:
    hourly = ClosedForm(DYNAMICS[Store.EPISODIC], Rules(time_unit_secs=3_600))
    assert faded(made(), 9 * 3_600 * NANOS, hourly).score == pytest.approx(10**-0.3)


@given(states(), AGES_NS)
def test_a_memory_of_the_future_is_as_it_will_be(state: State, before_ns: int) -> None:
    seen = EPISODIC.current(state, state.base_at - before_ns)
    assert (seen.score, seen.noise_level) == (state.base_score, state.base_noise)


@given(states(stability=ANY_FLOATS, decay_rate=ANY_FLOATS, intensity=ANY_FLOATS), AGES_NS)
def test_any_numbers_give_a_score_and_a_noise_from_nought_to_one(state: State, age_ns: int) -> None:
    later = faded(state, age_ns)
    assert 0.0 <= later.score <= state.base_score
    assert state.base_noise <= later.noise_level <= 1.0


@given(
    states(stability=ANY_FLOATS, decay_rate=ANY_FLOATS, intensity=ANY_FLOATS),
    CURVES,
    st.lists(AGES_NS, max_size=9),
)
def test_no_score_rises_and_no_noise_falls_by_itself(state: State, curve: ClosedForm, ages: list[int]) -> None:
    seen = [faded(state, age_ns, curve) for age_ns in sorted(ages)]
    for before, after in pairwise(seen):
        assert after.score <= before.score + 1e-15
        assert after.noise_level >= before.noise_level - 1e-15


@given(states(), CURVES, st.lists(AGES_NS, max_size=5), AGES_NS)
def test_ticks_change_nothing_of_what_is_to_come(
    state: State, curve: ClosedForm, ticks: list[int], end: int
) -> None:
    curve = replace(curve, rules=EXACT)
    ticked, now = state, NOW
    for step in ticks:
        now += step
        ticked = curve.ticked(ticked, now).state
    agree(curve.current(ticked, now + end), curve.current(state, now + end))


@given(states(), CURVES, DURATIONS_S, DURATIONS_S)
def test_two_durations_are_as_their_sum(state: State, curve: ClosedForm, first_s: int, second_s: int) -> None:
    curve = replace(curve, rules=EXACT)
    one = curve.advanced(first_s)
    two = one.advanced(second_s)
    stepped = two.ticked(one.ticked(state, NOW).state, NOW).state
    agree(two.current(stepped, NOW), curve.advanced(first_s + second_s).current(state, NOW))


def agree(left: State, right: State) -> None:
    assert left.score == pytest.approx(right.score, abs=AGREED)
    assert left.noise_level == pytest.approx(right.noise_level, abs=AGREED)


@given(states(), DURATIONS_S)
def test_a_duration_is_as_if_that_much_time_had_passed(state: State, duration_s: int) -> None:
    advanced = EPISODIC.advanced(duration_s)
    agree(advanced.current(state, NOW), EPISODIC.current(state, NOW + duration_s * NANOS))
    later = NOW + DAY_NS
    agree(advanced.current(state, later), EPISODIC.current(state, later + duration_s * NANOS))


def test_the_exponent_changes_where_an_epoch_begins_and_what_was_lost_stays_lost() -> None:
    epochs = (FIRST_EPOCH, Epoch(NOW + 9 * DAY_NS, 0.9), Epoch(NOW + 12 * DAY_NS, 0.5))
    curve = ClosedForm(DYNAMICS[Store.EPISODIC], epochs=epochs)
    first, second, third = 10**-0.3, 4**-0.27, 5**-0.15  # 9 days, 3 days, 4 days
    assert faded(made(), 9 * DAY_NS - 1, curve).score == pytest.approx(first)
    assert faded(made(), 12 * DAY_NS, curve).score == pytest.approx(first * second)
    assert faded(made(), 16 * DAY_NS, curve).score == pytest.approx(first * second * third)
    now = faded(made(), 16 * DAY_NS, curve)
    assert (now.epoch, now.base_at) == (2, epochs[2].since)
    assert (now.base_score, now.decay_rate) == pytest.approx((first * second, 0.15))


def test_a_state_of_a_later_epoch_has_its_exponent_already() -> None:
    epochs = (FIRST_EPOCH, Epoch(NOW - DAY_NS, 0.9), Epoch(NOW + 9 * DAY_NS, 0.45))
    curve = ClosedForm(replace(DYNAMICS[Store.EPISODIC], decay_rate=0.135), epochs=epochs)
    state = made(epoch=1, decay_rate=0.27)
    assert faded(state, 9 * DAY_NS, curve).score == pytest.approx(10**-0.27)
    assert faded(state, 10 * DAY_NS, curve).score == pytest.approx(10**-0.27 * 2**-0.135)
    assert (curve.fresh(NOW).epoch, curve.fresh(NOW).decay_rate) == (2, 0.135)


def test_an_epoch_takes_no_time_from_a_memory_that_was_made_after_it_began() -> None:
    curve = ClosedForm(DYNAMICS[Store.EPISODIC], epochs=(FIRST_EPOCH, Epoch(NOW - DAY_NS, 0.5)))
    seen = faded(made(epoch=0), 9 * DAY_NS, curve)
    assert seen.score == pytest.approx(10**-0.15)
    assert seen.base_at == NOW


@given(states(), CURVES, AGES_NS, AGES_NS)
def test_a_recall_moves_the_base_to_now_and_hardens(
    state: State, curve: ClosedForm, age_ns: int, further_ns: int
) -> None:
    now = NOW + age_ns
    before, after = curve.current(state, now), curve.retrieved(state, now)
    assert (after.base_score, after.base_noise) == (before.score, before.noise_level)
    assert (after.score, after.noise_level) == (before.score, before.noise_level)
    assert (after.base_at, after.last_accessed_at, after.epoch) == (curve.virtual(now), now, before.epoch)
    assert after.stability == reinforced(state, curve.dynamics.retrieval_boost, now).stability
    assert (after.access_count, after.reinforcement_count) == (
        state.access_count + 1,
        state.reinforcement_count + 1,
    )
    agree(curve.current(after, now), before)


def test_a_changed_emotion_counts_from_then_on() -> None:
    felt = EPISODIC.rebased(made(), NOW + 9 * DAY_NS, intensity=1.0)
    assert (felt.score, felt.intensity) == pytest.approx((10**-0.3, 1.0))
    assert faded(felt, 18 * DAY_NS).score == pytest.approx(10**-0.3 * 10**-0.2)


@pytest.mark.parametrize("epsilon", [0.001, 0.1])
def test_a_tick_writes_only_what_moved_by_more_than_epsilon(epsilon: float) -> None:
    curve = ClosedForm(DYNAMICS[Store.EPISODIC], Rules(epsilon=epsilon))
    score = 0.8
    just = made(base_score=score, score=score + epsilon * 0.99)
    more = made(base_score=score, score=score + epsilon * 1.01, intensity=1.0)
    later = NOW + 1
    assert curve.ticked(just, later).state is just
    written = curve.ticked(more, later).state
    assert (written.score, written.emotional_anchor) == pytest.approx((score, 1.5))
    assert written.last_decay_tick_at == later
    assert (written.base_score, written.base_at) == (more.base_score, more.base_at), "the base stays"


@pytest.mark.parametrize(("prune", "is_pruned"), [("never", False), ("archive", True), ("delete", True)])
def test_what_is_below_the_threshold_is_pruned_unless_never(prune: Prune, is_pruned: bool) -> None:
    curve = ClosedForm(DYNAMICS[Store.SEMANTIC], Rules(prune=prune))
    below, above = made(base_score=0.00499), made(base_score=0.005)
    ticked = curve.ticked(below, NOW)
    assert (ticked.is_below, ticked.is_pruned) == (True, is_pruned)
    ticked = curve.ticked(above, NOW)
    assert (ticked.is_below, ticked.is_pruned) == (False, False)


MANY = st.lists(
    states(stability=ANY_FLOATS, decay_rate=ANY_FLOATS, intensity=ANY_FLOATS, epoch=st.integers(0, 7)),
    min_size=1,
    max_size=8,
)


@given(MANY, CURVES, AGES_NS)
def test_rows_are_ticked_as_states_are(some: list[State], curve: ClosedForm, age_ns: int) -> None:
    now = NOW + age_ns
    rows = rows_of(some)
    ticked = curve.ticked_rows(rows, now)
    singly = [curve.ticked(state, now) for state in some]
    close(ticked.scores, [curve.current(state, now).score for state in some])
    assert ticked.is_moved.tolist() == [one.state is not state for one, state in zip(singly, some, strict=True)]
    assert ticked.is_below.tolist() == [one.is_below for one in singly]
    assert ticked.is_pruned.tolist() == [one.is_pruned for one in singly]
    expected = rows_of([one.state for one in singly])
    for name in State.__struct_fields__:
        close(ticked.rows[name], expected[name])


def close(left: Any, right: Any) -> None:
    np.testing.assert_allclose(left, right, rtol=AGREED, atol=AGREED)


@given(MANY, CURVES)
def test_rows_that_did_not_move_stay_byte_by_byte(some: list[State], curve: ClosedForm) -> None:
    ticked = curve.ticked_rows(rows_of(some), NOW)
    values = dump_state_rows(ticked.rows)
    for value, state, is_moved in zip(values, some, ticked.is_moved, strict=True):
        assert is_moved or value == dump_state_row(0, state)


@given(MANY, CURVES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(some: list[State], curve: ClosedForm, rng: random.Random) -> None:
    order = list(range(len(some)))
    rng.shuffle(order)
    ticked, shuffled = ticked_in(curve, some), ticked_in(curve, [some[i] for i in order])
    assert shuffled.rows.tobytes() == ticked.rows[order].tobytes()
    assert shuffled.scores.tobytes() == ticked.scores[order].tobytes()


def ticked_in(curve: Curve, some: list[State]) -> TickedRows:
    return curve.ticked_rows(rows_of(some), NOW)


@pytest.mark.parametrize("base_at", [TIMESTAMP_MIN, 0, NOW, TIMESTAMP_MAX])
@pytest.mark.parametrize("ahead_ns", [0, 2**62])
def test_ages_at_the_ends_of_the_clock_are_those_of_a_single_state(base_at: int, ahead_ns: int) -> None:
    curve = ClosedForm(DYNAMICS[Store.EPISODIC], EXACT, ahead_ns)
    state = made(base_at=base_at, decay_rate=0.01)
    [score] = ticked_in(curve, [state]).scores
    assert score == pytest.approx(curve.current(state, NOW).score, abs=AGREED)
    if base_at == TIMESTAMP_MIN:
        days = (NOW + ahead_ns - base_at) / DAY_NS
        assert score == pytest.approx((1 + days) ** -0.01)


@pytest.mark.parametrize(
    ("given_", "days"),
    [
        ({}, 10 ** (1 / 0.3) - 1),
        ({"stability": 0.5}, 0.5 * (10 ** (1 / 0.3) - 1)),
        ({"base_score": 0.2}, 2 ** (1 / 0.3) - 1),
        ({"decay_rate": 0.6, "intensity": 1.0}, 10 ** (1 / 0.4) - 1),
    ],
)
def test_the_day_on_which_a_memory_is_faint(given_: dict[str, float], days: float) -> None:
    faint_at = EPISODIC.forecast(made(**given_), NOW, NOW).faint_at
    assert faint_at is not None
    assert (faint_at - NOW) / DAY_NS == pytest.approx(days, rel=1e-12)


@pytest.mark.parametrize(
    "given_",
    [
        {"base_score": 0.1},
        {"base_score": 0.01},
        {"decay_rate": 0.0},
        {"decay_rate": 0.1},  # 10^10 days
        {"decay_rate": 1e-5},  # 10^100000
        {"stability": math.inf},
    ],
    ids=["at the threshold", "below", "never", "after ten years", "no double", "too hard"],
)
def test_no_day_for_what_is_faint_or_will_not_be_for_ten_years(given_: dict[str, float]) -> None:
    assert EPISODIC.forecast(made(**given_), NOW, NOW).faint_at is None


@pytest.mark.parametrize(
    ("begins", "days"),
    [(3_000, 10 ** (1 / 0.3) - 1), (100, 100 + (101**-0.3 / 0.1) ** (1 / 0.15) - 1)],
    ids=["after that day", "before it"],
)
def test_the_day_is_in_the_epoch_that_lasts_so_long(begins: int, days: float) -> None:
    epochs = (FIRST_EPOCH, Epoch(NOW + begins * DAY_NS, 0.5), Epoch(NOW + 3_100 * DAY_NS, 0.4))
    faint_at = ClosedForm(DYNAMICS[Store.EPISODIC], epochs=epochs).forecast(made(), NOW, NOW).faint_at
    assert faint_at is not None
    assert (faint_at - NOW) / DAY_NS == pytest.approx(days, rel=1e-12)


def test_a_threshold_of_nought_is_never_reached() -> None:
    curve = ClosedForm(DYNAMICS[Store.EPISODIC], Rules(faint_threshold=0.0))
    assert curve.forecast(made(decay_rate=1e300), NOW, NOW).faint_at is None


def test_a_clock_put_forward_brings_the_day_nearer() -> None:
    plain, ahead = EPISODIC.forecast(made(), NOW, NOW), EPISODIC.advanced(DAY_S).forecast(made(), NOW, NOW)
    assert plain.faint_at is not None
    assert ahead.faint_at == plain.faint_at - DAY_NS


@given(states(), CURVES, AGES_NS)
def test_the_day_is_where_the_score_goes_through_the_threshold(
    state: State, curve: ClosedForm, age_ns: int
) -> None:
    now, threshold = NOW + age_ns, curve.faint_threshold
    outlook = curve.forecast(state, now, now + YEAR_NS)
    faint_at = outlook.faint_at
    if faint_at is None:
        in_ten_years = curve.current(state, now + FORECAST_NS_MAX).score
        assert outlook.current <= threshold or in_ten_years >= threshold - AGREED
    else:
        assert outlook.current > threshold
        assert faint_at <= now + FORECAST_NS_MAX
        assert curve.current(state, faint_at - 1_000_000).score >= threshold - AGREED
        assert curve.current(state, faint_at + 1_000_000).score <= threshold + AGREED


@given(states(), CURVES, st.integers(-5 * YEAR_NS, 5 * YEAR_NS))
def test_a_forecast_is_the_score_of_that_day_and_of_now_for_the_past(
    state: State, curve: ClosedForm, in_ns: int
) -> None:
    outlook = curve.forecast(state, NOW, NOW + in_ns)
    assert outlook.current == curve.current(state, NOW).score
    assert outlook.forecasted == curve.current(state, NOW + max(in_ns, 0)).score


@given(UNITS)
def test_reading_writes_nothing(score: float) -> None:
    rows = rows_of([made(base_score=score, base_at=NOW - YEAR_NS)])
    before = rows.tobytes()
    EPISODIC.ticked_rows(rows, NOW)
    assert rows.tobytes() == before
