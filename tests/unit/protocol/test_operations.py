"""The operation table and its types against the specification and recorded requests and answers.

`cases.json` was recorded from the reference implementation's HTTP server. A `${NAME}` in a request stands for
a value saved from an earlier answer, `${text:…}` for the bytes of a text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cerememory.errors import ValidationFailed
from cerememory.protocol import codec, replies
from cerememory.protocol.operations import BY_NAME, OPERATIONS, Operation
from cerememory.protocol.records import MemoryContent, MemoryRecord, RawJournalRecord
from cerememory.protocol.values import NIL_ID, Timestamp

CASES_FILE = Path(__file__).parents[2] / "fixtures" / "reference" / "http" / "cases.json"
CASES: list[dict[str, Any]] = json.loads(CASES_FILE.read_text(encoding="utf-8"))
CONTENT = '"content":{"blocks":[{"modality":"text","format":"text/plain","data":[65]}]}'

SPECIFIED = """
encode.store                POST    /v1/encode
encode.batch                POST    /v1/encode/batch
encode.update               PATCH   /v1/encode/{record_id}
encode.store_raw            POST    /v1/encode/raw
encode.batch_raw            POST    /v1/encode/raw/batch
recall.query                POST    /v1/recall/query
recall.associate            POST    /v1/recall/associate/{record_id}
recall.timeline             POST    /v1/recall/timeline
recall.graph                POST    /v1/recall/graph
recall.raw_query            POST    /v1/recall/raw
lifecycle.consolidate       POST    /v1/lifecycle/consolidate
lifecycle.dream_tick        POST    /v1/lifecycle/dream-tick
lifecycle.decay_tick        POST    /v1/lifecycle/decay-tick
lifecycle.set_mode          PUT     /v1/lifecycle/mode
lifecycle.forget            DELETE  /v1/lifecycle/forget
lifecycle.export            POST    /v1/lifecycle/export
lifecycle.import            POST    /v1/lifecycle/import
introspect.stats            GET     /v1/introspect/stats
introspect.record           GET     /v1/introspect/record/{record_id}
introspect.decay_forecast   POST    /v1/introspect/decay-forecast
introspect.evolution        GET     /v1/introspect/evolution
"""
OURS = """
lifecycle.restore           POST    /v1/lifecycle/restore
lifecycle.undo_import       POST    /v1/lifecycle/import/undo
lifecycle.rotate_audit      POST    /v1/audit/rotate
lifecycle.redact            POST    /v1/lifecycle/redact
lifecycle.compact           POST    /v1/lifecycle/compact
"""


def saved(case: dict[str, Any]) -> dict[str, Any]:
    """What `case` saves of its answer, by the names that later requests use."""
    found = {}
    for name, path in case.get("save", {}).items():
        value = case["expect"]["body"]
        for step in path.split("."):
            value = value[int(step)] if step.isdigit() else value[step]
        found[name] = value
    return found


NAMES = {name: value for case in CASES for name, value in saved(case).items()}


def expand(value: Any) -> Any:
    """`value` with its placeholders filled in."""
    if isinstance(value, dict):
        return {key: expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item) for item in value]
    if not isinstance(value, str):
        return value
    if text := re.fullmatch(r"\$\{text:(.*)\}", value, re.DOTALL):
        return list(text[1].encode())
    if name := re.fullmatch(r"\$\{(\w+)\}", value):
        return NAMES[name[1]]
    return value


def operation_of(case: dict[str, Any]) -> Operation | None:
    """The operation that a case asks for; the last row that fits, as `{record_id}` fits `batch` too."""
    path = case["path"].partition("?")[0]
    for operation in sorted(OPERATIONS, key=lambda row: "{" in row.path):
        pattern = re.sub(r"\{\w+\}", "[^/]+", operation.path)
        if operation.method == case["method"] and re.fullmatch(pattern, path):
            return operation
    return None


def named(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"].replace(" ", "-")) for case in cases]


OF_OPERATIONS = [case for case in CASES if operation_of(case)]
ACCEPTED = [case for case in OF_OPERATIONS if case["expect"]["status"] in (200, 204)]
SENT = [case for case in ACCEPTED if "body" in case]
ANSWERED = [case for case in ACCEPTED if case["expect"]["status"] == 200]
UNREADABLE = [
    "error: not JSON",
    "error: missing content",
    "error: unknown store",
]


def operation(case: dict[str, Any]) -> Operation:
    found = operation_of(case)
    assert found is not None
    return found


def lost(sent: Any, kept: Any, where: str = "") -> list[str]:
    """The keys of `sent` that `kept` lacks, and the values that differ."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        missing = [f"{where}.{key}" for key in sent.keys() - kept.keys()]
        return missing + [
            path for key in sent.keys() & kept.keys() for path in lost(sent[key], kept[key], f"{where}.{key}")
        ]
    if isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        return [path for i, item in enumerate(sent) for path in lost(item, kept[i], f"{where}[{i}]")]
    return [] if sent == kept else [f"{where}: {sent!r} became {kept!r}"]


def rows_of(table: str) -> list[str]:
    return [" ".join(line.split()) for line in table.strip().splitlines()]


def test_the_table_has_exactly_the_specified_operations_and_ours() -> None:
    rows = [f"{row.name} {row.method} {row.path}" for row in OPERATIONS]
    ours = rows_of(OURS)
    assert [row for row in rows if row not in ours] == rows_of(SPECIFIED)
    assert [row for row in rows if row in ours] == ours


def test_operations_are_found_by_name() -> None:
    assert BY_NAME["recall.query"].path == "/v1/recall/query"
    assert tuple(BY_NAME.values()) == OPERATIONS


def test_only_update_and_set_mode_answer_without_a_body() -> None:
    assert [row.name for row in OPERATIONS if row.reply is None] == ["encode.update", "lifecycle.set_mode"]


def test_only_stats_and_evolution_ask_for_nothing() -> None:
    assert [row.name for row in OPERATIONS if row.request is None] == [
        "introspect.stats",
        "introspect.evolution",
    ]


def test_what_only_reads_does_not_mutate() -> None:
    reads = {row.name for row in OPERATIONS if not row.mutates}
    assert reads == {row.name for row in OPERATIONS if row.name.startswith(("recall.", "introspect."))} | {
        "lifecycle.compact",
        "lifecycle.export",
    }


def test_the_recorded_cases_ask_for_almost_every_operation() -> None:
    asked = {operation(case).name for case in ACCEPTED}
    assert set(BY_NAME) - asked == {
        "lifecycle.decay_tick",
        "lifecycle.restore",
        "lifecycle.compact",
        "lifecycle.rotate_audit",
        "lifecycle.undo_import",
        "lifecycle.redact",
    }


@pytest.mark.parametrize("case", named(SENT))
def test_a_request_that_the_reference_accepted_is_read_whole(case: dict[str, Any]) -> None:
    body = expand(case["body"])
    kind = operation(case).request
    assert kind is not None
    request = codec.parse(json.dumps(body).encode(), kind)
    assert lost(body, json.loads(codec.dump(request))) == []


@pytest.mark.parametrize("case", named(ANSWERED))
def test_an_answer_of_the_reference_is_read_whole(case: dict[str, Any]) -> None:
    body = expand(case["expect"]["body"])
    kind = operation(case).reply
    assert kind is not None
    reply = codec.parse(json.dumps(body).encode(), kind)
    assert lost(body, json.loads(codec.dump(reply))) == []


@pytest.mark.parametrize("case", named([case for case in CASES if case["expect"]["status"] >= 400]))
def test_an_error_of_the_reference_is_read_whole(case: dict[str, Any]) -> None:
    body = case["expect"]["body"]
    if body is None:
        assert case["path"] == "/metrics"
        return
    error = codec.parse(json.dumps(body).encode(), replies.ErrorBody)
    assert json.loads(codec.dump(error)) == body


@pytest.mark.parametrize("case", named([case for case in CASES if case["name"] in UNREADABLE]))
def test_a_body_that_the_reference_could_not_read_is_refused(case: dict[str, Any]) -> None:
    body = case["raw"].encode() if "raw" in case else json.dumps(expand(case["body"])).encode()
    kind = operation(case).request
    assert kind is not None
    with pytest.raises(ValidationFailed):
        codec.parse(body, kind)


def recorded(key: str) -> list[Any]:
    """Every value under `key`, at any depth of any recorded answer."""
    found: list[Any] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            found.extend(item for name, item in value.items() if name == key)
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                visit(item)

    visit([case["expect"]["body"] for case in CASES])
    return found


@pytest.mark.parametrize(("key", "kind"), [("record", MemoryRecord), ("rendered_content", MemoryContent)])
def test_what_a_recall_of_the_reference_holds_is_read_whole(key: str, kind: type[Any]) -> None:
    found = recorded(key)
    assert len(found) >= 10
    for value in found:
        assert json.loads(codec.dump(codec.parse(json.dumps(value).encode(), kind))) == value


def test_the_raw_records_of_the_reference_are_read_whole() -> None:
    found = [record for records in recorded("records") for record in records]
    assert len(found) == 6
    for value in found:
        assert json.loads(codec.dump(codec.parse(json.dumps(value).encode(), RawJournalRecord))) == value


def test_the_versions_and_history_of_a_record_stand_beside_its_fields() -> None:
    record = f'{{"id":"{NIL_ID}","store":"episodic",{CONTENT}}}'
    plain = codec.parse(record.encode(), replies.IntrospectedRecord)
    history = replies.HistoryEntry(sequence=7, timestamp=Timestamp(0), operation="encode.store")
    full = codec.parse(
        record[:-1].encode() + b',"versions":[],"history":[' + codec.dump(history) + b"]}",
        replies.IntrospectedRecord,
    )
    assert full.history == (history,)
    assert lost(json.loads(codec.dump(plain)), json.loads(codec.dump(full))) == []
    assert not {"versions", "history"} & json.loads(codec.dump(plain)).keys()


def test_a_timeline_says_only_of_a_cut_that_it_was_made() -> None:
    assert codec.dump(replies.Timeline(buckets=())) == b'{"buckets":[]}'
    assert codec.dump(replies.Timeline(buckets=(), truncated=True)) == b'{"buckets":[],"truncated":true}'


def test_a_raw_recall_speaks_of_its_index_only_when_that_is_behind() -> None:
    level = replies.RawRecalled(records=(), total_candidates=0)
    behind = replies.RawRecalled(records=(), total_candidates=0, index_complete=False)
    assert codec.dump(level) == b'{"records":[],"total_candidates":0}'
    assert codec.dump(behind) == b'{"records":[],"total_candidates":0,"index_complete":false}'
