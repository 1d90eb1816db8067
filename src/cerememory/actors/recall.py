"""recall.query: finds candidates by every signal of the cue, ranks them, reads the best, renders them.

Owns no state: it asks the indexes for candidates and the stores for the memories. What a recall does to the
memories it returns is handed to the writer when the answer is ready; it never delays it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec
import structlog

from cerememory.actors.actor import Actor
from cerememory.actors.seams import World
from cerememory.actors.stores import Fetch, Fetched, Memory, Scores
from cerememory.actors.text_index import Search, TextIndexer
from cerememory.actors.vectors import Nearest
from cerememory.actors.working import Held
from cerememory.actors.writer import CommitLater
from cerememory.domain import ranking
from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.ranking import Candidate
from cerememory.domain.render import CLEAR, rendered
from cerememory.errors import ActorBusy, ActorStopped
from cerememory.protocol import codec
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.records import STORES, MemoryContent, Store, TemporalRange
from cerememory.protocol.replies import QueryMetadata, Recalled, RecalledMemory
from cerememory.protocol.requests import LIMIT_MAX, RecallCue, RecallMode, RecallQuery
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, key, pack_time, trailing_id, unpack_time
from cerememory.storage.mutations import SaveRecall
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import STORE_CODE
from cerememory.storage.vectors import Space
from cerememory.telemetry.metrics import Metrics

CANDIDATES_PER_RESULT = 3
BY_TIME_MAX = 5_000  # memories of a time range that join a recall, the newest first
WORKING_CODE = STORE_CODE[Store.WORKING]

log = structlog.get_logger(__name__)
Candidates = dict[RecordId, Candidate]


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom a recall asks; `stores` in the order of their codes."""

    stores: tuple[Actor, ...]
    text_index: TextIndexer
    vectors: Actor
    writer: Actor


class Recall:
    def __init__(self, sources: Sources, storage: Storage, world: World, metrics: Metrics) -> None:
        self._sources = sources
        self._storage = storage
        self._world = world
        self._metrics = metrics

    async def query(self, request: RecallQuery) -> Recalled:
        """The answer to a validated request."""
        limit = min(request.limit, LIMIT_MAX)
        searched = STORES if request.stores is None else tuple(dict.fromkeys(request.stores))
        if limit == 0 or not searched:
            return _answer((), 0, searched, 0, 0, complete=True)
        codes = None if request.stores is None else frozenset(STORE_CODE[store] for store in searched)
        candidates, complete = await self._candidates(request.cue, codes, limit)
        scanned = len(candidates)
        dropped = await self._drop_faded(candidates, request)
        ranked = _ranked(candidates.values(), request.cue)
        chosen = ranked[:limit]
        memories = await self._read(chosen, reconsolidate=request.reconsolidate)
        results = _results(chosen, memories, request.recall_mode)
        return _answer(results, len(ranked), searched, scanned, dropped, complete=complete)

    async def _candidates(
        self, cue: RecallCue, codes: frozenset[int] | None, limit: int
    ) -> tuple[Candidates, bool]:
        """What any signal of the cue finds, and whether the text index has all that is committed."""
        wanted = CANDIDATES_PER_RESULT * limit
        found: Candidates = {}
        complete = True
        if cue.text is not None:
            complete = await self._by_text(found, cue.text, codes, wanted)
        if cue.embedding is not None:
            await self._by_vector(found, Space.CONTENT, cue.embedding, codes, wanted)
        if cue.emotion is not None and any(cue.emotion.axes()):
            await self._by_vector(found, Space.EMOTION, cue.emotion.axes(), codes, wanted)
        if cue.temporal is not None:
            found = await self._by_time(found, cue.temporal, codes)
        elif cue.text is None and cue.embedding is None and cue.emotion is None:
            found = await self._newest(codes, limit)
        return found, complete

    async def _by_text(self, found: Candidates, text: str, codes: frozenset[int] | None, wanted: int) -> bool:
        index, search = self._sources.text_index, Search(text, codes, wanted)
        searched = index.search_nowait(search)
        if searched is None:
            searched = await index.ask(search)
        hits = searched.found.hits
        for hit in hits:
            candidate = _joined(found, hit.record_id, hit.store_code, hit.created_at)
            candidate.text = hit.score / hits[0].score
        return searched.complete

    async def _by_vector(
        self,
        found: Candidates,
        space: Space,
        vector: tuple[float, ...],
        codes: frozenset[int] | None,
        wanted: int,
    ) -> None:
        for near in await self._sources.vectors.ask(Nearest(space, vector, wanted, codes)):
            candidate = _joined(found, near.record_id, near.store_code, near.created_at)
            cosine = min(near.cosine, 1.0)
            if space is Space.CONTENT:
                candidate.vector = cosine
            else:
                candidate.emotion = cosine

    async def _by_time(self, found: Candidates, span: TemporalRange, codes: frozenset[int] | None) -> Candidates:
        """Nothing outside the range stays; what is inside joins, and its fidelity counts."""
        within = await self._created_within(span.start, span.end, codes, BY_TIME_MAX)
        kept = {i: c for i, c in found.items() if span.start <= c.created_at <= span.end}
        joined = {**within, **kept}
        await self._add_fidelity(joined)
        return joined

    async def _newest(self, codes: frozenset[int] | None, limit: int) -> Candidates:
        newest = await self._created_within(TIMESTAMP_MIN, TIMESTAMP_MAX, codes, limit)
        await self._add_fidelity(newest)
        return newest

    async def _created_within(self, start: int, end: int, codes: frozenset[int] | None, count: int) -> Candidates:
        """The newest of the range, working memory included."""
        scan = partial(_scan_by_time, self._storage, clamp_timestamp(start), clamp_timestamp(end), codes, count)
        found = {candidate.record_id: candidate for candidate in await self._world.offload(scan)}
        if codes is None or WORKING_CODE in codes:
            for memory in await self._sources.stores[WORKING_CODE].ask(Held()):
                if start <= memory.row.created_at <= end:
                    _joined(found, memory.record_id, WORKING_CODE, memory.row.created_at)
        return found

    async def _add_fidelity(self, candidates: Candidates) -> None:
        """Read the fidelity of each; candidates whose memory is gone are dropped."""
        scores = await self._scores(candidates.values())
        for record_id in candidates.keys() - scores.keys():
            del candidates[record_id]
        for record_id, candidate in candidates.items():
            candidate.fidelity = scores[record_id]

    async def _scores(self, candidates: Iterable[Candidate]) -> dict[RecordId, float]:
        scores: dict[RecordId, float] = {}
        for code, record_ids in _by_store(candidates).items():
            found: dict[RecordId, float] = await self._sources.stores[code].ask(Scores(record_ids))
            scores |= found
        return scores

    async def _drop_faded(self, candidates: Candidates, request: RecallQuery) -> int:
        """How many were below `min_fidelity` and left out."""
        if request.min_fidelity is None or request.include_decayed:
            return 0
        scores = await self._scores(candidates.values())
        faded = [record_id for record_id, score in scores.items() if score < request.min_fidelity]
        for record_id in [*faded, *(candidates.keys() - scores.keys())]:
            del candidates[record_id]
        return len(faded)

    async def _read(self, chosen: list[tuple[float, Candidate]], *, reconsolidate: bool) -> dict[RecordId, Memory]:
        now = self._world.now() if reconsolidate else None
        memories: dict[RecordId, Memory] = {}
        saved: list[SavedState] = []
        for code, record_ids in _by_store(candidate for _score, candidate in chosen).items():
            fetched: Fetched = await self._sources.stores[code].ask(Fetch(record_ids, now))
            memories |= {memory.record_id: memory for memory in fetched.memories}
            saved += fetched.saved
        if now is not None and memories:
            self._reconsolidate(tuple(memories.values()), tuple(saved), now)
        return memories

    def _reconsolidate(self, memories: tuple[Memory, ...], saved: tuple[SavedState, ...], now: int) -> None:
        """Hand over what the recall did; when the writer has no room, that is lost, and counted."""
        audit = AuditDraft(
            now,
            "recall.query.reconsolidate",
            tuple(memory.record_id for memory in memories),
            tuple(memory.row.store.value for memory in memories),
            {"records_updated": len(memories)},
        )
        try:
            self._sources.writer.post_nowait(CommitLater(SaveRecall(saved, audit)))
        except (ActorBusy, ActorStopped):
            self._metrics.reconsolidations_dropped.inc()
            log.warning("reconsolidation dropped", records=len(memories))


def _joined(found: Candidates, record_id: RecordId, store_code: int, created_at: int) -> Candidate:
    candidate = found.get(record_id)
    if candidate is None:
        candidate = found[record_id] = Candidate(record_id, store_code, created_at)
    return candidate


def _scan_by_time(
    storage: Storage, start: int, end: int, codes: frozenset[int] | None, count: int
) -> list[Candidate]:
    """The newest `count`, and those made at the same moment as the last of them, which rank by their id."""
    prefix = key(Table.BY_TIME)
    first, last = prefix + pack_time(start), prefix + pack_time(end) + b"\xff" * 17
    found: list[Candidate] = []
    with storage.read() as reader:
        for row_key, value in reader.scan(first, last, reverse=True):
            if codes is not None and value[0] not in codes:
                continue
            created_at = unpack_time(row_key[len(prefix) : len(prefix) + 8])
            if len(found) >= count and created_at != found[-1].created_at:
                break
            found.append(Candidate(trailing_id(row_key), value[0], created_at))
    return found


def _by_store(candidates: Iterable[Candidate]) -> dict[int, tuple[RecordId, ...]]:
    grouped: dict[int, list[RecordId]] = {}
    for candidate in candidates:
        grouped.setdefault(candidate.store_code, []).append(candidate.record_id)
    return {code: tuple(record_ids) for code, record_ids in grouped.items()}


def _ranked(candidates: Iterable[Candidate], cue: RecallCue) -> list[tuple[float, Candidate]]:
    by_time_alone = cue.text is None and cue.embedding is None and cue.emotion is None
    scored = [(ranking.score(c, by_time_alone=by_time_alone), c) for c in candidates]
    if by_time_alone and cue.temporal is None:  # no cue at all: the newest first, whatever they count
        return sorted(scored, key=lambda pair: ranking.order(0.0, pair[1]))
    return sorted(scored, key=lambda pair: ranking.order(*pair))


def _results(
    chosen: list[tuple[float, Candidate]], memories: Mapping[RecordId, Memory], mode: RecallMode
) -> tuple[RecalledMemory, ...]:
    """A candidate whose memory is gone, which the index has yet to learn, is left out."""
    return tuple(
        RecalledMemory(
            record=msgspec.Raw(memory.json()),
            relevance_score=score,
            activation_path=None,
            rendered_content=_rendered(memory, mode),
        )
        for score, candidate in chosen
        if (memory := memories.get(candidate.record_id)) is not None
    )


def _rendered(memory: Memory, mode: RecallMode) -> msgspec.Raw | MemoryContent:
    if mode is RecallMode.PERFECT or memory.state.score >= CLEAR:
        return msgspec.Raw(memory.row.content)
    return rendered(codec.parse(memory.row.content, MemoryContent), memory.state.score)


def _answer(
    memories: tuple[RecalledMemory, ...],
    total: int,
    searched: tuple[Store, ...],
    scanned: int,
    dropped: int,
    *,
    complete: bool,
) -> Recalled:
    return Recalled(
        memories=memories,
        activation_trace=None,
        total_candidates=total,
        query_metadata=QueryMetadata(
            total_records_scanned=scanned,
            stores_searched=searched,
            fidelity_filtered=dropped,
            index_complete=complete,
        ),
    )
