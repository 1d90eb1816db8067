"""recall.raw_query: raw entries by words, session, time and what may be seen, the oldest first.

Owns no state: words are looked for in the text index, all else in the journal, which reads what was found.
"""

from __future__ import annotations

from functools import partial

import msgspec

from cerememory.actors.actor import Actor
from cerememory.actors.journal import Entry, FetchRaw, ListRaw
from cerememory.actors.reading import TURN_BYTES
from cerememory.actors.seams import World
from cerememory.actors.searches import SearchedRaw, SearchRaw
from cerememory.protocol.long import ANSWER_BYTES_MAX, LONG_BYTES, listed
from cerememory.protocol.records import SecrecyLevel, Visibility
from cerememory.protocol.replies import RawRecalled
from cerememory.protocol.requests import DEFAULT_SECRECY, LIMIT_MAX, RecallRawQuery
from cerememory.protocol.values import RecordId
from cerememory.storage.keys import digest
from cerememory.storage.rows import SECRECY_LEVELS, VISIBILITIES


class RawRecall:
    def __init__(self, journal: Actor, text_index: Actor, world: World) -> None:
        self._journal = journal
        self._text_index = text_index
        self._world = world

    async def query(self, namespace: int, request: RecallRawQuery, fresh_by: float) -> RawRecalled:
        """The answer to a validated request; a query means that all its words are there.

        `fresh_by`: see `Search`.
        """
        found = await self._found(namespace, request, fresh_by)
        entries, is_cut = await self._entries(namespace, tuple(found.record_ids))
        is_long = sum(entry.shown_bytes for entry in entries) > LONG_BYTES
        records = await self._world.offload(partial(_records, entries)) if is_long else _records(entries)
        return RawRecalled(
            records=listed(records, is_long=is_long),
            total_candidates=found.total,
            index_complete=msgspec.UNSET if found.complete else False,
            truncated=is_cut or msgspec.UNSET,
        )

    async def _entries(self, namespace: int, record_ids: tuple[RecordId, ...]) -> tuple[list[Entry], bool]:
        """The first of those that are there, as many as fit into one answer, and whether there are more."""
        entries: list[Entry] = []
        room = ANSWER_BYTES_MAX
        while record_ids:
            fetched = await self._journal.ask(FetchRaw(namespace, record_ids, min(room, TURN_BYTES)))
            for entry in fetched.entries:
                if entries and entry.shown_bytes > room:
                    return entries, True
                entries.append(entry)
                room -= entry.shown_bytes
            record_ids = record_ids[fetched.count :]
            if room <= 0:
                break
        return entries, bool(record_ids)

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


def _records(entries: list[Entry]) -> list[msgspec.Raw]:
    return [msgspec.Raw(entry.json()) for entry in entries]


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
