"""sd_notify's protocol: what is told, to whom, and that nobody is held up who can't be told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerememory.telemetry.sd_notify import Notifier
from tests.support.notify_socket import NotifySocket, notify_socket

MESSAGES_THAT_FILL = 1_000  # more than a system keeps for one socket


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    with notify_socket(tmp_path) as opened:
        yield opened


def notifier(address: str, **environ: str) -> Notifier:
    return Notifier.of({"NOTIFY_SOCKET": address, **environ})


def test_each_event_is_one_datagram_of_assignments(manager: NotifySocket) -> None:
    told = notifier(manager.address)
    told.ready("serving")
    told.status("busy")
    told.alive()
    told.stopping("ending")
    assert manager.waiting() == [
        {"READY": "1", "STATUS": "serving"},
        {"STATUS": "busy"},
        {"WATCHDOG": "1"},
        {"STOPPING": "1", "STATUS": "ending"},
    ]


def test_a_reload_comes_with_the_time_of_the_monotonic_clock(manager: NotifySocket) -> None:
    before = time.monotonic_ns() // 1_000
    notifier(manager.address).reloading()
    message = manager.message()
    assert message.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert before <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1_000


def test_a_status_of_several_lines_stays_one_assignment(manager: NotifySocket) -> None:
    notifier(manager.address).status("a\nREADY=1")
    assert manager.waiting() == [{"STATUS": "a READY=1"}]


def test_an_abstract_socket_is_told_too() -> None:
    manager = NotifySocket(f"@cerememory-test-{os.getpid()}")
    notifier(manager.address).alive()
    assert manager.waiting() == [{"WATCHDOG": "1"}]
    manager.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_socket_that_is_known_nobody_is_told(environ: dict[str, str]) -> None:
    told = Notifier.of({**environ, "WATCHDOG_USEC": "1000000"})
    told.ready("serving")
    assert told.watchdog_s is None


def test_a_manager_that_is_gone_or_never_reads_holds_nobody_up(manager: NotifySocket, tmp_path: Path) -> None:
    notifier(str(tmp_path / "nobody")).ready("serving")
    told = notifier(manager.address)
    for _ in range(MESSAGES_THAT_FILL):
        told.alive()
    assert 0 < len(manager.waiting()) < MESSAGES_THAT_FILL


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
def test_the_watchdog_is_that_of_this_process(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert notifier("/run/x", **environ).watchdog_s == watchdog_s
