"""What a memory gets from the conversation that it is a turn of: its group, who said it, when it happened, the
words of the turns around it.

Source of the signals and of where each comes from: the retrieval specification. The context that a memory was
given lies in its metadata, under `_context`, where `capture.with_context` puts it; archives may hold anything
there, so nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from cerememory.domain import analysis
from cerememory.domain.dates import PartialDate, date_at, date_of, date_terms, dates_in, span_terms

NEIGHBOURS = 2  # turns on either side that lend their words
LENT_CHARS_MAX = 4_096  # of one turn; an answer is near its question, so of a longer one the end counts
NAME_WORDS_MAX = 4
NAME_CHARS_MAX = 64

_CONTEXT_KEY = b'"_context"'
_QUESTION_MARKS = ("?", "？", "؟")
_PREFIX = re.compile(rf"\s*([^\W\d_][^:：\n]{{0,{NAME_CHARS_MAX - 1}}})(?::\s|：)")


class Context(msgspec.Struct, frozen=True):
    """The parts of an encode context that say something about a turn; what is of another type isn't there."""

    session_id: Any = None
    source: Any = None
    temporal: Any = None

    @property
    def session(self) -> str | None:
        return _said(self.session_id)

    @property
    def speaker(self) -> str | None:
        return _said(self.source)


class _Metadata(msgspec.Struct, frozen=True):
    context: Context | None = msgspec.field(default=None, name="_context")


NO_CONTEXT = Context()
_decoder = msgspec.json.Decoder(_Metadata)


def context_of(metadata: bytes) -> Context:
    """The context in the JSON of a memory's metadata."""
    if _CONTEXT_KEY not in metadata:
        return NO_CONTEXT
    try:
        return _decoder.decode(metadata).context or NO_CONTEXT
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NO_CONTEXT


def _said(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def speaker_of(context: Context, text: str) -> str | None:
    """Who said it: the source that it was stored with, else a `Name: ` in front of its text."""
    return context.speaker or _named_in_front(text)


def _named_in_front(text: str) -> str | None:
    """Some capitalised words, or words of a script that has no capitals, and a colon."""
    match = _PREFIX.match(text)
    if match is None:
        return None
    words = match[1].split()
    is_name = len(words) <= NAME_WORDS_MAX and not any(word[0].islower() for word in words)
    return match[1] if is_name else None


@lru_cache(maxsize=256)  # those who speak in one conversation do so again and again
def name_terms(name: str) -> tuple[str, ...]:
    """By what a speaker is known: the whole name, its words joined, and each of its words that could be one."""
    words = analysis.tokens(name[:NAME_CHARS_MAX])
    whole = joined_name(words[:NAME_WORDS_MAX])
    return tuple(dict.fromkeys([*filter(None, (whole,)), *filter(_may_be_name, words)]))


def joined_name(words: Sequence[str]) -> str:
    """One term of some words: `_` is in none of them."""
    return "_".join(words)


def parts_of_name(name: str) -> list[str]:
    """The words of a joined name."""
    return name.split("_")


def _may_be_name(word: str) -> bool:
    """No stop word, no number, and no single letter of an alphabet."""
    is_long = len(word) > 1 or not word.isascii()
    return is_long and word not in analysis.STOP_WORDS and any(map(str.isalpha, word))


def when_terms(context: Context, created_at: int) -> list[str]:
    """By which dates it is found: those of its context, else the day it was made (nanoseconds, UTC)."""
    made = date_of(created_at)
    return _temporal_terms(context.temporal) or ([] if made is None else date_terms([made]))


def _temporal_terms(temporal: Any) -> list[str]:
    """`temporal` as it came: a text, or an object with `at`, or with `start` and `end`."""
    if isinstance(temporal, str):
        return date_terms(dates_in(temporal))
    if not isinstance(temporal, dict):
        return []
    at, start, end = (_date(temporal.get(key)) for key in ("at", "start", "end"))
    if at is not None:
        return date_terms([at])
    if start is not None and end is not None:
        return span_terms(start, end)
    return date_terms([when for when in (start, end) if when is not None])


def _date(value: Any) -> PartialDate | None:
    return date_at(value) if isinstance(value, str) else None


def _lent(text: str) -> str:
    return text[-LENT_CHARS_MAX:]


def _is_question(text: str) -> bool:
    return text.rstrip().endswith(_QUESTION_MARKS)


class Turn(NamedTuple):
    """What was said, and by whom when that is known."""

    text: str
    speaker: str | None


class Surroundings(msgspec.Struct, frozen=True):
    """What a turn gets from others: words of both sides, the question in front of it, and who spoke there."""

    context: tuple[str, ...] = ()
    asked: str = ""
    speakers: tuple[str, ...] = ()


ALONE = Surroundings()


def surroundings(before: Sequence[Turn], behind: Sequence[Turn]) -> Surroundings:
    """From the turns before and behind one, each in the order in which they were said."""
    near = [*before[-NEIGHBOURS:], *behind[:NEIGHBOURS]]
    asked = before[-1].text if before and _is_question(before[-1].text) else ""
    return Surroundings(
        context=tuple(_lent(turn.text) for turn in near),
        asked=_lent(asked),
        speakers=tuple(dict.fromkeys(turn.speaker for turn in near if turn.speaker is not None)),
    )
