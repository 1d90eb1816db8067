"""The two ends of the pipe to an MCP client: lines in, whole lines out.

Output goes straight to the file descriptor. A buffered stream would have its lock held by whichever thread is
stuck in a full pipe, and Python aborts at exit when it can't take that lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

LINE_BYTES_MAX = 65 * 1_048_576  # the daemon's 64 MiB body, and the message round it
_PART_BYTES = 1_048_576


class LineTooLong(Exception):
    """A line over the bound; it was read to its end and dropped."""


def read_lines(stream: BinaryIO, size_bytes_max: int) -> Iterator[bytes | LineTooLong]:
    """Each line up to the end of `stream`, or a `LineTooLong` in its place."""
    while line := stream.readline(size_bytes_max + 1):
        if len(line) <= size_bytes_max or line.endswith(b"\n"):
            yield line
        else:
            _drop_rest_of_line(stream)
            yield LineTooLong(f"a message may have {size_bytes_max} bytes")


def _drop_rest_of_line(stream: BinaryIO) -> None:
    while (part := stream.readline(_PART_BYTES)) and not part.endswith(b"\n"):
        pass


class Output:
    """Writes lines to a file descriptor, one at a time, from any thread.

    When the reader has gone, `on_gone` is called, once, and whatever else is written is dropped.
    """

    def __init__(self, descriptor: int, on_gone: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_gone = on_gone
        self._lock = threading.Lock()
        self._is_gone = False

    def write(self, message: bytes) -> None:
        """`message` and a line feed, whole."""
        with self._lock:
            if self._is_gone:
                return
            try:
                self._write_all(message + b"\n")
                return
            except OSError:
                self._is_gone = True
        self._on_gone()

    def _write_all(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
