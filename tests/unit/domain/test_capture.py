"""What encode adds to a memory: its meta completed, its context kept, its neighbours linked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.capture import (
    NEIGHBOUR_WEIGHT,
    associations_of,
    completed_meta,
    neighbours,
    with_context,
)
from cerememory.protocol import codec
from cerememory.protocol.records import AssociationType, CaptureStatus, MetaMemory
from cerememory.protocol.requests import AssociationInput, EncodeContext
from cerememory.protocol.values import RecordId, Timestamp

NOW = 1_800_000_000_000_000_000
BEFORE = Timestamp(NOW - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def an_id(number: int) -> RecordId:
    return RecordId(number.to_bytes(16, "big"))


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        (None, CaptureStatus.PROVIDED),
        (CaptureStatus.LEGACY, CaptureStatus.PROVIDED),
        (CaptureStatus.PROVIDED, CaptureStatus.PROVIDED),
        (CaptureStatus.INFERRED, CaptureStatus.INFERRED),
        (CaptureStatus.UNAVAILABLE, CaptureStatus.UNAVAILABLE),
    ],
)
def test_given_meta_counts_as_provided_unless_it_says_otherwise(
    given: CaptureStatus | None, completed: CaptureStatus
) -> None:
    meta = completed_meta(MetaMemory(capture_status=given), "encode.store", NOW)
    assert meta is not None
    assert meta.capture_status is completed


def test_what_is_missing_is_filled_in_and_what_is_there_stays() -> None:
    given = MetaMemory(trigger="mine", captured_at=BEFORE, intent="why", schema_version=3)
    kept = completed_meta(given, "encode.update", NOW)
    assert kept == msgspec.structs.replace(given, capture_status=CaptureStatus.PROVIDED)
    filled = completed_meta(MetaMemory(), "encode.update", NOW)
    assert filled is not None
    assert (filled.trigger, filled.captured_at) == ("encode.update", NOW)


def test_no_meta_stays_none() -> None:
    assert completed_meta(None, "encode.store", NOW) is None


@given(metadata=st.dictionaries(st.text(max_size=3).filter(lambda name: name != "_context"), JSON, max_size=3))
def test_a_context_joins_the_metadata_under_a_key_of_its_own(metadata: dict[str, Any]) -> None:
    context = EncodeContext(source="chat", session_id="s-1")
    merged = msgspec.json.decode(bytes(with_context(msgspec.Raw(codec.dump(metadata)), context)))
    expected = {"source": "chat", "session_id": "s-1", "spatial": None, "temporal": None}
    assert merged == {**metadata, "_context": expected}


@given(metadata=JSON.filter(lambda value: not isinstance(value, dict)))
def test_metadata_that_is_no_object_moves_below_a_context(metadata: object) -> None:
    raw = msgspec.Raw(msgspec.json.encode(metadata))
    merged = msgspec.json.decode(bytes(with_context(raw, EncodeContext())))
    assert merged["_metadata"] == metadata
    assert merged["_context"] == {"source": None, "session_id": None, "spatial": None, "temporal": None}


def test_open_parts_of_a_context_are_kept_to_the_digit() -> None:
    context = codec.parse(b'{"spatial": {"lat": 52.5200}, "temporal": 1e2}', EncodeContext)
    merged = bytes(with_context(msgspec.Raw(b'{"price":1.10}'), context))
    assert b'"price":1.10' in merged
    assert b"52.5200" in merged
    assert b"1e2" in merged


def test_metadata_without_a_context_is_the_same_bytes() -> None:
    raw = msgspec.Raw(b'[1.10,"a"]')
    assert with_context(raw, None) is raw


def test_given_edges_are_made_now() -> None:
    edge = AssociationInput(target_id=an_id(9), association_type=AssociationType.CAUSAL, weight=0.5)
    [made] = associations_of((edge,), NOW)
    assert (made.target_id, made.association_type, made.weight) == (an_id(9), AssociationType.CAUSAL, 0.5)
    assert made.created_at == made.last_co_activation == NOW
    assert associations_of(None, NOW) == ()


@given(st.integers(0, 6))
def test_neighbours_of_a_batch_are_linked_both_ways_in_its_order(count: int) -> None:
    linked = neighbours([an_id(i) for i in range(count)], NOW)
    targets = [[edge.target_id for edge in edges] for edges in linked]
    assert targets == [[an_id(j) for j in (i - 1, i + 1) if 0 <= j < count] for i in range(count)]
    assert sum(map(len, linked)) == 2 * max(0, count - 1)
    for edge in (edge for edges in linked for edge in edges):
        assert (edge.association_type, edge.weight) == (AssociationType.SEQUENTIAL, NEIGHBOUR_WEIGHT)
        assert edge.created_at == NOW


def test_the_weight_of_an_inferred_edge_is_that_of_the_reference() -> None:
    assert NEIGHBOUR_WEIGHT == 0.7
