"""CMP calls of the tools, asked of the engine of this process in place of a daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from cerememory.actors.engine import Engine
from cerememory.mcp.calls import Call
from cerememory.protocol import codec
from cerememory.protocol.operations import BY_NAME
from cerememory.protocol.values import parse_id

Ask = Callable[..., Awaitable[Any]]
STATS = "introspect.stats"

_STORING: dict[str, Ask] = {
    "encode.store": Engine.encode_store,
    "encode.batch": Engine.encode_batch,
    "encode.store_raw": Engine.encode_store_raw,
    "encode.batch_raw": Engine.encode_batch_raw,
}
_CHANGING: dict[str, Ask] = {
    **_STORING,
    "encode.update": Engine.encode_update,
    "lifecycle.forget": Engine.lifecycle_forget,
    "lifecycle.dream_tick": Engine.lifecycle_dream_tick,
    "lifecycle.consolidate": Engine.lifecycle_consolidate,
}
_SEARCHING: dict[str, Ask] = {
    "recall.query": Engine.recall_query,
    "recall.raw_query": Engine.recall_raw_query,
}
_READING: dict[str, Ask] = {
    "recall.timeline": Engine.recall_timeline,
    "recall.associate": Engine.recall_associate,
    "introspect.record": Engine.introspect_record,
    STATS: Engine.introspect_stats,
}


def typed(call: Call) -> tuple[Any, ...]:
    """What the engine's method takes for `call`, in order. Raises `ValidationFailed`, which names the field."""
    kind = BY_NAME[call.operation].request
    if kind is None:
        return ()
    if call.body is None:
        return (codec.parse(codec.dump(call.path_params), kind),)
    ids = (parse_id(text) for text in call.path_params.values())
    return (*ids, codec.parse(codec.dump(call.body), kind))


async def ask(
    engine: Engine, operation: str, arguments: tuple[Any, ...], namespace: str, *, sees_all: bool
) -> Any:
    """The CMP reply, None where there is none. The first thing that is stored in a namespace makes it.

    A search waits for whatever was stored before it: nothing says which of it is the client's own.
    `sees_all`: whoever asks may see all namespaces, and so what is told of all of them together.
    """
    number = await engine.namespace(namespace, create=operation in _STORING)
    if operation == STATS:
        return await _READING[STATS](engine, namespace=number, with_sizes=sees_all)
    if operation in _SEARCHING:
        search = _SEARCHING[operation]
        return await search(engine, *arguments, namespace=number, fresh_by=engine.fresh_by())
    if operation in _READING:
        return await _READING[operation](engine, *arguments, namespace=number)
    return (await _CHANGING[operation](engine, *arguments, namespace=number)).reply
