"""The headers of requests and answers, and the part of paths that varies, as the OpenAPI document tells them."""

from __future__ import annotations

from cerememory.http.archives import PASSPHRASE_HEADER
from cerememory.http.descriptions import FIELDS
from cerememory.http.examples import EXAMPLE_ID
from cerememory.http.routes import IDEMPOTENCY_KEY_BYTES_MAX
from cerememory.http.schemas import Schema
from cerememory.protocol.namespaces import DEFAULT_NAME, HEADER

PARAMETERS: dict[str, Schema] = {
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "A UUID of the caller's for this request; the answer and the log have it, else a new one.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "Namespace": {
        "name": HEADER,
        "in": "header",
        "description": (
            "Which memories the request is about. A namespace is made by the first that is stored."
            " With a key for one namespace, that is the default."
        ),
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$", "default": DEFAULT_NAME},
    },
    "Sequence": {
        "name": "X-Cerememory-Sequence",
        "in": "header",
        "description": (
            "Wait, for a second at most, until this commit is visible; searches also for their index, or they say"
            " `index_complete: false`."
        ),
        "schema": {"type": "integer", "minimum": 0},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key within 24 hours answers the first result and stores nothing again.",
        "schema": {"type": "string", "pattern": r"\S", "maxLength": IDEMPOTENCY_KEY_BYTES_MAX},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "Only when the record has this version; `*`: any.",
        "schema": {"type": "string", "pattern": r'^(?:\*|"?[0-9]{1,19}"?)$'},
    },
    "McpVersion": {
        "name": "MCP-Protocol-Version",
        "in": "header",
        "description": "The version of MCP that was agreed on; without it, 2025-03-26.",
        "schema": {"enum": ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "Only when it has another `ETag` than these.",
        "schema": {"type": "string"},
    },
    "Passphrase": {
        "name": PASSPHRASE_HEADER,
        "in": "header",
        "description": "The passphrase of the archive: base64url of its UTF-8.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+={0,2}$"},
    },
    "record_id": {
        "name": "record_id",
        "in": "path",
        "required": True,
        "description": FIELDS["record_id"],
        "schema": {"$ref": "#/components/schemas/RecordId"},
        "example": EXAMPLE_ID,
    },
}
HEADERS: dict[str, Schema] = {
    "X-Request-Id": {
        "description": "The request's id.",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    },
    "X-Cerememory-Sequence": {
        "description": "The number of the commit that holds what was written.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-Cerememory-Archive-Id": {
        "description": "The archive's id.",
        "required": True,
        "schema": {"type": "string"},
    },
    "X-Cerememory-Record-Count": {
        "description": "How many records it holds.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-Cerememory-Checksum": {
        "description": "SHA-256 of the archive, in hex.",
        "required": True,
        "schema": {"type": "string"},
    },
    "ETag": {
        "description": "Names what is answered.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "After how many seconds to try again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {"description": "How to send a key.", "required": True, "schema": {"const": "Bearer"}},
}
