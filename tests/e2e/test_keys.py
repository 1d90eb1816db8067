"""API keys and SIGHUP with a real daemon: keys are made and revoked beside it, settings change under it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cerememory.protocol.access import Role
from cerememory.storage import api_keys
from cerememory.storage.datadir import prepare
from tests.support.calls import NO_HEADERS, Answer, Caller
from tests.support.daemon import COMMAND, WAIT_S, Daemon, cerememory, clean_environment, free_port

AUTH = {"CEREMEMORY_AUTH__ENABLED": "true", "CEREMEMORY_LOG__LEVEL": "debug"}
STATS = "/v1/introspect/stats"
CONFIG = """\
[auth]
enabled = true
api_keys = ["{key}"]
[log]
level = "{level}"
[rate_limit]
burst = {burst}
requests_per_second = 1
[http]
metrics_enabled = {metrics}
"""


def asked(daemon: Daemon, key: str | None, headers: Mapping[str, str] = NO_HEADERS) -> Answer:
    sent = {} if key is None else {"Authorization": f"Bearer {key}"}
    with Caller(daemon.address) as caller:
        return caller.ask("GET", STATS, headers={**sent, **headers})


def made(data_dir: Path, name: str, *arguments: str) -> str:
    """The key that a command has made."""
    result = cerememory("key", "create", name, *arguments, "--data-dir", data_dir)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def command_lines() -> Iterator[bytes]:
    """What `ps` shows of all processes."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield process.read_bytes()
        except OSError:  # it has ended
            continue


def test_keys_are_made_and_revoked_beside_the_daemon(tmp_path: Path) -> None:
    """The daemon starts with a key of the data dir alone, and never writes one down."""
    data_dir = tmp_path / "data"
    prepare(data_dir)
    _row, admin = api_keys.create(data_dir, name="admin", role=Role.ADMIN, namespace=None, now=time.time_ns())
    with Daemon(data_dir, env=AUTH) as daemon:
        assert "  Auth    enabled (1 key(s))" in daemon.banner
        agent = made(data_dir, "agent", "--role", "write", "--scope", "work")
        assert asked(daemon, admin).status == 200
        assert asked(daemon, agent).status == 200
        assert asked(daemon, agent, {"X-Cerememory-Namespace": "other"}).status == 403
        assert asked(daemon, None).status == 401
        assert cerememory("stats", "--data-dir", data_dir, env=AUTH).returncode == 0, "by the local token"
        exported = cerememory("export", "--server-url", daemon.url, env={"CEREMEMORY_SERVER_API_KEY": agent})
        assert (exported.returncode, exported.stderr) == (
            1,
            "error: POST /v1/archive: needs a key with the role admin, this one has write\n",
        )
        assert not any(agent.encode() in line or admin.encode() in line for line in command_lines())
        revoked = cerememory("key", "revoke", "agent", "--data-dir", data_dir)
        assert asked(daemon, agent).json["message"] == "Authorization: this key was revoked"
        assert asked(daemon, admin).status == 200
        assert daemon.stop() == 0
        said = daemon.log()
    assert "wrong key" in said
    files = [path.read_bytes().decode(errors="replace") for path in data_dir.rglob("*") if path.is_file()]
    for text in (said, revoked.stdout, revoked.stderr, *files):
        assert secret_of(admin) not in text
        assert secret_of(agent) not in text


def secret_of(key: str) -> str:
    """The part of it that nobody may see."""
    return key[len("cm_0123456789ab_") :]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "cerememory.toml"


def write(config: Path, key: str = "old", level: str = "info", burst: int = 1_000, metrics: str = "false") -> None:
    config.write_text(CONFIG.format(key=key, level=level, burst=burst, metrics=metrics))


def reloaded(daemon: Daemon, event: str, count: int = 1) -> list[str]:
    """The lines of the log with `event`, once there are `count` after a SIGHUP."""
    daemon.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + WAIT_S
    while len(lines := [line for line in daemon.log().splitlines() if event in line]) < count:
        assert time.monotonic() < deadline, daemon.log()
        assert asked(daemon, None).status == 401
    return lines


def test_sighup_takes_over_keys_log_level_and_rate_limit_and_says_what_it_does_not(
    tmp_path: Path, config: Path
) -> None:
    write(config)
    with Daemon(tmp_path / "data", args=["--config", str(config)]) as daemon:
        assert asked(daemon, "old").status == 200
        assert "[debug" not in daemon.log()
        write(config, key="new", level="debug", burst=5, metrics="true")
        reloaded(daemon, "configuration reloaded")
        said = [line for line in daemon.log().splitlines() if "[debug" not in line]
        assert "a change counts from the next start on" in said[0]
        assert "http.metrics_enabled" in said[0]
        for name in ("auth.api_keys", "log.level", "rate_limit.burst"):
            assert name in said[1]
        with Caller(daemon.address) as caller:
            headers = {"Authorization": "Bearer new"}
            statuses = {caller.ask("GET", STATS, headers=headers).status for _ in range(8)}
        assert 429 in statuses, "five at once, where a thousand were"
        daemon_log = daemon.log()
        assert "[debug" in daemon_log
        assert "old" not in daemon_log
        assert "new" not in daemon_log.replace("newer", "")


def test_a_configuration_that_could_not_start_is_not_taken_over(tmp_path: Path, config: Path) -> None:
    write(config)
    with Daemon(tmp_path / "data", args=["--config", str(config)]) as daemon:
        config.write_text("[auth\n")
        lines = reloaded(daemon, "configuration not reloaded, the one from before counts")
        assert "is not valid TOML" in lines[0]
        config.write_text(CONFIG.format(key=" ", level="info", burst=0, metrics="false"))
        lines = reloaded(daemon, "configuration not reloaded", count=2)
        assert "auth.api_keys: must not hold a blank item" in lines[1]
        assert asked(daemon, "old").status == 200
        write(config, key="new")
        reloaded(daemon, "configuration reloaded")
        assert (asked(daemon, "old").status, asked(daemon, "new").status) == (401, 200)
        assert daemon.stop() == 0


def test_a_daemon_whose_terminal_was_closed_stops_in_order(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    port = free_port()
    command = [str(COMMAND), "serve", "--data-dir", str(tmp_path / "data"), "--port", str(port)]
    daemon = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=clean_environment())
    try:
        os.close(its)
        shown = b""
        while not (b"listening on" in shown and shown.endswith(b"\n")):
            shown += os.read(ours, 4_096)
        os.close(ours)
        daemon.send_signal(signal.SIGHUP)
        assert daemon.wait(WAIT_S) == 0
    finally:
        daemon.kill()
        daemon.wait()
