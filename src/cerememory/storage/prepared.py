"""What goes between those who prepare a change, the ledger that commits it, and the actors that follow it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from cerememory.domain.fidelity import State
from cerememory.protocol.records import Association, EmotionVector
from cerememory.protocol.values import RecordId
from cerememory.storage.rows import ContentRow


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A curated memory ready to be stored; `durable` is false for working memory, which gets no rows."""

    namespace: int
    record_id: RecordId
    row: ContentRow
    state: State
    associations: tuple[Association, ...]
    embedding: tuple[float, ...] | None
    emotion: EmotionVector | None
    durable: bool = True


class SavedState(msgspec.Struct, frozen=True, gc=False):
    """What a recall made of a memory's state, and the state that it found.

    `was_stored`: it found it in storage; otherwise it is what another recall has made of it.
    """

    namespace: int
    record_id: RecordId
    created_at: int
    store_code: int
    before: State
    state: State
    was_stored: bool = False


def by_store(states: Iterable[SavedState]) -> dict[int, list[SavedState]]:
    """Those of each store, by its code."""
    grouped: dict[int, list[SavedState]] = {}
    for saved in states:
        grouped.setdefault(saved.store_code, []).append(saved)
    return grouped
