"""How answers are shown to a model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cerememory.errors import InternalError
from cerememory.mcp.render import render
from tests.unit.mcp.answers import ID, block, memory, raw_record, recalled, record, short_block, unframed

PNG = b"\x89PNG\r\n\x1a\n"


def shown(tool: str, answer: dict[str, Any]) -> Any:
    """What is shown, without the frame round it, which `test_frame` looks at."""
    result = render(tool, answer)
    assert json.loads(result.text) == result.structured
    assert (tool == "inspect") or "notice" in result.structured
    return unframed(result.structured)


def test_a_recall_shows_texts_and_what_ranks_them() -> None:
    answer = recalled(memory(block("Der Kessel ist grün".encode()), emotion={"fear": 0.5, "joy": 0.1}))
    assert shown("recall", answer) == {
        "memories": [
            {
                "record_id": ID,
                "store": "episodic",
                "source": None,
                "text": "Der Kessel ist grün",
                "relevance_score": 1.25,
                "fidelity": 0.75,
                "created_at": "2026-11-24T03:29:33.751958845+00:00",
                "emotion": "fear",
            }
        ],
        "query_metadata": {
            "total_records_scanned": 9,
            "stores_searched": ["episodic"],
            "fidelity_filtered": 0,
        },
        "total_candidates": 1,
    }


@pytest.mark.parametrize(
    ("metadata", "source"),
    [
        ({"_context": {"source": "Ada"}, "_dream": {}}, "Ada"),
        ({"_context": {"source": None}, "_dream": {}}, "dream"),
        ({"_context": 7}, None),
        ([1], None),
    ],
)
def test_a_recall_says_where_a_memory_is_from(metadata: object, source: str | None) -> None:
    [only] = shown("recall", recalled(memory(block(b"x"), metadata=metadata)))["memories"]
    assert only["source"] == source


def test_a_neutral_memory_has_no_emotion() -> None:
    [only] = shown("recall", recalled(memory(block(b"x"))))["memories"]
    assert only["emotion"] is None


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        ([block(PNG, "image", "png"), block(b"first"), block(b"second")], "first"),
        ([short_block("kürzer".encode())], "kürzer"),
        ([block(PNG, "image", "png")], "[non-text content]"),
        ([block(b'{"a":1}', "structured", "application/json")], "[non-text content]"),
        ([], "[non-text content]"),
        ([block(b"\xff")], "�"),
    ],
)
def test_a_recall_shows_the_first_text_block(blocks: list[dict[str, Any]], text: str) -> None:
    [only] = shown("recall", recalled(memory(*blocks)))["memories"]
    assert only["text"] == text


def test_a_raw_recall_shows_who_said_what_where() -> None:
    answer = {"records": [raw_record(block(b"said"))], "total_candidates": 4}
    assert shown("recall_raw", answer) == {
        "records": [
            {
                "record_id": ID,
                "session_id": "s-1",
                "source": "conversation",
                "speaker": "user",
                "visibility": "normal",
                "secrecy_level": "public",
                "text": "said",
                "created_at": "2026-11-24T03:29:33+00:00",
            }
        ],
        "total_candidates": 4,
    }


def test_a_raw_recall_that_may_have_missed_something_says_so() -> None:
    answer = {"records": [raw_record(block(b"said"))], "total_candidates": 1}
    assert "index_complete" not in shown("recall_raw", answer)
    assert shown("recall_raw", {**answer, "index_complete": False})["index_complete"] is False


def test_an_inspected_record_is_whole_with_text_in_place_of_bytes() -> None:
    answer = record(
        block("grün".encode()),
        block(b'{"a":1}', "structured", "application/json"),
        block(PNG, "image", "png", embedding=[0.1, 0.2]),
    )
    result = shown("inspect", answer)
    assert result["content"]["blocks"] == [
        {"modality": "text", "format": "text/plain", "text": "grün"},
        {"modality": "structured", "format": "application/json", "text": '{"a":1}'},
        {"modality": "image", "format": "png", "size_bytes": 8, "embedding_dimensions": 2},
    ]
    assert {**result, "content": None} == {**answer, "content": None}


def test_associated_memories_show_text_in_record_and_rendering() -> None:
    answer = {"memories": [memory(block(b"x"))], "total_candidates": 1}
    result = shown("associate", answer)
    [only] = result["memories"]
    for part in (only["record"]["content"], only["rendered_content"]):
        assert part["blocks"] == [{"modality": "text", "format": "text/plain", "text": "x"}]
    assert (result["total_candidates"], only["relevance_score"]) == (1, 1.25)


def test_a_timeline_shows_text_in_each_bucket() -> None:
    bucket = {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z", "count": 1}
    result = shown("timeline", {"buckets": [{**bucket, "memories": [memory(block(b"x"))]}]})
    [shown_bucket] = result["buckets"]
    assert shown_bucket["memories"][0]["record"]["content"]["blocks"][0]["text"] == "x"
    assert shown_bucket["count"] == 1


@pytest.mark.parametrize("tool", ["store", "batch_store", "store_raw", "forget", "dream_tick", "stats"])
def test_other_answers_are_shown_as_they_are(tool: str) -> None:
    answer = {"b": 1, "a": [None, 0.5, "ä"]}
    result = render(tool, answer)
    assert result.structured == {"namespace": "default", **answer}
    assert result.text == '{\n  "namespace": "default",\n  "b": 1,\n  "a": [\n    null,\n    0.5,\n    "ä"\n  ]\n}'


def test_a_result_is_one_text_item_with_its_structure_beside_it() -> None:
    assert render("stats", {"total_records": 1}, "work").as_mcp() == {
        "content": [{"type": "text", "text": '{\n  "namespace": "work",\n  "total_records": 1\n}'}],
        "isError": False,
        "structuredContent": {"namespace": "work", "total_records": 1},
    }


@pytest.mark.parametrize("tool", ["recall", "recall_raw", "timeline", "associate", "inspect"])
def test_every_read_says_first_which_namespace_it_is_about(tool: str) -> None:
    answer = {**recalled(), "records": [], "buckets": []} if tool != "inspect" else record(block(b"x"))
    assert next(iter(render(tool, answer, "work").structured.items())) == ("namespace", "work")


@pytest.mark.parametrize(
    ("tool", "answer"),
    [
        ("stats", None),
        ("stats", [1]),
        ("recall", {"memories": "none"}),
        ("recall", recalled(memory({**block(b""), "data": [256]}))),
        ("recall", recalled(memory({**block(b""), "data": "no base64!"}))),
        ("inspect", {"id": ID}),
        ("timeline", {"buckets": [1]}),
        ("associate", {"memories": [{"record": {}}]}),
    ],
)
def test_an_answer_that_isnt_cmp_is_said_to_be_so(tool: str, answer: object) -> None:
    with pytest.raises(InternalError, match="the daemon's answer isn't CMP"):
        render(tool, answer)
