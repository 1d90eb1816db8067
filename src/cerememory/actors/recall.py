"""recall.query: ranks what the signals of the cue find (`signals`), reads the best, renders them.

Owns no state: it asks the stores for the memories. What a recall does to those it returns is handed to the writer
when the answer is ready; it never delays it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice

import msgspec
import structlog
from msgspec.structs import replace

from cerememory.actors.deadline import Deadline
from cerememory.actors.followers import StatesCommitted
from cerememory.actors.retrieval import Retrieval
from cerememory.actors.scoping import Scoping
from cerememory.actors.seams import World
from cerememory.actors.searches import NO_TIME, Searched
from cerememory.actors.signals import (
    Candidates,
    Query,
    Signals,
    Sources,
    add_fidelity,
    by_words,
    has_emotion,
    is_time_alone,
)
from cerememory.actors.stores import Fetched, Memory
from cerememory.domain import evolution, ranking
from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.ranking import Candidate, Ranked, Weights
from cerememory.domain.render import CLEAR, rendered
from cerememory.domain.scope import asked_terms
from cerememory.errors import ActorBusy, ActorStopped
from cerememory.protocol import codec
from cerememory.protocol.long import Long
from cerememory.protocol.records import STORES, MemoryContent, Store
from cerememory.protocol.replies import (
    ActivationTrace,
    Explanation,
    QueryMetadata,
    Recalled,
    RecalledMemory,
)
from cerememory.protocol.requests import LIMIT_MAX, RecallCue, RecallMode, RecallQuery
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.modes import perfect_codes
from cerememory.storage.prepared import SavedState, by_store
from cerememory.storage.recalling import SaveRecall
from cerememory.storage.rows import STORE_CODE
from cerememory.telemetry.metrics import Metrics

CANDIDATES_PER_RESULT = 3
WIDENING = 4  # times as many candidates, when too few of them are clear enough
WANTED_MAX = 5_000  # candidates of each signal, after which that is given up
INLINE_MAX = 500  # candidates; more are ranked in a thread: it takes over 1 ms
SHOWN_INLINE_MAX = 100  # memories; more are put into their form in a thread: it takes over 2 ms
ALL_CODES = frozenset(STORE_CODE.values())

log = structlog.get_logger(__name__)


class _Found(msgspec.Struct, frozen=True):
    """The candidates that are left of those scanned when those too faded were dropped: `total`, best first.

    Those that can't be among the best aren't `ranked`, but count. Where words alone count, few candidates are ever
    made, and none is here.
    """

    ranked: list[Ranked]
    total: int
    trace: ActivationTrace | None
    scanned: int
    dropped: int
    complete: bool

    def is_short(self, query: Query) -> bool:
        """Whether the signals may know of more, and more are needed."""
        may_be_more = query.wanted <= min(self.scanned, WANTED_MAX)
        return self.dropped > 0 and self.total < query.limit and may_be_more


class Recall:
    def __init__(self, sources: Sources, storage: Storage, world: World, metrics: Metrics) -> None:
        self._sources = sources
        self._storage = storage
        self._world = world
        self._metrics = metrics
        self._signals = Signals(sources, storage, world)

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
        query = Query(namespace, request, codes, limit, _weights(request.cue), wanted, fresh_by, begun_at, scope)
        retrieval, words = self._signals.retrieval(query), await self._signals.searched(query)
        best = await self._found_by_words(query, words, retrieval) if query.is_plain else None
        if best is None:
            with Deadline("recall", begun_at=begun_at):
                best = await self._found_by_all(query, words, retrieval)
        found, chosen = best
        memories = await self._read(query, chosen, retrieval)
        results = partial(self._results, query, chosen, memories)
        if retrieval.is_long:
            return _answer(Long(await self._world.offload(results)), found, searched, is_cut=retrieval.is_cut)
        shown = results() if len(chosen) <= SHOWN_INLINE_MAX else await self._world.offload(results)
        return _answer(shown, found, searched)

    def _scope(self, namespace: int, request: RecallQuery, fresh_by: float) -> Scoping | None:
        """None when it lets everything in."""
        terms = asked_terms(namespace, request.scope)
        return Scoping(self._sources.text_index, self._world, namespace, terms, fresh_by) if terms else None

    async def _found_by_words(
        self, query: Query, searched: Searched, retrieval: Retrieval
    ) -> tuple[_Found, list[Ranked]] | None:
        """What is found by words alone, and the best of it; None where activation spreads."""
        count, ranked = len(searched.hits), by_words(searched.hits)
        leading = list(islice(ranked, query.limit))
        await retrieval.look(each.candidate for each in leading)
        if leading and query.request.activation_depth and retrieval.leads_on(leading[0].candidate):
            return None
        chosen = await self._best(query, leading, ranked)
        return _Found([], count, None, count, 0, searched.complete), chosen

    async def _found_by_all(
        self, query: Query, searched: Searched, retrieval: Retrieval
    ) -> tuple[_Found, list[Ranked]]:
        """What is found by all signals, and the best of it."""
        found = await self._found(query, searched)
        while found.is_short(query):
            query = replace(query, wanted=WIDENING * query.wanted)
            found = await self._found(query, await self._signals.searched(query))
        return found, await self._choose(query, found.ranked, retrieval)

    async def _found(self, query: Query, searched: Searched) -> _Found:
        """What the signals find of which enough is remembered."""
        candidates, behind = await self._signals.candidates(query, searched.hits)
        ranked = await self._ranked(query, candidates.values())
        trace = await self._signals.activate(query, candidates, ranked)
        unranked = len(behind.keys() - candidates.keys())
        scanned = len(candidates) + unranked
        dropped = await self._drop_faded(query, candidates)
        if trace is not None or query.request.min_fidelity is not None:  # which was read, and counts
            ranked = await self._ranked(query, candidates.values())
        is_complete = searched.complete and (query.scope is None or query.scope.is_complete)
        return _Found(ranked, len(ranked) + unranked, trace, scanned, dropped, is_complete)

    async def _ranked(self, query: Query, candidates: Collection[Candidate]) -> list[Ranked]:
        """Best first."""
        if len(candidates) <= INLINE_MAX:
            return _ranked(query, candidates)
        return await self._world.offload(partial(_ranked, query, candidates))

    async def _choose(self, query: Query, ranked: list[Ranked], retrieval: Retrieval) -> list[Ranked]:
        leading = ranked[: query.limit]
        if all(each.candidate.fidelity is not None for each in ranked):
            return leading
        await retrieval.look(each.candidate for each in leading)
        return await self._best(query, leading, ranked[query.limit :])

    async def _best(self, query: Query, leading: list[Ranked], rest: Iterable[Ranked]) -> list[Ranked]:
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

    async def _with_fidelity(self, query: Query, ranked: list[Ranked]) -> list[Ranked]:
        """Those that are there, ranked anew."""
        candidates = [each.candidate for each in ranked]
        if all(candidate.fidelity is not None for candidate in candidates):
            return await self._ranked(query, candidates)
        found = {candidate.record_id: candidate for candidate in candidates}
        await add_fidelity(self._signals.retrieval(query), found)
        return await self._ranked(query, found.values())

    def _unrendered(self, query: Query) -> frozenset[int]:
        """The codes of the stores whose memories are shown as they are."""
        if query.request.recall_mode is RecallMode.PERFECT:
            return ALL_CODES
        with self._storage.read() as reader:
            return perfect_codes(reader, query.namespace)

    async def _drop_faded(self, query: Query, candidates: Candidates) -> int:
        """How many were below `min_fidelity` and left out."""
        request = query.request
        if request.min_fidelity is None or request.include_decayed:
            return 0
        await add_fidelity(self._signals.retrieval(query), candidates)
        faded = [i for i, each in candidates.items() if (each.fidelity or 0.0) < request.min_fidelity]
        for record_id in faded:
            del candidates[record_id]
        return len(faded)

    async def _read(self, query: Query, chosen: list[Ranked], retrieval: Retrieval) -> dict[RecordId, Memory]:
        touching = query.request.reconsolidate
        fetched = await retrieval.fetched([candidate for _score, candidate in chosen], touching=touching)
        if touching and fetched.memories:
            rate = evolution.hit_rate([(STORES[candidate.store_code], score) for score, candidate in chosen])
            self._reconsolidate(query.namespace, fetched, rate, retrieval)
        return {memory.record_id: memory for memory in fetched.memories}

    def _results(
        self, query: Query, chosen: list[Ranked], memories: Mapping[RecordId, Memory]
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


def _weights(cue: RecallCue) -> Weights:
    return ranking.weights(
        words=cue.text is not None,
        vector=cue.embedding is not None,
        emotion=has_emotion(cue),
        time=cue.temporal is not None,
    )


def _ranked(query: Query, candidates: Iterable[Candidate]) -> list[Ranked]:
    cue, weights = query.request.cue, query.weights
    score = ranking.score
    scored = [Ranked(score(candidate, weights), candidate) for candidate in candidates]
    if is_time_alone(cue) and cue.temporal is None:  # no cue at all: the newest first, whatever they count
        return sorted(scored, key=lambda each: ranking.order(0.0, each.candidate))
    return sorted(scored, key=_place)


def _place(ranked: Ranked) -> tuple[float, int, bytes]:
    return ranking.order(*ranked)


def _results(
    query: Query,
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


def _answer(
    memories: tuple[RecalledMemory, ...], found: _Found, searched: tuple[Store, ...], *, is_cut: bool = False
) -> Recalled:
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
        truncated=is_cut or msgspec.UNSET,
    )
