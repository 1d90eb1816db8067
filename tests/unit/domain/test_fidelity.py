"""The state of a memory: whole when it is new, counted and harder to forget at each retrieval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.fidelity import DYNAMICS, UINT32_MAX, fresh, retrieved
from cerememory.protocol.records import STORES, Store
from tests.support.committing import changed

NOW = 1_800_000_000_000_000_000
LATER = NOW + 5
# Source: the engine specification, "Stores".
SPECIFIED = {
    Store.EPISODIC: (0.3, 1.5, 0.1, 0.01),
    Store.SEMANTIC: (0.15, 2.0, 0.05, 0.005),
    Store.PROCEDURAL: (0.1, 2.5, 0.02, 0.001),
    Store.EMOTIONAL: (0.2, 1.8, 0.08, 0.01),
    Store.WORKING: (0.8, 1.0, 0.3, 0.1),
}


@pytest.mark.parametrize("store", STORES)
def test_each_store_has_the_dynamics_of_the_specification(store: Store) -> None:
    row = DYNAMICS[store]
    assert (row.decay_rate, row.retrieval_boost, row.interference, row.prune_threshold) == SPECIFIED[store]


@pytest.mark.parametrize("store", STORES)
def test_a_new_memory_is_whole(store: Store) -> None:
    state = fresh(store, NOW)
    shown = state.fidelity()
    assert (shown.score, shown.noise_level, shown.stability, shown.emotional_anchor) == (1.0, 0.0, 1.0, 1.0)
    assert (shown.decay_rate, shown.reinforcement_count) == (SPECIFIED[store][0], 0)
    assert shown.last_decay_tick == state.base_at == state.last_accessed_at == NOW
    assert state.access_count == 0


@pytest.mark.parametrize("store", STORES)
def test_the_first_retrieval_adds_the_boost_of_the_store(store: Store) -> None:
    state = retrieved(fresh(store, NOW), store, LATER)
    assert state.stability == pytest.approx(1.0 + SPECIFIED[store][1])
    assert (state.access_count, state.reinforcement_count) == (1, 1)
    assert (state.last_accessed_at, state.base_at) == (LATER, LATER)


def test_further_retrievals_add_less_and_less_in_proportion() -> None:
    once = retrieved(fresh(Store.EPISODIC, NOW), Store.EPISODIC, NOW)
    twice = retrieved(once, Store.EPISODIC, NOW)
    assert twice.stability == pytest.approx(2.5 * (1 + 1.5 * 2.5**-0.2))
    assert twice.stability / once.stability < once.stability / 1.0


@given(st.integers(1, 200), st.sampled_from(STORES))
def test_any_number_of_retrievals_only_hardens_a_memory(times: int, store: Store) -> None:
    state = fresh(store, NOW)
    for i in range(times):
        before, state = state, retrieved(state, store, NOW + i)
        assert state.stability > before.stability
    assert (state.access_count, state.reinforcement_count) == (times, times)


@given(score=st.floats(0, 1), noise=st.floats(0, 1))
def test_a_retrieval_leaves_what_it_does_not_concern(score: float, noise: float) -> None:
    before = changed(fresh(Store.SEMANTIC, NOW), score=score, noise_level=noise, decay_rate=0.4)
    after = retrieved(before, Store.SEMANTIC, LATER)
    assert (after.score, after.noise_level, after.decay_rate) == (score, noise, 0.4)
    assert (after.emotional_anchor, after.last_decay_tick_at) == (1.0, NOW)


def test_counts_stop_where_the_wire_type_does() -> None:
    full = changed(fresh(Store.EPISODIC, NOW), access_count=UINT32_MAX, reinforcement_count=UINT32_MAX)
    after = retrieved(full, Store.EPISODIC, LATER)
    assert (after.access_count, after.reinforcement_count) == (2**32 - 1, 2**32 - 1)
