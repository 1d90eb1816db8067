"""The memories and questions of the bench: made from a seed, so that every run asks the same.

Words are made of syllables, since a bench shouldn't carry anybody's text. A word's frequency falls with its
rank, as it does in language: records share their common words, and a question of four words matches a good
part of them. Lengths differ, as in language, too: where all are equal, most scores are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from random import Random

import msgspec

WORDS = 2_000
RECORD_WORDS_MIN, RECORD_WORDS_MAX = 12, 28
WORDS_PER_QUESTION = 4
RANK_OFFSET = 10  # of the word frequency 1 / (rank + offset): the commonest word stands in 3 records of 10
HITS = 10
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


class Corpus:
    """An endless supply of texts and questions; two of the same seed give the same."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._words = _vocabulary(self._random)
        self._weights = list(accumulate(1.0 / (rank + RANK_OFFSET) for rank in range(1, WORDS + 1)))

    def text(self) -> str:
        return " ".join(self._draw(self._random.randint(RECORD_WORDS_MIN, RECORD_WORDS_MAX)))

    def question(self) -> str:
        return " ".join(self._draw(WORDS_PER_QUESTION))

    def _draw(self, count: int) -> list[str]:
        return self._random.choices(self._words, cum_weights=self._weights, k=count)

    def stores(self) -> Iterator[bytes]:
        """Bodies of encode.store."""
        while True:
            yield msgspec.json.encode(_record(self.text()))

    def batches(self, size: int) -> Iterator[bytes]:
        """Bodies of encode.batch, of `size` records each."""
        while True:
            yield msgspec.json.encode({"records": [_record(self.text()) for _ in range(size)]})

    def linked_batches(self, size: int) -> Iterator[bytes]:
        """As `batches`, each record linked to its neighbours."""
        while True:
            records = [_record(self.text()) for _ in range(size)]
            yield msgspec.json.encode({"records": records, "infer_associations": True})

    def recalls(self) -> Iterator[bytes]:
        """Bodies of recall.query."""
        while True:
            yield msgspec.json.encode({"cue": {"text": self.question()}, "limit": HITS})


def _vocabulary(random: Random) -> list[str]:
    """Distinct words of two to four syllables, the commonest first."""
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(_syllable(random) for _ in range(random.randint(2, 4)))] = None
    return list(words)


def _syllable(random: Random) -> str:
    return random.choice(CONSONANTS) + random.choice(VOWELS)


def _record(text: str) -> dict[str, object]:
    """Its bytes are an array of integers, as clients of the reference send them."""
    block = {"modality": "text", "format": "text/plain", "data": list(text.encode())}
    return {"content": {"blocks": [block]}}
