"""Tracebacks say where and what kind; what the program worked on stays out of them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator

import lmdb
import pytest
import structlog

from cerememory.errors import InternalError, ValidationFailed
from cerememory.failpoints import InjectedCrash
from cerememory.telemetry import logs
from cerememory.telemetry.tracebacks import traceback_of

CANARY = "canary-7f"


def raised(error: BaseException, before: BaseException | None = None, cause: bool = False) -> BaseException:
    """`error` as it was caught, while `before` was handled."""
    try:
        try:
            raise before or KeyError
        except BaseException as inner:
            if cause:
                raise error from inner
            if before is not None:
                raise error  # noqa: B904 - the context is what is tested
        raise error
    except BaseException as caught:  # noqa: BLE001 - it is handed back
        return caught


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"no number: {CANARY}"),
        KeyError(CANARY),
        UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY),
        ValidationFailed(f"store: unknown name '{CANARY}'"),
        ExceptionGroup(CANARY, [ValueError(CANARY), ExceptionGroup("x", [KeyError(CANARY)])]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_message_that_may_quote_a_memory_is_left_out(error: Exception) -> None:
    for caught in (raised(error), raised(RuntimeError(), error), raised(RuntimeError(), error, cause=True)):
        text = traceback_of(caught)
        assert CANARY not in text
        assert type(error).__name__ in text
        assert "test_tracebacks.py" in text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InternalError("the index is gone"), "cerememory.errors.InternalError: the index is gone"),
        (InjectedCrash("a.b"), "cerememory.failpoints.InjectedCrash: a.b"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (lmdb.MapFullError("mdb_put: MDB_MAP_FULL"), "lmdb.MapFullError: mdb_put: MDB_MAP_FULL"),
    ],
)
def test_what_the_system_and_we_say_ourselves_is_there(error: Exception, line: str) -> None:
    assert line in traceback_of(raised(error)).splitlines()


def test_chains_groups_and_notes_are_shown_in_their_order() -> None:
    error = raised(RuntimeError(), OSError(5, "Input/output error"), cause=True)
    error.add_note("asked by r-1")
    text = traceback_of(BaseExceptionGroup("", [error]))
    order = ["ExceptionGroup", "Input/output error", "direct cause", "RuntimeError", "asked by r-1"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert text.splitlines()[2].startswith("  | ")


def test_an_exception_that_leads_to_itself_is_shown_once() -> None:
    first, second = ValueError(), KeyError()
    first.__context__, second.__context__ = second, first
    assert traceback_of(first).count("ValueError") == 1


def test_no_message_steers_a_terminal() -> None:
    assert "\\x1b[2J" in traceback_of(raised(OSError(2, "\x1b[2J")))


def said(style: str, say: Callable[[], None]) -> str:
    stream = io.StringIO()
    logs.configure("debug", style, stream)
    say()
    return stream.getvalue()


def _crash() -> None:
    try:
        raise ValueError(CANARY)
    except ValueError:
        structlog.get_logger().exception("crashed")


@pytest.mark.parametrize("style", ["json", "pretty"])
def test_both_styles_log_such_tracebacks(style: str) -> None:
    text = said(style, _crash)
    assert (CANARY in text, "ValueError" in text, "in _crash" in text) == (False, True, True)


@pytest.mark.parametrize("style", ["json", "pretty"])
def test_nothing_that_a_client_sends_breaks_out_of_its_line(style: str) -> None:
    path = "/x\n2026-01-01 [error] forged\x1b[2J\x9b\u202e\r"
    text = said(style, lambda: structlog.get_logger().debug("client gone", path=path))
    assert (text.count("\n"), text[-1]) == (1, "\n")
    assert text[:-1].isprintable()
    if style == "json":
        assert json.loads(text)["path"] == path


def test_the_stack_of_a_message_that_is_shown_is_pythons_own() -> None:
    caught = raised(OSError(28, "No space left on device"))
    import traceback

    assert traceback_of(caught) == "".join(traceback.format_exception(caught))
    assert sys.exc_info() == (None, None, None)
