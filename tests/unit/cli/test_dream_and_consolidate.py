"""`dream-tick` and `consolidate`: what they ask of the memory, and how they show the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cerememory.cli.main import run
from tests.unit.cli.conftest import FakeMemory

DREAMT = {
    "groups_processed": 1,
    "raw_records_processed": 2,
    "episodic_summaries_created": 1,
    "semantic_nodes_created": 0,
}
CONSOLIDATED = {
    "records_processed": 5,
    "records_migrated": 4,
    "records_compressed": 3,
    "records_pruned": 2,
    "semantic_nodes_created": 1,
}
DREAM_DEFAULTS = {
    "dry_run": False,
    "max_groups": 10,
    "include_private_scratch": False,
    "include_sealed": False,
    "promote_semantic": True,
}
CONSOLIDATE_DEFAULTS = {
    "strategy": "incremental",
    "min_age_hours": 0,
    "min_access_count": 0,
    "dry_run": False,
    "dedup": False,
}


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ([], {}),
        (
            ["--session-id", "s-1", "--dry-run", "--max-groups", "3"],
            {"session_id": "s-1", "dry_run": True, "max_groups": 3},
        ),
        (
            ["--include-private-scratch", "--include-sealed"],
            {"include_private_scratch": True, "include_sealed": True},
        ),
        (["--promote-semantic"], {}),
        (["--no-promote-semantic"], {"promote_semantic": False}),
        (["--secrecy-levels", "public, secret"], {"secrecy_levels": ["public", "secret"]}),
    ],
)
def test_dream_tick_asks_for(memory: FakeMemory, arguments: list[str], body: dict[str, Any]) -> None:
    memory.answers["lifecycle.dream_tick"] = DREAMT
    assert run(["dream-tick", *arguments]) == 0
    assert memory.calls == [("lifecycle.dream_tick", {**DREAM_DEFAULTS, **body}, {})]


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_dream_tick_prints_the_answer(
    memory: FakeMemory, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    memory.answers["lifecycle.dream_tick"] = DREAMT
    run(["dream-tick", *arguments])
    printed = capsys.readouterr().out
    assert json.loads(printed) == DREAMT
    assert printed.startswith('{\n  "groups_processed": 1,\n')


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ([], {}),
        (["--strategy", "full", "--dry-run"], {"strategy": "full", "dry_run": True}),
        (
            ["--strategy", "selective", "--min-age-hours", "2", "--min-access-count", "3"],
            {"strategy": "selective", "min_age_hours": 2, "min_access_count": 3},
        ),
        (["--dedup"], {"dedup": True}),
    ],
)
def test_consolidate_asks_for(memory: FakeMemory, arguments: list[str], body: dict[str, Any]) -> None:
    memory.answers["lifecycle.consolidate"] = CONSOLIDATED
    assert run(["consolidate", *arguments]) == 0
    assert memory.calls == [("lifecycle.consolidate", {**CONSOLIDATE_DEFAULTS, **body}, {})]


def test_consolidate_prints_one_line(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.answers["lifecycle.consolidate"] = CONSOLIDATED
    run(["consolidate"])
    assert capsys.readouterr().out == (
        "Consolidated: processed=5, migrated=4, compressed=3, pruned=2, semantic_nodes_created=1\n"
    )


def test_consolidate_in_json(memory: FakeMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.answers["lifecycle.consolidate"] = CONSOLIDATED
    run(["consolidate", "--json"])
    assert json.loads(capsys.readouterr().out) == CONSOLIDATED


@pytest.mark.parametrize(
    "arguments",
    [
        ["consolidate", "--strategy", "hasty"],
        ["dream-tick", "--secrecy-levels", "private"],
        ["dream-tick", "--max-groups", "x"],
    ],
)
def test_what_no_such_command_line_means_is_a_mistake(memory: FakeMemory, arguments: list[str]) -> None:
    assert run(arguments) == 2
    assert memory.calls == []
