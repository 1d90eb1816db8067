"""Keys: they sort as their parts do, no table's rows stand among another's, and each has its bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId
from cerememory.storage.contract import KEY_BYTES_MAX
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    DIGEST_BYTES,
    EDGE_TABLE,
    ID_BYTES,
    NAMESPACE_BYTES,
    NOWHERE,
    SYSTEM_NAMESPACE,
    Address,
    Table,
    addresses_in,
    after,
    counters_key,
    counters_range,
    digest,
    dump_addresses,
    key,
    pack_namespace,
    pack_sequence,
    pack_time,
    parse_addresses,
    state_key,
    system_key,
    trailing_id,
    trailing_time,
    unpack_namespace,
    unpack_sequence,
    unpack_time,
)
from cerememory.storage.vectors import Space, vector_key

TIMES = st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX)
IDS = st.binary(min_size=16, max_size=16).map(RecordId)
SEQUENCES = st.integers(0, 2**64 - 1)
NAMESPACES = st.integers(0, SYSTEM_NAMESPACE - 1)
PREFIXES = st.binary(min_size=1, max_size=6).filter(lambda prefix: prefix.strip(b"\xff") != b"")


def test_a_key_is_namespace_table_and_parts() -> None:
    assert key(0x01020304, Table.CONTENT, b"id") == b"\x01\x02\x03\x04cid"
    assert key(DEFAULT_NAMESPACE, Table.CONTENT, b"a", b"b") == b"\0\0\0\0cab"
    assert system_key(Table.HEAD) == b"\xff\xff\xff\xffh"


def test_every_table_has_a_letter_of_its_own() -> None:
    letters = [table.value for table in Table]
    assert len(set(letters)) == len(letters)
    assert {len(letter) for letter in letters} == {1}


@given(one=st.sampled_from(Table), other=st.sampled_from(Table), a=st.binary(max_size=9), b=st.binary(max_size=9))
def test_no_row_of_a_table_stands_among_those_of_another(one: Table, other: Table, a: bytes, b: bytes) -> None:
    if one is not other:
        start, stop = key(7, other), after(key(7, other))
        assert not start <= key(7, one, a) < stop
        assert start <= key(7, other, b) < stop


@given(one=NAMESPACES, other=NAMESPACES, table=st.sampled_from(Table), part=st.binary(max_size=9))
def test_namespaces_never_mix(one: int, other: int, table: Table, part: bytes) -> None:
    start = key(other, table)
    assert (start <= key(one, table, part) < after(start)) == (one == other)


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
    record_id = RecordId(bytes(range(16)))
    for full in (
        state_key(DEFAULT_NAMESPACE, 5, record_id),
        vector_key(DEFAULT_NAMESPACE, Space.CONTENT, 3, record_id),
    ):
        assert trailing_id(full) == record_id


def test_the_longest_key_of_any_table_is_within_what_a_backend_takes() -> None:
    longest = key(DEFAULT_NAMESPACE, Table.RAW_BY_SESSION, digest("x" * 1_024), pack_time(0), bytes(ID_BYTES))
    edge = key(DEFAULT_NAMESPACE, Table.EDGES_BY_TARGET, bytes(ID_BYTES), bytes(ID_BYTES))
    vector = vector_key(DEFAULT_NAMESPACE, Space.EMOTION, 2**32 - 1, bytes(ID_BYTES))
    assert max(map(len, (longest, edge, vector, counters_key(SYSTEM_NAMESPACE)))) <= KEY_BYTES_MAX


def test_counters_of_each_namespace_stand_among_the_systems_rows() -> None:
    start = system_key(Table.COUNTERS)
    assert start <= counters_key(DEFAULT_NAMESPACE) < counters_key(7) < after(start)
    assert counters_range() == (start, after(start))


@given(one=st.tuples(NAMESPACES, TIMES, IDS), other=st.tuples(NAMESPACES, TIMES, IDS))
def test_states_stand_in_the_order_in_which_their_memories_were_made(
    one: tuple[int, int, RecordId], other: tuple[int, int, RecordId]
) -> None:
    """Of each namespace; those made at the same moment by their id."""
    assert (state_key(*one) < state_key(*other)) == (one < other)
    namespace, created_at, record_id = one
    full = state_key(*one)
    assert full.startswith(key(namespace, Table.STATE))
    assert (trailing_time(full), trailing_id(full)) == (created_at, record_id)


@given(st.lists(st.tuples(st.integers(0, SYSTEM_NAMESPACE), IDS), max_size=20))
def test_addresses_come_back_in_their_order(addresses: list[Address]) -> None:
    packed = dump_addresses(addresses)
    assert parse_addresses(packed) == addresses
    assert len(packed) == (NAMESPACE_BYTES + ID_BYTES) * len(addresses)


def test_the_end_of_the_log_the_head_and_the_counters_are_neighbours() -> None:
    """So that they share a page: what stands between them is a row or two, however much is stored."""
    log_end, head = system_key(Table.LOG, pack_sequence(2**64 - 1)), system_key(Table.HEAD)
    assert log_end < head < counters_key(DEFAULT_NAMESPACE)
    growing = (Table.NAMESPACES, Table.LOG, Table.COUNTERS)
    assert not [
        t for t in growing if log_end < system_key(t) < head or head < system_key(t) < system_key(Table.COUNTERS)
    ]


@pytest.mark.parametrize("namespace", [DEFAULT_NAMESPACE, 1, NOWHERE, SYSTEM_NAMESPACE])
def test_a_namespaces_number_comes_back_from_four_bytes(namespace: int) -> None:
    assert unpack_namespace(pack_namespace(namespace)) == namespace
    assert key(namespace, Table.CONTENT)[:NAMESPACE_BYTES] == pack_namespace(namespace)


@given(namespace=st.integers(0, 2**32 - 1), numbers=st.sets(st.integers(0, 2**128 - 1), max_size=4))
def test_the_owners_of_edges_are_told_by_the_keys_of_their_rows(namespace: int, numbers: set[int]) -> None:
    ids = [RecordId(number.to_bytes(ID_BYTES, "big")) for number in numbers]
    written = [key(namespace, Table.EDGES, record_id) for record_id in ids]
    others = [key(namespace, table, *([b"e" * ID_BYTES] * 2)) for table in Table if table is not Table.EDGES]
    assert list(addresses_in(EDGE_TABLE, [*written, *others])) == [(namespace, record_id) for record_id in ids]
