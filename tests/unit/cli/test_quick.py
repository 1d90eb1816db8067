"""The command line of `mcp`: the usual one is read at once, any other by the library for command lines."""

from __future__ import annotations

from functools import partial

import pytest

from cerememory.cli import mcp, quick
from cerememory.cli.app import parse
from cerememory.cli.main import run

URL = "http://127.0.0.1:8420"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--server-url", URL], (URL, None, None)),
        ([f"--server-url={URL}/a=b"], (f"{URL}/a=b", None, None)),
        (["--server-timeout-secs", "5", "--server-url", URL, "--server-api-key=k"], (URL, "k", 5)),
    ],
)
def test_the_usual_options_are_read(arguments: list[str], told: tuple[str, str | None, int | None]) -> None:
    proxy = quick.usual(arguments)
    assert isinstance(proxy, partial)
    assert proxy.args == told


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--server-url"],
        ["--server-url", URL, "--json"],
        ["--server-url", URL, "--verbose", "x"],
        ["--server-url", URL, "--server-url", URL],
        ["--server-url", "--server-api-key"],
        ["--server-url", URL, "--server-timeout-secs", "0"],
        ["--server-url", URL, "--server-timeout-secs", "-1"],
        ["--server-url", URL, "--server-timeout-secs", "soon"],
        ["--server-api-key", "k"],
    ],
    ids=" ".join,
)
def test_anything_else_is_left_to_the_library(arguments: list[str]) -> None:
    assert quick.usual(arguments) is None


def test_the_library_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str | None, int | None]] = []
    monkeypatch.setattr(mcp, "run_proxy", lambda *arguments: told.append(arguments))
    parse(["mcp", "--server-url", URL, "--server-api-key", "k", "--server-timeout-secs", "5", "--json"])()
    assert told == [(URL, "k", 5)]


def test_a_daemon_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mcp"]) == 2
    assert capsys.readouterr() == ("", "error: --server-url is missing: where is the daemon?\n")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, int | None]]:
    """What the proxy was started with."""
    started: list[tuple[str, str | None, int | None]] = []

    def proxy(server_url: str, api_key: str | None, timeout_s: int | None) -> int:
        started.append((server_url, api_key, timeout_s))
        return 0

    monkeypatch.setattr(quick, "run", proxy)
    return started


@pytest.mark.parametrize(("variable", "key"), [("sesame", "sesame"), ("", None)])
def test_the_key_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: list[tuple[str, str | None, int | None]],
    variable: str,
    key: str | None,
) -> None:
    monkeypatch.setenv("CEREMEMORY_SERVER_API_KEY", variable)
    assert run(["mcp", "--server-url", URL]) == 0
    assert started == [(URL, key, None)]
    assert capsys.readouterr() == ("", "")


def test_a_key_as_an_argument_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: list[tuple[str, str | None, int | None]],
) -> None:
    monkeypatch.setenv("CEREMEMORY_SERVER_API_KEY", "other")
    run(["mcp", "--server-url", URL, "--server-api-key", "sesame"])
    assert started == [(URL, "sesame", None)]
    warning = capsys.readouterr().err
    assert warning.startswith("warning: --server-api-key: ps shows it")
    assert "sesame" not in warning


def test_a_key_never_goes_over_the_network_in_the_clear(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mcp", "--server-url", "http://192.0.2.1", "--server-api-key", "k"]) == 1
    assert "error: api_key: would go to 192.0.2.1 unencrypted" in capsys.readouterr().err
