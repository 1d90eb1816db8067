"""The command line of `cerememory-recorder`: what it takes, what it refuses, how it ends."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cerememory.cli.recorder import quick, runs
from cerememory.cli.recorder.app import parse
from cerememory.cli.recorder.main import run
from cerememory.cli.recorder.settings import spool_path
from cerememory.recorder.ingest import Terms
from tests.support.fake_daemon import FakeDaemon, answer
from tests.support.nobody import no_home
from tests.support.recorder import batches, counted, event, recorder

URL = "http://127.0.0.1:8420"
TERMS = Terms(50, 1.0)
Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], (URL, spool_path(None), 262_144, TERMS)),
        (
            ["--server-url", "https://h", "--spool-dir", "/x", "--max-event-bytes", "9"],
            ("https://h", Path("/x"), 9, TERMS),
        ),
        (
            ["--batch-max-records", "3", "--flush-interval-ms=250"],
            (URL, spool_path(None), 262_144, Terms(3, 0.25)),
        ),
    ],
)
@pytest.mark.parametrize("flag", [[], ["--detach"]])
def test_the_options_of_ingest(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], flag: list[str], told: tuple[object, ...]
) -> None:
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(runs, "ingest", lambda *given: seen.append((False, *given)))
    monkeypatch.setattr(runs, "ingest_detached", lambda *given: seen.append((True, *given)))
    parse(["ingest", *arguments, *flag])()
    assert seen == [(bool(flag), *told)]


@pytest.mark.parametrize("arguments", [["--server-url", URL], ["--max-event-bytes", "9", "--server-url", URL]])
def test_what_hooks_say_is_read_at_once_and_the_library_reads_the_same(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    detached = quick.usual(arguments)
    assert isinstance(detached, partial)
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(runs, "ingest_detached", lambda *given: seen.append(given))
    parse(["ingest", "--detach", *arguments])()
    assert seen == [detached.args]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--server-url"],
        ["--server-url", URL, "--server-url", URL],
        ["--server-url", URL, "--max-event-bytes", "0"],
        ["--server-url", URL, "--max-event-bytes", "many"],
        ["--server-url", URL, "--flush-interval-ms", "1"],
        [f"--server-url={URL}"],
        ["--server-url", "--spool-dir"],
    ],
    ids=" ".join,
)
def test_anything_else_is_left_to_the_library(arguments: list[str]) -> None:
    assert quick.usual(arguments) is None


def test_where_the_spool_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CEREMEMORY_RECORDER_SPOOL_DIR", raising=False)
    assert spool_path(None) == tmp_path / ".cerememory" / "recorder" / "spool"
    monkeypatch.setenv("CEREMEMORY_RECORDER_SPOOL_DIR", "~/elsewhere")
    assert spool_path(None) == tmp_path / "elsewhere"
    assert spool_path(Path("here")) == Path.cwd() / "here"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command is missing"),
        (["record"], "unknown command 'record'"),
        (["ingset"], "did you mean ingest?"),
        (["ingest", "--server"], "unknown option '--server'"),
        (["ingest", "--batch-max-records", "0"], "--batch-max-records"),
        (["ingest", "--flush-interval-ms", "-1"], "--flush-interval-ms"),
        (["ingest", "--max-event-bytes", "many"], "--max-event-bytes"),
        (["install-hook"], "CLIENT"),
        (["install-hook", "vim"], '"codex", "claude-code", "cursor"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_line_that_means_nothing_is_one_line(
    capsys: Captured, arguments: list[str], message: str
) -> None:
    assert run(arguments) == 2
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert errors.startswith("error: ") and message in errors


@pytest.mark.parametrize(
    "command", [["ingest"], ["ingest", "--detach"], ["drain"], ["doctor"], ["install-hook", "codex"]]
)
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://memory.example:8420", "http:// goes to loopback hosts only, not to memory.example"),
        ("http://10.0.0.1", "loopback hosts only"),
        ("https://me@memory.example", "no user, query or fragment"),
        ("https://memory.example/?key=x", "no user, query or fragment"),
        ("ftp://memory.example", "must start with http:// or https://"),
    ],
)
def test_what_is_recorded_goes_nowhere_unsafe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured, command: list[str], url: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CEREMEMORY_RECORDER_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.delenv("CEREMEMORY_SERVER_API_KEY", raising=False)
    assert run([*command, "--server-url", url]) == 1
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_last_line_counts(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    lines = [event("a"), event("b", turn_id="1"), event("b", turn_id="1")]
    with FakeDaemon(answer({"results": []})) as daemon:
        ran = recorder("ingest", "--server-url", daemon.url, spool=spool, stdin="".join(lines))
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == "cerememory-recorder: accepted=2, duplicate=1, sent=2, spooled=0\n"


def test_a_refused_line_is_told_and_fails_the_run_at_its_end(tmp_path: Path) -> None:
    with FakeDaemon(answer({"results": []})) as daemon:
        lines = f"nonsense\n{event('a')}{event(' ')}{event('b')}"
        ran = recorder("ingest", "--server-url", daemon.url, spool=tmp_path / "spool", stdin=lines)
        assert [len(request.json["records"]) for request in daemon.requests] == [2]
    assert ran.returncode == 1
    assert [line.split(":")[1] for line in ran.stderr.splitlines()[:2]] == [" line 1", " line 3"]
    assert counted(ran) == "accepted=2, duplicate=0, sent=2, spooled=0"


def test_a_spool_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    ran = recorder("ingest", "--server-url", URL, spool=tmp_path, stdin=event("a"))
    assert ran.returncode == 1
    assert "others may enter it" in ran.stderr
    assert counted(ran) == "accepted=0, duplicate=0, sent=0, spooled=0"


def test_an_event_with_secrets_is_never_in_the_spool(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with FakeDaemon() as daemon:
        daemon.stop()
        stdin = event("password=hunter2", metadata={"token": "hunter2"})
        ran = recorder("ingest", "--server-url", daemon.url, spool=spool, stdin=stdin)
    assert (ran.returncode, counted(ran)) == (0, "accepted=1, duplicate=0, sent=0, spooled=1")
    [file] = batches(spool)
    assert "[REDACTED]" in file.read_text() and "hunter2" not in file.read_text()


def test_installing_says_what_to_do(tmp_path: Path) -> None:
    ran = recorder("install-hook", "claude-code", spool=tmp_path / "spool", cwd=tmp_path)
    assert ran.returncode == 0
    assert ran.stdout.startswith("Wrote .claude/hooks/cerememory-recorder-claude-code-hook.py\nWrote ")
    assert "Add this to .claude/settings.json yourself" in ran.stdout
    again = recorder("install-hook", "claude-code", spool=tmp_path / "spool", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert "--force replaces it" in again.stderr


@pytest.mark.parametrize(
    "command", [["ingest"], ["ingest", "--detach", "--server-url", URL], ["drain"], ["doctor"]]
)
def test_without_a_home_the_spool_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, command: list[str]
) -> None:
    no_home(monkeypatch)
    monkeypatch.delenv("CEREMEMORY_RECORDER_SPOOL_DIR", raising=False)
    assert run(command) == 1
    assert "error: --spool-dir: ~/.cerememory/recorder/spool needs HOME to be set\n" in capsys.readouterr().err
