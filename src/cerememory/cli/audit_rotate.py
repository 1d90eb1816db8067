"""`cerememory audit-rotate`: closes the audit log's file, through the running daemon or alone."""

from __future__ import annotations

from typing import Any

from cerememory.cli.arguments import Common
from cerememory.cli.memory import connect
from cerememory.cli.output import show


def audit_rotate(*, options: Common) -> None:
    """Close the audit log's file, and go on in a new one.

    The closed file lies beside the log, with its entries in its name. It may be moved away: the chain goes on.
    """
    with connect(options) as memory:
        show(memory.call("lifecycle.rotate_audit", {}), options, _lines)


def _lines(answer: dict[str, Any]) -> str:
    if answer["file"] is None:
        return "The audit log has no entries: nothing to rotate"
    names = ("file", "entries", "last_sequence", "head_hash")
    return "\n".join(["Audit log rotated:", *(f"  {name}={answer[name]}" for name in names)])
