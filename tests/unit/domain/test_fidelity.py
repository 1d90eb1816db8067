"""What a state is made of: the dynamics of each store, ranges that hold for any number, and what a recall adds."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.decay import STANDARD
from cerememory.domain.fidelity import (
    DYNAMICS,
    RATE_MAX,
    STABILITY_MAX,
    STABILITY_MIN,
    State,
    emotional_factor,
    reinforced,
    usable_decay_rate,
    usable_stability,
)
from cerememory.protocol.records import STORES, Store
from cerememory.protocol.values import UINT32_MAX
from tests.support.states import ANY_FLOATS, NOW, states

LATER = NOW + 5
# Source: the engine specification, "Stores".
SPECIFIED = {
    Store.EPISODIC: (0.3, 1.5, 0.1, 0.01),
    Store.SEMANTIC: (0.15, 2.0, 0.05, 0.005),
    Store.PROCEDURAL: (0.1, 2.5, 0.02, 0.001),
    Store.EMOTIONAL: (0.2, 1.8, 0.08, 0.01),
    Store.WORKING: (0.8, 1.0, 0.3, 0.1),
}


def fresh(store: Store = Store.EPISODIC) -> State:
    return STANDARD[store].fresh(NOW)


@pytest.mark.parametrize("store", STORES)
def test_each_store_has_the_dynamics_of_the_specification(store: Store) -> None:
    row = DYNAMICS[store]
    assert (row.decay_rate, row.retrieval_boost, row.interference, row.prune_threshold) == SPECIFIED[store]


@pytest.mark.parametrize(
    ("given_", "used"),
    [
        (2.5, 2.5),
        (0.0, STABILITY_MIN),
        (-3.0, STABILITY_MIN),
        (math.nan, STABILITY_MIN),
        (math.inf, STABILITY_MAX),
        (-math.inf, STABILITY_MIN),
    ],
)
def test_a_stability_is_brought_into_its_range(given_: float, used: float) -> None:
    assert usable_stability(given_) == used


@pytest.mark.parametrize(
    ("given_", "used"), [(0.3, 0.3), (-0.3, 0.0), (math.nan, 0.0), (math.inf, RATE_MAX), (-math.inf, 0.0)]
)
def test_a_decay_rate_is_brought_into_its_range(given_: float, used: float) -> None:
    assert usable_decay_rate(given_) == used


@pytest.mark.parametrize(
    ("intensity", "factor"), [(0.0, 1.0), (0.5, 1.25), (1.0, 1.5), (7.0, 1.5), (-2.0, 1.0), (math.nan, 1.0)]
)
def test_an_emotion_counts_half_and_within_its_range(intensity: float, factor: float) -> None:
    assert emotional_factor(intensity) == factor


@pytest.mark.parametrize("store", STORES)
def test_the_first_retrieval_adds_the_boost(store: Store) -> None:
    boost = SPECIFIED[store][1]
    state = reinforced(fresh(store), boost, LATER)
    assert state.stability == pytest.approx(1.0 + boost)
    assert (state.access_count, state.reinforcement_count, state.last_accessed_at) == (1, 1, LATER)


def test_further_retrievals_add_less_and_less_in_proportion() -> None:
    once = reinforced(fresh(), 1.5, NOW)
    twice = reinforced(once, 1.5, NOW)
    assert twice.stability == pytest.approx(2.5 * (1 + 1.5 * 2.5**-0.2))
    assert twice.stability / once.stability < once.stability / 1.0


@given(st.integers(1, 200), st.sampled_from(STORES))
def test_any_number_of_retrievals_only_hardens_a_memory(times: int, store: Store) -> None:
    state = fresh(store)
    for i in range(times):
        before, state = state, reinforced(state, SPECIFIED[store][1], NOW + i)
        assert state.stability > before.stability
    assert (state.access_count, state.reinforcement_count) == (times, times)


@given(ANY_FLOATS)
def test_a_retrieval_makes_a_usable_stability_of_any(stability: float) -> None:
    after = reinforced(msgspec.structs.replace(fresh(), stability=stability), 1.5, LATER).stability
    assert min(usable_stability(stability) * 1.001, STABILITY_MAX) <= after <= STABILITY_MAX


@given(states())
def test_reinforcement_leaves_what_it_does_not_concern(before: State) -> None:
    after = reinforced(before, 2.0, LATER)
    concerned = {"stability", "access_count", "reinforcement_count", "last_accessed_at"}
    left = {name for name in State.__struct_fields__ if getattr(after, name) == getattr(before, name)}
    assert left >= set(State.__struct_fields__) - concerned


def test_counts_stop_where_the_wire_type_does() -> None:
    full = msgspec.structs.replace(fresh(), access_count=UINT32_MAX, reinforcement_count=UINT32_MAX)
    after = reinforced(full, 1.5, LATER)
    assert (after.access_count, after.reinforcement_count) == (2**32 - 1, 2**32 - 1)


def test_what_is_shown_is_what_was_last_written() -> None:
    state = msgspec.structs.replace(fresh(), base_score=0.9, score=0.4, noise_level=0.2, last_decay_tick_at=LATER)
    shown = state.fidelity()
    assert (shown.score, shown.noise_level, shown.last_decay_tick) == (0.4, 0.2, LATER)
    assert (shown.decay_rate, shown.stability, shown.emotional_anchor) == (0.3, 1.0, 1.0)
