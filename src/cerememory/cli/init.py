"""`cerememory init`: a configuration to begin with, an API key in it, and what MCP clients are to be told.

The key is printed this once, and stands in the file alone, which nobody else may read.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from cerememory.cli.arguments import Common
from cerememory.cli.memory import server_url
from cerememory.cli.options import KEY_VARIABLE, Options, UsageError
from cerememory.cli.output import show
from cerememory.cli.own_command import own_command
from cerememory.cli.settings import load
from cerememory.config.settings import Settings
from cerememory.config.shown import commented_toml
from cerememory.errors import ValidationFailed
from cerememory.mcp.hosts import NAME, codex_table, entry

DEFAULT_FILE = Path("cerememory.toml")
KEY_BYTES = 32
PRIVATE_FILE = 0o600
ADDRESSED = ("data_dir", "http.port", "http.bind_address")


def init(path: Path = DEFAULT_FILE, /, *, options: Common) -> None:
    """Write a commented configuration with an API key, and print what MCP clients are to be told.

    Args:
        path: The file, which must not be there; only its owner may read it.
    """
    settings = _located(options)
    key = secrets.token_urlsafe(KEY_BYTES)
    chosen = {"data_dir": settings.data_dir.absolute(), "auth.enabled": True, "auth.api_keys": (key,)}
    write_new(path, commented_toml({**_addressed(settings), **chosen}))
    url = server_url(f"{settings.http.bind_address}:{settings.http.port}")
    server = entry(str(own_command() or "cerememory"), url, env={KEY_VARIABLE: key})
    answer = {
        "path": str(path.absolute()),
        "server_url": url,
        "api_key": key,
        "mcpServers": {NAME: server},
        "codex": codex_table(server),
    }
    show(answer, options, _told)


def _located(options: Options) -> Settings:
    if options.config is not None:
        raise UsageError("--config: init makes a configuration; name the file behind it")
    return load(options, only=ADDRESSED).settings


def _addressed(settings: Settings) -> dict[str, object]:
    """Where it listens, when it was said to be elsewhere than by default."""
    told = {"http.port": settings.http.port, "http.bind_address": settings.http.bind_address}
    usual = Settings().http
    return {name: value for name, value in told.items() if value not in (usual.port, usual.bind_address)}


def write_new(path: Path, text: str) -> None:
    """A file that only its owner may read. Raises `ValidationFailed` when there is one, or it can't be written."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
    except FileExistsError:
        raise ValidationFailed(f"{path}: is there already; name another file, or move it away") from None
    except OSError as error:
        raise ValidationFailed(f"{path}: can't be written: {error.strerror}") from error


def _told(answer: dict[str, Any]) -> str:
    servers = json.dumps({"mcpServers": answer["mcpServers"]}, indent=2)
    return (
        f"Wrote {answer['path']}, with an API key that is shown this once. Start the daemon with\n\n"
        f"  cerememory serve --config {answer['path']}\n\n"
        "Claude Code, Cursor, Cline, Continue, Windsurf, Zed (as context_servers):\n\n"
        f"{servers}\n\n"
        "Codex, in ~/.codex/config.toml:\n\n"
        f"{answer['codex']}"
    ).rstrip()
