"""`cerememory load`: each line of a file as a memory.

A file whose first line is a JSON object is JSON Lines: {"text", "time", "speaker", "session"}, of which only the
text is needed. Any other file has one text a line; blank lines are passed over. Lines go to the daemon in batches
that are stored whole or not at all, so that what an error message says is loaded is exactly what is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from cerememory.cli.arguments import Common, FileOrStdin
from cerememory.cli.bodies import given, text_content
from cerememory.cli.memory import Memory, connect
from cerememory.cli.output import show
from cerememory.errors import CerememoryError, ValidationFailed
from cerememory.protocol import codec

BATCH_RECORDS = 200
BATCH_CHARS = 8 * 1_048_576  # at six bytes each, as JSON has the worst of them, below a request's 64 MiB
LINE_BYTES_MAX = 8 * 1_048_576  # a text may have 1 MiB, and JSON's escapes make it longer
STDIN = Path("-")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Entry(msgspec.Struct, frozen=True):
    """A line of JSON Lines; other keys are ignored."""

    text: str
    time: str | None = None
    speaker: str | None = None
    session: str | None = None

    def body(self) -> dict[str, Any]:
        """As the body of an encode.store."""
        context = given({"session_id": self.session, "source": self.speaker, "temporal": self.time})
        return given({"content": text_content(self.text), "context": context or None})


class Line(NamedTuple):
    """`where` says in which file and which line, for messages."""

    where: str
    data: bytes


Numbered = tuple[str, Entry]  # with `Line.where`


def load(file: FileOrStdin, /, *, options: Common) -> None:
    """Keep each line of a file as a memory.

    Args:
        file: One text a line, or JSON Lines of text, time, speaker and session; - is stdin.
    """
    with _opened(file) as stream, connect(options, creates=True) as memory:
        loaded = _load(memory, _entries(_lines(stream, str(file))))
    show({"records_loaded": loaded}, options, lambda answer: f"Loaded {answer['records_loaded']} records")


def _opened(file: Path) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if file == STDIN else file.open("rb")


def _load(memory: Memory, entries: Iterable[Numbered]) -> int:
    """How many were loaded; an error gets a note of it."""
    loaded = 0
    try:
        for batch in _batches(entries):
            _store(memory, batch)
            loaded += len(batch)
    except CerememoryError as error:
        error.add_note(f"{loaded} records were loaded before")
        raise
    return loaded


def _store(memory: Memory, batch: list[Numbered]) -> None:
    try:
        memory.call("encode.batch", {"records": [entry.body() for _where, entry in batch]})
    except CerememoryError as error:
        error.add_note(f"records[0] is {batch[0][0]}")
        raise


def _batches(entries: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    batch: list[Numbered] = []
    room = BATCH_CHARS
    for where, entry in entries:
        room -= len(entry.text)
        if batch and (len(batch) == BATCH_RECORDS or room < 0):
            yield batch
            batch, room = [], BATCH_CHARS - len(entry.text)
        batch.append((where, entry))
    if batch:
        yield batch


def _entries(lines: Iterator[Line]) -> Iterator[Numbered]:
    """The first line decides how all are read."""
    first = next(lines, None)
    if first is None:
        return
    read = _json_entry if _is_json_object(first.data) else _text_entry
    for line in chain([first], lines):
        yield line.where, read(line)


def _is_json_object(data: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(data), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _json_entry(line: Line) -> Entry:
    entry = codec.parse(line.data, Entry, line.where)
    if not entry.text.strip():
        raise ValidationFailed(f"{line.where}.text: must not be blank")
    return entry


def _text_entry(line: Line) -> Entry:
    try:
        return Entry(line.data.decode())
    except UnicodeDecodeError:
        raise ValidationFailed(f"{line.where}: text must be UTF-8") from None


def _lines(stream: BinaryIO, name: str) -> Iterator[Line]:
    """The lines that aren't blank, without their ends."""
    for number in count(1):
        data = stream.readline(LINE_BYTES_MAX + 1)
        if not data:
            return
        where = f"{name} line {number}"
        if len(data) > LINE_BYTES_MAX:
            raise ValidationFailed(f"{where}: longer than {LINE_BYTES_MAX} bytes")
        data = data.removeprefix(BYTE_ORDER_MARK).rstrip(b"\r\n")
        if data.decode(errors="replace").strip():
            yield Line(where, data)
