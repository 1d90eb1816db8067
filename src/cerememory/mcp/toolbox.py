"""Tools at work: reads a tool's arguments, asks the daemon, shows its answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from cerememory.client import Client
from cerememory.errors import DaemonUnreachable, Overloaded, StorageUnavailable
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

    With an `outbox` what is to be stored while the daemon is away waits there. A store is known by its idempotency
    key: whatever becomes of it, nothing is stored twice.
    """

    def __init__(
        self, client: Client, now: Callable[[], Timestamp] = _system_time, outbox: Outbox | None = None
    ) -> None:
        self._outbox = outbox
        self._client = client
        self._namespace = client.namespace or DEFAULT_NAME
        self._now = now
        self._is_ending = False

    def call(self, name: str, given: Mapping[str, object], key: str | None = None) -> Result:
        """The result of tool `name`. Raises what `Client.call` does, and `ValidationFailed` of its own.

        `key` is the idempotency key, if it stores; None for a new one.
        """
        tool = asked(name, given, self._now())
        if self._outbox is not None and name in STORING:
            return self._store(tool, self._outbox, key or str(uuid.uuid4()))
        if name == "export":
            return self._export(tool)
        return tool.shown(self._ask(tool.call), self._namespace)

    def end(self) -> None:
        """Calls wait for the daemon no more: each is tried once, and what it can't store waits in the outbox."""
        self._is_ending = True
        self._client.close()

    def keep(self, name: str, given: Mapping[str, object], key: str) -> None:
        """Has what `call` with the same was to store wait in the outbox; nothing if it was to store nothing.

        `StorageUnavailable` when it can't be kept, `ValidationFailed` when it can't be meant.
        """
        if name not in STORING:
            return
        call = asked(name, given, self._now()).call
        if self._outbox is None:
            raise StorageUnavailable("there is no outbox")
        self._outbox.put(call.operation, call.body, key)

    def _store(self, tool: Asked, outbox: Outbox, key: str) -> Result:
        try:
            return tool.shown(self._ask(tool.call, key), self._namespace)
        except Overloaded as error:
            if not (self._is_ending or isinstance(error, DaemonUnreachable)):
                raise
            try:
                outbox.put(tool.call.operation, tool.call.body, key)
            except StorageUnavailable as full:
                message = f"{error}; what was to be stored can't be kept for it: {full}"
                was_sent = isinstance(error, DaemonUnreachable) and error.was_sent
                raise DaemonUnreachable(message, was_sent=was_sent) from full
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
