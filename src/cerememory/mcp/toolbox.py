"""Tools at work: reads a tool's arguments, asks the daemon, shows its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from cerememory.client import Client
from cerememory.errors import ValidationFailed
from cerememory.mcp.archive_file import check_new_file, write_new_file
from cerememory.mcp.arguments import Arguments, read_arguments
from cerememory.mcp.calls import CALLS, Call
from cerememory.mcp.render import Result, render, render_export, render_update
from cerememory.mcp.tools import BY_NAME
from cerememory.protocol.namespaces import DEFAULT_NAME
from cerememory.protocol.values import Timestamp

_SHORT_BYTES = {"Accept": "application/vnd.cmp+json;bytes=base64"}  # a third of the size; arrays are read too


def _system_time() -> Timestamp:
    return Timestamp(time.time_ns())


class Toolbox:
    """The tools over one client; usable from any thread, as the client is."""

    def __init__(self, client: Client, now: Callable[[], Timestamp] = _system_time) -> None:
        self._client = client
        self._namespace = client.namespace or DEFAULT_NAME
        self._now = now

    def call(self, name: str, given: Mapping[str, object]) -> Result:
        """The result of tool `name`. Raises what `Client.call` does, and `ValidationFailed` of its own."""
        if name not in BY_NAME:
            raise ValidationFailed(f"name: there is no tool {name[:64]!r}")
        arguments = read_arguments(BY_NAME[name].parameters, given, self._now())
        call = CALLS[name](arguments)
        if name == "export":
            return self._export(call, arguments)
        answer = self._ask(call)
        if name == "update":
            return render_update(arguments["record_id"], self._namespace)
        return render(name, answer, self._namespace, arguments.get("budget_tokens"))

    def _ask(self, call: Call) -> Any:
        return self._client.call(call.operation, call.body, path_params=call.path_params, headers=_SHORT_BYTES)

    def _export(self, call: Call, arguments: Arguments) -> Result:
        """Checked before the daemon works, and again, by the system, when the file is made."""
        path = check_new_file(arguments["output_path"])
        with self._client.export_archive(call.body) as archive:
            write_new_file(path, archive.chunks)
        return render_export(archive.described(), path, self._namespace)
