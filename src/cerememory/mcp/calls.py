"""What each tool asks of the daemon: its arguments as a CMP request.

Arguments come as `arguments.read_arguments` leaves them: every name is there, None for what wasn't given.
What isn't given is left out of the request, so that the daemon's default stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from cerememory.errors import ValidationFailed
from cerememory.mcp.arguments import Arguments
from cerememory.protocol.values import RecordId, Timestamp

Body: TypeAlias = dict[str, Any]


class Call(msgspec.Struct, frozen=True):
    """One CMP operation, as `Client.call` takes it."""

    operation: str
    body: Body | None = None
    path_params: dict[str, str] = {}


def _given(body: Body) -> Body:
    return {name: value for name, value in body.items() if value is not None}


def _text_content(text: str) -> Body:
    return {"blocks": [{"modality": "text", "format": "text/plain", "text": text}]}


def _range(start: Timestamp | None, end: Timestamp | None) -> Body | None:
    """Both ends or neither, in order."""
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise ValidationFailed(f"{'start' if start is None else 'end'}: missing, start and end go together")
    if start > end:
        raise ValidationFailed("start: must not be after end")
    return {"start": start, "end": end}


def _stored(arguments: Arguments) -> Body:
    return _given(
        {
            "content": _text_content(arguments["content"]),
            "store": arguments["store"],
            "emotion": arguments["emotion"],
            "meta": arguments["meta_json"],
        }
    )


def _stored_raw(arguments: Arguments) -> Body:
    body = {name: value for name, value in arguments.items() if name not in ("content", "meta_json")}
    return _given({**body, "content": _text_content(arguments["content"]), "meta": arguments["meta_json"]})


def _store(arguments: Arguments) -> Call:
    return Call("encode.store", _stored(arguments))


def _batch_store(arguments: Arguments) -> Call:
    records = [_stored(item) for item in arguments["records_json"]]
    return Call("encode.batch", {"records": records, "infer_associations": True})


def _store_raw(arguments: Arguments) -> Call:
    return Call("encode.store_raw", _stored_raw(arguments))


def _batch_store_raw(arguments: Arguments) -> Call:
    return Call("encode.batch_raw", {"records": [_stored_raw(item) for item in arguments["records_json"]]})


def _update(arguments: Arguments) -> Call:
    text: str | None = arguments["content"]
    changes = _given(
        {
            "content": None if text is None else _text_content(text),
            "emotion": arguments["emotion"],
            "meta": arguments["meta_json"],
        }
    )
    if not changes:
        raise ValidationFailed("content: missing, give content, emotion or meta_json")
    record_id: RecordId = arguments["record_id"]
    return Call("encode.update", {"record_id": record_id, **changes}, {"record_id": str(record_id)})


def _recall(arguments: Arguments) -> Call:
    query: str | None = arguments["query"]
    return Call(
        "recall.query",
        _given(
            {
                "cue": {"text": query} if query is not None and query.strip() else {},
                "stores": arguments["stores"],
                "limit": arguments["limit"],
                "reconsolidate": arguments["reconsolidate"],
                "activation_depth": arguments["activation_depth"],
                "recall_mode": arguments["mode"],
                "scope": arguments["scope"],
            }
        ),
    )


def _recall_raw(arguments: Arguments) -> Call:
    body = {name: value for name, value in arguments.items() if name not in ("start", "end", "budget_tokens")}
    return Call("recall.raw_query", _given({**body, "temporal": _range(arguments["start"], arguments["end"])}))


def _timeline(arguments: Arguments) -> Call:
    span = _range(arguments["start"], arguments["end"])
    return Call("recall.timeline", {"range": span, "granularity": arguments["granularity"]})


def _associate(arguments: Arguments) -> Call:
    record_id: RecordId = arguments["record_id"]
    body = {"record_id": record_id, "depth": arguments["depth"], "limit": arguments["limit"], "min_weight": 0.0}
    return Call("recall.associate", body, {"record_id": str(record_id)})


def _inspect(arguments: Arguments) -> Call:
    return Call("introspect.record", path_params={"record_id": str(arguments["record_id"])})


def _forget(arguments: Arguments) -> Call:
    if arguments["record_ids"] is None and arguments["session_id"] is None:
        raise ValidationFailed("record_ids: missing, give record_ids or session_id")
    return Call("lifecycle.forget", _given(dict(arguments)))


def _dream_tick(arguments: Arguments) -> Call:
    return Call("lifecycle.dream_tick", _given(dict(arguments)))


def _consolidate(arguments: Arguments) -> Call:
    return Call("lifecycle.consolidate", {**arguments, "min_age_hours": 0, "min_access_count": 0})


def _stats(_arguments: Arguments) -> Call:
    return Call("introspect.stats")


def _export(arguments: Arguments) -> Call:
    key: str | None = arguments["encryption_key"]
    if key is not None and not arguments["encrypt"]:
        raise ValidationFailed("encryption_key: needs encrypt=true")
    if key is None and arguments["encrypt"]:
        raise ValidationFailed("encryption_key: missing, encrypt is true")
    body = {name: value for name, value in arguments.items() if name != "output_path"}
    return Call("lifecycle.export", _given({**body, "include_raw_journal": True}))


CALLS: dict[str, Callable[[Arguments], Call]] = {
    "store": _store,
    "update": _update,
    "batch_store": _batch_store,
    "store_raw": _store_raw,
    "batch_store_raw": _batch_store_raw,
    "recall": _recall,
    "recall_raw": _recall_raw,
    "timeline": _timeline,
    "associate": _associate,
    "inspect": _inspect,
    "forget": _forget,
    "dream_tick": _dream_tick,
    "consolidate": _consolidate,
    "stats": _stats,
    "export": _export,
}
