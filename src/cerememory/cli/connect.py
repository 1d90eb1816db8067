"""`cerememory connect`: tells an MCP host of the daemon, or shows what it is to be told.

Nothing is written without `--apply`, and what a file was is kept beside it. No key is written anywhere: it is in
the environment of the host, which `--with-key` has it hand on.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cerememory.cli.arguments import Common
from cerememory.cli.memory import server_url
from cerememory.cli.options import KEY_VARIABLE, Options
from cerememory.cli.output import show
from cerememory.cli.own_command import own_command
from cerememory.cli.settings import load
from cerememory.client.address import check_api_key, parse_address
from cerememory.errors import ValidationFailed
from cerememory.home import user_home
from cerememory.mcp.hosts import HOSTS, Entry, Host, entry, http_entry, merged, snippet, with_variable
from cerememory.protocol.namespaces import check_name

HostName: TypeAlias = Literal["claude-code", "codex", "cursor", "vscode", "windsurf", "continue", "cline", "zed"]
PRIVATE_FILE = 0o600
FILE_BYTES_MAX = 16 * 1_048_576


def connect(
    host: HostName,
    /,
    *,
    transport: Literal["stdio", "http"] = "stdio",
    target_dir: Path = Path(),
    with_key: bool = False,
    apply: bool = False,
    force: bool = False,
    options: Common,
) -> None:
    """Show what an MCP host is to be told of the daemon, or write it into the host's file.

    Args:
        host: claude-code, codex, cursor, vscode, windsurf, continue, cline or zed.
        transport: stdio: the host starts cerememory mcp. http: it speaks to the daemon's /mcp itself.
        target_dir: The project, for hosts that are told by project.
        with_key: Have the host hand on CEREMEMORY_SERVER_API_KEY of its environment; the key isn't written.
        apply: Write it; the file as it was is kept beside it.
        force: Replace an entry that is there and says something else.
    """
    program = HOSTS[host]
    server = _server(program, _url(options), options.namespace, KEY_VARIABLE if with_key else None, transport)
    path = _path(program, target_dir)
    answer = {"host": program.title, "path": path and str(path), "entry": snippet(program, server)}
    if apply:
        if path is None:
            raise ValidationFailed(
                f"{program.title}: has no file that could be written; enter it at {program.place}"
            )
        if not (program.is_users or target_dir.is_dir()):
            raise ValidationFailed(f"--target-dir: {target_dir} is not a directory; nothing was written")
        answer |= _applied(program, path, server, force=force)
    show(answer, options, _told)


def _server(host: Host, url: str, namespace: str | None, variable: str | None, transport: str) -> Entry:
    if transport == "http":
        check_api_key(variable, parse_address(url))  # whatever it holds, the host would send it there
        return http_entry(host, url, namespace, variable)
    server = entry(str(own_command() or "cerememory"), url, namespace)
    return server if variable is None else with_variable(host, server, variable)


def _url(options: Options) -> str:
    if options.namespace is not None:
        check_name(options.namespace)
    if options.server_url is not None:
        return parse_address(options.server_url).url
    http = load(options, only=("http.port", "http.bind_address")).settings.http
    return server_url(f"{http.bind_address}:{http.port}")


def _path(host: Host, target_dir: Path) -> Path | None:
    if host.file is None:
        return None
    return (user_home(f"{host.title}'s file") if host.is_users else target_dir.absolute()) / host.file


def _applied(host: Host, path: Path, server: dict[str, Any], *, force: bool) -> dict[str, Any]:
    try:
        before = _read(path)
        after = merged(host, before, server, force=force)
        if after is None:
            return {"changed": False, "backup": None}
        path.parent.mkdir(parents=True, exist_ok=True)
        backup = None if before is None else _backed_up(path, before)
        _replace(path, after, PRIVATE_FILE if before is None else stat.S_IMODE(path.stat().st_mode))
    except ValidationFailed as error:
        raise ValidationFailed(f"{path}: {error}; nothing was written") from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "isn't UTF-8"
        raise ValidationFailed(f"{path}: {reason}; nothing was written") from error
    return {"changed": True, "backup": backup and str(backup)}


def _read(path: Path) -> str | None:
    """None for a file that isn't there. A link may lead to what others share: whoever made it is to change it."""
    if path.is_symlink():
        raise ValidationFailed("is a symbolic link")
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    if len(data) > FILE_BYTES_MAX:
        raise ValidationFailed(f"is over {FILE_BYTES_MAX} bytes")
    return data.decode()


def _backed_up(path: Path, text: str) -> Path:
    """A new file beside `path`, for its owner alone: what hosts are told may hold keys."""
    number = 0
    while True:
        backup = path.with_name(f"{path.name}.bak" + (f"-{number}" if number else ""))
        try:
            fd = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
        except FileExistsError:
            number += 1
            continue
        with os.fdopen(fd, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(fd)
        return backup


def _replace(path: Path, text: str, mode: int) -> None:
    """All of it or nothing."""
    fd, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(text.encode())
            file.flush()
            os.fsync(fd)
        Path(draft).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(draft).unlink()
        raise


def _told(answer: dict[str, Any]) -> str:
    if "changed" not in answer:
        where = (
            f"in {answer['path']} (--apply writes it there)" if answer["path"] else "where it takes MCP servers"
        )
        return f"{answer['host']}, {where}:\n\n{answer['entry']}".rstrip()
    if not answer["changed"]:
        return f"{answer['path']} says so already"
    kept = f"; what it was is in {answer['backup']}" if answer["backup"] else ""
    return f"Wrote {answer['path']}{kept}"
