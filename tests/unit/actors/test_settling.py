"""When small segments are merged: after a while without changes, and no more often than it is worth."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors import settling
from cerememory.actors.settling import LOOKS_MAX, QUIET_S, REST_FACTOR, Settling
from cerememory.actors.text_index import TextIndexer
from cerememory.config.settings import SecuritySettings
from tests.support.engine import WAIT_S, Running, running_engine, settings_for, to_recall, to_store


async def test_a_scattered_index_is_due_once_it_was_quiet_for_a_while(autojump_clock: MockClock) -> None:
    of_it = Settling()
    of_it.committed(is_scattered=False)
    assert of_it.due == float("inf")
    await trio.sleep(5.0)
    of_it.committed(is_scattered=True)
    assert of_it.due == trio.current_time() + QUIET_S


async def test_the_more_it_took_the_longer_it_rests(autojump_clock: MockClock) -> None:
    of_it = Settling()
    of_it.committed(is_scattered=True)
    for _ in range(2):
        started = trio.current_time()
        await trio.sleep(0.5)
        of_it.stepped(started)
    of_it.committed(is_scattered=True)
    assert of_it.due == trio.current_time() + REST_FACTOR * 1.0


async def test_it_gives_up_until_the_next_commit(autojump_clock: MockClock) -> None:
    of_it = Settling()
    of_it.committed(is_scattered=True)
    for _ in range(LOOKS_MAX):
        assert of_it.due < float("inf")
        of_it.stepped(trio.current_time())
    assert of_it.due == float("inf")
    of_it.committed(is_scattered=True)
    assert of_it.due < float("inf")


async def test_the_index_on_disk_settles_by_itself_and_finds_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("QUIET_S", 0.0), ("LOOK_S", 0.005), ("LOOKS_MAX", 1_000_000)):
        monkeypatch.setattr(settling, name, value)
    settings = settings_for(tmp_path, security=SecuritySettings())
    async with running_engine(tmp_path, settings=settings) as running:
        for number in range(5):
            await running.engine.encode_store(to_store(f"kettle {number}"))
            assert await kettles(running) == number + 1  # which has the index commit
        index = running.actor("text_index")
        assert isinstance(index, TextIndexer)
        with trio.fail_after(WAIT_S):
            while index.is_scattered:
                await trio.lowlevel.checkpoint()
        assert await kettles(running) == 5


async def test_a_step_that_is_due_waits_for_changes_without_a_turn_of_the_loop(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    settings = settings_for(tmp_path, security=SecuritySettings())
    async with running_engine(tmp_path, settings=settings) as running:
        index = running.actor("text_index")
        assert isinstance(index, TextIndexer)
        await running.engine.encode_store(to_store("kettle"))
        index._settling.due = trio.current_time()
        index._wake.set()
        waits = set[trio.Event]()
        for _ in range(50):
            await trio.lowlevel.checkpoint()
            waits.add(index._wake)
        assert len(waits) <= 2


async def kettles(running: Running) -> int:
    return len((await running.engine.recall_query(to_recall("kettle", limit=20))).memories)
