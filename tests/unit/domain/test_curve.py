"""What both curves do alike: how memories begin, the clock of a namespace, and a forecast of the past."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.curve import AHEAD_NS_MAX, Curve
from cerememory.domain.decay import FIRST_EPOCH, STANDARD, ClosedForm, Epoch
from cerememory.domain.fidelity import DYNAMICS, State
from cerememory.domain.reference_decay import Compounding
from cerememory.protocol.records import (
    STORES,
    ContentBlock,
    EmotionVector,
    FidelityState,
    MemoryContent,
    MemoryRecord,
    Modality,
    Store,
)
from cerememory.protocol.values import NANOS, TIMESTAMP_MAX, ByteArray, RecordId, Timestamp
from cerememory.storage.rows import dump_state_row, parse_state_row
from tests.support.states import ANY_FLOATS, DAY_NS, DAY_S, NOW, YEAR_NS, states

EPOCHS = (FIRST_EPOCH, Epoch(NOW - DAY_NS, 0.9), Epoch(NOW - 1, 0.81))
EVOLVED = ClosedForm(DYNAMICS[Store.SEMANTIC], ahead_ns=5, epochs=EPOCHS)
CURVES = [EVOLVED, Compounding(ahead_ns=5)]
LATER = NOW + DAY_NS


def a_record(fidelity: FidelityState, **given: Any) -> MemoryRecord:
    block = ContentBlock(modality=Modality.TEXT, format="text/plain", data=ByteArray(b"x"))
    content = MemoryContent(blocks=(block,))
    return MemoryRecord(id=RecordId(16), store=Store.SEMANTIC, content=content, fidelity=fidelity, **given)


@pytest.mark.parametrize("store", STORES)
def test_a_new_memory_is_whole(store: Store) -> None:
    state = STANDARD[store].fresh(NOW, 0.7)
    shown = state.fidelity()
    assert (shown.score, shown.noise_level, shown.stability, shown.emotional_anchor) == (1.0, 0.0, 1.0, 1.0)
    assert (shown.decay_rate, shown.reinforcement_count) == (DYNAMICS[store].decay_rate, 0)
    assert shown.last_decay_tick == state.base_at == state.last_accessed_at == NOW
    assert (state.base_score, state.base_noise) == (1.0, 0.0)
    assert (state.access_count, state.intensity, state.epoch) == (0, 0.7, 0)


@pytest.mark.parametrize("curve", CURVES)
def test_a_new_memory_is_of_its_namespaces_clock_and_of_the_last_epoch(curve: Curve) -> None:
    state = curve.fresh(NOW)
    assert (state.base_at, state.last_accessed_at, state.epoch) == (NOW + 5, NOW, curve.epoch)
    assert curve.current(state, NOW).score == 1.0
    assert EVOLVED.epoch == 2


@pytest.mark.parametrize("curve", CURVES)
def test_an_imported_memory_keeps_its_numbers_and_fades_from_now_on(curve: Curve) -> None:
    given_ = FidelityState(
        score=0.5,
        noise_level=0.25,
        decay_rate=0.3,
        emotional_anchor=1.2,
        reinforcement_count=3,
        stability=-2.5,
        last_decay_tick=Timestamp(NOW - YEAR_NS),
    )
    record = a_record(
        given_,
        access_count=4,
        last_accessed_at=Timestamp(NOW - 2 * YEAR_NS),
        emotion=EmotionVector(joy=1.0, intensity=0.6),
    )
    state = curve.imported(record, NOW)
    assert state.fidelity() == given_
    assert (state.base_score, state.base_noise, state.base_at) == (0.5, 0.25, NOW + 5)
    assert (state.access_count, state.last_accessed_at, state.intensity) == (4, NOW - 2 * YEAR_NS, 0.6)
    assert curve.current(state, NOW).fidelity() == given_, "its exponent is of the last epoch"


def test_an_imported_memory_without_times_has_those_of_now() -> None:
    state = EVOLVED.imported(a_record(FidelityState()), NOW)
    assert (state.last_accessed_at, state.last_decay_tick_at) == (NOW, NOW)


@given(ANY_FLOATS, ANY_FLOATS, ANY_FLOATS)
def test_what_json_can_not_write_is_as_if_it_were_not_given(rate: float, anchor: float, stability: float) -> None:
    record = a_record(FidelityState(decay_rate=rate, emotional_anchor=anchor, stability=stability))
    shown = EVOLVED.imported(record, NOW).fidelity()
    assert shown.decay_rate == (rate if math.isfinite(rate) else 0.3)
    assert shown.emotional_anchor == (anchor if math.isfinite(anchor) else 1.0)
    assert shown.stability == (stability if math.isfinite(stability) else 1.0)


@pytest.mark.parametrize("curve", CURVES)
def test_a_clock_is_put_forward_by_durations_that_add_up_and_have_an_end(curve: Curve) -> None:
    assert curve.advanced(DAY_S).advanced(7).ahead_ns == 5 + (DAY_S + 7) * NANOS
    far = curve
    for _ in range(3):
        far = far.advanced(2**32 - 1)
    assert far.ahead_ns == AHEAD_NS_MAX
    state = far.fresh(TIMESTAMP_MAX)
    assert state.base_at == TIMESTAMP_MAX
    assert parse_state_row(dump_state_row(0, state)) == (0, state), "it still fits a row"
    assert far.ticked(curve.fresh(NOW), NOW).state.score < 0.3


@pytest.mark.parametrize("curve", CURVES)
@given(state=states())
def test_a_new_base_is_what_the_memory_is_now_with_what_changed(curve: Curve, state: State) -> None:
    here, based = curve.current(state, NOW), curve.rebased(state, NOW, stability=7.0, decay_rate=0.25)
    assert (based.base_score, based.base_noise, based.base_at) == (here.score, here.noise_level, NOW + 5)
    assert (based.stability, based.decay_rate) == (7.0, 0.25)
    moved = {"base_score", "base_noise", "base_at", "stability", "decay_rate"}
    for name in set(State.__struct_fields__) - moved:
        assert getattr(based, name) == getattr(here, name)


@pytest.mark.parametrize("curve", CURVES)
def test_a_recall_hardens_by_the_boost_in_force(curve: Curve) -> None:
    state = curve.retrieved(curve.fresh(NOW), LATER)
    assert state.stability == pytest.approx(1.0 + curve.dynamics.retrieval_boost)
    assert (state.access_count, state.last_accessed_at, state.base_at) == (1, LATER, LATER + 5)


@pytest.mark.parametrize("curve", CURVES)
@given(state=states(), ago_ns=st.integers(0, 40 * YEAR_NS))
def test_a_forecast_of_the_past_is_of_now(curve: Curve, state: State, ago_ns: int) -> None:
    outlook = curve.forecast(state, NOW, NOW - ago_ns)
    assert outlook.forecasted == outlook.current == curve.current(state, NOW).score


@pytest.mark.parametrize("curve", CURVES)
def test_no_day_of_a_forecast_is_beyond_ten_years(curve: Curve) -> None:
    """The last step of what takes ten years and a day: a score just so much above the threshold."""
    ten_years_s = 3_652.5 * DAY_S
    unit_s = DAY_S if curve is EVOLVED else 1
    stability = 100_000.0 * DAY_S / unit_s
    for days, is_told in ((-1, True), (1, False)):
        age = (ten_years_s + days * DAY_S) / unit_s
        score = curve.faint_threshold * (1 + age / stability) ** 0.3
        state = msgspec.structs.replace(
            curve.fresh(NOW), base_score=score, score=score, stability=stability, decay_rate=0.3, epoch=curve.epoch
        )
        assert (curve.forecast(state, NOW, NOW).faint_at is not None) is is_told
