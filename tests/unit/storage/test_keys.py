"""Keys: they sort as their parts do, no table's rows stand among another's, and each has its bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN
from cerememory.storage.contract import KEY_BYTES_MAX
from cerememory.storage.keys import (
    DIGEST_BYTES,
    ID_BYTES,
    SYSTEM_NAMESPACE,
    Table,
    after,
    counters_key,
    digest,
    key,
    pack_sequence,
    pack_time,
    system_key,
    trailing_id,
    unpack_sequence,
    unpack_time,
)
from cerememory.storage.vectors import Space, vector_key

TIMES = st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX)
SEQUENCES = st.integers(0, 2**64 - 1)
NAMESPACES = st.integers(0, SYSTEM_NAMESPACE - 1)
PREFIXES = st.binary(min_size=1, max_size=6).filter(lambda prefix: prefix.strip(b"\xff") != b"")


def test_a_key_is_namespace_table_and_parts() -> None:
    assert key(Table.CONTENT, b"id", namespace=0x01020304) == b"\x01\x02\x03\x04cid"
    assert key(Table.CONTENT, b"a", b"b") == b"\0\0\0\0cab"
    assert system_key(Table.HEAD) == b"\xff\xff\xff\xffh"


def test_every_table_has_a_letter_of_its_own() -> None:
    letters = [table.value for table in Table]
    assert len(set(letters)) == len(letters)
    assert {len(letter) for letter in letters} == {1}


@given(one=st.sampled_from(Table), other=st.sampled_from(Table), a=st.binary(max_size=9), b=st.binary(max_size=9))
def test_no_row_of_a_table_stands_among_those_of_another(one: Table, other: Table, a: bytes, b: bytes) -> None:
    if one is not other:
        start, stop = key(other), after(key(other))
        assert not start <= key(one, a) < stop
        assert start <= key(other, b) < stop


@given(one=NAMESPACES, other=NAMESPACES, table=st.sampled_from(Table), part=st.binary(max_size=9))
def test_namespaces_never_mix(one: int, other: int, table: Table, part: bytes) -> None:
    start = key(table, namespace=other)
    assert (start <= key(table, part, namespace=one) < after(start)) == (one == other)


@given(PREFIXES, st.binary(max_size=6))
def test_what_starts_with_a_prefix_is_what_stands_before_the_key_after_it(prefix: bytes, tail: bytes) -> None:
    assert prefix <= prefix + tail < after(prefix)


@given(PREFIXES, st.binary(max_size=8))
def test_nothing_else_stands_there(prefix: bytes, other: bytes) -> None:
    assert (prefix <= other < after(prefix)) == other.startswith(prefix)


@given(TIMES, TIMES)
def test_packed_times_sort_as_the_times(one: int, other: int) -> None:
    assert (pack_time(one) < pack_time(other)) == (one < other)


@pytest.mark.parametrize("at", [TIMESTAMP_MIN, -1, 0, 1, TIMESTAMP_MAX])
def test_a_time_comes_back_from_eight_bytes(at: int) -> None:
    assert len(pack_time(at)) == 8
    assert unpack_time(pack_time(at)) == at


@given(SEQUENCES, SEQUENCES)
def test_packed_sequences_sort_as_the_sequences(one: int, other: int) -> None:
    assert (pack_sequence(one) < pack_sequence(other)) == (one < other)
    assert unpack_sequence(pack_sequence(one)) == one


@pytest.mark.parametrize("text", ["", "s-1", "x" * 100_000, "東京", "\0"])
def test_callers_text_of_any_length_is_sixteen_bytes_in_a_key(text: str) -> None:
    assert len(digest(text)) == DIGEST_BYTES == 16


@given(st.text(max_size=20), st.text(max_size=20))
def test_different_texts_have_different_digests(one: str, other: str) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_the_id_at_the_end_of_a_key_is_read_back() -> None:
    record_id = bytes(range(16))
    for full in (key(Table.BY_TIME, pack_time(5), record_id), vector_key(Space.CONTENT, 3, record_id)):
        assert trailing_id(full) == record_id


def test_the_longest_key_of_any_table_is_within_what_a_backend_takes() -> None:
    longest = key(Table.RAW_BY_SESSION, digest("x" * 1_024), pack_time(0), bytes(ID_BYTES))
    edge = key(Table.EDGES_BY_TARGET, bytes(ID_BYTES), bytes(ID_BYTES))
    vector = vector_key(Space.EMOTION, 2**32 - 1, bytes(ID_BYTES))
    assert max(map(len, (longest, edge, vector, counters_key(SYSTEM_NAMESPACE)))) <= KEY_BYTES_MAX


def test_counters_of_each_namespace_stand_among_the_systems_rows() -> None:
    start = system_key(Table.COUNTERS)
    assert start <= counters_key() < counters_key(7) < after(start)
