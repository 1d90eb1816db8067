"""Lines in, whole lines out."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator

import pytest

from cerememory.mcp.stdio import LineTooLong, Output, read_lines


def lines_of(text: bytes, size_bytes_max: int = 8) -> list[bytes | None]:
    """The lines, None for one that is too long."""
    found = read_lines(io.BytesIO(text), size_bytes_max)
    return [None if isinstance(line, LineTooLong) else line for line in found]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b"a\nb\n", [b"a\n", b"b\n"]),
        (b"a\n\nlast", [b"a\n", b"\n", b"last"]),
        (b"12345678\nb\n", [b"12345678\n", b"b\n"]),
        (b"123456789\nb\n", [None, b"b\n"]),
        (b"x" * 3_000_000 + b"\nb\n", [None, b"b\n"]),
        (b"x" * 100, [None]),
    ],
)
def test_a_line_over_the_bound_is_dropped_and_the_next_one_read(text: bytes, lines: list[bytes | None]) -> None:
    assert lines_of(text) == lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The descriptors to read and to write; a test may close the first."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)


def test_lines_of_many_threads_come_out_whole(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    output = Output(writing, on_gone=lambda: None)
    messages = [bytes([letter]) * 200_000 for letter in b"abcdef"]  # more than a pipe holds
    threads = [threading.Thread(target=output.write, args=(message,)) for message in messages]
    for thread in threads:
        thread.start()
    with open(reading, "rb") as stream:  # noqa: PTH123 - a descriptor
        read = [stream.readline() for _ in messages]
    for thread in threads:
        thread.join()
    assert sorted(read) == [message + b"\n" for message in messages]


def test_a_reader_that_has_gone_is_reported_once(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    reports: list[None] = []
    output = Output(writing, on_gone=lambda: reports.append(None))
    output.write(b"a")
    output.write(b"b")
    assert len(reports) == 1


def test_nothing_follows_a_line_that_was_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a signal, while nobody reads."""
    reading, writing = os.pipe()
    output = Output(writing, on_gone=lambda: None)
    write = os.write

    def broken_off(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:3])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cerememory.mcp.stdio.os.write", broken_off)
        with pytest.raises(KeyboardInterrupt):
            output.write(b"kettle")
    output.write(b"teapot")
    os.close(writing)
    assert os.read(reading, 100) == b"ket"
    os.close(reading)
