"""Where the daemon and the spool are, as every command of `cerememory-recorder` has it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cerememory.cli.options import KEY_VARIABLE
from cerememory.domain.visible import visible
from cerememory.errors import ValidationFailed
from cerememory.home import expanded
from cerememory.protocol.base_url import parse_base_url

SERVER_URL = "http://127.0.0.1:8420"
SPOOL_VARIABLE = "CEREMEMORY_RECORDER_SPOOL_DIR"
SPOOL_DIR = "~/.cerememory/recorder/spool"
EVENT_BYTES = 262_144
EVENT_BYTES_MAX = 64 * 1_048_576  # a request of the daemon has no more
BATCH_RECORDS = 50
FLUSH_MS = 1_000
FLUSH_MS_MAX = 86_400_000  # a day
MILLI = 0.001


def check_server_url(server_url: str) -> None:
    """`ValidationFailed` for a URL that can't be meant, and for one that shows what is recorded to the network."""
    try:
        address = parse_base_url(server_url)
    except ValueError as error:
        raise ValidationFailed(f"server_url: {error}") from None
    if not address.is_private:
        raise ValidationFailed(f"server_url: http:// goes to loopback hosts only, not to {address.host[:64]}")


def api_key() -> str | None:
    return os.environ.get(KEY_VARIABLE) or None


def spool_path(spool_dir: Path | None) -> Path:
    path = spool_dir or Path(os.environ.get(SPOOL_VARIABLE) or SPOOL_DIR)
    return expanded(path, f"--spool-dir: {path}").absolute()


def working_directory() -> str:
    """Empty when somebody has removed it."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""


def tell(line: str) -> None:
    """On stderr, as one line."""
    print(visible(" ".join(line.splitlines())), file=sys.stderr, flush=True)
