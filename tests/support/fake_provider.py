"""An LLM provider without a network, on the test's clock: what it is asked, and what it says.

Model: each ability gives its queued outcomes first, each after `takes_s`, and then what it would say: the vector
of `fake_llm.meaning`, fixed texts, one relation. An ability that isn't named is None.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import trio

from cerememory.providers.contract import (
    EmbedImage,
    EmbedText,
    ExtractRelations,
    Relation,
    Summarise,
    Transcribe,
)
from tests.support.fake_llm import meaning

ADA_OWNS = Relation(subject="Ada", predicate="owns", object="a dog", confidence=0.9)
ALL = ("embed_text", "embed_image", "transcribe", "summarise", "extract_relations")


class FakeProvider:
    """`asked` has (ability, text or bytes) of each request; `most_at_once` how many were under way together."""

    name = "fake"

    def __init__(self, *abilities: str, takes_s: float = 0.0) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.most_at_once = 0
        self.takes_s = takes_s
        self._at_once = 0
        self._queued: dict[str, deque[Any]] = {ability: deque() for ability in ALL}
        can = abilities or ALL
        self.embed_text: EmbedText | None = self._embed_text if "embed_text" in can else None
        self.embed_image: EmbedImage | None = self._embed_image if "embed_image" in can else None
        self.transcribe: Transcribe | None = self._transcribe if "transcribe" in can else None
        self.summarise: Summarise | None = self._summarise if "summarise" in can else None
        self.extract_relations: ExtractRelations | None = self._extract if "extract_relations" in can else None

    def then(self, ability: str, *outcomes: Any) -> None:
        self._queued[ability].extend(outcomes)

    def times(self, ability: str) -> int:
        """How often it was asked for."""
        return sum(1 for asked, _ in self.asked if asked == ability)

    async def _outcome(self, ability: str, given: Any, default: Any) -> Any:
        self.asked.append((ability, given))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await trio.sleep(self.takes_s)
        finally:
            self._at_once -= 1
        queued = self._queued[ability]
        return queued.popleft() if queued else default

    async def _embed_text(self, text: str) -> Any:
        return await self._outcome("embed_text", text, tuple(meaning(text)))

    async def _embed_image(self, data: bytes, image_format: str) -> Any:
        return await self._outcome("embed_image", (data, image_format), tuple(meaning("puppy")))

    async def _transcribe(self, data: bytes, audio_format: str) -> Any:
        return await self._outcome("transcribe", (data, audio_format), "where is the puppy")

    async def _summarise(self, texts: Sequence[str], tokens_max: int) -> Any:
        return await self._outcome("summarise", (tuple(texts), tokens_max), "In short: all went well.")

    async def _extract(self, text: str) -> Any:
        return await self._outcome("extract_relations", text, (ADA_OWNS,))
