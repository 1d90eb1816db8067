"""The request of every CMP operation, as it is read from JSON.

A struct says what a body may hold and of which type; what goes beyond types (sizes, UTF-8, ranges that span
fields) is checked in `limits`. Defaults are those of the wire.
"""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import Annotated

import msgspec

from cerememory.errors import ValidationFailed, VersionMismatch
from cerememory.protocol.records import (
    EMPTY_OBJECT,
    AssociationType,
    ContentBlock,
    EmotionVector,
    MemoryContent,
    MetaMemory,
    Modality,
    OptionalRaw,
    RawSource,
    SecrecyLevel,
    Speaker,
    Store,
    TemporalRange,
    UInt32,
    Unit,
    Visibility,
    Wire,
)
from cerememory.protocol.values import UINT32_MAX, ByteArray, RecordId, Timestamp

BATCH_RECORDS_MAX = 1_000
LIMIT_MAX = 1_000
ASSOCIATE_DEPTH_MAX = 8
ASSOCIATE_LIMIT_MAX = 256
SCOPE_TAGS_MAX = 32
SCOPE_METADATA_MAX = 32
SCOPE_VALUES_BYTES_MAX = 16_384  # of metadata, together: numbers are read with care, on the loop
EXPORT_FORMATS = ("cma", "jsonl")
_NULL = msgspec.Raw(b"null")


class RecallMode(StrEnum):
    HUMAN = "human"
    PERFECT = "perfect"


class Granularity(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Strategy(StrEnum):
    FULL = "full"
    INCREMENTAL = "incremental"
    SELECTIVE = "selective"


class ImportStrategy(StrEnum):
    MERGE = "merge"
    REPLACE = "replace"


class ConflictResolution(StrEnum):
    KEEP_EXISTING = "keep_existing"
    KEEP_IMPORTED = "keep_imported"
    KEEP_NEWER = "keep_newer"


class Header(Wire, frozen=True, kw_only=True):
    """Optional in every body; all four fields are required when it is there."""

    protocol: str
    version: str
    request_id: RecordId
    timestamp: Timestamp

    def check(self) -> None:
        if self.protocol != "cmp" or self.version.split(".")[0] != "1":
            raise VersionMismatch(
                f"header: this daemon speaks cmp 1.x, got {self.protocol[:32]} {self.version[:32]}"
            )


class Request(Wire, frozen=True, kw_only=True):
    header: Header | None = None


class BlockInput(Wire, frozen=True, kw_only=True):
    """A content block as a client sends it: its bytes as an array, as base64, or as plain text."""

    modality: Modality
    format: str
    data: ByteArray | None = None
    data_b64: str | None = None
    text: str | None = None
    embedding: tuple[float, ...] | None = None

    def block(self, where: str) -> ContentBlock:
        return ContentBlock(
            modality=self.modality, format=self.format, data=self._bytes(where), embedding=self.embedding
        )

    def _bytes(self, where: str) -> ByteArray:
        if self.data is not None:
            return self.data
        if self.data_b64 is not None and self.text is not None:
            raise ValidationFailed(f"{where}.text: give it or data_b64, not both")
        if self.data_b64 is not None:
            return decode_base64(self.data_b64, f"{where}.data_b64")
        if self.text is None:
            raise ValidationFailed(f"{where}.data: missing field")
        if self.modality is not Modality.TEXT:
            raise ValidationFailed(f"{where}.text: only a text block may have it")
        return ByteArray(self.text.encode())


def decode_base64(text: str, where: str) -> ByteArray:
    try:
        return ByteArray(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise ValidationFailed(f"{where}: expected base64") from None


class ContentInput(Wire, frozen=True, kw_only=True):
    blocks: tuple[BlockInput, ...]
    summary: str | None = None

    def content(self, where: str) -> MemoryContent:
        """The content to be stored; `where` is this field's path, for messages."""
        blocks = tuple(b.block(f"{where}.blocks[{i}]") for i, b in enumerate(self.blocks))
        return MemoryContent(blocks=blocks, summary=self.summary)


class EncodeContext(Wire, frozen=True, kw_only=True):
    """Where and when a memory comes from. The open parts are any JSON; null is as if they were missing."""

    source: str | None = None
    session_id: str | None = None
    spatial: OptionalRaw = None
    temporal: OptionalRaw = None

    def __post_init__(self) -> None:
        _drop_null(self, "spatial")
        _drop_null(self, "temporal")


def _drop_null(struct: msgspec.Struct, name: str) -> None:
    if getattr(struct, name) == _NULL:
        msgspec.structs.force_setattr(struct, name, None)


class AssociationInput(Wire, frozen=True, kw_only=True):
    target_id: RecordId
    association_type: AssociationType
    weight: Unit


class EncodeStore(Request, frozen=True, kw_only=True):
    """`if_absent`: unless the store has a memory that says the same, which is answered then."""

    content: ContentInput
    store: Store | None = None
    emotion: EmotionVector | None = None
    context: EncodeContext | None = None
    metadata: msgspec.Raw = EMPTY_OBJECT
    associations: tuple[AssociationInput, ...] | None = None
    meta: MetaMemory | None = None
    if_absent: bool = False

    def route(self) -> Store:
        """The store asked for, else semantic when there is a summary (an empty one too), else episodic."""
        if self.store is not None:
            return self.store
        return Store.EPISODIC if self.content.summary is None else Store.SEMANTIC


class EncodeBatch(Request, frozen=True, kw_only=True):
    records: tuple[EncodeStore, ...]
    infer_associations: bool = False


class EncodeUpdate(Request, frozen=True, kw_only=True):
    """What is None stays as it is."""

    record_id: RecordId | None = None
    content: ContentInput | None = None
    emotion: EmotionVector | None = None
    metadata: OptionalRaw = None
    meta: MetaMemory | None = None

    def __post_init__(self) -> None:
        _drop_null(self, "metadata")


class EncodeStoreRaw(Request, frozen=True, kw_only=True):
    session_id: str
    turn_id: str | None = None
    topic_id: str | None = None
    source: RawSource = RawSource.CONVERSATION
    speaker: Speaker = Speaker.USER
    visibility: Visibility = Visibility.NORMAL
    secrecy_level: SecrecyLevel = SecrecyLevel.PUBLIC
    content: ContentInput
    metadata: msgspec.Raw = EMPTY_OBJECT
    meta: MetaMemory | None = None


class EncodeBatchRaw(Request, frozen=True, kw_only=True):
    records: tuple[EncodeStoreRaw, ...]


class RecallCue(Wire, frozen=True, kw_only=True):
    """`spatial` and `semantic` are read and, as in the reference, not used."""

    text: str | None = None
    image: ByteArray | None = None
    audio: ByteArray | None = None
    emotion: EmotionVector | None = None
    temporal: TemporalRange | None = None
    spatial: OptionalRaw = None
    semantic: OptionalRaw = None
    embedding: tuple[float, ...] | None = None


class RecallScope(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which memories may be answered at all: those of which everything that is given here holds."""

    session_id: str | None = None
    source: str | None = None
    tags: tuple[str, ...] | None = None
    metadata: dict[str, msgspec.Raw] | None = None


class RecallQuery(Request, frozen=True, kw_only=True):
    cue: RecallCue
    stores: tuple[Store, ...] | None = None
    limit: UInt32 = 10
    min_fidelity: float | None = None
    include_decayed: bool = False
    reconsolidate: bool = True
    activation_depth: UInt32 = 2
    recall_mode: RecallMode = RecallMode.HUMAN
    explain: bool = False
    scope: RecallScope | None = None


class RecallAssociate(Request, frozen=True, kw_only=True):
    record_id: RecordId | None = None
    association_types: tuple[AssociationType, ...] | None = None
    depth: UInt32 = 2
    min_weight: float = 0.1
    limit: UInt32 = 10


class RecallTimeline(Request, frozen=True, kw_only=True):
    range: TemporalRange
    granularity: Granularity = Granularity.HOUR
    min_fidelity: float | None = None
    emotion_filter: EmotionVector | None = None


class RecallGraph(Request, frozen=True, kw_only=True):
    center_id: RecordId | None = None
    depth: UInt32 = 2
    edge_types: tuple[str, ...] | None = None
    limit_nodes: UInt32 = 10
    include_meta: bool = False


DEFAULT_SECRECY = (SecrecyLevel.PUBLIC, SecrecyLevel.SENSITIVE)


class RecallRawQuery(Request, frozen=True, kw_only=True):
    session_id: str | None = None
    query: str | None = None
    temporal: TemporalRange | None = None
    limit: UInt32 = 10
    include_private_scratch: bool = False
    include_sealed: bool = False
    secrecy_levels: tuple[SecrecyLevel, ...] | None = None


class Consolidate(Request, frozen=True, kw_only=True):
    """`dedup`: memories with near embeddings are duplicates whatever their texts say."""

    strategy: Strategy = Strategy.INCREMENTAL
    min_age_hours: UInt32 = 0
    min_access_count: UInt32 = 0
    dry_run: bool = False
    dedup: bool = False


class DreamTick(Request, frozen=True, kw_only=True):
    session_id: str | None = None
    dry_run: bool = False
    max_groups: UInt32 = 10
    include_private_scratch: bool = False
    include_sealed: bool = False
    promote_semantic: bool = True
    secrecy_levels: tuple[SecrecyLevel, ...] | None = None


class DecayTick(Request, frozen=True, kw_only=True):
    tick_duration_seconds: UInt32 | None = None


class SetMode(Request, frozen=True, kw_only=True):
    mode: RecallMode
    scope: tuple[Store, ...] | None = None


class Forget(Request, frozen=True, kw_only=True):
    record_ids: tuple[RecordId, ...] | None = None
    store: Store | None = None
    temporal_range: TemporalRange | None = None
    raw_record_ids: tuple[RecordId, ...] | None = None
    session_id: str | None = None
    cascade: bool = False
    confirm: bool
    dry_run: bool = False


class Restore(Request, frozen=True, kw_only=True):
    """Bring back what decay archived. With `dry_run` only say what could be; without ids, of all there is."""

    record_ids: tuple[RecordId, ...] | None = None
    dry_run: bool = False


class Compact(Request, frozen=True, kw_only=True):
    """Rid the disk of what was deleted."""


class RotateAudit(Request, frozen=True, kw_only=True):
    """Close the audit log's file, and go on in a new one."""


class Export(Request, frozen=True, kw_only=True):
    """`format` is one of `EXPORT_FORMATS`."""

    format: str = "cma"
    stores: tuple[Store, ...] | None = None
    include_raw_journal: bool = False
    encrypt: bool = False
    encryption_key: str | None = None


class ImportTerms(Request, frozen=True, kw_only=True):
    """An import without its archive, which comes as a stream of its own. `dry_run` changes nothing."""

    archive_id: str
    strategy: ImportStrategy = ImportStrategy.MERGE
    conflict_resolution: ConflictResolution = ConflictResolution.KEEP_NEWER
    decryption_key: str | None = None
    dry_run: bool = False


class Import(ImportTerms, frozen=True, kw_only=True):
    archive_data: ByteArray


class Redact(Request, frozen=True, kw_only=True):
    """Take secrets out of the next records behind `cursor` (None: the first). Without `include_dreamt` the
    memories that were dreamt of entries are only looked at.
    """

    cursor: str | None = None
    include_dreamt: bool = False
    dry_run: bool = False


class UndoImport(Request, frozen=True, kw_only=True):
    """Take an import back. What was changed since is left alone with `keep_changed`; else it is refused."""

    batch_id: RecordId
    keep_changed: bool = False
    dry_run: bool = False


class IntrospectRecord(Request, frozen=True, kw_only=True):
    record_id: RecordId
    include_history: bool = False
    include_associations: bool = False
    include_versions: bool = False
    version: Annotated[int, msgspec.Meta(ge=1, le=UINT32_MAX)] | None = None


class AuditProof(Request, frozen=True, kw_only=True):
    """Which proof: `old` and `new`, sizes of the log, or `entry`, a sequence, and `size`."""

    old: Annotated[int, msgspec.Meta(ge=0, le=UINT32_MAX)] | None = None
    new: Annotated[int, msgspec.Meta(ge=0, le=UINT32_MAX)] | None = None
    entry: Annotated[int, msgspec.Meta(ge=1, le=UINT32_MAX)] | None = None
    size: Annotated[int, msgspec.Meta(ge=1, le=UINT32_MAX)] | None = None


class DecayForecast(Request, frozen=True, kw_only=True):
    record_ids: tuple[RecordId, ...]
    forecast_at: Timestamp
