"""What every command takes, before or after its name; and what it raises when that means nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KEY_VARIABLE = "CEREMEMORY_SERVER_API_KEY"


class UsageError(Exception):
    """A command line that means nothing; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of every command.

    Attributes:
        data_dir: The data directory (data_dir).
        config: A TOML file with the configuration.
        server_url: Ask the daemon at this URL, with the key in CEREMEMORY_SERVER_API_KEY if there is one.
        namespace: The namespace of the memories, apart from all others.
        offline: Work on the data directory itself, which no daemon may own.
        json: Print JSON.
        verbose: Log more, and show where an unexpected error came from.
    """

    data_dir: Path | None = None
    config: Path | None = None
    server_url: str | None = None
    namespace: str | None = None
    offline: bool = False
    json: bool = False
    verbose: bool = False


DEFAULTS = Options()
