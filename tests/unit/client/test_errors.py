"""Error answers become the classes that the daemon raised."""

from __future__ import annotations

import json

import pytest

from cerememory import errors
from cerememory.client.errors import error_of
from cerememory.errors import ANSWERS, Answer, CerememoryError, DaemonBusy, DaemonUnreachable, answer_of

URL = "http://127.0.0.1:8420"


def body(code: str, **fields: object) -> bytes:
    return json.dumps({"code": code, "message": "m", "details": None, "retry_after": None, **fields}).encode()


@pytest.mark.parametrize("answer", sorted(set(ANSWERS.values())), ids=str)
def test_every_answer_of_the_table_comes_back_as_a_class_with_its_code(answer: Answer) -> None:
    error = error_of(answer.http_status, body(answer.code), None, URL)
    assert error.code == answer_of(error).code == answer.code
    assert str(error) == "m"


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("VALIDATION_ERROR", 400, errors.ValidationFailed),
        ("VALIDATION_ERROR", 404, errors.NoRoute),
        ("VALIDATION_ERROR", 405, errors.NoRoute),
        ("CONTENT_TOO_LARGE", 413, errors.ContentTooLarge),
        ("VERSION_MISMATCH", 400, errors.VersionMismatch),
        ("VERSION_MISMATCH", 412, errors.PreconditionFailed),
        ("FORGET_UNCONFIRMED", 400, errors.ForgetUnconfirmed),
        ("UNAUTHORIZED", 401, errors.Unauthorized),
        ("UNAUTHORIZED", 403, errors.Forbidden),
        ("RECORD_NOT_FOUND", 404, errors.RecordNotFound),
        ("IMPORT_CONFLICT", 409, errors.ImportConflict),
        ("RATE_LIMITED", 429, errors.RateLimited),
        ("CONSOLIDATION_IN_PROGRESS", 503, errors.ConsolidationInProgress),
        ("DECAY_ENGINE_BUSY", 503, DaemonBusy),
        ("EXPORT_FAILED", 500, errors.ExportFailed),
        ("INTERNAL_ERROR", 500, errors.InternalError),
    ],
)
def test_code_and_status_together_name_the_class(code: str, status: int, kind: type[CerememoryError]) -> None:
    assert type(error_of(status, body(code), None, URL)) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, errors.ValidationFailed),
        (400, errors.ValidationFailed),
        (401, errors.Unauthorized),
        (404, errors.NoRoute),
        (418, errors.ValidationFailed),
        (429, errors.RateLimited),
        (500, errors.InternalError),
        (502, DaemonBusy),
    ],
)
@pytest.mark.parametrize("answered", [b"", b"<h1>Bad Gateway</h1>", b'{"error": 1}', b"\xff"])
def test_an_answer_without_a_cmp_error_is_judged_by_its_status(
    status: int, kind: type[CerememoryError], answered: bytes
) -> None:
    error = error_of(status, answered, None, URL)
    assert type(error) is kind
    assert URL in str(error)
    assert str(status) in str(error)


def test_a_code_of_a_later_daemon_keeps_its_message() -> None:
    error = error_of(400, body("NEW_REASON", message="content: too purple"), None, URL)
    assert isinstance(error, errors.ValidationFailed)
    assert str(error) == "content: too purple"


def test_details_are_kept() -> None:
    error = error_of(412, body("VERSION_MISMATCH", details={"version": 3}), None, URL)
    assert error.details == {"version": 3}


@pytest.mark.parametrize(
    ("in_body", "in_header", "expected"),
    [(7, "3", 7), (None, "3", 3), (None, "Wed, 21 Oct 2026 07:28:00 GMT", 1), (None, None, 1)],
)
def test_the_time_to_try_again_comes_from_the_body_then_the_header(
    in_body: int | None, in_header: str | None, expected: int
) -> None:
    error = error_of(503, body("DECAY_ENGINE_BUSY", retry_after=in_body), in_header, URL)
    assert error.retry_after_s == expected


@pytest.mark.parametrize(
    ("status", "code", "details"),
    [
        (500, "INTERNAL_ERROR", {"request_id": "0191"}),
        (503, "DECAY_ENGINE_BUSY", {"request_id": "0191"}),
        (400, "VALIDATION_ERROR", None),
    ],
)
def test_a_failure_of_the_daemon_keeps_the_request_id_that_its_log_has(
    status: int, code: str, details: dict[str, str] | None
) -> None:
    assert error_of(status, body(code, request_id="0191"), None, URL).details == details


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_every_error_of_a_daemon_has_its_request_id(status: int) -> None:
    assert error_of(status, body("INTERNAL_ERROR", request_id="0191"), None, URL).request_id == "0191"
    assert error_of(status, b"<h1>", None, URL).request_id is None


@pytest.mark.parametrize("retry_after", ["9" * 400, "9" * 5_000])
def test_a_time_to_try_again_beyond_all_bounds_is_a_day(retry_after: str) -> None:
    assert error_of(503, b"", retry_after, URL).retry_after_s == 86_400
    in_body = body("DECAY_ENGINE_BUSY").replace(b'"retry_after": null', b'"retry_after": ' + b"9" * 400)
    assert error_of(503, in_body, None, URL).retry_after_s == 86_400


def test_an_answer_nested_too_deeply_is_no_cmp_error() -> None:
    assert "without a CMP error" in str(error_of(404, b'{"details": {"a": ' + b"[" * 100_000, None, URL))


def test_errors_of_the_client_have_rows_in_the_table() -> None:
    assert answer_of(DaemonUnreachable("gone", was_sent=False)).code == "DECAY_ENGINE_BUSY"
    assert answer_of(DaemonBusy("busy")).http_status == 503
