"""Whether what concerns all namespaces adds up: their names, the log, the head, the audit log beside the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cerememory.domain.audit_chain import GENESIS, START, ChainHead, parse_line, verify_lines
from cerememory.domain.merkle import CompactRange
from cerememory.errors import AuditBroken, CerememoryError, StorageDamaged
from cerememory.storage.audit_closed import closed_files
from cerememory.storage.audit_file import plan_repair
from cerememory.storage.audit_head import TILE_ENTRIES, parse_tile, tile_key, tree_of
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.dynamics import parse_dynamics
from cerememory.storage.fsck_rows import TABLES, Finding, Tally, check_namespace
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    KEYS_END,
    NAMESPACE_BYTES,
    SYSTEM_NAMESPACE,
    Table,
    after,
    pack_namespace,
    system_key,
    unpack_namespace,
    unpack_sequence,
)
from cerememory.storage.namespaces import name_key, parse_name_row
from cerememory.storage.rows import Head, LogRow, parse_head, parse_log_row

SYSTEM_TABLES = frozenset(
    {
        *(Table.NAMESPACES, Table.LAST_NAMESPACE, Table.LOG_FLOOR, Table.LOG, Table.HEAD, Table.COUNTERS),
        *(Table.DYNAMICS, Table.MODES, Table.ENRICHED, Table.PROBE, Table.KEYRING, Table.SEALS),
        *(Table.AUDIT_TILES, Table.AUDIT_FILES),
    }
)
BY_NAMESPACE = (Table.COUNTERS, Table.DYNAMICS, Table.MODES)  # whose keys end in one


def check_store(reader: Reader, now: int, tally: Tally) -> Iterator[Finding]:
    """All that contradicts in the rows of a store."""
    namespaces = namespaces_in(reader)
    tally.namespaces = len(namespaces)
    yield from _check_tables(reader)
    yield from _check_names(reader, namespaces)
    yield from _check_dynamics(reader)
    yield from _check_log(reader)
    for namespace in namespaces:
        yield from check_namespace(reader, namespace, now, tally)


def namespaces_in(reader: Reader) -> list[int]:
    """The default one, and those that have a row or counters, ascending."""
    found = {DEFAULT_NAMESPACE}
    for table in BY_NAMESPACE:
        prefix = system_key(table)
        found |= {unpack_namespace(k[len(prefix) :]) for k, _value in reader.scan(prefix, after(prefix))}
    found |= {unpack_namespace(packed) for packed in _beginnings(reader, b"", NAMESPACE_BYTES)}
    return sorted(found - {SYSTEM_NAMESPACE})


def _beginnings(reader: Reader, prefix: bytes, size: int) -> Iterator[bytes]:
    """With what the keys behind `prefix` begin, in so many bytes: one look at the store for each."""
    position, stop = prefix, after(prefix) if prefix.rstrip(b"\xff") else KEYS_END
    while (pair := next(iter(reader.scan(position, stop)), None)) is not None:
        beginning = pair[0][:size]
        yield beginning
        if not beginning.rstrip(b"\xff"):
            return
        position = after(beginning)


def _check_tables(reader: Reader) -> Iterator[Finding]:
    for beginning in _beginnings(reader, b"", NAMESPACE_BYTES + 1):
        namespace = unpack_namespace(beginning[:NAMESPACE_BYTES])
        table = TABLES.get(beginning[NAMESPACE_BYTES:])
        if table is None or (table in SYSTEM_TABLES) != (namespace == SYSTEM_NAMESPACE):
            yield Finding("store", f"has keys of no table, which begin with {beginning.hex()}")


def _check_names(reader: Reader, namespaces: list[int]) -> Iterator[Finding]:
    """Each name has a number of its own, counted up from 1, and no namespace goes without a name."""
    prefix = system_key(Table.NAMESPACES)
    named: dict[int, str] = {}
    for row_key, value in reader.scan(prefix, after(prefix)):
        number, name = parse_name_row(value)
        if row_key != name_key(name):
            yield Finding("namespaces", f"{name!r} stands where another name belongs")
        if number in named:
            first, second = sorted((named[number], name))
            yield Finding("namespaces", f"{number} has two names, {first!r} and {second!r}")
        named[number] = name
    last = unpack_namespace(reader.get(system_key(Table.LAST_NAMESPACE)) or b"")
    nameless = [number for number in namespaces if number != DEFAULT_NAMESPACE and number not in named]
    if sorted(named) != list(range(1, last + 1)):
        what = f"{last} numbers were given, those of the names are {sorted(named)}"
        are_all_there = not nameless and sorted(named) == list(range(1, len(named) + 1))
        fix = (system_key(Table.LAST_NAMESPACE), pack_namespace(len(named)))
        yield Finding("namespaces", what, fix=fix if are_all_there else None)
    for number in nameless:
        yield Finding("namespaces", f"{number} has no name")


def _check_dynamics(reader: Reader) -> Iterator[Finding]:
    prefix = system_key(Table.DYNAMICS)
    for row_key, value in reader.scan(prefix, after(prefix)):
        try:
            parse_dynamics(value)
        except StorageDamaged as error:
            yield Finding("dynamics", f"can't be read: {error}", unpack_namespace(row_key[len(prefix) :]))


def _check_log(reader: Reader) -> Iterator[Finding]:
    try:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        yield from _check_head(reader, head)
        yield from _Log(reader, head).findings()
        yield from _check_tree(reader, head)
        yield from _check_closed_files(reader, head)
    except CerememoryError as error:
        yield Finding("log", str(error))


def _check_head(reader: Reader, head: Head) -> Iterator[Finding]:
    if head.audit_synced > head.audit_sequence:
        what = (
            f"says that entry {head.audit_synced} is in the audit log, and that {head.audit_sequence} is the last"
        )
        yield Finding("head", what)
    if not head.audit_sequence and head.audit_hash != GENESIS:
        yield Finding("head", "has a hash of an audit log without entries")
    for table in (Table.ENRICHED, Table.LOG_FLOOR):
        sequence = unpack_sequence(reader.get(system_key(table)) or b"")
        if sequence > head.commit_sequence:
            yield Finding("head", f"is at commit {head.commit_sequence}, {table.name.lower()} at {sequence}")


def _check_tree(reader: Reader, head: Head) -> Iterator[Finding]:
    """The tiles are the beginning of the tree that the head ends."""
    prefix, whole, tiles = system_key(Table.AUDIT_TILES), tree_of(head), CompactRange()
    end_bytes = 0
    for row_key, value in reader.scan(prefix, after(prefix)):
        if row_key != tile_key(tiles.size):
            yield Finding("audit tiles", f"has tile {unpack_sequence(row_key[len(prefix) :])} behind {tiles.size}")
            return
        tile = parse_tile(value)
        if not end_bytes < tile.end_bytes <= head.audit_bytes:
            yield Finding("audit tiles", f"tile {tiles.size} ends at byte {tile.end_bytes}, behind {end_bytes}")
        end_bytes = tile.end_bytes
        tiles.append(tile.root)
    if tiles.size != whole.size // TILE_ENTRIES:
        yield Finding("audit tiles", f"are {tiles.size}, which is not what {whole.size} entries have")
    elif tiles.hashes != whole.hashes[: len(tiles.hashes)]:
        yield Finding("audit tiles", "aren't of the tree that the head has")


def _check_closed_files(reader: Reader, head: Head) -> Iterator[Finding]:
    """Each ends behind the one before it and in front of the head, and has whole tiles as the log has them."""
    end_bytes, tiles = 0, CompactRange()
    for closed in closed_files(reader):
        what = f"say that one ends with entry {closed.last.sequence}"
        if closed.last.sequence >= head.audit_sequence or not end_bytes < closed.end_bytes < head.audit_bytes:
            yield Finding("audit files", f"{what} and byte {closed.end_bytes}, behind {end_bytes}")
        end_bytes = closed.end_bytes
        stop = tile_key(closed.last.sequence // TILE_ENTRIES)
        for _key, value in reader.scan(tile_key(tiles.size), stop):
            tiles.append(parse_tile(value).root)
        if list(closed.hashes[: len(tiles.hashes)]) != tiles.hashes:
            yield Finding("audit files", f"{what}, with another tree than the log has")


@dataclass(slots=True)
class _Log:
    """The rows of the log: in the order of the commits, up to the head, and their lines one unbroken chain."""

    reader: Reader
    head: Head
    first: LogRow | None = None
    end_line: int = 0  # behind the last that was read

    def findings(self) -> Iterator[Finding]:
        prefix = system_key(Table.LOG)
        floor = unpack_sequence(self.reader.get(system_key(Table.LOG_FLOOR)) or b"")
        for row_key, value in self.reader.scan(prefix, after(prefix)):
            yield from self._check_row(unpack_sequence(row_key[len(prefix) :]), floor, parse_log_row(value))
        if self.first is not None and self.end_line != self.head.audit_sequence + 1:
            what = f"ends with entry {self.end_line - 1}, the head says {self.head.audit_sequence}"
            yield Finding("log", what)
        yield from self._check_chain()

    def _check_row(self, sequence: int, floor: int, row: LogRow) -> Iterator[Finding]:
        if not floor < sequence <= self.head.commit_sequence:
            bounds = f"{floor} were dropped, the last one is {self.head.commit_sequence}"
            yield Finding("log", f"has commit {sequence}, where those up to {bounds}")
        if self.first is not None and row.first_line != self.end_line:
            yield Finding("log", f"commit {sequence} begins with entry {row.first_line}, expected {self.end_line}")
        self.first = self.first or row
        self.end_line = row.end_line

    def _check_chain(self) -> Iterator[Finding]:
        lines = self._lines()
        first = next(lines, None)
        if first is None:
            return
        start = self._start(first)
        try:
            end = verify_lines(self._lines(), start).head
        except AuditBroken as error:
            yield Finding("log", f"behind entry {start.sequence}, {error}")
            return
        if end != (self.head.audit_sequence, self.head.audit_hash):
            yield Finding("log", f"its chain ends at entry {end.sequence}, and not with the hash of the head")

    def _start(self, first: bytes) -> ChainHead:
        """Where the chain was before the first line that is held."""
        entry = parse_line(first)
        return START if entry.sequence == 1 else ChainHead(entry.sequence - 1, entry.prev_hash)

    def _lines(self) -> Iterator[bytes]:
        prefix = system_key(Table.LOG)
        for _key, value in self.reader.scan(prefix, after(prefix)):
            yield from parse_log_row(value).lines.splitlines(keepends=True)


def check_audit_log(path: Path, storage: Storage, tally: Tally) -> Iterator[Finding]:
    """What a start would find wrong with the audit log at `path`; it may lack what was never synced."""
    try:
        repair = plan_repair(path, StoredOutbox(storage))
    except (AuditBroken, StorageDamaged) as error:
        yield Finding("audit", str(error))
    except OSError as error:
        yield Finding("audit", f"{path}: {error.strerror}")
    else:
        for each in repair.unseen:
            entries = f"audit entries {each.first} to {each.last.sequence}"
            tally.notes.append(f"{entries} weren't looked at: {each.path(path)} isn't there")
        if repair.cut:
            yield Finding("audit", f"{path}: line {repair.first_missing} {repair.said_missing()}: cut off")
