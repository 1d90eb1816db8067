"""Whether a daemon lives, as seen from a real connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerememory.cli.main import run
from tests.support.fake_daemon import FakeDaemon, Reply, answer, hang_up, raw_answer

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("CEREMEMORY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []  # a health check leaves nothing behind


def port_of(daemon: FakeDaemon) -> str:
    return daemon.url.rpartition(":")[2]


def test_a_daemon_that_lives_is_ok(capsys: Captured) -> None:
    with FakeDaemon(answer({"status": "ok"})) as daemon:
        assert run(["healthcheck", "--port", port_of(daemon)]) == 0
    assert [request.path for request in daemon.requests] == ["/health"]
    assert capsys.readouterr() == ("ok\n", "")


def test_a_prefix_of_the_url_is_kept(capsys: Captured) -> None:
    with FakeDaemon(answer({"status": "ok"})) as daemon:
        assert run(["healthcheck", "--server-url", f"{daemon.url}/memory/", "--json"]) == 0
    assert [request.path for request in daemon.requests] == ["/memory/health"]
    assert capsys.readouterr().out == '{\n  "status": "ok"\n}\n'


@pytest.mark.parametrize("variable", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_it_asks_where_the_daemon_is_configured_to_listen(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, variable: str
) -> None:
    with FakeDaemon(answer({"status": "ok"})) as daemon:
        monkeypatch.setenv("CEREMEMORY_HTTP__PORT", port_of(daemon))
        monkeypatch.setenv("CEREMEMORY_HTTP__BIND_ADDRESS", variable)
        monkeypatch.setenv("CEREMEMORY_LLM__PROVIDER", "nobody")  # no business of a health check
        assert run(["healthcheck"]) == 0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer({"status": "ok"}, 503), "answered 503, not as a Cerememory daemon that lives"),
        (answer({"hello": "world"}), "answered 200, not as a Cerememory daemon that lives"),
        (raw_answer(b"<html>"), "answered 200, not as a Cerememory daemon that lives"),
        (hang_up(), "gives no answer: it hung up before the answer was whole; is the daemon running?"),
    ],
)
def test_anything_else_is_not(capsys: Captured, reply: Reply, reason: str) -> None:
    with FakeDaemon(reply) as daemon:
        assert run(["healthcheck", "--server-url", daemon.url]) == 1
        assert capsys.readouterr() == ("", f"error: {daemon.url} {reason}\n")


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_must_be_one(capsys: Captured, port: str) -> None:
    assert run(["healthcheck", "--port", port]) in (1, 2)
    assert capsys.readouterr().out == ""
