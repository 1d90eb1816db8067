"""What consolidation chooses to do, and what a memory is after it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain import consolidation
from cerememory.domain.consolidation import (
    HOUR_NS,
    LOOK_BACK_NS,
    SUMMARY_CHARS,
    Criteria,
    Embedding,
    Episode,
    Merge,
    Plan,
    copied_content,
    criteria_of,
    joined_edges,
    likeness,
    near_duplicates,
    plan_of,
)
from cerememory.errors import ValidationFailed
from cerememory.protocol.deadlines import OPERATION_S
from cerememory.protocol.records import Association, AssociationType, ContentBlock, MemoryContent, Modality
from cerememory.protocol.requests import Consolidate, Strategy
from cerememory.protocol.values import NANOS, ByteArray, RecordId, Timestamp

NOW = 1_800_000_000_000_000_000
EAST = (1.0, 0.0, 0.0)
NEARLY_EAST = (1.0, 0.4, 0.0)  # cosine .928
NOT_EAST = (1.0, 0.44, 0.0)  # cosine .915
SAME = b"the same words"


def an_id(number: int) -> RecordId:
    return RecordId(number.to_bytes(16, "big"))


def an_episode(number: int, **given: Any) -> Episode:
    episode = Episode(
        record_id=an_id(number),
        created_at=NOW - HOUR_NS,
        touched_at=NOW - HOUR_NS,
        access_count=0,
        fidelity=1.0,
        likeness=None,
        has_copy=False,
    )
    return msgspec.structs.replace(episode, **given)


def vectors(*values: tuple[float, ...]) -> list[Embedding]:
    return [np.asarray(value, dtype=np.float32) for value in values]


def all_alike(record_ids: Sequence[RecordId]) -> list[Embedding]:
    return vectors(*[EAST] * len(record_ids))


def never_asked(record_ids: Sequence[RecordId]) -> list[Embedding]:
    raise AssertionError(record_ids)


def planned(*episodes: Episode, **criteria: Any) -> Plan:
    return plan_of(episodes, Criteria(**criteria), all_alike, NOW)


# Which strategy looks at what.


def test_full_looks_at_all_and_incremental_at_what_changed_since_the_last_run() -> None:
    incremental = Consolidate(strategy=Strategy.INCREMENTAL)
    assert criteria_of(Consolidate(strategy=Strategy.FULL), NOW, 0.0, NOW).changed_since is None
    assert criteria_of(incremental, NOW, 0.0, NOW).changed_since == NOW - LOOK_BACK_NS
    assert criteria_of(incremental, None, 0.0, NOW).changed_since is None
    assert criteria_of(incremental, 0, 0.0, NOW).changed_since is None


def test_a_run_that_is_yet_to_come_says_nothing() -> None:
    """The clock was set back since."""
    assert criteria_of(Consolidate(), NOW + 1, 0.0, NOW).changed_since is None
    assert criteria_of(Consolidate(), NOW, 0.0, NOW).changed_since is not None


def test_a_run_looks_back_for_longer_than_an_operation_may_take() -> None:
    assert LOOK_BACK_NS > 2 * OPERATION_S * NANOS


@pytest.mark.parametrize("given", [{"min_age_hours": 1}, {"min_access_count": 1}])
def test_selective_looks_at_what_it_is_told_to(given: dict[str, Any]) -> None:
    criteria = criteria_of(Consolidate(strategy=Strategy.SELECTIVE, **given), NOW, 0.0, NOW)
    assert criteria == Criteria(
        min_age_ns=given.get("min_age_hours", 0) * HOUR_NS, min_access_count=given.get("min_access_count", 0)
    )


def test_selective_without_a_criterion_is_refused() -> None:
    with pytest.raises(ValidationFailed, match="selective"):
        criteria_of(Consolidate(strategy=Strategy.SELECTIVE), NOW, 0.0, NOW)


def test_duplicates_are_told_by_their_text_unless_asked_otherwise() -> None:
    assert criteria_of(Consolidate(), None, 0.0, NOW).by_text
    assert criteria_of(Consolidate(dedup=True), None, 0.25, NOW) == Criteria(by_text=False, faint_below=0.25)


def test_incremental_skips_what_was_there_and_unchanged_at_the_last_run() -> None:
    old = an_episode(1)
    recalled = an_episode(2, touched_at=NOW - 1)
    young_then = an_episode(3, created_at=NOW - HOUR_NS - 1)
    plan = planned(old, recalled, changed_since=NOW - 2)
    assert (plan.processed, plan.copies) == (1, (recalled.record_id,))
    aged = planned(old, young_then, changed_since=NOW - 2, min_age_ns=HOUR_NS)
    assert aged.copies == (old.record_id, young_then.record_id)
    assert planned(old, young_then, changed_since=NOW, min_age_ns=HOUR_NS).processed == 0


# Which memories get a semantic copy.


@pytest.mark.parametrize(
    ("given", "criteria", "copied"),
    [
        ({}, {}, True),
        ({"has_copy": True}, {}, False),
        ({}, {"min_age_ns": HOUR_NS}, True),
        ({}, {"min_age_ns": HOUR_NS + 1}, False),
        ({"access_count": 2}, {"min_access_count": 3}, False),
        ({"access_count": 3}, {"min_access_count": 3}, True),
        ({"access_count": 9}, {"min_access_count": 3, "min_age_ns": 2 * HOUR_NS}, False),
    ],
)
def test_old_and_often_enough_and_not_copied_yet(
    given: dict[str, Any], criteria: dict[str, int], copied: bool
) -> None:
    plan = planned(an_episode(1, **given), **criteria)
    assert plan == Plan(1, (), (an_id(1),) if copied else ())


def test_of_duplicates_only_the_one_that_stays_is_copied() -> None:
    plan = planned(*(an_episode(i, likeness=SAME, fidelity=i / 10) for i in range(1, 4)), an_episode(9))
    assert plan == Plan(4, (Merge(an_id(3), (an_id(2), an_id(1))),), (an_id(3), an_id(9)))
    assert plan.absorbed_count == 2


def test_the_copy_of_a_duplicate_counts_as_that_of_the_one_that_stays() -> None:
    plan = planned(
        an_episode(1, likeness=SAME), an_episode(2, likeness=SAME, fidelity=0.5, has_copy=True), an_episode(3)
    )
    assert plan.copies == (an_id(3),)


# Which memories go after they were copied.


def test_what_is_faint_goes_when_it_has_or_gets_a_copy() -> None:
    episodes = [
        an_episode(1, fidelity=0.09),
        an_episode(2, fidelity=0.09, has_copy=True),
        an_episode(3, fidelity=0.1),
        an_episode(4, fidelity=0.09, created_at=NOW),
        an_episode(5, fidelity=0.05, likeness=SAME),
        an_episode(6, fidelity=0.5, likeness=SAME),
    ]
    plan = planned(*episodes, faint_below=0.1, min_age_ns=HOUR_NS)
    assert plan.faint == (an_id(1), an_id(2))
    assert plan.copies == (an_id(1), an_id(3), an_id(6))
    assert planned(*episodes).faint == ()


# Which memories are near-duplicates.


def test_different_texts_are_no_duplicates_unless_asked_for() -> None:
    pair = (an_episode(1, likeness=b"one"), an_episode(2, likeness=b"two"))
    assert plan_of(pair, Criteria(), never_asked, NOW).merges == ()
    assert planned(*pair, by_text=False).merges == (Merge(an_id(1), (an_id(2),)),)


def test_memories_without_an_embedding_are_no_duplicates() -> None:
    assert plan_of([an_episode(1), an_episode(2)], Criteria(by_text=False), never_asked, NOW).merges == ()


def test_duplicates_that_did_not_change_are_left_alone_by_an_incremental_run() -> None:
    pair = (an_episode(1, likeness=SAME), an_episode(2, likeness=SAME))
    assert plan_of(pair, Criteria(changed_since=NOW - 1), never_asked, NOW) == Plan(0, (), ())
    changed = msgspec.structs.replace(pair[1], touched_at=NOW)
    assert planned(pair[0], changed, changed_since=NOW - 1).merges == (Merge(an_id(1), (an_id(2),)),)


@pytest.mark.parametrize(("other", "near"), [(EAST, True), (NEARLY_EAST, True), (NOT_EAST, False)])
def test_embeddings_that_point_the_same_way_are_near(other: tuple[float, ...], near: bool) -> None:
    found = near_duplicates([an_episode(1), an_episode(2)], vectors(EAST, other))
    assert found == ([Merge(an_id(1), (an_id(2),))] if near else [])


@pytest.mark.parametrize("other", [(1.0, 0.0), (0.0, 0.0, 0.0)])
def test_another_length_or_no_direction_is_never_near(other: tuple[float, ...]) -> None:
    assert near_duplicates([an_episode(1), an_episode(2)], vectors(EAST, other)) == []
    assert near_duplicates([an_episode(1), an_episode(2)], vectors(other, EAST)) == []


def test_the_length_of_a_vector_is_no_matter() -> None:
    found = near_duplicates([an_episode(1), an_episode(2)], vectors(EAST, (1e-8, 0.0, 0.0)))
    assert found == [Merge(an_id(1), (an_id(2),))]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"fidelity": 0.6, "created_at": NOW}, {"fidelity": 0.5}),
        ({"created_at": NOW - 1}, {"created_at": NOW}),
        ({}, {}),
    ],
)
def test_the_clearer_stays_else_the_older_else_the_lower_id(better: dict[str, Any], worse: dict[str, Any]) -> None:
    pair = [an_episode(1, **better), an_episode(2, **worse)]
    for episodes in (pair, pair[::-1]):
        assert near_duplicates(episodes, vectors(EAST, EAST)) == [Merge(an_id(1), (an_id(2),))]


def test_near_isnt_passed_on() -> None:
    """Each absorbed memory is near the one that absorbed it, not just near one that is."""
    chain = vectors(EAST, NEARLY_EAST, (1.0, 0.9, 0.0))
    found = near_duplicates([an_episode(i, fidelity=1 - i / 10) for i in range(3)], chain)
    assert found == [Merge(an_id(0), (an_id(1),))]


@given(
    angles=st.lists(st.floats(0, 3.1), min_size=1, max_size=12),
    fidelities=st.lists(st.sampled_from([0.2, 0.5, 1.0]), min_size=12, max_size=12),
    seed=st.integers(),
    compared_max=st.integers(1, 64),
)
def test_each_memory_is_absorbed_once_by_a_clearer_near_one_in_whatever_order_they_come(
    angles: list[float], fidelities: list[float], seed: int, compared_max: int
) -> None:
    episodes = [an_episode(i, fidelity=fidelities[i]) for i in range(len(angles))]
    embeddings = vectors(*[(float(np.cos(angle)), float(np.sin(angle))) for angle in angles])
    found = near_duplicates(episodes, embeddings)
    absorbed = [record_id for merge in found for record_id in merge.absorbed]
    assert len(set(absorbed)) == len(absorbed)
    by_id = {e.record_id: (e, angle) for e, angle in zip(episodes, angles, strict=True)}
    for merge in found:
        kept, kept_angle = by_id[merge.kept]
        assert merge.kept not in absorbed
        for other, angle in (by_id[record_id] for record_id in merge.absorbed):
            assert other.fidelity <= kept.fidelity
            assert np.cos(kept_angle - angle) > consolidation.COSINE_MIN - 1e-6
    order = random.Random(seed).sample(range(len(angles)), len(angles))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(consolidation, "COMPARED_MAX", compared_max)
        shuffled = near_duplicates([episodes[i] for i in order], [embeddings[i] for i in order])
    assert shuffled == found


# A plan carried out leaves nothing to do.


def carried_out(episodes: Sequence[Episode], plan: Plan) -> list[Episode]:
    gone = {record_id for merge in plan.merges for record_id in merge.absorbed}
    copied = set(plan.copies) | {
        merge.kept
        for merge in plan.merges
        for episode in episodes
        if episode.record_id in merge.absorbed and episode.has_copy
    }
    return [
        msgspec.structs.replace(episode, has_copy=episode.has_copy or episode.record_id in copied)
        for episode in episodes
        if episode.record_id not in gone
    ]


EPISODES = st.lists(
    st.builds(
        an_episode,
        st.integers(0, 2**32),
        created_at=st.integers(NOW - 3 * HOUR_NS, NOW),
        access_count=st.integers(0, 3),
        fidelity=st.sampled_from([0.05, 0.5, 1.0]),
        likeness=st.sampled_from([None, b"one", b"two"]),
        has_copy=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda episode: episode.record_id,
)


@given(
    episodes=EPISODES,
    min_age_ns=st.sampled_from([0, HOUR_NS]),
    min_access_count=st.integers(0, 2),
    by_text=st.booleans(),
)
def test_a_second_run_finds_nothing_to_do(
    episodes: list[Episode], min_age_ns: int, min_access_count: int, by_text: bool
) -> None:
    criteria = Criteria(min_age_ns, min_access_count, None, by_text)
    first = plan_of(episodes, criteria, all_alike, NOW)
    assert first.processed == len(episodes)
    assert set(first.copies).isdisjoint(id_ for merge in first.merges for id_ in merge.absorbed)
    after = carried_out(episodes, first)
    assert len(after) == len(episodes) - first.absorbed_count
    second = plan_of(after, criteria, all_alike, NOW)
    assert (second.merges, second.copies) == ((), ())


# Which contents say the same.


def content(*blocks: tuple[Modality, bytes], summary: str | None = None, kind: str = "any") -> MemoryContent:
    made = (ContentBlock(modality=modality, format=kind, data=ByteArray(data)) for modality, data in blocks)
    return MemoryContent(blocks=tuple(made), summary=summary)


def text(words: str, **given: Any) -> MemoryContent:
    return content((Modality.TEXT, words.encode()), **given)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (text("The tide  is\nhigh"), text(" the TIDE is high ")),
        (text("caf\u00e9"), text("cafe\u0301")),
        (text("a", kind="text/plain"), text("a", kind="text/markdown")),
        (text("a", summary="In Short"), text("a", summary="in  short")),
    ],
)
def test_case_white_space_and_spelling_in_unicode_do_not_matter(one: MemoryContent, other: MemoryContent) -> None:
    assert likeness(one) == likeness(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (text("tide"), text("tides")),
        (text("resume"), text("résumé")),
        (text("a", summary="b"), text("a")),
        (content((Modality.TEXT, b"a"), (Modality.TEXT, b"b")), text("a b")),
        (
            content((Modality.TEXT, b"a"), (Modality.IMAGE, b"1")),
            content((Modality.TEXT, b"a"), (Modality.IMAGE, b"2")),
        ),
        (content((Modality.IMAGE, b"A")), content((Modality.IMAGE, b"a"))),
        (content((Modality.IMAGE, b"a"), kind="png"), content((Modality.IMAGE, b"a"), kind="gif")),
        (content((Modality.STRUCTURED, b"1")), content((Modality.TEXT, b"1"))),
    ],
)
def test_whatever_else_differs_is_another_content(one: MemoryContent, other: MemoryContent) -> None:
    assert likeness(one) != likeness(other)


def test_embeddings_are_no_part_of_what_a_content_says() -> None:
    block = ContentBlock(modality=Modality.TEXT, format="any", data=ByteArray(b"a"), embedding=(1.0,))
    assert likeness(MemoryContent(blocks=(block,))) == likeness(text("a"))


# The edges of who absorbed another.


def an_edge(
    target: int, kind: AssociationType = AssociationType.CAUSAL, weight: float = 0.5, at: int = 5
) -> Association:
    return Association(
        target_id=an_id(target),
        association_type=kind,
        weight=weight,
        created_at=Timestamp(at),
        last_co_activation=Timestamp(at),
    )


def test_edges_follow_their_targets() -> None:
    assert joined_edges(an_id(1), [an_edge(2), an_edge(3)], {an_id(2): an_id(4)}) == (an_edge(4), an_edge(3))


def test_no_edge_points_to_its_owner() -> None:
    assert joined_edges(an_id(1), [an_edge(1), an_edge(2)], {an_id(2): an_id(1)}) == ()


def test_of_equal_edges_one_stays_with_the_stronger_weight_and_both_times() -> None:
    [joined] = joined_edges(an_id(1), [an_edge(2, weight=0.4, at=7), an_edge(3, weight=0.6)], {an_id(3): an_id(2)})
    assert (joined.target_id, joined.weight, joined.created_at, joined.last_co_activation) == (an_id(2), 0.6, 5, 7)


def test_edges_of_different_types_to_one_target_are_different_edges() -> None:
    edges = (an_edge(2), an_edge(2, AssociationType.TEMPORAL))
    assert joined_edges(an_id(1), edges, {}) == edges


# The content of a semantic copy.


@pytest.mark.parametrize(
    ("given", "provided", "summary"),
    [
        (text("words", summary="own"), "provider's", "own"),
        (text("words", summary=""), "provider's", ""),
        (text("words"), "provider's", "provider's"),
        (text("words"), None, "words"),
        (text("潮" * SUMMARY_CHARS), None, "潮" * SUMMARY_CHARS),
        (text("潮" * (SUMMARY_CHARS + 1)), None, "潮" * SUMMARY_CHARS + "..."),
        (content((Modality.IMAGE, b"png")), None, None),
    ],
)
def test_the_summary_of_a_copy(given: MemoryContent, provided: str | None, summary: str | None) -> None:
    copied = copied_content(given, provided)
    assert copied.summary == summary
    assert copied.blocks == given.blocks
