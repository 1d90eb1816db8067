"""What the text index gets to know of a record: made from the stored rows, by whoever indexes them.

So an index that is rebuilt equals one that was fed live. A memory that is a turn of a conversation is indexed
with words of its neighbours there, which are read with it; when one of them changes or goes, it is indexed
anew. Raw entries are found by their own words alone: what is private in one is never lent to another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cerememory.domain.dialogue import (
    ALONE,
    NEIGHBOURS,
    Surroundings,
    Turn,
    context_of,
    speaker_of,
    surroundings,
    when_terms,
)
from cerememory.domain.searchable import searchable
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent, MetaMemory
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.groups import before, behind, place_of
from cerememory.storage.keys import Address, Table, digest, key, namespace_in
from cerememory.storage.rows import RAW_CODE, ContentRow, RawRow, parse_content_row, parse_raw_row
from cerememory.storage.text_index import IndexDocument


def row_document(namespace: int, record_id: RecordId, row: ContentRow) -> IndexDocument:
    """The document of a memory that has no neighbours."""
    return _document(namespace, record_id, row, codec.parse(row.content, MemoryContent), ALONE)


def _document(
    namespace: int, record_id: RecordId, row: ContentRow, content: MemoryContent, around: Surroundings
) -> IndexDocument:
    found = searchable(content, _meta(row.meta))
    context = context_of(row.metadata)
    return IndexDocument(
        namespace=namespace,
        record_id=record_id,
        store_code=row.store_code,
        created_at=row.created_at,
        text=found.text,
        summary=found.summary,
        around=around,
        speaker=speaker_of(context, found.text),
        dates=tuple(when_terms(context, row.created_at)),
    )


def _raw_document(namespace: int, record_id: RecordId, row: RawRow) -> IndexDocument:
    found = searchable(codec.parse(row.content, MemoryContent), _meta(row.meta))
    return IndexDocument(
        namespace=namespace,
        record_id=record_id,
        store_code=RAW_CODE,
        created_at=row.created_at,
        text=found.text,
        summary=found.summary,
        session=digest(row.session_id),
        visibility=row.visibility_code,
        secrecy=row.secrecy_code,
    )


def _meta(raw: bytes) -> MetaMemory | None:
    return codec.parse(raw, MetaMemory) if raw else None


def stored_documents(reader: Reader, addresses: Iterable[Address]) -> tuple[list[IndexDocument], list[Address]]:
    """The documents of those of `addresses` where a record is stored, and the others."""
    return _documents(_Turns(reader), addresses)


def changed_documents(
    reader: Reader, changed: Iterable[Address], left: Iterable[bytes]
) -> tuple[list[IndexDocument], list[Address]]:
    """As `stored_documents`, of `changed` and of all that have such a neighbour, or had one in a place that was
    `left`.
    """
    turns = _Turns(reader)
    addresses = dict.fromkeys(changed)
    places = [*left, *filter(None, map(turns.place, addresses))]
    for place in places:
        addresses |= dict.fromkeys(turns.neighbours(place))
    return _documents(turns, addresses)


def _documents(turns: _Turns, addresses: Iterable[Address]) -> tuple[list[IndexDocument], list[Address]]:
    documents: list[IndexDocument] = []
    missing: list[Address] = []
    for address in addresses:
        document = turns.document(address) or _stored_raw(turns.reader, *address)
        if document is None:
            missing.append(address)
        else:
            documents.append(document)
    return documents, missing


def _stored_raw(reader: Reader, namespace: int, record_id: RecordId) -> IndexDocument | None:
    value = reader.get(key(namespace, Table.RAW, record_id))
    return None if value is None else _raw_document(namespace, record_id, parse_raw_row(value))


class _Stored(NamedTuple):
    row: ContentRow
    content: MemoryContent
    place: bytes | None

    @property
    def said(self) -> Turn:
        """What it says, without what is said about it."""
        text = searchable(self.content, None).text
        return Turn(text, speaker_of(context_of(self.row.metadata), text))


class _Turns:
    """The memories that one call reads, each once, and what stands around them."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._turns: dict[Address, _Stored | None] = {}
        self._around: dict[bytes, tuple[list[Address], list[Address]]] = {}

    def document(self, address: Address) -> IndexDocument | None:
        turn = self._turn(address)
        if turn is None:
            return None
        around = ALONE if turn.place is None else self._surroundings(turn.place)
        return _document(*address, turn.row, turn.content, around)

    def place(self, address: Address) -> bytes | None:
        """Where the memory stands in its group; None when it has none, or isn't stored."""
        turn = self._turn(address)
        return None if turn is None else turn.place

    def neighbours(self, place: bytes) -> list[Address]:
        in_front, next_ones = self._beside(place)
        return in_front + next_ones

    def _surroundings(self, place: bytes) -> Surroundings:
        in_front, next_ones = self._beside(place)
        return surroundings(self._said(in_front), self._said(next_ones))

    def _said(self, addresses: list[Address]) -> list[Turn]:
        turns = map(self._turn, addresses)
        return [turn.said for turn in turns if turn is not None]

    def _beside(self, place: bytes) -> tuple[list[Address], list[Address]]:
        """The neighbours before and behind, in the order of the group."""
        if place not in self._around:
            namespace = namespace_in(place)
            self._around[place] = (
                [(namespace, record_id) for record_id in before(self.reader, place, NEIGHBOURS)],
                [(namespace, record_id) for record_id in behind(self.reader, place, NEIGHBOURS)],
            )
        return self._around[place]

    def _turn(self, address: Address) -> _Stored | None:
        if address not in self._turns:
            self._turns[address] = self._read(*address)
        return self._turns[address]

    def _read(self, namespace: int, record_id: RecordId) -> _Stored | None:
        value = self.reader.get(key(namespace, Table.CONTENT, record_id))
        if value is None:
            return None
        row = parse_content_row(value)
        return _Stored(row, codec.parse(row.content, MemoryContent), place_of(namespace, record_id, row))
