"""How well a memory answers a cue: one score from the signals that found it, and what each gave to it.

Words, vector and emotion are each scaled so that the best counts 1, and weighed by what the cue asks for: words
.6 and vector .4, emotion .2 beside them, a single one whole. So a signal that finds a memory, too, never lowers
its score. Activation joins it (engine specification, "Recall"), and how well it is still remembered is a mild
factor: a memory that has all but faded gets a twentieth less than a clear one, which lets decay decide between
like answers and hides none. (Measured on conversations whose questions ask for old and new alike: with .05 as
many are answered as without, with .1 .002 fewer, with .2 .009.) In a time range fidelity counts besides.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple

import msgspec

from cerememory.domain.activation import Activation
from cerememory.protocol.values import RecordId

WORDS_WEIGHT = 0.6
VECTOR_WEIGHT = 0.4
EMOTION_WEIGHT = 0.2  # of the whole, beside words or vector
JOINED_WEIGHT = 0.5  # of the activation by which alone a memory was found
ACTIVATION_WEIGHT = 0.3  # what activation adds to any memory
FIDELITY_WEIGHT = 0.05  # of all that was found
KEPT = 1.0 - FIDELITY_WEIGHT  # of it, whatever the fidelity
TIME_WEIGHT = 0.1  # what a memory's fidelity adds in a time range, beside any other signal


class WordParts(NamedTuple):
    """What each field gave to the score of the words."""

    text: float
    context: float
    who: float
    when: float
    asked: float

    def scaled_to(self, whole: float) -> WordParts:
        """The same shares of another sum."""
        scale = whole / sum(self) if whole else 0.0
        return WordParts(*(part * scale for part in self))


NO_WORDS = WordParts(0.0, 0.0, 0.0, 0.0, 0.0)


class Candidate(msgspec.Struct, gc=False):
    """`words`, `vector`, `emotion` are scaled to 0..1, 0 where that signal didn't find the memory.

    `activation` is what came over associations from the best of those that any signal has found. `fidelity`
    is None until it is read, and counts as 1 till then.
    """

    record_id: RecordId
    store_code: int
    created_at: int
    words: float = 0.0
    vector: float = 0.0
    emotion: float = 0.0
    fidelity: float | None = None
    activation: Activation | None = None
    word_parts: WordParts = NO_WORDS


class Weights(NamedTuple):
    """What each signal counts; the first three sum to 1, or are all 0 when the cue has none of them."""

    words: float
    vector: float
    emotion: float
    time: float


def weights(*, words: bool, vector: bool, emotion: bool, time: bool) -> Weights:
    """For a cue that has these signals; a cue of none asks for the newest, and shows how clear each is."""
    content = WORDS_WEIGHT * words + VECTOR_WEIGHT * vector
    feeling = (EMOTION_WEIGHT if content else 1.0) * emotion
    scale = (1.0 - feeling) / content if content else 0.0
    in_time = TIME_WEIGHT * time if content or emotion else 1.0
    return Weights(WORDS_WEIGHT * words * scale, VECTOR_WEIGHT * vector * scale, feeling, in_time)


class Parts(NamedTuple):
    """What each signal gives to a score, which is their sum."""

    words: float
    vector: float
    emotion: float
    activation: float
    fidelity: float


def score(candidate: Candidate, weighed: Weights) -> float:
    found = _by_signals(candidate, weighed)
    if candidate.activation is not None:
        found += _by_activation(candidate, found)
    fidelity = 1.0 if candidate.fidelity is None else candidate.fidelity
    return found * (KEPT + FIDELITY_WEIGHT * fidelity) + weighed.time * fidelity


def _by_signals(candidate: Candidate, weighed: Weights) -> float:
    return (
        weighed.words * candidate.words + weighed.vector * candidate.vector + weighed.emotion * candidate.emotion
    )


def _by_activation(candidate: Candidate, found: float) -> float:
    """What it adds to a memory of which the other signals found `found`."""
    if candidate.activation is None:
        return 0.0
    level = candidate.activation.level
    return max(JOINED_WEIGHT * level - found, 0.0) + ACTIVATION_WEIGHT * level


def parts(candidate: Candidate, weighed: Weights) -> Parts:
    """What `score` is made of."""
    found = _by_signals(candidate, weighed)
    activation = _by_activation(candidate, found)
    return Parts(
        KEPT * weighed.words * candidate.words,
        KEPT * weighed.vector * candidate.vector,
        KEPT * weighed.emotion * candidate.emotion,
        KEPT * activation,
        score(candidate, weighed) - KEPT * (found + activation),
    )


class Ranked(NamedTuple):
    score: float
    candidate: Candidate


def contenders(ranked: Iterable[Ranked], least: float) -> list[Ranked]:
    """Those, of candidates ranked without their fidelity, best first, that may score `least` with it."""
    return list(takewhile(lambda each: each.score >= least, ranked))


def order(score_: float, candidate: Candidate) -> tuple[float, int, bytes]:
    """Best first, then newest, then by id: the same request on the same state gives the same answer."""
    return -score_, -candidate.created_at, candidate.record_id
