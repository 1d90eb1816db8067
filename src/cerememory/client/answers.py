"""What an answer means: JSON, a reply, an archive's head, or the error that it stands for. No I/O."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from cerememory.client.address import Address
from cerememory.client.archives import ArchiveHead
from cerememory.client.errors import HTTP_STATUS, error_of
from cerememory.client.wire import Broken, Head, HttpAnswer
from cerememory.errors import CerememoryError, DaemonUnreachable, InternalError, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.replies import AuditConsistency

R = TypeVar("R")


class Answers:
    """Those of one daemon; each method raises the daemon's error when the answer is one."""

    def __init__(self, address: Address) -> None:
        self._url = address.url
        self._is_https = address.scheme == "https"

    def json(self, answer: HttpAnswer) -> Any:
        """The decoded body, None when it is empty."""
        body = self.body(answer)
        if not body:
            return None
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._no_daemon(answer, "what isn't JSON") from None

    def reply(self, answer: HttpAnswer, kind: type[R]) -> R:
        """The body as a `kind`."""
        body = self.body(answer)
        try:
            return codec.parse(body, kind)
        except ValidationFailed as error:
            raise self._no_daemon(answer, f"what is no {kind.__name__} ({error})") from None

    def body(self, answer: HttpAnswer) -> bytes:
        head = answer.head
        if not 200 <= head.status < 300:
            raise error_of(head.status, answer.body, head.headers.get("retry-after"), self._url)
        return answer.body

    def archive(self, head: Head) -> ArchiveHead:
        """Of a head with status 200."""
        headers = head.headers
        try:
            return ArchiveHead(
                archive_id=headers["x-cerememory-archive-id"],
                record_count=int(headers["x-cerememory-record-count"]),
                checksum=headers["x-cerememory-checksum"],
                size_bytes=int(headers["content-length"]),
            )
        except (KeyError, ValueError):
            message = f"{self._url} answered with what is no archive; is it a Cerememory daemon?"
            raise InternalError(message) from None

    def consistency(self, answer: HttpAnswer) -> tuple[bytes, ...]:
        proof = codec.parse(self.body(answer), AuditConsistency)
        try:
            return tuple(bytes.fromhex(text) for text in proof.hashes)
        except ValueError:
            raise ValidationFailed("hashes: not hex") from None

    def none_came(self, broken: Broken) -> DaemonUnreachable:
        return DaemonUnreachable(f"{self._url} gave no answer: {broken}", was_sent=True)

    def archive_broke_off(self, broken: Broken) -> DaemonUnreachable:
        return DaemonUnreachable(f"{self._url} broke off the archive: {broken}", was_sent=True)

    def not_connected(self, error: OSError) -> CerememoryError:
        """Nothing was sent. A daemon that isn't trusted won't be by waiting."""
        if self._is_https:
            import ssl  # here, for most daemons are asked without

            if isinstance(error, ssl.SSLCertVerificationError):
                return ValidationFailed(f"server_url: {self._url} isn't trusted: {error.verify_message}")
        message = f"{self._url} can't be reached: {reason(error)}; is the daemon running?"
        return DaemonUnreachable(message, was_sent=False)

    def _no_daemon(self, answer: HttpAnswer, what: str) -> ValidationFailed:
        message = f"server_url: {self._url} answered with {what}; is it a Cerememory daemon?"
        return ValidationFailed(message, details={HTTP_STATUS: answer.head.status})


def is_ok(head: Head) -> bool:
    return head.status == HTTPStatus.OK


def reason(error: OSError) -> str:
    """In words, without an address, which event loops put into theirs."""
    if isinstance(error, TimeoutError):
        return "the time limit passed"
    is_systems = isinstance(error, ConnectionError) or type(error) is OSError  # others number differently
    if is_systems and error.errno is not None:
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__
