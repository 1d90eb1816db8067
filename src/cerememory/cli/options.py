"""What every command takes, before or after its name; and what it raises when that means nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cerememory.errors import ValidationFailed

KEY_VARIABLE = "CEREMEMORY_SERVER_API_KEY"
KEY_BYTES_MAX = 4_096


class UsageError(Exception):
    """A command line that means nothing; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of every command.

    Attributes:
        data_dir: The data directory (data_dir).
        config: A TOML file with the configuration.
        server_url: Ask the daemon at this URL, with the key in CEREMEMORY_SERVER_API_KEY if there is one.
        server_api_key_file: Read that key from this file.
        namespace: The namespace of the memories, apart from all others.
        offline: Work on the data directory itself, which no daemon may own.
        json: Print JSON.
        verbose: Log more, and show where an unexpected error came from.
    """

    data_dir: Path | None = None
    config: Path | None = None
    server_url: str | None = None
    server_api_key_file: Path | None = None
    namespace: str | None = None
    offline: bool = False
    json: bool = False
    verbose: bool = False


DEFAULTS = Options()


def server_key(file: Path | None) -> str | None:
    """The key for a daemon at a URL: the first line of `file`, else that of the environment; None without both."""
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    with file.open("rb") as opened:
        line = opened.readline(KEY_BYTES_MAX).decode(errors="replace").rstrip("\r\n")
    if not line:
        raise ValidationFailed("--server-api-key-file: its first line is empty")
    return line
