"""recall.timeline: the durable memories of a range of time, in buckets that count all and show the first."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cerememory.actors import timelines
from cerememory.errors import ValidationFailed, VersionMismatch
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord
from cerememory.protocol.replies import Timeline
from cerememory.protocol.requests import RecallTimeline
from cerememory.protocol.values import NANOS, format_timestamp
from cerememory.storage.rows import dump_state_row, parse_state_row
from tests.support.committing import a_record, an_id, changed, commit, state_key_of, storing
from tests.support.engine import NOW, Running, running_engine, to_store
from tests.support.memory_storage import MemoryStorage

HOUR_NS = 3_600 * NANOS
EVER = {"start": "0001-01-01T00:00:00Z", "end": "9999-12-31T23:59:59Z"}
HEADER = {"protocol": "cmp", "version": "2.0", "request_id": str(an_id(1)), "timestamp": EVER["start"]}
JOY, FEAR = {"joy": 1.0}, {"fear": 1.0}


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def running(tmp_path: Path, storage: MemoryStorage) -> AsyncIterator[Running]:
    async with running_engine(tmp_path, storage=storage) as opened:
        yield opened


def fill(storage: MemoryStorage, *times: int, **given: Any) -> None:
    """Memories made at these moments; they are numbered from 1 in this order."""
    commit(storage, storing(*(a_record(i, f"m{i}", at, **given) for i, at in enumerate(times, 1))))


def span(start: int, end: int) -> dict[str, str]:
    return {"start": format_timestamp(start), "end": format_timestamp(end)}


async def timeline(running: Running, **given: Any) -> Timeline:
    request = codec.parse(codec.dump({"range": EVER, **given}), RecallTimeline)
    return await running.engine.recall_timeline(request)


def shown(found: Timeline) -> list[list[str]]:
    """The texts of each bucket."""
    return [
        [
            codec.parse(bytes(memory.record), MemoryRecord).content.blocks[0].data.decode()
            for memory in bucket.memories
        ]
        for bucket in found.buckets
    ]


def counts(found: Timeline) -> list[int]:
    return [bucket.count for bucket in found.buckets]


async def test_memories_stand_in_the_hours_in_which_they_were_made_the_oldest_first(
    running: Running, storage: MemoryStorage
) -> None:
    fill(storage, NOW + 5, NOW + 3 * HOUR_NS, NOW + 1)
    found = await timeline(running)
    assert shown(found) == [["m3", "m1"], ["m2"]]
    assert counts(found) == [2, 1]
    assert [(bucket.start, bucket.end) for bucket in found.buckets] == [
        (NOW, NOW + HOUR_NS),
        (NOW + 3 * HOUR_NS, NOW + 4 * HOUR_NS),
    ]
    assert "truncated" not in codec.parse(codec.dump(found), dict[str, Any])


async def test_a_memory_is_shown_whole_and_counts_by_its_fidelity(
    running: Running, storage: MemoryStorage
) -> None:
    fill(storage, NOW)
    [bucket] = (await timeline(running)).buckets
    [memory] = bucket.memories
    record = codec.parse(bytes(memory.record), MemoryRecord)
    assert (record.id, record.access_count) == (an_id(1), 0)
    assert memory.relevance_score == record.fidelity.score
    assert memory.activation_path is None
    assert codec.dump(memory.rendered_content) == codec.dump(record.content)


@pytest.mark.parametrize("granularity", ["minute", "hour", "day", "week", "month"])
async def test_each_granularity_counts_every_memory_once(
    running: Running, storage: MemoryStorage, granularity: str
) -> None:
    chance = random.Random(granularity)
    times = [NOW + chance.randrange(100 * 24 * HOUR_NS) for _ in range(40)]
    fill(storage, *times)
    found = await timeline(running, granularity=granularity)
    assert sum(counts(found)) == 40
    for bucket in found.buckets:
        assert bucket.count == len(bucket.memories) == sum(bucket.start <= at < bucket.end for at in times)


async def test_both_ends_of_the_range_are_in_it(running: Running, storage: MemoryStorage) -> None:
    fill(storage, NOW - 1, NOW, NOW + 1, NOW + 2)
    assert shown(await timeline(running, range=span(NOW, NOW + 1))) == [["m2", "m3"]]
    assert shown(await timeline(running, range=span(NOW, NOW))) == [["m2"]]


async def test_a_range_that_ends_before_it_starts_is_refused(running: Running) -> None:
    with pytest.raises(ValidationFailed, match=r"range\.start: must not be after range\.end"):
        await timeline(running, range=span(NOW, NOW - 1))


async def test_another_protocol_is_refused(running: Running) -> None:
    with pytest.raises(VersionMismatch):
        await timeline(running, header=HEADER)


async def test_nothing_gives_no_buckets(running: Running) -> None:
    assert await timeline(running) == Timeline(buckets=())


async def test_working_memory_is_not_in_it(running: Running) -> None:
    await running.engine.encode_store(to_store("held", store="working"))
    await running.engine.encode_store(to_store("kept", store="emotional"))
    assert shown(await timeline(running)) == [["kept"]]


async def test_namespaces_are_apart(running: Running, storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1, "ours")))
    commit(storage, storing(a_record(1, "theirs", namespace=3)))
    assert shown(await timeline(running)) == [["ours"]]


async def test_what_is_beyond_the_limit_is_counted_but_not_shown(
    running: Running, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "TIMELINE_MEMORIES_MAX", 3)
    fill(storage, *(NOW + i * HOUR_NS // 2 for i in range(7)))
    found = await timeline(running)
    assert shown(found) == [["m1", "m2"], ["m3"], [], []]
    assert counts(found) == [2, 2, 2, 1]
    assert found.truncated is True


async def test_the_limit_itself_truncates_nothing(
    running: Running, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "TIMELINE_MEMORIES_MAX", 3)
    fill(storage, NOW, NOW, NOW)
    found = await timeline(running)
    assert (len(found.buckets[0].memories), counts(found)) == (3, [3])
    assert "truncated" not in codec.parse(codec.dump(found), dict[str, Any])


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6])
async def test_it_is_read_in_pieces_of_any_size(
    running: Running, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(timelines, "PIECE_ROWS", rows)
    fill(storage, NOW, NOW, NOW, NOW + HOUR_NS, NOW + HOUR_NS + 1, NOW + 5 * HOUR_NS)
    assert shown(await timeline(running)) == [["m1", "m2", "m3"], ["m4", "m5"], ["m6"]]


def fade(storage: MemoryStorage, number: int, score: float) -> None:
    """As if the memory had come in with this fidelity."""
    row_key = state_key_of(storage.rows(), an_id(number))
    store_code, state = parse_state_row(storage.rows()[row_key])
    storage.commit({row_key: dump_state_row(store_code, changed(state, base_score=score, score=score))})


async def test_the_faded_are_left_out_when_asked(running: Running, storage: MemoryStorage) -> None:
    fill(storage, NOW, NOW + 1, NOW + 2)
    fade(storage, 1, 0.2)
    fade(storage, 2, 0.6)
    assert shown(await timeline(running, min_fidelity=0.5)) == [["m2", "m3"]]
    assert counts(await timeline(running, min_fidelity=0.9)) == [1]
    assert counts(await timeline(running, min_fidelity=-1.0)) == [3]


async def test_a_memory_fades_between_two_timelines(running: Running, storage: MemoryStorage) -> None:
    fill(storage, NOW)
    assert counts(await timeline(running, min_fidelity=0.9)) == [1]
    running.clock.at += 365 * 24 * HOUR_NS
    assert counts(await timeline(running, min_fidelity=0.9)) == []
    [bucket] = (await timeline(running)).buckets
    assert bucket.memories[0].relevance_score < 0.5


async def test_only_what_felt_alike_passes_an_emotion_filter(running: Running, storage: MemoryStorage) -> None:
    emotions: tuple[dict[str, float], ...] = (
        {"joy": 0.1, "trust": 0.05},
        FEAR,
        {},
        {"joy": 0.5, "fear": 0.9},
        {"joy": 0.9, "fear": 0.5},
    )
    for i, emotion in enumerate(emotions, 1):
        commit(storage, storing(a_record(i, f"m{i}", NOW + i, emotion=emotion)))
    assert shown(await timeline(running, emotion_filter=JOY)) == [["m1", "m5"]]
    assert shown(await timeline(running, emotion_filter=FEAR, min_fidelity=0.5)) == [["m2", "m4"]]
    assert shown(await timeline(running, emotion_filter={"intensity": 1.0})) == []
