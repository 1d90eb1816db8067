"""What a provider makes of a recall's cue: speech becomes text, a picture or a text becomes a vector.

A text alone is never held up for long: when its vector doesn't come in time, the recall goes on with the words,
and for a while no vectors of cues are asked for. A picture or speech that can't be read fails the recall only
when the cue has nothing else to find by.
"""

from __future__ import annotations

import math

import trio
from msgspec.structs import replace

from cerememory.errors import InternalError, ProviderUnavailable, ValidationFailed
from cerememory.protocol import limits
from cerememory.protocol.requests import RecallCue
from cerememory.providers.contract import Failure, Provider

EMBED_TEXT_S = 2.0
REST_S = 30.0  # without vectors of texts, after one that didn't come


class Cues:
    """Reads cues with `provider`; None can do nothing."""

    def __init__(self, provider: Provider | None) -> None:
        self._transcribe = None if provider is None else provider.transcribe
        self._embed_image = None if provider is None else provider.embed_image
        self._embed_text = None if provider is None else provider.embed_text
        self.can_read = provider is not None
        self._rests_until = -math.inf

    def check(self, cue: RecallCue) -> None:
        """Raises `ModalityUnsupported` for what the provider can't read, and what `limits.check_cue` raises."""
        limits.check_cue(cue, sees=self._embed_image is not None, hears=self._transcribe is not None)

    async def read(self, cue: RecallCue) -> RecallCue:
        """A checked `cue` as text and vectors; as it is, where nothing `can_read`."""
        return await self._understood(await self._seen(await self._heard(cue)))

    async def _heard(self, cue: RecallCue) -> RecallCue:
        if cue.audio is None or self._transcribe is None:
            return cue
        transcript = await self._transcribe(cue.audio, limits.audio_format(cue.audio) or "")
        others = replace(cue, audio=None)
        if isinstance(transcript, Failure):
            return _without("audio", transcript, others)
        if not transcript and not _finds(others):
            raise ValidationFailed("cue.audio: nothing is said in it")
        return replace(others, text=" ".join(filter(None, (cue.text, transcript))) or None)

    async def _seen(self, cue: RecallCue) -> RecallCue:
        """A picture beside an embedding isn't looked at."""
        if cue.image is None or cue.embedding is not None or self._embed_image is None:
            return cue
        vector = await self._embed_image(cue.image, limits.image_format(cue.image) or "")
        others = replace(cue, image=None)
        if isinstance(vector, Failure):
            return _without("image", vector, others)
        return replace(others, embedding=vector)

    async def _understood(self, cue: RecallCue) -> RecallCue:
        if cue.text is None or cue.embedding is not None or self._embed_text is None or self._rests():
            return cue
        vector: tuple[float, ...] | Failure | None = None
        with trio.move_on_after(EMBED_TEXT_S):
            vector = await self._embed_text(cue.text)
        if vector is None or isinstance(vector, Failure):
            self._rests_until = trio.current_time() + REST_S
            return cue
        return replace(cue, embedding=vector)

    def _rests(self) -> bool:
        return trio.current_time() < self._rests_until


def _finds(cue: RecallCue) -> bool:
    """Whether there is anything in the cue to find by."""
    signals = (cue.text, cue.audio, cue.image, cue.embedding, cue.emotion, cue.temporal)
    return any(signal is not None for signal in signals)


def _without(part: str, failure: Failure, others: RecallCue) -> RecallCue:
    """The rest of a cue of which `part` couldn't be read, when there is one."""
    if _finds(others):
        return others
    if failure.is_passing:
        raise ProviderUnavailable(f"cue.{part}: the LLM provider gives no answer")
    raise InternalError(f"cue.{part}: the LLM provider failed: {failure.reason}")
