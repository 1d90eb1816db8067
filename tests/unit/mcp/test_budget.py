"""Answers within a number of tokens: an index of all that was found, and whole what there is room for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.mcp.budget import BUDGET_TOKENS_MIN, TOKEN_BYTES
from cerememory.mcp.frame import START_CHARS
from cerememory.mcp.render import Result, render
from tests.unit.mcp.answers import block, memory, raw_record, recalled, record, unframed

BUDGETS = st.integers(BUDGET_TOKENS_MIN, 3_000)
TEXTS = st.lists(st.text(max_size=2_000), max_size=12)


def answer_of(tool: str, texts: list[str]) -> dict[str, Any]:
    """Of a daemon that found these; a timeline has two memories a bucket."""
    if tool == "recall_raw":
        records = [raw_record(block(text.encode())) for text in texts]
        return {"records": records, "total_candidates": len(texts)}
    found = [memory(block(text.encode())) for text in texts]
    if tool == "timeline":
        return {"buckets": [{"count": 2, "memories": found[i : i + 2]} for i in range(0, len(found), 2)]}
    return recalled(*found) if tool == "recall" else {"memories": found, "total_candidates": len(found)}


def items_of(result: Result) -> list[Any]:
    shown = unframed(result.structured)
    if "buckets" in shown:
        return [item for bucket in shown["buckets"] for item in bucket["memories"]]
    items: list[Any] = shown["records" if "records" in shown else "memories"]
    return items


@pytest.mark.parametrize("tool", ["recall", "recall_raw", "timeline", "associate"])
@settings(max_examples=25)
@given(texts=TEXTS, tokens=BUDGETS)
def test_an_answer_keeps_to_its_budget_and_counts_what_is_missing(
    tool: str, texts: list[str], tokens: int
) -> None:
    result = render(tool, answer_of(tool, texts), budget_tokens=tokens)
    assert len(result.text.encode()) <= tokens * TOKEN_BYTES
    assert len(items_of(result)) + result.structured.get("left_out", 0) == len(texts)


@pytest.mark.parametrize("tool", ["recall", "recall_raw", "timeline", "associate"])
def test_a_budget_that_suffices_changes_nothing(tool: str) -> None:
    answer = answer_of(tool, ["the kettle is blue", "the cup is red " * 20, "tea"])
    plain = render(tool, answer)
    exact = -(-len(plain.text.encode()) // TOKEN_BYTES)
    assert unframed(render(tool, answer, budget_tokens=exact).structured) == unframed(plain.structured)


def test_the_index_comes_before_any_detail() -> None:
    """Room for about three whole memories, or for all as an index."""
    texts = [f"{i} " + "long " * 200 for i in range(6)]
    items = items_of(render("recall", answer_of("recall", texts), budget_tokens=2_200))
    assert len(items) == 6
    whole = [item for item in items if "text" in item]
    assert 0 < len(whole) < 6
    assert whole == items[: len(whole)]
    assert [item["text_start"] for item in items[len(whole) :]] == [t[:START_CHARS] for t in texts[len(whole) :]]


def test_what_is_too_large_holds_up_nothing_behind_it() -> None:
    items = items_of(render("recall", answer_of("recall", ["x" * 9_000, "tea"]), budget_tokens=900))
    assert [item.get("text") for item in items] == [None, "tea"]


def test_the_first_found_are_the_last_to_be_left_out() -> None:
    texts = [f"{i} " + "long " * 200 for i in range(50)]
    result = render("recall", answer_of("recall", texts), budget_tokens=1_200)
    assert [item["text_start"][:2] for item in items_of(result)] == [t[:2] for t in texts][: len(items_of(result))]
    assert result.structured["left_out"] > 40


def test_an_inspected_record_over_its_budget_is_told_by_its_labels_and_beginning() -> None:
    result = render("inspect", record(block(b"long " * 900)), budget_tokens=450)
    assert unframed(result.structured)["text_start"] == ("long " * 900)[:START_CHARS]
    assert len(result.text.encode()) <= 450 * TOKEN_BYTES
