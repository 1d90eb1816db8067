"""What a record can be found by: its blocks, its summary, its meta."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.analysis import TEXT_CHARS_MAX, tokens
from cerememory.domain.searchable import PATH_CHARS_MAX, searchable
from cerememory.protocol.records import (
    CaptureStatus,
    ContentBlock,
    MemoryContent,
    MetaAlternative,
    MetaEdge,
    MetaEvidenceRef,
    MetaMemory,
    Modality,
)
from cerememory.protocol.values import ByteArray, RecordId

TARGET = RecordId(b"\x01" * 16)
META = MetaMemory(
    capture_status=CaptureStatus.PROVIDED,
    intent="intent words",
    rationale="rationale words",
    trigger="a question",
    decision="decision words",
    goals=("first goal", "second goal"),
    assumptions=("an assumption",),
    tags=("tagged",),
    evidence=(MetaEvidenceRef(label="label", excerpt="excerpt", uri="https://example.com/page"),),
    alternatives=(MetaAlternative(option="option", reason="reason"), MetaAlternative(option="other")),
    context_edges=(MetaEdge(target_id=TARGET, rationale="edge rationale"), MetaEdge(target_id=TARGET)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def content(*blocks: tuple[Modality, bytes], summary: str | None = None) -> MemoryContent:
    return MemoryContent(
        blocks=tuple(
            ContentBlock(modality=modality, format="any", data=ByteArray(data)) for modality, data in blocks
        ),
        summary=summary,
    )


def structured(value: Any) -> MemoryContent:
    return content((Modality.STRUCTURED, json.dumps(value).encode()))


def test_text_blocks_are_lines_in_their_order() -> None:
    assert searchable(content((Modality.TEXT, b"one"), (Modality.TEXT, b"two")), None).text == "one\ntwo"


def test_the_summary_is_a_field_of_its_own() -> None:
    found = searchable(content((Modality.TEXT, b"text"), summary="in short"), None)
    assert found == ("text", "in short")


@pytest.mark.parametrize("modality", [m for m in Modality if m not in ("text", "structured")])
def test_other_modalities_have_no_words(modality: Modality) -> None:
    assert searchable(content((modality, b"bytes")), None) == ("", "")


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ({"user": {"name": "Ann", "age": 7}}, ["user.name: Ann", "user.age: 7"]),
        ({"tags": ["red", {"deep": True}], "end": None}, ["tags: red", "tags.deep: true", "end: null"]),
        ([1.5, "plain"], ["1.5", "plain"]),
        ("only a string", ["only a string"]),
        ({"empty": [], "none": {}}, []),
        (10**40, [str(10**40)]),
    ],
)
def test_structured_blocks_become_lines_of_path_and_value(value: Any, lines: list[str]) -> None:
    assert searchable(structured(value), None).text.splitlines() == lines


@pytest.mark.parametrize("data", [b"{not json", b'"cut', b"1e999", b"[" * 100_000, b"\xff\xfe"])
def test_a_structured_block_that_cannot_be_read_is_taken_as_text(data: bytes) -> None:
    assert searchable(content((Modality.STRUCTURED, data)), None).text == data.decode(errors="replace")


def test_text_that_is_not_utf_8_keeps_its_readable_words() -> None:
    assert tokens(searchable(content((Modality.TEXT, b"good \xff words")), None).text) == ["good", "words"]


def test_meta_that_was_provided_is_searchable_in_all_its_texts() -> None:
    lines = searchable(content((Modality.TEXT, b"text")), META).text.splitlines()
    assert lines[0] == "text"
    assert set(lines[1:]) == {
        "intent words",
        "rationale words",
        "a question",
        "decision words",
        "first goal",
        "second goal",
        "an assumption",
        "tagged",
        "label",
        "excerpt",
        "https://example.com/page",
        "option",
        "reason",
        "other",
        "edge rationale",
    }


@pytest.mark.parametrize(
    ("status", "is_searchable"),
    [
        (CaptureStatus.PROVIDED, True),
        (CaptureStatus.INFERRED, True),
        (CaptureStatus.LEGACY, False),
        (CaptureStatus.UNAVAILABLE, False),
        (None, False),
    ],
)
def test_meta_counts_by_its_capture_status(status: CaptureStatus | None, is_searchable: bool) -> None:
    meta = MetaMemory(capture_status=status, intent="intent")
    assert ("intent" in searchable(content((Modality.TEXT, b"text")), meta).text) is is_searchable


def test_a_trigger_that_the_engine_filled_in_has_no_words() -> None:
    meta = MetaMemory(capture_status=CaptureStatus.PROVIDED, trigger="encode.store")
    assert searchable(content((Modality.TEXT, b"text")), meta).text == "text"


def test_the_text_is_bounded_however_many_blocks_there_are() -> None:
    block = (Modality.TEXT, b"word " * 200_000)
    found = searchable(content(block, block, block, summary="s" * (TEXT_CHARS_MAX + 1)), META)
    assert len(found.text) == TEXT_CHARS_MAX
    assert len(found.summary) == TEXT_CHARS_MAX


def test_long_keys_over_many_values_stay_bounded() -> None:
    found = searchable(structured({"k" * 100_000: {"name": [1] * 50_000}}), None)
    lines = found.text.splitlines()
    assert len(lines[0]) == PATH_CHARS_MAX + len(": 1")
    assert lines[0].endswith("k.name: 1")
    assert len(lines) == TEXT_CHARS_MAX // (len(lines[0]) + 1) + 1


def test_deep_json_is_flattened_without_recursion() -> None:
    assert searchable(content((Modality.STRUCTURED, b'{"a":' * 500 + b"1" + b"}" * 500)), None).text.endswith(
        ": 1"
    )


@given(JSON)
def test_every_string_in_structured_content_is_in_the_text(value: Any) -> None:
    text = searchable(structured(value), None).text
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            assert item in text
        elif isinstance(item, (list, dict)):
            todo += item.values() if isinstance(item, dict) else item


@given(st.binary(), st.sampled_from([Modality.TEXT, Modality.STRUCTURED]))
def test_any_bytes_give_text_that_can_be_stored(data: bytes, modality: Modality) -> None:
    assert isinstance(searchable(content((modality, data)), None).text.encode(), bytes)
