"""The memories that a group becomes, compared key by key with those that the reference made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cerememory.domain.dream_records import (
    Dream,
    DreamRecord,
    Plan,
    dream_of,
    entry_metadata,
    is_promoted,
)
from cerememory.domain.dreaming import RawEntry, dream_text, groups
from cerememory.protocol import codec
from cerememory.protocol.records import AssociationType, MemoryRecord, RawJournalRecord, SecrecyLevel, Visibility
from cerememory.protocol.values import RecordId, Timestamp, parse_id, parse_timestamp

BUNDLE = Path(__file__).parents[2] / "fixtures" / "reference" / "bundle-v2.cma"
LINES = [json.loads(line)["data"] for line in BUNDLE.read_text().splitlines()[1:-1]]
DREAMT = {
    line["metadata"]["_dream"]["kind"]: line for line in LINES if "kind" in line["metadata"].get("_dream", {})
}
ENTRIES = [codec.parse(json.dumps(line).encode(), RawJournalRecord) for line in LINES if "session_id" in line]
ORIGIN = DREAMT["episodic_summary"]["metadata"]["_origin"]
TICK_AT = parse_timestamp(ORIGIN["dream_tick_at"])
WORDED_HERE = {"intent", "rationale", "decision"}  # sentences, ours in our own words


def a_raw_entry(record: RawJournalRecord) -> RawEntry:
    assert record.created_at is not None
    return RawEntry(
        record_id=record.id,
        session_id=record.session_id,
        topic_id=record.topic_id,
        created_at=record.created_at,
        visibility=record.visibility,
        secrecy_level=record.secrecy_level,
        text=record.content.blocks[0].data.decode(),
        stamp=b"",
    )


def a_plan(tick_at: int = TICK_AT, made_at: int = TICK_AT + 1) -> Plan:
    ids = (parse_id(DREAMT[kind]["id"]) for kind in ("episodic_summary", "semantic_summary"))
    return Plan(tick_at, made_at, *ids)


def a_dream(entries: list[RawEntry], *, promote: bool = True) -> Dream:
    [group] = groups(entries)
    return dream_of(group, dream_text(group), a_plan(), promote=promote)


def the_dream(*, promote: bool = True) -> Dream:
    return a_dream([a_raw_entry(entry) for entry in ENTRIES], promote=promote)


def on_the_wire(record: DreamRecord) -> dict[str, Any]:
    whole = MemoryRecord(
        id=record.record_id,
        store=record.store,
        created_at=Timestamp(record.created_at),
        content=record.content,
        associations=record.associations,
        metadata=msgspec.Raw(record.metadata),
        meta=record.meta,
    )
    parsed: dict[str, Any] = json.loads(codec.dump(whole))
    return parsed


def without_sentences(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: type(item).__name__ if name in WORDED_HERE else without_sentences(item)
            for name, item in value.items()
        }
    return [without_sentences(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", ["episodic_summary", "semantic_summary"])
@pytest.mark.parametrize("part", ["id", "store", "content", "associations", "metadata", "meta"])
def test_a_dream_is_the_references_but_for_its_sentences(kind: str, part: str) -> None:
    [record] = [on_the_wire(r) for r in the_dream().records if json.loads(r.metadata)["_dream"]["kind"] == kind]
    assert json.dumps(without_sentences(record[part])) == json.dumps(without_sentences(DREAMT[kind][part]))


def test_what_is_noted_on_an_entry_is_what_the_reference_noted() -> None:
    dream = the_dream()
    for entry in ENTRIES:
        noted = json.loads(entry_metadata(b"{}", dream))
        assert json.dumps(noted) == json.dumps(json.loads(bytes(entry.metadata)))
        assert dream.record_ids == entry.derived_memory_ids


def test_the_knowledge_is_a_moment_younger_than_the_summary() -> None:
    dream = the_dream()
    assert [record.created_at for record in dream.records] == [TICK_AT + 1, TICK_AT + 2]


def test_both_are_linked_to_each_other() -> None:
    summary, semantic = the_dream().records
    assert [edge.target_id for edge in summary.associations] == [semantic.record_id]
    assert [edge.target_id for edge in semantic.associations] == [summary.record_id]
    assert {(e.association_type, e.weight) for r in (summary, semantic) for e in r.associations} == {
        (AssociationType.SEMANTIC, 1.0)
    }


def test_without_promotion_nothing_speaks_of_knowledge() -> None:
    dream = the_dream(promote=False)
    assert dream.semantic is None
    assert dream.record_ids == (dream.summary.record_id,)
    assert dream.summary.associations == ()
    assert "_derived" not in json.loads(dream.summary.metadata)
    noted = json.loads(entry_metadata(b"{}", dream))
    assert noted["_derived"] == {"episodic_summary_ids": [str(dream.summary.record_id)], "semantic_ids": []}


@pytest.mark.parametrize(
    ("topic_id", "told", "hidden", "promoted"),
    [("tides", 2, 0, True), ("tides", 1, 3, False), (None, 5, 0, False), ("tides", 2, 3, True)],
)
def test_a_topic_with_two_entries_that_may_be_told_is_promoted(
    topic_id: str | None, told: int, hidden: int, promoted: bool
) -> None:
    [first, *_] = [a_raw_entry(entry) for entry in ENTRIES]
    kinds = [Visibility.NORMAL] * told + [Visibility.SEALED] * hidden
    entries = [
        msgspec.structs.replace(
            first, record_id=RecordId(bytes([i] * 16)), topic_id=topic_id, visibility=visibility
        )
        for i, visibility in enumerate(kinds)
    ]
    [group] = groups(entries)
    assert is_promoted(group) is promoted
    assert (a_dream(entries).semantic is not None) is promoted


def test_hidden_entries_are_traced_and_counted_but_not_told() -> None:
    entries = [a_raw_entry(entry) for entry in ENTRIES]
    entries[1] = msgspec.structs.replace(entries[1], secrecy_level=SecrecyLevel.SECRET, text="passphrase")
    dream = a_dream(entries)
    assert b"passphrase" not in codec.dump(on_the_wire(dream.summary))
    metadata = json.loads(dream.summary.metadata)
    assert metadata["_origin"]["raw_record_ids"] == [str(entry.record_id) for entry in entries]
    assert metadata["_dream"]["summary_stats"] == {
        "normal_records": 1,
        "private_scratch_redacted": 0,
        "redacted_total": 1,
        "sealed_redacted": 0,
        "secret_redacted": 1,
    }


def test_an_inferred_topic_says_so() -> None:
    entries = [msgspec.structs.replace(a_raw_entry(entry), topic_id=None) for entry in ENTRIES]
    origin = json.loads(a_dream(entries).summary.metadata)["_origin"]
    assert (origin["raw_topic_id"], origin["raw_topic_inferred"]) == (None, True)
    assert origin["raw_topic_hint"] == "assistant+high+keeper"
