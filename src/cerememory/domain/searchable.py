"""The words by which a record can be found: its text, its summary and what is said about why it was made.

Source of what counts: the engine specification, "Encode", searchable text. Nothing here raises: content that
came in by an archive may hold anything, and what isn't readable as JSON or UTF-8 is taken as the text it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from cerememory.domain.analysis import TEXT_CHARS_MAX
from cerememory.protocol.operations import BY_NAME
from cerememory.protocol.records import (
    CaptureStatus,
    ContentBlock,
    MemoryContent,
    MetaEvidenceRef,
    MetaMemory,
    Modality,
)

PATH_CHARS_MAX = 256

_TOLD = (CaptureStatus.PROVIDED, CaptureStatus.INFERRED)


class Searchable(NamedTuple):
    """Both of at most `TEXT_CHARS_MAX` characters; empty when there is nothing to be found by."""

    text: str
    summary: str


def searchable(content: MemoryContent, meta: MetaMemory | None) -> Searchable:
    """What the index is to know of a record: blocks in their order, then meta, one piece a line."""
    return Searchable(_join(_pieces(content, meta)), (content.summary or "")[:TEXT_CHARS_MAX])


def _join(pieces: Iterator[str]) -> str:
    """The pieces as lines; those beyond `TEXT_CHARS_MAX` are never made."""
    taken: list[str] = []
    room = TEXT_CHARS_MAX
    for piece in pieces:
        taken.append(piece[:room])
        room -= len(piece) + 1
        if room <= 0:
            break
    return "\n".join(taken)


def _pieces(content: MemoryContent, meta: MetaMemory | None) -> Iterator[str]:
    for block in content.blocks:
        yield from _block_pieces(block)
    if meta is not None and meta.capture_status in _TOLD:
        yield from filter(None, _meta_pieces(meta))


def _block_pieces(block: ContentBlock) -> Iterator[str]:
    if block.modality is Modality.TEXT:
        yield block.data.decode(errors="replace")
    elif block.modality is Modality.STRUCTURED:
        yield from _structured_pieces(block.data)


def _structured_pieces(data: bytes) -> Iterator[str]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield data.decode(errors="replace")
    else:
        yield from flatten(value)


def flatten(value: Any) -> Iterator[str]:
    """The leaves of decoded JSON as `path: value` lines, in their order.

    Keys are joined by dots; the items of an array share its path. Of a path that is too long the end stays.
    """
    todo: list[tuple[str, Any]] = [("", value)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            todo.extend((_below(path, key), child) for key, child in reversed(value.items()))
        elif isinstance(value, list):
            todo.extend((path, child) for child in reversed(value))
        else:
            leaf = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            yield f"{path}: {leaf}" if path else leaf


def _below(path: str, key: str) -> str:
    return f"{path}.{key}"[-PATH_CHARS_MAX:] if path else key[-PATH_CHARS_MAX:]


def _meta_pieces(meta: MetaMemory) -> Iterator[str | None]:
    yield from (meta.intent, meta.rationale, meta.decision)
    if meta.trigger not in BY_NAME:  # filled in by the engine, in the same words for every record
        yield meta.trigger
    yield from (*meta.goals, *meta.assumptions, *meta.tags)
    for evidence in meta.evidence:
        yield from _evidence_pieces(evidence)
    for alternative in meta.alternatives:
        yield from (alternative.option, alternative.reason)
    yield from (edge.rationale for edge in meta.context_edges)


def _evidence_pieces(evidence: MetaEvidenceRef) -> Iterator[str | None]:
    yield from (evidence.label, evidence.excerpt, evidence.uri)
