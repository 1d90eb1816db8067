"""What becomes of a command that fails: one line on stderr and an exit code."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from cerememory.cli import app, main
from cerememory.cli.groups import ungrouped
from cerememory.cli.main import run
from cerememory.cli.options import UsageError
from cerememory.errors import (
    ANSWERS,
    AuditBroken,
    ConfigInvalid,
    InternalError,
    RecordNotFound,
    ValidationFailed,
)
from tests.support.daemon import COMMAND, cerememory, clean_environment

Fail = Callable[[BaseException], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Makes every command raise an error."""

    def fail(error: BaseException) -> None:
        def command() -> NoReturn:
            raise error

        monkeypatch.setattr(app, "parse", lambda argv: command)

    return fail


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RecordNotFound("Record not found: 7"), 1, "error: Record not found: 7\n"),
        (ConfigInvalid("http.port: blank (file)"), 1, "error: http.port: blank (file)\n"),
        (
            ConfigInvalid("http.port: blank\ndata_dir: blank"),
            1,
            "error: http.port: blank\nerror: data_dir: blank\n",
        ),
        (UsageError("unknown option '--x'"), 2, "error: unknown option '--x'\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x.txt"),
            1,
            "error: x.txt: No such file or directory\n",
        ),
        (OSError(28, "No space left on device"), 1, "error: system: No space left on device\n"),
        (ValueError("a\nb"), 1, "error: unexpected ValueError: a b (--verbose shows where)\n"),
        (RecordNotFound("no \x1b[2J\nrecord"), 1, "error: no \\x1b[2J record\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_failure_is_one_line_and_an_exit_code(
    fail: Fail, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    fail(error)
    assert run(["anything"]) == code
    assert capsys.readouterr() == ("", message)


def test_an_error_of_the_daemon_comes_with_its_request_id(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(InternalError("An internal error occurred", details={"request_id": "0191"}))
    run([])
    assert capsys.readouterr().err == "error: An internal error occurred (request 0191)\n"


def test_what_was_noted_on_the_way_is_said(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    error = ValidationFailed("text: missing field")
    error.add_note("3 records were loaded before")
    fail(error)
    run([])
    assert capsys.readouterr().err == "error: text: missing field (3 records were loaded before)\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), RecordNotFound("no")])
def test_the_traceback_is_shown_when_asked_for(
    fail: Fail, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    fail(error)
    run(["x"])
    assert "Traceback" not in capsys.readouterr().err
    fail(error)
    run(["x", "--verbose"])
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def hangup() -> Iterator[None]:
    """What SIGHUP does in this process is as it was afterwards."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve"], signal.SIG_IGN),
        (["--json", "--namespace", "serve", "serve"], signal.SIG_IGN),
        (["--data-dir=serve", "serve", "--port", "1"], signal.SIG_IGN),
        (["store", "x"], signal.SIG_DFL),
        (["mcp", "--namespace", "serve"], signal.SIG_DFL),
        (["--namespace", "serve", "mcp"], signal.SIG_DFL),
        (["store", "serve"], signal.SIG_DFL),
        (["store", "--", "serve"], signal.SIG_DFL),
        (["serve", "--data-dir"], signal.SIG_DFL),  # which means nothing
        ([], signal.SIG_DFL),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_sighup_is_ignored_before_a_daemon_handles_it(
    hangup: None, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: signal.Handlers
) -> None:
    found = []
    monkeypatch.setattr(sys, "argv", ["cerememory", *arguments])
    monkeypatch.setattr(os, "umask", lambda mask: None)
    monkeypatch.setattr(main, "run", lambda argv, load: found.append(signal.getsignal(signal.SIGHUP)))
    with pytest.raises(SystemExit):
        main.main()
    assert found == [expected]


def test_what_a_process_loads_for_its_command_is_never_searched_for_garbage() -> None:
    searches = []

    def load(argv: list[str]) -> main.Command:
        searches.append(gc.isenabled())
        return lambda: len(argv)

    frozen = gc.get_freeze_count()
    try:
        assert run(["a", "b"], main.kept(load)) == 2
        assert searches == [False]
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        gc.enable()


def test_what_is_alone_in_a_group_leaves_it() -> None:
    with pytest.raises(AuditBroken, match="line 3"), ungrouped():
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [AuditBroken("line 3: no")])])
    with pytest.raises(KeyboardInterrupt), ungrouped():
        raise BaseExceptionGroup("nursery", [KeyboardInterrupt()])


def test_a_group_of_several_stays_one() -> None:
    with pytest.RaisesGroup(AuditBroken, AuditBroken), ungrouped():
        raise ExceptionGroup("both", [AuditBroken("a"), AuditBroken("b")])


def test_every_error_has_an_exit_code() -> None:
    assert {answer.exit_code for answer in ANSWERS.values()} == {1}


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    with subprocess.Popen(
        [COMMAND, "config", "check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("closed", "is_read"), [("<&-", True), (">&-", False), ("2>&-", True), ("<&- >&- 2>&-", False)]
)
def test_a_stream_that_is_closed_gets_and_gives_nothing(tmp_path: Path, closed: str, is_read: bool) -> None:
    for arguments in ("--help", "store x --data-dir data", "recall --data-dir data", "load - --data-dir data"):
        ran = subprocess.run(
            ["sh", "-c", f'exec "$0" {arguments} {closed}', COMMAND],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=clean_environment(),
            cwd=tmp_path,
        )
        assert (ran.returncode, ran.stderr, bool(ran.stdout)) == (0, b"", is_read), arguments
    assert "1 memories" in cerememory("fsck", "--data-dir", tmp_path / "data").stdout


def test_an_argument_that_isnt_text_is_refused(tmp_path: Path) -> None:
    refused = cerememory("store", "\udcff", "--data-dir", tmp_path / "data")
    assert (refused.returncode, refused.stderr) == (1, "error: an argument isn't valid UTF-8\n")


def test_what_a_terminal_cant_encode_is_written_out(tmp_path: Path) -> None:
    cerememory("store", "naïve", "--data-dir", tmp_path / "data")
    found = cerememory("recall", "--data-dir", tmp_path / "data", env={"PYTHONIOENCODING": "ascii"})
    assert "na\\xefve" in found.stdout
