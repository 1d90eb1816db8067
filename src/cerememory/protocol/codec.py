"""The one JSON codec of the project: bytes to typed requests, typed answers to bytes.

`parse` turns whatever the parser dislikes (syntax, encoding, depth, types, ranges) into `ValidationFailed`
with the field's path in front: `content.blocks[0].data: expected array of bytes, got string`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from cerememory.errors import ValidationFailed
from cerememory.protocol.values import (
    ByteArray,
    RecordId,
    Timestamp,
    format_id,
    format_timestamp,
    parse_id,
    parse_timestamp,
)

T = TypeVar("T")

REASON_CHARS_MAX = 128  # a reason may quote what came, not all of it

PIECE_BYTES = 262_144  # of a byte array that are read at once

# In what `dump` makes: no text has these in it, for there a quotation mark has a backslash before it.
_METADATA = b'"metadata":'
_BYTES_OR_METADATA = re.compile(
    rb'"metadata":|"modality":"[a-z]+","format":"(?:[^"\\]++|\\.)*+","data":\[|"archive_data":\['
)
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[][{}]')
_STEPS = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}

_WHERE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_EXPECTED = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_RANGE = re.compile(r"Expected `(\w+)` (.+)")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_ENUM = re.compile(r"Invalid enum value (.+)")
_JSON_NAMES = {"str": "string", "dict": "object", "list": "array", "bool": "boolean", "NoneType": "null"}


def parse(body: bytes, kind: type[T], where: str = "") -> T:
    """`body` as a `kind`, or `ValidationFailed` naming the field (below `where`, when given)."""
    return _decode(_decoder(kind), body, where)  # type: ignore[arg-type, no-any-return]


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, where: str) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ValidationFailed(_explain(str(error), where)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ValidationFailed(f"{where or 'body'}: not readable as JSON: {_syntax(error)}") from None


def dump(value: object) -> bytes:
    """Compact JSON; ids and times in their text form, bytes as arrays."""
    return _ENCODER.encode(value)


def plain(value: object) -> Any:
    """What `dump` writes, as Python's own dicts, lists, strings and numbers."""
    return msgspec.json.decode(dump(value))


def with_base64(dumped: bytes) -> bytes:
    """What `dump` made, with the byte arrays of its content blocks and archives as base64 strings.

    Only these are bytes: what callers keep in metadata stays as it is.
    """
    parts: list[bytes] = []
    array = encoded = b""
    done = at = 0
    while (found := _BYTES_OR_METADATA.search(dumped, at)) is not None:
        start = at = found.end()
        if found[0] == _METADATA:
            at = _end_of_metadata(dumped, start)
            continue
        end = dumped.index(b"]", start)
        if array != (array := dumped[start:end]):  # a memory has its content twice, and mostly the same one
            encoded = base64.b64encode(_bytes_of(array))
        parts += (dumped[done : start - 1], b'"', encoded, b'"')
        done = at = end + 1
    return b"".join([*parts, dumped[done:]])


def _end_of_metadata(dumped: bytes, start: int) -> int:
    """Where an array or object that begins there ends; a scalar has nothing in it to be found."""
    if dumped[start : start + 1] not in (b"[", b"{"):
        return start
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(dumped, start):
        depth += _STEPS.get(found[0], 0)
        if depth == 0:
            return found.end()
    return len(dumped)


def _bytes_of(array: bytes) -> bytes:
    """The bytes of a JSON array without its brackets: in pieces, for each is a number of its own meanwhile."""
    made = bytearray()
    start = 0
    while start < len(array):
        end = array.find(b",", start + PIECE_BYTES)
        piece = array[start:] if end < 0 else array[start:end]
        made += bytes(_INTEGERS.decode(b"[%b]" % piece))
        start += len(piece) + 1
    return bytes(made)


def compact(raw: bytes, where: str) -> msgspec.Raw:
    """`raw` JSON without insignificant white space; refused when it isn't valid JSON with valid text."""
    _decode(_UNTYPED, raw, where)  # nothing has looked into a raw value yet, nor does `format` into strings
    return msgspec.Raw(msgspec.json.format(raw, indent=-1))


@lru_cache(maxsize=128)
def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, dec_hook=_read_value)


def _read_value(kind: type[Any], value: Any) -> Any:
    return _READERS[kind](value)


def _read_text(name: str, read: Callable[[str], Any]) -> Callable[[Any], Any]:
    def reader(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"expected {name}, got {json_type(value)}")
        return read(value)

    return reader


def _read_bytes(value: Any) -> ByteArray:
    if not isinstance(value, list):
        raise ValueError(f"expected array of bytes, got {json_type(value)}")
    try:
        return ByteArray(msgspec.convert(value, list[int]))  # `bytes` alone takes true for 1
    except (msgspec.ValidationError, ValueError):
        raise ValueError("expected array of bytes, got an item that is no integer from 0 to 255") from None


_READERS: dict[type[Any], Callable[[Any], Any]] = {
    RecordId: _read_text("UUID string", parse_id),
    Timestamp: _read_text("RFC 3339 string", parse_timestamp),
    ByteArray: _read_bytes,
}


def json_type(value: object) -> str:
    """The JSON name of a decoded value's type."""
    name = type(value).__name__
    return {**_JSON_NAMES, "int": "integer", "float": "number"}.get(name, name)


def _write_value(value: object) -> object:
    if isinstance(value, ByteArray):
        return msgspec.Raw(msgspec.json.encode(list(value)))
    if isinstance(value, RecordId):
        return format_id(value)
    if isinstance(value, Timestamp):
        return format_timestamp(value)
    raise TypeError(f"no writer for {type(value)}")


_ENCODER = msgspec.json.Encoder(enc_hook=_write_value)
_UNTYPED = msgspec.json.Decoder()
_INTEGERS = msgspec.json.Decoder(list[int])


def _syntax(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "invalid UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return _lower(str(error).removeprefix("JSON is malformed: "))


def _explain(message: str, where: str) -> str:
    """msgspec's `… - at `$.a[0].b`` as `a[0].b: …`, with JSON's type names."""
    match = _WHERE.search(message)
    path, reason = (match[1], message[: match.start()]) if match else ("", message)
    if missing := _MISSING.fullmatch(reason):
        return f"{_join(where, path, missing[1])}: missing field"
    if unknown := _UNKNOWN.fullmatch(reason):
        return f"{_join(where, path, unknown[1][:REASON_CHARS_MAX])}: unknown field"
    return f"{_join(where, path) or 'body'}: {_reason(reason)[:REASON_CHARS_MAX]}"


def _join(*parts: str) -> str:
    joined = ""
    for part in filter(None, parts):
        joined += part if part.startswith("[") or not joined else f".{part}"
    return joined


def _reason(reason: str) -> str:
    if match := _EXPECTED.fullmatch(reason):
        return f"expected {_types(match[1])}, got {_types(match[2])}"
    if match := _RANGE.fullmatch(reason):
        return f"expected {_types(match[1])} {match[2]}"
    if match := _ENUM.fullmatch(reason):
        return f"unknown name {match[1]}"
    return _lower(reason)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _types(names: str) -> str:
    """`str | null` as `string or null`; msgspec's names for numbers are `int` and `float`."""
    words = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
    return " or ".join(words.get(name, name) for name in names.split(" | "))
