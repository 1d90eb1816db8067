"""A tool call between client and memory: its arguments as a CMP request, and the answer as a tool's result.

Both transports of MCP go through here. Who asks, over HTTP or inside the daemon, is left to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cerememory.errors import ValidationFailed
from cerememory.mcp.arguments import Arguments, read_arguments
from cerememory.mcp.calls import CALLS, Call
from cerememory.mcp.render import Result, render, render_update
from cerememory.mcp.tools import BY_NAME
from cerememory.protocol.values import Timestamp

_SHOWN_BY = ("record_id", "budget_tokens")


class Asked(msgspec.Struct, frozen=True):
    """What a call of `tool` with `arguments` asks of the memory."""

    tool: str
    arguments: Arguments
    call: Call

    def once_asked(self) -> Asked:
        """What `shown` needs, without what was to be asked."""
        kept = {name: self.arguments[name] for name in _SHOWN_BY if name in self.arguments}
        return Asked(self.tool, kept, Call(self.call.operation))

    def shown(self, answer: Any, namespace: str) -> Result:
        """The result; `answer` is the decoded CMP answer, of an export what `render_export` is for."""
        if self.tool == "update":
            return render_update(self.arguments["record_id"], namespace)
        return render(self.tool, answer, namespace, self.arguments.get("budget_tokens"))


def asked(tool: str, given: Mapping[str, object], now: Timestamp) -> Asked:
    """What a client has `given` to `tool`, read. Raises `ValidationFailed`, which names the argument."""
    if tool not in BY_NAME:
        raise ValidationFailed(f"name: there is no tool {tool[:64]!r}")
    arguments = read_arguments(BY_NAME[tool].parameters, given, now)
    return Asked(tool, arguments, CALLS[tool](arguments))
