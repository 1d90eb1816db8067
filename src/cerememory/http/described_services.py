"""The routes outside CMP, as the OpenAPI document tells them: what isn't in `OPERATIONS` has its row here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cerememory.errors import (
    ActorBusy,
    AuditEntriesAway,
    BodyTooSlow,
    ExportFailed,
    IdempotencyConflict,
    ImportConflict,
    StorageDamaged,
    ValidationFailed,
)
from cerememory.http.archives import ARCHIVE_PATH, ARCHIVE_TYPE
from cerememory.http.described_errors import ALWAYS, BODY, ENGINE, GATE, Errors
from cerememory.http.descriptions import TYPES
from cerememory.http.rules import MCP_PATH
from cerememory.http.schemas import Schema
from cerememory.protocol.access import READ, Needs, Role
from cerememory.protocol.operations import BY_NAME
from cerememory.protocol.replies import AuditConsistency, AuditInclusion, ErrorBody, Imported, ImportPlanned
from cerememory.protocol.requests import AuditProof, Export, ImportTerms
from cerememory.telemetry.metrics import CONTENT_TYPE

JSON = "application/json"
NOTE_TYPE = "text/plain; charset=utf-8"
OPENAPI = "3.1.0"


@dataclass(frozen=True, slots=True)
class Service:
    """A route outside CMP.

    `answers`: by status, what it means, its media type ("" without a body) and its type or schema; `body`: the
    latter two of what is sent. `query` has the fields of its query but those in `elsewhere`. `needs` is what the
    key must be.
    """

    name: str
    method: str
    path: str
    summary: str
    answers: dict[int, tuple[str, str, Any]]
    errors: Errors = GATE
    needs: Needs = field(default=READ, kw_only=True)
    tag: str = "service"
    body: tuple[str, Any] | None = None
    query: type[Any] | None = None
    elsewhere: frozenset[str] = frozenset({"header"})
    parameters: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT: Schema = {"type": "string"}
_ARCHIVE = (ARCHIVE_TYPE.decode(), {"type": "string", "format": "binary"})
_MESSAGE = _object(jsonrpc={"const": "2.0"})
_RPC: Schema = {"anyOf": [_MESSAGE, {"type": "array", "items": _MESSAGE, "minItems": 1}]}
_RPC_ERROR = _object(jsonrpc={"const": "2.0"}, error=_object(code={"type": "integer"}, message=_TEXT))
_KNOWN = {304: ("The client has it already.", "", _TEXT)}
SERVICES: tuple[Service, ...] = (
    Service(
        "health",
        "GET",
        "/health",
        "Say that the process lives.",
        {200: ("It lives.", JSON, _object(status={"const": "ok"}))},
        ALWAYS,
    ),
    Service(
        "readiness",
        "GET",
        "/readiness",
        "Say whether requests can be served.",
        {
            200: ("They can.", JSON, _object(status={"const": "ready"})),
            503: ("They can't, for this reason.", JSON, _object(status={"const": "not_ready"}, reason=_TEXT)),
        },
        ALWAYS,
    ),
    Service(
        "archive_export",
        "POST",
        ARCHIVE_PATH,
        "Write an archive as a stream of bytes, of whatever size.",
        {200: ("The archive. What breaks off is not whole: the connection ends early.", *_ARCHIVE)},
        (*ENGINE, *BODY, ExportFailed, *GATE),
        needs=BY_NAME["lifecycle.export"].needs,
        tag="lifecycle",
        body=(JSON, Export),
        parameters=("Passphrase", "Namespace", "Sequence"),
        headers=("X-Cerememory-Archive-Id", "X-Cerememory-Record-Count", "X-Cerememory-Checksum"),
    ),
    Service(
        "archive_import",
        "PUT",
        ARCHIVE_PATH,
        "Read an archive back in from a stream of bytes, of whatever size.",
        {200: (TYPES["Imported"], JSON, (Imported, ImportPlanned))},
        (*ENGINE, BodyTooSlow, IdempotencyConflict, ImportConflict, *GATE),
        needs=BY_NAME["lifecycle.import"].needs,
        tag="lifecycle",
        body=_ARCHIVE,
        query=ImportTerms,
        elsewhere=frozenset({"header", "decryption_key"}),
        parameters=("Passphrase", "Namespace", "IdempotencyKey"),
        headers=("X-Cerememory-Sequence",),
    ),
    Service(
        "audit_checkpoint",
        "GET",
        "/v1/audit/checkpoint",
        "Sign how long the audit log is, and what it holds, in text that can be kept elsewhere.",
        {200: ("A C2SP tlog-checkpoint: origin, size, root, and its signature.", NOTE_TYPE, _TEXT)},
        (*GATE, StorageDamaged),
    ),
    Service(
        "audit_proof",
        "GET",
        "/v1/audit/proof",
        "Prove that the audit log continues an older one of its own (old, new), or has an entry (entry, size).",
        {200: ("The proof, of RFC 9162.", JSON, (AuditConsistency, AuditInclusion))},
        (*GATE, ValidationFailed, AuditEntriesAway, ActorBusy, StorageDamaged),
        query=AuditProof,
    ),
    Service(
        "mcp",
        "POST",
        MCP_PATH,
        "Speak MCP, Streamable HTTP: one JSON-RPC message, or a batch of them, answered by itself.",
        {
            200: ("What was asked is answered; an event stream, when nothing else is accepted.", JSON, _RPC),
            202: ("Nothing was asked.", "", _TEXT),
            400: ("It isn't MCP, or of no version that is spoken here.", JSON, (_RPC_ERROR, ErrorBody)),
        },
        (*ENGINE, *BODY, *GATE),
        body=(JSON, _RPC),
        parameters=("McpVersion", "Namespace"),
    ),
    Service(
        "metrics",
        "GET",
        "/metrics",
        "Show the daemon's metrics.",
        {200: ("The Prometheus text format.", CONTENT_TYPE, _TEXT)},
        needs=Needs(Role.READ, is_global=True),
    ),
    Service(
        "openapi",
        "GET",
        "/v1/openapi.json",
        "Show this document.",
        {200: ("The document.", JSON, _object(openapi={"const": OPENAPI})), **_KNOWN},
        parameters=("IfNoneMatch",),
        headers=("ETag",),
    ),
    Service(
        "docs",
        "GET",
        "/docs",
        "Show this document as a page.",
        {200: ("The page.", "text/html; charset=utf-8", _TEXT), **_KNOWN},
        parameters=("IfNoneMatch",),
        headers=("ETag",),
    ),
)
