"""The stored types of CMP: memory records, raw journal records and their parts.

Field names, order and defaults are those of the wire. JSON of any shape (`metadata`, the open parts of a
context) stays as the bytes that came in, compacted (`msgspec.Raw`), so nothing in it is rounded.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from cerememory.protocol.values import UINT32_MAX, ByteArray, RecordId, Timestamp

Unit = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=UINT32_MAX)]
EMPTY_OBJECT = msgspec.Raw(b"{}")

if TYPE_CHECKING:
    OptionalRaw: TypeAlias = msgspec.Raw | None
else:
    OptionalRaw = msgspec.Raw  # msgspec reads `Raw | None` as "null only"


class Store(StrEnum):
    """A memory type. The order is the storage code: never reorder, only append."""

    EPISODIC = "episodic"
    SEMANTIC = "semantic"
    PROCEDURAL = "procedural"
    EMOTIONAL = "emotional"
    WORKING = "working"


STORES: tuple[Store, ...] = tuple(Store)
DURABLE_STORES: tuple[Store, ...] = STORES[:4]


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    STRUCTURED = "structured"
    SPATIAL = "spatial"
    TEMPORAL = "temporal"
    INTEROCEPTIVE = "interoceptive"


class AssociationType(StrEnum):
    """The order is the storage code: never reorder, only append."""

    TEMPORAL = "temporal"
    SPATIAL = "spatial"
    SEMANTIC = "semantic"
    EMOTIONAL = "emotional"
    CAUSAL = "causal"
    SEQUENTIAL = "sequential"
    CROSS_MODAL = "cross_modal"
    USER_DEFINED = "user_defined"


class CaptureStatus(StrEnum):
    PROVIDED = "provided"
    INFERRED = "inferred"
    LEGACY = "legacy"
    UNAVAILABLE = "unavailable"


class Relation(StrEnum):
    MOTIVATED_BY = "motivated_by"
    CAUSED_BY = "caused_by"
    DERIVED_FROM = "derived_from"
    SUPPORTS = "supports"
    CONTRADICTS = "contradicts"
    CHOSE_OVER = "chose_over"
    EXPLAINS = "explains"
    CONTEXT_OF = "context_of"


class RawSource(StrEnum):
    CONVERSATION = "conversation"
    TOOL_IO = "tool_io"
    SCRATCHPAD = "scratchpad"
    SUMMARY = "summary"
    IMPORTED = "imported"


class Speaker(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


class Visibility(StrEnum):
    """The order is the storage code: never reorder, only append."""

    NORMAL = "normal"
    PRIVATE_SCRATCH = "private_scratch"
    SEALED = "sealed"


class SecrecyLevel(StrEnum):
    """The order is the storage code: never reorder, only append."""

    PUBLIC = "public"
    SENSITIVE = "sensitive"
    SECRET = "secret"


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all wire types: immutable, keyword-only, unknown fields ignored."""


class ContentBlock(Wire, frozen=True, kw_only=True):
    """`embedding` is float32[n] by meaning; the numbers are kept as they came."""

    modality: Modality
    format: str
    data: ByteArray
    embedding: tuple[float, ...] | None = None


class MemoryContent(Wire, frozen=True, kw_only=True):
    blocks: tuple[ContentBlock, ...]
    summary: str | None = None


class FidelityState(Wire, frozen=True, kw_only=True):
    score: Unit = 1.0
    noise_level: Unit = 0.0
    decay_rate: float = 0.3
    emotional_anchor: float = 1.0
    reinforcement_count: UInt32 = 0
    stability: float = 1.0
    last_decay_tick: Timestamp | None = None


class EmotionVector(Wire, frozen=True, kw_only=True):
    """Eight axes and an intensity from 0 to 1, a valence from -1 to 1 (not checked, clamped where used)."""

    joy: float = 0.0
    trust: float = 0.0
    fear: float = 0.0
    surprise: float = 0.0
    sadness: float = 0.0
    disgust: float = 0.0
    anger: float = 0.0
    anticipation: float = 0.0
    intensity: float = 0.0
    valence: float = 0.0

    def axes(self) -> tuple[float, ...]:
        """float[8], in the order of the wire, clamped to their range."""
        axes = (
            self.joy,
            self.trust,
            self.fear,
            self.surprise,
            self.sadness,
            self.disgust,
            self.anger,
            self.anticipation,
        )
        return tuple(min(max(axis, 0.0), 1.0) for axis in axes)


NEUTRAL = EmotionVector()


class Association(Wire, frozen=True, kw_only=True):
    target_id: RecordId
    association_type: AssociationType
    weight: Unit
    created_at: Timestamp
    last_co_activation: Timestamp


class MetaEvidenceRef(Wire, frozen=True, kw_only=True):
    record_id: RecordId | None = None
    raw_record_id: RecordId | None = None
    label: str | None = None
    excerpt: str | None = None
    uri: str | None = None
    confidence: Unit | None = None


class MetaAlternative(Wire, frozen=True, kw_only=True):
    option: str
    reason: str | None = None
    chosen: bool = False


class MetaEdge(Wire, frozen=True, kw_only=True):
    source_id: RecordId | None = None
    target_id: RecordId
    relation: Relation = Relation.CONTEXT_OF
    rationale: str | None = None
    evidence: tuple[MetaEvidenceRef, ...] = ()
    confidence: Unit | None = None
    created_at: Timestamp | None = None


class MetaMemory(Wire, frozen=True, kw_only=True):
    """Why a memory was made. A `schema_version` of 0 is read as 1."""

    schema_version: UInt32 = 1
    capture_status: CaptureStatus | None = None
    intent: str | None = None
    rationale: str | None = None
    trigger: str | None = None
    goals: tuple[str, ...] = ()
    evidence: tuple[MetaEvidenceRef, ...] = ()
    assumptions: tuple[str, ...] = ()
    alternatives: tuple[MetaAlternative, ...] = ()
    decision: str | None = None
    confidence: Unit | None = None
    source_record_ids: tuple[RecordId, ...] = ()
    parent_meta_ids: tuple[RecordId, ...] = ()
    context_edges: tuple[MetaEdge, ...] = ()
    tags: tuple[str, ...] = ()
    captured_at: Timestamp | None = None

    def __post_init__(self) -> None:
        if self.schema_version == 0:
            msgspec.structs.force_setattr(self, "schema_version", 1)


class MemoryRecord(Wire, frozen=True, kw_only=True):
    """A curated memory. A missing time means now; a missing meta means none was given."""

    id: RecordId
    store: Store
    created_at: Timestamp | None = None
    updated_at: Timestamp | None = None
    last_accessed_at: Timestamp | None = None
    access_count: UInt32 = 0
    content: MemoryContent
    fidelity: FidelityState = FidelityState()
    emotion: EmotionVector = NEUTRAL
    associations: tuple[Association, ...] = ()
    metadata: msgspec.Raw = EMPTY_OBJECT
    version: UInt32 = 1
    meta: MetaMemory | None = None


class RawJournalRecord(Wire, frozen=True, kw_only=True):
    """One verbatim entry of the raw journal."""

    id: RecordId
    session_id: str
    turn_id: str | None = None
    topic_id: str | None = None
    source: RawSource
    speaker: Speaker
    visibility: Visibility
    secrecy_level: SecrecyLevel
    created_at: Timestamp | None = None
    updated_at: Timestamp | None = None
    content: MemoryContent
    metadata: msgspec.Raw = EMPTY_OBJECT
    derived_memory_ids: tuple[RecordId, ...] = ()
    suppressed: bool = False
    meta: MetaMemory | None = None


class TemporalRange(Wire, frozen=True, kw_only=True):
    """Both ends inclusive."""

    start: Timestamp
    end: Timestamp
