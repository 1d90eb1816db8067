"""`cerememory config`: what the daemon would start with, and why it wouldn't; a file with all there is to set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from cerememory.cli.app import OWN
from cerememory.cli.arguments import Common, FileOrStdin
from cerememory.cli.init import DEFAULT_FILE, write_new
from cerememory.cli.output import show
from cerememory.cli.settings import check_start, load
from cerememory.config.shown import commented_toml, describe

if TYPE_CHECKING:
    from rich.table import Table

STDOUT = Path("-")

app = App(name="config", group_parameters=OWN)


@app.command(name="check")
def check_config(*, options: Common) -> None:
    """Print every setting with where it comes from, then what stands in the way of a start."""
    loaded = load(options)
    rows = [{"key": key, "value": value, "origin": origin} for key, value, origin in describe(loaded)]
    show(rows, options, _lines, _table)
    check_start(loaded, for_serve=True)


@app.command(name="init")
def init_config(path: FileOrStdin = DEFAULT_FILE, /, *, options: Common) -> None:
    """Write a file with every setting, its description and default, all commented out.

    Args:
        path: The file, which must not be there; - prints it.
    """
    if path == STDOUT:
        print(commented_toml(), end="")
        return
    write_new(path, commented_toml())
    show({"path": str(path.absolute())}, options, lambda answer: f"Wrote {answer['path']}")


def _lines(rows: list[dict[str, str]]) -> str:
    return "\n".join(f"{row['key']} = {row['value']}  # {row['origin']}" for row in rows)


def _table(rows: list[dict[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("key", "value", "from"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[name]) for name in ("key", "value", "origin")))
    return table
