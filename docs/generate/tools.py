"""The tools of the MCP surface, from the table that its clients are shown."""

from __future__ import annotations

from docs.generate.markdown import code, table

from cerememory.mcp.arguments import Parameter
from cerememory.mcp.tools import TOOLS, Tool


def tools() -> str:
    heads = ("tool", "what it does", "arguments, the required ones first", "changes")
    return table(heads, map(_row, TOOLS))


def _row(tool: Tool) -> tuple[str, ...]:
    ordered = sorted(tool.parameters, key=lambda parameter: not parameter.required)
    return (code(tool.name), tool.description, ", ".join(map(_argument, ordered)), _changes(tool))


def _argument(parameter: Parameter) -> str:
    return f"**{code(parameter.name)}**" if parameter.required else code(parameter.name)


def _changes(tool: Tool) -> str:
    if tool.hints.get("readOnlyHint"):
        return "nothing"
    return "adds" if tool.hints.get("destructiveHint") is False else "replaces"
