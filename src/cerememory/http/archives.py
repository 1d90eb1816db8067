"""Archives over HTTP as streams: what of them stands in heads and queries.

`POST /v1/archive` answers the archive that its body, an export request, asks for; `PUT /v1/archive` takes one in.
A passphrase comes in `X-Archive-Passphrase` as base64url of its UTF-8: heads are in no log, and in no address.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from cerememory.actors.engine import ExportedArchive
from cerememory.errors import ValidationFailed
from cerememory.http.exchange import Exchange, Headers
from cerememory.protocol import codec
from cerememory.protocol.requests import Export, ImportTerms

ARCHIVE_PATH = "/v1/archive"
IMPORT_ROUTE = ("PUT", ARCHIVE_PATH)
ARCHIVE_TYPE = b"application/octet-stream"
PASSPHRASE_HEADER = "X-Archive-Passphrase"
TRUTHS = {"true": True, "false": False}


def with_passphrase(exchange: Exchange, request: Export) -> Export:
    """`request` with the key of the head, which needn't say that it encrypts."""
    passphrase = _passphrase(exchange)
    if passphrase is None:
        return request
    if request.encryption_key is not None:
        raise ValidationFailed(f"encryption_key: is given here and in {PASSPHRASE_HEADER}")
    return msgspec.structs.replace(request, encrypt=True, encryption_key=passphrase)


def import_terms(exchange: Exchange) -> ImportTerms:
    """What head and query say of the archive that comes; without an id it has that of the request."""
    given: dict[str, Any] = dict(parse_qsl(exchange.query.decode("latin-1"), keep_blank_values=True))
    if "dry_run" in given:
        given["dry_run"] = _truth(given["dry_run"], "dry_run")
    named = {"archive_id": exchange.request_id, **given, "decryption_key": _passphrase(exchange)}
    return codec.parse(codec.dump(named), ImportTerms, "query")


def _truth(value: str, where: str) -> bool:
    if value not in TRUTHS:
        raise ValidationFailed(f"{where}: expected true or false, got {value[:32]!r}")
    return TRUTHS[value]


def _passphrase(exchange: Exchange) -> str | None:
    sent = exchange.header(PASSPHRASE_HEADER.lower().encode())
    if sent is None:
        return None
    try:
        padded = sent + "=" * (-len(sent) % 4)
        passphrase = base64.b64decode(padded.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise ValidationFailed(f"{PASSPHRASE_HEADER}: expected base64url of UTF-8") from None
    if not passphrase:
        raise ValidationFailed(f"{PASSPHRASE_HEADER}: must not be empty")
    return passphrase


def archive_headers(exported: ExportedArchive) -> Headers:
    """What is known of an archive before its first byte is sent."""
    return [
        (b"x-cerememory-archive-id", exported.archive_id.encode()),
        (b"x-cerememory-record-count", b"%d" % exported.record_count),
        (b"x-cerememory-checksum", exported.checksum.encode()),
        (b"content-disposition", b'attachment; filename="%b.cma"' % exported.archive_id.encode()),
    ]
