"""recall.query: finds candidates by every signal of the cue, ranks them, reads the best, renders them.

Owns no state: it asks the indexes for candidates and the stores for the memories. What a recall does to the
memories it returns is handed to the writer when the answer is ready; it never delays it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice

import msgspec
import structlog
from msgspec.structs import replace

from cerememory.actors.actor import Actor
from cerememory.actors.associations import Associations
from cerememory.actors.deadline import Deadline
from cerememory.actors.graph import Reached, has_edges
from cerememory.actors.retrieval import WORKING_CODE, Retrieval
from cerememory.actors.scoping import Scoping
from cerememory.actors.seams import World
from cerememory.actors.searches import NO_TIME, Search, Searched
from cerememory.actors.stores import Fetched, Memory
from cerememory.actors.text_index import TextIndexer
from cerememory.actors.vectors import Nearest
from cerememory.actors.working import Held
from cerememory.actors.writer import StatesCommitted, Writer
from cerememory.domain import evolution, ranking
from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.ranking import Candidate, Ranked, Weights
from cerememory.domain.render import CLEAR, rendered
from cerememory.domain.scope import asked_terms
from cerememory.errors import ActorBusy, ActorStopped
from cerememory.protocol import codec
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.records import STORES, MemoryContent, Store, TemporalRange
from cerememory.protocol.replies import (
    Activation,
    ActivationTrace,
    Explanation,
    QueryMetadata,
    Recalled,
    RecalledMemory,
)
from cerememory.protocol.requests import LIMIT_MAX, RecallCue, RecallMode, RecallQuery
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, key, pack_time, trailing_id, trailing_time
from cerememory.storage.modes import perfect_codes
from cerememory.storage.prepared import SavedState, by_store
from cerememory.storage.recalling import SaveRecall
from cerememory.storage.rows import STORE_CODE
from cerememory.storage.text_index import Hit, Hits
from cerememory.storage.vectors import Space
from cerememory.telemetry.metrics import Metrics

CANDIDATES_PER_RESULT = 3
WIDENING = 4  # times as many candidates, when too few of them are clear enough
WANTED_MAX = 5_000  # candidates of each signal, after which that is given up
BY_TIME_MAX = 5_000  # memories of a time range that join a recall, the newest first
ALL_CODES = frozenset(STORE_CODE.values())

log = structlog.get_logger(__name__)
Candidates = dict[RecordId, Candidate]
NOT_SEARCHED = Searched(Hits(), complete=True)


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom a recall asks; `stores` in the order of their codes."""

    stores: tuple[Actor, ...]
    text_index: TextIndexer
    vectors: Actor
    writer: Writer
    associations: Associations


class _Query(msgspec.Struct, frozen=True):
    """A validated request and where it looks; `codes` None means all stores."""

    namespace: int
    request: RecallQuery
    codes: frozenset[int] | None
    limit: int
    weights: Weights
    wanted: int  # how many candidates each signal is asked for
    fresh_by: float
    begun_at: float
    scope: Scoping | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is words alone that find and rank, as nearly always."""
        cue, request = self.request.cue, self.request
        others = (cue.embedding, cue.emotion, cue.temporal, request.min_fidelity)
        return cue.text is not None and all(other is None for other in others) and not request.explain

    def admits(self, reached: Reached) -> bool:
        """Whether the cue's filters let in what no signal but activation has found."""
        span = self.request.cue.temporal
        is_within = span is None or span.start <= reached.created_at <= span.end
        return is_within and (self.codes is None or reached.store_code in self.codes)


class _Found(msgspec.Struct, frozen=True):
    """The candidates that are left of those scanned when those too faded were dropped: `total`, best first.

    Where words alone count, few of them are ever made, and none is here.
    """

    ranked: list[Ranked]
    total: int
    trace: ActivationTrace | None
    scanned: int
    dropped: int
    complete: bool

    def is_short(self, query: _Query) -> bool:
        """Whether the signals may know of more, and more are needed."""
        may_be_more = query.wanted <= min(self.scanned, WANTED_MAX)
        return self.dropped > 0 and self.total < query.limit and may_be_more


class Recall:
    def __init__(self, sources: Sources, storage: Storage, world: World, metrics: Metrics) -> None:
        self._sources = sources
        self._storage = storage
        self._world = world
        self._metrics = metrics

    async def query(
        self, namespace: int, request: RecallQuery, begun_at: float, fresh_by: float = NO_TIME
    ) -> Recalled:
        """The answer to a validated request; `begun_at`: see `Deadline`, `fresh_by`: see `Search`."""
        limit = min(request.limit, LIMIT_MAX)
        searched = STORES if request.stores is None else tuple(dict.fromkeys(request.stores))
        if limit == 0 or not searched:
            return _answer((), _Found([], 0, None, 0, 0, complete=True), searched)
        codes = None if request.stores is None else frozenset(STORE_CODE[store] for store in searched)
        wanted = CANDIDATES_PER_RESULT * limit
        scope = None if request.scope is None else self._scope(namespace, request, fresh_by)
        query = _Query(namespace, request, codes, limit, _weights(request.cue), wanted, fresh_by, begun_at, scope)
        retrieval, by_words = self._retrieval(query), await self._searched(query)
        plain = await self._found_by_words(query, by_words, retrieval) if query.is_plain else None
        if plain is None:
            with Deadline("recall", begun_at=begun_at):
                plain = await self._found_by_all(query, by_words, retrieval)
        found, chosen = plain
        memories = await self._read(query, chosen, retrieval)
        return _answer(self._results(query, chosen, memories), found, searched)

    def _scope(self, namespace: int, request: RecallQuery, fresh_by: float) -> Scoping | None:
        """None when it lets everything in."""
        terms = asked_terms(namespace, request.scope)
        return Scoping(self._sources.text_index, self._world, namespace, terms, fresh_by) if terms else None

    def _retrieval(self, query: _Query) -> Retrieval:
        sources = self._sources
        last_commit = sources.writer.last_commit
        return Retrieval(sources.stores, query.namespace, self._world.now(), last_commit, query.begun_at)

    async def _found_by_words(
        self, query: _Query, searched: Searched, retrieval: Retrieval
    ) -> tuple[_Found, list[Ranked]] | None:
        """What is found by words alone, and the best of it; None where activation spreads."""
        count, ranked = len(searched.hits), _by_words(searched.hits)
        leading = list(islice(ranked, query.limit))
        await retrieval.look(each.candidate for each in leading)
        if leading and query.request.activation_depth and retrieval.leads_on(leading[0].candidate):
            return None
        chosen = await self._best(query, leading, ranked)
        return _Found([], count, None, count, 0, searched.complete), chosen

    async def _found_by_all(
        self, query: _Query, searched: Searched, retrieval: Retrieval
    ) -> tuple[_Found, list[Ranked]]:
        """What is found by all signals, and the best of it."""
        found = await self._found(query, searched)
        while found.is_short(query):
            query = replace(query, wanted=WIDENING * query.wanted)
            found = await self._found(query, await self._searched(query))
        return found, await self._choose(query, found.ranked, retrieval)

    async def _found(self, query: _Query, searched: Searched) -> _Found:
        """What the signals find of which enough is remembered."""
        candidates = await self._candidates(query, searched.hits)
        ranked = _ranked(query, candidates.values())
        trace = await self._activate(query, candidates, ranked)
        scanned = len(candidates)
        dropped = await self._drop_faded(query, candidates)
        if trace is not None or query.request.min_fidelity is not None:  # which was read, and counts
            ranked = _ranked(query, candidates.values())
        is_complete = searched.complete and (query.scope is None or query.scope.is_complete)
        return _Found(ranked, len(ranked), trace, scanned, dropped, is_complete)

    async def _choose(self, query: _Query, ranked: list[Ranked], retrieval: Retrieval) -> list[Ranked]:
        leading = ranked[: query.limit]
        if all(each.candidate.fidelity is not None for each in ranked):
            return leading
        await retrieval.look(each.candidate for each in leading)
        return await self._best(query, leading, ranked[query.limit :])

    async def _best(self, query: _Query, leading: list[Ranked], rest: Iterable[Ranked]) -> list[Ranked]:
        """The best of `leading`, and of those behind them that their fidelity may yet let pass; what is gone is
        left out.
        """
        known = await self._with_fidelity(query, leading)
        least = known[-1].score if len(known) == len(leading) > 0 else 0.0
        contending = ranking.contenders(rest, least)
        if not contending:
            return known
        behind = await self._with_fidelity(query, contending)
        return sorted(known + behind, key=_place)[: query.limit]

    async def _with_fidelity(self, query: _Query, ranked: list[Ranked]) -> list[Ranked]:
        """Those that are there, ranked anew."""
        candidates = [each.candidate for each in ranked]
        if all(candidate.fidelity is not None for candidate in candidates):
            return _ranked(query, candidates)
        found = {candidate.record_id: candidate for candidate in candidates}
        await self._add_fidelity(query, found)
        return _ranked(query, found.values())

    def _unrendered(self, query: _Query) -> frozenset[int]:
        """The codes of the stores whose memories are shown as they are."""
        if query.request.recall_mode is RecallMode.PERFECT:
            return ALL_CODES
        with self._storage.read() as reader:
            return perfect_codes(reader, query.namespace)

    async def _candidates(self, query: _Query, by_words: Hits) -> Candidates:
        """What any signal of the cue finds; `by_words` is what its words find."""
        cue = query.request.cue
        found = _by_id(by_words)
        if cue.embedding is not None:
            await self._by_vector(query, found, Space.CONTENT, cue.embedding)
        if cue.emotion is not None and _has_emotion(cue):
            await self._by_vector(query, found, Space.EMOTION, cue.emotion.axes())
        if cue.temporal is not None:
            found = await self._by_time(query, found, cue.temporal)
        elif cue.text is None and cue.embedding is None and cue.emotion is None:
            found = await self._newest(query)
        return found

    async def _searched(self, query: _Query) -> Searched:
        """What the words of the cue find, best first, and whether the text index has all that is committed."""
        text, index = query.request.cue.text, self._sources.text_index
        if text is None:
            return NOT_SEARCHED
        search = Search(query.namespace, text, query.codes, query.wanted, query.request.explain, query.fresh_by)
        if query.scope is not None:
            search = replace(search, scope=query.scope.terms)
        searched = index.search_nowait(search)
        if searched is None:
            with Deadline("recall", begun_at=query.begun_at):
                searched = await index.ask(search)
        return searched

    async def _by_vector(self, query: _Query, found: Candidates, space: Space, vector: tuple[float, ...]) -> None:
        nearest = Nearest(query.namespace, space, vector, query.wanted, query.codes)
        vectors = self._sources.vectors
        found_near = vectors.ask(nearest) if query.scope is None else query.scope.nearest(vectors, nearest)
        for near in await found_near:
            candidate = _joined(found, near.record_id, near.store_code, near.created_at)
            cosine = min(near.cosine, 1.0)
            if space is Space.CONTENT:
                candidate.vector = cosine
            else:
                candidate.emotion = cosine

    async def _by_time(self, query: _Query, found: Candidates, span: TemporalRange) -> Candidates:
        """Nothing outside the range stays; what is inside joins, and its fidelity counts."""
        within = await self._created_within(query, span.start, span.end, BY_TIME_MAX)
        kept = {i: c for i, c in found.items() if span.start <= c.created_at <= span.end}
        joined = {**within, **kept}
        await self._add_fidelity(query, joined)
        return joined

    async def _newest(self, query: _Query) -> Candidates:
        newest = await self._created_within(query, TIMESTAMP_MIN, TIMESTAMP_MAX, query.wanted)
        await self._add_fidelity(query, newest)
        return newest

    async def _created_within(self, query: _Query, start: int, end: int, count: int) -> Candidates:
        """The newest of the range, working memory included."""
        if query.scope is not None:
            hits = await query.scope.newest(query.codes, start, end, count)
            return {hit.record_id: Candidate(hit.record_id, hit.store_code, hit.created_at) for hit in hits}
        scan = partial(_scan_by_time, self._storage, query, clamp_timestamp(start), clamp_timestamp(end), count)
        found = {candidate.record_id: candidate for candidate in await self._world.offload(scan)}
        if query.codes is None or WORKING_CODE in query.codes:
            for memory in await self._sources.stores[WORKING_CODE].ask(Held(query.namespace)):
                if start <= memory.row.created_at <= end:
                    _joined(found, memory.record_id, WORKING_CODE, memory.row.created_at)
        return found

    async def _activate(
        self, query: _Query, candidates: Candidates, ranked: list[Ranked]
    ) -> ActivationTrace | None:
        """Spread activation from the best candidate: what is reached joins, and counts more."""
        source = self._source(query, ranked)
        if source is None:
            return None
        activated = await self._sources.associations.activated(
            query.namespace, source.record_id, query.request.activation_depth
        )
        admitted = [memory for memory in activated.memories if query.admits(memory)]
        if query.scope is not None:
            admitted = await query.scope.reached(admitted)
        reached = admitted[: query.wanted]
        for memory in reached:
            candidate = _joined(candidates, memory.record_id, memory.store_code, memory.created_at)
            candidate.activation = memory.activation
        return _trace(source.record_id, reached)

    def _source(self, query: _Query, ranked: list[Ranked]) -> Candidate | None:
        """The best candidate when it has edges; of memories that only their time has found, none is the best."""
        request = query.request
        if not ranked or not request.activation_depth or _is_time_alone(request.cue):
            return None
        best = ranked[0].candidate
        is_held = best.store_code == WORKING_CODE
        return best if is_held or has_edges(self._storage, query.namespace, best.record_id) else None

    async def _add_fidelity(self, query: _Query, candidates: Candidates) -> None:
        """Read the fidelity of those of which it isn't known; candidates whose memory is gone are dropped."""
        unknown = {i: candidate for i, candidate in candidates.items() if candidate.fidelity is None}
        scores = await self._retrieval(query).scores(unknown.values())
        for record_id in unknown.keys() - scores.keys():
            del candidates[record_id]
        for record_id, score in scores.items():
            candidates[record_id].fidelity = score

    async def _drop_faded(self, query: _Query, candidates: Candidates) -> int:
        """How many were below `min_fidelity` and left out."""
        request = query.request
        if request.min_fidelity is None or request.include_decayed:
            return 0
        await self._add_fidelity(query, candidates)
        faded = [i for i, each in candidates.items() if (each.fidelity or 0.0) < request.min_fidelity]
        for record_id in faded:
            del candidates[record_id]
        return len(faded)

    async def _read(self, query: _Query, chosen: list[Ranked], retrieval: Retrieval) -> dict[RecordId, Memory]:
        touching = query.request.reconsolidate
        fetched = await retrieval.fetched([candidate for _score, candidate in chosen], touching=touching)
        if touching and fetched.memories:
            rate = evolution.hit_rate([(STORES[candidate.store_code], score) for score, candidate in chosen])
            self._reconsolidate(query.namespace, fetched, rate, retrieval)
        return {memory.record_id: memory for memory in fetched.memories}

    def _results(
        self, query: _Query, chosen: list[Ranked], memories: Mapping[RecordId, Memory]
    ) -> tuple[RecalledMemory, ...]:
        is_clear = all(memory.state.score >= CLEAR for memory in memories.values())
        return _results(query, chosen, memories, ALL_CODES if is_clear else self._unrendered(query))

    def _reconsolidate(
        self, namespace: int, fetched: Fetched, hit_rate: tuple[Store, float] | None, retrieval: Retrieval
    ) -> None:
        """Hand over what the recall did; when the writer has no room, that is lost, and counted."""
        memories = fetched.memories
        audit = AuditDraft(
            retrieval.now,
            "recall.query.reconsolidate",
            tuple(memory.record_id for memory in memories),
            tuple(memory.row.store_name for memory in memories),
            {"records_updated": len(memories)},
        )
        save = SaveRecall(namespace, fetched.saved, audit, hit_rate, retrieval.as_of)
        try:
            self._sources.writer.commit_later_nowait(save)
        except (ActorBusy, ActorStopped):
            self._metrics.reconsolidations_dropped.inc()
            log.warning("reconsolidation dropped", records=len(memories))
            self._let_go(fetched.saved)

    def _let_go(self, saved: Iterable[SavedState]) -> None:
        """Have the stores go by their rows again, which would else be hidden by what is never saved."""
        for code, states in by_store(saved).items():
            with suppress(ActorBusy, ActorStopped):
                self._sources.stores[code].post_nowait(StatesCommitted(tuple(states)))


def _by_id(hits: Iterable[Hit]) -> Candidates:
    """Each with what explains its score, if that was asked for."""
    found: Candidates = {}
    made = list(hits)
    for hit, (_score, candidate) in zip(made, _by_words(made), strict=True):
        if hit.parts is not None:
            candidate.word_parts = hit.parts
        found[hit.record_id] = candidate
    return found


def _by_words(hits: Iterable[Hit]) -> Iterator[Ranked]:
    """The hits as they are ranked when nothing else counts: in their own order, by their share of the best."""
    best = 0.0
    for hit in hits:
        best = best or hit.score
        words = hit.score / best
        yield Ranked(words, Candidate(hit.record_id, hit.store_code, hit.created_at, words))


def _joined(found: Candidates, record_id: RecordId, store_code: int, created_at: int) -> Candidate:
    candidate = found.get(record_id)
    if candidate is None:
        candidate = found[record_id] = Candidate(record_id, store_code, created_at)
    return candidate


def _scan_by_time(storage: Storage, query: _Query, start: int, end: int, count: int) -> list[Candidate]:
    """The newest `count`, and those made at the same moment as the last of them, which rank by their id."""
    prefix = key(query.namespace, Table.STATE)
    first, last = prefix + pack_time(start), prefix + pack_time(end) + b"\xff" * 17
    found: list[Candidate] = []
    with storage.read() as reader:
        for row_key, value in reader.scan(first, last, reverse=True):
            if query.codes is not None and value[0] not in query.codes:
                continue
            created_at = trailing_time(row_key)
            if len(found) >= count and created_at != found[-1].created_at:
                break
            found.append(Candidate(trailing_id(row_key), value[0], created_at))
    return found


def _trace(source: RecordId, reached: list[Reached]) -> ActivationTrace | None:
    """Where activation came from and what it reached; None when that is nothing."""
    if not reached:
        return None
    activations = [
        Activation(
            record_id=memory.record_id,
            activation_level=memory.activation.level,
            hop=memory.activation.hop,
            edge_type=str(memory.activation.edge_type),
        )
        for memory in reached
    ]
    return ActivationTrace(source_id=source, activations=tuple(activations))


def _is_time_alone(cue: RecallCue) -> bool:
    """Whether nothing in the cue says what a memory is about."""
    return cue.text is None and cue.embedding is None and cue.emotion is None


def _weights(cue: RecallCue) -> Weights:
    return ranking.weights(
        words=cue.text is not None,
        vector=cue.embedding is not None,
        emotion=_has_emotion(cue),
        time=cue.temporal is not None,
    )


def _has_emotion(cue: RecallCue) -> bool:
    return cue.emotion is not None and any(cue.emotion.axes())


def _ranked(query: _Query, candidates: Iterable[Candidate]) -> list[Ranked]:
    cue, weights = query.request.cue, query.weights
    score = ranking.score
    scored = [Ranked(score(candidate, weights), candidate) for candidate in candidates]
    if _is_time_alone(cue) and cue.temporal is None:  # no cue at all: the newest first, whatever they count
        return sorted(scored, key=lambda each: ranking.order(0.0, each.candidate))
    return sorted(scored, key=_place)


def _place(ranked: Ranked) -> tuple[float, int, bytes]:
    return ranking.order(*ranked)


def _results(
    query: _Query,
    chosen: list[Ranked],
    memories: Mapping[RecordId, Memory],
    unrendered: frozenset[int],
) -> tuple[RecalledMemory, ...]:
    """A candidate whose memory is gone, which the index has yet to learn, is left out."""
    return tuple(
        RecalledMemory(
            record=msgspec.Raw(memory.json()),
            relevance_score=score,
            activation_path=None if candidate.activation is None else candidate.activation.path,
            rendered_content=_rendered(memory, unrendered),
            explanation=_explanation(candidate, query.weights) if query.request.explain else msgspec.UNSET,
        )
        for score, candidate in chosen
        if (memory := memories.get(candidate.record_id)) is not None
    )


def _explanation(candidate: Candidate, weights: Weights) -> Explanation:
    """The parts of the candidate's score; they sum to it."""
    parts = ranking.parts(candidate, weights)
    words = candidate.word_parts.scaled_to(parts.words)
    return Explanation(
        text=words.text,
        context=words.context,
        who=words.who,
        when=words.when,
        asked=words.asked,
        vector=parts.vector,
        activation=parts.activation,
        fidelity=parts.fidelity,
        emotion=parts.emotion,
    )


def _rendered(memory: Memory, unrendered: frozenset[int]) -> msgspec.Raw | MemoryContent:
    if memory.row.store_code in unrendered or memory.state.score >= CLEAR:
        return msgspec.Raw(memory.row.content)
    return rendered(codec.parse(memory.row.content, MemoryContent), memory.state.score)


def _answer(memories: tuple[RecalledMemory, ...], found: _Found, searched: tuple[Store, ...]) -> Recalled:
    return Recalled(
        memories=memories,
        activation_trace=found.trace,
        total_candidates=found.total,
        query_metadata=QueryMetadata(
            total_records_scanned=found.scanned,
            stores_searched=searched,
            fidelity_filtered=found.dropped,
            index_complete=found.complete,
        ),
    )
