"""Which memories say the same: for `if_absent`, which stores a memory unless its store has one like it.

The index costs every commit a page, so a namespace has none until somebody asks with `if_absent` for the first
time. From then on whoever writes a memory's content keeps it (`note_likeness`, `drop_likeness`), and what was
there before is added piece by piece (`BuildLikenesses`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from cerememory.domain.consolidation import likeness
from cerememory.errors import StorageDamaged
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent
from cerememory.protocol.replies import Encoded
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.contract import Reader
from cerememory.storage.keys import Table, after, key, state_key, trailing_id
from cerememory.storage.ledger import Ledger
from cerememory.storage.rows import ContentRow, parse_content_row, parse_state_row

PIECE_ROWS = 2_048  # what one transaction adds: some 50 ms
COMPLETE = b"complete"
BUILDING = b"building"


def is_complete(reader: Reader, namespace: int) -> bool:
    return reader.get(key(namespace, Table.LIKENESS)) == COMPLETE


def note_likeness(ledger: Ledger, record_id: RecordId, row: ContentRow) -> None:
    if ledger.get(ledger.key(Table.LIKENESS)) is not None:
        ledger.put(likeness_key(ledger.namespace, record_id, row), b"")


def drop_likeness(ledger: Ledger, record_id: RecordId, row: ContentRow) -> None:
    if ledger.get(ledger.key(Table.LIKENESS)) is not None:
        ledger.delete(likeness_key(ledger.namespace, record_id, row))


def likeness_key(namespace: int, record_id: RecordId, row: ContentRow) -> bytes:
    """The key of a memory's row in the index; its value is empty."""
    return key(namespace, Table.LIKENESS, _place(row.store_code, row.content), record_id)


def _place(store_code: int, content: bytes) -> bytes:
    return bytes([store_code]) + likeness(codec.parse(content, MemoryContent))


@dataclass(frozen=True, slots=True)
class BuildLikenesses:
    """Add the memories from `position` on (None: from the first); answers where to go on, None at the end."""

    namespace: int
    position: bytes | None

    def apply(self, ledger: Ledger) -> bytes | None:
        flag, prefix = ledger.key(Table.LIKENESS), ledger.key(Table.CONTENT)
        ledger.put(flag, BUILDING)
        found = list(islice(ledger.scan(self.position or prefix, after(prefix)), PIECE_ROWS))
        for row_key, value in found:
            ledger.put(likeness_key(self.namespace, trailing_id(row_key), parse_content_row(value)), b"")
        if len(found) == PIECE_ROWS:
            return found[-1][0] + b"\0"
        ledger.put(flag, COMPLETE)
        return None


def find_like(ledger: Ledger, row: ContentRow) -> Encoded | None:
    """The oldest memory of the same store that says what `row` says, as the caller is told of it."""
    prefix = ledger.key(Table.LIKENESS, _place(row.store_code, row.content))
    for row_key, _value in ledger.scan(prefix, after(prefix)):
        return _encoded(ledger, trailing_id(row_key))
    return None


def _encoded(ledger: Ledger, record_id: RecordId) -> Encoded:
    content = ledger.get(ledger.key(Table.CONTENT, record_id))
    row = None if content is None else parse_content_row(content)
    state = None if row is None else ledger.get(state_key(ledger.namespace, row.created_at, record_id))
    if row is None or state is None:
        raise StorageDamaged(f"{format_id(record_id)}: is known by what it says, and isn't there")
    here = ledger.curve(row.store_code).current(parse_state_row(state)[1], ledger.now)
    return Encoded(
        record_id=record_id,
        store=row.store,
        initial_fidelity=here.score,
        associations_created=0,
        created=False,
    )
