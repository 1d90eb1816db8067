"""What metadata says of derived memories, whatever else stands in it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.derivation import is_processed, processed_entry, semantic_ids_of, with_semantic_ids
from cerememory.protocol.values import RecordId

TICK_AT = 1_800_000_000_000_000_001
SUMMARY, COPY, OTHER = (RecordId(bytes([i] * 16)) for i in (1, 2, 3))


def processed(metadata: bytes) -> bytes:
    return processed_entry(metadata, SUMMARY, [COPY], TICK_AT)


def test_an_entry_names_its_dream_and_the_time_of_it() -> None:
    assert json.loads(processed(b"{}")) == {
        "_derived": {"episodic_summary_ids": [str(SUMMARY)], "semantic_ids": [str(COPY)]},
        "_dream": {"last_summary_id": str(SUMMARY), "processed_at": "2027-01-15T08:00:00.000000001+00:00"},
    }


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('{"big":12345678901234567890123,"a":1.0}', '{"big":12345678901234567890123,"a":1.0,'),
        ('{"_dream":{"mine":1.50},"z":[]}', '{"_dream":{"mine":1.50,'),
        ('{"_derived":{"other":{"x":2}},"z":[]}', '{"_derived":{"other":{"x":2},'),
        ("[1,2]", '{"_metadata":[1,2],'),
        ("null", '{"_metadata":null,'),
    ],
)
def test_what_else_stands_there_stays_as_it_stood(given: str, kept: str) -> None:
    marked = processed(given.encode())
    assert marked.decode().startswith(kept)
    assert is_processed(marked)


@pytest.mark.parametrize("derived", ["[]", '"text"', '{"episodic_summary_ids":7,"semantic_ids":null}'])
def test_what_is_no_list_of_ids_is_replaced_by_one(derived: str) -> None:
    metadata = f'{{"_derived":{derived}}}'.encode()
    assert semantic_ids_of(metadata) == []
    assert json.loads(processed(metadata))["_derived"]["episodic_summary_ids"] == [str(SUMMARY)]


def test_an_entry_that_is_dreamt_of_again_keeps_what_it_became_before() -> None:
    again = json.loads(processed_entry(processed(b"{}"), OTHER, [], TICK_AT))
    assert again["_derived"] == {"episodic_summary_ids": [str(SUMMARY), str(OTHER)], "semantic_ids": [str(COPY)]}
    assert again["_dream"]["last_summary_id"] == str(OTHER)


@pytest.mark.parametrize(
    "metadata",
    [
        b"{}",
        b"[]",
        b'"processed_at"',
        b'{"processed_at":1}',
        b'{"_dream":"processed_at"}',
        b'{"_dream":{"a":"processed_at"}}',
    ],
)
def test_only_the_mark_of_a_dream_counts_as_one(metadata: bytes) -> None:
    assert not is_processed(metadata)


def test_a_memory_names_its_semantic_copies() -> None:
    once = with_semantic_ids(b'{"a":1}', [COPY])
    assert json.loads(once) == {"a": 1, "_derived": {"semantic_ids": [str(COPY)]}}
    assert semantic_ids_of(with_semantic_ids(once, [OTHER])) == [COPY, OTHER]


@pytest.mark.parametrize(
    "metadata",
    [b"{}", b"null", b'"semantic_ids"', b'{"semantic_ids":["x"]}', b'{"_derived":{"semantic_ids":[7,"x",null]}}'],
)
def test_what_is_no_id_is_no_copy(metadata: bytes) -> None:
    assert semantic_ids_of(metadata) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["_dream", "_derived", "semantic_ids", "a"]), inner)
    ),
    max_leaves=8,
)


@given(metadata=JSON)
def test_any_metadata_can_be_marked_and_keeps_the_rest(metadata: Any) -> None:
    given_rest = metadata if isinstance(metadata, dict) else {"_metadata": metadata}
    for mark in (processed, lambda raw: with_semantic_ids(raw, [COPY])):
        marked = mark(msgspec.json.encode(metadata))
        assert semantic_ids_of(marked)[-1] == COPY
        rest = {name: value for name, value in json.loads(marked).items() if name not in ("_dream", "_derived")}
        assert rest == {name: value for name, value in given_rest.items() if name not in ("_dream", "_derived")}
