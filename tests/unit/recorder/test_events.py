"""Lines become raw journal records that the daemon takes, without secrets; or are refused by the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cerememory.errors import ContentTooLarge, Invalid, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.requests import EncodeStoreRaw
from cerememory.recorder.events import EventType, Moment, read_event, record_of

MOMENT = Moment("/home/me/project", 1_700_000_000_000_000_000)
EVENT = {"session_id": "s", "event_type": "user_message", "content": "hello"}


def line(**fields: Any) -> bytes:
    return json.dumps({**EVENT, **fields}).encode()


def record(**fields: Any) -> dict[str, Any]:
    made = record_of(read_event(line(**fields)), MOMENT)
    codec.parse(made, EncodeStoreRaw)
    decoded: dict[str, Any] = json.loads(made)
    return decoded


def text_of(made: dict[str, Any]) -> str:
    [block] = made["content"]["blocks"]
    assert (block["modality"], block["format"]) == ("text", "text/plain")
    return str(block["text"])


def test_the_least_of_an_event_is_filled_in() -> None:
    assert record() == {
        "session_id": "s",
        "turn_id": None,
        "topic_id": None,
        "source": "conversation",
        "speaker": "user",
        "visibility": "normal",
        "secrecy_level": "sensitive",
        "content": {"blocks": [{"modality": "text", "format": "text/plain", "text": "hello"}]},
        "metadata": {
            "recorder": "cerememory-recorder",
            "event_type": "user_message",
            "action_id": None,
            "capture_source": None,
            "observed_at": "2023-11-14T22:13:20Z",
            "recorder_cwd": "/home/me/project",
            "capture_metadata": {},
        },
    }


def test_what_an_event_says_is_kept() -> None:
    made = record(
        turn_id="t",
        topic_id="o",
        action_id="a",
        source="codex",
        speaker="system",
        timestamp="2026-01-02T03:04:05.123456789+01:00",
        visibility="sealed",
        secrecy_level="secret",
        metadata={"n": [1, {"x": None}]},
        meta={"intent": "to know"},
        unknown="ignored",
    )
    assert (made["turn_id"], made["topic_id"], made["speaker"]) == ("t", "o", "system")
    assert (made["visibility"], made["secrecy_level"]) == ("sealed", "secret")
    assert made["meta"] == {"intent": "to know"}
    assert made["metadata"] | {"recorder_cwd": ""} == {
        "recorder": "cerememory-recorder",
        "event_type": "user_message",
        "action_id": "a",
        "capture_source": "codex",
        "observed_at": "2026-01-02T02:04:05.123456789Z",
        "recorder_cwd": "",
        "capture_metadata": {"n": [1, {"x": None}]},
    }


@pytest.mark.parametrize(
    ("event_type", "source", "speaker"),
    [
        ("user_message", "conversation", "user"),
        ("assistant_message", "conversation", "assistant"),
        ("tool_call", "tool_io", "tool"),
        ("tool_result", "tool_io", "tool"),
        ("command", "tool_io", "tool"),
        ("file_change", "tool_io", "system"),
        ("session_summary", "summary", "system"),
        ("error", "tool_io", "system"),
    ],
)
def test_the_type_says_where_an_event_comes_from(event_type: str, source: str, speaker: str) -> None:
    made = record(event_type=event_type)
    assert (made["source"], made["speaker"]) == (source, speaker)
    assert EventType(event_type)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("  spaces stay\n", "  spaces stay\n"),
        ({"b": [1, 2.5, None], "a": "é"}, '{"b":[1,2.5,null],"a":"é"}'),
        ([], "[]"),
        (0, "0"),
        (False, "false"),
        (12345678901234567890123, "12345678901234567890123"),
    ],
)
def test_content_is_text_or_compact_json(content: Any, text: str) -> None:
    assert text_of(record(content=content)) == text


def test_secrets_go_from_text_json_metadata_and_meta() -> None:
    made = record(
        content={"env": {"API_TOKEN": "hunter2"}, "out": ["Authorization: Bearer hunter2"]},
        metadata={"deep": [{"password": "hunter2", "note": "password=hunter2"}]},
        meta={"rationale": "the password is hunter2"},
        action_id="token=hunter2",
    )
    assert "hunter2" not in json.dumps(made)
    assert made["meta"] == {"rationale": "the password is [REDACTED]"}
    assert "hunter2" not in text_of(record(content="export PASSWORD=hunter2"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"session_id": None}, "session_id: expected string, got null"),
        ({"session_id": " \t"}, "session_id: must not be blank"),
        ({"session_id": "x" * 1025}, "session_id: 1025 bytes"),
        ({"content": " \n"}, "content: must not be blank"),
        ({"content": None}, "content: must not be blank"),
        ({"event_type": "chat"}, "event_type: unknown name 'chat'"),
        ({"turn_id": 7}, "turn_id: expected string or null, got integer"),
        ({"timestamp": "yesterday"}, "timestamp: expected an RFC 3339 timestamp"),
        ({"speaker": "robot"}, "speaker: unknown name"),
        ({"visibility": None}, "visibility: expected"),
        ({"secrecy_level": "top"}, "secrecy_level: unknown name"),
        ({"meta": {"confidence": 7}}, "meta.confidence: expected"),
        ({"metadata": {"x": "y" * 1_000_001}}, "metadata: 1000"),
        ({"content": [[]] * 3 + [json.loads("[" * 70 + "]" * 70)]}, "nested deeper than 62 levels"),
    ],
)
def test_a_refusal_names_the_field(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(Invalid, match=reason.replace("[", r"\[")):
        record(**fields)


@pytest.mark.parametrize("name", list(EVENT))
def test_what_is_required_must_be_there(name: str) -> None:
    fields = {key: value for key, value in EVENT.items() if key != name}
    with pytest.raises(ValidationFailed, match=f"{name}: missing field"):
        read_event(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"\xff", b'{"session_id": "\\ud800"}', b"[" * 100_000, b"1" * 5_000]
)
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValidationFailed):
        read_event(data)


def test_a_text_beyond_the_daemons_limit_is_refused_here() -> None:
    with pytest.raises(ContentTooLarge, match="content: text of 1048577 bytes"):
        record(content="x" * 1_048_577)


def test_an_event_is_the_same_when_it_says_so_and_says_the_same() -> None:
    def identity(**fields: Any) -> bytes | None:
        return read_event(line(**fields)).identity

    assert identity() is None
    assert identity(topic_id="o", source="x") is None
    told = identity(turn_id="t")
    assert told is not None
    assert identity(turn_id="t", source="other", metadata={"n": 1}) == told
    others = [
        identity(turn_id="u"),
        identity(action_id="t"),
        identity(timestamp="2026-01-01T00:00:00Z"),
        identity(turn_id="t", content="other"),
        identity(turn_id="t", session_id="other"),
        identity(turn_id="t", event_type="error"),
    ]
    assert len({told, *others}) == 7
