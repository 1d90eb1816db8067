"""What was done to a log that doesn't verify: a name for it, from the lines round the first wrong one.

The check itself is `audit_chain`'s, and doesn't depend on this: a log is broken whatever it is called. Somebody
who makes hashes anew can make one thing look like another; a name is what the lines look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import islice

from cerememory.domain.audit_chain import START, AuditEntry, ChainHead, follow_lines, parse_line
from cerememory.errors import AuditBroken, ValidationFailed


class Tampering(StrEnum):
    EDITED = "edited"
    DELETED = "deleted"
    REORDERED = "reordered"
    INSERTED = "inserted"
    DUPLICATED = "duplicated"
    BLANK = "blank line"
    GAP = "sequence gap"
    CUT = "cut off"
    CUT_OR_OLDER = "cut off, or replaced by an older copy"
    OLDER = "replaced by an older copy"
    REBUILT = "rebuilt chain"


def diagnose(read: Callable[[], Iterable[bytes]], number: int, start: ChainHead = START) -> Tampering:
    """Of a log whose lines `read()` gives anew, whose line `number`, from 1, is the first bad one.

    `start` is what its first line has to follow.
    """
    skipped, due = max(number - 2, 0), start.sequence + number
    around = list(islice(read(), skipped, number + 1))
    before, [line, *rest] = around[: number - 1 - skipped], around[number - 1 - skipped :] or [b""]
    previous = _entry(before[-1]) if before else None
    head = start if previous is None else ChainHead(due - 1, previous.entry_hash)
    if not line.strip():
        return Tampering.BLANK
    entry = _entry(line)
    if line in before or (entry is not None and _is_at(read, entry.sequence - start.sequence, number, line)):
        return Tampering.DUPLICATED
    is_intact = entry is not None and _is_intact(line, entry)
    if entry is not None and is_intact and entry.sequence > due and _comes_later(read, number, entry.prev_hash):
        return Tampering.REORDERED
    if rest and _follows(rest[0], head):
        return Tampering.INSERTED
    if entry is None:
        return Tampering.EDITED
    is_linked, is_in_order = entry.prev_hash == head.entry_hash, entry.sequence == due
    if is_linked and not is_in_order:
        return Tampering.GAP
    if not is_intact:
        return Tampering.EDITED
    if is_in_order:
        return Tampering.REBUILT
    return Tampering.DELETED if entry.sequence > due else Tampering.INSERTED


def diagnose_other(line: bytes, following: bytes, held: bytes) -> Tampering:
    """Where a good line isn't the one that is `held` elsewhere; `following` is the next one, empty at the end."""
    if following == held:
        return Tampering.INSERTED
    entry = parse_line(line)
    goes_on = not following or _follows(following, ChainHead(entry.sequence, entry.entry_hash))
    return Tampering.REBUILT if goes_on else Tampering.EDITED


def _entry(line: bytes) -> AuditEntry | None:
    try:
        return parse_line(line)
    except ValidationFailed:
        return None


def _follows(line: bytes, head: ChainHead) -> bool:
    entry = _entry(line)
    return entry is not None and (entry.sequence, entry.prev_hash) == (head.sequence + 1, head.entry_hash)


def _is_intact(line: bytes, entry: AuditEntry) -> bool:
    """Whether it is a good line, if not in this place."""
    try:
        return any(follow_lines([line], ChainHead(entry.sequence - 1, entry.prev_hash)))
    except AuditBroken:
        return False


def _is_at(read: Callable[[], Iterable[bytes]], own: int, number: int, line: bytes) -> bool:
    """Whether `line`, which is in place `number`, is the one in its `own` place before, too."""
    return 0 < own < number and next(islice(read(), own - 1, None)) == line


def _comes_later(read: Callable[[], Iterable[bytes]], number: int, entry_hash: str) -> bool:
    """Whether the entry with this hash is behind place `number`."""
    end = b'"entry_hash":"%b"}\n' % entry_hash.encode()
    return any(line.endswith(end) for line in islice(read(), number, None))
