"""recall.query: what each signal of a cue finds, how it is ranked and shown, and what recalling does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cerememory.domain.audit_chain import parse_line
from cerememory.errors import ModalityUnsupported, ValidationFailed, VersionMismatch
from cerememory.protocol import codec
from cerememory.protocol.records import STORES, MemoryRecord, Store
from cerememory.protocol.replies import Recalled
from cerememory.protocol.requests import EncodeBatch, RecallQuery
from cerememory.protocol.values import NANOS, RecordId, format_timestamp
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key
from cerememory.storage.rows import dump_state_row, parse_state_row
from tests.support.committing import a_record, an_id, changed, commit, state_key_of, stored_state, storing
from tests.support.engine import (
    NOW,
    Running,
    WallClock,
    running_engine,
    store_body,
    to_introspect,
    to_recall,
    to_store,
)
from tests.support.memory_storage import MemoryStorage

JOY, FEAR = {"joy": 1.0}, {"fear": 1.0}

FAR_AHEAD = NOW + 10**18


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def running(tmp_path: Path, storage: MemoryStorage) -> AsyncIterator[Running]:
    """Each look at the clock is a second after the one before."""
    clock = WallClock(step_ns=NANOS)
    async with running_engine(tmp_path, storage=storage, clock=clock) as opened:
        yield opened


async def store(running: Running, text: str, **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text, **given))).reply.record_id


async def recall(running: Running, text: str | None = None, **given: Any) -> Recalled:
    return await running.engine.recall_query(to_recall(text, **given))


def records(answer: Recalled) -> list[MemoryRecord]:
    return [codec.parse(bytes(memory.record), MemoryRecord) for memory in answer.memories]


def texts(answer: Recalled) -> list[str]:
    return [record.content.blocks[0].data.decode() for record in records(answer)]


def scores(answer: Recalled) -> list[float]:
    return [memory.relevance_score for memory in answer.memories]


def rendered(answer: Recalled) -> list[str]:
    """The texts as they are shown."""
    contents = [codec.parse(codec.dump(memory), dict[str, Any])["rendered_content"] for memory in answer.memories]
    return [bytes(content["blocks"][0]["data"]).decode() for content in contents]


def fade(storage: MemoryStorage, record_id: RecordId, score: float) -> None:
    """As if the memory had faded on disk, and time stood still for it from now on."""
    row_key = state_key_of(storage.rows(), record_id)
    store_code, state = parse_state_row(storage.rows()[row_key])
    faded = changed(state, score=score, base_score=score, base_at=FAR_AHEAD)
    storage.commit({row_key: dump_state_row(store_code, faded)})


async def test_words_find_memories_best_first(running: Running) -> None:
    await store(running, "the kettle is in the kitchen with the cups and the plates")
    await store(running, "kettle kettle kettle")
    await store(running, "nothing of the sort")
    answer = await recall(running, "kettle")
    assert texts(answer) == ["kettle kettle kettle", "the kettle is in the kitchen with the cups and the plates"]
    assert scores(answer)[0] == pytest.approx(1.0, abs=1e-4)
    assert scores(answer) == sorted(scores(answer), reverse=True)
    assert answer.total_candidates == 2
    assert answer.activation_trace is None


async def test_the_best_of_text_alone_scores_one_and_of_a_vector_its_cosine(running: Running) -> None:
    await store(running, "kettle", embedding=[1.0, 0.0])
    assert scores(await recall(running, "kettle")) == [pytest.approx(1.0, abs=1e-4)]
    [score] = scores(await recall(running, cue={"embedding": [3.0, 4.0]}))
    assert score == pytest.approx(0.6, abs=1e-4)


async def test_text_and_vector_together_weigh_six_to_four(running: Running) -> None:
    both = await store(running, "kettle", embedding=[1.0, 0.0])
    text_only = await store(running, "kettle", embedding=[-1.0, 0.0])
    vector_only = await store(running, "teapot", embedding=[3.0, 4.0])
    answer = await recall(running, "kettle", cue={"embedding": [1.0, 0.0]})
    found = dict(zip((record.id for record in records(answer)), scores(answer), strict=True))
    assert found[both] == pytest.approx(0.6 * 1.0 + 0.4 * 1.0, abs=1e-4)
    assert found[text_only] == pytest.approx(0.6 * 1.0, abs=1e-4)
    assert found[vector_only] == pytest.approx(0.4 * 0.6, abs=1e-4)


async def test_an_emotion_finds_what_felt_alike(running: Running) -> None:
    await store(running, "wedding", emotion={"joy": 0.9, "anticipation": 0.1})
    await store(running, "storm", emotion=FEAR)
    await store(running, "receipt")
    answer = await recall(running, cue={"emotion": JOY})
    assert texts(answer) == ["wedding"]
    assert scores(answer)[0] == pytest.approx(0.9939, abs=1e-3)
    assert texts(await recall(running, cue={"emotion": {"intensity": 1.0}})) == []


async def test_an_emotion_beside_words_decides_between_equals(running: Running) -> None:
    await store(running, "the party", emotion=JOY)
    await store(running, "the party", emotion={"joy": 0.5, "fear": 0.9})
    answer = await recall(running, "party", cue={"emotion": JOY})
    assert [record.emotion.fear for record in records(answer)] == [0.0, 0.9]


async def test_an_emotion_beyond_its_range_counts_as_at_its_end_and_hides_nobody(running: Running) -> None:
    await store(running, "wedding", emotion=JOY)
    for joy in (1e39, 7.0, -1.0):
        await store(running, f"joy of {joy}", emotion={"joy": joy})
    answer = await recall(running, cue={"emotion": {"joy": 1e39}}, limit=1)
    assert texts(answer) == ["joy of 7.0"]
    assert scores(answer) == pytest.approx([1.0], abs=1e-4)
    assert len((await recall(running, cue={"emotion": JOY})).memories) == 3
    assert records(answer)[0].emotion.joy == 7.0, "what is stored is what was sent"


async def times(running: Running, *ids: RecordId) -> list[int]:
    found = [
        codec.parse(bytes(await running.engine.introspect_record(to_introspect(i))), MemoryRecord) for i in ids
    ]
    return [record.created_at or 0 for record in found]


def between(start: int, end: int) -> dict[str, Any]:
    return {"temporal": {"start": format_timestamp(start), "end": format_timestamp(end)}}


async def test_a_time_range_holds_what_was_made_in_it_both_ends_included(running: Running) -> None:
    ids = [await store(running, f"day {i}") for i in range(5)]
    at = await times(running, *ids)
    answer = await recall(running, cue=between(at[1], at[3]))
    assert texts(answer) == ["day 3", "day 2", "day 1"]
    assert scores(answer) == pytest.approx([1.0] * 3, abs=1e-3), "which count by their fidelity"
    assert texts(await recall(running, cue=between(at[2], at[2]))) == ["day 2"]
    assert texts(await recall(running, cue=between(at[4] + 1, at[4] + 9))) == []
    assert texts(await recall(running, cue=between(at[3], at[1]))) == []


async def test_a_time_range_beside_words_keeps_out_what_is_outside_and_puts_what_matches_first(
    running: Running,
) -> None:
    ids = [await store(running, text) for text in ("kettle early", "teapot", "kettle", "kettle late")]
    at = await times(running, *ids)
    answer = await recall(running, "kettle", cue=between(at[1], at[2]))
    assert texts(answer) == ["kettle", "teapot"]


async def test_a_range_to_the_ends_of_time_is_a_range(running: Running) -> None:
    await store(running, "kettle")
    ever = {"temporal": {"start": "0001-01-01T00:00:00Z", "end": "9999-12-31T23:59:59Z"}}
    assert texts(await recall(running, cue=ever)) == ["kettle"]


async def test_an_empty_cue_lists_the_newest_first_working_memory_too(running: Running) -> None:
    for i in range(4):
        await store(running, f"note {i}", store="working" if i == 2 else "episodic")
    assert texts(await recall(running)) == ["note 3", "note 2", "note 1", "note 0"]
    assert texts(await recall(running, limit=2)) == ["note 3", "note 2"]
    assert texts(await recall(running, stores=["working"])) == ["note 2"]
    assert texts(await recall(running, stores=["semantic"])) == []


@pytest.mark.parametrize("stores", [["episodic"], ["semantic", "working"], [*STORES], []])
@pytest.mark.parametrize("cue", [{"text": "kettle"}, {"embedding": [1.0]}, {"emotion": JOY}, {}])
async def test_only_the_asked_stores_are_searched(
    running: Running, stores: list[str], cue: dict[str, Any]
) -> None:
    for each in STORES:
        await store(running, f"kettle {each}", store=each, embedding=[1.0], emotion=JOY)
    answer = await recall(running, cue=cue, stores=stores, limit=20)
    assert {record.store for record in records(answer)} == {Store(name) for name in stores}
    assert answer.query_metadata.stores_searched == tuple(stores)


async def test_without_stores_all_five_are_searched(running: Running) -> None:
    assert (await recall(running, "x")).query_metadata.stores_searched == STORES


async def test_a_limit_of_none_gives_none_and_touches_nothing(running: Running) -> None:
    record_id = await store(running, "kettle")
    answer = await recall(running, "kettle", limit=0)
    assert answer.memories == ()
    record = codec.parse(bytes(await running.engine.introspect_record(to_introspect(record_id))), MemoryRecord)
    assert record.access_count == 0


async def test_a_limit_over_a_thousand_is_cut_and_not_refused(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        for _ in range(2):
            body = {"records": [store_body("kettle")] * 600}
            await running.engine.encode_batch(codec.parse(codec.dump(body), EncodeBatch))
        assert len((await recall(running, limit=4_000_000_000, reconsolidate=False)).memories) == 1_000
        assert len((await recall(running, "kettle", limit=1_500, reconsolidate=False)).memories) == 1_000


async def test_the_limit_cuts_after_the_candidates_were_counted(running: Running) -> None:
    for i in range(8):
        await store(running, f"kettle {i}")
    answer = await recall(running, "kettle", limit=3)
    assert (len(answer.memories), answer.total_candidates) == (3, 8)
    assert answer.query_metadata.total_records_scanned == 8


async def test_a_blank_text_is_no_cue_and_lists_the_newest(running: Running) -> None:
    older, newer = await store(running, "kettle"), await store(running, "teapot")
    answer = await recall(running, cue={"text": " \n"}, reconsolidate=False)
    assert [record.id for record in records(answer)] == [newer, older]


async def test_ties_are_broken_by_the_newest_and_a_batch_keeps_its_order(running: Running) -> None:
    body = {"records": [store_body("kettle", embedding=[1.0, 2.0]) for _ in range(10)]}
    batch = await running.engine.encode_batch(codec.parse(codec.dump(body), EncodeBatch))
    newest = await store(running, "kettle", embedding=[1.0, 2.0])
    ids = [result.record_id for result in reversed(batch.reply.results)]
    for cue in ({"text": "kettle"}, {"embedding": [2.0, 4.0]}, {"text": "kettle", "embedding": [2.0, 4.0]}, {}):
        for limit in (1, 4, 11):
            answer = await recall(running, cue=cue, limit=limit, reconsolidate=False)
            assert [record.id for record in records(answer)] == [newest, *ids][:limit], cue


async def test_ties_of_one_moment_are_broken_by_the_id_however_few_are_wanted(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    records_of_one_moment = (a_record(i, created_at=NOW, embedding=[1.0, 2.0]) for i in range(1, 11))
    commit(storage, storing(*records_of_one_moment), audited=False)
    async with running_engine(tmp_path, storage=storage) as running:
        for cue in ({"text": "kettle"}, {"embedding": [2.0, 4.0]}, between(NOW, NOW), {}):
            for limit in (1, 4, 10):
                answer = await recall(running, cue=cue, limit=limit, reconsolidate=False)
                assert [record.id for record in records(answer)] == [an_id(i) for i in range(1, limit + 1)], cue


async def test_the_same_request_on_the_same_state_gives_the_same_answer_after_a_restart(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    answers: list[Any] = []
    for _ in range(2):
        async with running_engine(tmp_path, storage=storage) as running:
            if not answers:
                for i in range(30):
                    await store(running, f"kettle {i % 3}", embedding=[1.0, i % 4], emotion=JOY)
            answer = await recall(
                running, "kettle 1", cue={"embedding": [1.0, 1.0], "emotion": JOY}, limit=7, reconsolidate=False
            )
            answers.append([(record.id, round(score, 3)) for record, score in _scored(answer)])
    assert answers[0] == answers[1]


def _scored(answer: Recalled) -> list[tuple[MemoryRecord, float]]:
    return list(zip(records(answer), scores(answer), strict=True))


async def test_reconsolidation_shows_the_new_values_and_happens_once(
    running: Running, storage: MemoryStorage, autojump_clock: MockClock
) -> None:
    record_id = await store(running, "kettle")
    [shown] = records(await recall(running, "kettle"))
    assert (shown.access_count, shown.fidelity.reinforcement_count) == (1, 1)
    assert shown.fidelity.stability == pytest.approx(2.5)
    assert shown.last_accessed_at is not None
    assert shown.created_at is not None
    assert shown.last_accessed_at > shown.created_at
    assert (shown.version, shown.updated_at) == (1, shown.created_at), "a recall is no update"
    await trio.sleep(1)
    assert stored_state(storage.rows(), record_id).access_count == 1
    [again] = records(await recall(running, "kettle"))
    assert again.access_count == 2


async def test_reconsolidation_survives_a_restart_and_leaves_one_audit_entry_a_recall(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    async with running_engine(tmp_path, storage=storage) as running:
        ids = [await store(running, f"kettle {i}") for i in range(3)]
        for _ in range(2):
            await recall(running, "kettle")
    async with running_engine(tmp_path, storage=storage) as running:
        for record_id in ids:
            record = codec.parse(
                bytes(await running.engine.introspect_record(to_introspect(record_id))), MemoryRecord
            )
            assert record.access_count == 2
        assert (await running.engine.introspect_stats()).total_recall_count == 2
    entries = [parse_line(line) for line in running.audit_lines]
    recalls = [entry for entry in entries if entry.operation == "recall.query.reconsolidate"]
    assert [entry.summary for entry in recalls] == [{"records_updated": 3}] * 2
    assert set(recalls[0].record_ids) == set(ids)
    assert recalls[0].store_types == ("episodic",) * 3


async def test_without_reconsolidation_nothing_changes(running: Running, storage: MemoryStorage) -> None:
    await store(running, "kettle")
    [shown] = records(await recall(running, "kettle", reconsolidate=False))
    assert shown.access_count == 0
    [again] = records(await recall(running, "kettle"))
    assert again.access_count == 1


async def test_many_recalls_at_once_each_count(running: Running, autojump_clock: MockClock) -> None:
    await store(running, "kettle")
    async with trio.open_nursery() as nursery:
        for _ in range(25):
            nursery.start_soon(recall, running, "kettle")
    await trio.sleep(1)
    [shown] = records(await recall(running, "kettle"))
    assert shown.access_count == 26


async def test_a_recall_that_the_writer_has_no_room_for_is_answered_and_counted(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(running, "kettle")
    running.actor("writer").close_mailbox()
    [shown] = records(await recall(running, "kettle"))
    assert shown.access_count == 1
    assert running.counted("cerememory_reconsolidations_dropped_total") == 1
    [later] = records(await recall(running, "kettle", reconsolidate=False))
    assert later.access_count == 0, "the store goes by what is on disk"


@pytest.mark.parametrize(
    ("fidelity", "mode", "shown"),
    [
        (0.9, "human", "one two three four"),
        (0.5, "human", "... two ... four"),
        (0.75, "human", "... two three four"),
        (0.5, "perfect", "one two three four"),
    ],
)
async def test_a_faded_memory_reads_with_holes_to_humans(
    running: Running, storage: MemoryStorage, fidelity: float, mode: str, shown: str
) -> None:
    record_id = await store(running, "one two three four")
    fade(storage, record_id, fidelity)
    answer = await recall(running, "three", recall_mode=mode)
    assert rendered(answer) == [shown]
    assert texts(answer) == ["one two three four"], "the stored record is never changed"
    [record] = records(answer)
    assert record.fidelity.score == fidelity


async def test_human_is_the_mode_when_none_is_given(running: Running, storage: MemoryStorage) -> None:
    fade(storage, await store(running, "one two three four"), 0.5)
    answer = await running.engine.recall_query(codec.parse(b'{"cue":{"text":"three"}}', RecallQuery))
    assert rendered(answer) == ["... two ... four"]


@pytest.mark.parametrize("cue", [{"text": "kettle"}, {"embedding": [1.0]}, {}])
async def test_what_has_faded_below_the_asked_fidelity_is_left_out_and_counted(
    running: Running, storage: MemoryStorage, cue: dict[str, Any]
) -> None:
    faded = await store(running, "kettle faded", embedding=[1.0])
    await store(running, "kettle clear", embedding=[1.0])
    fade(storage, faded, 0.3)
    answer = await recall(running, cue=cue, min_fidelity=0.5)
    assert texts(answer) == ["kettle clear"]
    assert (answer.total_candidates, answer.query_metadata.fidelity_filtered) == (1, 1)
    assert len((await recall(running, cue=cue, min_fidelity=0.3)).memories) == 2
    assert len((await recall(running, cue=cue, min_fidelity=0.5, include_decayed=True)).memories) == 2
    assert len((await recall(running, cue=cue, min_fidelity=-7)).memories) == 2
    assert len((await recall(running, cue=cue, min_fidelity=7)).memories) == 0


async def test_behind_all_that_has_faded_what_is_clear_is_still_found(
    running: Running, storage: MemoryStorage
) -> None:
    """However many fill the first places of each signal."""
    clear = await store(running, "the kettle is one of many words that nobody asks for", embedding=[1.0, 1.0])
    for i in range(100):
        fade(storage, await store(running, f"kettle {i % 7}", embedding=[1.0, 0.0]), 0.1)
    cues: list[dict[str, Any]] = [{"text": "kettle"}, {"embedding": [1.0, 0.0]}, {}]
    for cue in cues:
        answer = await recall(running, cue=cue, min_fidelity=0.5, limit=2, reconsolidate=False)
        assert [record.id for record in records(answer)] == [clear], cue
        assert answer.query_metadata.fidelity_filtered == 100


async def test_between_like_answers_the_clearer_one_comes_first_and_no_answer_is_hidden(
    running: Running, storage: MemoryStorage
) -> None:
    clear = await store(running, "the kettle whistles")
    faded = await store(running, "the kettle whistles")
    only = await store(running, "a whistle of copper")
    for record_id in (faded, only):
        fade(storage, record_id, 0.01)
    for text, expected in (("kettle", [clear, faded]), ("copper", [only]), ("copper whistle", [only])):
        for least in (None, 0.001):
            answer = await recall(running, text, reconsolidate=False, min_fidelity=least)
            assert [record.id for record in records(answer)][: len(expected)] == expected


async def test_between_equals_in_a_time_range_the_clearer_one_comes_first(
    running: Running, storage: MemoryStorage
) -> None:
    clear = await store(running, "kettle")
    faded = await store(running, "kettle")
    fade(storage, faded, 0.4)
    answer = await recall(running, "kettle", cue=between(NOW, NOW + 3_600 * NANOS))
    assert [record.id for record in records(answer)] == [clear, faded]


async def test_words_are_plain_words_whatever_they_look_like(running: Running) -> None:
    await store(running, "kettle and teapot")
    for query in (
        '"kettle',
        "kettle AND NOT teapot",
        "text:kettle",
        "kettle^9 ~2",
        "(((kettle",
        "kettle*",
        "+kettle -x",
    ):
        assert texts(await recall(running, query)) == ["kettle and teapot"], query


async def test_words_that_nothing_has_find_nothing(running: Running) -> None:
    await store(running, "kettle")
    answer = await recall(running, "aardvark")
    assert (answer.memories, answer.total_candidates) == ((), 0)


async def test_a_summary_and_given_meta_can_be_found_and_a_rationale_that_stands_for_none_cannot(
    running: Running,
) -> None:
    await store(running, "kettle", summary="copper", meta={"intent": "boiling", "tags": ["kitchen"]})
    await store(running, "plain")
    for word in ("copper", "boiling", "kitchen"):
        assert texts(await recall(running, word)) == ["kettle"], word
    assert texts(await recall(running, "rationale provided")) == []


async def test_a_memory_that_is_gone_from_the_store_is_left_out(running: Running, storage: MemoryStorage) -> None:
    gone = await store(running, "kettle one")
    await store(running, "kettle two")
    await recall(running, "kettle")
    content = key(DEFAULT_NAMESPACE, Table.CONTENT, gone)
    storage.commit({content: None, state_key_of(storage.rows(), gone): None})
    assert texts(await recall(running, "kettle")) == ["kettle two"]


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"image": list(b"\x89PNG\r\n\x1a\n")}, ModalityUnsupported, "cue.image"),
    ({"image": [1, 2]}, ValidationFailed, "cue.image: the format is not recognised"),
    ({"audio": list(b"OggS")}, ModalityUnsupported, "cue.audio"),
    ({"audio": []}, ValidationFailed, "cue.audio: must not be empty"),
    ({"embedding": []}, ValidationFailed, "cue.embedding: must not be empty"),
    ({"embedding": [1e39]}, ValidationFailed, "cue.embedding: must hold finite"),
]


@pytest.mark.parametrize(("cue", "error", "message"), REFUSED)
async def test_a_cue_that_cannot_be_used_is_refused_with_its_part(
    running: Running, cue: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await recall(running, cue=cue)


async def test_an_image_beside_an_embedding_is_only_checked_for_size(running: Running) -> None:
    await store(running, "kettle", embedding=[1.0])
    assert texts(await recall(running, cue={"image": [1, 2], "embedding": [1.0]})) == ["kettle"]


async def test_another_protocol_version_is_refused(running: Running) -> None:
    header = {"protocol": "cmp", "version": "9", "request_id": "0" * 32, "timestamp": "2026-01-01T00:00:00Z"}
    with pytest.raises(VersionMismatch):
        await recall(running, "kettle", header=header)


@pytest.mark.parametrize("signal", ["text", "vector", "both"])
async def test_a_memory_is_found_beyond_the_first_candidates_of_other_stores(
    running: Running, signal: str
) -> None:
    """Each signal looks into the asked stores alone: others' memories take none of its places."""
    cue: dict[str, Callable[[], dict[str, Any]]] = {
        "text": lambda: {"text": "kettle"},
        "vector": lambda: {"embedding": [1.0, 0.0]},
        "both": lambda: {"text": "kettle", "embedding": [1.0, 0.0]},
    }
    await store(running, "an old kettle somewhere in the cellar", store="procedural", embedding=[0.5, 0.5])
    body = {"records": [store_body("kettle", embedding=[1.0, 0.0])] * 40}
    await running.engine.encode_batch(codec.parse(codec.dump(body), EncodeBatch))
    answer = await recall(running, cue=cue[signal](), stores=["procedural"], limit=1)
    assert texts(answer) == ["an old kettle somewhere in the cellar"]
