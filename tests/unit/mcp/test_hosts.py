"""What hosts are told, and what stays in their files."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.errors import ValidationFailed
from cerememory.mcp.hosts import CODEX, HOSTS, entry, http_entry, merged, snippet, with_variable

SERVER = entry("/opt/cerememory", "http://127.0.0.1:8420", "work")
OTHER = entry("/opt/cerememory", "http://127.0.0.1:9000")
JSON_HOSTS = [name for name in HOSTS if name != CODEX]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def held(name: str, text: str) -> Any:
    return tomllib.loads(text) if name == CODEX else json.loads(text)


@pytest.mark.parametrize("name", HOSTS)
def test_a_new_file_holds_our_entry_alone(name: str) -> None:
    host = HOSTS[name]
    text = merged(host, None, SERVER, force=False)
    assert text == snippet(host, SERVER) == merged(host, "\n", SERVER, force=False)
    assert held(name, text) == {host.key: {"cerememory": SERVER}}
    assert SERVER["args"] == ["mcp", "--server-url", "http://127.0.0.1:8420", "--namespace", "work"]


@pytest.mark.parametrize("name", HOSTS)
def test_what_a_file_says_already_changes_nothing(name: str) -> None:
    assert merged(HOSTS[name], snippet(HOSTS[name], SERVER), SERVER, force=False) is None


@pytest.mark.parametrize("name", HOSTS)
def test_another_entry_of_ours_is_replaced_by_force_alone(name: str) -> None:
    before = snippet(HOSTS[name], OTHER)
    with pytest.raises(ValidationFailed, match=r"cerememory: is there already, and other; --force replaces it"):
        merged(HOSTS[name], before, SERVER, force=False)
    assert merged(HOSTS[name], before, SERVER, force=True) == snippet(HOSTS[name], SERVER)


@settings(max_examples=50)
@given(
    st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.dictionaries(st.text(max_size=5), JSON, max_size=4)
)
def test_whatever_else_is_in_json_stays(others: dict[str, Any], servers: dict[str, Any]) -> None:
    before = {**others, "mcpServers": servers}
    text = merged(HOSTS["claude-code"], json.dumps(before), SERVER, force=True)
    after = before if text is None else json.loads(text)
    assert after == {**others, "mcpServers": {**servers, "cerememory": SERVER}}
    assert [*after] == [*before]


BEFORE = """\
# my settings
model = "o9"  # the best

[mcp_servers.other]
command = "x"

[mcp_servers.cerememory]
command = "old"
[mcp_servers.cerememory.env]
KEY = "a"

[mcp_servers.cerememory_two]
command = "y"
[[profiles]]
name = "p"
"""


def test_a_table_is_replaced_and_every_other_line_of_toml_stays() -> None:
    text = merged(HOSTS[CODEX], BEFORE, SERVER, force=True)
    assert text is not None
    start, rest = BEFORE.split("[mcp_servers.cerememory]\n")
    assert text == f"{start}{rest[rest.index('[mcp_servers.cerememory_two]') :]}\n{snippet(HOSTS[CODEX], SERVER)}"


@pytest.mark.parametrize(
    ("name", "before", "message"),
    [
        ("claude-code", "{ // mine\n}", "isn't plain JSON"),
        ("zed", "[" * 100_000, "isn't plain JSON"),
        ("cursor", '{"a": 1e999}', "isn't plain JSON"),
        ("cursor", '{"a": "\\ud800"}', "isn't plain JSON"),
        ("cursor", "[]", "isn't a JSON object"),
        ("cursor", '{"mcpServers": []}', "mcpServers: isn't an object"),
        (CODEX, "model = ", "isn't TOML"),
        (CODEX, "mcp_servers = 1", "mcp_servers: isn't an object"),
        (CODEX, 'mcp_servers = { cerememory = { command = "x" } }', "isn't a table of its own"),
        (CODEX, '[mcp_servers]\ncerememory.command = "x"', "isn't a table of its own"),
        (
            CODEX,
            'a = """\n[mcp_servers.cerememory]\n"""\n[mcp_servers.cerememory]\ncommand = "x"',
            "a table of its own",
        ),
    ],
)
def test_a_file_that_cant_be_changed_safely_is_refused(name: str, before: str, message: str) -> None:
    with pytest.raises(ValidationFailed, match=message):
        merged(HOSTS[name], before, SERVER, force=True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("claude-code", {"env": {"KEY": "${KEY:-}"}}),
        ("cursor", {"env": {"KEY": "${env:KEY}"}}),
        (CODEX, {"env_vars": ["KEY"]}),
    ],
)
def test_a_host_hands_on_a_variable_in_its_own_words(name: str, told: dict[str, Any]) -> None:
    server = with_variable(HOSTS[name], SERVER, "KEY")
    assert server == {**SERVER, **told}
    assert held(name, snippet(HOSTS[name], server))[HOSTS[name].key]["cerememory"] == server


def test_a_host_that_cant_hand_on_a_variable_says_so() -> None:
    with pytest.raises(ValidationFailed, match="Zed can't refer to its environment"):
        with_variable(HOSTS["zed"], SERVER, "KEY")


URL = "http://127.0.0.1:8420"
SPOKEN_TO: dict[str, dict[str, Any]] = {
    "claude-code": {
        "type": "http",
        "url": f"{URL}/mcp",
        "headers": {"X-Cerememory-Namespace": "work", "Authorization": "Bearer ${KEY:-}"},
    },
    CODEX: {
        "url": f"{URL}/mcp",
        "bearer_token_env_var": "KEY",
        "http_headers": {"X-Cerememory-Namespace": "work"},
    },
    "cursor": {
        "url": f"{URL}/mcp",
        "headers": {"X-Cerememory-Namespace": "work", "Authorization": "Bearer ${env:KEY}"},
    },
    "vscode": {
        "type": "http",
        "url": f"{URL}/mcp",
        "headers": {"X-Cerememory-Namespace": "work", "Authorization": "Bearer ${env:KEY}"},
    },
    "windsurf": {
        "serverUrl": f"{URL}/mcp",
        "headers": {"X-Cerememory-Namespace": "work", "Authorization": "Bearer ${env:KEY}"},
    },
}


@pytest.mark.parametrize("name", SPOKEN_TO)
def test_a_host_that_speaks_http_is_told_where_in_its_own_words(name: str) -> None:
    host = HOSTS[name]
    server = http_entry(host, URL, "work", "KEY")
    assert server == SPOKEN_TO[name]
    assert held(name, snippet(host, server)) == {host.key: {"cerememory": server}}
    assert merged(host, snippet(host, server), server, force=False) is None
    assert http_entry(host, URL).keys() == SPOKEN_TO[name].keys() & {"type", "url", "serverUrl"}


@pytest.mark.parametrize(
    ("name", "message"), [("cline", "speak HTTP"), ("continue", "speak HTTP"), ("zed", "KEY")]
)
def test_a_host_that_cant_be_told_so_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValidationFailed, match=message):
        http_entry(HOSTS[name], URL, "work", "KEY")


def test_a_host_without_references_is_told_of_a_daemon_that_wants_no_key() -> None:
    assert http_entry(HOSTS["zed"], URL) == {"url": f"{URL}/mcp"}
