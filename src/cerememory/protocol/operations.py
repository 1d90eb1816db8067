"""The operation table: what each CMP operation is called, where HTTP has it, and which types it speaks.

Routes, the command line, MCP tools and documents are made from these rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cerememory.protocol import replies, requests
from cerememory.protocol.access import ADMIN, READ, WRITE, Needs, Role


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. `request` of a GET is what its path and query hold, None where they hold nothing.

    `reply` is None where the answer is 204 without a body. `mutates` says that it writes memories. `needs` is what
    the caller's key must be. `summary` is one sentence for readers of the interface.
    """

    name: str
    method: str
    path: str
    request: type[Any] | None
    reply: type[Any] | None
    mutates: bool = False
    needs: Needs = field(kw_only=True)
    summary: str = field(kw_only=True)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "encode.store",
        "POST",
        "/v1/encode",
        requests.EncodeStore,
        replies.Encoded,
        True,
        needs=WRITE,
        summary="Store a memory.",
    ),
    Operation(
        "encode.batch",
        "POST",
        "/v1/encode/batch",
        requests.EncodeBatch,
        replies.BatchEncoded,
        True,
        needs=WRITE,
        summary="Store up to 1,000 memories: all of them or, when one is refused, none.",
    ),
    Operation(
        "encode.update",
        "PATCH",
        "/v1/encode/{record_id}",
        requests.EncodeUpdate,
        None,
        True,
        needs=WRITE,
        summary="Replace the given parts of a memory.",
    ),
    Operation(
        "encode.store_raw",
        "POST",
        "/v1/encode/raw",
        requests.EncodeStoreRaw,
        replies.RawEncoded,
        True,
        needs=WRITE,
        summary="Keep an entry in the raw journal, word for word.",
    ),
    Operation(
        "encode.batch_raw",
        "POST",
        "/v1/encode/raw/batch",
        requests.EncodeBatchRaw,
        replies.BatchRawEncoded,
        True,
        needs=WRITE,
        summary="Keep several entries in the raw journal: all of them or none.",
    ),
    Operation(
        "recall.query",
        "POST",
        "/v1/recall/query",
        requests.RecallQuery,
        replies.Recalled,
        needs=READ,
        summary="Find memories by words, vector, emotion or time; with an empty cue, the newest.",
    ),
    Operation(
        "recall.associate",
        "POST",
        "/v1/recall/associate/{record_id}",
        requests.RecallAssociate,
        replies.Associated,
        needs=READ,
        summary="Find the memories that are linked to one, strongest first.",
    ),
    Operation(
        "recall.timeline",
        "POST",
        "/v1/recall/timeline",
        requests.RecallTimeline,
        replies.Timeline,
        needs=READ,
        summary="List memories by the time of their creation, in buckets.",
    ),
    Operation(
        "recall.graph",
        "POST",
        "/v1/recall/graph",
        requests.RecallGraph,
        replies.Graph,
        needs=READ,
        summary="Show memories and the associations between them, from one memory outwards.",
    ),
    Operation(
        "recall.raw_query",
        "POST",
        "/v1/recall/raw",
        requests.RecallRawQuery,
        replies.RawRecalled,
        needs=READ,
        summary="Find entries of the raw journal, oldest first.",
    ),
    Operation(
        "lifecycle.consolidate",
        "POST",
        "/v1/lifecycle/consolidate",
        requests.Consolidate,
        replies.Consolidated,
        True,
        needs=WRITE,
        summary="Turn episodic memories into semantic ones.",
    ),
    Operation(
        "lifecycle.dream_tick",
        "POST",
        "/v1/lifecycle/dream-tick",
        requests.DreamTick,
        replies.Dreamt,
        True,
        needs=WRITE,
        summary="Summarise entries of the raw journal into memories.",
    ),
    Operation(
        "lifecycle.decay_tick",
        "POST",
        "/v1/lifecycle/decay-tick",
        requests.DecayTick,
        replies.Decayed,
        True,
        needs=ADMIN,
        summary="Compute how far memories have faded, now or as if more time had passed.",
    ),
    Operation(
        "lifecycle.set_mode",
        "PUT",
        "/v1/lifecycle/mode",
        requests.SetMode,
        None,
        True,
        needs=ADMIN,
        summary="Choose how memories are told in recalls: as they have faded, or word for word.",
    ),
    Operation(
        "lifecycle.forget",
        "DELETE",
        "/v1/lifecycle/forget",
        requests.Forget,
        replies.Forgotten,
        True,
        needs=WRITE,
        summary="Delete memories; they can't be brought back.",
    ),
    Operation(
        "lifecycle.restore",
        "POST",
        "/v1/lifecycle/restore",
        requests.Restore,
        replies.Restored,
        True,
        needs=WRITE,
        summary="Bring back memories that decay has archived, or list them.",
    ),
    Operation(
        "lifecycle.export",
        "POST",
        "/v1/lifecycle/export",
        requests.Export,
        replies.Exported,
        needs=ADMIN,
        summary="Write memories, and the raw journal when asked, into an archive.",
    ),
    Operation(
        "lifecycle.import",
        "POST",
        "/v1/lifecycle/import",
        requests.Import,
        replies.Imported,
        True,
        needs=ADMIN,
        summary="Read an archive back in.",
    ),
    Operation(
        "lifecycle.undo_import",
        "POST",
        "/v1/lifecycle/import/undo",
        requests.UndoImport,
        replies.ImportUndone,
        True,
        needs=ADMIN,
        summary="Take an import back.",
    ),
    Operation(
        "lifecycle.rotate_audit",
        "POST",
        "/v1/audit/rotate",
        requests.RotateAudit,
        replies.AuditRotated,
        True,
        needs=Needs(Role.ADMIN, is_global=True),
        summary="Close the audit log's file, and go on in a new one.",
    ),
    Operation(
        "lifecycle.redact",
        "POST",
        "/v1/lifecycle/redact",
        requests.Redact,
        replies.Redacted,
        True,
        needs=ADMIN,
        summary="Take secrets out of the raw journal, a piece at a time.",
    ),
    Operation(
        "lifecycle.compact",
        "POST",
        "/v1/lifecycle/compact",
        requests.Compact,
        replies.Compacted,
        needs=Needs(Role.ADMIN, is_global=True),
        summary="Rid the disk of every trace of what was deleted, in all namespaces; writes wait meanwhile.",
    ),
    Operation(
        "introspect.stats",
        "GET",
        "/v1/introspect/stats",
        None,
        replies.Stats,
        needs=READ,
        summary="Count what is stored.",
    ),
    Operation(
        "introspect.record",
        "GET",
        "/v1/introspect/record/{record_id}",
        requests.IntrospectRecord,
        replies.IntrospectedRecord,
        needs=READ,
        summary="Show one memory whole.",
    ),
    Operation(
        "introspect.decay_forecast",
        "POST",
        "/v1/introspect/decay-forecast",
        requests.DecayForecast,
        replies.Forecasts,
        needs=READ,
        summary="Say how far memories will have faded at a given time.",
    ),
    Operation(
        "introspect.evolution",
        "GET",
        "/v1/introspect/evolution",
        None,
        replies.EvolutionMetrics,
        needs=READ,
        summary="Show what the daemon has adjusted of its own parameters.",
    ),
)

BY_NAME: dict[str, Operation] = {operation.name: operation for operation in OPERATIONS}
