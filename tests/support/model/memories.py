"""A memory and an entry of the journal, with what time and recalls do to them.

`at` is a time on the clock of the namespace, which ticks put ahead of the wall clock; all times are nanoseconds
since the epoch. Records are shown as decoded JSON (`Json`), as the wire has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from cerememory.protocol.values import format_timestamp

Json: TypeAlias = dict[str, Any]

DAY_NS = 86_400 * 1_000_000_000
DURABLE = ("episodic", "semantic", "procedural", "emotional")
WORKING = "working"
AXES = ("joy", "trust", "fear", "surprise", "sadness", "disgust", "anger", "anticipation")
CALM: dict[str, float] = {**dict.fromkeys(AXES, 0.0), "intensity": 0.0, "valence": 0.0}


class Dynamics(NamedTuple):
    decay_rate: float
    boost: float
    interference: float
    threshold: float


DYNAMICS = {
    "episodic": Dynamics(0.3, 1.5, 0.1, 0.01),
    "semantic": Dynamics(0.15, 2.0, 0.05, 0.005),
    "procedural": Dynamics(0.1, 2.5, 0.02, 0.001),
    "emotional": Dynamics(0.2, 1.8, 0.08, 0.01),
    WORKING: Dynamics(0.8, 1.0, 0.3, 0.1),
}


@dataclass(frozen=True)
class Edge:
    target: str
    kind: str
    weight: float
    created_at: int
    co_activated_at: int

    def shown(self) -> Json:
        return {
            "target_id": self.target,
            "association_type": self.kind,
            "weight": self.weight,
            "created_at": format_timestamp(self.created_at),
            "last_co_activation": format_timestamp(self.co_activated_at),
        }


@dataclass
class Memory:
    """`written` is the score that a commit last wrote down, which statistics are made of."""

    id: str
    store: str
    created_at: int
    updated_at: int
    content: Json
    emotion: dict[str, float]
    metadata: Any
    meta: Json
    edges: list[Edge]
    base_at: int
    decay_rate: float
    last_accessed_at: int
    last_tick_at: int
    version: int = 1
    base_score: float = 1.0
    base_noise: float = 0.0
    written: float = 1.0
    stability: float = 1.0
    anchor: float = 1.0
    access_count: int = 0
    reinforcement_count: int = 0
    versions: list[Json] = field(default_factory=list)
    unit_ns: int = DAY_NS

    @property
    def is_held(self) -> bool:
        return self.store == WORKING

    @property
    def text(self) -> str:
        return " ".join(bytes(block["data"]).decode() for block in self.content["blocks"])

    @property
    def embedding(self) -> list[float] | None:
        return next((block["embedding"] for block in self.content["blocks"] if block["embedding"]), None)

    @property
    def axes(self) -> list[float]:
        return axes_of(self.emotion)

    @property
    def session(self) -> str | None:
        context = self.metadata.get("_context") if isinstance(self.metadata, dict) else None
        return context["session_id"] if context else None

    @property
    def copies(self) -> list[str]:
        """Its semantic copies."""
        derived = self.metadata.get("_derived", {}) if isinstance(self.metadata, dict) else {}
        return list(derived.get("semantic_ids", []))

    @property
    def calm(self) -> float:
        """E, by which an emotion holds decay back."""
        return 1.0 + 0.5 * self.emotion["intensity"]

    def fidelity(self, at: int) -> float:
        """F(t) = F0 · (1 + t/S)^(-d/E), exact for a nanosecond, too; no time passes in working memory."""
        if self.is_held:
            return self.base_score
        return self.base_score * math.exp(
            -self.decay_rate / self.calm * math.log1p(self._age(at) / self.stability)
        )

    def noise(self, at: int) -> float:
        """N(t) = clamp(N0 + r · √t · (1 - F))."""
        interference = 0.0 if self.is_held else DYNAMICS[self.store].interference
        grown = self.base_noise + interference * math.sqrt(self._age(at)) * (1.0 - self.fidelity(at))
        return min(max(grown, 0.0), 1.0)

    def _age(self, at: int) -> float:
        """In the unit of time that the operator chose."""
        return max(at - self.base_at, 0) / self.unit_ns

    def rebase(self, at: int) -> None:
        """From now on it fades from what it is at `at`."""
        self.base_score, self.base_noise, self.base_at = self.fidelity(at), self.noise(at), at

    def recall(self, at: int, now: int, boost: float) -> None:
        self.rebase(at)
        self.written = self.base_score
        self.stability *= 1.0 + boost * self.stability**-0.2
        self.access_count += 1
        self.reinforcement_count += 1
        self.last_accessed_at = now

    def lose_edges_to(self, gone: str) -> bool:
        """Whether there was one."""
        left = [edge for edge in self.edges if edge.target != gone]
        has_lost = len(left) < len(self.edges)
        self.edges = left
        return has_lost

    def shown(self, at: int) -> Json:
        return {
            "id": self.id,
            "store": self.store,
            "created_at": format_timestamp(self.created_at),
            "updated_at": format_timestamp(self.updated_at),
            "last_accessed_at": format_timestamp(self.last_accessed_at),
            "access_count": self.access_count,
            "content": self.content,
            "fidelity": self._fidelity_shown(at),
            "emotion": self.emotion,
            "associations": [edge.shown() for edge in self.edges],
            "metadata": self.metadata,
            "version": self.version,
            "meta": self.meta,
        }

    def _fidelity_shown(self, at: int) -> Json:
        return {
            "score": self.fidelity(at),
            "noise_level": self.noise(at),
            "decay_rate": self.decay_rate,
            "emotional_anchor": self.anchor,
            "reinforcement_count": self.reinforcement_count,
            "stability": self.stability,
            "last_decay_tick": format_timestamp(self.last_tick_at),
        }

    def version_shown(self) -> Json:
        return {
            "version": self.version,
            "updated_at": format_timestamp(self.updated_at),
            "content": self.content,
            "emotion": self.emotion,
            "metadata": self.metadata,
            "meta": self.meta,
        }

    def copy(self, **changes: Any) -> Memory:
        return replace(self, edges=list(self.edges), versions=list(self.versions), **changes)


@dataclass
class Entry:
    """An entry of the raw journal."""

    id: str
    session: str
    topic: str | None
    visibility: str
    secrecy: str
    created_at: int
    updated_at: int
    content: Json
    metadata: Any
    meta: Json
    derived: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(bytes(block["data"]).decode() for block in self.content["blocks"])

    @property
    def is_told(self) -> bool:
        return self.visibility == "normal" and self.secrecy != "secret"

    @property
    def is_processed(self) -> bool:
        return "processed_at" in self.metadata.get("_dream", {})

    def shown(self) -> Json:
        return {
            "id": self.id,
            "session_id": self.session,
            "turn_id": None,
            "topic_id": self.topic,
            "source": "conversation",
            "speaker": "user",
            "visibility": self.visibility,
            "secrecy_level": self.secrecy,
            "created_at": format_timestamp(self.created_at),
            "updated_at": format_timestamp(self.updated_at),
            "content": self.content,
            "metadata": self.metadata,
            "derived_memory_ids": self.derived,
            "suppressed": False,
            "meta": self.meta,
        }


def axes_of(emotion: dict[str, float]) -> list[float]:
    return [emotion.get(axis, 0.0) for axis in AXES]


def content_of(text: str, embedding: list[float] | None = None, summary: str | None = None) -> Json:
    block = {"modality": "text", "format": "text/plain", "data": list(text.encode()), "embedding": embedding}
    return {"blocks": [block], "summary": summary}


def no_meta(trigger: str, at: int) -> Json:
    """What stands for a meta that wasn't given."""
    unset = dict.fromkeys(("intent", "decision", "confidence"))
    lists: Json = {
        name: []
        for name in (
            "goals",
            "evidence",
            "assumptions",
            "alternatives",
            "source_record_ids",
            "parent_meta_ids",
            "context_edges",
            "tags",
        )
    }
    given = {
        "schema_version": 1,
        "capture_status": "unavailable",
        "rationale": "No explicit meta-rationale was provided at ingest time.",
        "trigger": trigger,
        "captured_at": format_timestamp(at),
    }
    return {**unset, **lists, **given}
