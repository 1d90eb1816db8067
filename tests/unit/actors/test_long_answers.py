"""What one answer carries is bounded: the first memories that fit are there, and it says that others are not."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given as drawn
from hypothesis import strategies as st

from cerememory.actors import associations, raw_recall, reading, retrieval
from cerememory.actors.reading import fitting
from cerememory.actors.seams import in_thread
from cerememory.actors.stores import Memory
from cerememory.protocol import codec
from cerememory.protocol.long import Long
from cerememory.protocol.replies import GraphEdge, RecalledMemory
from cerememory.protocol.requests import (
    RecallAssociate,
    RecallGraph,
    RecallRawQuery,
    RecallTimeline,
)
from cerememory.protocol.values import RecordId
from cerememory.storage.rows import ContentRow
from tests.support.committing import a_record, an_id
from tests.support.engine import Running, running_engine, to_introspect, to_recall, to_store, to_store_raw

WORDS = 1_000  # of four bytes each as JSON takes 16 kB, twice in an answer
SHOWN_BYTES = 8 * 4 * WORDS
EVER = {"start": "0001-01-01T00:00:00Z", "end": "9999-12-31T23:59:59Z"}
A_STATE = a_record(1, "x").state
STORES = ("episodic", "semantic", "procedural", "working")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_engine(tmp_path) as opened:
        yield opened


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how many of the memories below one answer has room for, and of how many it is read in turns."""

    def room(count: int, *, turn: int = 2) -> None:
        for module in (reading, raw_recall, associations):
            monkeypatch.setattr(module, "ANSWER_BYTES_MAX", count * SHOWN_BYTES + SHOWN_BYTES // 2)
        for turned in (reading, raw_recall, retrieval):
            monkeypatch.setattr(turned, "TURN_BYTES", turn * SHOWN_BYTES)
        for listing in (reading, raw_recall, associations, retrieval):
            monkeypatch.setattr(listing, "LONG_BYTES", SHOWN_BYTES // 2)

    return room


def text(name: str) -> str:
    return f"{name} " + "tide " * (WORDS * 4 // 5)


async def store(running: Running, name: str, **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text(name), **given))).reply.record_id


def names(memories: Sequence[RecalledMemory]) -> list[str]:
    """The first words of records, of which the content is shown again beside them."""
    records = [codec.parse(bytes(memory.record), dict[str, Any]) for memory in memories]
    return [first_word(record["content"]) for record in records]


def first_word(content: dict[str, Any]) -> str:
    return bytes(content["blocks"][0]["data"]).decode().split()[0]


@pytest.mark.parametrize("turn", [1, 2, 3])
async def test_the_best_of_a_recall_are_there_whole_and_the_others_are_counted(
    running: Running, room_for: Callable[..., None], turn: int
) -> None:
    for i in range(7):
        await store(running, f"m{i}", store=STORES[i % 3])
    whole = await running.engine.recall_query(to_recall(limit=100, reconsolidate=False))
    assert (len(whole.memories), whole.truncated) == (7, msgspec.UNSET)
    room_for(3, turn=turn)
    cut = await running.engine.recall_query(to_recall(limit=100, reconsolidate=False))
    assert names(cut.memories) == names(whole.memories)[:3]
    assert (cut.total_candidates, cut.truncated) == (7, True)
    assert cut.query_metadata == whole.query_metadata
    fewer = await running.engine.recall_query(to_recall(limit=3, reconsolidate=False))
    assert (names(fewer.memories), fewer.truncated) == (names(whole.memories)[:3], msgspec.UNSET)


async def test_only_what_is_shown_is_recalled(running: Running, room_for: Callable[..., None]) -> None:
    stored = [await store(running, f"m{i}") for i in range(4)]
    room_for(2, turn=1)
    await running.until_indexed()
    cut = await running.engine.recall_query(to_recall("tide", limit=100))
    shown = names(cut.memories)
    assert (len(shown), cut.total_candidates, cut.truncated) == (2, 4, True)
    for i, record_id in enumerate(stored):
        record = codec.parse(
            bytes(await running.engine.introspect_record(to_introspect(record_id))), dict[str, Any]
        )
        assert record["access_count"] == (f"m{i}" in shown)


async def test_working_memory_takes_room_too(running: Running, room_for: Callable[..., None]) -> None:
    for i in range(6):
        await store(running, f"m{i}", store="working" if i % 2 else "episodic")
    room_for(2, turn=4)
    cut = await running.engine.recall_query(to_recall(limit=100))
    assert (names(cut.memories), cut.truncated) == (["m5", "m4"], True)
    room_for(2, turn=1)
    assert names((await running.engine.recall_query(to_recall(limit=100))).memories) == ["m5", "m4"]
    room_for(6, turn=1)
    assert (await running.engine.recall_query(to_recall(limit=100))).truncated is msgspec.UNSET


async def test_a_memory_alone_is_shown_whatever_it_takes(running: Running, room_for: Callable[..., None]) -> None:
    one, two = await store(running, "one"), await store(running, "two")
    source = await store(running, "source", associations=[edge(one), edge(two, 0.5)])
    room_for(0, turn=1)
    recalled = await running.engine.recall_query(to_recall(limit=100))
    assert (names(recalled.memories), recalled.truncated) == (["source"], True)
    alone = await running.engine.recall_query(to_recall(limit=1))
    assert (names(alone.memories), alone.truncated) == (["source"], msgspec.UNSET)
    linked = await running.engine.recall_associate(source, RecallAssociate())
    assert (names(linked.memories), linked.total_candidates, linked.truncated) == (["one"], 2, True)


def edge(target: RecordId, weight: float = 1.0) -> dict[str, Any]:
    return {"target_id": str(target), "association_type": "semantic", "weight": weight}


async def test_what_a_timeline_has_no_room_for_is_counted(running: Running, room_for: Callable[..., None]) -> None:
    for i in range(5):
        await store(running, f"m{i}", store=STORES[i % 3])
    room_for(2)
    found = await running.engine.recall_timeline(codec.parse(codec.dump({"range": EVER}), RecallTimeline))
    assert ([bucket.count for bucket in found.buckets], found.truncated) == ([5], True)
    assert names(found.buckets[0].memories) == ["m0", "m1"]


@pytest.mark.parametrize(("room", "shown"), [(0, 1), (2, 2), (5, 5), (7, 5)])
async def test_the_oldest_raw_entries_are_there(
    running: Running, room_for: Callable[..., None], room: int, shown: int
) -> None:
    for i in range(5):
        await running.engine.encode_store_raw(to_store_raw(text(f"r{i}" + "tide" * WORDS)))
    for turn in (1, 2):
        room_for(room, turn=turn)
        found = await running.engine.recall_raw_query(RecallRawQuery(limit=100))
        records = [codec.parse(bytes(record), dict[str, Any]) for record in found.records]
        assert [first_word(record["content"])[:2] for record in records] == [f"r{i}" for i in range(shown)]
        assert found.total_candidates == 5
        assert found.truncated is (msgspec.UNSET if shown == 5 else True)


async def test_a_graph_is_cut_by_what_its_nodes_show_not_by_what_was_read_for_them(
    running: Running, room_for: Callable[..., None]
) -> None:
    for i in range(4):
        await store(running, f"m{i}", meta={"rationale": "why" * SHOWN_BYTES if i < 2 else "short"})
    room_for(2, turn=1)
    plain = await running.engine.recall_graph(RecallGraph(limit_nodes=100))
    assert (len(plain.nodes), plain.total_nodes, plain.truncated) == (4, 4, msgspec.UNSET)
    with_meta = await running.engine.recall_graph(RecallGraph(limit_nodes=100, include_meta=True))
    assert (len(with_meta.nodes), with_meta.total_nodes, with_meta.truncated) == (1, 4, True)
    assert isinstance(with_meta.nodes, Long)


async def test_the_edges_of_a_graph_are_put_into_their_form_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be ten thousand."""
    threads: list[int] = []

    def noting(**members: Any) -> GraphEdge:
        threads.append(threading.get_ident())
        return GraphEdge(**members)

    async with running_engine(tmp_path, offload=in_thread) as running:
        target = await store(running, "target")
        await store(running, "source", associations=[edge(target)])
        monkeypatch.setattr("cerememory.protocol.replies.GraphEdge", noting)
        found = await running.engine.recall_graph(RecallGraph(limit_nodes=100))
    assert len(found.edges) == len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_what_is_long_says_so(running: Running, room_for: Callable[..., None]) -> None:
    await store(running, "one")
    assert not isinstance((await running.engine.recall_query(to_recall(limit=1))).memories, Long)
    for turn in (1, 2):
        room_for(3, turn=turn)
        assert isinstance((await running.engine.recall_query(to_recall(limit=1))).memories, Long)


class Found(msgspec.Struct, frozen=True):
    """A memory as it is found: of which store, and what it takes in an answer; None: it is gone."""

    record_id: RecordId
    store_code: int
    size_bytes: int | None


def a_memory(found: Found) -> Memory:
    row = ContentRow(found.store_code, 1, 0, 0, b"", b"", b"x" * (found.size_bytes or 0), b"")
    return Memory(found.record_id, row, A_STATE, None)


@drawn(
    sizes=st.lists(st.one_of(st.none(), st.integers(0, 3_000)), max_size=12),
    codes=st.lists(st.integers(0, 2), min_size=12, max_size=12),
    room=st.integers(1, 6_000),
    turn=st.integers(1, 4_000),
    piece=st.integers(1, 5),
)
def test_the_first_that_fit_are_found_however_they_are_read(
    sizes: list[int | None], codes: list[int], room: int, turn: int, piece: int
) -> None:
    found = [Found(an_id(i + 1), codes[i], size) for i, size in enumerate(sizes)]
    by_id = {each.record_id: a_memory(each) for each in found if each.size_bytes is not None}

    async def read(code: int, record_ids: tuple[RecordId, ...], room_bytes: int) -> list[Memory]:
        memories = []
        for record_id in record_ids:
            if room_bytes <= 0:
                break
            if (memory := by_id.get(record_id)) is not None:
                memories.append(memory)
                room_bytes -= memory.shown_bytes
        return memories

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "ANSWER_BYTES_MAX", room)
        patch.setattr(reading, "TURN_BYTES", turn)
        patch.setattr(reading, "PIECE_RECORDS", piece)
        fitted = trio.run(fitting, found, read)
    there = [by_id[each.record_id] for each in found[: fitted.count] if each.record_id in by_id]
    assert fitted.memories == there
    assert fitted.shown_bytes == sum(memory.shown_bytes for memory in there)
    assert fitted.shown_bytes <= room or len(there) == 1
    for behind in itertools.islice(found, fitted.count, fitted.count + 1):
        assert fitted.memories, "one alone is always there"
        assert fitted.shown_bytes + by_id[behind.record_id].shown_bytes > room
