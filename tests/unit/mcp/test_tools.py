"""The list of tools that a client is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cerememory.mcp.calls import CALLS
from cerememory.mcp.tools import TOOLS, tool_list

LIST_BYTES_MAX = 8_350  # just under 2,000 tokens: 4.2 bytes each, with two public tokenizers
LISTED: dict[str, dict[str, Any]] = {tool["name"]: tool for tool in json.loads(bytes(tool_list()))["tools"]}

PARAMETERS = {
    "store": "content* store emotion meta_json",
    "update": "record_id* content emotion meta_json",
    "batch_store": "records_json*",
    "store_raw": "content* session_id* turn_id topic_id source speaker visibility secrecy_level meta_json",
    "batch_store_raw": "records_json*",
    "recall": "query stores limit reconsolidate activation_depth mode scope budget_tokens",
    "recall_raw": "query session_id start end limit include_private_scratch include_sealed secrecy_levels"
    " budget_tokens",
    "timeline": "start end granularity budget_tokens",
    "associate": "record_id* depth limit budget_tokens",
    "inspect": "record_id* budget_tokens",
    "forget": "record_ids session_id confirm* cascade",
    "dream_tick": "session_id dry_run max_groups include_private_scratch include_sealed promote_semantic"
    " secrecy_levels",
    "consolidate": "strategy dry_run",
    "stats": "",
    "export": "output_path* format encrypt encryption_key",
}
READS = {"recall", "recall_raw", "timeline", "associate", "inspect", "stats"}


def test_the_fifteen_tools_are_listed_and_each_can_be_called() -> None:
    assert set(LISTED) == set(PARAMETERS) == set(CALLS)
    assert len(TOOLS) == 15


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_tool_has_these_parameters(name: str) -> None:
    schema = LISTED[name]["inputSchema"]
    required = set(schema.get("required", ()))
    assert [p + "*" * (p in required) for p in schema["properties"]] == PARAMETERS[name].split()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_tool_is_described_and_says_whether_it_only_reads(name: str) -> None:
    assert LISTED[name]["description"]
    assert LISTED[name]["annotations"].get("readOnlyHint", False) == (name in READS)


def test_forget_alone_destroys_and_what_adds_says_that_it_doesnt() -> None:
    destroys = {name for name, tool in LISTED.items() if tool["annotations"].get("destructiveHint")}
    assert destroys == {"forget", "update"}
    adds = {name for name, tool in LISTED.items() if tool["annotations"].get("destructiveHint") is False}
    assert adds == set(LISTED) - destroys - READS


@pytest.mark.parametrize(
    ("tool", "parameter", "schema"),
    [
        ("recall", "limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10}),
        ("store_raw", "speaker", {"enum": ["user", "assistant", "system", "tool"], "default": "user"}),
        ("recall", "mode", {"enum": ["human", "perfect"], "default": "perfect"}),
        ("recall", "budget_tokens", {"type": "integer", "minimum": 300}),
        ("associate", "depth", {"maximum": 8, "default": 1}),
        ("timeline", "granularity", {"enum": ["minute", "hour", "day", "week", "month"], "default": "hour"}),
        ("consolidate", "strategy", {"default": "incremental"}),
        ("export", "format", {"enum": ["cma", "jsonl"], "default": "cma"}),
        ("dream_tick", "promote_semantic", {"type": "boolean", "default": True}),
    ],
)
def test_a_parameter_shows_its_range_and_default(tool: str, parameter: str, schema: dict[str, Any]) -> None:
    shown = LISTED[tool]["inputSchema"]["properties"][parameter]
    assert {name: shown.get(name) for name in schema} == schema


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_tool_says_what_its_structured_answer_has(name: str) -> None:
    schema = LISTED[name]["outputSchema"]
    assert schema["type"] == "object"
    assert schema["required"]


def test_the_list_costs_few_tokens() -> None:
    assert len(bytes(tool_list())) < LIST_BYTES_MAX
