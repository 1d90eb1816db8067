"""The hooks of three clients: what their payloads become. Payloads are those that their references show."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from cerememory.protocol import codec
from cerememory.recorder import hook_script
from cerememory.recorder.events import Moment, read_event, record_of

COMMON = {"session_id": "abc", "transcript_path": "/t.jsonl", "cwd": "/p", "permission_mode": "default"}
CURSOR = {"conversation_id": "conv", "generation_id": "gen", "model": "m", "user_email": "me@example.com"}


def made(
    monkeypatch: pytest.MonkeyPatch, client: str, payload: dict[str, Any], environ: dict[str, str] | None = None
) -> dict[str, Any]:
    """The event; the recorder takes it."""
    monkeypatch.setattr(hook_script, "CLIENT", client)
    event = hook_script.event_of(payload, environ or {})
    record_of(read_event(hook_script.dump(event)), Moment("/p", 0))
    return event


@pytest.mark.parametrize(
    ("client", "payload", "event_type", "content"),
    [
        ("codex", {"hook_event_name": "UserPromptSubmit", "prompt": "fix it"}, "user_message", "fix it"),
        (
            "codex",
            {"hook_event_name": "PreToolUse", "tool_input": {"command": "ls"}},
            "tool_call",
            {"command": "ls"},
        ),
        ("codex", {"hook_event_name": "PostToolUse", "tool_response": {"ok": True}}, "tool_result", {"ok": True}),
        ("codex", {"hook_event_name": "PostToolUse", "tool_response": "", "tool_output": "x"}, "tool_result", "x"),
        ("codex", {"hook_event_name": "Stop", "last_assistant_message": "done"}, "session_summary", "done"),
        ("codex", {"hook_event_name": "SubagentStop"}, "session_summary", "SubagentStop"),
        ("codex", {"hook_event_name": "Notification", "message": "idle"}, "session_summary", "idle"),
        ("codex", {"hook_event_name": "SessionStart", "status": "resumed"}, "session_summary", "resumed"),
        ("codex", {"hook_event_name": "UserPromptSubmit", "prompt": " "}, "user_message", "UserPromptSubmit"),
        ("codex", {}, "session_summary", "hook"),
        ("claude-code", {"hook_event_name": "UserPromptSubmit", "prompt": "hi"}, "user_message", "hi"),
        ("claude-code", {"hook_event_name": "PreToolUse", "tool_input": {"a": 1}}, "tool_call", {"a": 1}),
        ("claude-code", {"hook_event_name": "PostToolUse", "tool_response": [1]}, "tool_result", [1]),
        ("claude-code", {"hook_event_name": "PostToolUseFailure", "error": "no"}, "error", "no"),
        (
            "claude-code",
            {"hook_event_name": "Stop", "last_assistant_message": "done"},
            "assistant_message",
            "done",
        ),
        ("claude-code", {"hook_event_name": "Stop", "stop_hook_active": False}, "session_summary", "Stop"),
        ("claude-code", {"hook_event_name": "Notification", "message": "wait"}, "session_summary", "wait"),
        ("cursor", {"hook_event_name": "beforeSubmitPrompt", "prompt": "hi"}, "user_message", "hi"),
        ("cursor", {"hook_event_name": "afterAgentResponse", "text": "done"}, "assistant_message", "done"),
        (
            "cursor",
            {"hook_event_name": "afterShellExecution", "command": "ls", "output": "a b", "duration": 3},
            "command",
            {"command": "ls", "output": "a b"},
        ),
        ("cursor", {"hook_event_name": "afterMCPExecution", "result_json": '{"x":1}'}, "tool_result", '{"x":1}'),
        (
            "cursor",
            {
                "hook_event_name": "afterFileEdit",
                "file_path": "/a",
                "edits": [{"old_string": "", "new_string": "b"}],
            },
            "file_change",
            {"file_path": "/a", "edits": [{"old_string": "", "new_string": "b"}]},
        ),
        ("cursor", {"hook_event_name": "stop", "status": "completed"}, "session_summary", "completed"),
    ],
)
def test_a_payload_becomes_an_event(
    monkeypatch: pytest.MonkeyPatch, client: str, payload: dict[str, Any], event_type: str, content: Any
) -> None:
    event = made(monkeypatch, client, {**COMMON, **payload})
    assert (event["event_type"], event["content"], event["source"]) == (event_type, content, client)
    assert event["session_id"] == "abc"


def test_what_tells_of_a_tool_is_kept_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "tool_name": "Bash",
        "tool_call_id": "c1",
        "tool_use_id": "u1",
        "action_id": "a1",
        "exit_code": 0,
        "status": "ok",
        "cwd": "/p",
        "transcript_path": "/t.jsonl",
        "hook_event_name": "PostToolUse",
    }
    event = made(
        monkeypatch, "codex", {**COMMON, **told, "tool_response": "x", "turn_id": "t1", "user_email": "e"}
    )
    assert event["metadata"] == told
    assert (event["action_id"], event["turn_id"]) == ("a1", "t1")


@pytest.mark.parametrize(
    ("client", "environ", "payload", "session"),
    [
        ("codex", {"CODEX_SESSION_ID": "env"}, {"session_id": "a"}, "env"),
        ("codex", {"CODEX_SESSION_ID": " "}, {"session_id": "a", "conversation_id": "b"}, "a"),
        ("codex", {}, {"conversation_id": "b", "thread_id": "c"}, "b"),
        ("codex", {}, {"session_id": "", "thread_id": "c"}, "c"),
        ("codex", {}, {}, "codex-local"),
        ("claude-code", {}, {}, "claude-code-local"),
        ("cursor", {}, CURSOR, "conv"),
    ],
)
def test_where_the_session_comes_from(
    monkeypatch: pytest.MonkeyPatch, client: str, environ: dict[str, str], payload: dict[str, Any], session: str
) -> None:
    assert made(monkeypatch, client, payload, environ)["session_id"] == session


def test_an_event_has_the_time_of_the_hook() -> None:
    assert hook_script.timestamp(1_700_000_000_000_000_042) == "2023-11-14T22:13:20.000000042Z"


@pytest.mark.parametrize(
    ("content", "beginning", "end"),
    [
        ({"x": "é" * 1_000_000}, '{"x": "ééé', 'ééé"}'),
        ("\0" * 1_000_000 + "end", "\0\0\0", "\0end"),  # six bytes each, as JSON
        ("h\0i\0" * 75_000, "h\0i\0", "h\0i\0"),  # shorter than what is kept of others
        ({"": '\\"' * 300_000}, '{"": "\\\\', '\\""}'),  # escaped twice
    ],
    ids=["long", "escaped", "escaped, not long", "escaped as text, too"],
)
def test_a_long_content_loses_its_middle(content: Any, beginning: str, end: str) -> None:
    event = {"session_id": "s", "event_type": "tool_result", "content": content}
    line = hook_script.line_of(event)
    assert hook_script.EVENT_BYTES_MAX // 4 < len(line) <= hook_script.EVENT_BYTES_MAX
    kept = codec.parse(line, dict[str, Any])["content"]
    assert kept.startswith(beginning) and kept.endswith(end)
    assert re.search(r"\n\[[1-9][0-9]* bytes left out\]\n", kept)
    record_of(read_event(line), Moment("/p", 0))


@pytest.mark.parametrize("content", ["x" * 1_040_000, "\0" * 170_000, "", ["x"]])
def test_a_content_that_the_recorder_takes_is_whole(content: Any) -> None:
    assert codec.parse(hook_script.line_of({"content": content}), dict[str, Any]) == {"content": content}


@pytest.mark.parametrize("chars", [0, 1, 7, 8, 9, 20, 40])
def test_a_cut_never_makes_it_longer(chars: int) -> None:
    text = "abcdefgh" * 5
    kept = hook_script.cut(text[:chars], 4)
    assert len(kept) <= chars
    assert kept == text[:chars] or "bytes left out" in kept


def test_what_is_long_beside_its_content_is_told() -> None:
    with pytest.raises(ValueError, match="too long"):
        hook_script.line_of({"content": "x", "metadata": {"cwd": "x" * 2_000_000}})


def test_what_is_no_number_to_json_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = b'{"tool_response": [NaN, Infinity, -Infinity, 1e999, 1.5], "hook_event_name": "PostToolUse"}'
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(hook_script, "read", lambda fd: payload)
    monkeypatch.setattr(hook_script, "record", events.append)
    assert hook_script.main() == 0
    content = read_event(hook_script.line_of(events[0])).content
    assert content == ["NaN", "Infinity", "-Infinity", "1e999", 1.5]


def test_an_integer_that_python_doesnt_read_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = "9" * (sys.get_int_max_str_digits() + 1)
    payload = f'{{"tool_response": [{digits}, -{digits}, 7], "hook_event_name": "PostToolUse"}}'.encode()
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(hook_script, "read", lambda fd: payload)
    monkeypatch.setattr(hook_script, "record", events.append)
    assert hook_script.main() == 0
    assert read_event(hook_script.line_of(events[0])).content == [digits, f"-{digits}", 7]


def test_it_stands_on_the_standard_library_alone_and_loads_little_of_it() -> None:
    """It runs by any Python, and a session waits for it."""
    source = Path(hook_script.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"json", "os", "select", "sys", "time", "tempfile"}
    assert froms == {"__future__", "collections.abc", "typing"}  # the last two for types alone
    assert (imported | froms) <= sys.stdlib_module_names | {"collections.abc"}
