"""Tools at work: reads a tool's arguments, asks the daemon, shows its answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from cerememory.client import Client
from cerememory.errors import DaemonUnreachable, StorageUnavailable
from cerememory.mcp.archive_file import check_new_file, write_new_file
from cerememory.mcp.asked import Asked, asked
from cerememory.mcp.calls import Call
from cerememory.mcp.outbox import Outbox
from cerememory.mcp.render import Result, render_export, render_waiting
from cerememory.protocol.namespaces import DEFAULT_NAME
from cerememory.protocol.values import Timestamp

STORING = {"store", "batch_store", "store_raw", "batch_store_raw"}
_SHORT_BYTES = {"Accept": "application/vnd.cmp+json;bytes=base64"}  # a third of the size; arrays are read too


def _system_time() -> Timestamp:
    return Timestamp(time.time_ns())


class Toolbox:
    """The tools over one client; usable from any thread, as the client is.

    With an `outbox` what is to be stored while the daemon is away waits there.
    """

    def __init__(
        self, client: Client, now: Callable[[], Timestamp] = _system_time, outbox: Outbox | None = None
    ) -> None:
        self._outbox = outbox
        self._client = client
        self._namespace = client.namespace or DEFAULT_NAME
        self._now = now

    def call(self, name: str, given: Mapping[str, object]) -> Result:
        """The result of tool `name`. Raises what `Client.call` does, and `ValidationFailed` of its own."""
        tool = asked(name, given, self._now())
        if self._outbox is not None and name in STORING:
            return self._store(tool, self._outbox)
        if name == "export":
            return self._export(tool)
        return tool.shown(self._ask(tool.call), self._namespace)

    def _store(self, tool: Asked, outbox: Outbox) -> Result:
        key = str(uuid.uuid4())
        try:
            return tool.shown(self._ask(tool.call, key), self._namespace)
        except DaemonUnreachable as away:
            try:
                outbox.put(tool.call.operation, tool.call.body, key)
            except StorageUnavailable as full:
                message = f"{away}; what was to be stored can't be kept for it: {full}"
                raise DaemonUnreachable(message, was_sent=away.was_sent) from full
        return render_waiting(tool.tool, self._namespace)

    def _ask(self, call: Call, idempotency_key: str | None = None) -> Any:
        return self._client.call(
            call.operation,
            call.body,
            path_params=call.path_params,
            headers=_SHORT_BYTES,
            idempotency_key=idempotency_key,
        )

    def _export(self, tool: Asked) -> Result:
        """Checked before the daemon works, and again, by the system, when the file is made."""
        path = check_new_file(tool.arguments["output_path"])
        with self._client.export_archive(tool.call.body) as archive:
            write_new_file(path, archive.chunks)
        return render_export(archive.described(), path, self._namespace)
