"""recall.associate and recall.graph: what hangs together with a memory, by the edges that it was stored with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cerememory.actors.writer import Commit
from cerememory.errors import RecordNotFound, ValidationFailed, VersionMismatch
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord, Relation
from cerememory.protocol.replies import Associated, Graph
from cerememory.protocol.requests import EncodeBatch, RecallAssociate, RecallGraph
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.ledger import Ledger
from cerememory.storage.removal import remove_memory
from tests.support.committing import a_record, an_id, commit, storing
from tests.support.engine import NOW, Running, running_engine, store_body, to_recall, to_store
from tests.support.memory_storage import MemoryStorage

UNKNOWN = an_id(0xFFFF)
HEADER = {"protocol": "cmp", "version": "2.0", "request_id": str(UNKNOWN), "timestamp": "2026-01-01T00:00:00Z"}


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def running(tmp_path: Path, storage: MemoryStorage) -> AsyncIterator[Running]:
    async with running_engine(tmp_path, storage=storage) as opened:
        yield opened


async def store(running: Running, text: str, **given: Any) -> RecordId:
    return (await running.engine.encode_store(to_store(text, **given))).reply.record_id


def edge(target: RecordId, weight: float = 1.0, kind: str = "semantic") -> dict[str, Any]:
    return {"target_id": str(target), "association_type": kind, "weight": weight}


async def steps(running: Running, *texts: str) -> list[RecordId]:
    """Memories linked in their order."""
    body = {"records": [store_body(text) for text in texts], "infer_associations": True}
    stored = await running.engine.encode_batch(codec.parse(codec.dump(body), EncodeBatch))
    return [encoded.record_id for encoded in stored.reply.results]


async def associate(
    running: Running, source: RecordId, *, namespace: int = DEFAULT_NAMESPACE, **given: Any
) -> Associated:
    request = codec.parse(codec.dump(given), RecallAssociate)
    return await running.engine.recall_associate(source, request, namespace=namespace)


async def graph(running: Running, **given: Any) -> Graph:
    return await running.engine.recall_graph(codec.parse(codec.dump(given), RecallGraph))


def records(answer: Associated) -> list[MemoryRecord]:
    return [codec.parse(bytes(memory.record), MemoryRecord) for memory in answer.memories]


def ids(answer: Associated) -> list[RecordId]:
    return [record.id for record in records(answer)]


async def test_neighbours_of_a_batch_are_associated_both_ways_the_nearest_first(running: Running) -> None:
    one, two, three = await steps(running, "one", "two", "three")
    answer = await associate(running, one)
    assert [memory.relevance_score for memory in answer.memories] == [pytest.approx(0.35), pytest.approx(0.1225)]
    assert [memory.activation_path for memory in answer.memories] == [(one, two), (one, two, three)]
    assert [record.content.blocks[0].data for record in records(answer)] == [b"two", b"three"]
    assert answer.total_candidates == 2
    assert ids(await associate(running, three)) == [two, one]
    assert set(ids(await associate(running, two))) == {one, three}


async def test_an_edge_leads_from_the_memory_it_was_given_with_and_not_back(running: Running) -> None:
    target = await store(running, "target")
    source = await store(running, "source", associations=[edge(target)])
    assert ids(await associate(running, source)) == [target]
    assert await associate(running, target) == Associated(memories=(), total_candidates=0)


async def test_depth_is_how_far_and_zero_means_two(running: Running) -> None:
    chain = await steps(running, *"abcd")
    far = [len((await associate(running, chain[0], depth=depth, min_weight=0)).memories) for depth in (0, 1, 2, 8)]
    assert far == [2, 1, 2, 2], "four steps away nothing is left of a weight of .7"


@pytest.mark.parametrize(("field", "value"), [("depth", 9), ("limit", 257)])
async def test_beyond_its_limits_it_is_refused(running: Running, field: str, value: int) -> None:
    with pytest.raises(ValidationFailed, match=field):
        await associate(running, await store(running, "x"), **{field: value})


async def test_the_limit_cuts_what_is_shown_but_not_what_is_counted(running: Running) -> None:
    targets = [await store(running, f"t{i}") for i in range(5)]
    edges = [edge(target, weight=1 - i / 10) for i, target in enumerate(targets)]
    source = await store(running, "source", associations=edges)
    answer = await associate(running, source, limit=2)
    assert (ids(answer), answer.total_candidates) == (targets[:2], 5)
    assert await associate(running, source, limit=0) == Associated(memories=(), total_candidates=5)


async def test_only_edges_of_the_types_asked_for_and_heavy_enough_are_followed(running: Running) -> None:
    behind = await store(running, "behind")
    causal = await store(running, "causal", associations=[edge(behind)])
    light = await store(running, "light")
    edges = [edge(causal, kind="causal"), edge(light, 0.15, "causal")]
    source = await store(running, "source", associations=edges)
    assert ids(await associate(running, source)) == [causal, behind, light]
    assert ids(await associate(running, source, association_types=["causal"])) == [causal, light]
    assert ids(await associate(running, source, association_types=["causal"], min_weight=0.2)) == [causal]
    assert ids(await associate(running, source, association_types=[])) == []


async def test_a_memory_that_is_not_there_has_no_associations_to_ask_for(running: Running) -> None:
    with pytest.raises(RecordNotFound, match=format_id(UNKNOWN)):
        await associate(running, UNKNOWN)


async def test_another_namespace_has_other_memories(running: Running) -> None:
    one, _two = await steps(running, "one", "two")
    with pytest.raises(RecordNotFound):
        await associate(running, one, namespace=7)


async def test_a_dangling_edge_leads_nowhere(running: Running) -> None:
    source = await store(running, "source", associations=[edge(UNKNOWN)])
    assert await associate(running, source) == Associated(memories=(), total_candidates=0)


async def test_working_memory_is_part_of_it(running: Running) -> None:
    durable = await store(running, "durable")
    held = await store(running, "held", store="working", associations=[edge(durable)])
    source = await store(running, "source", associations=[edge(held)])
    assert ids(await associate(running, source)) == [held, durable]
    assert ids(await associate(running, held)) == [durable]


async def test_what_was_evicted_from_working_memory_is_reached_no_more(running: Running) -> None:
    held = await store(running, "held", store="working")
    source = await store(running, "source", associations=[edge(held)])
    assert ids(await associate(running, source)) == [held]
    for i in range(7):
        await store(running, f"later {i}", store="working")
    assert ids(await associate(running, source)) == []


async def test_to_be_associated_is_no_retrieval(running: Running, storage: MemoryStorage) -> None:
    one, _two = await steps(running, "one", "two")
    before = storage.rows()
    [record] = records(await associate(running, one))
    assert (record.access_count, record.fidelity.reinforcement_count) == (0, 0)
    assert storage.rows() == before


@dataclass(frozen=True, slots=True)
class Remove:
    record_id: RecordId
    namespace: int = DEFAULT_NAMESPACE

    def apply(self, ledger: Ledger) -> None:
        remove_memory(ledger, self.record_id, NOW)


async def test_what_is_gone_is_reached_no_more_though_it_was_before(running: Running) -> None:
    one, two, three = await steps(running, "one", "two", "three")
    assert ids(await associate(running, one)) == [two, three]
    await running.actor("writer").ask(Commit(Remove(two)))
    assert ids(await associate(running, one)) == []
    with pytest.raises(RecordNotFound):
        await associate(running, two)


@pytest.mark.parametrize("operation", [associate, graph])
async def test_another_protocol_is_refused(running: Running, operation: Any) -> None:
    source = [await store(running, "x")] if operation is associate else []
    with pytest.raises(VersionMismatch):
        await operation(running, *source, header=HEADER)


async def test_a_graph_shows_memories_and_the_edges_between_them(running: Running) -> None:
    one, two, three = await steps(running, "one", "two", "three")
    shown = await graph(running, center_id=str(one), depth=1)
    assert [(node.id, node.store.value, node.summary) for node in shown.nodes] == [
        (one, "episodic", "one"),
        (two, "episodic", "two"),
    ]
    assert [node.fidelity for node in shown.nodes] == [pytest.approx(1.0)] * 2
    assert [(e.source, e.target, e.edge_type, e.weight) for e in shown.edges] == [(one, two, "sequential", 0.7)]
    assert (shown.total_nodes, shown.meta_edges) == (2, ())
    whole = await graph(running, center_id=str(one))
    assert [node.id for node in whole.nodes] == [one, two, three]
    assert [(e.source, e.target) for e in whole.edges] == [(one, two), (two, one), (two, three)]


async def test_a_graph_asks_for_edge_types_in_any_case(running: Running) -> None:
    one, two = await steps(running, "one", "two")
    for names, nodes in ((["SEQUENTIAL"], [one, two]), (["causal", "friends"], [one]), ([], [one])):
        shown = await graph(running, center_id=str(one), edge_types=names)
        assert [node.id for node in shown.nodes] == nodes


async def test_a_graph_is_cut_at_its_limit_of_nodes(running: Running, storage: MemoryStorage) -> None:
    commit(storage, storing(*(a_record(i, created_at=NOW + i) for i in range(1, 1_011))))
    assert (await graph(running)).total_nodes == 10
    assert (await graph(running, limit_nodes=5_000)).total_nodes == 1_000
    assert (await graph(running, limit_nodes=0)).total_nodes == 0


async def test_an_edge_to_what_is_not_there_is_shown(running: Running) -> None:
    source = await store(running, "source", associations=[edge(UNKNOWN)])
    shown = await graph(running, center_id=str(source))
    assert [node.id for node in shown.nodes] == [source]
    assert [e.target for e in shown.edges] == [UNKNOWN]


async def test_a_graph_around_what_is_not_there_is_empty(running: Running) -> None:
    await store(running, "x")
    assert await graph(running, center_id=str(UNKNOWN)) == Graph(nodes=(), edges=(), total_nodes=0, meta_edges=())


async def test_a_graph_shows_working_memory_around_a_center_only(running: Running) -> None:
    held = await store(running, "held", store="working")
    source = await store(running, "source", associations=[edge(held)])
    assert [node.id for node in (await graph(running)).nodes] == [source]
    around = await graph(running, center_id=str(source))
    assert [(node.id, node.store) for node in around.nodes] == [(source, "episodic"), (held, "working")]


async def test_meta_is_shown_when_asked_for(running: Running) -> None:
    target = await store(running, "target")
    meta = {"intent": "why", "context_edges": [{"target_id": str(target), "relation": "supports"}]}
    source = await store(running, "source", meta=meta)
    shown = await graph(running, include_meta=True)
    metas = [codec.parse(codec.dump(node.meta), dict[str, Any]) for node in shown.nodes]
    assert [meta["intent"] for meta in metas] == [None, "why"]
    [found] = shown.meta_edges
    assert (found.source_id, found.target_id, found.relation) == (source, target, Relation.SUPPORTS)
    without = codec.parse(codec.dump(await graph(running)), dict[str, Any])
    assert "meta" not in without["nodes"][0]
    assert without["meta_edges"] == []


async def test_a_node_is_called_by_its_summary_or_the_start_of_its_text(running: Running) -> None:
    await store(running, "x" * 100)
    await store(running, "text", summary="summary")
    assert [node.summary for node in (await graph(running)).nodes] == ["x" * 80 + "...", "summary"]


async def recalled(running: Running, text: str, **given: Any) -> dict[RecordId, Any]:
    answer = await running.engine.recall_query(to_recall(text, **given))
    return {codec.parse(bytes(m.record), MemoryRecord).id: m for m in answer.memories}


async def test_a_recall_brings_to_mind_what_hangs_together_with_its_best(running: Running) -> None:
    one, two, three = await steps(running, "kettle", "teapot", "cup")
    other = await store(running, "cupboard")
    found = await recalled(running, "kettle")
    assert list(found) == [one, two, three]
    assert [found[i].relevance_score for i in (one, two, three)] == [
        pytest.approx(1.0),
        pytest.approx(0.8 * 0.35),
        pytest.approx(0.8 * 0.1225),
    ]
    assert [found[i].activation_path for i in (one, two, three)] == [None, (one, two), (one, two, three)]
    assert other not in found


async def test_what_words_have_found_too_counts_by_both(running: Running) -> None:
    bare = await store(running, "the kettle is in the kitchen with cups and plates")
    linked = await store(running, "the kettle is in the kitchen with cups and plates")
    best = await store(running, "kettle kettle", associations=[edge(linked)])
    found = await recalled(running, "kettle")
    assert list(found) == [best, linked, bare]
    assert found[linked].relevance_score == pytest.approx(found[bare].relevance_score + 0.3 * 0.5)


async def test_a_recall_says_where_activation_came_from(running: Running) -> None:
    one, two, three = await steps(running, "kettle", "teapot", "cup")
    answer = await running.engine.recall_query(to_recall("kettle"))
    assert answer.activation_trace is not None
    assert answer.activation_trace.source_id == one
    assert [(a.record_id, a.hop, a.edge_type) for a in answer.activation_trace.activations] == [
        (two, 1, "sequential"),
        (three, 2, "sequential"),
    ]
    assert [a.activation_level for a in answer.activation_trace.activations] == [
        pytest.approx(0.35),
        pytest.approx(0.1225),
    ]
    assert (answer.total_candidates, answer.query_metadata.total_records_scanned) == (3, 3)


@pytest.mark.parametrize(("depth", "count"), [(0, 1), (1, 2), (2, 3), (2**32 - 1, 3)])
async def test_the_depth_of_a_recall_is_how_far_activation_goes(running: Running, depth: int, count: int) -> None:
    await steps(running, "kettle", "teapot", "cup")
    assert len(await recalled(running, "kettle", activation_depth=depth)) == count


async def test_without_any_edge_there_is_no_trace(running: Running) -> None:
    await store(running, "kettle")
    assert (await running.engine.recall_query(to_recall("kettle"))).activation_trace is None


async def test_activation_passes_through_other_stores_but_brings_up_none_of_them(running: Running) -> None:
    last = await store(running, "last")
    between = await store(running, "between", store="procedural", associations=[edge(last)])
    best = await store(running, "kettle", associations=[edge(between)])
    assert list(await recalled(running, "kettle", stores=["episodic"])) == [best, last]


async def test_activation_brings_up_nothing_outside_the_time_asked_for(
    running: Running, storage: MemoryStorage
) -> None:
    records = [a_record(1, "old", NOW - 10), a_record(2, "kettle", NOW, associations=[edge(an_id(1))])]
    running.clock.at += 1
    for record in records:
        await running.actor("writer").ask(Commit(storing(record)))
    span = {"start": "2027-01-15T08:00:00Z", "end": "2027-01-15T09:00:00Z"}
    assert set(await recalled(running, "kettle")) == {an_id(1), an_id(2)}
    assert set(await recalled(running, "kettle", cue={"temporal": span})) == {an_id(2)}


async def test_memories_found_by_time_alone_activate_none(running: Running) -> None:
    await steps(running, "one", "two")
    span = {"start": "2027-01-15T08:00:00Z", "end": "2027-01-15T09:00:00Z"}
    for cue in ({}, {"temporal": span}):
        answer = await running.engine.recall_query(to_recall(cue=cue))
        assert (len(answer.memories), answer.activation_trace) == (2, None)


async def test_activation_from_working_memory(running: Running) -> None:
    durable = await store(running, "durable")
    held = await store(running, "kettle", store="working", associations=[edge(durable)])
    assert list(await recalled(running, "kettle")) == [held, durable]


async def test_what_was_brought_to_mind_is_retrieved_too(running: Running) -> None:
    one, two, _three = await steps(running, "kettle", "teapot", "cup")
    await recalled(running, "kettle", limit=2)
    found = await recalled(running, "kettle", limit=2, reconsolidate=False)
    counts = [codec.parse(bytes(found[i].record), MemoryRecord).access_count for i in (one, two)]
    assert counts == [1, 1]


async def test_activation_brings_up_as_many_candidates_as_any_signal(running: Running) -> None:
    targets = [await store(running, f"t{i}") for i in range(10)]
    await store(running, "kettle", associations=[edge(target) for target in targets])
    answer = await running.engine.recall_query(to_recall("kettle", limit=2))
    assert answer.total_candidates == 1 + 3 * 2
    assert answer.activation_trace is not None
    assert len(answer.activation_trace.activations) == 3 * 2


async def test_every_id_of_a_recall_is_written_as_an_id(running: Running) -> None:
    one, two = await steps(running, "kettle", "teapot")
    answer = codec.parse(codec.dump(await running.engine.recall_query(to_recall("kettle"))), dict[str, Any])
    assert answer["activation_trace"]["source_id"] == str(one)
    assert answer["memories"][1]["activation_path"] == [str(one), str(two)]
