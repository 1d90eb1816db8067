"""What encode adds to a memory before it is stored: its meta, its context, its inferred neighbours.

Source: the engine specification, "Encode".
"""

from __future__ import annotations

import msgspec

from cerememory.protocol import codec
from cerememory.protocol.records import Association, AssociationType, CaptureStatus, MetaMemory
from cerememory.protocol.requests import AssociationInput, EncodeContext
from cerememory.protocol.values import RecordId, Timestamp

NEIGHBOUR_WEIGHT = 0.7


def completed_meta(meta: MetaMemory | None, trigger: str, now: int) -> MetaMemory | None:
    """`meta` with its status, trigger and time filled in; None when none was given.

    Given without a status, or as `legacy`, it counts as provided; `inferred` and `unavailable` stay.
    """
    if meta is None:
        return None
    stays = meta.capture_status in (CaptureStatus.INFERRED, CaptureStatus.UNAVAILABLE)
    return msgspec.structs.replace(
        meta,
        schema_version=meta.schema_version or 1,
        capture_status=meta.capture_status if stays else CaptureStatus.PROVIDED,
        trigger=meta.trigger or trigger,
        captured_at=Timestamp(now) if meta.captured_at is None else meta.captured_at,
    )


def with_context(metadata: msgspec.Raw, context: EncodeContext | None) -> msgspec.Raw:
    """`metadata` with `context` as its `_context`; metadata that is no object moves to `_metadata`."""
    if context is None:
        return metadata
    fields = {
        "source": context.source,
        "session_id": context.session_id,
        "spatial": context.spatial,
        "temporal": context.temporal,
    }
    raw = bytes(metadata)
    if raw.startswith(b"{"):
        merged = {**msgspec.json.decode(raw, type=dict[str, msgspec.Raw]), "_context": fields}
    else:
        merged = {"_metadata": metadata, "_context": fields}
    return msgspec.Raw(codec.dump(merged))


def associations_of(inputs: tuple[AssociationInput, ...] | None, now: int) -> tuple[Association, ...]:
    """The edges a request gives, made at `now`."""
    return tuple(_association(edge.target_id, edge.association_type, edge.weight, now) for edge in inputs or ())


def neighbours(record_ids: list[RecordId], now: int) -> list[tuple[Association, ...]]:
    """For each id the sequential edges to the one before and the one after it in the batch."""
    return [
        tuple(
            _association(target, AssociationType.SEQUENTIAL, NEIGHBOUR_WEIGHT, now)
            for target in record_ids[max(0, i - 1) : i] + record_ids[i + 1 : i + 2]
        )
        for i in range(len(record_ids))
    ]


def _association(target: RecordId, kind: AssociationType, weight: float, now: int) -> Association:
    at = Timestamp(now)
    return Association(
        target_id=target, association_type=kind, weight=weight, created_at=at, last_co_activation=at
    )
