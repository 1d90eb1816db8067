"""How well a memory answers a cue: one score from the signals that found it.

Each signal is scaled so that its best counts 1, so that none drowns the others. Weights are those of the
engine specification, "Recall": 0.6 text and 0.4 vector when both are there, else the one that is.
"""

from __future__ import annotations

from dataclasses import dataclass

from cerememory.protocol.values import RecordId

TEXT_WEIGHT = 0.6
VECTOR_WEIGHT = 0.4
EMOTION_WEIGHT = 0.2  # beside text or vector; alone it counts whole
TIME_WEIGHT = 0.1  # what a memory's fidelity adds in a time range, beside any other signal


@dataclass(slots=True)
class Candidate:
    """`text`, `vector`, `emotion` are scaled to 0..1, None where that signal didn't find the memory."""

    record_id: RecordId
    store_code: int
    created_at: int
    text: float | None = None
    vector: float | None = None
    emotion: float | None = None
    fidelity: float | None = None

    def relevance(self) -> float:
        found = _content_score(self.text, self.vector)
        if self.emotion is not None:
            weight = EMOTION_WEIGHT if found is not None else 1.0
            found = (1.0 - weight) * (found or 0.0) + weight * self.emotion
        return found or 0.0


def _content_score(text: float | None, vector: float | None) -> float | None:
    if text is not None and vector is not None:
        return TEXT_WEIGHT * text + VECTOR_WEIGHT * vector
    return text if vector is None else vector


def score(candidate: Candidate, *, by_time_alone: bool) -> float:
    """The relevance, to which a time range adds the memory's fidelity (which alone it counts whole)."""
    if candidate.fidelity is None:
        return candidate.relevance()
    weight = 1.0 if by_time_alone else TIME_WEIGHT
    return candidate.relevance() + weight * candidate.fidelity


def order(score_: float, candidate: Candidate) -> tuple[float, int, bytes]:
    """Best first, then newest, then by id: the same request on the same state gives the same answer."""
    return -score_, -candidate.created_at, candidate.record_id
