"""After any operations, over restarts, the counters and the secondary rows are what a scan of all rows finds."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cerememory.domain.audit_chain import GENESIS, START, verify_lines
from cerememory.domain.fidelity import retrieved
from cerememory.errors import CerememoryError
from cerememory.protocol import codec
from cerememory.protocol.records import STORES, MemoryContent, Store
from cerememory.protocol.requests import EncodeUpdate
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage import prepare
from cerememory.storage.contract import Reader
from cerememory.storage.keys import Table, after, counters_key, digest, key, system_key, trailing_id
from cerememory.storage.ledger import Mutation
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.mutations import (
    Once,
    SaveRecall,
    Stored,
    StoreRaw,
    StoreRecords,
    UpdateRecord,
    embedding_of,
)
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import (
    STORE_CODE,
    Counters,
    dump_counters,
    parse_content_row,
    parse_counters,
    parse_edges,
    parse_head,
    parse_state,
)
from cerememory.storage.vectors import Space
from tests.support.committing import an_id, changed, commit
from tests.support.engine import NOW, text_block, to_store, to_store_raw

VECTORS = st.none() | st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=1, max_size=3)
EMOTIONS = st.sampled_from([None, {"joy": 1.0}, {"intensity": 1.0}, {"fear": 0.5, "joy": 0.5}])
EDGES = st.lists(st.integers(1, 9), max_size=2)


def scan(reader: Reader, table: Table) -> Iterator[tuple[bytes, bytes]]:
    yield from reader.scan(key(table), after(key(table)))


def counted_by_a_scan(reader: Reader) -> Counters:
    """What the counters should say; recalls leave no row to count."""
    counters = Counters.empty()
    for row_key, value in scan(reader, Table.CONTENT):
        code = parse_content_row(value).store_code
        state = reader.get(key(Table.STATE, trailing_id(row_key)))
        assert state is not None
        counters.records[code] += 1
        counters.fidelity_sums[code] += parse_state(state).score
    counters.associations = sum(len(parse_edges(value)) for _key, value in scan(reader, Table.EDGES))
    prefix = key(Table.VECTORS, Space.CONTENT.value)
    counters.vectors = sum(1 for _ in reader.scan(prefix, after(prefix)))
    counters.raw_records = counters.raw_pending_dream = sum(1 for _ in scan(reader, Table.RAW))
    return counters


class Operations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.storage = LmdbStorage(Path(self.folder.name), map_size_bytes=16 << 20)
        self.numbers = 10
        self.stored: dict[RecordId, Store] = {}
        self.recalls = 0

    def teardown(self) -> None:
        self.storage.close()
        self.folder.cleanup()

    def commit(self, *mutations: Mutation[Any]) -> list[Any]:
        return commit(self.storage, *mutations)[0]

    def new(self, store: Store, embedding: Any, emotion: Any, edges: list[int]) -> StoreRecords[Any]:
        self.numbers += 1
        given = [{"target_id": format_id(an_id(n)), "association_type": "causal", "weight": 1.0} for n in edges]
        request = to_store("x", store=store, embedding=embedding, emotion=emotion, associations=given)
        record = prepare.new_record(request, an_id(self.numbers), NOW)
        return StoreRecords((record,), prepare.store_audit(record, NOW), prepare.encoded(record))

    def keep(self, mutation: StoreRecords[Any]) -> None:
        for record in mutation.records:
            if record.durable:
                self.stored[record.record_id] = record.row.store

    @initialize()
    def first(self) -> None:
        self.store(Store.EPISODIC, [1.0], None, [])

    @rule(store=st.sampled_from(STORES), embedding=VECTORS, emotion=EMOTIONS, edges=EDGES)
    def store(self, store: Store, embedding: Any, emotion: Any, edges: list[int]) -> None:
        mutation = self.new(store, embedding, emotion, edges)
        self.commit(mutation)
        self.keep(mutation)

    @rule(embedding=VECTORS, emotion=EMOTIONS, edges=EDGES, infer=st.booleans())
    def batch(self, embedding: Any, emotion: Any, edges: list[int], infer: bool) -> None:
        parts = [self.new(store, embedding, emotion, edges) for store in (Store.SEMANTIC, Store.WORKING)]
        records = tuple(part.records[0] for part in parts)
        mutation: StoreRecords[Any] = StoreRecords(records, prepare.batch_audit(records, 0, NOW), None)
        self.commit(mutation)
        self.keep(mutation)

    @rule(data=st.data(), embedding=VECTORS, emotion=EMOTIONS, expected=st.sampled_from([None, 1, 2]))
    def update(self, data: st.DataObject, embedding: Any, emotion: Any, expected: int | None) -> None:
        record_id = data.draw(st.sampled_from([*self.stored, an_id(1)]))
        parts = data.draw(st.sampled_from([{"content"}, {"emotion"}, {"content", "emotion"}, {"metadata"}]))
        given = {
            "content": {"blocks": [text_block("y", embedding=embedding)]},
            "emotion": emotion or {},
            "metadata": {"n": 1},
        }
        request = codec.parse(codec.dump({name: given[name] for name in parts}), EncodeUpdate)
        self.commit(UpdateRecord(record_id, prepare.edit(request, NOW), expected, NOW))

    @rule(count=st.integers(1, 3))
    def raw(self, count: int) -> None:
        self.numbers += count
        new = [prepare.new_raw(to_store_raw("x"), an_id(self.numbers - i), NOW) for i in range(count)]
        self.commit(StoreRaw(tuple(new), tuple(prepare.raw_batch_audits(tuple(new), NOW)), None))

    @rule(data=st.data(), faded=st.sampled_from([0.0, -0.25, -0.5]))
    def recall(self, data: st.DataObject, faded: float) -> None:
        record_id = data.draw(st.sampled_from([*self.stored]))
        with self.storage.read() as reader:
            value = reader.get(key(Table.STATE, record_id))
        assert value is not None
        before = parse_state(value)
        store = self.stored[record_id]
        score = max(0.0, before.score + faded)
        state = changed(retrieved(before, store, NOW), score=score)
        saved = SavedState(record_id, STORE_CODE[store], state, score - before.score)
        self.recalls += 1
        self.commit(SaveRecall((saved,), prepare.raw_batch_audits((), NOW)[0]))

    @rule(now=st.integers(0, 50), body=st.sampled_from([b"a" * 16, b"b" * 16]))
    def once(self, now: int, body: bytes) -> None:
        mutation = self.new(Store.PROCEDURAL, [1.0], None, [])
        wrapped: Once[Any] = Once(mutation, digest("k"), body, NOW + now, NOW + now + 10, type(mutation.reply))
        [answer] = self.commit(wrapped)
        if isinstance(answer, Stored) and not answer.replayed:
            self.keep(mutation)

    @rule(embedding=VECTORS)
    def group_in_which_one_fails(self, embedding: Any) -> None:
        request = codec.parse(b'{"metadata":{}}', EncodeUpdate)
        first, last = (self.new(Store.EMOTIONAL, embedding, None, [1]) for _ in range(2))
        failing = UpdateRecord(an_id(1), prepare.edit(request, NOW), None, NOW)
        answers = self.commit(first, failing, last)
        assert isinstance(answers[1], CerememoryError)
        self.keep(first)
        self.keep(last)

    @precondition(lambda self: self.stored)
    @rule()
    def restart(self) -> None:
        self.storage.close()
        self.storage = LmdbStorage(Path(self.folder.name), map_size_bytes=16 << 20)

    @invariant()
    def counters_are_what_a_scan_finds(self) -> None:
        with self.storage.read() as reader:
            expected = counted_by_a_scan(reader)
            counters = parse_counters(reader.get(counters_key()))
        expected.recalls = self.recalls
        assert dump_counters(counters) == dump_counters(expected)
        assert sum(counters.records) == len(self.stored)

    @invariant()
    def every_record_is_found_by_time_by_target_and_by_vector(self) -> None:
        with self.storage.read() as reader:
            content = {trailing_id(k): parse_content_row(v) for k, v in scan(reader, Table.CONTENT)}
            by_time = {trailing_id(row_key): value[0] for row_key, value in scan(reader, Table.BY_TIME)}
            edges = {trailing_id(row_key): parse_edges(value) for row_key, value in scan(reader, Table.EDGES)}
            targets = Counter(row_key[-32:] for row_key, _ in scan(reader, Table.EDGES_BY_TARGET))
            prefix = key(Table.VECTORS, Space.CONTENT.value)
            embedded = Counter(trailing_id(row_key) for row_key, _ in reader.scan(prefix, after(prefix)))
        assert by_time == {record_id: row.store_code for record_id, row in content.items()}
        assert content.keys() == self.stored.keys()
        assert targets.keys() == {a.target_id + source for source, made in edges.items() for a in made}
        parsed = {i: codec.parse(row.content, MemoryContent) for i, row in content.items()}
        assert embedded == Counter(i for i, content in parsed.items() if embedding_of(content))

    @invariant()
    def the_audit_lines_are_one_chain(self) -> None:
        prefix = system_key(Table.AUDIT_OUTBOX)
        with self.storage.read() as reader:
            head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
            data = b"".join(value for _key, value in reader.scan(prefix, after(prefix)))
        verified = verify_lines(data.splitlines(keepends=True), START)
        assert verified.head == (head.audit_sequence, head.audit_hash)


Operations.TestCase.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOperations = Operations.TestCase
