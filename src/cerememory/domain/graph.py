"""The graph around a memory: which memories and edges a picture of it shows, and how a memory is called there.

A `Walk` goes breadth first along associations, from their source to their target, piece by piece, and reads
nothing itself:

    while walk.frontier:
        walk.advance(edges_of(walk.frontier))

Source: the engine specification, "Recall", graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from cerememory.protocol.records import Association, AssociationType, MemoryContent, Modality
from cerememory.protocol.values import RecordId

EDGES_PER_NODE = 10
LABEL_CHARS_MAX = 80
CUT = "..."


class Link(NamedTuple):
    """One edge as the graph shows it; its target may be no node: cut off, too far, or gone."""

    source: RecordId
    association: Association


class Walk:
    """From `roots` over at most `depth` edges of `types` (None: all), until there are `limit_nodes` nodes.

    `nodes` are in the order in which they were found. `links` leave the nodes that are less than `depth`
    away; when there are `EDGES_PER_NODE` for each node of the limit, no further edge is followed.
    """

    def __init__(
        self,
        roots: Iterable[RecordId],
        depth: int,
        *,
        limit_nodes: int,
        types: frozenset[AssociationType] | None = None,
    ) -> None:
        self.nodes: list[RecordId] = []
        self.links: list[Link] = []
        self._depth = depth
        self._limit_nodes = limit_nodes
        self._types = types
        self._waiting = deque((root, 0) for root in dict.fromkeys(roots))
        self._seen = {root for root, _hop in self._waiting}

    @property
    def frontier(self) -> list[RecordId]:
        """The memories whose edges `advance` needs next; empty when all is done."""
        room = self._limit_nodes - len(self.nodes)
        return [record_id for record_id, _hop in islice(self._waiting, room)]

    def advance(self, edges: Mapping[RecordId, Sequence[Association]]) -> None:
        """Take in the frontier. What `edges` doesn't have of it doesn't exist."""
        for record_id in self.frontier:
            _record_id, hop = self._waiting.popleft()
            if record_id in edges:
                self.nodes.append(record_id)
                if hop < self._depth:
                    self._follow(record_id, hop, edges[record_id])

    def _follow(self, source: RecordId, hop: int, edges: Sequence[Association]) -> None:
        for edge in edges:
            if len(self.links) >= EDGES_PER_NODE * self._limit_nodes:
                return
            if self._types is None or edge.association_type in self._types:
                self.links.append(Link(source, edge))
                self._see(edge.target_id, hop + 1)

    def _see(self, record_id: RecordId, hop: int) -> None:
        if record_id not in self._seen:
            self._seen.add(record_id)
            self._waiting.append((record_id, hop))


def types_named(names: Iterable[str]) -> frozenset[AssociationType]:
    """The types by these names in any case: `cross_modal`, `CROSS_MODAL`, `CrossModal`. Others name nothing."""
    bare = {_bare(name) for name in names}
    return frozenset(kind for kind in AssociationType if _bare(kind) in bare)


def _bare(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def node_label(content: MemoryContent) -> str:
    """The summary, else the start of the first text; empty when there is neither."""
    if content.summary:
        return content.summary
    blocks = (block for block in content.blocks if block.modality is Modality.TEXT)
    text = next(blocks, None)
    return "" if text is None else _cut(text.data.decode(errors="replace"))


def _cut(text: str) -> str:
    return text if len(text) <= LABEL_CHARS_MAX else text[:LABEL_CHARS_MAX] + CUT
