"""The operation table: what each CMP operation is called, where HTTP has it, and which types it speaks.

Routes, the command line, MCP tools and documents are made from these rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cerememory.protocol import replies, requests


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. `request` of a GET is what its path and query hold, None where they hold nothing.

    `reply` is None where the answer is 204 without a body. `mutates` says that it writes memories.
    """

    name: str
    method: str
    path: str
    request: type[Any] | None
    reply: type[Any] | None
    mutates: bool = False


OPERATIONS: tuple[Operation, ...] = (
    Operation("encode.store", "POST", "/v1/encode", requests.EncodeStore, replies.Encoded, True),
    Operation("encode.batch", "POST", "/v1/encode/batch", requests.EncodeBatch, replies.BatchEncoded, True),
    Operation("encode.update", "PATCH", "/v1/encode/{record_id}", requests.EncodeUpdate, None, True),
    Operation("encode.store_raw", "POST", "/v1/encode/raw", requests.EncodeStoreRaw, replies.RawEncoded, True),
    Operation(
        "encode.batch_raw",
        "POST",
        "/v1/encode/raw/batch",
        requests.EncodeBatchRaw,
        replies.BatchRawEncoded,
        True,
    ),
    Operation("recall.query", "POST", "/v1/recall/query", requests.RecallQuery, replies.Recalled),
    Operation(
        "recall.associate",
        "POST",
        "/v1/recall/associate/{record_id}",
        requests.RecallAssociate,
        replies.Associated,
    ),
    Operation("recall.timeline", "POST", "/v1/recall/timeline", requests.RecallTimeline, replies.Timeline),
    Operation("recall.graph", "POST", "/v1/recall/graph", requests.RecallGraph, replies.Graph),
    Operation("recall.raw_query", "POST", "/v1/recall/raw", requests.RecallRawQuery, replies.RawRecalled),
    Operation(
        "lifecycle.consolidate",
        "POST",
        "/v1/lifecycle/consolidate",
        requests.Consolidate,
        replies.Consolidated,
        True,
    ),
    Operation(
        "lifecycle.dream_tick", "POST", "/v1/lifecycle/dream-tick", requests.DreamTick, replies.Dreamt, True
    ),
    Operation(
        "lifecycle.decay_tick", "POST", "/v1/lifecycle/decay-tick", requests.DecayTick, replies.Decayed, True
    ),
    Operation("lifecycle.set_mode", "PUT", "/v1/lifecycle/mode", requests.SetMode, None, True),
    Operation("lifecycle.forget", "DELETE", "/v1/lifecycle/forget", requests.Forget, replies.Forgotten, True),
    Operation("lifecycle.export", "POST", "/v1/lifecycle/export", requests.Export, replies.Exported),
    Operation("lifecycle.import", "POST", "/v1/lifecycle/import", requests.Import, replies.Imported, True),
    Operation("introspect.stats", "GET", "/v1/introspect/stats", None, replies.Stats),
    Operation(
        "introspect.record",
        "GET",
        "/v1/introspect/record/{record_id}",
        requests.IntrospectRecord,
        replies.IntrospectedRecord,
    ),
    Operation(
        "introspect.decay_forecast",
        "POST",
        "/v1/introspect/decay-forecast",
        requests.DecayForecast,
        replies.Forecasts,
    ),
    Operation("introspect.evolution", "GET", "/v1/introspect/evolution", None, replies.EvolutionMetrics),
)

BY_NAME: dict[str, Operation] = {operation.name: operation for operation in OPERATIONS}
