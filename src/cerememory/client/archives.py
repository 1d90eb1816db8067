"""Archives over HTTP as their callers have them: what is said of one, and its bytes as they come and go."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

PIECE_BYTES = 262_144


class BinaryReader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class BinaryWriter(Protocol):
    def write(self, data: bytes, /) -> object: ...


class AsyncBinaryReader(Protocol):
    async def read(self, size: int, /) -> bytes: ...


class AsyncBinaryWriter(Protocol):
    async def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class ArchiveHead:
    """What is said of an archive before it comes: `size_bytes` is how many bytes will."""

    archive_id: str
    record_count: int
    checksum: str
    size_bytes: int

    def described(self) -> dict[str, Any]:
        """The answer to an export, but for the archive itself."""
        return {
            "archive_id": self.archive_id,
            "size_bytes": self.size_bytes,
            "record_count": self.record_count,
            "checksum": self.checksum,
        }


@dataclass(frozen=True, slots=True)
class ArchiveStream(ArchiveHead):
    """An archive that comes; `chunks` give `size_bytes` in all, or raise `DaemonUnreachable`."""

    chunks: Iterator[bytes]

    def copy_to(self, file: BinaryWriter) -> None:
        """`file` has the whole archive when this returns, and a part of it when it raises."""
        for chunk in self.chunks:
            file.write(chunk)


@dataclass(frozen=True, slots=True)
class AsyncArchiveStream(ArchiveHead):
    """An archive that comes; `chunks` give `size_bytes` in all, or raise `DaemonUnreachable`."""

    chunks: AsyncIterator[bytes]

    async def copy_to(self, file: AsyncBinaryWriter) -> None:
        """As of `ArchiveStream`; `file` is what `anyio.open_file` opens."""
        async for chunk in self.chunks:
            await file.write(chunk)


class AsyncChunks:
    """What `next_chunk` returns until that is empty.

    No generator: one that isn't read to its end needs closing, and this has nothing to close.
    """

    def __init__(self, next_chunk: Callable[[], Awaitable[bytes]]) -> None:
        self._next_chunk = next_chunk
        self._is_at_end = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._is_at_end and (chunk := await self._next_chunk()):
            return chunk
        self._is_at_end = True  # what comes next on the connection is another's
        raise StopAsyncIteration


@asynccontextmanager
async def async_pieces_of(
    source: AsyncIterable[bytes] | AsyncBinaryReader,
) -> AsyncIterator[AsyncIterator[bytes]]:
    """A file gives its bytes, not its lines. A generator is closed, read to its end or not: nobody else will."""
    read: Callable[[int], Awaitable[bytes]] | None = getattr(source, "read", None)
    if read is not None:
        yield AsyncChunks(partial(read, PIECE_BYTES))
        return
    pieces = aiter(cast(AsyncIterable[bytes], source))
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


def pieces_of(source: Iterable[bytes] | BinaryReader) -> Iterable[bytes]:
    """A file gives its bytes, not its lines."""
    read: Callable[[int], bytes] | None = getattr(source, "read", None)
    return cast(Iterable[bytes], source) if read is None else iter(partial(read, PIECE_BYTES), b"")
