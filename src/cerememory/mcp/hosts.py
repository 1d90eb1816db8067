"""MCP hosts (the programs that have a model use tools): where each is told of a server, and in which words.

Pure functions on texts. What a host's file has beside our entry is kept: JSON as values, TOML as it stands. JSON
with comments isn't changed, for they would be lost. Sources: the configuration references of the hosts.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from cerememory.config.shown import toml_value
from cerememory.errors import ValidationFailed
from cerememory.protocol.namespaces import HEADER

Entry: TypeAlias = dict[str, Any]  # of what the host's file says of a server; what isn't given is left out

NAME = "cerememory"
ENDPOINT = "/mcp"  # of a daemon, for hosts that speak MCP over HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`file` is below the home directory, or below a project's; None where people enter it themselves, at `place`.

    `key` is the member of the file that holds servers by name. `reference` is how its file says "what this
    variable of the environment holds"; None where it can't, "" where it has a list of variables to hand on.
    `address` is the member of a server that is spoken to over HTTP; None where that isn't known to work.
    """

    title: str
    file: str | None
    is_users: bool = False
    key: str = "mcpServers"
    place: str = ""
    reference: str | None = None
    address: str | None = None
    has_type: bool = False  # such a server has its `type` beside


CODEX = "codex"
HOSTS: dict[str, Host] = {
    "claude-code": Host(title="Claude Code", file=".mcp.json", reference="${%s:-}", address="url", has_type=True),
    CODEX: Host(
        title="Codex",
        file=".codex/config.toml",
        is_users=True,
        key="mcp_servers",
        reference="",
        address="url",
    ),
    "cursor": Host(title="Cursor", file=".cursor/mcp.json", reference="${env:%s}", address="url"),
    "vscode": Host(
        title="Visual Studio Code",
        file=".vscode/mcp.json",
        key="servers",
        reference="${env:%s}",
        address="url",
        has_type=True,
    ),
    "windsurf": Host(
        title="Windsurf",
        file=".codeium/windsurf/mcp_config.json",
        is_users=True,
        reference="${env:%s}",
        address="serverUrl",
    ),
    "continue": Host(title="Continue", file=".continue/mcpServers/cerememory.json"),
    "cline": Host(title="Cline", file=None, place="MCP Servers, Configure"),
    "zed": Host(
        title="Zed", file=".config/zed/settings.json", is_users=True, key="context_servers", address="url"
    ),
}


def entry(command: str, server_url: str, namespace: str | None = None, env: dict[str, str] | None = None) -> Entry:
    """`env` is written into the host's file as it is."""
    told = ["mcp", "--server-url", server_url]
    if namespace is not None:
        told += ["--namespace", namespace]
    return {"command": command, "args": told, **({"env": env} if env else {})}


def http_entry(host: Host, server_url: str, namespace: str | None = None, variable: str | None = None) -> Entry:
    """A server over HTTP, its key being what that variable of the host's own environment holds.

    Raises `ValidationFailed` for a host that isn't known to speak HTTP, or can't refer to its environment.
    """
    if host.address is None:
        raise ValidationFailed(f"{host.title}: isn't known to speak HTTP; leave out --transport")
    server = {"type": "http"} if host.has_type else {}
    server[host.address] = server_url + ENDPOINT
    headers = {} if namespace is None else {HEADER: namespace}
    if host is HOSTS[CODEX]:
        key = {} if variable is None else {"bearer_token_env_var": variable}
        return {**server, **key, **({"http_headers": headers} if headers else {})}
    if variable is not None:
        headers["Authorization"] = f"Bearer {_reference(host, variable)}"
    return {**server, **({"headers": headers} if headers else {})}


def _reference(host: Host, variable: str) -> str:
    """`variable` in the host's words. Raises `ValidationFailed`."""
    if host.reference is None:
        raise ValidationFailed(f"{host.title} can't refer to its environment; enter {variable} yourself")
    return host.reference and host.reference % variable


def with_variable(host: Host, server: Entry, variable: str) -> Entry:
    """`server` with that variable of the host's own environment handed on. Raises `ValidationFailed`."""
    reference = _reference(host, variable)
    if not reference:
        return {**server, "env_vars": [variable]}
    return {**server, "env": {variable: reference}}


def snippet(host: Host, server: Entry) -> str:
    """What the host's file is to have, as a whole file of nothing else."""
    return codex_table(server) if host is HOSTS[CODEX] else _dumped({host.key: {NAME: server}})


def codex_table(server: Entry) -> str:
    lines = [f"[mcp_servers.{NAME}]", *(f"{name} = {_toml(value)}" for name, value in server.items())]
    return "\n".join(lines) + "\n"


def _toml(value: str | list[str] | dict[str, str]) -> str:
    """A member of a server; in a table names are bare, as those of variables and headers can be."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {toml_value(text)}' for name, text in value.items())} }}"
    return toml_value(tuple(value) if isinstance(value, list) else value)


def merged(host: Host, before: str | None, server: Entry, *, force: bool) -> str | None:
    """The file's new text; None when it says so already. `before` None: there is no file.

    Raises `ValidationFailed` for a text that can't be changed, and without `force` for another entry of our name.
    """
    if before is None or not before.strip():
        return snippet(host, server)
    is_toml = host is HOSTS[CODEX]
    held = _parsed_toml(before) if is_toml else _parsed_json(before)
    servers = held.get(host.key, {})
    if not isinstance(servers, dict):
        raise ValidationFailed(f"{host.key}: isn't an object")
    if servers.get(NAME) == server:
        return None
    if NAME in servers and not force:
        raise ValidationFailed(f"{host.key}.{NAME}: is there already, and other; --force replaces it")
    wanted = {**held, host.key: {**servers, NAME: server}}
    return _with_table(before, server, wanted) if is_toml else _dumped(wanted)


def _dumped(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _parsed_json(text: str) -> dict[str, Any]:
    try:
        held = json.loads(text)
        json.dumps(held, ensure_ascii=False, allow_nan=False).encode()  # what is read can't always be written
    except (ValueError, RecursionError) as error:
        raise ValidationFailed(f"isn't plain JSON ({error}); add the entry yourself") from None
    if not isinstance(held, dict):
        raise ValidationFailed("isn't a JSON object")
    return held


def _parsed_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValidationFailed(f"isn't TOML ({error}); add the entry yourself") from None


def _with_table(before: str, server: Entry, wanted: dict[str, Any]) -> str:
    """Our table at the end, what was there of it gone; what the text then means is compared with `wanted`."""
    kept = "".join(_lines_of_others(before)).rstrip("\n")
    text = f"{kept}\n\n{codex_table(server)}" if kept else codex_table(server)
    try:
        is_right = tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        raise ValidationFailed(f"mcp_servers.{NAME}: isn't a table of its own; change the entry yourself")
    return text


def _lines_of_others(text: str) -> Iterator[str]:
    """Without our table and the tables in it."""
    is_ours = False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("["):
            header = line.strip().partition("]")[0].lstrip("[").replace(" ", "").replace('"', "")
            is_ours = f"{header}.".startswith(f"mcp_servers.{NAME}.")
        if not is_ours:
            yield line
