"""Capture Events: what clients saw, one JSON object a line; and the raw journal records that they become.

`read_event` says of a line what is wrong with it, naming the field. `record_of` takes the secrets out, and checks
what it returns by the daemon's own rules. Source of the shapes: the specification of the command line, section 2.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from cerememory.domain.redaction import redact, redact_text
from cerememory.errors import Invalid, ValidationFailed
from cerememory.protocol import codec, limits
from cerememory.protocol.records import RawSource, SecrecyLevel, Speaker, Visibility
from cerememory.protocol.requests import EncodeStoreRaw
from cerememory.protocol.values import Timestamp, format_timestamp

RECORDER = "cerememory-recorder"
DEPTH_MAX = limits.METADATA_DEPTH_MAX - 2  # of an event, whose metadata goes into that of a record


class EventType(StrEnum):
    USER_MESSAGE = "user_message"
    ASSISTANT_MESSAGE = "assistant_message"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    COMMAND = "command"
    FILE_CHANGE = "file_change"
    SESSION_SUMMARY = "session_summary"
    ERROR = "error"


_SPEAKERS = {
    EventType.USER_MESSAGE: Speaker.USER,
    EventType.ASSISTANT_MESSAGE: Speaker.ASSISTANT,
    EventType.TOOL_CALL: Speaker.TOOL,
    EventType.TOOL_RESULT: Speaker.TOOL,
    EventType.COMMAND: Speaker.TOOL,
}
_SOURCES = {
    EventType.USER_MESSAGE: RawSource.CONVERSATION,
    EventType.ASSISTANT_MESSAGE: RawSource.CONVERSATION,
    EventType.SESSION_SUMMARY: RawSource.SUMMARY,
}


class CaptureEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `content` is text or any other JSON; `metadata` and `meta` are JSON; other keys are ignored."""

    session_id: str
    event_type: EventType
    content: Any
    turn_id: str | None = None
    topic_id: str | None = None
    action_id: str | None = None
    source: str | None = None
    speaker: Speaker | None = None
    timestamp: Timestamp | None = None
    visibility: Visibility = Visibility.NORMAL
    secrecy_level: SecrecyLevel = SecrecyLevel.SENSITIVE
    metadata: Any = None
    meta: Any = None

    @property
    def identity(self) -> bytes | None:
        """The same for the same event that comes again; None for one that nothing but its content tells apart."""
        if self.turn_id is None and self.action_id is None and self.timestamp is None:
            return None
        told = (self.session_id, self.event_type, self.turn_id, self.action_id, self.timestamp, self.content)
        return hashlib.blake2b(codec.dump(told), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Moment:
    """Where and when the recorder reads: its working directory, nanoseconds since the epoch."""

    cwd: str
    now: int


def read_event(line: bytes) -> CaptureEvent:
    """The event in `line`. `Invalid` naming the field that is missing, blank or of the wrong type."""
    event = codec.parse(line, CaptureEvent)
    if limits.depth_of(line) > DEPTH_MAX:
        raise ValidationFailed(f"body: nested deeper than {DEPTH_MAX} levels")
    if not event.session_id.strip():
        raise ValidationFailed("session_id: must not be blank")
    if event.content is None or (isinstance(event.content, str) and not event.content.strip()):
        raise ValidationFailed("content: must not be blank")
    return event


def record_of(event: CaptureEvent, moment: Moment) -> bytes:
    """The body of an `encode.store_raw` as JSON, without secrets. `Invalid` when the daemon wouldn't take it."""
    body: dict[str, Any] = {
        "session_id": event.session_id,
        "turn_id": event.turn_id,
        "topic_id": event.topic_id,
        "source": _SOURCES.get(event.event_type, RawSource.TOOL_IO),
        "speaker": event.speaker or _SPEAKERS.get(event.event_type, Speaker.SYSTEM),
        "visibility": event.visibility,
        "secrecy_level": event.secrecy_level,
        "content": {"blocks": [{"modality": "text", "format": "text/plain", "text": _text(event.content)}]},
        "metadata": _metadata(event, moment),
    }
    if event.meta is not None:
        body["meta"] = redact(event.meta)
    record = codec.dump(body)
    _check(record)
    return record


def _metadata(event: CaptureEvent, moment: Moment) -> Any:
    metadata = {
        "recorder": RECORDER,
        "event_type": event.event_type.value,
        "action_id": event.action_id,
        "capture_source": event.source,
        "observed_at": format_timestamp(moment.now if event.timestamp is None else event.timestamp),
        "recorder_cwd": moment.cwd,
        "capture_metadata": {} if event.metadata is None else event.metadata,
    }
    return redact(metadata)


def _text(content: Any) -> str:
    """Text as it is, other JSON compact; without secrets."""
    return redact_text(content) if isinstance(content, str) else codec.dump(redact(content)).decode()


def _check(record: bytes) -> None:
    """By the rules of the daemon: one record that it refuses would hold up the batch that it is in."""
    request = codec.parse(record, EncodeStoreRaw)
    try:
        limits.check_raw(request, request.content.content("content"), "")
        limits.check_metadata(request.metadata, "metadata")
    except Invalid as error:
        raise type(error)(str(error).replace(".blocks[0]", "")) from None
