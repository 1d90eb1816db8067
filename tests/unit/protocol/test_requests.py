"""What a request means: its defaults, its header, where a memory goes, and the forms of a block's bytes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.errors import ValidationFailed, VersionMismatch
from cerememory.protocol import codec, requests
from cerememory.protocol.operations import BY_NAME, OPERATIONS, Operation
from cerememory.protocol.records import Store
from cerememory.protocol.requests import BlockInput, EncodeStore, Header

TIME = "2026-01-01T00:00:00Z"
TIME_RANGE = {"start": TIME, "end": TIME}
NIL = "00000000-0000-0000-0000-000000000000"
NO_BLOCKS: dict[str, Any] = {"blocks": [], "summary": None}
HEADER = {"protocol": "cmp", "version": "1.0", "request_id": NIL, "timestamp": TIME}


def defaults(kind: type[Any], **required: Any) -> dict[str, Any]:
    """What a request means that has only its required fields."""
    request = codec.parse(json.dumps(required).encode(), kind)
    shown: dict[str, Any] = json.loads(codec.dump(request))
    return {name: value for name, value in shown.items() if name not in required}


@pytest.mark.parametrize(
    ("name", "required", "expected"),
    [
        (
            "encode.store",
            {"content": NO_BLOCKS},
            {
                "store": None,
                "emotion": None,
                "context": None,
                "metadata": {},
                "associations": None,
                "meta": None,
                "if_absent": False,
            },
        ),
        ("encode.batch", {"records": []}, {"infer_associations": False}),
        (
            "encode.update",
            {},
            {"record_id": None, "content": None, "emotion": None, "metadata": None, "meta": None},
        ),
        (
            "encode.store_raw",
            {"session_id": "s", "content": NO_BLOCKS},
            {
                "turn_id": None,
                "topic_id": None,
                "source": "conversation",
                "speaker": "user",
                "visibility": "normal",
                "secrecy_level": "public",
                "metadata": {},
                "meta": None,
            },
        ),
        ("encode.batch_raw", {"records": []}, {}),
        (
            "recall.query",
            {
                "cue": dict.fromkeys(
                    ("text", "image", "audio", "emotion", "temporal", "spatial", "semantic", "embedding")
                )
            },
            {
                "stores": None,
                "limit": 10,
                "min_fidelity": None,
                "include_decayed": False,
                "reconsolidate": True,
                "activation_depth": 2,
                "recall_mode": "human",
                "explain": False,
                "scope": None,
            },
        ),
        (
            "recall.associate",
            {},
            {"record_id": None, "association_types": None, "depth": 2, "min_weight": 0.1, "limit": 10},
        ),
        (
            "recall.timeline",
            {"range": TIME_RANGE},
            {"granularity": "hour", "min_fidelity": None, "emotion_filter": None},
        ),
        (
            "recall.graph",
            {},
            {"center_id": None, "depth": 2, "edge_types": None, "limit_nodes": 10, "include_meta": False},
        ),
        (
            "recall.raw_query",
            {},
            {
                "session_id": None,
                "query": None,
                "temporal": None,
                "limit": 10,
                "include_private_scratch": False,
                "include_sealed": False,
                "secrecy_levels": None,
            },
        ),
        (
            "lifecycle.consolidate",
            {},
            {
                "strategy": "incremental",
                "min_age_hours": 0,
                "min_access_count": 0,
                "dry_run": False,
                "dedup": False,
            },
        ),
        (
            "lifecycle.dream_tick",
            {},
            {
                "session_id": None,
                "dry_run": False,
                "max_groups": 10,
                "include_private_scratch": False,
                "include_sealed": False,
                "promote_semantic": True,
                "secrecy_levels": None,
            },
        ),
        ("lifecycle.decay_tick", {}, {"tick_duration_seconds": None}),
        ("lifecycle.set_mode", {"mode": "perfect"}, {"scope": None}),
        (
            "lifecycle.forget",
            {"confirm": True},
            {
                "record_ids": None,
                "store": None,
                "temporal_range": None,
                "raw_record_ids": None,
                "session_id": None,
                "cascade": False,
                "dry_run": False,
            },
        ),
        (
            "lifecycle.export",
            {},
            {
                "format": "cma",
                "stores": None,
                "include_raw_journal": False,
                "encrypt": False,
                "encryption_key": None,
            },
        ),
        (
            "lifecycle.import",
            {"archive_id": "x", "archive_data": []},
            {
                "strategy": "merge",
                "conflict_resolution": "keep_newer",
                "decryption_key": None,
                "dry_run": False,
            },
        ),
        (
            "introspect.record",
            {"record_id": NIL},
            {
                "include_history": False,
                "include_associations": False,
                "include_versions": False,
                "version": None,
            },
        ),
        ("introspect.decay_forecast", {"record_ids": [], "forecast_at": TIME}, {}),
    ],
)
def test_a_request_has_the_defaults_of_the_specification(
    name: str, required: dict[str, Any], expected: dict[str, Any]
) -> None:
    kind = BY_NAME[name].request
    assert kind is not None
    assert defaults(kind, **required) == {"header": None, **expected}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("encode.store", "content"),
        ("encode.batch", "records"),
        ("encode.store_raw", "session_id"),
        ("encode.batch_raw", "records"),
        ("recall.query", "cue"),
        ("recall.timeline", "range"),
        ("lifecycle.set_mode", "mode"),
        ("lifecycle.forget", "confirm"),
        ("lifecycle.import", "archive_id"),
        ("introspect.decay_forecast", "record_ids"),
    ],
)
def test_a_required_field_may_not_be_missing(name: str, field: str) -> None:
    kind = BY_NAME[name].request
    assert kind is not None
    with pytest.raises(ValidationFailed, match=f"^{field}: missing field$"):
        codec.parse(b"{}", kind)


def test_the_secrecy_that_is_read_by_default_leaves_out_secrets() -> None:
    assert requests.DEFAULT_SECRECY == ("public", "sensitive")


@pytest.mark.parametrize("row", [row for row in OPERATIONS if row.method != "GET"], ids=lambda row: row.name)
def test_every_body_may_have_a_header(row: Operation) -> None:
    assert row.request is not None
    assert "header" in row.request.__struct_fields__


@pytest.mark.parametrize("field", HEADER)
def test_a_header_lacks_none_of_its_fields(field: str) -> None:
    header = {name: value for name, value in HEADER.items() if name != field}
    with pytest.raises(ValidationFailed, match=rf"^header\.{field}: missing field$"):
        codec.parse(json.dumps({"header": header}).encode(), requests.DecayTick)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.27"])
def test_any_minor_version_of_cmp_1_is_spoken(version: str) -> None:
    header = codec.parse(json.dumps({**HEADER, "version": version}).encode(), Header)
    header.check()
    assert header.version == version


@pytest.mark.parametrize(
    "other",
    [{"version": "2.0"}, {"version": "0.9"}, {"version": "10.0"}, {"version": ""}, {"protocol": "mcp"}],
)
def test_another_protocol_or_major_version_is_a_mismatch(other: dict[str, str]) -> None:
    header = codec.parse(json.dumps({**HEADER, **other}).encode(), Header)
    with pytest.raises(VersionMismatch, match=r"^header: "):
        header.check()


@pytest.mark.parametrize(
    ("fields", "store"),
    [
        ('"blocks":[]', Store.EPISODIC),
        ('"blocks":[],"summary":null', Store.EPISODIC),
        ('"blocks":[],"summary":""', Store.SEMANTIC),
        ('"blocks":[],"summary":"s"', Store.SEMANTIC),
    ],
)
def test_a_memory_is_routed_by_whether_it_has_a_summary(fields: str, store: Store) -> None:
    assert codec.parse(f'{{"content":{{{fields}}}}}'.encode(), EncodeStore).route() is store


def test_a_store_that_is_asked_for_is_used() -> None:
    body = b'{"content":{"blocks":[],"summary":"s"},"store":"working"}'
    assert codec.parse(body, EncodeStore).route() is Store.WORKING


def test_a_record_can_be_asked_for_in_a_version_from_1_on() -> None:
    assert codec.parse(f'{{"record_id":"{NIL}","version":1}}'.encode(), requests.IntrospectRecord).version == 1
    with pytest.raises(ValidationFailed, match=r"^version: expected integer >= 1"):
        codec.parse(f'{{"record_id":"{NIL}","version":0}}'.encode(), requests.IntrospectRecord)


def test_records_that_decay_archived_are_asked_back_by_id() -> None:
    assert codec.parse(f'{{"record_ids":["{NIL}"]}}'.encode(), requests.Restore).record_ids == (bytes(16),)


def block(fields: str, modality: str = "text") -> BlockInput:
    return codec.parse(f'{{"modality":"{modality}","format":"x",{fields}}}'.encode(), BlockInput)


def test_a_block_takes_its_bytes_as_an_array() -> None:
    assert block('"data":[104,105]').block("b").data == b"hi"


def test_a_block_takes_its_bytes_as_base64() -> None:
    assert block('"data_b64":"aGk="', "image").block("b").data == b"hi"


def test_a_text_block_takes_its_bytes_as_text() -> None:
    assert block('"text":"Gr\\u00fc\\u00dfe 潮"').block("b").data == "Grüße 潮".encode()


def test_only_a_text_block_takes_text() -> None:
    with pytest.raises(ValidationFailed, match=r"^content\.blocks\[2\]\.text: only a text block"):
        block('"text":"hi"', "structured").block("content.blocks[2]")


def test_of_the_two_other_forms_none_goes_before() -> None:
    with pytest.raises(ValidationFailed, match=r"^content\.blocks\[0\]\.text: give it or data_b64, not both$"):
        block('"data_b64":"bm8=","text":"no"').block("content.blocks[0]")


def test_a_block_without_bytes_in_any_form_lacks_data() -> None:
    with pytest.raises(ValidationFailed, match=r"^content\.blocks\[0\]\.data: missing field$"):
        block('"embedding":[1]').block("content.blocks[0]")


def test_the_array_goes_before_the_forms_that_the_reference_does_not_know() -> None:
    assert block('"data":[104,105],"data_b64":"bm8=","text":"no"').block("b").data == b"hi"


def test_empty_bytes_are_bytes() -> None:
    assert block('"data":[]').block("b").data == b""
    assert block('"data_b64":""').block("b").data == b""
    assert block('"text":""').block("b").data == b""


@pytest.mark.parametrize("text", ["aGk", "aGk=\\n", "aG k=", "a-_=", "aGk=aGk=", "潮", "===="])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed, match=r"^b\.data_b64: expected base64"):
        block(f'"data_b64":"{text}"').block("b")


@given(st.binary())
def test_all_forms_of_the_same_bytes_are_the_same_block(data: bytes) -> None:
    as_array = block(f'"data":{json.dumps(list(data))}').block("b")
    as_base64 = block(f'"data_b64":"{base64.b64encode(data).decode()}"').block("b")
    assert as_array == as_base64
    assert as_array.data == data


@given(st.text())
def test_text_is_stored_as_its_utf_8(text: str) -> None:
    assert block(f'"text":{json.dumps(text)}').block("b").data == text.encode()
