"""From a request to what is stored: validated, routed, completed, and refused with the field that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cerememory.domain.audit_chain import RECORD_IDS_MAX
from cerememory.domain.decay import STANDARD
from cerememory.domain.fidelity import DYNAMICS
from cerememory.errors import ContentTooLarge, Invalid, ValidationFailed, VersionMismatch
from cerememory.protocol import codec
from cerememory.protocol.limits import (
    BLOCKS_MAX,
    CALLER_ID_BYTES_MAX,
    METADATA_BYTES_MAX,
    METADATA_DEPTH_MAX,
    TEXT_BYTES_MAX,
)
from cerememory.protocol.records import STORES, MemoryContent, MetaMemory, SecrecyLevel, Store, Visibility
from cerememory.protocol.replies import Encoded, RawEncoded
from cerememory.protocol.requests import EncodeStore, EncodeStoreRaw, EncodeUpdate
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage import prepare
from cerememory.storage.documents import row_document
from cerememory.storage.keys import digest
from cerememory.storage.mutations import Edit, NewRaw
from cerememory.storage.prepared import NewRecord
from tests.support.engine import raw_body, store_body, text_block

NOW = 1_800_000_000_000_000_000
NAMESPACE = 7
ID = RecordId(bytes(range(16)))
NIL = "00000000-0000-0000-0000-000000000000"
TARGET = "0191aaaa-0000-7000-8000-0000000000ff"
HEADER = {"protocol": "cmp", "version": "1.4", "request_id": TARGET, "timestamp": "2026-01-01T00:00:00Z"}


def record(body: dict[str, Any], where: str = "") -> NewRecord:
    return prepare.new_record(NAMESPACE, codec.parse(codec.dump(body), EncodeStore), ID, NOW, where)


def raw(body: dict[str, Any], where: str = "") -> NewRaw:
    return prepare.new_raw(NAMESPACE, codec.parse(codec.dump(body), EncodeStoreRaw), ID, NOW, where)


def edit(body: dict[str, Any]) -> Edit:
    return prepare.edit(codec.parse(codec.dump(body), EncodeUpdate), NOW)


@pytest.mark.parametrize(
    ("given", "store"),
    [
        ({}, Store.EPISODIC),
        ({"summary": "short"}, Store.SEMANTIC),
        ({"summary": ""}, Store.SEMANTIC),
        ({"store": "procedural"}, Store.PROCEDURAL),
        ({"store": "episodic", "summary": "short"}, Store.EPISODIC),
        ({"store": "working"}, Store.WORKING),
    ],
)
def test_a_record_goes_where_it_is_sent_or_by_whether_it_has_a_summary(given: Any, store: Store) -> None:
    assert record(store_body("x", **given)).row.store is store


@pytest.mark.parametrize("store", STORES)
def test_a_new_record_is_whole_and_fades_as_its_store_does(store: Store) -> None:
    made = record(store_body("x", store=store))
    assert made.state == STANDARD[store].fresh(NOW)
    assert (made.state.score, made.state.decay_rate) == (1.0, DYNAMICS[store].decay_rate)
    assert (made.row.version, made.row.created_at, made.row.updated_at) == (1, NOW, NOW)
    assert made.durable == (store is not Store.WORKING)


def test_the_first_embedding_stands_for_the_record() -> None:
    blocks = [text_block("a"), text_block("b", embedding=[1, 2]), text_block("c", embedding=[3])]
    assert record({"content": {"blocks": blocks}}).embedding == (1.0, 2.0)
    assert record(store_body("x")).embedding is None


def test_a_context_goes_into_the_metadata_with_its_four_keys() -> None:
    made = record(store_body("x", metadata={"a": 1.10}, context={"source": "chat", "spatial": {"lat": 1.50}}))
    assert made.row.metadata == (
        b'{"a":1.1,"_context":{"source":"chat","session_id":null,"spatial":{"lat":1.5},"temporal":null}}'
    )


@pytest.mark.parametrize("metadata", [[1, 2], "text", None, 7])
def test_metadata_that_is_no_object_moves_when_there_is_a_context(metadata: object) -> None:
    made = record(store_body("x", metadata=metadata, context={"source": "chat"}))
    stored = codec.parse(made.row.metadata, dict[str, Any])
    assert stored.keys() == {"_metadata", "_context"}
    assert stored["_metadata"] == metadata
    assert msgspec.json.decode(record(store_body("x", metadata=metadata)).row.metadata) == metadata


def test_given_meta_is_completed_and_none_stays_none() -> None:
    meta = codec.parse(record(store_body("x", meta={"intent": "why"})).row.meta, MetaMemory)
    assert (meta.capture_status, meta.trigger, meta.captured_at) == ("provided", "encode.store", NOW)
    assert record(store_body("x")).row.meta == b""
    raw_meta = codec.parse(raw(raw_body("x", meta={})).row.meta, MetaMemory)
    assert (raw_meta.capture_status, raw_meta.trigger) == ("provided", "encode.store_raw")


def test_associations_are_made_now_and_counted_in_the_answer() -> None:
    edges = [{"target_id": TARGET, "association_type": kind, "weight": 0.25} for kind in ("causal", "semantic")]
    made = record(store_body("x", associations=edges))
    assert [(edge.association_type, edge.created_at) for edge in made.associations] == [
        ("causal", NOW),
        ("semantic", NOW),
    ]
    assert prepare.encoded(made) == Encoded(
        record_id=ID, store=Store.EPISODIC, initial_fidelity=1.0, associations_created=2
    )


def test_inferred_edges_stand_behind_the_given_ones_and_outside_the_answer() -> None:
    edge = {"target_id": TARGET, "association_type": "causal", "weight": 1}
    made = record(store_body("x", associations=[edge]))
    linked = prepare.with_neighbours(made, made.associations)
    assert len(linked.associations) == 2
    assert prepare.encoded(made).associations_created == 1


def test_the_document_has_what_the_record_can_be_found_by() -> None:
    made = record(store_body("kettle", summary="short", meta={"intent": "boiling"}))
    document = row_document(made.namespace, made.record_id, made.row)
    assert document.text.split("\n") == ["kettle", "boiling"]
    assert (document.summary, document.created_at) == ("short", NOW)
    assert (document.namespace, document.record_id) == (NAMESPACE, ID)


DEEP: dict[str, Any] = {}
for _ in range(METADATA_DEPTH_MAX):
    DEEP = {"a": DEEP}
BIG = "x" * (TEXT_BYTES_MAX + 1)
REFUSED: list[tuple[str, dict[str, Any], type[Invalid], str]] = [
    ("no blocks", {"content": {"blocks": []}}, ValidationFailed, "content.blocks: must have at least one"),
    (
        "many blocks",
        {"content": {"blocks": [text_block("")] * (BLOCKS_MAX + 1)}},
        ValidationFailed,
        "content.blocks: at most 1024",
    ),
    (
        "big text",
        store_body(BIG),
        ContentTooLarge,
        "content.blocks[0]: text of 1048577 bytes, at most 1048576",
    ),
    (
        "not UTF-8",
        {"content": {"blocks": [{"modality": "text", "format": "t", "data": [65, 255]}]}},
        ValidationFailed,
        "content.blocks[0]: text must be UTF-8",
    ),
    (
        "not JSON",
        {"content": {"blocks": [{"modality": "structured", "format": "j", "data": [65]}]}},
        ValidationFailed,
        "content.blocks[0]: ",
    ),
    (
        "text of an image",
        {"content": {"blocks": [{"modality": "image", "format": "png", "text": "x"}]}},
        ValidationFailed,
        "content.blocks[0].text: only a text block",
    ),
    (
        "no data",
        {"content": {"blocks": [{"modality": "text", "format": "t"}]}},
        ValidationFailed,
        "content.blocks[0].data: missing field",
    ),
    (
        "no base64",
        {"content": {"blocks": [{"modality": "text", "format": "t", "data_b64": "%"}]}},
        ValidationFailed,
        "content.blocks[0].data_b64: expected base64",
    ),
    ("empty embedding", store_body("x", embedding=[]), ValidationFailed, "content.blocks[0].embedding: must not"),
    ("huge embedding", store_body("x", embedding=[1e39]), ValidationFailed, "content.blocks[0].embedding: "),
    ("deep metadata", store_body("x", metadata=DEEP), ValidationFailed, "metadata: nested deeper than 64"),
    (
        "long metadata",
        store_body("x", metadata=["x" * METADATA_BYTES_MAX]),
        ValidationFailed,
        "metadata: 1000004 bytes",
    ),
    (
        "deep context",
        store_body("x", context={"temporal": DEEP}),
        ValidationFailed,
        "context.temporal: nested deeper than 64",
    ),
    (
        "long session",
        store_body("x", context={"session_id": "s" * (CALLER_ID_BYTES_MAX + 1)}),
        ValidationFailed,
        "context.session_id: 1025 bytes",
    ),
    (
        "itself",
        store_body("x", associations=[{"target_id": format_id(ID), "association_type": "causal", "weight": 1}]),
        ValidationFailed,
        "associations[0].target_id: is the record itself",
    ),
    (
        "nil edge",
        store_body("x", meta={"context_edges": [{"target_id": NIL}]}),
        ValidationFailed,
        "meta.context_edges[0].target_id: must not be the nil UUID",
    ),
]


@pytest.mark.parametrize(("body", "error", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
@pytest.mark.parametrize("where", ["", "records[17]."])
def test_a_wrong_record_is_refused_with_its_field(
    body: dict[str, Any], error: type[Invalid], message: str, where: str
) -> None:
    with pytest.raises(error) as refused:
        record(body, where)
    assert str(refused.value).startswith(where + message)


def test_a_context_may_make_metadata_too_large_or_too_deep() -> None:
    large = {"a": "x" * (METADATA_BYTES_MAX - 20)}
    record(store_body("x", metadata=large))
    with pytest.raises(ValidationFailed, match="metadata: "):
        record(store_body("x", metadata=large, context={"source": "chat"}))


HEADERS: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("store", lambda header: record(store_body("x", header=header))),
    ("update", lambda header: edit({"metadata": {}, "header": header})),
    ("raw", lambda header: raw(raw_body("x", header=header))),
]


@pytest.mark.parametrize("send", [send for _name, send in HEADERS], ids=[name for name, _send in HEADERS])
@pytest.mark.parametrize("wrong", [{"protocol": "xmp"}, {"version": "2.0"}, {"version": ""}, {"version": "10.1"}])
def test_another_protocol_or_major_version_is_refused(
    send: Callable[[dict[str, Any]], object], wrong: dict[str, str]
) -> None:
    send(HEADER)
    with pytest.raises(VersionMismatch):
        send(HEADER | wrong)


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_raw_entry_needs_a_session(blank: str) -> None:
    with pytest.raises(ValidationFailed, match=r"records\[3\]\.session_id: must not be blank"):
        raw(raw_body("x", blank), "records[3].")


@pytest.mark.parametrize("name", ["session_id", "turn_id", "topic_id"])
def test_what_callers_name_raw_entries_by_is_bounded_in_bytes(name: str) -> None:
    raw(raw_body("x") | {name: "é" * (CALLER_ID_BYTES_MAX // 2)})
    with pytest.raises(ValidationFailed, match=f"{name}: 1026 bytes, at most 1024"):
        raw(raw_body("x") | {name: "é" * (CALLER_ID_BYTES_MAX // 2 + 1)})


def test_a_raw_entry_is_what_was_sent_with_defaults_for_the_rest() -> None:
    made = raw(raw_body("said", "s-7", topic_id="t"))
    assert (made.row.source, made.row.speaker, made.row.visibility_code, made.row.secrecy_code) == (
        "conversation",
        "user",
        0,
        0,
    )
    assert (made.row.topic_id, made.row.turn_id, made.row.suppressed) == ("t", None, False)
    assert made.session_digest == digest("s-7")
    assert prepare.raw_encoded(made) == RawEncoded(
        record_id=ID, session_id="s-7", visibility=Visibility.NORMAL, secrecy_level=SecrecyLevel.PUBLIC
    )


def test_an_update_says_which_parts_it_replaces() -> None:
    made = edit({"content": {"blocks": [text_block("new")]}, "emotion": {"joy": 1}})
    assert isinstance(made.content, MemoryContent)
    assert made.emotion is not None
    assert (made.metadata, made.meta) == (None, None)


@pytest.mark.parametrize("body", [{}, {"metadata": None}, {"content": None, "meta": None, "emotion": None}])
def test_an_update_of_nothing_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed, match="one of content, emotion, metadata, meta must be given"):
        edit(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"content": {"blocks": []}}, "content.blocks: must have"),
        ({"metadata": DEEP}, "metadata: nested"),
        ({"meta": {"context_edges": [{"target_id": NIL}]}}, "meta.context_edges[0].target_id"),
    ],
)
def test_a_wrong_update_is_refused_with_its_field(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        edit(body)
    assert str(refused.value).startswith(message)


def test_audit_entries_say_what_happened_and_nothing_of_the_content() -> None:
    made = record(store_body("kettle", meta={"intent": "secret"}))
    entry = prepare.store_audit(made, NOW)
    assert (entry.operation, entry.record_ids, entry.store_types) == ("encode.store", (ID,), ("episodic",))
    assert entry.summary == {"record_id": format_id(ID), "store": "episodic", "associations_created": 0}
    batch = prepare.batch_audit((made, made), 2, NOW)
    assert (batch.operation, batch.record_ids, batch.store_types) == ("encode.batch", (ID, ID), ("episodic",) * 2)
    assert batch.summary == {"records": 2, "associations_inferred": 2}


@pytest.mark.parametrize(("text", "state"), [("said", "updated"), ("", "skipped_no_text")])
def test_the_entry_of_a_raw_record_says_whether_it_can_be_found_by_words(text: str, state: str) -> None:
    entry = prepare.raw_audit(raw(raw_body(text, visibility="sealed", secrecy_level="secret")), NOW)
    assert (entry.operation, entry.record_ids, entry.store_types) == ("encode.store_raw", (ID,), ())
    assert entry.summary == {
        "record_id": format_id(ID),
        "visibility": "sealed",
        "secrecy_level": "secret",
        "text_index": {"state": state, "rebuildable": True},
    }


@pytest.mark.parametrize(
    ("count", "pieces"),
    [(0, [0]), (1, [1]), (RECORD_IDS_MAX, [RECORD_IDS_MAX]), (RECORD_IDS_MAX + 1, [RECORD_IDS_MAX, 1])],
)
def test_a_raw_batch_has_an_entry_for_each_thousand_records(count: int, pieces: list[int]) -> None:
    entries = prepare.raw_batch_audits((raw(raw_body("x")),) * count, NOW)
    assert [(len(entry.record_ids), entry.summary["records"]) for entry in entries] == [(n, n) for n in pieces]
