"""Which memories belong together, in the order in which they came: the turns of a session.

A *place* is the key of a row that says so, `session digest, created_at, id`; its value is empty. A memory has
one when the context it was given names a session. Its neighbours there lend it their words in the text index
(`documents`), so whoever writes a memory's content row also keeps its place.
"""

from __future__ import annotations

from itertools import islice

from cerememory.domain.dialogue import context_of
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.keys import (
    ID_BYTES,
    TIME_BYTES,
    Address,
    Table,
    after,
    digest,
    key,
    namespace_in,
    pack_time,
    trailing_id,
)
from cerememory.storage.ledger import Ledger
from cerememory.storage.rows import ContentRow

_OWN_BYTES = TIME_BYTES + ID_BYTES


def place_of(namespace: int, record_id: RecordId, row: ContentRow) -> bytes | None:
    """Where the memory stands; None when it belongs to no session."""
    return place_in(context_of(row.metadata).session, namespace, record_id, row.created_at)


def place_in(session: str | None, namespace: int, record_id: RecordId, created_at: int) -> bytes | None:
    """Where a memory of `session` stands."""
    if session is None:
        return None
    return key(namespace, Table.GROUPS, digest(session), pack_time(created_at), record_id)


def join_group(ledger: Ledger, record_id: RecordId, row: ContentRow) -> None:
    """Give a memory that is stored its place."""
    place = place_of(ledger.namespace, record_id, row)
    if place is not None:
        ledger.put(place, b"")


def leave_group(ledger: Ledger, record_id: RecordId, row: ContentRow) -> None:
    """Take its place from a memory that is removed; its neighbours are indexed without its words."""
    place = place_of(ledger.namespace, record_id, row)
    if place is not None:
        ledger.delete(place)
        ledger.left(place)


def change_group(ledger: Ledger, record_id: RecordId, old: ContentRow, new: ContentRow) -> None:
    """Move a memory whose row is replaced."""
    if place_of(ledger.namespace, record_id, old) != place_of(ledger.namespace, record_id, new):
        leave_group(ledger, record_id, old)
        join_group(ledger, record_id, new)


def before(reader: Reader, place: bytes, count: int) -> list[bytes]:
    """The places in front of `place`, at most `count`, the nearest last."""
    found = list(islice(reader.scan(place[:-_OWN_BYTES], place, reverse=True), count))
    return [row_key for row_key, _value in reversed(found)]


def behind(reader: Reader, place: bytes, count: int) -> list[bytes]:
    """The places behind `place`, at most `count`, the nearest first."""
    rows = reader.scan(place + b"\0", after(place[:-_OWN_BYTES]))
    return [row_key for row_key, _value in islice(rows, count)]


def address_at(place: bytes) -> Address:
    """Whose place it is."""
    return namespace_in(place), trailing_id(place)
