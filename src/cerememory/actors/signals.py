"""What the signals of a cue find: words, vector, emotion, time, and activation from the best that these found.

Owns no state: it asks the indexes for candidates, the graph for what is reached, and the stores for fidelities.
How candidates rank, and which of them are shown, is the recall's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from cerememory.actors.actor import Actor
from cerememory.actors.associations import Associations
from cerememory.actors.deadline import Deadline
from cerememory.actors.graph import Reached, has_edges
from cerememory.actors.retrieval import WORKING_CODE, Retrieval
from cerememory.actors.scoping import Scoping
from cerememory.actors.seams import World
from cerememory.actors.searches import Search, Searched
from cerememory.actors.text_index import TextIndexer
from cerememory.actors.vectors import Nearest
from cerememory.actors.working import Held
from cerememory.actors.writer import Writer
from cerememory.domain import ranking
from cerememory.domain.ranking import Candidate, Ranked, Weights
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.records import TemporalRange
from cerememory.protocol.replies import (
    Activation,
    ActivationTrace,
)
from cerememory.protocol.requests import RecallCue, RecallQuery
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, key, pack_time, trailing_id, trailing_time
from cerememory.storage.text_index import Hit, Hits
from cerememory.storage.vectors import Space

BY_TIME_MAX = 5_000  # memories of a time range that join a recall, the newest first
INLINE_MAX = 300  # hits; more are searched for in a thread: it takes over 2 ms

Candidates: TypeAlias = dict[RecordId, Candidate]
NOT_SEARCHED = Searched(Hits(), complete=True)


class Gathered(NamedTuple):
    """What was found. `behind`: those that rank behind as many candidates as are shown, however clear they are."""

    candidates: Candidates
    behind: Candidates


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom a recall asks; `stores` in the order of their codes."""

    stores: tuple[Actor, ...]
    text_index: TextIndexer
    vectors: Actor
    writer: Writer
    associations: Associations


class Query(msgspec.Struct, frozen=True):
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


class Signals:
    """What is found comes under its id; each signal adds its share to the candidates that it finds."""

    def __init__(self, sources: Sources, storage: Storage, world: World) -> None:
        self._sources = sources
        self._storage = storage
        self._world = world

    def retrieval(self, query: Query) -> Retrieval:
        sources = self._sources
        last_commit = sources.writer.last_commit
        return Retrieval(sources.stores, query.namespace, self._world.now(), last_commit, query.begun_at)

    async def searched(self, query: Query) -> Searched:
        """What the words of the cue find, best first, and whether the text index has all that is committed."""
        text, index = query.request.cue.text, self._sources.text_index
        if text is None:
            return NOT_SEARCHED
        search = Search(query.namespace, text, query.codes, query.wanted, query.request.explain, query.fresh_by)
        if query.scope is not None:
            search = replace(search, scope=query.scope.terms)
        are_many = query.wanted > INLINE_MAX
        searched = None if are_many else index.search_nowait(search)
        if searched is None:
            with Deadline("recall", begun_at=query.begun_at):
                searched = await (index.search_aside(search) if are_many else index.ask(search))
        return searched

    async def candidates(self, query: Query, hits: Hits) -> Gathered:
        """What any signal of the cue finds; `hits` are what its words find."""
        cue = query.request.cue
        found = await self._world.offload(partial(_by_id, hits)) if len(hits) > INLINE_MAX else _by_id(hits)
        if cue.embedding is not None:
            await self._by_vector(query, found, Space.CONTENT, cue.embedding)
        if cue.emotion is not None and has_emotion(cue):
            await self._by_vector(query, found, Space.EMOTION, cue.emotion.axes())
        if cue.temporal is not None:
            return await self._by_time(query, found, cue.temporal)
        if is_time_alone(cue):
            found = await self._newest(query)
        return Gathered(found, {})

    async def _by_vector(self, query: Query, found: Candidates, space: Space, vector: tuple[float, ...]) -> None:
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

    async def _by_time(self, query: Query, found: Candidates, span: TemporalRange) -> Gathered:
        """Nothing outside the range stays; what is inside joins, and its fidelity counts.

        That is read of thousands only where it may bring one of them up among those that are shown.
        """
        within = await self._created_within(query, span.start, span.end, BY_TIME_MAX)
        joining = {i: c for i, c in within.items() if i not in found}
        kept = {i: c for i, c in found.items() if span.start <= c.created_at <= span.end}
        retrieval = self.retrieval(query)  # for both, so that like ones tie
        await add_fidelity(retrieval, kept)
        if _are_enough(query, kept.values()):
            return Gathered(kept, joining)
        await add_fidelity(retrieval, joining)
        return Gathered(kept | joining, {})

    async def _newest(self, query: Query) -> Candidates:
        newest = await self._created_within(query, TIMESTAMP_MIN, TIMESTAMP_MAX, query.wanted)
        await add_fidelity(self.retrieval(query), newest)
        return newest

    async def _created_within(self, query: Query, start: int, end: int, count: int) -> Candidates:
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

    async def activate(self, query: Query, candidates: Candidates, ranked: list[Ranked]) -> ActivationTrace | None:
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

    def _source(self, query: Query, ranked: list[Ranked]) -> Candidate | None:
        """The best candidate when it has edges; of memories that only their time has found, none is the best."""
        request = query.request
        if not ranked or not request.activation_depth or is_time_alone(request.cue):
            return None
        best = ranked[0].candidate
        is_held = best.store_code == WORKING_CODE
        return best if is_held or has_edges(self._storage, query.namespace, best.record_id) else None


async def add_fidelity(retrieval: Retrieval, candidates: Candidates) -> None:
    """Read the fidelity of those of which it isn't known; candidates whose memory is gone are dropped."""
    unknown = {i: candidate for i, candidate in candidates.items() if candidate.fidelity is None}
    scores = await retrieval.scores(unknown.values())
    for record_id in unknown.keys() - scores.keys():
        del candidates[record_id]
    for record_id, score in scores.items():
        candidates[record_id].fidelity = score


def _are_enough(query: Query, candidates: Iterable[Candidate]) -> bool:
    """Whether as many as are wanted rank before whatever time alone has found."""
    request, weights = query.request, query.weights
    if request.min_fidelity is not None:  # by which each one is dropped or counted
        return False
    better = sum(ranking.score(candidate, weights) > weights.time for candidate in candidates)
    return better >= query.limit


def _by_id(hits: Iterable[Hit]) -> Candidates:
    """Each with what explains its score, if that was asked for."""
    found: Candidates = {}
    made = list(hits)
    for hit, (_score, candidate) in zip(made, by_words(made), strict=True):
        if hit.parts is not None:
            candidate.word_parts = hit.parts
        found[hit.record_id] = candidate
    return found


def by_words(hits: Iterable[Hit]) -> Iterator[Ranked]:
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


def _scan_by_time(storage: Storage, query: Query, start: int, end: int, count: int) -> list[Candidate]:
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


def is_time_alone(cue: RecallCue) -> bool:
    """Whether nothing in the cue says what a memory is about."""
    return cue.text is None and cue.embedding is None and cue.emotion is None


def has_emotion(cue: RecallCue) -> bool:
    return cue.emotion is not None and any(cue.emotion.axes())
