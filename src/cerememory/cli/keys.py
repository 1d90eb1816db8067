"""`cerememory key`: makes, lists and revokes the API keys of a data dir, beside a running daemon too.

They are changed on the disk, never through the daemon: whoever has a key, of whatever role, can't make another.
Reads of the configuration only where the data dir is.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cerememory.cli.app import OWN
from cerememory.cli.arguments import Common, RoleName, WholeNumber
from cerememory.cli.options import Options, UsageError
from cerememory.cli.output import note, show
from cerememory.cli.settings import load
from cerememory.protocol.access import Role
from cerememory.protocol.values import NANOS, format_timestamp
from cerememory.storage import api_keys
from cerememory.storage.api_keys import ApiKey
from cerememory.storage.datadir import check_is_there

if TYPE_CHECKING:
    from rich.table import Table

DAY_NS = 86_400 * NANOS
DAYS_MAX = 36_500

app = App(name="key", group_parameters=OWN)


@app.command
def create(
    name: str,
    /,
    *,
    role: RoleName,
    scope: str | None = None,
    days: Annotated[WholeNumber | None, Parameter(validator=Number(gte=1, lte=DAYS_MAX))] = None,
    options: Common,
) -> None:
    """Make a key and print it; it is never shown again.

    Args:
        name: What to call it: who will have it.
        role: read; write, to store and forget too; admin, for all there is.
        scope: The one namespace that it is for; all without this.
        days: For how many days; for ever without this.
    """
    data_dir = _data_dir(options)
    now = time.time_ns()
    expires_at = None if days is None else now + days * DAY_NS
    key, text = api_keys.create(
        data_dir, name=name, role=Role(role), namespace=scope, now=now, expires_at=expires_at
    )
    if not options.json:
        note(f"{_told(_row(key, now))}; the key is shown this once")
    show({"key": text, **_row(key, now)}, options, lambda answer: str(answer["key"]))


@app.command(name="list")
def list_keys(*, options: Common) -> None:
    """List all keys, also those that open nothing any more; never what they are."""
    now = time.time_ns()
    rows = [_row(key, now) for key in api_keys.read(_data_dir_there(options))]
    show(rows, options, lambda rows: "\n".join(map(_told, rows)) or "No keys", _table)


@app.command
def revoke(*key: str, options: Common) -> None:
    """Let keys open nothing any more, from this moment on.

    Args:
        key: Their ids or names.
    """
    if not key:
        raise UsageError("which keys are to be revoked? Give their ids or names")
    now = time.time_ns()
    rows = [_row(each, now) for each in api_keys.revoke(_data_dir_there(options), key, now)]
    show(rows, options, lambda rows: "\n".join(f"Revoked: {_told(row)}" for row in rows))


def _data_dir(options: Options) -> Path:
    if options.namespace is not None:
        raise UsageError("--namespace says whose memories a command is about; the namespace of a key is --scope")
    if options.server_url is not None:
        raise UsageError("--server-url: keys are made and revoked where the data dir is")
    return load(options, only=("data_dir",)).settings.data_dir


def _data_dir_there(options: Options) -> Path:
    """Raises `DataDirUnusable` when none is there: a mistyped one would seem to have no keys."""
    data_dir = _data_dir(options)
    check_is_there(data_dir)
    return data_dir


def _row(key: ApiKey, now: int) -> dict[str, Any]:
    """What may be shown of a key."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "scope": key.namespace,
        "created_at": format_timestamp(key.created_at),
        "expires_at": None if key.expires_at is None else format_timestamp(key.expires_at),
        "revoked_at": None if key.revoked_at is None else format_timestamp(key.revoked_at),
        "state": key.refusal(now) or "active",
    }


def _told(row: dict[str, Any]) -> str:
    names = ("id", "name", "role", "scope", "expires_at", "state")
    return ", ".join(f"{name}={_cell(row, name)}" for name in names)


def _cell(row: dict[str, Any], name: str) -> str:
    missing = {"scope": "all", "expires_at": "never"}
    return str(row[name] if row[name] is not None else missing[name])


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    names = ("id", "name", "role", "scope", "created_at", "expires_at", "state")
    table = Table()
    for name in names:
        table.add_column(name.removesuffix("_at"), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row, name)) for name in names))
    return table
