"""After any operations, over restarts, the counters and the secondary rows are what a scan of all rows finds."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cerememory.domain.audit_chain import GENESIS, START, verify_lines
from cerememory.domain.decay import STANDARD
from cerememory.errors import CerememoryError
from cerememory.protocol import codec
from cerememory.protocol.records import STORES, MemoryContent, Store
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage import prepare
from cerememory.storage.contract import Reader
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    Table,
    after,
    counters_key,
    digest,
    key,
    state_key,
    system_key,
    trailing_id,
    trailing_time,
)
from cerememory.storage.ledger import Mutation
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.mutations import (
    Once,
    Stored,
    StoreRaw,
    StoreRecords,
    embedding_of,
)
from cerememory.storage.prepared import SavedState
from cerememory.storage.recalling import SaveRecall
from cerememory.storage.rows import (
    Counters,
    dump_counters,
    parse_content_row,
    parse_counters,
    parse_edges,
    parse_head,
    parse_log_row,
    parse_state_row,
)
from cerememory.storage.vectors import Space
from tests.support.committing import a_record, an_id, changed, commit, storing, updating
from tests.support.engine import NOW, text_block, to_store_raw

VECTORS = st.none() | st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=1, max_size=3)
EMOTIONS = st.sampled_from([None, {"joy": 1.0}, {"intensity": 1.0}, {"fear": 0.5, "joy": 0.5}])
NUMBERS = (DEFAULT_NAMESPACE, 7)
NAMESPACES = st.sampled_from(NUMBERS)
EDGES = st.lists(st.integers(1, 9), max_size=2)


def scan(reader: Reader, namespace: int, table: Table, *parts: bytes) -> Iterator[tuple[bytes, bytes]]:
    prefix = key(namespace, table, *parts)
    yield from reader.scan(prefix, after(prefix))


def counted_by_a_scan(reader: Reader, namespace: int) -> Counters:
    """What the counters should say; recalls leave no row to count."""
    counters = Counters.empty()
    for row_key, value in scan(reader, namespace, Table.CONTENT):
        row = parse_content_row(value)
        state_row = reader.get(state_key(namespace, row.created_at, trailing_id(row_key)))
        assert state_row is not None
        store_code, state = parse_state_row(state_row)
        assert store_code == row.store_code
        counters.records[store_code] += 1
        counters.fidelity_sums[store_code] += state.score
    edges = [parse_edges(value) for _key, value in scan(reader, namespace, Table.EDGES)]
    counters.associations = sum(map(len, edges))
    counters.vectors = sum(1 for _ in scan(reader, namespace, Table.VECTORS, Space.CONTENT.value))
    raw_records = sum(1 for _ in scan(reader, namespace, Table.RAW))
    counters.raw_records = counters.raw_pending_dream = raw_records
    return counters


@dataclass
class Model:
    """What was done in one namespace; ids are counted from 11 on in each, so that they meet."""

    numbers: int = 10
    recalls: int = 0
    stored: dict[RecordId, Store] = field(default_factory=dict)

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def keep(self, mutation: StoreRecords[Any]) -> None:
        for record in mutation.records:
            if record.durable:
                self.stored[record.record_id] = record.row.store


class Operations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.storage = LmdbStorage(Path(self.folder.name), map_size_bytes=16 << 20)
        self.models = {namespace: Model() for namespace in NUMBERS}

    def teardown(self) -> None:
        self.storage.close()
        self.folder.cleanup()

    def commit(self, *mutations: Mutation[Any]) -> list[Any]:
        return commit(self.storage, *mutations)[0]

    def new(
        self, namespace: int, store: Store, embedding: Any, emotion: Any, edges: list[int]
    ) -> StoreRecords[Any]:
        given = [{"target_id": format_id(an_id(n)), "association_type": "causal", "weight": 1.0} for n in edges]
        parts = {"store": store, "embedding": embedding, "emotion": emotion, "associations": given}
        return storing(a_record(self.models[namespace].next_number(), "x", namespace=namespace, **parts))

    @initialize()
    def first(self) -> None:
        for namespace in NUMBERS:
            self.store(namespace, Store.EPISODIC, [1.0], None, [])

    @rule(namespace=NAMESPACES, store=st.sampled_from(STORES), embedding=VECTORS, emotion=EMOTIONS, edges=EDGES)
    def store(self, namespace: int, store: Store, embedding: Any, emotion: Any, edges: list[int]) -> None:
        mutation = self.new(namespace, store, embedding, emotion, edges)
        self.commit(mutation)
        self.models[namespace].keep(mutation)

    @rule(namespace=NAMESPACES, embedding=VECTORS, emotion=EMOTIONS, edges=EDGES)
    def batch(self, namespace: int, embedding: Any, emotion: Any, edges: list[int]) -> None:
        parts = [
            self.new(namespace, store, embedding, emotion, edges) for store in (Store.SEMANTIC, Store.WORKING)
        ]
        records = tuple(part.records[0] for part in parts)
        mutation = StoreRecords(namespace, records, prepare.batch_audit(records, 0, NOW), None)
        self.commit(mutation)
        self.models[namespace].keep(mutation)

    @rule(
        data=st.data(),
        namespace=NAMESPACES,
        embedding=VECTORS,
        emotion=EMOTIONS,
        expected=st.sampled_from([None, 1, 2]),
    )
    def update(
        self, data: st.DataObject, namespace: int, embedding: Any, emotion: Any, expected: int | None
    ) -> None:
        number = data.draw(st.sampled_from([1, *range(11, self.models[namespace].numbers + 1)]))
        parts = data.draw(st.sampled_from([{"content"}, {"emotion"}, {"content", "emotion"}, {"metadata"}]))
        given: dict[str, Any] = {
            "content": {"blocks": [text_block("y", embedding=embedding)]},
            "emotion": emotion or {},
            "metadata": {"n": 1},
        }
        chosen = {name: given[name] for name in parts}
        self.commit(updating(number, expected, namespace=namespace, **chosen))

    @rule(namespace=NAMESPACES, count=st.integers(1, 3))
    def raw(self, namespace: int, count: int) -> None:
        numbers = [self.models[namespace].next_number() for _ in range(count)]
        new = tuple(prepare.new_raw(namespace, to_store_raw("x"), an_id(number), NOW) for number in numbers)
        self.commit(StoreRaw(namespace, new, tuple(prepare.raw_batch_audits(new, NOW)), None))

    @rule(data=st.data(), namespace=NAMESPACES, faded=st.sampled_from([0.0, -0.25, -0.5]))
    def recall(self, data: st.DataObject, namespace: int, faded: float) -> None:
        model = self.models[namespace]
        record_id = data.draw(st.sampled_from([*model.stored]))
        with self.storage.read() as reader:
            row = parse_content_row(reader.get(key(namespace, Table.CONTENT, record_id)) or b"")
            state_row = reader.get(state_key(namespace, row.created_at, record_id))
        assert state_row is not None
        _store_code, before = parse_state_row(state_row)
        score = max(0.0, before.score + faded)
        state = changed(STANDARD[model.stored[record_id]].retrieved(before, NOW), score=score)
        saved = SavedState(namespace, record_id, row.created_at, row.store_code, before, state)
        model.recalls += 1
        self.commit(SaveRecall(namespace, (saved,), prepare.raw_batch_audits((), NOW)[0], None))

    @rule(namespace=NAMESPACES, now=st.integers(0, 50), body=st.sampled_from([b"a" * 16, b"b" * 16]))
    def once(self, namespace: int, now: int, body: bytes) -> None:
        mutation = self.new(namespace, Store.PROCEDURAL, [1.0], None, [])
        wrapped: Once[Any] = Once(mutation, digest("k"), body, NOW + now, NOW + now + 10, type(mutation.reply))
        [answer] = self.commit(wrapped)
        if isinstance(answer, Stored) and not answer.replayed:
            self.models[namespace].keep(mutation)

    @rule(embedding=VECTORS, first_in=NAMESPACES, failing_in=NAMESPACES, last_in=NAMESPACES)
    def group_in_which_one_fails(self, embedding: Any, first_in: int, failing_in: int, last_in: int) -> None:
        first = self.new(first_in, Store.EMOTIONAL, embedding, None, [1])
        last = self.new(last_in, Store.EMOTIONAL, embedding, None, [1])
        answers = self.commit(first, updating(1, namespace=failing_in, metadata={}), last)
        assert isinstance(answers[1], CerememoryError)
        self.models[first_in].keep(first)
        self.models[last_in].keep(last)

    @rule()
    def restart(self) -> None:
        self.storage.close()
        self.storage = LmdbStorage(Path(self.folder.name), map_size_bytes=16 << 20)

    @invariant()
    def counters_are_what_a_scan_finds(self) -> None:
        for namespace, model in self.models.items():
            with self.storage.read() as reader:
                expected = counted_by_a_scan(reader, namespace)
                counters = parse_counters(reader.get(counters_key(namespace)))
            expected.recalls = model.recalls
            assert dump_counters(counters) == dump_counters(expected)
            assert sum(counters.records) == len(model.stored)

    @invariant()
    def every_record_is_found_by_time_by_target_and_by_vector(self) -> None:
        for namespace, model in self.models.items():
            with self.storage.read() as reader:
                content = {trailing_id(k): parse_content_row(v) for k, v in scan(reader, namespace, Table.CONTENT)}
                by_time = {
                    (trailing_time(k), trailing_id(k)): v[0] for k, v in scan(reader, namespace, Table.STATE)
                }
                edges = {trailing_id(k): parse_edges(v) for k, v in scan(reader, namespace, Table.EDGES)}
                targets = Counter(k[-32:] for k, _ in scan(reader, namespace, Table.EDGES_BY_TARGET))
                vectors = scan(reader, namespace, Table.VECTORS, Space.CONTENT.value)
                embedded = Counter(trailing_id(k) for k, _ in vectors)
            assert by_time == {(row.created_at, i): row.store_code for i, row in content.items()}
            assert content.keys() == model.stored.keys()
            assert targets.keys() == {a.target_id + source for source, made in edges.items() for a in made}
            parsed = {i: codec.parse(row.content, MemoryContent) for i, row in content.items()}
            assert embedded == Counter(i for i, content in parsed.items() if embedding_of(content))

    @invariant()
    def the_audit_lines_are_one_chain(self) -> None:
        """Over the namespaces, and each line stands once in the log."""
        prefix = system_key(Table.LOG)
        with self.storage.read() as reader:
            head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
            rows = [parse_log_row(value) for _key, value in reader.scan(prefix, after(prefix))]
        lines = [line for row in rows for line in row.lines.splitlines(keepends=True)]
        assert verify_lines(lines, START).head == (head.audit_sequence, head.audit_hash)
        assert [row.first_line for row in rows] == [1, *(row.end_line for row in rows[:-1])]


Operations.TestCase.settings = settings(
    max_examples=20, stateful_step_count=20, suppress_health_check=list(HealthCheck)
)
TestOperations = Operations.TestCase
