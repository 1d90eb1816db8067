"""Archives over HTTP from the caller's side: what a head says of one, and its bytes as they come."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from cerememory.errors import DaemonUnreachable, InternalError

ARCHIVE_PATH = "/v1/archive"
_PART_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class ArchiveStream:
    """An archive that comes; `size_bytes` is what `chunks` give in all, or they raise `DaemonUnreachable`."""

    archive_id: str
    record_count: int
    checksum: str
    size_bytes: int
    chunks: Iterator[bytes]

    def described(self) -> dict[str, Any]:
        """The answer to an export, but for the archive itself."""
        return {
            "archive_id": self.archive_id,
            "size_bytes": self.size_bytes,
            "record_count": self.record_count,
            "checksum": self.checksum,
        }


def archive_in(response: http.client.HTTPResponse, url: str) -> ArchiveStream:
    """The archive whose head is that of `response`."""
    try:
        return ArchiveStream(
            archive_id=response.headers["X-Cerememory-Archive-Id"],
            record_count=int(response.headers["X-Cerememory-Record-Count"]),
            checksum=response.headers["X-Cerememory-Checksum"],
            size_bytes=int(response.headers["Content-Length"]),
            chunks=_chunks(response, url),
        )
    except (TypeError, ValueError):
        raise InternalError(f"{url} answered with what is no archive; is it a Cerememory daemon?") from None


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    try:
        while chunk := response.read(_PART_BYTES):
            yield chunk
        if response.length:  # `read` doesn't tell an early end
            raise http.client.IncompleteRead(b"", response.length)
    except (OSError, http.client.HTTPException) as error:
        raise DaemonUnreachable(f"{url} broke off the archive: {error}", was_sent=True) from error


def import_head(terms: Mapping[str, Any], size_bytes: int) -> tuple[str, dict[str, str]]:
    """Path with query, and headers. The passphrase goes into a header: a query might be logged."""
    query = {name: _text(value) for name, value in terms.items() if name != "decryption_key"}
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
    if (passphrase := terms.get("decryption_key")) is not None:
        headers["X-Archive-Passphrase"] = base64.urlsafe_b64encode(passphrase.encode()).decode()
    return f"{ARCHIVE_PATH}?{urlencode(query)}", headers


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
