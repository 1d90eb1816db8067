"""Namespaces: memories apart from each other in one data dir, each with a name and a number that keys start with.

The default one is always there; another comes to be with the first thing that is stored under its name.
"""

from __future__ import annotations

from dataclasses import dataclass

from cerememory.errors import ValidationFailed
from cerememory.protocol.namespaces import DEFAULT_NAME
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    NAMESPACE_BYTES,
    Table,
    after,
    digest,
    pack_namespace,
    system_key,
    unpack_namespace,
)
from cerememory.storage.ledger import Ledger

NAMESPACES_MAX = 10_000
USED_BY = (Table.COUNTERS, Table.MODES)  # what is stored is counted, and a mode may be set before anything is


def namespace_of(reader: Reader, name: str) -> int | None:
    """The number of `name`, None when nothing was stored under it."""
    if name == DEFAULT_NAME:
        return DEFAULT_NAMESPACE
    value = reader.get(name_key(name))
    return None if value is None else parse_name_row(value)[0]


def namespaces_of(storage: Storage) -> list[int]:
    """Those in which something was stored, ascending."""
    with storage.read() as reader:
        return _numbers(reader, Table.COUNTERS)


def names_in(storage: Storage) -> list[str]:
    """The names of the namespaces that something was committed in, the default one first, the others sorted.

    A name has its number before that, and keeps it when what it was made for is refused.
    """
    prefix = system_key(Table.NAMESPACES)
    with storage.read() as reader:
        named = [parse_name_row(value) for _key, value in reader.scan(prefix, after(prefix))]
        used = {number for table in USED_BY for number in _numbers(reader, table)}
    return [DEFAULT_NAME, *sorted(name for number, name in named if number in used)]


def _numbers(reader: Reader, table: Table) -> list[int]:
    """The namespaces that a table of the system's has a row of."""
    prefix = system_key(table)
    return [unpack_namespace(row_key[len(prefix) :]) for row_key, _value in reader.scan(prefix, after(prefix))]


@dataclass(frozen=True, slots=True)
class OpenNamespace:
    """Give `name` a number, unless it has one; answers the number."""

    name: str
    namespace: int = DEFAULT_NAMESPACE

    def apply(self, ledger: Ledger) -> int:
        row_key = name_key(self.name)
        value = ledger.get(row_key)
        if value is not None:
            return parse_name_row(value)[0]
        number = 1 + unpack_namespace(ledger.get(system_key(Table.LAST_NAMESPACE)) or b"")
        if number > NAMESPACES_MAX:
            raise ValidationFailed(f"namespace: there are {NAMESPACES_MAX} already")
        ledger.put(row_key, dump_name_row(number, self.name))
        ledger.put(system_key(Table.LAST_NAMESPACE), pack_namespace(number))
        return number


def name_key(name: str) -> bytes:
    return system_key(Table.NAMESPACES, digest(name))


def dump_name_row(number: int, name: str) -> bytes:
    """The value under `name_key`."""
    return pack_namespace(number) + name.encode()


def parse_name_row(value: bytes) -> tuple[int, str]:
    """The number and the name."""
    return unpack_namespace(value[:NAMESPACE_BYTES]), value[NAMESPACE_BYTES:].decode(errors="replace")
