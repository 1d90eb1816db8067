"""Everything that can be done to an audit log, by its name: what it is called, how, and on which line it shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256

from cerememory.domain.audit_chain import START, AuditDraft, ChainHead, chain_line, verify_lines
from cerememory.domain.audit_diagnosis import Tampering


def log_of(count: int, mode: str = "perfect", after: ChainHead = START) -> list[bytes]:
    lines, head = [], after
    for n in range(count):
        draft = AuditDraft(n, "lifecycle.set_mode", (), (), {"mode": mode, "n": n})
        line = chain_line(draft, head.sequence + 1, head.entry_hash)
        head = line.head
        lines.append(line.data)
    return lines


Lines = list[bytes]


def head_of(lines: Sequence[bytes]) -> ChainHead:
    return verify_lines(lines).head


def edited(lines: Lines, i: int) -> Lines:
    return [*lines[:i], lines[i].replace(b"perfect", b"human"), *lines[i + 1 :]]


def hashed_anew(line: bytes) -> bytes:
    """A line whose hash is right, whatever stands in it."""
    entry = json.loads(line)
    del entry["entry_hash"]
    content = json.dumps(entry, separators=(",", ":")).encode()
    return content[:-1] + b',"entry_hash":"%b"}\n' % sha256(content).hexdigest().encode()


def inserted_and_linked(lines: Lines, i: int) -> Lines:
    """A whole entry in front of line `i`, from 0, that follows the one before."""
    return [*lines[:i], *log_of(1, "human", head_of(lines[:i])), *lines[i:]]


def gap(lines: Lines, i: int) -> Lines:
    """Entry `i` and all behind it counted one on, and the whole chain made anew."""
    made, previous = list(lines[:i]), head_of(lines[:i]).entry_hash
    for line in lines[i:]:
        entry = json.loads(line)
        made.append(
            hashed_anew(json.dumps({**entry, "sequence": entry["sequence"] + 1, "prev_hash": previous}).encode())
        )
        previous = json.loads(made[-1])["entry_hash"]
    return made


DONE: dict[str, tuple[Tampering, Callable[[Lines, int], Lines], int]] = {
    "a field edited": (Tampering.EDITED, edited, 0),
    "a line made unreadable": (Tampering.EDITED, lambda lines, i: [*lines[:i], b"{\n", *lines[i + 1 :]], 0),
    "a field edited and hashed anew": (  # then the next line is the first that says so
        Tampering.REBUILT,
        lambda lines, i: [*lines[:i], hashed_anew(edited(lines, i)[i]), *lines[i + 1 :]],
        1,
    ),
    "a line deleted": (Tampering.DELETED, lambda lines, i: [*lines[:i], *lines[i + 1 :]], 0),
    "two lines deleted": (Tampering.DELETED, lambda lines, i: [*lines[:i], *lines[i + 2 :]], 0),
    "two lines exchanged": (
        Tampering.REORDERED,
        lambda lines, i: [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]],
        0,
    ),
    "a line moved on": (Tampering.REORDERED, lambda lines, i: [*lines[:i], *lines[i + 1 :], lines[i]], 0),
    "a foreign line inserted": (
        Tampering.INSERTED,
        lambda lines, i: [*lines[:i], log_of(1, "human", ChainHead(i, "f" * 64))[0], *lines[i:]],
        0,
    ),
    "a line that follows inserted": (Tampering.INSERTED, inserted_and_linked, 1),
    "a line doubled": (Tampering.DUPLICATED, lambda lines, i: [*lines[: i + 1], *lines[i:]], 1),
    "an earlier line repeated": (Tampering.DUPLICATED, lambda lines, i: [*lines[:i], lines[0], *lines[i:]], 0),
    "a blank line": (Tampering.BLANK, lambda lines, i: [*lines[:i], b"\n", *lines[i:]], 0),
    "spaces": (Tampering.BLANK, lambda lines, i: [*lines[:i], b"  \n", *lines[i:]], 0),
    "a number left out": (Tampering.GAP, gap, 0),
    "a number changed": (
        Tampering.GAP,
        lambda lines, i: [
            *lines[:i],
            lines[i].replace(b'"sequence":%d' % (i + 1), b'"sequence":%d' % (i + 78)),
            *lines[i + 1 :],
        ],
        0,
    ),
}
