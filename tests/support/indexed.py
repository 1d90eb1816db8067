"""Text indexes for tests: documents named by a number, filled and searched in one call."""

from __future__ import annotations

import struct
from typing import Any

from cerememory.protocol.values import RecordId
from cerememory.storage.text_index import Found, IndexDocument, RawFound, TextIndex

EPISODIC, SEMANTIC, WORKING, RAW = 0, 1, 4, 5
SESSION, OTHER_SESSION = b"s" * 16, b"t" * 16


def an_id(number: int) -> RecordId:
    return RecordId(struct.pack(">QQ", number, ~number & (2**64 - 1)))


def memory(number: int, text: str, **given: Any) -> IndexDocument:
    fields: dict[str, Any] = {"store_code": EPISODIC, "created_at": number} | given
    return IndexDocument(record_id=an_id(number), text=text, **fields)


def raw(number: int, text: str, **given: Any) -> IndexDocument:
    return memory(number, text, **{"store_code": RAW, "session": SESSION} | given)


def search_raw(index: TextIndex, text: str | None = None, **given: Any) -> RawFound:
    filters: dict[str, Any] = {
        "session": None,
        "start_ns": None,
        "end_ns": None,
        "visibilities": {0},
        "secrecies": {0, 1},
        "limit": 100,
    }
    return index.snapshot().search_raw(text, **filters | given)


def numbers(found: Found | RawFound) -> list[int]:
    """The numbers from which the ids were made, in the order of what was found."""
    ids = found.record_ids if isinstance(found, RawFound) else [hit.record_id for hit in found.hits]
    return [struct.unpack(">QQ", record_id)[0] for record_id in ids]


def put(index: TextIndex, *documents: IndexDocument) -> None:
    index.apply(documents, [], 1)
    index.commit()


def found(index: TextIndex, text: str, stores: frozenset[int] | None = None) -> list[int]:
    return numbers(index.snapshot().search(text, stores, 100))
