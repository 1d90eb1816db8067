"""The key space: `namespace (4) | table (1) | …`, big-endian, so that keys sort as their parts do.

Text that callers choose (sessions, idempotency keys) is hashed in keys: it has no bound, and keys have one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from enum import Enum
from hashlib import blake2b
from typing import TypeAlias

from cerememory.protocol.values import RecordId

DEFAULT_NAMESPACE = 0
SYSTEM_NAMESPACE = 0xFFFF_FFFF
NOWHERE = 0xFFFF_FFFE  # the namespace that holds nothing: what a name means under which nothing was stored
NAMESPACE_BYTES = 4
ID_BYTES = 16
DIGEST_BYTES = 16
TIME_BYTES = 8
KEYS_END = b"\xff" * 512  # behind all keys, which have 511 bytes at most

Address: TypeAlias = tuple[int, RecordId]  # namespace and id: the same id may be in two namespaces

_DEFAULT_PREFIX = DEFAULT_NAMESPACE.to_bytes(NAMESPACE_BYTES, "big")
_SYSTEM_PREFIX = SYSTEM_NAMESPACE.to_bytes(NAMESPACE_BYTES, "big")


class Table(Enum):
    CONTENT = b"c"  # id -> content row
    STATE = b"s"  # created_at, id -> store code, state row
    ARCHIVED = b"z"  # id -> archived row
    ARCHIVED_BY_EXPIRY = b"t"  # expires_at, id -> nothing
    LIKENESS = b"a"  # store code, digest of the content, id -> nothing; and itself -> whether it is complete
    HISTORY = b"y"  # id, version -> the content row that it was
    EDGES = b"e"  # source id -> edge row
    EDGES_BY_TARGET = b"b"  # target id, source id -> nothing
    GROUPS = b"o"  # session digest, created_at, id -> nothing
    VECTORS = b"v"  # space, dimensions, id -> float32[dimensions], store code
    RAW = b"j"  # id -> raw row
    RAW_BY_SESSION = b"k"  # session digest, created_at, id -> visibility, secrecy
    RAW_BY_TIME = b"l"  # created_at, id -> visibility, secrecy
    RAW_PENDING = b"q"  # visibility, secrecy, created_at, id -> session digest
    IDEMPOTENCY = b"i"  # digest -> kept answer
    IDEMPOTENCY_BY_EXPIRY = b"x"  # expires_at, digest -> nothing
    UNDO = b"U"  # what imports changed: `undo_rows`
    # of the system namespace
    NAMESPACES = b"d"  # digest of the name -> namespace id, name
    LAST_NAMESPACE = b"m"  # -> the id given last
    LOG_FLOOR = b"f"  # -> the last commit with changes whose log row was dropped
    LOG = b"g"  # commit sequence -> log row
    HEAD = b"h"  # -> head row; behind the log, whose end it shares a page with
    AUDIT_TILES = b"T"  # tile -> where its lines end in the audit log, the hash over them
    AUDIT_FILES = b"F"  # entry that ends a closed file of the audit log -> where its lines end, chain, tree, code
    COUNTERS = b"n"  # namespace -> counters row
    DYNAMICS = b"u"  # namespace -> dynamics row
    MODES = b"w"  # namespace -> modes row
    ENRICHED = b"r"  # -> the commit sequence up to which memories were enriched
    PROBE = b"p"  # -> time of the last probe write
    KEYRING = b"0"  # -> the wrapped keyring of an encrypted store
    SEALS = b"1"  # -> how many values were sealed under its newest key

    def __init__(self, byte: bytes) -> None:
        self.default_prefix = _DEFAULT_PREFIX + byte
        self.system_prefix = _SYSTEM_PREFIX + byte


EDGE_TABLE = frozenset({Table.EDGES.value})
UNCHANGING_TABLES = EDGE_TABLE | {Table.CONTENT.value}  # of a memory, all but its state


def key(namespace: int, table: Table, *parts: bytes) -> bytes:
    if namespace == DEFAULT_NAMESPACE:
        return table.default_prefix + b"".join(parts)
    return pack_namespace(namespace) + table.value + b"".join(parts)


def system_key(table: Table, *parts: bytes) -> bytes:
    return table.system_prefix + b"".join(parts)


def state_key(namespace: int, created_at: int, record_id: RecordId) -> bytes:
    """States stand in the order in which their memories were made: they are the index by time, too."""
    return key(namespace, Table.STATE, pack_time(created_at), record_id)


def counters_key(namespace: int) -> bytes:
    """Counters stand among the system's rows: what every commit rewrites shares a page."""
    return system_key(Table.COUNTERS, pack_namespace(namespace))


def counters_range() -> tuple[bytes, bytes]:
    """The counters of all namespaces in which something was stored."""
    prefix = system_key(Table.COUNTERS)
    return prefix, after(prefix)


def pack_namespace(namespace: int) -> bytes:
    return namespace.to_bytes(NAMESPACE_BYTES, "big")


def unpack_namespace(packed: bytes) -> int:
    return int.from_bytes(packed, "big")


def after(prefix: bytes) -> bytes:
    """The first key behind all keys that start with `prefix` (which isn't all 0xFF)."""
    bare = prefix.rstrip(b"\xff")
    return bare[:-1] + bytes([bare[-1] + 1])


def pack_time(at: int) -> bytes:
    """A signed 64-bit time in 8 bytes that sort by it."""
    return (at + 2**63).to_bytes(8, "big")


def unpack_time(packed: bytes) -> int:
    return int.from_bytes(packed, "big") - 2**63


def pack_version(version: int) -> bytes:
    return version.to_bytes(4, "big")


def pack_sequence(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")


def unpack_sequence(packed: bytes) -> int:
    return int.from_bytes(packed, "big")


def digest(text: str) -> bytes:
    """The 16 bytes that stand for a caller's text in keys."""
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def namespace_in(full_key: bytes) -> int:
    return unpack_namespace(full_key[:NAMESPACE_BYTES])


def trailing_id(full_key: bytes) -> RecordId:
    return RecordId(full_key[-ID_BYTES:])


def addresses_in(tables: Container[bytes], row_keys: Iterable[bytes]) -> Iterator[Address]:
    """Of those of `row_keys` that are in one of `tables` (their codes), whose keys end in a memory's id."""
    for row_key in row_keys:
        if row_key[NAMESPACE_BYTES : NAMESPACE_BYTES + 1] in tables:
            yield unpack_namespace(row_key[:NAMESPACE_BYTES]), trailing_id(row_key)


def trailing_time(full_key: bytes) -> int:
    """The time in a key that ends in a time and an id."""
    return unpack_time(full_key[-ID_BYTES - TIME_BYTES : -ID_BYTES])


def parse_places(packed: bytes) -> list[bytes]:
    """Keys of `Table.GROUPS`, one behind the other."""
    size = NAMESPACE_BYTES + 1 + DIGEST_BYTES + TIME_BYTES + ID_BYTES
    return [packed[i : i + size] for i in range(0, len(packed), size)]


def dump_addresses(addresses: list[Address]) -> bytes:
    return b"".join(pack_namespace(namespace) + record_id for namespace, record_id in addresses)


def parse_addresses(packed: bytes) -> list[Address]:
    size = NAMESPACE_BYTES + ID_BYTES
    return [
        (unpack_namespace(packed[i : i + NAMESPACE_BYTES]), RecordId(packed[i + NAMESPACE_BYTES : i + size]))
        for i in range(0, len(packed), size)
    ]
