"""The replies that hold memories, as a caller reads them: records are parsed, not JSON.

`truncated` is there, and true, when not all that was found has room in one answer.

Elsewhere a reply is that of `protocol.replies`. There the daemon's own have records as the JSON that its storage
holds already; the fields are the same (a test compares them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cerememory.protocol import replies
from cerememory.protocol.records import (
    MemoryContent,
    MemoryRecord,
    MetaEdge,
    MetaMemory,
    RawJournalRecord,
    Store,
    Wire,
)
from cerememory.protocol.requests import ImportTerms
from cerememory.protocol.values import RecordId, Timestamp


class RecalledMemory(Wire, frozen=True, kw_only=True):
    """`rendered_content` is what is remembered, the record's own content what was stored."""

    record: MemoryRecord
    relevance_score: float
    activation_path: tuple[RecordId, ...] | None
    rendered_content: MemoryContent
    explanation: replies.Explanation | msgspec.UnsetType = msgspec.UNSET


class Recalled(Wire, frozen=True, kw_only=True):
    """Best first."""

    memories: tuple[RecalledMemory, ...]
    activation_trace: replies.ActivationTrace | None
    total_candidates: int
    query_metadata: replies.QueryMetadata
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class Associated(Wire, frozen=True, kw_only=True):
    """Strongest first."""

    memories: tuple[RecalledMemory, ...]
    total_candidates: int
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class Bucket(Wire, frozen=True, kw_only=True):
    start: Timestamp
    end: Timestamp
    memories: tuple[RecalledMemory, ...]
    count: int


class Timeline(Wire, frozen=True, kw_only=True):
    buckets: tuple[Bucket, ...]
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class GraphNode(Wire, frozen=True, kw_only=True):
    id: RecordId
    store: Store
    summary: str
    fidelity: float
    meta: MetaMemory | msgspec.UnsetType | None = msgspec.UNSET


class Graph(Wire, frozen=True, kw_only=True):
    nodes: tuple[GraphNode, ...]
    edges: tuple[replies.GraphEdge, ...]
    total_nodes: int
    meta_edges: tuple[MetaEdge, ...]
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class RawRecalled(Wire, frozen=True, kw_only=True):
    """Oldest first; `index_complete` is there, and false, when the search index may lack entries."""

    records: tuple[RawJournalRecord, ...]
    total_candidates: int
    index_complete: bool | msgspec.UnsetType = msgspec.UNSET
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


READ_AS: dict[type[Any], type[Any]] = {
    replies.Recalled: Recalled,
    replies.Associated: Associated,
    replies.Timeline: Timeline,
    replies.Graph: Graph,
    replies.RawRecalled: RawRecalled,
}


def imported_as(terms: ImportTerms | Mapping[str, Any]) -> type[replies.Imported]:
    """What the answer to an import is; of a dry run it says more."""
    is_dry = terms.dry_run if isinstance(terms, ImportTerms) else bool(terms.get("dry_run"))
    return replies.ImportPlanned if is_dry else replies.Imported
