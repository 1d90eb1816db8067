"""Commands beside others: the proxy, a check of the log while it grows, an interrupt, a daemon that dies."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import cerememory as package
from tests.support.daemon import COMMAND, WAIT_S, Daemon, cerememory, clean_environment
from tests.support.fake_daemon import FakeDaemon

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
NOBODY = "http://127.0.0.1:9"
STATS = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "stats", "arguments": {}}}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data") as daemon:
        yield daemon


def test_the_banner_says_what_runs_where(daemon: Daemon) -> None:
    assert daemon.banner == [
        f"Cerememory v{package.__version__}",
        f"  Data    {daemon.data_dir} (0 records)",
        "  Config  defaults",
        "  LLM     none",
        "  Auth    disabled",
        f"  HTTP    listening on {daemon.address}",
    ]


def test_a_daemon_that_is_told_to_stop_as_soon_as_it_listens_stops_in_order(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "2"], "--workers: this version can't do that yet; leave it out"),
        (["--grpc-port", "0"], "grpc.port: expected 1 to 65535, got 0 (command line)"),
        (["--port", "0"], "http.port: expected 1 to 65535, got 0 (command line)"),
    ],
)
def test_a_daemon_that_cant_start_says_why(tmp_path: Path, arguments: list[str], message: str) -> None:
    refused = cerememory("serve", "--data-dir", tmp_path / "data", *arguments)
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", f"error: {message}\n")
    assert not (tmp_path / "data").exists()


def test_a_second_daemon_names_the_first(daemon: Daemon) -> None:
    refused = cerememory("serve", "--data-dir", daemon.data_dir)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: {daemon.data_dir}: in use by process {daemon.process.pid} at {daemon.address}; "
        "stop it or use another\n"
    )


def test_mcp_answers_and_asks_the_daemon(daemon: Daemon) -> None:
    cerememory("store", "x", "--server-url", daemon.url)
    lines = f"{json.dumps(INITIALIZE)}\n{json.dumps(STATS)}\n"
    session = cerememory("mcp", "--server-url", daemon.url, stdin=lines)
    first, second = map(json.loads, session.stdout.splitlines())
    assert first["result"]["serverInfo"] == {"name": "cerememory", "version": package.__version__}
    assert second["result"]["structuredContent"]["total_records"] == 1
    assert (session.returncode, session.stderr) == (0, "")


def test_mcp_answers_without_a_daemon() -> None:
    session = cerememory(
        "mcp", "--server-url", NOBODY, "--server-timeout-secs", "1", stdin=json.dumps(INITIALIZE) + "\n"
    )
    assert json.loads(session.stdout)["id"] == 1
    assert (session.returncode, session.stderr) == (0, "")


def test_the_log_is_verified_beside_the_daemon(daemon: Daemon) -> None:
    for i in range(3):
        cerememory("store", str(i), "--server-url", daemon.url)
    verified = cerememory("audit-verify", "--data-dir", daemon.data_dir)
    assert verified.returncode == 0
    assert (
        re.sub("[0-9a-f]{64}", "HASH", verified.stdout)
        == (
            f"Audit log verified:\n  path={daemon.data_dir}/audit.jsonl\n"
            f"  entries=3\n  last_sequence=3\n  head_hash=HASH\n"
        )
        or "entries are pending" in verified.stderr
    )


def test_a_log_that_is_changed_beside_the_daemon_is_found(daemon: Daemon) -> None:
    cerememory("store", "x", "--server-url", daemon.url)
    daemon.stop()
    log = daemon.data_dir / "audit.jsonl"
    daemon.start()
    log.write_text(log.read_text().replace("episodic", "semantic"))
    refused = cerememory("audit-verify", "--data-dir", daemon.data_dir)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {log}: line 1")


def test_a_daemon_that_was_killed_leaves_its_data_to_the_next_command(daemon: Daemon) -> None:
    cerememory("store", "The ferry leaves at nine", "--data-dir", daemon.data_dir)
    daemon.kill()
    found = cerememory("recall", "ferry", "--data-dir", daemon.data_dir)
    assert (found.returncode, found.stderr) == (0, "")
    assert "The ferry leaves at nine" in found.stdout


def test_commands_that_come_at_once_wait_for_each_other(tmp_path: Path) -> None:
    texts = [f"ferry number {i}" for i in range(4)]
    running = [
        subprocess.Popen(
            [COMMAND, "store", text, "--data-dir", tmp_path / "data"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        for text in texts
    ]
    try:
        outputs = [process.communicate(timeout=WAIT_S) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    notes = {"", f"note: {tmp_path / 'data'}: in use by another command; waiting until it is done\n"}
    assert [process.returncode for process in running] == [0] * 4, outputs
    assert {stderr for _stdout, stderr in outputs} <= notes
    found = json.loads(cerememory("recall", "--json", "--data-dir", tmp_path / "data").stdout)["memories"]
    stored = [bytes(each["record"]["content"]["blocks"][0]["data"]).decode() for each in found]
    assert sorted(stored) == texts


def test_an_interrupt_ends_a_command_quietly() -> None:
    batch = "".join(f"line {i}\n" for i in range(201))  # more than goes at once, so that it reads on afterwards
    with FakeDaemon() as daemon:
        process = subprocess.Popen(
            [COMMAND, "load", "-", "--server-url", daemon.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        try:
            assert process.stdin is not None
            process.stdin.write(batch)
            process.stdin.flush()
            daemon.wait_for_requests(1)
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, *output) == (130, "", "")
