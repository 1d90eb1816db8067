"""`install-hook`: writes a hook's script and an example of the settings that call it; never touches settings.

The script is `hook_script.py` with its constants set, so what is installed is what is tested. Sources of the
settings: the hook references of Codex, Claude Code and Cursor.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerememory.errors import ValidationFailed
from cerememory.recorder import hook_script

TIMEOUT_S = 15
EXAMPLE = "cerememory-recorder.example.json"
SCRIPT_MODE, EXAMPLE_MODE = 0o700, 0o600
TURNS = ("UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SubagentStop")


@dataclass(frozen=True, slots=True)
class HookClient:
    """A client: its folder in a project, the hooks that are worth recording, where they are set."""

    name: str
    folder: str
    hooks: tuple[str, ...]
    settings: str


CLIENTS = {
    "codex": HookClient(
        "codex", ".codex", (*TURNS, "Notification"), ".codex/hooks.json (hooks are on by [features])"
    ),
    "claude-code": HookClient("claude-code", ".claude", (*TURNS, "PostToolUseFailure"), ".claude/settings.json"),
    "cursor": HookClient(
        "cursor",
        ".cursor",
        ("beforeSubmitPrompt", "afterAgentResponse", "afterShellExecution", "afterMCPExecution", "afterFileEdit"),
        ".cursor/hooks.json",
    ),
}


@dataclass(frozen=True, slots=True)
class Installed:
    """The files that were written, and the settings that the second holds as an example."""

    script: Path
    example: Path
    settings: str


def install(client: HookClient, target_dir: Path, server_url: str, recorder: str, *, force: bool) -> Installed:
    """Writes both files below `target_dir`, or neither.

    `ValidationFailed` for a target that isn't a directory, a symbolic link on the way, or, without `force`, a file
    that is there already.
    """
    folder = target_dir / client.folder / "hooks"
    script = folder / f"cerememory-recorder-{client.name}-hook.py"
    example = folder / EXAMPLE
    if not target_dir.is_dir():
        raise ValidationFailed(f"target_dir: {target_dir} is not a directory")
    for path in (folder.parent, folder, script, example):
        if path.is_symlink():
            raise ValidationFailed(f"{path}: is a symbolic link; nothing was written")
    for path in (script, example):
        if path.exists() and not (force and path.is_file()):
            raise ValidationFailed(f"{path}: is there already; --force replaces it")
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(_settings(client, script.absolute()), indent=2) + "\n"
    _replace(script, _script(client, server_url, recorder), SCRIPT_MODE)
    _replace(example, settings, EXAMPLE_MODE)
    return Installed(script, example, settings)


def _script(client: HookClient, server_url: str, recorder: str) -> str:
    source = Path(hook_script.__file__).read_text(encoding="utf-8")
    constants = (
        ("CLIENT", hook_script.CLIENT, client.name),
        ("SERVER_URL", hook_script.SERVER_URL, server_url),
        ("RECORDER", hook_script.RECORDER, recorder),
    )
    for name, default, value in constants:
        source = source.replace(f"\n{name} = {json.dumps(default)}", f"\n{name} = {json.dumps(value)}", 1)
    return source


def _settings(client: HookClient, script: Path) -> dict[str, Any]:
    command = shlex.join(["python3", "-IS", str(script)])
    if client.name == "cursor":
        return {"version": 1, "hooks": {name: [{"command": command}] for name in client.hooks}}
    hook = {"type": "command", "command": command, "timeout": TIMEOUT_S}
    return {"hooks": {name: [{"hooks": [hook]}] for name in client.hooks}}


def _replace(path: Path, text: str, mode: int) -> None:
    """All of it or nothing. What `path` was, a link too, gives way."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
