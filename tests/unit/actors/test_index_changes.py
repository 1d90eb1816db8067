"""Changes wait for the index in the order of their commits, and are taken in pieces."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock

from cerememory.actors.index_changes import Changes, Step
from cerememory.protocol.values import RecordId


def step(sequence: int, size: int) -> Step:
    return Step([(0, RecordId(number.to_bytes(16, "big"))) for number in range(size)], [], [], [], sequence)


async def waiting(*sizes: int) -> Changes:
    """A step of each size, a second apart, the first one now."""
    changes = Changes()
    for sequence, size in enumerate(sizes, 1):
        changes.add(step(sequence, size))
        await trio.sleep(1)
    return changes


def sequences(steps: list[Step]) -> list[int]:
    return [each.sequence for each in steps]


async def test_a_commit_takes_the_oldest_and_no_more_than_asked_for(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    changes = await waiting(2, 2, 2)
    assert (changes.size, changes.since) == (6, began)
    assert sequences(changes.take(5)) == [1, 2]
    assert (changes.size, changes.unready, changes.since) == (2, 2, began + 2)
    assert sequences(changes.take(5)) == [3]
    assert not changes
    assert (changes.size, changes.since) == (0, math.inf)


async def test_a_step_that_alone_is_more_is_taken_whole(autojump_clock: MockClock) -> None:
    changes = await waiting(7, 1)
    assert sequences(changes.take(5)) == [1]
    assert sequences(changes.take(5)) == [2]


async def test_what_was_made_ready_goes_with_the_next_commit(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    changes = await waiting(2, 2, 2)
    assert sequences(changes.take_unready(3)) == [1]
    assert (changes.size, changes.unready, changes.since) == (6, 4, began)
    assert sequences(changes.take(3)) == [2]
    assert (changes.size, changes.unready, changes.since) == (2, 2, began + 2)


async def test_nothing_waits(autojump_clock: MockClock) -> None:
    changes = await waiting()
    assert (changes.take(5), changes.take_unready(5), changes.size, changes.since) == ([], [], 0, math.inf)
