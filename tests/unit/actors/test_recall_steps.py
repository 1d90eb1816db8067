"""recall.query among thousands: no step of the event loop reads, ranks or shows more than some hundred of them,
and what a recall spares itself changes no answer.

Steps are counted by what is done in them on the loop's thread, so they need no clock.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors import reading, recall, retrieval, signals
from cerememory.actors.seams import in_thread, inline
from cerememory.domain import ranking
from cerememory.errors import InternalError
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord
from cerememory.protocol.replies import RecalledMemory
from cerememory.protocol.requests import EncodeBatch
from cerememory.protocol.values import NANOS, RecordId, format_id, format_timestamp
from cerememory.storage import rows
from cerememory.storage.contract import Reader
from cerememory.storage.inverted_index import IndexDamaged
from cerememory.storage.text_search import Snapshot
from tests.support.committing import a_record, an_id, changed, commit, storing
from tests.support.engine import NOW, Running, WallClock, running_engine, store_body, to_recall, to_store
from tests.support.memory_storage import MemoryStorage

R = TypeVar("R")
CROWD = 2_000
STEP_MAX = 3 * reading.PIECE_RECORDS + 8  # content, edges and state of a piece, and how memories fade
ALWAYS = {"temporal": {"start": format_timestamp(NOW - NANOS), "end": format_timestamp(NOW + 10**6 * NANOS)}}
FEELING = {"emotion": {"joy": 1.0, "fear": 0.3}}
NO_CUE: dict[str, Any] = {}
CUES: dict[str, dict[str, Any]] = {
    "time": {"cue": ALWAYS},
    "few words, time": {"cue": {"text": "teapot", **ALWAYS}},
    "words, time": {"cue": {"text": "kettle", **ALWAYS}},
    "vector, time": {"cue": {"embedding": [1.0, 5.0], **ALWAYS}},
    "emotion, time": {"cue": {**FEELING, **ALWAYS}},
    "time in a scope": {"cue": ALWAYS, "scope": {"metadata": {"half": 1}}},
    "few words, time in a scope": {"cue": {"text": "teapot", **ALWAYS}, "scope": {"metadata": {"half": 1}}},
    "time of a store": {"cue": ALWAYS, "stores": ["episodic"]},
    "time, clear ones": {"cue": ALWAYS, "min_fidelity": 0.5},
    "words, clear ones": {"cue": {"text": "kettle"}, "min_fidelity": 1.0},
    "vector, clear ones": {"cue": {"embedding": [1.0, 5.0]}, "min_fidelity": 1.0},
    "emotion, clear ones": {"cue": FEELING, "min_fidelity": 1.0},
    "a thousand by words": {"cue": {"text": "kettle"}, "limit": 1_000},
    "a thousand by words, explained": {"cue": {"text": "kettle"}, "limit": 1_000, "explain": True},
    "a thousand of a time": {"cue": ALWAYS, "limit": 1_000},
    "the newest thousand": {"cue": NO_CUE, "limit": 1_000},
}


class Loop(trio.abc.Instrument):
    """What the loop's thread does: altogether (`done`), and the most of each kind in one step (`most`)."""

    def __init__(self) -> None:
        self.done, self.most = Counter[str](), Counter[str]()
        self._step = Counter[str]()
        self._thread = threading.get_ident()

    def note(self, kind: str, count: int = 1) -> None:
        if threading.get_ident() == self._thread:
            self.done[kind] += count
            self._step[kind] += count

    def noting(self, kind: str, call: Callable[..., R]) -> Callable[..., R]:
        def noted(*args: Any, **kwargs: Any) -> R:
            self.note(kind)
            return call(*args, **kwargs)

        return noted

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._step.clear()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most |= self._step

    def forget(self) -> None:
        self.done.clear()
        self.most.clear()


class CountedReader:
    def __init__(self, reader: Reader, loop: Loop) -> None:
        self._reader = reader
        self._loop = loop

    def get(self, key: bytes) -> bytes | None:
        self._loop.note("rows")
        return self._reader.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        self._loop.note("rows", len(keys))
        return self._reader.get_many(keys)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for row in self._reader.scan(start, stop, reverse=reverse):
            self._loop.note("rows")
            yield row


class CountedStorage(MemoryStorage):
    """Tells `loop` which rows are read."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    @contextmanager
    def read(self) -> Iterator[Any]:
        with super().read() as reader:
            yield CountedReader(reader, self._loop)


@asynccontextmanager
async def crowded(path: Path, loop: Loop) -> AsyncIterator[Running]:
    """Two thousand memories that all cues find, and three that some do, on real threads."""
    async with running_engine(path, storage=CountedStorage(loop), offload=in_thread) as running:
        for start in range(0, CROWD, 1_000):
            bodies = [
                store_body(
                    f"kettle {number}",
                    embedding=[1.0, float(number)],
                    emotion={"joy": 1.0, "fear": number / CROWD},
                    metadata={"half": number % 2},
                )
                for number in range(start, start + 1_000)
            ]
            await running.engine.encode_batch(codec.parse(codec.dump({"records": bodies}), EncodeBatch))
        for _ in range(3):
            await running.engine.encode_store(to_store("teapot", metadata={"half": 1}))
        await running.until_indexed()
        yield running


async def test_no_step_of_the_loop_deals_with_more_than_some_hundred_memories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, found = Loop(), {}
    monkeypatch.setattr(ranking, "score", loop.noting("ranked", ranking.score))
    monkeypatch.setattr("cerememory.actors.recall.RecalledMemory", loop.noting("shown", RecalledMemory))
    async with crowded(tmp_path, loop) as running:
        trio.lowlevel.add_instrument(loop)
        for name, asked in CUES.items():
            loop.forget()
            answer = await running.engine.recall_query(to_recall(**{"reconsolidate": False, **asked}))
            await trio.lowlevel.checkpoint()
            is_clear = asked.get("min_fidelity") != 1.0  # which all have lost by now
            assert len(answer.memories) == (asked.get("limit", 10) if is_clear else 0), name
            found[name] = dict(loop.most)
        trio.lowlevel.remove_instrument(loop)
    most = {kind: max(each.get(kind, 0) for each in found.values()) for kind in ("rows", "ranked", "shown")}
    assert 0 < most["rows"] <= STEP_MAX, found
    assert 0 < most["ranked"] <= recall.INLINE_MAX, found
    assert 0 < most["shown"] <= recall.SHOWN_INLINE_MAX, found


@pytest.mark.parametrize("cue", ["words, time", "vector, time", "emotion, time"])
async def test_how_clear_those_are_that_cannot_be_shown_is_not_read(tmp_path: Path, cue: str) -> None:
    loop = Loop()
    async with crowded(tmp_path, loop) as running:
        loop.forget()
        answer = await running.engine.recall_query(to_recall(**CUES[cue], reconsolidate=False))
    assert answer.total_candidates == answer.query_metadata.total_records_scanned == CROWD + 3
    assert loop.done["rows"] < 100, "thirty are found by the other signal, and ten are read"


# --- What is spared changes nothing

WORDS = ("kettle", "teapot", "copper", "window", "river")
STORE_NAMES = ("episodic", "semantic", "emotional", "working")
FADED = (1.0, 1.0, 0.9, 0.5, 0.5, 0.0)


def drawn(rng: random.Random, known: list[RecordId]) -> dict[str, Any]:
    """A memory that is like others in many ways."""
    edge = {"association_type": "causal", "weight": rng.choice((0.3, 1.0))}
    linked = known and rng.random() < 0.3
    return store_body(
        " ".join(rng.choices(WORDS, k=rng.randint(1, 3))),
        store=rng.choice(STORE_NAMES),
        embedding=rng.choice((None, [1.0, 0.0], [-0.15, 1.0], [-0.1, 1.0], [-1.0, 0.1])),  # some hardly alike
        emotion=rng.choice((None, {"joy": 1.0}, {"joy": 0.5, "fear": 0.5})),
        metadata={"half": rng.randint(0, 1)},
        associations=[{**edge, "target_id": format_id(rng.choice(known))}] if linked else None,
    )


def asked_of(rng: random.Random, times: list[int]) -> dict[str, Any]:
    start, end = sorted(rng.choices(times, k=2))
    cue: dict[str, Any] = {"temporal": {"start": format_timestamp(start), "end": format_timestamp(end)}}
    others: dict[str, Any] = {"text": " ".join(rng.choices(WORDS, k=2)), "embedding": [1.0, 0.2], **FEELING}
    cue |= {name: value for name, value in others.items() if rng.random() < 0.5}
    given = {
        "stores": ["episodic", "working"],
        "scope": {"metadata": {"half": 1}},
        "min_fidelity": 0.6,
        "include_decayed": True,
        "activation_depth": rng.choice((0, 1, 3)),
    }
    chosen = {name: value for name, value in given.items() if rng.random() < 0.3}
    return {"cue": cue, "limit": rng.randint(1, 12), "explain": True, "reconsolidate": False, **chosen}


async def fill(running: Running, storage: MemoryStorage, rng: random.Random) -> list[int]:
    """When they were made: some at one moment; many have faded alike."""
    known: list[RecordId] = []
    for _ in range(40):
        running.clock.at += rng.choice((0, 0, NANOS))
        body = codec.dump({"records": [drawn(rng, known)]})
        stored = await running.engine.encode_batch(codec.parse(body, EncodeBatch))
        known.append(stored.reply.results[0].record_id)
    states = {key: value for key, value in storage.rows().items() if len(value) == rows.STATE_BYTES}
    for row_key, value in states.items():
        code, state = rows.parse_state_row(value)
        faded = changed(state, base_score=rng.choice(FADED), base_at=NOW + 10**18)
        storage.commit({row_key: rows.dump_state_row(code, faded)})
    return [NOW, running.clock.at, *(NOW + step * NANOS for step in range(0, 20, 4))]


@pytest.mark.parametrize("seed", range(6))
async def test_the_answer_is_that_of_a_recall_that_reads_them_all(tmp_path: Path, seed: int) -> None:
    """Scores, ties, what activation adds, and all that is counted."""
    rng, storage, spared = random.Random(seed), MemoryStorage(), Counter[bool]()
    are_enough = signals._are_enough

    def noted(*args: Any) -> bool:
        spared[enough := are_enough(*args)] += 1
        return enough

    async with running_engine(tmp_path, storage=storage, clock=WallClock(step_ns=0)) as running:
        times = await fill(running, storage, rng)
        await running.until_indexed()
        for _ in range(60):
            asked = to_recall(**asked_of(rng, times))
            with mock.patch.object(signals, "_are_enough", noted):
                answer = await running.engine.recall_query(asked)
            with mock.patch.object(signals, "_are_enough", return_value=False):
                expected = await running.engine.recall_query(asked)
            assert codec.dump(answer) == codec.dump(expected), asked
    assert min(spared[True], spared[False]) > 5


async def test_like_memories_tie_in_whatever_pieces_and_moments_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "PIECE_RECORDS", 2)
    monkeypatch.setattr(reading, "SHORT_RECORDS", 1)
    storage = MemoryStorage()
    commit(storage, storing(*(a_record(i, created_at=NOW) for i in range(1, 10))), audited=False)
    async with running_engine(tmp_path, storage=storage, clock=WallClock(step_ns=60 * NANOS)) as running:
        for cue in (ALWAYS, {"text": "kettle", **ALWAYS}):
            answer = await running.engine.recall_query(to_recall(cue=cue, limit=9, reconsolidate=False))
            shown = [codec.parse(bytes(memory.record), MemoryRecord).id for memory in answer.memories]
            assert shown == [an_id(i) for i in range(1, 10)], cue


# --- Long searches

MANY = signals.INLINE_MAX // recall.CANDIDATES_PER_RESULT + 1


@pytest.mark.parametrize(("limit", "is_aside"), [(MANY - 1, False), (MANY, True)])
async def test_a_search_for_many_leaves_the_loop_and_sees_what_was_just_stored(
    tmp_path: Path, autojump_clock: MockClock, limit: int, is_aside: bool
) -> None:
    names: list[str] = []

    async def noting(call: Any, limiter: Any = None) -> Any:
        names.append(getattr(getattr(call, "func", call), "__name__", ""))
        return await inline(call, limiter)

    async with running_engine(tmp_path, offload=noting) as running:
        for count in (1, 2):
            await running.engine.encode_store(to_store("kettle"))
            answer = await running.engine.recall_query(to_recall("kettle", limit=limit))
            assert (len(answer.memories), answer.query_metadata.index_complete) == (count, True)
            assert names.count("answer") == (count if is_aside else 0)


async def test_damage_that_a_search_for_many_meets_is_met_by_the_actor(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(tmp_path) as running:
        await running.engine.encode_store(to_store("kettle"))
        await running.until_indexed()
        with monkeypatch.context() as patched:
            patched.setattr(Snapshot, "search", mock.Mock(side_effect=IndexDamaged("a changed byte")))
            with pytest.raises(InternalError):
                await running.engine.recall_query(to_recall("kettle", limit=MANY))
        await trio.sleep(5)  # until the supervisor has started it again
        await running.until_indexed()
        assert len((await running.engine.recall_query(to_recall("kettle", limit=MANY))).memories) == 1
        assert running.counted("cerememory_actor_restarts_total", actor="text_index") == 1
