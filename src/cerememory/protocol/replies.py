"""The answer of every CMP operation, as it is written to JSON.

Records inside answers are `msgspec.Raw`: the JSON that the storage rows already hold, joined, not re-encoded.
Keys that only some answers have are `UNSET` where they are left out. `truncated` is there, and true, when not all
that was to be shown has room in one answer (`long.ANSWER_BYTES_MAX`); a memory alone always has.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cerememory.errors import CerememoryError, answer_of, public_details, public_message
from cerememory.protocol.records import (
    EmotionVector,
    MemoryContent,
    MemoryRecord,
    MetaEdge,
    MetaMemory,
    SecrecyLevel,
    Store,
    Visibility,
    Wire,
)
from cerememory.protocol.values import ByteArray, RecordId, Timestamp

TIMELINE_MEMORIES_MAX = 5_000


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """`request_id` is left out when there is none; the other keys are always there."""

    code: str
    message: str
    details: dict[str, Any] | None
    retry_after: int | None
    request_id: str | None = None


def error_body(error: CerememoryError, request_id: str | None) -> ErrorBody:
    """The body for `error`; of our own failures it says only that they happened."""
    return ErrorBody(
        code=answer_of(error).code,
        message=public_message(error),
        details=public_details(error),
        retry_after=error.retry_after_s,
        request_id=request_id,
    )


class Encoded(Wire, frozen=True, kw_only=True):
    """`created` is there when the request had `if_absent`; false: this is the memory that was there."""

    record_id: RecordId
    store: Store
    initial_fidelity: float
    associations_created: int
    created: bool | msgspec.UnsetType = msgspec.UNSET


class BatchEncoded(Wire, frozen=True, kw_only=True):
    results: tuple[Encoded, ...]
    associations_inferred: int


class RawEncoded(Wire, frozen=True, kw_only=True):
    record_id: RecordId
    session_id: str
    visibility: Visibility
    secrecy_level: SecrecyLevel


class BatchRawEncoded(Wire, frozen=True, kw_only=True):
    results: tuple[RawEncoded, ...]


class Explanation(Wire, frozen=True, kw_only=True):
    """What each signal gave to a relevance score, which is their sum."""

    text: float
    context: float
    who: float
    when: float
    asked: float
    vector: float
    activation: float
    fidelity: float
    emotion: float


class RecalledMemory(Wire, frozen=True, kw_only=True):
    """`explanation` is there when it was asked for."""

    record: msgspec.Raw
    relevance_score: float
    activation_path: tuple[RecordId, ...] | None
    rendered_content: msgspec.Raw | MemoryContent
    explanation: Explanation | msgspec.UnsetType = msgspec.UNSET


class QueryMetadata(Wire, frozen=True, kw_only=True):
    """`index_complete` is false while the search index is still catching up or being rebuilt."""

    total_records_scanned: int
    stores_searched: tuple[Store, ...]
    fidelity_filtered: int
    index_complete: bool = True


class Activation(Wire, frozen=True, kw_only=True):
    record_id: RecordId
    activation_level: float
    hop: int
    edge_type: str


class ActivationTrace(Wire, frozen=True, kw_only=True):
    source_id: RecordId
    activations: tuple[Activation, ...]


class Recalled(Wire, frozen=True, kw_only=True):
    memories: tuple[RecalledMemory, ...]
    activation_trace: ActivationTrace | None
    total_candidates: int
    query_metadata: QueryMetadata
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class Associated(Wire, frozen=True, kw_only=True):
    memories: tuple[RecalledMemory, ...]
    total_candidates: int
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class Bucket(Wire, frozen=True, kw_only=True):
    start: Timestamp
    end: Timestamp
    memories: tuple[RecalledMemory, ...]
    count: int


class Timeline(Wire, frozen=True, kw_only=True):
    """`truncated` also when the memories were cut at `TIMELINE_MEMORIES_MAX`."""

    buckets: tuple[Bucket, ...]
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class GraphNode(Wire, frozen=True, kw_only=True):
    id: RecordId
    store: Store
    summary: str
    fidelity: float
    meta: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class GraphEdge(Wire, frozen=True, kw_only=True):
    source: RecordId
    target: RecordId
    edge_type: str
    weight: float


class Graph(Wire, frozen=True, kw_only=True):
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    total_nodes: int
    meta_edges: tuple[MetaEdge, ...]
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class RawRecalled(Wire, frozen=True, kw_only=True):
    """`index_complete` is there, and false, when the search index may lack entries that were asked for."""

    records: tuple[msgspec.Raw, ...]
    total_candidates: int
    index_complete: bool | msgspec.UnsetType = msgspec.UNSET
    truncated: bool | msgspec.UnsetType = msgspec.UNSET


class Consolidated(Wire, frozen=True, kw_only=True):
    records_processed: int
    records_migrated: int
    records_compressed: int
    records_pruned: int
    semantic_nodes_created: int


class Dreamt(Wire, frozen=True, kw_only=True):
    groups_processed: int
    raw_records_processed: int
    episodic_summaries_created: int
    semantic_nodes_created: int


class Decayed(Wire, frozen=True, kw_only=True):
    records_updated: int
    records_below_threshold: int
    records_pruned: int


class Forgotten(Wire, frozen=True, kw_only=True):
    records_deleted: int


class ArchivedMemory(Wire, frozen=True, kw_only=True):
    """A memory that decay has archived; `summary` is shortened, `kept_until` when the archive lets go of it."""

    record_id: RecordId
    store: Store
    summary: str
    created_at: Timestamp
    kept_until: Timestamp


class Restored(Wire, frozen=True, kw_only=True):
    """`archived`: in a dry run, the first of those that could be restored."""

    records_restored: int
    archived: tuple[ArchivedMemory, ...] | msgspec.UnsetType = msgspec.UNSET


class Compacted(Wire, frozen=True, kw_only=True):
    """The size of the store before and after it, in bytes."""

    bytes_before: int
    bytes_after: int


class AuditRotated(Wire, frozen=True, kw_only=True):
    """The closed file, which lies beside the log, and what it ends with; `file` None for a log without entries."""

    file: str | None
    entries: int
    last_sequence: int
    head_hash: str
    size_bytes: int


class Exported(Wire, frozen=True, kw_only=True):
    archive_id: str
    size_bytes: int
    record_count: int
    checksum: str
    archive_data: ByteArray


class Imported(Wire, frozen=True, kw_only=True):
    """`batch_id` is what the import is taken back by; left out when nothing is kept for that."""

    records_imported: int
    batch_id: RecordId | msgspec.UnsetType = msgspec.UNSET


class Redacted(Wire, frozen=True, kw_only=True):
    """One piece of the work. `secrets` counts what was taken out, or would be, by its kind; `dreamt_ids` are the
    memories in which one was found, and left. `kept_redacted` counts what is kept to undo imports.
    `next_cursor` None: that was the last piece.
    """

    records_scanned: int
    entries_redacted: int
    memories_redacted: int
    kept_redacted: int
    secrets: dict[str, int]
    dreamt_ids: tuple[RecordId, ...] = ()
    next_cursor: str | None = None


class ImportUndone(Wire, frozen=True, kw_only=True):
    """What was taken back of an import, or would be. `left_ids` are the first of the records that were changed
    since, and stay as they are.
    """

    batch_id: RecordId
    archive_id: str
    records_removed: int
    records_restored: int
    records_left: int
    left_ids: tuple[RecordId, ...] = ()


class ImportPlanned(Imported, frozen=True, kw_only=True):
    """Of a dry run: of the records that would be imported, how many are new and how many replace stored ones;
    and how many would be left as they are stored.
    """

    records_added: int
    records_replaced: int
    records_kept: int


class ParameterAdjustment(Wire, frozen=True, kw_only=True):
    store: Store
    parameter: str
    original_value: float
    current_value: float
    reason: str


class EvolutionMetrics(Wire, frozen=True, kw_only=True):
    parameter_adjustments: tuple[ParameterAdjustment, ...] = ()
    detected_patterns: tuple[str, ...] = ()
    schema_adaptations: tuple[str, ...] = ()


class Stats(Wire, frozen=True, kw_only=True):
    total_records: int
    records_by_store: dict[Store, int]
    total_associations: int
    avg_fidelity: float
    avg_fidelity_by_store: dict[Store, float]
    oldest_record: Timestamp | None
    newest_record: Timestamp | None
    total_recall_count: int
    raw_journal_records: int
    raw_journal_pending_dream: int
    vector_index_records: int
    vector_search_backend: str
    dream_episodic_summaries: int
    dream_semantic_nodes: int
    last_dream_tick_at: Timestamp | None
    evolution_metrics: EvolutionMetrics
    background_decay_enabled: bool
    background_dream_enabled: bool
    bytes_by_table: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    bytes_measured_at: Timestamp | msgspec.UnsetType = msgspec.UNSET


class RecordVersion(Wire, frozen=True, kw_only=True):
    """A record as it was before a later update."""

    version: int
    updated_at: Timestamp
    content: MemoryContent
    emotion: EmotionVector
    metadata: msgspec.Raw
    meta: MetaMemory | None


class HistoryEntry(Wire, frozen=True, kw_only=True):
    """An audit line that names the record."""

    sequence: int
    timestamp: Timestamp
    operation: str


class IntrospectedRecord(MemoryRecord, frozen=True, kw_only=True):
    """A record, with its prior versions and its history when they were asked for."""

    versions: tuple[RecordVersion, ...] | msgspec.UnsetType = msgspec.UNSET
    history: tuple[HistoryEntry, ...] | msgspec.UnsetType = msgspec.UNSET


class Forecast(Wire, frozen=True, kw_only=True):
    record_id: RecordId
    current_fidelity: float
    forecasted_fidelity: float
    estimated_threshold_date: Timestamp | None


class Forecasts(Wire, frozen=True, kw_only=True):
    forecasts: tuple[Forecast, ...]


class AuditConsistency(Wire, frozen=True, kw_only=True):
    """A consistency proof of RFC 9162; `hashes` are hex, lower case."""

    old: int
    new: int
    hashes: tuple[str, ...]


class AuditInclusion(Wire, frozen=True, kw_only=True):
    """An inclusion proof of RFC 9162; hashes are hex, lower case."""

    index: int
    leaf_hash: str
    hashes: tuple[str, ...]
