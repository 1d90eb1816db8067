"""The memories that a group of journal entries becomes.

Owns the records' metadata, their meta and the edges between them; the grouping and the text are `dreaming`'s,
and what the entries' own metadata says of them is `derivation`'s. Every record leads back to the entries that it
was made of. Source of the shapes: the engine specification, "Dream tick", and an archive that the reference wrote.

Keys of metadata are in the order of the alphabet, as the reference has them; times in it end in `+00:00`.
All `_at` are nanoseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerememory.domain.derivation import moment, processed_entry
from cerememory.domain.dreaming import Counts, Group, summary_of
from cerememory.protocol import codec
from cerememory.protocol.records import (
    Association,
    AssociationType,
    CaptureStatus,
    ContentBlock,
    MemoryContent,
    MetaEdge,
    MetaEvidenceRef,
    MetaMemory,
    Modality,
    Relation,
    Store,
)
from cerememory.protocol.values import ByteArray, RecordId, Timestamp

OPERATION = "lifecycle.dream_tick"
PROMOTED_ENTRIES_MIN = 2  # a topic of fewer entries that may be told isn't knowledge yet
LINK_WEIGHT = 1.0
CERTAIN = 1.0


@dataclass(frozen=True, slots=True)
class DreamRecord:
    """A memory to be stored: new, neutral, and without an embedding. `metadata` is a JSON object."""

    record_id: RecordId
    store: Store
    created_at: int
    content: MemoryContent
    associations: tuple[Association, ...]
    metadata: bytes
    meta: MetaMemory


@dataclass(frozen=True, slots=True)
class Dream:
    """What `group` becomes: its summary and, where it was promoted, the knowledge beside it, linked both ways."""

    group: Group
    tick_at: int
    summary: DreamRecord
    semantic: DreamRecord | None

    @property
    def records(self) -> tuple[DreamRecord, ...]:
        return (self.summary,) if self.semantic is None else (self.summary, self.semantic)

    @property
    def record_ids(self) -> tuple[RecordId, ...]:
        return tuple(record.record_id for record in self.records)


@dataclass(frozen=True, slots=True)
class Plan:
    """The ids and times of a dream to be made: `semantic_id` is used where the group is to be promoted."""

    tick_at: int
    made_at: int
    summary_id: RecordId
    semantic_id: RecordId


def is_promoted(group: Group) -> bool:
    """Whether `group` has a topic and enough of it to become knowledge."""
    return group.topic_id is not None and group.counts().normal >= PROMOTED_ENTRIES_MIN


def dream_of(group: Group, text: str, plan: Plan, *, promote: bool) -> Dream:
    """The dream of `group` that says `text`; `promote` lets it become knowledge, too, where it is ripe for it."""
    if not (promote and is_promoted(group)):
        return Dream(group, plan.tick_at, _summary(group, text, plan, ()), None)
    summary = _summary(group, text, plan, (plan.semantic_id,))
    return Dream(group, plan.tick_at, summary, _semantic(group, text, plan))


def _summary(group: Group, text: str, plan: Plan, semantic_ids: tuple[RecordId, ...]) -> DreamRecord:
    started, ended = group.entries[0].created_at, group.entries[-1].created_at
    span = {"range_end": moment(ended), "range_start": moment(started)}
    derived = {"_derived": {"semantic_ids": semantic_ids}} if semantic_ids else {}
    metadata = {**derived, **_provenance(group, plan, "episodic_summary", span)}
    edges = tuple(_edge_to_entry(plan.summary_id, entry.record_id, plan.tick_at) for entry in group.entries)
    meta = _meta(
        group,
        plan,
        intent="Keep what was said in the raw journal as one memory that leads back to its words.",
        rationale="Raw records of one session that belong together were summarised.",
        goals=("summarize_raw_journal", "preserve_traceability"),
        context_edges=edges,
        tags=("dream_tick", "episodic_summary"),
    )
    return DreamRecord(
        record_id=plan.summary_id,
        store=Store.EPISODIC,
        created_at=plan.made_at,
        content=_content(text),
        associations=_links(semantic_ids, plan),
        metadata=codec.dump(metadata),
        meta=meta,
    )


def _semantic(group: Group, text: str, plan: Plan) -> DreamRecord:
    source = {"raw_summary_record_id": plan.summary_id}
    metadata = _provenance(group, plan, "semantic_summary", source)
    entries = (_edge_to_entry(plan.semantic_id, entry.record_id, plan.tick_at) for entry in group.entries)
    meta = _meta(
        group,
        plan,
        intent="Turn what one topic of the raw journal says into knowledge that lasts longer.",
        rationale="The summary speaks of a topic of its own, in more than one raw record.",
        goals=("promote_topic_signal", "preserve_traceability"),
        context_edges=(_edge_to_summary(plan), *entries),
        tags=("dream_tick", "semantic_summary"),
        decision="The group's topic became a semantic memory.",
    )
    return DreamRecord(
        record_id=plan.semantic_id,
        store=Store.SEMANTIC,
        created_at=plan.made_at + 1,
        content=_content(text),
        associations=_links((plan.summary_id,), plan),
        metadata=codec.dump(metadata),
        meta=meta,
    )


def _content(text: str) -> MemoryContent:
    block = ContentBlock(modality=Modality.TEXT, format="text/plain", data=ByteArray(text.encode()))
    return MemoryContent(blocks=(block,), summary=summary_of(text))


def _provenance(group: Group, plan: Plan, kind: str, further: Mapping[str, object]) -> dict[str, Any]:
    """`_dream` and `_origin`, the latter with `further` in it."""
    origin = {
        "dream_tick_at": moment(plan.tick_at),
        "raw_record_count": len(group.entries),
        "raw_record_ids": _entry_ids(group),
        "raw_session_id": group.session_id,
        "raw_topic_hint": group.topic_hint,
        "raw_topic_id": group.topic_id,
        "raw_topic_inferred": group.topic_id is None,
        **further,
    }
    dream = {"kind": kind, "source": "raw_journal", "summary_stats": _stats(group.counts())}
    return {"_dream": dream, "_origin": dict(sorted(origin.items()))}


def _stats(counts: Counts) -> dict[str, int]:
    return {
        "normal_records": counts.normal,
        "private_scratch_redacted": counts.private_scratch,
        "redacted_total": counts.redacted,
        "sealed_redacted": counts.sealed,
        "secret_redacted": counts.secret,
    }


def _entry_ids(group: Group) -> tuple[RecordId, ...]:
    return tuple(entry.record_id for entry in group.entries)


def _meta(
    group: Group,
    plan: Plan,
    *,
    intent: str,
    rationale: str,
    goals: tuple[str, ...],
    context_edges: tuple[MetaEdge, ...],
    tags: tuple[str, ...],
    decision: str | None = None,
) -> MetaMemory:
    return MetaMemory(
        capture_status=CaptureStatus.INFERRED,
        intent=intent,
        rationale=rationale,
        trigger=OPERATION,
        goals=goals,
        evidence=tuple(_entry_as_evidence(record_id) for record_id in _entry_ids(group)),
        decision=decision,
        confidence=CERTAIN,
        source_record_ids=_entry_ids(group),
        context_edges=context_edges,
        tags=tags,
        captured_at=Timestamp(plan.tick_at),
    )


def _entry_as_evidence(record_id: RecordId) -> MetaEvidenceRef:
    return MetaEvidenceRef(raw_record_id=record_id, label="source_raw_record", confidence=CERTAIN)


def _edge_to_entry(source: RecordId, entry: RecordId, at: int) -> MetaEdge:
    return _derived_from(source, entry, "Made of this raw record.", _entry_as_evidence(entry), at)


def _edge_to_summary(plan: Plan) -> MetaEdge:
    evidence = MetaEvidenceRef(record_id=plan.summary_id, label="source_episodic_summary", confidence=CERTAIN)
    return _derived_from(plan.semantic_id, plan.summary_id, "Made of this summary.", evidence, plan.tick_at)


def _derived_from(
    source: RecordId, target: RecordId, rationale: str, evidence: MetaEvidenceRef, at: int
) -> MetaEdge:
    return MetaEdge(
        source_id=source,
        target_id=target,
        relation=Relation.DERIVED_FROM,
        rationale=rationale,
        evidence=(evidence,),
        confidence=CERTAIN,
        created_at=Timestamp(at),
    )


def _links(targets: tuple[RecordId, ...], plan: Plan) -> tuple[Association, ...]:
    at = Timestamp(plan.tick_at)
    return tuple(
        Association(
            target_id=target,
            association_type=AssociationType.SEMANTIC,
            weight=LINK_WEIGHT,
            created_at=at,
            last_co_activation=at,
        )
        for target in targets
    )


def entry_metadata(metadata: bytes, dream: Dream) -> bytes:
    """The metadata of an entry of the dream's group, with what it became."""
    semantic_ids = () if dream.semantic is None else (dream.semantic.record_id,)
    return processed_entry(metadata, dream.summary.record_id, semantic_ids, dream.tick_at)
