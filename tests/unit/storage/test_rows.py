"""Rows: each comes back as it went in, damage has a name, and joined JSON is what the wire types read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cerememory.domain.audit_chain import GENESIS
from cerememory.domain.decay import STANDARD
from cerememory.domain.fidelity import State
from cerememory.errors import StorageDamaged
from cerememory.protocol import codec
from cerememory.protocol.records import (
    NEUTRAL,
    STORES,
    Association,
    AssociationType,
    CaptureStatus,
    ContentBlock,
    EmotionVector,
    MemoryContent,
    MemoryRecord,
    MetaMemory,
    Modality,
    RawJournalRecord,
    SecrecyLevel,
    Store,
    Visibility,
)
from cerememory.protocol.values import NIL_ID, ByteArray, RecordId, Timestamp
from cerememory.storage import rows
from cerememory.storage.rows import ContentRow, Counters, Head, KeptAnswer, RawRow
from tests.support.states import states

NOW = 1_800_000_000_123_456_789
ID = RecordId(bytes(range(16)))
CONTENT = MemoryContent(
    blocks=(ContentBlock(modality=Modality.TEXT, format="text/plain", data=ByteArray("grün".encode())),),
    summary="a colour",
)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT32 = st.integers(0, 2**32 - 1)
FLOATS = st.floats(allow_nan=False)
IDS = st.binary(min_size=16, max_size=16).map(RecordId)
ASSOCIATIONS = st.builds(
    Association,
    target_id=IDS,
    association_type=st.sampled_from(AssociationType),
    weight=st.floats(0, 1),
    created_at=INT64.map(Timestamp),
    last_co_activation=INT64.map(Timestamp),
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
STORE_CODES = st.integers(0, len(STORES) - 1)
STATES = states(
    base_at=INT64,
    decay_rate=FLOATS,
    intensity=FLOATS,
    emotional_anchor=FLOATS,
    stability=FLOATS,
    access_count=UINT32,
    reinforcement_count=UINT32,
    last_accessed_at=INT64,
    last_decay_tick_at=INT64,
    epoch=st.integers(0, 2**16 - 1),
)
SHOWN = states(stability=NUMBERS, decay_rate=NUMBERS, emotional_anchor=NUMBERS, access_count=UINT32)
FRESH = STANDARD[Store.EPISODIC].fresh(NOW)


def content_row(**given: Any) -> ContentRow:
    parts: dict[str, Any] = {
        "store_code": 0,
        "version": 1,
        "created_at": NOW,
        "updated_at": NOW + 1,
        "content": codec.dump(CONTENT),
        "emotion": b"",
        "metadata": b"{}",
        "meta": b"",
    }
    return ContentRow(**parts | given)


def raw_row(**given: Any) -> RawRow:
    parts: dict[str, Any] = {
        "session_id": "s-1",
        "turn_id": None,
        "topic_id": "deploy",
        "source": "conversation",
        "speaker": "user",
        "visibility_code": 1,
        "secrecy_code": 2,
        "created_at": NOW,
        "updated_at": NOW,
        "content": codec.dump(CONTENT),
        "metadata": b'{"a":1.50}',
        "derived": b"",
        "suppressed": False,
        "meta": b"",
    }
    return RawRow(**parts | given)


@given(STATES, STORE_CODES)
def test_a_state_comes_back_from_a_row_of_fixed_size(state: State, store_code: int) -> None:
    row = rows.dump_state_row(store_code, state)
    assert rows.parse_state_row(row) == (store_code, state)
    assert len(row) == rows.STATE_BYTES == rows.STATE_DTYPE.itemsize


@given(st.lists(st.tuples(STORE_CODES, STATES), max_size=5))
def test_many_state_rows_are_columns_of_the_same_names(pairs: list[tuple[int, State]]) -> None:
    values = [rows.dump_state_row(store_code, state) for store_code, state in pairs]
    columns = rows.parse_state_rows(values)
    assert columns["store_code"].tolist() == [store_code for store_code, _ in pairs]
    for name in State.__struct_fields__:
        assert columns[name].tolist() == [getattr(state, name) for _, state in pairs]
    assert rows.dump_state_rows(columns) == values


def test_columns_that_were_chosen_or_changed_are_rows_again() -> None:
    values = [rows.dump_state_row(2, replace(FRESH, access_count=i)) for i in range(4)]
    columns = rows.parse_state_rows(values)
    assert rows.dump_state_rows(columns[[3, 1]]) == [values[3], values[1]]
    other = columns[::2].copy()
    other["score"] = 0.25
    expected = [(2, replace(FRESH, access_count=i, score=0.25)) for i in (0, 2)]
    assert [rows.parse_state_row(value) for value in rows.dump_state_rows(other)] == expected


@pytest.mark.parametrize("sizes", [(98,), (100,), (99, 98, 100), (0, 99)])
def test_a_state_row_of_another_size_among_many_is_damage(sizes: tuple[int, ...]) -> None:
    with pytest.raises(StorageDamaged):
        rows.parse_state_rows([bytes(size) for size in sizes])


@given(st.lists(ASSOCIATIONS, max_size=5).map(tuple))
def test_edges_come_back_in_their_order(edges: tuple[Association, ...]) -> None:
    assert rows.parse_edges(rows.dump_edges(edges)) == edges


def test_a_memory_without_an_edge_row_has_no_edges() -> None:
    assert rows.parse_edges(None) == rows.parse_edges(b"") == ()


@given(st.lists(IDS, max_size=5))
def test_ids_come_back_in_their_order(ids: list[RecordId]) -> None:
    assert rows.parse_ids(rows.dump_ids(ids)) == ids


def test_content_raw_and_kept_rows_come_back() -> None:
    content, raw, kept = (
        content_row(emotion=b"{}"),
        raw_row(derived=bytes(ID)),
        KeptAnswer(b"d" * 16, NOW, 7, b"{}"),
    )
    assert rows.parse_content_row(rows.dump_row(content)) == content
    assert rows.parse_raw_row(rows.dump_row(raw)) == raw
    assert rows.parse_kept_answer(rows.dump_row(kept)) == kept


@pytest.mark.parametrize("store", STORES)
def test_a_content_row_knows_its_store(store: Store) -> None:
    assert content_row(store_code=rows.STORE_CODE[store]).store is store


def test_counters_and_head_come_back_and_are_zero_before_the_first_commit() -> None:
    counters = Counters.empty()
    counters.records[2] = 3
    counters.last_dream_tick_at = NOW
    head = Head(4, 9, "ab" * 32, 7)
    assert rows.parse_counters(rows.dump_counters(counters)) == counters
    assert rows.parse_head(rows.dump_head(head), GENESIS) == head
    assert rows.parse_counters(None) == Counters.empty()
    assert rows.parse_head(None, GENESIS) == Head(0, 0, GENESIS, 0)


def test_a_copy_of_counters_changes_alone() -> None:
    counters = Counters.empty()
    copy = counters.copy()
    copy.records[0] += 1
    copy.fidelity_sums[0] += 0.5
    assert counters == Counters.empty()


@pytest.mark.parametrize(
    ("parse", "good"),
    [
        (rows.parse_content_row, rows.dump_row(content_row())),
        (rows.parse_raw_row, rows.dump_row(raw_row())),
        (rows.parse_kept_answer, rows.dump_row(KeptAnswer(b"d", NOW, 7, b"{}"))),
        (rows.parse_counters, rows.dump_counters(Counters.empty())),
        (lambda value: rows.parse_head(value, GENESIS), rows.dump_head(Head(4, 9, "ab" * 32, 7))),
        (rows.parse_state_row, rows.dump_state_row(0, FRESH)),
        (lambda value: rows.parse_state_rows([value]), rows.dump_state_row(0, FRESH)),
        (rows.parse_edges, b"\0" * 16 + b"\1" + b"\0" * 24),
        (rows.parse_ids, rows.dump_ids([ID, ID])),
    ],
    ids=["content", "raw", "kept", "counters", "head", "state", "states", "edges", "ids"],
)
def test_a_row_that_was_cut_is_damage(parse: Any, good: bytes) -> None:
    parse(good)
    with pytest.raises(StorageDamaged):
        parse(good[:-1])


def test_text_that_is_no_utf_8_is_damage() -> None:
    """Found by fuzzing."""
    value = rows.dump_head(Head(4, 9, "ab" * 32, 7))
    with pytest.raises(StorageDamaged):
        rows.parse_head(value.replace(b"ab", b"\xff\xfe", 1), GENESIS)


def test_an_edge_of_an_unknown_type_is_damage() -> None:
    association = Association(
        target_id=ID,
        association_type=AssociationType.CAUSAL,
        weight=1.0,
        created_at=Timestamp(0),
        last_co_activation=Timestamp(0),
    )
    row = bytearray(rows.dump_edges((association,)))
    row[16] = 99
    with pytest.raises(StorageDamaged):
        rows.parse_edges(bytes(row))


@given(SHOWN, st.lists(ASSOCIATIONS, max_size=3).map(tuple), st.sampled_from(STORES), UINT32.filter(bool))
def test_a_joined_record_is_read_as_what_its_rows_say(
    state: State, edges: tuple[Association, ...], store: Store, version: int
) -> None:
    emotion = EmotionVector(joy=0.5, valence=-1.0)
    meta = MetaMemory(capture_status=CaptureStatus.PROVIDED, intent="why", captured_at=Timestamp(NOW))
    row = content_row(
        store_code=rows.STORE_CODE[store],
        version=version,
        emotion=codec.dump(emotion),
        metadata=b'{"n":1.10,"deep":[1,{}]}',
        meta=codec.dump(meta),
    )
    joined = rows.record_json(ID, row, state, rows.dump_edges(edges))
    record = codec.parse(joined, MemoryRecord)
    assert (record.id, record.store, record.version) == (ID, store, version)
    assert (record.created_at, record.updated_at) == (NOW, NOW + 1)
    assert (record.content, record.emotion, record.meta) == (CONTENT, emotion, meta)
    assert (record.associations, bytes(record.metadata)) == (edges, b'{"n":1.10,"deep":[1,{}]}')
    assert (record.fidelity, record.access_count) == (state.fidelity(), state.access_count)
    assert record.last_accessed_at == state.last_accessed_at


def test_a_joined_record_has_the_keys_of_the_wire_in_their_order() -> None:
    joined = rows.record_json(ID, content_row(), FRESH, None)
    assert list(msgspec.json.decode(joined)) == list(MemoryRecord.__struct_fields__)


def test_a_record_without_emotion_and_meta_shows_what_stands_for_them() -> None:
    joined = rows.record_json(ID, content_row(), FRESH, None)
    record = codec.parse(joined, MemoryRecord)
    assert record.emotion == NEUTRAL
    assert record.associations == ()
    assert record.meta == rows.default_meta("encode.store", NOW)
    assert record.meta is not None
    assert record.meta.capture_status is CaptureStatus.UNAVAILABLE
    assert record.meta.rationale


def test_a_joined_raw_record_is_read_as_what_its_row_says() -> None:
    row = raw_row(derived=ID + NIL_ID, suppressed=True)
    record = codec.parse(rows.raw_json(ID, row), RawJournalRecord)
    assert (record.id, record.session_id, record.topic_id, record.turn_id) == (ID, "s-1", "deploy", None)
    assert (record.visibility, record.secrecy_level) == (Visibility.PRIVATE_SCRATCH, SecrecyLevel.SECRET)
    assert (record.created_at, record.suppressed, record.content) == (NOW, True, CONTENT)
    assert bytes(record.metadata) == b'{"a":1.50}'
    assert record.derived_memory_ids == (ID, NIL_ID)
    assert record.meta == rows.default_meta("encode.store_raw", NOW)


def test_a_joined_raw_record_has_the_keys_of_the_wire() -> None:
    assert set(msgspec.json.decode(rows.raw_json(ID, raw_row()))) == set(RawJournalRecord.__struct_fields__)


ODD_NUMBERS = st.one_of(
    NUMBERS,
    st.sampled_from([0.0, -0.0, 1e-300, 5e-324, 1e22, 1e16, 123456789012345680.0, 1e21, 0.1 + 0.2, -1e-7, 1.0]),
)
ODD_STATES = states(
    score=ODD_NUMBERS,
    noise_level=ODD_NUMBERS,
    stability=ODD_NUMBERS,
    decay_rate=ODD_NUMBERS,
    emotional_anchor=ODD_NUMBERS,
    access_count=st.one_of(UINT32, st.just(2**32 - 1)),
    reinforcement_count=st.one_of(UINT32, st.just(2**32 - 1)),
    last_accessed_at=INT64,
    last_decay_tick_at=INT64,
)
ODD_EDGES = st.builds(
    Association,
    target_id=IDS,
    association_type=st.sampled_from(AssociationType),
    weight=ODD_NUMBERS,
    created_at=INT64.map(Timestamp),
    last_co_activation=INT64.map(Timestamp),
)
METADATA = st.sampled_from(
    [b"{}", b'{"n":1.10,"deep":[1,{}]}', b'{"big":123456789012345678901234567890,"x":1e400}']
)


@given(
    ODD_STATES,
    st.lists(ODD_EDGES, max_size=3).map(tuple),
    st.sampled_from(STORES),
    st.tuples(INT64, INT64),
    st.integers(1, 2**32 - 1),
    st.text(max_size=8),
    METADATA,
)
def test_a_joined_record_is_byte_for_byte_what_the_wire_type_writes(
    state: State,
    edges: tuple[Association, ...],
    store: Store,
    times: tuple[int, int],
    version: int,
    text: str,
    metadata: bytes,
) -> None:
    content = MemoryContent(
        blocks=(ContentBlock(modality=Modality.TEXT, format="text/plain", data=ByteArray(text.encode())),),
        summary=text,
    )
    emotion = EmotionVector(joy=0.5, valence=-1.0)
    meta = MetaMemory(captured_at=Timestamp(times[0]), rationale=text)
    row = ContentRow(
        store_code=rows.STORE_CODE[store],
        version=version,
        created_at=times[0],
        updated_at=times[1],
        content=codec.dump(content),
        emotion=codec.dump(emotion),
        metadata=metadata,
        meta=codec.dump(meta),
    )
    record = MemoryRecord(
        id=ID,
        store=store,
        created_at=Timestamp(times[0]),
        updated_at=Timestamp(times[1]),
        last_accessed_at=Timestamp(state.last_accessed_at),
        access_count=state.access_count,
        content=content,
        fidelity=state.fidelity(),
        emotion=emotion,
        associations=edges,
        metadata=msgspec.Raw(metadata),
        version=version,
        meta=meta,
    )
    assert rows.record_json(ID, row, state, rows.dump_edges(edges)) == codec.dump(record)
    bare = replace(row, emotion=b"", meta=b"")
    shown = replace(record, emotion=NEUTRAL, associations=(), meta=rows.default_meta("encode.store", times[0]))
    assert rows.record_json(ID, bare, state, None) == codec.dump(shown)
