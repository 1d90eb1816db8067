"""A real daemon under a service manager: what it is told from start to end, signs of life, and log rotation."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cerememory.storage.datadir import DataDir, read_token
from tests.support.calls import Caller
from tests.support.daemon import COMMAND, WAIT_S, Daemon, clean_environment, free_port
from tests.support.notify_socket import NotifySocket, notify_socket

WATCHDOG_USEC = "200000"
UNFINISHED = b"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    with notify_socket(tmp_path) as opened:
        yield opened


def test_the_manager_hears_of_start_life_reload_and_end(tmp_path: Path, manager: NotifySocket) -> None:
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": WATCHDOG_USEC}
    with Daemon(tmp_path / "data", env=env) as daemon:
        assert manager.until("READY")["STATUS"] == "serving"
        with Caller(daemon.address) as caller:
            assert caller.readiness().status == 200
        for _ in range(3):
            manager.until("WATCHDOG")
        daemon.process.send_signal(signal.SIGHUP)
        assert int(manager.until("RELOADING")["MONOTONIC_USEC"]) > 0
        manager.until("READY")
        daemon.process.send_signal(signal.SIGSTOP)
        manager.waiting()
        assert manager.waiting() == [], "a process that stands still gives no sign"
        daemon.process.send_signal(signal.SIGCONT)
        manager.until("WATCHDOG")
        assert daemon.stop() == 0
        manager.until("STOPPING")
        assert manager.waiting() == []


def test_more_signals_dont_disturb_an_orderly_end(tmp_path: Path, manager: NotifySocket) -> None:
    env = {"NOTIFY_SOCKET": manager.address, "CEREMEMORY_AUTH__ENABLED": "true"}
    key = {"CEREMEMORY_AUTH__API_KEYS": "k" * 40}
    with Daemon(tmp_path / "data", env=env | key) as daemon:
        assert read_token(daemon.data_dir) is not None
        with socket.create_connection(("127.0.0.1", daemon.port)) as under_way:
            under_way.sendall(UNFINISHED)
            daemon.process.terminate()
            manager.until("STOPPING")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                daemon.process.send_signal(number)
        assert daemon.wait() == 0
        assert read_token(daemon.data_dir) is None


def test_a_command_that_has_the_data_dir_is_waited_for(tmp_path: Path, manager: NotifySocket) -> None:
    env = clean_environment({"NOTIFY_SOCKET": manager.address})
    data_dir = tmp_path / "data"
    told: list[str | Path] = [COMMAND, "serve", "--data-dir", data_dir, "--port", str(free_port())]
    with ExitStack() as held:
        held.enter_context(DataDir.acquire(data_dir)).announce("")
        process = subprocess.Popen(told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, text=True)
        try:
            waits = manager.until("STATUS")["STATUS"]
            assert waits == f"{data_dir}: in use by another command; waiting until it is done"
            held.close()
            assert manager.until("READY")["STATUS"] == "serving"
            process.terminate()
            _out, said = process.communicate(timeout=WAIT_S)
            assert (process.returncode, waits in said) == (0, True)
        finally:
            process.kill()
            process.communicate()


def test_sighup_opens_a_log_file_anew_that_was_rotated(tmp_path: Path) -> None:
    log, rotated = tmp_path / "daemon.log", tmp_path / "daemon.log.1"
    told: list[str | Path] = [COMMAND, "serve", "--data-dir", tmp_path / "data", "--port", str(free_port())]
    with log.open("ab") as file:
        process = subprocess.Popen(told, stdout=file, stderr=file, env=clean_environment())
    try:
        wait_for(log, "listening on")
        log.rename(rotated)
        process.send_signal(signal.SIGHUP)
        wait_for(log, "configuration reloaded")
        assert "configuration reloaded" not in rotated.read_text()
        process.terminate()
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()


def wait_for(path: Path, text: str) -> None:
    """Return when `text` is in the file."""
    deadline = time.monotonic() + WAIT_S
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, f"{path}: no {text!r}"
