"""The recorder and its hooks as processes, against the real daemon and one that fails."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cerememory.client import Client
from cerememory.recorder.hooks import CLIENTS, install
from tests.support.calls import UNLIMITED
from tests.support.daemon import NO_ENV, WAIT_S, Daemon
from tests.support.fake_daemon import FakeDaemon, answer, held
from tests.support.recorder import RECORDER, counted, environment, event, kept, recorder, wait_for_sender

FAILPOINTS = "CEREMEMORY_TEST_FAILPOINTS"
STORED = answer({"results": []})


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("recorder") / "data", env=UNLIMITED) as daemon:
        yield daemon


def recorded(url: str, session_id: str, key: str | None = None) -> list[dict[str, Any]]:
    """The raw entries of a session, oldest first."""
    with Client(url, key) as client:
        body = {"session_id": session_id, "limit": 1_000, "include_private_scratch": True}
        records: list[dict[str, Any]] = client.call("recall.raw_query", body)["records"]
    return sorted(records, key=lambda record: str(record["id"]))


def texts(records: list[dict[str, Any]]) -> list[str]:
    return [bytes(record["content"]["blocks"][0]["data"]).decode() for record in records]


def drain(daemon: Daemon, spool: Path) -> None:
    """Returns once nothing is left in the spool, whoever sends it."""
    while kept(spool):
        recorder("drain", "--server-url", daemon.url, spool=spool)
        wait_for_sender(spool)


def test_events_become_raw_entries(daemon: Daemon, spool: Path) -> None:
    lines = [
        event("what does it cost?", session_id="shop", topic_id="money", turn_id="1", source="cli"),
        event(
            {"cmd": ["curl", "-H", "Authorization: Bearer abcdef12345"]}, session_id="shop", event_type="tool_call"
        ),
        event("it costs 5", session_id="shop", event_type="assistant_message", meta={"intent": "answer"}),
    ]
    ran = recorder("ingest", "--server-url", daemon.url, spool=spool, stdin="".join(lines))
    assert (ran.returncode, counted(ran)) == (0, "accepted=3, duplicate=0, sent=3, spooled=0")
    asked, called, answered = recorded(daemon.url, "shop")
    assert (asked["source"], asked["speaker"], asked["turn_id"], asked["topic_id"]) == (
        *("conversation", "user", "1", "money"),
    )
    assert (called["source"], called["speaker"]) == ("tool_io", "tool")
    assert texts([called]) == ['{"cmd":["curl","-H","Authorization: [REDACTED]"]}']
    assert asked["secrecy_level"] == "sensitive"
    assert asked["metadata"]["capture_source"] == "cli"
    assert answered["meta"]["intent"] == "answer"


def test_a_batch_whose_daemon_dies_between_commit_and_answer_is_stored_once(tmp_path: Path, spool: Path) -> None:
    data_dir = tmp_path / "data"
    lines = event("once") + event("only")
    with Daemon(data_dir, env={**UNLIMITED, FAILPOINTS: "http.before_answer=kill"}) as first:
        ran = recorder("ingest", "--server-url", first.url, spool=spool, stdin=lines)
        first.wait()
    assert (ran.returncode, counted(ran)) == (0, "accepted=2, duplicate=0, sent=0, spooled=2")
    with Daemon(data_dir, env=UNLIMITED, port=first.port) as second:
        assert texts(recorded(second.url, "s")) == ["once", "only"]  # it was committed
        ran = recorder("ingest", "--server-url", second.url, spool=spool, stdin=event("new"))
        assert (ran.returncode, counted(ran)) == (0, "accepted=1, duplicate=0, sent=3, spooled=0")
        assert texts(recorded(second.url, "s")) == ["once", "only", "new"]
    assert kept(spool) == []


def test_what_a_daemon_missed_comes_first(daemon: Daemon, spool: Path) -> None:
    for text in ("first", "second"):
        away = recorder(
            "ingest", "--server-url", "http://127.0.0.1:9", spool=spool, stdin=event(text, session_id="o")
        )
        assert (away.returncode, counted(away)) == (0, "accepted=1, duplicate=0, sent=0, spooled=1")
    recorder("ingest", "--server-url", daemon.url, spool=spool, stdin=event("third", session_id="o"))
    assert texts(recorded(daemon.url, "o")) == ["first", "second", "third"]


def test_a_wrong_key_loses_nothing(tmp_path: Path, spool: Path) -> None:
    keys = {"CEREMEMORY_AUTH__ENABLED": "true", "CEREMEMORY_AUTH_API_KEYS": "sesame-sesame-sesame"}
    with Daemon(tmp_path / "data", env={**UNLIMITED, **keys}) as daemon:
        wrong, right = ({"CEREMEMORY_SERVER_API_KEY": key} for key in ("open-up", "sesame-sesame-sesame"))
        ran = recorder("ingest", "--server-url", daemon.url, spool=spool, stdin=event("kept"), env=wrong)
        assert (ran.returncode, counted(ran)) == (1, "accepted=1, duplicate=0, sent=0, spooled=1")
        found = recorder("doctor", "--server-url", daemon.url, spool=spool, env=wrong)
        assert found.returncode == 1
        assert [line.split(" - ")[0] for line in found.stdout.splitlines()] == [
            *("ok health", "ok readiness", "ok spool", "fail auth", "fail raw_ingest")
        ]
        ran = recorder("drain", "--server-url", daemon.url, spool=spool, env=right)
        assert (ran.returncode, counted(ran)) == (0, "accepted=0, duplicate=0, sent=1, spooled=0")
        assert texts(recorded(daemon.url, "s", "sesame-sesame-sesame")) == ["kept"]


def test_doctor_finds_nothing_wrong(daemon: Daemon, spool: Path) -> None:
    for arguments, stored in ((["--skip-raw-ingest-probe"], 0), ([], 1)):
        found = recorder("doctor", "--server-url", daemon.url, *arguments, spool=spool)
        assert (found.returncode, found.stderr) == (0, "")
        assert all(line.startswith("ok ") for line in found.stdout.splitlines())
        assert len(recorded(daemon.url, "cerememory-recorder-doctor")) == stored


@pytest.mark.parametrize(("option", "number"), [([], signal.SIGTERM), (["--detach"], signal.SIGALRM)])
def test_an_end_by_a_signal_keeps_what_is_pending(
    daemon: Daemon, spool: Path, option: list[str], number: signal.Signals
) -> None:
    session = number.name
    with subprocess.Popen(
        [RECORDER, "ingest", *option, "--server-url", daemon.url, "--flush-interval-ms", "600000"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(spool),
        text=True,
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(event("pending", session_id=session) + "nonsense\n")
        process.stdin.flush()
        assert "line 2" in process.stderr.readline()  # so the first has been read
        process.send_signal(number)
        rest = process.stderr.read()
    assert "accepted=1" in rest
    recorder("drain", "--server-url", daemon.url, spool=spool)
    assert texts(recorded(daemon.url, session)) == ["pending"]


# Hooks.


def installed(client: str, url: str, target: Path) -> str:
    """The command that the example tells the client to run."""
    written = install(CLIENTS[client], target, url, str(RECORDER), force=False)
    commands: set[str] = set(re.findall(r'"command": "(python3 .*)"', written.settings))
    assert len(commands) == 1
    return commands.pop()


def hook(
    command: str, payload: object, spool: Path, cwd: Path, env: Mapping[str, str] = NO_ENV
) -> subprocess.CompletedProcess[str]:
    """A hook run to its end, which may come before its recorder's."""
    return subprocess.run(
        shlex.split(command),
        input=payload if isinstance(payload, str) else json.dumps(payload),
        capture_output=True,
        text=True,
        env=environment(spool, env),
        cwd=cwd,
        timeout=WAIT_S,
        check=False,
        pass_fds=[int(fd)] if (fd := env.get("HELD")) else [],
    )


@contextmanager
def recorders_awaited() -> Iterator[dict[str, str]]:
    """The block's end comes after that of each recorder that a hook has started with this environment."""
    ended, held = os.pipe()  # which recorders inherit
    try:
        yield {"HELD": str(held)}
        os.close(held)
        assert select.select([ended], [], [], WAIT_S)[0]
        assert os.read(ended, 1) == b""
    finally:
        os.close(ended)


@pytest.mark.parametrize(
    ("client", "payloads", "output", "expected"),
    [
        (
            "codex",
            [
                {"hook_event_name": "UserPromptSubmit", "session_id": "codex-1", "prompt": "list it"},
                {"hook_event_name": "PostToolUse", "session_id": "codex-1", "tool_response": {"token": "abc"}},
            ],
            "",
            [("user", "list it"), ("tool", '{"token":"[REDACTED]"}')],
        ),
        (
            "claude-code",
            [{"hook_event_name": "Stop", "session_id": "claude-1", "last_assistant_message": "done"}],
            "",
            [("assistant", "done")],
        ),
        (
            "cursor",
            [{"hook_event_name": "beforeSubmitPrompt", "conversation_id": "cursor-1", "prompt": "hi"}],
            '{"continue": true}\n',
            [("user", "hi")],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_installed_hook_records(
    daemon: Daemon, tmp_path: Path, spool: Path, client: str, payloads: Sequence[dict[str, str]], output: str,
    expected: list[tuple[str, str]],
) -> None:  # fmt: skip
    command = installed(client, daemon.url, tmp_path)
    session = payloads[0].get("session_id") or payloads[0]["conversation_id"]
    for payload in payloads:
        with recorders_awaited() as env:
            ran = hook(command, payload, spool, tmp_path, env)
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, output, "")
    drain(daemon, spool)
    found = recorded(daemon.url, session)
    assert list(zip([each["speaker"] for each in found], texts(found), strict=True)) == expected
    assert {each["metadata"]["capture_source"] for each in found} == {client}


def test_a_hook_returns_while_the_daemon_hangs_and_the_event_arrives_later(tmp_path: Path, spool: Path) -> None:
    release = threading.Event()
    with FakeDaemon(held(release, STORED), default=STORED) as daemon:
        command = installed("codex", daemon.url, tmp_path)
        for i in range(3):
            payload = {"hook_event_name": "UserPromptSubmit", "session_id": "h", "prompt": f"say {i}"}
            assert hook(command, payload, spool, tmp_path).returncode == 0
        daemon.wait_for_requests(1)
        assert not release.is_set()  # all three hooks are back, and the daemon hasn't answered anything
        release.set()
        requests = daemon.wait_for_requests(3)
    sent = [record["content"]["blocks"][0]["text"] for request in requests for record in request.json["records"]]
    assert sorted(sent) == ["say 0", "say 1", "say 2"]


def test_a_hook_returns_while_the_recorder_hangs(tmp_path: Path, spool: Path) -> None:
    """What the recorder was given is whole, however long it takes to read it."""
    gate, taken = tmp_path / "gate", tmp_path / "taken"
    os.mkfifo(gate)
    os.mkfifo(taken)
    slow = tmp_path / "slow-recorder"
    slow.write_text(f'#!/bin/sh\nread line < "{gate}"\nexec cat > "{taken}"\n')
    slow.chmod(0o700)
    command = installed("codex", "http://127.0.0.1:9", tmp_path)
    payload = {"hook_event_name": "UserPromptSubmit", "session_id": "h", "prompt": "x" * 300_000}
    ran = hook(command, payload, spool, tmp_path, {"CEREMEMORY_RECORDER_BIN": str(slow)})
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    gate.write_text("go on\n")
    assert json.loads(taken.read_text())["content"] == "x" * 300_000


def test_a_hook_whose_client_never_ends_the_payload_records_it(tmp_path: Path, spool: Path) -> None:
    taken = tmp_path / "taken"
    keeper = tmp_path / "keeping-recorder"
    keeper.write_text(f'#!/bin/sh\nexec cat > "{taken}"\n')
    keeper.chmod(0o700)
    command = installed("codex", "http://127.0.0.1:9", tmp_path)
    with (
        recorders_awaited() as env,
        subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.PIPE,
            env=environment(spool, {**env, "CEREMEMORY_RECORDER_BIN": str(keeper)}),
            pass_fds=[int(env["HELD"])],
        ) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(b'{"hook_event_name": "UserPromptSubmit", "prompt": "still here"}')
        process.stdin.flush()
        assert process.wait(WAIT_S) == 0
    assert json.loads(taken.read_text())["content"] == "still here"


@pytest.mark.parametrize("payload", ["", "not json", "[1]", "[" * 100_000])
def test_a_payload_that_is_none_never_blocks_a_session(tmp_path: Path, spool: Path, payload: str) -> None:
    command = installed("claude-code", "http://127.0.0.1:9", tmp_path)
    ran = hook(command, payload, spool, tmp_path, {"CEREMEMORY_RECORDER_BIN": "true"})
    assert (ran.returncode, ran.stdout) == (0, "")


def test_a_hook_without_a_recorder_says_so_and_goes_on(tmp_path: Path, spool: Path) -> None:
    command = installed("codex", "http://127.0.0.1:9", tmp_path)
    ran = hook(command, {"prompt": "x"}, spool, tmp_path, {"CEREMEMORY_RECORDER_BIN": str(tmp_path / "none")})
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr.startswith("cerememory-recorder hook: ")
