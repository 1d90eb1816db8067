"""What a night makes of a namespace: dreams of its journal, and consolidation of its memories.

Both plan first, without changing anything, for a dry run counts the same plan.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from cerememory.domain.analysis import STOP_WORDS
from cerememory.protocol.values import NANOS, format_timestamp
from tests.support.model.finding import LIKE_MIN, cosine
from tests.support.model.memories import CALM, DAY_NS, DYNAMICS, Edge, Entry, Json, Memory, content_of
from tests.support.model.namespace import FAINT, Namespace, joined_edges

MINUTE_NS = 60 * NANOS
SILENCE_NS, PAUSE_NS = 45 * MINUTE_NS, 10 * MINUTE_NS
OVERLAP_MIN = 0.08
HOUR_NS = 3_600 * NANOS
LOOK_BACK_NS = 10 * MINUTE_NS


@dataclass
class Group:
    session: str
    topic: str | None
    hint: str
    entries: list[Entry]

    @property
    def told(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.is_told]

    @property
    def is_promoted(self) -> bool:
        return self.topic is not None and len(self.told) >= 2

    def text(self) -> str | None:
        """None when nothing may be told."""
        texts = [" ".join(entry.text.split()) for entry in self.told if entry.text.split()]
        hidden = len(self.entries) - len(self.told)
        note = f" [Redacted raw records: {hidden}]" if hidden else ""
        told = " | ".join(texts[:8])
        return f"Dream summary for session {self.session} / topic {self.hint}: {told}{note}" if texts else None


def groups_of(
    namespace: Namespace, session: str | None, visibilities: Collection[str], secrecies: Collection[str]
) -> list[Group]:
    """What waits and may be dreamt of, oldest first."""
    waiting = [
        entry
        for entry in namespace.journal.values()
        if not entry.is_processed
        and session in (None, entry.session)
        and entry.visibility in visibilities
        and entry.secrecy in secrecies
    ]
    waiting.sort(key=lambda entry: (entry.created_at, entry.id))
    threads: dict[tuple[int, str, str | None], list[Entry]] = {}
    for entry in waiting:
        topic = entry.topic if (entry.topic or "").strip() else None
        threads.setdefault((entry.created_at // DAY_NS, entry.session, topic), []).append(entry)
    groups = [group for thread in threads.items() for group in _groups_in(*thread)]
    return sorted(groups, key=lambda group: (group.entries[0].created_at, group.entries[0].id))


def _groups_in(place: tuple[int, str, str | None], thread: list[Entry]) -> Iterable[Group]:
    day, session, topic = place
    if topic is not None:
        return [Group(session, topic, topic, thread)]
    cuts = [i for i in range(1, len(thread)) if _begins_anew(thread[i - 1], thread[i])]
    stretches = [thread[a:b] for a, b in itertools.pairwise([0, *cuts, len(thread)])]
    return [Group(session, None, _hint(s) or _number(day, n), s) for n, s in enumerate(stretches, start=1)]


def _begins_anew(before: Entry, entry: Entry) -> bool:
    gap = entry.created_at - before.created_at
    ours, theirs = set(_telling(before.text)), set(_telling(entry.text))
    overlap = len(ours & theirs) / max(len(ours | theirs), 1)
    return gap > SILENCE_NS or (gap > PAUSE_NS and overlap < OVERLAP_MIN)


def _telling(text: str) -> list[str]:
    return [word for word in text.lower().split() if len(word) >= 3 and word not in STOP_WORDS]


def _hint(entries: list[Entry]) -> str:
    counted = Counter(word for entry in entries if entry.is_told for word in _telling(entry.text))
    return "+".join(sorted(counted, key=lambda word: (-counted[word], word))[:3])


def _number(day: int, number: int) -> str:
    return f"auto-{datetime.fromtimestamp(day * 86_400, UTC):%Y%m%d}-{number}"


def dream(namespace: Namespace, group: Group, ids: list[str], text: str, now: int) -> list[Memory]:
    """Store what `group` becomes, by the ids that it got; `text` is what it says."""
    stores = ("episodic", "semantic")[: len(ids)]
    memories = [_dreamt(namespace, group, store, ids[i], text, now + i) for i, store in enumerate(stores)]
    for memory, linked in itertools.permutations(memories, 2):
        memory.edges.append(Edge(linked.id, "semantic", 1.0, now, now))
    for memory in memories:
        namespace.put(memory, "lifecycle.dream_tick")
    for entry in group.entries:
        _mark(entry, ids, now)
    namespace.summaries_dreamt += 1
    namespace.semantic_dreamt += len(ids) - 1
    return memories


def _dreamt(namespace: Namespace, group: Group, store: str, record_id: str, text: str, at: int) -> Memory:
    """Its metadata and meta are told by whoever has compared them."""
    return Memory(
        id=record_id,
        store=store,
        created_at=at,
        updated_at=at,
        content=content_of(text, summary=text if len(text) <= 160 else text[:157] + "..."),
        emotion=dict(CALM),
        metadata={},
        meta={},
        edges=[],
        base_at=namespace.clock(at),
        decay_rate=namespace.dynamics(store).decay_rate,
        last_accessed_at=at,
        last_tick_at=at,
    )


def _mark(entry: Entry, ids: list[str], now: int) -> None:
    derived = entry.metadata.get("_derived", {})
    entry.metadata = {
        **entry.metadata,
        "_derived": {
            **derived,
            "episodic_summary_ids": [*derived.get("episodic_summary_ids", []), ids[0]],
            "semantic_ids": [*derived.get("semantic_ids", []), *ids[1:]],
        },
        "_dream": {"last_summary_id": ids[0], "processed_at": format_timestamp(now, "+00:00")},
    }
    entry.derived = [*entry.derived, *ids]
    entry.updated_at = now


class Plan(NamedTuple):
    """Who counts as looked at, who takes in whom, who is copied, and who is faint and goes."""

    looked_at: list[str]
    merges: dict[str, str]
    copied: list[str]
    faint: list[str]


class Choice(NamedTuple):
    strategy: str
    min_age_hours: int
    min_access_count: int
    dedup: bool


def plan_of(namespace: Namespace, choice: Choice, now: int) -> Plan:
    episodes = [memory for memory in namespace.durable.values() if memory.store == "episodic"]
    min_age_ns = choice.min_age_hours * HOUR_NS
    since = _since(namespace, now) if choice.strategy == "incremental" else None
    changed = [m for m in episodes if since is None or _last_changed(m, min_age_ns) > since]
    merges = _merges(namespace, episodes, changed, choice.dedup, now)
    left = [m for m in changed if m.id not in merges and m.created_at + min_age_ns <= now]
    meant = [memory for memory in left if memory.access_count >= choice.min_access_count]
    have = {m.id for m in episodes if m.copies}
    have |= {kept for gone, kept in merges.items() if gone in have}
    prunes = namespace.rules.prune != "never"
    copied = [memory.id for memory in meant if memory.id not in have]
    faint = [memory.id for memory in meant if prunes and namespace.fidelity(memory, now) < FAINT]
    done = {*merges, *merges.values(), *copied, *faint}
    new_since = -1 if since is None else since + LOOK_BACK_NS
    counted = [m.id for m in changed if _last_changed(m, min_age_ns) > new_since or m.id in done]
    return Plan(counted, merges, copied, faint)


def _since(namespace: Namespace, now: int) -> int | None:
    """It looks back behind the last run, unless that is yet to come: then it says nothing."""
    at = namespace.consolidated_at
    return None if at is None or at > now else at - LOOK_BACK_NS


def _last_changed(memory: Memory, min_age_ns: int) -> int:
    return max(memory.updated_at, memory.last_accessed_at, memory.created_at + min_age_ns)


def _merges(
    namespace: Namespace, episodes: list[Memory], changed: list[Memory], dedup: bool, now: int
) -> dict[str, str]:
    """Whom each memory that says nothing of its own goes into: the clearest first, of equals the oldest."""
    ordered = sorted(episodes, key=lambda m: (-namespace.fidelity(m, now), m.created_at, m.id))
    kinds: dict[tuple[object, ...], list[Memory]] = {}
    for memory in (m for m in ordered if m.embedding):
        kinds.setdefault(() if dedup else (namespace.said(memory),), []).append(memory)
    merges: dict[str, str] = {}
    for alike in kinds.values():
        if any(memory in changed for memory in alike):
            for kept, other in itertools.combinations(alike, 2):
                is_free = kept.id not in merges and other.id not in merges
                if is_free and cosine(kept.embedding, other.embedding) > LIKE_MIN:
                    merges[other.id] = kept.id
    return merges


def absorb(namespace: Namespace, merges: dict[str, str], now: int) -> None:
    """The kept ones get the edges of the others, and whoever pointed to these points to them."""
    taking = set(merges.values())
    for memory in [m for m in namespace.durable.values() if m.id not in merges]:
        taken = [e for gone, kept in merges.items() if kept == memory.id for e in namespace.durable[gone].edges]
        if memory.id in taking or any(edge.target in merges for edge in memory.edges):
            _relink(memory, joined_edges(memory.id, [*memory.edges, *taken], merges), now)
    for gone, kept in merges.items():
        copies = namespace.durable[gone].copies
        namespace.remove([gone], now)
        if copies:
            _add_copies(namespace.durable[kept], copies, now)


def _relink(memory: Memory, edges: list[Edge], now: int) -> None:
    if edges != memory.edges:
        memory.edges, memory.updated_at = edges, now


def _add_copies(memory: Memory, copies: list[str], now: int) -> None:
    given = memory.metadata if isinstance(memory.metadata, dict) else {"_metadata": memory.metadata}
    derived = {**given.get("_derived", {}), "semantic_ids": [*memory.copies, *copies]}
    memory.metadata = {**given, "_derived": derived}
    memory.updated_at = now


def copy(namespace: Namespace, record_id: str, copy_id: str, now: int) -> None:
    """A semantic memory of all that the original is, as faded as that is by now; linked both ways."""
    original = namespace.durable[record_id]
    at = namespace.clock(now)
    made = original.copy(
        id=copy_id,
        store="semantic",
        content=_summarised(original),
        base_score=original.fidelity(at),
        base_noise=original.noise(at),
        base_at=at,
        written=original.fidelity(at),
        decay_rate=DYNAMICS["semantic"].decay_rate * namespace.exponents["semantic"],
    )
    made.versions = []
    made.edges.append(Edge(record_id, "semantic", 1.0, now, now))
    original.edges.append(Edge(copy_id, "semantic", 1.0, now, now))
    _add_copies(original, [copy_id], now)
    namespace.put(made)


def _summarised(memory: Memory) -> Json:
    if memory.content["summary"] is not None:
        return memory.content
    text = " ".join(memory.text.split())
    return {**memory.content, "summary": (text[:100] + "..." if len(text) > 100 else text) or None}
