"""Requests as values: what a caller asks for, and the HTTP request that it becomes. No I/O.

An `Ask` is about an operation, whoever asks it; a `Caller` (server, key, namespace) makes the request of it. A
write gets an idempotency key of its own when the ask has none, so every try of one call carries the same.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

import cerememory
from cerememory.client.address import check_api_key, parse_address
from cerememory.client.wire import HttpRequest
from cerememory.errors import ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.namespaces import HEADER, check_name
from cerememory.protocol.operations import BY_NAME
from cerememory.protocol.requests import Request

ARCHIVE_PATH = "/v1/archive"
SEQUENCE_HEADER = "X-Cerememory-Sequence"
_KEY_HEADER = "Idempotency-Key"
_KEY = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Ask:
    """One operation with its arguments. `body` is anything that the codec dumps, None for no body."""

    operation: str
    body: object | None = field(default=None, repr=False)
    path_params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def write(operation: str, request: Request, idempotency_key: str | None, if_match: int | None = None) -> Ask:
    headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
    return _typed(operation, request, headers, idempotency_key)


def read(operation: str, request: Request | None, sequence: int | None) -> Ask:
    """`sequence` is the number of a commit that the answer is to have in it."""
    return _typed(operation, request, {} if sequence is None else {SEQUENCE_HEADER: str(sequence)}, None)


def _typed(
    operation: str, request: Request | None, headers: Mapping[str, str], idempotency_key: str | None
) -> Ask:
    """Path and query are what the request says; `ValidationFailed` when its id is missing."""
    row = BY_NAME[operation]
    has_body = row.method != "GET"
    return Ask(
        operation,
        request if has_body else None,
        {"record_id": _record_id(request)} if "{record_id}" in row.path else {},
        {} if has_body or request is None else _query(request),
        idempotency_key,
        headers,
    )


def _record_id(request: Request | None) -> str:
    record_id = getattr(request, "record_id", None)
    if record_id is None:
        raise ValidationFailed("record_id: missing field")
    return str(record_id)


def _query(request: Request) -> dict[str, str]:
    """Every field that isn't what it is by default, but for the path's."""
    given = {
        name: getattr(request, name) for name in request.__struct_fields__ if name not in ("record_id", "header")
    }
    return {name: as_text(value) for name, value in given.items() if value not in (None, False)}


def including(request: HttpRequest, sequence: int | None) -> HttpRequest:
    """`request`; if it is a read, its answer is to have commit `sequence` in it."""
    if sequence is None or _KEY_HEADER in request.headers:
        return request
    return replace(request, headers={SEQUENCE_HEADER: str(sequence), **request.headers})


def as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _as_unicode() -> Iterator[None]:
    """For lone surrogates, as names of files have them; the error's own words would show the text."""
    try:
        yield
    except UnicodeEncodeError:
        raise ValidationFailed("request: holds text that isn't Unicode") from None


class Caller:
    """Who asks. `ValidationFailed` for a URL, key or namespace that can't be used."""

    def __init__(self, server_url: str, api_key: str | None, namespace: str | None) -> None:
        self.address = parse_address(server_url)
        check_api_key(api_key, self.address)
        if namespace is not None:
            check_name(namespace)
        self.namespace = namespace
        self._headers = {"Accept": "application/json", "User-Agent": f"cerememory/{cerememory.__version__}"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        if namespace is not None:
            self._headers[HEADER] = namespace

    @_as_unicode()
    def request(self, ask: Ask) -> HttpRequest:
        """`ValidationFailed` for an operation that there isn't, or that lacks a part of its path."""
        operation = BY_NAME.get(ask.operation)
        if operation is None:
            raise ValidationFailed(f"operation: there is no {ask.operation[:64]!r}")
        key = ask.idempotency_key
        if key is None and operation.mutates:
            key = str(uuid.uuid4())
        return self._made(
            operation.method,
            _path(operation.path, ask.path_params) + (f"?{urlencode(ask.query)}" if ask.query else ""),
            {**_key_header(key), **ask.headers},
            None if ask.body is None else codec.dump(ask.body),
        )

    def look(self, target: str) -> HttpRequest:
        """A GET of what isn't CMP."""
        return self._made("GET", target, _NOTHING, None)

    @_as_unicode()
    def export(self, body: object | None) -> HttpRequest:
        """`body` as in an export request; None is one that says nothing."""
        return self._made("POST", ARCHIVE_PATH, _NOTHING, codec.dump({} if body is None else body))

    @_as_unicode()
    def import_(self, terms: object, size_bytes: int | None, idempotency_key: str | None) -> HttpRequest:
        """The head of an import; `terms` as in an import request. Without a size the body goes in chunks.

        The passphrase goes into a header: a query might be logged.
        """
        written: dict[str, Any] = codec.plain(terms)
        given = {name: value for name, value in written.items() if value is not None}
        passphrase = given.pop("decryption_key", None)
        headers = {**self._headers, **_key_header(idempotency_key), "Content-Type": "application/octet-stream"}
        headers |= {"Transfer-Encoding": "chunked"} if size_bytes is None else {"Content-Length": str(size_bytes)}
        if passphrase is not None:
            headers["X-Archive-Passphrase"] = base64.urlsafe_b64encode(passphrase.encode()).decode()
        query = urlencode({name: as_text(value) for name, value in given.items()})
        return HttpRequest("PUT", f"{self.address.prefix}{ARCHIVE_PATH}?{query}", headers, None)

    def _made(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> HttpRequest:
        kind = {} if body is None else {"Content-Type": "application/json"}
        return HttpRequest(method, self.address.prefix + target, {**self._headers, **kind, **headers}, body or b"")


def _path(template: str, params: Mapping[str, str]) -> str:
    try:
        return template.format_map({name: quote(text, safe="") for name, text in params.items()})
    except KeyError as missing:
        raise ValidationFailed(f"{missing.args[0]}: missing field") from None


def _key_header(idempotency_key: str | None) -> dict[str, str]:
    if idempotency_key is None:
        return {}
    if _KEY.fullmatch(idempotency_key) is None:
        raise ValidationFailed("idempotency_key: expected 1 to 256 visible ASCII characters, spaces only within")
    return {_KEY_HEADER: idempotency_key}
