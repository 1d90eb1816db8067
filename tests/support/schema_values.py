"""Values that a schema allows, for hypothesis: small ones, with everything optional sometimes missing.

Model: the schemas that `json_schema` validates. A value is built from `$ref`, `type`, `properties`, `items`,
`enum`, `const`, `anyOf`, `pattern` and `format: date-time`; what else a schema asks for is left to the validator,
which drops the few values that don't fit.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from tests.support.json_schema import Schema, Validator

_ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


def _rfc3339(moment: datetime, nanos: int, offset_minutes: int) -> str:
    shown = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes))).isoformat(timespec="seconds")
    return f"{shown[:19]}.{nanos:09d}{shown[19:]}" if nanos else shown


_TIMES = st.builds(
    _rfc3339,
    st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),
    st.integers(0, 999_999_999),
    st.integers(-23 * 60, 23 * 60),
)


def values(schema: Schema, validator: Validator) -> st.SearchStrategy[Any]:
    """Values that `validator` finds nothing wrong with."""
    if schema.keys() <= {"$ref", "description", "default"} and "$ref" in schema:
        return values(validator.resolved(schema["$ref"]), validator)
    return _built(schema, validator).filter(lambda value: not validator.faults(schema, value))


def _built(schema: Schema, validator: Validator) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return values(validator.resolved(schema["$ref"]), validator)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "properties" in schema:
        branches = [_object(schema, branch, validator) for branch in schema.get("anyOf", [{}])]
        return st.one_of(branches)
    if "anyOf" in schema:
        return st.one_of([values(part, validator) for part in schema["anyOf"]])
    return _plain(schema, validator)


def _object(schema: Schema, branch: Schema, validator: Validator) -> st.SearchStrategy[dict[str, Any]]:
    required = {*schema.get("required", ()), *branch.get("required", ())}
    drawn = {name: values(part, validator) for name, part in schema["properties"].items()}
    for name, narrower in branch.get("properties", {}).items():
        drawn[name] = st.just(narrower["const"]) if "const" in narrower else _of(drawn[name], narrower, validator)
    optional = {name: value for name, value in drawn.items() if name not in required}
    return st.fixed_dictionaries({name: drawn[name] for name in sorted(required)}, optional=optional)


def _of(drawn: st.SearchStrategy[Any], narrower: Schema, validator: Validator) -> st.SearchStrategy[Any]:
    return drawn.filter(lambda value: not validator.faults(narrower, value))


def _plain(schema: Schema, validator: Validator) -> st.SearchStrategy[Any]:
    match schema.get("type"):
        case "array":
            return st.lists(values(schema["items"], validator), min_size=schema.get("minItems", 0), max_size=2)
        case "string":
            return _text(schema)
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "object":
            return st.dictionaries(st.text(max_size=3), _ANY_JSON, max_size=2)
    return _ANY_JSON


def _text(schema: Schema) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        return _TIMES
    if "pattern" in schema:
        return st.from_regex(schema["pattern"].replace("$", r"\Z"))
    return st.text(min_size=schema.get("minLength", 0), max_size=4)
