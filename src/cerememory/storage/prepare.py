"""From a parsed request to rows ready to be stored: validated, completed, encoded. Nothing here reads state.

`now` is nanoseconds since the epoch. Errors are `ValidationFailed` and `ContentTooLarge`, naming the field;
`where` is what stands before it (`records[17].`).
"""

from __future__ import annotations

from dataclasses import replace

from msgspec import UNSET, UnsetType

from cerememory.domain.audit_chain import RECORD_IDS_MAX, AuditDraft
from cerememory.domain.capture import associations_of, completed_meta, with_context
from cerememory.domain.decay import STANDARD
from cerememory.domain.searchable import searchable
from cerememory.errors import ValidationFailed
from cerememory.protocol import codec, limits
from cerememory.protocol.records import NEUTRAL, Association, MetaMemory, Store
from cerememory.protocol.replies import Encoded, RawEncoded
from cerememory.protocol.requests import EncodeStore, EncodeStoreRaw, EncodeUpdate
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.keys import digest
from cerememory.storage.mutations import Edit, NewRaw, embedding_of, emotion_json
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import (
    SECRECY_LEVELS,
    STORE_CODE,
    VISIBILITIES,
    ContentRow,
    RawRow,
)


def new_record(namespace: int, request: EncodeStore, record_id: RecordId, now: int, where: str = "") -> NewRecord:
    if request.header is not None:
        request.header.check()
    content = request.content.content(f"{where}content")
    limits.check_store(request, content, record_id, where)
    metadata = limits.check_metadata(request.metadata, f"{where}metadata")
    if request.context is not None:
        metadata = limits.check_metadata(with_context(metadata, request.context), f"{where}metadata")
    store = request.route()
    meta = completed_meta(request.meta, "encode.store", now)
    row = ContentRow(
        STORE_CODE[store],
        1,
        now,
        now,
        codec.dump(content),
        emotion_json(request.emotion),
        bytes(metadata),
        _meta_json(meta),
    )
    return NewRecord(
        namespace=namespace,
        record_id=record_id,
        row=row,
        state=STANDARD[store].fresh(now, (request.emotion or NEUTRAL).intensity),
        associations=associations_of(request.associations, now),
        embedding=embedding_of(content),
        emotion=request.emotion,
        durable=store is not Store.WORKING,
    )


def _meta_json(meta: MetaMemory | None) -> bytes:
    return b"" if meta is None else codec.dump(meta)


def encoded(record: NewRecord, created: bool | UnsetType = UNSET) -> Encoded:
    """What the caller is told of a stored record."""
    return Encoded(
        record_id=record.record_id,
        store=record.row.store,
        initial_fidelity=record.state.score,
        associations_created=len(record.associations),
        created=created,
    )


def store_audit(record: NewRecord, now: int) -> AuditDraft:
    store = record.row.store.value
    summary = {
        "record_id": format_id(record.record_id),
        "store": store,
        "associations_created": len(record.associations),
    }
    return AuditDraft(now, "encode.store", (record.record_id,), (store,), summary)


def batch_audit(records: tuple[NewRecord, ...], inferred: int, now: int) -> AuditDraft:
    return AuditDraft(
        now,
        "encode.batch",
        tuple(record.record_id for record in records),
        tuple(record.row.store.value for record in records),
        {"records": len(records), "associations_inferred": inferred},
    )


def edit(request: EncodeUpdate, now: int) -> Edit:
    """The parts that an update replaces; at least one."""
    if request.header is not None:
        request.header.check()
    if all(part is None for part in (request.content, request.emotion, request.metadata, request.meta)):
        raise ValidationFailed("content: one of content, emotion, metadata, meta must be given")
    content = None if request.content is None else request.content.content("content")
    if content is not None:
        limits.check_content(content, "content")
    if request.meta is not None:
        limits.check_meta(request.meta, "meta")
    metadata = None if request.metadata is None else limits.check_metadata(request.metadata, "metadata")
    return Edit(
        content=content,
        emotion=request.emotion,
        metadata=None if metadata is None else bytes(metadata),
        meta=completed_meta(request.meta, "encode.update", now),
    )


def new_raw(namespace: int, request: EncodeStoreRaw, record_id: RecordId, now: int, where: str = "") -> NewRaw:
    if request.header is not None:
        request.header.check()
    content = request.content.content(f"{where}content")
    limits.check_raw(request, content, where)
    metadata = limits.check_metadata(request.metadata, f"{where}metadata")
    meta = completed_meta(request.meta, "encode.store_raw", now)
    row = RawRow(
        session_id=request.session_id,
        turn_id=request.turn_id,
        topic_id=request.topic_id,
        source=request.source.value,
        speaker=request.speaker.value,
        visibility_code=VISIBILITIES.index(request.visibility),
        secrecy_code=SECRECY_LEVELS.index(request.secrecy_level),
        created_at=now,
        updated_at=now,
        content=codec.dump(content),
        metadata=bytes(metadata),
        derived=b"",
        suppressed=False,
        meta=_meta_json(meta),
    )
    has_text = any(searchable(content, meta))
    return NewRaw(record_id, row, has_text, digest(request.session_id))


def raw_encoded(record: NewRaw) -> RawEncoded:
    return RawEncoded(
        record_id=record.record_id,
        session_id=record.row.session_id,
        visibility=VISIBILITIES[record.row.visibility_code],
        secrecy_level=SECRECY_LEVELS[record.row.secrecy_code],
    )


def raw_audit(record: NewRaw, now: int) -> AuditDraft:
    """`text_index` speaks of the index as of the acknowledgement: the entry is in its feed."""
    summary = {
        "record_id": format_id(record.record_id),
        "visibility": VISIBILITIES[record.row.visibility_code].value,
        "secrecy_level": SECRECY_LEVELS[record.row.secrecy_code].value,
        "text_index": {"state": "updated" if record.has_text else "skipped_no_text", "rebuildable": True},
    }
    return AuditDraft(now, "encode.store_raw", (record.record_id,), (), summary)


def raw_batch_audits(records: tuple[NewRaw, ...], now: int) -> list[AuditDraft]:
    """One entry for the batch; a batch of more records than an entry may name becomes several."""
    ids = [record.record_id for record in records]
    pieces = [tuple(ids[i : i + RECORD_IDS_MAX]) for i in range(0, len(ids), RECORD_IDS_MAX)] or [()]
    return [AuditDraft(now, "encode.batch_raw", piece, (), {"records": len(piece)}) for piece in pieces]


def with_neighbours(record: NewRecord, inferred: tuple[Association, ...]) -> NewRecord:
    """`record` with its inferred edges behind the ones it was given."""
    return replace(record, associations=record.associations + inferred)
