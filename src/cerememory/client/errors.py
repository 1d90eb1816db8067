"""What a caller over HTTP meets: the daemon's error answers as our classes, and a daemon that gives none.

`error_of` reads an answer that isn't 2xx. A CMP error body becomes the class that the daemon raised, found by
turning `cerememory.errors.ANSWERS` round, so there is one table for both directions. Whatever else answers
(a reverse proxy, another service) is judged by its status alone.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cerememory.errors import (
    ANSWERS,
    BodyTooSlow,
    CerememoryError,
    ContentTooLarge,
    DaemonBusy,
    Forbidden,
    HeadTooLarge,
    InternalError,
    NoRoute,
    Overloaded,
    RateLimited,
    Unauthorized,
    ValidationFailed,
)
from cerememory.protocol.replies import ErrorBody

RETRY_AFTER_S_MAX = 86_400  # nobody waits longer within a call; what more is said needn't be a number of seconds
HTTP_STATUS = "http_status"  # in the details of what wasn't answered in CMP: no daemon has judged the request

_CLASSES: dict[tuple[str, int], type[CerememoryError]] = {
    **{(row.code, row.http_status): kind for kind, row in reversed(ANSWERS.items())},  # the first row wins
    ("DECAY_ENGINE_BUSY", 503): DaemonBusy,
    ("VALIDATION_ERROR", 405): NoRoute,  # to a caller, one thing: this daemon hasn't got the operation
}
_CLASSES_BY_STATUS: dict[int, type[CerememoryError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NoRoute,
    405: NoRoute,
    408: BodyTooSlow,
    413: ContentTooLarge,
    429: RateLimited,
    431: HeadTooLarge,
    502: DaemonBusy,
    503: DaemonBusy,
    504: DaemonBusy,
}


def error_of(status: int, body: bytes, retry_after: str | None, url: str) -> CerememoryError:
    """The error that an answer with `status` stands for.

    `retry_after` is the header's text; the body's own `retry_after` comes first. `url` is the daemon's, for
    the message when the answer has no CMP error body.
    """
    try:
        error = msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = ErrorBody(
            code="",
            message=f"{url} answered {status} without a CMP error; is it a Cerememory daemon?",
            details={HTTP_STATUS: status},
            retry_after=None,
        )
    raised = _raised(error, status, retry_after)
    raised.request_id = error.request_id
    return raised


def _raised(error: ErrorBody, status: int, retry_after: str | None) -> CerememoryError:
    kind = _CLASSES.get((error.code, status)) or _class_of_status(status)
    details = _with_request_id(error) if status >= 500 else error.details
    if not issubclass(kind, Overloaded):
        return kind(error.message, details=details)
    retry_after_s = _seconds(retry_after) if error.retry_after is None else error.retry_after
    return kind(error.message, retry_after_s=min(retry_after_s or 1, RETRY_AFTER_S_MAX), details=details)


def _class_of_status(status: int) -> type[CerememoryError]:
    return _CLASSES_BY_STATUS.get(status, InternalError if status >= 500 else ValidationFailed)


def _with_request_id(error: ErrorBody) -> dict[str, Any] | None:
    """The daemon's log has the reason of its failures under this id alone, so it stays with the error."""
    if error.request_id is None:
        return error.details
    return {**(error.details or {}), "request_id": error.request_id}


def _seconds(retry_after: str | None) -> int | None:
    """The header as seconds; its other form, a date, is not used by the daemon."""
    if retry_after is None or not retry_after.isdecimal():
        return None
    return int(retry_after[:20])
