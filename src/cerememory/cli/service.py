"""`cerememory service`: makes a service of the daemon for systemd or launchd, takes it away, and looks at it.

Nothing is written or deleted without `--apply`, and no manager is told anything: what is to be run is printed.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from cerememory.cli.app import OWN
from cerememory.cli.arguments import Common
from cerememory.cli.options import UsageError
from cerememory.cli.output import show
from cerememory.cli.own_command import own_command
from cerememory.cli.service_files import Layout, ManagerName, ServiceFile, layout
from cerememory.errors import ValidationFailed
from cerememory.home import user_home
from cerememory.storage.datadir import write_durably

FOLDER = 0o755
ASK_S = 10.0
ACTIVE = "active"

app = App(name="service", group_parameters=OWN)


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which service is meant.

    Attributes:
        manager: systemd or launchd; without this, the one of this system.
        user: A service of this user, instead of one of the system.
        command: The command that it runs; without this, the one of this installation.
        root: A folder that stands for / (for packages).
    """

    manager: ManagerName | None = None
    user: bool = False
    command: Path | None = None
    root: Path = Path("/")

    def layout(self) -> Layout:
        manager: ManagerName = self.manager or ("launchd" if sys.platform == "darwin" else "systemd")
        command = self.command or own_command()
        if command is None:
            raise UsageError("--command: where is cerememory? There is none beside the interpreter")
        home = user_home("--user") if self.user else None
        return layout(manager, command.absolute(), home, self.root.absolute())


Service = Annotated[Where, Parameter(name="*")]
HERE = Where()


@app.command
def install(*, where: Service = HERE, apply: bool = False, force: bool = False, options: Common) -> None:
    """Show the files that make a service of the daemon, or write them.

    Args:
        apply: Write them. A configuration that is there stays as it is.
        force: Write over files that are other than they would be.
    """
    service = where.layout()
    rows = [_row(service, file) for file in service.files]
    if apply:
        _refuse_different(rows, is_forced=force)
        for file in service.files:
            if service.state(file) in ("missing", "different"):
                _write(file, service.rendered(file))
    answer = {"applied": apply, "files": rows, "next": list(service.start)}
    show(answer, options, _installed if apply else _to_install)


@app.command
def uninstall(*, where: Service = HERE, apply: bool = False, force: bool = False, options: Common) -> None:
    """Show which files of the service are there, or delete them. Configuration and memories stay.

    Args:
        apply: Delete them; end the service first.
        force: Delete files, too, that are other than they were written.
    """
    service = where.layout()
    rows = [_row(service, file) for file in service.files if service.state(file) in ("same", "different")]
    if apply:
        _refuse_different(rows, is_forced=force)
        for row in rows:
            Path(row["path"]).unlink()
    show({"applied": apply, "files": rows, "first": list(service.stop)}, options, _uninstalled)


@app.command
def status(*, where: Service = HERE, options: Common) -> int:
    """Say which files of the service are there, and whether it runs. Exit code 1 unless all are, and it does."""
    service = where.layout()
    rows = [{"path": str(file.target), "state": service.state(file)} for file in service.files]
    state = _manager_says(service.ask)
    show({"files": rows, "state": state}, options, _told)
    return 0 if state == ACTIVE and all(row["state"] != "missing" for row in rows) else 1


def _row(service: Layout, file: ServiceFile) -> dict[str, Any]:
    return {
        "path": str(file.target),
        "mode": f"{file.mode:04o}",
        "state": service.state(file),
        "content": service.rendered(file),
    }


def _refuse_different(rows: list[dict[str, Any]], *, is_forced: bool) -> None:
    different = [row["path"] for row in rows if row["state"] == "different"]
    if different and not is_forced:
        raise ValidationFailed(
            f"{', '.join(different)}: not as they would be written; --force takes them all the same"
        )


def _write(file: ServiceFile, text: str) -> None:
    """The umask of commands closes all to others, who are meant to read these."""
    new = [each for each in file.target.parents if not each.exists()]
    for folder in reversed(new):
        folder.mkdir()
        folder.chmod(FOLDER)
    write_durably(file.target, text.encode())
    file.target.chmod(file.mode)


def _manager_says(ask: tuple[str, ...]) -> str:
    """`active`, or what the manager says instead."""
    try:
        asked = subprocess.run(ask, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {ask[0]}: {getattr(error, 'strerror', None) or 'gives no answer'}"
    if asked.returncode == 0:
        return ACTIVE
    return " ".join((asked.stdout or asked.stderr).split()) or "inactive"


def _to_install(answer: dict[str, Any]) -> str:
    shown = [f"--- {row['path']} ({row['mode']}, {row['state']})\n{row['content']}" for row in answer["files"]]
    return "\n".join(
        (*shown, "Nothing was written. With --apply these files are, then run:", *_steps(answer["next"]))
    )


def _installed(answer: dict[str, Any]) -> str:
    done = {"missing": "Wrote", "different": "Replaced", "same": "Left", "kept": "Kept"}
    lines = [f"{done[row['state']]} {row['path']}" for row in answer["files"]]
    return "\n".join((*lines, "Now run:", *_steps(answer["next"])))


def _uninstalled(answer: dict[str, Any]) -> str:
    verb = "Deleted" if answer["applied"] else "Would delete"
    lines = [f"{verb} {row['path']}" for row in answer["files"]] or ["No file of the service is there"]
    if answer["applied"]:
        return "\n".join(lines)
    return "\n".join((*lines, "Before --apply, run:", *_steps(answer["first"])))


def _told(answer: dict[str, Any]) -> str:
    return "\n".join((*(f"{row['state']} {row['path']}" for row in answer["files"]), f"service {answer['state']}"))


def _steps(commands: list[str]) -> list[str]:
    return [f"  {command}" for command in commands]
