"""How a faded memory reads: the deeper it has faded, the more of its words are missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.render import rendered, with_holes
from cerememory.protocol.records import ContentBlock, MemoryContent, Modality
from cerememory.protocol.values import ByteArray

FADED = st.floats(0.0, 0.9, exclude_max=True)
WORDS = "one two three four five six seven eight nine ten"


def content(*texts: str, modality: Modality = Modality.TEXT) -> MemoryContent:
    blocks = tuple(
        ContentBlock(modality=modality, format="f", data=ByteArray(text.encode()), embedding=(1.0,))
        for text in texts
    )
    return MemoryContent(blocks=blocks, summary="a summary of it all")


@pytest.mark.parametrize("fidelity", [0.9, 0.95, 1.0])
def test_a_clear_memory_reads_as_it_was_stored(fidelity: float) -> None:
    stored = content(WORDS, "two  spaces\nand lines")
    assert rendered(stored, fidelity) is stored


@pytest.mark.parametrize(
    ("fidelity", "read"),
    [
        (0.89, "... two three four five six seven eight nine ..."),  # every ninth
        (0.75, "... two three four ... six seven eight ... ten"),  # every fourth
        (0.5, "... two ... four ... six ... eight ... ten"),
        (0.3, "... two ... four ... six ... eight ... ten"),  # never more often than every second
        (0.0, "... two ... four ... six ... eight ... ten"),
    ],
)
def test_every_kth_word_from_the_first_is_a_hole(fidelity: float, read: str) -> None:
    [block] = rendered(content(WORDS), fidelity).blocks
    assert block.data.decode() == read


def test_words_of_a_faded_memory_are_joined_by_one_space() -> None:
    assert with_holes("  a\tb\n\nc   d ", 0.75) == "... b c d"


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_a_text_without_words_stays_without(text: str) -> None:
    assert with_holes(text, 0.5) == ""


@given(FADED, st.lists(st.text("abcé", min_size=1, max_size=3), max_size=30))
def test_the_words_that_are_left_stand_where_they_stood(fidelity: float, words: list[str]) -> None:
    read = with_holes(" ".join(words), fidelity).split()
    assert len(read) == len(words)
    assert all(word in (stored, "...") for word, stored in zip(read, words, strict=True))
    assert read.count("...") <= len(words) // 2 + 1


@given(st.tuples(FADED, FADED).map(sorted))
def test_a_deeper_faded_memory_never_has_fewer_holes(fidelities: list[float]) -> None:
    deeper, clearer = (with_holes(WORDS, fidelity).count("...") for fidelity in fidelities)
    assert deeper >= clearer


@pytest.mark.parametrize("modality", [modality for modality in Modality if modality is not Modality.TEXT])
def test_only_text_fades(modality: Modality) -> None:
    stored = content(WORDS, modality=modality)
    assert rendered(stored, 0.2) == stored


def test_only_the_data_of_a_text_block_changes_and_the_summary_stays() -> None:
    stored = content(WORDS, "a b")
    faded = rendered(stored, 0.5)
    assert faded.summary == stored.summary
    for before, after in zip(stored.blocks, faded.blocks, strict=True):
        assert (after.modality, after.format, after.embedding) == (
            before.modality,
            before.format,
            before.embedding,
        )
    assert stored == content(WORDS, "a b"), "what is stored never changes"
