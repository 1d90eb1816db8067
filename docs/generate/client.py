"""The methods of the Python client, from the operation table."""

from __future__ import annotations

from docs.generate.markdown import code, table

from cerememory.client.replies import READ_AS
from cerememory.protocol.operations import OPERATIONS, Operation


def methods() -> str:
    return table(("method", "what it does", "request", "reply"), map(_row, OPERATIONS))


def _row(operation: Operation) -> tuple[str, ...]:
    reply = None if operation.reply is None else READ_AS.get(operation.reply, operation.reply)
    return (
        code(operation.name.replace(".", "_")),
        operation.summary,
        "" if operation.request is None else code(operation.request.__name__),
        "" if reply is None else code(reply.__name__),
    )
