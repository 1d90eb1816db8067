"""What goes between those who prepare a change, the ledger that commits it, and the actors that follow it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cerememory.domain.fidelity import State
from cerememory.protocol.records import Association, EmotionVector
from cerememory.protocol.values import RecordId
from cerememory.storage.rows import ContentRow
from cerememory.storage.text_index import IndexDocument


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A curated memory ready to be stored; `durable` is false for working memory, which gets no rows."""

    record_id: RecordId
    row: ContentRow
    state: State
    associations: tuple[Association, ...]
    document: IndexDocument
    embedding: tuple[float, ...] | None
    emotion: EmotionVector | None
    durable: bool = True


class SavedState(msgspec.Struct, frozen=True):
    record_id: RecordId
    store_code: int
    state: State
    score_change: float
