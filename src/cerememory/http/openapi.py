"""The OpenAPI 3.1 document: every route that the daemon has, from its operation table, wire types and errors.

A route is described by its row in `OPERATIONS`, or, outside CMP, by one in `SERVICES`. `document` is pure: the
same routes make the same document, to the byte. Schemas come from `schemas`, what is said of errors, headers and
routes outside CMP from the `described_*` modules, words from `descriptions`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from cerememory import __version__
from cerememory.errors import (
    ANSWERS,
    CerememoryError,
    Overloaded,
    PreconditionFailed,
    Unauthorized,
)
from cerememory.http.described_errors import REASONS, Errors, errors_of, has_body
from cerememory.http.described_heads import HEADERS, PARAMETERS
from cerememory.http.described_services import JSON, OPENAPI, SERVICES, Service
from cerememory.http.descriptions import TYPES
from cerememory.http.examples import ANSWER_FILES, QUERIES, REQUEST_FILES, REQUESTS
from cerememory.http.routes import BASE64_TYPE
from cerememory.http.rules import OPEN_ROUTES
from cerememory.http.schemas import Schema, Schemas, Side, holds_bytes
from cerememory.protocol.access import Needs
from cerememory.protocol.operations import OPERATIONS, Operation
from cerememory.protocol.replies import ErrorBody, Imported, ImportPlanned
from cerememory.protocol.values import RecordId

_PATH_PARAMETER = re.compile(r"\{(\w+)\}")

ABOUT = """\
The Cerememory Protocol (CMP): JSON over HTTP.

A body is sent with `Content-Type: application/json`, or another `application/…+json`. Fields that aren't known are
ignored. Integers are written without a fraction: `2.0` is refused.

Bytes are arrays of integers from 0 to 255. A content block may bring them as `data_b64` or, when it is text, as
`text`; answers have them as base64 when the request says `Accept: application/vnd.cmp+json;bytes=base64`.

A write is answered when it is durable. `Idempotency-Key` makes it safe to send again; `X-Cerememory-Sequence` on
its answer is the number of its commit, with which a later read can ask for an answer that includes it. A search
whose index isn't that far within a second answers all the same, and says `index_complete: false`.

Every error of every route has the same body. A route that doesn't exist answers 404, another method 405, both with
the code `VALIDATION_ERROR`. When `auth.enabled` is on, every route but `/health` and `/readiness` needs a key: one
with the role that the route names (`read`, `write` or `admin`), or a higher one; others get 403. A key may be for
one namespace: then requests are about that one, whether they name it or not, and another gets 403."""

TAGS: dict[str, str] = {
    "encode": "Storing memories, and entries of the raw journal.",
    "recall": "Finding them again.",
    "lifecycle": "What happens to memories in time: they fade, are summarised, forgotten, exported.",
    "introspect": "Looking at what is stored, without recalling it.",
    "service": "The daemon itself.",
}

_REPLIES: dict[str, Any] = {"lifecycle.import": (Imported, ImportPlanned)}  # where the table has one of several
_SERVICES = {(service.method, service.path): service for service in SERVICES}
_OPERATIONS = {(operation.method, operation.path): operation for operation in OPERATIONS}


def document(routes: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The document of `routes`, each a method and a path; `KeyError` for one that nobody has described."""
    return _Document().made(routes)


class _Document:
    """What is shared by the parts of one document: its schemas, and the answers to errors."""

    def __init__(self) -> None:
        self._schemas = Schemas([ErrorBody, *(o.reply for o in OPERATIONS if o.reply is not None)])
        self._schemas.of(RecordId, Side.REQUEST)  # a path parameter refers to it
        self._error_body = self._schemas.of(ErrorBody, Side.ANSWER)
        self._errors: dict[str, Schema] = {}

    def made(self, routes: Iterable[tuple[str, str]]) -> dict[str, Any]:
        paths: dict[str, Schema] = {}
        for method, path in routes:
            paths.setdefault(path, {})[method.lower()] = self._route(method, path)
        return {
            "openapi": OPENAPI,
            "info": {
                "title": "Cerememory",
                "version": __version__,
                "description": ABOUT,
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/"}],
            "security": [{"key": []}, {}],
            "tags": [{"name": name, "description": described} for name, described in TAGS.items()],
            "paths": paths,
            "components": {
                "schemas": dict(sorted(self._schemas.components.items())),
                "responses": self._errors,
                "parameters": PARAMETERS,
                "headers": HEADERS,
                "securitySchemes": {
                    "key": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": (
                            "A key of the daemon's; needed when `auth.enabled` is on. `cerememory key create`"
                            " makes one with a role (read; write: also store, change and forget; admin: also"
                            " export, import and set what is for all), for one namespace or all of them, and for"
                            " some days or for ever."
                        ),
                    }
                },
            },
        }

    def _route(self, method: str, path: str) -> Schema:
        operation = _OPERATIONS.get((method, path))
        return self._service(_SERVICES[method, path]) if operation is None else self._operation(operation)

    def _service(self, service: Service) -> Schema:
        answers = {
            str(status): _response(
                described, self._content(media, kind, Side.ANSWER) if media else {}, service.headers
            )
            for status, (described, media, kind) in service.answers.items()
        }
        query = [] if service.query is None else self._query(service.query, service.elsewhere)
        examples = QUERIES.get(service.name, {})
        query = [
            {**parameter, "example": examples[parameter["name"]]} if parameter["name"] in examples else parameter
            for parameter in query
        ]
        return {
            "operationId": service.name,
            "tags": [service.tag],
            "summary": service.summary,
            **({"security": []} if service.path in OPEN_ROUTES else _needed(service.needs)),
            "parameters": [*query, *(_parameter(name) for name in (*service.parameters, "RequestId"))],
            **({} if service.body is None else self._body(service.name, *service.body)),
            "responses": self._error_responses(service.errors) | answers,
            **_files(service.name),
        }

    def _content(self, media: str, kind: Any, side: Side) -> Schema:
        """What is said in `kind`: a schema, a type, or one of several."""
        if isinstance(kind, tuple):
            return {media: {"schema": {"anyOf": [self._schema(part, side) for part in kind]}}}
        return {media: {"schema": self._schema(kind, side)}}

    def _schema(self, kind: Any, side: Side) -> Schema:
        return kind if isinstance(kind, dict) else self._schemas.of(kind, side)

    def _query(self, kind: type[Any], elsewhere: Collection[str]) -> list[Schema]:
        fields = self._schemas.properties(kind, Side.REQUEST)
        return [_query(name, schema) for name, schema in fields.items() if name not in elsewhere]

    def _operation(self, operation: Operation) -> Schema:
        return {
            "operationId": operation.name.replace(".", "_"),
            "tags": [operation.name.partition(".")[0]],
            "summary": operation.summary,
            "description": f"CMP operation `{operation.name}`.",
            **_needed(operation.needs),
            "parameters": self._parameters(operation),
            **(self._body(operation.name, JSON, operation.request) if has_body(operation) else {}),
            "responses": self._answers(operation) | self._error_responses(errors_of(operation)),
            **_files(operation.name),
        }

    def _parameters(self, operation: Operation) -> list[Schema]:
        in_path = _PATH_PARAMETER.findall(operation.path)
        found = [_parameter(name) for name in in_path]
        if operation.method == "GET" and operation.request is not None:
            found += self._query(operation.request, (*in_path, "header"))
        headers = ("Namespace", "IdempotencyKey") if operation.mutates else ("Namespace", "Sequence")
        own = ("IfMatch",) if PreconditionFailed in errors_of(operation) else ()
        return found + [_parameter(name) for name in (*headers, *own, "RequestId")]

    def _body(self, name: str, media: str, kind: Any) -> Schema:
        content = self._content(media, kind, Side.REQUEST)
        if name in REQUESTS:
            content[media]["example"] = REQUESTS[name]
        return {"requestBody": {"required": True, "content": content}}

    def _answers(self, operation: Operation) -> Schema:
        headers = ("X-Cerememory-Sequence",) if operation.mutates else ()
        if operation.reply is None:
            return {"204": _response("It is done; there is no body.", {}, headers)}
        content = self._content(JSON, _REPLIES.get(operation.name, operation.reply), Side.ANSWER)
        if holds_bytes(operation.reply):
            content |= self._content(BASE64_TYPE, operation.reply, Side.BASE64)
        return {"200": _response(TYPES.get(operation.reply.__name__, ""), content, headers)}

    def _error_responses(self, errors: Errors) -> Schema:
        """By status, ascending; whatever else there may be has the same body."""
        by_status: dict[int, list[type[CerememoryError]]] = {}
        for error in errors:
            by_status.setdefault(ANSWERS[error].http_status, []).append(error)
        found = {str(status): self._error(kinds) for status, kinds in sorted(by_status.items())}
        return found | {"default": self._error([])}

    def _error(self, kinds: list[type[CerememoryError]]) -> Schema:
        name = "_".join(kind.__name__ for kind in kinds) or "OtherError"
        if name not in self._errors:
            self._errors[name] = self._made_error(kinds) if kinds else self._other_error()
        return {"$ref": f"#/components/responses/{name}"}

    def _other_error(self) -> Schema:
        return _response("Any other error.", {JSON: {"schema": self._error_body}})

    def _made_error(self, kinds: list[type[CerememoryError]]) -> Schema:
        codes = list(dict.fromkeys(ANSWERS[kind].code for kind in kinds))
        schema = {"allOf": [self._error_body, {"properties": {"code": {"enum": codes}}}]}
        described = "\n\n".join(f"`{ANSWERS[kind].code}`: {REASONS[kind]}" for kind in kinds)
        headers = []
        if all(issubclass(kind, Overloaded) for kind in kinds):
            headers.append("Retry-After")
        if Unauthorized in kinds:
            headers.append("WWW-Authenticate")
        return _response(described, {JSON: {"schema": schema}}, headers)


def _response(described: str, content: Schema, headers: Iterable[str] = ()) -> Schema:
    named = {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *headers)}
    return {"description": described, "headers": named, **({"content": content} if content else {})}


def _needed(needs: Needs) -> Schema:
    """What a key must be. OpenAPI has role names where other schemes have scopes."""
    names = [needs.role.value, *(["all namespaces"] if needs.is_global else [])]
    return {"security": [{"key": names}, {}]}


def _parameter(name: str) -> Schema:
    return {"$ref": f"#/components/parameters/{name}"}


def _query(name: str, schema: Schema) -> Schema:
    """A query parameter for a field; what may be null there may be missing here."""
    shown = {key: value for key, value in schema.items() if key not in ("anyOf", "description")}
    shown |= next((part for part in schema.get("anyOf", ()) if part != {"type": "null"}), {})
    return {"name": name, "in": "query", "description": schema.get("description", ""), "schema": shown}


def _files(name: str) -> Schema:
    """Which file of an example an answer is kept in, or a request is read from."""
    found = {"x-answer-file": ANSWER_FILES.get(name), "x-request-file": REQUEST_FILES.get(name)}
    return {key: file for key, file in found.items() if file is not None}
