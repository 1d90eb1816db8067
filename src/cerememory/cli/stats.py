"""`cerememory stats`."""

from __future__ import annotations

from cerememory.cli.arguments import Common
from cerememory.cli.memory import connect
from cerememory.cli.output import leaves, pretty, rows_table, show


def stats(*, options: Common) -> None:
    """Count what is stored."""
    with connect(options) as memory:
        answer = memory.call("introspect.stats")
    show(answer, options, pretty, lambda answer: rows_table(leaves(answer)))
