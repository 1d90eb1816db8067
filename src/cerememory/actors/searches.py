"""What the text index is asked, and how each question is answered from a snapshot of it.

A question says how long it may wait for changes that the index has yet to commit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from cerememory.actors.actor import Request
from cerememory.protocol.values import RecordId
from cerememory.storage.text_index import Hits, Snapshot

T = TypeVar("T")
NO_TIME = -math.inf  # as `fresh_by`: no longer than every search may wait


class Searched(msgspec.Struct, frozen=True):
    """`complete` is false while the index is behind by more than the time that a search waits."""

    hits: Hits
    complete: bool


class SearchedRaw(msgspec.Struct, frozen=True):
    """The first of the entries that were found, and how many were; `complete` as in `Searched`."""

    record_ids: list[RecordId]
    total: int
    complete: bool


class Search(Request[Searched], msgspec.Struct, frozen=True):
    """Memories by what a text asks; `store_codes` None means all stores; see `Snapshot.search`.

    It may wait until `fresh_by` (on the loop's clock), where that is longer than any search waits.
    """

    namespace: int
    text: str
    store_codes: frozenset[int] | None
    limit: int
    explain: bool = False
    fresh_by: float = NO_TIME
    scope: tuple[str, ...] = ()

    def answer(self, snapshot: Snapshot | None, *, is_fresh: bool) -> Searched:
        if snapshot is None:
            return Searched(Hits(), complete=False)
        hits = snapshot.search(
            self.namespace, self.text, self.store_codes, self.limit, explain=self.explain, scope=self.scope
        )
        return Searched(hits, complete=is_fresh)


class Looked(msgspec.Struct, Generic[T], frozen=True):
    """`found` is None while there is no index; `complete` as in `Searched`."""

    found: T | None
    complete: bool


class Look(Request[Looked[T]], msgspec.Struct, frozen=True):
    """What `look` finds in the index; see `Search` for `fresh_by`."""

    look: Callable[[Snapshot], T]
    fresh_by: float = NO_TIME

    def answer(self, snapshot: Snapshot | None, *, is_fresh: bool) -> Looked[T]:
        if snapshot is None:
            return Looked(None, complete=False)
        return Looked(self.look(snapshot), complete=is_fresh)


def itself(index: Snapshot) -> Snapshot:
    """As `look`: the snapshot, for whoever asks it in a thread."""
    return index


class SearchRaw(Request[SearchedRaw], msgspec.Struct, frozen=True):
    """Raw journal entries by words and filters; see `Snapshot.search_raw`, and `Search` for `fresh_by`."""

    namespace: int
    text: str
    session_digest: bytes | None
    start: int | None
    end: int | None
    visibility_codes: frozenset[int]
    secrecy_codes: frozenset[int]
    limit: int
    fresh_by: float = NO_TIME

    def answer(self, snapshot: Snapshot | None, *, is_fresh: bool) -> SearchedRaw:
        if snapshot is None:
            return SearchedRaw([], 0, complete=False)
        found = snapshot.search_raw(
            self.namespace,
            self.text,
            self.session_digest,
            self.start,
            self.end,
            self.visibility_codes,
            self.secrecy_codes,
            self.limit,
        )
        return SearchedRaw(found.record_ids, found.total, complete=is_fresh)
