"""The error tree against its own drawing and against the codes and statuses of the specification."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator

import pytest

from cerememory import errors
from cerememory.errors import ANSWERS, CerememoryError, answer_of, public_details, public_message
from cerememory.protocol import codec
from cerememory.protocol.replies import error_body

STATUSES = {
    "RECORD_NOT_FOUND": {404},
    "STORE_INVALID": {400},
    "CONTENT_TOO_LARGE": {413},
    "VALIDATION_ERROR": {
        400,
        404,
        405,
        408,
        431,
    },  # an unknown route, a wrong method, a slow body, a large head
    "MODALITY_UNSUPPORTED": {400},
    "WORKING_MEMORY_FULL": {503},
    "DECAY_ENGINE_BUSY": {503},
    "CONSOLIDATION_IN_PROGRESS": {503},
    "IMPORT_CONFLICT": {409},
    "FORGET_UNCONFIRMED": {400},
    "VERSION_MISMATCH": {400, 412},  # another protocol, another version of the record
    "UNAUTHORIZED": {401, 403},  # unknown, known but not allowed
    "RATE_LIMITED": {429},
    "EXPORT_FAILED": {500},
    "INTERNAL_ERROR": {500},
}
GRPC_STATUSES = {
    "RECORD_NOT_FOUND": {"NOT_FOUND"},
    "STORE_INVALID": {"INVALID_ARGUMENT"},
    "CONTENT_TOO_LARGE": {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"},  # a field, a message
    "VALIDATION_ERROR": {"INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "NOT_FOUND"},
    "MODALITY_UNSUPPORTED": {"INVALID_ARGUMENT"},
    "WORKING_MEMORY_FULL": {"RESOURCE_EXHAUSTED"},
    "DECAY_ENGINE_BUSY": {"UNAVAILABLE", "DEADLINE_EXCEEDED"},  # the caller's own deadline
    "CONSOLIDATION_IN_PROGRESS": {"UNAVAILABLE"},
    "IMPORT_CONFLICT": {"ALREADY_EXISTS"},
    "FORGET_UNCONFIRMED": {"FAILED_PRECONDITION"},
    "VERSION_MISMATCH": {"FAILED_PRECONDITION", "ABORTED"},
    "UNAUTHORIZED": {"UNAUTHENTICATED", "PERMISSION_DENIED"},
    "RATE_LIMITED": {"RESOURCE_EXHAUSTED"},
    "EXPORT_FAILED": {"INTERNAL"},
    "INTERNAL_ERROR": {"INTERNAL"},
}
GRPC_NAMES = {
    "ABORTED",
    "ALREADY_EXISTS",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
}


def tree(root: type[CerememoryError] = CerememoryError) -> Iterator[type[CerememoryError]]:
    """`root` and the classes below it that errors.py defines."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def leaves() -> list[type[CerememoryError]]:
    return [kind for kind in tree() if len(list(tree(kind))) == 1]


def drawn() -> Iterator[tuple[str, str]]:
    """Each class of the drawing in the module's docstring with its parent, from the indentation."""
    assert errors.__doc__ is not None
    branch = ["CerememoryError"]
    for indent, name in re.findall(r"^ {4}((?:│ {3}| {4})*)[├└]── (\w+)", errors.__doc__, re.MULTILINE):
        depth = len(indent) // 4 + 1
        branch[depth:] = [name]
        yield name, branch[depth - 1]


def example(kind: type[CerememoryError]) -> CerememoryError:
    if issubclass(kind, errors.WrongMethod):
        return kind("said", ("GET",))
    return kind("said")


def by_name(kind: type[CerememoryError]) -> str:
    return kind.__name__


def test_the_tree_is_drawn_as_it_is() -> None:
    exists = {(kind.__name__, kind.__bases__[0].__name__) for kind in tree() if kind is not CerememoryError}
    assert set(drawn()) == exists


def test_each_class_is_drawn_once_below_the_one_root() -> None:
    assert errors.__doc__ is not None
    assert "\n    CerememoryError\n" in errors.__doc__
    assert len(list(drawn())) == len(list(tree())) - 1


def test_every_error_of_the_module_stands_in_the_tree() -> None:
    raised = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert raised == set(tree())


def test_exactly_the_leaves_have_a_row() -> None:
    assert {kind for kind in ANSWERS if kind.__module__ == errors.__name__} == set(leaves())


@pytest.mark.parametrize("kind", leaves(), ids=by_name)
def test_a_leaf_answers_with_a_code_and_status_of_the_specification(kind: type[CerememoryError]) -> None:
    answer = answer_of(example(kind))
    assert answer.http_status in STATUSES[answer.code]
    assert answer.grpc_status in GRPC_STATUSES[answer.code] & GRPC_NAMES
    assert answer.exit_code == 1


def test_every_code_and_status_of_the_specification_has_an_error() -> None:
    rows = {(answer.code, answer.http_status) for answer in ANSWERS.values()}
    assert rows == {(code, status) for code, statuses in STATUSES.items() for status in statuses}


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (errors.ValidationFailed, ("VALIDATION_ERROR", 400, "INVALID_ARGUMENT")),
        (errors.NoRoute, ("VALIDATION_ERROR", 404, "UNIMPLEMENTED")),
        (errors.WrongMethod, ("VALIDATION_ERROR", 405, "UNIMPLEMENTED")),
        (errors.BodyTooSlow, ("VALIDATION_ERROR", 408, "DEADLINE_EXCEEDED")),
        (errors.HeadTooLarge, ("VALIDATION_ERROR", 431, "INVALID_ARGUMENT")),
        (errors.VersionMismatch, ("VERSION_MISMATCH", 400, "FAILED_PRECONDITION")),
        (errors.PreconditionFailed, ("VERSION_MISMATCH", 412, "ABORTED")),
        (errors.Unauthorized, ("UNAUTHORIZED", 401, "UNAUTHENTICATED")),
        (errors.Forbidden, ("UNAUTHORIZED", 403, "PERMISSION_DENIED")),
        (errors.TooManyBytes, ("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE")),
        (errors.ActorBusy, ("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE")),
        (errors.ActorStopped, ("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE")),
        (errors.IdempotencyConflict, ("IMPORT_CONFLICT", 409, "ALREADY_EXISTS")),
    ],
)
def test_errors_that_share_a_code_differ_by_their_class(
    kind: type[CerememoryError], answer: tuple[str, int, str]
) -> None:
    assert answer_of(example(kind))[:3] == answer


@pytest.mark.parametrize("kind", list(tree(errors.Overloaded)), ids=by_name)
def test_an_overloaded_daemon_says_when_to_try_again(kind: type[CerememoryError]) -> None:
    retry_after_s = example(kind).retry_after_s
    assert retry_after_s is not None
    assert retry_after_s >= 1


@pytest.mark.parametrize("kind", [k for k in leaves() if not issubclass(k, errors.Overloaded)], ids=by_name)
def test_no_other_error_asks_to_be_tried_again(kind: type[CerememoryError]) -> None:
    assert example(kind).retry_after_s is None


def test_the_time_to_wait_can_be_given() -> None:
    assert errors.RateLimited("too fast", retry_after_s=7).retry_after_s == 7


@pytest.mark.parametrize("kind", [errors.ActorBusy, errors.ActorStopped])
def test_a_busy_or_stopped_actor_is_named(kind: type[CerememoryError]) -> None:
    assert "journal" in str(kind("journal"))


def test_a_wrong_method_names_the_right_ones() -> None:
    assert errors.WrongMethod("no", ("GET", "PUT")).allowed == ("GET", "PUT")


SECRET = "/var/lib/secret: errno 5"
OURS = [*tree(errors.Failed), *tree(errors.StartRefused), errors.StorageUnavailable]


@pytest.mark.parametrize("kind", [kind for kind in leaves() if kind in OURS], ids=by_name)
def test_a_failure_of_ours_says_only_that_it_happened(kind: type[CerememoryError]) -> None:
    error = kind(SECRET, details={"path": SECRET})
    shown = codec.dump(error_body(error, "0191aaaa")).decode()
    assert SECRET not in shown
    assert public_message(error)
    assert public_details(error) is None


@pytest.mark.parametrize("kind", [kind for kind in leaves() if kind not in OURS], ids=by_name)
def test_any_other_error_is_told_to_the_caller(kind: type[CerememoryError]) -> None:
    assert "said" in public_message(example(kind))


def test_details_are_told_to_the_caller() -> None:
    error = errors.PreconditionFailed("the version is 3", details={"version": 3})
    assert public_details(error) == {"version": 3}


def test_an_error_body_has_every_key_of_the_specification() -> None:
    body = error_body(errors.RateLimited("too fast", retry_after_s=2), "0191aaaa-0000-7000-8000-00000000ffff")
    assert json.loads(codec.dump(body)) == {
        "code": "RATE_LIMITED",
        "message": "too fast",
        "details": None,
        "retry_after": 2,
        "request_id": "0191aaaa-0000-7000-8000-00000000ffff",
    }


def test_an_error_body_leaves_out_only_a_request_id_that_is_not_there() -> None:
    body = json.loads(codec.dump(error_body(errors.RecordNotFound("no such record"), None)))
    assert body == {
        "code": "RECORD_NOT_FOUND",
        "message": "no such record",
        "details": None,
        "retry_after": None,
    }
