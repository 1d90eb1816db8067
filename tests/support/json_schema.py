"""A validator for the part of JSON Schema (draft 2020-12) that our documents use.

Model: the keywords of `KEYWORDS`, with `$ref` into the same document only; `ANNOTATIONS` among them say nothing
about validity (as the draft has it for `format`). Any other keyword is an error of the schema, so none is passed
over in silence. Patterns are searched, in Python's dialect. `2.0` is no integer here, as for our parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Schema = dict[str, Any]
ANNOTATIONS = frozenset({"description", "default", "format", "contentEncoding", "example"})
_NUMBER = (int, float)
_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": _NUMBER,
    "boolean": bool,
    "null": type(None),
}


class UnknownKeyword(Exception):
    pass


class Validator:
    """Validates against schemas of one `document`."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def faults(self, schema: Schema, value: Any, where: str = "$") -> list[str]:
        """What is wrong with `value`, each with its place; empty when it is valid."""
        return list(self._faults(schema, value, where))

    def resolved(self, reference: str) -> Schema:
        """What `#/a/b` refers to; `KeyError` when there is nothing."""
        start, *steps = reference.split("/")
        assert start == "#", reference
        found: Any = self._document
        for step in steps:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        return found  # type: ignore[no-any-return]

    def _faults(self, schema: Schema, value: Any, where: str) -> Iterator[str]:
        for keyword, argument in schema.items():
            if keyword in ANNOTATIONS:
                continue
            if keyword == "$ref":
                yield from self._faults(self.resolved(argument), value, where)
            elif keyword in _APPLIES:
                yield from _APPLIES[keyword](self, argument, schema, value, where)
            elif keyword in _CHECKS:
                kind, holds = _CHECKS[keyword]
                if _is(value, kind) and not holds(value, argument):
                    yield f"{where}: {keyword} {argument!r}, got {value!r:.80}"
            else:
                raise UnknownKeyword(f"{keyword} at {where}")

    def _properties(self, argument: Any, schema: Schema, value: Any, where: str) -> Iterator[str]:
        if isinstance(value, dict):
            for name in argument.keys() & value.keys():
                yield from self._faults(argument[name], value[name], f"{where}.{name}")

    def _additional(self, argument: Any, schema: Schema, value: Any, where: str) -> Iterator[str]:
        for name in value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else ():
            if argument is False:
                yield f"{where}.{name}: not allowed"
            else:
                yield from self._faults(argument, value[name], f"{where}.{name}")

    def _items(self, argument: Any, schema: Schema, value: Any, where: str) -> Iterator[str]:
        for i, item in enumerate(value if isinstance(value, list) else ()):
            yield from self._faults(argument, item, f"{where}[{i}]")

    def _all(self, argument: Any, schema: Schema, value: Any, where: str) -> Iterator[str]:
        for part in argument:
            yield from self._faults(part, value, where)

    def _any(self, argument: Any, schema: Schema, value: Any, where: str) -> Iterator[str]:
        tried = [self.faults(part, value, where) for part in argument]
        if all(tried):
            yield f"{where}: none of {len(argument)} schemas, first: {tried[0][0]}"

    def _not(self, argument: Any, schema: Schema, value: Any, where: str) -> Iterator[str]:
        if not self.faults(argument, value, where):
            yield f"{where}: must not be {value!r:.80}"


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind in (object, bool) or not isinstance(value, bool))


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: `true` is not 1."""
    return type(one) is type(other) and one == other


_APPLIES: dict[str, Callable[[Validator, Any, Schema, Any, str], Iterator[str]]] = {
    "properties": Validator._properties,
    "additionalProperties": Validator._additional,
    "items": Validator._items,
    "allOf": Validator._all,
    "anyOf": Validator._any,
    "not": Validator._not,
}
_CHECKS: dict[str, tuple[Any, Callable[[Any, Any], bool]]] = {
    "type": (object, lambda value, name: _is(value, _TYPES[name])),
    "enum": (object, lambda value, choices: any(same(value, choice) for choice in choices)),
    "const": (object, same),
    "required": (dict, lambda value, names: set(names) <= value.keys()),
    "maxProperties": (dict, lambda value, most: len(value) <= most),
    "minItems": (list, lambda value, least: len(value) >= least),
    "maxItems": (list, lambda value, most: len(value) <= most),
    "minimum": (_NUMBER, lambda value, least: value >= least),
    "maximum": (_NUMBER, lambda value, most: value <= most),
    "minLength": (str, lambda value, least: len(value) >= least),
    "maxLength": (str, lambda value, most: len(value) <= most),
    "pattern": (str, lambda value, pattern: re.search(pattern.replace("$", r"\Z"), value) is not None),
}
KEYWORDS = ANNOTATIONS | _APPLIES.keys() | _CHECKS.keys() | {"$ref"}
