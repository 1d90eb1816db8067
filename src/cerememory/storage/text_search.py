"""Searching the text index: one immutable view of it, queries built from terms, orders that don't waver.

No character of a text is query syntax: `domain.analysis` makes tokens of it, the analyzer of the index makes
terms of those, and typed queries are put together from the terms.

tantivy breaks ties by place in the index, which changes when segments are merged. So more than the wanted
hits are read while they tie with the last of them, and ties are broken here: newest first, then by id.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, TypeAlias

from tantivy import DocAddress, FieldType, Occur, Order, Query, Searcher

from cerememory.domain import analysis
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId
from cerememory.storage.inverted_index import InvertedIndex, build_analyzer, reading
from cerememory.storage.rows import RAW_CODE

SCORE_DECIMALS = 5  # sums of float32 differ beyond that with the order of their parts
TIES_MAX = 4_096  # hits that are read beyond those wanted; among more the place in the index decides
TIES_FIRST = 16  # of them, those that are read at once: a second search costs as much as the first
KNOWN_MAX = 20_000  # documents whose columns are kept, beyond those of one search
CURATED_CODES = range(RAW_CODE)
ID_HALVES = struct.Struct(">QQ")

_Scored: TypeAlias = tuple[float, DocAddress]
_Columns: TypeAlias = tuple[RecordId, int, int]  # of a document: record id, store code, created_at


class Hit(NamedTuple):
    """A memory that was found; `score`, above 0, is BM25 over stems and over words as they are written."""

    record_id: RecordId
    store_code: int
    created_at: int
    score: float


class Found(NamedTuple):
    """`total`: how many match in all."""

    hits: list[Hit]
    total: int


class RawFound(NamedTuple):
    record_ids: list[RecordId]
    total: int


class Snapshot:
    """The index as it was at one commit, immutable; any thread may search it."""

    def __init__(self, curated: InvertedIndex, raw: InvertedIndex) -> None:
        self._schema = curated.schema
        self._curated = _Documents(curated.searcher)
        self._raw = _Documents(raw.searcher)
        self._analyzer = build_analyzer()

    def search(self, text: str, stores: Collection[int] | None, limit: int) -> Found:
        """Memories with any word of `text`, best first, then newest first, then by id.

        `stores`: store codes, None for all. A text without words finds nothing. Raises `IndexDamaged`.
        """
        words = analysis.query_terms(text)
        if not words:
            return Found([], 0)
        clauses = [(Occur.Should, self._term("text", stem)) for stem in self._stems(words)]
        clauses += [(Occur.Should, self._term("exact", word)) for word in dict.fromkeys(words)]
        if stores is not None:
            others = [code for code in CURATED_CODES if code not in stores]
            clauses += [(Occur.MustNot, self._term("store", code)) for code in others]
        hits, total = self._curated.leading(Query.boolean_query(clauses), limit)
        return Found(sorted(hits, key=_rank)[:limit], total)

    def search_raw(
        self,
        text: str | None,
        session: bytes | None,
        start_ns: int | None,
        end_ns: int | None,
        visibilities: Collection[int],
        secrecies: Collection[int],
        limit: int,
    ) -> RawFound:
        """Raw entries that pass every filter, oldest first, then by id. None: no such filter.

        `text`: all its words must be there, stop words apart; a text without words finds nothing.
        Times are nanoseconds since the epoch, both ends inclusive. Raises `IndexDamaged`.
        """
        filters = [self._one_of("visibility", visibilities), self._one_of("secrecy", secrecies)]
        if text is not None:
            filters += [self._term("text", word) for word in self._stems(analysis.query_terms(text))] or [
                Query.empty_query()
            ]
        if session is not None:
            filters.append(self._term("session", session))
        if start_ns is not None or end_ns is not None:
            filters.append(self._created_within(start_ns, end_ns))
        query = Query.boolean_query([(Occur.Must, part) for part in filters])
        hits, total = self._raw.leading(query, limit, order_by_field="created_at", order=Order.Asc)
        return RawFound([hit.record_id for hit in sorted(hits, key=_age)[:limit]], total)

    def _stems(self, words: list[str]) -> list[str]:
        return list(dict.fromkeys(self._analyzer.analyze(" ".join(words))))

    def _term(self, field: str, value: str | bytes | int) -> Query:
        return Query.term_query(self._schema, field, value, index_option="freq")

    def _one_of(self, field: str, codes: Collection[int]) -> Query:
        return Query.boolean_query([(Occur.Should, self._term(field, code)) for code in codes])

    def _created_within(self, start_ns: int | None, end_ns: int | None) -> Query:
        start = TIMESTAMP_MIN if start_ns is None else clamp_timestamp(start_ns)
        end = TIMESTAMP_MAX if end_ns is None else clamp_timestamp(end_ns)
        return Query.range_query(self._schema, "created_at", FieldType.Integer, start, end)


class _Documents:
    """The documents of one searcher. What stands in their columns is kept once it was read."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        self._known: dict[int, _Columns] = {}

    def leading(self, query: Query, limit: int, **order: Any) -> tuple[list[Hit], int]:
        """The first `limit` hits with those that tie with the last of them, and how many match in all."""
        limit = max(limit, 1)  # none wanted: the total still is, and tantivy panics at 0
        width = limit + TIES_FIRST
        with reading():
            while True:
                found: Any = self._searcher.search(query, width, count=True, **order)  # its type lacks `count`
                scored: list[_Scored] = found.hits
                end = _end_of_ties(scored, limit)
                if end < width or width == limit + TIES_MAX:
                    return self._hits(scored[:end]), found.count
                width = min(4 * width, limit + TIES_MAX)

    def _hits(self, scored: list[_Scored]) -> list[Hit]:
        places = [address.segment_ord << 32 | address.doc for _score, address in scored]
        known = self._known if len(self._known) <= KNOWN_MAX else {}
        unknown = [i for i, place in enumerate(places) if place not in known]
        if unknown:
            rows = self._columns([scored[i][1] for i in unknown])
            known.update(zip((places[i] for i in unknown), rows, strict=True))
        self._known = known
        return [Hit(*known[place], _key(pair)) for place, pair in zip(places, scored, strict=True)]

    def _columns(self, addresses: list[DocAddress]) -> Iterator[_Columns]:
        columns: list[list[Any]] = [
            self._searcher.fast_field_values(field, addresses)
            for field in ("id_high", "id_low", "store", "created_at")
        ]
        for high, low, store, created_at in zip(*columns, strict=True):
            yield RecordId(ID_HALVES.pack(high, low)), store, created_at


def _end_of_ties(scored: list[_Scored], limit: int) -> int:
    """How many to read: `limit`, and those behind them that tie with the last."""
    if len(scored) <= limit:
        return len(scored)
    last, end = _key(scored[limit - 1]), limit
    while end < len(scored) and _key(scored[end]) == last:
        end += 1
    return end


def _key(scored: _Scored) -> float:
    return round(scored[0], SCORE_DECIMALS)  # a score, or the nanoseconds of an order by time


def _rank(hit: Hit) -> tuple[float, int, bytes]:
    return -hit.score, -hit.created_at, hit.record_id


def _age(hit: Hit) -> tuple[int, bytes]:
    return hit.created_at, hit.record_id
