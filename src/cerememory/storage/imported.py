"""From an archived record to rows ready to be stored, and the spool in which they wait for their transaction.

What `prepare` does for a request is done here for a record that was a memory before: its id, times, version, meta
and numbers are kept, and only what is missing is filled in. A spool is filled while the archive is checked, so
that nothing is left to parse when the writer's turn has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from cerememory.domain.curve import Curve
from cerememory.domain.fidelity import State
from cerememory.domain.searchable import searchable
from cerememory.protocol import codec
from cerememory.protocol.records import (
    NEUTRAL,
    CaptureStatus,
    EmotionVector,
    MemoryRecord,
    MetaMemory,
    RawJournalRecord,
    Store,
)
from cerememory.protocol.values import RecordId
from cerememory.storage.keys import digest
from cerememory.storage.mutations import NewRaw, embedding_of, emotion_json
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import (
    SECRECY_LEVELS,
    STORE_CODE,
    VISIBILITIES,
    ContentRow,
    RawRow,
    dump_edges,
    dump_ids,
    parse_edges,
)
from cerememory.storage.spool import Spool

Imported: TypeAlias = NewRecord | NewRaw

PIECE_RECORDS = 500
PIECE_BYTES = 1_048_576
_SIZE_BYTES = 8


def imported_memory(namespace: int, record: MemoryRecord, curve: Curve, now: int) -> NewRecord:
    """`curve` is that of the record's store; `now` (nanoseconds) stands for the times that aren't given."""
    row = ContentRow(
        store_code=STORE_CODE[record.store],
        version=record.version,
        created_at=_or(record.created_at, now),
        updated_at=_or(record.updated_at, now),
        content=codec.dump(record.content),
        emotion=emotion_json(record.emotion),
        metadata=bytes(record.metadata),
        meta=_meta_json(record.meta),
    )
    return NewRecord(
        namespace=namespace,
        record_id=record.id,
        row=row,
        state=curve.imported(record, now),
        associations=record.associations,
        embedding=embedding_of(record.content),
        emotion=None if record.emotion == NEUTRAL else record.emotion,
        durable=record.store is not Store.WORKING,
    )


def imported_raw(record: RawJournalRecord, now: int) -> NewRaw:
    row = RawRow(
        session_id=record.session_id,
        turn_id=record.turn_id,
        topic_id=record.topic_id,
        source=record.source.value,
        speaker=record.speaker.value,
        visibility_code=VISIBILITIES.index(record.visibility),
        secrecy_code=SECRECY_LEVELS.index(record.secrecy_level),
        created_at=_or(record.created_at, now),
        updated_at=_or(record.updated_at, now),
        content=codec.dump(record.content),
        metadata=bytes(record.metadata),
        derived=dump_ids(list(record.derived_memory_ids)),
        suppressed=record.suppressed,
        meta=_meta_json(record.meta),
    )
    has_text = any(searchable(record.content, record.meta))
    return NewRaw(record.id, row, has_text, digest(record.session_id))


def _or(at: int | None, now: int) -> int:
    return now if at is None else int(at)


def _meta_json(meta: MetaMemory | None) -> bytes:
    """A meta without a status is one from before there was any."""
    if meta is None:
        return b""
    if meta.capture_status is None:
        meta = msgspec.structs.replace(meta, capture_status=CaptureStatus.LEGACY)
    return codec.dump(meta)


class _Memory(msgspec.Struct, frozen=True, array_like=True, tag=0):
    record_id: bytes
    row: ContentRow
    state: State
    edges: bytes
    embedding: tuple[float, ...] | None
    emotion: EmotionVector | None


class _Raw(msgspec.Struct, frozen=True, array_like=True, tag=1):
    record_id: bytes
    row: RawRow
    has_text: bool


_encoder = msgspec.msgpack.Encoder(enc_hook=int)  # of the times in a state
_decoder = msgspec.msgpack.Decoder(list[_Memory | _Raw])


class ImportSpool:
    """Durable memories and raw entries, put aside in `directory` until they are stored.

    They are taken out as often as needed, in the order in which they came, in pieces that one mutation stores.
    """

    def __init__(self, directory: Path) -> None:
        self._spool = Spool(directory)
        self._waiting: list[_Memory | _Raw] = []
        self._waiting_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()

    def add(self, record: Imported) -> None:
        self._waiting.append(_dumped(record))
        self._waiting_bytes += len(record.row.content) + len(record.row.metadata)
        if len(self._waiting) >= PIECE_RECORDS or self._waiting_bytes >= PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        """End the piece; to be called when all is added."""
        if self._waiting:
            packed = _encoder.encode(self._waiting)
            self._spool.write(len(packed).to_bytes(_SIZE_BYTES, "big") + packed)
            self._waiting, self._waiting_bytes = [], 0

    def pieces(self, namespace: int) -> Iterator[tuple[Imported, ...]]:
        """For `namespace`, which may have been given its number meanwhile."""
        position = 0
        while position < self._spool.size_bytes:
            start = position + _SIZE_BYTES
            position = start + int.from_bytes(self._read(position, start), "big")
            yield tuple(_parsed(namespace, found) for found in _decoder.decode(self._read(start, position)))

    def _read(self, start: int, stop: int) -> bytes:
        return b"".join(self._spool.read(start, stop))


def _parsed(namespace: int, found: _Memory | _Raw) -> Imported:
    record_id = RecordId(found.record_id)
    if isinstance(found, _Raw):
        return NewRaw(record_id, found.row, found.has_text, digest(found.row.session_id))
    return NewRecord(
        namespace=namespace,
        record_id=record_id,
        row=found.row,
        state=found.state,
        associations=parse_edges(found.edges),
        embedding=found.embedding,
        emotion=found.emotion,
    )


def _dumped(record: Imported) -> _Memory | _Raw:
    record_id = bytes(record.record_id)
    if isinstance(record, NewRaw):
        return _Raw(record_id, record.row, record.has_text)
    edges = dump_edges(record.associations)
    return _Memory(record_id, record.row, record.state, edges, record.embedding, record.emotion)
