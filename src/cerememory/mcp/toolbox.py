"""Tools at work: reads a tool's arguments, asks the daemon, shows its answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from cerememory.client import Client
from cerememory.errors import DaemonUnreachable, StorageUnavailable, ValidationFailed
from cerememory.mcp.archive_file import check_new_file, write_new_file
from cerememory.mcp.arguments import Arguments, read_arguments
from cerememory.mcp.calls import CALLS, Call
from cerememory.mcp.outbox import Outbox
from cerememory.mcp.render import Result, render, render_export, render_update, render_waiting
from cerememory.mcp.tools import BY_NAME
from cerememory.protocol.namespaces import DEFAULT_NAME
from cerememory.protocol.values import Timestamp

STORING = {"store", "batch_store", "store_raw", "batch_store_raw"}
_SHORT_BYTES = {"Accept": "application/vnd.cmp+json;bytes=base64"}  # a third of the size; arrays are read too


def _system_time() -> Timestamp:
    return Timestamp(time.time_ns())


class Toolbox:
    """The tools over one client; usable from any thread, as the client is.

    With an `outbox` what is to be stored while the daemon is away waits there, and is sent before the next call.
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
        if name not in BY_NAME:
            raise ValidationFailed(f"name: there is no tool {name[:64]!r}")
        if name == "recall" and given.get("scope") is not None:  # ignored, it would give more than was asked for
            raise ValidationFailed("scope: not built yet; leave it out, or use a namespace")
        arguments = read_arguments(BY_NAME[name].parameters, given, self._now())
        call = CALLS[name](arguments)
        if self._outbox is not None:
            self._outbox.send()
            if name in STORING:
                return self._store(name, call, self._outbox)
        if name == "export":
            return self._export(call, arguments)
        answer = self._ask(call)
        if name == "update":
            return render_update(arguments["record_id"], self._namespace)
        return render(name, answer, self._namespace, arguments.get("budget_tokens"))

    def _store(self, name: str, call: Call, outbox: Outbox) -> Result:
        key = str(uuid.uuid4())
        try:
            return render(name, self._ask(call, key), self._namespace)
        except DaemonUnreachable as away:
            try:
                outbox.put(call.operation, call.body, key)
            except StorageUnavailable as full:
                message = f"{away}; what was to be stored can't be kept for it: {full}"
                raise DaemonUnreachable(message, was_sent=away.was_sent) from full
        return render_waiting(name, self._namespace)

    def _ask(self, call: Call, idempotency_key: str | None = None) -> Any:
        return self._client.call(
            call.operation,
            call.body,
            path_params=call.path_params,
            headers=_SHORT_BYTES,
            idempotency_key=idempotency_key,
        )

    def _export(self, call: Call, arguments: Arguments) -> Result:
        """Checked before the daemon works, and again, by the system, when the file is made."""
        path = check_new_file(arguments["output_path"])
        with self._client.export_archive(call.body) as archive:
            write_new_file(path, archive.chunks)
        return render_export(archive.described(), path, self._namespace)
