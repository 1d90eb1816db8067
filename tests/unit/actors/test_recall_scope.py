"""Recalls within a scope: each signal finds what is in it, however much fits better outside."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cerememory.actors import scoping
from cerememory.actors.seams import in_thread
from cerememory.actors.vectors import VectorIndexer
from cerememory.config.settings import SecuritySettings
from cerememory.domain.capture import with_context
from cerememory.domain.cma import CURATED_ONLY, ArchiveReader
from cerememory.errors import InternalError, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import EMPTY_OBJECT, MemoryRecord
from cerememory.protocol.replies import Recalled
from cerememory.protocol.requests import (
    Consolidate,
    DreamTick,
    EncodeBatch,
    EncodeContext,
    EncodeUpdate,
    Import,
    ImportStrategy,
    RecallQuery,
    UndoImport,
)
from cerememory.protocol.values import NANOS, ByteArray, RecordId
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.reindex import open_index
from cerememory.storage.text_index import SCHEMA_EPOCH, Hit, IndexDamaged, Snapshot, TextIndex
from tests.support.archives import BUNDLE, archive_of
from tests.support.engine import (
    WAIT_S,
    Running,
    WallClock,
    running_engine,
    settings_for,
    store_body,
    to_store,
    to_store_raw,
)
from tests.support.memory_storage import MemoryStorage
from tests.support.sealing import sealed_storage

FIRST = next(record for record in ArchiveReader([BUNDLE]).records() if isinstance(record, MemoryRecord))
CUES: dict[str, dict[str, Any]] = {
    "words": {"text": "kettle"},
    "vector": {"embedding": [1.0, 0.1]},
    "emotion": {"emotion": {"joy": 1.0}},
    "time": {"temporal": {"start": "2020-01-01T00:00:00Z", "end": "2040-01-01T00:00:00Z"}},
    "newest": {},
    "all": {
        "text": "kettle",
        "embedding": [1.0, 0.1],
        "emotion": {"joy": 1.0},
        "temporal": {"start": "2020-01-01T00:00:00Z", "end": "2040-01-01T00:00:00Z"},
    },
}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_engine(tmp_path, clock=WallClock(step_ns=NANOS)) as opened:
        yield opened


def asking(cue: dict[str, Any], scope: Any = None, **given_: Any) -> RecallQuery:
    body = {"cue": cue, "scope": scope, "reconsolidate": False, "activation_depth": 0, **given_}
    return codec.parse(codec.dump(body), RecallQuery)


def records(recalled: Recalled) -> list[MemoryRecord]:
    return [codec.parse(memory.record, MemoryRecord) for memory in recalled.memories]


def ids(recalled: Recalled) -> list[RecordId]:
    return [record.id for record in records(recalled)]


async def answer(
    running: Running, cue: str, scope: Any = None, namespace: int = DEFAULT_NAMESPACE, **given_: Any
) -> Recalled:
    """Of an index that has all that was stored, however long that takes here."""
    request, by = asking(CUES[cue], scope, **given_), trio.current_time() + WAIT_S
    return await running.engine.recall_query(request, namespace=namespace, fresh_by=by)


async def recall(running: Running, cue: str, scope: Any = None, **given_: Any) -> list[RecordId]:
    return ids(await answer(running, cue, scope, **given_))


async def store(
    running: Running, text: str = "kettle", namespace: int = DEFAULT_NAMESPACE, **given_: Any
) -> RecordId:
    return (await running.engine.encode_store(to_store(text, **given_), namespace=namespace)).reply.record_id


# --- Whatever is asked, a scope answers what a recall of everything would, without what is outside.

WORDS = ("kettle", "kettle stove", "the copper kettle", "tea", "")
MEMBERS = {
    "n": ("1", "1.0", "10e-1", '"1"', "true", "0.10", "1e-1", "null"),
    "of": ('{"a": 1, "b": [2]}', '{"b": [2.0], "a": 1}', '{"a": 1}', "[]"),
    "room": ('"kitchen"', '"Kitchen"', '"k\\u0069tchen"'),
}
NAMES = st.sampled_from([None, "s", "S", "", "dream", "a longer name with ümläut"])
TAGS = st.lists(st.sampled_from(["a", "b", "A", "kitchen"]), max_size=3)
METADATA = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in MEMBERS.items()})
VECTORS = st.sampled_from([None, [1.0, 0.0], [0.9, 0.4], [0.2, 1.0], [1.0, 0.0, 0.0]])
MEMORIES = st.fixed_dictionaries(
    {
        "namespace": st.sampled_from([0, 0, 0, 1]),
        "text": st.sampled_from(WORDS[:-1]),
        "store": st.sampled_from(["episodic", "semantic", "procedural", "emotional", "working"]),
        "session_id": NAMES,
        "source": NAMES,
        "tags": TAGS,
        "metadata": METADATA,
        "embedding": VECTORS,
        "joy": st.sampled_from([None, 1.0, 0.5]),
        "edit": st.none() | st.fixed_dictionaries({}, optional={"metadata": METADATA, "tags": TAGS}),
    }
)
SCOPES = st.fixed_dictionaries(
    {}, optional={"session_id": NAMES, "source": NAMES, "tags": st.none() | TAGS, "metadata": st.none() | METADATA}
)


def raw(members: dict[str, str]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(value.encode()) for name, value in members.items()}


def meaning(value: Any) -> Any:
    """Decoded JSON as something that is equal to whatever means the same; Python's true is equal to 1."""
    if isinstance(value, dict):
        return {name: meaning(inner) for name, inner in value.items()}
    return [meaning(inner) for inner in value] if isinstance(value, list) else (type(value), value)


def read(text: str | bytes) -> Any:
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


def is_in(record: MemoryRecord, scope: dict[str, Any]) -> bool:
    metadata = read(bytes(record.metadata))
    context = metadata.get("_context", {})
    tags = () if record.meta is None else record.meta.tags
    named = all(scope.get(name) in (None, context.get(name)) for name in ("session_id", "source"))
    members = (scope.get("metadata") or {}).items()
    has_members = all(n in metadata and meaning(metadata[n]) == meaning(read(v)) for n, v in members)
    return named and has_members and set(scope.get("tags") or ()) <= set(tags)


async def remember(running: Running, memory: dict[str, Any]) -> None:
    body = store_body(
        memory["text"],
        embedding=memory["embedding"],
        store=memory["store"],
        emotion=None if memory["joy"] is None else {"joy": memory["joy"]},
        context={"session_id": memory["session_id"], "source": memory["source"]},
        metadata=raw(memory["metadata"]),
        meta={"tags": memory["tags"]},
    )
    request = codec.parse(codec.dump({"records": [body]}), EncodeBatch)
    stored = await running.engine.encode_batch(request, namespace=memory["namespace"])
    if edit := memory["edit"]:
        parts = {"metadata": raw(edit["metadata"])} if "metadata" in edit else {}
        parts |= {"meta": {"tags": edit["tags"]}} if "tags" in edit else {}
        update = codec.parse(codec.dump(parts), EncodeUpdate)
        await running.engine.encode_update(
            stored.reply.results[0].record_id, update, namespace=memory["namespace"]
        )


async def answers_alike(running: Running, namespace: int, scope: dict[str, Any], cue: str, limit: int) -> None:
    asked = {**scope, "metadata": raw(scope["metadata"])} if scope.get("metadata") else scope
    everything = await answer(running, cue, limit=1_000, namespace=namespace)
    expected = [record.id for record in records(everything) if is_in(record, scope)]
    whole = await answer(running, cue, asked, namespace, limit=1_000, explain=True)
    few = await answer(running, cue, asked, namespace, limit=limit)
    if cue == "all":  # words are told as shares of the best that is found, so beside others they may weigh more
        assert set(ids(whole)) == set(expected)
    else:
        assert ids(whole) == expected
        assert ids(few) == expected[:limit]
    assert whole.query_metadata.index_complete
    assert whole.total_candidates == len(expected)
    for memory in whole.memories:
        parts = msgspec.structs.astuple(memory.explanation)  # type: ignore[arg-type]
        assert sum(parts) == pytest.approx(memory.relevance_score)


@settings(max_examples=30)
@given(
    memories=st.lists(MEMORIES, min_size=4, max_size=24),
    scopes=st.lists(SCOPES, min_size=1, max_size=4),
    few_max=st.sampled_from([scoping.FEW_MAX, 0]),
    apart_ns=st.sampled_from([0, NANOS]),
    limit=st.integers(1, 3),
)
def test_a_scope_answers_what_a_recall_of_all_would_without_the_rest(
    memories: list[dict[str, Any]], scopes: list[dict[str, Any]], few_max: int, apart_ns: int, limit: int
) -> None:
    """Of memories made at one moment the first `limit` are compared, too: of others the few candidates that a
    recall looks at may be ranked anew by how they have faded, with a scope or without.
    """

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with running_engine(Path(folder), clock=WallClock(step_ns=0)) as running:
                assert await running.engine.namespace("work", create=True) == 1
                for memory in memories:
                    running.clock.at += apart_ns  # and between two recalls nothing fades
                    await remember(running, memory)
                for scope in scopes:
                    for cue in CUES:
                        for namespace in (0, 1):
                            await answers_alike(running, namespace, scope, cue, 1_000 if apart_ns else limit)

    with mock.patch.object(scoping, "FEW_MAX", few_max):
        trio.run(main)


# --- Few among many

CROWD = 10_000


@pytest.mark.parametrize("few_max", [scoping.FEW_MAX, 2], ids=["named", "widened"])
async def test_three_of_ten_thousand_are_found_by_every_signal(
    tmp_path: Path, few_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the oldest, and the worst by each."""
    monkeypatch.setattr(scoping, "FEW_MAX", few_max)
    lost: dict[str, Any] = {
        "text": "something long that has, somewhere in the middle of all that it says, a kettle",
        "embedding": [0.1, 1.0],
        "emotion": {"joy": 0.1, "fear": 1.0},
        "metadata": {"lost": 1},
    }
    crowd: dict[str, Any] = {"text": "kettle", "embedding": [1.0, 0.1], "emotion": {"joy": 1.0}}
    async with running_engine(tmp_path) as running:
        wanted = [await store(running, **lost) for _ in range(3)]
        for _ in range(CROWD // 1_000):
            batch = {"records": [store_body(**crowd) for _ in range(1_000)]}
            await running.engine.encode_batch(codec.parse(codec.dump(batch), EncodeBatch))
        for cue in CUES:
            found = await answer(running, cue, {"metadata": {"lost": 1.0}})
            assert set(ids(found)) == set(wanted), cue
            assert found.total_candidates == 3
            assert found.query_metadata.index_complete


async def test_what_has_faded_in_a_scope_is_left_out_and_counted(running: Running) -> None:
    inside = [await store(running, metadata={"x": i % 2}) for i in range(10)]
    for cue in ("words", "newest", "time"):
        found = await answer(running, cue, {"metadata": {"x": 1}}, min_fidelity=1.0)
        assert (found.query_metadata.fidelity_filtered, found.total_candidates) == (5, 0)
        assert set(await recall(running, cue, {"metadata": {"x": 1}}, min_fidelity=0.5)) == set(inside[1::2])


async def test_the_asked_stores_hold_besides(running: Running) -> None:
    await store(running, store="episodic", metadata={"x": 1})
    semantic = await store(
        running, store="semantic", metadata={"x": 1}, embedding=[1.0, 0.0], emotion={"joy": 1.0}
    )
    await store(running, store="semantic", embedding=[1.0, 0.0], emotion={"joy": 1.0})
    for cue in CUES:
        assert await recall(running, cue, {"metadata": {"x": 1}}, stores=["semantic"]) == [semantic]


# --- Associations

EDGE = {"association_type": "causal", "weight": 1.0}


async def test_activation_brings_up_what_is_in_the_scope_alone(running: Running) -> None:
    inside = await store(running, "a saucer", metadata={"x": 1})
    outside = await store(running, "a saucer")
    edges = [{"target_id": str(target), **EDGE} for target in (inside, outside)]
    source = await store(running, "the kettle", metadata={"x": 1}, associations=edges)
    loud = await store(running, "kettle kettle", associations=[{"target_id": str(outside), **EDGE}])
    everywhere = await answer(running, "words", activation_depth=2)
    assert set(ids(everywhere)) == {loud, source, outside}, "the best of all leads to what is outside"
    found = await answer(running, "words", {"metadata": {"x": 1}}, activation_depth=2)
    assert ids(found) == [source, inside]
    assert found.activation_trace is not None
    assert [each.record_id for each in found.activation_trace.activations] == [inside]


# --- What moves a memory into a scope and out of it


@pytest.mark.parametrize("kind", ["episodic", "working"])
@pytest.mark.parametrize("cue", CUES)
async def test_an_update_moves_a_memory_in_and_out(running: Running, kind: str, cue: str) -> None:
    record_id = await store(
        running, store=kind, context={"session_id": "s"}, embedding=[1.0, 0.0], emotion={"joy": 1.0}
    )

    async def now_in(edit: dict[str, Any], *scopes: dict[str, Any]) -> list[bool]:
        if edit:
            await running.engine.encode_update(record_id, codec.parse(codec.dump(edit), EncodeUpdate))
        return [await recall(running, cue, scope) == [record_id] for scope in scopes]

    session, tag, member = {"session_id": "s"}, {"tags": ["a"]}, {"metadata": {"x": {"y": [1]}}}
    assert await now_in({}, session, tag, member) == [True, False, False]
    assert await now_in({"meta": {"tags": ["b", "a"]}}, session, tag, member) == [True, True, False]
    assert await now_in({"metadata": {"x": {"y": [1.0]}}}, session, tag, member) == [False, True, True]
    assert await now_in({"meta": {"tags": ["b"]}, "metadata": {"x": 1}}, session, tag, member) == [False] * 3


async def test_an_import_that_is_taken_back_takes_its_memories_out_of_the_scope(running: Running) -> None:
    metadata = with_context(EMPTY_OBJECT, EncodeContext(session_id="s-1", source="Ada"))
    record = msgspec.structs.replace(FIRST, metadata=metadata)
    kept = await store(running, "kettle", context={"session_id": "s-1"})
    archive = ByteArray(archive_of(CURATED_ONLY, [record]))
    asked = Import(archive_id="a-1", archive_data=archive, strategy=ImportStrategy.REPLACE)
    imported = (await running.engine.lifecycle_import(asked)).reply
    assert await recall(running, "newest", {"session_id": "s-1"}) == [record.id]
    await running.engine.lifecycle_undo_import(UndoImport(batch_id=imported.batch_id))  # type: ignore[arg-type]
    assert await recall(running, "newest", {"session_id": "s-1"}) == [kept]
    assert await recall(running, "words", {"source": "Ada"}) == []


async def test_a_dream_belongs_to_the_session_of_its_entries_and_says_that_it_is_one(running: Running) -> None:
    for text in ("the kettle is red", "the kettle is blue"):
        await running.engine.encode_store_raw(to_store_raw(text, "s-9", topic_id="kettle"))
    await store(running, "kettle", context={"session_id": "other"})
    await running.engine.lifecycle_dream_tick(DreamTick())
    dreams = await recall(running, "words", {"session_id": "s-9"})
    assert len(dreams) == 2
    assert set(await recall(running, "newest", {"source": "dream"})) == set(dreams)
    assert len(await recall(running, "newest", {"tags": ["semantic_summary"]})) == 1


async def test_a_semantic_copy_is_in_the_scopes_of_its_original(running: Running) -> None:
    original = await store(running, context={"session_id": "s"}, metadata={"x": 1}, meta={"tags": ["a"]})
    await running.engine.lifecycle_consolidate(Consolidate())
    found = await recall(running, "newest", {"session_id": "s", "metadata": {"x": 1}, "tags": ["a"]})
    assert len(found) == 2
    assert original in found


# --- The index


async def test_an_empty_scope_is_none(running: Running) -> None:
    record_id = await store(running)
    scopes: list[dict[str, Any]] = [
        {},
        {"session_id": None, "source": None, "tags": None, "metadata": None},
        {"tags": []},
    ]
    for scope in scopes:
        assert await recall(running, "newest", scope) == [record_id]
        assert await recall(running, "words", scope) == [record_id]


async def test_a_scope_sees_a_write_that_was_acknowledged_before(running: Running) -> None:
    for number in range(20):
        record_id = await store(running, metadata={"n": number}, embedding=[1.0, 0.0], emotion={"joy": 1.0})
        for cue in CUES:
            assert await recall(running, cue, {"metadata": {"n": number}}) == [record_id]


async def test_an_index_from_before_scopes_is_built_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage, chosen = MemoryStorage(), settings_for(tmp_path, security=SecuritySettings())
    async with running_engine(tmp_path, storage=storage, settings=chosen) as running:
        record_id = await store(running, context={"session_id": "s"})
        path = running.directory.index_path
    opened, _reason = open_index(path)
    opened.close()
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()
    TextIndex.open(path, SCHEMA_EPOCH - 1).close()
    async with running_engine(tmp_path, storage=storage, settings=chosen) as running:
        for cue in ("words", "newest", "time"):
            assert await recall(running, cue, {"session_id": "s"}) == [record_id]
    assert TextIndex.open_existing(path).count(0) == 1


@pytest.mark.parametrize("cue", CUES)
async def test_a_recall_says_so_when_the_index_isnt_level(running: Running, cue: str) -> None:
    await store(running, metadata={"x": 1}, embedding=[1.0, 0.0], emotion={"joy": 1.0})
    await recall(running, cue, {"metadata": {"x": 1}})
    index: Any = running.actor("text_index")
    index._level = False
    behind = await running.engine.recall_query(asking(CUES[cue], {"metadata": {"x": 1}}))
    assert not behind.query_metadata.index_complete
    without = await running.engine.recall_query(asking(CUES[cue]))
    assert without.query_metadata.index_complete == ("text" not in CUES[cue])


@pytest.mark.parametrize("cue", CUES)
async def test_without_an_index_nothing_is_found_and_it_says_so(running: Running, cue: str) -> None:
    await store(running, metadata={"x": 1}, embedding=[1.0, 0.0], emotion={"joy": 1.0})
    index: Any = running.actor("text_index")
    index._snapshot, index._level = None, False
    found = await running.engine.recall_query(asking(CUES[cue], {"metadata": {"x": 1}}))
    assert (found.memories, found.query_metadata.index_complete) == ((), False)


async def test_vectors_that_are_too_many_for_the_memory_are_searched_in_a_scope_too(running: Running) -> None:
    for number in range(20):
        await store(running, embedding=[1.0, number / 100], metadata={"n": number % 5})
    vectors: Any = running.actor("vector_index")
    assert isinstance(vectors, VectorIndexer)
    expected = await recall(running, "vector", {"metadata": {"n": 3}})
    vectors._cache_bytes_max = 0
    vectors._tables.clear()
    assert len(expected) == 4
    assert await recall(running, "vector", {"metadata": {"n": 3}}) == expected


async def test_on_real_threads_it_is_the_same(tmp_path: Path) -> None:
    async with running_engine(tmp_path, offload=in_thread) as running:
        made = [
            await store(running, metadata={"n": i % 4}, embedding=[1.0, 0.0], emotion={"joy": 1.0})
            for i in range(40)
        ]
        async with trio.open_nursery() as nursery:
            for cue in CUES:
                for number in range(4):
                    nursery.start_soon(_finds, running, cue, number, set(made[number::4]))


async def _finds(running: Running, cue: str, number: int, expected: set[RecordId]) -> None:
    assert set(await recall(running, cue, {"metadata": {"n": number}}, limit=40)) == expected


async def test_an_encrypted_memory_knows_its_scopes(tmp_path: Path) -> None:
    storage = sealed_storage()
    async with running_engine(tmp_path, storage=storage) as running:
        kept = [
            await store(running, metadata={"n": i}, embedding=[1.0, 0.0], emotion={"joy": 1.0}) for i in range(4)
        ]
    async with running_engine(tmp_path, storage=storage) as running:
        for cue in CUES:
            assert await recall(running, cue, {"metadata": {"n": 2}}) == [kept[2]], (
                "its index is built at each start"
            )


async def test_an_index_that_turns_out_damaged_in_a_thread_is_met_by_its_actor(
    running: Running, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_id = await store(running, metadata={"x": 1})
    looks: list[str] = []
    newest_within = Snapshot.newest_within

    def harmed(*asked: Any) -> list[Hit]:
        looks.append("")
        if len(looks) < 3:
            raise IndexDamaged("a changed byte")
        return newest_within(*asked)

    monkeypatch.setattr(Snapshot, "newest_within", harmed)
    with pytest.raises(InternalError):
        await recall(running, "newest", {"metadata": {"x": 1}})
    await trio.sleep(5)  # until the supervisor has started it again
    await running.until_indexed()
    assert await recall(running, "newest", {"metadata": {"x": 1}}) == [record_id]
    assert running.counted("cerememory_actor_restarts_total", actor="text_index") == 1


async def test_one_that_turns_out_damaged_while_vectors_are_compared_is_met_by_its_actor_alone(
    running: Running, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_id = await store(running, metadata={"x": 1}, embedding=[1.0, 0.1])
    monkeypatch.setattr(scoping, "FEW_MAX", 0)
    with monkeypatch.context() as patched:
        patched.setattr(Snapshot, "among", mock.Mock(side_effect=IndexDamaged("a changed byte")))
        with pytest.raises(InternalError):
            await recall(running, "vector", {"metadata": {"x": 1}})
    await trio.sleep(5)  # until the supervisor has started it again
    await running.until_indexed()
    assert await recall(running, "vector", {"metadata": {"x": 1}}) == [record_id]
    assert running.counted("cerememory_actor_restarts_total", actor="text_index") == 1
    assert running.counted("cerememory_actor_restarts_total", actor="vector_index") == 0


# --- What is refused

LONG = "x" * 1_025


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ({"session_id": LONG}, "scope.session_id: 1025 bytes, at most 1024"),
        ({"source": "ü" * 513}, "scope.source: 1026 bytes, at most 1024"),
        ({"tags": ["a"] * 33}, "scope.tags: at most 32, got 33"),
        ({"tags": ["a", LONG]}, "scope.tags[1]: 1025 bytes"),
        ({"metadata": {str(i): i for i in range(33)}}, "scope.metadata: at most 32, got 33"),
        ({"metadata": {LONG: 1}}, "scope.metadata: the name "),
        ({"metadata": {"_context": {}}}, "scope.metadata._context: the daemon's own"),
        ({"metadata": {"x": msgspec.Raw(b"[" * 65 + b"]" * 65)}}, "scope.metadata.x: nested deeper than 64"),
        ({"metadata": {"x": "y" * 16_383}}, "scope.metadata: 16385 bytes of values, at most 16384"),
        ({"metadata": {"x": "y" * 8_192, "z": [1] * 4_100}}, "scope.metadata: 16395 bytes of values"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
async def test_a_scope_beyond_its_bounds_is_refused_with_the_part(
    running: Running, scope: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        await running.engine.recall_query(asking({}, scope))
    assert str(caught.value).startswith(message)


async def test_a_scope_at_its_bounds_is_asked(running: Running) -> None:
    tags, members = [str(i) * 512 for i in range(10)] * 3 + ["a", "b"], {str(i): "x" * 510 for i in range(32)}
    record_id = await store(running, meta={"tags": tags}, metadata=members, context={"session_id": LONG[1:]})
    scope = {"tags": tags, "metadata": members, "session_id": LONG[1:]}
    assert await recall(running, "newest", scope) == [record_id]
