"""The command line of `mcp`: the usual one is read at once, any other by the library for command lines."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cerememory.cli import mcp, quick
from cerememory.cli.app import parse
from cerememory.cli.main import run

URL = "http://127.0.0.1:8420"
Told = tuple[str, str | None, int | None, str | None, Path | None]
Started = tuple[str, str | None, int | None, str | None]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--server-url", URL], (URL, None, None, None, None)),
        ([f"--server-url={URL}/a=b"], (f"{URL}/a=b", None, None, None, None)),
        (["--server-timeout-secs", "5", "--server-url", URL, "--server-api-key=k"], (URL, "k", 5, None, None)),
        (["--namespace", "work", "--server-url", URL], (URL, None, None, "work", None)),
        (["--server-url", URL, "--namespace=no name"], (URL, None, None, "no name", None)),
        (["--server-url", URL, "--server-api-key-file", "k"], (URL, None, None, None, Path("k"))),
    ],
)
def test_the_usual_options_are_read(arguments: list[str], told: Told) -> None:
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
        ["--namespace", "work"],
        ["--server-url", URL, "--namespace"],
        ["--server-url", URL, "--namespace", "--json"],
        ["--server-url", URL, "--namespace", "a", "--namespace", "b"],
    ],
    ids=" ".join,
)
def test_anything_else_is_left_to_the_library(arguments: list[str]) -> None:
    assert quick.usual(arguments) is None


def test_the_library_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Told] = []
    monkeypatch.setattr(mcp, "run_proxy", lambda *arguments: told.append(arguments))
    own = ["--server-url", URL, "--server-api-key", "k", "--server-timeout-secs", "5", "--namespace", "work"]
    parse(["mcp", *own, "--json"])()
    parse(["mcp", "--server-url", URL, "--server-api-key-file", "f", "--json"])()
    assert told == [(URL, "k", 5, "work", None), (URL, None, None, None, Path("f"))]


def test_a_daemon_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mcp"]) == 2
    assert capsys.readouterr() == ("", "error: --server-url is missing: where is the daemon?\n")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """What the proxy was started with."""
    started: list[Started] = []

    def proxy(server_url: str, api_key: str | None, timeout_s: int | None, namespace: str | None) -> int:
        started.append((server_url, api_key, timeout_s, namespace))
        return 0

    monkeypatch.setattr(quick, "run", proxy)
    return started


@pytest.mark.parametrize(("variable", "key"), [("sesame", "sesame"), ("", None)])
def test_the_key_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: list[Started],
    variable: str,
    key: str | None,
) -> None:
    monkeypatch.setenv("CEREMEMORY_SERVER_API_KEY", variable)
    assert run(["mcp", "--server-url", URL]) == 0
    assert started == [(URL, key, None, None)]
    assert capsys.readouterr() == ("", "")


def test_the_key_may_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, started: list[Started]
) -> None:
    monkeypatch.setenv("CEREMEMORY_SERVER_API_KEY", "other")
    file = tmp_path / "key"
    file.write_text("sesame\r\nnot this\n")
    assert run(["mcp", "--server-url", URL, "--server-api-key-file", str(file)]) == 0
    assert started == [(URL, "sesame", None, None)]
    file.write_text("\n")
    assert run(["mcp", "--server-url", URL, "--server-api-key-file", str(file)]) == 1
    assert run(["mcp", "--server-url", URL, "--server-api-key-file", str(tmp_path / "nowhere")]) == 1
    empty, missing = capsys.readouterr().err.splitlines()
    assert empty == "error: --server-api-key-file: its first line is empty"
    assert missing == f"error: {tmp_path / 'nowhere'}: No such file or directory"


def test_a_key_as_an_argument_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: list[Started],
) -> None:
    monkeypatch.setenv("CEREMEMORY_SERVER_API_KEY", "other")
    run(["mcp", "--server-url", URL, "--server-api-key", "sesame"])
    assert started == [(URL, "sesame", None, None)]
    warning = capsys.readouterr().err
    assert warning.startswith("warning: --server-api-key: ps shows it")
    assert "sesame" not in warning


def test_a_key_never_goes_over_the_network_in_the_clear(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mcp", "--server-url", "http://192.0.2.1", "--server-api-key", "k"]) == 1
    assert "error: api_key: would go to 192.0.2.1 unencrypted" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--namespace", "no name"], ["--json", "--namespace", "no name"]])
def test_what_cannot_be_the_name_of_a_namespace_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """By the proxy itself, before its first answer."""
    assert run(["mcp", "--server-url", URL, *arguments]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("error: namespace: expected 1 to 64 ")
    assert errors.count("\n") == 1
