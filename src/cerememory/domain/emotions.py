"""Emotion words and the vectors they stand for.

A person or an agent writes one word; a memory carries a vector. Both directions live here, for every surface
that takes or shows a label. Source of the words and valences: the CMP protocol, "Emotion labels".
"""

from __future__ import annotations

from cerememory.protocol.records import EmotionVector

VALENCE: dict[str, float] = {
    "joy": 1.0,
    "trust": 0.7,
    "fear": -0.8,
    "surprise": 0.0,
    "sadness": -1.0,
    "disgust": -0.9,
    "anger": -0.9,
    "anticipation": 0.4,
}
EMOTIONS: tuple[str, ...] = tuple(VALENCE)  # the axes, in the order of the wire
_OTHER_WORDS = {
    "happy": "joy",
    "happiness": "joy",
    "sad": "sadness",
    "angry": "anger",
    "anticipatory": "anticipation",
}


def emotion_of(label: str) -> EmotionVector:
    """The full-strength vector of a word in any case; `ValueError` with a reason for any other."""
    word = label.strip().lower()
    axis = _OTHER_WORDS.get(word, word)
    if axis not in VALENCE:
        raise ValueError(f"unknown label {label[:32]!r}, expected one of {', '.join(EMOTIONS)}")
    return EmotionVector(**{axis: 1.0}, intensity=1.0, valence=VALENCE[axis])


def label_of(emotion: EmotionVector) -> str | None:
    """The strongest axis, the first of equals; None when no axis is above zero."""
    strength, _, axis = max((s, -i, EMOTIONS[i]) for i, s in enumerate(emotion.axes()))
    return axis if strength > 0 else None
