"""All that one namespace holds, and what operations make of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cerememory.domain.curve import Prune
from cerememory.errors import IdempotencyConflict
from cerememory.protocol.values import NANOS, format_timestamp
from tests.support.model.memories import DURABLE, DYNAMICS, WORKING, Dynamics, Edge, Entry, Json, Memory

CAPACITY = 7  # of working memory
KEPT_NS = 86_400 * NANOS  # how long an answer is kept for its idempotency key
EPSILON = 0.001  # by how much a score must have moved for a tick to write it
FAINT = 0.1
DAY_NS = 86_400 * NANOS


class Rules(NamedTuple):
    """What the operator chose."""

    prune: Prune = "never"
    archive_days: int = 30
    time_unit_s: int = 86_400
    versions_kept: int = 100
    evolves: bool = True


@dataclass
class Archived:
    memory: Memory
    until: int


class Answer(NamedTuple):
    """What is kept for an idempotency key."""

    body: bytes
    reply: Json | None
    until: int


class Ticked(NamedTuple):
    updated: int
    below: int
    pruned: int


class Namespace:
    """`durable` by id; `working` too, the least recently accessed first. `history` has the operations that the
    audit log names each memory with.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.durable: dict[str, Memory] = {}
        self.working: dict[str, Memory] = {}
        self.archived: dict[str, Archived] = {}
        self.journal: dict[str, Entry] = {}
        self.answers: dict[str, Answer] = {}
        self.history: defaultdict[str, list[str]] = defaultdict(list)
        self.known: dict[str, None] = {}  # all ids that were ever seen here
        self.known_raw: dict[str, None] = {}
        self.perfect: set[str] = set()
        self.ahead_ns = 0
        self.exponents = dict.fromkeys(DURABLE, 1.0)  # what evolution multiplies them by
        self.thresholds = dict.fromkeys(DURABLE, 1.0)
        self.recalls = 0
        self.summaries_dreamt = 0
        self.semantic_dreamt = 0
        self.dreamt_at: int | None = None
        self.consolidated_at: int | None = None

    def all(self) -> Iterator[Memory]:
        yield from self.durable.values()
        yield from self.working.values()

    def get(self, record_id: str) -> Memory | None:
        return self.durable.get(record_id) or self.working.get(record_id)

    def clock(self, now: int) -> int:
        """The time here, when it is `now` by the wall clock."""
        return now + self.ahead_ns

    def fidelity(self, memory: Memory, now: int) -> float:
        return memory.fidelity(self.clock(now))

    def dynamics(self, store: str) -> Dynamics:
        default = DYNAMICS[store]
        return default._replace(
            decay_rate=default.decay_rate * self.exponents.get(store, 1.0),
            threshold=default.threshold * self.thresholds.get(store, 1.0),
        )

    def restart(self) -> None:
        self.working.clear()

    # encode

    def put(self, memory: Memory, operation: str | None = None) -> None:
        """Take in a memory, in place of one of the same id; what working memory has no room for goes."""
        memory.unit_ns = self.rules.time_unit_s * NANOS
        self.known[memory.id] = None
        if operation is not None:
            self.history[memory.id].append(operation)
        if not memory.is_held:
            self.durable[memory.id] = memory
            return
        self.working.pop(memory.id, None)
        self.working[memory.id] = memory
        while len(self.working) > CAPACITY:
            del self.working[next(iter(self.working))]

    def put_entry(self, entry: Entry) -> None:
        self.known_raw[entry.id] = None
        self.journal[entry.id] = entry

    @staticmethod
    def said(memory: Memory) -> tuple[str, ...]:
        """What makes two memories say the same."""
        return _said(memory.content)

    def like(self, store: str, content: Json) -> set[str]:
        """The memories of `store` that say the same."""
        said = _said(content)
        return {m.id for m in self.durable.values() if m.store == store and _said(m.content) == said}

    def update(self, record_id: str, parts: Json, now: int) -> None:
        """Replace each of `parts`; a changed emotion counts from now on."""
        memory = self.durable.get(record_id) or self.working.pop(record_id)
        if not memory.is_held and self.rules.versions_kept:
            memory.versions = [*memory.versions, memory.version_shown()][-self.rules.versions_kept :]
        if "emotion" in parts and parts["emotion"] != memory.emotion:
            memory.rebase(self.clock(now))
            memory.written = memory.base_score
        for name, value in parts.items():
            setattr(memory, name, value)
        memory.version += 1
        memory.updated_at = now
        self.put(memory, "encode.update")

    # recall

    def access(self, record_ids: Iterable[str]) -> None:
        """Reading a record of working memory moves it behind the others."""
        for record_id in record_ids:
            if record_id in self.working:
                self.working[record_id] = self.working.pop(record_id)

    def reconsolidate(self, record_ids: list[str], now: int) -> None:
        for record_id in record_ids:
            memory = self.durable.get(record_id) or self.working[record_id]
            memory.recall(self.clock(now), now, DYNAMICS[memory.store].boost)
            self.history[record_id].append("recall.query.reconsolidate")
        self.access(record_ids)
        self.recalls += bool(record_ids)

    # decay

    def tick(self, now: int, duration_s: int) -> Ticked:
        at = self.clock(now) + duration_s * NANOS
        scores = {memory.id: memory.fidelity(at) for memory in self.durable.values()}
        below = {i for i, score in scores.items() if score < self.dynamics(self.durable[i].store).threshold}
        fidelities = {store: [scores[i] for i, m in self.durable.items() if m.store == store] for store in DURABLE}
        moved = [i for i, score in scores.items() if abs(score - self.durable[i].written) > EPSILON]
        for record_id in moved:
            memory = self.durable[record_id]
            memory.written, memory.anchor, memory.last_tick_at = scores[record_id], memory.calm, now
        pruned = [i for i in self._by_time(below) if self.rules.prune != "never"]
        for record_id in pruned:
            self.history[record_id].append("lifecycle.decay_tick")
            self.prune(record_id, now)
        for record_id in moved:
            self.history[record_id].append("lifecycle.decay_tick")
        for record_id in [i for i, archived in self.archived.items() if archived.until < now]:
            self._drop_archived(record_id, now)
        self.ahead_ns += duration_s * NANOS
        if self.rules.evolves:
            self._evolve(fidelities, at)
        return Ticked(len(scores), len(below), len(pruned))

    def _by_time(self, record_ids: Iterable[str]) -> list[str]:
        return sorted(record_ids, key=lambda record_id: (self.durable[record_id].created_at, record_id))

    def prune(self, record_id: str, now: int) -> None:
        """Delete a memory, or put it into the archive, as the operator chose.

        Edges to what is archived stay, but those of working memory, which won't be there when it comes back.
        """
        if self.rules.prune == "archive":
            until = now + self.rules.archive_days * DAY_NS
            self.archived[record_id] = Archived(self.durable.pop(record_id), until)
            for memory in self.working.values():
                memory.lose_edges_to(record_id)
        else:
            self.remove([record_id], now)

    def _evolve(self, fidelities: dict[str, list[float]], at: int) -> None:
        """The rules that ticks observe for: mostly faded, mostly faint."""
        for store, scores in fidelities.items():
            if 2 * sum(score < 0.3 for score in scores) > len(scores):
                self._slow_down(store, at)
            if 2 * sum(score < 0.1 for score in scores) > len(scores):
                self.thresholds[store] = max(self.thresholds[store] * 0.9, 0.5)

    def _slow_down(self, store: str, at: int) -> None:
        before = self.exponents[store]
        self.exponents[store] = max(before * 0.9, 0.5)
        kept = [archived.memory for archived in self.archived.values()]
        for memory in [m for m in [*self.durable.values(), *kept] if m.store == store]:
            memory.rebase(at)
            memory.decay_rate *= self.exponents[store] / before

    def adjustments(self) -> dict[tuple[str, str], float]:
        """The parameters that aren't what they were at first."""
        found: dict[tuple[str, str], float] = {}
        for store in DURABLE:
            now, default = self.dynamics(store), DYNAMICS[store]
            pairs = ("decay_exponent", now[0], default[0]), ("prune_threshold", now[3], default[3])
            found |= {(store, name): value for name, value, first in pairs if value != first}
        return found

    def restore(self, record_ids: Iterable[str], now: int) -> int:
        """Memories come back from the archive; they fade from now on."""
        found = [i for i in dict.fromkeys(record_ids) if i in self.archived]
        for record_id in found:
            memory = self.archived.pop(record_id).memory
            memory.rebase(self.clock(now))
            memory.written = memory.base_score
            self.put(memory, "lifecycle.restore")
        return len(found)

    # forget

    def remove(self, record_ids: Iterable[str], now: int) -> None:
        """Memories are gone wherever they are, with all edges to them."""
        for record_id in record_ids:
            self.durable.pop(record_id, None)
            self.working.pop(record_id, None)
            self.archived.pop(record_id, None)
            self._lose_edges_to(record_id, now)

    def _lose_edges_to(self, gone: str, now: int) -> None:
        for memory in [*self.all(), *(archived.memory for archived in self.archived.values())]:
            if memory.lose_edges_to(gone) and not memory.is_held:
                memory.updated_at = now

    def _drop_archived(self, record_id: str, now: int) -> None:
        self.remove([record_id], now)

    def drop_answers_about(self, record_ids: set[str]) -> None:
        self.answers = {key: kept for key, kept in self.answers.items() if not _named(kept.reply) & record_ids}

    def created_within(self, start: int, end: int) -> list[Memory]:
        return [memory for memory in self.all() if start <= memory.created_at <= end]

    # idempotency

    def kept_answer(self, key: str | None, body: bytes, now: int) -> Answer | None:
        """Raises `IdempotencyConflict` when the key came with another body."""
        kept = None if key is None else self.answers.get(key)
        if kept is None or kept.until <= now:
            return None
        if kept.body != body:
            raise IdempotencyConflict("used before")
        return kept

    def keep_answer(self, key: str | None, body: bytes, reply: Json | None, now: int) -> None:
        if key is not None:
            self.answers[key] = Answer(body, reply, now + KEPT_NS)

    def stats(self) -> Json:
        counts = {store: sum(m.store == store for m in self.all()) for store in (*DURABLE, WORKING)}
        written = {
            store: [m.written for m in self.all() if m.store == store] for store, count in counts.items() if count
        }
        total = sum(counts.values())
        times = [memory.created_at for memory in self.all()]
        return {
            "total_records": total,
            "records_by_store": counts,
            "total_associations": sum(len(memory.edges) for memory in self.all()),
            "avg_fidelity": sum(map(sum, written.values())) / total if total else 0.0,
            "avg_fidelity_by_store": {store: sum(scores) / len(scores) for store, scores in written.items()},
            "oldest_record": format_timestamp(min(times)) if times else None,
            "newest_record": format_timestamp(max(times)) if times else None,
            "total_recall_count": self.recalls,
            "raw_journal_records": len(self.journal),
            "raw_journal_pending_dream": sum(not entry.is_processed for entry in self.journal.values()),
            "vector_index_records": sum(memory.embedding is not None for memory in self.durable.values()),
            "dream_episodic_summaries": self.summaries_dreamt,
            "dream_semantic_nodes": self.semantic_dreamt,
            "last_dream_tick_at": None if self.dreamt_at is None else format_timestamp(self.dreamt_at),
        }


def _said(content: Json) -> tuple[str, ...]:
    texts = [bytes(block["data"]).decode() for block in content["blocks"]]
    return tuple(" ".join(text.casefold().split()) for text in (*texts, content["summary"] or ""))


def _named(reply: Json | None) -> set[str]:
    """The ids in an answer."""
    replies = [] if reply is None else [reply, *reply.get("results", [])]
    return {reply["record_id"] for reply in replies if "record_id" in reply}


def joined_edges(owner: str, edges: Iterable[Edge], moved: dict[str, str]) -> list[Edge]:
    """Edges led to where their targets went: none to their owner, none twice; of two the stronger stays."""
    joined: dict[tuple[str, str], Edge] = {}
    for edge in edges:
        target = moved.get(edge.target, edge.target)
        other = joined.get((target, edge.kind), edge)
        if target != owner:
            joined[target, edge.kind] = Edge(
                target,
                edge.kind,
                max(edge.weight, other.weight),
                min(edge.created_at, other.created_at),
                max(edge.co_activated_at, other.co_activated_at),
            )
    return list(joined.values())
