"""Text indexes for tests: documents named by a number, filled and searched in one call."""

from __future__ import annotations

import struct
from typing import Any

from cerememory.protocol.values import RecordId
from cerememory.storage.keys import DEFAULT_NAMESPACE, Address
from cerememory.storage.text_index import Hit, IndexDocument, RawFound, TextIndex

EPISODIC, SEMANTIC, WORKING, RAW = 0, 1, 4, 5
SESSION, OTHER_SESSION = b"s" * 16, b"t" * 16


def an_id(number: int) -> RecordId:
    return RecordId(struct.pack(">QQ", number, ~number & (2**64 - 1)))


def address(number: int) -> Address:
    return DEFAULT_NAMESPACE, an_id(number)


def memory(number: int, text: str, **given: Any) -> IndexDocument:
    fields: dict[str, Any] = {"namespace": DEFAULT_NAMESPACE, "store_code": EPISODIC, "created_at": number} | given
    return IndexDocument(record_id=an_id(number), text=text, **fields)


def raw(number: int, text: str, **given: Any) -> IndexDocument:
    return memory(number, text, **{"store_code": RAW, "session": SESSION} | given)


def search_raw(index: TextIndex, text: str | None = None, **given: Any) -> RawFound:
    filters: dict[str, Any] = {
        "namespace": DEFAULT_NAMESPACE,
        "text": text,
        "session": None,
        "start_ns": None,
        "end_ns": None,
        "visibilities": {0},
        "secrecies": {0, 1},
        "limit": 100,
    }
    return index.snapshot().search_raw(**filters | given)


def numbers(found: list[Hit] | RawFound) -> list[int]:
    """The numbers from which the ids were made, in the order of what was found."""
    ids = found.record_ids if isinstance(found, RawFound) else [hit.record_id for hit in found]
    return [struct.unpack(">QQ", record_id)[0] for record_id in ids]


def put(index: TextIndex, *documents: IndexDocument) -> None:
    index.apply(documents, [], 1)
    index.commit()


def hits(index: TextIndex, text: str, limit: int = 100, **given: Any) -> list[Hit]:
    search: dict[str, Any] = {"namespace": DEFAULT_NAMESPACE, "stores": None} | given
    return list(index.snapshot().search(text=text, limit=limit, **search))


def found(index: TextIndex, text: str, limit: int = 100, **given: Any) -> list[int]:
    return numbers(hits(index, text, limit, **given))
