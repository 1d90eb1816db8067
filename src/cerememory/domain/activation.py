"""Spreading activation: which memories a memory brings to mind, how strongly, and along which way.

Activation starts at 1 in the source and follows associations from their source to their target. What arrives
is what left, times the weight of the edge, times one half; below a twentieth it is lost. A memory keeps the
strongest activation that reaches it within the depth. A `Spread` goes level by level and reads nothing
itself:

    while spread.frontier:
        spread.advance(edges_of(spread.frontier))

Every step at least halves what arrives, so a way back to where it has been never wins, and no way is longer
than four steps. Source: the engine specification, "Recall", associate.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cerememory.protocol.records import Association, AssociationType
from cerememory.protocol.values import RecordId

HOP_FACTOR = 0.5
LEVEL_MIN = 0.05
ACTIVATED_MAX = 1_000  # memories beyond these stay asleep, the weakest of the last level first
EDGES_MAX = 20_000  # edges that one spread looks at, those of the strongest first

Edges = Mapping[RecordId, Sequence[Association]]


@dataclass(frozen=True, slots=True)
class Activation:
    """How a memory was reached: `level` above 0, up to 1; `path` from the source to the memory itself.

    `edge_type` is that of the last edge, None at the source.
    """

    level: float
    edge_type: AssociationType | None
    path: tuple[RecordId, ...]

    @property
    def hop(self) -> int:
        return len(self.path) - 1


class Spread:
    """Activation from `source` over at most `depth` edges, of `types` (None: all), none below `min_weight`."""

    def __init__(
        self,
        source: RecordId,
        depth: int,
        *,
        min_weight: float = 0.0,
        types: frozenset[AssociationType] | None = None,
        activated_max: int = ACTIVATED_MAX,
    ) -> None:
        self._depth = depth
        self._min_weight = min_weight
        self._types = types
        self._activated_max = activated_max
        self._edges_left = EDGES_MAX
        self._found: dict[RecordId, Activation] = {}
        self._reached = {source: Activation(1.0, None, (source,))}

    @property
    def frontier(self) -> list[RecordId]:
        """The memories whose edges `advance` needs next; empty when all is done."""
        return list(self._reached)

    def advance(self, edges: Edges) -> None:
        """Go one level on. A memory of the frontier that `edges` doesn't have doesn't exist."""
        awake = {record_id: reached for record_id, reached in self._reached.items() if record_id in edges}
        self._found |= awake
        self._reached = {}
        for record_id, activation in sorted(awake.items(), key=_by_level):
            if activation.hop < self._depth:
                self._follow(activation, edges[record_id])
        self._keep_strongest()

    def _follow(self, activation: Activation, edges: Sequence[Association]) -> None:
        followed = edges[: self._edges_left]
        self._edges_left -= len(followed)
        for edge in followed:
            level = activation.level * edge.weight * HOP_FACTOR
            if level >= LEVEL_MIN and level > self._level(edge.target_id) and self._may_follow(edge):
                path = (*activation.path, edge.target_id)
                self._reached[edge.target_id] = Activation(level, edge.association_type, path)

    def _level(self, record_id: RecordId) -> float:
        """What `record_id` has so far."""
        best = self._reached.get(record_id) or self._found.get(record_id)
        return 0.0 if best is None else best.level

    def _may_follow(self, edge: Association) -> bool:
        return edge.weight >= self._min_weight and (self._types is None or edge.association_type in self._types)

    def _keep_strongest(self) -> None:
        room = self._activated_max + 1 - len(self._found)  # the source is one of them
        if len(self._reached) > room:
            self._reached = dict(heapq.nsmallest(room, self._reached.items(), key=_by_level))

    def activated(self) -> dict[RecordId, Activation]:
        """What was activated, the strongest first, the nearer of equals; without the source."""
        return dict(sorted((item for item in self._found.items() if item[1].hop), key=_by_level))


def _by_level(item: tuple[RecordId, Activation]) -> tuple[float, int]:
    _record_id, activation = item
    return -activation.level, activation.hop
