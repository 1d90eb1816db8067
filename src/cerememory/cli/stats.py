"""`cerememory stats`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cerememory.cli.arguments import Common
from cerememory.cli.memory import connect
from cerememory.cli.output import pretty, rows_table, show

if TYPE_CHECKING:
    from rich.table import Table


def stats(*, options: Common) -> None:
    """Count what is stored."""
    with connect(options) as memory:
        answer = memory.call("introspect.stats")
    show(answer, options, pretty, _table)


def _table(answer: Any) -> Table:
    return rows_table((name.replace("_", " "), value) for name, value in _leaves("", answer))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Names and values of all that isn't empty, the names of inner ones behind those of the outer."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{path} {name}".strip(), inner)
    elif isinstance(value, float):
        yield path, f"{value:.4f}"
    elif value not in (None, []):
        yield path, str(value)
