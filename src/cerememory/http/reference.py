"""The two answers that describe the daemon: its OpenAPI document and the page made from it, each made once.

Imported by the first request for one of them: a daemon that nobody asks doesn't load what makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from cerememory.http.exchange import JSON, Exchange, Headers, Response
from cerememory.http.openapi import document
from cerememory.http.reference_page import POLICY, page

_PAGE_HEADERS: Headers = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(frozen=True, slots=True)
class Rendition:
    body: bytes
    content_type: bytes
    etag: str
    headers: Headers

    @classmethod
    def of(cls, body: bytes, content_type: bytes, headers: Headers) -> Rendition:
        etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
        return cls(body, content_type, etag, [(b"etag", etag.encode()), (b"cache-control", b"no-cache"), *headers])

    def answer(self, exchange: Exchange) -> Response:
        """The whole, or 304 without a body when the client has this one already."""
        if _has(exchange.header(b"if-none-match") or "", self.etag):
            return Response(304, content_type=None, headers=list(self.headers))
        return Response(200, self.body, self.content_type, list(self.headers))


def _has(sent: str, etag: str) -> bool:
    """Whether `If-None-Match` names `etag`; a weak tag counts as its strong one."""
    tags = [tag.strip().removeprefix("W/") for tag in sent.split(",")]
    return etag in tags or tags == ["*"]


@dataclass(frozen=True, slots=True)
class Reference:
    document: Rendition
    page: Rendition


def make(routes: Iterable[tuple[str, str]]) -> Reference:
    """Both for `routes`, each a method and a path."""
    made = document(routes)
    return Reference(
        document=Rendition.of(msgspec.json.encode(made), JSON, []),
        page=Rendition.of(page(made), b"text/html; charset=utf-8", _PAGE_HEADERS),
    )
