"""What rows of entries and memories are without the secrets in them, by the recorder's rules (`domain.redaction`).

Looked at is whatever has text: content, metadata and meta. Pictures and speech stay as they are; an embedding of a
block that held a secret goes with it.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec.structs import replace

from cerememory.domain.redaction import NOTHING_KNOWN, Findings, redact, redact_text
from cerememory.protocol import codec
from cerememory.protocol.records import ContentBlock, MemoryContent, Modality
from cerememory.protocol.values import ByteArray
from cerememory.storage.rows import ContentRow, RawRow

R = TypeVar("R", bound=RawRow | ContentRow)


def secrets_of(*rows: RawRow | ContentRow, known: frozenset[str] = NOTHING_KNOWN) -> Findings:
    """What is found in all of `rows` together."""
    secrets = Findings()
    for row in rows:
        redacted(row, secrets, known)
    return secrets


def redacted(row: R, secrets: Findings, known: frozenset[str] = NOTHING_KNOWN) -> R:
    """`row` without secrets, itself when there is none; what was found is added to `secrets`."""
    found = Findings()
    changed = replace(
        row,
        content=_content(row.content, found, known),
        metadata=_json(row.metadata, found, known),
        meta=_json(row.meta, found, known),
    )
    secrets.update(found)
    return changed if found else row


def _content(raw: bytes, secrets: Findings, known: frozenset[str]) -> bytes:
    found = Findings()
    content = codec.parse(raw, MemoryContent)
    blocks = tuple(_block(block, found, known) for block in content.blocks)
    summary = None if content.summary is None else redact_text(content.summary, found, known)
    secrets.update(found)
    return codec.dump(replace(content, blocks=blocks, summary=summary)) if found else raw


def _block(block: ContentBlock, secrets: Findings, known: frozenset[str]) -> ContentBlock:
    """Pictures and speech stay as they are."""
    if block.modality not in (Modality.TEXT, Modality.STRUCTURED):
        return block
    found = Findings()
    data = _data(block, found, known)
    secrets.update(found)
    return replace(block, data=ByteArray(data), embedding=None) if found else block


def _data(block: ContentBlock, secrets: Findings, known: frozenset[str]) -> bytes:
    """What is no JSON where it should be is the text that it is, as it is to the index."""
    if block.modality is Modality.TEXT:
        return _text(block.data, secrets, known)
    try:
        return _json(bytes(block.data), secrets, known)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _text(block.data, secrets, known)


def _text(data: bytes, secrets: Findings, known: frozenset[str]) -> bytes:
    """Bytes that aren't UTF-8 stay what they are."""
    text = data.decode(errors="surrogateescape")
    return redact_text(text, secrets, known).encode(errors="surrogateescape")


def _json(raw: bytes, secrets: Findings, known: frozenset[str]) -> bytes:
    """Empty stays empty."""
    if not raw:
        return raw
    found = Findings()
    value = redact(msgspec.json.decode(raw), found, known)
    secrets.update(found)
    return codec.dump(value) if found else raw
