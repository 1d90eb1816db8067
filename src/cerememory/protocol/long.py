"""Answers that take long to write: what makes one long, and how it is written in pieces.

A piece is one memory, or what stands around the memories: none of them holds the interpreter for long, so that
whoever writes one in a thread leaves others their turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from cerememory.protocol import codec

T = TypeVar("T")

MIB = 1_048_576
ANSWER_BYTES_MAX = 64 * MIB  # of JSON with byte arrays: about what the memories of one answer may take
LONG_BYTES = MIB  # of them, in an answer that is long


class Long(tuple[T, ...]):
    """The list of a long answer."""

    __slots__ = ()


def listed(values: Iterable[T], *, is_long: bool) -> tuple[T, ...]:
    return Long(values) if is_long else tuple(values)


def is_long(reply: object) -> bool:
    return isinstance(reply, msgspec.Struct) and Long in map(type, msgspec.structs.astuple(reply))


def dump(reply: object) -> bytes:
    """What `codec.dump` makes of it."""
    return b"".join(_parts(reply, codec.dump))


def dump_with_base64(reply: object) -> bytes:
    """What `codec.with_base64` makes of it."""
    return b"".join(_parts(reply, lambda value: codec.with_base64(codec.dump(value))))


def _parts(value: object, write: Callable[[object], bytes]) -> Iterator[bytes]:
    if isinstance(value, Long):
        yield b"["
        for i, item in enumerate(value):
            yield b"," if i else b""
            yield from _parts(item, write)
        yield b"]"
    elif isinstance(value, msgspec.Struct) and is_long(value):
        yield b"{"
        for i, (name, member) in enumerate(_fields(value)):
            yield b'%b"%b":' % (b"," if i else b"", name.encode())
            yield from _parts(member, write)
        yield b"}"
    else:
        yield write(value)


def _fields(value: msgspec.Struct) -> list[tuple[str, Any]]:
    """Those that are written."""
    named = [(name, getattr(value, name)) for name in value.__struct_fields__]
    return [(name, member) for name, member in named if member is not msgspec.UNSET]
