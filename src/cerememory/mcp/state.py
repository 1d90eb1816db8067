"""What a user's proxies keep from one session to the next, beyond the daemon's reach: where, under which names."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from cerememory.home import user_home


def state_home() -> Path:
    """Where this user's programs keep what is to outlive them: the XDG base directory specification.

    `ValidationFailed` when nobody knows his home.
    """
    home = os.environ.get("XDG_STATE_HOME", "")
    base = (
        Path(home)
        if home.startswith("/")
        else user_home("a state folder without XDG_STATE_HOME") / ".local" / "state"
    )
    return base / "cerememory"


def server_name(url: str, namespace: str | None = None) -> str:
    """A file name, readable, of a server's address and, where that matters, a namespace in it."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", url.partition("://")[2])[:64].strip("_")
    told = url if namespace is None else f"{url}\0{namespace}"
    return f"{readable}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
