"""JSON Schemas of the wire types, made from the structs that parse requests and build answers.

A struct becomes a component, once for each `Side` on which it looks different: in a request what has a default
may be missing, in an answer every key is there, and an answer may have its bytes as base64. Everything comes
from `msgspec.inspect`, but for what a type doesn't say: `HELD`, the types behind the JSON that answers join
without parsing it, and `NARROWED`, what `protocol.limits` checks after parsing. (`msgspec.json.schema` knows
neither sides nor raw JSON with a default.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from cerememory.errors import ANSWERS
from cerememory.http.descriptions import FIELDS, TYPES
from cerememory.protocol import codec
from cerememory.protocol.limits import (
    BLOCKS_MAX,
    CALLER_ID_BYTES_MAX,
    FLOAT32_MAX,
    FORECASTS_MAX,
    OWN_METADATA,
)
from cerememory.protocol.records import STORES, MemoryContent, MemoryRecord, MetaMemory, RawJournalRecord
from cerememory.protocol.requests import (
    ASSOCIATE_DEPTH_MAX,
    ASSOCIATE_LIMIT_MAX,
    BATCH_RECORDS_MAX,
    EXPORT_FORMATS,
    SCOPE_METADATA_MAX,
    SCOPE_TAGS_MAX,
)
from cerememory.protocol.values import ByteArray, RecordId, Timestamp

Schema = dict[str, Any]
Row = TypeVar("Row")

_HEX_ID = "(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"
_URN = "(?:[uU][rR][nN]:[uU][uU][iI][dD]:)?"
_UUID = rf"^{_URN}(?:{_HEX_ID}|\{{{_HEX_ID}\}})$"
_NIL_UUID = rf"^{_URN}\{{?[0-]+\}}?$"
_RFC3339 = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


class Side(Enum):
    """Where a type is spoken; the value ends the names of the components that only this side has."""

    ANSWER = ""
    REQUEST = "Input"
    BASE64 = "Base64"


HELD: dict[str, Any] = {
    "RecalledMemory.record": MemoryRecord,
    "RecalledMemory.rendered_content": MemoryContent,
    "RawRecalled.records": tuple[RawJournalRecord, ...],
    "GraphNode.meta": MetaMemory | None,
    "MemoryRecord.created_at": Timestamp,  # null, as below, stands in archives alone
    "MemoryRecord.updated_at": Timestamp,
    "MemoryRecord.last_accessed_at": Timestamp,
    "RawJournalRecord.created_at": Timestamp,
    "RawJournalRecord.updated_at": Timestamp,
}
_FLOAT32S = {"minItems": 1, "items": {"type": "number", "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX}}
_CALLER_ID = {"maxLength": CALLER_ID_BYTES_MAX}
_HAS_OWN = {"anyOf": [{"type": "object", "required": [name]} for name in sorted(OWN_METADATA)]}
NARROWED: dict[str, Schema] = {
    "BlockInput.data_b64": {"contentEncoding": "base64", "pattern": _BASE64},
    "BlockInput.embedding": _FLOAT32S,
    "ContentInput.blocks": {"minItems": 1, "maxItems": BLOCKS_MAX},
    "DecayForecast.record_ids": {"maxItems": FORECASTS_MAX},
    "EncodeBatch.records": {"maxItems": BATCH_RECORDS_MAX},
    "EncodeContext.session_id": _CALLER_ID,
    "EncodeStoreRaw.session_id": {"pattern": r"\S", **_CALLER_ID},
    "EncodeStoreRaw.topic_id": _CALLER_ID,
    "EncodeStoreRaw.turn_id": _CALLER_ID,
    "ErrorBody.code": {"enum": sorted({answer.code for answer in ANSWERS.values()})},
    "Export.format": {"enum": list(EXPORT_FORMATS)},
    "Header.protocol": {"const": "cmp"},
    "Header.version": {"pattern": r"^1(?:\.|$)"},
    "MetaEdge.target_id": {"not": {"pattern": _NIL_UUID}},
    "RecallAssociate.depth": {"maximum": ASSOCIATE_DEPTH_MAX},
    "RecallAssociate.limit": {"maximum": ASSOCIATE_LIMIT_MAX},
    "RecallCue.audio": {"minItems": 1},
    "RecallCue.embedding": _FLOAT32S,
    "RecallCue.image": {"minItems": 1},
    "RecallScope.metadata": {"maxProperties": SCOPE_METADATA_MAX, "not": _HAS_OWN},
    "RecallScope.session_id": _CALLER_ID,
    "RecallScope.source": _CALLER_ID,
    "RecallScope.tags": {"maxItems": SCOPE_TAGS_MAX, "items": {"type": "string", **_CALLER_ID}},
    "Stats.records_by_store": {"required": list(STORES)},
}


_NULL: Schema = {"type": "null"}  # or left out


def _given(name: str, kind: str, without: str | None = None, **others: Schema) -> Schema:
    """An object that has `name`, and not as null; `without` it may have as null alone."""
    left_out = {} if without is None else {without: _NULL}
    return {"required": [name, *others], "properties": {name: {"type": kind}, **others, **left_out}}


NARROWED_TYPES: dict[str, Schema] = {
    "BlockInput": {
        "anyOf": [
            _given("data", "array"),
            _given("data_b64", "string", without="text"),
            _given("text", "string", without="data_b64", modality={"const": "text"}),
        ]
    },
    "Export": {
        "anyOf": [
            {"properties": {"encrypt": {"const": False}}},
            {"required": ["encryption_key"], "properties": {"encryption_key": {"type": "string", "minLength": 1}}},
        ]
    },
}

VALUES: dict[type, Schema] = {
    RecordId: {"type": "string", "format": "uuid", "pattern": _UUID},
    Timestamp: {"type": "string", "format": "date-time", "pattern": _RFC3339},
    ByteArray: {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
}
_BASE64_BYTES: Schema = {"type": "string", "contentEncoding": "base64", "pattern": _BASE64}


class Schemas:
    """Makes schemas, and keeps in `components` what they refer to, which is to stand at `place` in the document.

    `answers` are all types of answers; `types` and `fields` say in words what types and fields mean.
    """

    def __init__(
        self,
        answers: Iterable[Any],
        *,
        place: str = "#/components/schemas",
        types: Mapping[str, str] = TYPES,
        fields: Mapping[str, str] = FIELDS,
    ) -> None:
        self.components: dict[str, Schema] = {}
        self._place = place
        self._types_told, self._fields_told = types, fields
        self._answered = {
            part.cls for kind in answers for part in _within(_info(kind)) if isinstance(part, inspect.StructType)
        }

    def of(self, kind: Any, side: Side) -> Schema:
        """The schema of a type as `side` speaks it; a reference when the type has a name."""
        return self._of(_info(kind), side)

    def properties(self, kind: type[Any], side: Side) -> dict[str, Schema]:
        """The schema of each field of a struct: type, bounds, meaning, and its default in requests."""
        return {field.name: self._field(kind, field, part, side) for field, part in _fields(kind)}

    def _of(self, kind: inspect.Type, side: Side) -> Schema:
        match kind:
            case inspect.StructType() | inspect.EnumType() | inspect.CustomType():
                return self._component(kind, side)
            case inspect.UnionType(types=types):
                return {"anyOf": [self._of(part, side) for part in types]}
            case inspect.VarTupleType(item_type=item):
                return {"type": "array", "items": self._of(item, side)}
            case inspect.DictType(key_type=inspect.EnumType(cls=names), value_type=value):
                named = {name.value: self._of(value, side) for name in names}
                return {"type": "object", "properties": named, "additionalProperties": False}
            case inspect.DictType(value_type=value):
                return {"type": "object", "additionalProperties": self._of(value, side)}
            case _:
                return _plain(kind)

    def _component(self, kind: _Named, side: Side) -> Schema:
        name = self._name(kind, side)
        if name not in self.components:
            made = self._struct(kind, side) if isinstance(kind, inspect.StructType) else _value(kind, side)
            described = self._types_told.get(kind.cls.__name__)
            self.components[name] = {**made, **({"description": described} if described else {})}
        return {"$ref": f"{self._place}/{name}"}

    def _name(self, kind: _Named, side: Side) -> str:
        apart = kind.cls in self._answered if side is Side.REQUEST else holds_bytes(kind.cls)
        return kind.cls.__name__ + (side.value if apart else "")

    def _struct(self, kind: inspect.StructType, side: Side) -> Schema:
        required = [field.name for field, _ in _fields(kind.cls) if _is_required(kind.cls, field, side)]
        return {
            "type": "object",
            "properties": self.properties(kind.cls, side),
            **({"required": required} if required else {}),
            **({"additionalProperties": False} if kind.cls.__struct_config__.forbid_unknown_fields else {}),
            **NARROWED_TYPES.get(kind.cls.__name__, {}),
        }

    def _field(self, owner: type[Any], field: inspect.Field, part: inspect.Type, side: Side) -> Schema:
        found = self._of(part, side) | (_row(NARROWED, owner, field.name) or {})
        if described := _row(self._fields_told, owner, field.name) or self._fields_told.get(field.name):
            found["description"] = described
        if side is Side.REQUEST and field.default not in (None, msgspec.NODEFAULT):
            found["default"] = json.loads(codec.dump(field.default))
        return found


_Named = inspect.StructType | inspect.EnumType | inspect.CustomType


@cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def holds_bytes(kind: Any) -> bool:
    """Whether a `ByteArray` is somewhere in a type: such an answer may be had in base64."""
    return any(isinstance(part, inspect.CustomType) and part.cls is ByteArray for part in _within(_info(kind)))


def _within(kind: inspect.Type) -> Iterator[inspect.Type]:
    """`kind` and all types inside it."""
    yield kind
    for part in _parts(kind):
        yield from _within(part)


def _parts(kind: inspect.Type) -> Iterable[inspect.Type]:
    match kind:
        case inspect.StructType(cls=cls):
            return [part for _, part in _fields(cls)]
        case inspect.UnionType(types=types):
            return types
        case inspect.VarTupleType(item_type=part) | inspect.DictType(value_type=part):
            return [part]
    return []


def _fields(kind: Any) -> Iterator[tuple[inspect.Field, inspect.Type]]:
    """The fields of a struct, each with its type: behind raw JSON, that of what is held."""
    info = _info(kind)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        held = _row(HELD, kind, field.name)
        yield field, field.type if held is None else _info(held)


def _row(table: Mapping[str, Row], owner: type[Any], field: str) -> Row | None:
    """The row of `Struct.field`, for the struct itself or the nearest of its bases that has one."""
    for base in owner.__mro__:
        if f"{base.__name__}.{field}" in table:
            return table[f"{base.__name__}.{field}"]
    return None


def _is_required(owner: type[Any], field: inspect.Field, side: Side) -> bool:
    if field.required or side is Side.REQUEST:
        return field.required
    may_be_unset = field.default is msgspec.NODEFAULT  # optional without a default: msgspec.UNSET
    return not (may_be_unset or owner.__struct_config__.omit_defaults)


def _value(kind: inspect.EnumType | inspect.CustomType, side: Side) -> Schema:
    if isinstance(kind, inspect.EnumType):
        return {"type": "string", "enum": [name.value for name in kind.cls]}
    return _BASE64_BYTES if side is Side.BASE64 and kind.cls is ByteArray else VALUES[kind.cls]


def _plain(kind: inspect.Type) -> Schema:
    match kind:
        case inspect.IntType(ge=least, le=most):
            return {"type": "integer", **_range(least, most)}
        case inspect.FloatType(ge=least, le=most):
            return {"type": "number", **_range(least, most)}
        case inspect.StrType():
            return {"type": "string"}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.NoneType():
            return {"type": "null"}
        case inspect.LiteralType(values=values):
            return {"enum": list(values)}
        case inspect.RawType() | inspect.AnyType():
            return {}  # any JSON
    raise TypeError(f"no schema for {kind}")


def _range(least: float | None, most: float | None) -> Schema:
    return {name: bound for name, bound in (("minimum", least), ("maximum", most)) if bound is not None}
