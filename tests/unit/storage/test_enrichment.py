"""What a memory lacks, what is put beside it, and which part of the log is still to be looked at."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from cerememory.domain.audit_chain import parse_line
from cerememory.domain.consolidation import LOOK_BACK_NS
from cerememory.protocol import codec, limits
from cerememory.protocol.records import MemoryContent
from cerememory.storage import enrichment
from cerememory.storage.enrichment import Addition, Enrich, Gap, NoteEnriched, Offer, Picture
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    Address,
    Table,
    counters_key,
    key,
    pack_sequence,
    system_key,
)
from cerememory.storage.mutations import embedding_of
from cerememory.storage.rows import ContentRow, dump_counters, parse_content_row, parse_counters
from cerememory.storage.vectors import Space, vector_key
from tests.support.committing import a_record, an_id, commit, storing, storing_raw, updating
from tests.support.engine import NOW, text_block
from tests.support.memory_storage import MemoryStorage

ALL = Offer(text_vectors=True, image_vectors=True, relations=True)
CHAT_ALONE = Offer(text_vectors=False, image_vectors=False, relations=True)
WORDS_ALONE = Offer(text_vectors=True, image_vectors=False, relations=False)
PNG = b"\x89PNG\r\n\x1a\n picture"
VECTOR = (0.5, -0.25, 1e-05)
OWNS = {"subject": "Ada", "predicate": "owns", "object": "a dog", "confidence": 0.9}


def address(number: int, namespace: int = DEFAULT_NAMESPACE) -> Address:
    return namespace, an_id(number)


def block(modality: str, data: bytes, **given: Any) -> dict[str, Any]:
    return {"modality": modality, "format": modality, "data": list(data), **given}


def stored(storage: MemoryStorage, number: int = 1, text: str = "the kettle", **given: Any) -> None:
    commit(storage, storing(a_record(number, text, **given)))


def with_blocks(storage: MemoryStorage, *blocks: dict[str, Any], summary: str | None = None) -> None:
    content = codec.parse(codec.dump({"blocks": blocks, "summary": summary}), MemoryContent)
    record = a_record(1)
    row = replace(record.row, content=codec.dump(content))
    commit(storage, storing(dataclasses.replace(record, row=row)))


def gap_of(storage: MemoryStorage, offer: Offer = ALL, number: int = 1) -> Gap | None:
    gaps = enrichment.gaps_in(storage, [address(number)], offer)
    return gaps[0] if gaps else None


def row_of(storage: MemoryStorage, number: int = 1, namespace: int = DEFAULT_NAMESPACE) -> ContentRow:
    return parse_content_row(storage.rows()[key(namespace, Table.CONTENT, an_id(number))])


def enriched(storage: MemoryStorage, gap: Gap, relations: Any = (OWNS,), vector: Any = VECTOR) -> Any:
    """The answer of the mutation, and what was committed."""
    content = None if vector is None else enrichment.content_with(gap, vector)
    metadata = None if relations is None else enrichment.metadata_with(gap, relations)
    addition = Addition(vector, content, metadata, len(relations or ()))
    (answer,), finished = commit(storage, Enrich(gap, addition, "fake"))
    return answer, finished


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def test_a_memory_with_words_lacks_a_vector_and_relations(storage: MemoryStorage) -> None:
    stored(storage)
    gap = gap_of(storage)
    assert gap is not None
    assert (gap.words, gap.block, gap.picture) == ("the kettle", 0, None)
    assert gap.lacks_vector
    assert gap.lacks_relations


@pytest.mark.parametrize(("offer", "lacks"), [(CHAT_ALONE, (False, True)), (WORDS_ALONE, (True, False))])
def test_it_lacks_only_what_the_provider_can_give(
    storage: MemoryStorage, offer: Offer, lacks: tuple[bool, bool]
) -> None:
    stored(storage)
    gap = gap_of(storage, offer)
    assert gap is not None
    assert (gap.lacks_vector, gap.lacks_relations) == lacks


def test_a_memory_with_an_embedding_lacks_relations_alone(storage: MemoryStorage) -> None:
    stored(storage, embedding=[1.0, 2.0])
    gap = gap_of(storage)
    assert gap is not None
    assert (gap.lacks_vector, gap.lacks_relations) == (False, True)
    assert gap_of(storage, WORDS_ALONE) is None


def test_an_embedding_on_any_block_counts(storage: MemoryStorage) -> None:
    with_blocks(storage, block("text", b"tea"), block("image", PNG, embedding=[1.0]))
    assert gap_of(storage, WORDS_ALONE) is None


def test_a_picture_without_words_lacks_its_own_vector_and_no_relations(storage: MemoryStorage) -> None:
    with_blocks(storage, block("video", b"?"), block("image", b"none"), block("image", PNG))
    gap = gap_of(storage)
    assert gap is not None
    assert (gap.block, gap.picture, gap.words) == (2, Picture(PNG, "png"), "")
    assert (gap.lacks_vector, gap.lacks_relations) == (True, False)
    assert gap_of(storage, WORDS_ALONE) is None


@pytest.mark.parametrize(
    ("blocks", "summary", "words", "at"),
    [
        ([block("image", PNG), block("text", b"tea")], None, "tea", 1),
        ([block("image", PNG), block("structured", b'{"cup": "tea"}')], None, "cup: tea", 1),
        ([block("image", PNG)], "a cup of tea", "a cup of tea", 0),
        ([block("text", b" "), block("text", b"tea")], None, "tea", 0),
    ],
)
def test_words_come_before_pictures(
    storage: MemoryStorage, blocks: list[dict[str, Any]], summary: str | None, words: str, at: int
) -> None:
    with_blocks(storage, *blocks, summary=summary)
    gap = gap_of(storage)
    assert gap is not None
    assert (gap.words, gap.block, gap.picture) == (words, at, None)


@pytest.mark.parametrize("blocks", [[block("text", b"  ")], [block("image", b"?")], [block("audio", b"?")]])
def test_a_memory_with_nothing_to_read_lacks_nothing(storage: MemoryStorage, blocks: list[dict[str, Any]]) -> None:
    with_blocks(storage, *blocks)
    assert gap_of(storage) is None


def test_raw_entries_and_what_is_not_there_lack_nothing(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(1))
    assert enrichment.gaps_in(storage, [address(1), address(2), address(1, 7)], ALL) == []


@pytest.mark.parametrize("metadata", [[], "text", 5, None, True])
def test_metadata_that_is_no_object_has_no_room_for_relations(storage: MemoryStorage, metadata: Any) -> None:
    stored(storage, metadata=metadata)
    assert gap_of(storage, CHAT_ALONE) is None
    assert gap_of(storage, WORDS_ALONE) is not None


def test_relations_of_somebody_else_are_left_alone(storage: MemoryStorage) -> None:
    stored(storage, metadata={"extracted_relations": []})
    assert gap_of(storage, CHAT_ALONE) is None


def test_what_is_added_is_there_and_nothing_is_lacking_then(storage: MemoryStorage) -> None:
    stored(storage, metadata={"a": 1.50, "b": {"c": [10**25]}})
    before, gap = row_of(storage), gap_of(storage)
    assert gap is not None
    answer, _finished = enriched(storage, gap)
    assert answer is True
    row = row_of(storage)
    assert embedding_of(codec.parse(row.content, MemoryContent)) == VECTOR
    metadata = codec.parse(row.metadata, dict[str, msgspec.Raw])
    assert list(metadata) == ["a", "b", "extracted_relations", "_relations_of"]
    assert (bytes(metadata["a"]), bytes(metadata["b"])) == (b"1.5", b'{"c":[%d]}' % 10**25)
    assert codec.parse(bytes(metadata["extracted_relations"]), list[Any]) == [OWNS]
    assert gap_of(storage) is None
    assert replace(row, content=before.content, metadata=before.metadata) == before


def test_the_vector_gets_its_row_its_count_and_its_news(storage: MemoryStorage) -> None:
    stored(storage, namespace=3, store="semantic")
    [gap] = enrichment.gaps_in(storage, [address(1, 3)], ALL)
    _answer, finished = enriched(storage, gap)
    rows = storage.rows()
    assert vector_key(3, Space.CONTENT, 3, an_id(1)) in rows
    assert parse_counters(rows[counters_key(3)]).vectors == 1
    [change] = finished.effects.vectors
    assert (change.namespace, change.record_id, change.values) == (3, an_id(1), VECTOR)
    assert change.created_at == row_of(storage, 1, 3).created_at


@pytest.mark.parametrize(("age_ns", "expected"), [(LOOK_BACK_NS - 1, NOW - 1), (LOOK_BACK_NS, None)])
def test_what_gets_its_vector_late_is_compared_by_the_next_consolidation(
    storage: MemoryStorage, age_ns: int, expected: int | None
) -> None:
    """It hasn't changed by its times, and without a vector nothing is anybody's duplicate."""
    commit(storage, storing(a_record(1, "the kettle", NOW - age_ns)))
    counters_row = counters_key(DEFAULT_NAMESPACE)
    counters = parse_counters(storage.rows()[counters_row])
    counters.last_consolidated_at = NOW - 1
    storage.commit({counters_row: dump_counters(counters)})
    gap = gap_of(storage)
    assert gap is not None
    enriched(storage, gap, vector=None)
    assert parse_counters(storage.rows()[counters_row]).last_consolidated_at == NOW - 1
    gap = gap_of(storage)
    assert gap is not None
    enriched(storage, gap, relations=None)
    assert parse_counters(storage.rows()[counters_row]).last_consolidated_at == expected


def test_it_is_audited_and_the_text_index_isnt_told(storage: MemoryStorage) -> None:
    stored(storage)
    gap = gap_of(storage)
    assert gap is not None
    _answer, finished = enriched(storage, gap)
    assert not finished.effects.changed
    entry = parse_line(finished.audit_lines[0])
    assert (entry.operation, entry.record_ids, entry.store_types) == ("encode.enrich", (an_id(1),), ("episodic",))
    assert entry.summary == {
        "record_id": str(an_id(1)),
        "store": "episodic",
        "provider": "fake",
        "embedded": True,
        "relations": 1,
    }


def test_no_relations_found_are_noted_too(storage: MemoryStorage) -> None:
    stored(storage)
    gap = gap_of(storage, CHAT_ALONE)
    assert gap is not None
    enriched(storage, gap, relations=(), vector=None)
    assert codec.parse(row_of(storage).metadata, dict[str, Any])["extracted_relations"] == []
    assert gap_of(storage, CHAT_ALONE) is None


def edited(storage: MemoryStorage, **parts: Any) -> None:
    (answer,), _ = commit(storage, updating(1, **parts))
    assert not isinstance(answer, Exception)


def test_other_words_want_other_relations_and_another_vector(storage: MemoryStorage) -> None:
    stored(storage)
    gap = gap_of(storage)
    assert gap is not None
    enriched(storage, gap)
    edited(storage, content={"blocks": [text_block("the car")]})
    assert vector_key(DEFAULT_NAMESPACE, Space.CONTENT, 3, an_id(1)) not in storage.rows()
    gap = gap_of(storage)
    assert gap is not None
    assert (gap.words, gap.lacks_vector, gap.lacks_relations) == ("the car", True, True)
    enriched(storage, gap, relations=())
    assert codec.parse(row_of(storage).metadata, dict[str, Any])["extracted_relations"] == []
    assert gap_of(storage) is None


def test_another_emotion_wants_nothing_anew(storage: MemoryStorage) -> None:
    stored(storage)
    gap = gap_of(storage)
    assert gap is not None
    enriched(storage, gap)
    edited(storage, emotion={"joy": 1.0})
    assert gap_of(storage) is None


@pytest.mark.parametrize("part", [{"content": {"blocks": [text_block("the car")]}}, {"metadata": {}}])
def test_what_was_made_of_an_older_version_is_dropped(storage: MemoryStorage, part: dict[str, Any]) -> None:
    stored(storage)
    gap = gap_of(storage)
    assert gap is not None
    edited(storage, **part)
    before = storage.rows()
    answer, finished = enriched(storage, gap)
    assert answer is False
    assert finished is None
    assert storage.rows() == before


def test_what_is_gone_meanwhile_stays_gone(storage: MemoryStorage) -> None:
    stored(storage)
    gap = gap_of(storage)
    assert gap is not None
    storage.commit({key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(1)): None})
    assert enriched(storage, gap) == (False, None)


def test_relations_that_find_no_room_are_left_out(storage: MemoryStorage) -> None:
    stored(storage, metadata={"a": "x" * (limits.METADATA_BYTES_MAX - 20)})
    gap = gap_of(storage)
    assert gap is not None
    assert enrichment.metadata_with(gap, (OWNS,)) is None


def test_the_log_is_read_in_its_order_each_address_once(storage: MemoryStorage) -> None:
    stored(storage, 1)
    stored(storage, 2, namespace=4)
    edited(storage, metadata={})
    changed = enrichment.changed_after(storage, 0)
    assert changed.addresses == (address(1), address(2, 4))
    assert changed.sequence == enrichment.last_sequence(storage) == 3
    assert not changed.missed
    assert enrichment.changed_after(storage, 1).addresses == (address(2, 4), address(1))
    assert enrichment.changed_after(storage, 3).addresses == ()


def test_the_log_is_read_in_whole_commits(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrichment, "ADDRESSES_MAX", 3)
    for first in (1, 3, 5, 7):
        commit(storage, storing(a_record(first), a_record(first + 1)))
    changed = enrichment.changed_after(storage, 0)
    assert changed.addresses == tuple(address(number) for number in (1, 2, 3, 4))
    assert changed.sequence == 2
    rest = enrichment.changed_after(storage, changed.sequence)
    assert rest.addresses == tuple(address(number) for number in (5, 6, 7, 8))


def test_what_the_log_dropped_is_missed(storage: MemoryStorage) -> None:
    for number in (1, 2, 3):
        stored(storage, number)
    log = system_key(Table.LOG)
    storage.commit(
        {log + pack_sequence(1): None, log + pack_sequence(2): None, system_key(Table.LOG_FLOOR): pack_sequence(2)}
    )
    changed = enrichment.changed_after(storage, 1)
    assert (changed.addresses, changed.sequence, changed.missed) == ((address(3),), 3, True)
    assert not enrichment.changed_after(storage, 2).missed


def test_how_far_it_is_done_is_kept(storage: MemoryStorage) -> None:
    assert enrichment.enriched_to(storage) is None
    commit(storage, NoteEnriched(300))
    assert enrichment.enriched_to(storage) == 300
