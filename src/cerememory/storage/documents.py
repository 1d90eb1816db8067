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
    Context,
    Surroundings,
    Turn,
    context_of,
    speaker_of,
    surroundings,
    when_terms,
)
from cerememory.domain.scope import terms_of
from cerememory.domain.searchable import Searchable, searchable
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent, MetaMemory
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.groups import address_at, before, behind, place_in
from cerememory.storage.keys import Address, Table, digest, key
from cerememory.storage.rows import RAW_CODE, ContentRow, RawRow, parse_content_row, parse_raw_row
from cerememory.storage.text_index import IndexDocument

RUN_PLACES = 64  # places that are looked at together, behind the one that is asked for


class _Turn(NamedTuple):
    """A stored memory, and what it says itself: without what is said about it."""

    address: Address
    row: ContentRow
    found: Searchable
    context: Context
    place: bytes | None
    said: Turn
    tags: tuple[str, ...]


def _turn(address: Address, row: ContentRow) -> _Turn:
    content, context = codec.parse(row.content, MemoryContent), context_of(row.metadata)
    place = place_in(context.session, *address, row.created_at)
    said = found = searchable(content, None)
    tags: tuple[str, ...] = ()
    if row.meta:
        meta = codec.parse(row.meta, MetaMemory)
        found, tags = searchable(content, meta), meta.tags
    return _Turn(address, row, found, context, place, Turn(said.text, speaker_of(context, said.text)), tags)


def row_document(namespace: int, record_id: RecordId, row: ContentRow) -> IndexDocument:
    """The document of a memory that has no neighbours."""
    return _document(_turn((namespace, record_id), row), ALONE)


def _document(turn: _Turn, around: Surroundings) -> IndexDocument:
    (namespace, record_id), row, found = turn.address, turn.row, turn.found
    return IndexDocument(
        namespace=namespace,
        record_id=record_id,
        store_code=row.store_code,
        created_at=row.created_at,
        text=found.text,
        summary=found.summary,
        around=around,
        speaker=turn.said.speaker,
        dates=tuple(when_terms(turn.context, row.created_at)),
        scope=terms_of(namespace, row.metadata, turn.tags),
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
    beside = [*map(turns.neighbours, [*addresses]), *(_neighbours_of_none(reader, place) for place in left)]
    for neighbours in beside:
        addresses |= dict.fromkeys(neighbours)
    return _documents(turns, addresses)


def _neighbours_of_none(reader: Reader, place: bytes) -> list[Address]:
    """Of a place that is empty."""
    beside = before(reader, place, NEIGHBOURS) + behind(reader, place, NEIGHBOURS)
    return [address_at(each) for each in beside]


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


class _Turns:
    """The memories that one call reads, each once, and who stands beside them."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._read: dict[Address, _Turn | None] = {}
        self._beside: dict[bytes, tuple[list[Address], list[Address]]] = {}

    def document(self, address: Address) -> IndexDocument | None:
        turn = self._of(address)
        if turn is None:
            return None
        in_front, next_ones = self._around(turn.place)
        return _document(turn, surroundings(self._said(in_front), self._said(next_ones)))

    def neighbours(self, address: Address) -> list[Address]:
        turn = self._of(address)
        if turn is None:
            return []
        in_front, next_ones = self._around(turn.place)
        return in_front + next_ones

    def _said(self, addresses: list[Address]) -> list[Turn]:
        return [turn.said for turn in map(self._of, addresses) if turn is not None]

    def _of(self, address: Address) -> _Turn | None:
        if address not in self._read:
            namespace, record_id = address
            value = self.reader.get(key(namespace, Table.CONTENT, record_id))
            self._read[address] = None if value is None else _turn(address, parse_content_row(value))
        return self._read[address]

    def _around(self, place: bytes | None) -> tuple[list[Address], list[Address]]:
        """Who is before and behind a place, in their order; nobody when it is none."""
        if place is None:
            return [], []
        if place not in self._beside:
            self._look_around(place)
        return self._beside[place]

    def _look_around(self, place: bytes) -> None:
        """Learn the neighbours of `place` and of those about it: whoever wants one will want the others."""
        in_front, next_ones = before(self.reader, place, 2 * NEIGHBOURS), behind(self.reader, place, RUN_PLACES)
        run = [*in_front, place, *next_ones]
        addresses = [address_at(each) for each in run]
        first = 0 if len(in_front) < 2 * NEIGHBOURS else NEIGHBOURS
        end = len(run) if len(next_ones) < RUN_PLACES else len(run) - NEIGHBOURS
        for i in range(first, end):
            before_it, behind_it = addresses[max(0, i - NEIGHBOURS) : i], addresses[i + 1 : i + 1 + NEIGHBOURS]
            self._beside[run[i]] = before_it, behind_it
