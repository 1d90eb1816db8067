"""How the daemon's answers look to a model: CMP answers as MCP tool results.

A result is the JSON of `structured`, shown as indented text too. Content comes as text instead of bytes: a
block of text keeps its words under `text`, any other block only its size. Recalls are cut down to what a
model reads; the rest is one `inspect` away. What comes out of memories is framed (`frame`). Source of the shapes:
the MCP surface, "Results".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cerememory.domain.emotions import label_of
from cerememory.errors import InternalError
from cerememory.mcp.budget import Json, Place, indented
from cerememory.mcp.frame import framed
from cerememory.protocol.namespaces import DEFAULT_NAME
from cerememory.protocol.records import EmotionVector
from cerememory.protocol.values import RecordId, format_timestamp, parse_timestamp

T = TypeVar("T")

NO_TEXT = "[non-text content]"
WAITING_NOTE = "The daemon is away. This is kept on the disk, and stored when it is back; don't store it again."


class Result(msgspec.Struct, frozen=True):
    """What a tool answers, for a model and for a program."""

    text: str
    structured: Json

    def as_mcp(self) -> Json:
        content = [{"type": "text", "text": self.text}]
        return {"content": content, "isError": False, "structuredContent": self.structured}


def _json_result(answer: Json, *lines: str) -> Result:
    """`answer` as indented JSON, then the lines."""
    return Result("\n".join((indented(answer), *lines)), answer)


# What recalls show, as parts of the records that the daemon sends: unknown fields are not looked at.


class _Block(msgspec.Struct):
    modality: str
    data: list[int] | str  # a byte array, or base64


class _Content(msgspec.Struct):
    blocks: list[_Block]


class _Fidelity(msgspec.Struct):
    score: float


class _Record(msgspec.Struct):
    id: str
    store: str
    created_at: str
    fidelity: _Fidelity
    emotion: EmotionVector
    metadata: Any = None


class _Memory(msgspec.Struct):
    record: _Record
    relevance_score: float
    rendered_content: _Content


class _Recalled(msgspec.Struct):
    memories: list[_Memory]
    query_metadata: Json
    total_candidates: int
    truncated: bool = False


class _RawRecord(msgspec.Struct):
    id: str
    session_id: str
    source: str
    speaker: str
    visibility: str
    secrecy_level: str
    created_at: str
    content: _Content


class _RawRecalled(msgspec.Struct):
    records: list[_RawRecord]
    total_candidates: int
    index_complete: bool = True
    truncated: bool = False


def _read(answer: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise InternalError(f"the daemon's answer isn't CMP: {error}") from None


def _recall(answer: Json) -> Json:
    recalled = _read(answer, _Recalled)
    return {
        "memories": [_memory(memory) for memory in recalled.memories],
        "query_metadata": recalled.query_metadata,
        "total_candidates": recalled.total_candidates,
        **_cut(recalled),
    }


def _cut(recalled: _Recalled | _RawRecalled) -> Json:
    """Said of answers that didn't have room for all that was found."""
    return {"truncated": True} if recalled.truncated else {}


def _memory(memory: _Memory) -> Json:
    record = memory.record
    return {
        "record_id": record.id,
        "store": record.store,
        "source": _source(record.metadata),
        "text": _first_text(memory.rendered_content),
        "relevance_score": memory.relevance_score,
        "fidelity": record.fidelity.score,
        "created_at": _with_offset(record.created_at),
        "emotion": label_of(record.emotion),
    }


def _source(metadata: Any) -> str | None:
    """Where a memory is from, as far as whoever stored it said so: the context's source, or a dream."""
    if not isinstance(metadata, dict):
        return None
    context = metadata.get("_context")
    source = context.get("source") if isinstance(context, dict) else None
    if isinstance(source, str):
        return source
    return "dream" if "_dream" in metadata else None


def _recall_raw(answer: Json) -> Json:
    recalled = _read(answer, _RawRecalled)
    return {
        "records": [_raw_record(record) for record in recalled.records],
        "total_candidates": recalled.total_candidates,
        **({} if recalled.index_complete else {"index_complete": False}),
        **_cut(recalled),
    }


def _raw_record(record: _RawRecord) -> Json:
    return {
        "record_id": record.id,
        "session_id": record.session_id,
        "source": record.source,
        "speaker": record.speaker,
        "visibility": record.visibility,
        "secrecy_level": record.secrecy_level,
        "text": _first_text(record.content),
        "created_at": _with_offset(record.created_at),
    }


def _with_offset(created_at: str) -> str:
    """A time as clients written for the reference read it here: ending in `+00:00`."""
    return format_timestamp(parse_timestamp(created_at), "+00:00")


def _first_text(content: _Content) -> str:
    block = next((block for block in content.blocks if block.modality == "text"), None)
    return NO_TEXT if block is None else _bytes(block.data).decode(errors="replace")


def _bytes(data: list[int] | str) -> bytes:
    """Content bytes, from either of their JSON forms; `InternalError` when they are neither."""
    try:
        return base64.b64decode(data, validate=True) if isinstance(data, str) else bytes(data)
    except (binascii.Error, ValueError, TypeError):
        raise InternalError("the daemon's answer isn't CMP: its bytes can't be read") from None


def _associate(answer: Json) -> Json:
    return {**answer, "memories": _shown_memories(answer)}


def _timeline(answer: Json) -> Json:
    buckets = [{**bucket, "memories": _shown_memories(bucket)} for bucket in answer["buckets"]]
    return {**answer, "buckets": buckets}


def _shown_memories(holder: Json) -> list[Json]:
    return [
        {
            **memory,
            "record": _shown_record(memory["record"]),
            "rendered_content": _shown_content(memory["rendered_content"]),
        }
        for memory in holder["memories"]
    ]


def _shown_record(record: Json) -> Json:
    return {**record, "content": _shown_content(record["content"])}


def _shown_content(content: Json) -> Json:
    return {**content, "blocks": [_shown_block(block) for block in content["blocks"]]}


def _shown_block(block: Json) -> Json:
    """A block without its numbers: words for text (structured content is JSON text), sizes for the rest."""
    shown = {name: block[name] for name in ("modality", "format")}
    data = _bytes(block["data"])
    if block["modality"] in ("text", "structured"):
        shown["text"] = data.decode(errors="replace")
    else:
        shown["size_bytes"] = len(data)
    if embedding := block.get("embedding"):
        shown["embedding_dimensions"] = len(embedding)
    return shown


# How an answer is shown, and where in it the items are that come out of memories.
_SHOWN: dict[str, tuple[Callable[[Json], Json], Place]] = {
    "recall": (_recall, ("memories",)),
    "recall_raw": (_recall_raw, ("records",)),
    "inspect": (_shown_record, ()),
    "associate": (_associate, ("memories",)),
    "timeline": (_timeline, ("buckets", "memories")),
}


def render(tool: str, answer: object, namespace: str = DEFAULT_NAME, budget_tokens: int | None = None) -> Result:
    """The result of a tool whose answer is shown as JSON: its CMP answer, or the part that a model reads.

    `namespace`, which it is about, stands in front. `budget_tokens`: about what a read's text may take.
    """
    whole = _read(answer, Json)
    head = {"namespace": namespace}
    if tool not in _SHOWN:
        return _json_result({**head, **whole})
    show, place = _SHOWN[tool]
    try:
        return _json_result(framed(show(whole), place, head=head, budget_tokens=budget_tokens))
    except (KeyError, TypeError) as error:
        raise InternalError(f"the daemon's answer isn't CMP: {error!r}") from error


def render_update(record_id: RecordId, namespace: str) -> Result:
    """The daemon answers an update with nothing."""
    return Result(f"Updated record {record_id}", {"namespace": namespace, "record_id": str(record_id)})


def render_waiting(tool: str, namespace: str) -> Result:
    """Of what will be stored: the members of an answer are there, without the ids that it has none of yet."""
    members: Json = {"results": []} if tool.startswith("batch_") else {"record_id": None}
    return _json_result({"namespace": namespace, **members, "waiting": True, "note": WAITING_NOTE})


def render_export(answer: Json, path: Path, namespace: str) -> Result:
    """What was exported, but the archive itself, and where it is."""
    lines = (f"Archive written to: {path}", f"Archive size: {answer['size_bytes']} bytes")
    return _json_result({"namespace": namespace, **answer}, *lines)
