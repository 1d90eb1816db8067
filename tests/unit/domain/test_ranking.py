"""One score from the signals that found a memory, and an order that is always the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.ranking import Candidate, order, score
from cerememory.protocol.values import RecordId

SIGNAL = st.none() | st.floats(0, 1)


def candidate(number: int = 1, created_at: int = 0, **signals: Any) -> Candidate:
    return Candidate(RecordId(number.to_bytes(16, "big")), 0, created_at, **signals)


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        ({"text": 0.5}, 0.5),
        ({"vector": 0.5}, 0.5),
        ({"text": 1.0, "vector": 0.5}, 0.6 * 1.0 + 0.4 * 0.5),
        ({"text": 0.5, "vector": 1.0}, 0.6 * 0.5 + 0.4 * 1.0),
        ({"emotion": 0.5}, 0.5),
        ({}, 0.0),
    ],
)
def test_text_and_vector_weigh_six_to_four_and_one_alone_counts_whole(
    signals: dict[str, Any], expected: float
) -> None:
    assert candidate(**signals).relevance() == pytest.approx(expected)


@given(text=SIGNAL, vector=SIGNAL, emotion=SIGNAL, fidelity=SIGNAL)
def test_a_score_of_signals_from_0_to_1_is_from_0_to_1_but_for_the_fidelity_on_top(
    text: float | None, vector: float | None, emotion: float | None, fidelity: float | None
) -> None:
    found = candidate(text=text, vector=vector, emotion=emotion, fidelity=fidelity)
    assert 0.0 <= found.relevance() <= 1.0 + 1e-12
    assert found.relevance() <= score(found, by_time_alone=False) <= 1.1 + 1e-12


@given(text=SIGNAL, vector=SIGNAL, emotion=SIGNAL, more=st.floats(0, 1), name=st.sampled_from(["text", "vector"]))
def test_a_stronger_signal_never_lowers_the_score(
    text: float | None, vector: float | None, emotion: float | None, more: float, name: str
) -> None:
    signals: dict[str, Any] = {"text": text, "vector": vector, "emotion": emotion}
    before = signals[name]
    if before is not None:
        stronger = candidate(**signals | {name: before + more * (1 - before)})
        assert stronger.relevance() >= candidate(**signals).relevance() - 1e-12


def test_a_time_range_alone_scores_by_fidelity() -> None:
    assert score(candidate(fidelity=0.7), by_time_alone=True) == 0.7


def test_beside_another_signal_a_time_range_lets_fidelity_decide_between_equals() -> None:
    faded, clear = candidate(text=0.5, fidelity=0.1), candidate(text=0.5, fidelity=1.0)
    better = candidate(text=0.7, fidelity=0.1)
    scores = [score(each, by_time_alone=False) for each in (faded, clear, better)]
    assert scores == sorted(scores)


def test_without_a_time_range_fidelity_does_not_count() -> None:
    assert score(candidate(text=0.5), by_time_alone=False) == 0.5


def test_the_best_comes_first_then_the_newest_then_the_smaller_id() -> None:
    found = [
        (0.5, candidate(3, created_at=9)),
        (0.9, candidate(4, created_at=1)),
        (0.5, candidate(1, created_at=5)),
        (0.5, candidate(2, created_at=9)),
    ]
    ranked = sorted(found, key=lambda pair: order(*pair))
    assert [int.from_bytes(each.record_id, "big") for _score, each in ranked] == [4, 2, 3, 1]


@given(st.permutations(range(8)))
def test_the_order_does_not_depend_on_the_order_in_which_memories_were_found(numbers: list[int]) -> None:
    found = [(0.5 * (number % 2), candidate(number, created_at=number // 4)) for number in numbers]
    ranked = sorted(found, key=lambda pair: order(*pair))
    assert [int.from_bytes(each.record_id, "big") for _, each in ranked] == [5, 7, 1, 3, 4, 6, 0, 2]
