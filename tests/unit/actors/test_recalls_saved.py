"""What recalls did is saved without reading states again that nobody can have changed: and nobody has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
import trio

from cerememory.actors import stores
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord, Store
from cerememory.protocol.requests import DecayTick, EncodeUpdate, Forget
from cerememory.protocol.values import RecordId
from cerememory.storage import recalling
from cerememory.storage.ledger import Ledger
from cerememory.storage.rows import parse_state_row
from tests.support.engine import Running, running_engine, to_introspect, to_recall, to_store

R = TypeVar("R")
SETTLED_S = 2.0  # after it what recalls do is committed
TOPICS = ("kettle", "teapot", "saucer")
RECALLS = 10  # of each who asks
ASKING = 3
SEEDS = range(12)


class Checked:
    """Counts the states that were taken as seen, having compared each with the row."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trusted = 0
        self.read = 0
        self._found = recalling._found
        monkeypatch.setattr(recalling, "_found", self)

    def __call__(self, ledger: Ledger, touches: Sequence[Any]) -> dict[bytes, Any]:
        asked: list[bytes] = []
        get_many = ledger.get_many

        def noted(row_keys: list[bytes]) -> list[bytes | None]:
            asked.extend(row_keys)
            return get_many(row_keys)

        ledger.get_many = noted  # type: ignore[method-assign]
        try:
            found = self._found(ledger, touches)
        finally:
            ledger.get_many = get_many  # type: ignore[method-assign]
        for row_key, row in found.items():
            value = ledger.get(row_key)
            assert row == (None if value is None else parse_state_row(value))
        self.read += len(asked)
        self.trusted += len(found) - len(asked)
        return found


class Slow:
    """Off the loop others go on meanwhile, and that work is done is known a while later. At first it is quick."""

    def __init__(self, random: Random) -> None:
        self.moments: Sequence[float] = (0.0,)
        self._random = random

    async def __call__(self, call: Callable[[], R], limiter: trio.CapacityLimiter | None = None) -> R:
        await trio.sleep(self._random.choice(self.moments))
        done = call()
        await trio.sleep(self._random.choice(self.moments))
        return done


async def recalled(running: Running, random: Random, counted: Counter[RecordId]) -> None:
    for _ in range(RECALLS):
        text = " ".join(random.sample(TOPICS, random.choice((1, 2))))
        answer = await running.engine.recall_query(to_recall(text, limit=random.choice((2, 10))))
        counted.update(codec.parse(bytes(memory.record), MemoryRecord).id for memory in answer.memories)
        await trio.sleep(random.choice((0.0, 0.0, 0.05, 0.4)))


async def changed(running: Running, random: Random, ids: list[RecordId]) -> None:
    """Whatever else writes states, or the rows beside them."""
    engine = running.engine
    for _ in range(RECALLS):
        await trio.sleep(random.choice((0.05, 0.2, 0.5)))
        match random.randrange(5):
            case 0:
                await engine.lifecycle_decay_tick(DecayTick(tick_duration_seconds=86_400), None)
            case 1:
                emotion = to_store("x", emotion={"joy": random.random(), "intensity": random.random()}).emotion
                await engine.encode_update(random.choice(ids), EncodeUpdate(emotion=emotion), None, None)
            case 2:
                gone = ids.pop(random.randrange(len(ids)))
                await engine.lifecycle_forget(Forget(record_ids=(gone,), confirm=True), None)
                ids.append(await stored(running, random))
            case _:
                ids.append(await stored(running, random))


async def stored(running: Running, random: Random) -> RecordId:
    text, store = random.choice(TOPICS), random.choice((Store.EPISODIC, Store.SEMANTIC))
    return (await running.engine.encode_store(to_store(text, store=store.value))).reply.record_id


@pytest.mark.sample(2)
@pytest.mark.parametrize("touched_max", [3, stores.TOUCHED_MAX])
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_state_that_isnt_read_again_is_as_it_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, touched_max: int
) -> None:
    monkeypatch.setattr(stores, "TOUCHED_MAX", touched_max)  # beyond it a store forgets what isn't saved yet
    checked, random, counted = Checked(monkeypatch), Random(seed), Counter[RecordId]()
    offload = Slow(random)
    async with running_engine(tmp_path, offload=offload) as running:
        offload.moments = (0.0, 0.0, 0.1, 0.3)
        ids = [await stored(running, random) for _ in range(6)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changed, running, random, ids)
            for _ in range(ASKING):
                nursery.start_soon(recalled, running, random, counted)
        await trio.sleep(SETTLED_S)
        for record_id in ids:
            content = bytes(await running.engine.introspect_record(to_introspect(record_id)))
            assert codec.parse(content, MemoryRecord).access_count == counted[record_id]
    assert checked.trusted > 0
    assert checked.read > 0
