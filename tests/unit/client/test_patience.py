"""How long a call goes on: back-off, jitter, limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.client.patience import FIRST_STEP_S, LAST_STEP_S, RETRY_FOR_S, Patience


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def patience(
    clock: FakeClock,
    timeout_s: float | None = None,
    retry_for_s: float | None = None,
    chance: float = 1.0,
) -> Patience:
    return Patience(timeout_s, retry_for_s, clock, lambda: chance)


def all_pauses(budget: Patience, clock: FakeClock, least_s: float = 0.0) -> list[float]:
    pauses: list[float] = []
    while (pause_s := budget.pause_s(least_s)) is not None:
        pauses.append(pause_s)
        clock.now += pause_s
    return pauses


def test_pauses_double_up_to_a_longest_one() -> None:
    pauses = all_pauses(patience(clock := FakeClock(), timeout_s=60), clock)
    assert pauses[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, LAST_STEP_S])
    assert max(pauses) == LAST_STEP_S


def test_chance_shortens_a_pause_by_half_at_most() -> None:
    assert patience(FakeClock(), chance=0.0).pause_s(0.0) == FIRST_STEP_S / 2


def test_a_pause_is_no_shorter_than_the_daemon_asked() -> None:
    assert patience(FakeClock()).pause_s(3.0) == 3.0


def test_a_pause_past_the_limit_is_not_begun() -> None:
    assert patience(FakeClock(), timeout_s=5).pause_s(5.0) is None


def test_without_a_limit_retries_end_some_seconds_after_the_first_failure() -> None:
    clock = FakeClock()
    budget = patience(clock)
    clock.now += 3_600  # a long first try costs no retries
    assert RETRY_FOR_S - LAST_STEP_S <= sum(all_pauses(budget, clock)) < RETRY_FOR_S


def test_retries_can_be_switched_off() -> None:
    assert patience(FakeClock(), timeout_s=60, retry_for_s=0).pause_s(0.0) is None


def test_what_remains_shrinks_with_the_clock_and_never_reaches_zero() -> None:
    clock = FakeClock()
    budget = patience(clock, timeout_s=5)
    assert budget.remaining_s() == 5
    clock.now += 4
    assert budget.remaining_s() == 1
    clock.now += 4
    assert 0 < (budget.remaining_s() or 0) < 0.01


def test_without_a_limit_nothing_remains_to_be_counted() -> None:
    assert patience(FakeClock()).remaining_s() is None


@given(
    timeout_s=st.floats(0, 1_000),
    retry_for_s=st.none() | st.floats(0, 1_000),
    least_s=st.floats(0.5, 10),
    chance=st.floats(0, 1),
)
def test_retries_stay_within_both_limits(
    timeout_s: float, retry_for_s: float | None, least_s: float, chance: float
) -> None:
    clock = FakeClock()
    started_at = clock.now
    all_pauses(patience(clock, timeout_s, retry_for_s, chance), clock, least_s)
    limit_s = timeout_s if retry_for_s is None else min(timeout_s, retry_for_s)
    assert clock.now - started_at <= limit_s
