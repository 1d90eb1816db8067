"""The raw journal: oldest first, within session, time and what the asker may see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.protocol import codec
from cerememory.protocol.records import RawJournalRecord, SecrecyLevel, Visibility
from cerememory.protocol.requests import EncodeBatchRaw, RecallRawQuery
from cerememory.protocol.values import NANOS, Timestamp, format_timestamp
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key
from cerememory.storage.rows import dump_row, parse_raw_row
from tests.support.engine import (
    NOW,
    Running,
    WallClock,
    raw_body,
    running_engine,
    to_store_raw,
)
from tests.support.memory_storage import MemoryStorage

SECOND = NANOS


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Each look at the clock is a second after the one before."""
    async with running_engine(tmp_path, clock=WallClock(step_ns=SECOND)) as opened:
        yield opened


async def say(running: Running, text: str, session_id: str = "s-1", **given: Any) -> None:
    await running.engine.encode_store_raw(to_store_raw(text, session_id, **given))


async def ask(running: Running, **given: Any) -> tuple[list[str], int]:
    """The texts in their order, and how many pass in all."""
    answer = await running.engine.recall_raw_query(codec.parse(codec.dump(given), RecallRawQuery))
    records = [codec.parse(bytes(record), RawJournalRecord) for record in answer.records]
    return [record.content.blocks[0].data.decode() for record in records], answer.total_candidates


async def test_entries_come_oldest_first(running: Running) -> None:
    for text in ("one", "two", "three"):
        await say(running, text)
    assert await ask(running) == (["one", "two", "three"], 3)


async def test_a_batch_stays_in_its_order_of_ids(running: Running) -> None:
    body = {"records": [raw_body(f"{i}") for i in range(20)]}
    await running.engine.encode_batch_raw(codec.parse(codec.dump(body), EncodeBatchRaw))
    assert (await ask(running, limit=20))[0] == [f"{i}" for i in range(20)]


async def test_a_session_has_its_own_entries(running: Running) -> None:
    await say(running, "mine", "s-1")
    await say(running, "theirs", "s-2")
    await say(running, "mine too", "s-1")
    assert await ask(running, session_id="s-1") == (["mine", "mine too"], 2)
    assert await ask(running, session_id="s-") == ([], 0)


@pytest.mark.parametrize("query", [None, "word"], ids=["listed", "searched"])
async def test_what_is_not_normal_and_what_is_secret_is_asked_for(running: Running, query: str | None) -> None:
    for visibility in Visibility:
        for secrecy in SecrecyLevel:
            await say(running, f"word {visibility} {secrecy}", visibility=visibility, secrecy_level=secrecy)
    given = {} if query is None else {"query": query}
    seen, total = await ask(running, **given)
    assert (seen, total) == (["word normal public", "word normal sensitive"], 2)
    seen, _ = await ask(running, include_private_scratch=True, secrecy_levels=["secret"], **given)
    assert seen == ["word normal secret", "word private_scratch secret"]
    seen, total = await ask(
        running,
        include_private_scratch=True,
        include_sealed=True,
        secrecy_levels=[*SecrecyLevel],
        **given,
    )
    assert total == 9
    assert (await ask(running, secrecy_levels=[], **given)) == ([], 0)


@pytest.mark.parametrize("query", [None, "word"], ids=["listed", "searched"])
async def test_both_ends_of_a_time_range_are_in_it(running: Running, query: str | None) -> None:
    for i in range(5):
        await say(running, f"word {i}")
    answer = await running.engine.recall_raw_query(RecallRawQuery())
    records = [codec.parse(bytes(record), RawJournalRecord) for record in answer.records]
    times = [record.created_at for record in records if record.created_at is not None]
    span = {"start": format_timestamp(times[1]), "end": format_timestamp(times[3])}
    given = {} if query is None else {"query": query}
    assert await ask(running, temporal=span, **given) == (["word 1", "word 2", "word 3"], 3)
    alone = {"start": format_timestamp(times[2]), "end": format_timestamp(times[2])}
    assert await ask(running, temporal=alone, session_id="s-1", **given) == (["word 2"], 1)
    before = {"start": "0001-01-01T00:00:00Z", "end": format_timestamp(times[0] - 1)}
    assert await ask(running, temporal=before, **given) == ([], 0)
    ever = {"start": "0001-01-01T00:00:00Z", "end": "9999-12-31T23:59:59Z"}
    assert (await ask(running, temporal=ever, **given))[1] == 5


async def test_a_query_matches_words_all_of_them(running: Running) -> None:
    await say(running, "the kettle boils over")
    await say(running, "the teapot boils")
    assert (await ask(running, query="boiling"))[0] == ["the kettle boils over", "the teapot boils"]
    assert (await ask(running, query="boils kettle"))[0] == ["the kettle boils over"]
    assert await ask(running, query="kettle teapot") == ([], 0)


@pytest.mark.parametrize("query", ["", "  ", None])
async def test_a_blank_query_is_none(running: Running, query: str | None) -> None:
    await say(running, "one")
    assert await ask(running, query=query) == (["one"], 1)


async def test_a_limit_cuts_what_is_shown_and_not_what_is_counted(running: Running) -> None:
    for i in range(15):
        await say(running, f"word {i}")
    assert await ask(running) == ([f"word {i}" for i in range(10)], 15)
    assert await ask(running, limit=2, query="word") == (["word 0", "word 1"], 15)
    assert await ask(running, limit=0) == ([], 15)
    assert await ask(running, limit=0, query="word") == ([], 15)


async def test_over_a_thousand_are_cut_and_not_refused(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        body = {"records": [raw_body("x")] * 1_005}
        await running.engine.encode_batch_raw(codec.parse(codec.dump(body), EncodeBatchRaw))
        texts, total = await ask(running, limit=5_000)
        assert (len(texts), total) == (1_000, 1_005)


async def test_a_suppressed_entry_is_never_shown(tmp_path: Path) -> None:
    storage = MemoryStorage()
    async with running_engine(tmp_path, storage=storage) as running:
        await say(running, "word")
        [(row_key, value)] = [
            row for row in storage.rows().items() if row[0].startswith(key(DEFAULT_NAMESPACE, Table.RAW))
        ]
        hidden = msgspec.structs.replace(parse_raw_row(value), suppressed=True)
        storage.commit({row_key: dump_row(hidden)})
        assert (await ask(running))[0] == []
        assert (await ask(running, query="word"))[0] == []


async def test_an_entry_is_verbatim(running: Running) -> None:
    await say(running, "said", "s-7", turn_id="t-1", topic_id="deploy", speaker="tool", source="tool_io")
    answer = await running.engine.recall_raw_query(RecallRawQuery())
    record = codec.parse(bytes(answer.records[0]), RawJournalRecord)
    assert (record.session_id, record.turn_id, record.topic_id) == ("s-7", "t-1", "deploy")
    assert (record.speaker, record.source, record.suppressed) == ("tool", "tool_io", False)
    assert isinstance(record.created_at, Timestamp)
    assert record.created_at >= NOW


@given(
    entries=st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(Visibility), st.sampled_from(SecrecyLevel)),
        max_size=12,
    ),
    session=st.none() | st.sampled_from(["a", "b", "c"]),
    scratch=st.booleans(),
    sealed=st.booleans(),
    levels=st.none() | st.sets(st.sampled_from(SecrecyLevel)),
)
@settings(max_examples=20)
def test_any_filters_leave_what_they_would_leave_of_a_list(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[str, Visibility, SecrecyLevel]],
    session: str | None,
    scratch: bool,
    sealed: bool,
    levels: set[SecrecyLevel] | None,
) -> None:
    shown = {Visibility.NORMAL, *([Visibility.PRIVATE_SCRATCH] * scratch), *([Visibility.SEALED] * sealed)}
    allowed = {SecrecyLevel.PUBLIC, SecrecyLevel.SENSITIVE} if levels is None else levels
    expected = [
        f"word {i}"
        for i, (whose, visibility, secrecy) in enumerate(entries)
        if session in (None, whose) and visibility in shown and secrecy in allowed
    ]
    filters: dict[str, Any] = {"include_private_scratch": scratch, "include_sealed": sealed, "limit": 100}
    filters |= {"session_id": session, "secrecy_levels": None if levels is None else sorted(levels)}

    async def check() -> None:
        async with running_engine(tmp_path_factory.mktemp("journal")) as running:
            for i, (whose, visibility, secrecy) in enumerate(entries):
                await say(running, f"word {i}", whose, visibility=visibility, secrecy_level=secrecy)
            assert await ask(running, **filters) == (expected, len(expected))
            assert await ask(running, query="word", **filters) == (expected, len(expected))

    trio.run(check)
