"""The two ends of the pipe to an MCP client: lines in, whole lines out.

Output goes straight to the file descriptor. A buffered stream would have its lock held by whichever thread is
stuck in a full pipe, and Python aborts at exit when it can't take that lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, TypeAlias

LINE_BYTES_MAX = 65 * 1_048_576  # the daemon's 64 MiB body, and the message round it
_PART_BYTES = 1_048_576

Waiting: TypeAlias = Callable[[], AbstractContextManager[None]]


class LineTooLong(Exception):
    """A line over the bound; it was read to its end and dropped."""


def read_lines(
    stream: BinaryIO, size_bytes_max: int, waiting: Waiting = nullcontext
) -> Iterator[bytes | LineTooLong]:
    """Each line up to the end of `stream`, read in a block of `waiting`, or a `LineTooLong` in its place."""
    while line := _read_line(stream, size_bytes_max, waiting):
        yield line


def _read_line(stream: BinaryIO, size_bytes_max: int, waiting: Waiting) -> bytes | LineTooLong:
    """Empty at the end."""
    with waiting():
        line = stream.readline(size_bytes_max + 1)
        if len(line) <= size_bytes_max or line.endswith(b"\n"):
            return line
        _drop_rest_of_line(stream)
        return LineTooLong(f"a message may have {size_bytes_max} bytes")


def _drop_rest_of_line(stream: BinaryIO) -> None:
    while (part := stream.readline(_PART_BYTES)) and not part.endswith(b"\n"):
        pass


class Output:
    """Writes lines to a file descriptor, one at a time, from any thread, each in a block of `waiting`.

    When the reader has gone, `on_gone` is called, once, and whatever else is written is dropped; so it is behind a
    line that was broken off.
    """

    def __init__(self, descriptor: int, on_gone: Callable[[], None], waiting: Waiting = nullcontext) -> None:
        self._descriptor = descriptor
        self._on_gone = on_gone
        self._waiting = waiting
        self._lock = threading.Lock()
        self._is_gone = False

    def write(self, message: bytes) -> None:
        """`message` and a line feed, whole."""
        with self._waiting(), self._lock:
            if self._is_gone or self._written(message + b"\n"):
                return
        self._on_gone()

    def _written(self, line: bytes) -> bool:
        """False when the reader has gone."""
        rest = memoryview(line)
        self._is_gone = True  # unless all of it is written
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            return False
        self._is_gone = False
        return True
