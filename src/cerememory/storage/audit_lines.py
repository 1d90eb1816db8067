"""The lines of one file of the audit log, as they lie there: whole ones, and what is left at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cerememory.domain.audit_chain import LINE_BYTES_READ_MAX, parse_line
from cerememory.errors import ValidationFailed

READ_BUFFER_BYTES = 1_048_576


class LineReader:
    """The whole lines of the file at `path`, each with its newline; afterwards, in `torn`, what is left of it.

    It is opened at once, so that it stays the same file when that gets another name. No file reads as an empty
    one. A line over `LINE_BYTES_READ_MAX` counts as torn. `seen` is called with each line when the next one, or
    the end, is asked for: it was accepted. Raises `OSError`.
    """

    def __init__(self, path: Path, seen: Callable[[bytes], object] | None = None) -> None:
        self.path = path
        self.size_bytes = 0
        self.torn = b""
        self._seen = seen
        self._file: BinaryIO | None
        try:
            self._file = path.open("rb", buffering=READ_BUFFER_BYTES)
        except FileNotFoundError:
            self._file = None

    @property
    def exists(self) -> bool:
        return self._file is not None

    def first_sequence(self) -> int | None:
        """That of the first line; None when there is no whole one, or it is no entry. Nothing is read past it."""
        if self._file is None:
            return None
        line = self._file.readline(LINE_BYTES_READ_MAX)
        self._file.seek(0)
        try:
            return parse_line(line).sequence if line.endswith(b"\n") else None
        except ValidationFailed:
            return None

    def __iter__(self) -> Iterator[bytes]:
        """Once."""
        while self._file is not None and (line := self._file.readline(LINE_BYTES_READ_MAX)):
            if not line.endswith(b"\n"):
                self.torn = line
                return
            self.size_bytes += len(line)
            yield line
            if self._seen is not None:
                self._seen(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def lines_of(path: Path) -> Iterator[bytes]:
    """The whole lines of the file at `path`."""
    with LineReader(path) as reader:
        yield from reader
