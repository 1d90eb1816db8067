"""Each tool: the CMP request it makes, and what it makes of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cerememory.client import Client
from cerememory.errors import (
    CerememoryError,
    DaemonUnreachable,
    ExportFailed,
    ForgetUnconfirmed,
    InternalError,
    RecordNotFound,
    ValidationFailed,
)
from cerememory.mcp.budget import TOKEN_BYTES
from cerememory.mcp.toolbox import Toolbox
from cerememory.mcp.values import VALUES_MAX
from cerememory.protocol.values import parse_timestamp
from tests.support.fake_daemon import FakeDaemon, answer, cut_short, no_content, raw_answer, refusal
from tests.unit.mcp.answers import ID, block, memory, recalled

OTHER_ID = "0191aaaa-0000-7000-8000-00000000000b"
NOW = "2026-11-24T12:00:00.5Z"
META = {"intent": "remember", "tags": ["kitchen"]}
JOY = {
    **dict.fromkeys(("trust", "fear", "surprise", "sadness", "disgust", "anger", "anticipation"), 0.0),
    "joy": 1.0,
    "intensity": 1.0,
    "valence": 1.0,
}


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon() as daemon:
        yield daemon


@pytest.fixture
def tools(daemon: FakeDaemon) -> Iterator[Toolbox]:
    with Client(daemon.url, retry_for_s=0) as client:
        yield Toolbox(client, now=lambda: parse_timestamp(NOW))


def text(words: str) -> dict[str, Any]:
    return {"blocks": [{"modality": "text", "format": "text/plain", "text": words}]}


RAW_DEFAULTS = {
    "source": "conversation",
    "speaker": "user",
    "visibility": "normal",
    "secrecy_level": "public",
}
RECALL_DEFAULTS = {"limit": 10, "reconsolidate": True, "activation_depth": 2, "recall_mode": "perfect"}
SCOPE = {"session_id": "s-1", "source": "Ada", "tags": ["kitchen"], "metadata": {"room": {"floor": 1.5}}}
RAW_RECALL_DEFAULTS = {"limit": 10, "include_private_scratch": False, "include_sealed": False}
DREAM_DEFAULTS = {
    "dry_run": False,
    "max_groups": 10,
    "include_private_scratch": False,
    "include_sealed": False,
    "promote_semantic": True,
}
WHOLE_RAW = {
    "session_id": "s-1",
    "turn_id": "t-1",
    "topic_id": "deploy",
    "source": "tool_io",
    "speaker": "tool",
    "visibility": "sealed",
    "secrecy_level": "secret",
}


@pytest.mark.parametrize(
    ("tool", "given", "request_line", "body"),
    [
        ("store", {"content": "kettle"}, "POST /v1/encode", {"content": text("kettle")}),
        (
            "store",
            {"content": "kettle", "store": "semantic", "emotion": "happy", "meta_json": json.dumps(META)},
            "POST /v1/encode",
            {"content": text("kettle"), "store": "semantic", "emotion": JOY, "meta": META},
        ),
        (
            "store",
            {"content": "kettle", "emotion": {"joy": 1, "intensity": 1, "valence": 1}, "meta_json": META},
            "POST /v1/encode",
            {"content": text("kettle"), "emotion": JOY, "meta": META},
        ),
        (
            "update",
            {"record_id": ID.upper(), "content": "blue"},
            f"PATCH /v1/encode/{ID}",
            {"record_id": ID, "content": text("blue")},
        ),
        (
            "update",
            {"record_id": ID, "emotion": "joy", "meta_json": META},
            f"PATCH /v1/encode/{ID}",
            {"record_id": ID, "emotion": JOY, "meta": META},
        ),
        (
            "batch_store",
            {"records_json": '[{"content": "one", "store": "working"}, {"content": "two"}]'},
            "POST /v1/encode/batch",
            {
                "records": [{"content": text("one"), "store": "working"}, {"content": text("two")}],
                "infer_associations": True,
            },
        ),
        (
            "batch_store",
            {"records_json": [{"content": "one", "emotion": "joy", "meta_json": META}]},
            "POST /v1/encode/batch",
            {"records": [{"content": text("one"), "emotion": JOY, "meta": META}], "infer_associations": True},
        ),
        (
            "store_raw",
            {"content": "said", "session_id": "s-1"},
            "POST /v1/encode/raw",
            {"content": text("said"), "session_id": "s-1", **RAW_DEFAULTS},
        ),
        (
            "store_raw",
            {"content": "said", "meta_json": META, **WHOLE_RAW},
            "POST /v1/encode/raw",
            {"content": text("said"), "meta": META, **WHOLE_RAW},
        ),
        (
            "batch_store_raw",
            {"records_json": [{"content": "said", "session_id": "s-1"}]},
            "POST /v1/encode/raw/batch",
            {"records": [{"content": text("said"), "session_id": "s-1", **RAW_DEFAULTS}]},
        ),
        ("recall", {}, "POST /v1/recall/query", {"cue": {}, **RECALL_DEFAULTS}),
        ("recall", {"query": " "}, "POST /v1/recall/query", {"cue": {}, **RECALL_DEFAULTS}),
        (
            "recall",
            {"query": "kettle", "stores": "episodic, semantic", "limit": 5_000, "reconsolidate": False},
            "POST /v1/recall/query",
            {
                **RECALL_DEFAULTS,
                "cue": {"text": "kettle"},
                "stores": ["episodic", "semantic"],
                "limit": 1_000,
                "reconsolidate": False,
            },
        ),
        (
            "recall",
            {"query": "kettle", "stores": ["working"], "limit": 0, "activation_depth": 0},
            "POST /v1/recall/query",
            {
                **RECALL_DEFAULTS,
                "cue": {"text": "kettle"},
                "stores": ["working"],
                "limit": 1,
                "activation_depth": 0,
            },
        ),
        (
            "recall",
            {"mode": "human", "budget_tokens": 500},
            "POST /v1/recall/query",
            {**RECALL_DEFAULTS, "cue": {}, "recall_mode": "human"},
        ),
        ("recall", {"scope": SCOPE}, "POST /v1/recall/query", {**RECALL_DEFAULTS, "cue": {}, "scope": SCOPE}),
        (
            "recall",
            {"scope": json.dumps({**SCOPE, "session_id": "", "source": None})},
            "POST /v1/recall/query",
            {**RECALL_DEFAULTS, "cue": {}, "scope": {name: SCOPE[name] for name in ("tags", "metadata")}},
        ),
        ("recall", {"scope": ""}, "POST /v1/recall/query", {"cue": {}, **RECALL_DEFAULTS}),
        ("recall", {"scope": {"source": ""}}, "POST /v1/recall/query", {"cue": {}, **RECALL_DEFAULTS}),
        ("recall_raw", {"budget_tokens": 500}, "POST /v1/recall/raw", RAW_RECALL_DEFAULTS),
        (
            "recall_raw",
            {
                "query": "deploy",
                "session_id": "s-1",
                "start": "2026-01-01T00:00:00Z",
                "end": "2026-01-02T00:00:00+01:00",
                "secrecy_levels": "public,secret",
                "include_sealed": True,
            },
            "POST /v1/recall/raw",
            {
                **RAW_RECALL_DEFAULTS,
                "query": "deploy",
                "session_id": "s-1",
                "temporal": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T23:00:00Z"},
                "secrecy_levels": ["public", "secret"],
                "include_sealed": True,
            },
        ),
        (
            "timeline",
            {},
            "POST /v1/recall/timeline",
            {
                "range": {"start": "2026-11-17T12:00:00.500Z", "end": "2026-11-24T12:00:00.500Z"},
                "granularity": "hour",
            },
        ),
        (
            "timeline",
            {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z", "granularity": "month"},
            "POST /v1/recall/timeline",
            {
                "range": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"},
                "granularity": "month",
            },
        ),
        (
            "associate",
            {"record_id": ID, "budget_tokens": 500},
            f"POST /v1/recall/associate/{ID}",
            {"record_id": ID, "depth": 1, "limit": 10, "min_weight": 0.0},
        ),
        (
            "forget",
            {"record_ids": f"{ID},{OTHER_ID}", "confirm": True},
            "DELETE /v1/lifecycle/forget",
            {"record_ids": [ID, OTHER_ID], "confirm": True, "cascade": False},
        ),
        (
            "forget",
            {"record_ids": [ID], "confirm": False, "cascade": True},
            "DELETE /v1/lifecycle/forget",
            {"record_ids": [ID], "confirm": False, "cascade": True},
        ),
        (
            "forget",
            {"record_ids": [], "session_id": "s-1", "confirm": True},
            "DELETE /v1/lifecycle/forget",
            {"session_id": "s-1", "confirm": True, "cascade": False},
        ),
        ("dream_tick", {}, "POST /v1/lifecycle/dream-tick", DREAM_DEFAULTS),
        (
            "dream_tick",
            {"session_id": "s-1", "promote_semantic": False, "secrecy_levels": ["public"], "max_groups": 2},
            "POST /v1/lifecycle/dream-tick",
            {
                **DREAM_DEFAULTS,
                "session_id": "s-1",
                "promote_semantic": False,
                "secrecy_levels": ["public"],
                "max_groups": 2,
            },
        ),
        (
            "consolidate",
            {"dry_run": True},
            "POST /v1/lifecycle/consolidate",
            {"strategy": "incremental", "dry_run": True, "min_age_hours": 0, "min_access_count": 0},
        ),
    ],
)
def test_a_tool_asks_for_its_operation(
    daemon: FakeDaemon, tools: Toolbox, tool: str, given: dict[str, Any], request_line: str, body: object
) -> None:
    daemon.then(refusal(404, "RECORD_NOT_FOUND"))  # what comes back is another test's subject
    with pytest.raises(RecordNotFound):
        tools.call(tool, given)
    [request] = daemon.requests
    assert f"{request.method} {request.path}" == request_line
    assert request.json == body


@pytest.mark.parametrize(
    ("tool", "given", "request_line"),
    [
        ("inspect", {"record_id": ID}, f"GET /v1/introspect/record/{ID}"),
        ("stats", {"ignored": 1}, "GET /v1/introspect/stats"),
    ],
)
def test_a_tool_that_only_looks_sends_no_body(
    daemon: FakeDaemon, tools: Toolbox, tool: str, given: dict[str, Any], request_line: str
) -> None:
    daemon.then(refusal(404, "RECORD_NOT_FOUND"))
    with pytest.raises(RecordNotFound):
        tools.call(tool, given)
    [request] = daemon.requests
    assert f"{request.method} {request.path}" == request_line
    assert request.body == b""


@pytest.mark.parametrize(
    ("tool", "given", "message"),
    [
        ("store", {}, "content: missing"),
        ("store", {"content": " "}, "content: must not be blank"),
        ("store", {"content": "x", "store": "astral"}, "store: expected episodic or"),
        ("store", {"content": "x", "meta_json": "{"}, "meta_json: not readable as JSON"),
        ("update", {"content": "x"}, "record_id: missing"),
        ("update", {"record_id": ID}, "content: missing, give content, emotion or meta_json"),
        ("update", {"record_id": ID, "content": "", "emotion": "joy"}, "content: must not be blank"),
        ("batch_store", {"records_json": [{"content": "x"}, {}]}, "records_json[1].content: missing"),
        (
            "batch_store",
            {"records_json": [{"content": "x"}] * 1_001},
            "records_json: at most 1000 records at once",
        ),
        ("batch_store", {"records_json": f"[{'{},' * VALUES_MAX}{{}}]"}, "records_json: may have 100000 values"),
        ("recall", {"scope": [1]}, "scope: expected object, got array"),
        ("recall", {"scope": "kitchen"}, "scope: not readable as JSON"),
        ("recall", {"scope": {"session": "s-1"}}, "scope.session: unknown field"),
        ("recall", {"scope": '{"tags": "a,b"}'}, "scope.tags: expected array or null, got string"),
        ("recall", {"scope": {"tags": ["a"] * 33}}, "scope.tags: at most 32, got 33"),
        ("recall", {"scope": {"metadata": {"_context": {}}}}, "scope.metadata._context: the daemon's own"),
        ("recall", {"mode": "vivid"}, "mode: expected human or perfect"),
        ("recall", {"budget_tokens": 299}, "budget_tokens: must be from 300"),
        ("store_raw", {"content": "x", "session_id": " "}, "session_id: must not be blank"),
        ("batch_store_raw", {"records_json": '[{"content": "x"}]'}, "records_json[0].session_id: missing"),
        ("recall", {"limit": "ten"}, "limit: expected integer, got string"),
        ("recall_raw", {"start": NOW}, "end: missing, start and end go together"),
        ("recall_raw", {"end": NOW}, "start: missing, start and end go together"),
        ("recall_raw", {"start": NOW, "end": "2026-01-01T00:00:00Z"}, "start: must not be after end"),
        ("timeline", {"end": "2026-01-01T00:00:00Z"}, "start: must not be after end"),
        ("timeline", {"start": "monday"}, "start: expected an RFC 3339 timestamp"),
        ("associate", {"record_id": ID, "depth": 9}, "depth: must be from 0 to 8, got 9"),
        ("associate", {"record_id": ID, "limit": 257}, "limit: must be from 0 to 256, got 257"),
        ("inspect", {"record_id": "42"}, "record_id: expected a UUID"),
        ("forget", {"record_ids": [ID]}, "confirm: missing"),
        ("forget", {"confirm": True}, "record_ids: missing"),
        ("forget", {"record_ids": "", "confirm": True}, "record_ids: missing, give record_ids or session_id"),
        ("forget", {"record_ids": [], "confirm": True}, "record_ids: missing, give record_ids or session_id"),
        ("forget", {"record_ids": ["x"], "confirm": True}, "record_ids[0]: expected a UUID"),
        ("dream_tick", {"max_groups": -1}, "max_groups: must be from 0"),
        ("consolidate", {"strategy": "hasty"}, "strategy: expected full or incremental or selective"),
        ("export", {}, "output_path: missing"),
        ("export", {"output_path": "a.cma", "format": "zip"}, "format: expected cma or jsonl"),
        ("export", {"output_path": "a.cma", "encryption_key": "k"}, "encryption_key: needs encrypt=true"),
        ("export", {"output_path": "a.cma", "encrypt": True}, "encryption_key: missing, encrypt is true"),
        ("export", {"output_path": "../a.cma"}, "output_path: must not contain .."),
        ("remember", {}, "name: there is no tool 'remember'"),
    ],
)
def test_a_call_that_cant_be_meant_never_reaches_the_daemon(
    daemon: FakeDaemon, tools: Toolbox, tool: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        tools.call(tool, given)
    assert str(caught.value).startswith(message)
    assert daemon.requests == []


def test_a_recall_shows_what_was_found(daemon: FakeDaemon, tools: Toolbox) -> None:
    daemon.then(answer(recalled(memory(block(b"the kettle is blue")))))
    result = tools.call("recall", {"query": "kettle"})
    assert [found["text"] for found in result.structured["memories"]] == ["the kettle is blue"]


def test_a_read_keeps_to_its_budget(daemon: FakeDaemon, tools: Toolbox) -> None:
    daemon.then(answer(recalled(*[memory(block(b"long " * 100))] * 5)))
    result = tools.call("recall", {"query": "kettle", "budget_tokens": 500})
    assert len(result.text) <= 500 * TOKEN_BYTES
    assert result.structured["left_out"] > 0


def test_bytes_are_asked_for_in_their_short_form(daemon: FakeDaemon, tools: Toolbox) -> None:
    tools.call("stats", {})
    assert daemon.requests[0].headers["accept"] == "application/vnd.cmp+json;bytes=base64"


def test_an_update_is_acknowledged_by_a_line(daemon: FakeDaemon, tools: Toolbox) -> None:
    daemon.then(no_content())
    result = tools.call("update", {"record_id": ID, "content": "blue"})
    assert (result.text, result.structured) == (
        f"Updated record {ID}",
        {"namespace": "default", "record_id": ID},
    )


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (refusal(400, "FORGET_UNCONFIRMED", "confirm: must be true"), ForgetUnconfirmed),
        (refusal(500, "INTERNAL_ERROR", "not available yet"), InternalError),
    ],
)
def test_the_daemons_error_comes_through(
    daemon: FakeDaemon, tools: Toolbox, reply: Any, kind: type[CerememoryError]
) -> None:
    daemon.then(reply)
    with pytest.raises(kind):
        tools.call("forget", {"record_ids": [ID], "confirm": False})


EXPORTED = {"archive_id": "a-1", "size_bytes": 4, "record_count": 1, "checksum": "ab"}
ARCHIVE_HEAD = {
    "X_Cerememory_Archive_Id": "a-1",
    "X_Cerememory_Record_Count": "1",
    "X_Cerememory_Checksum": "ab",
}


def test_an_export_is_written_to_a_new_file_beside_the_working_directory(
    daemon: FakeDaemon, tools: Toolbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    daemon.then(raw_answer(b"\x01\x02\xff\x00", 200, **ARCHIVE_HEAD))
    given = {"output_path": "new.cma", "encrypt": True, "encryption_key": "sesame"}
    result = tools.call("export", given)
    assert (tmp_path / "new.cma").read_bytes() == b"\x01\x02\xff\x00"
    assert result.text.endswith("}\nArchive written to: new.cma\nArchive size: 4 bytes")
    assert result.structured == {"namespace": "default", **EXPORTED}
    assert (daemon.requests[0].method, daemon.requests[0].path) == ("POST", "/v1/archive")
    assert daemon.requests[0].json == {
        "format": "cma",
        "encrypt": True,
        "encryption_key": "sesame",
        "include_raw_journal": True,
    }


def test_an_export_that_the_daemon_refuses_leaves_no_file(
    daemon: FakeDaemon, tools: Toolbox, tmp_path: Path
) -> None:
    daemon.then(refusal(500, "EXPORT_FAILED", "the export failed"))
    with pytest.raises(ExportFailed):
        tools.call("export", {"output_path": str(tmp_path / "new.cma")})
    assert list(tmp_path.iterdir()) == []


def test_an_export_without_an_archive_leaves_no_file(daemon: FakeDaemon, tools: Toolbox, tmp_path: Path) -> None:
    daemon.then(answer(EXPORTED))
    with pytest.raises(InternalError, match="is no archive"):
        tools.call("export", {"output_path": str(tmp_path / "new.cma")})
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_cut_short_leaves_no_file(daemon: FakeDaemon, tools: Toolbox, tmp_path: Path) -> None:
    daemon.then(cut_short(**ARCHIVE_HEAD))
    with pytest.raises(DaemonUnreachable, match="broke off the archive"):
        tools.call("export", {"output_path": str(tmp_path / "new.cma")})
    assert list(tmp_path.iterdir()) == []
