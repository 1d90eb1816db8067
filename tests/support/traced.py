"""What a process asks of the kernel, in order: traced by strace, parsed, and judged.

A call starts at one place of the trace and ends at a later one. strace stops a thread at both, so whatever one
call's end makes happen in another thread starts behind it: the order of the trace is that of cause and effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

META_PAGES_END = 8_192  # a write below it, to an LMDB file, is that of a meta page
WRITES = frozenset({"pwrite64", "pwritev", "write", "writev"})
SYNCS = frozenset({"fdatasync", "fsync"})
SENDS = frozenset({"sendto", "write"})  # through a socket
CALLS = ("openat", *sorted(SENDS | WRITES | SYNCS))

_STARTED = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(r"(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<rest>.*)")
_RESULT = re.compile(r"\) += (?P<result>-?\d+)(?:<(?P<path>[^>]*)>)?[^=]*$")
_FD = re.compile(r"(?P<fd>\d+)<(?P<path>[^>]*)>")
_OFFSET = re.compile(r", (?P<offset>\d+)$")
_RECORD_ID = re.compile(r"record_id\\\":\\\"(?P<id>[0-9a-f-]{36})")
_UNFINISHED = " <unfinished ...>"


def tracer(trace: Path) -> list[str]:
    """The command that becomes the one whose words are appended to it, while strace watches from beside it."""
    watched = ",".join(CALLS)
    return ["strace", "-D", "-f", "-q", "-y", "--seccomp-bpf", "-s", "1000000", "-e", f"trace={watched}",
            "-e", "signal=none", "-o", str(trace)]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """`start` and `end` are places in the trace; `fd` and `path` are those that it is about."""

    name: str
    fd: int
    path: str
    arguments: str
    result: int
    start: int
    end: int

    @property
    def offset(self) -> int:
        """Of a positioned write; -1 when there is none."""
        found = _OFFSET.search(self.arguments)
        return int(found["offset"]) if found else -1


def parse_trace(lines: Iterable[str]) -> Iterator[Call]:
    """The calls that ended, in the order of their ends."""
    open_calls: dict[str, tuple[int, str, str]] = {}
    for place, line in enumerate(lines):
        line = line.rstrip("\n")
        if resumed := _RESUMED.match(line):
            if resumed["pid"] in open_calls:
                start, name, begun = open_calls.pop(resumed["pid"])
                yield from _call(name, begun + resumed["rest"], start, place)
        elif started := _STARTED.match(line):
            if started["rest"].endswith(_UNFINISHED):
                begun = started["rest"].removesuffix(_UNFINISHED)
                open_calls[started["pid"]] = (place, started["name"], begun)
            else:
                yield from _call(started["name"], started["rest"], place, place)


def _call(name: str, text: str, start: int, end: int) -> Iterator[Call]:
    ended = _RESULT.search(text)
    if ended is None:
        return
    arguments, result = text[: ended.start()], int(ended["result"])
    if name == "openat":
        yield Call(name, result, ended["path"] or "", arguments, result, start, end)
    elif about := _FD.match(arguments):
        yield Call(name, int(about["fd"]), about["path"], arguments, result, start, end)


@dataclass(frozen=True, slots=True)
class Seen:
    """A record id in the bytes of a call."""

    record_id: str
    call: Call


class SyncOrder:
    """Judges a trace of the daemon: did everything that tells of a record come after its transaction?

    The transaction of a record is found by its id, which stands in an audit line within it: the first write of
    pages with the id, the first sync of the store that starts behind that, the first synchronous write of a meta
    page that starts behind the sync. Whoever is told of the record must be told behind the end of that write.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        store = [call for call in calls if call.path.endswith("/data.mdb")]
        self._pages = [call for call in store if call.name in WRITES and call.result > 0]
        self._syncs = [call for call in store if call.name in SYNCS and call.result == 0]
        self._metas = list(_synchronous_meta_writes(store))
        self.answers = list(_answers(calls))
        self.audit_lines = [
            Seen(found["id"], call)
            for call in calls
            if call.name in WRITES and call.path.endswith("/audit.jsonl")
            for found in _RECORD_ID.finditer(call.arguments)
        ]

    def violations(self, told: Iterable[Seen]) -> list[str]:
        """For each of `told` that came too early, why."""
        return [f"{seen.record_id}: {reason}" for seen in told if (reason := self._too_early(seen))]

    def _too_early(self, seen: Seen) -> str:
        pages = next((call for call in self._pages if seen.record_id in call.arguments), None)
        if pages is None or pages.end > seen.call.start:
            return "told before its pages were written"
        sync = _first_behind(pages, self._syncs)
        if sync is None or sync.end > seen.call.start:
            return "told before its pages were synced"
        meta = _first_behind(sync, self._metas)
        if meta is None or meta.end > seen.call.start:
            return "told before its meta page was written and synced"
        return ""


def _first_behind(call: Call, others: Iterable[Call]) -> Call | None:
    return next((other for other in others if other.start > call.end), None)


def _synchronous_meta_writes(store: Iterable[Call]) -> Iterator[Call]:
    """Through a descriptor whose writes return when they are on the disk."""
    synchronous: set[int] = set()
    for call in store:
        if call.name == "openat":
            (synchronous.add if "O_DSYNC" in call.arguments else synchronous.discard)(call.fd)
        elif call.name in WRITES and call.fd in synchronous and 0 <= call.offset < META_PAGES_END:
            yield call


def _answers(calls: Iterable[Call]) -> Iterator[Seen]:
    """Each id that an answer tells of, with the call that sent the answer's first byte."""
    begun: dict[str, Call] = {}
    for call in calls:
        if call.name not in SENDS or not call.path.startswith("socket:"):
            continue
        if '"HTTP/1.1 ' in call.arguments:
            begun[call.path] = call
        for found in _RECORD_ID.finditer(call.arguments):
            yield Seen(found["id"], begun[call.path])
