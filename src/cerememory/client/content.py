"""Content as most callers have it."""

from __future__ import annotations

from cerememory.protocol.records import Modality
from cerememory.protocol.requests import BlockInput, ContentInput


def text_content(text: str, *, summary: str | None = None) -> ContentInput:
    """One block of plain text. With a summary it is stored as semantic, unless the request names a store."""
    block = BlockInput(modality=Modality.TEXT, format="text/plain", text=text)
    return ContentInput(blocks=(block,), summary=summary)
