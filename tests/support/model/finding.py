"""Which memories and entries a question finds."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from tests.support.model.memories import Entry, Json, Memory, axes_of
from tests.support.model.namespace import Namespace

NEIGHBOURS = 2  # turns of a session on either side that lend their words
HOP = 0.5
LEVEL_MIN = 0.05
ALIKE = 0.5
LIKE_MIN = 0.92  # the cosine beyond which embeddings mean the same


def words(text: str) -> set[str]:
    return set(re.findall("[a-z0-9]+", text.lower()))


def cosine(one: Sequence[float] | None, other: Sequence[float] | None) -> float:
    """0 between vectors of different lengths."""
    if one is None or other is None or len(one) != len(other) or not any(one) or not any(other):
        return 0.0
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def _heard(namespace: Namespace, memory: Memory) -> set[str]:
    """The words by which a memory is found: its own, and those of the turns around it."""
    own = words(memory.text) | words(memory.content["summary"] or "")
    if memory.is_held or not (memory.session or "").strip():
        return own
    turns = [m for m in namespace.durable.values() if m.session == memory.session]
    turns.sort(key=lambda m: (m.created_at, m.id))
    place = turns.index(memory)
    near = turns[max(place - NEIGHBOURS, 0) : place + NEIGHBOURS + 1]
    return own.union(*(words(turn.text) for turn in near))


class Cue(NamedTuple):
    text: str | None = None
    embedding: list[float] | None = None
    emotion: dict[str, float] | None = None
    span: tuple[int, int] | None = None

    @property
    def is_time_alone(self) -> bool:
        return self.text is None and self.embedding is None and self.emotion is None


def matching(namespace: Namespace, cue: Cue, stores: Collection[str] | None) -> list[Memory]:
    """What the signals of a cue find, but for activation; without any, everything."""
    asked = [memory for memory in namespace.all() if stores is None or memory.store in stores]
    if cue.span is not None:
        return [memory for memory in asked if is_within(memory, cue)]
    return [memory for memory in asked if cue.is_time_alone or _is_meant(namespace, memory, cue)]


def is_within(memory: Memory, cue: Cue) -> bool:
    return cue.span is None or cue.span[0] <= memory.created_at <= cue.span[1]


def _is_meant(namespace: Namespace, memory: Memory, cue: Cue) -> bool:
    by_word = cue.text is not None and not words(cue.text).isdisjoint(_heard(namespace, memory))
    by_vector = cosine(cue.embedding, memory.embedding) > 0
    axes = None if cue.emotion is None else axes_of(cue.emotion)
    return by_word or by_vector or cosine(axes, memory.axes) > 0


class Reach(NamedTuple):
    level: float
    hops: int


def spread(
    namespace: Namespace, source: str, depth: int, *, min_weight: float = 0.0, kinds: Collection[str] | None = None
) -> dict[str, Reach]:
    """The strongest activation that reaches each memory, over all ways of at most `depth` edges."""
    found: dict[str, Reach] = {}

    def follow(path: tuple[str, ...], level: float) -> None:
        memory = namespace.get(path[-1])
        if memory is None or len(path) > depth:
            return
        for edge in memory.edges:
            arrives = level * edge.weight * HOP
            is_followed = edge.weight >= min_weight and (kinds is None or edge.kind in kinds)
            exists = namespace.get(edge.target) is not None
            if is_followed and exists and edge.target not in path and arrives >= LEVEL_MIN:
                reach = Reach(arrives, len(path))
                known = found.get(edge.target, Reach(0.0, 0))
                if (reach.level, -reach.hops) > (known.level, -known.hops):
                    found[edge.target] = reach
                follow((*path, edge.target), arrives)

    follow((source,), 1.0)
    return found


class Picture(NamedTuple):
    """The nodes of a graph, and its edges as (source, target, type, weight)."""

    nodes: set[str]
    edges: list[tuple[str, str, str, float]]


def picture(namespace: Namespace, center: str | None, depth: int, kinds: Collection[str] | None) -> Picture:
    """What is around the center; without one, the durable memories and what hangs together with them."""
    held = {} if center is None else namespace.working
    memories = namespace.durable | held
    level = [i for i in (memories if center is None else [center]) if i in memories]
    nodes, edges = set(level), []
    for _ in range(depth):
        leaving = [(i, e) for i in level for e in memories[i].edges if kinds is None or e.kind in kinds]
        edges += [(i, edge.target, edge.kind, edge.weight) for i, edge in leaving]
        level = list(dict.fromkeys(e.target for _, e in leaving if e.target in memories and e.target not in nodes))
        nodes |= set(level)
    return Picture(nodes, edges)


class Glance(NamedTuple):
    """A request for a stretch of time."""

    span: tuple[int, int]
    min_fidelity: float | None
    emotion: dict[str, float] | None


def along_time(namespace: Namespace, glance: Glance, now: int) -> list[Memory]:
    """The durable memories that pass, oldest first."""
    start, end = glance.span
    passed = [memory for memory in namespace.durable.values() if start <= memory.created_at <= end]
    if glance.min_fidelity is not None:
        passed = [memory for memory in passed if namespace.fidelity(memory, now) >= glance.min_fidelity]
    if glance.emotion is not None:
        axes = axes_of(glance.emotion)
        passed = [memory for memory in passed if cosine(axes, memory.axes) > ALIKE]
    return sorted(passed, key=lambda memory: (memory.created_at, memory.id))


def entries(
    namespace: Namespace,
    query: str | None,
    session: str | None,
    span: tuple[int, int] | None,
    visibilities: Collection[str],
    secrecies: Collection[str],
) -> list[Entry]:
    """Entries of the journal that pass every filter, oldest first."""
    passed = [
        entry
        for entry in namespace.journal.values()
        if (query is None or words(query) <= words(entry.text))
        and session in (None, entry.session)
        and (span is None or span[0] <= entry.created_at <= span[1])
        and entry.visibility in visibilities
        and entry.secrecy in secrecies
    ]
    return sorted(passed, key=lambda entry: (entry.created_at, entry.id))


def with_holes(content: Json, fidelity: float) -> Json:
    """How a faded memory reads in human mode."""
    if fidelity >= 0.9:
        return content
    every = max(2, math.floor(1.0 / min(1.0 - fidelity, 0.8)))
    blocks = [{**block, "data": list(_holed(bytes(block["data"]).decode(), every))} for block in content["blocks"]]
    return {**content, "blocks": blocks}


def _holed(text: str, every: int) -> bytes:
    return " ".join("..." if i % every == 0 else word for i, word in enumerate(text.split())).encode()
