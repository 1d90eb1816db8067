"""recall.raw_query: raw entries by words, session, time and what may be seen, the oldest first.

Owns no state: words are looked for in the text index, all else in the journal, which reads what was found.
"""

from __future__ import annotations

import msgspec

from cerememory.actors.actor import Actor
from cerememory.actors.journal import FetchRaw, ListRaw
from cerememory.actors.searches import SearchedRaw, SearchRaw
from cerememory.protocol.records import SecrecyLevel, Visibility
from cerememory.protocol.replies import RawRecalled
from cerememory.protocol.requests import DEFAULT_SECRECY, LIMIT_MAX, RecallRawQuery
from cerememory.storage.keys import digest
from cerememory.storage.rows import SECRECY_LEVELS, VISIBILITIES


class RawRecall:
    def __init__(self, journal: Actor, text_index: Actor) -> None:
        self._journal = journal
        self._text_index = text_index

    async def query(self, namespace: int, request: RecallRawQuery, fresh_by: float) -> RawRecalled:
        """The answer to a validated request; a query means that all its words are there.

        `fresh_by`: see `Search`.
        """
        found = await self._found(namespace, request, fresh_by)
        entries = await self._journal.ask(FetchRaw(namespace, tuple(found.record_ids)))
        records = tuple(msgspec.Raw(entry.json()) for entry in entries)
        complete = msgspec.UNSET if found.complete else False
        return RawRecalled(records=records, total_candidates=found.total, index_complete=complete)

    async def _found(self, namespace: int, request: RecallRawQuery, fresh_by: float) -> SearchedRaw:
        session = None if request.session_id is None else digest(request.session_id)
        span, limit = request.temporal, min(request.limit, LIMIT_MAX)
        start, end = (None, None) if span is None else (span.start, span.end)
        visible, allowed = _visible(request), _allowed(request)
        if request.query is None or not request.query.strip():
            listed = await self._journal.ask(ListRaw(namespace, session, start, end, visible, allowed, limit))
            return SearchedRaw(list(listed.record_ids), listed.total, complete=True)
        search = SearchRaw(namespace, request.query, session, start, end, visible, allowed, limit, fresh_by)
        return await self._text_index.ask(search)


def _visible(request: RecallRawQuery) -> frozenset[int]:
    included = {
        Visibility.NORMAL: True,
        Visibility.PRIVATE_SCRATCH: request.include_private_scratch,
        Visibility.SEALED: request.include_sealed,
    }
    return frozenset(VISIBILITIES.index(visibility) for visibility, yes in included.items() if yes)


def _allowed(request: RecallRawQuery) -> frozenset[int]:
    levels: tuple[SecrecyLevel, ...] = DEFAULT_SECRECY
    if request.secrecy_levels is not None:
        levels = request.secrecy_levels
    return frozenset(SECRECY_LEVELS.index(level) for level in levels)
