"""What decay has archived and may be brought back, for whoever wants to know before he asks for it.

Read beside the writer. A snapshot is held for one memory at a time, as contents may be large.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from cerememory.domain.graph import node_label
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent
from cerememory.protocol.replies import ArchivedMemory, Restored
from cerememory.protocol.values import RecordId, Timestamp
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.keys import Table, after, key, trailing_id
from cerememory.storage.rows import ArchivedRow, parse_archived_row

LISTED_MAX = 1_000


def restorable(storage: Storage, namespace: int, record_ids: tuple[RecordId, ...] | None) -> Restored:
    """How many of `record_ids` (None: of all memories) the archive has, and which, up to `LISTED_MAX`.

    Without `record_ids`, those that the archive lets go of first come first.
    """
    with storage.read() as reader:
        found = _by_expiry(reader, namespace) if record_ids is None else _among(reader, namespace, record_ids)
        names = list(islice(found, LISTED_MAX))
        count = len(names) + sum(1 for _each in found)
    rows = ((record_id, _row(storage, namespace, record_id)) for record_id in names)
    listed = tuple(_described(record_id, row) for record_id, row in rows if row is not None)
    return Restored(records_restored=count, archived=listed)


def _by_expiry(reader: Reader, namespace: int) -> Iterator[RecordId]:
    prefix = key(namespace, Table.ARCHIVED_BY_EXPIRY)
    return (trailing_id(row_key) for row_key, _value in reader.scan(prefix, after(prefix)))


def _among(reader: Reader, namespace: int, record_ids: tuple[RecordId, ...]) -> Iterator[RecordId]:
    wanted = dict.fromkeys(record_ids)
    return (each for each in wanted if reader.get(key(namespace, Table.ARCHIVED, each)) is not None)


def _row(storage: Storage, namespace: int, record_id: RecordId) -> ArchivedRow | None:
    """None when it was restored or removed meanwhile."""
    with storage.read() as reader:
        value = reader.get(key(namespace, Table.ARCHIVED, record_id))
    return None if value is None else parse_archived_row(value)


def _described(record_id: RecordId, row: ArchivedRow) -> ArchivedMemory:
    return ArchivedMemory(
        record_id=record_id,
        store=row.content.store,
        summary=node_label(codec.parse(row.content.content, MemoryContent)),
        created_at=Timestamp(row.content.created_at),
        kept_until=Timestamp(row.kept_until),
    )
