"""`cerememory mcp` as MCP clients write it, read without the library for command lines.

A client waits for its first answer, and that library would double the time to it. Whatever isn't usual (common
options, help, mistakes) is left to the library: `usual` says None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cerememory.cli.options import KEY_VARIABLE, is_whole, server_key
from cerememory.mcp.proxy import run

URL, KEY, TIMEOUT = "--server-url", "--server-api-key", "--server-timeout-secs"
NAMESPACE, KEY_FILE = "--namespace", "--server-api-key-file"
TIMEOUT_S_MAX = 86_400  # a day
KNOWN = {URL, KEY, TIMEOUT, NAMESPACE, KEY_FILE}


def usual(arguments: list[str]) -> Callable[[], int] | None:
    """The proxy, ready to be run, when `arguments` are the options that it uses, each once and with a value."""
    parts = [part for argument in arguments for part in _parts(argument)]
    names, values = parts[::2], parts[1::2]
    told = dict(zip(names, values, strict=False))
    if len(told) * 2 != len(parts) or URL not in told or not told.keys() <= KNOWN:
        return None
    seconds = told.get(TIMEOUT, "1")
    if any(value.startswith("-") for value in values) or not is_whole(seconds, TIMEOUT_S_MAX):
        return None
    timeout_s = int(seconds) if TIMEOUT in told else None
    file = Path(told[KEY_FILE]) if KEY_FILE in told else None
    return partial(run_proxy, told[URL], told.get(KEY), timeout_s, told.get(NAMESPACE), file)


def _parts(argument: str) -> list[str]:
    """`--name=value` as its name and its value."""
    return argument.split("=", 1) if argument.startswith("--") else [argument]


def run_proxy(
    server_url: str,
    api_key: str | None,
    timeout_s: int | None,
    namespace: str | None,
    key_file: Path | None = None,
) -> int:
    """The exit code of the proxy; without a key that of `key_file`, else of the environment is used."""
    if api_key is not None:
        print(f"warning: {KEY}: ps shows it to every user; set {KEY_VARIABLE} instead", file=sys.stderr)
    return run(server_url, api_key or server_key(key_file), timeout_s, namespace)
