"""The bench's arithmetic and its table; how fast anything is, no test says."""

from __future__ import annotations

from itertools import islice

import msgspec
import pytest
from bench.cases import AIMS, FIGURES, Case, in_series
from bench.corpus import Corpus
from bench.report import Run, as_json, medians, table

from cerememory.protocol import codec
from cerememory.protocol.requests import EncodeBatch, EncodeStore, RecallQuery

RUN = Run("a machine", 7, 3, 0.5, 0.0)
MEASURED = {case: 1_000.0 for case in Case if case is not Case.SERIES}


def samples(**different: float) -> dict[Case, list[float]]:
    return {case: [figure, figure, figure] for case, figure in {**MEASURED, **different}.items()}  # type: ignore[misc]


def test_a_figure_is_the_median_of_its_rounds() -> None:
    taken = {**samples(), Case.ENCODE_1: [1.0, 100.0, 3.0]}
    assert medians(taken)[Case.ENCODE_1] == 3.0


def test_two_floors_in_series_take_the_sum_of_their_times() -> None:
    assert in_series(1_000.0, 500.0) == pytest.approx(1.0 / (0.001 + 0.002))
    assert medians(samples())[Case.SERIES] == pytest.approx(500.0)


@pytest.mark.parametrize(
    ("case", "met", "missed"),
    [
        (Case.ENCODE_1, 250.0, 249.0),
        (Case.ENCODE_32, 550.1, 549.0),
        (Case.BATCH, 5_000.0, 4_999.0),
        (Case.RECALL_1, 450.0, 449.0),
        (Case.MEMORY, 120.0, 121.0),
        (Case.READY, 1.0, 1.01),
    ],
)
def test_an_aim_is_met_at_its_bound(case: Case, met: float, missed: float) -> None:
    figures = medians(samples())
    assert AIMS[case].is_met(met, figures)
    assert not AIMS[case].is_met(missed, figures)


def test_the_table_has_a_line_for_each_case_and_says_what_was_missed() -> None:
    figures = medians({**samples(), Case.READY: [2.0], Case.MEMORY: [80.0]})
    shown = table(RUN, figures)
    assert all(FIGURES[case].title in shown for case in Case)
    lines = {case: line for case in Case for line in shown.splitlines() if line.startswith(FIGURES[case].title)}
    assert "missed" in lines[Case.READY]
    assert "met" in lines[Case.MEMORY] and "missed" not in lines[Case.MEMORY]


def test_the_json_has_every_sample() -> None:
    taken = samples()
    found = msgspec.json.decode(msgspec.json.encode(as_json(RUN, taken, medians(taken))))
    assert found["samples"] == {str(case): figures for case, figures in taken.items()}
    assert found["seed"] == 7


def test_two_corpora_of_one_seed_are_the_same_and_of_two_seeds_are_not() -> None:
    first, again, other = Corpus(1), Corpus(1), Corpus(2)
    texts = [first.text() for _ in range(5)]
    assert texts == [again.text() for _ in range(5)]
    assert texts != [other.text() for _ in range(5)]


def test_the_bodies_are_requests() -> None:
    corpus = Corpus(3)
    for body in islice(corpus.stores(), 3):
        codec.parse(body, EncodeStore)
    [batch] = islice(corpus.batches(4), 1)
    assert len(codec.parse(batch, EncodeBatch).records) == 4
    [recall] = islice(corpus.recalls(), 1)
    assert codec.parse(recall, RecallQuery).cue.text
