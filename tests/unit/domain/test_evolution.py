"""Evolution: what is observed, when a parameter moves and how far, and that it is then really used."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.curve import Rules
from cerememory.domain.decay import FIRST_EPOCH, ClosedForm, Epoch
from cerememory.domain.evolution import (
    UNEVOLVED,
    StoreEvolution,
    adjustments,
    after_recall,
    after_tick,
    curve,
    dynamics,
    histogram,
    hit_rate,
)
from cerememory.domain.fidelity import DYNAMICS
from cerememory.domain.reference_decay import REFERENCE_DYNAMICS, Compounding
from cerememory.protocol.records import DURABLE_STORES, Store
from tests.support.states import DAY_NS, NOW, UNITS

AT = NOW


def ticked(evolution: StoreEvolution, *scores: float, at: int = AT, is_frozen: bool = False) -> StoreEvolution:
    return after_tick(evolution, histogram(np.array(scores)), at, is_frozen=is_frozen)


def recalled(evolution: StoreEvolution, *rates: float, is_frozen: bool = False) -> StoreEvolution:
    for rate in rates:
        evolution = after_recall(evolution, rate, is_frozen=is_frozen)
    return evolution


def exponent_factor(evolution: StoreEvolution) -> float:
    return evolution.epochs[-1].multiplier


@pytest.mark.parametrize(
    ("score", "bucket"),
    [(0.0, 0), (0.0999, 0), (0.1, 1), (0.2999, 2), (0.3, 3), (0.6, 6), (0.7, 7), (0.99, 9), (1.0, 9)],
)
def test_a_fidelity_is_in_its_tenth(score: float, bucket: int) -> None:
    assert histogram(np.array([score])).tolist() == [int(i == bucket) for i in range(10)]


@given(st.lists(UNITS), st.lists(UNITS))
def test_histograms_of_parts_add_up(some: list[float], others: list[float]) -> None:
    whole = histogram(np.array(some + others))
    assert (histogram(np.array(some)) + histogram(np.array(others))).tolist() == whole.tolist()
    assert whole.sum() == len(some) + len(others)


@pytest.mark.parametrize(
    ("scores", "moves"),
    [
        ((), False),
        ((0.29,), True),
        ((0.3,), False),
        ((0.29, 0.9), False),
        ((0.1, 0.2, 0.9), True),
        ((0.1, 0.2, 0.3, 0.9), False),
    ],
    ids=["no memory", "one", "at the line", "half", "more than half", "half of four"],
)
def test_a_store_whose_median_is_low_fades_slower_from_then_on(scores: tuple[float, ...], moves: bool) -> None:
    after = ticked(UNEVOLVED, *scores)
    assert after.epochs == ((FIRST_EPOCH, Epoch(AT, 0.9)) if moves else (FIRST_EPOCH,))
    assert after.fidelities == tuple(histogram(np.array(scores)).tolist())


@pytest.mark.parametrize(
    ("scores", "factor"), [((), 1.0), ((0.05,), 0.9), ((0.05, 0.1), 1.0), ((0.05, 0.05, 0.1), 0.9), ((0.1,), 1.0)]
)
def test_a_store_of_mostly_faint_memories_prunes_less(scores: tuple[float, ...], factor: float) -> None:
    assert ticked(UNEVOLVED, *scores).threshold_factor == factor


@pytest.mark.parametrize(
    ("rates", "factor"),
    [
        ([0.0] * 4, 1.0),
        ([0.0] * 5, 1.1),
        ([0.2] * 5, 1.0),
        ([0.0, 0.0, 0.0, 0.0, 1.0], 1.0),
        ([0.0, 0.0, 0.0, 0.0, 0.9], 1.1),
    ],
    ids=["too few", "five", "at the line", "mean at the line", "mean below"],
)
def test_a_store_that_is_rarely_hit_gains_more_by_a_recall(rates: list[float], factor: float) -> None:
    assert recalled(UNEVOLVED, *rates).boost_factor == pytest.approx(factor)


def test_the_window_is_the_last_hundred_recalls() -> None:
    evolution = recalled(UNEVOLVED, *[1.0] * 30, *[0.0] * 70)
    assert (len(evolution.hit_rates), evolution.boost_factor) == (100, 1.0)
    evolution = recalled(evolution, *[0.0] * 10)
    assert (len(evolution.hit_rates), sum(evolution.hit_rates)) == (100, 20.0)
    assert evolution.boost_factor == 1.0
    assert recalled(evolution, 0.0).boost_factor == 1.1


def test_each_parameter_moves_again_while_its_condition_holds_and_by_half_at_most() -> None:
    evolution = UNEVOLVED
    exponents, thresholds = [], []
    for i in range(9):
        evolution = ticked(evolution, 0.05, at=AT + i)
        exponents.append(exponent_factor(evolution))
        thresholds.append(evolution.threshold_factor)
    expected = pytest.approx([0.9, 0.81, 0.729, 0.6561, 0.59049, 0.531441, 0.5, 0.5, 0.5])
    assert exponents == expected
    assert thresholds == expected
    assert [epoch.since for epoch in evolution.epochs] == [0, *range(AT, AT + 7)], "no epoch without a change"
    boosts = [recalled(evolution, *[0.0] * times).boost_factor for times in (5, 6, 7, 8, 9, 10)]
    assert boosts == pytest.approx([1.1, 1.21, 1.331, 1.4641, 1.5, 1.5])


def test_an_epoch_never_begins_before_the_last_one() -> None:
    evolution = ticked(ticked(UNEVOLVED, 0.0), 0.0, at=AT - DAY_NS)
    assert [epoch.since for epoch in evolution.epochs] == [0, AT, AT]


def test_frozen_it_observes_and_moves_nothing() -> None:
    evolution = recalled(ticked(UNEVOLVED, 0.0, is_frozen=True), *[0.0] * 9, is_frozen=True)
    assert (evolution.fidelities[0], len(evolution.hit_rates)) == (1, 9)
    assert dynamics(Store.EPISODIC, evolution) == DYNAMICS[Store.EPISODIC]
    assert adjustments(Store.EPISODIC, evolution) == ()
    moved = recalled(ticked(UNEVOLVED, 0.0), *[0.0] * 5)
    kept = recalled(ticked(moved, 0.0, is_frozen=True), 0.0, is_frozen=True)
    assert dynamics(Store.EPISODIC, kept) == dynamics(Store.EPISODIC, moved), "what has moved stays moved"


@pytest.mark.parametrize(
    ("returned", "observed"),
    [
        ([], None),
        ([(Store.SEMANTIC, 0.5)], (Store.SEMANTIC, 1.0)),
        ([(Store.SEMANTIC, 0.0)], (Store.SEMANTIC, 0.0)),
        (
            [(Store.EPISODIC, 0.9), (Store.SEMANTIC, 0.1), (Store.SEMANTIC, 0.0), (Store.WORKING, 0.0)],
            (Store.EPISODIC, 0.5),
        ),
        ([(Store.WORKING, 0.9), (Store.SEMANTIC, 0.1)], None),
    ],
    ids=["nothing", "a hit", "no hit", "half", "working memory"],
)
def test_a_recall_is_put_down_to_the_store_of_its_first(
    returned: list[tuple[Store, float]], observed: tuple[Store, float] | None
) -> None:
    assert hit_rate(returned) == observed


@given(
    st.lists(
        st.one_of(st.tuples(st.just("tick"), st.lists(UNITS)), st.tuples(st.just("recall"), UNITS)), max_size=60
    )
)
def test_whatever_happens_everything_stays_within_half_and_comes_back_from_storage(
    events: list[tuple[str, object]],
) -> None:
    evolution = UNEVOLVED
    for i, (kind, seen) in enumerate(events):
        if kind == "tick":
            evolution = after_tick(evolution, histogram(np.array(seen, np.float64)), AT + i, is_frozen=False)
        else:
            assert isinstance(seen, float)
            evolution = recalled(evolution, seen)
    for store in DURABLE_STORES:
        default, moved = DYNAMICS[store], dynamics(store, evolution)
        assert 0.5 * default.decay_rate <= moved.decay_rate <= default.decay_rate
        assert default.retrieval_boost <= moved.retrieval_boost <= 1.5 * default.retrieval_boost
        assert 0.5 * default.prune_threshold <= moved.prune_threshold <= default.prune_threshold
        assert moved.interference == default.interference
    assert len(evolution.epochs) <= 8
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(evolution), type=StoreEvolution)
    assert kept == evolution


def test_an_adjustment_tells_what_moved_from_what_to_what_and_why() -> None:
    assert adjustments(Store.SEMANTIC, UNEVOLVED) == ()
    evolution = recalled(ticked(UNEVOLVED, 0.0), *[0.0] * 5)
    found = {one.parameter: one for one in adjustments(Store.SEMANTIC, evolution)}
    assert list(found) == ["decay_exponent", "retrieval_boost", "prune_threshold"]
    assert [one.original_value for one in found.values()] == [0.15, 2.0, 0.005]
    assert [one.current_value for one in found.values()] == pytest.approx([0.135, 2.2, 0.0045])
    assert {one.store for one in found.values()} == {Store.SEMANTIC}
    assert "0.3" in found["decay_exponent"].reason
    assert "0.2" in found["retrieval_boost"].reason
    assert "0.1" in found["prune_threshold"].reason
    [only] = adjustments(Store.SEMANTIC, recalled(UNEVOLVED, *[0.0] * 5))
    assert only.parameter == "retrieval_boost"


def test_the_curve_uses_what_has_moved() -> None:
    rules = Rules(prune="delete")
    plain = curve(Store.EPISODIC, UNEVOLVED, rules, 7)
    assert plain == ClosedForm(DYNAMICS[Store.EPISODIC], rules, 7)
    evolution = recalled(ticked(UNEVOLVED, 0.0), *[0.0] * 5)
    evolved = curve(Store.EPISODIC, evolution, rules, 0)
    state = plain.fresh(AT)
    in_nine_days = AT + 9 * DAY_NS
    assert evolved.current(state, in_nine_days).score == pytest.approx(10**-0.27)
    assert evolved.fresh(AT).decay_rate == pytest.approx(0.27)
    assert evolved.retrieved(state, AT).stability == pytest.approx(1 + 1.65)
    faint = msgspec.structs.replace(state, base_score=0.0095)
    assert plain.ticked(faint, AT).is_pruned
    assert not evolved.ticked(faint, AT).is_pruned


def test_under_the_profile_of_the_reference_nothing_evolves() -> None:
    evolution = recalled(ticked(UNEVOLVED, 0.0), *[0.0] * 5)
    rules = Rules(profile="reference")
    for store in DURABLE_STORES:
        reference = curve(store, evolution, rules, 7)
        assert reference == Compounding(REFERENCE_DYNAMICS, rules, 7)
        assert (reference.fresh(AT).decay_rate, reference.fresh(AT).epoch) == (0.3, 0)
