"""One score from the signals that found a memory, what each gave to it, and an order that is always the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.activation import Activation
from cerememory.domain.ranking import (
    ACTIVATION_WEIGHT,
    FIDELITY_WEIGHT,
    JOINED_WEIGHT,
    Candidate,
    Ranked,
    Weights,
    WordParts,
    contenders,
    order,
    parts,
    score,
    weights,
)
from cerememory.protocol.records import AssociationType
from cerememory.protocol.values import RecordId

SHARE = st.floats(0, 1)
SIGNALS = ("words", "vector", "emotion")
CUES = st.builds(weights, words=st.booleans(), vector=st.booleans(), emotion=st.booleans(), time=st.booleans())


def candidate(number: int = 1, created_at: int = 0, **signals: Any) -> Candidate:
    return Candidate(RecordId(number.to_bytes(16, "big")), 0, created_at, **signals)


def activated(level: float) -> Activation:
    return Activation(level, AssociationType.SEMANTIC, (RecordId(16), RecordId(16)))


def cue(*signals: str) -> Weights:
    return weights(**{name: name in signals for name in (*SIGNALS, "time")})


CANDIDATES = st.builds(
    candidate,
    words=SHARE,
    vector=SHARE,
    emotion=SHARE,
    fidelity=st.none() | SHARE,
    activation=st.none() | st.builds(activated, st.floats(0.05, 1)),
)


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        (["words"], (1.0, 0.0, 0.0, 0.0)),
        (["vector"], (0.0, 1.0, 0.0, 0.0)),
        (["emotion"], (0.0, 0.0, 1.0, 0.0)),
        (["words", "vector"], (0.6, 0.4, 0.0, 0.0)),
        (["words", "emotion"], (0.8, 0.0, 0.2, 0.0)),
        (["words", "vector", "emotion"], (0.48, 0.32, 0.2, 0.0)),
        (["words", "time"], (1.0, 0.0, 0.0, 0.1)),
        (["time"], (0.0, 0.0, 0.0, 1.0)),
        ([], (0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_signals_weigh_by_what_the_cue_asks_for(signals: list[str], expected: tuple[float, ...]) -> None:
    assert tuple(cue(*signals)) == pytest.approx(expected)


def test_the_clear_memory_that_answers_best_scores_1() -> None:
    assert score(candidate(words=1.0, fidelity=1.0), cue("words")) == pytest.approx(1.0)


@given(found=CANDIDATES, weighed=CUES)
def test_the_parts_sum_to_the_score_and_none_is_negative(found: Candidate, weighed: Weights) -> None:
    assert sum(parts(found, weighed)) == pytest.approx(score(found, weighed), abs=1e-12)
    assert min(parts(found, weighed)) >= -1e-12


@given(found=CANDIDATES, weighed=CUES, name=st.sampled_from(SIGNALS), more=SHARE)
def test_a_signal_that_finds_it_too_or_better_never_lowers_a_score(
    found: Candidate, weighed: Weights, name: str, more: float
) -> None:
    before = score(found, weighed)
    setattr(found, name, getattr(found, name) + more * (1 - getattr(found, name)))
    assert score(found, weighed) >= before - 1e-12


@given(found=CANDIDATES, weighed=CUES, level=st.floats(0.05, 1))
def test_nor_does_activation(found: Candidate, weighed: Weights, level: float) -> None:
    found.activation = None
    before = score(found, weighed)
    found.activation = activated(level)
    assert score(found, weighed) > before


def test_what_only_activation_has_found_counts_by_eight_tenths_of_it() -> None:
    found = candidate(activation=activated(0.5), fidelity=1.0)
    assert score(found, cue("words")) == pytest.approx((JOINED_WEIGHT + ACTIVATION_WEIGHT) * 0.5)


@given(words=st.floats(0, 1), level=st.floats(0.05, 1))
def test_activation_adds_to_what_was_found_or_makes_up_for_it(words: float, level: float) -> None:
    found = candidate(words=words, activation=activated(level), fidelity=1.0)
    expected = max(words, JOINED_WEIGHT * level) + ACTIVATION_WEIGHT * level
    assert score(found, cue("words")) == pytest.approx(expected)


@given(found=CANDIDATES, fidelity=SHARE)
def test_a_faded_memory_keeps_most_of_its_score(found: Candidate, fidelity: float) -> None:
    found.fidelity = 1.0
    clear = score(found, cue("words"))
    found.fidelity = fidelity
    faded = score(found, cue("words"))
    assert faded == pytest.approx(clear * (1 - FIDELITY_WEIGHT + FIDELITY_WEIGHT * fidelity))


def test_a_time_range_alone_scores_by_fidelity() -> None:
    assert score(candidate(fidelity=0.7), cue("time")) == pytest.approx(0.7)


def test_beside_another_signal_a_time_range_lets_fidelity_decide_between_equals() -> None:
    faded, clear = candidate(words=0.5, fidelity=0.1), candidate(words=0.5, fidelity=1.0)
    better = candidate(words=0.7, fidelity=0.1)
    scores = [score(each, cue("words", "time")) for each in (faded, clear, better)]
    assert scores == sorted(scores)


def test_parts_of_words_are_shares_of_what_the_words_give() -> None:
    assert WordParts(1.0, 2.0, 1.0, 0.0, 0.0).scaled_to(0.5) == (0.125, 0.25, 0.125, 0.0, 0.0)
    assert WordParts(0.0, 0.0, 0.0, 0.0, 0.0).scaled_to(0.0) == (0.0, 0.0, 0.0, 0.0, 0.0)


@given(founds=st.lists(CANDIDATES, max_size=12), fidelities=st.lists(SHARE, min_size=12, max_size=12))
def test_whoever_may_come_first_when_fidelity_is_known_contends(
    founds: list[Candidate], fidelities: list[float]
) -> None:
    weighed, limit = cue("words"), 3
    for found in founds:
        found.fidelity = None
    ranked = sorted((Ranked(score(found, weighed), found) for found in founds), key=lambda each: order(*each))
    for found, fidelity in zip(founds, fidelities, strict=False):
        found.fidelity = fidelity
    leading, rest = [each.candidate for each in ranked[:limit]], ranked[limit:]
    least = min((score(found, weighed) for found in leading), default=0.0)
    contending = leading + [each.candidate for each in contenders(rest, least)]
    scores = sorted((score(found, weighed) for found in founds), reverse=True)[:limit]
    assert sorted((score(found, weighed) for found in contending), reverse=True)[:limit] == pytest.approx(scores)


def test_few_of_many_contend() -> None:
    ranked = [Ranked(1.0 - i / 100, candidate(i)) for i in range(50)]
    assert len(contenders(ranked, 0.9)) == 11


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
