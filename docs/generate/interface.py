"""The HTTP interface in tables, from its OpenAPI document, and the errors, from the one table of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from docs.generate.markdown import BREAK, code, table

from cerememory import errors as tree
from cerememory.errors import ANSWERS, Answer, CerememoryError, IdempotencyConflict, NotCaughtUp
from cerememory.http.described_errors import BODY, ENGINE, GATE, REASONS, Errors, errors_of
from cerememory.http.described_heads import HEADERS, PARAMETERS
from cerememory.http.described_services import SERVICES, Service
from cerememory.http.openapi import TAGS, document
from cerememory.protocol.operations import OPERATIONS, Operation

USUAL = (*GATE, *ENGINE, *BODY, IdempotencyConflict, NotCaughtUp)
_DRAWN = re.compile(r"[├└]── (?P<name>\w+) +(?P<said>\S.*)")


def routes() -> str:
    """Every route by what it belongs to; which errors it has beside `usual_errors`."""
    heads = ("route", "operation", "what it does", "key", "errors of its own")
    rows: dict[str, list[tuple[str, ...]]] = {tag: [] for tag in TAGS}
    for operation in OPERATIONS:
        rows[_described(operation)["tags"][0]].append(_route(operation, errors_of(operation)))
    for service in SERVICES:
        rows[service.tag].append(_route(service, service.errors))
    return "\n".join(f"### {tag}\n\n{said}\n\n{table(heads, rows[tag])}" for tag, said in TAGS.items())


def usual_errors() -> str:
    """What may be answered wherever it can happen: on most routes."""
    return ", ".join(sorted({*map(_told, USUAL)})) + "\n"


def _route(route: Operation | Service, errors: Errors) -> tuple[str, ...]:
    return (
        code(f"{route.method} {route.path}"),
        code(route.name),
        route.summary,
        _key(_described(route)["security"]),
        ", ".join(sorted({*map(_told, errors)} - {*map(_told, USUAL)})),
    )


def _told(error: type[CerememoryError]) -> str:
    answer = ANSWERS[error]
    return f"{answer.http_status} {code(answer.code)}"


@cache
def _document() -> dict[str, Any]:
    every: tuple[Operation | Service, ...] = (*OPERATIONS, *SERVICES)
    return document((route.method, route.path) for route in every)


def _described(route: Operation | Service) -> dict[str, Any]:
    described: dict[str, Any] = _document()["paths"][route.path][route.method.lower()]
    return described


def _key(security: list[dict[str, list[str]]]) -> str:
    """The role that it needs when keys are asked for."""
    return ", ".join(name for scheme in security for names in scheme.values() for name in names) or "none"


def request_headers() -> str:
    rows = ((code(each["name"]), each["description"]) for each in PARAMETERS.values() if each["in"] == "header")
    return table(("header", "what it says"), rows)


def answer_headers() -> str:
    return table(("header", "what it says"), ((code(name), each["description"]) for name, each in HEADERS.items()))


def errors() -> str:
    """A row for each way to answer; errors that are answered alike share it."""
    alike: dict[Answer, list[type[CerememoryError]]] = {}
    for error, answer in ANSWERS.items():
        alike.setdefault(answer, []).append(error)
    heads = ("code", "HTTP", "gRPC", "exit code", "when")
    return table(heads, (_answer(answer, kinds) for answer, kinds in alike.items()))


def _answer(answer: Answer, kinds: list[type[CerememoryError]]) -> tuple[str, ...]:
    reasons = BREAK.join(dict.fromkeys(map(_reason, kinds)))
    return (code(answer.code), str(answer.http_status), code(answer.grpc_status), str(answer.exit_code), reasons)


def _reason(error: type[CerememoryError]) -> str:
    return REASONS.get(error) or _drawn()[error.__name__]


@cache
def _drawn() -> dict[str, str]:
    """What the drawing of the tree says of each class."""
    found: Iterator[re.Match[str]] = _DRAWN.finditer(tree.__doc__ or "")
    return {each["name"]: each["said"][:1].upper() + each["said"][1:] + "." for each in found}
