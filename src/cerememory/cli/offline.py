"""The engine inside a command: the data dir is the command's for as long as it works.

The engine runs on an event loop in a thread of its own, without surfaces and timers. A call goes the way that a
request to the daemon goes: its body through the codec into the operation's type, its answer back through the
codec. Leaving drains the engine: everything is committed, in the audit file and indexed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from cerememory.actors.assembly import opened
from cerememory.actors.engine import Engine
from cerememory.cli.groups import ungrouped
from cerememory.config.settings import Settings
from cerememory.errors import NoRoute, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.operations import BY_NAME
from cerememory.protocol.records import STORES
from cerememory.protocol.requests import RecallCue, RecallQuery
from cerememory.protocol.values import RecordId, parse_id
from cerememory.storage.datadir import DataDir
from cerememory.storage.mutations import Stored
from cerememory.telemetry import logs
from cerememory.telemetry.metrics import Metrics

INDEXED_WITHIN_S = 60.0
PROBE_EVERY_S = 0.02
PROBE = RecallQuery(cue=RecallCue(text="index"), limit=1, reconsolidate=False)
METHODS: dict[str, Callable[..., Awaitable[object]]] = {
    "encode.store": Engine.encode_store,
    "encode.batch": Engine.encode_batch,
    "encode.update": Engine.encode_update,
    "encode.store_raw": Engine.encode_store_raw,
    "encode.batch_raw": Engine.encode_batch_raw,
    "recall.query": Engine.recall_query,
    "recall.raw_query": Engine.recall_raw_query,
    "introspect.stats": Engine.introspect_stats,
    "introspect.record": Engine.introspect_record,
}


@contextmanager
def offline(settings: Settings, is_verbose: bool) -> Iterator[OfflineMemory]:
    """Raises `StartRefused` when the data dir can't be owned or isn't whole."""
    quiet = settings.log.level if is_verbose else max(settings.log.level, "warn", key=logs.LEVELS.__getitem__)
    logs.configure(quiet, settings.log.format)
    with (
        ungrouped(),
        DataDir.acquire(settings.data_dir) as directory,
        start_blocking_portal("trio") as portal,
        ExitStack() as stack,
    ):
        directory.announce("")
        metrics = Metrics([store.value for store in STORES])
        opening = portal.wrap_async_context_manager(opened(settings, directory, metrics))
        engine = opening.__enter__()
        stack.callback(opening.__exit__, None, None, None)  # it drains the same way whatever ended the command
        portal.call(_until_indexed, engine)
        yield OfflineMemory(engine, portal)


async def _until_indexed(engine: Engine) -> None:
    """Return when searches see all that is stored, or after `INDEXED_WITHIN_S`.

    The index catches up in the background. A daemon answers meanwhile; a command has only this moment.
    """
    with trio.move_on_after(INDEXED_WITHIN_S):
        while not (await engine.recall_query(PROBE)).query_metadata.index_complete:  # noqa: ASYNC110
            await trio.sleep(PROBE_EVERY_S)


class OfflineMemory:
    """`Memory` on an engine that runs in the portal's thread."""

    def __init__(self, engine: Engine, portal: BlockingPortal) -> None:
        self._engine = engine
        self._portal = portal

    def call(
        self, operation_name: str, body: object | None = None, *, path_params: Mapping[str, str] | None = None
    ) -> Any:
        if operation_name not in METHODS:
            raise NoRoute(f"{operation_name}: isn't available in this version")
        arguments: list[Any] = [_record_id(text) for text in (path_params or {}).values()]
        kind = BY_NAME[operation_name].request
        if body is not None and kind is not None:
            arguments.append(codec.parse(codec.dump(body), kind))
        reply = self._portal.call(METHODS[operation_name], self._engine, *arguments)
        return _decoded(reply.reply if isinstance(reply, Stored) else reply)


def _record_id(text: str) -> RecordId:
    """The one part that a path may have."""
    try:
        return parse_id(text)
    except ValueError as error:
        raise ValidationFailed(f"record_id: {error}") from None


def _decoded(reply: object) -> Any:
    return None if reply is None else msgspec.json.decode(codec.dump(reply))
