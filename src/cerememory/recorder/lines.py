"""Lines from a file descriptor, within a bound, by whoever has something else to do when none comes."""

from __future__ import annotations

import os
import select
from collections import deque

_PART_BYTES = 65_536


class LineTooLong(Exception):
    """Stands in the place of a line over the bound, which is read to its end and dropped."""


class LineReader:
    """The lines of `fd`, each without its end. The last one needn't have one."""

    def __init__(self, fd: int, line_bytes_max: int) -> None:
        self._fd = fd
        self._line_bytes_max = line_bytes_max
        self._lines: deque[bytes | LineTooLong] = deque()
        self._rest = bytearray()
        self._is_dropping = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._is_at_end = False

    @property
    def has_ended(self) -> bool:
        """Whether there is no further line."""
        return self._is_at_end and not self._lines

    def next(self, timeout_s: float | None) -> bytes | LineTooLong | None:
        """The next line, waiting up to `timeout_s` for input (None: any time); None when that brought no line."""
        if not self._lines and not self._is_at_end and self._is_there(timeout_s):
            self._take(os.read(self._fd, _PART_BYTES))
        return self._lines.popleft() if self._lines else None

    def _is_there(self, timeout_s: float | None) -> bool:
        return bool(self._poll.poll(None if timeout_s is None else timeout_s * 1_000))

    def _take(self, part: bytes) -> None:
        if not part:
            self._is_at_end = True
            if self._rest or self._is_dropping:
                self._end_line()
            return
        *ended, rest = part.split(b"\n")
        for piece in ended:
            self._add(piece)
            self._end_line()
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        if self._is_dropping:
            return
        self._rest += piece
        if len(self._rest) > self._line_bytes_max:
            self._rest.clear()
            self._is_dropping = True

    def _end_line(self) -> None:
        too_long = LineTooLong(f"longer than {self._line_bytes_max} bytes")
        self._lines.append(too_long if self._is_dropping else bytes(self._rest.removesuffix(b"\r")))
        self._rest.clear()
        self._is_dropping = False
