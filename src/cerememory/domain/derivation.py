"""What the metadata of a record says of the memories that were derived from it: `_derived` and `_dream`.

On an entry of the raw journal they name its dreams, on an episodic memory its semantic copies. Whatever else
stands in the metadata, and in these two, stays as it is; metadata that is no object moves to `_metadata`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cerememory.protocol import codec
from cerememory.protocol.records import EMPTY_OBJECT
from cerememory.protocol.values import RecordId, format_timestamp, parse_id


def moment(at: int) -> str:
    """`at` (nanoseconds since the epoch) as the times in metadata are written: they end in `+00:00`."""
    return format_timestamp(at, "+00:00")


def processed_entry(
    metadata: bytes, summary_id: RecordId, semantic_ids: Iterable[RecordId], tick_at: int
) -> bytes:
    """The metadata of an entry that became a summary and perhaps semantic memories in the dream at `tick_at`."""
    given = _fields_of(metadata)
    derived, dream = (_inner(given, name) for name in ("_derived", "_dream"))
    derived |= {
        "episodic_summary_ids": _extended(derived, "episodic_summary_ids", [summary_id]),
        "semantic_ids": _extended(derived, "semantic_ids", semantic_ids),
    }
    dream |= {"last_summary_id": _raw(summary_id), "processed_at": _raw(moment(tick_at))}
    return codec.dump({**given, "_derived": derived, "_dream": dream})


def is_processed(metadata: bytes) -> bool:
    """Whether an entry with this metadata was dreamt of."""
    return b'"processed_at"' in metadata and "processed_at" in _inner(_fields_of(metadata), "_dream")


def with_semantic_ids(metadata: bytes, semantic_ids: Iterable[RecordId]) -> bytes:
    """The metadata of an episodic memory of which there are these semantic copies, too."""
    given = _fields_of(metadata)
    derived = _inner(given, "_derived")
    derived["semantic_ids"] = _extended(derived, "semantic_ids", semantic_ids)
    return codec.dump({**given, "_derived": derived})


def semantic_ids_of(metadata: bytes) -> list[RecordId]:
    """The semantic copies of an episodic memory; what isn't an id in their place is none."""
    return _ids_in(metadata, "_derived", "semantic_ids")


def raw_ids_of(metadata: bytes) -> list[RecordId]:
    """The raw entries that a memory was dreamt of; what isn't an id in their place is none."""
    return _ids_in(metadata, "_origin", "raw_record_ids")


def _ids_in(metadata: bytes, name: str, inner_name: str) -> list[RecordId]:
    if inner_name.encode() not in metadata:
        return []
    listed = msgspec.json.decode(_listed(_inner(_fields_of(metadata), name), inner_name))
    return [record_id for item in listed if (record_id := _id(item)) is not None]


def _id(item: object) -> RecordId | None:
    try:
        return parse_id(item) if isinstance(item, str) else None
    except ValueError:
        return None


def _fields_of(metadata: bytes) -> dict[str, msgspec.Raw]:
    """The fields of the metadata as an object, as they stand there."""
    fields = _fields(metadata)
    return {"_metadata": msgspec.Raw(metadata)} if fields is None else fields


def _inner(fields: dict[str, msgspec.Raw], name: str) -> dict[str, msgspec.Raw]:
    """The fields of an inner object; none when there is no such object."""
    return _fields(bytes(fields.get(name, EMPTY_OBJECT))) or {}


def _fields(raw: bytes) -> dict[str, msgspec.Raw] | None:
    return msgspec.json.decode(raw, type=dict[str, msgspec.Raw]) if raw.startswith(b"{") else None


def _extended(fields: dict[str, msgspec.Raw], name: str, record_ids: Iterable[RecordId]) -> msgspec.Raw:
    """The list under `name` with further ids behind what is in it."""
    return _raw([*msgspec.json.decode(_listed(fields, name), type=list[msgspec.Raw]), *record_ids])


def _listed(fields: dict[str, msgspec.Raw], name: str) -> bytes:
    listed = bytes(fields.get(name, b""))
    return listed if listed.startswith(b"[") else b"[]"


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(codec.dump(value))
