"""The proxy as its own process: real pipes, real signals, what it imports."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cerememory.errors import ValidationFailed
from cerememory.mcp.proxy import run
from cerememory.mcp.tools import TOOLS
from tests.support.fake_daemon import WAIT_S, FakeDaemon, answer
from tests.unit.mcp.session import INITIALIZE, Peer

NOBODY = "http://127.0.0.1:9"
HEAVY = {
    "anyio",
    "cryptography",
    "cyclopts",
    "httpx",
    "hypercorn",
    "lmdb",
    "mcp",
    "numpy",
    "prometheus_client",
    "pydantic",
    "quart",
    "rich",
    "structlog",
    "tantivy",
    "trio",
}


class Process(Peer):
    """`run` in a process of its own, after the Python of `before`."""

    def __init__(self, server_url: str, namespace: str | None = None, before: str = "") -> None:
        told = f"{server_url!r}, None, None, {namespace!r}"
        script = f"{before}\nimport sys; from cerememory.mcp.proxy import run; sys.exit(run({told}))"
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def listen(self) -> None:
        """Starts reading the answers."""
        super().__init__(self.stdin, self.stdout)

    def end(self) -> tuple[int, bytes]:
        """The exit code and all of stderr, once the process has ended by itself."""
        assert self.process.stderr is not None
        code = self.process.wait(WAIT_S)
        return code, self.process.stderr.read()

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(server_url: str = NOBODY, namespace: str | None = None, before: str = "") -> Process:
        started.append(Process(server_url, namespace, before))
        return started[-1]

    yield start
    for process in started:
        process.clean_up()


@pytest.fixture
def listening(start: Callable[..., Process]) -> Process:
    """A process that has answered `initialize`, with no daemon there."""
    process = start(NOBODY)
    process.listen()
    process.send_line(json.dumps(INITIALIZE).encode())
    assert process.receive()["id"] == "init"
    return process


def test_a_session_over_pipes_holds_json_rpc_and_nothing_else(start: Callable[..., Process]) -> None:
    process = start(NOBODY)
    lines = [
        json.dumps(INITIALIZE),
        '{"jsonrpc": "2.0", "method": "notifications/initialized"}',
        '{"jsonrpc": "2.0", "id": 2, "method": "tools/list"}',
    ]
    output, logged = process.process.communicate("\n".join(lines).encode() + b"\n", timeout=WAIT_S)
    first, second = map(json.loads, output.splitlines())
    assert (first["jsonrpc"], first["id"], first["result"]["serverInfo"]["name"]) == (
        "2.0",
        "init",
        "cerememory",
    )
    assert (second["jsonrpc"], second["id"], len(second["result"]["tools"])) == ("2.0", 2, len(TOOLS))
    assert (process.process.returncode, logged) == (0, b"")


def test_a_call_before_the_end_of_input_is_answered(start: Callable[..., Process]) -> None:
    call = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "stats"}}\n'
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        output, logged = start(daemon.url).process.communicate(call, timeout=WAIT_S)
    assert json.loads(output)["result"]["structuredContent"] == {"namespace": "default", "total_records": 3}
    assert logged == b""


@pytest.mark.parametrize("namespace", [None, "work"])
def test_its_calls_are_about_its_namespace(start: Callable[..., Process], namespace: str | None) -> None:
    call = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "stats"}}\n'
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        start(daemon.url, namespace).process.communicate(call, timeout=WAIT_S)
        request = daemon.requests[0]
    assert request.headers.get("x-cerememory-namespace") == namespace


def test_without_a_home_it_warns_and_goes_on(start: Callable[..., Process]) -> None:
    before = "import pytest; from tests.support.nobody import no_home; no_home(pytest.MonkeyPatch())"
    call = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "stats"}}\n'
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        output, logged = start(daemon.url, before=before).process.communicate(call, timeout=WAIT_S)
    assert json.loads(output)["result"]["structuredContent"]["total_records"] == 3
    assert logged.startswith(b"warning: what is stored while the daemon is away isn't kept")
    assert logged.endswith(b": a state folder without XDG_STATE_HOME needs HOME to be set\n")
    assert logged.count(b"\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_quietly(listening: Process, number: signal.Signals) -> None:
    listening.process.send_signal(number)
    assert listening.end() == (0, b"")


def test_a_signal_ends_it_while_a_call_is_under_way(start: Callable[..., Process]) -> None:
    def never(_handler: object) -> None:
        """No answer; the connection stays open until the client goes."""

    with FakeDaemon(default=never) as daemon:
        process = start(daemon.url)
        process.listen()
        process.call_tool(1, "stats")
        daemon.wait_for_requests(1)
        process.process.send_signal(signal.SIGTERM)
        assert process.end() == (0, b"")


def test_what_waits_for_the_daemon_at_a_signal_is_kept(listening: Process, state_home: Path) -> None:
    """The stores, and one more that looks out for the daemon, for longer than this test takes."""
    for number in range(20):
        listening.call_tool(number, "store", content=f"{number}")
    listening.send("ping", "ping")
    while listening.receive()["id"] != "ping":
        pass
    listening.process.send_signal(signal.SIGTERM)
    assert listening.end() == (0, b"")
    kept = [json.loads(path.read_bytes())["body"] for path in state_home.glob("cerememory/outbox/*/*.json")]
    assert sorted(int(body["content"]["blocks"][0]["text"]) for body in kept) == list(range(20))


def test_a_signal_ends_it_while_nobody_reads_its_output(start: Callable[..., Process]) -> None:
    with FakeDaemon(answer({"much": "x" * 1_000_000})) as daemon:
        process = start(daemon.url)
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "stats"}}\n')
        assert process.stdout.read(1) == b"{"  # the rest doesn't fit into the pipe
        process.process.send_signal(signal.SIGTERM)
        assert process.end() == (0, b"")


def test_a_reader_that_goes_away_ends_it_quietly(start: Callable[..., Process]) -> None:
    process = start(NOBODY)
    process.stdout.close()
    process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
    assert process.end() == (0, b"")


def test_a_reader_that_goes_away_during_a_call_ends_it_quietly(start: Callable[..., Process]) -> None:
    with FakeDaemon(answer({"much": "x" * 1_000_000})) as daemon:
        process = start(daemon.url)
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "stats"}}\n')
        assert process.stdout.read(1) == b"{"
        process.stdout.close()
        assert process.end() == (0, b"")


@pytest.mark.parametrize(
    ("url", "key", "namespace"),
    [
        ("ftp://127.0.0.1", None, None),
        ("http://192.0.2.1", "sesame", None),
        ("http://u@127.0.0.1", None, None),
        (NOBODY, None, "no name"),
    ],
)
def test_what_cant_be_used_is_refused_before_anything_is_read(
    url: str, key: str | None, namespace: str | None
) -> None:
    with pytest.raises(ValidationFailed):
        run(url, key, None, namespace)


def test_it_loads_nothing_that_only_a_daemon_needs() -> None:
    script = "import sys, cerememory.mcp.proxy; print(*sys.modules)"
    listed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    loaded = {name.partition(".")[0] for name in listed.stdout.split()}
    assert "cerememory" in loaded
    assert loaded & HEAVY == set()
