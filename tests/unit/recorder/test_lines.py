"""Lines come whole, within a bound, and in time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.recorder.lines import LineReader, LineTooLong

MAX = 8


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


def all_of(reader: LineReader) -> list[bytes | None]:
    """Every line; None for one that was too long."""
    lines: list[bytes | None] = []
    while not reader.has_ended:
        line = reader.next(None)
        if line is not None:
            lines.append(None if isinstance(line, LineTooLong) else line)
    return lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\r\n\nb", [b"a", b"", b"b"]),
        (b"12345678\n123456789\nc\n", [b"12345678", None, b"c"]),
        (b"123456789", [None]),
        (b"x" * 200_000 + b"\nc", [None, b"c"]),
        (b"\n" * 3, [b"", b"", b""]),
    ],
)
def test_lines_of_a_file(tmp_path: Path, data: bytes, lines: list[bytes | None]) -> None:
    (tmp_path / "input").write_bytes(data)
    with (tmp_path / "input").open("rb") as file:
        assert all_of(LineReader(file.fileno(), MAX)) == lines


@given(st.lists(st.binary(max_size=12).filter(lambda part: b"\r" not in part), max_size=12))
def test_however_the_input_is_cut_up_its_lines_are_the_same(parts: list[bytes]) -> None:
    read, write = os.pipe()
    try:
        reader = LineReader(read, MAX)
        lines: list[bytes | LineTooLong] = []
        for part in filter(None, parts):
            os.write(write, part)
            while (line := reader.next(0)) is not None:
                lines.append(line)
        os.close(write)
        rest = all_of(reader)
    finally:
        os.close(read)
    found = [None if isinstance(line, LineTooLong) else line for line in lines] + rest
    expected = b"".join(parts).split(b"\n")
    expected = expected[:-1] if expected[-1] == b"" else expected
    assert found == [line if len(line) <= MAX else None for line in expected]


def test_it_waits_no_longer_than_it_is_told(pipe: tuple[int, int]) -> None:
    read, write = pipe
    reader = LineReader(read, MAX)
    assert reader.next(0) is None
    os.write(write, b"half")
    assert reader.next(None) is None
    assert not reader.has_ended
    os.write(write, b"\nmore")
    assert reader.next(None) == b"half"
    os.close(write)
    assert reader.next(None) == b"more"
    assert reader.has_ended


def test_a_long_line_takes_no_memory(pipe: tuple[int, int]) -> None:
    read, write = pipe
    reader = LineReader(read, MAX)
    for _ in range(100):
        os.write(write, b"x" * 1_000)
        assert reader.next(0) is None
        assert len(reader._rest) <= MAX
    os.close(write)
    assert isinstance(reader.next(None), LineTooLong)
