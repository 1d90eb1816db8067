"""What arguments are in a request: the parts of bodies that several commands make from text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cerememory.cli.options import UsageError
from cerememory.domain.emotions import emotion_of
from cerememory.errors import ValidationFailed
from cerememory.protocol import codec, limits
from cerememory.protocol.records import EmotionVector, MetaMemory


def given(body: dict[str, Any]) -> dict[str, Any]:
    """Without what wasn't given, so that the default of the operation stands."""
    return {name: value for name, value in body.items() if value is not None}


def check_filled(text: str) -> None:
    """Raise `UsageError` for a text that says nothing. The protocol takes one, but nobody means it here."""
    if not text.strip():
        raise UsageError("TEXT: must not be blank")


def text_content(text: str, embedding: str | None = None) -> dict[str, Any]:
    """A content of one text block; `embedding` as numbers with commas between them."""
    block = {"modality": "text", "format": "text/plain", "text": text, "embedding": _numbers(embedding)}
    return {"blocks": [given(block)]}


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValidationFailed(f"--embedding: expected numbers as 0.1,0.2, got {text[:64]!r}") from None
    limits.check_embedding(numbers, "--embedding")
    return numbers


def scope(
    session_id: str | None, source: str | None, tags: Sequence[str] | None, members: Sequence[str] | None
) -> dict[str, Any] | None:
    """What a recall is kept to; `members` of metadata as NAME=VALUE. None when nothing was given."""
    body = given(
        {"session_id": session_id, "source": source, "tags": tags, "metadata": members and _metadata(members)}
    )
    return body or None


def _metadata(members: Sequence[str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for name, _, value in (member.partition("=") for member in members):
        if name in metadata:
            raise ValidationFailed(f"--metadata: {name[:64]!r} is given twice")
        metadata[name] = _json_or_text(value)
    return metadata


def _json_or_text(value: str) -> object:
    try:
        return codec.compact(value.encode(), "value")
    except ValidationFailed:
        return value


def emotion(label: str | None) -> EmotionVector | None:
    try:
        return None if label is None else emotion_of(label)
    except ValueError as error:
        raise ValidationFailed(f"--emotion: {error}") from None


def meta(text: str | None) -> MetaMemory | None:
    return None if text is None else codec.parse(text.encode(), MetaMemory, "--meta-json")
