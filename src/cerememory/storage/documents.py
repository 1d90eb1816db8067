"""What the text index gets to know of a record: made at encode, or from the stored rows.

Both ways end in the same function of content and meta, so an index rebuilt from rows equals one fed live.
"""

from __future__ import annotations

from collections.abc import Sequence

from cerememory.domain.searchable import searchable
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent, MetaMemory
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.keys import Table, digest, key
from cerememory.storage.rows import RAW_CODE, ContentRow, RawRow, parse_content_row, parse_raw_row
from cerememory.storage.text_index import IndexDocument


def curated_document(
    record_id: RecordId, store_code: int, created_at: int, content: MemoryContent, meta: MetaMemory | None
) -> IndexDocument:
    found = searchable(content, meta)
    return IndexDocument(
        record_id=record_id,
        store_code=store_code,
        created_at=created_at,
        text=found.text,
        summary=found.summary,
    )


def raw_document(
    record_id: RecordId, row: RawRow, content: MemoryContent, meta: MetaMemory | None
) -> IndexDocument:
    found = searchable(content, meta)
    return IndexDocument(
        record_id=record_id,
        store_code=RAW_CODE,
        created_at=row.created_at,
        text=found.text,
        summary=found.summary,
        session=digest(row.session_id),
        visibility=row.visibility_code,
        secrecy=row.secrecy_code,
    )


def edited_document(record_id: RecordId, row: ContentRow) -> IndexDocument:
    """The document of a stored memory."""
    content = codec.parse(row.content, MemoryContent)
    return curated_document(record_id, row.store_code, row.created_at, content, _meta(row.meta))


def stored_documents(reader: Reader, record_ids: Sequence[RecordId]) -> tuple[list[IndexDocument], list[RecordId]]:
    """The documents of those of `record_ids` that are stored, and the ids of those that aren't."""
    documents: list[IndexDocument] = []
    missing: list[RecordId] = []
    for record_id in record_ids:
        document = _stored_document(reader, record_id)
        if document is None:
            missing.append(record_id)
        else:
            documents.append(document)
    return documents, missing


def _stored_document(reader: Reader, record_id: RecordId) -> IndexDocument | None:
    if (value := reader.get(key(Table.CONTENT, record_id))) is not None:
        return edited_document(record_id, parse_content_row(value))
    if (value := reader.get(key(Table.RAW, record_id))) is not None:
        row = parse_raw_row(value)
        return raw_document(record_id, row, codec.parse(row.content, MemoryContent), _meta(row.meta))
    return None


def _meta(raw: bytes) -> MetaMemory | None:
    return codec.parse(raw, MetaMemory) if raw else None
