"""The key space: `namespace (4) | table (1) | …`, big-endian, so that keys sort as their parts do.

Text that callers choose (sessions, idempotency keys) is hashed in keys: it has no bound, and keys have one.
"""

from __future__ import annotations

from enum import Enum
from hashlib import blake2b

from cerememory.protocol.values import RecordId

DEFAULT_NAMESPACE = 0
SYSTEM_NAMESPACE = 0xFFFF_FFFF
ID_BYTES = 16
DIGEST_BYTES = 16


_DEFAULT_PREFIX = DEFAULT_NAMESPACE.to_bytes(4, "big")


class Table(Enum):
    CONTENT = b"c"  # id -> content row
    STATE = b"s"  # id -> state row
    BY_TIME = b"t"  # created_at, id -> store code
    EDGES = b"e"  # source id -> edge row
    EDGES_BY_TARGET = b"b"  # target id, source id -> nothing
    VECTORS = b"v"  # space, dimensions, id -> float32[dimensions], store code
    RAW = b"j"  # id -> raw row
    RAW_BY_SESSION = b"k"  # session digest, created_at, id -> visibility, secrecy
    RAW_BY_TIME = b"l"  # created_at, id -> visibility, secrecy
    IDEMPOTENCY = b"i"  # digest -> kept answer
    IDEMPOTENCY_BY_EXPIRY = b"x"  # expires_at, digest -> nothing
    # of the system namespace
    HEAD = b"h"  # -> head row
    AUDIT_OUTBOX = b"a"  # first sequence of a commit -> its audit lines
    FEED = b"f"  # commit sequence -> ids whose searchable content changed
    FEED_FLOOR = b"g"  # -> the commit sequence up to which the feed was dropped
    COUNTERS = b"n"  # namespace -> counters row
    PROBE = b"p"  # -> time of the last probe write


def key(table: Table, *parts: bytes, namespace: int = DEFAULT_NAMESPACE) -> bytes:
    start = _DEFAULT_PREFIX if namespace == DEFAULT_NAMESPACE else namespace.to_bytes(4, "big")
    return start + table._value_ + b"".join(parts)  # `value` would cost as much as all the rest


def system_key(table: Table, *parts: bytes) -> bytes:
    return key(table, *parts, namespace=SYSTEM_NAMESPACE)


def counters_key(namespace: int = DEFAULT_NAMESPACE) -> bytes:
    """Counters stand among the system's rows: what every commit rewrites shares a page."""
    return system_key(Table.COUNTERS, namespace.to_bytes(4, "big"))


def after(prefix: bytes) -> bytes:
    """The first key behind all keys that start with `prefix` (which isn't all 0xFF)."""
    bare = prefix.rstrip(b"\xff")
    return bare[:-1] + bytes([bare[-1] + 1])


def pack_time(at: int) -> bytes:
    """A signed 64-bit time in 8 bytes that sort by it."""
    return (at + 2**63).to_bytes(8, "big")


def unpack_time(packed: bytes) -> int:
    return int.from_bytes(packed, "big") - 2**63


def pack_sequence(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")


def unpack_sequence(packed: bytes) -> int:
    return int.from_bytes(packed, "big")


def digest(text: str) -> bytes:
    """The 16 bytes that stand for a caller's text in keys."""
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def trailing_id(full_key: bytes) -> RecordId:
    return RecordId(full_key[-ID_BYTES:])
