"""What a text that is searched for asks: which words, about whose words, of which dates.

A word that names a known speaker says who is meant rather than what was said, so it leaves the words that are
looked for, unless nothing else is left. Where one person is named, their own words are meant; where several are,
those that they exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cerememory.domain import analysis
from cerememory.domain.analysis import STOP_WORDS
from cerememory.domain.dates import dates_in, may_name_date
from cerememory.domain.dialogue import NAME_WORDS_MAX, joined_name, parts_of_name


class Question(NamedTuple):
    """`words`, distinct; `names` of speakers as `dialogue.name_terms` has them; `dates`, terms as of `dates`."""

    words: list[str]
    names: list[str]
    dates: list[str]

    @property
    def speaker(self) -> str | None:
        """The one person that is named."""
        return self.names[0] if len(self.names) == 1 else None


def read(text: str, is_speaker: Callable[[str], bool]) -> Question:
    """What `text` asks; `is_speaker` knows the folded names of those who said something."""
    spoken = analysis.query_tokens(text)
    names = _names(spoken, is_speaker)
    words = analysis.telling(spoken, {word for name in names for word in parts_of_name(name)})
    return Question(words, names, _dates(text, spoken, names))


def _names(words: Sequence[str], is_speaker: Callable[[str], bool]) -> list[str]:
    """The speakers that are named, each once: of names with the same beginning the longest."""
    starts = [i for i, word in enumerate(words) if word not in STOP_WORDS and is_speaker(word)]
    names: dict[str, None] = {}
    end = 0
    for start in starts:
        if start >= end:
            end = _end_of_name(words, start, is_speaker)
            names[joined_name(words[start:end])] = None
    return list(names)


def _end_of_name(words: Sequence[str], start: int, is_speaker: Callable[[str], bool]) -> int:
    longest = min(start + NAME_WORDS_MAX, len(words))
    ends = range(longest, start + 1, -1)
    return next((end for end in ends if is_speaker(joined_name(words[start:end]))), start + 1)


def _dates(text: str, words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Without a month that is somebody's name."""
    if not may_name_date(words):
        return []
    return [when.term() for when in dates_in(text) if when.lone_month not in names]
