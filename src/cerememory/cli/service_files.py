"""The files that make a service of the daemon: which ones there are, where they go, and what stands in them.

They lie in the package's folder `ops`, ready to be used where nothing was changed: what differs from machine to
machine (where the command is, on macOS the user's folders) stands there as it usually is, and is replaced here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Literal
from xml.sax.saxutils import escape

from cerememory.cli.options import UsageError

ManagerName = Literal["systemd", "launchd"]
State = Literal["missing", "same", "different", "kept"]

COMMAND = "/usr/local/bin/cerememory"  # where files of `ops` have it
SCRIPT, TEXT, OF_GROUP, PRIVATE = 0o755, 0o644, 0o640, 0o600
UNIT_CHARS = frozenset("/._-+@=:,~")  # beside letters and digits: what needs no quotes in a unit
HOMES = ("/home/", "/root/", "/run/user/")  # what ProtectHome hides


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """`source` below `ops`; `target` where it goes. A configuration is its owner's once it is there."""

    source: str
    target: Path
    mode: int = TEXT
    is_config: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """A service of one manager: its files, and the commands that start, end and ask for it."""

    files: tuple[ServiceFile, ...]
    replaced: Mapping[str, str]
    start: tuple[str, ...]
    stop: tuple[str, ...]
    ask: tuple[str, ...]

    def rendered(self, file: ServiceFile) -> str:
        text = read(file.source)
        for usual, here in self.replaced.items():
            text = text.replace(usual, escape(here) if file.source.endswith(".plist") else here)
        return text

    def state(self, file: ServiceFile) -> State:
        """What is at the target: the file as it would be written, another, or none."""
        if not file.target.exists():
            return "missing"
        if file.is_config:
            return "kept"
        return "same" if file.target.read_text(errors="replace") == self.rendered(file) else "different"


def read(source: str) -> str:
    """A file of `ops`, as it is."""
    return files("cerememory").joinpath("ops", *source.split("/")).read_text()


def layout(manager: ManagerName, command: Path, home: Path | None, root: Path) -> Layout:
    """`home` None: a service of the system; else of the user whose home it is. Targets lie below `root`.

    Raises `UsageError` for a command that the service could not run.
    """
    if manager == "systemd":
        return _systemd(command, root) if home is None else _systemd_of_user(command, home, root)
    if home is None:
        raise UsageError("launchd would run a service of the system as root: add --user")
    return _launchd(command, home, root)


def _systemd(command: Path, root: Path) -> Layout:
    _check_seen(command)
    units, config = root / "etc/systemd/system", root / "etc/cerememory/cerememory.toml"
    return Layout(
        files=(
            *_units("systemd", units),
            ServiceFile("systemd/cerememory.sysusers.conf", root / "etc/sysusers.d/cerememory.conf"),
            ServiceFile("backup/cerememory-backup", root / "usr/local/lib/cerememory/cerememory-backup", SCRIPT),
            ServiceFile("systemd/cerememory.toml", config, OF_GROUP, is_config=True),
        ),
        replaced={COMMAND: _for_unit(command)},
        start=(
            "systemd-sysusers",
            "chgrp cerememory /etc/cerememory/cerememory.toml",
            "systemctl daemon-reload",
            "systemctl enable --now cerememory.service",
            "(umask 077; openssl rand -base64 32 >/etc/cerememory/backup.key)  # and keep a copy elsewhere",
            "systemctl enable --now cerememory-backup.timer",
        ),
        stop=("systemctl disable --now cerememory-backup.timer cerememory.service",),
        ask=("systemctl", "is-active", "cerememory.service"),
    )


def _systemd_of_user(command: Path, home: Path, root: Path) -> Layout:
    config, local = root / home.relative_to("/") / ".config", root / home.relative_to("/") / ".local"
    return Layout(
        files=(
            *_units("systemd-user", config / "systemd/user"),
            ServiceFile("backup/cerememory-backup", local / "lib/cerememory/cerememory-backup", SCRIPT),
            ServiceFile(
                "systemd-user/cerememory.toml", config / "cerememory/cerememory.toml", PRIVATE, is_config=True
            ),
        ),
        replaced={COMMAND: _for_unit(command)},
        start=(
            "systemctl --user daemon-reload",
            "systemctl --user enable --now cerememory.service",
            "loginctl enable-linger  # to run while nobody is logged in",
            "(umask 077; openssl rand -base64 32 >~/.config/cerememory/backup.key)  # and keep a copy elsewhere",
            "systemctl --user enable --now cerememory-backup.timer",
        ),
        stop=("systemctl --user disable --now cerememory-backup.timer cerememory.service",),
        ask=("systemctl", "--user", "is-active", "cerememory.service"),
    )


def _units(folder: str, target: Path) -> Iterator[ServiceFile]:
    yield ServiceFile(f"{folder}/cerememory.service", target / "cerememory.service")
    yield ServiceFile(f"{folder}/cerememory-backup.service", target / "cerememory-backup.service")
    yield ServiceFile("systemd/cerememory-backup.timer", target / "cerememory-backup.timer")


def _launchd(command: Path, home: Path, root: Path) -> Layout:
    library, below = home / "Library", root / home.relative_to("/") / "Library"
    support, agent = "Application Support/cerememory", "LaunchAgents/com.cerememory.plist"
    return Layout(
        files=(
            ServiceFile("launchd/com.cerememory.plist", below / agent),
            ServiceFile("launchd/cerememory.toml", below / support / "cerememory.toml", PRIVATE, is_config=True),
        ),
        replaced={
            COMMAND: str(command),
            "/usr/local/etc/cerememory": str(library / support),
            "/usr/local/var/log/cerememory": str(library / "Logs"),
            "/usr/local/var/cerememory": str(library / support / "data"),
        },
        start=(f"launchctl bootstrap gui/$(id -u) {quote(str(library / agent))}",),
        stop=("launchctl bootout gui/$(id -u)/com.cerememory",),
        ask=("launchctl", "list", "com.cerememory"),
    )


def _check_seen(command: Path) -> None:
    """Raises `UsageError` when the command, or the interpreter beside it, lies in somebody's home."""
    for path in (command, command.resolve(), command.with_name("python").resolve()):
        if str(path).startswith(HOMES):
            raise UsageError(
                f"{path}: the service doesn't see home directories; install it elsewhere, or add --user"
            )


def _for_unit(command: Path) -> str:
    """Raises `UsageError` for a path that a unit would need quotes for."""
    if not all(char.isalnum() or char in UNIT_CHARS for char in str(command)):
        raise UsageError(f"{command}: such a path can't stand in a unit file; install it elsewhere, or link to it")
    return str(command)
