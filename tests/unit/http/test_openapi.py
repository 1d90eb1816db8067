"""The OpenAPI document against the routes, the parser, and what was recorded from the reference.

A schema is worth what it refuses: every recorded request and answer is also tried with each key missing and each
value of another type.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from cerememory.actors.engine import Engine
from cerememory.errors import (
    ANSWERS,
    CerememoryError,
    CompressionUnknown,
    DaemonBusy,
    DaemonUnreachable,
    DeadlinePassed,
    MessageTooLarge,
    NoRoute,
    NoService,
    StartRefused,
    WrongMethod,
)
from cerememory.http.described_errors import REASONS
from cerememory.http.described_services import SERVICES
from cerememory.http.descriptions import FIELDS, TYPES
from cerememory.http.examples import ANSWER_FILES, REQUEST_FILES, REQUESTS
from cerememory.http.openapi import document
from cerememory.http.routes import Route, Routes
from cerememory.http.rules import OPEN_ROUTES
from cerememory.http.schemas import HELD, NARROWED, NARROWED_TYPES
from cerememory.mcp.endpoint import Endpoint
from cerememory.mcp.versions import VERSIONS
from cerememory.protocol import codec, limits, records, replies, requests
from cerememory.protocol.operations import OPERATIONS, Operation
from cerememory.protocol.records import MemoryContent, MemoryRecord, RawJournalRecord
from cerememory.protocol.requests import (
    EncodeBatch,
    EncodeBatchRaw,
    EncodeStore,
    EncodeStoreRaw,
    EncodeUpdate,
    Export,
    RecallAssociate,
    RecallQuery,
)
from cerememory.protocol.values import RecordId
from cerememory.telemetry.metrics import Metrics
from tests.support.json_schema import KEYWORDS, Schema, UnknownKeyword, Validator
from tests.support.schema_values import values
from tests.unit.protocol.test_operations import CASES, expand, operation_of, recorded

UNASKED = cast(Engine, None)
TABLE = Routes(UNASKED, Metrics(()), Endpoint(UNASKED).answer).table
ROUTES = [(route.method, route.path) for route in TABLE]
DOCUMENT = document(ROUTES)
VALIDATOR = Validator(DOCUMENT)
SCHEMAS: dict[str, Schema] = DOCUMENT["components"]["schemas"]
JSON = "application/json"
BASE64 = "application/vnd.cmp+json;bytes=base64"

# Where any JSON may stand: nothing else in the document may be so free.
OPEN = {
    "ErrorBody.details",
    *(f"{kind}.metadata" for kind in ("EncodeStore", "EncodeStoreRaw", "EncodeUpdate")),
    *(
        f"{kind}{suffix}.metadata"
        for kind in ("IntrospectedRecord", "MemoryRecord", "RawJournalRecord", "RecordVersion")
        for suffix in ("", "Base64")
    ),
    *("EncodeContext.spatial", "EncodeContext.temporal", "RecallCue.spatial", "RecallCue.semantic"),
    "RecallScope.metadata",
}
OPEN_PLACES = (("metadata",), ("details",), ("context", "spatial"), ("context", "temporal"))
# What no schema can say of a request; the daemon's words for it.
BEYOND_SCHEMAS = ("text must be UTF-8", "not readable as JSON", "at most 1024 are allowed")


def media(node: dict[str, Any], kind: str = JSON) -> Schema:
    found: Schema = node["content"][kind]["schema"]
    return found


def described(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def request_schema(operation: Operation) -> Schema:
    return media(described(operation.method, operation.path)["requestBody"])


def answer_of(operation: Operation, status: int) -> dict[str, Any]:
    answer: dict[str, Any] = described(operation.method, operation.path)["responses"][str(status)]
    return VALIDATOR.resolved(answer["$ref"]) if "$ref" in answer else answer


def nodes(value: Any, where: str = "#") -> Iterator[tuple[str, Any]]:
    """Every object and array of the document, with its place."""
    yield where, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from nodes(part, f"{where}/{name}")


def subschemas(schema: Schema, where: str) -> Iterator[tuple[str, Schema]]:
    yield where, schema
    for name, part in schema.get("properties", {}).items():
        yield from subschemas(part, f"{where}.{name}")
    for keyword in ("items", "not", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from subschemas(schema[keyword], f"{where}/{keyword}")
    for keyword in ("anyOf", "allOf"):
        for part in schema.get(keyword, ()):
            yield from subschemas(part, where)


def all_schemas() -> Iterator[tuple[str, Schema]]:
    """Every schema, by its component and property, or by its place outside the components."""
    for name, schema in SCHEMAS.items():
        yield from subschemas(schema, name)
    for where, node in nodes({key: part for key, part in DOCUMENT.items() if key != "components"}):
        if where.endswith("/schema"):
            yield from subschemas(node, where)
    for group in ("responses", "parameters", "headers"):
        for where, node in nodes(DOCUMENT["components"][group], group):
            if where.endswith("/schema"):
                yield from subschemas(node, where)


# The document


def test_every_route_is_described_and_nothing_else() -> None:
    shown = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]
    assert len(set(ROUTES)) == len(ROUTES)
    assert sorted(shown) == sorted(ROUTES)


def test_every_row_outside_cmp_is_a_route() -> None:
    assert {(service.method, service.path) for service in SERVICES} <= set(ROUTES)


def test_what_is_not_there_is_not_described() -> None:
    without_metrics = Routes(UNASKED, None, None).table
    assert "/metrics" not in document((route.method, route.path) for route in without_metrics)["paths"]


def test_a_route_that_nobody_has_described_is_an_error() -> None:
    with pytest.raises(KeyError):
        document([*ROUTES, ("GET", "/v1/new")])


def test_its_head_is_that_of_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert {"title", "version", "description", "license"} == DOCUMENT["info"].keys()
    assert set(DOCUMENT) == {"openapi", "info", "servers", "security", "tags", "paths", "components"}


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    references = {node["$ref"] for _, node in nodes(DOCUMENT) if isinstance(node, dict) and "$ref" in node}
    for reference in references:
        assert isinstance(VALIDATOR.resolved(reference), dict)
    components = {
        f"#/components/{group}/{name}"
        for group, named in DOCUMENT["components"].items()
        if group != "securitySchemes"
        for name in named
    }
    assert components == references


def test_every_operation_has_an_id_of_its_own_a_summary_and_a_known_tag() -> None:
    operations = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z_]*", name) for name in ids)
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for operation in operations for tag in operation["tags"]} == tags
    assert all(operation["summary"].endswith(".") for operation in operations)


def test_the_parts_of_every_path_are_its_required_parameters() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            found = [VALIDATOR.resolved(p["$ref"]) if "$ref" in p else p for p in operation["parameters"]]
            assert [p["name"] for p in found if p["in"] == "path"] == re.findall(r"\{(\w+)\}", path)
            assert all(p["required"] for p in found if p["in"] == "path")
            assert len({(p["in"], p["name"].lower()) for p in found}) == len(found)


def test_the_same_routes_make_the_same_document_in_every_process() -> None:
    script = (
        "import json, sys; from cerememory.http.openapi import document;"
        "sys.stdout.write(json.dumps(document(map(tuple, json.load(sys.stdin)))))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(ROUTES),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert ran.stdout == json.dumps(DOCUMENT)
    assert json.dumps(document(ROUTES)) == json.dumps(DOCUMENT)


def test_every_keyword_is_one_that_the_validator_knows() -> None:
    assert {keyword for _, schema in all_schemas() for keyword in schema} <= KEYWORDS


def test_the_validator_refuses_a_keyword_that_it_does_not_know() -> None:
    with pytest.raises(UnknownKeyword, match="uniqueItems"):
        VALIDATOR.faults({"type": "array", "uniqueItems": True}, [])


def is_free(schema: Schema) -> bool:
    """Whether an object of any shape is allowed."""
    says = {"$ref", "enum", "const", "anyOf", "allOf", "not", "pattern", "required", "properties"}
    if schema.get("type", "object") != "object" or says & schema.keys():
        return False
    return schema.get("additionalProperties", {}) in ({}, True)


def test_no_object_is_free_but_those_that_are_meant_to_be() -> None:
    free = {where.partition("/")[0] for where, schema in all_schemas() if is_free(schema)}
    assert free == OPEN


def test_no_object_with_named_properties_is_free_in_one_of_its_branches() -> None:
    for where, schema in all_schemas():
        if "properties" in schema:
            assert schema["properties"], where
            assert schema.get("additionalProperties", False) is False, where


def test_every_type_and_every_field_is_described() -> None:
    assert [name for name, schema in SCHEMAS.items() if not schema.get("description", "").endswith(".")] == []
    assert [
        f"{name}.{field}"
        for name, schema in SCHEMAS.items()
        for field, part in schema.get("properties", {}).items()
        if not part.get("description", "").endswith(".")
    ] == []


def test_no_row_describes_what_is_not_there() -> None:
    plain = {re.sub(r"(Base64|Input)$", "", name) for name in SCHEMAS}
    assert TYPES.keys() | NARROWED_TYPES.keys() <= SCHEMAS.keys() | plain
    structs = [
        kind for module in (records, replies, requests) for kind in vars(module).values() if is_struct(kind)
    ]
    fields = {f"{kind.__name__}.{name}" for kind in structs for name in kind.__struct_fields__}
    rows = [*FIELDS, *HELD, *NARROWED]
    assert {row for row in rows if "." in row} <= fields
    assert {row for row in rows if "." not in row} <= {name.partition(".")[2] for name in fields}


def is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def test_open_routes_need_no_key_and_all_others_may() -> None:
    assert DOCUMENT["security"] == [{"key": []}, {}]
    without = {p for p, methods in DOCUMENT["paths"].items() for o in methods.values() if o.get("security") == []}
    assert without == OPEN_ROUTES


@pytest.mark.parametrize("route", TABLE, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_says_which_key_it_needs(route: Route) -> None:
    """The roles are those that are asked for; nothing is said of a route that asks for no key."""
    needed = [route.needs.role.value] + ["all namespaces"] * route.needs.is_global
    expected = [] if route.path in OPEN_ROUTES else [{"key": needed}, {}]
    assert described(route.method, route.path)["security"] == expected


# Errors


def answered(error: type[CerememoryError]) -> bool:
    """Whether a client of the daemon is answered with it, by a route that there is."""
    elsewhere = (StartRefused, DaemonBusy, DaemonUnreachable, NoRoute, WrongMethod)
    of_grpc = (MessageTooLarge, CompressionUnknown, NoService, DeadlinePassed)
    return not issubclass(error, elsewhere + of_grpc)


def test_every_error_that_a_route_may_answer_has_its_reason() -> None:
    never_raised = {"StoreInvalid", "WorkingMemoryFull"}
    expected = {error.__name__ for error in ANSWERS if answered(error)} - never_raised
    assert {error.__name__ for error in REASONS} == expected
    shown = {name for response in DOCUMENT["components"]["responses"] for name in response.split("_")}
    assert shown == expected | {"OtherError"}


def test_the_versions_of_mcp_are_those_that_are_spoken() -> None:
    assert tuple(DOCUMENT["components"]["parameters"]["McpVersion"]["schema"]["enum"]) == VERSIONS


def test_a_status_comes_with_the_codes_of_its_errors_and_their_headers() -> None:
    by_name = {error.__name__: error for error in ANSWERS}
    for name, response in DOCUMENT["components"]["responses"].items():
        if name == "OtherError":
            continue
        errors = [by_name[part] for part in name.split("_")]
        assert len({ANSWERS[error].http_status for error in errors}) == 1
        for code in {answer.code for answer in ANSWERS.values()}:
            body = {"code": code, "message": "m", "details": None, "retry_after": None}
            faults = VALIDATOR.faults(media(response), body)
            assert bool(faults) != (code in {ANSWERS[error].code for error in errors})
        status = ANSWERS[errors[0]].http_status
        assert ("Retry-After" in response["headers"]) == (status in (429, 503))
        assert ("WWW-Authenticate" in response["headers"]) == (status == 401)


def test_every_answer_to_a_route_behind_the_gate_says_what_the_gate_may_answer() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            expected = {"431", "500", "default"} | (set() if path in OPEN_ROUTES else {"401", "403", "429"})
            assert expected <= operation["responses"].keys(), path


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_headers_and_statuses_follow_what_an_operation_does(operation: Operation) -> None:
    shown = described(operation.method, operation.path)
    parameters = {p["$ref"].rpartition("/")[2] for p in shown["parameters"] if "$ref" in p}
    assert ("IdempotencyKey" in parameters) == operation.mutates
    assert ("Sequence" in parameters) == (not operation.mutates)
    assert {"Namespace", "RequestId"} <= parameters
    assert ("409" in shown["responses"]) == operation.mutates
    assert {"400", "503"} <= shown["responses"].keys()
    assert ("requestBody" in shown) == ("413" in shown["responses"]) == ("408" in shown["responses"])
    success = shown["responses"]["204" if operation.reply is None else "200"]
    assert ("X-Cerememory-Sequence" in success["headers"]) == operation.mutates
    assert ("content" in success) == (operation.reply is not None)


def test_bytes_may_be_had_in_base64_where_an_answer_has_bytes() -> None:
    for operation in OPERATIONS:
        success = described(operation.method, operation.path)["responses"].get("200", {})
        kinds = success.get("content", {})
        has_bytes = any("Base64" in json.dumps(part) for part in kinds.values())
        assert (BASE64 in kinds) == has_bytes
    assert {o.name for o in OPERATIONS if BASE64 in json.dumps(described(o.method, o.path))} == {
        *("recall.query", "recall.associate", "recall.timeline", "recall.raw_query"),
        *("introspect.record", "lifecycle.export"),
    }


# What was recorded


def refusal(operation: Operation, body: bytes) -> CerememoryError | None:
    """Why the daemon wouldn't take `body`, by its parser and the checks that need no state."""
    assert operation.request is not None
    try:
        _check(codec.parse(body, operation.request))
    except CerememoryError as error:
        return error
    return None


def _check(request: Any) -> None:
    if request.header is not None:
        request.header.check()
    match request:
        case EncodeStore():
            limits.check_store(request, request.content.content("content"), RecordId(b"\xff" * 16), "")
        case EncodeStoreRaw():
            limits.check_raw(request, request.content.content("content"), "")
        case EncodeBatch() | EncodeBatchRaw():
            for record in request.records:
                _check(record)
        case EncodeUpdate():
            if request.content is not None:
                limits.check_content(request.content.content("content"), "content")
            if request.meta is not None:
                limits.check_meta(request.meta, "meta")
        case RecallQuery(cue=cue):
            if cue.embedding is not None:
                limits.check_embedding(cue.embedding, "cue.embedding")
        case RecallAssociate():
            limits.check_associate(request)
        case Export():
            limits.check_export(request)


def named(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"].replace(" ", "-")) for case in cases]


def operation(case: dict[str, Any]) -> Operation:
    found = operation_of(case)
    assert found is not None
    return found


OF_OPERATIONS = [case for case in CASES if operation_of(case)]
ACCEPTED = [case for case in OF_OPERATIONS if case["expect"]["status"] in (200, 204)]
SENT = [case for case in ACCEPTED if "body" in case]
ANSWERED = [case for case in ACCEPTED if case["expect"]["status"] == 200]
FAILED = [case for case in OF_OPERATIONS if case["expect"]["status"] >= 400]
UNREADABLE = [case for case in FAILED if "body" in case and case["expect"]["body"]["code"] == "VALIDATION_ERROR"]


def test_there_are_cases_of_every_kind() -> None:
    assert (len(SENT), len(ANSWERED), len(FAILED), len(UNREADABLE)) == (31, 33, 17, 9)


@pytest.mark.parametrize("case", named(SENT))
def test_a_recorded_request_is_valid(case: dict[str, Any]) -> None:
    assert VALIDATOR.faults(request_schema(operation(case)), expand(case["body"])) == []


@pytest.mark.parametrize("case", named(ANSWERED))
def test_a_recorded_answer_is_valid(case: dict[str, Any]) -> None:
    assert VALIDATOR.faults(media(answer_of(operation(case), 200)), as_ours(case)) == []


@pytest.mark.parametrize("case", named(FAILED))
def test_a_recorded_error_is_one_that_its_operation_may_answer(case: dict[str, Any]) -> None:
    schema = media(answer_of(operation(case), case["expect"]["status"]))
    assert VALIDATOR.faults(schema, case["expect"]["body"]) == []


def test_the_answers_outside_cmp_are_valid() -> None:
    for path in ("/health", "/readiness"):
        [case] = [case for case in CASES if case["path"] == path]
        assert VALIDATOR.faults(media(described("GET", path)["responses"]["200"]), case["expect"]["body"]) == []
        assert VALIDATOR.faults(media(described("GET", path)["responses"]["200"]), {"status": "no"}) != []


@pytest.mark.parametrize("case", named(UNREADABLE))
def test_a_request_that_the_reference_refused_is_invalid_where_a_schema_can_say_so(case: dict[str, Any]) -> None:
    faults = VALIDATOR.faults(request_schema(operation(case)), expand(case["body"]))
    assert bool(faults) == (case["name"] not in ("error: not UTF-8", "error: bad structured"))


@cache
def _as_ours(name: str) -> str:
    [case] = [case for case in CASES if case["name"] == name]
    kind = operation(case).reply
    assert kind is not None
    return codec.dump(codec.parse(json.dumps(case["expect"]["body"]).encode(), kind)).decode()


def as_ours(case: dict[str, Any]) -> Any:
    """The recorded answer with the keys that ours has beyond the reference, as ours writes it."""
    return json.loads(_as_ours(case["name"]))


# The same, spoilt

Path = tuple[Any, ...]
WRONG: dict[type, list[Any]] = {
    dict: ["wrong", []],
    list: ["wrong", {}],
    str: [17, [], {}],
    bool: ["wrong", 1],
    int: ["wrong", True],
    float: ["wrong", True],
    type(None): [True],
}


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value inside `value` that has a type to be wrong; the first of a list stands for all."""
    if any(path[-len(place) :] == place for place in OPEN_PLACES):
        return
    if path:
        yield path, value
    if isinstance(value, dict):
        for name, part in value.items():
            yield from places(part, (*path, name))
    elif isinstance(value, list):
        for part in value[:1]:
            yield from places(part, (*path, 0))


def spoilt(root: Any, path: Path, *wrong: Any) -> Any:
    """`root` with another value at `path`, or without one there."""
    root = copy.deepcopy(root)
    owner = root
    for step in path[:-1]:
        owner = owner[step]
    if wrong:
        owner[path[-1]] = wrong[0]
    else:
        del owner[path[-1]]
    return root


def shown(path: Path) -> str:
    return ".".join(map(str, path))


@pytest.mark.parametrize("case", named([case for case in SENT if case["body"]]))
def test_a_spoilt_request_is_refused_by_the_schema_and_by_the_parser(case: dict[str, Any]) -> None:
    asked = operation(case)
    schema, body = request_schema(asked), short(expand(case["body"]))
    for path, value in places(body):
        for wrong in WRONG[type(value)]:
            other = spoilt(body, path, wrong)
            assert VALIDATOR.faults(schema, other) != [], (shown(path), wrong)
            assert refusal(asked, json.dumps(other).encode()) is not None, (shown(path), wrong)


@pytest.mark.parametrize("case", named([case for case in SENT if case["body"]]))
def test_the_schema_and_the_parser_agree_on_what_may_be_missing_or_null(case: dict[str, Any]) -> None:
    asked = operation(case)
    schema, body = request_schema(asked), short(expand(case["body"]))
    for path, _value in places(body):
        for other in (spoilt(body, path, None), spoilt(body, path)) if isinstance(path[-1], str) else ():
            refused = refusal(asked, json.dumps(other).encode()) is not None
            assert bool(VALIDATOR.faults(schema, other)) == refused, shown(path)


def short(value: Any) -> Any:
    """`value` with one item of each list, which stands for all; bytes of content stay, so that it can be read."""
    if isinstance(value, dict):
        return {name: short(part) for name, part in value.items()}
    if isinstance(value, list):
        return value if is_content(value) else [short(part) for part in value[:1]]
    return value


def is_content(value: list[Any]) -> bool:
    return len(value) < 500 and all(isinstance(item, int) for item in value)


def is_read(kind: Any, value: Any) -> bool:
    try:
        codec.parse(json.dumps(value).encode(), kind)
    except CerememoryError:
        return False
    return True


def is_held(asked: Operation, path: Path) -> bool:
    """Whether this is inside JSON that an answer joins, and its parser leaves alone."""
    held = {
        "record",
        "rendered_content",
        *({"recall.raw_query": ["records"], "recall.graph": ["meta"]}.get(asked.name, ())),
    }
    return not held.isdisjoint(path)


def required_here(asked: Operation, path: Path) -> bool:
    """Whether our daemon always sends this key; the others are there when they were asked for."""
    return not (asked.name == "recall.graph" and path[0] == "nodes" and path[2:] == ("meta",))


@pytest.mark.parametrize("case", named(ANSWERED))
def test_a_spoilt_answer_is_refused_by_the_schema_and_by_the_parser(case: dict[str, Any]) -> None:
    asked, body = operation(case), short(as_ours(case))
    schema = media(answer_of(asked, 200))
    for path, value in places(body):
        for wrong in WRONG[type(value)]:
            other = spoilt(body, path, wrong)
            assert VALIDATOR.faults(schema, other) != [], (shown(path), wrong)
            assert is_held(asked, path) or not is_read(asked.reply, other), (shown(path), wrong)
        if isinstance(path[-1], str) and required_here(asked, path) and "avg_fidelity_by_store" not in path[:-1]:
            assert VALIDATOR.faults(schema, spoilt(body, path)) != [], shown(path)


RECORDS: list[tuple[str, type[Any], Any]] = [
    ("MemoryRecord", MemoryRecord, recorded("record")[0]),
    ("MemoryContent", MemoryContent, recorded("rendered_content")[0]),
    ("RawJournalRecord", RawJournalRecord, recorded("records")[0][0]),
]


@pytest.mark.parametrize(("name", "kind", "value"), RECORDS, ids=[name for name, _, _ in RECORDS])
def test_a_spoilt_record_is_refused_by_the_schema_and_by_the_parser(
    name: str, kind: type[Any], value: Any
) -> None:
    assert VALIDATOR.faults(SCHEMAS[name], value) == []
    value = short(value)
    for path, part in places(value):
        for wrong in WRONG[type(part)]:
            other = spoilt(value, path, wrong)
            assert VALIDATOR.faults(SCHEMAS[name], other) != [], (shown(path), wrong)
            assert not is_read(kind, other), (shown(path), wrong)


@pytest.mark.parametrize("case", named([case for case in FAILED if case["expect"]["body"]]))
def test_a_spoilt_error_is_invalid(case: dict[str, Any]) -> None:
    schema = media(answer_of(operation(case), case["expect"]["status"]))
    body = case["expect"]["body"]
    for path, value in places(body):
        for wrong in WRONG[type(value)]:
            assert VALIDATOR.faults(schema, spoilt(body, path, wrong)) != [], (shown(path), wrong)
        if path != ("request_id",):
            assert VALIDATOR.faults(schema, spoilt(body, path)) != [], shown(path)
    assert VALIDATOR.faults(schema, {**body, "code": "RATE_LIMITED"}) != []


@pytest.mark.parametrize(
    "case",
    named(
        [
            case
            for case in ANSWERED
            if "Base64" in json.dumps(described(operation(case).method, operation(case).path))
        ]
    ),
)
def test_an_answer_in_base64_is_valid_as_that_and_not_as_the_other(case: dict[str, Any]) -> None:
    asked, body = operation(case), as_ours(case)
    encoded = json.loads(codec.with_base64(json.dumps(body, separators=(",", ":")).encode()))
    schema = media(answer_of(asked, 200), BASE64)
    assert VALIDATOR.faults(schema, encoded) == []
    if encoded != body:
        assert VALIDATOR.faults(schema, body) != []
        assert VALIDATOR.faults(media(answer_of(asked, 200)), encoded) != []


# Values that nobody recorded

WITH_BODY = [operation for operation in OPERATIONS if operation.request is not None and operation.method != "GET"]


@pytest.mark.parametrize("asked", WITH_BODY, ids=lambda o: o.name)
def test_what_the_schema_allows_the_daemon_takes(asked: Operation) -> None:
    @settings(
        max_examples=20,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(body=values(request_schema(asked), VALIDATOR))
    def takes(body: Any) -> None:
        error = refusal(asked, json.dumps(body).encode())
        assert error is None or any(words in str(error) for words in BEYOND_SCHEMAS), error

    takes()


@pytest.mark.parametrize("asked", WITH_BODY, ids=lambda o: o.name)
def test_an_example_is_valid_and_taken(asked: Operation) -> None:
    content = described(asked.method, asked.path)["requestBody"]["content"][JSON]
    if asked.name in REQUEST_FILES:
        assert "example" not in content
        assert REQUEST_FILES[asked.name] in ANSWER_FILES.values()
        return
    assert VALIDATOR.faults(content["schema"], content["example"]) == []
    assert refusal(asked, json.dumps(content["example"]).encode()) is None


def test_every_example_is_of_an_operation() -> None:
    names = {operation.name for operation in OPERATIONS} | {service.name for service in SERVICES}
    assert REQUESTS.keys() | ANSWER_FILES.keys() | REQUEST_FILES.keys() <= names
