"""Vectors: exact cosine as brute force has it, own length only, and an order that doesn't waver."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.protocol.values import RecordId
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.vectors import (
    Near,
    Space,
    VectorChange,
    VectorTable,
    dump_vector,
    normalised,
    vector_key,
    vector_range,
)

Vector = tuple[float, ...]
NUMBERS = st.floats(-1e6, 1e6, width=32)
ROUNDING = 1e-5  # of float32, for vectors of three numbers
VECTORS = st.lists(NUMBERS, min_size=3, max_size=3).map(tuple)


def an_id(number: int) -> RecordId:
    return RecordId(number.to_bytes(16, "big"))


def change(number: int, values: Vector | None, store_code: int = 0, created_at: int = 0) -> VectorChange:
    return VectorChange(DEFAULT_NAMESPACE, Space.CONTENT, an_id(number), store_code, created_at, values)


def table(*vectors: Vector, **given: Any) -> VectorTable:
    made = VectorTable(len(vectors[0]))
    for number, values in enumerate(vectors):
        made.put(change(number, values, **given))
    return made


def numbers(found: list[Near]) -> list[int]:
    return [int.from_bytes(near.record_id, "big") for near in found]


def cosine(one: Vector, other: Vector) -> float:
    norms = math.hypot(*one) * math.hypot(*other)
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / norms if norms else 0.0


@given(vectors=st.lists(VECTORS, min_size=1, max_size=20), query=VECTORS)
def test_the_cosines_are_those_of_brute_force(vectors: list[Vector], query: Vector) -> None:
    found = {near.record_id: near.cosine for near in table(*vectors).nearest(query, 100, None)}
    for number, vector in enumerate(vectors):
        expected = cosine(vector, query)
        if expected > 1e-5:
            assert found[an_id(number)] == pytest.approx(expected, abs=2e-6)
        elif expected < -1e-5:
            assert an_id(number) not in found


@given(vectors=st.lists(VECTORS, min_size=1, max_size=20), query=VECTORS, limit=st.integers(0, 25))
def test_a_limit_cuts_the_whole_answer_behind_the_best(vectors: list[Vector], query: Vector, limit: int) -> None:
    made = table(*vectors)
    assert made.nearest(query, limit, None) == made.nearest(query, 100, None)[:limit]


def test_among_many_long_vectors_the_nearest_are_those_of_brute_force() -> None:
    random = np.random.default_rng(7)
    rows = random.normal(size=(2_000, 48)).astype(np.float32)
    query = random.normal(size=48).astype(np.float32)
    made = table(*(tuple(map(float, row)) for row in rows))
    exact = rows.astype(np.float64) @ query / np.linalg.norm(rows.astype(np.float64), axis=1)
    assert numbers(made.nearest(tuple(map(float, query)), 10, None)) == list(np.argsort(-exact)[:10])


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_equal_vectors_come_newest_first_then_by_id_wherever_they_stand(limit: int) -> None:
    """A matrix product differs in its last bits between the rows of equal vectors."""
    vector, query = (tuple(map(float, row)) for row in np.random.default_rng(1).normal(size=(2, 101)))
    query = tuple(one + 0.1 * other for one, other in zip(query, vector, strict=True))
    made = VectorTable(101)
    for number in range(67):
        made.put(change(number, vector, created_at=number // 2))
    expected = [66, 64, 65, 62, 63, 60, 61]
    assert numbers(made.nearest(query, limit, None)) == expected[:limit]


@given(
    rows=st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 2), st.integers(0, 1)), max_size=40),
    limit=st.integers(1, 9),
    codes=st.none() | st.just(frozenset({1})),
    data=st.data(),
)
def test_the_nearest_that_pass_are_the_first_of_all_that_do(
    rows: list[tuple[int, int, int]], limit: int, codes: frozenset[int] | None, data: st.DataObject
) -> None:
    """Many are equally near, and many of these equally old; they don't stand in the order of their ids."""
    made, asked = VectorTable(2), list[RecordId]()
    for number, (x, created_at, code) in reversed([*enumerate(rows)]):
        made.put(change(number, (float(x), 1.0), code, created_at))
    passing = data.draw(st.sets(st.sampled_from(range(len(rows)))) if rows else st.just(set()))
    inside = {an_id(number) for number in passing}

    def pick(record_ids: list[RecordId]) -> set[RecordId]:
        asked.extend(record_ids)
        return inside & set(record_ids)

    every = made.nearest((1.0, 0.0), 100, codes)
    assert made.nearest((1.0, 0.0), limit, codes) == every[:limit]
    expected = [near for near in every if near.record_id in inside][:limit]
    assert made.nearest_that((1.0, 0.0), limit, codes, pick) == expected
    assert len(asked) == len(set(asked)), "nobody is asked of twice"


def test_no_more_are_asked_of_than_it_takes() -> None:
    made, asked = VectorTable(2), list[int]()
    for number in range(4_999):
        made.put(change(number, (1.0, 1.0), created_at=number))

    def none_of(record_ids: list[RecordId]) -> list[RecordId]:
        asked.append(len(record_ids))
        return []

    assert len(made.nearest_that((1.0, 0.0), 3, None, list)) == 3
    assert made.nearest_that((1.0, 0.0), 3, None, none_of) == []
    assert asked[:2] == [3, 12]
    assert max(asked) <= 1_024
    assert sum(asked) == 4_999


def test_only_vectors_that_point_the_querys_way_are_found() -> None:
    made = table((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, 0.0))
    [near] = made.nearest((2.0, 0.0), 10, None)
    assert (near.record_id, near.cosine) == (an_id(0), 1.0)


def test_a_query_of_zeros_finds_nothing() -> None:
    assert table((1.0, 0.0)).nearest((0.0, 0.0), 10, None) == []


def test_an_empty_table_finds_nothing() -> None:
    assert VectorTable(3).nearest((1.0, 0.0, 0.0), 10, None) == []


def test_only_the_asked_stores_are_found() -> None:
    made = VectorTable(1)
    for number in range(6):
        made.put(change(number, (1.0,), store_code=number % 3))
    assert numbers(made.nearest((1.0,), 10, frozenset({0, 2}))) == [0, 2, 3, 5]
    assert made.nearest((1.0,), 10, frozenset()) == []


@pytest.mark.parametrize("size", [3e38, 1e-30, 1.0])
def test_only_the_direction_counts_however_large_or_small_the_numbers(size: float) -> None:
    [near] = table((size, size)).nearest((1.0, 1.0), 1, None)
    assert near.cosine == pytest.approx(1.0)


def test_rows_are_unit_length_and_zero_rows_stay_zero() -> None:
    rows = normalised(np.asarray([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    assert rows == pytest.approx(np.asarray([[0.6, 0.8], [0.0, 0.0]]))
    assert rows.dtype == np.float32


def test_a_record_has_one_vector_the_last_that_was_put() -> None:
    made = table((1.0, 0.0))
    made.put(change(0, (0.0, 1.0), store_code=3, created_at=9))
    assert len(made) == 1
    [near] = made.nearest((0.0, 1.0), 10, None)
    assert (near.store_code, near.created_at) == (3, 9)


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | VECTORS), max_size=30), VECTORS)
@settings(max_examples=60)
def test_any_puts_and_removals_leave_what_they_would_leave_in_a_dict(
    steps: list[tuple[int, Vector | None]], query: Vector
) -> None:
    made, model = VectorTable(3), dict[int, Vector]()
    for number, values in steps:
        if values is None:
            made.remove(an_id(number))
            model.pop(number, None)
        else:
            made.put(change(number, values, created_at=number))
            model[number] = values
    fresh = VectorTable(3)
    for number, values in sorted(model.items()):
        fresh.put(change(number, values, created_at=number))
    assert len(made) == len(model)
    assert cosines(made, query) == pytest.approx(cosines(fresh, query), abs=ROUNDING)


def cosines(made: VectorTable, query: Vector) -> dict[RecordId, float]:
    """Of all records, in no order: where a row lies in a matrix moves the last digits of its product."""
    found = {near.record_id: near.cosine for near in made.nearest(query, 10, None)}
    return {an_id(number): found.get(an_id(number), 0.0) for number in range(6)}


def stored(*changes: VectorChange) -> list[tuple[bytes, bytes]]:
    pairs = [
        (vector_key(DEFAULT_NAMESPACE, c.space, len(c.values or ()), c.record_id), dump_vector(c)) for c in changes
    ]
    return sorted(pairs)


def test_a_table_read_from_storage_equals_one_that_was_told() -> None:
    changes = [change(i, (float(i), 1.0), store_code=i % 5, created_at=i - 3) for i in range(10)]
    told, read = VectorTable(2), VectorTable(2)
    for each in changes:
        told.put(each)
    read.load(stored(*changes[:4]))
    read.load([])
    read.load(stored(*changes[4:]))
    assert len(read) == 10
    assert read.nearest((1.0, 2.0), 10, None) == told.nearest((1.0, 2.0), 10, None)
    read.remove(an_id(3))
    assert 3 not in numbers(read.nearest((1.0, 2.0), 10, None))


def test_a_table_says_how_much_memory_its_vectors_take() -> None:
    made = table(*[(1.0,) * 100] * 50)
    assert made.size_bytes >= 50 * 100 * 4


@pytest.mark.parametrize("dimensions", [1, 254, 255, 256, 65_535])
def test_the_rows_of_one_space_and_length_stand_together(dimensions: int) -> None:
    start, stop = vector_range(DEFAULT_NAMESPACE, Space.CONTENT, dimensions)
    assert start <= vector_key(DEFAULT_NAMESPACE, Space.CONTENT, dimensions, b"\xff" * 16) < stop
    for space, other in (
        (Space.CONTENT, dimensions + 1),
        (Space.CONTENT, dimensions - 1),
        (Space.EMOTION, dimensions),
    ):
        assert not start <= vector_key(DEFAULT_NAMESPACE, space, other, bytes(16)) < stop
