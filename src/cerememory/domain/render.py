"""How a faded memory reads: in human mode its text has holes, the deeper it has faded the more.

Source: the engine specification, "Recall".
"""

from __future__ import annotations

import msgspec

from cerememory.protocol.records import ContentBlock, MemoryContent, Modality
from cerememory.protocol.values import ByteArray

CLEAR = 0.9  # a memory at or above this fidelity reads as it was stored
LOST_SHARE_MAX = 0.8
HOLE = "..."


def rendered(content: MemoryContent, fidelity: float) -> MemoryContent:
    """`content` as it is remembered at `fidelity` (0 to 1); what is stored never changes."""
    if fidelity >= CLEAR:
        return content
    return msgspec.structs.replace(
        content, blocks=tuple(_rendered_block(block, fidelity) for block in content.blocks)
    )


def _rendered_block(block: ContentBlock, fidelity: float) -> ContentBlock:
    if block.modality is not Modality.TEXT:
        return block
    text = with_holes(block.data.decode(), fidelity)
    return msgspec.structs.replace(block, data=ByteArray(text.encode()))


def with_holes(text: str, fidelity: float) -> str:
    """Every k-th word, from the first, becomes `...`; words are joined by one space."""
    lost_share = min(1.0 - fidelity, LOST_SHARE_MAX)
    every = max(2, int(1.0 / lost_share))
    return " ".join(HOLE if i % every == 0 else word for i, word in enumerate(text.split()))
