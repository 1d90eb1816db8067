"""`key`: what it prints, to whom; and which command lines it refuses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from cerememory.cli.main import run
from cerememory.storage import api_keys
from cerememory.storage.datadir import prepare

Captured = pytest.CaptureFixture[str]
KEY = re.compile(r"cm_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


@pytest.fixture(autouse=True)
def nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("CEREMEMORY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def key(*arguments: str) -> int:
    return run(["key", *arguments, "--data-dir", "data"])


def test_a_key_is_printed_alone_and_told_of_beside_it(capsys: Captured) -> None:
    """So that a script can take it; the data dir needn't be there yet."""
    assert key("create", "laptop", "--role", "write", "--scope", "work", "--days", "30") == 0
    shown = capsys.readouterr()
    assert KEY.fullmatch(shown.out.strip())
    [row] = api_keys.read(Path("data"))
    assert shown.err.startswith(f"note: id={row.id}, name=laptop, role=write, scope=work, expires_at=")
    assert shown.err.endswith("state=active; the key is shown this once\n")
    assert row.expires_at is not None
    assert row.expires_at - row.created_at == 30 * 86_400 * 10**9


def test_json_has_the_key_and_what_it_is(capsys: Captured) -> None:
    assert key("create", "laptop", "--role", "admin", "--json") == 0
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert KEY.fullmatch(answer["key"])
    assert (answer["name"], answer["role"], answer["scope"], answer["expires_at"]) == (
        "laptop",
        "admin",
        None,
        None,
    )
    assert shown.err == ""


def test_the_list_has_every_key_and_shows_none(capsys: Captured) -> None:
    for name in ("laptop", "phone"):
        key("create", name, "--role", "read")
    key("revoke", "laptop")
    capsys.readouterr()
    assert key("list") == 0
    shown = capsys.readouterr().out
    ids = [row.id for row in api_keys.read(Path("data"))]
    assert shown == (
        f"id={ids[0]}, name=laptop, role=read, scope=all, expires_at=never, state=revoked\n"
        f"id={ids[1]}, name=phone, role=read, scope=all, expires_at=never, state=active\n"
    )
    key("list", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["revoked", "active"]
    assert set(rows[0]) == {
        *("id", "name", "role", "scope", "created_at", "expires_at", "revoked_at", "state"),
    }


def test_without_keys_the_list_says_so(capsys: Captured) -> None:
    prepare(Path("data"))
    assert key("list") == 0
    assert capsys.readouterr().out == "No keys\n"


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["revoke", "laptop"]], ids=" ".join)
def test_a_data_dir_that_isnt_there_is_named_and_not_made(capsys: Captured, arguments: list[str]) -> None:
    assert key(*arguments) == 1
    assert capsys.readouterr() == (
        "",
        "error: data: no data dir is there; name another with --data-dir,"
        " or make one with cerememory store or serve\n",
    )
    assert not Path("data").exists()


def test_revoking_says_what_was_revoked(capsys: Captured) -> None:
    for name in ("laptop", "phone"):
        key("create", name, "--role", "read")
    capsys.readouterr()
    [first, second] = api_keys.read(Path("data"))
    assert key("revoke", first.id, "phone") == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"Revoked: id={first.id}",
        f"Revoked: id={second.id}",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["create", "x"], 2, 'command "key create" parameter --role requires an argument.'),
        (["create", "--role", "read"], 2, 'command "key create" parameter NAME requires an argument.'),
        (["create", "x", "--role", "root"], 2, 'invalid value "root" for --role.'),
        (["create", "x", "--role", "read", "--days", "0"], 2, 'invalid value "0" for --days. Must be >= 1.'),
        (["create", "x", "--role", "read", "--namespace", "work"], 2, "--namespace says whose memories"),
        (
            ["create", "x", "--role", "read", "--server-url", "http://x"],
            2,
            "--server-url: keys are made and revoked",
        ),
        (["create", "x", "--role", "read", "--scope", "a b"], 1, "scope: expected 1 to 64 letters"),
        (["create", "a/b", "--role", "read"], 1, "name: expected 1 to 64 letters"),
        (["revoke"], 2, "which keys are to be revoked?"),
        (["revoke", "nobody"], 1, "there are no keys; cerememory key create makes one"),
        (["lsit"], 2, "unknown command 'lsit', did you mean list?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(capsys: Captured, arguments: list[str], code: int, message: str) -> None:
    prepare(Path("data"))
    assert key(*arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {message}")
    assert len(shown.err.splitlines()) == 1
    assert not (Path("data") / "keys" / "api_keys.json").exists()


def test_a_refused_key_makes_no_data_dir(capsys: Captured) -> None:
    assert key("create", "a/b", "--role", "read") == 1
    assert key("create", "x", "--role", "read", "--scope", "a b") == 1
    assert not Path("data").exists()


def test_a_configuration_that_could_not_start_stands_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Most of all not one that lacks nothing but the key."""
    monkeypatch.setenv("CEREMEMORY_AUTH__ENABLED", "true")
    monkeypatch.setenv("CEREMEMORY_HTTP__PORT", "0")
    assert key("create", "laptop", "--role", "read") == 0


def test_auth_needs_a_key_of_the_settings_or_of_the_data_dir_that_is_good(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("CEREMEMORY_AUTH__ENABLED", "true")
    needed = (
        "error: auth.api_keys: auth.enabled needs at least one key; cerememory key create makes one (default)\n"
    )
    for command in (["serve"], ["config", "check"], ["store", "x"]):
        assert run([*command, "--data-dir", "data"]) == 1
        assert capsys.readouterr().err == needed
    key("create", "laptop", "--role", "read")
    assert run(["config", "check", "--data-dir", "data"]) == 0
    key("revoke", "laptop")
    capsys.readouterr()
    assert run(["config", "check", "--data-dir", "data"]) == 1
    assert capsys.readouterr().err == needed
