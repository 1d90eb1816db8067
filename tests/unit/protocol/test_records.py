"""The stored types against records that the reference implementation wrote, and their defaults and bounds."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from cerememory.errors import ValidationFailed
from cerememory.protocol import codec, records, requests
from cerememory.protocol.records import (
    NEUTRAL,
    Association,
    AssociationType,
    CaptureStatus,
    ContentBlock,
    EmotionVector,
    FidelityState,
    MemoryContent,
    MemoryRecord,
    MetaMemory,
    Modality,
    RawJournalRecord,
    RawSource,
    Relation,
    SecrecyLevel,
    Speaker,
    Store,
    TemporalRange,
    Visibility,
    Wire,
)
from cerememory.protocol.values import NIL_ID, ByteArray, RecordId, Timestamp

ARCHIVES = Path(__file__).parents[2] / "fixtures" / "reference"
CONTENT = '"content":{"blocks":[{"modality":"text","format":"text/plain","data":[65]}]}'
NIL = str(NIL_ID)
UINT32_MAX = 2**32 - 1


def archived(name: str) -> list[str]:
    """The record lines of an archive, without header and footer."""
    return (ARCHIVES / name).read_text(encoding="utf-8").splitlines()[1:-1]


CURATED = archived("curated-v1.cma")
BUNDLED = [json.loads(line) for line in archived("bundle-v2.cma")]


def bundled(kind: str) -> list[str]:
    """The records of one kind in the mixed archive, as they stand in it."""
    lines = archived("bundle-v2.cma")
    return [line.removeprefix(f'{{"kind":"{kind}","data":')[:-1] for line in lines if f'"kind":"{kind}"' in line]


def test_the_archives_hold_what_their_description_says() -> None:
    assert len(CURATED) == 6
    assert [line["kind"] for line in BUNDLED] == ["memory_record"] * 6 + ["raw_journal_record"] * 2


@pytest.mark.parametrize("line", CURATED + bundled("memory_record"))
def test_a_memory_record_of_the_reference_is_dumped_back_byte_for_byte(line: str) -> None:
    record = codec.parse(line.encode(), MemoryRecord)
    assert codec.dump(record).decode() == line


@pytest.mark.parametrize("line", bundled("raw_journal_record"))
def test_a_raw_record_of_the_reference_is_dumped_back_byte_for_byte(line: str) -> None:
    record = codec.parse(line.encode(), RawJournalRecord)
    assert codec.dump(record).decode() == line


@pytest.mark.parametrize("line", CURATED)
def test_a_record_survives_the_base64_form_of_its_bytes(line: str) -> None:
    shown = json.loads(codec.with_base64(line.encode()))
    stored = json.loads(line)
    for block, original in zip(shown["content"]["blocks"], stored["content"]["blocks"], strict=True):
        assert list(base64.b64decode(block["data"])) == original["data"]


def test_a_record_needs_only_its_id_store_and_content() -> None:
    record = codec.parse(f'{{"id":"{NIL}","store":"working",{CONTENT}}}'.encode(), MemoryRecord)
    assert record == MemoryRecord(
        id=NIL_ID,
        store=Store.WORKING,
        created_at=None,
        updated_at=None,
        last_accessed_at=None,
        access_count=0,
        content=MemoryContent(
            blocks=(ContentBlock(modality=Modality.TEXT, format="text/plain", data=ByteArray(b"A")),),
            summary=None,
        ),
        fidelity=FidelityState(
            score=1.0,
            noise_level=0.0,
            decay_rate=0.3,
            emotional_anchor=1.0,
            reinforcement_count=0,
            stability=1.0,
            last_decay_tick=None,
        ),
        emotion=EmotionVector(),
        associations=(),
        metadata=msgspec.Raw(b"{}"),
        version=1,
        meta=None,
    )


RAW_REQUIRED = {
    "id": NIL,
    "session_id": "s",
    "source": "conversation",
    "speaker": "user",
    "visibility": "normal",
    "secrecy_level": "public",
    "content": {"blocks": []},
}


def test_a_raw_record_has_the_defaults_of_the_wire() -> None:
    record = codec.parse(json.dumps(RAW_REQUIRED).encode(), RawJournalRecord)
    assert (record.turn_id, record.topic_id, record.created_at, record.updated_at, record.meta) == (None,) * 5
    assert (record.derived_memory_ids, record.suppressed) == ((), False)
    assert bytes(record.metadata) == b"{}"


@pytest.mark.parametrize("field", RAW_REQUIRED)
def test_a_raw_record_lacks_none_of_its_required_fields(field: str) -> None:
    body = {name: value for name, value in RAW_REQUIRED.items() if name != field}
    with pytest.raises(ValidationFailed, match=f"^{field}: missing field$"):
        codec.parse(json.dumps(body).encode(), RawJournalRecord)


@pytest.mark.parametrize("field", ["target_id", "association_type", "weight", "created_at", "last_co_activation"])
def test_a_stored_association_lacks_none_of_its_fields(field: str) -> None:
    body = {
        "target_id": NIL,
        "association_type": "causal",
        "weight": 0.5,
        "created_at": "2026-01-01T00:00:00Z",
        "last_co_activation": "2026-01-01T00:00:00Z",
    }
    assert codec.parse(json.dumps(body).encode(), Association).weight == 0.5
    del body[field]
    with pytest.raises(ValidationFailed, match=f"^{field}: missing field$"):
        codec.parse(json.dumps(body).encode(), Association)


def test_an_empty_meta_has_the_defaults_of_the_wire() -> None:
    assert json.loads(codec.dump(codec.parse(b"{}", MetaMemory))) == {
        "schema_version": 1,
        "capture_status": None,
        "intent": None,
        "rationale": None,
        "trigger": None,
        "goals": [],
        "evidence": [],
        "assumptions": [],
        "alternatives": [],
        "decision": None,
        "confidence": None,
        "source_record_ids": [],
        "parent_meta_ids": [],
        "context_edges": [],
        "tags": [],
        "captured_at": None,
    }


def test_the_parts_of_a_meta_have_the_defaults_of_the_wire() -> None:
    body = f'{{"evidence":[{{}}],"alternatives":[{{"option":"a"}}],"context_edges":[{{"target_id":"{NIL}"}}]}}'
    meta = json.loads(codec.dump(codec.parse(body.encode(), MetaMemory)))
    assert meta["evidence"] == [
        dict.fromkeys(("record_id", "raw_record_id", "label", "excerpt", "uri", "confidence"))
    ]
    assert meta["alternatives"] == [{"option": "a", "reason": None, "chosen": False}]
    assert meta["context_edges"] == [
        {
            "source_id": None,
            "target_id": NIL,
            "relation": "context_of",
            "rationale": None,
            "evidence": [],
            "confidence": None,
            "created_at": None,
        }
    ]


def test_schema_version_0_is_read_as_1() -> None:
    assert codec.parse(b'{"schema_version":0}', MetaMemory).schema_version == 1
    assert codec.parse(b'{"schema_version":2}', MetaMemory).schema_version == 2


@pytest.mark.parametrize(
    ("enum", "names"),
    [
        (Modality, "text image audio video structured spatial temporal interoceptive"),
        (Store, "episodic semantic procedural emotional working"),
        (AssociationType, "temporal spatial semantic emotional causal sequential cross_modal user_defined"),
        (CaptureStatus, "provided inferred legacy unavailable"),
        (
            Relation,
            "motivated_by caused_by derived_from supports contradicts chose_over explains context_of",
        ),
        (RawSource, "conversation tool_io scratchpad summary imported"),
        (Speaker, "user assistant system tool"),
        (Visibility, "normal private_scratch sealed"),
        (SecrecyLevel, "public sensitive secret"),
        (requests.RecallMode, "human perfect"),
        (requests.Granularity, "minute hour day week month"),
        (requests.Strategy, "full incremental selective"),
        (requests.ImportStrategy, "merge replace"),
        (requests.ConflictResolution, "keep_existing keep_imported keep_newer"),
    ],
)
def test_an_enum_has_the_names_of_the_wire_in_their_order(enum: Any, names: str) -> None:
    assert [str(member) for member in enum] == names.split()


def test_the_durable_stores_are_all_but_working() -> None:
    assert set(records.STORES) - set(records.DURABLE_STORES) == {Store.WORKING}


def test_neutral_is_no_emotion_at_all() -> None:
    assert set(json.loads(codec.dump(NEUTRAL)).values()) == {0.0}
    assert NEUTRAL.axes() == (0.0,) * 8


def test_the_axes_are_in_the_order_of_the_wire() -> None:
    body = {name: i / 10 for i, name in enumerate(json.loads(codec.dump(NEUTRAL)))}
    assert codec.parse(json.dumps(body).encode(), EmotionVector).axes() == tuple(i / 10 for i in range(8))


def test_emotion_values_are_not_checked() -> None:
    assert codec.parse(b'{"joy":7,"valence":-3.5}', EmotionVector).joy == 7.0


@pytest.mark.parametrize("field", ["score", "noise_level"])
@pytest.mark.parametrize("value", ["-0.001", "1.001"])
def test_fidelity_and_noise_are_refused_outside_0_to_1(field: str, value: str) -> None:
    with pytest.raises(ValidationFailed, match=f"^{field}: expected number"):
        codec.parse(f'{{"{field}":{value}}}'.encode(), FidelityState)


@pytest.mark.parametrize("value", ["0", "0.0", "1", "1.0", "5e-324"])
def test_the_bounds_of_a_weight_belong_to_it(value: str) -> None:
    body = f'{{"target_id":"{NIL}","association_type":"causal","weight":{value}}}'
    assert codec.parse(body.encode(), requests.AssociationInput).weight == float(value)


def test_a_range_keeps_both_ends() -> None:
    body = b'{"start":"2020-01-01T00:00:00Z","end":"9999-12-31T23:59:59.999999999Z"}'
    assert codec.dump(codec.parse(body, TemporalRange)) == body


def test_metadata_of_any_json_type_is_kept() -> None:
    for metadata in ("5", "null", '"s"', "[1.50]", '{"a":{"b":1e2}}'):
        body = f'{{"id":"{NIL}","store":"episodic",{CONTENT},"metadata":{metadata}}}'
        dumped = codec.dump(codec.parse(body.encode(), MemoryRecord)).decode()
        assert f'"metadata":{metadata},' in dumped


def test_the_wire_types_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        NEUTRAL.joy = 1.0  # type: ignore[misc]


def fields_of(module: Any) -> Iterator[tuple[str, inspect.Type]]:
    """Each field of the wire types that `module` defines, by name, with each type that it may have."""
    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, Wire) and kind.__module__ == module.__name__:
            shape = inspect.type_info(kind)
            assert isinstance(shape, inspect.StructType)
            for field in shape.fields:
                yield from ((f"{kind.__name__}.{field.name}", part) for part in parts_of(field.type))


def parts_of(kind: inspect.Type) -> Iterator[inspect.Type]:
    yield kind
    if isinstance(kind, inspect.UnionType):
        for member in kind.types:
            yield from parts_of(member)
    if isinstance(kind, inspect.VarTupleType):
        yield from parts_of(kind.item_type)


FIELDS = [*fields_of(records), *fields_of(requests)]


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kind in FIELDS if isinstance(kind, inspect.IntType)]
)
def test_every_integer_has_a_range_of_32_bits(name: str, kind: inspect.IntType) -> None:
    assert kind.ge in (0, 1), name
    assert kind.le == UINT32_MAX, name


def test_no_field_is_a_datetime_which_would_round() -> None:
    assert not [name for name, kind in FIELDS if isinstance(kind, inspect.DateTimeType)]


def test_no_field_is_untyped_or_an_optional_raw_which_msgspec_reads_as_null_only() -> None:
    unions = [(name, kind.types) for name, kind in FIELDS if isinstance(kind, inspect.UnionType)]
    assert not [name for name, kind in FIELDS if isinstance(kind, inspect.AnyType)]
    assert not [name for name, types in unions if inspect.RawType() in types]


ids = st.binary(min_size=16, max_size=16).map(RecordId)
times = st.integers(-(2**63), 2**63 - 1).map(Timestamp)
units = st.floats(0.0, 1.0)
numbers = st.floats(allow_nan=False, allow_infinity=False)
uint32s = st.integers(0, UINT32_MAX)
texts = st.none() | st.text()
metas = st.builds(
    MetaMemory,
    schema_version=st.integers(1, UINT32_MAX),
    capture_status=st.none() | st.sampled_from(CaptureStatus),
    intent=texts,
    confidence=st.none() | units,
    source_record_ids=st.lists(ids, max_size=2).map(tuple),
    tags=st.lists(st.text(), max_size=2).map(tuple),
    captured_at=st.none() | times,
)
contents = st.builds(
    MemoryContent,
    blocks=st.lists(
        st.builds(
            ContentBlock,
            modality=st.sampled_from(Modality),
            format=st.text(),
            data=st.binary().map(ByteArray),
            embedding=st.none() | st.lists(numbers, max_size=3).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    summary=texts,
)
memory_records = st.builds(
    MemoryRecord,
    id=ids,
    store=st.sampled_from(Store),
    created_at=times,
    access_count=uint32s,
    content=contents,
    fidelity=st.builds(FidelityState, score=units, decay_rate=numbers, stability=numbers, last_decay_tick=times),
    emotion=st.builds(EmotionVector, joy=numbers, valence=numbers),
    associations=st.lists(
        st.builds(
            Association,
            target_id=ids,
            association_type=st.sampled_from(AssociationType),
            weight=units,
            created_at=times,
            last_co_activation=times,
        ),
        max_size=2,
    ).map(tuple),
    version=uint32s,
    meta=st.none() | metas,
)


@given(memory_records)
def test_any_record_reads_back_as_it_was_dumped(record: MemoryRecord) -> None:
    assert codec.parse(codec.dump(record), MemoryRecord) == record
