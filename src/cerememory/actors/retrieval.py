"""The memories of one recall: each is read once, to rank it by how clear it is, to show it, and to touch it.

Owns nothing beyond the recall. Working memory is asked for scores and for what is shown alone, since there a read
counts as an access.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from cerememory.actors.actor import Actor, Request
from cerememory.actors.deadline import Deadline
from cerememory.actors.reading import PIECE_RECORDS, TURN_BYTES, answer_nowait, fitting, pieces_by_store
from cerememory.actors.stores import Fetch, Fetched, Look, Memory, Scores, Seen, Touch
from cerememory.domain.ranking import Candidate
from cerememory.protocol.long import LONG_BYTES
from cerememory.protocol.records import Store
from cerememory.protocol.values import RecordId
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import STORE_CODE

R = TypeVar("R")
WORKING_CODE = STORE_CODE[Store.WORKING]


class Retrieval:
    """At `now` (nanoseconds), from `stores`, in the order of their codes.

    `as_of`: the last commit; what it reads is of that one, or of a later one. `begun_at`: see `Deadline`.
    """

    def __init__(self, stores: tuple[Actor, ...], namespace: int, now: int, as_of: int, begun_at: float) -> None:
        self._stores = stores
        self._namespace = namespace
        self.now = now
        self.as_of = as_of
        self._begun_at = begun_at
        self._seen: dict[RecordId, Seen] = {}
        self._room_bytes = TURN_BYTES  # for what is looked at before it is known what is shown
        self._is_long = False
        self.is_cut = False  # whether some of what was chosen had no room

    async def _asked(self, code: int, request: Request[R], count: int) -> R:
        """What a store answers to a question about `count` memories."""
        store = self._stores[code]
        answer = answer_nowait(store, request, count)
        if answer is None:
            with Deadline("recall", begun_at=self._begun_at):
                answer = await store.ask(request)
        return answer

    async def look(self, candidates: Iterable[Candidate]) -> None:
        """Read the durable ones of `candidates` that there is room for, and note how clear they are."""
        unseen = {c.record_id: c for c in candidates if c.store_code != WORKING_CODE}
        for code, record_ids in pieces_by_store(unseen.values()):
            look = Look(self._namespace, record_ids, self.now, self._room_bytes)
            for seen in await self._asked(code, look, len(record_ids)):
                memory = seen.memory
                record_id, around = memory.record_id, memory.frame
                self._seen[record_id] = seen
                unseen[record_id].fidelity = memory.state.score
                self._room_bytes -= memory.shown_bytes if around is None else around.shown_bytes

    def leads_on(self, candidate: Candidate) -> bool:
        """Whether edges may leave it, when it was looked at; what working memory holds isn't known here."""
        seen = self._seen.get(candidate.record_id)
        return candidate.store_code == WORKING_CODE or (seen is not None and seen.memory.edges is not None)

    async def scores(self, candidates: Iterable[Candidate]) -> dict[RecordId, float]:
        """The fidelity of those that are there.

        Thousands are read a piece at a time, each as it is then committed, but all have faded up to one moment: so
        like ones tie in whatever pieces they are.
        """
        grouped: dict[int, list[tuple[RecordId, int]]] = {}
        for candidate in candidates:
            grouped.setdefault(candidate.store_code, []).append((candidate.record_id, candidate.created_at))
        scores: dict[RecordId, float] = {}
        for code, records in grouped.items():
            for start in range(0, len(records), PIECE_RECORDS):
                piece = tuple(records[start : start + PIECE_RECORDS])
                of_store = await self._asked(code, Scores(self._namespace, piece, self.now), len(piece))
                scores.update(of_store)
        return scores

    @property
    def is_long(self) -> bool:
        """Whether what was fetched takes long to write."""
        return self._is_long or self._room_bytes < TURN_BYTES - LONG_BYTES

    async def fetched(self, chosen: list[Candidate], *, touching: bool) -> Fetched:
        """The first of `chosen` that are there and fit into one answer; `touching` makes each a retrieval."""
        await self.look(candidate for candidate in chosen if candidate.record_id not in self._seen)
        if self._room_bytes <= 0:
            fitted = await fitting(chosen, self._read)
            self._is_long, self.is_cut = fitted.is_long, fitted.count < len(chosen)
            chosen = chosen[: fitted.count]
        memories: list[Memory] = []
        saved: list[SavedState] = []
        for code, record_ids in pieces_by_store(chosen):
            fetched = await self._of_store(code, record_ids, touching)
            memories += fetched.memories
            saved += fetched.saved
            if code == WORKING_CODE:  # what it holds was looked at by nobody
                self._room_bytes -= sum(memory.shown_bytes for memory in fetched.memories)
        if self._room_bytes <= 0:
            memories = await self._cut(chosen, memories)
        return Fetched(tuple(memories), tuple(saved))

    async def _cut(self, chosen: list[Candidate], memories: list[Memory]) -> list[Memory]:
        """The first of the `memories` that fit; the others were touched as if they were shown."""
        known = {memory.record_id: memory for memory in memories}

        async def read(code: int, record_ids: tuple[RecordId, ...], room_bytes: int) -> list[Memory]:
            return [known[record_id] for record_id in record_ids if record_id in known]

        fitted = await fitting(chosen, read)
        self.is_cut = self.is_cut or fitted.count < len(chosen)
        return fitted.memories

    async def _read(self, code: int, record_ids: tuple[RecordId, ...], room_bytes: int) -> list[Memory]:
        if code == WORKING_CODE:
            fetched = await self._asked(code, Fetch(self._namespace, record_ids), len(record_ids))
            return list(fetched.memories)
        unseen = tuple(record_id for record_id in record_ids if record_id not in self._seen)
        if unseen:
            look = Look(self._namespace, unseen, self.now, room_bytes)
            for seen in await self._asked(code, look, len(unseen)):
                self._seen[seen.memory.record_id] = seen
        return [self._seen[record_id].memory for record_id in record_ids if record_id in self._seen]

    async def _of_store(self, code: int, record_ids: tuple[RecordId, ...], touching: bool) -> Fetched:
        count = len(record_ids)
        if code == WORKING_CODE:
            fetch = Fetch(self._namespace, record_ids, self.now if touching else None)
            return await self._asked(code, fetch, count)
        seen = tuple(self._seen[record_id] for record_id in record_ids if record_id in self._seen)
        if touching and seen:
            return await self._asked(code, Touch(self._namespace, seen, self.now), count)
        return Fetched(tuple(each.memory for each in seen))
