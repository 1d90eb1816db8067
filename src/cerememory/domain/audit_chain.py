"""The audit log's format: the exact bytes of a line, and the check of a chain of lines.

Owns how an entry becomes a line and what makes a sequence of lines unbroken. Leaves to others which entries
are written (engine), where lines are kept (storage) and the tree over them that clients compare.

A line is one compact JSON object, UTF-8, with the keys of `AuditEntry` in their order and a newline at its
end, which is part of the line everywhere here. `entry_hash` is the SHA-256 of the same object without it:
what is hashed is a prefix of the line, closed by a brace. `prev_hash` repeats the hash of the line before, so
a change anywhere shows in every later hash. The format is that of the reference implementation's audit log,
version 1; both verify each other's lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from cerememory.errors import AuditBroken, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import Wire
from cerememory.protocol.values import RecordId, Timestamp

FORMAT_VERSION = 1
GENESIS = "0" * 64
RECORD_IDS_MAX = 1_000  # as many as one encode.batch has, so only bulk maintenance is ever capped
LINE_BYTES_MAX = 65_536  # 1,000 ids (39,000 bytes), their stores (up to 13,000) and a summary
LINE_BYTES_READ_MAX = 67_108_864  # the reference names every id of a decay tick: 1.7 million fit
SUMMARY_DEPTH_MAX = 16
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1  # beyond it other readers turn an integer into a float

_TAIL_BYTES = len(b',"entry_hash":""}\n') + len(GENESIS)


class AuditDraft(msgspec.Struct, frozen=True):
    """An entry before it has its place in the chain.

    `summary` holds integers of 64 bits, booleans, strings, record ids, nulls and objects of these, never
    memory content. Anything else, or more than `RECORD_IDS_MAX` ids, raises `TypeError` or `ValueError` here,
    naming the field: later it would fail the others of its commit, too.
    """

    timestamp_ns: int
    operation: str
    record_ids: tuple[RecordId, ...]
    store_types: tuple[str, ...]
    summary: dict[str, Any]

    def __post_init__(self) -> None:
        if len(self.record_ids) > RECORD_IDS_MAX:
            raise ValueError(f"record_ids: {len(self.record_ids)}, at most {RECORD_IDS_MAX} are named")
        _check_summary(self.summary, "summary", SUMMARY_DEPTH_MAX)


class AuditContent(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `entry_hash` covers, in the order of the line."""

    version: int
    sequence: int
    timestamp: Timestamp
    operation: str
    record_ids: tuple[RecordId, ...]
    store_types: tuple[str, ...]
    summary: dict[str, Any]
    prev_hash: str


class AuditEntry(AuditContent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the log."""

    entry_hash: str


class ChainHead(NamedTuple):
    """The end of a chain: its last sequence (0 for none) and that entry's hash (64 hex, lower case)."""

    sequence: int
    entry_hash: str


START = ChainHead(0, GENESIS)


class Line(NamedTuple):
    """`data` ends with a newline."""

    sequence: int
    data: bytes
    entry_hash: str

    @property
    def head(self) -> ChainHead:
        return ChainHead(self.sequence, self.entry_hash)


class Verified(NamedTuple):
    """What a chain of `entries` lines ends with."""

    entries: int
    last_sequence: int
    head_hash: str

    @property
    def head(self) -> ChainHead:
        return ChainHead(self.last_sequence, self.head_hash)


class BoundedIds(NamedTuple):
    """The ids that an entry may name, and what its summary says when they aren't all."""

    record_ids: tuple[RecordId, ...]
    summary: dict[str, int | str]


# Sorts the keys of dicts at every depth, but not a struct's; prints ids and times by `str`; escapes what the
# reference escapes: quote, backslash and control characters.
_CANONICAL = msgspec.json.Encoder(order="deterministic", enc_hook=str)


def chain_line(draft: AuditDraft, sequence: int, prev_hash: str) -> Line:
    """The line of `draft` as entry `sequence` (from 1) after the entry with `prev_hash`.

    Raises `ValueError` for a line over `LINE_BYTES_MAX`, and for text that UTF-8 can't hold.
    """
    content = _CANONICAL.encode(
        AuditContent(
            version=FORMAT_VERSION,
            sequence=sequence,
            timestamp=Timestamp(draft.timestamp_ns),
            operation=draft.operation,
            record_ids=draft.record_ids,
            store_types=draft.store_types,
            summary=draft.summary,
            prev_hash=prev_hash,
        )
    )
    entry_hash = sha256(content).hexdigest()
    data = content[:-1] + _tail(entry_hash)
    if len(data) > LINE_BYTES_MAX:
        raise ValueError(f"{draft.operation}: a line of {len(data)} bytes, at most {LINE_BYTES_MAX} allowed")
    return Line(sequence, data, entry_hash)


def bounded_ids(record_ids: Sequence[RecordId]) -> BoundedIds:
    """The first `RECORD_IDS_MAX` ids; when there are more, their count and digest for the summary.

    `record_ids_digest` is the SHA-256 (hex) of all ids, 16 bytes each, in ascending order: whoever has the
    set can check it. `store_types` is the caller's to shorten.
    """
    if len(record_ids) <= RECORD_IDS_MAX:
        return BoundedIds(tuple(record_ids), {})
    digest = sha256(b"".join(sorted(record_ids))).hexdigest()
    summary: dict[str, int | str] = {"record_ids_total": len(record_ids), "record_ids_digest": digest}
    return BoundedIds(tuple(record_ids[:RECORD_IDS_MAX]), summary)


def parse_line(line: bytes) -> AuditEntry:
    """The entry of `line`, its types checked and nothing else, or `ValidationFailed` naming the field."""
    return codec.parse(line, AuditEntry, "entry")


def verify_lines(lines: Iterable[bytes], start: ChainHead = START) -> Verified:
    """The state of the chain after `lines`, which follow `start`.

    Each line must be the one way to print its entry (keys, their order, spacing, timestamp) and link to the
    line before. Raises `AuditBroken` with the number of the first line that doesn't (from 1) and the reason.
    """
    head, number = start, 0
    for number, line in enumerate(lines, 1):
        head = _check_line(line, number, head)
    return Verified(number, head.sequence, head.entry_hash)


def follow_lines(lines: Iterable[bytes], start: ChainHead = START) -> Iterator[Line]:
    """Each of `lines` with its place in the chain; nothing is parsed: five times as fast as `verify_lines`.

    Enough when the last hash is known from elsewhere: then the bytes are those that were written. Raises
    `AuditBroken` as `verify_lines` does.
    """
    head = start
    for number, data in enumerate(lines, 1):
        head = _link(data, head) or _check_line(data, number, head)
        yield Line(head.sequence, data, head.entry_hash)


def _check_line(line: bytes, number: int, previous: ChainHead) -> ChainHead:
    try:
        return _check_entry(line, previous)
    except (ValueError, ValidationFailed) as error:
        raise AuditBroken(f"line {number}: {error}", details={"line": number}) from None


def _check_entry(line: bytes, previous: ChainHead) -> ChainHead:
    """The head after `line`; `ValueError` or `ValidationFailed` say why there is none."""
    if not line.strip():
        raise ValueError("is blank")
    entry = parse_line(line)
    if entry.version != FORMAT_VERSION:
        raise ValueError(f"version {entry.version}, expected {FORMAT_VERSION}")
    if entry.sequence != previous.sequence + 1:
        raise ValueError(f"sequence {entry.sequence}, expected {previous.sequence + 1}")
    if entry.prev_hash != previous.entry_hash:
        raise ValueError("prev_hash is not the entry_hash of the entry before")
    if _CANONICAL.encode(entry) + b"\n" != line:
        raise ValueError("is not in the format's one form (key order, spacing, timestamp, ids, newline)")
    head = _link(line, previous)
    if head is None:
        raise ValueError("entry_hash is not the hash of the entry")
    return head


def _link(line: bytes, previous: ChainHead) -> ChainHead | None:
    """The head after `line` when its ends and its hash are right."""
    sequence = previous.sequence + 1
    content = line[:-_TAIL_BYTES]
    if not line.startswith(b'{"version":%d,"sequence":%d,' % (FORMAT_VERSION, sequence)):
        return None
    if not content.endswith(b',"prev_hash":"%b"' % previous.entry_hash.encode()):
        return None
    entry_hash = sha256(content + b"}").hexdigest()
    return ChainHead(sequence, entry_hash) if line.endswith(_tail(entry_hash)) else None


def _tail(entry_hash: str) -> bytes:
    return b',"entry_hash":"%b"}\n' % entry_hash.encode()


def _check_summary(value: dict[str, Any], where: str, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"{where}: more than {SUMMARY_DEPTH_MAX} levels deep")
    for key, item in value.items():
        if type(key) is not str:
            raise TypeError(f"{where}: a key of type {type(key).__name__}, expected str")
        if isinstance(item, dict):
            _check_summary(item, f"{where}.{key}", depth - 1)
        elif not isinstance(item, (int, str, RecordId, type(None))):
            raise TypeError(f"{where}.{key}: {type(item).__name__}, which languages don't print alike")
        elif isinstance(item, int) and not INTEGER_MIN <= item <= INTEGER_MAX:
            raise ValueError(f"{where}.{key}: beyond 64 bits")
