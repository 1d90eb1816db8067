"""`cerememory-recorder install-hook`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, TypeAlias

from cerememory.cli.recorder.settings import SERVER_URL, check_server_url
from cerememory.recorder.hooks import CLIENTS, install

ClientName: TypeAlias = Literal["codex", "claude-code", "cursor"]


def install_hook(
    client: ClientName, /, *, server_url: str = SERVER_URL, target_dir: Path = Path(), force: bool = False
) -> None:
    """Write a hook for a coding agent, and an example of its settings; settings that are there aren't touched.

    Args:
        client: The agent: codex, claude-code or cursor.
        server_url: The daemon that the hook records into.
        target_dir: The project, or the home directory for all projects.
        force: Replace what an earlier installation wrote.
    """
    check_server_url(server_url)
    recorder = Path(sys.argv[0]).absolute()
    written = install(CLIENTS[client], target_dir, server_url, str(recorder), force=force)
    print(f"Wrote {written.script}\nWrote {written.example}\n")
    print(
        f"Add this to {CLIENTS[client].settings} yourself; nothing there was changed:\n\n{written.settings}",
        end="",
    )
