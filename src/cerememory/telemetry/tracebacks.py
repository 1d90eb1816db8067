"""Tracebacks for logs: where it happened and what kind of error it was, but no value that the program worked on.

An exception's message quotes what it is about: a key of some metadata, the text that is no number. So it is left
out, as local variables are, but for exceptions whose messages are the system's or our own and hold no memories.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO, TypeAlias

from cerememory.errors import Invalid

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

TELLING_PACKAGES = ("cerememory", "lmdb", "trio")
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"
_INDENT = "  | "


def traceback_of(error: BaseException) -> str:
    """As Python prints it, without messages that may quote a memory, and with every character visible."""
    return _printable("".join(_parts(error, set())))


def exc_info_text(exc_info: ExcInfo) -> str:
    """`traceback_of` as structlog asks for it."""
    return traceback_of(exc_info[1])


def write_exc_info(stream: TextIO, exc_info: ExcInfo) -> None:
    stream.write("\n" + traceback_of(exc_info[1]))


def _parts(error: BaseException, shown: set[int]) -> Iterator[str]:
    """What led to `error` first. An exception that leads to itself is shown once."""
    shown.add(id(error))
    before, words = _before(error)
    if before is not None and id(before) not in shown:
        yield from _parts(before, shown)
        yield words
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{_name(error)}{_said(error)}\n"
    yield from (f"{note}\n" for note in getattr(error, "__notes__", ()))
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _indented("".join(_parts(inner, shown)))


def _before(error: BaseException) -> tuple[BaseException | None, str]:
    if error.__cause__ is not None:
        return error.__cause__, _CAUSE
    return (None if error.__suppress_context__ else error.__context__), _CONTEXT


def _name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _said(error: BaseException) -> str:
    package = type(error).__module__.partition(".")[0]
    is_telling = isinstance(error, OSError) or package in TELLING_PACKAGES
    return f": {error}" if is_telling and not isinstance(error, Invalid) else ""


def _indented(text: str) -> Iterator[str]:
    return (_INDENT + line for line in text.splitlines(keepends=True))


def _printable(text: str) -> str:
    """`text` that neither steers a terminal nor hides anything; line feeds stay."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
