"""Searching the text index: one immutable view of it, queries built from terms, orders that don't waver.

No character of a text is query syntax: `domain.question` says what a text asks for, the analyzer of the index
makes stems of its words, and typed queries are put together from the terms.

A memory is ranked by one boolean query over its fields (weights of the retrieval specification): its text 1, its
context 2, who said it 1, when it happened 2, what it was asked .5. The first two and the last are BM25, of which
the last needs no weight: a field that one memory in four has is taken for one of four times the average length,
and gives half of what others do. Who and when count a share of the best that these give together, so that they
weigh the same in every index. Who took part in what was said counts as much as who said it: where names leave
the words that are looked for, they still tell one conversation from another.

tantivy breaks ties by place in the index, which changes when segments are merged. So more than the wanted
hits are read while they tie with the last of them, and ties are broken here: newest first, then by id.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace
from tantivy import DocAddress, FieldType, Occur, Order, Query, Schema, Searcher, TextAnalyzer

from cerememory.domain import analysis, question
from cerememory.domain.question import Question
from cerememory.domain.ranking import WordParts
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId
from cerememory.storage.inverted_index import (
    ID_FIELDS,
    ID_HALVES,
    InvertedIndex,
    build_analyzer,
    document_id,
    reading,
    scoped,
)
from cerememory.storage.rows import RAW_CODE

CONTEXT_WEIGHT = 2.0
WHO_SHARE, WHEN_SHARE = 1 / 3, 2 / 3  # of the best score, which is text and context, 3, together
WORDS_KEPT = 1_024  # of those that were asked for
KNOWN_MAX = 20_000  # documents whose columns are kept, beyond those of one search
MADE_AT_ONCE = 12  # hits: a recall shows ten, if it isn't told otherwise, and has to know what may follow
SCORE_STEPS = 100_000  # in one point; sums of float32 differ below that with the order of their parts
TIES_MAX = 4_096  # hits that are read beyond those wanted; among more the place in the index decides
TIES_FIRST = 16  # of them, those that are read at once: a second search costs as much as the first
CURATED_CODES = range(RAW_CODE)
COLUMNS = ("id_high", "id_low", "store", "created_at")

K = TypeVar("K")
_Scored: TypeAlias = tuple[float, DocAddress]
_Columns: TypeAlias = tuple[RecordId, int, int]  # of a document: record id, store code, created_at


class Hit(msgspec.Struct, frozen=True, gc=False):
    """A memory that was found; `score` is above 0; `parts`, when they were asked for, sum to it."""

    record_id: RecordId
    store_code: int
    created_at: int
    score: float
    parts: WordParts | None = None


class Hits:
    """Memories that were found, best first, then newest first, then by id.

    Each is made when it is come to: of all that a recall counts it mostly shows the first few.
    """

    __slots__ = ("_count", "_hits")

    def __init__(self, hits: Iterable[Hit] = (), count: int | None = None) -> None:
        """The first `count` of `hits`, which may be gone through more than once; all, when that isn't said."""
        self._hits = hits
        self._count = len(list(hits)) if count is None else count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Hit]:
        return islice(self._hits, self._count)


class RawFound(NamedTuple):
    """`total`: how many match in all."""

    record_ids: list[RecordId]
    total: int


class _Clauses(NamedTuple):
    """A query's clauses for each field, in the order of `WordParts`."""

    text: list[Query]
    context: list[Query]
    who: list[Query]
    when: list[Query]
    asked: list[Query]


class Snapshot:
    """The index as it was at one commit, immutable; any thread may search it."""

    def __init__(self, curated: InvertedIndex, raw: InvertedIndex) -> None:
        self._schema = curated.schema
        self._searcher = curated.searcher
        self._curated = _Documents(curated.searcher)
        self._raw = _Documents(raw.searcher)
        # What a query is put together from: words come again, and each costs as much as a memory that is found.
        self._stems_of = _Kept(partial(_stems, build_analyzer()))
        self._texts = _Kept(partial(_text_of, curated.schema))
        self._contexts = _Kept(partial(_context_of, curated.schema))
        # What no memory has needn't be asked for: the words of half a query, in an index without conversations.
        self._has_speakers, self._has_questions = (self._has_any(field) for field in ("who", "asked"))

    def _has_any(self, field: str) -> bool:
        with reading():
            return bool(self._searcher.terms_with_prefix(field, "", limit=1))

    def search(
        self,
        namespace: int,
        text: str,
        stores: Collection[int] | None,
        limit: int,
        *,
        explain: bool = False,
        scope: Sequence[str] = (),
    ) -> Hits:
        """Memories that answer `text`, best first, then newest first, then by id.

        `stores`: store codes, None for all. `scope`: terms of `domain.scope` that a memory must have; they add
        nothing to its score. A text without words finds nothing. Raises `IndexDamaged`.
        """
        with reading():
            mark = scoped(namespace, "")
            asked = question.read(text, lambda name: self._is_speaker(mark + name))
            if not asked.words:
                return Hits()
            clauses = self._clauses(mark, asked, scope)
            hits = self._curated.best(self._any_of(clauses, stores, scope), limit)
            return self._explained(namespace, clauses, list(hits)) if explain else hits

    def _is_speaker(self, term: str) -> bool:
        return self._has_speakers and self._searcher.doc_freq("who", term) > 0

    def _clauses(self, mark: str, asked: Question, scope: Sequence[str]) -> _Clauses:
        stems = [mark + stem for stem in self._stems(asked.words)]
        clauses = _Clauses(
            text=[self._texts[mark + word] for word in asked.words],
            context=[self._contexts[stem] for stem in stems],
            who=[],
            when=[],
            asked=[self._term("asked", stem) for stem in stems] if self._has_questions else [],
        )
        if asked.names or asked.dates:
            self._add_circumstances(mark, asked, clauses, scope)
        return clauses

    def _add_circumstances(self, mark: str, asked: Question, clauses: _Clauses, scope: Sequence[str]) -> None:
        """Their share is of the best in the scope: what a recall may not answer doesn't change the order of what
        it may. (Scores are told as shares of the best that is found, so those within two scopes compare alike.)
        """
        best = self._curated.best_score(self._any_of(clauses, None, scope))
        people = [("company", name) for name in asked.names]
        if asked.speaker is not None:
            people.append(("who", asked.speaker))
        for field, name in people:
            clauses.who.append(Query.const_score_query(self._term(field, mark + name), best * WHO_SHARE))
        if asked.dates:
            dates = _union([self._term("date", mark + when) for when in asked.dates])
            clauses.when.append(Query.const_score_query(dates, best * WHEN_SHARE))

    def _any_of(self, clauses: _Clauses, stores: Collection[int] | None, scope: Sequence[str] = ()) -> Query:
        wanted = [(Occur.Should, clause) for part in clauses for clause in part]
        if scope:
            wanted = [(Occur.Must, Query.boolean_query(wanted)), *self._all_of(scope)]
        return Query.boolean_query(wanted + self._in_none_but(stores))

    def _in_none_but(self, stores: Collection[int] | None) -> list[tuple[Occur, Query]]:
        if stores is None:
            return []
        return [(Occur.MustNot, self._term("store", code)) for code in CURATED_CODES if code not in stores]

    def _all_of(self, scope: Sequence[str]) -> list[tuple[Occur, Query]]:
        """A memory must have each of the terms; its score is what it was."""
        return [(Occur.Must, Query.const_score_query(self._term("scope", term), 0.0)) for term in scope]

    def newest_within(
        self, scope: Sequence[str], stores: Collection[int] | None, start_ns: int, end_ns: int, limit: int
    ) -> list[Hit]:
        """The newest `limit` in a scope (one term or more) that were made from `start_ns` to `end_ns`, both
        inclusive, with those made at the same moment as the last of them. Their scores say nothing.

        Raises `IndexDamaged`.
        """
        within = [*self._all_of(scope), (Occur.Must, self._created_within(start_ns, end_ns))]
        with reading():
            return self._curated.newest(Query.boolean_query(within + self._in_none_but(stores)), limit)

    def few_within(self, scope: Sequence[str], most: int) -> frozenset[RecordId] | None:
        """Who is in a scope (one term or more); None when they are more than `most`. Raises `IndexDamaged`."""
        with reading():
            return self._curated.ids(Query.boolean_query(self._all_of(scope)), most)

    def among(self, namespace: int, scope: Sequence[str], record_ids: Collection[RecordId]) -> frozenset[RecordId]:
        """Those of `record_ids` that are in a scope (one term or more). Raises `IndexDamaged`."""
        ids = [document_id((namespace, record_id)) for record_id in record_ids]
        among = (Occur.Must, Query.term_set_query(self._schema, "id", ids))
        with reading():
            found = self._curated.ids(Query.boolean_query([among, *self._all_of(scope)]), len(ids))
        return found or frozenset()

    def _explained(self, namespace: int, clauses: _Clauses, hits: list[Hit]) -> Hits:
        ids = [document_id((namespace, hit.record_id)) for hit in hits]
        among = Query.const_score_query(Query.term_set_query(self._schema, "id", ids), 0.0)
        scores = [self._scores_among(among, part, len(hits)) for part in clauses]
        return Hits([replace(hit, parts=_parts(hit, scores)) for hit in hits])

    def _scores_among(self, among: Query, part: list[Query], count: int) -> dict[RecordId, float]:
        """What the clauses of one field give to the memories that pass `among`."""
        if not part or not count:
            return {}
        both = Query.boolean_query([(Occur.Must, among), (Occur.Must, _union(part))])
        return {hit.record_id: hit.score for hit in self._curated.best(both, count)}

    def search_raw(
        self,
        namespace: int,
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
        filters = [self._term("namespace", namespace)]
        filters += [self._one_of("visibility", visibilities), self._one_of("secrecy", secrecies)]
        if text is not None:
            stems = self._stems(analysis.query_terms(text))
            filters += [self._term("context", scoped(namespace, stem)) for stem in stems] or [Query.empty_query()]
        if session is not None:
            filters.append(self._term("session", session))
        if start_ns is not None or end_ns is not None:
            filters.append(self._created_within(start_ns, end_ns))
        with reading():
            return self._raw.oldest(Query.boolean_query([(Occur.Must, part) for part in filters]), limit)

    def _stems(self, words: list[str]) -> list[str]:
        return list(dict.fromkeys(stem for word in words for stem in self._stems_of[word]))

    def _term(self, field: str, value: str | bytes | int) -> Query:
        return _term(self._schema, field, value)

    def _one_of(self, field: str, codes: Collection[int]) -> Query:
        return _union([self._term(field, code) for code in codes])

    def _created_within(self, start_ns: int | None, end_ns: int | None) -> Query:
        start = TIMESTAMP_MIN if start_ns is None else clamp_timestamp(start_ns)
        end = TIMESTAMP_MAX if end_ns is None else clamp_timestamp(end_ns)
        return Query.range_query(self._schema, "created_at", FieldType.Integer, start, end)


class _Kept(dict[str, K]):
    """What `make` makes of a word, made once; at most `WORDS_KEPT`."""

    def __init__(self, make: Callable[[str], K]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, word: str) -> K:
        if len(self) >= WORDS_KEPT:
            self.clear()
        made = self[word] = self._make(word)
        return made


def _stems(analyzer: TextAnalyzer, word: str) -> list[str]:
    return analyzer.analyze(word)


def _term(schema: Schema, field: str, value: str | bytes | int) -> Query:
    return Query.term_query(schema, field, value, "freq")


def _text_of(schema: Schema, term: str) -> Query:
    return _term(schema, "text", term)


def _context_of(schema: Schema, term: str) -> Query:
    return Query.boost_query(_term(schema, "context", term), CONTEXT_WEIGHT)


def _union(queries: Sequence[Query]) -> Query:
    return Query.boolean_query([(Occur.Should, query) for query in queries])


def _parts(hit: Hit, scores: list[dict[RecordId, float]]) -> WordParts:
    """The parts of the hit's score; each is a float32, so they are scaled to sum to it."""
    return WordParts(*(found.get(hit.record_id, 0.0) for found in scores)).scaled_to(hit.score)


class _Documents:
    """The documents of one searcher. What stands in their columns is kept once it was read."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        self._known: dict[int, _Columns] = {}

    def best(self, query: Query, limit: int) -> Hits:
        """The first `limit`, best first, then newest first, then by id."""
        scored, _total = self._leading(query, limit, _score, count=False)
        return Hits(self._hits(scored), min(len(scored), limit))

    def best_score(self, query: Query) -> float:
        """The highest score that `query` gives; 1 when it finds nothing."""
        hits = self._searcher.search(query, 1, count=False).hits
        return hits[0][0] if hits else 1.0

    def newest(self, query: Query, limit: int) -> list[Hit]:
        """The first `limit`, newest first, with those that tie with the last of them."""
        by_time = {"order_by_field": "created_at", "order": Order.Desc}
        scored, _total = self._leading(query, limit, itemgetter(0), count=False, **by_time)
        return self._hits(scored).made()

    def ids(self, query: Query, most: int) -> frozenset[RecordId] | None:
        """Whose documents match, in no order; None when they are more than `most`."""
        hits = self._searcher.search(query, most + 1, count=False).hits
        if len(hits) > most:
            return None
        places = [place for _score, place in hits]
        halves = [self._searcher.fast_field_values(field, places) for field in ID_FIELDS]
        return frozenset(RecordId(ID_HALVES.pack(high, low)) for high, low in zip(*halves, strict=True))

    def oldest(self, query: Query, limit: int) -> RawFound:
        """The first `limit`, oldest first, then by id, and how many there are."""
        by_time = {"order_by_field": "created_at", "order": Order.Asc}
        scored, total = self._leading(query, limit, itemgetter(0), count=True, **by_time)
        hits = sorted(self._hits(scored).made(), key=_age)
        return RawFound([hit.record_id for hit in hits[:limit]], total)

    def _leading(
        self, query: Query, limit: int, key: Callable[[_Scored], float], *, count: bool, **order: Any
    ) -> tuple[list[_Scored], int]:
        """The first `limit` with those that tie with the last of them; when it is counted, how many match."""
        limit = max(limit, 1)  # none wanted: the total still is, and tantivy panics at 0
        width = limit + TIES_FIRST
        while True:
            found: Any = self._searcher.search(query, width, count, **order)  # its type lacks `count`
            scored: list[_Scored] = found.hits
            end = _end_of_ties(scored, limit, key)
            if end < width or width == limit + TIES_MAX:
                return scored[:end], found.count or 0
            width = min(4 * width, limit + TIES_MAX)

    def _hits(self, scored: list[_Scored]) -> _InOrder:
        places = [address.segment_ord << 32 | address.doc for _score, address in scored]
        known = self._known if len(self._known) <= KNOWN_MAX else {}
        unknown = [i for i, place in enumerate(places) if place not in known]
        if unknown:
            rows = self._columns([scored[i][1] for i in unknown])
            known.update(zip((places[i] for i in unknown), rows, strict=True))
        self._known = known
        return _InOrder(scored, places, known)

    def _columns(self, addresses: list[DocAddress]) -> Iterator[_Columns]:
        columns: list[list[Any]] = [self._searcher.fast_field_values(field, addresses) for field in COLUMNS]
        for high, low, store, created_at in zip(*columns, strict=True):
            yield RecordId(ID_HALVES.pack(high, low)), store, created_at


class _InOrder:
    """What was found as hits, in the order of `Hits`. They are made a few at a time, when they are come to."""

    def __init__(self, scored: list[_Scored], places: list[int], columns: dict[int, _Columns]) -> None:
        """`scored` best first, and the `columns` of the document at each of its `places`."""
        self._scored = scored
        self._places = places
        self._columns = columns

    def __iter__(self) -> Iterator[Hit]:
        start = 0
        while start < len(self._scored):
            end = _end_of_ties(self._scored, start + MADE_AT_ONCE, _score)
            yield from sorted(self.made(start, end), key=_rank)
            start = end

    def made(self, start: int = 0, end: int | None = None) -> list[Hit]:
        """Those from `start` to `end` as they came."""
        columns = self._columns
        return [
            Hit(*columns[place], int(score * SCORE_STEPS + 0.5) / SCORE_STEPS)  # `_score`; its call costs as much
            for place, (score, _address) in zip(self._places[start:end], self._scored[start:end], strict=True)
        ]


def _end_of_ties(scored: list[_Scored], limit: int, key: Callable[[_Scored], float]) -> int:
    """How many to read: `limit`, and those behind them that tie with the last."""
    if len(scored) <= limit:
        return len(scored)
    last, end = key(scored[limit - 1]), limit
    while end < len(scored) and key(scored[end]) == last:
        end += 1
    return end


def _score(scored: _Scored) -> float:
    """Equal for those that tie."""
    return int(scored[0] * SCORE_STEPS + 0.5) / SCORE_STEPS


def _rank(hit: Hit) -> tuple[float, int, bytes]:
    return -hit.score, -hit.created_at, hit.record_id


def _age(hit: Hit) -> tuple[int, bytes]:
    return hit.created_at, hit.record_id
