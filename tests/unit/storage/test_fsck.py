"""The check of a data dir: it finds nothing in a sound one, and names each thing that is broken in turn."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cerememory.domain.audit_chain import GENESIS
from cerememory.protocol.records import Store
from cerememory.protocol.replies import Encoded
from cerememory.protocol.values import RecordId
from cerememory.storage import fsck_index, reindex
from cerememory.storage.fsck import Finding, Tally, check
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    Table,
    counters_key,
    digest,
    key,
    pack_namespace,
    pack_sequence,
    pack_time,
    pack_version,
    state_key,
    system_key,
)
from cerememory.storage.ledger import Ledger
from cerememory.storage.likenesses import BUILDING, BuildLikenesses, likeness_key
from cerememory.storage.mutations import Once
from cerememory.storage.namespaces import OpenNamespace, dump_name_row, name_key
from cerememory.storage.removal import archive_memory
from cerememory.storage.rows import (
    dump_counters,
    dump_edges,
    dump_head,
    dump_row,
    dump_state_row,
    parse_archived_row,
    parse_content_row,
    parse_counters,
    parse_edges,
    parse_head,
    parse_log_row,
    parse_raw_row,
    parse_state_row,
)
from cerememory.storage.text_index import IndexDocument, TextIndex
from cerememory.storage.undo_rows import MEMORY, UndoRow, batch_key, dump_undo_row, undo_key
from cerememory.storage.vectors import Space, vector_key
from tests.support.committing import a_record, an_id, commit, storing, storing_raw, updating
from tests.support.engine import NOW, text_block
from tests.support.memory_storage import MemoryStorage

WORK = 1  # a namespace
HOUR = 3_600 * 10**9
AT = NOW + 1  # when the first memory was made
LATER = NOW + HOUR
ARCHIVED, DANGLING = 4, 77
STATE = state_key(DEFAULT_NAMESPACE, AT, an_id(1))
CONTENT = key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(1))
ARCHIVE = key(DEFAULT_NAMESPACE, Table.ARCHIVED, an_id(ARCHIVED))
EDGES = key(DEFAULT_NAMESPACE, Table.EDGES, an_id(1))
RAW = key(DEFAULT_NAMESPACE, Table.RAW, an_id(101))
ANSWER = key(DEFAULT_NAMESPACE, Table.IDEMPOTENCY, digest("k"))
COUNTERS = counters_key(DEFAULT_NAMESPACE)
HEAD = system_key(Table.HEAD)

Changes = dict[bytes, bytes | None]


@dataclass(frozen=True)
class Archive:
    """Decay takes a memory away."""

    number: int
    namespace: int = DEFAULT_NAMESPACE

    def apply(self, ledger: Ledger) -> None:
        value = ledger.get(ledger.key(Table.CONTENT, an_id(self.number)))
        assert value is not None
        archive_memory(ledger, an_id(self.number), parse_content_row(value), LATER)


def edge(number: int) -> dict[str, Any]:
    return {"target_id": str(an_id(number)), "association_type": "causal", "weight": 0.5}


def rich(number: int, *targets: int, namespace: int = DEFAULT_NAMESPACE, store: str = "episodic") -> Any:
    return storing(
        a_record(
            number,
            f"kettle {number}",
            NOW + number,
            namespace=namespace,
            store=store,
            embedding=[1.0, 0.5],
            emotion={"joy": 0.5},
            context={"session_id": "s"},
            associations=[edge(target) for target in targets],
        )
    )


@dataclass
class DataDir:
    """A store with something in every table, its text index and its audit log."""

    storage: MemoryStorage
    index_path: Path
    audit_path: Path

    @classmethod
    def sound(cls, path: Path, indexed: Path | None = None) -> DataDir:
        """A sound store in `path` with a copy of its index, from `indexed`, or with an index made anew."""
        made = cls(MemoryStorage(), path / "index", path / "audit.jsonl")
        made.storage.commit(ROWS)
        if indexed is None:
            made.index()
        else:
            shutil.copytree(indexed, made.index_path)
        made.write_audit_log()
        return made

    def findings(self, now: int = NOW, tally: Tally | None = None) -> list[Finding]:
        found = check(
            self.storage,
            index_path=self.index_path,
            audit_path=self.audit_path,
            now=now,
            tally=Tally() if tally is None else tally,
        )
        return list(found)

    def write_audit_log(self, count: int | None = None) -> None:
        """The first `count` lines, None for all."""
        prefix = system_key(Table.LOG)
        rows = [value for row_key, value in sorted(self.storage.rows().items()) if row_key.startswith(prefix)]
        lines = [line for value in rows for line in parse_log_row(value).lines.splitlines(keepends=True)]
        self.audit_path.write_bytes(b"".join(lines[:count]))

    def index(self) -> None:
        shutil.rmtree(self.index_path, ignore_errors=True)
        with closing(TextIndex.open(self.index_path)) as index:
            for _done in reindex.rebuild(index, self.storage):
                pass

    def change(self, change: Callable[[dict[bytes, bytes]], Changes]) -> None:
        self.storage.commit(change(self.storage.rows()))


def sound_storage() -> MemoryStorage:
    storage = MemoryStorage()
    commit(storage, OpenNamespace("work"))
    commit(storage, BuildLikenesses(DEFAULT_NAMESPACE, None))
    for number, targets in ((1, (2, DANGLING)), (2, (1,)), (3, ()), (ARCHIVED, (1, 2))):
        commit(storage, rich(number, *targets, store="semantic" if number == 3 else "episodic"))
    commit(storage, rich(1, 2, namespace=WORK), storing_raw(101, namespace=WORK))
    commit(storage, updating(1, now=NOW + 9, content={"blocks": [text_block("kettle", embedding=[1.0])]}))
    commit(storage, Once(rich(5), digest("k"), b"body" * 4, NOW, LATER, Encoded))
    commit(storage, storing_raw(101, created_at=NOW + 101))
    commit(storage, storing_raw(102, metadata={"_dream": {"processed_at": "2026-01-01"}}))
    commit(storage, Archive(ARCHIVED))
    return storage


ROWS = sound_storage().rows()


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text index of a sound store."""
    return DataDir.sound(tmp_path_factory.mktemp("fsck")).index_path


@pytest.fixture
def data_dir(tmp_path: Path, indexed: Path) -> DataDir:
    return DataDir.sound(tmp_path, indexed)


def test_in_a_sound_data_dir_nothing_is_found_and_all_is_counted(data_dir: DataDir) -> None:
    tally = Tally()
    assert data_dir.findings(tally=tally) == []
    assert tally == Tally(memories=5, archived=1, raw_entries=3, dangling_edges=2, namespaces=2)


def test_an_empty_store_is_sound(tmp_path: Path) -> None:
    data_dir = DataDir(MemoryStorage(), tmp_path / "index", tmp_path / "audit.jsonl")
    tally = Tally()
    assert data_dir.findings(tally=tally) == []
    assert tally == Tally(namespaces=1, notes=["there is no text index on the disk"])


def gone(*row_keys: bytes) -> Callable[[dict[bytes, bytes]], Changes]:
    return lambda rows: dict.fromkeys(row_keys)


def put(row_key: bytes, value: bytes = b"") -> Callable[[dict[bytes, bytes]], Changes]:
    return lambda rows: {row_key: value}


def edited(row_key: bytes, edit: Callable[[bytes], bytes]) -> Callable[[dict[bytes, bytes]], Changes]:
    return lambda rows: {row_key: edit(rows[row_key])}


def counting(**given: Any) -> Callable[[dict[bytes, bytes]], Changes]:
    """Counters that say something else."""

    def edit(value: bytes) -> bytes:
        return dump_counters(msgspec.structs.replace(parse_counters(value), **given))

    return edited(COUNTERS, edit)


def headed(**given: Any) -> Callable[[dict[bytes, bytes]], Changes]:
    return edited(HEAD, lambda value: dump_head(replace(parse_head(value, GENESIS), **given)))


def moved(old: bytes, new: bytes) -> Callable[[dict[bytes, bytes]], Changes]:
    return lambda rows: {old: None, new: rows[old]}


def of_row(table: Table, *parts: bytes) -> bytes:
    return key(DEFAULT_NAMESPACE, table, *parts)


def one_of(table: Table, row_id: RecordId) -> bytes:
    """The key of the table that ends with the id, in a sound store."""
    [found] = [k for k in ROWS if k.startswith(of_row(table)) and k.endswith(row_id)]
    return found


def with_other_store(value: bytes) -> bytes:
    _code, state = parse_state_row(value)
    return dump_state_row(1, state)


def with_fidelity(value: bytes) -> bytes:
    code, state = parse_state_row(value)
    return dump_state_row(code, msgspec.structs.replace(state, score=0.25))


def with_other_words(value: bytes) -> bytes:
    """Edited behind everybody's back."""
    content = parse_content_row(value).content.replace(b"[107,", b"[108,")
    return dump_row(msgspec.structs.replace(parse_content_row(value), content=content))


def with_other_session(value: bytes) -> bytes:
    return dump_row(msgspec.structs.replace(parse_raw_row(value), session_id="other"))


def log_row(sequence: int) -> bytes:
    return system_key(Table.LOG, pack_sequence(sequence))


def with_other_line(value: bytes) -> bytes:
    row = parse_log_row(value)
    return dump_row(msgspec.structs.replace(row, lines=row.lines.replace(b"encode.store", b"encode.stole")))


def without_lines(value: bytes) -> bytes:
    """Of the log row of a commit behind that one."""
    row = parse_log_row(value)
    return dump_row(msgspec.structs.replace(row, first_line=row.end_line, lines=b""))


def without_its_edge(value: bytes) -> bytes:
    return dump_edges(parse_edges(value)[:1])


def archived_with(**given: Any) -> Callable[[bytes], bytes]:
    return lambda value: dump_row(msgspec.structs.replace(parse_archived_row(value), **given))


def archived_in_another_store(value: bytes) -> bytes:
    return archived_with(state=with_other_store(parse_archived_row(value).state))(value)


LIKENESS = likeness_key(DEFAULT_NAMESPACE, an_id(1), parse_content_row(ROWS[CONTENT]))
LAST = max(int.from_bytes(k[-8:], "big") for k in ROWS if k.startswith(system_key(Table.LOG)))
VECTOR = vector_key(DEFAULT_NAMESPACE, Space.CONTENT, 1, an_id(1))
PENDING = one_of(Table.RAW_PENDING, an_id(101))
EXPIRY = of_row(Table.IDEMPOTENCY_BY_EXPIRY, pack_time(LATER), digest("k"))
A1, A2, A4 = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2, 4))
A88 = "00000000-0000-0000-0000-000000000058"
A101, A102 = "00000000-0000-0000-0000-000000000065", "00000000-0000-0000-0000-000000000066"

BROKEN: dict[str, tuple[Callable[[dict[bytes, bytes]], Changes], list[str]]] = {
    # what is done to the rows, and what is found
    "a state that is gone": (
        gone(STATE),
        [f"state: {A1} is missing", "counters: the fidelities of episodic are .* counted .*"],
    ),
    "a state under another time": (
        moved(STATE, state_key(DEFAULT_NAMESPACE, AT + 5, an_id(1))),
        [
            f"state: {A1} is missing",
            f"state: {A1} stands under {AT + 5}, when its memory wasn't made",
            "counters: the fidelities of episodic .*",
        ],
    ),
    "a state of another store": (
        edited(STATE, with_other_store),
        [f"state: {A1} is of another store than its memory"],
    ),
    "a state that can't be read": (
        put(STATE, b"?"),
        [f"content: {A1} can't be read: a state row .*", "counters: .*", "counters: .*", "counters: .*"],
    ),
    "a state of nobody": (
        lambda rows: {state_key(DEFAULT_NAMESPACE, AT, an_id(88)): rows[STATE]},
        [f"state: {A88} follows from nothing: there is no content of it"],
    ),
    "a fidelity that nobody counted": (edited(STATE, with_fidelity), ["counters: the fidelities of episodic .*"]),
    "a content that is gone": (
        gone(CONTENT),
        [
            *[f"history: {A1} has version 1 of a memory that isn't there"],
            *(
                f"{table}: {A1} follows from nothing: there is no content.* of it"
                for table in ("state", "vectors", "vectors", "groups", "likeness", "edges", "edges_by_target")
            ),
            f"edges_by_target: {A1} follows from nothing: there is no content or archived of it",
            *["counters: records is .*", "counters: associations is .*", "counters: vectors is .*"],
            "counters: the fidelities of episodic .*",
            f"index: {A1} has a document in episodic, and no row",
        ],
    ),
    "a content that can't be read": (put(CONTENT, b"?"), [f"content: {A1} can't be read: .*", "(?s).*"]),
    "a content of a store that keeps no rows": (
        edited(CONTENT, lambda value: dump_row(msgspec.structs.replace(parse_content_row(value), store_code=4))),
        ["(?s).*", f"content: {A1} is of store 4, which keeps no rows", "(?s).*"],
    ),
    "words that were changed behind everybody's back": (
        edited(CONTENT, with_other_words),
        [f"likeness: {A1} is missing", f"likeness: {A1} isn't what its content asks for"],
    ),
    "a place in a group that is gone": (gone(one_of(Table.GROUPS, an_id(1))), [f"groups: {A1} is missing"]),
    "a place in a group of nobody": (
        put(of_row(Table.GROUPS, digest("t"), pack_time(AT), an_id(1))),
        [f"groups: {A1} isn't what its content asks for"],
    ),
    "a vector that is gone": (gone(VECTOR), [f"vectors: {A1} is missing"]),
    "a vector that is another": (
        edited(VECTOR, lambda value: value[:-4] + b"\1\2\3\4"),
        [f"vectors: {A1} says something else than what it follows from"],
    ),
    "a vector of another length": (
        lambda rows: {vector_key(DEFAULT_NAMESPACE, Space.CONTENT, 2, an_id(1)): rows[VECTOR] + b"\0" * 4},
        [f"vectors: {A1} isn't what its content asks for"],
    ),
    "a likeness that is gone": (gone(LIKENESS), [f"likeness: {A1} is missing"]),
    "a likeness of nobody": (
        put(of_row(Table.LIKENESS, b"\0" * 17, an_id(1))),
        [f"likeness: {A1} isn't what its content asks for"],
    ),
    "likenesses that nobody keeps": (gone(of_row(Table.LIKENESS)), ["likeness: .*"] * 4),
    "an edge that isn't listed by its target": (
        gone(of_row(Table.EDGES_BY_TARGET, an_id(2), an_id(1))),
        [f"edges_by_target: {A1} is missing"],
    ),
    "an edge that dangles, and isn't listed as that": (
        gone(of_row(Table.EDGES_BY_TARGET, an_id(DANGLING), an_id(1))),
        [f"edges_by_target: {A1} is missing"],
    ),
    "a target that lists an edge that isn't": (
        edited(EDGES, without_its_edge),
        [f"edges_by_target: {A1} isn't what its content or archived asks for", "counters: associations is .*"],
    ),
    "edges of nobody": (
        lambda rows: {of_row(Table.EDGES, an_id(3)): b"", of_row(Table.EDGES, an_id(88)): rows[EDGES]},
        [f"edges: {A88} follows from nothing: there is no content of it"],
    ),
    "edges that can't be read": (put(EDGES, b"?"), [f"content: {A1} can't be read: an edge row .*", "(?s).*"]),
    "a history of nobody": (
        lambda rows: {of_row(Table.HISTORY, an_id(88), pack_version(1)): rows[CONTENT]},
        [f"history: {A88} has version 1 of a memory that isn't there"],
    ),
    "a history that is ahead": (
        lambda rows: {of_row(Table.HISTORY, an_id(1), pack_version(2)): rows[CONTENT]},
        [f"history: {A1} has version 2 of a memory at version 2"],
    ),
    "a history that is mixed up": (
        edited(of_row(Table.HISTORY, an_id(1), pack_version(1)), lambda value: ROWS[CONTENT]),
        [f"history: {A1} version 1 says that it is 2"],
    ),
    "a history that can't be read": (
        put(of_row(Table.HISTORY, an_id(1), pack_version(1)), b"?"),
        [f"history: {A1} version 1 can't be read: .*"],
    ),
    "an archived memory that never expires": (
        gone(one_of(Table.ARCHIVED_BY_EXPIRY, an_id(ARCHIVED))),
        [f"archived_by_expiry: {A4} is missing"],
    ),
    "an expiry of nobody": (
        put(of_row(Table.ARCHIVED_BY_EXPIRY, pack_time(LATER), an_id(2))),
        [f"archived_by_expiry: {A2} follows from nothing: there is no archived of it"],
    ),
    "an expiry at another time": (
        edited(ARCHIVE, archived_with(kept_until=LATER + 1)),
        [f"archived_by_expiry: {A4} is missing", f"archived_by_expiry: {A4} isn't what its archived asks for"],
    ),
    "an archived memory that is stored, too": (
        lambda rows: {of_row(Table.ARCHIVED, an_id(1)): rows[ARCHIVE]},
        ["(?s).*", f"archived: {A1} is among the others, too", "(?s).*"],
    ),
    "an archived memory whose edges nobody lists": (
        gone(of_row(Table.EDGES_BY_TARGET, an_id(2), an_id(ARCHIVED))),
        [f"edges_by_target: {A4} is missing"],
    ),
    "an archived memory that can't be read": (put(ARCHIVE, b"?"), [f"archived: {A4} can't be read: .*", "(?s).*"]),
    "an archived state of another store": (
        edited(
            ARCHIVE, lambda value: archived_with(state=with_other_store(parse_archived_row(value).state))(value)
        ),
        [f"archived: {A4} has a state of another store"],
    ),
    "an entry that is gone": (
        gone(RAW),
        [
            *(
                f"{table}: {A101} follows from nothing: there is no raw of it"
                for table in ("raw_by_session", "raw_by_time", "raw_pending")
            ),
            *["counters: raw_records is 2, counted 1", "counters: raw_pending_dream is 1, counted 0"],
            f"index: {A101} has a document in the raw journal, and no row",
        ],
    ),
    "an entry that its session doesn't have": (
        gone(one_of(Table.RAW_BY_SESSION, an_id(101))),
        [f"raw_by_session: {A101} is missing"],
    ),
    "an entry of another session": (
        edited(RAW, with_other_session),
        [
            *[f"raw_by_session: {A101} is missing", f"raw_pending: {A101} says something else than .*"],
            f"raw_by_session: {A101} isn't what its raw asks for",
        ],
    ),
    "an entry that isn't found by its time": (
        gone(one_of(Table.RAW_BY_TIME, an_id(101))),
        [f"raw_by_time: {A101} is missing"],
    ),
    "an entry that is more visible than it is": (
        put(one_of(Table.RAW_BY_TIME, an_id(101)), b"\1\1"),
        [f"raw_by_time: {A101} says something else than what it follows from"],
    ),
    "an entry that no dream will find": (gone(PENDING), [f"raw_pending: {A101} is missing"]),
    "an entry that is dreamt of again": (
        put(of_row(Table.RAW_PENDING, b"\0\0", pack_time(NOW), an_id(102))),
        [f"raw_pending: {A102} isn't what its raw asks for"],
    ),
    "an answer that never expires": (gone(EXPIRY), [f"idempotency_by_expiry: {digest('k').hex()} is missing"]),
    "an answer that is gone": (
        gone(ANSWER),
        [f"idempotency_by_expiry: {digest('k').hex()} follows from nothing: there is no idempotency of it"],
    ),
    "an answer that can't be read": (put(ANSWER, b"?"), ["idempotency: .* can't be read: .*", "(?s).*"]),
    "too few records": (counting(records=[0, 1, 0, 0, 0]), [r"counters: records is \[0, 1.*, counted \[3, 1.*"]),
    "too many associations": (counting(associations=9), ["counters: associations is 9, counted 3"]),
    "too many vectors": (counting(vectors=9), ["counters: vectors is 9, counted 4"]),
    "too many entries": (counting(raw_records=9), ["counters: raw_records is 9, counted 2"]),
    "too few that wait for a dream": (
        counting(raw_pending_dream=0),
        ["counters: raw_pending_dream is 0, counted 1"],
    ),
    "other fidelities": (
        counting(fidelity_sums=[2.5, 1.0, 0.0, 0.0, 0.0]),
        ["counters: the fidelities of episodic are 2.5 in all, counted 3.0"],
    ),
    "no counters": (gone(COUNTERS), ["counters: .*"] * 7),
    "counters that can't be read": (put(COUNTERS, b"?"), ["counters: can't be read: .*"]),
    "rows of a namespace without a name": (
        put(key(9, Table.EDGES_BY_TARGET, an_id(1), an_id(2))),
        ["namespaces: 9 has no name", r"edges_by_target \(namespace 9\): .* follows from nothing: .*"],
    ),
    "counters of a namespace without a name": (
        put(counters_key(9), dump_counters(parse_counters(None))),
        ["namespaces: 9 has no name"],
    ),
    "a namespace with two names": (
        put(name_key("home"), dump_name_row(WORK, "home")),
        ["namespaces: 1 has two names, 'home' and 'work'"],
    ),
    "a name that is gone": (
        gone(name_key("work")),
        ["namespaces: 1 numbers were given, those of the names are .*", "namespaces: 1 has no name"],
    ),
    "a name where another belongs": (
        put(name_key("work"), dump_name_row(WORK, "home")),
        ["namespaces: 'home' stands where another name belongs"],
    ),
    "a number that wasn't given": (
        put(system_key(Table.LAST_NAMESPACE), pack_namespace(2)),
        ["namespaces: 2 numbers were given, .*"],
    ),
    "a row in another namespace": (
        lambda rows: {key(WORK, Table.STATE, pack_time(AT), an_id(2)): rows[STATE]},
        [rf"state \(namespace 1\): {A2} follows from nothing: there is no content of it"],
    ),
    "a table that isn't": (
        put(pack_namespace(0) + b"?" + an_id(1)),
        ["store: has keys of no table, which begin with 000000003f"],
    ),
    "a table of the system in a namespace": (
        put(key(0, Table.HEAD), b"x"),
        [f"store: has keys of no table, which begin with 00000000{Table.HEAD.value.hex()}"],
    ),
    "dynamics that can't be read": (
        put(system_key(Table.DYNAMICS, pack_namespace(WORK)), b"?"),
        [r"dynamics \(namespace 1\): can't be read: .*"],
    ),
    "a gap in the log": (
        gone(log_row(LAST - 2)),
        ["log: commit .* begins with entry .*, expected .*", "log: behind entry 0, line .*"],
    ),
    "a log that ends early": (
        gone(log_row(LAST - 1), log_row(LAST)),
        ["log: ends with entry .*, the head says .*", "log: its chain ends at entry .*", "(?s).*"],
    ),
    "a log that goes on": (
        lambda rows: {log_row(LAST + 1): without_lines(rows[log_row(LAST)])},
        [f"log: has commit {LAST + 1}, where those up to 0 were dropped, the last one is {LAST}"],
    ),
    "a line that was changed": (
        edited(log_row(3), with_other_line),
        ["log: behind entry 0, line .*", "audit: .*"],
    ),
    "a log row that can't be read": (put(log_row(3), b"?"), ["log: a stored row can't be read: .*", "(?s).*"]),
    "a log row that was dropped": (
        put(system_key(Table.LOG_FLOOR), pack_sequence(4)),
        [f"log: has commit {number}, where those up to 4 were dropped.*" for number in (3, 4)],
    ),
    "another hash": (
        headed(audit_hash="f" * 64),
        ["log: its chain ends at entry .*, and not with the hash of the head", "audit: .*"],
    ),
    "more in the file than there is": (
        headed(audit_synced=999),
        ["head: says that entry 999 is in the audit log, and that .* is the last", "audit: .*cut off"],
    ),
    "enriched beyond the end": (
        put(system_key(Table.ENRICHED), pack_sequence(999)),
        [f"head: is at commit {LAST}, enriched at 999"],
    ),
    "something kept of an import that isn't": (
        put(undo_key(DEFAULT_NAMESPACE, an_id(88), MEMORY, an_id(1)), dump_undo_row(UndoRow(b"stamp"))),
        [f"undo: {A1} is kept of {A88}, which isn't"],
    ),
    "a kept import that can't be read": (
        put(batch_key(DEFAULT_NAMESPACE, an_id(88)), b"?"),
        ["undo: what is kept to undo an import can't be read: .*"],
    ),
    "a head that can't be read": (put(HEAD, b"?"), ["log: a stored row can't be read: .*", "audit: .*"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(data_dir: DataDir, name: str) -> None:
    """In their order; `(?s).*` stands for whatever follows from it, any number of them."""
    change, expected = BROKEN[name]
    data_dir.change(change)
    found = [str(finding) for finding in data_dir.findings()]
    assert matches(found, expected), "\n".join(found)


def matches(found: list[str], expected: list[str]) -> bool:
    pattern = "".join(r"(?:[^\n]*\n)*" if one == "(?s).*" else rf"(?:{one})\n" for one in expected)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in found)) is not None


def test_an_answer_whose_key_was_used_anew_may_leave_its_expiry_until_that_has_come(data_dir: DataDir) -> None:
    data_dir.change(gone(ANSWER))
    assert data_dir.findings(now=LATER) == []
    assert len(data_dir.findings(now=LATER - 1)) == 1


def test_likenesses_that_are_still_gathered_may_be_few_but_not_wrong(data_dir: DataDir) -> None:
    data_dir.change(lambda rows: {of_row(Table.LIKENESS): BUILDING, LIKENESS: None})
    assert data_dir.findings() == []
    data_dir.change(put(of_row(Table.LIKENESS, b"\0" * 17, an_id(1))))
    assert [finding.part for finding in data_dir.findings()] == ["likeness"]


def test_a_finding_says_where_it_is() -> None:
    assert str(Finding("state", "is missing")) == str(Finding("state", "is missing", 0)) == "state: is missing"
    assert str(Finding("state", "is missing", 3)) == "state (namespace 3): is missing"


# the text index


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No owner will mend the index while it is waited for."""
    monkeypatch.setattr(fsck_index, "PAUSE_S", 0.0)


@pytest.fixture
def index(data_dir: DataDir) -> Iterator[TextIndex]:
    with closing(TextIndex.open(data_dir.index_path)) as opened:
        yield opened


def document(number: int, store_code: int, namespace: int = DEFAULT_NAMESPACE) -> IndexDocument:
    return IndexDocument(
        namespace=namespace, record_id=an_id(number), store_code=store_code, created_at=NOW, text="kettle"
    )


def found_in_index(data_dir: DataDir) -> list[str]:
    return [str(finding) for finding in data_dir.findings()]


def test_a_document_that_is_gone_is_named(data_dir: DataDir, index: TextIndex) -> None:
    index.apply([], [(DEFAULT_NAMESPACE, an_id(1)), (DEFAULT_NAMESPACE, an_id(101))], 0)
    index.commit()
    assert found_in_index(data_dir) == [
        f"index: {A1} has 0 documents in episodic",
        f"index: {A101} has 0 documents in the raw journal",
    ]


def test_documents_without_a_row_are_named(data_dir: DataDir, index: TextIndex) -> None:
    index.apply([document(88, 0), document(89, 3), document(90, 5)], [], 0)
    index.commit()
    assert found_in_index(data_dir) == [
        f"index: 00000000-0000-0000-0000-0000000000{number} has a document in {where}, and no row"
        for number, where in (("58", "episodic"), ("59", "emotional"), ("5a", "the raw journal"))
    ]


def test_a_document_in_another_store_is_named_on_both_sides(data_dir: DataDir, index: TextIndex) -> None:
    index.apply([document(1, 2)], [], 0)
    index.commit()
    assert found_in_index(data_dir) == [
        f"index: {A1} has 0 documents in episodic",
        f"index: {A1} has a document in procedural, and no row",
    ]


def test_a_document_in_another_namespace_is_noticed(data_dir: DataDir, index: TextIndex) -> None:
    index.apply([document(2, 0, namespace=WORK)], [], 0)
    index.commit()
    assert found_in_index(data_dir) == [f"index (namespace 1): {A2} has a document in episodic, and no row"]
    index.apply([document(2, 0, namespace=9)], [(WORK, an_id(2))], 0)
    index.commit()
    assert found_in_index(data_dir) == ["index: has documents in episodic of a namespace without rows"]


def test_of_very_many_strays_some_are_named(
    data_dir: DataDir, index: TextIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsck_index, "STRAYS_MAX", 7)
    index.apply([document(number, 0) for number in range(1_000, 3_100)], [], 0)
    index.commit()
    assert len(list(index.record_ids(0))) == 2_104
    assert len(found_in_index(data_dir)) == 7


def test_what_working_memory_holds_has_no_row(data_dir: DataDir, index: TextIndex) -> None:
    index.apply([document(88, 4)], [], 0)
    index.commit()
    assert found_in_index(data_dir) == []


def test_rows_are_looked_up_many_at_once(data_dir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsck_index, "PIECE", 2)
    assert found_in_index(data_dir) == []


def test_what_the_log_still_has_for_the_index_is_left_out(data_dir: DataDir) -> None:
    """Stored, edited into another store's memory by an import, forgotten: the index has yet to hear of it."""
    commit(data_dir.storage, storing(a_record(21, store=Store.PROCEDURAL)), storing_raw(121))
    commit(data_dir.storage, updating(1, metadata={"n": 1}), Archive(2))
    data_dir.write_audit_log()
    assert found_in_index(data_dir) == []
    data_dir.index()
    assert found_in_index(data_dir) == []


@pytest.mark.parametrize(
    ("floor", "pending_max", "note"),
    [(None, 0, "behind the log"), (LAST + 1, 100, "behind the log"), (LAST, 100, None)],
)
def test_of_an_index_that_will_be_built_again_nothing_is_said(
    data_dir: DataDir, monkeypatch: pytest.MonkeyPatch, floor: int | None, pending_max: int, note: str | None
) -> None:
    monkeypatch.setattr(fsck_index, "PENDING_MAX", pending_max)
    commit(data_dir.storage, storing(a_record(21)))
    commit(data_dir.storage, storing(a_record(22)))
    if floor is not None:
        rows = data_dir.storage.rows()
        prefix = system_key(Table.LOG)
        dropped = [k for k in rows if k.startswith(prefix) and int.from_bytes(k[-8:], "big") <= floor]
        data_dir.storage.commit({**dict.fromkeys(dropped), system_key(Table.LOG_FLOOR): pack_sequence(floor)})
    tally = Tally()
    assert [finding for finding in data_dir.findings(tally=tally) if finding.part == "index"] == []
    assert tally.notes == ([] if note is None else [f"the text index is {note} and will be built again"])


def test_a_damaged_index_is_named(data_dir: DataDir) -> None:
    (data_dir.index_path / "curated" / "meta.json").write_text("{")
    [finding] = data_dir.findings()
    assert finding.part == "index"
    assert (data_dir.index_path / "curated" / "meta.json").read_text() == "{", "it isn't mended"


def test_a_part_of_the_index_that_is_gone_is_named(data_dir: DataDir) -> None:
    shutil.rmtree(data_dir.index_path / "raw")
    [finding] = data_dir.findings()
    assert finding.part == "index"
    assert not (data_dir.index_path / "raw").exists(), "it isn't made again"


def test_an_index_of_another_version_will_be_built_again(data_dir: DataDir) -> None:
    shutil.rmtree(data_dir.index_path)
    TextIndex.open(data_dir.index_path, epoch=1).close()
    tally = Tally()
    assert data_dir.findings(tally=tally) == []
    [note] = tally.notes
    assert note.startswith("the text index will be built again: ")


# the audit log


def test_a_line_of_the_file_that_was_changed_is_named(data_dir: DataDir) -> None:
    lines = data_dir.audit_path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"encode.store", b"encode.stole")
    data_dir.audit_path.write_bytes(b"".join(lines))
    [finding] = data_dir.findings()
    assert finding.part == "audit"
    assert "line 2" in finding.what


def test_a_file_that_goes_on_is_named(data_dir: DataDir) -> None:
    data_dir.audit_path.write_bytes(data_dir.audit_path.read_bytes() + b"{}\n")
    assert [finding.part for finding in data_dir.findings()] == ["audit"]


def test_a_file_may_lack_what_was_never_synced_and_no_more(data_dir: DataDir) -> None:
    data_dir.write_audit_log(2)
    assert data_dir.findings() == []
    data_dir.change(headed(audit_synced=3))
    [finding] = data_dir.findings()
    assert re.search("line 3 is missing, as all up to line .*: cut off", finding.what)
    data_dir.audit_path.unlink()
    [finding] = data_dir.findings()
    assert "line 1 is missing" in finding.what


def test_a_file_that_cannot_be_read_is_named(data_dir: DataDir) -> None:
    data_dir.audit_path.unlink()
    data_dir.audit_path.mkdir()
    [finding] = data_dir.findings()
    assert finding.part == "audit"


def test_what_is_not_kept_is_not_looked_at(data_dir: DataDir) -> None:
    (data_dir.index_path / "curated" / "meta.json").write_text("{")
    data_dir.audit_path.write_bytes(b"x")
    found = check(data_dir.storage, index_path=None, audit_path=None, now=NOW, tally=Tally())
    assert list(found) == []
