"""What an LLM provider is to the daemon: at most five things that it can do, and the values they give.

What a provider can't do is `None` there: to call a thing is to have seen that it exists. A request that gave
nothing is a `Failure`, a value: no provider raises for what its service did.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Protocol

from msgspec import Meta, Struct

Vector = tuple[float, ...]  # float32[n], n > 0, all finite

RELATION_CHARS_MAX = 512
Term = Annotated[str, Meta(pattern=r"\S", max_length=RELATION_CHARS_MAX)]


class Cause(Enum):
    """Why a request gave nothing; the values are the labels of a metric."""

    NETWORK = "network"  # no connection, or it broke
    TIMEOUT = "timeout"  # no answer in all the time that a request has
    BUSY = "busy"  # 429 or 5xx, until the last try
    REFUSED = "refused"  # any other status, or a request that can't be sent
    UNTRUSTED = "untrusted"  # a certificate that doesn't convince
    TOO_LARGE = "too_large"  # an answer over its limit
    UNREADABLE = "unreadable"  # an answer that isn't what the API says
    EMPTY = "empty"  # an answer with nothing in it


PASSING = frozenset({Cause.NETWORK, Cause.TIMEOUT, Cause.BUSY})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request gave nothing. `reason` is for the log: neither a key nor what was sent is in it."""

    cause: Cause
    reason: str

    @property
    def is_passing(self) -> bool:
        """Whether the same request may well be answered later."""
        return self.cause in PASSING


class Relation(Struct, frozen=True, kw_only=True):
    """One statement that a text makes; in this form it stands in `metadata.extracted_relations`."""

    subject: Term
    predicate: Term
    object: Term
    confidence: Annotated[float, Meta(ge=0, le=1)]


EmbedText = Callable[[str], Awaitable[Vector | Failure]]
EmbedImage = Callable[[bytes, str], Awaitable[Vector | Failure]]
Transcribe = Callable[[bytes, str], Awaitable[str | Failure]]
Summarise = Callable[[Sequence[str], int], Awaitable[str | Failure]]
ExtractRelations = Callable[[str], Awaitable[tuple[Relation, ...] | Failure]]


class Provider(Protocol):
    """An LLM service; any of its five may be None. Callers may set a deadline: each call can be cancelled."""

    @property
    def name(self) -> str:
        """As the settings call it."""

    @property
    def embed_text(self) -> EmbedText | None:
        """(text) -> its vector. Of a long text only the beginning counts."""

    @property
    def embed_image(self) -> EmbedImage | None:
        """(bytes, format as `limits.image_format` names it) -> a vector in the space of `embed_text`."""

    @property
    def transcribe(self) -> Transcribe | None:
        """(bytes, format as `limits.audio_format` names it) -> what is said, "" when nothing is."""

    @property
    def summarise(self) -> Summarise | None:
        """(texts, most tokens of the summary) -> one paragraph, not blank."""

    @property
    def extract_relations(self) -> ExtractRelations | None:
        """(text) -> the statements in it, none twice, in the order of the text."""
