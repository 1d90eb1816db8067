"""What a request must satisfy beyond its types, and the sizes at which content is refused.

A `check_*` returns nothing or raises an `Invalid` or `Refused` error with the field's path first in its
message; `check_metadata` also returns what is to be stored. Whoever performs the operation calls them, before
anything is changed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import accumulate
from typing import Any

import msgspec

from cerememory.errors import ContentTooLarge, ForgetUnconfirmed, ModalityUnsupported, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import (
    EMPTY_OBJECT,
    ContentBlock,
    MemoryContent,
    MetaEdge,
    MetaMemory,
    Modality,
)
from cerememory.protocol.requests import (
    ASSOCIATE_DEPTH_MAX,
    ASSOCIATE_LIMIT_MAX,
    BATCH_RECORDS_MAX,
    EXPORT_FORMATS,
    SCOPE_METADATA_MAX,
    SCOPE_TAGS_MAX,
    SCOPE_VALUES_BYTES_MAX,
    DecayForecast,
    EncodeContext,
    EncodeStore,
    EncodeStoreRaw,
    Export,
    Forget,
    ImportTerms,
    RecallAssociate,
    RecallCue,
    RecallScope,
    Restore,
)
from cerememory.protocol.values import NIL_ID, TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId

MIB = 1_048_576
TEXT_BYTES_MAX = MIB
IMAGE_BYTES_MAX = 10 * MIB
MEDIA_BYTES_MAX = 50 * MIB
BLOCK_BYTES_MAX: dict[Modality, int] = {
    **dict.fromkeys(Modality, TEXT_BYTES_MAX),
    Modality.IMAGE: IMAGE_BYTES_MAX,
    Modality.AUDIO: MEDIA_BYTES_MAX,
    Modality.VIDEO: MEDIA_BYTES_MAX,
}
BLOCKS_MAX = 1_024
METADATA_BYTES_MAX = 1_000_000
FORECASTS_MAX = 1_000
METADATA_DEPTH_MAX = 64
GROWTH_MAX = 8  # times a limit, in an archive: `[REDACTED]` for each digit of a list, ids of what was derived
SHOWN_CHARS_MAX = 64  # of a caller's name in a message
CALLER_ID_BYTES_MAX = 1_024  # session_id, turn_id, topic_id
OWN_METADATA = frozenset(  # what the daemon keeps in the metadata of memories, and changes as it sees fit
    ("_context", "_derived", "_dream", "_metadata", "_origin", "_relations_of", "extracted_relations")
)
FLOAT32_MAX = 3.4028234663852886e38  # beyond it a number is infinite as float32

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))


def check_store(request: EncodeStore, content: MemoryContent, record_id: RecordId, where: str) -> None:
    """An encode.store request but for its metadata; `where` is "" or, in a batch, `records[i].`."""
    check_content(content, f"{where}content")
    if request.meta is not None:
        check_meta(request.meta, f"{where}meta")
    for i, association in enumerate(request.associations or ()):
        if association.target_id == record_id:
            raise ValidationFailed(f"{where}associations[{i}].target_id: is the record itself")
    if request.context is not None:
        _check_context(request.context, f"{where}context")


def _check_context(context: EncodeContext, where: str) -> None:
    """Its open parts are stored inside the metadata, so what holds for that holds for them."""
    _check_caller_id(context.session_id, f"{where}.session_id")
    for name in ("spatial", "temporal"):
        if (part := getattr(context, name)) is not None:
            check_metadata(part, f"{where}.{name}")


def check_raw(request: EncodeStoreRaw, content: MemoryContent, where: str) -> None:
    """An encode.store_raw request but for its metadata; `where` is "" or, in a batch, `records[i].`."""
    if not request.session_id.strip():
        raise ValidationFailed(f"{where}session_id: must not be blank")
    for name in ("session_id", "turn_id", "topic_id"):
        _check_caller_id(getattr(request, name), f"{where}{name}")
    check_content(content, f"{where}content")
    if request.meta is not None:
        check_meta(request.meta, f"{where}meta")


def check_batch_size(records: tuple[Any, ...]) -> None:
    if len(records) > BATCH_RECORDS_MAX:
        raise ValidationFailed(f"records: at most {BATCH_RECORDS_MAX} in a batch, got {len(records)}")


def check_content(content: MemoryContent, where: str, *, is_archived: bool = False) -> None:
    """`is_archived`: it was stored before, and the daemon may have made more of it since."""
    if not content.blocks:
        raise ValidationFailed(f"{where}.blocks: must have at least one content block")
    if len(content.blocks) > BLOCKS_MAX:
        raise ValidationFailed(f"{where}.blocks: at most {BLOCKS_MAX} blocks, got {len(content.blocks)}")
    for i, block in enumerate(content.blocks):
        _check_block(block, f"{where}.blocks[{i}]", GROWTH_MAX if is_archived else 1)


def _check_block(block: ContentBlock, where: str, growth: int) -> None:
    """Its bytes are named as the block: a client may have sent them as `data`, `data_b64` or `text`."""
    grown = growth if block.modality in (Modality.TEXT, Modality.STRUCTURED) else 1
    _check_size(block.data, grown * BLOCK_BYTES_MAX[block.modality], where, block.modality.value)
    if block.modality is Modality.TEXT:
        _check_utf8(block.data, where)
    elif block.modality is Modality.STRUCTURED:
        codec.compact(block.data, where)
    if block.embedding is not None:
        check_embedding(block.embedding, f"{where}.embedding")


def _check_size(data: bytes, size_bytes_max: int, where: str, what: str) -> None:
    if len(data) > size_bytes_max:
        raise ContentTooLarge(f"{where}: {what} of {len(data)} bytes, at most {size_bytes_max} are allowed")


def _check_utf8(data: bytes, where: str) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ValidationFailed(f"{where}: text must be UTF-8, byte {error.start} is not") from None


def check_embedding(embedding: Iterable[float], where: str) -> None:
    """`embedding`: float32[n], n > 0, none of them NaN or infinite."""
    values = tuple(embedding)
    if not values:
        raise ValidationFailed(f"{where}: must not be empty")
    if not all(-FLOAT32_MAX <= value <= FLOAT32_MAX for value in values):
        raise ValidationFailed(f"{where}: must hold finite float32 numbers")


def check_meta(meta: MetaMemory, where: str) -> None:
    for i, edge in enumerate(meta.context_edges):
        _check_edge(edge, f"{where}.context_edges[{i}]")


def _check_edge(edge: MetaEdge, where: str) -> None:
    if edge.target_id == NIL_ID:
        raise ValidationFailed(f"{where}.target_id: must not be the nil UUID")


def check_metadata(metadata: msgspec.Raw, where: str, *, is_archived: bool = False) -> msgspec.Raw:
    """`metadata` compacted; its size and depth are bounded, its JSON type is not checked.

    `is_archived` as in `check_content`; what was no object may be a level deeper by now, below `_metadata`.
    """
    if metadata == EMPTY_OBJECT:
        return metadata
    compacted = codec.compact(bytes(metadata), where)
    size, size_max = len(bytes(compacted)), METADATA_BYTES_MAX * (GROWTH_MAX if is_archived else 1)
    if size > size_max:
        raise ValidationFailed(f"{where}: {size} bytes of JSON, at most {size_max} are allowed")
    depth_max = METADATA_DEPTH_MAX + (is_archived and bytes(compacted).startswith(b"{"))
    if depth_of(bytes(compacted)) > depth_max:
        raise ValidationFailed(f"{where}: nested deeper than {depth_max} levels")
    return compacted


def depth_of(raw: bytes) -> int:
    """How deep arrays and objects nest in valid JSON, 0 for a scalar.

    Counted in the text, since a decoder keeps only the last of two values under one key.
    """
    brackets = _STRING.sub(b"", raw).translate(None, delete=_NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def check_cue(cue: RecallCue, *, sees: bool = False, hears: bool = False) -> None:
    """Images and audio are checked for size and format; `sees` and `hears` say which of them can be recalled by.

    An image beside an embedding is only checked for size: nobody looks at it.
    """
    if cue.image is not None:
        _check_size(cue.image, IMAGE_BYTES_MAX, "cue.image", "image")
        if cue.embedding is None:
            _check_format(cue.image, image_format(cue.image), "cue.image")
        if cue.embedding is None and not sees:
            raise ModalityUnsupported("cue.image: needs an LLM provider with image embedding")
    if cue.audio is not None:
        _check_size(cue.audio, MEDIA_BYTES_MAX, "cue.audio", "audio")
        _check_format(cue.audio, audio_format(cue.audio), "cue.audio")
        if not hears:
            raise ModalityUnsupported("cue.audio: needs an LLM provider with audio transcription")
    if cue.embedding is not None:
        check_embedding(cue.embedding, "cue.embedding")


def _check_format(data: bytes, found: str | None, where: str) -> None:
    if not data:
        raise ValidationFailed(f"{where}: must not be empty")
    if found is None:
        raise ValidationFailed(f"{where}: the format is not recognised")


def image_format(data: bytes) -> str | None:
    """The format by its first bytes: png, jpeg, gif, webp."""
    for magic, name in ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif")):
        if data.startswith(magic):
            return name
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def audio_format(data: bytes) -> str | None:
    """The format by its first bytes: wav, mp3, flac, ogg, mp4, webm."""
    signatures = (
        (b"ID3", "mp3"),
        (b"\xff\xfb", "mp3"),
        (b"\xff\xf3", "mp3"),
        (b"\xff\xf2", "mp3"),
        (b"fLaC", "flac"),
        (b"OggS", "ogg"),
        (b"\x1aE\xdf\xa3", "webm"),
    )
    for magic, name in signatures:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    return "mp4" if data[4:8] == b"ftyp" else None


def _check_caller_id(value: str | None, where: str) -> None:
    if value is not None and (size := len(value.encode())) > CALLER_ID_BYTES_MAX:
        raise ValidationFailed(f"{where}: {size} bytes, at most {CALLER_ID_BYTES_MAX} are allowed")


def check_scope(scope: RecallScope | None) -> None:
    if scope is None:
        return
    for name in ("session_id", "source"):
        _check_caller_id(getattr(scope, name), f"scope.{name}")
    _check_count(scope.tags, SCOPE_TAGS_MAX, "scope.tags")
    for i, tag in enumerate(scope.tags or ()):
        _check_caller_id(tag, f"scope.tags[{i}]")
    _check_count(scope.metadata, SCOPE_METADATA_MAX, "scope.metadata")
    size = sum(len(bytes(value)) for value in (scope.metadata or {}).values())
    if size > SCOPE_VALUES_BYTES_MAX:
        raise ValidationFailed(
            f"scope.metadata: {size} bytes of values, at most {SCOPE_VALUES_BYTES_MAX} are allowed"
        )
    for name, value in (scope.metadata or {}).items():
        _check_asked_member(name, value)


def _check_count(asked: Collection[object] | None, most: int, where: str) -> None:
    if asked is not None and len(asked) > most:
        raise ValidationFailed(f"{where}: at most {most}, got {len(asked)}")


def _check_asked_member(name: str, value: msgspec.Raw) -> None:
    _check_caller_id(name, f"scope.metadata: the name {name[:32]!r}")
    where = f"scope.metadata.{name[:SHOWN_CHARS_MAX]}"
    if name in OWN_METADATA:
        raise ValidationFailed(f"{where}: the daemon's own, which can't be asked for")
    check_metadata(value, where)


def check_associate(request: RecallAssociate) -> None:
    for name, value, most in (
        ("depth", request.depth, ASSOCIATE_DEPTH_MAX),
        ("limit", request.limit, ASSOCIATE_LIMIT_MAX),
    ):
        if value > most:
            raise ValidationFailed(f"{name}: at most {most}, got {value}")


def check_forget(request: Forget) -> None:
    """Only a dry run, which removes nothing, goes unconfirmed."""
    if not (request.confirm or request.dry_run):
        raise ForgetUnconfirmed("confirm: must be true, what is forgotten can't be brought back")
    whole = (request.store, request.temporal_range, request.session_id)
    if not (request.record_ids or request.raw_record_ids) and whole == (None, None, None):
        raise ValidationFailed(
            "record_ids: nothing is selected, give record_ids, store, temporal_range, raw_record_ids or session_id"
        )
    span = request.temporal_range
    if span is not None and span.start > span.end:
        raise ValidationFailed("temporal_range.start: must not be after temporal_range.end")


def check_restore(request: Restore) -> None:
    if request.record_ids is None and not request.dry_run:
        raise ValidationFailed("record_ids: missing field; with dry_run, what could be restored is listed")


def check_forecast(request: DecayForecast) -> None:
    if len(request.record_ids) > FORECASTS_MAX:
        raise ValidationFailed(
            f"record_ids: {len(request.record_ids)} records, at most {FORECASTS_MAX} are allowed"
        )


def check_export(request: Export) -> None:
    if request.format not in EXPORT_FORMATS:
        raise ValidationFailed(f"format: expected {' or '.join(EXPORT_FORMATS)}, got {request.format[:32]!r}")
    if request.encrypt and not request.encryption_key:
        raise ValidationFailed("encryption_key: missing, encrypt is true")


def check_import(request: ImportTerms) -> None:
    _check_caller_id(request.archive_id, "archive_id")
    if request.decryption_key == "":
        raise ValidationFailed("decryption_key: must not be empty")


def clamp_timestamp(at: int) -> int:
    """`at` within what a storage key can hold."""
    return max(TIMESTAMP_MIN, min(TIMESTAMP_MAX, at))
