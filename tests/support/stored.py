"""What lies in a data dir, read beside its owner or after its end, when it adds up.

Reads the rows themselves, not what the daemon says of them, and changes nothing. Whether they add up is for the
product's own check to say (`storage.fsck`), which has tests of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cerememory.domain.audit_chain import GENESIS
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent
from cerememory.protocol.values import format_id
from cerememory.storage.audit_file import plan_repair
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.contract import Reader
from cerememory.storage.fsck import Tally, check
from cerememory.storage.fsck_system import namespaces_in
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    Table,
    after,
    counters_key,
    key,
    system_key,
    trailing_id,
)
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.namespaces import parse_name_row
from cerememory.storage.rows import (
    ContentRow,
    Counters,
    Head,
    RawRow,
    parse_content_row,
    parse_counters,
    parse_head,
    parse_raw_row,
)


@dataclass(frozen=True, slots=True)
class Kept:
    """What one namespace holds: the text of each durable memory and raw entry by its id."""

    counters: Counters
    texts: dict[str, str]
    raw_texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """`names` are those of the namespaces but for the default one."""

    head: Head
    namespaces: dict[int, Kept]
    names: dict[str, int]
    audit_lines_in_file: int

    @property
    def texts(self) -> dict[str, str]:
        """Of the default namespace."""
        return self.namespaces[DEFAULT_NAMESPACE].texts

    @property
    def raw_texts(self) -> dict[str, str]:
        """Of the default namespace."""
        return self.namespaces[DEFAULT_NAMESPACE].raw_texts

    @property
    def record_ids(self) -> set[str]:
        """Of the default namespace."""
        return set(self.texts)


def stored_in(data_dir: Path, *, with_index: bool = True) -> Stored:
    """The rows of `data_dir`; fails when anything in it contradicts anything else.

    `with_index` False leaves the text index out: tantivy can't follow every path that leads to it.
    """
    index_path, audit_path = data_dir / "index" if with_index else None, data_dir / "audit.jsonl"
    with closing(LmdbStorage.open_readonly(data_dir / "store")) as storage:
        checked = check(storage, index_path=index_path, audit_path=audit_path, now=time.time_ns(), tally=Tally())
        found = list(map(str, checked))
        assert not found, "\n".join(found)
        with storage.read() as reader:
            head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
            namespaces = {number: _kept(reader, number) for number in namespaces_in(reader)}
            names = _names(reader)
        in_file = plan_repair(audit_path, StoredOutbox(storage)).last.sequence
    return Stored(head, namespaces, names, in_file)


def _kept(reader: Reader, namespace: int) -> Kept:
    return Kept(
        parse_counters(reader.get(counters_key(namespace))),
        _texts(reader, namespace, Table.CONTENT, parse_content_row),
        _texts(reader, namespace, Table.RAW, parse_raw_row),
    )


def _texts(
    reader: Reader, namespace: int, table: Table, parse: Callable[[bytes], ContentRow | RawRow]
) -> dict[str, str]:
    prefix = key(namespace, table)
    rows = reader.scan(prefix, after(prefix))
    return {format_id(trailing_id(row_key)): _text(parse(value).content) for row_key, value in rows}


def _text(content: bytes) -> str:
    return bytes(codec.parse(content, MemoryContent).blocks[0].data).decode()


def _names(reader: Reader) -> dict[str, int]:
    prefix = system_key(Table.NAMESPACES)
    rows = map(parse_name_row, (value for _key, value in reader.scan(prefix, after(prefix))))
    return {name: number for number, name in rows}
