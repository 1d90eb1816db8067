"""Emotion words to vectors and back."""

from __future__ import annotations

import pytest

from cerememory.domain.emotions import EMOTIONS, emotion_of, label_of
from cerememory.protocol.records import NEUTRAL, EmotionVector


@pytest.mark.parametrize(
    ("label", "axis", "valence"),
    [
        ("joy", "joy", 1.0),
        ("happy", "joy", 1.0),
        ("happiness", "joy", 1.0),
        ("trust", "trust", 0.7),
        ("fear", "fear", -0.8),
        ("surprise", "surprise", 0.0),
        ("sadness", "sadness", -1.0),
        ("sad", "sadness", -1.0),
        ("disgust", "disgust", -0.9),
        ("anger", "anger", -0.9),
        ("angry", "anger", -0.9),
        ("anticipation", "anticipation", 0.4),
        (" Anticipatory ", "anticipation", 0.4),
    ],
)
def test_a_word_is_one_axis_at_full_strength(label: str, axis: str, valence: float) -> None:
    emotion = emotion_of(label)
    assert emotion == EmotionVector(**{axis: 1.0}, intensity=1.0, valence=valence)


@pytest.mark.parametrize("label", ["", "bliss", "joy!", "intensity"])
def test_another_word_is_refused_with_the_words_there_are(label: str) -> None:
    with pytest.raises(ValueError, match=r"unknown label .* joy, trust, fear"):
        emotion_of(label)


@pytest.mark.parametrize("label", EMOTIONS)
def test_a_words_vector_has_that_label(label: str) -> None:
    assert label_of(emotion_of(label.upper())) == label


def test_a_vector_has_the_label_of_its_strongest_axis() -> None:
    assert label_of(EmotionVector(joy=0.2, fear=0.5, anger=0.4, intensity=1.0)) == "fear"


def test_of_equal_axes_the_first_gives_the_label() -> None:
    assert label_of(EmotionVector(trust=0.5, anger=0.5)) == "trust"


@pytest.mark.parametrize("emotion", [NEUTRAL, EmotionVector(intensity=0.9, valence=-1.0)])
def test_a_vector_without_an_axis_has_no_label(emotion: EmotionVector) -> None:
    assert label_of(emotion) is None
