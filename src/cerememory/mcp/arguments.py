"""The arguments of MCP tools: what a parameter may be, as JSON Schema and as a reader.

One row, `Parameter`, serves both, so the schema that a client sees is what the reader enforces. Readers take
native JSON and, beside it, the string forms of clients written for the reference: a list as JSON text or
separated by commas, an object as JSON text. Each raises `ValidationFailed` naming the argument.

An argument that is null or, where it may be left out, an empty string counts as not given: models fill
optional strings so. Unknown arguments are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from cerememory.domain.emotions import EMOTIONS, emotion_of
from cerememory.errors import ValidationFailed
from cerememory.mcp.values import VALUES_MAX, too_many
from cerememory.protocol import codec, limits
from cerememory.protocol.records import EmotionVector
from cerememory.protocol.requests import BATCH_RECORDS_MAX, RecallScope
from cerememory.protocol.values import RecordId, Timestamp, parse_id, parse_timestamp

Schema: TypeAlias = dict[str, Any]
Arguments: TypeAlias = Mapping[str, Any]  # by name, every parameter there; None for "not given"
T = TypeVar("T")

COUNT_MAX = 2**32 - 1  # CMP's integers are unsigned, of 32 bits

_JSON_TYPES: dict[type[Any], str] = {list: "array", dict: "object"}


class Kind(Protocol):
    """What values a parameter takes."""

    def schema(self) -> Schema: ...

    def read(self, value: object, where: str) -> Any:
        """`value`, any decoded JSON but null, as it goes into a request; `where` is its path."""


class Parameter(msgspec.Struct, frozen=True):
    """`default` is the value itself, or a function of the moment of the call (not shown in the schema)."""

    name: str
    kind: Kind
    description: str = ""
    required: bool = False
    default: object | Callable[[Timestamp], object] = None

    def schema(self) -> Schema:
        schema = self.kind.schema()
        if self.description:
            schema["description"] = self.description
        if self.default is not None and not callable(self.default):
            schema["default"] = self.default
        return schema

    def read(self, value: object, now: Timestamp, where: str) -> Any:
        if value is None or (value == "" and self._may_be_empty()):
            if self.required:
                raise ValidationFailed(f"{where}: missing")
            return self.default(now) if callable(self.default) else self.default
        return self.kind.read(value, where)

    def _may_be_empty(self) -> bool:
        return not self.required and not isinstance(self.kind, FilledText)


def object_schema(parameters: tuple[Parameter, ...]) -> Schema:
    """JSON Schema of an object with these properties; others are allowed."""
    schema: Schema = {"type": "object", "properties": {p.name: p.schema() for p in parameters}}
    if required := [p.name for p in parameters if p.required]:
        schema["required"] = required
    return schema


def read_arguments(
    parameters: tuple[Parameter, ...], given: Mapping[str, object], now: Timestamp, where: str = ""
) -> dict[str, Any]:
    """Every parameter's value; `where` goes before its name in messages."""
    return {p.name: p.read(given.get(p.name), now, where + p.name) for p in parameters}


class Text(msgspec.Struct, frozen=True):
    def schema(self) -> Schema:
        return {"type": "string"}

    def read(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            raise _wrong_type("string", value, where)
        return value


class FilledText(msgspec.Struct, frozen=True):
    """Text that isn't blank."""

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}

    def read(self, value: object, where: str) -> str:
        text = Text().read(value, where)
        if not text.strip():
            raise ValidationFailed(f"{where}: must not be blank")
        return text


class Choice(msgspec.Struct, frozen=True):
    names: tuple[str, ...]

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.names)}

    def read(self, value: object, where: str) -> str:
        name = Text().read(value, where).strip()
        if name not in self.names:
            raise ValidationFailed(f"{where}: expected {' or '.join(self.names)}, got {name[:32]!r}")
        return name


class Choices(msgspec.Struct, frozen=True):
    """Some of the names, as an array or a comma list; none at all counts as not given."""

    names: tuple[str, ...]

    def schema(self) -> Schema:
        return {"type": "array", "items": Choice(self.names).schema()}

    def read(self, value: object, where: str) -> list[str] | None:
        choice = Choice(self.names)
        return [choice.read(v, f"{where}[{i}]") for i, v in enumerate(_read_list(value, where))] or None


class Flag(msgspec.Struct, frozen=True):
    def schema(self) -> Schema:
        return {"type": "boolean"}

    def read(self, value: object, where: str) -> bool:
        if not isinstance(value, bool):
            raise _wrong_type("boolean", value, where)
        return value


class Count(msgspec.Struct, frozen=True):
    """An integer; `is_cut` moves one out of range to the nearest end instead of refusing it."""

    least: int
    most: int = COUNT_MAX
    is_cut: bool = False

    def schema(self) -> Schema:
        schema = {"type": "integer", "minimum": self.least}
        return schema if self.most == COUNT_MAX else schema | {"maximum": self.most}

    def read(self, value: object, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_type("integer", value, where)
        nearest = max(self.least, min(self.most, value))
        if nearest != value and not self.is_cut:
            raise ValidationFailed(f"{where}: must be from {self.least} to {self.most}, got {value}")
        return nearest


class Id(msgspec.Struct, frozen=True):
    def schema(self) -> Schema:
        return {"type": "string", "format": "uuid"}

    def read(self, value: object, where: str) -> RecordId:
        return _read_scalar(parse_id, Text().read(value, where).strip(), where)


class Ids(msgspec.Struct, frozen=True):
    """Ids, as an array or a comma list; none at all counts as not given."""

    def schema(self) -> Schema:
        return {"type": "array", "items": Id().schema()}

    def read(self, value: object, where: str) -> list[RecordId] | None:
        return [Id().read(item, f"{where}[{i}]") for i, item in enumerate(_read_list(value, where))] or None


class Time(msgspec.Struct, frozen=True):
    def schema(self) -> Schema:
        return {"type": "string", "format": "date-time"}

    def read(self, value: object, where: str) -> Timestamp:
        return _read_scalar(parse_timestamp, Text().read(value, where).strip(), where)


class Emotion(msgspec.Struct, frozen=True):
    """A label, or an emotion vector as an object."""

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(EMOTIONS)}

    def read(self, value: object, where: str) -> EmotionVector:
        if isinstance(value, dict):
            return codec.parse(codec.dump(value), EmotionVector, where)
        return _read_scalar(emotion_of, Text().read(value, where), where)


class JsonObject(msgspec.Struct, frozen=True):
    """An object, or JSON text of one; what is in it is the daemon's to check."""

    def schema(self) -> Schema:
        return {"type": "object"}

    def read(self, value: object, where: str) -> dict[str, Any]:
        return _decoded(value, dict, where)


class Scope(msgspec.Struct, frozen=True):
    """What a recall is kept to: an object, or JSON text of one; an empty session or source counts as not given."""

    def schema(self) -> Schema:
        return {"type": "object"}

    def read(self, value: object, where: str) -> dict[str, Any] | None:
        given = {name: part for name, part in _decoded(value, dict, where).items() if not _is_left_out(name, part)}
        limits.check_scope(codec.parse(codec.dump(given), RecallScope, where))
        return given or None


def _is_left_out(name: str, part: object) -> bool:
    return part is None or (part == "" and name in ("session_id", "source"))


class Items(msgspec.Struct, frozen=True):
    """An array of objects, or JSON text of one; each object is read by `parameters`, without a clock."""

    parameters: tuple[Parameter, ...]

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "object"}, "maxItems": BATCH_RECORDS_MAX}

    def read(self, value: object, where: str) -> list[dict[str, Any]]:
        items = _decoded(value, list, where)
        if len(items) > BATCH_RECORDS_MAX:
            raise ValidationFailed(f"{where}: at most {BATCH_RECORDS_MAX} records at once, got {len(items)}")
        return [self._read_item(item, f"{where}[{i}]") for i, item in enumerate(items)]

    def _read_item(self, item: object, where: str) -> dict[str, Any]:
        if not isinstance(item, dict):
            raise _wrong_type("object", item, where)
        return read_arguments(self.parameters, item, Timestamp(0), f"{where}.")


def _read_list(value: object, where: str) -> list[object]:
    """An array, JSON text of one, or words between commas (blank ones dropped)."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [word for word in value.split(",") if word.strip()]
    return _decoded(value, list, where)


def _decoded(value: object, kind: type[T], where: str) -> T:
    """`value` itself, or what it holds as JSON text; a `kind` in both cases."""
    if isinstance(value, str):
        text = value.encode()
        if too_many(text):
            raise ValidationFailed(f"{where}: may have {VALUES_MAX} values")
        return codec.parse(text, kind, where)
    if not isinstance(value, kind):
        raise _wrong_type(_JSON_TYPES[kind], value, where)
    return value


def _read_scalar(parse: Callable[[str], T], text: str, where: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise ValidationFailed(f"{where}: {error}") from None


def _wrong_type(expected: str, value: object, where: str) -> ValidationFailed:
    return ValidationFailed(f"{where}: expected {expected}, got {codec.json_type(value)}")
