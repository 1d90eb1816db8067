"""Options, files and variables that hold a secret: none is shown again, and every option warns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from cyclopts import App

from cerememory.cli.commands import COMMANDS
from cerememory.cli.main import FAILED, run

SECRET = "canary-secret-7c"
HIDDEN = re.compile(r"key|passphrase|password|token|secret")
ELSEWHERE = re.compile(r"^public_|_(stdin|file)$")  # they say where a secret is, or are none
# Every option whose value is a secret, with the command line whose warning is looked for.
WARNED = {
    ("mcp", "server_api_key"): ("mcp", "--server-url", "nothing", "--server-api-key", SECRET),
    ("export", "encryption_key"): ("export", "--encrypt", "--encryption-key", SECRET),
    ("import", "decryption_key"): ("import", "nothing.cma", "--decryption-key", SECRET),
}


@pytest.mark.parametrize(
    "text",
    [
        f'[auth]\napi_keys = ["{SECRET}\n',
        f"[auth]\napi_keys = [{SECRET}]\n",
        f'[auth]\nenabled = true\napi_keys = "{SECRET}"\n',
        f'[auth]\nenabled = true\napi_keys = ["{SECRET}", " "]\n',
        f'[llm]\nprovider = "openai"\napi_key = ["{SECRET}"]\n',
        f'[llm]\nprovider = "openai"\napi_key = "{SECRET} with a space"\n',
        f'[llm]\nprovider = "openai"\napi_key = "k"\nbase_url = "http://user:{SECRET}@localhost"\n',
        f'[llm]\nprovider = "openai"\napi_key = "k"\nbase_url = "https://h.example/?key={SECRET}"\n',
        f'[security]\nstore_encryption_passphrase = ["{SECRET}"]\n',
        f'[storage]\ndsn = "postgres://u:{SECRET}@h/db"\n',
    ],
)
def test_no_refused_configuration_shows_a_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    assert run(["serve", "--config", str(file), "--data-dir", str(tmp_path / "data"), "--verbose"]) == FAILED
    out, err = capsys.readouterr()
    assert err
    assert SECRET not in out + err


@pytest.mark.parametrize("told", [(), ("--json",)])
def test_no_shown_configuration_shows_a_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], told: tuple[str, ...]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        f'[auth]\napi_keys = ["{SECRET}"]\n[llm]\nprovider = "openai"\napi_key = "{SECRET}"\n'
        f'[security]\nstore_encryption_passphrase = "{SECRET}"\n'
    )
    run(["config", "check", "--config", str(file), *told])
    out, err = capsys.readouterr()
    assert "api_keys" in out
    assert SECRET not in out + err


def test_every_option_that_holds_a_secret_is_known() -> None:
    """A new one belongs into `WARNED`, and into SECURITY.md."""
    options = {(name, option) for _group, name, path, _summary in COMMANDS for option in _options(path)}
    assert {each for each in options if HIDDEN.search(each[1]) and not ELSEWHERE.search(each[1])} == WARNED.keys()


def _options(path: str) -> Iterator[str]:
    """The options of the command at `path`, and of the commands below it, that take a value."""
    module, _, name = path.partition(":")
    found = getattr(import_module(f"cerememory.cli.{module}"), name)
    apps = [found, *(found[each] for each in found)] if isinstance(found, App) else []
    commands = [app.default_command for app in apps] or [found]
    for command in filter(None, commands):
        parameters = inspect.signature(command).parameters.values()
        yield from (p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.annotation != "bool")


@pytest.mark.parametrize("command", WARNED.values(), ids=[" ".join(key) for key in WARNED])
def test_an_option_with_a_secret_warns_that_others_can_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    run([*command])
    err = capsys.readouterr().err
    assert "warning: --" in err
    assert SECRET not in err
