"""The raw entries that no dream has processed yet, kept in a table of their own: a tick never scans the journal.

An entry is pending from when it is written until its metadata carries the mark of a dream, or until it is gone.
The table's first key parts are what an entry may be refused for, so that a tick passes by what it may not see.
Whoever writes or removes entries calls `add_pending` and `remove_pending`, which keep the counter, too.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby, islice

from cerememory.domain.derivation import is_processed
from cerememory.domain.dreaming import Group, RawEntry, day_of, groups, text_of
from cerememory.errors import StorageDamaged
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.keys import (
    ID_BYTES,
    TIME_BYTES,
    Table,
    after,
    digest,
    key,
    pack_time,
    trailing_id,
    trailing_time,
)
from cerememory.storage.ledger import Ledger
from cerememory.storage.rows import SECRECY_LEVELS, VISIBILITIES, RawRow, parse_raw_row

DAY_ENTRIES_MAX = 50_000  # what one tick reads of one day
STAMP_BYTES = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries a dream may take: by the codes of their rows, and of one session or of any."""

    visibility_codes: frozenset[int]
    secrecy_codes: frozenset[int]
    session_digest: bytes | None = None


def add_pending(ledger: Ledger, record_id: RecordId, row: RawRow) -> None:
    """Note a new entry of the ledger's namespace; one that carries the mark of a dream isn't pending."""
    if not is_processed(row.metadata):
        ledger.put(pending_key(ledger.namespace, record_id, row), digest(row.session_id))
        ledger.counters().raw_pending_dream += 1


def remove_pending(ledger: Ledger, record_id: RecordId, row: RawRow) -> None:
    """Take an entry out that was processed or removed; one that isn't in the table makes no difference."""
    row_key = pending_key(ledger.namespace, record_id, row)
    if ledger.get(row_key) is not None:
        ledger.delete(row_key)
        ledger.counters().raw_pending_dream -= 1


def pending_key(namespace: int, record_id: RecordId, row: RawRow) -> bytes:
    """The key of an entry that waits; its value is the digest of its session."""
    flags = bytes([row.visibility_code, row.secrecy_code])
    return key(namespace, Table.RAW_PENDING, flags, pack_time(row.created_at), record_id)


def oldest_pending_at(reader: Reader, namespace: int, wanted: Wanted) -> int | None:
    """When the oldest entry that waits was made (nanoseconds); None when none does."""
    return next((at for at, _record_id in _pending(reader, namespace, wanted)), None)


def pending_groups(reader: Reader, namespace: int, wanted: Wanted, groups_max: int) -> list[Group]:
    """The oldest groups of what waits, read a day at a time until there are `groups_max`.

    Of a day only the first `DAY_ENTRIES_MAX` entries are looked at: the others wait for the next tick.
    """
    found: list[Group] = []
    if groups_max:
        for _day, waiting in groupby(_pending(reader, namespace, wanted), key=lambda pair: day_of(pair[0])):
            ids = (record_id for _at, record_id in islice(waiting, DAY_ENTRIES_MAX))
            found += groups(_entries(reader, namespace, ids))
            if len(found) >= groups_max:
                break
    return found[:groups_max]


def _pending(reader: Reader, namespace: int, wanted: Wanted) -> Iterator[tuple[int, RecordId]]:
    """Time and id of what waits, oldest first."""
    ranges = [
        reader.scan(prefix, after(prefix))
        for visibility in sorted(wanted.visibility_codes)
        for secrecy in sorted(wanted.secrecy_codes)
        for prefix in [key(namespace, Table.RAW_PENDING, bytes([visibility, secrecy]))]
    ]
    for row_key, session in heapq.merge(*ranges, key=_moment):
        if wanted.session_digest in (None, session):
            yield trailing_time(row_key), trailing_id(row_key)


def _moment(pair: tuple[bytes, bytes]) -> bytes:
    return pair[0][-TIME_BYTES - ID_BYTES :]


def _entries(reader: Reader, namespace: int, record_ids: Iterator[RecordId]) -> Iterator[RawEntry]:
    """Suppressed entries are passed by: they aren't dreamt of."""
    for record_id in record_ids:
        value = reader.get(key(namespace, Table.RAW, record_id))
        if value is None:
            raise StorageDamaged("a pending entry of the raw journal isn't there")
        row = parse_raw_row(value)
        if not row.suppressed:
            yield _entry(record_id, row, entry_stamp(value))


def entry_stamp(value: bytes) -> bytes:
    """The `stamp` of an entry whose row is stored as `value`."""
    return blake2b(value, digest_size=STAMP_BYTES).digest()


def _entry(record_id: RecordId, row: RawRow, stamp: bytes) -> RawEntry:
    return RawEntry(
        record_id=record_id,
        session_id=row.session_id,
        topic_id=row.topic_id,
        created_at=row.created_at,
        visibility=VISIBILITIES[row.visibility_code],
        secrecy_level=SECRECY_LEVELS[row.secrecy_code],
        text=text_of(codec.parse(row.content, MemoryContent)),
        stamp=stamp,
    )
