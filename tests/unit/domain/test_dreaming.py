"""How the journal is cut into dreams, and what is told of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain import dreaming
from cerememory.domain.dreaming import (
    DAY_NS,
    DREAM_CHARS_MAX,
    ENTRY_CHARS_MAX,
    GROUP_ENTRIES_MAX,
    LABEL_CHARS_MAX,
    PAUSE_NS,
    SILENCE_NS,
    SUMMARY_CHARS_MAX,
    TEXT_CHARS_MAX,
    Group,
    RawEntry,
    dream_text,
    groups,
    overlap,
    shortened,
    summary_of,
    text_of,
    words,
)
from cerememory.protocol.records import ContentBlock, MemoryContent, Modality, SecrecyLevel, Visibility
from cerememory.protocol.values import NANOS, ByteArray, RecordId

MORNING = 20_000 * DAY_NS + 8 * 3_600 * NANOS  # 2024-10-04T08:00:00Z
MINUTE = 60 * NANOS
TIDES = "the tide was high in the harbour"
TIDES_AGAIN = "the tide in the harbour falls"
BREAD = "knead bread dough slowly"


def an_entry(number: int, at: int = MORNING, text: str = "kettle", **given: Any) -> RawEntry:
    return RawEntry(
        record_id=RecordId(number.to_bytes(16, "big")),
        session_id=given.pop("session_id", "s-1"),
        topic_id=given.pop("topic_id", None),
        created_at=at,
        visibility=given.pop("visibility", Visibility.NORMAL),
        secrecy_level=given.pop("secrecy_level", SecrecyLevel.PUBLIC),
        text=text,
        stamp=b"",
    )


def numbers(found: list[Group]) -> list[list[int]]:
    return [[int.from_bytes(entry.record_id, "big") for entry in group.entries] for group in found]


def only_group(*entries: RawEntry) -> Group:
    [group] = groups(entries)
    return group


def test_entries_with_a_topic_stay_together_however_long_they_were_silent() -> None:
    hours = [an_entry(i, MORNING + i * 3_600 * NANOS, topic_id="tides") for i in range(5)]
    assert numbers(groups(hours)) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    "different",
    [{"topic_id": "bread"}, {"session_id": "s-2"}, {"topic_id": None}, {"at": MORNING + DAY_NS}],
    ids=lambda given: next(iter(given)),
)
def test_another_day_session_or_topic_is_another_group(different: dict[str, Any]) -> None:
    other = an_entry(2, **{"topic_id": "tides", **different})
    assert numbers(groups([an_entry(1, topic_id="tides"), other])) == [[1], [2]]


def test_midnight_in_utc_ends_a_group() -> None:
    midnight = MORNING - MORNING % DAY_NS
    assert numbers(groups([an_entry(1, midnight - 1), an_entry(2, midnight)])) == [[1], [2]]


def test_days_before_the_epoch_are_days_too() -> None:
    entries = [an_entry(i, at, topic_id="t") for i, at in enumerate([-DAY_NS - 1, -DAY_NS, -1, 0])]
    assert numbers(groups(entries)) == [[0], [1, 2], [3]]


@pytest.mark.parametrize(
    ("gap", "text", "count"),
    [
        (PAUSE_NS, BREAD, 1),
        (PAUSE_NS + 1, BREAD, 2),
        (PAUSE_NS + 1, TIDES_AGAIN, 1),
        (SILENCE_NS, TIDES_AGAIN, 1),
        (SILENCE_NS + 1, TIDES_AGAIN, 2),
        (SILENCE_NS + 1, TIDES, 2),
    ],
)
def test_a_silence_ends_a_group_and_a_pause_when_the_subject_changes(gap: int, text: str, count: int) -> None:
    assert len(groups([an_entry(1, MORNING, TIDES), an_entry(2, MORNING + gap, text)])) == count


def test_a_gap_counts_from_the_entry_before_it_not_from_the_first() -> None:
    entries = [an_entry(i, MORNING + i * 40 * MINUTE, TIDES) for i in range(4)]
    assert len(groups(entries)) == 1


def test_a_topic_of_white_space_is_none() -> None:
    group = only_group(an_entry(1, topic_id=" \t", text=BREAD))
    assert (group.topic_id, group.topic_hint) == (None, "bread+dough+knead")


def test_a_given_topic_is_its_own_hint() -> None:
    assert only_group(an_entry(1, topic_id="tides", text=BREAD)).topic_hint == "tides"


def test_the_hint_is_made_of_the_three_most_frequent_words() -> None:
    entries = [an_entry(i, text=text) for i, text in enumerate(["tide wind tide", "the wind, the boat", "rope"])]
    assert only_group(*entries).topic_hint == "tide+wind+boat"


def test_without_words_the_hint_is_the_day_and_the_number_of_the_group_in_its_session() -> None:
    entries = [an_entry(i, MORNING + i * 50 * MINUTE, "ok") for i in range(2)]
    other = an_entry(2, MORNING + MINUTE, "42", session_id="s-2")
    assert [group.topic_hint for group in groups([*entries, other])] == [
        "auto-20241004-1",
        "auto-20241004-1",
        "auto-20241004-2",
    ]


def test_groups_come_in_the_order_of_their_first_entries() -> None:
    entries = [
        an_entry(1, MORNING + 2),
        an_entry(2, MORNING, session_id="s-9"),
        an_entry(3, MORNING + 1, topic_id="t"),
    ]
    assert numbers(groups(entries)) == [[2], [3], [1]]


@pytest.mark.parametrize("topic_id", ["tides", None])
def test_a_long_stretch_becomes_several_groups(topic_id: str | None) -> None:
    entries = [an_entry(i, MORNING + i, topic_id=topic_id) for i in range(GROUP_ENTRIES_MAX + 3)]
    assert [len(group.entries) for group in groups(entries)] == [GROUP_ENTRIES_MAX, 3]


def test_no_entries_no_groups() -> None:
    assert groups([]) == []


ENTRIES = st.lists(
    st.builds(
        an_entry,
        st.integers(0, 2**64),
        st.integers(0, 300).map(lambda minutes: MORNING + minutes * 6 * MINUTE),
        st.sampled_from([TIDES, TIDES_AGAIN, BREAD, "ok", ""]),
        session_id=st.sampled_from(["s-1", "s-2"]),
        topic_id=st.sampled_from(["tides", "", None]),
        visibility=st.sampled_from(Visibility),
        secrecy_level=st.sampled_from(SecrecyLevel),
    ),
    max_size=40,
    unique_by=lambda entry: entry.record_id,
)


@given(entries=ENTRIES)
def test_each_entry_is_in_one_group(entries: list[RawEntry]) -> None:
    found = [entry for group in groups(entries) for entry in group.entries]
    assert sorted(found, key=lambda entry: entry.record_id) == sorted(entries, key=lambda entry: entry.record_id)


@given(entries=ENTRIES, seed=st.integers())
def test_the_order_in_which_entries_come_makes_no_difference(entries: list[RawEntry], seed: int) -> None:
    shuffled = random.Random(seed).sample(entries, len(entries))
    assert groups(shuffled) == groups(entries)


@given(entries=ENTRIES)
def test_a_day_at_a_time_gives_the_same_groups(entries: list[RawEntry]) -> None:
    by_day: dict[int, list[RawEntry]] = {}
    for entry in entries:
        by_day.setdefault(dreaming.day_of(entry.created_at), []).append(entry)
    assert [group for day in sorted(by_day) for group in groups(by_day[day])] == groups(entries)


@given(entries=ENTRIES)
def test_neighbours_in_a_group_share_their_thread_and_no_gap_is_too_long(entries: list[RawEntry]) -> None:
    for group in groups(entries):
        for before, entry in zip(group.entries, group.entries[1:], strict=False):
            gap = entry.created_at - before.created_at
            assert 0 <= gap <= (DAY_NS if group.topic_id else SILENCE_NS)
            assert entry.session_id == group.session_id


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("The tide, again: at 05:12!", ["tide"]),
        ("it is ok by me", []),
        ("python3 x86 2026", ["python3", "x86"]),
        ("東京都へ行く", ["東京", "京都", "都へ", "へ行", "行く"]),
        ("не знаю", ["знаю"]),
    ],
)
def test_words_are_those_that_tell_a_subject(text: str, telling: list[str]) -> None:
    assert words(text) == telling


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [("", "", 0.0), ("tide", "", 0.0), ("tide boat", "Tide wind", 1 / 3), ("tide tide", "tide", 1.0)],
)
def test_overlap_is_the_share_of_common_words(one: str, other: str, share: float) -> None:
    assert overlap(one, other) == overlap(other, one) == pytest.approx(share)


def test_the_text_is_that_of_the_dream_that_the_reference_had() -> None:
    said = [("keeper: tide was high at 05:12", "public"), ("assistant: noted", "sensitive")]
    entries = [
        an_entry(i, text=text, topic_id="tides", secrecy_level=SecrecyLevel(level))
        for i, (text, level) in enumerate(said)
    ]
    expected = "Dream summary for session s-1 / topic tides: keeper: tide was high at 05:12 | assistant: noted"
    assert dream_text(only_group(*entries)) == expected
    assert summary_of(expected) == expected


HIDDEN: list[dict[str, Any]] = [
    {"visibility": Visibility.SEALED},
    {"visibility": Visibility.PRIVATE_SCRATCH},
    {"secrecy_level": SecrecyLevel.SECRET},
    {"visibility": Visibility.SEALED, "secrecy_level": SecrecyLevel.SECRET},
]


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_of_what_is_hidden_no_word_is_told(hidden: dict[str, Any]) -> None:
    group = only_group(an_entry(1, text=TIDES), an_entry(2, text="passphrase passphrase", **hidden))
    assert dream_text(group).endswith(f": {TIDES} [Redacted raw records: 1]")
    assert "passphrase" not in dream_text(group) + group.topic_hint + "".join(group.texts)


def test_a_hidden_entry_is_counted_once() -> None:
    group = only_group(
        an_entry(0), *(an_entry(i, text="no", **hidden) for i, hidden in enumerate(HIDDEN, start=1))
    )
    counts = group.counts()
    assert (counts.normal, counts.private_scratch, counts.sealed, counts.secret) == (1, 1, 2, 1)
    assert counts.redacted == 4


def test_without_a_text_that_may_be_told_the_session_and_the_counts_are() -> None:
    group = only_group(an_entry(1, text=""), an_entry(2, text="no", visibility=Visibility.SEALED))
    assert dream_text(group) == "Dream summary for session s-1: 1 raw records preserved, 1 redacted"
    assert dream_text(group, "a provider's") == dream_text(group)


def test_a_providers_summary_stands_for_the_texts_but_not_for_the_count() -> None:
    group = only_group(an_entry(1, text=TIDES), an_entry(2, secrecy_level=SecrecyLevel.SECRET))
    assert dream_text(group, "High tide.") == "High tide. [Redacted raw records: 1]"
    assert dream_text(group, "") == dream_text(group, None)


def test_only_the_first_texts_are_told_each_within_its_length() -> None:
    entries = [an_entry(i, MORNING + i, f"{i}" + "x" * 200, topic_id="t") for i in range(10)]
    told = dream_text(only_group(*entries)).partition(": ")[2].split(" | ")
    assert [text[0] for text in told] == list("01234567")[: len(told)]
    assert all(len(text) == TEXT_CHARS_MAX and text.endswith("...") for text in told[:-1])
    short = [an_entry(i, MORNING + i, f"n{i}", topic_id="t") for i in range(10)]
    assert dream_text(only_group(*short)).endswith(": n0 | n1 | n2 | n3 | n4 | n5 | n6 | n7")


def test_long_names_leave_room_for_what_was_said() -> None:
    group = only_group(an_entry(1, text=TIDES, session_id="s" * 1_024, topic_id="t\n" * 512))
    assert TIDES in dream_text(group)
    assert "\n" not in dream_text(group)


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)


@given(
    texts=st.lists(ANY_TEXT, min_size=1, max_size=12),
    session_id=ANY_TEXT,
    topic_id=st.none() | ANY_TEXT,
    summary=st.none() | ANY_TEXT.map(lambda text: text * 5),
    hidden=st.integers(0, 3),
)
def test_texts_keep_their_limits_whatever_the_script(
    texts: list[str], session_id: str, topic_id: str | None, summary: str | None, hidden: int
) -> None:
    given: dict[str, Any] = {"session_id": session_id, "topic_id": topic_id}
    entries = [an_entry(i, text=text, **given) for i, text in enumerate(texts)]
    entries += [an_entry(100 + i, visibility=Visibility.SEALED, **given) for i in range(hidden)]
    text = dream_text(only_group(*entries), summary)
    assert 0 < len(text) <= DREAM_CHARS_MAX
    assert len(summary_of(text)) <= SUMMARY_CHARS_MAX
    assert summary_of(text) == text or summary_of(text).endswith("...")


@given(text=ANY_TEXT, chars_max=st.integers(3, 50))
def test_what_is_cut_ends_in_dots_and_what_fits_stays(text: str, chars_max: int) -> None:
    short = shortened(text, chars_max)
    assert len(short) <= chars_max
    assert short == text if len(text) <= chars_max else short[:-3] == text[: chars_max - 3]
    assert len(text) <= chars_max or (len(short) == chars_max and short.endswith("..."))


def test_lengths_are_counted_in_characters_not_in_bytes() -> None:
    text = "潮" * LABEL_CHARS_MAX
    assert text in dream_text(only_group(an_entry(1, text=text, topic_id="t")))


def content(*blocks: tuple[Modality, bytes], summary: str | None = None) -> MemoryContent:
    made = (ContentBlock(modality=modality, format="any", data=ByteArray(data)) for modality, data in blocks)
    return MemoryContent(blocks=tuple(made), summary=summary)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            content((Modality.TEXT, b"one\n two"), (Modality.IMAGE, b"png"), (Modality.TEXT, b"three")),
            "one two three",
        ),
        (content((Modality.IMAGE, b"png"), summary="a  picture"), "a picture"),
        (content((Modality.TEXT, b"said"), summary="unused"), "said"),
        (content((Modality.STRUCTURED, b"{}")), ""),
        (content((Modality.TEXT, b"torn \xff byte")), "torn byte"),
    ],
)
def test_the_text_of_an_entry_is_on_one_line(given: MemoryContent, text: str) -> None:
    assert text_of(given) == text


def test_of_a_huge_entry_only_the_beginning_is_looked_at() -> None:
    huge = content((Modality.TEXT, "潮".encode() * 300_000))
    assert text_of(huge) == "潮" * ENTRY_CHARS_MAX
