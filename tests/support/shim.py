"""Makes the system calls of another process fail, at the test's word, or kills it there, or writes them down: the
Python side of `shim.c`.

    shim = Shim(tmp_path, library)
    with Daemon(data_dir, env=shim.environment()) as daemon:
        rule = shim.fail(SYNC, "store/data.mdb", errno.EIO)
        ...                                    # what the daemon does now
        shim.heal()

Fault model. A call that fails does nothing and sets `errno`; a kill (SIGKILL) comes before the call has done
anything, after it has done all, or after half of a write; a torn write puts half of its bytes into the file and
says so, as a disk does that gets full. What is recorded is what the process asked for, in order. Faults are
chosen by kind of call, by a part of the path (of the file descriptor, or the target of a rename), by the offset of
a positioned write, and by count. What a program does without a system call of glibc isn't reached:
writes through a memory map, reads, and the renames of tantivy, which calls the kernel by itself. A failed sync
leaves the data in the page cache, where later reads find it, as on Linux. Nothing is ever lost or damaged.

The rules lie in a file that both sides have mapped, so that a running process fails, and is healed, at once.
"""

from __future__ import annotations

import mmap
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.programs import missing, require

SOURCE = Path(__file__).with_name("shim.c")
VARIABLE = "CEREMEMORY_TEST_SHIM"
RECORD_VARIABLE = "CEREMEMORY_TEST_SHIM_RECORD"
RULES_MAX = 8
ALWAYS = 2**62

WRITE, SYNC, RENAME, TRUNCATE, OPEN, STATFS, UNLINK = 1, 2, 4, 8, 16, 32, 64
CHANGES = WRITE | SYNC | RENAME | TRUNCATE | UNLINK  # all that change files
META_PAGES = 8_192  # the two pages at the start of an LMDB file: a write there makes a transaction count

Moment = Literal["before", "within", "after"]

_FAIL, _KILL, _TEAR, _KILL_WITHIN, _KILL_AFTER, _RECORD = range(6)
_KILLS: dict[Moment, int] = {"before": _KILL, "within": _KILL_WITHIN, "after": _KILL_AFTER}
_NO_HEADER = re.compile(r"fatal error: (\S+): No such file")
_RULE = struct.Struct("<4i5q200s")
_ARMED = struct.Struct("<i")
_COUNTS = struct.Struct("<2q")
_COUNTS_AT = struct.calcsize("<4i3q")
_RECORD_HEADER = struct.Struct("<4q")


def build_library(directory: Path) -> Path:
    """Compile the library into `directory`."""
    require("gcc")
    library = directory / "shim.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"]
    compiled = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if header := _NO_HEADER.search(compiled.stderr):
        missing(f"the C library's {header[1]}")
    assert compiled.returncode == 0, compiled.stderr
    return library


@dataclass(frozen=True, slots=True)
class Rule:
    """One armed fault: how often its call came by, and how often it was made to fail."""

    memory: mmap.mmap
    start: int

    def _counts(self) -> tuple[int, int]:
        matched, acted = _COUNTS.unpack_from(self.memory, self.start + _COUNTS_AT)
        return matched, acted

    @property
    def matched(self) -> int:
        return self._counts()[0]

    @property
    def acted(self) -> int:
        return self._counts()[1]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call as it was asked for: `data` are the bytes of a write, `offset` is where in the file, else -1.

    `path` is that of the rule. A write of several parts is one of each.
    """

    path: str
    call: int
    offset: int
    data: bytes


class Shim:
    """The rules of the processes that are started with `environment()`."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._library = library
        self._path = directory / "shim.rules"
        self._record_path = directory / "shim.record"
        self._record_path.touch()
        self._recording: dict[int, str] = {}
        self._path.write_bytes(bytes(RULES_MAX * _RULE.size))
        with self._path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._used = 0

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self._library),
            VARIABLE: str(self._path),
            RECORD_VARIABLE: str(self._record_path),
        }

    def fail(
        self, calls: int, path: str, error: int, *, first: int = 1, times: int = ALWAYS, below: int = 0
    ) -> Rule:
        """From the `first` match on, `times` times; `below`: only writes at an offset under it."""
        return self._arm(calls, _FAIL, error, first, times, below, path)

    def kill(self, calls: int, path: str, *, first: int = 1, below: int = 0, moment: Moment = "before") -> Rule:
        """End the process by SIGKILL at the `first` match."""
        return self._arm(calls, _KILLS[moment], 0, first, 1, below, path)

    def count(self, calls: int, path: str) -> Rule:
        """Count the matches, and do nothing."""
        return self._arm(calls, _FAIL, 0, ALWAYS, 0, 0, path)

    def record(self, calls: int, *paths: str) -> None:
        """Write down all calls that match one of `paths`, from now on, for `recorded`."""
        self._record_path.write_bytes(b"")
        self._recording = {self._used + i: path for i, path in enumerate(paths)}
        for path in paths:
            self._arm(calls, _RECORD, 0, 1, ALWAYS, 0, path)

    def recorded(self) -> Iterator[Recorded]:
        """What was written down, in order."""
        rest = memoryview(self._record_path.read_bytes())
        while rest:
            rule, call, offset, size = _RECORD_HEADER.unpack_from(rest)
            end = _RECORD_HEADER.size + size
            yield Recorded(self._recording[rule], call, offset, bytes(rest[_RECORD_HEADER.size : end]))
            rest = rest[end:]

    def tear(self, path: str, *, first: int = 1) -> Rule:
        """Let the `first` write put only half of its bytes into the file."""
        return self._arm(WRITE, _TEAR, 0, first, 1, 0, path)

    def heal(self) -> None:
        """Disarm all rules; their counts can be read until others are armed."""
        for index in range(RULES_MAX):
            _ARMED.pack_into(self._memory, index * _RULE.size, 0)
        self._used = 0

    def _arm(self, calls: int, action: int, error: int, first: int, times: int, below: int, path: str) -> Rule:
        assert self._used < RULES_MAX
        start = self._used * _RULE.size
        self._used += 1
        _RULE.pack_into(self._memory, start, 0, calls, action, error, first, times, below, 0, 0, path.encode())
        _ARMED.pack_into(self._memory, start, 1)  # last: the process may look at any moment
        return Rule(self._memory, start)
