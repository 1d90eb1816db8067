"""After a start: is all that was acknowledged there, once and in order, and nothing that can't be?

What is there is read through the engine, then looked up among what `History` says may be there; the audit log is
read from its file. What a check has seen is what the next one begins with.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import trio
from msgspec.structs import replace as with_fields

from cerememory.actors.engine import Engine
from cerememory.domain.audit_chain import GENESIS
from cerememory.errors import RecordNotFound
from cerememory.protocol.records import SecrecyLevel, Store
from cerememory.protocol.requests import LIMIT_MAX, IntrospectRecord, RecallRawQuery
from cerememory.protocol.values import RecordId, format_id, parse_id
from cerememory.storage.contract import Storage
from cerememory.storage.fsck import Tally, check
from cerememory.storage.keys import Table, system_key
from cerememory.storage.rows import parse_head
from tests.simulation.history import History, Item, Seen, learn
from tests.support.engine import to_recall

SAMPLED = 6  # items that a check looks up one by one, beside those that are new to it
GONE = Seen("", 0, 0)
MAKING = ("encode.store", "encode.batch", "encode.store_raw", "encode.batch_raw")
EVERYTHING = to_recall(limit=LIMIT_MAX, include_decayed=True, reconsolidate=False)
EVERYTHING_RAW = RecallRawQuery(
    limit=LIMIT_MAX, include_private_scratch=True, include_sealed=True, secrecy_levels=tuple(SecrecyLevel)
)


@dataclass(frozen=True, slots=True)
class Found:
    """A record as the engine shows it: the words of its text, its id, its version (1 of a raw entry)."""

    words: tuple[str, ...]
    record_id: RecordId
    version: int

    @classmethod
    def of(cls, record: Any) -> Found:
        [block, *_] = record["content"]["blocks"]
        text = bytes(block["data"]).decode()
        return cls(tuple(text.split()), parse_id(record["id"]), record.get("version", 1))


@dataclass(slots=True)
class AuditLines:
    """What the audit log says, read on from where the last check ended. It may never say anything else."""

    read: bytes = b""
    made: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    forgotten: Counter[str] = field(default_factory=Counter)
    imported: Counter[str] = field(default_factory=Counter)
    dreamt: set[str] = field(default_factory=set)
    entries: int = 0

    def read_on(self, data: bytes) -> bool:
        """Whether `data` begins with what was read before."""
        if not data.startswith(self.read):
            return False
        for line in data[len(self.read) :].splitlines():
            self._take(msgspec.json.decode(line))
        self.read = data
        return True

    def _take(self, entry: dict[str, Any]) -> None:
        self.entries += 1
        ids, operation = entry["record_ids"], entry["operation"]
        if operation in MAKING:
            stores = entry["store_types"] or [None] * len(ids)
            self.made.update(i for i, store in zip(ids, stores, strict=True) if store != Store.WORKING)
        elif operation == "encode.update":
            self.written.update(ids)
        elif operation == "lifecycle.forget":
            self.forgotten.update(ids)
        elif operation == "lifecycle.import":
            self.imported[entry["summary"]["archive_id"]] += 1
        elif operation == "lifecycle.dream_tick":
            self.dreamt.update(ids)


class Checker:
    def __init__(self, history: History, storage: Storage, audit_path: Path, rng: random.Random) -> None:
        self._history = history
        self._storage = storage
        self._audit_path = audit_path
        self._rng = rng
        self._audit = AuditLines()

    def fsck(self, now: int) -> None:
        """Of a store that nobody has open."""
        findings = check(self._storage, index_path=None, audit_path=self._audit_path, now=now, tally=Tally())
        found = [str(finding) for finding in findings]
        text = "; ".join(found).replace(f"{self._audit_path.parent}/", "")  # which is another one each time
        self._history.hold(not found, f"fsck: {text}")

    async def check(self, engine: Engine) -> None:
        """Of a daemon that has just started, and that nobody has asked anything yet."""
        sequence = self._check_head()
        found, others = await self._listed(engine)
        for word, there in found.items():
            self._hold(len(there) == 1, f"{word}: is there {len(there)} times")
        records = {word: each for word, [each] in found.items()}
        seen = {word: Seen(each.words[1], each.version, sequence) for word, each in records.items()}
        self._check_presence(seen)
        self._check_wholeness(seen)
        self._check_audit(records, others)
        await self._look_up(engine, records)
        self._settle(seen, records, sequence)

    def _hold(self, statement: bool, text: str) -> None:
        self._history.hold(statement, text)

    def _check_head(self) -> int:
        with self._storage.read() as reader:
            head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        last = self._history.last_sequence
        text = f"commit {last} was acknowledged, the last one is {head.commit_sequence}"
        self._hold(head.commit_sequence >= last, text)
        return head.commit_sequence

    async def _listed(self, engine: Engine) -> tuple[dict[str, list[Found]], list[Found]]:
        """All that clients have stored, by its first word; and what the daemon has made by itself."""
        recalled = await engine.recall_query(EVERYTHING)
        raw = await engine.recall_raw_query(EVERYTHING_RAW)
        found: dict[str, list[Found]] = {}
        others = []
        for is_raw, records in ((False, [memory.record for memory in recalled.memories]), (True, raw.records)):
            for each in (Found.of(msgspec.json.decode(record)) for record in records):
                item = self._history.items.get(each.words[0])
                if item is not None and item.is_raw == is_raw and len(each.words) == 2:
                    found.setdefault(item.word, []).append(each)
                else:
                    others.append(each)
        return found, others

    def _check_presence(self, seen: dict[str, Seen]) -> None:
        for word, item in self._history.items.items():
            there = seen.get(word)
            if there is None:
                self._hold(not (item.lasts and item.must_be_there), f"{item}: is lost")
                continue
            marks, versions = item.marks(), item.versions()
            self._hold(item.lasts, f"{item}: is of working memory, and there after a start")
            self._hold(item.may_be_there, f"{item}: is there, and can't be")
            self._hold(there.mark in marks, f"{item}: is as {there.mark} left it, not {sorted(marks)}")
            self._hold(there.version in versions, f"{item}: has version {there.version}, expected {versions}")

    def _check_wholeness(self, seen: dict[str, Seen]) -> None:
        for operation in self._history.operations:
            there = {item.word in seen for item in operation.makes if item.lasts and not item.may_be_forgotten}
            self._hold(len(there) < 2, f"{operation}: is there in part")

    def _check_audit(self, records: dict[str, Found], others: list[Found]) -> None:
        """Each change has its entry, and each entry its change."""
        audit = self._audit
        grown = audit.read_on(self._audit_path.read_bytes())
        self._hold(grown, f"the audit log doesn't say any more what it said in its first {audit.entries} entries")
        for word, found in records.items():
            item, name = self._history.items[word], format_id(found.record_id)
            archive = item.maker.archive_id
            made = audit.made[name] if archive is None else audit.imported[archive]
            self._hold(made == 1 or (made > 1 and item.maker.is_once), f"{item}: {made} entries say who made it")
            written = audit.written[name]
            self._hold(
                found.version == 1 + written, f"{item}: version {found.version}, {written} entries of updates"
            )
        for found in others:
            name = format_id(found.record_id)
            self._hold(name in audit.dreamt, f"{name}: no entry says who made it, or its text isn't {found.words}")
        there = {format_id(found.record_id) for found in records.values()}
        for name in sorted(audit.made.keys() - there):
            self._hold(audit.forgotten[name] == 1, f"{name}: has an entry that it was made, and isn't there")
        for name in sorted(there & audit.forgotten.keys()):
            raise self._history.violate(f"{name}: has an entry that it was forgotten, and is there")

    async def _look_up(self, engine: Engine, records: dict[str, Found]) -> None:
        """Some items one by one: by words and by id, those that the last check hasn't seen first."""
        anything = to_recall("any", reconsolidate=False)
        while not (await engine.recall_query(anything)).query_metadata.index_complete:  # noqa: ASYNC110
            await trio.sleep(0.1)
        items = [*self._history.items.values()]
        new = [item for item in items if item.seen is None][-SAMPLED:]
        for item in (*new, *self._rng.sample(items, min(SAMPLED, len(items)))):
            found = records.get(item.word)
            await self._find(engine, item, [] if found is None else [found.record_id])
            if not item.is_raw and item.record_id is not None:
                await self._get(engine, item, found)

    async def _find(self, engine: Engine, item: Item, expected: list[RecordId]) -> None:
        if item.is_raw:
            raw = (await engine.recall_raw_query(with_fields(EVERYTHING_RAW, query=item.word))).records
            found = [Found.of(msgspec.json.decode(record)) for record in raw]
        else:
            asked = to_recall(item.word, limit=50, include_decayed=True, reconsolidate=False)
            memories = (await engine.recall_query(asked)).memories
            found = [Found.of(msgspec.json.decode(memory.record)) for memory in memories]
        ids = [each.record_id for each in found if each.words[0] == item.word]
        self._hold(ids == expected, f"{item}: by its word {len(ids)} are found, by listing {len(expected)}")

    async def _get(self, engine: Engine, item: Item, expected: Found | None) -> None:
        assert item.record_id is not None
        try:
            shown = await engine.introspect_record(IntrospectRecord(record_id=item.record_id))
        except RecordNotFound:
            self._hold(expected is None, f"{item}: is listed, and isn't found by its id")
        else:
            found = Found.of(msgspec.json.decode(shown))
            self._hold(found == expected, f"{item}: by its id it is {found}, by listing {expected}")

    def _settle(self, seen: dict[str, Seen], records: dict[str, Found], sequence: int) -> None:
        for word, item in self._history.items.items():
            if word in records:
                learn([item], [records[word].record_id], self._history)
            item.settle(seen.get(word, replace(GONE, sequence=sequence)))
        for operation in self._history.operations:
            operation.unsure = 0
